//! The server as its connections drive it, without sockets.

use sealane_proto::fuzzing::Script;

use super::compound::answer;
use super::export::{Export, Reply};
use crate::nfs4::{Operation, PROCEDURE_COMPOUND, SessionId, Stateid, Status};
use crate::rpc::{begin_call, decode_reply, finish};
use crate::xdr::{Decoder, Encoder};

/// Handles and identifiers follow from it, so that an input can name them.
const INSTANCE: u64 = 0x5ea1_a9e0_0000_0001;
const BYTES_MAX: u64 = 8 << 20;
const CALLS_MAX: u32 = 64;

/// A client of one export, with a session.
struct Caller {
    export: Export,
    session: SessionId,
    xid: u32,
    sequence: u32,
    operations: u32,
    arguments: Encoder,
}

impl Caller {
    fn new() -> Self {
        let (export, arguments) = (Export::with_instance(BYTES_MAX, INSTANCE), Encoder::new());
        let mut caller = Self { export, session: [0; 16], xid: 0, sequence: 0, operations: 0, arguments };
        let to = caller.operation(Operation::EXCHANGE_ID);
        to.fixed(&[1; 8]);
        to.opaque(b"owner");
        to.words([0, 0, 0]);
        let reply = caller.call();
        let client = expect(&reply, &[Operation::EXCHANGE_ID]).u64().expect("a client");
        let to = caller.operation(Operation::CREATE_SESSION);
        to.u64(client);
        to.words([1, 0]);
        // Both channels; then callbacks, of which there are none.
        to.words([0, 1 << 20, 1 << 20, 4096, 16, 8, 0, 0, 4096, 4096, 0, 2, 1, 0, 1, 0]);
        let reply = caller.call();
        caller.session = expect(&reply, &[Operation::CREATE_SESSION]).fixed().expect("a session");
        caller.begin();
        caller.operation(Operation::RECLAIM_COMPLETE).bool(false);
        let reply = caller.call();
        expect(&reply, &[Operation::SEQUENCE, Operation::RECLAIM_COMPLETE]);
        caller
    }

    fn operation(&mut self, operation: Operation) -> &mut Encoder {
        self.operations += 1;
        self.arguments.u32(operation.0);
        &mut self.arguments
    }

    /// SEQUENCE, in front of what is done in the session.
    fn begin(&mut self) {
        let (session, sequence) = (self.session, self.sequence + 1);
        let to = self.operation(Operation::SEQUENCE);
        to.fixed(&session);
        to.words([sequence, 0, 0, 0]);
        self.sequence = sequence;
    }

    /// Sends the operations in one COMPOUND; the whole reply.
    fn call(&mut self) -> Vec<u8> {
        self.xid += 1;
        let mut call = Encoder::new();
        let at = begin_call(&mut call, self.xid, PROCEDURE_COMPOUND, 0, 0);
        call.words([0, 1, std::mem::take(&mut self.operations)]);
        call.raw(std::mem::take(&mut self.arguments).bytes());
        finish(&mut call, at, 0);
        self.ask(call.bytes().get(4..).unwrap_or_default()).expect("an answer")
    }

    /// The answer to a record, without its mark; `None` when the connection is closed.
    fn ask(&self, record: &[u8]) -> Option<Vec<u8>> {
        let mut out = Reply::default();
        let answered = answer(&self.export, record, &mut out).is_ok();
        let bytes: Vec<u8> = out.slices().iter().flat_map(|slice| slice.to_vec()).collect();
        // The xid, CALL, and either another version of RPC or three more words.
        let is_call = record.get(4..8) == Some(&[0; 4])
            && record.get(8..12).is_some_and(|version| version != [0, 0, 0, 2] || record.len() >= 24);
        assert_eq!(answered, is_call, "what is a call is answered, and nothing else");
        if !answered {
            assert!(bytes.is_empty(), "an answer to what is no call");
            return None;
        }
        let (mark, reply) = bytes.split_first_chunk().expect("a mark");
        assert_eq!(u32::from_be_bytes(*mark), 0x8000_0000 | reply.len() as u32, "the mark of the reply");
        let (xid, _) = decode_reply(&mut Decoder::new(reply)).expect("a reply");
        assert_eq!(xid.to_be_bytes(), record.get(..4).unwrap_or_default(), "the xid");
        Some(reply.to_vec())
    }
}

/// Steps over the results of operations that all succeeded, up to that of the last one.
fn expect<'r>(reply: &'r [u8], operations: &[Operation]) -> Decoder<'r> {
    let mut from = Decoder::new(reply);
    let (_, done) = decode_reply(&mut from).expect("a reply");
    assert_eq!(done, Ok(()));
    let status = Status(from.u32().expect("a status"));
    assert_eq!(status, Status::OK, "{operations:?}");
    let _tag = from.opaque(0).expect("no tag");
    assert_eq!(from.u32(), Ok(operations.len() as u32));
    for (index, operation) in operations.iter().enumerate() {
        assert_eq!((from.u32().map(Operation), from.u32().map(Status)), (Ok(*operation), Ok(Status::OK)));
        if index + 1 < operations.len() && *operation == Operation::SEQUENCE {
            let _ = (from.fixed::<16>().expect("a session"), from.fixed::<20>().expect("its slot"));
        }
    }
    from
}

