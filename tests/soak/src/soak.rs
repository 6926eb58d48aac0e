//! All kinds of load together, for a long time: big and small calls whose bytes are compared, connections that come and
//! go in every way, connections that are idle.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use sealane_selftest::load::{Progress, Workload};
use sealane_selftest::{Session, SessionOptions};

use crate::growth;
use crate::lab::Lab;
use crate::now;
use crate::peer::{End, Peer, visit};
use crate::plot::{Row, draw};
use crate::sample::Sample;

/// Connections that each tunnel may have; far more than there are.
const CONNECTIONS_MAX: usize = 256;
/// Connections that do nothing but make a call now and then.
const IDLE: usize = 40;
const IDLE_PAUSE: Duration = Duration::from_secs(20);
/// Between two that come and go.
const VISIT_PAUSE: Duration = Duration::from_millis(100);
/// A session of the small calls, and one of the big ones, is opened anew after so many passes.
const PASSES: u32 = 50;
/// The part of the time after which everything has its size: caches are full, every buffer was lent once.
const WARM_UP_PART: f64 = 0.2;
/// What is compared: the mean of this part of the time behind the warm-up, and of the last.
const COMPARED_PART: f64 = 0.2;
/// By how much the mean of resident memory may grow from the one to the other.
const RSS_KIB_MAX: f64 = 1024.0;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How long, in seconds; in less than four minutes not everything has its size yet
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = clap::value_parser!(u64).range(240..=864_000))]
    seconds: u64,

    /// Between two samples, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = clap::value_parser!(u64).range(1..=600))]
    every: u64,

    /// The directory for samples.csv and the curves
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What the loads have done, and whether they have to end.
#[derive(Default)]
struct Done {
    stop: AtomicBool,
    /// Payload bytes that came back as they were written.
    bytes: AtomicU64,
    sessions: AtomicU64,
    visits: AtomicU64,
    idle_calls: AtomicU64,
}

impl Done {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps, but not beyond the end.
    fn pause(&self, time: Duration) {
        let until = now() + time;
        while !self.is_over() && now() < until {
            thread::sleep(Duration::from_millis(50).min(time));
        }
    }

    fn add(total: &AtomicU64, count: u64) {
        total.fetch_add(count, Ordering::Relaxed);
    }
}

/// Soaks one pair of tunnels for each driver, all at the same time.
///
/// # Errors
/// The first load that failed, or what has grown.
pub(crate) fn run(sealane: &Path, drivers: &[&str], options: &Options) -> Result<String> {
    fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let labs: Vec<_> = drivers.iter().map(|driver| Lab::start(sealane, driver, CONNECTIONS_MAX, &[])).collect();
    let mut labs: Vec<Lab> = labs.into_iter().collect::<Result<_>>()?;
    let fresh: Vec<_> = labs.iter().map(|lab| lab.settle(None, growth::SETTLE_MAX)).collect::<Result<_>>()?;
    let done = Done::default();
    let began = now();
    let rows = thread::scope(|scope| {
        let (done, mut loads) = (&done, Vec::new());
        for lab in &labs {
            for load in [big, small, comers, idle] {
                loads.push(scope.spawn(move || {
                    let ended = load(lab, done);
                    // One that failed ends the others.
                    done.stop.store(true, Ordering::Relaxed);
                    ended
                }));
            }
        }
        let rows = watch(&labs, drivers, options, done, began);
        done.stop.store(true, Ordering::Relaxed);
        for load in loads {
            load.join().unwrap_or_else(|_panic| Err(anyhow!("a thread panicked")))?;
        }
        rows
    })?;
    let took = now() - began;
    for (title, file, value) in CURVES {
        draw(&options.out.join(file), title, &rows, value)?;
    }
    ensure!(took.as_secs() >= options.seconds, "ended after {} s", took.as_secs());
    let grown = compare(&rows, took.as_secs_f64())?;
    for (lab, fresh) in labs.iter_mut().zip(&fresh) {
        // Memory was judged above; threads that were started on the way may stay.
        let rest = fresh.map(|sample| Sample { fds: sample.fds + 2, threads: sample.threads + 2, ..sample });
        growth::check(lab, &rest, u64::MAX)?;
        lab.client.terminate()?;
        lab.server.terminate()?;
    }
    let count = |total: &AtomicU64| total.load(Ordering::Relaxed);
    Ok(format!(
        "{} s, {} MiB compared, {} sessions, {} connections came and went, {} calls of idle ones; \
         mean RSS by at most {grown:+.0} KiB, descriptors and threads as at the start",
        took.as_secs(),
        count(&done.bytes) >> 20,
        count(&done.sessions),
        count(&done.visits),
        count(&done.idle_calls),
    ))
}

/// Title, file and value of a curve.
type Curve = (&'static str, &'static str, fn(&Sample) -> f64);

const CURVES: [Curve; 3] = [
    ("Resident memory, KiB", "rss.svg", |sample| sample.rss_kib as f64),
    ("File descriptors", "fds.svg", |sample| sample.fds as f64),
    ("Threads", "threads.svg", |sample| sample.threads as f64),
];

