//! `sealane stunnel`: the tunnels of a configuration file of stunnel's, in one process.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;
use sealane_io::sandbox::Policy;
use sealane_relay::{ConfigError, PemSource, TunnelConfig};

use crate::args::{Cli, Command, StunnelOptions, TunnelOptions};
use crate::dialect::keys::{KEYS, Key};
use crate::dialect::lines::{Lines, Wrong};
use crate::dialect::program::{Foreground, Program};
use crate::dialect::translate::{Plan, Service, translate};
use crate::manners::Manners;
use crate::{check, client, log, server, tunnel};

/// Runs the tunnels of the file until it is told to stop; or says what each of its lines becomes.
///
/// # Errors
/// A line that cannot be followed, or why the tunnels could not start.
pub(crate) fn run(options: &StunnelOptions) -> Result<()> {
    let Some(file) = options.config.as_deref().filter(|_| !options.keys) else { return list() };
    let plan = plan(file)?;
    if options.explain {
        return explain(file, &plan);
    }
    if options.check {
        return check_all(&plan);
    }
    serve(file, &plan)
}

/// Reads a file, and translates it.
fn plan(file: &Path) -> Result<Plan> {
    let text = fs::read(file).with_context(|| file.display().to_string())?;
    Ok(Lines::parse(&text).and_then(|lines| translate(&lines)).map_err(|wrong| at(file, &wrong))?)
}

/// Runs the tunnels of the file until it is told to stop.
///
/// # Errors
/// A line that cannot be followed, or why the tunnels could not start.
pub(super) fn serve_file(file: &Path) -> Result<()> {
    serve(file, &plan(file)?)
}

pub(super) fn serve(file: &Path, plan: &Plan) -> Result<()> {
    let Program { foreground, level, outlets, pid_file, .. } = &plan.program;
    log::start_to(level, outlets)?;
    for note in &plan.notes {
        tracing::debug!("{}:{}: {} = {}: {}", file.display(), note.place, note.key, note.value, note.becomes);
    }
    let mut all: Option<(TunnelOptions, Policy)> = None;
    let mut configs = Vec::new();
    for service in &plan.services {
        let (config, policy, options) = of_service(service, plan)?;
        configs.push(config);
        all = Some(match all {
            None => (options, policy),
            Some((options, others)) => (options, joined(others, policy)),
        });
    }
    let (options, mut policy) = all.context("no service")?;
    let manners = Manners { detaches: *foreground == Foreground::No, pid_file: pid_file.clone() };
    policy.remade.extend(outlets.remade().map(Path::to_path_buf));
    policy.removed.extend(pid_file.iter().map(|file| file.path.clone()));
    // What listens there may be started anew, and is then connected to again.
    policy.names |= outlets.syslog.is_some();
    tunnel::serve(options.resources(), configs, &policy, &manners, false)
}

pub(super) fn at(file: &Path, wrong: &Wrong) -> ConfigError {
    ConfigError(format!("{}:{wrong}", file.display()))
}

/// Tries the servers of all clients' services.
fn check_all(plan: &Plan) -> Result<()> {
    log::start("error")?;
    let mut wrong = None;
    for service in &plan.services {
        let Command::Client(options) = command(service, plan)? else { continue };
        writeln!(io::stdout(), "[{}]", service.name).context("standard output")?;
        if let Err(error) = check::explain_client(&options) {
            wrong = wrong.or(Some(error.context(format!("[{}]", service.name))));
        }
    }
    wrong.map_or(Ok(()), Err)
}

/// A service as a command line.
fn command(service: &Service, plan: &Plan) -> Result<Command, ConfigError> {
    let mut words = vec!["sealane".to_string()];
    words.extend(service.arguments.iter().cloned());
    words.extend(["--log-level".into(), plan.program.level.into()]);
    for (option, value) in [("--user", &plan.program.user), ("--group", &plan.program.group)] {
        words.extend(value.iter().flat_map(|value| [option.into(), value.clone()]));
    }
    let parsed = Cli::try_parse_from(&words);
    let parsed = parsed
        .map_err(|error| ConfigError(format!("[{}]: {}", service.name, log::in_one_line(&error.to_string(), None))))?;
    Ok(parsed.command)
}

/// What a service is told, what it needs, and the options that all share.
fn of_service(service: &Service, plan: &Plan) -> Result<(TunnelConfig, Policy, TunnelOptions)> {
    let within = || format!("[{}]", service.name);
    match command(service, plan)? {
        Command::Client(options) => {
            if options.insecure_no_verify {
                tracing::warn!(
                    "[{}]: the server is NOT verified: there is no verify, verifyChain or verifyPeer",
                    service.name
                );
            }
            if options.no_tls {
                tracing::info!(
                    "[{}]: there is NO TLS: anybody on the network can read and change the files",
                    service.name
                );
            }
            let config = client::config(&options, PemSource::File).with_context(within)?;
            Ok((config, client::policy(&options).with_context(within)?, options.tunnel))
        }
        Command::Server(options) => {
            let config = server::config(&options, PemSource::File).with_context(within)?;
            let policy = server::policy(&options, &config).with_context(within)?;
            Ok((config, policy, options.tunnel))
        }
        _ => Err(ConfigError(within() + ": neither a client nor a server").into()),
    }
}

/// What two tunnels need.
fn joined(one: Policy, mut other: Policy) -> Policy {
    other.files.extend(one.files);
    other.readable.extend(one.readable);
    other.readable.sort();
    other.readable.dedup();
    other.connect_ports.extend(one.connect_ports);
    other.connect_ports.sort_unstable();
    other.connect_ports.dedup();
    other.bind_ports.extend(one.bind_ports);
    Policy {
        names: one.names || other.names,
        privileged_ports: one.privileged_ports || other.privileged_ports,
        ..other
    }
}

/// What becomes of each key, as the rows of a table in Markdown.
fn list() -> Result<()> {
    let mut out = io::stdout().lock();
    let mut row = |key: &Key| {
        let note = key.note.replace('|', "\\|");
        writeln!(out, "| `{}` | {} | {} | {note} |", key.name, key.scope.name(), key.fate.name())
    };
    match KEYS.iter().try_for_each(&mut row) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

pub(super) fn explain(file: &Path, plan: &Plan) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut tell = || -> io::Result<()> {
        for note in &plan.notes {
            let (place, fate) = (note.place, note.fate.name());
            writeln!(out, "{}:{place}: {} = {}", file.display(), note.key, note.value)?;
            writeln!(out, "    {fate}: {}", note.becomes)?;
        }
        for service in &plan.services {
            writeln!(out, "\n[{}]\n    sealane {}", service.name, service.arguments.join(" "))?;
        }
        Ok(())
    };
    match tell() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}
