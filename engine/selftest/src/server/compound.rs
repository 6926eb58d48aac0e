//! COMPOUND: decodes operations one after the other, executes each, stops at the first that fails (RFC 8881 section 16.2).

use std::sync::Arc;

use super::clients::{Sequenced, Session};
use super::export::{Export, Handle, Place, Reply};
use super::room::{self, Room};
use crate::limits::{REPLY_CACHED_BYTES_MAX, TAG_BYTES_MAX};
use crate::nfs4::{MINOR_VERSION, Operation, PROCEDURE_COMPOUND, PROCEDURE_NULL, PROGRAM, Stateid, Status, VERSION};
use crate::rpc::{self, Accepted, CallError, CallHeader, Credential};
use crate::xdr::{Decoder, XdrError};

/// Executes the call in `record` and appends the reply.
///
/// # Errors
/// [`CallError::NotACall`]: nothing to be answered, and no reason to go on with the connection.
pub(super) fn answer(export: &Export, record: &[u8], out: &mut Reply) -> Result<(), CallError> {
    let mut from = Decoder::new(record);
    let call = match CallHeader::decode(&mut from) {
        Ok(call) => call,
        Err(CallError::NotACall) => return Err(CallError::NotACall),
        Err(refused) => {
            rpc::deny(&mut out.bytes, refused);
            return Ok(());
        }
    };
    let begin = out.place();
    let accepted = match (call.program, call.version, call.procedure) {
        (PROGRAM, VERSION, PROCEDURE_NULL | PROCEDURE_COMPOUND) => Accepted::Success,
        (PROGRAM, VERSION, _) => Accepted::ProcedureUnavailable,
        (PROGRAM, ..) => Accepted::ProgramMismatch,
        _ => Accepted::ProgramUnavailable,
    };
    let mark_at = rpc::begin_reply(&mut out.bytes, call.xid, accepted);
    if accepted == Accepted::Success && call.procedure == PROCEDURE_COMPOUND {
        let compound = Compound::new(export, call.credential, record.len(), begin, out);
        if compound.run(&mut from).is_err() {
            out.go_back(begin);
            rpc::begin_reply(&mut out.bytes, call.xid, Accepted::GarbageArguments);
        }
    }
    let payload = out.payload_bytes(begin);
    rpc::finish(&mut out.bytes, mark_at, payload);
    Ok(())
}

/// A slot that is busy with this COMPOUND.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) session: Arc<Session>,
    slot: u32,
    room: Room,
}

/// A COMPOUND that is being executed.
#[derive(Debug)]
pub(super) struct Compound<'c> {
    pub(super) export: &'c Export,
    pub(super) credential: Credential,
    /// The current file handle, and the one of SAVEFH, by the numbers of their nodes; with their stateids.
    pub(super) current: Option<u64>,
    pub(super) stateid: Option<Stateid>,
    pub(super) saved: Option<(u64, Option<Stateid>)>,
    pub(super) busy: Option<Busy>,
    pub(super) out: &'c mut Reply,
    request_bytes: usize,
    begin: Place,
    /// Operations behind the one that is being executed.
    left: u32,
}

/// How SEQUENCE ended when it did not fail.
enum Begun {
    New(Busy),
    Replay(Arc<[u8]>),
    /// Executed before, and the reply not kept.
    Forgotten,
}

impl<'c> Compound<'c> {
    fn new(export: &'c Export, credential: Credential, request_bytes: usize, begin: Place, out: &'c mut Reply) -> Self {
        let (current, stateid, saved, busy) = (None, None, None, None);
        Self { export, credential, current, stateid, saved, busy, out, request_bytes, begin, left: 0 }
    }

