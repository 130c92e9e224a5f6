//! Spans of time as scenarios write them.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// The longest span in a file: a year.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// A span of time: numbers with units, `1h30m`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        span(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "`{text}` is not a span of time; write whole numbers with their units d, h, m, s \
                 or ms, the largest first, like \"1h30m\", of a year at most"
            ))
        })
    }
}

/// Reads `1h30m`; `None` if it is not so.
fn span(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let (mut rest, mut total_ms, mut next_unit) = (text, 0_u64, 0);
    while !rest.is_empty() {
        let digits = rest.find(|it: char| !it.is_ascii_digit())?;
        let (number, behind) = rest.split_at(digits);
        let letters = behind
            .find(|it: char| !it.is_ascii_alphabetic())
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let at = UNITS[next_unit..]
            .iter()
            .position(|(name, _)| *name == unit)?;
        let ms = number
            .parse::<u64>()
            .ok()?
            .checked_mul(UNITS[next_unit + at].1)?;
        total_ms = total_ms.checked_add(ms)?;
        (rest, next_unit) = (behind, next_unit + at + 1);
    }
    let span = Duration::from_millis(total_ms);
    (!text.is_empty() && span <= LONGEST).then_some(span)
}

/// A span as it is written in a file.
pub(crate) fn shown(span: Duration) -> String {
    let ms = span.as_millis();
    let parts = [
        (ms / 3_600_000, "h"),
        (ms / 60_000 % 60, "m"),
        (ms / 1000 % 60, "s"),
        (ms % 1000, "ms"),
    ];
    let text: String = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_units() {
        let ms = |text| span(text).map(|span| span.as_millis());
        assert_eq!(ms("1d2h3m4s5ms"), Some(93_784_005));
        assert_eq!((ms("0s"), ms("90m")), (Some(0), Some(5_400_000)));
        for wrong in [
            "", "5", "h", "5 m", "-5s", "1.5s", "5m5m", "1s1m", "5y", "366d", "5sx",
        ] {
            assert_eq!(ms(wrong), None, "{wrong}");
        }
    }
}
