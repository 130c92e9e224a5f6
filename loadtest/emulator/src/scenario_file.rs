//! Reads a scenario from TOML. Nothing is ignored and nothing is guessed: a mistake is told with
//! its line and column, and with what was meant, if that can be told.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use toml::Spanned;

use crate::modes::Mode;
use crate::scenario::{Phase, Scenario};
use crate::settings::Limits;
use crate::span::{Span, shown};
use crate::{Latency, Planned, Pressure};

/// Most phases in a timeline.
const PHASE_LIMIT: usize = 1000;

/// Why a scenario is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioError {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead, if that can be told.
    pub hint: Option<String>,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ScenarioError {}

impl Scenario {
    /// Reads a scenario file; the README describes it.
    ///
    /// # Errors
    /// If the text is not TOML, has an unknown key or mode, a span that is none, or phases that
    /// overlap.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let message = error.message().trim_end().to_owned();
            let hint = nearest_name(&message);
            at(text, error.span().unwrap_or_default(), message, hint)
        })?;
        file.check()
            .map_err(|mistake| at(text, mistake.span, mistake.message, mistake.hint))
    }
}

/// A mistake at a place in the text.
fn at(text: &str, span: Range<usize>, message: String, hint: Option<String>) -> ScenarioError {
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    ScenarioError {
        line,
        column: before[start..].chars().count() + 1,
        message,
        hint,
    }
}

/// For "unknown field `fro`, expected one of `for`, …": the one most like it.
fn nearest_name(message: &str) -> Option<String> {
    let (unknown, expected) = message
        .strip_prefix("unknown field `")
        .or(message.strip_prefix("unknown variant `"))?
        .split_once('`')?;
    let names = expected.split('`').skip(1).step_by(2);
    let nearest = names.min_by_key(|name| strsim::damerau_levenshtein(unknown, name))?;
    Some(format!("did you mean `{nearest}`?"))
}

struct Mistake {
    span: Range<usize>,
    message: String,
    hint: Option<String>,
}