    /// Executes all operations.
    ///
    /// # Errors
    /// When the arguments do not even begin as those of a COMPOUND.
    fn run(mut self, from: &mut Decoder<'_>) -> Result<(), XdrError> {
        let (tag, minor, count) = (from.opaque(TAG_BYTES_MAX)?, from.u32()?, from.u32()?);
        let body = self.out.place();
        let status_at = self.out.bytes.len();
        self.out.bytes.u32(0);
        self.out.bytes.opaque(tag);
        let count_at = self.out.bytes.len();
        self.out.bytes.u32(0);
        let (mut done, mut status) = (0, Status::OK);
        if minor != MINOR_VERSION {
            status = Status::MINOR_VERS_MISMATCH;
        }
        while status == Status::OK && done < count {
            self.left = count - done - 1;
            let operation = from.u32().map_or(Operation::ILLEGAL, Operation);
            if operation == Operation::SEQUENCE && done == 0 {
                status = match self.sequence(from, count) {
                    Ok(Begun::New(busy)) => {
                        self.busy = Some(busy);
                        Status::OK
                    }
                    Ok(Begun::Replay(reply)) => {
                        self.out.go_back(body);
                        self.out.bytes.raw(&reply);
                        return Ok(());
                    }
                    Ok(Begun::Forgotten) => {
                        done += 1;
                        let next = from.u32().map_or(Operation::ILLEGAL, Operation);
                        self.result(next, |_| Err(Status::RETRY_UNCACHED_REP))
                    }
                    Err(status) => status,
                };
            } else {
                status = self.operation(operation, from, done == 0, count);
            }
            done += 1;
        }
        self.out.bytes.set_u32(status_at, status.0);
        self.out.bytes.set_u32(count_at, done);
        if let Some(busy) = self.busy {
            // What is short and lies in one piece is kept unasked: that costs nothing.
            let is_short = self.out.payload_bytes(body) == 0 && self.out.len(body) <= REPLY_CACHED_BYTES_MAX;
            debug_assert!(!busy.room.is_kept() || self.out.len(body) <= REPLY_CACHED_BYTES_MAX);
            let reply = (busy.room.is_kept() || is_short).then(|| self.out.joined(body));
            busy.session.done(busy.slot, reply.as_deref());
        }
        Ok(())
    }

    /// Writes the result of `operation`: what `execute` writes, or the status that it fails with.
    fn result(&mut self, operation: Operation, execute: impl FnOnce(&mut Self) -> Result<(), Status>) -> Status {
        self.out.bytes.u32(operation.0);
        let status_at = self.out.bytes.len();
        self.out.bytes.u32(0);
        let place = self.out.place();
        let executed = match room::result_bytes_max(operation) {
            Some(longest) => self.check_room(longest).and_then(|()| {
                execute(self)?;
                debug_assert!(self.out.len(place) <= longest, "{operation} has {} bytes", self.out.len(place));
                Ok(())
            }),
            None => execute(self).and_then(|()| self.check_room(0)),
        };
        let Err(status) = executed else { return Status::OK };
        self.out.go_back(place);
        self.out.bytes.set_u32(status_at, status.0);
        if operation == Operation::SETATTR {
            self.out.bytes.u32(0); // nothing was set
        }
        status
    }

    /// Whether there is room for what the reply has and `more` bytes.
    fn check_room(&self, more: usize) -> Result<(), Status> {
        self.busy.as_ref().map_or(Ok(()), |busy| busy.room.check(self.reply_bytes() + more, self.left == 0))
    }

    fn reply_bytes(&self) -> usize {
        self.out.len(self.begin) - rpc::MARK_BYTES
    }

    /// SEQUENCE as the first operation (RFC 8881 section 18.46).
    fn sequence(&mut self, from: &mut Decoder<'_>, count: u32) -> Result<Begun, Status> {
        let mut begun = Err(Status::SERVERFAULT);
        let status = self.result(Operation::SEQUENCE, |this| {
            let (id, sequence, slot, highest) = (from.fixed()?, from.u32()?, from.u32()?, from.u32()?);
            let cache_this = from.bool()?;
            let session = this.export.clients().session(&id, Export::now())?;
            if this.request_bytes > session.fore.request_bytes_max as usize {
                return Err(Status::REQ_TOO_BIG);
            }
            if count > session.fore.operations_max {
                return Err(Status::TOO_MANY_OPS);
            }
            let room = Room::new(&session.fore, cache_this);
            room.check(this.reply_bytes() + room::SEQUENCE_BYTES, this.left == 0)?;
            let sequenced = session.begin(slot, sequence)?;
            let out = &mut this.out.bytes;
            out.fixed(&id);
            let slot_last = session.fore.slots.saturating_sub(1);
            // The status flags: nothing to report.
            out.words([sequence, slot, highest.min(slot_last), slot_last, 0]);
            begun = Ok(match sequenced {
                Sequenced::New => Begun::New(Busy { session, slot, room }),
                Sequenced::Replay(Some(reply)) => Begun::Replay(reply),
                Sequenced::Replay(None) => Begun::Forgotten,
            });
            Ok(())
        });
        if status == Status::OK { begun } else { Err(status) }
    }

