//! The part of a run or scenario, and its tables.

use super::axis::{plain, wait};
use super::page::{Page, Set};
use super::pictures::{curve, over_time, upstream};
use super::read::{Load, Run};
use crate::report::float;

pub(super) fn part(page: &mut Page, run: &Run) {
    let wrong: u64 = run.loads.iter().map(|load| load.counts.wrong()).sum();
    let verdict = match (&run.expected[..], wrong) {
        (_, 1..) => "wrong",
        ([], _) => "measured",
        (expected, _) if expected.iter().all(|it| it.kept) => "kept",
        _ => "broken",
    };
    page.part(&run.name, verdict, "");
    about(page, run);
    loads(page, run);
    if !run.expected.is_empty() {
        expectations(page, run);
    }
    over_time(page, run);
    refreshes(page, run);
    curve(page, run);
    upstream(page, run);
    slow(page, run);
    page.end_part();
}

fn about(page: &mut Page, run: &Run) {
    let asked = run.loads.iter();
    let mut about: Vec<_> = asked
        .map(|load| format!("{}: {}", load.name, plan(load)))
        .collect();
    if let Some(server) = &run.server {
        let (cpu, mib) = (
            wait(server.cpu_us_per_request),
            float(server.rss_after_kib) / 1024.0,
        );
        about.push(format!(
            "The server took {cpu} on the CPU for each request, and {mib:.0} MiB."
        ));
    }
    if let Some(idle) = &run.idle {
        let links = plain(float(idle.links));
        about.push(format!(
            "Each of {links} idle links cost it {:.2} KiB.",
            idle.kib_per_link
        ));
    }
    if let Some(ms) = run.restart_ms {
        about.push(format!(
            "It was started anew before, and gave its first good answer after {ms} ms."
        ));
    }
    page.list(&about);
}

fn plan(load: &Load) -> String {
    let plan = &load.plan;
    let mut text = match plan.per_s {
        Some(per_s) => format!("{} requests a second", plain(f64::from(per_s))),
        None => "closed loop".to_owned(),
    };
    let links = if plan.connect_each {
        "at once, a link for each request"
    } else {
        "links"
    };
    text += &format!(", {} {links}", plan.links);
    if plan.processes > 0 {
        text += &format!(" of {} processes", plan.processes);
    }
    if let Some(every_s) = plan.restart_every_s {
        text += &format!(" that live for {} s", plain(every_s));
    }
    if let Some(think_s) = plan.think_s {
        text += &format!(", a rest of {} after each answer", wait(think_s * 1e6));
    }
    if plan.pipeline > 1 {
        text += &format!(", {} on the way on each", plan.pipeline);
    }
    match plan.keys {
        1 => text + ", one key",
        keys => text + &format!(", {} keys", plain(float(keys as u64))),
    }
}

fn loads(page: &mut Page, run: &Run) {
    use Set::{Number, Text};
    let columns = [
        ("Load", Text),
        ("Requests", Number),
        ("Answers/s", Number),
        ("Right", Number),
        ("Refused", Number),
        ("Wrong", Number),
        ("Failed", Number),
        ("p50", Number),
        ("p90", Number),
        ("p99", Number),
        ("p99.9", Number),
        ("Max", Number),
    ];
    let rows = run.loads.iter().map(|load| {
        let (counts, us) = (&load.counts, &load.latency_us);
        let count = |count: u64| plain(float(count));
        vec![
            load.name.clone(),
            count(load.requests),
            plain(load.answers_per_s.round()),
            count(counts.right),
            count(counts.refused()),
            bad(counts.wrong()),
            bad(counts.failed()),
            wait(us.p50),
            wait(us.p90),
            wait(us.p99),
            wait(us.p99_9),
            wait(us.max),
        ]
    });
    let caption = "Latency counts from when a request was to be sent. Failures are in it.";
    page.table(caption, &columns, &rows.collect::<Vec<_>>());
    let lives = run
        .loads
        .iter()
        .filter_map(|load| Some((load, load.life_left_s.as_ref()?)));
    let rows: Vec<_> = lives
        .map(|(load, left)| {
            vec![
                load.name.clone(),
                life(left.min),
                life(left.p1),
                life(left.p50),
            ]
        })
        .collect();
    let columns = [
        ("Life left in tokens", Text),
        ("Least", Number),
        ("99 in 100 had more than", Number),
        ("Median", Number),
    ];
    if !rows.is_empty() {
        page.table(
            "From a right answer to the end of its token.",
            &columns,
            &rows,
        );
    }
}

