//! One row of the matrix: a mode, a process, three keys.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foretoken::upstream::Kind;
use foretoken_emulator::{Counts, Emulator, Group, Keep, Mode};
use rustix::process::Signal;

use super::watch::{Caller, Key, Seen, Verifier, now_ms, sleep_until};
use crate::support::metrics::{scrape, sum};
use crate::support::process::{Served, command, write_file};
use crate::support::source::played;
use crate::support::{emulator_settings, http};

/// Tokens of a few seconds in place of a day, and waits in the same spirit.
const SCALE: i64 = 10;
const LAST_LIFE_S: u64 = 3;
const WARM_LIFE_S: u64 = 6;
/// Of tokens issued while the mode is in force: by this they are known.
const SPOILT_LIFE_S: u64 = 60;
/// Of tokens issued once it is over.
const HEALED_LIFE_S: u64 = 600;
/// Where the mode moves the clock; no token is too short for that.
const LONG_LIFE_S: u64 = 3 * 86_400;
/// What is left of the key's token when the mode begins: the last minute of an hour would be less.
const LAST_LEFT_MS: i64 = 800;
const BETWEEN_CALLS: Duration = Duration::from_millis(40);
/// After what the upstream asks for and the deadlines of calls nothing needs so long.
const LIVENESS_MS: i64 = 30_000;
const CLIENT: &str = "aaaaaaaa-1111-4222-8333-444444444444";

/// What became of a key.
pub struct Cell {
    /// Answers while the mode was in force, by status.
    pub during: BTreeMap<u16, usize>,
    /// Calls that arrived upstream meanwhile.
    pub calls: u64,
    /// From the end of the mode to the next answer with a token, for a key that had none to serve;
    /// `None` for one that was served all the time.
    pub recovery_ms: Option<i64>,
    wrong: Vec<String>,
}

/// A row.
pub struct Row {
    pub mode: &'static Mode,
    pub kind: Kind,
    /// Cold, warm, last minute.
    pub cells: [Cell; 3],
    /// What the failures were taken for.
    pub classes: Vec<String>,
    pub peak_per_s: u64,
    pub peak_in_flight: u64,
    wrong: Vec<String>,
}

impl Row {
    /// Everything that was not as it should be.
    pub fn wrong(&self) -> Vec<String> {
        let named = ["cold", "warm", "last minute"].iter().zip(&self.cells);
        let of_cells = named.flat_map(|(name, cell)| {
            let first = cell.wrong.iter().take(2);
            first.map(move |what| format!("{name}: {what}"))
        });
        let all = of_cells.chain(self.wrong.iter().cloned());
        all.map(|what| format!("{} ({}): {what}", self.mode.name(), self.kind.as_str()))
            .collect()
    }
}

/// How long a mode asks clients to stay away, as far as that is believed, in a rehearsal.
pub fn asked_ms(mode: &Mode) -> i64 {
    let name = mode.name();
    let asked_ms = match () {
        () if name == "status-410-after-absurd" => 70_000,
        () if name.ends_with("-after-absurd") => 120_000,
        () if name.ends_with("-after-seconds") || name.ends_with("-after-date") => 7000,
        () => 0,
    };
    asked_ms / SCALE
}

/// Whether a mode changes what time it seems to be.
fn moves_clock(mode: &Mode) -> bool {
    mode.name().starts_with("date-")
}

/// Plays a row from its three keys' beginnings until all three are well again.
pub fn play(mode: &'static Mode, kind: Kind) -> Row {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut settings = emulator_settings();
    settings.kind = played(kind, folder.path());
    let emulator = Emulator::start(settings).expect("the emulator starts");
    let mut served = serve(&emulator, kind, folder.path());
    let verifier = Verifier::of(&emulator);
    let mut row = with_callers(mode, kind, &emulator, &served, &verifier);

    let samples = scrape(served.admin);
    if sum(&samples, "foretoken_echo_mismatches_total", None) > 0 {
        row.wrong.push("a token stood under another key".to_owned());
    }
    if http::get(served.admin, "/livez").status != 200 {
        row.wrong.push("it does not live".to_owned());
    }
    let status = served.end(Signal::TERM);
    if status.code() != Some(0) {
        row.wrong.push(format!("it ended with {status}"));
    }
    let log = served.log();
    if log.contains("panicked") {
        row.wrong.push(format!("a panic:\n{log}"));
    }
    row
}

