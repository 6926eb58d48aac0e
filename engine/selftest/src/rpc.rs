//! ONC RPC over a stream (RFC 5531): records, the headers of calls and replies, AUTH_NONE and AUTH_SYS.

use std::io::{self, Read};
use std::ops::Range;

use crate::limits::{AUTH_BYTES_MAX, READ_AHEAD_BYTES, RECORD_BYTES_MAX};
use crate::nfs4::{PROGRAM, VERSION};
use crate::xdr::{Decoder, Encoder, XdrError};

/// The bit of a record mark that says "last fragment" (RFC 5531 section 11).
const LAST_FRAGMENT: u32 = 1 << 31;
pub(crate) const MARK_BYTES: usize = 4;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const MSG_ACCEPTED: u32 = 0;
const MSG_DENIED: u32 = 1;
const RPC_MISMATCH: u32 = 0;
const AUTH_ERROR: u32 = 1;
const AUTH_BADCRED: u32 = 1;
const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;

/// Why a stream of records cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the stream ends inside a record")]
    Cut,
    #[error("a record of more than {RECORD_BYTES_MAX} bytes")]
    TooLong,
}

/// Finds the records of a stream and lends each where it was received.
#[derive(Debug)]
pub(crate) struct RecordReader {
    /// A record of the longest length fits behind what was read ahead.
    buffer: Vec<u8>,
    /// What of the buffer was received and not yet lent.
    start: usize,
    end: usize,
    /// A record that came in several fragments.
    joined: Vec<u8>,
}

impl RecordReader {
    pub(crate) fn new() -> Self {
        let buffer = vec![0; READ_AHEAD_BYTES + MARK_BYTES + RECORD_BYTES_MAX];
        Self { buffer, start: 0, end: 0, joined: Vec::new() }
    }

    /// The next record; `None` when the stream ends between two.
    ///
    /// # Errors
    /// When it ends elsewhere, when a record is too long, when reading fails.
    pub(crate) fn record(&mut self, from: &mut impl Read) -> Result<Option<&[u8]>, RecordError> {
        self.joined.clear();
        let mut first = true;
        loop {
            let (range, last) = match self.fragment(from)? {
                Some(fragment) => fragment,
                None if first => return Ok(None),
                None => return Err(RecordError::Cut),
            };
            if first && last {
                return Ok(self.buffer.get(range));
            }
            if self.joined.len() + range.len() > RECORD_BYTES_MAX {
                return Err(RecordError::TooLong);
            }
            self.joined.extend_from_slice(self.buffer.get(range).unwrap_or_default());
            if last {
                return Ok(Some(&self.joined));
            }
            first = false;
        }
    }

    /// Waits for the first byte of the next record; `false` when the stream ends before it.
    ///
    /// # Errors
    /// When reading fails; at the stream's time limit that is [`io::ErrorKind::WouldBlock`], and can be tried again.
    pub(crate) fn begins(&mut self, from: &mut impl Read) -> Result<bool, RecordError> {
        Ok(self.buffered() > 0 || self.fill(from, MARK_BYTES)?)
    }

    /// Whether the next record can be had without reading, as far as its first fragment tells.
    pub(crate) fn has_record(&self) -> bool {
        self.mark().is_some_and(|mark| self.buffered() >= MARK_BYTES + (mark & !LAST_FRAGMENT) as usize)
    }

    /// Whether the next record is a call: on a client's side, a callback.
    pub(crate) fn next_is_call(&mut self, from: &mut impl Read) -> Result<bool, RecordError> {
        const HEAD_BYTES: usize = MARK_BYTES + 8;
        while self.buffered() < HEAD_BYTES {
            if !self.fill(from, HEAD_BYTES)? {
                // Whoever takes the record finds out what kind of end this is.
                return Ok(false);
            }
        }
        let kind = self.buffer.get(self.start + MARK_BYTES + 4..self.end).and_then(<[u8]>::first_chunk);
        Ok(kind == Some(&CALL.to_be_bytes()))
    }

    const fn buffered(&self) -> usize {
        self.end - self.start
    }

    fn mark(&self) -> Option<u32> {
        self.buffer.get(self.start..self.end)?.first_chunk().map(|mark| u32::from_be_bytes(*mark))
    }

