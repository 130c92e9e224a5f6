//! The table of the matrix, for people.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use foretoken::upstream::Kind;
use foretoken_emulator::Keep;

use super::cell::{Cell, Row, heading};

/// What follows the matrix, and is written apart from it.
const SCENARIOS: &str = "\n## Whole outages";
const FIRE: &str = "\n## The process under fire";

/// Writes the rows, and leaves what follows them.
pub fn write(file: &Path, rows: &[Row]) {
    let before = fs::read_to_string(file).unwrap_or_default();
    let rest = &before[first_of(&before, &[SCENARIOS, FIRE])..];
    fs::write(file, text(rows) + rest).expect("a table");
}

/// Writes the section of whole outages, and leaves the others.
pub fn write_scenarios(file: &Path, table: &str) {
    let before = fs::read_to_string(file).unwrap_or_default();
    let first = first_of(&before, &[SCENARIOS, FIRE]);
    let rest = first_of(&before, &[FIRE]);
    let text = [
        &before[..first],
        SCENARIOS,
        WHOLE_OUTAGES,
        table,
        &before[rest..],
    ]
    .concat();
    fs::write(file, text).expect("a table");
}

/// Where the first of these headings stands, or the end.
fn first_of(text: &str, headings: &[&str]) -> usize {
    let found = headings
        .iter()
        .filter_map(|heading| text.find(heading))
        .min();
    found.unwrap_or(text.len())
}

fn text(rows: &[Row]) -> String {
    let mut text = INTRODUCTION.to_owned();
    let failed: usize = rows.iter().map(|row| row.wrong().len()).sum();
    let of = |keep| rows.iter().filter(|row| row.mode.keep() == keep).count();
    let calls: u64 = rows
        .iter()
        .flat_map(|row| &row.cells)
        .map(|cell| cell.calls)
        .sum();
    let rate = rows.iter().map(|row| row.peak_per_s).max().unwrap_or(0);
    let at_once = rows.iter().map(|row| row.peak_in_flight).max().unwrap_or(0);
    let answers = rows
        .iter()
        .flat_map(|row| &row.cells)
        .flat_map(|cell| cell.during.values());
    writeln!(
        text,
        "In the run below {} rows were played: {} modes of which nothing may be kept, {} whose token \
         is good, {} where both are right. Callers got {} answers while the modes were in force; {calls} \
         calls arrived upstream, at most {rate} in one second and {at_once} at once. Checks that \
         failed: {failed}.",
        rows.len(),
        of(Keep::No),
        of(Keep::Yes),
        of(Keep::Either),
        answers.sum::<usize>(),
    )
    .expect("a string takes it");
    let mut group = None;
    for row in rows {
        if group != Some(row.mode.group()) {
            group = Some(row.mode.group());
            let heading = heading(row.mode.group());
            write!(
                text,
                "\n## {heading}\n\n\
                 | Mode | What arrives | May be kept | Cold | Warm | Last minute | Calls | Taken for | Recovery, s |\n\
                 |---|---|---|---|---|---|---|---|---|\n"
            )
            .expect("a string takes it");
        }
        line(&mut text, row);
    }
    text
}

fn line(text: &mut String, row: &Row) {
    let kind = match row.kind {
        Kind::Imds => String::new(),
        kind => format!(" ({})", kind.as_str()),
    };
    let keep = match row.mode.keep() {
        Keep::Yes => "yes",
        Keep::No => "no",
        Keep::Either => "either",
    };
    let about = row.mode.about().replace('|', "\\|");
    let [cold, warm, last] = row.cells.each_ref().map(answers);
    let calls = row
        .cells
        .each_ref()
        .map(|cell| cell.calls.to_string())
        .join(" / ");
    let recovery = row.cells.each_ref().map(recovery).join(" / ");
    let classes = row.classes.join(", ");
    let name = row.mode.name();
    writeln!(
        text,
        "| `{name}`{kind} | {about} | {keep} | {cold} | {warm} | {last} | {calls} | {classes} | {recovery} |"
    )
    .expect("a string takes it");
}

fn answers(cell: &Cell) -> String {
    let each = cell
        .during
        .iter()
        .map(|(status, count)| format!("{status} × {count}"));
    each.collect::<Vec<_>>().join(", ")
}

