//! The calls and replies of the load, as ONC RPC records (RFC 5531) with NFSv4.1 COMPOUNDs (RFC 8881) in them.
//!
//! Both ends are ours, so a call has one fixed layout and the server reads it at fixed offsets. A proxy in between sees
//! what it would see from an NFS client: record marks, xids, and the operations that follow SEQUENCE.

use clap::ValueEnum;

use crate::pattern;

/// The bit of a record mark that says "last fragment" (RFC 5531 section 11).
const LAST_FRAGMENT: u32 = 1 << 31;
const CALL: u32 = 0;
const REPLY: u32 = 1;
const AUTH_SYS: u32 = 1;

const OP_GETATTR: u32 = 9;
const OP_PUTFH: u32 = 22;
const OP_READ: u32 = 25;
const OP_WRITE: u32 = 38;
const OP_SEQUENCE: u32 = 53;

const MACHINE_NAME: &[u8] = b"perf";
const FILE_HANDLE: [u8; 32] = [0x5e; 32];
const SESSION_ID: [u8; 16] = [0x51; 16];
/// type, change, size, fsid, fileid; mode, numlinks, owner and so on, as a Linux client asks for them.
const ATTRIBUTES: [u32; 2] = [0x0010_011a, 0x00b0_a23a];
/// As many attribute bytes as a Linux server answers with.
const ATTRIBUTE_BYTES: usize = 152;

/// Where the operation behind SEQUENCE and PUTFH begins in a call, counted from the record mark.
const OPERATION_AT: usize = 156;
/// Where READ has its count: behind the operation, a stateid and an offset.
const READ_COUNT_AT: usize = OPERATION_AT + 4 + 16 + 8;
/// Where the payload of a WRITE begins: behind a stateid, an offset, how stable it is to be, and the count.
const WRITE_PAYLOAD_AT: usize = OPERATION_AT + 4 + 16 + 8 + 4 + 4;
/// The shortest call, a GETATTR with two bitmap words.
const CALL_BYTES_MIN: usize = OPERATION_AT + 16;
/// The server looks at no more of a call than this.
const HEAD_BYTES: usize = READ_COUNT_AT + 4;
/// Longer records are not ours.
const RECORD_BYTES_MAX: usize = 2 << 20;

/// What a call does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Kind {
    Getattr,
    Read,
    Write,
}

/// Why a stream cannot be followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NotOurs;

impl std::error::Error for NotOurs {}

impl std::fmt::Display for NotOurs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a record that this program does not make")
    }
}

fn put(to: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| to.extend_from_slice(&word.to_be_bytes()));
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_be_bytes(*four))
}

/// Sets the mark at `at` for everything behind it and `payload` bytes that follow elsewhere.
fn set_mark(to: &mut [u8], at: usize, payload: usize) {
    let length = (to.len() - at - 4 + payload) as u32; // the payload is at most 1 MiB
    if let Some(place) = to.get_mut(at..at + 4) {
        place.copy_from_slice(&(length | LAST_FRAGMENT).to_be_bytes());
    }
}

/// Appends a call. For a WRITE, `size` bytes of payload (a multiple of four) have to follow.
pub(crate) fn put_call(to: &mut Vec<u8>, kind: Kind, xid: u32, slot: u32, size: u32) {
    let at = to.len();
    let credential = 4 + 4 + MACHINE_NAME.len() as u32 + 12;
    put(to, &[0, xid, CALL, 2, 100_003, 4, 1, AUTH_SYS, credential, 0, MACHINE_NAME.len() as u32]);
    to.extend_from_slice(MACHINE_NAME);
    put(to, &[0, 0, 0, 0, 0]); // uid, gid, no further groups; an empty verifier
    put(to, &[0, 1, 3, OP_SEQUENCE]); // an empty tag, minor version 1, three operations
    to.extend_from_slice(&SESSION_ID);
    put(to, &[xid, slot, slot, 0, OP_PUTFH, FILE_HANDLE.len() as u32]);
    to.extend_from_slice(&FILE_HANDLE);
    let offset = xid.wrapping_mul(size);
    match kind {
        Kind::Getattr => put(to, &[OP_GETATTR, 2, ATTRIBUTES[0], ATTRIBUTES[1]]),
        Kind::Read => put(to, &[OP_READ, 0, 0, 0, 0, 0, offset, size]),
        Kind::Write => put(to, &[OP_WRITE, 0, 0, 0, 0, 0, offset, 0, size]),
    }
    set_mark(to, at, if kind == Kind::Write { size as usize } else { 0 });
}

