//! Connections that stay: most idle, some at work.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use sealane_selftest::load::{Progress, Workload};
use sealane_selftest::{Session, SessionOptions};

use crate::growth::{self, SETTLE_MAX};
use crate::lab::Lab;
use crate::peer::{End, Peer};
use crate::{Window, now};

/// TCP connections of one session at work; 64 slots allow 6 calls outstanding on each.
const SESSION_CONNECTIONS: usize = 10;
/// What an idle connection may cost a tunnel: its state and what the TLS library keeps, which were 12 when this was set. A buffer
/// is 17.
const IDLE_KIB_MAX: u64 = 16;
/// The slowest session gets at least this part of what the average one gets.
const FAIR_PART: f64 = 0.2;
/// Beyond the connections: what the work itself may have left in the allocator. Buffers are given in `BUFFERS_KIB_MAX`.
const RSS_KIB_MAX: u64 = 8 << 10;
/// `--memory-max`, the default.
const BUFFERS_KIB_MAX: u64 = 256 << 10;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    window: Window,

    /// Connections in all
    #[arg(long, value_name = "N", default_value = "2000", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    connections: u64,

    /// Those of them that are at work, a multiple of 10
    #[arg(long, value_name = "N", default_value = "200", value_parser = clap::value_parser!(u64).range(10..=600))]
    active: u64,
}

/// Holds the connections, works on some of them, and looks at the others afterwards.
///
/// # Errors
/// A connection that was lost, a byte that differs, memory beyond what is promised.
pub(crate) fn run(sealane: &Path, driver: &str, options: &Options) -> Result<String> {
    let Options { connections, active, .. } = *options;
    let sessions = active as usize / SESSION_CONNECTIONS;
    let idle = connections.saturating_sub(active);
    let mut lab = Lab::start(sealane, driver, connections as usize, &[])?;
    Peer::connect(lab.client.address)?.end(End::Silent)?;
    let empty = lab.settle(None, SETTLE_MAX)?;
    let mut peers = Vec::new();
    for number in 0..idle {
        let mut peer = Peer::connect(lab.client.address)?;
        peer.calls(1).with_context(|| format!("idle connection {number}"))?;
        peers.push(peer);
    }
    // For 20 ms after its last byte a connection keeps its buffer.
    thread::sleep(Duration::from_millis(200));
    let mut idle_kib = Vec::new();
    for ((name, tunnel), empty) in lab.tunnels().iter().zip(&empty) {
        let each_kib = tunnel.sample()?.rss_kib.saturating_sub(empty.rss_kib) as f64 / idle.max(1) as f64;
        idle_kib.push(format!("{each_kib:.1} KiB {name}"));
        ensure!(each_kib < IDLE_KIB_MAX as f64, "sealane {name}: {each_kib:.1} KiB for each idle connection");
    }
    let moved = work(&lab, sessions, now() + Duration::from_secs(options.window.seconds))?;
    for ((name, tunnel), empty) in lab.tunnels().iter().zip(&empty) {
        let (sample, most) = (tunnel.sample()?, BUFFERS_KIB_MAX + RSS_KIB_MAX + connections * IDLE_KIB_MAX);
        let grown = sample.rss_kib.saturating_sub(empty.rss_kib);
        ensure!(grown < most, "sealane {name}: {grown} KiB with {connections} connections, {most} are promised");
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.calls(3).with_context(|| format!("idle connection {number}, after the work"))?;
    }
    peers.into_iter().try_for_each(|peer| peer.end(End::Orderly))?;
    let mut rest = empty;
    // Threads that were started for the work may stay; there are not many.
    rest.iter_mut().for_each(|sample| sample.threads += 2);
    growth::check(&lab, &rest, BUFFERS_KIB_MAX + RSS_KIB_MAX)?;
    lab.client.terminate()?;
    lab.server.terminate()?;
    Ok(format!(
        "{idle} idle (each {}) and {active} at work: {} MiB compared, all alive afterwards",
        idle_kib.join(", "),
        moved >> 20
    ))
}

/// All sessions write and read until `end`; returns how many bytes came back as they were written.
fn work(lab: &Lab, sessions: usize, end: Instant) -> Result<u64> {
    let address = lab.client.address;
    let options = SessionOptions { connections: SESSION_CONNECTIONS, ..SessionOptions::default() };
    let one = |number: usize| -> Result<u64> {
        let mut session = Session::open(address, &options).context("opening a session")?;
        let workload = Workload {
            directory: format!("held-{number}"),
            files: 2,
            file_bytes: 1 << 20,
            payload_bytes: 64 << 10,
            ..Workload::default()
        };
        let (mut moved, mut pass) = (0, 0);
        let files = workload.prepare(&mut session)?;
        while now() < end {
            files.write(&mut session, pass, &Progress::default())?;
            moved += files.read(&mut session, pass, &Progress::default())?.bytes;
            pass += 1;
        }
        files.remove(&mut session)?;
        session.close()?;
        Ok(moved)
    };
    let moved: Vec<u64> = thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..sessions).map(|number| scope.spawn(move || one(number))).collect();
        let join = |(number, thread): (usize, thread::ScopedJoinHandle<'_, Result<u64>>)| {
            let done = thread.join().unwrap_or_else(|_panic| Err(anyhow!("a thread panicked")));
            done.with_context(|| format!("session {number}"))
        };
        threads.into_iter().enumerate().map(join).collect::<Result<_>>()
    })?;
    let all: u64 = moved.iter().sum();
    let (least, mean) = (moved.iter().min().copied().unwrap_or(0), all as f64 / sessions.max(1) as f64);
    ensure!(least as f64 > mean * FAIR_PART, "one session moved {least} bytes, the average {mean:.0}");
    Ok(all)
}
