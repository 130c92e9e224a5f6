//! How long a source asks us to wait, and what time it has.

use std::time::Duration;

use crate::clock::UnixMs;

/// Longer waits are not believed: a source that asks for more is asked again after this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(2);

/// The value of `Retry-After`, as seconds or as a date (RFC 9110 §10.2.3), held between nothing and
/// [`MAX_RETRY_AFTER`]. `None` for what is neither.
#[must_use]
pub fn retry_after(value: &[u8], now: UnixMs) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok();
    let text = text.filter(|text| text.is_ascii())?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are a long wait, not none.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        Duration::from_millis(http_date(text.as_bytes())?.since(now))
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// A date as HTTP writes it; `None` for anything else, and for one before the epoch.
#[must_use]
pub fn http_date(value: &[u8]) -> Option<UnixMs> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let at = httpdate::parse_http_date(text).ok()?;
    let at = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(at.as_millis()).ok().map(UnixMs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_date_and_bounded() {
        let read = |text: &str| {
            let now = UnixMs(1_000_000_000);
            retry_after(text.as_bytes(), now).map(|wait| wait.as_secs())
        };
        assert_eq!(read("7"), Some(7));
        assert_eq!(read(" 7 "), Some(7));
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("999999999"), Some(120));
        assert_eq!(read("99999999999999999999999999"), Some(120));
        assert_eq!(read("Mon, 12 Jan 1970 13:46:50 GMT"), Some(10));
        assert_eq!(read("Mon, 12 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(read("Fri, 31 Dec 9999 23:59:59 GMT"), Some(120));
        for none in ["-1", "+1", "1.5", "soon", "", "1e3", "Mon, 12 Jan 1970"] {
            assert_eq!(read(none), None, "{none}");
        }
        assert_eq!(retry_after(b"\xff", UnixMs(0)), None);
    }
}