/// A call as the server understands it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) xid: u32,
    /// The bytes to be read; 0 for the other kinds.
    pub(crate) read_bytes: u32,
}

/// Appends the reply to `call`. For a READ, `read_bytes` bytes of payload have to follow.
pub(crate) fn put_reply(to: &mut Vec<u8>, call: &Call) {
    let at = to.len();
    put(to, &[0, call.xid, REPLY, 0, 0, 0, 0]); // accepted, an empty verifier, success
    put(to, &[0, 0, 3, OP_SEQUENCE, 0]); // NFS4_OK, an empty tag, three results
    to.extend_from_slice(&SESSION_ID);
    put(to, &[call.xid, 0, 63, 63, 0, OP_PUTFH, 0]);
    match call.kind {
        Kind::Getattr => {
            put(to, &[OP_GETATTR, 0, 2, ATTRIBUTES[0], ATTRIBUTES[1], ATTRIBUTE_BYTES as u32]);
            to.resize(to.len() + ATTRIBUTE_BYTES, 0);
        }
        Kind::Read => put(to, &[OP_READ, 0, 0, call.read_bytes]),
        Kind::Write => put(to, &[OP_WRITE, 0, 0, 2, 0, 0]), // how much and how stable is not said: nobody asks
    }
    set_mark(to, at, call.read_bytes as usize);
}

/// Cuts a stream into records and shows the first bytes of each.
#[derive(Debug)]
struct Records<const HEAD: usize> {
    head: [u8; HEAD],
    /// Bytes of the current record that were seen, its mark included.
    seen: usize,
    /// The whole record, its mark included; known from the fourth byte.
    whole: usize,
}

impl<const HEAD: usize> Records<HEAD> {
    const fn new() -> Self {
        Self { head: [0; HEAD], seen: 0, whole: 4 }
    }

    /// Goes on to the end of the current record, or of `bytes`; returns the rest of `bytes`, and whether a record ended.
    fn advance<'b>(&mut self, bytes: &'b [u8]) -> Result<(&'b [u8], bool), NotOurs> {
        let taken;
        if self.seen < HEAD {
            let wanted = if self.seen < 4 { 4 } else { self.whole.min(HEAD) };
            taken = (wanted - self.seen).min(bytes.len());
            let place = self.head.get_mut(self.seen..self.seen + taken).ok_or(NotOurs)?;
            place.copy_from_slice(bytes.get(..taken).ok_or(NotOurs)?);
            if self.seen < 4 && self.seen + taken == 4 {
                let mark = word(&self.head, 0).ok_or(NotOurs)?;
                self.whole = 4 + (mark & !LAST_FRAGMENT) as usize;
                if mark & LAST_FRAGMENT == 0 || !(8..=RECORD_BYTES_MAX).contains(&self.whole) {
                    return Err(NotOurs);
                }
            }
        } else {
            taken = (self.whole - self.seen).min(bytes.len());
        }
        self.seen += taken;
        let ended = self.seen >= 4 && self.seen == self.whole;
        Ok((bytes.get(taken..).unwrap_or_default(), ended))
    }

    fn xid(&self) -> Result<u32, NotOurs> {
        word(&self.head, 4).ok_or(NotOurs)
    }

    /// How many bytes of the current record are still to come, once its head has been seen.
    fn left(&self) -> usize {
        if self.seen < HEAD { 0 } else { self.whole - self.seen }
    }

    /// Takes `count` bytes of them for seen; whether the record ended.
    fn skip(&mut self, count: usize) -> Result<bool, NotOurs> {
        if count > self.left() {
            return Err(NotOurs);
        }
        self.seen += count;
        Ok(count > 0 && self.seen == self.whole)
    }

    fn next(&mut self) {
        (self.seen, self.whole) = (0, 4);
    }

    /// Goes through `bytes`: shows `seen` each piece behind a head, with how many bytes of its record were to come when it
    /// began, and `ended` each record that ends.
    fn walk<E: From<NotOurs>>(
        &mut self,
        mut bytes: &[u8],
        mut seen: impl FnMut(&Self, usize, &[u8]) -> Result<(), E>,
        mut ended: impl FnMut(&Self) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let before = self.seen;
            let (rest, is_end) = self.advance(bytes)?;
            if before >= HEAD {
                seen(self, self.whole - before, bytes.get(..bytes.len() - rest.len()).unwrap_or_default())?;
            }
            bytes = rest;
            if is_end {
                ended(self)?;
                self.next();
            }
        }
        Ok(())
    }
}