#[expect(clippy::cast_precision_loss, reason = "seconds, for people")]
fn recovery(cell: &Cell) -> String {
    let seconds = |ms: i64| format!("{:.1}", ms as f64 / 1000.0);
    cell.recovery_ms.map_or("–".to_owned(), seconds)
}

const WHOLE_OUTAGES: &str = "

Written by `./recipes scenarios`: each [scenario](../loadtest/scenarios) as it ships, before the built
program with the configuration that lies beside it. The upstream keeps the limits of IMDS, 20 requests in a
second and 5 at once, and in some phases less. Callers ask four times a second each for 20 keys from the
beginning on, and for 5 more that come one after the other while it lasts; those may come when there is
nothing to be had.

In `outage-2024-07`, `outage-2026-02`, `revocation` and `update-410` a failed request for one of the 20 is a
failed check. The others take more than a token lasts: `slow-recovery` begins without tokens and without an
upstream; `reassignment` lasts longer than half of a life; and in `brown-out`, `flapping` and
`throttle-storm` calls hang or answers trickle for as many real seconds as ever, or limits are those of one
real second, while lives are compressed to 24 to 60 seconds. Checked in all: every token, as above; no key is refused
while its token is good; no more calls than the budget allows; each key has a token in the end.

| Column | Meaning |
|---|---|
| Scale; Takes | how many seconds of the timeline pass in one; how long all of it takes |
| Calls; In one second; At once | what arrived upstream |
| Spoilt; Over the limits; Over capacity | of these: met a fault; answered 429 by the limits; refused while the upstream recovers |

";

const INTRODUCTION: &str = "\
# What happens when the source of tokens fails

Written by `./recipes reliability`. It plays every fault mode of the [emulator](../loadtest/emulator/README.md)
to the built program over real sockets, each to a process of its own with three keys:

- **cold**: asked for the first time when the mode begins;
- **warm**: its token is fresh when the mode begins, and a renewal falls due while it lasts;
- **last minute**: the upstream repeated its token until late, and 0.8 of 3 seconds are left when the
  mode begins. It ends while the mode lasts.

Tokens live for seconds, and `refresh.time_scale` is 10, by which what a `Retry-After` asks is divided too; the
deadlines and the limits of calls are those of a real service. A steady caller of each key asks every 40 ms. The mode lasts
until the third token is over, a renewal of the second is due and the first caller was told something: some
three seconds, or ten where calls hang. Then all is well again, and the row ends when each key has a token
that was issued since (where the answers of the mode may be kept: a token).

What the columns say:

| Column | Meaning |
|---|---|
| May be kept | what the emulator's catalogue says of the answer: `yes`, a client that throws it away fails where it need not; `no`, nothing of it may be kept; `either`, both are right |
| Cold, Warm, Last minute | what callers saw while the mode was in force, as status × count |
| Calls | what arrived upstream meanwhile for each of the three keys; where no connection comes about, nothing does |
| Taken for | what Foretoken calls the failures, as in its log and metrics; nothing where the answer is used |
| Recovery | seconds from the end of the mode to the next token for each of the three, reported and not judged; – for a key that was served all the time |

What the run checks, for each answer and each row:

- every token in a 200 is one that the emulator signed, for the resource and the client that were asked
  for, and not past its end; `expires_on` beside it is its own;
- where nothing may be kept, no token of such an answer is ever served, then or later;
- where the answer is good, nobody is refused, unless it repeats a token past its end (`unchanged`);
- no key is refused while its token is good (but where the mode is a wrong `Date`: tokens may end early);
- errors have the shape of IMDS's, and a 5xx says when to come back;
- upstream, no moment sees more than 4 calls under way, and no second more than 15 and those 4: 15 start in
  any second, and 4 may be on their way when it begins; no key is asked for more often than its pauses allow;
- each key is served again, within half a minute of the time that the mode asked for (a `Retry-After` of
  3000 years is held to 2 minutes, one of 410 to 70 seconds, of which the scale leaves 12 and 7);
- no token stands under another key, the log holds no panic, and SIGTERM ends the process with 0.

";