fn serve(emulator: &Emulator, kind: Kind, folder: &Path) -> Served {
    let typed = match kind {
        Kind::Imds => format!("endpoint = \"http://{}\"", emulator.address()),
        Kind::WorkloadIdentity => {
            let authority = emulator.ca_pem().expect("a certificate authority");
            std::fs::write(folder.join("ca.pem"), authority).expect("a file");
            "ca_file = \"ca.pem\"".to_owned()
        }
        _ => String::new(),
    };
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\nsocket = \"off\"\n\
         [upstream]\nkind = \"{}\"\n{typed}\n[refresh]\ntime_scale = {SCALE}\n\
         [store]\nmode = \"off\"\n[server]\nworkers = 1\n[log]\nformat = \"json\"\n",
        kind.as_str()
    );
    let mut command = command(folder);
    command.envs(emulator.environment());
    Served::start_as(command, &write_file(folder, &text))
}

fn with_callers(
    mode: &'static Mode,
    kind: Kind,
    emulator: &Emulator,
    served: &Served,
    verifier: &Verifier,
) -> Row {
    let client = (kind != Kind::ServiceFabric).then_some(CLIENT);
    let keys = ["cold", "warm", "last"].map(|name| Key {
        resource: format!("https://{name}.example"),
        client,
    });
    let mut callers = keys.clone().map(|key| {
        let mut caller = Caller::new(served.address, key, verifier);
        caller.lenient = moves_clock(mode);
        caller.early_ends = kind == Kind::WorkloadIdentity;
        caller
    });
    let mut wrong = Vec::new();

    let Begun {
        began_ms,
        enough_ms,
    } = begin(mode, emulator, &mut callers);
    let seen: [Mutex<Vec<Seen>>; 3] = Default::default();
    let over = AtomicBool::new(false);
    let all = |i: usize| seen[i].lock().expect("no panic").clone();
    let (healed_ms, at_heal) = std::thread::scope(|scope| {
        for (caller, seen) in callers.iter_mut().zip(&seen) {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let answer = caller.ask();
                    seen.lock().expect("no panic").push(answer);
                    std::thread::sleep(BETWEEN_CALLS);
                }
            });
        }
        // Long enough, and the cold key's first caller was told something.
        let limit_ms = began_ms + LIVENESS_MS;
        while now_ms() < enough_ms || (all(0).is_empty() && now_ms() < limit_ms) {
            std::thread::sleep(BETWEEN_CALLS);
        }
        let at_heal = emulator.counts();
        // Whatever an answer that was no good held is not given out again.
        emulator.set_lifetime_s(lives_s(mode).1);
        settle(emulator);
        emulator.forget_tokens();
        emulator.clear_modes();
        let healed_ms = now_ms();
        let limit_ms = healed_ms + asked_ms(mode) + LIVENESS_MS;
        let well = |i: usize| all(i).iter().any(|answer| is_well(mode, answer, healed_ms));
        while !(0..3).all(well) && now_ms() < limit_ms {
            std::thread::sleep(BETWEEN_CALLS);
        }
        over.store(true, Ordering::Relaxed);
        (healed_ms, at_heal)
    });

    let classes = classes(served);
    let mut cells = Vec::new();
    for ((key, caller), seen) in keys.iter().zip(callers).zip(seen) {
        let seen = seen.into_inner().expect("no panic");
        let selector = key.selector();
        let counted = |counts: &Counts| counts.calls_for(&selector, &key.resource);
        let mut cell = Cell {
            during: BTreeMap::new(),
            calls: counted(&at_heal),
            recovery_ms: recovery_ms(&seen, healed_ms),
            wrong: caller.wrong,
        };
        for answer in seen.iter().filter(|answer| answer.back_ms < healed_ms) {
            *cell.during.entry(answer.status).or_default() += 1;
        }
        judge(mode, &seen, healed_ms, &mut cell);
        let most = most_calls(mode, &classes, healed_ms - began_ms);
        if cell.calls > most {
            cell.wrong
                .push(format!("{} calls where {most} are allowed", cell.calls));
        }
        cells.push(cell);
    }
    let counts = emulator.counts();
    // Where nobody accepts, nobody counts.
    if counts.spoilt_by(mode.name()) == 0 && classes.is_empty() {
        wrong.push("it was never met".to_owned());
    }
    wrong.extend(over_budget(&counts));
    Row {
        mode,
        kind,
        cells: cells
            .try_into()
            .unwrap_or_else(|_| unreachable!("three keys")),
        classes,
        peak_per_s: counts.peak_rate_per_s,
        peak_in_flight: counts.peak_concurrency,
        wrong,
    }
}