/// Finds calls in a stream.
#[derive(Debug)]
pub(crate) struct Calls(Records<HEAD_BYTES>);

impl Calls {
    pub(crate) const fn new() -> Self {
        Self(Records::new())
    }

    /// Looks at the next `bytes` of the stream and tells `found` each call that ends in them.
    ///
    /// # Errors
    /// [`NotOurs`] at the first record that [`put_call`] does not make.
    pub(crate) fn advance(&mut self, bytes: &[u8], mut found: impl FnMut(Call)) -> Result<(), NotOurs> {
        self.0.walk(
            bytes,
            |_, _, _| Ok(()),
            |record| {
                found(call(record).ok_or(NotOurs)?);
                Ok(())
            },
        )
    }

    /// The same, comparing the payload of each WRITE.
    ///
    /// # Errors
    /// [`NotOurs`], or [`pattern::Spoiled`].
    pub(crate) fn advance_and_compare(&mut self, bytes: &[u8], mut found: impl FnMut(Call)) -> anyhow::Result<()> {
        let compare = |record: &Records<HEAD_BYTES>, left, piece: &[u8]| {
            let is_write = word(&record.head, OPERATION_AT) == Some(OP_WRITE);
            // Behind a WRITE's count, which the head does not reach, comes the payload.
            let payload = if is_write { record.whole.saturating_sub(WRITE_PAYLOAD_AT) } else { 0 };
            Ok(pattern::compare(record.xid()?, payload, left, piece)?)
        };
        self.0.walk(bytes, compare, |record| {
            found(call(record).ok_or(NotOurs)?);
            Ok(())
        })
    }
}

fn call(record: &Records<HEAD_BYTES>) -> Option<Call> {
    let Records { head, seen, .. } = record;
    if *seen < CALL_BYTES_MIN || word(head, 8)? != CALL {
        return None;
    }
    let xid = word(head, 4)?;
    Some(match word(head, OPERATION_AT)? {
        OP_GETATTR => Call { kind: Kind::Getattr, xid, read_bytes: 0 },
        OP_READ => Call { kind: Kind::Read, xid, read_bytes: word(head, READ_COUNT_AT)? },
        OP_WRITE => Call { kind: Kind::Write, xid, read_bytes: 0 },
        _ => return None,
    })
}

/// Finds the xids of replies in a stream.
#[derive(Debug)]
pub(crate) struct Replies(Records<8>);

impl Replies {
    pub(crate) const fn new() -> Self {
        Self(Records::new())
    }

    /// How many bytes of the current record need not be looked at.
    pub(crate) fn left(&self) -> usize {
        self.0.left()
    }

    /// Goes on by `count` bytes of those without looking at them; tells `found` the xid if the record ends with them.
    ///
    /// # Errors
    /// [`NotOurs`]: there are not as many.
    pub(crate) fn skip(&mut self, count: usize, mut found: impl FnMut(u32)) -> Result<(), NotOurs> {
        if self.0.skip(count)? {
            found(word(&self.0.head, 4).ok_or(NotOurs)?);
            self.0.next();
        }
        Ok(())
    }

    /// Looks at the next `bytes` of the stream and tells `found` the xid of each record that ends in them.
    ///
    /// # Errors
    /// [`NotOurs`] at the first record that is too long or not in one fragment.
    pub(crate) fn advance(&mut self, bytes: &[u8], mut found: impl FnMut(u32)) -> Result<(), NotOurs> {
        self.0.walk(
            bytes,
            |_, _, _| Ok(()),
            |record| {
                found(record.xid()?);
                Ok(())
            },
        )
    }

    /// The same, comparing payloads, of which the reply to an xid has `payload_of` bytes.
    ///
    /// # Errors
    /// [`NotOurs`], or [`pattern::Spoiled`].
    pub(crate) fn advance_and_compare(
        &mut self,
        bytes: &[u8],
        payload_of: impl Fn(u32) -> usize,
        mut found: impl FnMut(u32),
    ) -> anyhow::Result<()> {
        let compare = |record: &Records<8>, left, piece: &[u8]| {
            let xid = record.xid()?;
            Ok(pattern::compare(xid, payload_of(xid), left, piece)?)
        };
        self.0.walk(bytes, compare, |record| {
            found(record.xid()?);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
