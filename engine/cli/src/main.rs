//! `sealane`: a userspace TLS tunnel for NFS.

#![forbid(unsafe_code)]

mod args;
mod client;
mod demo;
mod log;
mod server;
mod tunnel;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use sealane_relay::{ConfigError, StartError};

use crate::args::{Cli, Command};

/// The command line is wrong.
const USAGE: u8 = 2;
/// Something else failed.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    let Cli { command } = match Cli::try_parse() {
        Ok(cli) => cli,
        // --help and --version are no errors, and nothing to be shortened.
        Err(error) if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.exit()
        }
        Err(error) => {
            let command = std::env::args().nth(1).filter(|name| Cli::command().find_subcommand(name).is_some());
            log::last_words(&log::in_one_line(&error.to_string(), command.as_deref()));
            return ExitCode::from(USAGE);
        }
    };
    let done = match command {
        Command::Client(options) => client::run(&options),
        Command::Server(options) => server::run(&options),
        Command::Demo(options) => demo::run(&options),
    };
    log::flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::last_words(&log::with_causes(&error));
            let is_usage = error.is::<ConfigError>() || matches!(error.downcast_ref(), Some(StartError::Config(_)));
            ExitCode::from(if is_usage { USAGE } else { FAILURE })
        }
    }
}
