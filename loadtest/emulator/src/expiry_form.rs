//! The spellings of `expires_on` that the various hosts use.

use serde_json::Value;

use crate::time::calendar;

/// How a reply writes the moment a token expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExpiryForm {
    /// Seconds since the Unix epoch as a JSON number.
    EpochNumber,
    /// The same as a JSON string.
    EpochString,
    /// `06/20/2019 02:57:58 +00:00`, from Linux hosts of App Service.
    LinuxDate,
    /// `1/16/2020 5:24:12 AM +00:00`, from Windows hosts of App Service.
    WindowsDate,
    /// `2024-10-18T19:51:37.0000000+00:00`.
    Iso8601,
}

impl ExpiryForm {
    /// This moment, in seconds since the Unix epoch, as the member of a reply.
    pub(crate) fn write(self, unix_s: u64) -> Value {
        let it = calendar(unix_s);
        match self {
            Self::EpochNumber => unix_s.into(),
            Self::EpochString => unix_s.to_string().into(),
            Self::LinuxDate => format!(
                "{:02}/{:02}/{:04} {:02}:{:02}:{:02} +00:00",
                it.month, it.day, it.year, it.hour, it.minute, it.second
            )
            .into(),
            Self::WindowsDate => {
                let half = if it.hour < 12 { "AM" } else { "PM" };
                let hour = (it.hour + 11) % 12 + 1;
                format!(
                    "{}/{}/{:04} {hour}:{:02}:{:02} {half} +00:00",
                    it.month, it.day, it.year, it.minute, it.second
                )
                .into()
            }
            Self::Iso8601 => format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.0000000+00:00",
                it.year, it.month, it.day, it.hour, it.minute, it.second
            )
            .into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_spelled_as_its_host_does() {
        assert_eq!(
            ExpiryForm::LinuxDate.write(1_560_999_478),
            "06/20/2019 02:57:58 +00:00"
        );
        assert_eq!(
            ExpiryForm::WindowsDate.write(1_579_152_252),
            "1/16/2020 5:24:12 AM +00:00"
        );
        assert_eq!(
            ExpiryForm::Iso8601.write(1_729_281_097),
            "2024-10-18T19:51:37.0000000+00:00"
        );
        assert_eq!(ExpiryForm::EpochNumber.write(7), 7);
        assert_eq!(ExpiryForm::EpochString.write(7), "7");
    }

    #[test]
    fn the_hours_of_the_windows_form_run_from_twelve_to_eleven() {
        for (hour, spelled) in [
            (0, "12:00:00 AM"),
            (1, "1:00:00 AM"),
            (11, "11:00:00 AM"),
            (12, "12:00:00 PM"),
            (13, "1:00:00 PM"),
            (23, "11:00:00 PM"),
        ] {
            let written = ExpiryForm::WindowsDate.write(hour * 3600);
            assert_eq!(written, format!("1/1/1970 {spelled} +00:00"));
        }
    }
}
