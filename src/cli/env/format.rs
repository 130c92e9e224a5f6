//! How an environment variable is written for whoever sets it.

use clap::ValueEnum;

/// Who reads the variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A POSIX shell: `export NAME='value'`.
    Sh,
    /// A systemd unit: `Environment="NAME=value"`.
    Systemd,
    /// Options of `docker run`, for a shell: `-e 'NAME=value'`.
    Docker,
    /// A `.env` file: `NAME=value`, quoted only where that is needed.
    Dotenv,
}

impl Format {
    /// One line. Names are ours; a value is any text without control characters.
    pub fn assignment(self, name: &str, value: &str) -> String {
        match self {
            Self::Sh => format!("export {name}={}", single_quoted(value)),
            // systemd.syntax(7): C-style escapes, and `%` for its specifiers. `$` is plain here.
            Self::Systemd => {
                let value = escaped(value, &['\\', '"']).replace('%', "%%");
                format!("Environment=\"{name}={value}\"")
            }
            Self::Docker => format!("-e {}", single_quoted(&format!("{name}={value}"))),
            Self::Dotenv => format!("{name}={}", dotenv(value)),
        }
    }
}

/// A word of a shell: in single quotes, nothing is special but the quote itself.
fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `docker run --env-file` takes quotes as they come and others take them off, so a value that
/// can do without has none. Single quotes keep everything as it is but themselves and, in some
/// readers, the backslash.
fn dotenv(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=~[]".contains(c);
    if value.chars().all(plain) {
        value.to_owned()
    } else if value.contains(['\'', '\\']) {
        format!("\"{}\"", escaped(value, &['\\', '"', '$', '`']))
    } else {
        format!("'{value}'")
    }
}

/// The text with a backslash before each of some characters.
fn escaped(text: &str, special: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if special.contains(&c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_reader_has_its_own_quotes() {
        let written = |format: Format| format.assignment("A", r#"a'b"c\d%e$f"#);
        assert_eq!(written(Format::Sh), r#"export A='a'\''b"c\d%e$f'"#);
        assert_eq!(
            written(Format::Systemd),
            r#"Environment="A=a'b\"c\\d%%e$f""#
        );
        assert_eq!(written(Format::Docker), r#"-e 'A=a'\''b"c\d%e$f'"#);
        assert_eq!(written(Format::Dotenv), r#"A="a'b\"c\\d%e\$f""#);
    }

    #[test]
    fn a_dotenv_value_has_quotes_only_where_it_needs_them() {
        let written = |value| Format::Dotenv.assignment("A", value);
        assert_eq!(written("http://[::1]:16925/a"), "A=http://[::1]:16925/a");
        assert_eq!(written("a#b$c"), "A='a#b$c'");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_shell_reads_back_what_was_written(value in "[!-~]{1,32}") {
            let export = Format::Sh.assignment("A", &value);
            let script = format!("{export}; printf %s \"$A\"");
            let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), &*value);

            let option = Format::Docker.assignment("A", &value);
            let script = format!("printf '%s|' {option}");
            let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("-e|A={value}|"));
        }
    }
}
