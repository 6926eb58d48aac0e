//! `sealane run`: the tunnels of our own configuration file, in one process.
//!
//! Each key is an option of the command line under the same name. What is about the process stands first, a tunnel in a table of its
//! own. So a file becomes command lines, and what these accept and refuse is what a file may say.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, CommandFactory, Parser};
use sealane_relay::ConfigError;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, de};

use crate::args::{Cli, RunOptions};
use crate::dialect::keys::nearest;
use crate::dialect::lines::{Place, Wrong};
use crate::log::{self, LogFile, Outlets};
use crate::manners::{Manners, PidFile};
use crate::place;
use crate::tunnels::{self, Service};

mod keys;

pub use keys::{Key, Kind, keys_of_process, keys_of_tunnel};

/// Options of the process: each tunnel's command line has them, and all have the same.
const OF_PROCESS: [&str; 10] =
    ["connections-max", "drain", "group", "io", "log-level", "memory-max", "sandbox", "spin", "user", "workers"];
/// Keys of the process that are no options of a tunnel.
const OWN: [&str; 4] = ["control-socket", "log-file", "pid-file", "tunnels"];
/// Which end of TLS a tunnel is.
const MODE: &str = "mode";
/// What the names of variables that override a file begin with.
const VARIABLE: &str = "SEALANE_";

/// Runs the tunnels of the file until it is told to stop; or says what it comes to.
///
/// # Errors
/// A key that cannot be followed, or why the tunnels could not start.
pub(crate) fn run(options: &RunOptions) -> Result<()> {
    let file = &options.config;
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let plan = plan(&text, &variables.collect()).map_err(|wrong| ConfigError(format!("{}:{wrong}", file.display())))?;
    if options.explain {
        return explain(&plan);
    }
    if options.check {
        log::start("warn")?;
        tunnels::together(&plan.services, &plan.shared)?;
        return Ok(writeln!(io::stdout(), "{}: {} tunnels can start", file.display(), plan.services.len())?);
    }
    let outlets = Outlets {
        stderr: plan.log_file.is_none(),
        file: plan.log_file.clone().map(|path| LogFile { path, overwrites: false }),
        ..Outlets::default()
    };
    log::start_to(&plan.level, &outlets)?;
    let pid_file = plan.pid_file.clone().map(|path| PidFile { path, is_needed: true });
    let place = Some(place::Place::of(file, plan.control_socket.clone(), options.replace));
    let manners = Manners { detaches: options.background, pid_file, place, ..Manners::default() };
    tunnels::serve(&plan.services, &plan.shared, &outlets, manners)
}

/// What a file comes to.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Plan {
    pub(crate) services: Vec<Service>,
    /// The options that all have in common.
    pub(crate) shared: Vec<String>,
    level: String,
    control_socket: Option<PathBuf>,
    log_file: Option<PathBuf>,
    pid_file: Option<PathBuf>,
}

fn explain(plan: &Plan) -> Result<()> {
    let mut out = io::stdout().lock();
    for Service { name, arguments } in &plan.services {
        let words = [arguments.as_slice(), &plan.shared].concat().join(" ");
        match writeln!(out, "[{name}]\n    sealane {words}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            done => done.context("standard output")?,
        }
    }
    Ok(())
}

/// A file's text, for the places in it.
struct Source<'t>(&'t str);

impl Source<'_> {
    fn wrong(&self, at: Range<usize>, what: impl Into<String>) -> Wrong {
        Wrong { place: Place::of(self.0, at.start), what: what.into() }
    }
}

type Done<T> = std::result::Result<T, Wrong>;

/// What a key has been given: words of a command line, and where.
#[derive(Clone, Debug)]
struct Given {
    words: Vec<String>,
    at: Range<usize>,
}

