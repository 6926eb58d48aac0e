//! The near end: a closed loop of NFS-shaped calls, as many outstanding as asked for.
//!
//! Each connection has a thread that writes calls and one that reads replies; calls without a payload that follow a reply
//! are made by the latter itself. The load must cost less than the proxy that it loads: payloads are pages of a file in
//! memory that nobody copies on their way out, and are dropped where they arrive.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use hdrhistogram::Histogram;
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use socket2::SockRef;

use crate::rpc::{Kind, Replies, put_call};
use crate::work::Work;
use crate::{now, pattern};

/// Nothing may take longer: a reply, room in the socket, the FIN at the end.
const PATIENCE: Duration = Duration::from_secs(10);
/// The load goes on for so long behind the window, so that who watches can look before it ends.
const COOL_DOWN: Duration = Duration::from_millis(200);
/// Bits of the xid that name the slot.
const SLOT_BITS: u32 = 8;
/// What is told of the latencies.
pub(crate) const QUANTILES: [(&str, f64); 6] =
    [("p10", 0.1), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("max", 1.0)];
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// The longest payload.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// What is looked at of the replies at a time: many small ones, little of a payload.
const LOOK_BYTES: usize = 16 << 10;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Where the proxy, or `server --plain`, listens: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) connect: SocketAddr,

    /// What the calls do, and how many there are at a time
    #[arg(long, value_enum)]
    pub(crate) work: Work,

    /// Bytes of payload in each READ or WRITE instead, a multiple of 4
    #[arg(long, value_parser = parse_payload)]
    pub(crate) size: Option<u32>,

    /// Calls outstanding on each connection instead
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1 << SLOT_BITS))]
    pub(crate) depth: Option<u32>,

    /// Connections instead
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) connections: Option<u32>,

    /// Make so many calls a second on each connection, whether or not replies come in time: latency then counts from the
    /// time at which a call was to be made
    #[arg(long, value_name = "CALLS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,

    /// Compare every byte of the payloads with what `server --verify` sends, and send such as it compares. What this costs
    /// is more than what is measured may cost
    #[arg(long)]
    pub(crate) verify: bool,

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

impl Options {
    fn depth(&self) -> u32 {
        self.depth.unwrap_or(self.work.depth())
    }

    fn connections(&self) -> u32 {
        self.connections.unwrap_or(self.work.connections())
    }
}

/// What all connections count.
struct Totals {
    ops: AtomicU64,
    bytes: AtomicU64,
    measuring: AtomicBool,
    stopping: AtomicBool,
    /// What all of them send: were it one of each connection's own, many connections would send from memory and one from
    /// the cache, and the proxy would be charged for it.
    payload: File,
}

