//! One call: the COMPOUND that is sent, the results that come back.

use std::io::IoSlice;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::SessionOptions;
use super::error::ClientError;
use crate::limits::TAG_BYTES_MAX;
use crate::nfs4::{MINOR_VERSION, Operation, PROCEDURE_COMPOUND, PROCEDURE_NULL, SessionId, Stateid, Status};
use crate::rpc::{self, RecordReader};
use crate::stream::write_all_vectored;
use crate::xdr::{Decoder, Encoder};

/// Results that a reply may have: as many as the longest request has operations.
const RESULTS_MAX: usize = crate::limits::OPERATIONS_MAX;

/// A COMPOUND that is being built, at the end of `out`.
#[derive(Debug)]
pub(crate) struct Request<'o> {
    pub(crate) out: &'o mut Encoder,
    mark_at: usize,
    count_at: usize,
    operations: u32,
}

impl<'o> Request<'o> {
    pub(crate) fn new(out: &'o mut Encoder, xid: u32, (uid, gid): (u32, u32)) -> Self {
        let mark_at = rpc::begin_call(out, xid, PROCEDURE_COMPOUND, uid, gid);
        out.opaque(b""); // the tag
        out.u32(MINOR_VERSION);
        let count_at = out.len();
        out.u32(0);
        Self { out, mark_at, count_at, operations: 0 }
    }

    /// Begins an operation; its arguments are to follow.
    pub(crate) fn operation(&mut self, operation: Operation) -> &mut Encoder {
        self.operations += 1;
        self.out.u32(operation.0);
        self.out
    }

    pub(crate) fn sequence(&mut self, session: &SessionId, slot: u32, sequence: u32, slot_highest: u32) {
        let out = self.operation(Operation::SEQUENCE);
        out.fixed(session);
        out.words([sequence, slot, slot_highest, 0]); // the reply need not be kept
    }

    pub(crate) fn putfh(&mut self, handle: &[u8]) {
        self.operation(Operation::PUTFH).opaque(handle);
    }

    pub(crate) fn read(&mut self, stateid: &Stateid, offset: u64, count: u32) {
        let out = self.operation(Operation::READ);
        stateid.encode(out);
        out.u64(offset);
        out.u32(count);
    }

    /// WRITE, up to its payload, which has to follow with its padding.
    pub(crate) fn write(&mut self, stateid: &Stateid, offset: u64, stable: u32, count: u32) {
        let out = self.operation(Operation::WRITE);
        stateid.encode(out);
        out.u64(offset);
        out.u32(stable);
        out.u32(count);
    }

    /// Completes the call, behind which `payload` bytes follow that lie elsewhere.
    pub(crate) fn finish(self, payload: usize) {
        self.out.set_u32(self.count_at, self.operations);
        rpc::finish(self.out, self.mark_at, payload);
    }
}

/// The results of a COMPOUND, one after the other.
#[derive(Debug)]
pub(crate) struct Results<'r> {
    pub(crate) from: Decoder<'r>,
    left: usize,
    status: Status,
}

/// Looks at a record: the xid and the results of a reply; `None` for a callback.
///
/// # Errors
/// For a record that is neither, and for a reply that rejects the call.
pub(crate) fn reply_of(record: &[u8]) -> Result<Option<(u32, Results<'_>)>, ClientError> {
    if rpc::is_call(record) {
        return Ok(None);
    }
    let mut from = Decoder::new(record);
    let (xid, accepted) = rpc::decode_reply(&mut from)?;
    accepted?;
    let status = Status(from.u32()?);
    let _tag = from.opaque(TAG_BYTES_MAX)?;
    let left = from.count(RESULTS_MAX)?;
    Ok(Some((xid, Results { from, left, status })))
}