/// Calls as they come: records without meaning, and COMPOUNDs of operations whose arguments have none.
pub(crate) fn calls(script: &mut Script<'_>) {
    let mut caller = Caller::new();
    while !script.is_over() && caller.xid < CALLS_MAX {
        let (kind, length) = (script.byte(), usize::from(script.byte()));
        if kind & 1 == 1 {
            caller.xid += 1;
            let record = script.bytes(length);
            if caller.ask(record).is_none() {
                return;
            }
            continue;
        }
        if kind & 2 == 0 {
            caller.begin();
            caller.operation(Operation::PUTROOTFH);
        }
        for _ in 0..length % 8 {
            let (operation, words) = (u32::from(script.byte()), usize::from(script.byte() % 64));
            let arguments = script.bytes(words);
            let to = caller.operation(Operation(operation));
            to.raw(arguments);
        }
        let asked = caller.operations;
        let reply = caller.call();
        let mut from = Decoder::new(&reply);
        let (_, done) = decode_reply(&mut from).expect("a reply");
        if done.is_ok() {
            let (_status, tag, count) = (from.u32(), from.opaque(0), from.u32().expect("a count"));
            assert!(tag.is_ok() && count <= asked, "{count} results of {asked} operations");
        }
    }
}

/// One file, against a vector: writes, changes of its size, reads of any part.
pub(crate) fn file(script: &mut Script<'_>) {
    let mut caller = Caller::new();
    caller.begin();
    caller.operation(Operation::PUTROOTFH);
    let to = caller.operation(Operation::OPEN);
    // For both, denying nothing; the owner; created, without attributes; by its name.
    to.words([0, 3, 0]);
    to.u64(0);
    to.opaque(b"owner");
    to.words([1, 0, 0, 0, 0]);
    to.opaque(b"f");
    let reply = caller.call();
    expect(&reply, &[Operation::SEQUENCE, Operation::PUTROOTFH, Operation::OPEN]);
    let mut model: Vec<u8> = Vec::new();
    while !script.is_over() && caller.xid < CALLS_MAX {
        let (kind, place, length) = (script.byte(), usize::from(script.word()), usize::from(script.word() % 5000));
        // Around the edges of blocks and of the pages below them.
        let place = (place & 3) * (1 << 20) + usize::from(kind >> 4) * 4096 + (place >> 2 & 0xfff);
        let place = place.saturating_sub(2048);
        caller.begin();
        caller.operation(Operation::PUTROOTFH);
        caller.operation(Operation::LOOKUP).opaque(b"f");
        let last = act(&mut caller, kind, place, length);
        let reply = caller.call();
        let mut result = expect(&reply, &[Operation::SEQUENCE, Operation::PUTROOTFH, Operation::LOOKUP, last]);
        match last {
            Operation::WRITE => {
                assert_eq!(result.u32(), Ok(length as u32), "written");
                model.resize(model.len().max(if length == 0 { 0 } else { place + length }), 0);
                let text = text(caller.xid, length);
                model.iter_mut().skip(place).zip(text).for_each(|(to, from)| *to = from);
            }
            Operation::SETATTR => model.resize(place, 0),
            _ => {
                let (eof, data) = (result.bool().expect("eof"), result.opaque(1 << 20).expect("data"));
                let end = model.len().min(place + length);
                assert!(data == model.get(place..end).unwrap_or_default(), "{} bytes at {place}", data.len());
                assert_eq!(eof, place + length >= model.len(), "eof at {place} + {length} of {}", model.len());
            }
        }
    }
}

fn act(caller: &mut Caller, kind: u8, place: usize, length: usize) -> Operation {
    let xid = caller.xid + 1;
    match kind % 4 {
        0 | 1 => {
            let to = caller.operation(Operation::WRITE);
            Stateid::ANONYMOUS.encode(to);
            to.u64(place as u64);
            to.u32(2);
            to.opaque(&text(xid, length));
            Operation::WRITE
        }
        2 => {
            let to = caller.operation(Operation::SETATTR);
            Stateid::ANONYMOUS.encode(to);
            to.words([1, 1 << crate::nfs4::attribute::SIZE, 8]);
            to.u64(place as u64);
            Operation::SETATTR
        }
        _ => {
            let to = caller.operation(Operation::READ);
            Stateid::ANONYMOUS.encode(to);
            to.u64(place as u64);
            to.u32(length as u32);
            Operation::READ
        }
    }
}

fn text(seed: u32, length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at ^ at >> 8).wrapping_mul(31).wrapping_add(seed) as u8).collect()
}
