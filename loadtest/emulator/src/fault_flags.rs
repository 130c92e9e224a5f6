//! The command line flags that say what goes wrong.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use foretoken_emulator::{Mode, Scenario, mode_table, modes};

#[derive(Args)]
pub struct FaultFlags {
    /// Prints the fault modes and ends
    #[arg(long)]
    pub list_faults: bool,

    /// The list as JSON
    #[arg(long, requires = "list_faults")]
    json: bool,

    /// A fault mode in force from the start; may come several times
    #[arg(long, value_name = "MODE")]
    pub fault: Vec<String>,

    /// A scenario to play from the start (TOML)
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,

    /// How many seconds of the scenario pass in one; without it, as the file says
    #[arg(long, requires = "scenario", value_parser = scale)]
    scale: Option<f64>,

    /// End when the scenario does, and print the counts; without it, its last phase stays
    #[arg(long, requires = "scenario")]
    pub exit: bool,
}

impl FaultFlags {
    /// The fault modes as a table or as JSON.
    pub fn catalogue(&self) -> anyhow::Result<String> {
        if !self.json {
            return Ok(mode_table());
        }
        let list: Vec<_> = modes().iter().map(Mode::to_json).collect();
        Ok(serde_json::to_string_pretty(&list)? + "\n")
    }

    /// The scenario to play, at its scale.
    pub fn scenario(&self) -> anyhow::Result<Option<Scenario>> {
        let scenario = self.scenario.as_deref().map(read_scenario).transpose()?;
        Ok(match (scenario, self.scale) {
            (Some(scenario), Some(scale)) => Some(scenario.at_scale(scale)),
            (scenario, _) => scenario,
        })
    }
}

fn scale(text: &str) -> Result<f64, String> {
    let scale = text
        .parse()
        .ok()
        .filter(|scale| Scenario::SCALES.contains(scale));
    scale.ok_or_else(|| "a scale is from 0.001 to 100000".to_owned())
}

fn read_scenario(path: &Path) -> anyhow::Result<Scenario> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // As compilers tell it, so that an editor jumps there.
    Scenario::from_toml(&text).map_err(|error| anyhow::anyhow!("{}:{error}", path.display()))
}
