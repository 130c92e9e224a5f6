//! An emulator, and a place where the built program comes and goes. What one capability asks of it
//! besides, its tests add.

use std::path::PathBuf;
use std::process::{Command, Output};

use foretoken_emulator::{Emulator, Settings};
use tempfile::TempDir;

use super::emulator_settings;
use super::process::{Served, command, run, write_config};

pub struct Site {
    pub emulator: Emulator,
    pub folder: TempDir,
    pub config: PathBuf,
}

impl Site {
    pub fn new(more: &str) -> Self {
        Self::with(emulator_settings(), more)
    }

    pub fn with(emulator: Settings, more: &str) -> Self {
        let emulator = Emulator::start(emulator).expect("the emulator starts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = write_config(folder.path(), emulator.address(), more);
        Self {
            emulator,
            folder,
            config,
        }
    }

    pub fn command(&self) -> Command {
        command(self.folder.path())
    }

    pub fn serve(&self) -> Served {
        self.serve_as(self.command())
    }

    pub fn serve_as(&self, command: Command) -> Served {
        Served::start_as(command, &self.config)
    }

    /// Runs `foretoken WORDS --config FILE`.
    pub fn run(&self, words: &str) -> Output {
        let config = self.config.to_str().expect("a plain path");
        let words: Vec<_> = words.split(' ').chain(["--config", config]).collect();
        run(self.folder.path(), &words)
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.path().join("foretoken.key")
    }
}