    fn fragment(&mut self, from: &mut impl Read) -> Result<Option<(Range<usize>, bool)>, RecordError> {
        let mark = loop {
            match self.mark() {
                Some(mark) => break mark,
                None if self.fill(from, MARK_BYTES)? => {}
                None if self.buffered() == 0 => return Ok(None),
                None => return Err(RecordError::Cut),
            }
        };
        let (length, last) = ((mark & !LAST_FRAGMENT) as usize, mark & LAST_FRAGMENT != 0);
        if length > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong);
        }
        while self.buffered() < MARK_BYTES + length {
            if !self.fill(from, MARK_BYTES + length)? {
                return Err(RecordError::Cut);
            }
        }
        let begin = self.start + MARK_BYTES;
        self.start = begin + length;
        Ok(Some((begin..self.start, last)))
    }

    /// Reads once, towards `wanted` bytes; `false` at the end of the stream.
    ///
    /// Nothing is read behind a long record, and only a little behind a short one, so that next to nothing is moved.
    fn fill(&mut self, from: &mut impl Read, wanted: usize) -> Result<bool, RecordError> {
        if self.start + wanted > self.buffer.len() || self.start == self.end {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.buffered());
        }
        let reach = self.start + wanted.max(READ_AHEAD_BYTES);
        let reach = reach.min(self.buffer.len());
        let room = self.buffer.get_mut(self.end..reach).unwrap_or_default();
        loop {
            match from.read(room) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Who makes a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Credential {
    None,
    Sys { uid: u32, gid: u32 },
}

/// The header of a call (RFC 5531 section 9).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CallHeader {
    pub(crate) xid: u32,
    pub(crate) program: u32,
    pub(crate) version: u32,
    pub(crate) procedure: u32,
    pub(crate) credential: Credential,
}

/// Why a record is not a call that can be looked into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CallError {
    /// A reply, or not RPC at all.
    NotACall,
    /// Another version of RPC: to be answered.
    Version { xid: u32 },
    /// A credential of another flavor, or not decodable: to be answered.
    Credential { xid: u32 },
}

impl CallHeader {
    /// Takes the header off a record.
    ///
    /// # Errors
    /// [`CallError`] says whether and how to answer.
    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, CallError> {
        let mut word = || from.u32().map_err(|_| CallError::NotACall);
        let (xid, kind, rpc_version) = (word()?, word()?, word()?);
        if kind != CALL {
            return Err(CallError::NotACall);
        }
        if rpc_version != RPC_VERSION {
            return Err(CallError::Version { xid });
        }
        let (program, version, procedure) = (word()?, word()?, word()?);
        let credential = Self::credential(from).map_err(|_| CallError::Credential { xid })?;
        Ok(Self { xid, program, version, procedure, credential })
    }

    /// The credential, and the verifier, which has no content in either flavor.
    fn credential(from: &mut Decoder<'_>) -> Result<Credential, XdrError> {
        let flavor = from.u32()?;
        let mut body = Decoder::new(from.opaque(AUTH_BYTES_MAX)?);
        let (_, _) = (from.u32()?, from.opaque(AUTH_BYTES_MAX)?);
        match flavor {
            AUTH_NONE => Ok(Credential::None),
            AUTH_SYS => {
                let (_stamp, _machine) = (body.u32()?, body.opaque(255)?);
                Ok(Credential::Sys { uid: body.u32()?, gid: body.u32()? })
            }
            other => Err(XdrError::NotAValue(other)),
        }
    }
}

/// `accept_stat`: what became of a call that was accepted (RFC 5531 section 9).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Accepted {
    Success,
    ProgramUnavailable,
    /// The versions that there are follow.
    ProgramMismatch,
    ProcedureUnavailable,
    GarbageArguments,
}

/// Begins a reply, with a mark that [`finish`] sets; returns where.
pub(crate) fn begin_reply(to: &mut Encoder, xid: u32, accepted: Accepted) -> usize {
    let at = to.len();
    to.words([0, xid, REPLY, MSG_ACCEPTED, AUTH_NONE, 0, accepted as u32]);
    if accepted == Accepted::ProgramMismatch {
        to.u32(VERSION);
        to.u32(VERSION);
    }
    at
}

