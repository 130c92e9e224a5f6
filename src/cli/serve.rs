//! `foretoken serve`.

use std::path::Path;

use anyhow::Context as _;

use super::Failure;
use crate::app::{self, App, Ended, Signals};
use crate::config::{self, Environment};
use crate::telemetry::log;

pub(super) fn run(file: Option<&Path>) -> Result<(), Failure> {
    app::share_arena();
    let settings = config::load(file, &Environment::of_process())?;
    log::start(settings.log);
    log::tell_panics();
    app::harden();
    let signals = Signals::listen().context("cannot wait for signals")?;
    let app = App::start(&settings)?;
    match signals.run(app, async |_| {}) {
        Ended::Asked => Ok(()),
        Ended::Broken => Err(Failure::Broken),
    }
}