/// What `text` comes to, with these environment variables.
///
/// # Errors
/// The first key that cannot be followed.
pub(crate) fn plan(text: &str, variables: &BTreeMap<String, String>) -> Done<Plan> {
    let source = Source(text);
    let unreadable = |error: de::Error| source.wrong(error.span().unwrap_or_default(), log::gist(error.message()));
    let table = DeTable::parse(text).map_err(unreadable)?;
    let table = table.get_ref();
    let client = Cli::command().find_subcommand("client").cloned().unwrap_or_default();
    let is_own = |key: &str| OF_PROCESS.contains(&key) || OWN.contains(&key);
    if let Some((key, _)) = in_order(table).into_iter().find(|(key, _)| !is_own(key.get_ref())) {
        let all = OF_PROCESS.iter().chain(&OWN).copied();
        return Err(unknown(&source, key, all, "of the process; those of a tunnel stand in [tunnels.NAME]"));
    }
    let given = options(&source, table, &client, |key| OF_PROCESS.contains(&key), &|key| variable(variables, "", key))?;
    let mut plan = Plan { level: "info".into(), ..Plan::default() };
    for (key, Given { words, .. }) in &given {
        plan.shared.extend(words.iter().cloned());
        if key == "log-level" {
            plan.level = words.last().cloned().unwrap_or_default();
        }
    }
    let path = |key: &'static str| -> Done<Option<PathBuf>> {
        match (variables.get(&variable_name("", key)), table.get(key)) {
            (Some(value), _) => Ok(Some(value.into())),
            (None, Some(value)) => match value.get_ref().as_str() {
                Some(path) if !path.is_empty() => Ok(Some(path.into())),
                _ => Err(source.wrong(value.span(), format!("{key}: the name of a file, as a string"))),
            },
            (None, None) => Ok(None),
        }
    };
    (plan.pid_file, plan.log_file) = (path("pid-file")?, path("log-file")?);
    plan.control_socket = path("control-socket")?;
    let tunnels = match table.get("tunnels") {
        None => return Err(source.wrong(0..0, "no tunnel: one begins with [tunnels.NAME]")),
        Some(tunnels) => match tunnels.get_ref().as_table().filter(|all| !all.is_empty()) {
            None => return Err(source.wrong(tunnels.span(), "tunnels: tables, each [tunnels.NAME]")),
            Some(all) => all,
        },
    };
    for (name, value) in in_order(tunnels) {
        let Some(table) = value.get_ref().as_table() else {
            return Err(source.wrong(value.span(), format!("tunnels.{}: a table, [tunnels.NAME]", name.get_ref())));
        };
        plan.services.push(tunnel(&source, name, table, &plan.shared, variables)?);
    }
    known_variables(&plan, variables).map_err(|what| source.wrong(0..0, what))?;
    Ok(plan)
}

/// A table's entries in the file's order.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Spanned<de::DeString<'i>>, &'t Spanned<DeValue<'i>>)> {
    let mut all: Vec<_> = table.iter().collect();
    all.sort_by_key(|(key, _)| key.span().start);
    all
}

fn unknown<'n>(
    source: &Source<'_>,
    key: &Spanned<de::DeString<'_>>,
    all: impl Iterator<Item = &'n str>,
    whose: &str,
) -> Wrong {
    let name = key.get_ref();
    let hint = nearest(name, all).map_or_else(String::new, |known| format!(": did you mean {known}?"));
    source.wrong(key.span(), format!("no key '{name}' is known{hint} ({whose})"))
}

fn is_option(arg: &&Arg) -> bool {
    arg.get_long().is_some()
        && !arg.is_hide_set()
        && !matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpLong | ArgAction::Version)
}

