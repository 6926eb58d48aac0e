//! `sealane-perf`: what `sealane client` costs next to stunnel, on the same NFS-shaped work in one run.

#![forbid(unsafe_code)]

mod certificates;
mod compare;
mod load;
mod namespace;
mod process;
mod procfs;
mod report;
mod rpc;
mod serve;
mod server;
mod subject;
mod tls;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

/// NFS-shaped load through Sealane and through stunnel, compared in one run
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure Sealane and stunnel in turn and print CPU seconds per GiB and their ratio; needs root
    Compare(compare::Options),
    /// Make NFS-shaped calls on TCP connections and print throughput and latency
    Load(load::Options),
    /// Answer the calls of `load`, behind TLS
    Server(server::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Compare(options) => compare::run(&options),
        Command::Load(options) => load::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Server(options) => server::run(&options).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("sealane-perf: {error:#}");
        ExitCode::FAILURE
    })
}

/// The monotonic clock.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
fn now() -> Instant {
    Instant::now()
}