/// One connection, shared by its two threads.
struct Lane {
    stream: TcpStream,
    options: Options,
    totals: Arc<Totals>,
    started: Instant,
    /// When the call in each slot was made, in nanoseconds since `started`.
    made_ns: Vec<AtomicU64>,
    /// The payload of the call in each slot.
    payload: Vec<AtomicU64>,
    /// The payload that its reply has.
    read_bytes: Vec<AtomicU64>,
    /// Replies so far.
    replies: AtomicU64,
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
            made_ns: (0..options.depth()).map(|_| AtomicU64::new(0)).collect(),
            payload: (0..options.depth()).map(|_| AtomicU64::new(0)).collect(),
            read_bytes: (0..options.depth()).map(|_| AtomicU64::new(0)).collect(),
            replies: AtomicU64::new(0),
            free: Mutex::new((0..options.depth()).collect()),
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
        self.options.depth() as usize - free.len()
    }

    /// Whether replies are followed by calls at once, which the reader makes.
    fn is_echoing(&self) -> bool {
        self.options.rate.is_none() && !matches!(self.options.work, Work::Write | Work::Mixed)
    }

    /// Appends the call `number` in `slot`, made at `due_ns` or now; its payload.
    fn put(&self, heads: &mut Vec<u8>, number: u32, slot: u32, due_ns: Option<u64>) -> (Kind, u32) {
        let (kind, size) = self.options.work.call(number, self.options.size);
        if let (Some(made), Some(bytes)) = (self.made_ns.get(slot as usize), self.payload.get(slot as usize)) {
            made.store(due_ns.unwrap_or_else(|| self.age_ns()), Ordering::Relaxed);
            bytes.store(u64::from(size), Ordering::Relaxed);
        }
        if let Some(bytes) = self.read_bytes.get(slot as usize) {
            bytes.store(if kind == Kind::Read { u64::from(size) } else { 0 }, Ordering::Relaxed);
        }
        let xid = number.wrapping_add(1) << SLOT_BITS | slot;
        put_call(heads, kind, xid, slot, size);
        if self.options.verify && kind == Kind::Write {
            pattern::put(heads, xid, size as usize);
        }
        (kind, size)
    }

    /// Makes calls until told to stop, waits for the last reply, and closes our direction.
    fn write(&self) -> Result<()> {
        let depth = self.options.depth() as usize;
        let mut heads = Vec::new();
        let mut number = 0_u32;
        let mut slots = Vec::new();
        while !self.totals.stopping.load(Ordering::Relaxed) {
            let due_ns = self.options.rate.map(|rate| self.wait_until_due(number, rate));
            {
                let mut free = self.wait_for_slots(1)?;
                let keep = if due_ns.is_some() { free.len() - 1 } else { 0 };
                slots.extend(free.drain(keep..));
            }
            for slot in slots.drain(..) {
                let (kind, size) = self.put(&mut heads, number, slot, due_ns);
                number = number.wrapping_add(1);
                if kind == Kind::Write && !self.options.verify {
                    self.send_with(&heads, size as usize)?;
                    heads.clear();
                }
            }
            self.send(&heads)?;
            heads.clear();
            if self.is_echoing() {
                break;
            }
        }
        if self.is_echoing() {
            self.wait_for_stop(depth)?;
        }
        drop(self.wait_for_slots(depth)?);
        self.stream.shutdown(Shutdown::Write).context("shutdown")
    }

    /// Waits until the call `number` is due, and returns when that was: not when it came to be made.
    fn wait_until_due(&self, number: u32, rate: u32) -> u64 {
        let due_ns = u64::from(number) * 1_000_000_000 / u64::from(rate);
        loop {
            match due_ns.saturating_sub(self.age_ns()) {
                0 => return due_ns,
                // A sleep is late by about this: the rest is waited for awake.
                left if left > 100_000 => thread::sleep(Duration::from_nanos(left - 80_000)),
                _ => std::hint::spin_loop(),
            }
        }
    }

    /// Waits while the reader makes the calls: until told to stop, as long as there are replies.
    fn wait_for_stop(&self, depth: usize) -> Result<()> {
        let mut replies = 0;
        loop {
            let waited = self.freed.wait_timeout_while(self.free(), PATIENCE, |free| free.len() < depth);
            let (free, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if free.len() == depth {
                return Ok(());
            }
            let replies_now = self.replies.load(Ordering::Relaxed);
            if timeout.timed_out() && replies_now == replies {
                bail!("no reply for {} s, {} calls outstanding", PATIENCE.as_secs(), self.outstanding(&free));
            }
            replies = replies_now;
        }
    }

    fn send(&self, head: &[u8]) -> Result<()> {
        (&self.stream).write_all(head).context("sending calls")
    }

    /// Sends `size` bytes of payload behind `head`.
    fn send_with(&self, mut head: &[u8], size: usize) -> Result<()> {
        let socket = SockRef::from(&self.stream);
        while !head.is_empty() {
            match socket.send_with_flags(head, libc::MSG_MORE | libc::MSG_NOSIGNAL) {
                Ok(count) => head = head.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending a call"),
            }
        }
        let mut sent = 0;
        while let Some(left) = NonZeroUsize::new(size - sent) {
            match socket.sendfile(&self.totals.payload, sent, Some(left)) {
                Ok(0) => bail!("sending a payload: nothing was taken"),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending a payload"),
            }
        }
        Ok(())
    }

    /// Drops up to `count` bytes that have come, without copying them.
    fn drop_bytes(&self, scratch: &mut [MaybeUninit<u8>], count: usize) -> io::Result<usize> {
        let place = scratch.get_mut(..count.min(PAYLOAD_BYTES_MAX)).unwrap_or_default();
        SockRef::from(&self.stream).recv_with_flags(place, libc::MSG_TRUNC)
    }

    /// Takes replies until the proxy closes.
    fn read(&self) -> Result<Done> {
        let mut buffer = vec![0; LOOK_BYTES];
        // Never touched: so it takes no memory.
        let mut scratch = vec![MaybeUninit::uninit(); PAYLOAD_BYTES_MAX];
        let mut replies = Replies::new();
        let (mut slots, mut heads) = (Vec::new(), Vec::new());
        let mut number = self.options.depth();
        let mut latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?;
        loop {
            // To be compared, they are to be received.
            let left = if self.options.verify { 0 } else { replies.left() };
            let received = match left {
                0 => (&self.stream).read(&mut buffer),
                _ => self.drop_bytes(&mut scratch, left),
            };
            let count = match received {
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
            let found = |xid| slots.push(xid % (1 << SLOT_BITS));
            let read_bytes = |xid| {
                let slot = self.read_bytes.get((xid % (1 << SLOT_BITS)) as usize);
                slot.map_or(0, |bytes| bytes.load(Ordering::Relaxed) as usize)
            };
            match left {
                0 if self.options.verify => {
                    replies.advance_and_compare(buffer.get(..count).unwrap_or_default(), read_bytes, found)?;
                }
                0 => replies.advance(buffer.get(..count).unwrap_or_default(), found)?,
                _ => replies.skip(count, found)?,
            }
            if slots.is_empty() {
                continue;
            }
            self.count(&slots, &mut latencies)?;
            if self.is_echoing() && !self.totals.stopping.load(Ordering::Relaxed) {
                for slot in slots.drain(..) {
                    self.put(&mut heads, number, slot, None);
                    number = number.wrapping_add(1);
                }
                self.send(&heads)?;
                heads.clear();
            } else {
                self.free().append(&mut slots);
                self.freed.notify_one();
            }
        }
    }

    /// Counts the calls in `slots`, which have been answered.
    fn count(&self, slots: &[u32], latencies: &mut Histogram<u64>) -> Result<()> {
        self.replies.fetch_add(slots.len() as u64, Ordering::Relaxed);
        self.totals.ops.fetch_add(slots.len() as u64, Ordering::Relaxed);
        let bytes = slots.iter().filter_map(|slot| self.payload.get(*slot as usize));
        self.totals.bytes.fetch_add(bytes.map(|bytes| bytes.load(Ordering::Relaxed)).sum(), Ordering::Relaxed);
        if self.totals.measuring.load(Ordering::Relaxed) {
            let age_ns = self.age_ns();
            for slot in slots {
                let made = self.made_ns.get(*slot as usize).ok_or_else(|| anyhow!("a reply to no call"))?;
                latencies.saturating_record(age_ns.saturating_sub(made.load(Ordering::Relaxed)));
            }
        }
        Ok(())
    }
}

/// A file in memory, as long as the longest payload.
fn payload() -> Result<File> {
    let mut file = File::from(memfd_create(c"payload", MFdFlags::MFD_CLOEXEC).context("memfd_create")?);
    file.write_all(&vec![0x5a; PAYLOAD_BYTES_MAX]).context("a file in memory")?;
    Ok(file)
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
    let (ops, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let totals = Arc::new(Totals { ops, bytes, measuring: flag(), stopping: flag(), payload: payload()? });
    let (report, reports) = mpsc::channel();
    for _ in 0..options.connections() {
        let lane = Arc::new(Lane::open(options, &totals)?);
        let (writer, failure) = (Arc::clone(&lane), report.clone());
        thread::spawn(move || writer.write().map_err(|error| failure.send(Err(error))));
        let report = report.clone();
        thread::spawn(move || report.send(lane.read()));
    }
    wait(&reports, options.warm_up)?;
    let counts = || [&totals.ops, &totals.bytes].map(|count| count.load(Ordering::Relaxed));
    let (began, before) = (now(), counts());
    totals.measuring.store(true, Ordering::Relaxed);
    println!("mark=begin");
    wait(&reports, options.seconds)?;
    let (seconds, after) = ((now() - began).as_secs_f64(), counts());
    totals.measuring.store(false, Ordering::Relaxed);
    println!("mark=end");
    wait(&reports, COOL_DOWN)?;
    totals.stopping.store(true, Ordering::Relaxed);
    let mut latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_NS_MAX, 3)?;
    let mut end = "clean";
    for _ in 0..options.connections() {
        let done = reports.recv_timeout(3 * PATIENCE).context("a connection did not end")??;
        latencies.add(done.latencies)?;
        end = if done.end == "clean" { end } else { done.end };
    }
    let [ops, bytes] = [0, 1].map(|index: usize| after[index] - before[index]);
    print_result(options, ops, bytes, seconds, &latencies, end);
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

fn print_result(options: &Options, ops: u64, bytes: u64, seconds: f64, latencies: &Histogram<u64>, end: &str) {
    let (work, depth, connections) = (options.work.name(), options.depth(), options.connections());
    let rate = bytes as f64 / f64::from(1 << 20) / seconds;
    let quantiles = QUANTILES.map(|(name, quantile)| {
        let us = latencies.value_at_quantile(quantile) as f64 / 1000.0;
        format!("{name}_us={us:.1}")
    });
    println!(
        "work={work} depth={depth} connections={connections} bytes={bytes} ops={ops} seconds={seconds:.4} \
         MiB/s={rate:.1} {} end={end}",
        quantiles.join(" "),
    );
}
