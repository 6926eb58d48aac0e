//! TLS clients that say their ClientHello a byte at a time and never finish it, beside clients that mean it.
//!
//! Windows without and with them take turns, so that what else happens on the host meets both; what counts is the ratio
//! of the two medians of one run.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use sealane_selftest::load::{Kind, Load, Prepared, Progress, Until, Workload, run as run_load};
use sealane_selftest::{Session, SessionOptions};

use crate::growth::SETTLE_MAX;
use crate::lab::{Lab, total};
use crate::now;
use crate::peer::{End, Peer};

/// Between two bytes of one slow client. 300 of them are 6,000 bytes, each a wake-up, a second.
const BYTE_PAUSE: Duration = Duration::from_millis(50);
/// Honest connections that are opened in a second meanwhile.
const VISIT_PAUSE: Duration = Duration::from_millis(50);
/// Windows of each kind.
const ROUNDS: usize = 3;
/// With slow clients, throughput is at least this part of what it is without: they cost processor time too.
const THROUGHPUT_PART_MIN: f64 = 0.6;
/// With slow clients, latencies are at most this many times those without.
const LATENCY_TIMES_MAX: f64 = 3.0;
/// Latencies below this are as good as each other: a host with two cores and three processes has such gaps by itself.
const LATENCY_FLOOR_MS: f64 = 20.0;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Slow clients: more than may shake hands, so that they drive each other out all the time
    #[arg(long, value_name = "N", default_value = "300", value_parser = clap::value_parser!(u64).range(1..=5000))]
    slow: u64,

    /// Length of each of the six windows, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// What one window saw.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    mib_per_second: f64,
    call_ms: f64,
    visit_ms: f64,
}

/// Runs the windows and compares.
///
/// # Errors
/// Honest clients that were not served, or noticeably worse.
pub(crate) fn run(sealane: &Path, driver: &str, options: &Options) -> Result<String> {
    let mut lab = Lab::start(sealane, driver, 256, &[])?;
    let window = Duration::from_secs(options.seconds);
    let (mut quiet, mut beset) = (Vec::new(), Vec::new());
    let workload = Workload { files: 2, file_bytes: 8 << 20, ..Workload::default() };
    let mut bulk = Session::open(lab.client.address, &SessionOptions::default())?;
    let files = workload.prepare(&mut bulk)?;
    files.write(&mut bulk, 0, &Progress::default())?;
    let mut calls = Session::open(lab.client.address, &SessionOptions::default())?;
    honest(&lab, &files, &mut bulk, &mut calls, window / 2).context("warm-up")?;
    let mut slow_bytes = 0;
    for _ in 0..ROUNDS {
        quiet.push(honest(&lab, &files, &mut bulk, &mut calls, window).context("without slow clients")?);
        let stop = AtomicBool::new(false);
        let (seen, said) = thread::scope(|scope| {
            let crowd = scope.spawn(|| crowd(lab.server.address, options.slow as usize, &stop));
            let seen = honest(&lab, &files, &mut bulk, &mut calls, window);
            stop.store(true, Ordering::Relaxed);
            (seen, joined(crowd))
        });
        beset.push(seen.context("with slow clients")?);
        slow_bytes += said.context("slow clients")?;
    }
    files.remove(&mut bulk)?;
    bulk.close()?;
    calls.close()?;
    lab.settle(None, SETTLE_MAX)?;
    lab.client.terminate()?;
    let totals = lab.server.terminate()?;
    let evicted = total(&totals, "handshakes_evicted_total");
    ensure!(evicted > 0 && slow_bytes > options.slow, "the slow clients were none: {slow_bytes} bytes, {totals}");
    judge(&quiet, &beset, evicted)
}

/// The ratios of the medians.
fn judge(quiet: &[Seen], beset: &[Seen], evicted: u64) -> Result<String> {
    let of = |seen: &[Seen], pick: fn(&Seen) -> f64| median(seen.iter().map(pick).collect());
    let times = |pick: fn(&Seen) -> f64| {
        let (without, with) = (of(quiet, pick), of(beset, pick));
        (without, with, with.max(LATENCY_FLOOR_MS) / without.max(LATENCY_FLOOR_MS))
    };
    let (rate, rate_beset) = (of(quiet, |seen| seen.mib_per_second), of(beset, |seen| seen.mib_per_second));
    let part = rate_beset / rate.max(f64::MIN_POSITIVE);
    let (call, call_beset, call_times) = times(|seen| seen.call_ms);
    let (visit, visit_beset, visit_times) = times(|seen| seen.visit_ms);
    let figures = format!(
        "without and with slow clients ({evicted} of them evicted): READ {rate:.0} and {rate_beset:.0} MiB/s, \
         p99 of GETATTR {call:.1} and {call_beset:.1} ms, p90 of a new connection {visit:.1} and {visit_beset:.1} ms"
    );
    if part < THROUGHPUT_PART_MIN || call_times > LATENCY_TIMES_MAX || visit_times > LATENCY_TIMES_MAX {
        bail!("{figures}; wanted: {THROUGHPUT_PART_MIN} of the throughput, {LATENCY_TIMES_MAX} times the latency");
    }
    Ok(figures)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_panic| Err(anyhow!("a thread panicked")))
}

