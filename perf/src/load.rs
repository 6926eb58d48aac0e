//! The near end: a closed loop of NFS-shaped calls, as many outstanding as asked for.
//!
//! Each connection has a thread that writes calls and one that reads replies. Payloads come from one buffer and go to
//! one that nobody looks at: the load must cost less than the proxy that it loads.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use hdrhistogram::Histogram;

use crate::now;
use crate::rpc::{Kind, Replies, put_call};

/// Nothing may take longer: a reply, room in the socket, the FIN at the end.
const PATIENCE: Duration = Duration::from_secs(10);
/// The load goes on for so long behind the window, so that who watches can look before it ends.
const COOL_DOWN: Duration = Duration::from_millis(200);
/// Bits of the xid that name the slot.
const SLOT_BITS: u32 = 8;
const LATENCY_NS_MAX: u64 = 60_000_000_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Where the proxy, or `server --plain`, listens: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) connect: SocketAddr,

    /// What the calls do
    #[arg(long, value_enum)]
    pub(crate) kind: Kind,

    /// Bytes of payload in each READ or WRITE, a multiple of 4
    #[arg(long, default_value = "1048576", value_parser = parse_payload)]
    pub(crate) size: u32,

    /// Calls outstanding on each connection
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u32).range(1..=1 << SLOT_BITS))]
    pub(crate) depth: u32,

    /// Connections
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) connections: u32,

    /// Length of the window that is measured
    #[arg(long, default_value = "3", value_parser = crate::compare::parse_seconds)]
    pub(crate) seconds: Duration,

    /// Load before the window
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = crate::compare::parse_seconds)]
    pub(crate) warm_up: Duration,
}

fn parse_payload(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(size) if size % 4 == 0 && (4..=1 << 20).contains(&size) => Ok(size),
        _ => Err("not a multiple of 4 from 4 to 1048576".into()),
    }
}

/// What all connections count.
struct Totals {
    ops: AtomicU64,
    measuring: AtomicBool,
    stopping: AtomicBool,
}

/// One connection, shared by its two threads.
struct Lane {
    stream: TcpStream,
    options: Options,
    totals: Arc<Totals>,
    started: Instant,
    /// When the call in each slot was made, in nanoseconds since `started`.
    made_ns: Vec<AtomicU64>,
    /// The slots without an outstanding call.
    free: Mutex<Vec<u32>>,
    freed: Condvar,
}

impl Lane {
    fn open(options: &Options, totals: &Arc<Totals>) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&options.connect, PATIENCE)
            .with_context(|| format!("connecting to {}", options.connect))?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        stream.set_read_timeout(Some(PATIENCE)).context("SO_RCVTIMEO")?;
        stream.set_write_timeout(Some(PATIENCE)).context("SO_SNDTIMEO")?;
        Ok(Self {
            stream,
            options: options.clone(),
            totals: Arc::clone(totals),
            started: now(),
            made_ns: (0..options.depth).map(|_| AtomicU64::new(0)).collect(),
            free: Mutex::new((0..options.depth).collect()),
            freed: Condvar::new(),
        })
    }

    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age_ns(&self) -> u64 {
        (now() - self.started).as_nanos() as u64 // 584 years
    }

    /// Waits until at least `wanted` slots are free.
    fn wait_for_slots(&self, wanted: usize) -> Result<MutexGuard<'_, Vec<u32>>> {
        let waited = self.freed.wait_timeout_while(self.free(), PATIENCE, |free| free.len() < wanted);
        let (free, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            bail!("no reply for {} s, {} calls outstanding", PATIENCE.as_secs(), self.outstanding(&free));
        }
        Ok(free)
    }

    fn outstanding(&self, free: &[u32]) -> usize {
        self.options.depth as usize - free.len()
    }

    /// Makes calls until told to stop, waits for the last reply, and closes our direction.
    fn write(&self) -> Result<()> {
        let Options { kind, size, depth, .. } = self.options;
        let payload = vec![0x5a; if kind == Kind::Write { size as usize } else { 0 }];
        let mut heads = Vec::new();
        let mut generation = 0_u32;
        let mut slots = Vec::new();
        while !self.totals.stopping.load(Ordering::Relaxed) {
            slots.append(&mut *self.wait_for_slots(1)?);
            for slot in slots.drain(..) {
                generation = generation.wrapping_add(1);
                if let Some(made) = self.made_ns.get(slot as usize) {
                    made.store(self.age_ns(), Ordering::Relaxed);
                }
                put_call(&mut heads, kind, generation << SLOT_BITS | slot, slot, size);
                if kind == Kind::Write {
                    self.send(&heads, &payload)?;
                    heads.clear();
                }
            }
            self.send(&heads, &[])?;
            heads.clear();
        }
        drop(self.wait_for_slots(depth as usize)?);
        self.stream.shutdown(Shutdown::Write).context("shutdown")
    }

    fn send(&self, head: &[u8], payload: &[u8]) -> Result<()> {
        let mut both = [IoSlice::new(head), IoSlice::new(payload)];
        let mut rest = both.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0); // without the empty ones
        while !rest.is_empty() {
            match (&self.stream).write_vectored(rest).context("sending calls")? {
                0 => bail!("sending calls: nothing was taken"),
                count => IoSlice::advance_slices(&mut rest, count),
            }
        }
        Ok(())
    }

    /// Takes replies until the proxy closes.
    fn read(&self) -> Result<Done> {
        let mut buffer = vec![0; 1 << 20];
        let mut replies = Replies::new();
        let mut slots = Vec::new();
        let mut latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?;
        loop {
            let count = match (&self.stream).read(&mut buffer) {
                Ok(0) if self.outstanding(&self.free()) == 0 => return Ok(Done { latencies, end: "clean" }),
                Ok(0) => bail!("the connection was closed with calls outstanding"),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if self.totals.stopping.load(Ordering::Relaxed) && self.outstanding(&self.free()) == 0 => {
                    let end = if error.kind() == io::ErrorKind::ConnectionReset { "reset" } else { "no-fin" };
                    return Ok(Done { latencies, end });
                }
                Err(error) => return Err(error).context("receiving replies"),
            };
            replies.advance(buffer.get(..count).unwrap_or_default(), |xid| slots.push(xid % (1 << SLOT_BITS)))?;
            if slots.is_empty() {
                continue;
            }
            self.totals.ops.fetch_add(slots.len() as u64, Ordering::Relaxed);
            if self.totals.measuring.load(Ordering::Relaxed) {
                let age_ns = self.age_ns();
                for slot in &slots {
                    let made = self.made_ns.get(*slot as usize).ok_or_else(|| anyhow!("a reply to no call"))?;
                    latencies.saturating_record(age_ns.saturating_sub(made.load(Ordering::Relaxed)));
                }
            }
            self.free().append(&mut slots);
            self.freed.notify_one();
        }
    }
}

