//! The members of a JSON object in the order in which they are written, since clients depend on
//! that order.

use serde_json::{Map, Value, json};

#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(String, Value)>);

impl Fields {
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.push((name.to_owned(), value.into()));
        self
    }

    /// Puts values over those of the same name, adds new ones at the end, and takes those away
    /// that are to be null.
    pub(crate) fn edit(&mut self, changes: &Map<String, Value>) {
        for (name, value) in changes {
            let found = self.0.iter().position(|(own, _)| own == name);
            match (found, value) {
                (Some(at), Value::Null) => {
                    self.0.remove(at);
                }
                (Some(at), value) => self.0[at].1 = value.clone(),
                (None, Value::Null) => {}
                (None, value) => self.0.push((name.clone(), value.clone())),
            }
        }
    }

    pub(crate) fn to_json(&self) -> String {
        let members: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{}:{value}", json!(name)))
            .collect();
        format!("{{{}}}", members.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_in_the_order_given() {
        let fields = Fields::default()
            .with("z", "1")
            .with("a", 2)
            .with("\"", Value::Null);
        assert_eq!(fields.to_json(), r#"{"z":"1","a":2,"\"":null}"#);
    }

    #[test]
    fn an_edit_replaces_in_place_removes_and_appends() {
        let mut fields = Fields::default()
            .with("a", "1")
            .with("b", "2")
            .with("c", "3");
        let changes = json!({"a": 7, "b": null, "x": [1], "y": null});
        fields.edit(changes.as_object().unwrap());
        assert_eq!(fields.to_json(), r#"{"a":7,"c":"3","x":[1]}"#);
    }
}