/// Honest clients for `window`: one reads and compares, one makes small calls, others come and go.
fn honest(lab: &Lab, files: &Prepared<'_>, bulk: &mut Session, calls: &mut Session, window: Duration) -> Result<Seen> {
    let load = |kind, payload_bytes, depth| Load {
        kind,
        files: files.files(),
        file_bytes: 8 << 20,
        payload_bytes,
        depth,
        until: Until::Elapsed(window),
    };
    let end = now() + window;
    thread::scope(|scope| {
        let read = load(Kind::Read { verify: Some(0) }, 1 << 20, 4);
        let reading = scope.spawn(move || Ok(run_load(bulk, &read, &Progress::default())?));
        let getattr = load(Kind::Getattr, 4, 1);
        let calling = scope.spawn(move || Ok(run_load(calls, &getattr, &Progress::default())?));
        let visiting = scope.spawn(|| -> Result<Vec<f64>> {
            let mut ms = Vec::new();
            while now() < end {
                let began = now();
                let mut peer = Peer::connect(lab.client.address)?;
                peer.calls(1).context("a new connection")?;
                ms.push((now() - began).as_secs_f64() * 1e3);
                peer.end(End::Orderly)?;
                thread::sleep(VISIT_PAUSE);
            }
            Ok(ms)
        });
        let (read, calls, mut visits) = (joined(reading)?, joined(calling)?, joined(visiting)?);
        visits.sort_by(f64::total_cmp);
        let visit_ms = visits.get(visits.len() * 9 / 10).copied().context("nobody came")?;
        Ok(Seen { mib_per_second: read.mib_per_second(), call_ms: calls.latency(0.99).as_secs_f64() * 1e3, visit_ms })
    })
}

/// The first flight of a real client.
fn client_hello() -> Result<Vec<u8>> {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = ServerName::try_from("nfs.test").context("a name")?;
    let mut client = ClientConnection::new(Arc::new(config), name)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    Ok(hello)
}

/// `slow` clients, each of which says a byte of its ClientHello now and then, but never the last, and comes again when it
/// was thrown out. Returns how many bytes they have said.
fn crowd(server: SocketAddr, slow: usize, stop: &AtomicBool) -> Result<u64> {
    let hello = client_hello()?;
    let said = AtomicU64::new(0);
    let mut clients: Vec<Option<(TcpStream, usize)>> = (0..slow).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        for client in &mut clients {
            let Some((stream, at)) = client else {
                // One may be thrown out before it knows that it was let in.
                if let Ok(stream) = TcpStream::connect_timeout(&server, Duration::from_secs(5)) {
                    stream.set_nonblocking(true)?;
                    *client = Some((stream, 0));
                }
                continue;
            };
            let last = hello.len() - 1;
            let byte = hello.get(*at..*at + 1).filter(|_| *at < last).unwrap_or_default();
            // One that has said all but the last byte waits for being thrown out.
            if is_gone(stream) || stream.write_all(byte).is_err() {
                *client = None;
            } else if !byte.is_empty() {
                *at += 1;
                said.fetch_add(1, Ordering::Relaxed);
            }
        }
        thread::sleep(BYTE_PAUSE);
    }
    Ok(said.into_inner())
}

/// Whether the server has ended the connection; it says nothing else before the ClientHello is whole.
fn is_gone(mut stream: &TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 64]), Err(error) if is_wait(&error))
}

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(mib_per_second: f64, call_ms: f64, visit_ms: f64) -> Seen {
        Seen { mib_per_second, call_ms, visit_ms }
    }

    #[test]
    fn the_median_decides_and_small_latencies_are_all_the_same() {
        let quiet = [seen(500.0, 1.0, 5.0), seen(1.0, 90.0, 90.0), seen(510.0, 1.1, 6.0)];
        assert!(judge(&quiet, &[seen(400.0, 5.0, 19.0); 3], 1).is_ok());
        assert!(judge(&quiet, &[seen(290.0, 1.0, 5.0); 3], 1).is_err());
        assert!(judge(&quiet, &[seen(500.0, 61.0, 5.0); 3], 1).is_err());
        assert!(judge(&quiet, &[seen(500.0, 1.0, 61.0); 3], 1).is_err());
    }

    #[test]
    fn a_client_hello_is_one_record_of_some_hundred_bytes() {
        let hello = client_hello().unwrap();
        assert_eq!(hello.first_chunk::<2>(), Some(&[22, 3]));
        assert!((150..2000).contains(&hello.len()), "{} bytes", hello.len());
    }
}