/// Takes samples until the time is over or a load has failed; each is in the file as soon as it was taken.
fn watch(labs: &[Lab], drivers: &[&str], options: &Options, done: &Done, began: Instant) -> Result<Vec<Row>> {
    let path = options.out.join("samples.csv");
    let mut file = fs::File::create(&path).with_context(|| path.display().to_string())?;
    writeln!(file, "seconds,process,rss_kib,fds,threads,mib_compared,connections")?;
    let mut rows = Vec::new();
    while !done.is_over() && (now() - began).as_secs() < options.seconds {
        for (lab, driver) in labs.iter().zip(drivers) {
            for (name, tunnel) in lab.tunnels() {
                let (seconds, sample) = ((now() - began).as_secs_f64(), tunnel.sample()?);
                let (mib, visits) = (done.bytes.load(Ordering::Relaxed) >> 20, done.visits.load(Ordering::Relaxed));
                let Sample { rss_kib, fds, threads } = sample;
                let process = format!("{name}-{driver}");
                writeln!(file, "{seconds:.1},{process},{rss_kib},{fds},{threads},{mib},{visits}")?;
                rows.push(Row { seconds, process, sample });
            }
        }
        done.pause(Duration::from_secs(options.every));
    }
    Ok(rows)
}

/// The mean of each process's resident memory behind the warm-up and at the end: by how much the worst has grown.
fn compare(rows: &[Row], seconds: f64) -> Result<f64> {
    let mean = |process: &str, from: f64| {
        let inside =
            |row: &&Row| row.process == process && (from..=from + COMPARED_PART).contains(&(row.seconds / seconds));
        let values: Vec<f64> = rows.iter().filter(inside).map(|row| row.sample.rss_kib as f64).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let mut worst = f64::NEG_INFINITY;
    for row in rows.iter().take_while(|row| row.seconds < 1.0) {
        let name = row.process.as_str();
        let means = mean(name, WARM_UP_PART).zip(mean(name, 1.0 - COMPARED_PART));
        let (before, after) = means.context("there are too few samples to compare")?;
        ensure!(
            after - before <= RSS_KIB_MAX,
            "{name} has grown from {before:.0} to {after:.0} KiB on average (at most {RSS_KIB_MAX})"
        );
        worst = worst.max(after - before);
    }
    Ok(worst)
}

/// Payloads of 1 MiB, eight at a time.
fn big(lab: &Lab, done: &Done) -> Result<()> {
    let workload = Workload { directory: "big".into(), files: 4, file_bytes: 4 << 20, ..Workload::default() };
    work(lab, done, 2, &workload, Duration::ZERO).context("big calls")
}

/// Payloads of 4 KiB, sixteen at a time.
fn small(lab: &Lab, done: &Done) -> Result<()> {
    let workload = Workload {
        directory: "small".into(),
        files: 2,
        file_bytes: 256 << 10,
        payload_bytes: 4 << 10,
        depth: 16,
        ..Workload::default()
    };
    work(lab, done, 1, &workload, Duration::from_millis(100)).context("small calls")
}

fn work(lab: &Lab, done: &Done, connections: usize, workload: &Workload, pause: Duration) -> Result<()> {
    // All loads share one core: a reply may wait for its turn.
    let patience = Duration::from_secs(60);
    let options = SessionOptions { connections, patience, ..SessionOptions::default() };
    let mut pass = 0;
    while !done.is_over() {
        let mut session = Session::open(lab.client.address, &options)?;
        let files = workload.prepare(&mut session)?;
        for _ in 0..PASSES {
            files.write(&mut session, pass, &Progress::default())?;
            Done::add(&done.bytes, files.read(&mut session, pass, &Progress::default())?.bytes);
            files.getattr(&mut session, workload.depth, 200, &Progress::default())?;
            pass += 1;
            if done.is_over() {
                break;
            }
            done.pause(pause);
        }
        files.remove(&mut session)?;
        session.close()?;
        Done::add(&done.sessions, 1);
    }
    Ok(())
}

fn comers(lab: &Lab, done: &Done) -> Result<()> {
    for number in 0.. {
        if done.is_over() {
            break;
        }
        visit(lab.client.address, number).with_context(|| format!("connection {number}"))?;
        Done::add(&done.visits, 1);
        done.pause(VISIT_PAUSE);
    }
    Ok(())
}

fn idle(lab: &Lab, done: &Done) -> Result<()> {
    let mut peers: Vec<Peer> = (0..IDLE).map(|_| Peer::connect(lab.client.address)).collect::<Result<_>>()?;
    while !done.is_over() {
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.calls(1).with_context(|| format!("idle connection {number}"))?;
            Done::add(&done.idle_calls, 1);
        }
        done.pause(IDLE_PAUSE);
    }
    peers.into_iter().try_for_each(|peer| peer.end(End::Orderly))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_behind_the_warm_up_is_found_and_growth_before_it_is_not() {
        let rows = |rss_kib: fn(u64) -> u64| -> Vec<Row> {
            let sample = |second| Sample { rss_kib: rss_kib(second), fds: 9, threads: 3 };
            let row = |second| Row { seconds: second as f64, process: "client".into(), sample: sample(second) };
            (0..100).map(row).collect()
        };
        assert!(compare(&rows(|second| 10_000 + 500 * second.min(20)), 100.0).is_ok());
        assert!(compare(&rows(|second| 10_000 + 10 * second), 100.0).is_ok());
        // 60 s from the middle of the one part to the middle of the other.
        assert!(compare(&rows(|second| 10_000 + 20 * second), 100.0).is_err());
        assert!(compare(&[], 100.0).is_ok_and(|grown| grown == f64::NEG_INFINITY));
    }
}
