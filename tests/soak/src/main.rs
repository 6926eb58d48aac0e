//! `sealane-soak`: both tunnels between an NFS client and server in memory, with many connections, fast ones, slow ones,
//! and for a long time. What is checked is what must not grow, and that nobody suffers from somebody else.

#![forbid(unsafe_code)]

mod growth;
mod held;
mod lab;
mod loris;
mod peer;
mod plot;
mod sample;
mod soak;
mod storm;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::verdict::Verdicts;

/// Many connections, for a long time: what a tunnel must not accumulate
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// The program under test
    #[arg(long, value_name = "FILE", global = true, default_value = "target/release/sealane")]
    sealane: PathBuf,

    /// How the tunnels move bytes
    #[arg(long, value_enum, global = true, default_value = "both")]
    io: Io,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Connections that come and go: nothing of them may stay
    Storm(storm::Options),
    /// Connections that stay, some of them at work
    Held(held::Options),
    /// TLS clients that say a byte at a time, beside others that must not notice
    Loris(loris::Options),
    /// All kinds of load together, for minutes; writes samples and curves
    Soak(soak::Options),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Io {
    Uring,
    Epoll,
    Both,
}

impl Io {
    fn drivers(self) -> &'static [&'static str] {
        match self {
            Self::Uring => &["uring"],
            Self::Epoll => &["epoll"],
            Self::Both => &["uring", "epoll"],
        }
    }
}

/// How long a test of a few connections takes; shared by what runs for seconds.
#[derive(Args, Clone, Debug)]
struct Window {
    /// Length of what is measured, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
}

fn main() -> ExitCode {
    let Cli { sealane, io, command } = Cli::parse();
    let mut verdicts = Verdicts::default();
    let name = match &command {
        Command::Storm(_) => "storm",
        Command::Held(_) => "held",
        Command::Loris(_) => "loris",
        Command::Soak(_) => "soak",
    };
    if let Command::Soak(options) = &command {
        verdicts.take(name, soak::run(&sealane, io.drivers(), options));
        return verdicts.summary();
    }
    for driver in io.drivers() {
        let done: Result<String> = match &command {
            Command::Storm(options) => storm::run(&sealane, driver, options),
            Command::Held(options) => held::run(&sealane, driver, options),
            Command::Loris(options) => loris::run(&sealane, driver, options),
            Command::Soak(_) => continue,
        };
        verdicts.take(&format!("{name}-{driver}"), done);
    }
    verdicts.summary()
}

/// The monotonic clock.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
fn now() -> Instant {
    Instant::now()
}
