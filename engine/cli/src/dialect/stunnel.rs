//! `sealane stunnel`: the tunnels of a configuration file of stunnel's, in one process.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use sealane_relay::ConfigError;

use crate::args::{Command, StunnelOptions};
use crate::dialect::keys::{Fate, KEYS, Key};
use crate::dialect::lines::{Lines, Wrong};
use crate::dialect::program::{Foreground, Program};
use crate::dialect::translate::{Plan, translate};
use crate::log::Form;
use crate::manners::Manners;
use crate::{check, log, tunnels};

/// What calls under way are given when the process is told to stop: a mount helper waits for a second.
const DRAIN_SECONDS: &str = "0.9";

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
        let what = format!("{}:{}: {} = {}: {}", file.display(), note.place, note.key, note.value, note.becomes);
        // Who has written the file for efs-proxy expects most of it to be ignored.
        match (note.fate, outlets.form) {
            (Fate::Ignored, Form::Stunnel) => tracing::info!("{what} (ignored)"),
            _ => tracing::debug!("{what}"),
        }
    }
    let manners =
        Manners { detaches: *foreground == Foreground::No, pid_file: pid_file.clone(), is_another: true, place: None };
    tunnels::serve(&plan.services, &shared(plan), outlets, manners)
}

pub(super) fn at(file: &Path, wrong: &Wrong) -> ConfigError {
    ConfigError(format!("{}:{wrong}", file.display()))
}

/// The options that all services have in common.
fn shared(plan: &Plan) -> Vec<String> {
    let Program { level, user, group, .. } = &plan.program;
    let mut words: Vec<String> = ["--log-level", level, "--drain", DRAIN_SECONDS].map(Into::into).into();
    for (option, value) in [("--user", user), ("--group", group)] {
        words.extend(value.iter().flat_map(|value| [option.into(), value.clone()]));
    }
    words
}

/// Tries the servers of all clients' services.
fn check_all(plan: &Plan) -> Result<()> {
    log::start("error")?;
    let mut wrong = None;
    for service in &plan.services {
        let Command::Client(options) = service.command(&shared(plan))? else { continue };
        writeln!(io::stdout(), "[{}]", service.name).context("standard output")?;
        if let Err(error) = check::explain_client(&options) {
            wrong = wrong.or(Some(error.context(format!("[{}]", service.name))));
        }
    }
    wrong.map_or(Ok(()), Err)
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
