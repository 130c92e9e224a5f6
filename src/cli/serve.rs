//! `foretoken serve`.

use std::path::Path;

use anyhow::Context as _;

use super::Failure;
use crate::app::{self, App, Ended};
use crate::config::{self, Environment};
use crate::telemetry::log;

pub(super) fn run(file: Option<&Path>) -> Result<(), Failure> {
    let settings = config::load(file, &Environment::of_process())?;
    log::start(settings.log);
    app::harden();
    let app = App::start(&settings)?;
    match app::until_signal(app, async |_| {}).context("cannot wait for signals")? {
        Ended::Asked => Ok(()),
        Ended::Broken => Err(Failure::Broken),
    }
}