impl Results<'_> {
    /// Steps to the result of `operation`, and into it.
    ///
    /// # Errors
    /// [`ClientError::Status`] if it failed.
    pub(crate) fn next(&mut self, operation: Operation) -> Result<(), ClientError> {
        let name = |operation: Operation| operation.name().unwrap_or("an operation");
        if self.left == 0 {
            let failed = self.status != Status::OK;
            let error = ClientError::Status { operation: "COMPOUND", status: self.status };
            return Err(if failed { error } else { ClientError::Malformed("a result is missing") });
        }
        self.left -= 1;
        let (found, status) = (Operation(self.from.u32()?), Status(self.from.u32()?));
        match status {
            Status::OK if found == operation => Ok(()),
            Status::OK => Err(ClientError::Malformed("the result of another operation")),
            status => Err(ClientError::Status { operation: name(operation), status }),
        }
    }

    /// Steps over the result of SEQUENCE.
    pub(crate) fn sequence(&mut self) -> Result<(), ClientError> {
        self.next(Operation::SEQUENCE)?;
        let _session: SessionId = self.from.fixed()?;
        for _ in 0..5 {
            self.from.u32()?;
        }
        Ok(())
    }
}

/// A socket, and for how long it waits: a thread can send on it while another reads from it.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    patience: Duration,
}

impl Socket {
    pub(super) fn open(address: SocketAddr, patience: Duration) -> Result<Self, ClientError> {
        let failed = |op| move |source| ClientError::of_socket(op, patience, source);
        let stream = TcpStream::connect_timeout(&address, patience).map_err(failed("connect"))?;
        stream.set_nodelay(true).map_err(failed("setsockopt TCP_NODELAY"))?;
        stream.set_read_timeout(Some(patience)).map_err(failed("setsockopt SO_RCVTIMEO"))?;
        stream.set_write_timeout(Some(patience)).map_err(failed("setsockopt SO_SNDTIMEO"))?;
        Ok(Self { stream, patience })
    }

    /// Sends a call.
    pub(crate) fn send(&self, head: &[u8], payload: &[u8]) -> Result<(), ClientError> {
        let mut slices = [IoSlice::new(head), IoSlice::new(payload)];
        let failed = |source| ClientError::of_socket("sendmsg", self.patience, source);
        write_all_vectored(&self.stream, &mut slices).map_err(failed)
    }

    /// The next record; `None` at the end of the stream.
    pub(crate) fn record<'r>(&self, records: &'r mut RecordReader) -> Result<Option<&'r [u8]>, ClientError> {
        records.record(&mut &self.stream).map_err(|error| ClientError::of_record(error, self.patience))
    }

    fn next_is_call(&self, records: &mut RecordReader) -> Result<bool, ClientError> {
        records.next_is_call(&mut &self.stream).map_err(|error| ClientError::of_record(error, self.patience))
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> Result<(), ClientError> {
        self.stream.shutdown(how).map_err(|source| ClientError::Io { op: "shutdown", source })
    }
}

/// A connection of a session.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    pub(crate) records: RecordReader,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr, options: &SessionOptions) -> Result<Self, ClientError> {
        Ok(Self { socket: Socket::open(address, options.patience)?, records: RecordReader::new() })
    }

    pub(crate) fn send(&self, head: &[u8], payload: &[u8]) -> Result<(), ClientError> {
        self.socket.send(head, payload)
    }

    /// The next record.
    pub(crate) fn record(&mut self) -> Result<&[u8], ClientError> {
        self.socket.record(&mut self.records)?.ok_or(ClientError::Closed)
    }

    /// The reply to the only call that is outstanding.
    pub(crate) fn reply(&mut self, xid: u32) -> Result<Results<'_>, ClientError> {
        // In two steps, as a borrow that is returned from inside a loop would last through all of it.
        while self.socket.next_is_call(&mut self.records)? {
            self.record()?;
        }
        match reply_of(self.record()?)? {
            Some((found, results)) if found == xid => Ok(results),
            _ => Err(ClientError::Malformed("a reply to no call")),
        }
    }

    /// The NULL procedure: whether there is NFS at all.
    pub(crate) fn null(&mut self, xid: u32, (uid, gid): (u32, u32)) -> Result<(), ClientError> {
        let mut out = Encoder::new();
        let mark_at = rpc::begin_call(&mut out, xid, PROCEDURE_NULL, uid, gid);
        rpc::finish(&mut out, mark_at, 0);
        self.send(out.bytes(), &[])?;
        let mut from = Decoder::new(self.record()?);
        match rpc::decode_reply(&mut from)? {
            (found, accepted) if found == xid => Ok(accepted?),
            _ => Err(ClientError::Malformed("a reply to no call")),
        }
    }
}
