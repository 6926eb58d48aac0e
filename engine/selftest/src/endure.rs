//! A load that outlives faults: it writes, reads back and compares until it is told to stop, and connects again whenever
//! a connection ends, as a mount that is `hard` does.
//!
//! Each lane has a connection, a session and a file of its own and makes one call at a time. Its WRITEs are FILE_SYNC4, so
//! each one that is answered is a promise: from then on those bytes must be read back, whatever happens to connections,
//! tunnels and server. All of them are read after each new connection, and at the end. A WRITE whose answer never came
//! may have happened or not, page by page, and may still happen: its place is not written again, and any page of it may
//! be the old or the new one, but nothing else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{ClientError, Create, OpenFile, Session, SessionOptions};
use crate::clock;
use crate::load::LoadError;
use crate::nfs4::{Access, Stable};
use crate::pattern::{self, PAGE_BYTES};

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Places that a file has at most; each connection that ends can take one out of use.
const PLACES_MAX: usize = 4096;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Endurance {
    /// The server, or a tunnel to it.
    pub address: std::net::SocketAddr,
    /// What the names of the files begin with.
    pub name: String,
    /// Connections that make calls.
    pub lanes: u16,
    /// Connections that write once and then make no call until the end, when they notice whether they have been cut.
    pub idle_lanes: u16,
    /// Bytes of each WRITE and READ, a multiple of 4,096.
    pub payload_bytes: usize,
    /// Places in each file that are written in turn.
    pub places: usize,
    /// Between a WRITE with its READ and the next.
    pub pause: Duration,
    /// How long a lane waits for an answer before it connects again, and at the end for the server to come back.
    pub patience: Duration,
    /// Writes one wrong byte in this WRITE of each lane, as if it had been changed on its way; for tests.
    pub spoil: Option<u32>,
}

/// What has been done so far. Bytes that are lost are counted in pages.
#[derive(Debug, Default)]
pub struct Tally {
    /// Bytes that the server said are stable.
    pub written_bytes: AtomicU64,
    /// Bytes that were read back and compared.
    pub compared_bytes: AtomicU64,
    /// Bytes that were not what they must be: stable and not there, or never written by anybody.
    pub lost_bytes: AtomicU64,
    /// Sessions that were opened, each on a connection of its own.
    pub connections: AtomicU64,
    /// Connections that ended though they were still needed.
    pub ended: AtomicU64,
    /// Of these, those that we gave up because no answer came in [`Endurance::patience`].
    pub silent: AtomicU64,
    /// Attempts to open a session that failed.
    pub refused: AtomicU64,
    /// The longest time from a call to its answer.
    pub slowest_ms: AtomicU64,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(f, "written={} compared={}", get(&self.written_bytes), get(&self.compared_bytes))?;
        write!(f, " lost={} connections={}", get(&self.lost_bytes), get(&self.connections))?;
        write!(f, " ended={} silent={}", get(&self.ended), get(&self.silent))?;
        write!(f, " refused={} slowest_ms={}", get(&self.refused), get(&self.slowest_ms))
    }
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The pass that the server said is stable.
    stable: Option<u32>,
    /// The pass whose WRITE was not answered.
    doubtful: Option<u32>,
}

/// Milliseconds since 1970, for the log of who makes faults and wants to know when their effect came.
pub fn time_of_day_ms() -> i64 {
    let now = clock::wall();
    now.seconds.saturating_mul(1000).saturating_add(i64::from(now.nanoseconds / 1_000_000))
}