fn mistake(span: Range<usize>, message: impl Into<String>, hint: &str) -> Mistake {
    Mistake {
        span,
        message: message.into(),
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    about: String,
    #[serde(default = "one")]
    seed: u64,
    scale: Option<Spanned<f64>>,
    lifetime: Option<Spanned<Span>>,
    reissue_below: Option<Spanned<f64>>,
    limits: Option<Limits>,
    #[serde(rename = "phase")]
    phases: Spanned<Vec<PhaseEntry>>,
}

fn one() -> u64 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PhaseEntry {
    name: String,
    at: Spanned<Span>,
    #[serde(rename = "for")]
    length: Option<Spanned<Span>>,
    limits: Option<Limits>,
    latency: Option<Spanned<LatencyEntry>>,
    pressure: Option<Spanned<PressureEntry>>,
    #[serde(default)]
    forget_tokens: bool,
    #[serde(default, rename = "fault")]
    faults: Vec<FaultEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultEntry {
    mode: ModeName,
    share: Option<Spanned<f64>>,
    times: Option<u32>,
    #[serde(default)]
    all_requests: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum LatencyEntry {
    Constant(Span),
    Uniform { from: Span, to: Span },
    Normal { mean: Span, sd: Span },
    Lognormal { median: Span, sigma: f64 },
    Percentiles(Vec<(f64, Span)>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PressureEntry {
    from_per_s: f64,
    to_per_s: f64,
    heals_in: Span,
    setback: Span,
    #[serde(default)]
    begins_at: f64,
    #[serde(default = "not_available")]
    status: u16,
}

fn not_available() -> u16 {
    503
}

/// The name of a mode that exists.
struct ModeName(&'static str);

impl<'de> Deserialize<'de> for ModeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let mode = Mode::find(&name).map_err(D::Error::custom)?;
        if mode.kinds().is_empty() {
            let words = format!("`{name}` applies to no kind: {}", mode.about());
            return Err(D::Error::custom(words));
        }
        Ok(Self(mode.name()))
    }
}

impl File {
    fn check(self) -> Result<Scenario, Mistake> {
        let scale = self.scale.map_or(Ok(1.0), |scale| {
            let value = *scale.get_ref();
            if Scenario::SCALES.contains(&value) {
                return Ok(value);
            }
            let words = "a scale is from 0.001 to 100000";
            Err(mistake(
                scale.span(),
                words,
                "360 plays 6 hours in a minute",
            ))
        })?;
        let reissue_below = self.reissue_below.map(|share| match *share.get_ref() {
            value if (0.0..=1.0).contains(&value) => Ok(value),
            _ => Err(mistake(share.span(), "`reissue_below` is from 0 to 1", "")),
        });
        let phases_span = self.phases.span();
        let entries = self.phases.into_inner();
        if entries.is_empty() || entries.len() > PHASE_LIMIT {
            let words = format!("a scenario has 1 to {PHASE_LIMIT} phases");
            return Err(mistake(phases_span, words, "begin one with [[phase]]"));
        }
        let mut phases: Vec<Phase> = Vec::new();
        for entry in entries {
            let phase = entry.check(phases.last())?;
            phases.push(phase);
        }
        Ok(Scenario {
            name: self.name,
            about: self.about,
            seed: self.seed,
            scale,
            lifetime: self.lifetime.map(|span| span.into_inner().0),
            reissue_below: reissue_below.transpose()?,
            limits: self.limits,
            phases,
        })
    }
}

impl PhaseEntry {
    fn check(self, before: Option<&Phase>) -> Result<Phase, Mistake> {
        let at = self.at.get_ref().0;
        if let Some(before) = before {
            let end = before
                .at
                .saturating_add(before.length.unwrap_or(Duration::ZERO));
            if at < end || at <= before.at {
                let words = format!("this phase begins before `{}` is over", before.name);
                let hint = format!(
                    "`at` counts from the start; {} or later is free",
                    shown(end)
                );
                return Err(mistake(self.at.span(), words, &hint));
            }
        }
        if let Some(length) = &self.length
            && length.get_ref().0.is_zero()
        {
            let hint = "leave `for` out for a phase that lasts until the next one";
            return Err(mistake(
                length.span(),
                "a phase lasts longer than nothing",
                hint,
            ));
        }
        let latency = self.latency.map(|entry| {
            let span = entry.span();
            let latency = entry.into_inner().into_latency();
            match latency.mistake() {
                Some(words) => Err(mistake(span, words, "")),
                None => Ok(latency),
            }
        });
        let pressure = self.pressure.map(|entry| {
            let span = entry.span();
            let pressure = entry.into_inner().into_pressure();
            match pressure.mistake() {
                Some(words) => Err(mistake(span, words, "")),
                None => Ok(pressure),
            }
        });
        let faults: Result<Vec<_>, _> = self.faults.into_iter().map(FaultEntry::check).collect();
        Ok(Phase {
            name: self.name,
            at,
            length: self.length.map(|span| span.into_inner().0),
            limits: self.limits,
            latency: latency.transpose()?,
            pressure: pressure.transpose()?,
            faults: faults?,
            forget_tokens: self.forget_tokens,
        })
    }
}

impl FaultEntry {
    fn check(self) -> Result<Planned, Mistake> {
        let share = self.share.map_or(Ok(1.0), |share| match *share.get_ref() {
            value if value > 0.0 && value <= 1.0 => Ok(value),
            _ => {
                let hint = "3 in 100 is 0.03";
                Err(mistake(
                    share.span(),
                    "a share is above 0 and at most 1",
                    hint,
                ))
            }
        })?;
        Ok(Planned {
            share,
            times: self.times,
            all_requests: self.all_requests,
            ..Planned::new(self.mode.0)
        })
    }
}

impl LatencyEntry {
    fn into_latency(self) -> Latency {
        let ms = |span: Span| span.0.as_secs_f64() * 1000.0;
        match self {
            Self::Constant(span) => Latency::Constant { ms: ms(span) },
            Self::Uniform { from, to } => Latency::Uniform {
                from_ms: ms(from),
                to_ms: ms(to),
            },
            Self::Normal { mean, sd } => Latency::Normal {
                mean_ms: ms(mean),
                sd_ms: ms(sd),
            },
            Self::Lognormal { median, sigma } => Latency::Lognormal {
                median_ms: ms(median),
                sigma,
            },
            Self::Percentiles(points) => Latency::Percentiles(
                points
                    .into_iter()
                    .map(|(at, span)| (at, ms(span)))
                    .collect(),
            ),
        }
    }
}

impl PressureEntry {
    fn into_pressure(self) -> Pressure {
        let ms = |span: Span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
        Pressure {
            from_per_s: self.from_per_s,
            to_per_s: self.to_per_s,
            heals_in_ms: ms(self.heals_in),
            setback_ms: ms(self.setback),
            begins_at: self.begins_at,
            status: self.status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
name = "whole"
about = "everything a file can say"
seed = 9
scale = 360
lifetime = "24h"
reissue_below = 0.4
limits = { requests_per_s = 10, at_once = 2 }

[[phase]]
name = "calm"
at = "0s"
latency = { percentiles = [[0, "1ms"], [50, "20ms"], [100, "1s500ms"]] }

[[phase]]
name = "storm"
at = "30m"
for = "1h30m"
forget_tokens = true
limits = { requests_per_s = 1, at_once = 1 }
latency = { lognormal = { median = "40ms", sigma = 0.5 } }
pressure = { from_per_s = 1, to_per_s = 20, heals_in = "30m", setback = "10s", begins_at = 1 }

[[phase.fault]]
mode = "status-500"
share = 0.03

[[phase.fault]]
mode = "hang"
times = 2
all_requests = true
"#;

    #[test]
    fn a_whole_file_is_read() {
        let scenario = Scenario::from_toml(WHOLE).unwrap();
        assert_eq!((scenario.seed, scenario.scale), (9, 360.0));
        assert_eq!(scenario.lifetime, Some(Duration::from_hours(24)));
        assert_eq!(scenario.length(), Some(Duration::from_hours(2)));
        let storm = &scenario.phases[1];
        assert_eq!(storm.faults[0], Planned::new("status-500").share(0.03));
        assert_eq!(
            storm.faults[1],
            Planned::new("hang").times(2).for_all_requests()
        );
        assert!(storm.forget_tokens);
        let pressure = scenario.scaled_pressure(storm.pressure.unwrap());
        assert_eq!((pressure.heals_in_ms, pressure.setback_ms), (5000, 27));
        let points = vec![(0.0, 1.0), (50.0, 20.0), (100.0, 1500.0)];
        assert_eq!(
            scenario.phases[0].latency,
            Some(Latency::Percentiles(points))
        );
        assert_eq!(
            scenario.scaled(Duration::from_hours(6)),
            Duration::from_mins(1)
        );
        assert_eq!(scenario.at_scale(1e5).scaled_lifetime_s(), Some(1));
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_a_hint() {
        for (from, to, told) in [
            (
                "seed = 9",
                "sed = 9",
                "4:1: unknown field `sed`, expected one of",
            ),
            ("seed = 9", "sed = 9", "; did you mean `seed`?"),
            ("seed = 9", "seed = -9", "4:8: "),
            ("scale = 360", "scale = 0", "5:9: a scale is from 0.001"),
            (
                "\"24h\"",
                "\"24\"",
                "6:12: `24` is not a span of time; write whole numbers",
            ),
            ("\"24h\"", "\"5m24h\"", "6:12: `5m24h` is not a span"),
            ("\"24h\"", "24", "6:12: invalid type"),
            ("0.4", "1.4", "7:17: `reissue_below` is from 0 to 1"),
            ("at_once = 2", "at_onc = 2", "did you mean `at_once`?"),
            (
                "[[phase]]\nname = \"calm\"",
                "[[phas]]",
                "did you mean `phase`?",
            ),
            (
                "at = \"0s\"",
                "at = \"45m\"\nfor = \"1m\"",
                "18:6: this phase begins before `calm` is over",
            ),
            (
                "at = \"0s\"",
                "at = \"0s\"\nfor = \"31m\"",
                "; `at` counts from the start; 31m or later is free",
            ),
            ("at = \"30m\"\n", "", "missing field `at`"),
            (
                "for = \"1h30m\"",
                "for = \"0s\"",
                "18:7: a phase lasts longer than nothing",
            ),
            ("percentiles", "percentile", "did you mean `percentiles`?"),
            (
                "[[0, \"1ms\"], ",
                "[",
                "13:11: percentiles rise from 0 to 100",
            ),
            ("sigma = 0.5", "sigma = 50", "21:11: `sigma` is from 0 to 5"),
            (
                "from_per_s = 1,",
                "from_per_s = 21,",
                "22:12: rates are above 0",
            ),
            (
                "status-500",
                "status-530",
                "25:8: there is no fault mode `status-530`; did you mean `status-500`?",
            ),
            (
                "status-500",
                "dns-failure",
                "25:8: `dns-failure` applies to no kind",
            ),
            (
                "share = 0.03",
                "share = 3",
                "26:9: a share is above 0 and at most 1; 3 in 100 is 0.03",
            ),
            ("times = 2", "times = 2\nü", "31:"),
        ] {
            let text = WHOLE.replacen(from, to, 1);
            assert_ne!(text, WHOLE, "{from}");
            let error = Scenario::from_toml(&text).unwrap_err().to_string();
            assert!(error.contains(told), "{to:?}: {error}");
        }
        let none = Scenario::from_toml("name = \"none\"\nphase = []\n").unwrap_err();
        assert_eq!(
            none.to_string().split(';').next(),
            Some("2:9: a scenario has 1 to 1000 phases")
        );
    }
}
