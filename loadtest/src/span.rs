//! Spans of time as people write them: `500ms`, `10s`, `2m`, `1h`.

use std::time::Duration;

/// A number and its unit.
///
/// # Errors
/// With a sentence that names the text and the units.
pub fn span(text: &str) -> Result<Duration, String> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(unit.unwrap_or(text.len()));
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => f64::NAN,
    };
    let seconds = number
        .parse()
        .map_or(f64::NAN, |number: f64| number * seconds);
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| format!("`{text}` is no span of time, as 500ms, 10s, 2m or 1h are"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_number_and_a_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("1.5m", 90_000),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(span(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "10 s", "1d", "1.1.1s"] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
