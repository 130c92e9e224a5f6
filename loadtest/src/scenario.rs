//! A scenario: a server, the emulator behind it, what happens upstream, and several loads at once.
//! The README describes the file.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use foretoken_emulator::Scenario as Timeline;
use serde::Deserialize;
use tempfile::TempDir;

use crate::ask::prime;
use crate::clock::steady;
use crate::driver::Moment;
use crate::expect::{self, Expect};
use crate::heads::Client;
use crate::measure::{Around, Source, measure};
use crate::plan::{Keep, Length, Pace, Plan, Target};
use crate::process::Server;
use crate::report::Report;
use crate::scenario_file::{
    Asked, Served, SlowAsked, Upstream, free_port, perhaps_spanned, spanned,
};
use crate::timeline::millis;

/// In a configuration: where the server is to tell its metrics.
const ADMIN: &str = "{admin}";
/// How long a server has to write down what it has before it is started anew.
const SETTLES: Duration = Duration::from_millis(2_500);
/// Around a call upstream, to either side.
const WINDOW: Duration = Duration::from_secs(1);
/// The intervals of the timeline.
const INTERVAL: Duration = Duration::from_millis(100);

/// A scenario as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    name: String,
    /// For people.
    #[serde(default)]
    #[allow(dead_code, reason = "it is there to be read in the file")]
    about: String,
    #[serde(default, deserialize_with = "spanned")]
    warm_up: Duration,
    #[serde(deserialize_with = "spanned")]
    duration: Duration,
    #[serde(default, deserialize_with = "perhaps_spanned")]
    prime: Option<Duration>,
    /// Of the timeline in the results.
    #[serde(default, deserialize_with = "perhaps_spanned")]
    interval: Option<Duration>,
    #[serde(default)]
    idle: usize,
    /// Around a call upstream.
    #[serde(default, deserialize_with = "perhaps_spanned")]
    window: Option<Duration>,
    budget_per_s: Option<u64>,
    #[serde(default)]
    expect: Expect,
    emulator: Upstream,
    server: Served,
    load: Vec<Asked>,
    #[serde(default)]
    slow: Vec<SlowAsked>,
    /// Where the files lie that it names.
    #[serde(skip)]
    folder: PathBuf,
}

