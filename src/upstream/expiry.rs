//! When a token ends, in every form in which sources have written it.

use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

/// The longest text that is looked at.
const MAX_BYTES: usize = 40;

/// A day in US order, then a time on a clock of 12 or 24 hours; the offset is looked at apart.
const US: &[BorrowedFormatItem<'_>] = format_description!(
    "[month padding:none]/[day padding:none]/[year] [hour padding:none]:[minute]:[second]"
);
/// A day and a time without an offset, which is then UTC.
const PLAIN: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
const OFFSET: &[BorrowedFormatItem<'_>] =
    format_description!("[offset_hour sign:mandatory]:[offset_minute]");

/// The Unix seconds that the text of an `expires_on` means: digits as they are, or a date.
///
/// The dates are those that App Service and its kin have been seen to write (`protocols.md` §3.3)
/// or that stock clients read: `1/16/2020 5:24:12 AM +00:00`, `06/20/2019 02:57:58 +00:00`,
/// `2024-10-18T19:51:37.0000000+00:00`, `2024-10-18 19:51:37`.
#[must_use]
pub fn expires_on(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > MAX_BYTES {
        return None;
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok();
    }
    // A year with a sign would be read.
    let at = if text.starts_with(['+', '-']) || text.contains("/+") || text.contains("/-") {
        return None;
    } else if text.contains('/') {
        us_date(text)?
    } else if text.contains('T') {
        OffsetDateTime::parse(text, &Rfc3339).ok()?
    } else {
        PrimitiveDateTime::parse(text, PLAIN).ok()?.assume_utc()
    };
    u64::try_from(at.unix_timestamp()).ok()
}

/// `M/D/YYYY h:mm:ss[ AM| PM][ ±hh:mm]`, in UTC where it does not say.
fn us_date(text: &str) -> Option<OffsetDateTime> {
    let mut parts = text.split(' ');
    let (day, clock) = (parts.next()?, parts.next()?);
    let at = PrimitiveDateTime::parse(&format!("{day} {clock}"), US).ok()?;
    let mut part = parts.next();
    let half = part.filter(|it| matches!(*it, "AM" | "PM"));
    if half.is_some() {
        part = parts.next();
    }
    let offset = match part {
        Some(offset) => UtcOffset::parse(offset, OFFSET).ok()?,
        None => UtcOffset::UTC,
    };
    if parts.next().is_some() {
        return None;
    }
    // `00:00:00 PM` has been seen: a clock that counts the hours from 0 to 11. An hour past 12 is
    // that of a clock of 24 hours, whatever half is written beside it.
    let hour = match (half, at.hour()) {
        (Some("AM"), 12) => 0,
        (Some("PM"), hour @ 0..=11) => hour + 12,
        (_, hour) => hour,
    };
    Some(at.replace_hour(hour).ok()?.assume_offset(offset))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_that_has_been_seen_is_read() {
        for (text, meant) in [
            ("1586984735", 1_586_984_735),
            ("0", 0),
            ("1/16/2020 5:24:12 AM +00:00", 1_579_152_252),
            ("1/16/2020 12:24:12 AM +00:00", 1_579_134_252),
            ("1/16/2020 12:24:12 PM +00:00", 1_579_177_452),
            ("06/20/2019 02:57:58 +00:00", 1_560_999_478),
            ("06/20/2019 02:57:58", 1_560_999_478),
            ("06/20/2019 04:57:58 +02:00", 1_560_999_478),
            ("09/14/2017 00:00:00 PM +00:00", 1_505_390_400),
            ("09/14/2017 13:00:00 PM +00:00", 1_505_394_000),
            ("2024-10-18T19:51:37.0000000+00:00", 1_729_281_097),
            ("2024-10-18T19:51:37Z", 1_729_281_097),
            ("2024-10-18T21:51:37+02:00", 1_729_281_097),
            ("2024-10-18 19:51:37", 1_729_281_097),
        ] {
            assert_eq!(expires_on(text), Some(meant), "{text}");
        }
    }

    #[test]
    fn nothing_is_guessed() {
        for text in [
            "",
            " 1586984735",
            "-1",
            "+1",
            "1.5",
            "1e9",
            "0x10",
            "99999999999999999999",
            "soon",
            "13/40/2020 5:24:12 AM +00:00",
            "20/06/2019 02:57:58 +00:00",
            "1/16/2020 25:24:12 +00:00",
            "1/16/2020 5:24:12 XM +00:00",
            "1/16/2020 5:24:12 AM +00:00 more",
            "1/16/2020 5:24:12 AM 00:00",
            "1/16/1960 5:24:12 AM +00:00",
            "2024-10-18",
            "2024-10-18T19:51:37",
            "Fri, 18 Oct 2024 19:51:37 GMT",
            "8/10/+2000 12:24:30",
            "+2024-10-18 19:51:37",
            "１５８６９８４７３５",
        ] {
            assert_eq!(expires_on(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_date_means_the_same_in_every_form(unix_s in 0u64..4_000_000_000) {
            let at = OffsetDateTime::from_unix_timestamp(unix_s.cast_signed()).unwrap();
            let (date, time) = (at.date(), at.time());
            let (hour, half) = match time.hour() {
                0 => (12, "AM"),
                hour @ 1..12 => (hour, "AM"),
                12 => (12, "PM"),
                hour => (hour - 12, "PM"),
            };
            let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
            let (minute, second) = (time.minute(), time.second());
            for text in [
                unix_s.to_string(),
                format!("{month}/{day}/{year} {hour}:{minute:02}:{second:02} {half} +00:00"),
                format!("{month:02}/{day:02}/{year} {:02}:{minute:02}:{second:02} +00:00", time.hour()),
                format!("{year}-{month:02}-{day:02}T{:02}:{minute:02}:{second:02}.0000000+00:00", time.hour()),
            ] {
                prop_assert_eq!(expires_on(&text), Some(unix_s), "{}", text);
            }
        }

        #[test]
        fn reading_never_panics(text in "[0-9/: +TZAPM.-]{0,45}") {
            let _ = expires_on(&text);
        }
    }
}
