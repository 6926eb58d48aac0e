//! A closed loop of calls on the connections of a session, as many outstanding as asked for, measured.
//!
//! Each connection has a thread that reads replies and decides what is called next, and for WRITE one that lays out and
//! sends payloads. Calls without a payload are sent by the former itself: they fit into a socket's buffer, so sending
//! them never waits for the replies that it has to read.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::client::{ClientError, OpenFile, Session};
use crate::clock;
use crate::pattern::Mismatch;

mod lane;
mod workload;

pub use workload::{Prepared, Report, Workload};

/// Latencies above this are counted as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What the calls do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// READ; the payload is compared with the pattern of `pass`, unless that is `None`.
    Read {
        /// The pass whose pattern must be there.
        verify: Option<u32>,
    },
    /// WRITE, unstable, of the pattern of `pass`.
    Write {
        /// The pass whose pattern is written.
        pass: u32,
    },
    /// GETATTR of what a client needs to keep its cache.
    Getattr,
}

/// When the load ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Until {
    /// After so many calls.
    Calls(u64),
    /// When no call was begun for so long after the first.
    Elapsed(Duration),
}

/// A file that the load is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct File {
    /// Its number in the pattern.
    pub number: u32,
    /// The file, open for what is to be done.
    pub open: OpenFile,
}

/// The load: call number `n` is about payload number `n`, counted through all files and again from the first.
#[derive(Clone, Debug)]
pub struct Load<'f> {
    /// What the calls do.
    pub kind: Kind,
    /// What they are about.
    pub files: &'f [File],
    /// The length of each file, a multiple of `payload_bytes`.
    pub file_bytes: u64,
    /// Bytes of each READ or WRITE, a multiple of 4.
    pub payload_bytes: u32,
    /// Calls outstanding on each connection.
    pub depth: usize,
    /// When to end.
    pub until: Until,
}

/// What has been done so far, for somebody who looks on.
#[derive(Debug, Default)]
pub struct Progress {
    /// Calls that were answered.
    pub calls: AtomicU64,
    /// Bytes that were written, or read and compared.
    pub bytes: AtomicU64,
}

/// What a load did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Calls that were answered.
    pub calls: u64,
    /// Bytes of payload.
    pub bytes: u64,
    /// From the first call to the last reply.
    pub elapsed: Duration,
    /// From each call to its reply, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// The verifier of the last WRITE, which COMMIT has to return too.
    pub verifier: Option<[u8; 8]>,
}

impl Outcome {
    /// Nothing done yet: to [`Outcome::add`] to.
    ///
    /// # Errors
    /// [`LoadError::Internal`], if the bounds of the latencies were wrong.
    pub fn nothing() -> Result<Self, LoadError> {
        let latencies =
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).map_err(|_| LoadError::Internal("histogram bounds"))?;
        Ok(Self { calls: 0, bytes: 0, elapsed: Duration::ZERO, latencies, verifier: None })
    }

    /// Adds what was done after this.
    ///
    /// # Errors
    /// [`LoadError::Internal`], if the latencies had other bounds.
    pub fn add(&mut self, later: &Self) -> Result<(), LoadError> {
        self.calls += later.calls;
        self.bytes += later.bytes;
        self.elapsed += later.elapsed;
        self.verifier = later.verifier.or(self.verifier);
        self.latencies.add(&later.latencies).map_err(|_| LoadError::Internal("histogram bounds"))
    }

    /// MiB in a second.
    pub fn mib_per_second(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Calls in a second.
    pub fn calls_per_second(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that a part `quantile` (0 to 1) of the calls did not exceed.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_quantile(quantile))
    }
}

/// Why a load failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A call failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A byte came back other than it was written: the data is wrong, wherever that happened.
    #[error("data is wrong: {0}")]
    Differs(#[from] Mismatch),
    /// The server moved fewer bytes than a call was about.
    #[error("{moved} bytes instead of {wanted} at {offset} of file {file}")]
    Short {
        /// The file's number.
        file: u32,
        /// Where in the file.
        offset: u64,
        /// What the call was about.
        wanted: u32,
        /// What was done.
        moved: u32,
    },
    /// The server has started again between a WRITE and its COMMIT.
    #[error("the server's write verifier changed: unstable bytes are lost")]
    VerifierChanged,
    /// The session does not allow what was asked for.
    #[error("{wanted} {what} where the session has {there}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// What was asked for.
        wanted: usize,
        /// What there is.
        there: usize,
    },
    /// The load is about nothing, or about parts of payloads.
    #[error("no files, or a file that is not a multiple of the payload, or a payload that is not a multiple of 4")]
    Shape,
    /// No thread could be started.
    #[error("starting a thread: {0}")]
    Thread(#[source] io::Error),
    /// A promise of our own did not hold.
    #[error("internal: {0}")]
    Internal(&'static str),
}

/// What all connections share.
struct Shared<'l> {
    load: &'l Load<'l>,
    progress: &'l Progress,
    next: AtomicU64,
    /// One connection has failed: the others need not go on.
    failed: AtomicBool,
    started: std::time::Instant,
}

/// Runs a load on all connections of a session.
///
/// # Errors
/// The first failure on any connection; the session is of no use after that.
pub fn run(session: &mut Session, load: &Load<'_>, progress: &Progress) -> Result<Outcome, LoadError> {
    check(session, load)?;
    let (started, next, failed) = (clock::monotonic(), AtomicU64::new(0), AtomicBool::new(false));
    let shared = &Shared { load, progress, next, failed, started };
    let (id, credential) = (session.id, (session.options.uid, session.options.gid));
    let slots = session.sequences.chunks_mut(load.depth);
    let lanes: Vec<_> = thread::scope(|scope| {
        let start = |(index, (connection, sequences)): (usize, (_, _))| {
            let slot_first = (index * load.depth) as u32; // fewer than the session's slots
            let lane = lane::Lane::new(shared, (id, credential), slot_first, sequences, connection);
            thread::Builder::new().name("load".into()).spawn_scoped(scope, move || lane.run())
        };
        let threads: Vec<_> = session.connections.iter_mut().zip(slots).enumerate().map(start).collect();
        let ended = threads.into_iter().map(|thread| match thread.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_panic)) => Err(LoadError::Internal("a thread panicked")),
            Err(error) => Err(LoadError::Thread(error)),
        });
        ended.collect()
    });
    let mut total = Outcome::nothing()?;
    for outcome in lanes {
        total.add(&outcome?)?;
    }
    total.elapsed = clock::monotonic() - started;
    Ok(total)
}

/// Whether the load has a shape, and the session room for it.
fn check(session: &Session, load: &Load<'_>) -> Result<(), LoadError> {
    let Load { files, file_bytes, payload_bytes, depth, .. } = load;
    let is_whole = *payload_bytes > 0 && payload_bytes % 4 == 0 && file_bytes % u64::from(*payload_bytes) == 0;
    if files.is_empty() || *file_bytes == 0 || !is_whole || *depth == 0 {
        return Err(LoadError::Shape);
    }
    let (wanted, there) = (depth * session.connections.len(), session.slots());
    if wanted > there {
        return Err(LoadError::TooMuch { what: "calls outstanding", wanted, there });
    }
    let (wanted, there) = (*payload_bytes as usize, session.payload_bytes_max());
    if wanted > there && load.kind != Kind::Getattr {
        return Err(LoadError::TooMuch { what: "bytes in a call", wanted, there });
    }
    Ok(())
}