struct Begun {
    began_ms: i64,
    /// By then the last token is over, and a renewal of the warm one due.
    enough_ms: i64,
}

/// Gives two of the keys their tokens, and puts the mode in force at the right time.
fn begin(mode: &Mode, emulator: &Emulator, callers: &mut [Caller<'_>; 3]) -> Begun {
    // A token is repeated until its end, so that a key gets into its last minute.
    emulator.set_reissue_below(0.0);
    emulator.set_lifetime_s(LAST_LIFE_S);
    let last = callers[2].ask().token.expect("a first token");
    sleep_until(last.exp_s * 1000 - LAST_LEFT_MS - 100);
    emulator.set_lifetime_s(WARM_LIFE_S);
    let warm = callers[1].ask();
    let warm_end_ms = warm.token.expect("a first token").exp_s * 1000;
    let renewal_ms = warm.back_ms.midpoint(warm_end_ms) + 300;
    sleep_until(last.exp_s * 1000 - LAST_LEFT_MS);
    if moves_clock(mode) {
        // One that is repeated would end too soon by the other time, and so would a short one.
        emulator.set_lifetime_s(lives_s(mode).0);
        emulator.forget_tokens();
    }
    emulator.reset_counts();
    emulator.set_mode(mode.name()).expect("a mode");
    settle(emulator);
    emulator.set_lifetime_s(lives_s(mode).0);
    emulator.set_reissue_below(0.5);
    Begun {
        began_ms: now_ms(),
        enough_ms: renewal_ms.max(last.exp_s * 1000 + 400),
    }
}

/// Waits until what was asked before is answered, so that no token of one time comes in an answer
/// of the next. A call that hangs has gone wrong already and is not waited for.
fn settle(emulator: &Emulator) {
    let limit_ms = now_ms() + 300;
    std::thread::sleep(Duration::from_millis(20));
    while emulator.counts().in_progress > 0 && now_ms() < limit_ms {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The lives of tokens issued while the mode is in force, and afterwards.
fn lives_s(mode: &Mode) -> (u64, u64) {
    if moves_clock(mode) {
        return (LONG_LIFE_S, LONG_LIFE_S);
    }
    (SPOILT_LIFE_S, HEALED_LIFE_S)
}

/// Whether an answer shows that its key is not stuck: after a mode of which nothing may be kept, by
/// a token that was issued since.
fn is_well(mode: &Mode, answer: &Seen, healed_ms: i64) -> bool {
    let since = |life_s: i64| u64::try_from(life_s) == Ok(HEALED_LIFE_S) || moves_clock(mode);
    let fits = |life_s| mode.keep() != Keep::No || since(life_s);
    answer.sent_ms >= healed_ms && answer.token.as_ref().is_some_and(|it| fits(it.life_s))
}

fn recovery_ms(seen: &[Seen], healed_ms: i64) -> Option<i64> {
    let before = seen.iter().rev().find(|answer| answer.back_ms < healed_ms);
    let next = seen.iter().find(|answer| answer.back_ms >= healed_ms)?;
    let served = before.is_some_and(|it| it.status == 200) && next.status == 200;
    if served && next.sent_ms >= healed_ms - 500 {
        return None;
    }
    let good = seen
        .iter()
        .find(|answer| answer.back_ms >= healed_ms && answer.status == 200);
    good.map(|answer| answer.back_ms - healed_ms)
}

fn judge(mode: &Mode, seen: &[Seen], healed_ms: i64, cell: &mut Cell) {
    let wrong = &mut cell.wrong;
    let spoilt = |answer: &&Seen| {
        let life_s = answer.token.as_ref().map(|it| it.life_s);
        life_s.is_some_and(|life_s| u64::try_from(life_s) == Ok(SPOILT_LIFE_S))
    };
    match mode.keep() {
        Keep::No => {
            let served = seen.iter().filter(spoilt).count();
            if served > 0 {
                wrong.push(format!(
                    "{served} times a token of an answer that is no good"
                ));
            }
        }
        // Repeated past its end it is good no more.
        Keep::Yes if mode.name() != "unchanged" => {
            let refused: Vec<_> = cell
                .during
                .iter()
                .filter(|(status, _)| **status != 200)
                .collect();
            if !refused.is_empty() {
                wrong.push(format!("refused, though the answer is good: {refused:?}"));
            }
        }
        _ => {}
    }
    if cell.during.is_empty() {
        wrong.push("nobody was answered".to_owned());
    }
    if !seen.iter().any(|answer| is_well(mode, answer, healed_ms)) {
        wrong.push("it is stuck: no token since the mode is over".to_owned());
    }
}

/// Calls beyond the budget. It counts when calls start, and the emulator when they arrive: to the
/// fifteen that start in a second come the four that are on their way when it begins.
pub fn over_budget(counts: &Counts) -> Option<String> {
    let (rate, at_once) = (counts.peak_rate_per_s, counts.peak_concurrency);
    let over = rate > 15 + 4 || at_once > 4;
    over.then(|| format!("{rate} calls in a second, {at_once} at once"))
}

/// What the failures of all calls were taken for.
fn classes(served: &Served) -> Vec<String> {
    let samples = scrape(served.admin);
    let calls = samples
        .iter()
        .filter(|it| it.name == "foretoken_upstream_calls_total" && it.value > 0);
    let results = calls.filter_map(|it| it.labels.first().map(|(_, result)| result.clone()));
    results
        .filter(|result| result != "renewed" && result != "unchanged")
        .collect()
}

/// The most calls for a key that the pauses allow in so long a time: after a refusal that stands
/// they are not shorter than a fifth of a second, after a passing trouble not shorter than 20 ms; a
/// key without a token is called for again when its refusal is forgotten. The budget is the other
/// bound.
fn most_calls(mode: &Mode, classes: &[String], during_ms: i64) -> u64 {
    let stands = ["denied", "wrong_resource", "wrong_client", "unsupported"];
    let slow = !classes.is_empty() && classes.iter().all(|class| stands.contains(&&**class));
    let shortest_ms = match () {
        () if asked_ms(mode) > 0 => 5000 / SCALE,
        () if slow => 200,
        () => 20,
    };
    let most = 2 + during_ms / shortest_ms;
    u64::try_from(most.min(15 * (during_ms / 1000 + 2))).expect("not negative")
}

/// The group's heading.
pub fn heading(group: Group) -> &'static str {
    match group {
        Group::Status => "Statuses",
        Group::Connect => "Connecting",
        Group::Connection => "The connection breaks or stalls",
        Group::Framing => "The head and the lengths are wrong",
        Group::Header => "Headers",
        Group::Body => "The body is wrong as a whole",
        Group::Member => "Members of the body",
        Group::Expiry => "When the token ends",
    }
}
