//! `foretoken check`.

use std::path::Path;

use super::Failure;
use crate::config::{self, Environment};

pub(super) fn run(file: Option<&Path>) -> Result<(), Failure> {
    super::say(&config::explain(file, &Environment::of_process())?.to_string())
}