fn life(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 7_200.0 => (s / 3_600.0, "h"),
        s if s >= 120.0 => (s / 60.0, "min"),
        s => (s, "s"),
    };
    format!("{} {unit}", plain((value * 10.0).round() / 10.0))
}

fn bad(count: u64) -> String {
    let mark = if count > 0 { "!" } else { "" };
    format!("{mark}{}", plain(float(count)))
}

fn expectations(page: &mut Page, run: &Run) {
    page.heading("What was expected");
    let columns = [
        ("Count", Set::Text),
        ("Wanted", Set::Text),
        ("Was", Set::Number),
        ("", Set::Text),
    ];
    let rows = run.expected.iter().map(|it| {
        let was = it
            .was
            .map_or("not counted".to_owned(), |was| plain(float(was)));
        let kept = if it.kept {
            "+✓ kept"
        } else {
            "!✗ not kept"
        };
        vec![it.name.clone(), it.wanted.clone(), was, kept.to_owned()]
    });
    page.table(
        "Counts only: times are the machine's.",
        &columns,
        &rows.collect::<Vec<_>>(),
    );
}

fn refreshes(page: &mut Page, run: &Run) {
    let Some(refreshes) = &run.refreshes else {
        return;
    };
    let rows: Vec<_> = refreshes
        .phases
        .iter()
        .filter(|phase| phase.calls > 0 && phase.around.count > 0)
        .map(|phase| {
            let lag = phase.lag.as_ref();
            let ms = |ms: Option<f64>| ms.map_or("–".to_owned(), |ms| wait(ms * 1e3));
            let (around, steady) = (&phase.around, &phase.steady);
            let felt = |us: f64, count: u64| {
                if count == 0 {
                    "–".to_owned()
                } else {
                    wait(us)
                }
            };
            vec![
                phase.name.clone(),
                plain(float(phase.calls)),
                lag.map_or("–".to_owned(), |lag| plain(float(lag.renewed))),
                ms(lag.map(|lag| lag.mean_ms)),
                ms(lag.map(|lag| lag.max_ms)),
                wait(around.p50_us),
                felt(steady.p50_us, steady.count),
                wait(around.p99_us),
                felt(steady.p99_us, steady.count),
                wait(around.max_us),
                felt(steady.max_us, steady.count),
            ]
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    page.heading("What callers felt of refreshes");
    let columns = [
        ("Phase", Set::Text),
        ("Calls", Set::Number),
        ("Renewed", Set::Number),
        ("Lag, mean", Set::Number),
        ("max", Set::Number),
        ("p50 around", Set::Number),
        ("else", Set::Number),
        ("p99 around", Set::Number),
        ("else", Set::Number),
        ("max around", Set::Number),
        ("else", Set::Number),
    ];
    let window = wait(refreshes.window_s * 1e6);
    let caption = format!(
        "Around: requests that were due from {window} before a call upstream until {window} after it. Lag: from due to published."
    );
    page.table(&caption, &columns, &rows);
}

fn slow(page: &mut Page, run: &Run) {
    if run.slow.is_empty() {
        return;
    }
    page.heading("Slow clients beside it");
    let columns = [
        ("Clients", Set::Text),
        ("Links", Set::Number),
        ("Pause", Set::Number),
        ("Right", Set::Number),
        ("Refused", Set::Number),
        ("Closed or failed", Set::Number),
    ];
    let rows = run.slow.iter().map(|slow| {
        let count = |count: u64| plain(float(count));
        let (counts, pause) = (&slow.counts, wait(slow.pause_s * 1e6));
        vec![
            slow.name.clone(),
            count(slow.links),
            pause,
            count(counts.right),
            count(counts.refused()),
            count(counts.failed()),
        ]
    });
    page.table(
        "From byte to byte they rest for the pause.",
        &columns,
        &rows.collect::<Vec<_>>(),
    );
}
