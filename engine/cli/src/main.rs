//! `sealane`: a userspace TLS tunnel for NFS.

#![forbid(unsafe_code)]

mod args;
mod client;
mod log;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

/// Something failed that is not the command line's fault; clap itself exits with 2 for what is.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let done = match command {
        Command::Client(options) => client::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::last_words(&error);
            ExitCode::from(FAILURE)
        }
    }
}