/// What a connection's reader hands over.
struct Done {
    latencies: Histogram<u64>,
    /// How the proxy closed the connection after ours was closed.
    end: &'static str,
}

/// Runs the load and prints one line.
///
/// `mark=begin` and `mark=end` are printed when the window begins and ends.
///
/// # Errors
/// The first failure on any connection.
pub(crate) fn run(options: &Options) -> Result<()> {
    let flag = || AtomicBool::new(false);
    let totals = Arc::new(Totals { ops: AtomicU64::new(0), measuring: flag(), stopping: flag() });
    let (report, reports) = mpsc::channel();
    for _ in 0..options.connections {
        let lane = Arc::new(Lane::open(options, &totals)?);
        let (writer, failure) = (Arc::clone(&lane), report.clone());
        thread::spawn(move || writer.write().map_err(|error| failure.send(Err(error))));
        let report = report.clone();
        thread::spawn(move || report.send(lane.read()));
    }
    wait(&reports, options.warm_up)?;
    let (began, before) = (now(), totals.ops.load(Ordering::Relaxed));
    totals.measuring.store(true, Ordering::Relaxed);
    println!("mark=begin");
    wait(&reports, options.seconds)?;
    let (seconds, ops) = ((now() - began).as_secs_f64(), totals.ops.load(Ordering::Relaxed) - before);
    totals.measuring.store(false, Ordering::Relaxed);
    println!("mark=end");
    wait(&reports, COOL_DOWN)?;
    totals.stopping.store(true, Ordering::Relaxed);
    let mut latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_NS_MAX, 3)?;
    let mut end = "clean";
    for _ in 0..options.connections {
        let done = reports.recv_timeout(3 * PATIENCE).context("a connection did not end")??;
        latencies.add(done.latencies)?;
        end = if done.end == "clean" { end } else { done.end };
    }
    print_result(options, ops, seconds, &latencies, end);
    Ok(())
}

/// Sleeps, unless something fails.
fn wait(reports: &mpsc::Receiver<Result<Done>>, time: Duration) -> Result<()> {
    match reports.recv_timeout(time) {
        Err(mpsc::RecvTimeoutError::Timeout) => Ok(()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => bail!("a connection ended early"),
    }
}

fn print_result(options: &Options, ops: u64, seconds: f64, latencies: &Histogram<u64>, end: &str) {
    let Options { kind, size, depth, connections, .. } = options;
    let bytes = if *kind == Kind::Getattr { 0 } else { ops * u64::from(*size) };
    let rate = bytes as f64 / f64::from(1 << 20) / seconds;
    let quantile_us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    let name = kind.name();
    println!(
        "kind={name} size={size} depth={depth} connections={connections} bytes={bytes} ops={ops} seconds={seconds:.4} \
         MiB/s={rate:.1} p50_us={:.1} p99_us={:.1} end={end}",
        quantile_us(0.5),
        quantile_us(0.99),
    );
}
