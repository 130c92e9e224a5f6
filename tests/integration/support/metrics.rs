//! Prometheus' text format, read strictly.

use std::net::SocketAddr;

use super::http;

/// One line with a value. All of ours are counts, and whole, but for the clock's skew, of which
/// whole seconds are kept, and of an upstream that is behind none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: u64,
}

/// Everything that `/metrics` says now.
pub fn scrape(admin: SocketAddr) -> Vec<Sample> {
    let answer = http::get(admin, "/metrics");
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(answer.body).expect("text");
    parse(&text).unwrap_or_else(|line| panic!("not in the format: {line}"))
}

/// The sum of all samples of this name, with this label value if one is named.
pub fn sum(samples: &[Sample], name: &str, label: Option<&str>) -> u64 {
    let fits = |sample: &&Sample| {
        sample.name == name
            && label.is_none_or(|wanted| sample.labels.iter().any(|(_, v)| v == wanted))
    };
    samples.iter().filter(fits).map(|sample| sample.value).sum()
}

/// Reads a whole exposition; the error is the first line that breaks the grammar.
pub fn parse(text: &str) -> Result<Vec<Sample>, String> {
    let mut samples = Vec::new();
    for line in text.lines() {
        if line.is_empty() || line.starts_with("# HELP ") || line.starts_with("# TYPE ") {
            continue;
        }
        samples.push(sample(line).ok_or_else(|| line.to_owned())?);
    }
    Ok(samples)
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        None => (series, Vec::new()),
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
    };
    is_name(name).then_some(())?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok().or_else(|| whole(value))?,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "that is what is wanted"
)]
fn whole(value: &str) -> Option<u64> {
    let value = value.parse::<f64>().ok();
    value.filter(|it| it.is_finite()).map(|it| it as u64)
}

/// `a="x",b="y"`; no value here needs an escape, so a backslash is a mistake.
fn labels(text: &str) -> Option<Vec<(String, String)>> {
    text.split(',')
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = value.strip_prefix('"')?.strip_suffix('"')?;
            let plain = is_name(name) && !value.contains(['"', '\\', '{', '}']);
            plain.then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}
