//! What a file says of the whole program, before its first section.

use std::path::PathBuf;

use sealane_io::syslog::Facility;

use crate::dialect::keys::Key;
use crate::dialect::lines::Entry;
use crate::dialect::translate::{Done, Known, Scribe, refuse_or_ignore, wrong, yes};
use crate::log::{Form, LogFile, Outlets};
use crate::manners::PidFile;

/// Whether the process stays where it was started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Foreground {
    /// It goes on in the background.
    #[default]
    No,
    /// It stays, and logs on standard error besides.
    Yes,
    /// It stays.
    Quiet,
}

/// What a file says of the whole program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Program {
    pub(crate) foreground: Foreground,
    /// A level of ours.
    pub(crate) level: &'static str,
    pub(crate) outlets: Outlets,
    pub(crate) pid_file: Option<PidFile>,
    pub(crate) user: Option<String>,
    pub(crate) group: Option<String>,
}

impl Default for Program {
    /// What stunnel does if nothing is said.
    fn default() -> Self {
        let syslog = Some(("stunnel".into(), Facility::DAEMON));
        Self {
            foreground: Foreground::No,
            level: "info",
            outlets: Outlets { stderr: false, file: None, syslog, form: Form::Stunnel },
            pid_file: None,
            user: None,
            group: None,
        }
    }
}

/// stunnel's levels by name and number, and ours.
const LEVELS: [(&str, &str); 8] = [
    ("emerg", "error"),
    ("alert", "error"),
    ("crit", "error"),
    ("err", "error"),
    ("warning", "warn"),
    ("notice", "info"),
    ("info", "info"),
    ("debug", "debug"),
];

/// `[facility.]level`
pub(super) fn level(entry: &Entry) -> Done<(Option<Facility>, &'static str)> {
    let text = entry.value.to_ascii_lowercase();
    let (facility, name) =
        text.rsplit_once('.').map_or((None, text.as_str()), |(facility, level)| (Some(facility), level));
    let by_number = name.parse::<usize>().ok().and_then(|number| LEVELS.get(number));
    let by_name = || LEVELS.iter().find(|(known, _)| *known == name || (*known == "err" && name == "error"));
    let Some((_, level)) = by_number.or_else(by_name) else {
        return wrong(entry, "emerg, alert, crit, err, warning, notice, info or debug, or 0 to 7");
    };
    match facility.map(Facility::named) {
        Some(None) => wrong(entry, "a facility of syslog: daemon, authpriv, local0 to local7, ..."),
        known => Ok((known.flatten(), level)),
    }
}

/// A user or group that is root changes nothing.
fn account(entry: &Entry, option: &str) -> (Option<String>, String) {
    match entry.value.as_str() {
        "root" | "0" => (None, "the process is what it was started as".into()),
        name => (Some(name.into()), format!("{option} {name}")),
    }
}

/// What lines say of the log, besides its level.
struct Log {
    identity: String,
    facility: Facility,
    is_in_syslog: bool,
    output: Option<PathBuf>,
    overwrites: bool,
}

impl Log {
    /// What a line becomes, if it is about this.
    fn take(&mut self, entry: &Entry, key: &Key) -> Done<Option<&'static str>> {
        Ok(Some(match key.name {
            "output" => {
                self.output = path(entry);
                if self.output.is_some() { "the log file" } else { "no log file" }
            }
            "log" => {
                self.overwrites = match entry.value.to_ascii_lowercase().as_str() {
                    "append" => false,
                    "overwrite" => true,
                    _ => return wrong(entry, "append or overwrite"),
                };
                "how the log file begins"
            }
            "syslog" => {
                self.is_in_syslog = yes(entry)?;
                if self.is_in_syslog { "the log goes to syslog" } else { "the log does not go to syslog" }
            }
            "service" => {
                self.identity.clone_from(&entry.value);
                "the name in syslog"
            }
            _ => return Ok(None),
        }))
    }

    fn outlets(self, stderr: bool) -> Outlets {
        Outlets {
            stderr,
            file: self.output.map(|path| LogFile { path, overwrites: self.overwrites }),
            syslog: self.is_in_syslog.then_some((self.identity, self.facility)),
            form: Form::Stunnel,
        }
    }
}

/// None where there is nothing.
pub(super) fn path(entry: &Entry) -> Option<PathBuf> {
    (!entry.value.is_empty()).then(|| PathBuf::from(&entry.value))
}

