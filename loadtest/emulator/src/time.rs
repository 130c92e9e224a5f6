//! The one place that reads the clocks, and the HTTP spelling of a moment.
//!
//! Wall time dates tokens and arrivals; steady time measures request rates, where a clock that is
//! set back must not lift a limit.

#![allow(
    clippy::disallowed_methods,
    reason = "the emulator has no clock room of its own; this file alone reads time"
)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall time as milliseconds since the Unix epoch; 0 if the clock stands before 1970.
pub(crate) fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// A steady moment, for measuring spans.
pub(crate) fn steady() -> Instant {
    Instant::now()
}

/// The `Date` header of a moment, as in `Sat, 21 Nov 2026 23:03:15 GMT`.
pub(crate) fn http_date(unix_s: u64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let it = calendar(unix_s);
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        WEEKDAYS[usize::try_from(unix_s / 86_400 % 7).unwrap_or(0)],
        it.day,
        MONTHS[it.month - 1],
        it.year,
        it.hour,
        it.minute,
        it.second,
    )
}

/// A moment of universal time as calendar and clock show it; months and days count from 1.
pub(crate) struct Calendar {
    pub year: u64,
    pub month: usize,
    pub day: u64,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
}

/// Reads a moment in seconds since the Unix epoch.
pub(crate) fn calendar(unix_s: u64) -> Calendar {
    let (year, month, day) = civil_date(unix_s / 86_400);
    let second_of_day = unix_s % 86_400;
    Calendar {
        year,
        month: month + 1,
        day,
        hour: second_of_day / 3600,
        minute: second_of_day / 60 % 60,
        second: second_of_day % 60,
    }
}

/// Year, month (0 is January) and day of the month, counting days from 1970-01-01.
fn civil_date(mut days: u64) -> (u64, usize, u64) {
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 0;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::http_date;

    #[test]
    fn dates_are_spelled_as_http_wants_them() {
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(http_date(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 GMT");
    }
}
