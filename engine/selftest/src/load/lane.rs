//! One connection of a load.

use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use super::{File, Kind, LoadError, Outcome, Shared, Until};
use crate::client::{ClientError, Connection, Request, Results, Socket, WANTED, Written, decode_getattr, reply_of};
use crate::clock;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::nfs4::{Operation, SessionId, Stable};
use crate::pattern;
use crate::rpc::RecordReader;
use crate::xdr::Encoder;

/// Bits of the xid that name the slot of the lane: as many slots as a session ever has.
const SLOT_BITS: u32 = 8;
const _: () = assert!(crate::limits::SLOTS_MAX <= 1 << SLOT_BITS);

/// What a call is about.
#[derive(Clone, Copy, Debug)]
struct Call<'f> {
    /// Counted from the lane's first.
    slot: u32,
    sequence: u32,
    file: &'f File,
    offset: u64,
}

/// What makes calls: shared by the lane's threads.
struct Caller<'l> {
    shared: &'l Shared<'l>,
    session: SessionId,
    credential: (u32, u32),
    slot_first: u32,
    /// When the call in each slot was made, in nanoseconds since the load's start.
    made_ns: Vec<AtomicU64>,
}

impl Caller<'_> {
    fn age_ns(&self) -> u64 {
        (clock::monotonic() - self.shared.started).as_nanos() as u64 // 584 years
    }

    /// Appends a call to `out`, up to its payload.
    fn encode(&self, call: &Call<'_>, out: &mut Encoder) {
        if let Some(made) = self.made_ns.get(call.slot as usize) {
            made.store(self.age_ns(), Ordering::Relaxed);
        }
        let payload_bytes = self.shared.load.payload_bytes;
        let File { open, .. } = call.file;
        let mut request = Request::new(out, call.sequence << SLOT_BITS | call.slot, self.credential);
        let slot_highest = self.slot_first + self.made_ns.len() as u32 - 1; // the lane has slots
        request.sequence(&self.session, self.slot_first + call.slot, call.sequence, slot_highest);
        request.putfh(open.handle.bytes());
        match self.shared.load.kind {
            Kind::Read { .. } => request.read(&open.stateid, call.offset, payload_bytes),
            Kind::Write { .. } => {
                request.write(&open.stateid, call.offset, Stable::Unstable.number(), payload_bytes);
                return request.finish(payload_bytes as usize);
            }
            Kind::Getattr => WANTED.encode(request.operation(Operation::GETATTR)),
        }
        request.finish(0);
    }
}

/// Sends WRITEs until there are no more.
fn send_writes(
    caller: &Caller<'_>,
    socket: &Socket,
    pass: u32,
    calls: &mpsc::Receiver<Call<'_>>,
) -> Result<(), ClientError> {
    let mut payload = vec![0; caller.shared.load.payload_bytes as usize];
    let mut head = Encoder::new();
    for call in calls {
        pattern::fill(&mut payload, call.file.number, call.offset, pass);
        head.truncate(0);
        caller.encode(&call, &mut head);
        socket.send(head.bytes(), &payload)?;
    }
    Ok(())
}

/// A connection of a load, with its share of the session's slots.
pub(super) struct Lane<'l> {
    caller: Caller<'l>,
    sequences: &'l mut [u32],
    connection: &'l mut Connection,
}

impl<'l> Lane<'l> {
    pub(super) fn new(
        shared: &'l Shared<'l>,
        (session, credential): (SessionId, (u32, u32)),
        slot_first: u32,
        sequences: &'l mut [u32],
        connection: &'l mut Connection,
    ) -> Self {
        let made_ns = sequences.iter().map(|_| AtomicU64::new(0)).collect();
        Self { caller: Caller { shared, session, credential, slot_first, made_ns }, sequences, connection }
    }

    /// Makes calls until there are no more, and waits for the last reply.
    pub(super) fn run(self) -> Result<Outcome, LoadError> {
        let Self { caller, sequences, connection } = self;
        let failed = &caller.shared.failed;
        let Connection { socket, records } = connection;
        let socket = &*socket;
        let done = if let Kind::Write { pass } = caller.shared.load.kind {
            let (queue, calls) = mpsc::channel();
            thread::scope(|scope| {
                let caller = &caller;
                let writer = scope.spawn(move || {
                    // The reader would wait for a reply to what was never sent.
                    send_writes(caller, socket, pass, &calls).inspect_err(|_| drop(socket.shutdown(Shutdown::Both)))
                });
                let read = Reader::new(caller, sequences)?.run(socket, records, |calls| {
                    let gone = |_| LoadError::Internal("the sending thread has ended");
                    calls.drain(..).try_for_each(|call| queue.send(call).map_err(gone))
                });
                drop(queue);
                if read.is_err() {
                    drop(socket.shutdown(Shutdown::Both));
                }
                let written = writer.join().unwrap_or(Err(ClientError::Malformed("the sending thread panicked")));
                // What kept the writer from sending is the cause of what the reader missed.
                match (read, written) {
                    (Err(LoadError::Client(ClientError::Closed) | LoadError::Internal(_)), Err(cause)) => {
                        Err(cause.into())
                    }
                    (read, _) => read,
                }
            })
        } else {
            let mut heads = Encoder::new();
            Reader::new(&caller, sequences)?.run(socket, records, |calls| {
                heads.truncate(0);
                calls.drain(..).for_each(|call| caller.encode(&call, &mut heads));
                Ok(socket.send(heads.bytes(), &[])?)
            })
        };
        done.inspect_err(|_| failed.store(true, Ordering::Relaxed))
    }
}

