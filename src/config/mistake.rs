//! Mistakes in a configuration, and how they read on a terminal.
//!
//! Owns the text an operator sees: `FILE:LINE:COLUMN: what is wrong`, the line with a caret under
//! it, and a hint. Promises that nothing from the file reaches the terminal as a control
//! character, and no secret reaches it at all. Leaves what counts as a mistake to the other files,
//! and what of a line may be shown to `veil.rs`.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::veil::{VEIL, hidden_from};

/// How a complaint of the parser begins.
pub(super) const NOT_TOML: &str = "not TOML: ";

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read as text.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file, as named by the operator.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file or the environment has mistakes in it.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

/// All mistakes of one configuration, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, mistake) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_str("\n\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where in the file; `None` for what the environment lacks.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Mistake {
    pub(super) fn placed(complaint: At<Complaint>, text: &str, file: &Path) -> Self {
        let At { mut value, span } = complaint;
        // A complaint quotes the value that it is about; the parser's own repeat nothing.
        let repeats = value.message.contains('"') && !value.message.starts_with(NOT_TOML);
        if repeats && veiled(text, &span) {
            value = unspoken();
        }
        Self {
            place: Some(Place::of(&span, text, file)),
            message: value.message,
            hint: value.hint,
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => {
                let Place {
                    file, line, column, ..
                } = place;
                let message = printable(&self.message);
                writeln!(f, "{}:{line}:{column}: {message}", file.display())?;
                place.show_source(f)?;
            }
            None => writeln!(f, "environment: {}", printable(&self.message))?,
        }
        write!(f, "hint: {}", printable(&self.hint))
    }
}

/// A stretch of one line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as named by the operator.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// In characters, at least 1. What goes on in the next line is not counted.
    pub width: usize,
    /// The line without its end; what may be a secret is left out.
    pub source_line: String,
}

impl Place {
    /// The place of a span of bytes, wherever the span points to.
    pub(super) fn of(span: &Range<usize>, text: &str, file: &Path) -> Self {
        let start = text.floor_char_boundary(span.start);
        let (before, after) = text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = after.find('\n').map_or(text.len(), |n| start + n);
        let end = text.floor_char_boundary(span.end.clamp(start, line_end));
        let line = line_of(text, start);
        if let Some(hidden) = hidden_from(text, line) {
            let hidden = line_start + hidden;
            let (start, end) = (start.min(hidden), end.min(hidden));
            let shown = &text[line_start..hidden];
            return Self {
                file: file.to_owned(),
                line,
                column: text[line_start..start].chars().count() + 1,
                width: text[start..end].trim_end().chars().count().max(1),
                source_line: format!("{shown}{VEIL}"),
            };
        }
        Self {
            file: file.to_owned(),
            line,
            column: text[line_start..start].chars().count() + 1,
            width: text[start..end].trim_end().chars().count().max(1),
            source_line: text[line_start..line_end].trim_end().to_owned(),
        }
    }

    /// The line and the caret. Tabs stay tabs in both, so that they line up.
    fn show_source(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "    {}\n    ", printable(&self.source_line))?;
        let mut before = self.source_line.chars();
        for _ in 1..self.column {
            let tab = before.next() == Some('\t');
            f.write_char(if tab { '\t' } else { ' ' })?;
        }
        writeln!(f, "{}", "^".repeat(self.width))
    }
}

/// Text without control characters, so that it can only be read. Tabs stay.
fn printable(text: &str) -> String {
    let unprintable = |c: char| c.is_control() && c != '\t';
    text.replace(unprintable, "\u{fffd}")
}

/// Whether the bytes of a span may hold a secret.
fn veiled(text: &str, span: &Range<usize>) -> bool {
    let start = text.floor_char_boundary(span.start);
    let end = text.floor_char_boundary(span.end.max(start));
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let hidden = hidden_from(text, line_of(text, start));
    text[start..end].contains('\n') || hidden.is_some_and(|hidden| line_start + hidden <= start)
}

fn unspoken() -> Complaint {
    let message = "this value is wrong; it is not repeated, since it may hold a secret";
    Complaint::new(message, "docs/configuration.md says what the option takes")
}

/// The line that holds a byte, counted from 1.
pub(super) fn line_of(text: &str, byte: usize) -> usize {
    let before = &text.as_bytes()[..byte.min(text.len())];
    before.split(|b| *b == b'\n').count()
}

/// A value and the bytes of the file it was read from.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// A mistake before anyone knows where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub message: String,
    pub hint: String,
}

impl Complaint {
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// It is about what an environment variable says.
    pub fn of(self, variable: &str) -> Self {
        let message = format!("${variable}: {}", self.message);
        Self { message, ..self }
    }

    pub fn at(self, span: Range<usize>) -> At<Self> {
        At { value: self, span }
    }
}

/// Leaves out what is likely to be only the echo of a syntax mistake: what is found in the same
/// line, and below a broken heading whatever its table would have explained.
pub(super) fn without_echoes(
    found: Vec<At<Complaint>>,
    slips: &[At<Complaint>],
    text: &str,
) -> Vec<At<Complaint>> {
    let lines: Vec<&str> = text.split('\n').collect();
    let heading = |line: usize| lines[line - 1].trim_start().starts_with('[');
    let mut doubtful = HashSet::new();
    for slip in slips {
        let line = line_of(text, slip.span.start);
        doubtful.insert(line);
        if heading(line) {
            let below = line + 1..=lines.len();
            doubtful.extend(below.take_while(|line| !heading(*line)));
        }
    }
    let sound = |at: &At<Complaint>| !doubtful.contains(&line_of(text, at.span.start));
    found.into_iter().filter(sound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, span: Range<usize>) -> String {
        let place = Some(Place::of(&span, text, Path::new("f.toml")));
        let (message, hint) = ("wrong".to_owned(), "right".to_owned());
        Mistake {
            place,
            message,
            hint,
        }
        .to_string()
    }

    #[test]
    fn the_caret_stands_under_the_value() {
        assert_eq!(
            shown("key = 1\nmode = 22\n", 15..17),
            "f.toml:2:8: wrong\n    mode = 22\n           ^^\nhint: right"
        );
    }

    #[test]
    fn the_caret_stays_with_what_is_left_of_a_line_that_holds_a_secret() {
        assert_eq!(
            shown("secret = \"hunter2\"\n", 12..14),
            "f.toml:1:10: wrong\n    secret = …\n             ^\nhint: right"
        );
    }

    #[test]
    fn tabs_and_wide_text_before_the_value_keep_the_caret_in_place() {
        assert_eq!(
            shown("\té.key = 1", 10..11),
            "f.toml:1:10: wrong\n    \té.key = 1\n    \t        ^\nhint: right"
        );
    }

    #[test]
    fn a_span_over_several_lines_is_marked_on_its_first() {
        assert_eq!(
            shown("key = [\r\n1]", 6..11),
            "f.toml:1:7: wrong\n    key = [\n          ^\nhint: right"
        );
    }

    #[test]
    fn spans_outside_the_text_or_inside_a_character_are_survived() {
        for span in [0..0, 1..1, 1..2, 2..99, 50..60] {
            shown("é\n", span);
        }
    }

    #[test]
    fn control_characters_of_the_file_do_not_reach_the_terminal() {
        assert!(!shown("a = \u{1b}[2J", 4..5).contains('\u{1b}'));
    }
}
