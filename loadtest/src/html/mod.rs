//! Results as one page for people: plots, and tables of all that they show. No scripts, and nothing
//! is loaded from anywhere.
//!
//! - `read` and `compare` take results apart, `run`, its `pictures` and `compare` write
//!   their part of the `page`.
//! - A `plot` is SVG within two of `axis`; `ratio` draws bars of how many times as much.

mod axis;
mod compare;
mod page;
mod pictures;
mod plot;
mod ratio;
mod read;
mod run;

use anyhow::{Context as _, bail};
use serde::Deserialize as _;
use serde_json::Value;

use self::page::Page;

/// One page of several results, each with the name of its file.
///
/// # Errors
/// If one is no result of a run, a scenario or a comparison.
pub fn html(results: &[(String, Value)]) -> anyhow::Result<String> {
    let mut page = Page::new();
    for (file, value) in results {
        let part = if value.get("loads").is_some() {
            let run = read::Run::deserialize(value);
            run.map(|run| run::part(&mut page, &run))
        } else if value.get("workloads").is_some() {
            let results = compare::Results::deserialize(value);
            results.map(|results| compare::part(&mut page, &results))
        } else {
            bail!("{file} has no results of this program");
        };
        part.with_context(|| format!("{file} is of another version"))?;
    }
    let about = "Counts are what was expected or not; times are those of one machine at one time, and \
                 are to be compared within a part of this page only.";
    let only = results.first().filter(|_| results.len() == 1);
    let name = only.and_then(|(_, value)| value["name"].as_str());
    let title = name.map_or("Load report".to_owned(), |name| {
        format!("Load report: {name}")
    });
    Ok(page.html(&title, about))
}
