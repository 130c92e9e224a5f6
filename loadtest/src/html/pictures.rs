//! The plots of a run or scenario: latency over time, percentiles, and calls upstream.

use super::axis::{Axis, plain, wait};
use super::page::{Page, Set};
use super::plot::Plot;
use super::read::{Run, Span};
use crate::report::float;

const HEIGHT: f64 = 300.0;
const LOW: f64 = 220.0;
/// From so many calls on they are not marked one by one: they are in the plot of calls.
const MOST_MARKS: usize = 120;
/// Up to so many are marked over the whole height.
const FEW_CALLS: usize = 40;
/// A class for each load.
const COLOURS: [(&str, &str); 6] = [
    ("one", "dot-one"),
    ("two", "dot-two"),
    ("three", "dot-three"),
    ("four", "dot-four"),
    ("five", "dot-five"),
    ("six", "dot-six"),
];

/// How long it took in all.
fn ends_s(run: &Run) -> f64 {
    let ends = run.loads.iter().filter_map(|load| {
        let columns = &load.timeline;
        Some(columns.at_s.last()? + float(columns.interval_ms) / 1_000.0)
    });
    ends.fold(0.1, f64::max)
}

fn bands(plot: &mut Plot, phases: &[Span], ends_s: f64) {
    for (nth, phase) in phases.iter().enumerate() {
        let (from, to) = (
            phase.from_s.max(0.0),
            phase.to_s.unwrap_or(ends_s).min(ends_s),
        );
        let class = match (phase.faults.is_empty(), nth % 2) {
            (false, _) => "ill",
            (true, 1) => "well",
            (true, _) => "even",
        };
        plot.band(class, from, to, &phase.name);
    }
}

pub(super) fn over_time(page: &mut Page, run: &Run) {
    let timed: Vec<_> = run
        .loads
        .iter()
        .filter(|load| !load.timeline.at_s.is_empty())
        .collect();
    if timed.is_empty() {
        return;
    }
    page.heading("Latency over time");
    let ends_s = ends_s(run);
    for load in timed {
        let columns = &load.timeline;
        let interval_s = float(columns.interval_ms) / 1_000.0;
        let waits = columns.p50_us.iter().chain(&columns.max_us).copied();
        let x = Axis::linear(0.0, ends_s, "seconds since the first request");
        let mut plot = Plot::new(
            &format!("{}: latency over time", load.name),
            "median, 99th percentile and longest latency of each interval",
            x,
            Axis::log_of_waits(waits),
            HEIGHT,
        );
        bands(&mut plot, &run.story.phases, ends_s);
        let middle = |at: &f64| at + interval_s / 2.0;
        for (class, name, values) in [
            ("five thin", "longest", &columns.max_us),
            ("two", "p99", &columns.p99_us),
            ("one", "p50", &columns.p50_us),
        ] {
            let points = columns.at_s.iter().map(middle).zip(values.iter().copied());
            plot.line(class, &points.collect::<Vec<_>>(), interval_s * 3.5);
            plot.legend(class, name);
        }
        if (1..=MOST_MARKS).contains(&run.story.calls_at_s.len()) {
            let few = run.story.calls_at_s.len() <= FEW_CALLS;
            for at in run.story.calls_at_s.iter().filter(|at| **at <= ends_s) {
                if few {
                    plot.upright("refresh", *at);
                }
                plot.mark("refresh", *at, &format!("a call upstream at {at:.2} s"));
            }
            plot.legend("refresh", "a call upstream");
        }
        let troubles = columns
            .refused
            .iter()
            .zip(&columns.failed)
            .zip(&columns.wrong);
        let troubles = troubles.zip(&columns.at_s);
        let troubles: Vec<_> = troubles
            .filter(|(((refused, failed), wrong), _)| *refused + *failed + *wrong > 0)
            .collect();
        for (((refused, failed), wrong), at) in &troubles {
            let says = format!("{at} s: {refused} refused, {failed} failed, {wrong} wrong");
            let count = float(*refused + *failed + *wrong);
            plot.tally("trouble", (**at, **at + interval_s), count, &says);
        }
        if !troubles.is_empty() {
            plot.legend("trouble", "refused, failed or wrong");
        }
        let each = wait(interval_s * 1e6);
        let caption = format!(
            "{}. In intervals of {each}, by when requests were due.",
            load.name
        );
        page.figure(&plot.svg(), &caption);
    }
}

