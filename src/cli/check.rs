//! `foretoken check`.

use std::path::Path;

use super::Failure;
use crate::config::{self, Environment};

pub(super) fn run(file: Option<&Path>) -> Result<(), Failure> {
    print!("{}", config::explain(file, &Environment::of_process())?);
    Ok(())
}
