//! The page around the plots: one file that asks nobody for anything, in the light or the dark.

use std::fmt::Write as _;

/// Everything that has a colour has it from here.
const STYLE: &str = include_str!("page.css");

/// A page, written from top to bottom.
pub(super) struct Page {
    body: String,
    contents: Vec<(String, String, &'static str)>,
}

/// Which way a column of a table is set.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Set {
    Text,
    /// Text that is not to be broken.
    Short,
    Number,
}

impl Page {
    pub(super) fn new() -> Self {
        Self {
            body: String::new(),
            contents: Vec::new(),
        }
    }

    /// Begins the part of one result; `verdict` is the class of its badge.
    pub(super) fn part(&mut self, name: &str, verdict: &'static str, about: &str) {
        let id = format!("part-{}", self.contents.len() + 1);
        let name = escaped(name);
        let about = match about {
            "" => String::new(),
            about => format!(r#"<p class="about">{}</p>"#, escaped(about)),
        };
        let _ = writeln!(
            self.body,
            r#"<section id="{id}"><h2>{name} <span class="badge {verdict}">{verdict}</span></h2>{about}"#
        );
        self.contents.push((id, name, verdict));
    }

    pub(super) fn end_part(&mut self) {
        self.body += "</section>\n";
    }

    pub(super) fn heading(&mut self, text: &str) {
        let _ = writeln!(self.body, "<h3>{}</h3>", escaped(text));
    }

    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.body, r#"<p class="about">{}</p>"#, marked_up(text));
    }

    pub(super) fn list(&mut self, items: &[String]) {
        let items = items
            .iter()
            .map(|item| format!("<li>{}</li>", marked_up(item)));
        let items = items.collect::<String>();
        let _ = writeln!(self.body, r#"<ul class="about">{items}</ul>"#);
    }

    /// A plot with what it shows in a sentence.
    pub(super) fn figure(&mut self, svg: &str, caption: &str) {
        let caption = escaped(caption);
        let _ = writeln!(
            self.body,
            "<figure>{svg}<figcaption>{caption}</figcaption></figure>"
        );
    }

    /// A table. A cell that begins with `!` is marked as bad, one with `+` as good; what stands on a
    /// second line is set small.
    pub(super) fn table(&mut self, caption: &str, columns: &[(&str, Set)], rows: &[Vec<String>]) {
        let mut html = format!(
            "<div class=\"wide\"><table><caption>{}</caption><thead><tr>",
            escaped(caption)
        );
        let class = |set: Set| match set {
            Set::Text => "text",
            Set::Short => "short",
            Set::Number => "number",
        };
        for (name, set) in columns {
            let _ = write!(
                html,
                "<th scope=\"col\" class=\"{}\">{}</th>",
                class(*set),
                escaped(name)
            );
        }
        html += "</tr></thead><tbody>\n";
        for row in rows {
            html += "<tr>";
            for (at, (cell, (_, set))) in row.iter().zip(columns).enumerate() {
                let (mark, text) = match cell.as_bytes().first() {
                    Some(b'!') => (" bad", &cell[1..]),
                    Some(b'+') => (" good", &cell[1..]),
                    _ => ("", &**cell),
                };
                let set = class(*set);
                let tag = if at == 0 { "th scope=\"row\"" } else { "td" };
                let end = if at == 0 { "th" } else { "td" };
                let text = match text.split_once('\n') {
                    Some((text, below)) => {
                        format!("{}<small>{}</small>", marked_up(text), marked_up(below))
                    }
                    None => marked_up(text),
                };
                let _ = write!(html, "<{tag} class=\"{set}{mark}\">{text}</{end}>");
            }
            html += "</tr>\n";
        }
        let _ = writeln!(self.body, "{html}</tbody></table></div>");
    }

    pub(super) fn html(&self, title: &str, about: &str) -> String {
        let (title, about) = (escaped(title), escaped(about));
        let mut contents = String::new();
        if self.contents.len() > 1 {
            contents += "<nav aria-label=\"Contents\"><ol>";
            for (id, name, verdict) in &self.contents {
                let _ = write!(
                    contents,
                    r##"<li><a href="#{id}">{name}</a> <span class="badge {verdict}">{verdict}</span></li>"##
                );
            }
            contents += "</ol></nav>";
        }
        format!(
            r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="about">{about}</p>
{contents}
{}
</main>
</body>
</html>
"#,
            self.body
        )
    }
}

/// With what stands in backticks as code.
fn marked_up(text: &str) -> String {
    let escaped = escaped(text);
    let mut out = String::new();
    for (nth, part) in escaped.split('`').enumerate() {
        out += match (nth, nth % 2) {
            (0, _) => "",
            (_, 1) => "<code>",
            _ => "</code>",
        };
        out += part;
    }
    if escaped.matches('`').count() % 2 == 1 {
        out += "</code>";
    }
    out
}

/// As text of HTML and of attributes in double quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            // No text of ours has any, and a page must not.
            other if other.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out
}