/// What the placeholders in command and configuration stand for.
struct Places<'a> {
    folder: &'a TempDir,
    target: &'a Target,
    admin: SocketAddr,
    upstream: SocketAddr,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// If the file cannot be read, or is no scenario: with its line.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file);
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        let scenario: Self =
            toml::from_str(&text).with_context(|| format!("in {}", file.display()))?;
        ensure!(
            !scenario.load.is_empty(),
            "{}: it has no [[load]]",
            file.display()
        );
        let loads = scenario.load.iter();
        let loads: Vec<_> = loads.map(|load| (&*load.name, &load.expect)).collect();
        expect::check(&scenario.expect, &loads)
            .with_context(|| format!("in {}", file.display()))?;
        Ok(Self {
            folder: file.parent().unwrap_or(Path::new("")).to_owned(),
            ..scenario
        })
    }

    /// Its loads, at a target.
    ///
    /// # Errors
    /// If a client is unknown or a load out of range.
    pub fn plans(&self, target: &Target) -> anyhow::Result<Vec<(String, Plan)>> {
        let plans = self.load.iter().map(|load| {
            let plan = self.plan(load, target);
            let plan = plan.with_context(|| format!("load {}", load.name))?;
            Ok((load.name.clone(), plan))
        });
        plans.collect()
    }

    fn plan(&self, load: &Asked, target: &Target) -> anyhow::Result<Plan> {
        let base = Plan::new(target.clone());
        let clients = load.clients.iter().map(|(name, weight)| {
            let client = name.parse::<Client>().map_err(anyhow::Error::msg)?;
            Ok((client, *weight))
        });
        let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
        let plan = Plan {
            pace: Pace::at(load.rate),
            keep: Keep::of(load.connect_each),
            links: load.links,
            pipeline: load.pipeline,
            clients: if clients.is_empty() {
                base.clients.clone()
            } else {
                clients
            },
            keys: load.keys,
            skew: load.skew,
            warm_up: self.warm_up,
            length: load
                .requests
                .map_or(Length::For(self.duration), Length::Requests),
            after: load.after,
            think: load.think,
            processes: load.processes,
            restart_every: load.restart_every,
            interval: self.interval.unwrap_or(INTERVAL),
            timeout: load.timeout.unwrap_or(base.timeout),
            threads: load.threads,
            cpus: load.cpus.clone(),
            seed: load.seed,
            ..base
        };
        plan.check()?;
        Ok(plan)
    }

    /// Plays it: starts the emulator and the server, carries out the loads, and ends both. `foretoken`
    /// is the program for a command of that name. `begin` gets the plans before anything starts,
    /// and gives who is told what happens.
    ///
    /// # Errors
    /// If anything of it cannot be started, and as [`measure`].
    pub fn play<W: Fn(usize, Moment) + Sync>(
        &self,
        foretoken: &Path,
        begin: impl FnOnce(&[(String, Plan)]) -> W,
    ) -> anyhow::Result<Report> {
        let target = self.server.target()?;
        let plans = self.plans(&target)?;
        let timeline = self.timeline()?;
        let emulator = self.emulator.start().context("cannot start the emulator")?;
        let folder = tempfile::tempdir()?;
        let admin = free_port()?;
        let places = Places {
            folder: &folder,
            target: &target,
            admin,
            upstream: emulator.address(),
        };
        let start = || -> anyhow::Result<Server> {
            let command = self.command(foretoken, &places)?;
            Server::start(command, &self.server.cpus, &target)
        };
        let watch = begin(&plans);
        let mut server = start()?;
        let mut restart_ms = None;
        if self.server.restart {
            let until = steady() + self.prime.unwrap_or_default();
            for (_, plan) in plans.iter().filter(|(_, plan)| plan.after.is_zero()) {
                prime(plan, || steady() > until)?;
            }
            // What was last written is on the disk a second later.
            thread::sleep(SETTLES);
            drop(server);
            let began = steady();
            server = start()?;
            prime(&plans[0].1, || steady() > until + SETTLES)?;
            restart_ms = Some(millis(steady().saturating_duration_since(began)));
        }
        let around = Around {
            pid: Some(server.pid()),
            upstream: Some(Source::Here(&emulator)),
            idle: self.idle,
            prime: self.prime.filter(|_| !self.server.restart),
            timeline,
            slow: self.slow.iter().map(SlowAsked::slow).collect(),
            admin: self.config()?.contains(ADMIN).then_some(admin),
            window: self.window.unwrap_or(WINDOW),
            budget_per_s: self.budget_per_s,
        };
        let mut report = measure(&plans, &around, watch)?;
        report.name.clone_from(&self.name);
        report.restart_ms = restart_ms;
        report.expected = self.expect.of_all(&report);
        for (asked, load) in self.load.iter().zip(&report.loads) {
            report.expected.extend(asked.expect.of_load(load));
        }
        drop(server);
        Ok(report)
    }

    fn timeline(&self) -> anyhow::Result<Option<Timeline>> {
        let (text, place) = match (&self.emulator.timeline, &self.emulator.timeline_file) {
            (Some(_), Some(_)) => bail!("[emulator] has both `timeline` and `timeline_file`"),
            (Some(text), None) => (text.clone(), "the timeline of [emulator]".to_owned()),
            (None, Some(file)) => {
                let file = self.folder.join(file);
                let text = fs::read_to_string(&file);
                let text = text.with_context(|| format!("cannot read {}", file.display()))?;
                (text, file.display().to_string())
            }
            (None, None) => return Ok(None),
        };
        let timeline = Timeline::from_toml(&text);
        Ok(Some(timeline.with_context(|| format!("in {place}"))?))
    }

    /// The server's configuration, as it is written.
    fn config(&self) -> anyhow::Result<String> {
        Ok(match (&self.server.config, &self.server.config_file) {
            (Some(_), Some(_)) => bail!("[server] has both `config` and `config_file`"),
            (Some(text), None) => text.clone(),
            (None, Some(file)) => {
                let file = self.folder.join(file);
                let text = fs::read_to_string(&file);
                text.with_context(|| format!("cannot read {}", file.display()))?
            }
            (None, None) => String::new(),
        })
    }

    fn command(&self, foretoken: &Path, places: &Places) -> anyhow::Result<Command> {
        let folder = places.folder;
        let config = self.config()?;
        let config_file = folder.path().join("server.conf");
        let (folder, config_path) = (folder.path().display(), config_file.display());
        let fill = |text: &str| {
            text.replace("{config}", &config_path.to_string())
                .replace("{folder}", &folder.to_string())
                .replace("{target}", &places.target.to_string())
                .replace(ADMIN, &places.admin.to_string())
                .replace("{upstream}", &places.upstream.to_string())
        };
        fs::write(&config_file, fill(&config))?;
        let [program, arguments @ ..] = self.server.command.as_slice() else {
            bail!("[server] has an empty `command`");
        };
        let mut command = Command::new(match program.as_str() {
            "foretoken" => foretoken.as_os_str(),
            other => other.as_ref(),
        });
        command.args(arguments.iter().map(|argument| fill(argument)));
        // Foretoken's state; no other server looks at it.
        command.env("STATE_DIRECTORY", folder.to_string());
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenarios_that_ship_can_be_carried_out() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("loads");
        let mut read = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let scenario = Scenario::read(&entry.unwrap().path()).unwrap();
            let target = scenario.server.target().unwrap();
            assert!(!scenario.plans(&target).unwrap().is_empty());
            scenario.timeline().unwrap();
            read += 1;
        }
        assert!(read >= 2, "{read}");
    }

    #[test]
    fn the_scenario_in_the_readme_can_be_read() {
        let readme = include_str!("../README.md");
        let from = readme.find("name = \"two-sorts\"").unwrap();
        let (text, _) = readme[from..].split_once("```").unwrap();
        let scenario: Scenario = toml::from_str(text).unwrap();
        let plans = scenario.plans(&Target::Unix("/x".into())).unwrap();
        assert_eq!((plans.len(), plans[1].1.keep), (2, Keep::OneRequest));
    }

    #[test]
    fn a_mistake_in_a_scenario_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bad.toml");
        let good = "name = 'x'\nduration = '1s'\n[emulator]\n[server]\ncommand = ['true']\n";
        for (text, said) in [
            (
                format!("{good}[[load]]\nname = 'a'\nrates = 1\n"),
                "unknown field `rates`",
            ),
            (
                format!("{good}[[load]]\nname = 'a'\ntimeout = '5'\n"),
                "`5` is no span of time",
            ),
            (good.to_owned(), "missing field `load`"),
        ] {
            fs::write(&file, text).unwrap();
            let told = format!("{:#}", Scenario::read(&file).unwrap_err());
            assert!(told.contains("bad.toml") && told.contains(said), "{told}");
        }
        fs::write(
            &file,
            format!("{good}[[load]]\nname = 'a'\nclients = {{ curl = 1 }}\n"),
        )
        .unwrap();
        let scenario = Scenario::read(&file).unwrap();
        let told = scenario.plans(&Target::Unix("/x".into())).unwrap_err();
        assert!(format!("{told:#}").starts_with("load a: there is no client `curl`"));
    }
}
