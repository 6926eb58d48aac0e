//! The program `sealane`, as a library: for its one line of `main`, for the fuzz target of the command line, and for whoever
//! writes its manual.

#![forbid(unsafe_code)]
#![warn(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::string_slice)]

mod args;
mod bench;
mod check;
mod client;
mod crl;
mod demo;
mod dialect;
#[doc(hidden)]
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what a fuzz target finds wrong is a panic"
)]
pub mod fuzzing;
mod local;
mod log;
mod manners;
mod ocsp;
mod place;
mod run;
mod sandbox;
mod server;
mod tls;
mod tunnel;
mod tunnels;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use sealane_relay::{ConfigError, StartError};

use crate::args::{Cli, Command};
#[doc(hidden)]
pub use crate::run::{Key, Kind, keys_of_process, keys_of_tunnel};

/// The command line is wrong.
const USAGE: u8 = 2;
/// Something else failed.
const FAILURE: u8 = 1;

/// All that `--help` says, for man pages and completions.
#[doc(hidden)]
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what the command line says; the status that the process ends with.
#[must_use]
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if let Some(done) = words.next().and_then(|name| dialect::called(&name, words)) {
        return ended(done, |_| FAILURE);
    }
    let Cli { command } = match Cli::try_parse() {
        Ok(cli) => cli,
        // --help and --version are no errors, and nothing to be shortened.
        Err(error) if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.exit()
        }
        Err(error) => {
            log::last_words(&usage_error(&error, std::env::args_os().nth(1).as_deref()));
            return ExitCode::from(USAGE);
        }
    };
    let done = match command {
        Command::Client(options) => client::run(&options),
        Command::Server(options) => server::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Stunnel(options) => dialect::run(&options),
        Command::Run(options) => run::run(&options),
        Command::EfsProxy(options) => dialect::efs_proxy::run(&options),
    };
    ended(done, |error| {
        let is_usage = error.is::<ConfigError>() || matches!(error.downcast_ref(), Some(StartError::Config(_)));
        if is_usage { USAGE } else { FAILURE }
    })
}

fn ended(done: anyhow::Result<()>, status: fn(&anyhow::Error) -> u8) -> ExitCode {
    log::flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::last_words(&log::with_causes(&error));
            ExitCode::from(status(&error))
        }
    }
}

/// What is wrong with the command line, whose first word is `first`, in one line.
fn usage_error(error: &clap::Error, first: Option<&OsStr>) -> String {
    let command = first.and_then(OsStr::to_str).filter(|name| Cli::command().find_subcommand(name).is_some());
    log::in_one_line(&error.to_string(), command)
}
