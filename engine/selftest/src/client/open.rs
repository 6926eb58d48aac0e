//! From the first connection to a session, and back (RFC 8881 sections 18.35 to 18.51).

use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use super::call::{Connection, Request, Results};
use super::{ClientError, OPERATIONS_WANTED, Session, SessionOptions};
use crate::clock;
use crate::limits::{COMPOUND_BYTES_MAX, RECORD_BYTES_MAX, SLOTS_MAX};
use crate::nfs4::{Operation, SessionId, Status};
use crate::xdr::{Decoder, Encoder, XdrError};

const EXCHGID4_FLAG_USE_NON_PNFS: u32 = 0x0001_0000;
const CREATE_SESSION4_FLAG_CONN_BACK_CHAN: u32 = 2;
const CDFC4_FORE_OR_BOTH: u32 = 3;
/// A program number for callbacks from the range that anybody may use.
const CALLBACK_PROGRAM: u32 = 0x4000_0000;

/// Sessions opened by this process: each is a client of its own, unless it says who it is.
static OPENED: AtomicU32 = AtomicU32::new(0);

/// What a server grants of the fore channel.
struct Granted {
    id: SessionId,
    request_bytes_max: u32,
    response_bytes_max: u32,
    slots: u32,
}

fn encode_channel(to: &mut Encoder, bytes_max: u32, operations: u32, slots: u32) {
    to.words([0, bytes_max, bytes_max, COMPOUND_BYTES_MAX as u32, operations, slots, 0]);
}

fn decode_channel(from: &mut Decoder<'_>) -> Result<[u32; 6], XdrError> {
    let mut channel = [0; 6];
    for value in &mut channel {
        *value = from.u32()?;
    }
    for _ in 0..from.count(1)? {
        from.u32()?;
    }
    Ok(channel)
}

/// Makes a call outside of any session, of one operation.
fn alone<T>(
    connection: &mut Connection,
    (xid, options): (u32, &SessionOptions),
    operation: Operation,
    build: impl FnOnce(&mut Encoder),
    decode: impl FnOnce(&mut Results<'_>) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let mut out = Encoder::new();
    let mut request = Request::new(&mut out, xid, (options.uid, options.gid));
    build(request.operation(operation));
    request.finish(0);
    connection.send(out.bytes(), &[])?;
    let mut results = connection.reply(xid)?;
    results.next(operation)?;
    decode(&mut results)
}

/// EXCHANGE_ID: the client id, and the sequence for CREATE_SESSION.
fn exchange_id(connection: &mut Connection, call: (u32, &SessionOptions)) -> Result<(u64, u32), ClientError> {
    let (now, count) = (clock::wall(), OPENED.fetch_add(1, Ordering::Relaxed));
    let verifier = (now.seconds as u64) << 32 | u64::from(now.nanoseconds);
    let unique = || format!("sealane-selftest {} {count} {verifier:016x}", std::process::id());
    let owner = call.1.owner.clone().unwrap_or_else(unique);
    let build = |to: &mut Encoder| {
        to.u64(verifier);
        to.opaque(owner.as_bytes());
        to.u32(EXCHGID4_FLAG_USE_NON_PNFS);
        to.u32(0); // SP4_NONE
        to.u32(0); // no implementation id
    };
    alone(connection, call, Operation::EXCHANGE_ID, build, |results| Ok((results.from.u64()?, results.from.u32()?)))
}

/// CREATE_SESSION.
fn create_session(
    connection: &mut Connection,
    (xid, options): (u32, &SessionOptions),
    (client, sequence): (u64, u32),
) -> Result<Granted, ClientError> {
    let build = |to: &mut Encoder| {
        to.u64(client);
        to.u32(sequence);
        to.u32(CREATE_SESSION4_FLAG_CONN_BACK_CHAN);
        encode_channel(to, RECORD_BYTES_MAX as u32, OPERATIONS_WANTED, options.slots);
        encode_channel(to, COMPOUND_BYTES_MAX as u32, 2, 1);
        to.words([CALLBACK_PROGRAM, 1, 0]); // one way to call back: AUTH_NONE
    };
    alone(connection, (xid, options), Operation::CREATE_SESSION, build, |results| {
        let (id, _sequence, _flags) = (results.from.fixed()?, results.from.u32()?, results.from.u32()?);
        let [_, request_bytes_max, response_bytes_max, _, _, slots] = decode_channel(&mut results.from)?;
        // More than was asked for is not used; nor is what an xid of the load has no room for.
        let slots = slots.min(options.slots).min(SLOTS_MAX);
        Ok(Granted { id, request_bytes_max, response_bytes_max, slots })
    })
}

impl Session {
    /// Connects, and opens a session: EXCHANGE_ID, CREATE_SESSION, RECLAIM_COMPLETE; BIND_CONN_TO_SESSION on each further
    /// connection.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn open(address: SocketAddr, options: &SessionOptions) -> Result<Self, ClientError> {
        let mut first = Connection::open(address, options)?;
        first.null(1, (options.uid, options.gid))?;
        let (client, sequence) = exchange_id(&mut first, (2, options))?;
        let granted = create_session(&mut first, (3, options), (client, sequence))?;
        let mut connections = vec![first];
        for _ in 1..options.connections {
            let mut connection = Connection::open(address, options)?;
            let build = |to: &mut Encoder| {
                to.fixed(&granted.id);
                to.u32(CDFC4_FORE_OR_BOTH);
                to.bool(false);
            };
            alone(&mut connection, (4, options), Operation::BIND_CONN_TO_SESSION, build, |_| Ok(()))?;
            connections.push(connection);
        }
        let Granted { id, request_bytes_max, response_bytes_max, slots } = granted;
        let (sequences, options, out) = (vec![0; slots as usize], options.clone(), Encoder::new());
        let mut session =
            Self { connections, id, client, sequences, request_bytes_max, response_bytes_max, options, xid: 4, out };
        let reclaimed = session.call(
            |request| request.operation(Operation::RECLAIM_COMPLETE).bool(false),
            |results| results.next(Operation::RECLAIM_COMPLETE),
        );
        match reclaimed {
            Err(error) if error.status() != Some(Status::COMPLETE_ALREADY) => Err(error),
            _ => Ok(session),
        }
    }

    /// Ends the session in order: DESTROY_SESSION, DESTROY_CLIENTID, and the connections are closed.
    ///
    /// # Errors
    /// The first step that failed; `NFS4ERR_CLIENTID_BUSY` if files are open.
    pub fn close(mut self) -> Result<(), ClientError> {
        let (xid, id, client) = (self.next_xid(), self.id, self.client);
        let connection = self.connections.first_mut().ok_or(ClientError::Malformed("no connection"))?;
        let call = (xid, &self.options);
        alone(connection, call, Operation::DESTROY_SESSION, |to| to.fixed(&id), |_| Ok(()))?;
        let call = (xid.wrapping_add(1), &self.options);
        alone(connection, call, Operation::DESTROY_CLIENTID, |to| to.u64(client), |_| Ok(()))?;
        for connection in &self.connections {
            connection.socket.shutdown(Shutdown::Write)?;
        }
        // Until the other side has closed too, what lies between may not have seen ours.
        for Connection { socket, records } in &mut self.connections {
            while socket.record(records)?.is_some() {}
        }
        Ok(())
    }
}
