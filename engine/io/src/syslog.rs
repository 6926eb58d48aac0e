//! syslog(3), and the time of day that goes with log lines.

use std::ffi::CString;
use std::mem::MaybeUninit;

/// The facilities of syslog(3) by name.
const FACILITIES: [(&str, libc::c_int); 20] = [
    ("auth", libc::LOG_AUTH),
    ("authpriv", libc::LOG_AUTHPRIV),
    ("cron", libc::LOG_CRON),
    ("daemon", libc::LOG_DAEMON),
    ("ftp", libc::LOG_FTP),
    ("kern", libc::LOG_KERN),
    ("local0", libc::LOG_LOCAL0),
    ("local1", libc::LOG_LOCAL1),
    ("local2", libc::LOG_LOCAL2),
    ("local3", libc::LOG_LOCAL3),
    ("local4", libc::LOG_LOCAL4),
    ("local5", libc::LOG_LOCAL5),
    ("local6", libc::LOG_LOCAL6),
    ("local7", libc::LOG_LOCAL7),
    ("lpr", libc::LOG_LPR),
    ("mail", libc::LOG_MAIL),
    ("news", libc::LOG_NEWS),
    ("syslog", libc::LOG_SYSLOG),
    ("user", libc::LOG_USER),
    ("uucp", libc::LOG_UUCP),
];

/// What part of the system says something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Facility(libc::c_int);

impl Facility {
    /// `daemon`.
    pub const DAEMON: Self = Self(libc::LOG_DAEMON);

    /// By its name, in small letters.
    pub fn named(name: &str) -> Option<Self> {
        FACILITIES.iter().find(|(known, _)| *known == name).map(|(_, facility)| Self(*facility))
    }
}

/// This process's connection to the system log, which glibc makes anew when it has to.
#[derive(Debug)]
pub struct Syslog(());

impl Syslog {
    /// Opens it. `identity` is what its lines begin with.
    pub fn open(identity: &str, facility: Facility) -> Self {
        let identity = CString::new(identity.replace('\0', "")).unwrap_or_default();
        // syslog(3) keeps the pointer.
        let identity = CString::into_raw(identity);
        // SAFETY: the string ends with a zero and lives as long as the process.
        unsafe { libc::openlog(identity, libc::LOG_PID | libc::LOG_NDELAY, facility.0) };
        Self(())
    }

    /// Says a line, of a severity from 0 (the system is unusable) to 7 (debugging).
    pub fn say(&self, severity: u8, line: &[u8]) {
        let line: Vec<u8> = line.iter().copied().filter(|byte| *byte != 0).collect();
        let Ok(line) = CString::new(line) else { return };
        // SAFETY: the format takes one string, and gets one that ends with a zero.
        unsafe { libc::syslog(libc::c_int::from(severity.min(7)), c"%s".as_ptr(), line.as_ptr()) };
    }
}

/// A moment in this host's time zone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LocalTime {
    /// As in 2026.
    pub year: i32,
    /// From 1.
    pub month: i32,
    /// From 1.
    pub day: i32,
    /// From 0.
    pub hour: i32,
    /// From 0.
    pub minute: i32,
    /// From 0, and 60 in a leap second.
    pub second: i32,
}

/// Reads which time zone this host is in, for later, when files cannot be read.
pub fn find_time_zone() {
    unsafe extern "C" {
        fn tzset();
    }
    // SAFETY: it takes nothing; no other thread changes the environment.
    unsafe { tzset() };
}

/// What time it is.
pub fn local_time() -> LocalTime {
    // SAFETY: a null pointer is allowed, and nothing is written.
    let now = unsafe { libc::time(std::ptr::null_mut()) };
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both are valid for the call, which writes one tm.
    unsafe { libc::localtime_r(&raw const now, parts.as_mut_ptr()) };
    // SAFETY: all zeroes are a tm, if the call has written none.
    let parts = unsafe { parts.assume_init() };
    LocalTime {
        year: parts.tm_year.saturating_add(1900),
        month: parts.tm_mon + 1,
        day: parts.tm_mday,
        hour: parts.tm_hour,
        minute: parts.tm_min,
        second: parts.tm_sec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facilities_have_names() {
        assert_eq!(Facility::named("daemon"), Some(Facility::DAEMON));
        assert_eq!(Facility::named("local7"), Some(Facility(23 << 3)));
        assert_eq!(Facility::named("nobody"), None);
    }

    #[test]
    fn the_time_of_day_is_that_of_this_host() {
        let date = std::process::Command::new("date").arg("+%Y %-m %-d").output().unwrap();
        let LocalTime { year, month, day, .. } = local_time();
        let told = String::from_utf8(date.stdout).unwrap();
        // Twice, should the day end in between.
        let again = local_time();
        let days = [format!("{year} {month} {day}"), format!("{} {} {}", again.year, again.month, again.day)];
        assert!(days.iter().any(|day| day == told.trim()), "{days:?} {told}");
    }
}
