//! Loads that are about connections and not about calls: many that are held and do nothing, and ever new ones.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use hdrhistogram::Histogram;

use crate::now;
use crate::rpc::{Kind, Replies, put_call};

/// Nothing may take longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections stay for so long behind the window, so that who watches can look before they end.
const COOL_DOWN: Duration = Duration::from_millis(200);
const LATENCY_NS_MAX: u64 = 60_000_000_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct HoldOptions {
    /// Where the proxy listens: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    connect: SocketAddr,

    /// Connections; each makes one call and is silent from then on
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=4000))]
    connections: u32,

    /// Wait before the window, for what happens a while after a call
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = crate::compare::parse_seconds)]
    warm_up: Duration,

    /// Length of the window
    #[arg(long, default_value = "3", value_parser = crate::compare::parse_seconds)]
    seconds: Duration,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ChurnOptions {
    /// Where the proxy listens: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    connect: SocketAddr,

    /// Connections at a time
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u32).range(1..=64))]
    lanes: u32,

    /// Length of the window
    #[arg(long, default_value = "3", value_parser = crate::compare::parse_seconds)]
    seconds: Duration,
}

/// A connection that has made one call and got its reply.
fn opened(address: SocketAddr) -> Result<TcpStream> {
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    stream.set_read_timeout(Some(PATIENCE)).context("SO_RCVTIMEO")?;
    let mut call = Vec::new();
    put_call(&mut call, Kind::Getattr, 1, 0, 0);
    stream.write_all(&call).context("sending a call")?;
    let (mut replies, mut is_answered, mut buffer) = (Replies::new(), false, [0; 1024]);
    while !is_answered {
        match stream.read(&mut buffer).context("receiving a reply")? {
            0 => bail!("the connection was closed with a call outstanding"),
            count => replies.advance(buffer.get(..count).unwrap_or_default(), |_| is_answered = true)?,
        }
    }
    Ok(stream)
}

/// Opens connections, holds them, and prints one line.
///
/// # Errors
/// The first connection that could not be opened.
pub(crate) fn hold(options: &HoldOptions) -> Result<()> {
    let held = (0..options.connections).map(|_| opened(options.connect)).collect::<Result<Vec<_>>>()?;
    thread::sleep(options.warm_up);
    println!("mark=begin");
    let began = now();
    thread::sleep(options.seconds);
    let seconds = (now() - began).as_secs_f64();
    println!("mark=end");
    thread::sleep(COOL_DOWN);
    println!("connections={} seconds={seconds:.4}", held.len());
    Ok(())
}

/// Opens and closes connections, and prints how many that were and how long each took until its first reply.
///
/// # Errors
/// The first connection that failed.
pub(crate) fn churn(options: &ChurnOptions) -> Result<()> {
    let stopping = AtomicBool::new(false);
    let (report, reports) = mpsc::channel();
    let (mut latencies, mut seconds) = (Histogram::<u64>::new_with_bounds(1, LATENCY_NS_MAX, 3)?, 0.0);
    thread::scope(|scope| -> Result<()> {
        for _ in 0..options.lanes {
            let (report, stopping) = (report.clone(), &stopping);
            scope.spawn(move || report.send(lane(options.connect, stopping)));
        }
        drop(report);
        println!("mark=begin");
        let began = now();
        let failed = reports.recv_timeout(options.seconds);
        seconds = (now() - began).as_secs_f64();
        stopping.store(true, Ordering::Relaxed);
        println!("mark=end");
        if let Ok(ended) = failed {
            latencies.add(ended?)?;
        }
        for ended in &reports {
            latencies.add(ended?)?;
        }
        Ok(())
    })?;
    thread::sleep(COOL_DOWN);
    let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    println!("connections={} seconds={seconds:.4} p50_us={:.1} p99_us={:.1}", latencies.len(), us(0.5), us(0.99));
    Ok(())
}

/// One connection after the other, until told to stop.
fn lane(address: SocketAddr, stopping: &AtomicBool) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?;
    while !stopping.load(Ordering::Relaxed) {
        let began = now();
        let mut stream = opened(address)?;
        latencies.saturating_record((now() - began).as_nanos() as u64);
        stream.shutdown(Shutdown::Write).context("shutdown")?;
        // Its end: some proxies reset here.
        let _ = stream.read(&mut [0; 64]);
    }
    Ok(latencies)
}
