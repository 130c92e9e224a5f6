//! A wait is never longer than the longest that is believed, and says what a second, plainer reader
//! takes from the same digits or the same date.

#![no_main]

use std::time::Duration;

use foretoken::clock::UnixMs;
use foretoken::upstream::retry_after::{MAX_RETRY_AFTER, retry_after};
use libfuzzer_sys::fuzz_target;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

// Eight bytes of time, then the header's value.
fuzz_target!(|data: &[u8]| {
    let Some((now, value)) = data.split_first_chunk::<8>() else {
        return;
    };
    // A time that a clock can show, and the end of time.
    let now = match u64::from_be_bytes(*now) {
        all if all % 16 == 0 => UnixMs(all),
        all => UnixMs(all % 4_000_000_000_000),
    };
    let wait = retry_after(value, now);
    let shown = value.escape_ascii();
    assert!(wait.is_none_or(|wait| wait <= MAX_RETRY_AFTER), "{shown}");
    // A later clock never makes the wait longer, and no clock makes it appear.
    let later = retry_after(value, now.plus(1500));
    assert_eq!(later.is_some(), wait.is_some(), "{shown}");
    assert!(later <= wait, "{shown}");

    let Some(text) = plain(value) else {
        assert_eq!(wait, None, "{shown}");
        return;
    };
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        assert_eq!(wait, Some(seconds(&text)), "{shown}");
        // A digit more is at least as long.
        let longer = retry_after(format!("{text}0").as_bytes(), now);
        assert!(longer >= wait, "{shown}");
    } else if let Some(wait) = wait {
        let at_ms = date(&text).unwrap_or_else(|| panic!("no date: {shown}")) * 1000;
        let left = Duration::from_millis(at_ms.saturating_sub(now.0));
        assert_eq!(wait, left.min(MAX_RETRY_AFTER), "{shown} at {now:?}");
    }
});

/// The value without the blanks around it, where all of it is ASCII.
fn plain(value: &[u8]) -> Option<String> {
    let text = str::from_utf8(value).ok()?;
    text.is_ascii().then(|| text.trim().to_owned())
}

/// Digits, counted no further than the longest wait.
fn seconds(digits: &str) -> Duration {
    let max = MAX_RETRY_AFTER.as_secs();
    let add = |sum: u64, b: u8| (sum * 10 + u64::from(b - b'0')).min(max);
    Duration::from_secs(digits.bytes().fold(0, add))
}

/// Unix seconds of the three forms of RFC 9110 §5.6.7; the day of the week is not looked at.
fn date(text: &str) -> Option<u64> {
    let mut text = text.to_owned();
    if let Some(at) = text
        .strip_suffix(" GMT")
        .and_then(|it| it.len().checked_sub(9))
    {
        // What stands before the clock is not looked at in the second form.
        text.replace_range(at..=at, " ");
    }
    let words: Vec<_> = text.split([' ', '-']).filter(|it| !it.is_empty()).collect();
    let (year, month, day, clock) = match words[..] {
        [_, day, month, year, clock, "GMT"] => (year, month, day, clock),
        [_, month, day, clock, year] => (year, month, day, clock),
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let year: u64 = match year.parse().ok()? {
        short @ 0..70 => short + 2000,
        short @ 70..100 => short + 1900,
        whole => whole,
    };
    let clock: Vec<u64> = clock.split(':').map_while(|it| it.parse().ok()).collect();
    let [hour, minute, second] = clock[..] else {
        return None;
    };
    let day: u64 = day.parse().ok()?;
    let days = (1970..year).map(length_of_year).sum::<u64>()
        + (0..month).map(|it| length_of_month(year, it)).sum::<u64>()
        + day.checked_sub(1)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn length_of_year(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    365 + u64::from(leap)
}

/// Of the months from 0.
fn length_of_month(year: u64, month: u64) -> u64 {
    match month {
        1 => length_of_year(year) - 337,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}
