//! Points in time, in messages.

use core::fmt;
use core::time::Duration;

use der::DateTime;

/// Seconds since 1970, shown as RFC 3339 has it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Date(pub u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(date) => write!(f, "{date}"),
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn dates_are_shown_as_dates_as_long_as_there_are_any() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_800_000_000, "2027-01-15T08:00:00Z"),
            (u64::MAX, "18446744073709551615 s after 1970"),
        ] {
            assert_eq!(Date(seconds).to_string(), text);
        }
    }
}