/// A tunnel as a command line.
fn tunnel(
    source: &Source<'_>,
    name: &Spanned<de::DeString<'_>>,
    table: &DeTable<'_>,
    shared: &[String],
    variables: &BTreeMap<String, String>,
) -> Done<Service> {
    let mode = table.get(MODE);
    let said = variable(variables, name.get_ref(), MODE).or_else(|| mode?.get_ref().as_str().map(str::to_string));
    let mode = match said.as_deref() {
        Some(mode @ ("client" | "server")) => mode,
        _ => {
            let at = mode.map_or(name.span(), Spanned::span);
            return Err(source.wrong(at, format!("[tunnels.{}]: mode is \"client\" or \"server\"", name.get_ref())));
        }
    };
    let command = Cli::command().find_subcommand(mode).cloned().unwrap_or_default();
    let all = || command.get_arguments().filter(is_option).filter_map(Arg::get_long);
    let is_of_tunnel = |key: &str| key != MODE && !OF_PROCESS.contains(&key) && all().any(|known| known == key);
    for (key, _) in in_order(table) {
        let text = key.get_ref().as_ref();
        if OF_PROCESS.contains(&text) || OWN.contains(&text) {
            return Err(source.wrong(
                key.span(),
                format!("{text} is about the process: it belongs before the first [tunnels.NAME]"),
            ));
        }
        if text != MODE && !is_of_tunnel(text) {
            let names = all().filter(|known| !OF_PROCESS.contains(known)).chain([MODE]);
            return Err(unknown(source, key, names, &format!("sealane {mode} --help names all")));
        }
    }
    let given = options(source, table, &command, is_of_tunnel, &|key| variable(variables, name.get_ref(), key))?;
    let mut arguments = vec![mode.to_string()];
    arguments.extend(given.values().flat_map(|given| given.words.iter().cloned()));
    let words = ["sealane".to_string()].into_iter().chain(arguments.iter().chain(shared).cloned());
    if let Err(error) = Cli::try_parse_from(words) {
        let is_about = |option: &str| {
            let long = option.strip_prefix("--")?.split([' ', '=']).next()?;
            given.get(long).map(|given| given.at.clone())
        };
        let at = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(option)) => is_about(option),
            Some(ContextValue::Strings(options)) => options.iter().find_map(|option| is_about(option)),
            _ => None,
        };
        let what = format!("[tunnels.{}]: {}", name.get_ref(), log::gist(&error.to_string()));
        return Err(source.wrong(at.unwrap_or(name.span()), what));
    }
    Ok(Service { name: name.get_ref().to_string(), arguments })
}

/// The options of a command that a table, or the environment, gives it.
fn options(
    source: &Source<'_>,
    table: &DeTable<'_>,
    command: &clap::Command,
    counts: impl Fn(&str) -> bool,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Done<BTreeMap<String, Given>> {
    let mut given = BTreeMap::new();
    for arg in command.get_arguments().filter(is_option) {
        let Some(key) = arg.get_long().filter(|key| counts(key)) else { continue };
        let option = Opt {
            key,
            is_flag: matches!(arg.get_action(), ArgAction::SetTrue),
            repeats: matches!(arg.get_action(), ArgAction::Append),
        };
        let entry = match (variable(key), table.get(key)) {
            (Some(text), value) => Some((option.of_text(&text), value.map_or(0..0, Spanned::span))),
            (None, Some(value)) => Some((option.of_value(value.get_ref()), value.span())),
            (None, None) => None,
        };
        if let Some((words, at)) = entry {
            let words = words.map_err(|what| source.wrong(at.clone(), format!("{key}: {what}")))?;
            given.insert(key.to_string(), Given { words, at });
        }
    }
    Ok(given)
}

/// An option, by what it takes.
struct Opt<'o> {
    key: &'o str,
    is_flag: bool,
    repeats: bool,
}

