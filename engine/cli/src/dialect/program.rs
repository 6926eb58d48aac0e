//! What a file says of the whole program, before its first section.

use std::path::PathBuf;

use sealane_io::syslog::Facility;

use crate::dialect::lines::Entry;
use crate::dialect::translate::{Done, Known, Scribe, refuse_or_ignore, wrong, yes};
use crate::log::{Form, LogFile, Outlets};

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

/// What the lines before the first section say of the whole program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Program {
    pub(crate) foreground: Foreground,
    /// A level of ours.
    pub(crate) level: &'static str,
    /// Of the system log.
    facility: Facility,
    /// Our name in the system log.
    identity: String,
    is_in_syslog: bool,
    output: Option<PathBuf>,
    overwrites: bool,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) group: Option<String>,
}

impl Default for Program {
    /// What stunnel does if nothing is said.
    fn default() -> Self {
        Self {
            foreground: Foreground::No,
            level: "info",
            facility: Facility::DAEMON,
            identity: "stunnel".into(),
            is_in_syslog: true,
            output: None,
            overwrites: false,
            pid_file: None,
            user: None,
            group: None,
        }
    }
}

impl Program {
    /// Where the log goes.
    pub(crate) fn outlets(&self) -> Outlets {
        let file = |path: &PathBuf| LogFile { path: path.clone(), overwrites: self.overwrites };
        Outlets {
            stderr: self.foreground == Foreground::Yes,
            file: self.output.as_ref().map(file),
            syslog: self.is_in_syslog.then(|| (self.identity.clone(), self.facility)),
            form: Form::Stunnel,
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
fn debug(entry: &Entry, program: &mut Program) -> Done<String> {
    let text = entry.value.to_ascii_lowercase();
    let (facility, name) =
        text.rsplit_once('.').map_or((None, text.as_str()), |(facility, level)| (Some(facility), level));
    let by_number = name.parse::<usize>().ok().and_then(|number| LEVELS.get(number));
    let by_name = || LEVELS.iter().find(|(known, _)| *known == name || (*known == "err" && name == "error"));
    let Some((_, level)) = by_number.or_else(by_name) else {
        return wrong(entry, "emerg, alert, crit, err, warning, notice, info or debug, or 0 to 7");
    };
    program.level = level;
    if let Some(name) = facility {
        let Some(facility) = Facility::named(name) else {
            return wrong(entry, "a facility of syslog: daemon, authpriv, local0 to local7, ...");
        };
        program.facility = facility;
    }
    Ok(format!("--log-level {level}"))
}

/// A user or group that is root changes nothing.
fn account(entry: &Entry, option: &str) -> (Option<String>, String) {
    match entry.value.as_str() {
        "root" | "0" => (None, "the process is what it was started as".into()),
        name => (Some(name.into()), format!("{option} {name}")),
    }
}

/// What these lines come to.
pub(super) fn program(entries: &[Known<'_>], scribe: &mut Scribe) -> Done<Program> {
    let mut program = Program::default();
    let path = |entry: &Entry| (!entry.value.is_empty()).then(|| PathBuf::from(&entry.value));
    for (entry, key) in entries {
        let becomes = match key.name {
            "foreground" => {
                let (foreground, becomes) = match entry.value.to_ascii_lowercase().as_str() {
                    "yes" => (Foreground::Yes, "the process stays, and logs on standard error"),
                    "no" => (Foreground::No, "the process goes on in the background"),
                    "quiet" => (Foreground::Quiet, "the process stays, and says nothing on standard error"),
                    _ => return wrong(entry, "yes, quiet or no"),
                };
                program.foreground = foreground;
                becomes.into()
            }
            "pid" => {
                program.pid_file = path(entry);
                program.pid_file.as_ref().map_or("no pid file", |_| "the pid file").into()
            }
            "output" => {
                program.output = path(entry);
                program.output.as_ref().map_or("no log file", |_| "the log file").into()
            }
            "log" => {
                program.overwrites = match entry.value.to_ascii_lowercase().as_str() {
                    "append" => false,
                    "overwrite" => true,
                    _ => return wrong(entry, "append or overwrite"),
                };
                "how the log file begins".into()
            }
            "syslog" => {
                program.is_in_syslog = yes(entry)?;
                if program.is_in_syslog { "the log goes to syslog" } else { "the log does not go to syslog" }.into()
            }
            "service" => {
                program.identity.clone_from(&entry.value);
                "the name in syslog".into()
            }
            "debug" => debug(entry, &mut program)?,
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
    if program.user.is_none()
        && let (Some(_), Some((entry, _))) = (&program.group, entries.iter().find(|(_, key)| key.name == "setgid"))
    {
        return wrong(entry, "a group without a user: 'setuid' names one");
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
        assert_eq!((silent.foreground, silent.pid_file.as_deref()), (Foreground::No, None));
        let to_syslog = Some(("stunnel".to_string(), Facility::DAEMON));
        assert_eq!(silent.outlets(), Outlets { stderr: false, file: None, syslog: to_syslog, form: Form::Stunnel });
        let told = "foreground = yes\npid = /run/x.pid\noutput = /log\nlog = overwrite\nsyslog = no\ndebug = local3.7\nservice = nfs";
        let told = program(told).unwrap();
        assert_eq!((told.level, told.pid_file.as_deref()), ("debug", Some(Path::new("/run/x.pid"))));
        let file = Some(LogFile { path: "/log".into(), overwrites: true });
        assert_eq!(told.outlets(), Outlets { stderr: true, file, syslog: None, form: Form::Stunnel });
        let quiet = program("foreground = quiet\ndebug = local3.err\nservice = nfs").unwrap();
        let syslog = Some(("nfs".to_string(), Facility::named("local3").unwrap()));
        assert_eq!((quiet.level, quiet.outlets().syslog, quiet.outlets().stderr), ("error", syslog, false));
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
