//! A configuration as typed: TOML tables, walked by hand so that every value keeps its place.
//!
//! Promises that a name that is not an option's or a table's never passes unnoticed, and that one
//! slip is not told several times. Leaves which names there are to `names.rs`, and what a value
//! means to `value.rs`.

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::mistake::{At, Complaint, line_of};
use super::names::{example, heading, keys, table_names, unknown_key, unknown_table};

/// What was typed for one option: nothing, a value of the right type, or something else.
pub(super) type Typed<T> = Result<Option<At<T>>, At<Complaint>>;

/// A whole file.
pub(super) struct Document<'t> {
    root: DeTable<'t>,
}

impl<'t> Document<'t> {
    /// Reads what can be read, and says where the text is not TOML: once for each line, since
    /// one slip often confuses the parser several times.
    pub fn parse(text: &'t str) -> (Self, Vec<At<Complaint>>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut slips: Vec<_> = errors.iter().map(slip).collect();
        slips.sort_by_key(|slip| slip.span.start);
        slips.dedup_by_key(|slip| line_of(text, slip.span.start));
        let root = root.into_inner();
        (Self { root }, slips)
    }

    /// Tables and options that do not exist, and tables of the wrong shape.
    pub fn misplaced(&self) -> Vec<At<Complaint>> {
        let mut found = Vec::new();
        for (key, value) in &self.root {
            let name = key.get_ref().as_ref();
            let complaint = match (name, value.get_ref()) {
                _ if !table_names().any(|table| table == name) => Some(unknown_table(name)),
                ("listener", DeValue::Array(items)) if items.is_empty() => Some(no_listener()),
                ("listener", DeValue::Array(items)) => {
                    let odd = items.iter().filter(|item| !item.get_ref().is_table());
                    found.extend(odd.map(|item| wrong_shape(name).at(item.span())));
                    None
                }
                ("listener", _) => Some(wrong_shape(name)),
                (_, DeValue::Table(_)) => None,
                _ => Some(wrong_shape(name)),
            };
            found.extend(complaint.map(|complaint| complaint.at(key.span())));
        }
        let tables = table_names().filter(|name| *name != "listener");
        let tables = tables.map(|name| self.table(name));
        for table in tables.chain(self.listeners().into_iter().flatten()) {
            found.extend(table.unknown_keys());
        }
        found
    }

    /// A table that is written once, empty if it is not written at all.
    pub fn table(&self, name: &'static str) -> Table<'_> {
        match self.root.get(name) {
            Some(value) => Table::new(name, value),
            None => Table {
                name,
                entries: None,
                span: 0..0,
            },
        }
    }

    /// The `[[listener]]` tables; a lone `[listener]` is read as one of them.
    pub fn listeners(&self) -> Option<Vec<Table<'_>>> {
        let typed = self.root.get("listener")?;
        Some(match typed.get_ref() {
            DeValue::Array(items) => items
                .iter()
                .filter(|item| item.get_ref().is_table())
                .map(|item| Table::new("listener", item))
                .collect(),
            DeValue::Table(_) => vec![Table::new("listener", typed)],
            _ => Vec::new(),
        })
    }
}

/// One table.
pub(super) struct Table<'a> {
    name: &'static str,
    entries: Option<&'a DeTable<'a>>,
    /// The table's heading.
    pub span: std::ops::Range<usize>,
}

impl<'a> Table<'a> {
    /// A table that is wrongly written as a list is read by its first item, so that the mistakes
    /// in it are told in the same run.
    fn new(name: &'static str, value: &'a Spanned<DeValue<'a>>) -> Self {
        let first = || value.get_ref().as_array()?.first()?.get_ref().as_table();
        Self {
            name,
            entries: value.get_ref().as_table().or_else(first),
            span: value.span(),
        }
    }

    /// An option that is a string.
    pub fn string(&self, key: &str) -> Typed<&'a str> {
        self.typed(key, "a string", DeValue::as_str)
    }

    /// An option that is a whole number, of any size.
    pub fn integer(&self, key: &str) -> Typed<&'a DeInteger<'a>> {
        self.typed(key, "a whole number", DeValue::as_integer)
    }

    /// An option that is a list of strings.
    pub fn strings(&self, key: &str) -> Typed<Vec<Result<At<&'a str>, At<Complaint>>>> {
        let item = |item: &'a Spanned<DeValue<'a>>| match item.get_ref().as_str() {
            Some(value) => Ok(At {
                value,
                span: item.span(),
            }),
            None => Err(self
                .wrong_type(key, "a list of strings", item.get_ref())
                .at(item.span())),
        };
        self.typed(key, "a list of strings", |value| {
            Some(value.as_array()?.iter().map(item).collect())
        })
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Typed<T> {
        let Some(typed) = self.entries.and_then(|entries| entries.get(key)) else {
            return Ok(None);
        };
        let span = typed.span();
        match read(typed.get_ref()) {
            Some(value) => Ok(Some(At { value, span })),
            None => Err(self.wrong_type(key, wanted, typed.get_ref()).at(span)),
        }
    }

    fn wrong_type(&self, key: &str, wanted: &str, typed: &DeValue<'_>) -> Complaint {
        let typed = typed.type_str();
        let article = if typed.starts_with(['a', 'i']) {
            "an"
        } else {
            "a"
        };
        Complaint::new(
            format!("`{key}` is {wanted}; this holds {article} {typed}"),
            format!("write it like `{key} = {}`", example(self.name, key)),
        )
    }

    fn unknown_keys(&self) -> Vec<At<Complaint>> {
        let entries = self.entries.into_iter().flatten();
        entries
            .filter(|(key, _)| !keys(self.name).any(|known| known == key.get_ref().as_ref()))
            .map(|(key, _)| unknown_key(self.name, key.get_ref()).at(key.span()))
            .collect()
    }
}

fn no_listener() -> Complaint {
    Complaint::new(
        "there is no listener in the list",
        "leave it out for the default listeners",
    )
}

fn wrong_shape(name: &str) -> Complaint {
    let times = if name == "listener" {
        "once for each listener"
    } else {
        "once"
    };
    let heading = heading(name);
    Complaint::new(
        format!("`{name}` is not written as {heading}"),
        format!("write `{heading}` {times}, with its options in the lines below it"),
    )
}

fn slip(error: &toml::de::Error) -> At<Complaint> {
    let message = error.message().trim_end_matches(", expected nothing");
    let hint = if message.starts_with("duplicate key") {
        "a table or an option is written once; only `[[listener]]` may come again"
    } else if message.starts_with("string values must be quoted")
        || message.starts_with("invalid float")
    {
        "text is written in quotes, like `level = \"info\"`"
    } else if message.starts_with("key with no value") {
        "an option is written `key = value`"
    } else {
        "the file is TOML; docs/configuration.md has an example of every option"
    };
    Complaint::new(format!("not TOML: {message}"), hint).at(error.span().unwrap_or(0..0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_has_one_syntax_mistake() {
        let (_, slips) = Document::parse("[log]\nlevel = @ @ @\nformat = @\n");
        assert_eq!(slips.len(), 2);
    }
}
