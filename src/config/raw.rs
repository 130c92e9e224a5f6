//! A configuration as typed: TOML tables, walked by hand so that every value keeps its place.
//!
//! Promises that a name that is not an option's or a table's never passes unnoticed, and that one
//! slip is not told several times. Leaves which names there are to `names.rs`, and what a value
//! means to `value.rs`.

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::mistake::{At, Complaint, NOT_TOML, line_of};
use super::names::{REPEATED, example, heading, keys, table_names, unknown_key, unknown_table};

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
                (_, DeValue::Array(items)) if REPEATED.contains(&name) => {
                    let odd = items.iter().filter(|item| !item.get_ref().is_table());
                    found.extend(odd.map(|item| wrong_shape(name).at(item.span())));
                    items.is_empty().then(|| empty_list(name))
                }
                (_, DeValue::Table(_)) if !REPEATED.contains(&name) => None,
                _ => Some(wrong_shape(name)),
            };
            found.extend(complaint.map(|complaint| complaint.at(key.span())));
        }
        let once = table_names().filter(|name| !REPEATED.contains(name));
        let once = once.map(|name| self.table(name));
        let again = REPEATED.iter().filter_map(|name| self.tables(name));
        for table in once.chain(again.flatten()) {
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

    /// The tables of a name that may come again; a lone `[name]` is read as one of them.
    pub fn tables(&self, name: &'static str) -> Option<Vec<Table<'_>>> {
        let typed = self.root.get(name)?;
        Some(match typed.get_ref() {
            DeValue::Array(items) => items
                .iter()
                .filter(|item| item.get_ref().is_table())
                .map(|item| Table::new(name, item))
                .collect(),
            DeValue::Table(_) => vec![Table::new(name, typed)],
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

    /// An option that is yes or no.
    pub fn boolean(&self, key: &str) -> Typed<bool> {
        self.typed(key, "true or false", DeValue::as_bool)
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

fn empty_list(name: &str) -> Complaint {
    let hint = match name {
        "listener" => "leave it out for the default listeners",
        _ => "leave it out",
    };
    Complaint::new(format!("there is no {name} in the list"), hint)
}

fn wrong_shape(name: &str) -> Complaint {
    let times = if REPEATED.contains(&name) {
        format!("once for each {name}")
    } else {
        "once".to_owned()
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
        "a table or an option is written once; only `[[listener]]` and `[[client]]` may come again"
    } else if message.starts_with("string values must be quoted")
        || message.starts_with("invalid float")
    {
        "text is written in quotes, like `level = \"info\"`"
    } else if message.starts_with("key with no value") {
        "an option is written `key = value`"
    } else {
        "the file is TOML; docs/configuration.md has an example of every option"
    };
    Complaint::new(format!("{NOT_TOML}{message}"), hint).at(error.span().unwrap_or(0..0))
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
