//! The catalogue of fault modes: failures that have a name, a line that describes them, the kinds
//! they make sense for, and a verdict on what a client may do with the answer.
//!
//! A mode is a name for a [`FaultKind`] with its members filled in, and nothing else: what a
//! fault does is in `faults`, `script` and `delivery`. The rows are data; each file has those of
//! one or two groups. Names are stable: tests and scenarios depend on them.

mod answers;
mod connections;
mod framing;
mod members;
mod statuses;
#[cfg(test)]
mod wire;
#[cfg(test)]
mod wire_table;

use std::sync::LazyLock;

use serde::Serialize;
use serde_json::{Value, json};

use crate::faults::FaultKind;
use crate::plan::ModeError;
use crate::script::Step;
use crate::{Accept, Kind};

/// A fault with a name.
#[derive(Debug)]
pub struct Mode {
    name: String,
    group: Group,
    about: String,
    keep: Keep,
    kinds: &'static [&'static str],
    fault: Make,
}

/// Whether a client may keep what it gets and hand it on as the token it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The answer is good: a client that throws it away fails where it need not.
    Yes,
    /// The answer is bad, or none: a client that keeps anything of it is wrong.
    No,
    /// The token is good and its wrapping is not: strict and lenient clients are both right.
    Either,
}

/// What a mode goes wrong with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The status, and when to come back.
    Status,
    /// Connecting.
    Connect,
    /// The connection under the answer.
    Connection,
    /// Head and length of the answer.
    Framing,
    /// What else the headers say: type, coding, date, redirect.
    Header,
    /// The body as a whole.
    Body,
    /// Members of the body: the token, and whose it is.
    Member,
    /// When the token ends.
    Expiry,
}

#[derive(Debug)]
enum Make {
    Same(FaultKind),
    ByKind(fn(&Kind) -> FaultKind),
}

impl From<FaultKind> for Make {
    fn from(fault: FaultKind) -> Self {
        Self::Same(fault)
    }
}

/// Rows of a group: name, kinds, verdict, description, fault.
macro_rules! rows {
    ($group:expr; $($name:literal, $kinds:ident, $keep:ident, $about:literal => $fault:expr;)*) => {
        vec![$(Mode::new($group, $name, $kinds, $keep, $about, $fault)),*]
    };
}
use rows;

/// For what is listed only to say that it does not apply.
const NONE: &[&str] = &[];
const ALL: &[&str] = &[
    "imds",
    "app-service",
    "app-service-2017",
    "azure-ml",
    "arc",
    "service-fabric",
    "cloud-shell",
    "vm-extension",
    "entra",
];
/// Kinds that tell `expires_on`, `resource` and `token_type`: all but Entra, which names no
/// resource and no moment.
const ALL_BUT_ENTRA: &[&str] = &[
    "imds",
    "app-service",
    "app-service-2017",
    "azure-ml",
    "arc",
    "service-fabric",
    "cloud-shell",
    "vm-extension",
];
/// Kinds that tell both `expires_in` and `expires_on`.
const IMDS_LIKE: &[&str] = &["imds", "arc", "cloud-shell", "vm-extension"];
const WITH_EXPIRES_IN: &[&str] = &["imds", "arc", "cloud-shell", "vm-extension", "entra"];
const WITH_EXT_EXPIRES_IN: &[&str] = &["imds", "arc", "entra"];
const WITH_NOT_BEFORE: &[&str] = &["imds", "app-service", "arc", "cloud-shell", "vm-extension"];
const WITH_CLIENT_ID: &[&str] = &["imds", "app-service"];
const OVER_TLS: &[&str] = &["service-fabric", "entra"];
const OF_2017: &[&str] = &["app-service-2017", "azure-ml"];

/// Every mode, in the order of the groups.
#[must_use]
pub fn modes() -> &'static [Mode] {
    static MODES: LazyLock<Vec<Mode>> = LazyLock::new(|| {
        let tables = [
            statuses::statuses(),
            statuses::contradictions(),
            connections::connecting(),
            connections::breaking(),
            framing::lengths(),
            framing::heads(),
            answers::headers(),
            answers::bodies(),
            members::members(),
            members::lives(),
            members::spellings(),
        ];
        tables.into_iter().flatten().collect()
    });
    &MODES
}