fn foreground(entry: &Entry) -> Done<(Foreground, &'static str)> {
    Ok(match entry.value.to_ascii_lowercase().as_str() {
        "yes" => (Foreground::Yes, "the process stays, and logs on standard error"),
        "no" => (Foreground::No, "the process goes on in the background"),
        "quiet" => (Foreground::Quiet, "the process stays, and says nothing on standard error"),
        _ => return wrong(entry, "yes, quiet or no"),
    })
}

/// What these lines come to.
pub(super) fn program(entries: &[Known<'_>], scribe: &mut Scribe) -> Done<Program> {
    let mut program = Program::default();
    let (identity, facility) = ("stunnel".into(), Facility::DAEMON);
    let mut log = Log { identity, facility, is_in_syslog: true, output: None, overwrites: false };
    for (entry, key) in entries {
        if let Some(becomes) = log.take(entry, key)? {
            scribe.note(entry, key.fate, becomes);
            continue;
        }
        let becomes: String = match key.name {
            "foreground" => {
                let (where_to, becomes) = foreground(entry)?;
                program.foreground = where_to;
                becomes.into()
            }
            "pid" => {
                program.pid_file = path(entry).map(|path| PidFile { path, is_needed: true });
                if program.pid_file.is_some() { "the pid file" } else { "no pid file" }.into()
            }
            "debug" => {
                let (named, level) = level(entry)?;
                log.facility = named.unwrap_or(log.facility);
                program.level = level;
                format!("--log-level {level}")
            }
            "setuid" => {
                let (user, becomes) = account(entry, "--user");
                program.user = user;
                becomes
            }
            "setgid" => {
                let (group, becomes) = account(entry, "--group");
                program.group = group;
                becomes
            }
            "fips" if yes(entry)? => return wrong(entry, "nothing here is FIPS validated"),
            _ => {
                refuse_or_ignore(entry, key, scribe)?;
                continue;
            }
        };
        scribe.note(entry, key.fate, becomes);
    }
    program.outlets = log.outlets(program.foreground == Foreground::Yes);
    if program.user.is_none()
        && let (Some(_), Some((entry, _))) = (&program.group, entries.iter().find(|(_, key)| key.name == "setgid"))
    {
        return wrong(entry, "a group without a user: 'setuid' names one");
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::lines::Lines;
    use crate::dialect::translate::translate;

    fn program(text: &str) -> Result<Program, String> {
        let text = format!("{text}\n[a]\nclient = yes\naccept = 127.0.0.1:1\nconnect = h:2\n");
        translate(&Lines::parse(text.as_bytes()).unwrap()).map(|plan| plan.program).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn where_the_process_stays_and_its_log_goes() {
        let silent = program("").unwrap();
        assert_eq!(silent, Program::default());
        let told = "foreground = yes\npid = /run/x.pid\noutput = /log\nlog = overwrite\nsyslog = no\ndebug = local3.7\nservice = nfs";
        let told = program(told).unwrap();
        let pid_file = Some(PidFile { path: "/run/x.pid".into(), is_needed: true });
        assert_eq!((told.level, told.pid_file), ("debug", pid_file));
        let file = Some(LogFile { path: "/log".into(), overwrites: true });
        assert_eq!(told.outlets, Outlets { stderr: true, file, syslog: None, form: Form::Stunnel });
        let quiet = program("foreground = quiet\ndebug = local3.err\nservice = nfs").unwrap();
        let syslog = Some(("nfs".to_string(), Facility::named("local3").unwrap()));
        assert_eq!((quiet.level, quiet.outlets.syslog, quiet.outlets.stderr), ("error", syslog, false));
    }

    #[test]
    fn root_is_no_change_and_what_cannot_be_followed_is_refused() {
        let root = program("setuid = root\nsetgid = root").unwrap();
        assert_eq!((root.user, root.group), (None, None));
        let other = program("setuid = nobody\nsetgid = nogroup").unwrap();
        assert_eq!((other.user.as_deref(), other.group.as_deref()), (Some("nobody"), Some("nogroup")));
        for (text, why) in [
            ("foreground = perhaps", "1:14: foreground = perhaps: yes, quiet or no"),
            ("debug = loud", "1:9: debug = loud: emerg, "),
            ("debug = nowhere.3", "a facility of syslog"),
            ("log = twice", "append or overwrite"),
            ("setgid = users", "a group without a user"),
        ] {
            let refusal = program(text).unwrap_err();
            assert!(refusal.contains(why), "{refusal}");
        }
    }
}