/// Encodes the answer to a call that was not accepted; nothing for what is not a call.
pub(crate) fn deny(to: &mut Encoder, error: CallError) {
    let at = to.len();
    match error {
        CallError::NotACall => return,
        CallError::Version { xid } => {
            to.words([0, xid, REPLY, MSG_DENIED, RPC_MISMATCH, RPC_VERSION, RPC_VERSION]);
        }
        CallError::Credential { xid } => {
            to.words([0, xid, REPLY, MSG_DENIED, AUTH_ERROR, AUTH_BADCRED]);
        }
    }
    finish(to, at, 0);
}

/// Begins a call with AUTH_SYS, with a mark that [`finish`] sets; returns where.
pub(crate) fn begin_call(to: &mut Encoder, xid: u32, procedure: u32, uid: u32, gid: u32) -> usize {
    const MACHINE: &[u8] = b"selftest";
    let at = to.len();
    to.words([0, xid, CALL, RPC_VERSION, PROGRAM, VERSION, procedure]);
    to.u32(AUTH_SYS);
    to.u32(5 * 4 + MACHINE.len() as u32);
    to.u32(0);
    to.opaque(MACHINE);
    to.words([uid, gid, 0, AUTH_NONE, 0]); // no further groups; an empty verifier
    at
}

/// Sets the mark at `at` for everything behind it and `payload` bytes that lie elsewhere.
pub(crate) fn finish(to: &mut Encoder, at: usize, payload: usize) {
    let length = to.len() - at - MARK_BYTES + payload;
    to.set_u32(at, length as u32 | LAST_FRAGMENT); // a record is at most RECORD_BYTES_MAX long
}

/// Whether a record begins as a call does: on a client's side, a callback.
pub(crate) fn is_call(record: &[u8]) -> bool {
    record.get(4..8) == Some(&CALL.to_be_bytes())
}

/// How a server refused a call as such.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// It speaks other versions of RPC.
    #[error("RPC version 2 is not spoken")]
    RpcVersion,
    /// It does not take the credential; the number is `auth_stat`.
    #[error("the credential is refused (auth_stat {0})")]
    Credential(u32),
    /// There is no NFS here.
    #[error("no NFS at this address (PROG_UNAVAIL)")]
    ProgramUnavailable,
    /// There is NFS, but not version 4.
    #[error("NFS versions {low} to {high}, not 4 (PROG_MISMATCH)")]
    ProgramMismatch {
        /// The lowest version there.
        low: u32,
        /// The highest.
        high: u32,
    },
    /// `PROC_UNAVAIL`, `GARBAGE_ARGS`, `SYSTEM_ERR`, by number.
    #[error("the call is refused (accept_stat {0})")]
    Call(u32),
}

