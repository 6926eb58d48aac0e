//! An NFSv4.1 client: a session over one or more connections, and typed calls on it (RFC 8881).
//!
//! A call of [`Session`] is one COMPOUND on the first connection and slot 0; the next waits for its reply. Many at a
//! time, on all connections, are made by [`crate::load`]. Callbacks are not answered: nothing is asked for that a server
//! would have to call back about.

use std::time::Duration;

use crate::limits::OPERATIONS_MAX;
use crate::nfs4::{SessionId, Status};
use crate::xdr::Encoder;

mod call;
mod error;
mod files;
mod open;

pub(crate) use call::{Connection, Request, Results, Socket, reply_of};
pub use error::ClientError;
pub use files::{Attributes, Create, Entry, Handle, OpenFile, Written};
pub(crate) use files::{WANTED, decode_getattr};

/// How a session is to be opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionOptions {
    /// TCP connections; all carry calls once the load runs.
    pub connections: usize,
    /// Slots asked for; the server may grant fewer, and no more than 64 are used.
    pub slots: u32,
    /// Who calls, by AUTH_SYS.
    pub uid: u32,
    /// The caller's group.
    pub gid: u32,
    /// The client owner, by which a server knows a client that has started again; none: another one each time.
    pub owner: Option<String>,
    /// Nothing may take longer: a connection, room in a socket, a reply.
    pub patience: Duration,
}

impl Default for SessionOptions {
    /// One connection, 64 slots, root, 10 s.
    fn default() -> Self {
        Self { connections: 1, slots: 64, uid: 0, gid: 0, owner: None, patience: Duration::from_secs(10) }
    }
}

/// A session with a server.
///
/// It ends in order by [`Session::close`]; dropped, its connections are just closed.
#[derive(Debug)]
pub struct Session {
    pub(crate) connections: Vec<Connection>,
    pub(crate) id: SessionId,
    client: u64,
    /// The sequence of the last call on each slot.
    pub(crate) sequences: Vec<u32>,
    /// The longest request and response that the server takes and sends.
    request_bytes_max: u32,
    response_bytes_max: u32,
    pub(crate) options: SessionOptions,
    xid: u32,
    out: Encoder,
}

impl Session {
    /// Calls that can be outstanding at a time: the slots that the server granted.
    pub fn slots(&self) -> usize {
        self.sequences.len()
    }

    /// The longest payload of one READ or WRITE: what fits into the server's requests and responses, at most 1 MiB.
    pub fn payload_bytes_max(&self) -> usize {
        let both = self.request_bytes_max.min(self.response_bytes_max);
        (both.saturating_sub(AROUND_BYTES_MAX) as usize).clamp(512, crate::limits::PAYLOAD_BYTES_MAX)
    }

    pub(crate) fn next_xid(&mut self) -> u32 {
        self.xid = self.xid.wrapping_add(1);
        self.xid
    }

    /// Makes one call in the session. `build` may be called again: a server that is not ready yet is asked again.
    pub(crate) fn call<T>(
        &mut self,
        build: impl Fn(&mut Request<'_>),
        decode: impl Fn(&mut Results<'_>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        const PAUSE: Duration = Duration::from_millis(50);
        let attempts = self.options.patience.as_millis() / PAUSE.as_millis();
        for _ in 0..attempts {
            match self.call_once(&build, &decode) {
                Err(ClientError::Status { status: Status::DELAY | Status::GRACE, .. }) => std::thread::sleep(PAUSE),
                other => return other,
            }
        }
        self.call_once(build, decode)
    }

    fn call_once<T>(
        &mut self,
        build: impl Fn(&mut Request<'_>),
        decode: impl Fn(&mut Results<'_>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let xid = self.next_xid();
        let sequence = self.sequences.first_mut().ok_or(ClientError::Malformed("no slots were granted"))?;
        *sequence = sequence.wrapping_add(1);
        self.out.truncate(0);
        let mut request = Request::new(&mut self.out, xid, (self.options.uid, self.options.gid));
        request.sequence(&self.id, 0, *sequence, 0);
        build(&mut request);
        request.finish(0);
        let connection = self.connections.first_mut().ok_or(ClientError::Malformed("no connection"))?;
        connection.send(self.out.bytes(), &[])?;
        let mut results = connection.reply(xid)?;
        if let Err(error) = results.sequence() {
            // Refused before it had its place in the slot, which the next call takes.
            *sequence = sequence.wrapping_sub(1);
            return Err(error);
        }
        decode(&mut results)
    }
}

/// What lies around the payload of a READ or WRITE: the RPC header (92), the COMPOUND (12), SEQUENCE (36), PUTFH with a
/// handle of full length (136), WRITE (36), rounded up. Some servers grant little more than the payload.
const AROUND_BYTES_MAX: u32 = 512;

/// The operations of one COMPOUND that we ask room for.
const OPERATIONS_WANTED: u32 = OPERATIONS_MAX as u32;