    /// Executes one operation other than the SEQUENCE in front.
    fn operation(&mut self, operation: Operation, from: &mut Decoder<'_>, is_first: bool, count: u32) -> Status {
        use Operation as O;
        let is_known = operation.is_of_minor_version_1();
        let shown = if is_known { operation } else { O::ILLEGAL };
        let stands_alone = matches!(
            operation,
            O::EXCHANGE_ID | O::CREATE_SESSION | O::BIND_CONN_TO_SESSION | O::DESTROY_SESSION | O::DESTROY_CLIENTID
        );
        self.result(shown, |this| match operation {
            _ if !is_known => Err(Status::OP_ILLEGAL),
            O::SEQUENCE => Err(Status::SEQUENCE_POS),
            _ if is_first && !stands_alone => Err(Status::OP_NOT_IN_SESSION),
            _ if is_first && count > 1 => Err(Status::NOT_ONLY_OP),
            O::BIND_CONN_TO_SESSION if !is_first => Err(Status::NOT_ONLY_OP),
            O::EXCHANGE_ID => this.exchange_id(from),
            O::CREATE_SESSION => this.create_session(from),
            O::BIND_CONN_TO_SESSION => this.bind_conn_to_session(from),
            O::DESTROY_SESSION => this.destroy_session(from),
            O::DESTROY_CLIENTID => this.destroy_clientid(from),
            O::RECLAIM_COMPLETE => this.reclaim_complete(from),
            O::TEST_STATEID => this.test_stateid(from),
            O::FREE_STATEID => this.free_stateid(from),
            _ => this.file_operation(operation, from),
        })
    }

    fn file_operation(&mut self, operation: Operation, from: &mut Decoder<'_>) -> Result<(), Status> {
        use Operation as O;
        match operation {
            O::PUTROOTFH | O::PUTPUBFH => self.putrootfh(),
            O::PUTFH => self.putfh(from),
            O::GETFH => self.getfh(),
            O::SAVEFH => self.savefh(),
            O::RESTOREFH => self.restorefh(),
            O::SECINFO => self.secinfo(from),
            O::SECINFO_NO_NAME => self.secinfo_no_name(from),
            O::LOOKUP => self.lookup(from),
            O::LOOKUPP => self.lookupp(),
            O::ACCESS => self.access(from),
            O::OPEN => self.open(from),
            O::OPEN_DOWNGRADE => self.open_downgrade(from),
            O::CLOSE => self.close(from),
            O::GETATTR => self.getattr(from),
            O::SETATTR => self.setattr(from),
            O::VERIFY => self.verify(from, true),
            O::NVERIFY => self.verify(from, false),
            O::READ => self.read(from),
            O::WRITE => self.write(from),
            O::COMMIT => self.commit(from),
            O::CREATE => self.create(from),
            O::READLINK => self.readlink(),
            O::READDIR => self.readdir(from),
            O::REMOVE => self.remove(from),
            O::RENAME => self.rename(from),
            O::LINK => self.link(from),
            _ => Err(Status::NOTSUPP),
        }
    }

    /// The node of the current file handle.
    pub(super) fn current(&self) -> Result<u64, Status> {
        self.current.ok_or(Status::NOFILEHANDLE)
    }

    /// Makes `node` the current file handle, which has no stateid yet.
    pub(super) fn set_current(&mut self, node: u64) {
        (self.current, self.stateid) = (Some(node), None);
    }

    /// The client of the session.
    pub(super) fn client(&self) -> Result<u64, Status> {
        self.busy.as_ref().map(|busy| busy.session.client).ok_or(Status::OP_NOT_IN_SESSION)
    }

    /// Takes a stateid off a request; the current one in place of the one that stands for it (section 16.2.3.1.2).
    pub(super) fn decode_stateid(&self, from: &mut Decoder<'_>) -> Result<Stateid, Status> {
        match Stateid::decode(from)? {
            Stateid::CURRENT => self.stateid.ok_or(Status::BAD_STATEID),
            other => Ok(other),
        }
    }

    pub(super) fn handle_of(&self, node: u64) -> Handle {
        Handle { instance: self.export.instance, number: node }
    }
}

#[cfg(test)]
mod tests;
