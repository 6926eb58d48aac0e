//! `sealane-selftest`: the NFSv4.1 server and client of the library, for scripts.

#![forbid(unsafe_code)]

mod names;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Parser, Subcommand};
use sealane_selftest::endure::{Endurance, Tally, time_of_day_ms};
use sealane_selftest::load::{Outcome, Progress, Workload};
use sealane_selftest::{Server, ServerOptions, Session, SessionOptions};

/// A small NFSv4.1 server and client in memory, for tests
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve an export in memory, which begins empty, until killed
    Server(ServerArguments),
    /// Make, write, read back, compare and remove files on an NFSv4.1 server, and print how fast that went
    Client(ClientArguments),
    /// Write, read back and compare through faults, connecting again after each; count what was lost
    Endure(EndureArguments),
}

#[derive(Args, Debug)]
struct ServerArguments {
    /// Where to listen: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// The most that the files may take, in MiB
    #[arg(long, value_name = "MIB", default_value = "1024", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    memory_max: u64,

    /// Connections at a time
    #[arg(long, value_name = "COUNT", default_value = "64")]
    connections_max: usize,
}

#[derive(Args, Debug)]
struct ClientArguments {
    /// Where the server, or a tunnel to it, listens: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    connect: SocketAddr,

    /// The directory to make the files in, a name in the root
    #[arg(long, value_name = "NAME", default_value = "selftest")]
    path: String,

    /// How often everything (64 MiB) is written and read
    #[arg(long, default_value = "16")]
    passes: u32,

    /// GETATTRs one at a time, and again as many 16 at a time
    #[arg(long, default_value = "10000")]
    calls: u64,

    /// WRITEs or READs outstanding on each connection
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u16).range(1..=64))]
    depth: u16,

    /// TCP connections
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..=16))]
    connections: u16,
}

#[derive(Args, Debug)]
struct EndureArguments {
    /// Where the server, or a tunnel to it, listens: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    connect: SocketAddr,

    /// What the names of the files begin with
    #[arg(long, value_name = "NAME", default_value = "endure")]
    name: String,

    /// Connections that make calls
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u16).range(0..=32))]
    lanes: u16,

    /// Connections that write once and make no call until the end
    #[arg(long, default_value = "0", value_parser = clap::value_parser!(u16).range(0..=32))]
    idle_lanes: u16,

    /// Bytes of a WRITE and a READ, in KiB
    #[arg(long, value_name = "KIB", default_value = "1024", value_parser = clap::value_parser!(u16).range(4..=1024))]
    payload: u16,

    /// Places in each file that are written in turn
    #[arg(long, default_value = "8", value_parser = clap::value_parser!(u16).range(1..=256))]
    places: u16,

    /// Pause between a WRITE with its READ and the next, in milliseconds
    #[arg(long, value_name = "MS", default_value = "2")]
    pause: u64,

    /// How long an answer may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    patience: u64,

    /// Ends, after everything was read once more, when this file is there
    #[arg(long, value_name = "FILE")]
    stop_file: PathBuf,

    /// Change a byte of each lane's Nth WRITE, so that it fails; for tests
    #[arg(long, value_name = "N", hide = true)]
    spoil: Option<u32>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Server(arguments) => serve(&arguments),
        Command::Client(arguments) => work(&arguments),
        Command::Endure(arguments) => endure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sealane-selftest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &ServerArguments) -> Result<()> {
    let ServerArguments { listen, memory_max, connections_max } = *arguments;
    let options = ServerOptions { listen, bytes_max: memory_max << 20, connections_max };
    let server = Server::start(&options).with_context(|| format!("listening on {listen}"))?;
    // A closed standard output is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "listening on {}", server.local_address());
    loop {
        thread::park();
    }
}

fn work(arguments: &ClientArguments) -> Result<()> {
    let address = arguments.connect;
    let options = SessionOptions { connections: arguments.connections.into(), ..SessionOptions::default() };
    let mut session = Session::open(address, &options).with_context(|| format!("opening a session with {address}"))?;
    let workload = Workload {
        directory: arguments.path.clone(),
        passes: arguments.passes,
        depth: arguments.depth.into(),
        getattr_calls: arguments.calls,
        ..Workload::default()
    };
    names::run(&mut session, &format!("{}-names", arguments.path))?;
    let report = workload.run(&mut session, &Progress::default())?;
    session.close().context("ending the session")?;
    print_payloads("write", &report.write);
    print_payloads("read", &report.read);
    print_calls("getattr one at a time", &report.getattr_one);
    print_calls(&format!("getattr {} at a time", workload.getattr_depth), &report.getattr_many);
    Ok(())
}

/// Prints how far it is now and then, and how each connection ended, with the time of day; at the end all of it.
fn endure(arguments: &EndureArguments) -> Result<()> {
    const TICK: Duration = Duration::from_millis(100);
    let endurance = Endurance {
        address: arguments.connect,
        name: arguments.name.clone(),
        lanes: arguments.lanes,
        idle_lanes: arguments.idle_lanes,
        payload_bytes: usize::from(arguments.payload / 4 * 4) << 10,
        places: arguments.places.into(),
        pause: Duration::from_millis(arguments.pause),
        patience: Duration::from_secs(arguments.patience),
        spoil: arguments.spoil,
    };
    let (stop, tally) = (AtomicBool::new(false), Tally::default());
    let say = |what: &str| {
        // A closed standard output is no reason to end.
        let _ = writeln!(std::io::stdout(), "{} {what}", time_of_day_ms());
    };
    let done = thread::scope(|scope| {
        let load = scope.spawn(|| endurance.run(&stop, &tally, &say));
        while !load.is_finished() {
            stop.fetch_or(arguments.stop_file.exists(), Ordering::Relaxed);
            say(&tally.to_string());
            thread::sleep(TICK);
        }
        load.join()
    });
    say(&format!("total: {tally}"));
    done.map_err(|_panic| anyhow!("internal: a thread panicked"))?.context("not everything could be read back")?;
    let lost = tally.lost_bytes.load(Ordering::Relaxed);
    ensure!(lost == 0, "{lost} bytes were lost");
    Ok(())
}

fn print_payloads(what: &str, outcome: &Outcome) {
    println!("{what}: {} bytes, {:.0} MiB/s, {}", outcome.bytes, outcome.mib_per_second(), latencies(outcome));
}

fn print_calls(what: &str, outcome: &Outcome) {
    println!("{what}: {} calls, {:.0} calls/s, {}", outcome.calls, outcome.calls_per_second(), latencies(outcome));
}

fn latencies(outcome: &Outcome) -> String {
    let us = |quantile| outcome.latency(quantile).as_secs_f64() * 1e6;
    format!("p50 {:.0} us, p99 {:.0} us", us(0.5), us(0.99))
}
