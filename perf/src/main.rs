//! `sealane-perf`: what `sealane client` costs next to other proxies, on the same NFS-shaped work in one run.

#![forbid(unsafe_code)]

mod aead;
mod calls;
mod certificates;
mod compare;
mod hold;
mod load;
mod namespace;
mod pattern;
mod plot;
mod process;
mod procfs;
mod relay;
mod report;
mod rpc;
mod scale;
mod serve;
mod server;
mod subject;
mod tls;
mod window;
mod work;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

/// NFS-shaped load through Sealane and through other proxies, compared in one run
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure Sealane and other proxies in turn: CPU seconds per GiB, latency, memory; needs root
    Compare(Box<compare::Options>),
    /// Measure how the cost grows with busy, idle and new connections; needs root
    Scale(Box<scale::Options>),
    /// Make NFS-shaped calls on TCP connections and print throughput and latency
    Load(load::Options),
    /// Open connections, make one call on each, and hold them
    Hold(hold::HoldOptions),
    /// Open and close connections, with one call on each
    Churn(hold::ChurnOptions),
    /// Answer the calls of `load`, behind TLS
    Server(server::Options),
    /// Copy between connections, without TLS
    Relay(relay::Options),
    /// Seal and open for a while, and print what that costs
    Aead(aead::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Compare(options) => compare::run(&options),
        Command::Scale(options) => scale::run(&options),
        Command::Hold(options) => hold::hold(&options).map(|()| ExitCode::SUCCESS),
        Command::Churn(options) => hold::churn(&options).map(|()| ExitCode::SUCCESS),
        Command::Load(options) => load::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Server(options) => server::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Relay(options) => relay::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Aead(options) => aead::run(&options).map(|()| ExitCode::SUCCESS),
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