impl Mode {
    fn new(
        group: Group,
        name: impl Into<String>,
        kinds: &'static [&'static str],
        keep: Keep,
        about: impl Into<String>,
        fault: impl Into<Make>,
    ) -> Self {
        Self {
            name: name.into(),
            group,
            about: about.into(),
            keep,
            kinds,
            fault: fault.into(),
        }
    }

    /// The mode of this name.
    ///
    /// # Errors
    /// If there is none; the error names the nearest.
    pub fn find(name: &str) -> Result<&'static Self, ModeError> {
        let named = modes().iter().find(|mode| mode.name == name);
        named.ok_or_else(|| {
            let nearest = modes()
                .iter()
                .min_by_key(|mode| strsim::damerau_levenshtein(name, &mode.name));
            ModeError::Unknown {
                name: name.to_owned(),
                nearest: nearest.map_or("", Mode::name),
            }
        })
    }

    /// Its name: short, in kebab case, stable.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it goes wrong with.
    #[must_use]
    pub fn group(&self) -> Group {
        self.group
    }

    /// What happens, in a line.
    #[must_use]
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Whether a client may keep what it gets.
    #[must_use]
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// The names of the kinds it makes sense for; none for a mode that is listed only to say
    /// that it does not apply.
    #[must_use]
    pub fn kinds(&self) -> &'static [&'static str] {
        self.kinds
    }

    /// What it does to a kind; `None` if it does not apply to it.
    #[must_use]
    pub fn fault(&self, kind: &Kind) -> Option<FaultKind> {
        self.kinds
            .contains(&kind.name())
            .then(|| match &self.fault {
                Make::Same(fault) => fault.clone(),
                Make::ByKind(make) => make(kind),
            })
    }

    /// The row of the list as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "group": self.group,
            "about": self.about,
            "keep": self.keep,
            "kinds": self.kinds,
        })
    }
}

/// The catalogue as a table for people.
#[must_use]
pub fn mode_table() -> String {
    let mut text = String::new();
    let mut group = None;
    for mode in modes() {
        if group != Some(mode.group) {
            group = Some(mode.group);
            text += &format!("\n{}\n", word(&mode.group));
        }
        let kinds = match mode.kinds {
            [] => "not applicable".to_owned(),
            kinds if kinds.len() == ALL.len() => "all".to_owned(),
            ALL_BUT_ENTRA => "all but entra".to_owned(),
            kinds => kinds.join(" "),
        };
        let (name, keep) = (&mode.name, word(&mode.keep));
        text += &format!("  {name:28} {keep:7} {}  [{kinds}]\n", mode.about);
    }
    text.trim_start().to_owned()
}

/// How a group or a verdict is called.
fn word(of: &impl Serialize) -> String {
    match serde_json::to_value(of) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn status(status: u16) -> FaultKind {
    FaultKind::Status {
        status,
        retry_after_s: None,
    }
}

fn header(line: &str, status: Option<u16>) -> FaultKind {
    FaultKind::Header {
        line: line.to_owned(),
        status,
    }
}

/// Sends this in place of the answer; the connection goes on.
fn send(text: &str) -> FaultKind {
    script([Step::Send(text.to_owned())])
}

/// Sends this in place of the answer, and goes no further.
fn send_then(text: &str, end: Step) -> FaultKind {
    script([Step::Send(text.to_owned()), end])
}

fn script(steps: impl Into<Vec<Step>>) -> FaultKind {
    FaultKind::Script {
        steps: steps.into(),
        status: None,
    }
}

/// The right answer around another body.
fn rewrite(text: &str) -> FaultKind {
    FaultKind::Rewrite {
        text: text.to_owned(),
        status: 200,
    }
}

/// The right answer with these members in place of its own; null takes one away.
fn edit<const N: usize>(members: [(&str, Value); N]) -> FaultKind {
    let members = members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    FaultKind::Edit {
        members: members.collect(),
    }
}

fn accept(how: Accept) -> FaultKind {
    FaultKind::Accept { how }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_in_kebab_case() {
        let mut seen = HashSet::new();
        for mode in modes() {
            let name = mode.name();
            assert!(seen.insert(name), "{name} stands twice");
            let kebab = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-';
            assert!(name.chars().all(kebab), "{name}");
            assert!(name.len() <= 28, "{name} breaks the table");
        }
    }

    #[test]
    fn every_mode_says_in_a_line_what_happens_and_names_kinds_that_exist() {
        for mode in modes() {
            let about = mode.about();
            assert!((8..=90).contains(&about.len()), "{}: {about}", mode.name());
            assert!(!about.ends_with('.'), "{}", mode.name());
            for kind in mode.kinds() {
                assert!(ALL.contains(kind), "{}: {kind}", mode.name());
            }
        }
    }

    #[test]
    fn what_a_mode_does_can_be_said_as_json_and_is_without_mistakes() {
        for mode in modes() {
            let Some(fault) = mode.fault(&Kind::Imds) else {
                continue;
            };
            let fault = crate::Fault::always(fault);
            let text = serde_json::to_string(&fault).unwrap();
            let read = crate::Fault::from_json(text.as_bytes());
            // A status that no fault of one's own may have is sent by a script.
            assert_eq!(read.as_ref(), Ok(&fault), "{}", mode.name());
        }
    }

    #[test]
    fn the_list_has_every_mode_with_its_verdict() {
        let table = mode_table();
        for mode in modes() {
            let row = table.lines().find(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some(mode.name()) && words.next() == Some(&word(&mode.keep()))
            });
            assert!(
                row.is_some_and(|row| row.contains(mode.about())),
                "{}",
                mode.name()
            );
        }
        let headings = 8;
        let lines = modes().len() + headings + headings - 1;
        assert_eq!(
            table.lines().count(),
            lines,
            "a heading, and a gap before all but the first"
        );
    }
}