impl Opt<'_> {
    fn of_text(&self, text: &str) -> std::result::Result<Vec<String>, String> {
        let option = format!("--{}", self.key);
        match (self.is_flag, text) {
            // It is a value all the same.
            (false, text) if text.starts_with('-') => Ok(vec![format!("{option}={text}")]),
            (false, text) => Ok(vec![option, text.into()]),
            (true, "true") => Ok(vec![option]),
            (true, "false") => Ok(Vec::new()),
            (true, _) => Err("true or false".into()),
        }
    }

    fn of_value(&self, value: &DeValue<'_>) -> std::result::Result<Vec<String>, String> {
        match value {
            DeValue::Boolean(is_set) if self.is_flag => self.of_text(if *is_set { "true" } else { "false" }),
            _ if self.is_flag => Err("true or false".into()),
            DeValue::Array(all) if self.repeats => {
                let words = all.iter().map(|one| self.of_text(&scalar(one.get_ref())?));
                Ok(words.collect::<std::result::Result<Vec<_>, String>>()?.concat())
            }
            one => self.of_text(&scalar(one)?),
        }
    }
}

fn scalar(value: &DeValue<'_>) -> std::result::Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map(|number| number.to_string()).map_err(|error| error.to_string())
        }
        DeValue::Float(number) => Ok(number.as_str().to_string()),
        other => Err(format!("a string or a number, and not a {}", other.type_str())),
    }
}

/// `SEALANE_TUNNEL__KEY`, without a tunnel `SEALANE_KEY`.
fn variable_name(tunnel: &str, key: &str) -> String {
    let plain = |text: &str| {
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect::<String>()
    };
    match tunnel {
        "" => format!("{VARIABLE}{}", plain(key)),
        tunnel => format!("{VARIABLE}{}__{}", plain(tunnel), plain(key)),
    }
}

fn variable(variables: &BTreeMap<String, String>, tunnel: &str, key: &str) -> Option<String> {
    variables.get(&variable_name(tunnel, key)).cloned()
}