impl Endurance {
    /// Goes on until `stop` is set, then reads everything once more. `note` is told of each connection that ends.
    ///
    /// # Errors
    /// A lane could not read everything back in the end: what it could not read is not known to be there.
    pub fn run(&self, stop: &AtomicBool, tally: &Tally, note: &(dyn Fn(&str) + Sync)) -> Result<(), LoadError> {
        if self.payload_bytes == 0 || !self.payload_bytes.is_multiple_of(PAGE_BYTES) || self.places == 0 {
            return Err(LoadError::Shape);
        }
        thread::scope(|scope| {
            let start = |number| {
                let lane = Lane::new(self, number, stop, tally, note);
                thread::Builder::new().name("endure".into()).spawn_scoped(scope, move || lane.run())
            };
            let lanes: Vec<_> = (0..self.lanes.saturating_add(self.idle_lanes)).map(start).collect();
            let ended = lanes.into_iter().map(|lane| match lane.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(done)) => done.map_err(LoadError::Client),
                Ok(Err(_panic)) => Err(LoadError::Internal("a thread panicked")),
                Err(error) => Err(LoadError::Thread(error)),
            });
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }
}

/// A connection, those that follow it, and what they must find.
struct Lane<'e> {
    endurance: &'e Endurance,
    number: u16,
    stop: &'e AtomicBool,
    tally: &'e Tally,
    note: &'e (dyn Fn(&str) + Sync),
    places: Vec<Place>,
    /// Where in `places` the next WRITE goes.
    next: usize,
    pass: u32,
    connections: u32,
    buffer: Vec<u8>,
}

impl<'e> Lane<'e> {
    fn new(
        endurance: &'e Endurance,
        number: u16,
        stop: &'e AtomicBool,
        tally: &'e Tally,
        note: &'e (dyn Fn(&str) + Sync),
    ) -> Self {
        let (places, buffer) = (vec![Place::default(); endurance.places], vec![0; endurance.payload_bytes]);
        Self { endurance, number, stop, tally, note, places, next: 0, pass: 0, connections: 0, buffer }
    }

    fn is_idle(&self) -> bool {
        self.number >= self.endurance.lanes
    }

    fn run(mut self) -> Result<(), ClientError> {
        let mut stopped = None;
        loop {
            let Err(error) = self.connection() else { return Ok(()) };
            self.tally.silent.fetch_add(u64::from(matches!(error, ClientError::Silent { .. })), Ordering::Relaxed);
            (self.note)(&format!("lane {} connection {}: {error}", self.number, self.connections));
            if self.stop.load(Ordering::Relaxed) {
                let since = *stopped.get_or_insert_with(clock::monotonic);
                if clock::monotonic() - since > self.endurance.patience {
                    return Err(error);
                }
            }
            thread::sleep(PAUSE);
        }
    }

    /// One connection, from its opening until `stop` is set and all has been read, or until it ends before that.
    fn connection(&mut self) -> Result<(), ClientError> {
        let refused = |_: &ClientError| {
            self.tally.refused.fetch_add(1, Ordering::Relaxed);
        };
        let (mut session, file) = self.open().inspect_err(refused)?;
        self.tally.connections.fetch_add(1, Ordering::Relaxed);
        self.connections += 1;
        let done = self.work(&mut session, &file);
        if done.is_err() {
            self.tally.ended.fetch_add(1, Ordering::Relaxed);
        }
        done?;
        session.close_file(&file)?;
        session.close()
    }

    fn open(&self) -> Result<(Session, OpenFile), ClientError> {
        let Endurance { address, name, patience, .. } = self.endurance;
        let name = format!("{name}-{}", self.number);
        // The same client each time, started again: the server forgets what it had open.
        let owner = Some(format!("{name} {}", std::process::id()));
        let options = SessionOptions { patience: *patience, slots: 1, owner, ..SessionOptions::default() };
        let mut session = Session::open(*address, &options)?;
        let root = session.root()?;
        let file = session.open_file(&root, &name, Access::Both, Create::Unchecked)?;
        Ok((session, file))
    }

    fn work(&mut self, session: &mut Session, file: &OpenFile) -> Result<(), ClientError> {
        self.compare_all(session, file)?;
        while !self.stop.load(Ordering::Relaxed) {
            if self.is_idle() && self.places.iter().all(|place| place.stable.is_some()) {
                thread::sleep(PAUSE);
                continue;
            }
            self.write(session, file)?;
            // A place that was written a while ago.
            self.compare(session, file, (self.next + self.places.len() / 2) % self.places.len())?;
            thread::sleep(self.endurance.pause);
        }
        self.compare_all(session, file)
    }

