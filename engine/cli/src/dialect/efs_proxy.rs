//! efs-proxy's place: its configuration files, which are stunnel's in form, and mostly not looked at.
//!
//! A mount helper writes them. What is not known in one is ignored: the next version of the helper may write more.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustls::pki_types::DnsName;

use crate::args::EfsProxyOptions;
use crate::dialect::keys::Fate;
use crate::dialect::lines::{Entry, Lines, Place, Section, Wrong};
use crate::dialect::program::{Foreground, Program, level, path};
use crate::dialect::stunnel::{at, explain, serve};
use crate::dialect::translate::{Done, Plan, Scribe, listen, server, yes};
use crate::log::{Form, LogFile, Outlets};
use crate::manners::PidFile;
use crate::tunnels::Service;

/// What efs-proxy looks at, and what is followed besides.
const KEYS: [&str; 11] =
    ["accept", "CAfile", "cert", "checkHost", "connect", "debug", "key", "OCSPaia", "output", "pid", "sni"];

/// Runs the tunnels of the file until it is told to stop; or says what each of its lines becomes.
///
/// # Errors
/// A line that cannot be followed, or why the tunnels could not start.
pub(crate) fn run(options: &EfsProxyOptions) -> Result<()> {
    let file = &options.config;
    let text = fs::read(file).with_context(|| file.display().to_string())?;
    let plan = Lines::parse(&text).and_then(|lines| translate(&lines, options.tls));
    let plan = plan.map_err(|wrong| at(file, &wrong))?;
    if options.explain { explain(file, &plan) } else { serve(file, &plan) }
}

/// The same with a file, and words that a mount helper has put behind it.
pub(super) fn serve_file(file: &Path, tls: bool) -> Result<()> {
    run(&EfsProxyOptions { config: PathBuf::from(file), tls, explain: false, no_direct_s3_read: false })
}

fn is(entry: &Entry, name: &str) -> bool {
    entry.key.eq_ignore_ascii_case(name)
}

/// What `lines` become.
///
/// # Errors
/// An address that is none, or no service.
pub(crate) fn translate(lines: &Lines, tls: bool) -> Done<Plan> {
    let mut scribe = Scribe::default();
    let program = program(&lines.global, &mut scribe)?;
    let Some(_) = lines.sections.first() else {
        return Err(Wrong { place: Place { line: 1, column: 1 }, what: "no [service]".into() });
    };
    let services = lines.sections.iter().map(|section| service(section, &lines.global, tls, &mut scribe));
    let services = services.collect::<Done<_>>()?;
    for entry in lines.global.iter().chain(lines.sections.iter().flat_map(|section| &section.entries)) {
        if !scribe.has(entry) {
            let is_known = KEYS.iter().any(|known| is(entry, known));
            let why = match is_known {
                true if tls => "it changes nothing here",
                true => "not without --tls",
                false => "efs-proxy does not obey it",
            };
            scribe.note(entry, Fate::Ignored, why);
        }
    }
    Ok(Plan { program, services, notes: scribe.notes() })
}

/// The process stays; standard error is read by the helper until the mount is done, and copied for its user if it fails.
fn program(entries: &[Entry], scribe: &mut Scribe) -> Done<Program> {
    let (mut log_level, mut file, mut pid_file) = ("warn", None, None);
    for entry in entries {
        if is(entry, "debug") {
            // What it means elsewhere is no reason not to mount.
            let Ok((_, level)) = level(entry) else { continue };
            log_level = level;
            scribe.note(entry, Fate::Supported, format!("--log-level {log_level}"));
        } else if is(entry, "output") {
            file = path(entry).map(|path| LogFile { path, overwrites: false });
            scribe.note(entry, Fate::Supported, "the log file");
        } else if is(entry, "pid") {
            pid_file = path(entry).map(|path| PidFile { path, is_needed: false });
            scribe.note(entry, Fate::Supported, "the pid file");
        }
    }
    Ok(Program {
        foreground: Foreground::Yes,
        level: log_level,
        outlets: Outlets { stderr: file.is_none(), file, syslog: None, form: Form::Own },
        pid_file,
        user: None,
        group: None,
    })
}

fn service(section: &Section, global: &[Entry], tls: bool, scribe: &mut Scribe) -> Done<Service> {
    let all = |name: &'static str| global.iter().chain(&section.entries).filter(move |entry| is(entry, name));
    let last = |name: &'static str| all(name).next_back();
    let needed = |name: &'static str| {
        let missing = || Wrong { place: section.at, what: format!("[{}] has no '{name}'", section.name) };
        last(name).ok_or_else(missing)
    };
    let mut arguments = vec!["client".to_string()];
    let mut say = |entry: &Entry, words: &[&str]| {
        scribe.note(entry, Fate::Supported, words.join(" "));
        arguments.extend(words.iter().map(ToString::to_string));
    };
    let accept = needed("accept")?;
    let words = listen(accept)?;
    say(accept, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let connect = needed("connect")?;
    say(connect, &["--connect", &server(connect)?]);
    if !tls {
        arguments.push("--no-tls".into());
        return Ok(Service { name: section.name.clone(), arguments });
    }
    let ca = last("CAfile");
    let names: Vec<_> = all("checkHost").collect();
    if let Some(ca) = ca {
        say(ca, &["--ca-file", &ca.value]);
        names.iter().for_each(|name| say(name, &["--server-name", &name.value]));
    }
    // Who is asked for: a helper names it where it connects to an address. Nobody is asked for by one.
    let unverified = names.iter().copied().filter(|_| ca.is_none());
    let is_name = |entry: &&Entry| DnsName::try_from(entry.value.as_str()).is_ok() && entry.value != "off";
    if let Some(name) = last("sni").into_iter().chain(unverified).find(is_name) {
        say(name, &["--sni", &name.value]);
    }
    if let (Some(cert), Some(key)) = (last("cert"), last("key")) {
        say(cert, &["--cert", &cert.value]);
        say(key, &["--key", &key.value]);
    }
    if let (Some(aia), Some(_)) = (last("OCSPaia"), ca)
        && yes(aia).unwrap_or(false)
    {
        say(aia, &["--ocsp", "hard", "--ocsp-chain"]);
    }
    if ca.is_none() {
        arguments.push("--insecure-no-verify".into());
    } else if names.is_empty() {
        arguments.push("--any-server-name".into());
    }
    Ok(Service { name: section.name.clone(), arguments })
}