/// One that is meant for a tunnel and does nothing would go unnoticed.
fn known_variables(plan: &Plan, variables: &BTreeMap<String, String>) -> std::result::Result<(), String> {
    let mut all = Vec::new();
    for Service { name, arguments } in &plan.services {
        let mode = arguments.first().map_or("", String::as_str);
        let command = Cli::command().find_subcommand(mode).cloned().unwrap_or_default();
        let options = command.get_arguments().filter(is_option).filter_map(Arg::get_long);
        let keys = options.filter(|key| !OF_PROCESS.contains(key)).map(|key| variable_name(name, key));
        all.extend(keys.chain([variable_name(name, MODE)]));
    }
    let mut of_tunnels =
        variables.keys().filter(|name| name.strip_prefix(VARIABLE).is_some_and(|rest| rest.contains("__")));
    let Some(name) = of_tunnels.find(|name| !all.contains(name)) else { return Ok(()) };
    let hint = nearest(name, all.iter().map(String::as_str));
    let hint = hint.map_or_else(String::new, |known| format!(": did you mean {known}?"));
    Err(format!("the environment variable {name} is no tunnel's key{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(text: &str, variables: &[(&str, &str)]) -> std::result::Result<Plan, String> {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        plan(text, &variables).map_err(|wrong| wrong.to_string())
    }

    const HOME: &str = "[tunnels.home]\nmode = \"client\"\nlisten = \"127.0.0.1:20049\"\nconnect = \"nfs.test:2049\"\n";

    #[test]
    fn keys_become_options() {
        let text = format!(
            "workers = 2\nlog-level = \"debug\"\nmemory-max = \"64M\"\npid-file = \"/run/x.pid\"\n\n{HOME}ca-file = [\"a.pem\", \"b.pem\"]\n\
             keepalive = 1_0\nack-timeout = 2.5\nwatch = true\ntrusted-only = false\n\n[tunnels.\"the door\"]\nmode = \"server\"\n\
             listen = \"0.0.0.0:2049\"\nconnect = \"127.0.0.1:12049\"\ncert = \"c\"\nkey = \"k\"\nallow = \"dns:a.test\"\n"
        );
        let Plan { services, shared, level, pid_file, log_file, .. } = planned(&text, &[]).unwrap();
        assert_eq!((level.as_str(), pid_file, log_file), ("debug", Some("/run/x.pid".into()), None));
        assert_eq!(shared.join(" "), "--log-level debug --memory-max 64M --workers 2");
        let lines: Vec<_> =
            services.iter().map(|service| (service.name.as_str(), service.arguments.join(" "))).collect();
        let home = "client --ack-timeout 2.5 --ca-file a.pem --ca-file b.pem --connect nfs.test:2049 --keepalive 10 --listen 127.0.0.1:20049 \
                    --watch";
        let door = "server --allow dns:a.test --cert c --connect 127.0.0.1:12049 --key k --listen 0.0.0.0:2049";
        assert_eq!(lines, [("home", home.to_string()), ("the door", door.to_string())]);
    }

    #[test]
    fn the_environment_overrides() {
        let variables = [
            ("SEALANE_HOME__CONNECT", "other.test:1"),
            ("SEALANE_WORKERS", "3"),
            ("SEALANE_HOME__WATCH", "true"),
            ("HOME__CONNECT", "x"),
        ];
        let Plan { services, shared, .. } = planned(HOME, &variables).unwrap();
        assert_eq!(services[0].arguments.join(" "), "client --connect other.test:1 --listen 127.0.0.1:20049 --watch");
        assert_eq!(shared.join(" "), "--workers 3");
        for (variable, why) in [
            (
                ("SEALANE_HOME__CONECT", "x"),
                "SEALANE_HOME__CONECT is no tunnel's key: did you mean SEALANE_HOME__CONNECT?",
            ),
            (("SEALANE_HOME__WATCH", "perhaps"), "watch: true or false"),
            (("SEALANE_HOME__MODE", "both"), "mode is \"client\" or \"server\""),
        ] {
            let refusal = planned(HOME, &[variable]).unwrap_err();
            assert!(refusal.contains(why), "{refusal}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, why) in [
            ("", "1:1: no tunnel: one begins with [tunnels.NAME]"),
            ("tunnels = 1", "1:11: tunnels: tables"),
            ("worker = 2\n", "1:1: no key 'worker' is known: did you mean workers?"),
            ("workers = \n", "1:11: "),
            ("a b", "1:"),
            (&format!("workers = 999\n{HOME}"), "[tunnels.home]: invalid value '999' for '--workers <N>'"),
            (&format!("{HOME}conect = \"x\""), "5:1: no key 'conect' is known: did you mean connect?"),
            (&format!("{HOME}workers = 1"), "5:1: workers is about the process"),
            (&format!("{HOME}ca-file = 2020-01-01"), "5:11: ca-file: a string or a number, and not a datetime"),
            (&format!("{HOME}watch = 1"), "5:9: watch: true or false"),
            (&format!("{HOME}connect-timeout = -1"), "5:19: [tunnels.home]: "),
            (&format!("{HOME}keepalive = [1, 2]"), "5:13: keepalive: a string or a number"),
            (&format!("{HOME}records-per-key-max = 7"), "5:1: no key 'records-per-key-max' is known"),
            (&format!("{HOME}ca-file = \"a\"\ninsecure-no-verify = true"), "[tunnels.home]: the argument '--"),
            (
                "[tunnels.x]\nmode = \"client\"\n",
                "1:10: [tunnels.x]: the following required arguments were not provided",
            ),
            ("[tunnels.x]\n", "1:10: [tunnels.x]: mode is \"client\" or \"server\""),
            ("[tunnels]\nx = 1", "2:5: tunnels.x: a table"),
            (&format!("log-file = 7\n{HOME}"), "1:12: log-file: the name of a file"),
        ] {
            let refusal = planned(text, &[]).unwrap_err();
            assert!(refusal.contains(why) && refusal.lines().count() == 1, "{text}: {refusal}");
        }
    }
}