    /// Where a place lies in the file.
    fn offset(&self, place: usize) -> u64 {
        place as u64 * self.endurance.payload_bytes as u64
    }

    fn write(&mut self, session: &mut Session, file: &OpenFile) -> Result<(), ClientError> {
        let in_use = |place: &Place| place.doubtful.is_none();
        let order = (self.next..self.places.len()).chain(0..self.next);
        let Some(at) = order.into_iter().find(|at| self.places.get(*at).is_some_and(in_use)) else {
            return Err(ClientError::Malformed("more connections ended than the file has places"));
        };
        self.next = (at + 1) % self.places.len();
        self.pass += 1;
        let (offset, pass) = (self.offset(at), self.pass);
        pattern::fill(&mut self.buffer, self.number.into(), offset, pass);
        if self.endurance.spoil == Some(pass)
            && let Some(byte) = self.buffer.get_mut(PAGE_BYTES - 1)
        {
            *byte ^= 1;
        }
        let place = self.places.get_mut(at).ok_or(ClientError::Malformed("no such place"))?;
        place.doubtful = Some(pass);
        // Another one takes its place, should the answer not come.
        if self.places.len() < PLACES_MAX {
            self.places.push(Place::default());
        }
        let made = clock::monotonic();
        let written = session.write(file, offset, &self.buffer, Stable::File)?;
        self.answered(made);
        if written.count as usize != self.buffer.len() || written.stable != Stable::File {
            return Err(ClientError::Malformed("a WRITE that is short, or not stable"));
        }
        if let Some(place) = self.places.get_mut(at) {
            *place = Place { stable: Some(pass), doubtful: None };
        }
        self.places.pop();
        self.tally.written_bytes.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn answered(&self, made: Instant) {
        let took = (clock::monotonic() - made).as_millis() as u64; // 584 million years
        self.tally.slowest_ms.fetch_max(took, Ordering::Relaxed);
    }

    fn compare_all(&mut self, session: &mut Session, file: &OpenFile) -> Result<(), ClientError> {
        (0..self.places.len()).try_for_each(|at| self.compare(session, file, at))
    }

    /// Reads a place and counts the pages that are neither what is stable nor what may have come after it.
    fn compare(&mut self, session: &mut Session, file: &OpenFile, at: usize) -> Result<(), ClientError> {
        let Some(Place { stable, doubtful }) = self.places.get(at).copied() else { return Ok(()) };
        if stable.is_none() && doubtful.is_none() {
            return Ok(());
        }
        let (offset, mut there) = (self.offset(at), 0);
        while let Some(rest) = self.buffer.get_mut(there..).filter(|rest| !rest.is_empty()) {
            let made = clock::monotonic();
            let (count, is_end) = session.read(file, offset + there as u64, rest)?;
            self.answered(made);
            there += count;
            if is_end || count == 0 {
                break;
            }
        }
        // What is behind the end reads as zeroes.
        self.buffer.iter_mut().skip(there).for_each(|byte| *byte = 0);
        let is_of = |page: &[u8], at: u64, pass: Option<u32>| {
            pass.is_some_and(|pass| pattern::check(page, self.number.into(), at, pass).is_ok())
        };
        let pages = self.buffer.chunks(PAGE_BYTES).zip((offset..).step_by(PAGE_BYTES));
        let wrong = pages.filter(|(page, at)| {
            let is_untouched = stable.is_none() && page.iter().all(|byte| *byte == 0);
            !is_untouched && !is_of(page, *at, stable) && !is_of(page, *at, doubtful)
        });
        let lost = (wrong.count() * PAGE_BYTES) as u64;
        if lost > 0 {
            (self.note)(&format!("lane {}: {lost} bytes at {offset} are lost (pass {stable:?})", self.number));
        }
        self.tally.lost_bytes.fetch_add(lost, Ordering::Relaxed);
        self.tally.compared_bytes.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