/// The thread that reads replies and decides what is called next.
struct Reader<'c> {
    caller: &'c Caller<'c>,
    sequences: &'c mut [u32],
    /// The call that is outstanding in each slot.
    calls: Vec<Option<Call<'c>>>,
    outcome: Outcome,
}

impl<'c> Reader<'c> {
    fn new(caller: &'c Caller<'c>, sequences: &'c mut [u32]) -> Result<Self, LoadError> {
        Ok(Self { caller, calls: vec![None; sequences.len()], sequences, outcome: Outcome::nothing()? })
    }

    /// The next call, to be made in `slot`; `None` when the load is at its end.
    fn claim(&mut self, slot: u32) -> Option<Call<'c>> {
        let Shared { load, next, failed, .. } = self.caller.shared;
        let is_over = matches!(load.until, Until::Elapsed(time) if u128::from(self.caller.age_ns()) >= time.as_nanos());
        if is_over || failed.load(Ordering::Relaxed) {
            return None;
        }
        let number = next.fetch_add(1, Ordering::Relaxed);
        if matches!(load.until, Until::Calls(calls) if number >= calls) {
            return None;
        }
        let payloads_of_file = load.file_bytes / u64::from(load.payload_bytes);
        let payload = number % (payloads_of_file * load.files.len() as u64);
        let file = load.files.get((payload / payloads_of_file) as usize)?;
        let offset = payload % payloads_of_file * u64::from(load.payload_bytes);
        let sequence = self.sequences.get_mut(slot as usize)?;
        *sequence = sequence.wrapping_add(1);
        let call = Call { slot, sequence: *sequence, file, offset };
        *self.calls.get_mut(slot as usize)? = Some(call);
        Some(call)
    }

    fn run(
        mut self,
        socket: &Socket,
        records: &mut RecordReader,
        mut make: impl FnMut(&mut Vec<Call<'c>>) -> Result<(), LoadError>,
    ) -> Result<Outcome, LoadError> {
        let mut free: Vec<u32> = (0..self.sequences.len() as u32).collect();
        let (mut calls, mut outstanding) = (Vec::new(), 0);
        loop {
            calls.extend(free.drain(..).filter_map(|slot| self.claim(slot)));
            outstanding += calls.len();
            if outstanding == 0 {
                return Ok(self.outcome);
            }
            if !calls.is_empty() {
                make(&mut calls)?;
            }
            // Replies that came together are followed by calls that go together.
            loop {
                let record = socket.record(records)?.ok_or(ClientError::Closed)?;
                if let Some((xid, results)) = reply_of(record)? {
                    free.push(self.reply(xid, results)?);
                    outstanding -= 1;
                }
                if outstanding == 0 || !records.has_record() {
                    break;
                }
            }
        }
    }

    /// Takes the reply to a call; returns the slot that is free by it.
    fn reply(&mut self, xid: u32, mut results: Results<'_>) -> Result<u32, LoadError> {
        const UNKNOWN: ClientError = ClientError::Malformed("a reply to no call");
        let slot = xid & ((1 << SLOT_BITS) - 1);
        let call = self.calls.get_mut(slot as usize).and_then(Option::take).ok_or(UNKNOWN)?;
        if call.sequence << SLOT_BITS | slot != xid {
            return Err(UNKNOWN.into());
        }
        let made = self.caller.made_ns.get(slot as usize).ok_or(UNKNOWN)?.load(Ordering::Relaxed);
        self.outcome.latencies.saturating_record(self.caller.age_ns().saturating_sub(made));
        results.sequence()?;
        results.next(Operation::PUTFH)?;
        let bytes = self.results(&call, &mut results)?;
        self.outcome.calls += 1;
        self.outcome.bytes += u64::from(bytes);
        self.caller.shared.progress.calls.fetch_add(1, Ordering::Relaxed);
        self.caller.shared.progress.bytes.fetch_add(bytes.into(), Ordering::Relaxed);
        Ok(slot)
    }

    /// Takes what differs by the kind of call; returns how many bytes were moved.
    fn results(&mut self, call: &Call<'_>, results: &mut Results<'_>) -> Result<u32, LoadError> {
        let wanted = self.caller.shared.load.payload_bytes;
        let (file, offset) = (call.file.number, call.offset);
        let moved = match self.caller.shared.load.kind {
            Kind::Getattr => {
                decode_getattr(results)?;
                return Ok(0);
            }
            Kind::Write { .. } => {
                let written = Written::decode(results)?;
                if self.outcome.verifier.is_some_and(|before| before != written.verifier) {
                    return Err(LoadError::VerifierChanged);
                }
                self.outcome.verifier = Some(written.verifier);
                written.count
            }
            Kind::Read { verify } => {
                results.next(Operation::READ)?;
                let (_eof, payload) =
                    (results.from.bool().map_err(ClientError::from)?, results.from.opaque(PAYLOAD_BYTES_MAX));
                let payload = payload.map_err(ClientError::from)?;
                if let Some(pass) = verify {
                    pattern::check(payload, file, offset, pass)?;
                }
                payload.len() as u32 // at most PAYLOAD_BYTES_MAX
            }
        };
        if moved == wanted { Ok(moved) } else { Err(LoadError::Short { file, offset, wanted, moved }) }
    }
}