pub(super) fn curve(page: &mut Page, run: &Run) {
    let curves: Vec<_> = run
        .loads
        .iter()
        .filter(|load| load.curve_us.len() > 1)
        .collect();
    if curves.is_empty() {
        return;
    }
    page.heading("How many were how quick");
    let all = || curves.iter().flat_map(|load| &load.curve_us);
    let last = all().fold(0.0_f64, |most, (percent, _)| most.max(*percent));
    let mut plot = Plot::new(
        "Percentiles of latency",
        "the latency that so many in a hundred requests do not exceed",
        Axis::tail(last),
        Axis::log_of_waits(all().map(|(_, us)| *us)),
        HEIGHT,
    );
    for (load, (line, dot)) in curves.iter().zip(COLOURS.into_iter().cycle()) {
        plot.line(line, &load.curve_us, f64::INFINITY);
        let points = load.curve_us.iter().map(|(percent, us)| {
            (
                *percent,
                *us,
                format!("{}: {}% within {}", load.name, plain(*percent), wait(*us)),
            )
        });
        plot.points(dot, &points.collect::<Vec<_>>());
        plot.legend(line, &*load.name);
    }
    let caption = "Each step to the right is a tenth of the requests of the last one.";
    page.figure(&plot.svg(), caption);
}

pub(super) fn upstream(page: &mut Page, run: &Run) {
    let (story, Some(sums)) = (&run.story, &run.upstream) else {
        return;
    };
    page.heading("Calls upstream");
    let seconds = &story.upstream;
    if !story.calls_at_s.is_empty() {
        let ends_s = ends_s(run);
        let most = seconds.calls.iter().copied().max().unwrap_or(0);
        let levels = [story.limit_per_s, story.budget_per_s];
        let most = levels.into_iter().flatten().fold(most, u64::max);
        let mut plot = Plot::new(
            "Calls upstream in each second",
            "of these, throttled and spoilt by faults; the budget and the limit as lines",
            Axis::linear(0.0, ends_s, "seconds since the first request"),
            Axis::linear(0.0, float(most) * 1.3, "calls a second"),
            LOW,
        );
        bands(&mut plot, &story.phases, ends_s);
        for (nth, at) in seconds
            .at_s
            .iter()
            .enumerate()
            .filter(|(_, at)| **at < ends_s)
        {
            let (calls, throttled) = (seconds.calls[nth], seconds.throttled[nth]);
            let faulted = seconds.faulted[nth].min(calls - throttled.min(calls));
            let says =
                format!("from {at:.0} s: {calls} calls, {throttled} throttled, {faulted} spoilt");
            let span = (at.max(0.0), at + 1.0);
            let mut low = 0.0;
            for (class, count) in [
                ("throttled", throttled),
                ("faulted", faulted),
                ("calls", calls - throttled.min(calls) - faulted),
            ] {
                if count > 0 {
                    plot.bar(class, span, (low, low + float(count)), &says);
                    low += float(count);
                }
            }
        }
        plot.legend("calls", "calls");
        for (class, name, is_any) in [
            ("throttled", "throttled (429)", sums.throttled > 0),
            ("faulted", "spoilt by a fault", sums.faulted > 0),
        ] {
            if is_any {
                plot.legend(class, name);
            }
        }
        for (class, name, at) in [
            ("limit", "the upstream's limit", story.limit_per_s),
            ("budget", "Foretoken's budget", story.budget_per_s),
        ] {
            if let Some(at) = at {
                plot.level(class, float(at), &format!("{name}, {at} a second"));
            }
        }
        page.figure(&plot.svg(), "In whole seconds of the wall clock.");
    }
    let columns = [
        "Calls",
        "Throttled",
        "Spoilt by faults",
        "Most in a second",
        "Most at once",
    ];
    let columns = columns.map(|name| (name, Set::Number));
    let figures = [
        sums.calls,
        sums.throttled,
        sums.faulted,
        sums.peak_per_s,
        sums.peak_at_once,
    ];
    let row = figures.map(|count| plain(float(count))).to_vec();
    let requests: u64 = run.loads.iter().map(|load| load.requests).sum();
    let caption = format!(
        "For {} requests, those before the load included.",
        plain(float(requests))
    );
    page.table(&caption, &columns, &[row]);
}
