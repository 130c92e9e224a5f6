//! An end that is read from a text is the one that a second, plainer reader takes from the numbers
//! in it; and written out in each form, it is read back as itself.

#![no_main]

use foretoken::upstream::expiry::expires_on;
use libfuzzer_sys::fuzz_target;

/// The first second of the year 10000, which has no name in these forms.
const YEAR_10000_S: u64 = 253_402_300_800;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let Some(read) = expires_on(text) else {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        assert!(!digits || text.len() > 19, "{text:?} is a number");
        return;
    };
    assert!(text.len() <= 40 && text.is_ascii(), "{text:?}");
    let plain = match text.contains(['/', '-', ':']) {
        true => date(text),
        false => text.parse().ok(),
    };
    assert_eq!(plain, Some(read), "{text:?}");
    if read < YEAR_10000_S {
        for form in forms(read) {
            assert_eq!(expires_on(&form), Some(read), "{text:?} as {form:?}");
        }
    }
});

/// Unix seconds of any of the forms: the numbers one after another, with what stands between them.
fn date(text: &str) -> Option<u64> {
    let (day, clock) = text.split_once([' ', 'T'])?;
    let us = day.contains('/');
    let parts: Vec<_> = day.split(['/', '-']).collect();
    let [first, second, third] = parts[..] else {
        return None;
    };
    let (year, month, day) = match us {
        true => (third, first, second),
        false => (first, second, third),
    };
    let year = number(year)?;
    let (month, day) = (number(month)?, number(day)?);
    let at_clock = clock.find(|c: char| !c.is_ascii_digit() && c != ':');
    let (clock, rest) = clock.split_at(at_clock.unwrap_or(clock.len()));
    let parts: Vec<_> = clock.split(':').map(number).collect();
    let [hour, minute, second] = parts[..] else {
        return None;
    };
    let (mut hour, minute, mut second) = (hour?, minute?, second?);
    let mut rest = rest;
    if us {
        for (name, add) in [(" AM", 0), (" PM", 12)] {
            if let Some(after) = rest.strip_prefix(name) {
                rest = after;
                // An hour past 12 is one of 24; a 0 before noon is that of a clock from 0 to 11.
                if (0..=12).contains(&hour) {
                    hour = hour % 12 + add;
                }
            }
        }
    } else if let Some(after) = rest.strip_prefix('.') {
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let offset = match rest.trim_start_matches(' ') {
        "" | "Z" | "z" => 0,
        offset => {
            let (sign, offset) = offset.split_at_checked(1)?;
            let (hours, minutes) = offset.split_once(':')?;
            let seconds = number(hours)? * 3600 + number(minutes)? * 60;
            if sign == "-" { -seconds } else { seconds }
        }
    };
    let real = (1..=12).contains(&month)
        && (1..=length_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60;
    // A leap second is read as the last one before it.
    second = if second == 60 { 59 } else { second };
    if !real || second > 59 {
        return None;
    }
    let at = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    at.try_into().ok()
}

/// Digits, and nothing else.
fn number(text: &str) -> Option<i64> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn length_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970 to a day of our calendar, also back.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let before = |year: i64| year * 365 + (year + 3) / 4 - (year + 99) / 100 + (year + 399) / 400;
    let months: i64 = (1..month).map(|it| length_of_month(year, it)).sum();
    before(year) - before(1970) + months + day - 1
}

/// A time in every form, by way of the day that it falls on.
fn forms(unix_s: u64) -> [String; 6] {
    let (days_left, second) = (unix_s / 86_400, unix_s % 86_400);
    let (mut left, mut year, mut month) = (days_left as i64, 1970, 1);
    while left >= 365 + i64::from(is_leap(year)) {
        left -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    while left >= length_of_month(year, month) {
        left -= length_of_month(year, month);
        month += 1;
    }
    let day = left + 1;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let half = if hour < 12 { "AM" } else { "PM" };
    let twelve = (hour + 11) % 12 + 1;
    [
        unix_s.to_string(),
        format!("{month}/{day}/{year} {twelve}:{minute:02}:{second:02} {half} +00:00"),
        format!("{month:02}/{day:02}/{year} {hour:02}:{minute:02}:{second:02} +00:00"),
        format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.0000000+00:00"),
        format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"),
        format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"),
    ]
}
