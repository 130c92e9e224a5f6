//! What of a file may be shown: a mistake is told with its line, and a line may hold a secret.
//!
//! Promises that a value is shown only beside the name of an option that holds no secret, however
//! broken the file is. It therefore looks at the text alone and never at what a parser made of
//! it, and hides too much rather than too little: beside a mistyped name nobody misses the value.

use super::names::{OPTIONS, table_names};

/// Stands where something is hidden.
pub(super) const VEIL: &str = "…";

/// Where in a line, counted in bytes, the part begins that is not shown; `None` to show it all.
pub(super) fn hidden_from(text: &str, line: usize) -> Option<usize> {
    let mut walk = Walk::default();
    let hidden = text.split('\n').map(|text| walk.line(text)).nth(line - 1);
    hidden.flatten()
}

/// What the lines so far mean for the next.
#[derive(Default)]
struct Walk {
    /// The last assignment is not shown, nor is what goes on below it.
    secretive: bool,
    /// A list that is shown goes on in the next line.
    list: bool,
    /// The quotes of a string that goes on in the next line.
    open: Option<&'static str>,
}

impl Walk {
    fn line(&mut self, line: &str) -> Option<usize> {
        if let Some(quotes) = self.open {
            self.open = (!line.contains(quotes)).then_some(quotes);
            return Some(0);
        }
        let hidden = match self.assignment(line) {
            Some((name, value)) => self.assigned(name, value, line),
            None if heading(line) => {
                self.secretive = false;
                suspect(line)
            }
            None if self.secretive => Some(0),
            None if self.list => suspect(line),
            None => after_first_word(line),
        };
        self.list &= !line.contains(']');
        let quotes = [r#"""""#, "'''"].into_iter();
        self.open = quotes
            .into_iter()
            .find(|quotes| line.matches(quotes).count() % 2 == 1);
        hidden
    }

    fn assigned(&mut self, name: &str, value: &str, line: &str) -> Option<usize> {
        let shown = harmless(name, value);
        self.secretive = !shown;
        self.list = shown && value.trim_start().starts_with('[');
        let value = line.len() - value.trim_start().len();
        (!shown).then(|| odd_name(name).unwrap_or(value))
    }

    /// The two sides of an assignment. An item of a list may have a `=` in its quotes; where no
    /// list is known to go on, quotes are not trusted to stand where they should.
    fn assignment<'t>(&self, line: &'t str) -> Option<(&'t str, &'t str)> {
        let mut quoted = None;
        let bare = line.find(|c: char| {
            match quoted {
                None if matches!(c, '"' | '\'') => quoted = Some(c),
                Some(quote) if quote == c => quoted = None,
                _ => {}
            }
            c == '=' && quoted.is_none()
        });
        let item = self.list && line.trim_start().starts_with(['"', '\'']);
        let at = bare.or_else(|| line.find('=').filter(|_| !item))?;
        Some((&line[..at], &line[at + 1..]))
    }
}

fn heading(line: &str) -> bool {
    line.trim_start().starts_with('[') && !line.contains(['"', '\''])
}

/// Whether an assignment holds no secret.
fn harmless(name: &str, value: &str) -> bool {
    let name = name.trim().trim_start_matches(['{', '[', ' ', '\t']);
    let last = name.rsplit('.').next().unwrap_or_default();
    let option = last != "secret" && OPTIONS.iter().any(|option| option.1 == last);
    let table = last != "client" && table_names().any(|table| table == last);
    // The path of a secret's file may say so; nothing else on its line may.
    let said = if last == "secret_file" {
        value.contains('=')
    } else {
        suspect(value).is_some() || suspect(name).is_some()
    };
    (option || table) && !said
}

/// Where something begins that is no part of a name, though it stands before a `=`.
fn odd_name(name: &str) -> Option<usize> {
    let bare = name.trim().trim_matches(['"', '\'']);
    let odd = bare.contains(['"', '\'', ',', ' ', '\t']) && !bare.starts_with('{');
    odd.then(|| name.len() - name.trim_start().len())
}

/// The end of what may be a name, where the `=` to its value is missing.
fn after_first_word(line: &str) -> Option<usize> {
    let word = line.trim_start();
    let end = word.find([' ', '\t', '"', '\''])?;
    let rest = word[end..].trim_start();
    (!rest.trim_end().is_empty()).then(|| line.len() - rest.len())
}

/// The end of a word that announces a secret.
fn suspect(text: &str) -> Option<usize> {
    const WORD: &str = "secret";
    let at = text.to_ascii_lowercase().find(WORD)?;
    Some(at + WORD.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let lines =
            text.split('\n')
                .enumerate()
                .map(|(nth, line)| match hidden_from(text, nth + 1) {
                    Some(from) => format!("{}{VEIL}", &line[..from]),
                    None => line.to_owned(),
                });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn values_of_harmless_options_are_shown() {
        for text in [
            "[[client]]\nname = \"a\"\nsecret_file = \"/run/secrets/a\"",
            "identities = [\n  \"client_id=1\",\n  \"system\",\n]",
            "listener = [{ address = \"unix:a\" }]",
            "admin.socket = \"off\"",
        ] {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn whatever_may_be_a_secret_is_not() {
        for (text, expected) in [
            ("secret = \"x\"", "secret = …"),
            ("secrt = \"x\"", "secrt = …"),
            ("\"s\\u0065cret\" = \"x\"", "\"s\\u0065cret\" = …"),
            ("secret \"x\"", "secret …"),
            ("secrt\"x\"", "secrt…"),
            (
                "name = \"a\"\n\"secrt\" = \"x\"",
                "name = \"a\"\n\"secrt\" = …",
            ),
            (
                "identities = [\n\"secrt\" = \"x\"",
                "identities = [\n\"secrt\" = …",
            ),
            ("secret = \n\"x\"", "secret = …\n…"),
            (
                "secret = \"\"\"\na = 1\n[b]\n\"\"\"\nlevel = 1",
                "secret = …\n…\n…\n…\nlevel = 1",
            ),
            ("client = [{ name = \"a\", secrt = \"x\" }]", "client = …"),
            ("{ name = \"a\", secret = \"x\" },", "{ name = …"),
            ("name = \"a\", secret = \"x\"", "name = …"),
            ("secret_file = \"a\", secret = \"x\"", "secret_file = …"),
            ("[[client]]secret = \"x\"", "[[client]]secret = …"),
            ("[[client]]secret \"x\"", "[[client]]secret …"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }
}