/// Takes the header off a reply: the xid, and whether the call was done.
///
/// # Errors
/// [`XdrError`] for a record that is not a reply.
pub(crate) fn decode_reply(from: &mut Decoder<'_>) -> Result<(u32, Result<(), Rejection>), XdrError> {
    let (xid, kind) = (from.u32()?, from.u32()?);
    if kind != REPLY {
        return Err(XdrError::NotAValue(kind));
    }
    if from.u32()? == MSG_DENIED {
        let rejected = from.u32()?;
        return Ok((
            xid,
            Err(if rejected == AUTH_ERROR { Rejection::Credential(from.u32()?) } else { Rejection::RpcVersion }),
        ));
    }
    let (_flavor, _verifier) = (from.u32()?, from.opaque(AUTH_BYTES_MAX)?);
    let done = match from.u32()? {
        0 => Ok(()),
        1 => Err(Rejection::ProgramUnavailable),
        2 => Err(Rejection::ProgramMismatch { low: from.u32()?, high: from.u32()? }),
        other => Err(Rejection::Call(other)),
    };
    Ok((xid, done))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that brings at most `step` bytes at a time.
    struct Steps<'b>(&'b [u8], usize);

    impl Read for Steps<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(to.len());
            (&self.0[..self.0.len().min(count)]).read(to).inspect(|count| self.0 = &self.0[*count..])
        }
    }

    fn record(message: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = message;
        for cut in cuts {
            let (fragment, behind) = rest.split_at(*cut);
            out.extend((fragment.len() as u32).to_be_bytes());
            out.extend(fragment);
            rest = behind;
        }
        out.extend((rest.len() as u32 | LAST_FRAGMENT).to_be_bytes());
        out.extend(rest);
        out
    }

    fn records(stream: &[u8], step: usize) -> (Vec<Vec<u8>>, Result<(), String>) {
        let (mut from, mut reader, mut found) = (Steps(stream, step), RecordReader::new(), Vec::new());
        loop {
            match reader.record(&mut from) {
                Ok(Some(record)) => found.push(record.to_vec()),
                Ok(None) => return (found, Ok(())),
                Err(error) => return (found, Err(error.to_string())),
            }
        }
    }

    #[test]
    fn every_way_of_cutting_a_stream_gives_the_same_records() {
        let messages: [&[u8]; 4] = [b"one", b"", b"three of them", &[7; 600]];
        let cuts: [&[usize]; 4] = [&[], &[], &[4, 0, 3], &[599]];
        let stream: Vec<u8> = messages.iter().zip(cuts).flat_map(|(message, cuts)| record(message, cuts)).collect();
        for step in 1..=stream.len() {
            assert_eq!(records(&stream, step), (messages.map(<[u8]>::to_vec).to_vec(), Ok(())), "step {step}");
        }
        for end in 0..stream.len() {
            let (found, ended) = records(&stream[..end], 64);
            let boundary =
                found.iter().zip(cuts).map(|(record, cuts)| record.len() + 4 + 4 * cuts.len()).sum::<usize>();
            assert_eq!(ended.is_ok(), end == boundary, "cut at {end}");
        }
    }

    #[test]
    fn long_records_one_behind_the_other_are_found() {
        let long = vec![9; RECORD_BYTES_MAX];
        let stream = [record(&long, &[]), record(b"x", &[]), record(&long, &[5]), record(&long, &[])].concat();
        for step in [1000, 65_536, usize::MAX] {
            let (found, ended) = records(&stream, step);
            assert_eq!(
                (found.iter().map(Vec::len).collect(), ended),
                (vec![long.len(), 1, long.len(), long.len()], Ok(()))
            );
        }
    }

    #[test]
    fn a_record_above_the_limit_is_refused_however_it_is_cut() {
        let long = vec![0; RECORD_BYTES_MAX + 1];
        for cuts in [&[] as &[usize], &[RECORD_BYTES_MAX], &[1, 1]] {
            assert!(records(&record(&long, cuts), usize::MAX).1.is_err_and(|error| error.contains("more than")));
        }
        assert!(records(b"GET / HTTP/1.1\r\n\r\n", 100).1.is_err());
    }

    #[test]
    fn a_call_decodes_to_what_was_encoded_and_cut_anywhere_to_an_error() {
        let mut call = Encoder::new();
        let at = begin_call(&mut call, 77, 1, 1000, 100);
        finish(&mut call, at, 0);
        let bytes = &call.bytes()[4..];
        let credential = Credential::Sys { uid: 1000, gid: 100 };
        let expected = CallHeader { xid: 77, program: PROGRAM, version: VERSION, procedure: 1, credential };
        assert_eq!(CallHeader::decode(&mut Decoder::new(bytes)), Ok(expected));
        for end in 0..bytes.len() {
            assert!(CallHeader::decode(&mut Decoder::new(&bytes[..end])).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn each_refusal_is_told_as_such() {
        let decode = |out: &Encoder| decode_reply(&mut Decoder::new(&out.bytes()[4..]));
        let mut out = Encoder::new();
        deny(&mut out, CallError::Version { xid: 3 });
        assert_eq!(decode(&out), Ok((3, Err(Rejection::RpcVersion))));
        let mut out = Encoder::new();
        deny(&mut out, CallError::Credential { xid: 4 });
        assert_eq!(decode(&out), Ok((4, Err(Rejection::Credential(AUTH_BADCRED)))));
        let cases = [
            (Accepted::Success, Ok(())),
            (Accepted::ProgramUnavailable, Err(Rejection::ProgramUnavailable)),
            (Accepted::ProgramMismatch, Err(Rejection::ProgramMismatch { low: 4, high: 4 })),
            (Accepted::ProcedureUnavailable, Err(Rejection::Call(3))),
            (Accepted::GarbageArguments, Err(Rejection::Call(4))),
        ];
        for (accepted, expected) in cases {
            let mut out = Encoder::new();
            let at = begin_reply(&mut out, 5, accepted);
            finish(&mut out, at, 0);
            assert_eq!(decode(&out), Ok((5, expected)));
        }
    }
}
