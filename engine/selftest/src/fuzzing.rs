//! What the fuzz targets run. Each function takes arbitrary bytes, does with them what they say, and panics when a
//! promise of this crate did not hold.
//!
//! They are here, so that an ordinary test replays the corpus through the same code. Nothing of the peers calls them.

use std::io::{self, Read};

use sealane_proto::fuzzing::{Cuts, Script};

use crate::nfs4::{Bitmap, Stable, Stateid};
use crate::rpc::{RecordError, RecordReader};
use crate::xdr::{Decoder, Encoder, XdrError};

/// Items decode to the same after they were encoded again, records are found however their stream is cut, and the
/// server answers every call, keeps what was written, and closes on what is no call.
///
/// The first byte says which of the three, the rest is theirs.
///
/// # Panics
/// When that is not so.
pub fn xdr(data: &[u8]) {
    let mut script = Script::new(data);
    match script.byte() % 4 {
        0 => items(&mut script),
        1 => records(&mut script),
        2 => crate::server::fuzzing::calls(&mut script),
        _ => crate::server::fuzzing::file(&mut script),
    }
}

/// The kinds of the items, and then their bytes.
fn items(script: &mut Script<'_>) {
    let count = usize::from(script.byte() % 32);
    let kinds = script.bytes(count);
    let bytes = script.rest();
    let mut first = Encoder::new();
    let (decoded, left) = copy(kinds, bytes, &mut first);
    assert!(left <= bytes.len());
    let mut second = Encoder::new();
    let whole = kinds.get(..decoded).unwrap_or_default();
    assert_eq!(copy(whole, first.bytes(), &mut second), (decoded, 0), "what was encoded does not decode");
    assert_eq!(first.bytes(), second.bytes(), "what was encoded decodes to something else");
    assert!(first.len() <= bytes.len() - left, "{} bytes became {}", bytes.len() - left, first.len());
}

/// Decodes items and encodes them again, up to the first that does not decode: how many, and what was left of `bytes`.
fn copy(kinds: &[u8], bytes: &[u8], to: &mut Encoder) -> (usize, usize) {
    let mut from = Decoder::new(bytes);
    for (index, kind) in kinds.iter().enumerate() {
        let mut ahead = from.clone();
        if one(*kind, &mut ahead, to).is_err() {
            return (index, from.left());
        }
        from = ahead;
    }
    (kinds.len(), from.left())
}

fn one(kind: u8, from: &mut Decoder<'_>, to: &mut Encoder) -> Result<(), XdrError> {
    match kind % 9 {
        0 => to.u32(from.u32()?),
        1 => to.u64(from.u64()?),
        2 => to.i64(from.i64()?),
        3 => to.bool(from.bool()?),
        4 => to.fixed(&from.fixed::<6>()?),
        5 => to.opaque(from.opaque(400)?),
        6 => Bitmap::decode(from)?.encode(to),
        7 => Stateid::decode(from)?.encode(to),
        _ => to.u32(Stable::decode(from)?.number()),
    }
    Ok(())
}

/// A stream that brings what it has in pieces.
struct Pieces<'b> {
    bytes: &'b [u8],
    cuts: Cuts,
}

impl Read for Pieces<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        assert!(!to.is_empty(), "a read for nothing");
        let most = self.bytes.len().min(to.len());
        let count = if most == 0 { 0 } else { self.cuts.next(most) };
        self.bytes.read(to.get_mut(..count).unwrap_or_default())
    }
}

/// A seed of two bytes, and a stream.
fn records(script: &mut Script<'_>) {
    let seed = script.word();
    let stream = script.rest();
    let expected = read(stream);
    for seed in [0, 1, seed] {
        let mut from = Pieces { bytes: stream, cuts: Cuts::new(seed) };
        let mut reader = RecordReader::new();
        let mut found = Vec::new();
        let end = loop {
            match reader.record(&mut from) {
                Ok(Some(record)) => found.push(record.to_vec()),
                Ok(None) => break "end",
                Err(RecordError::Cut) => break "cut",
                Err(RecordError::TooLong) => break "too long",
                Err(RecordError::Io(error)) => panic!("{error}"),
            }
        };
        assert!((&found, end) == (&expected.0, expected.1), "seed {seed}: {} records, {end}", found.len());
    }
}

/// The records of a stream that is all there, and how it ends.
fn read(mut stream: &[u8]) -> (Vec<Vec<u8>>, &'static str) {
    let mut records = Vec::new();
    let mut joined: Option<Vec<u8>> = None;
    while let Some((mark, rest)) = stream.split_first_chunk() {
        let mark = u32::from_be_bytes(*mark);
        let length = (mark & 0x7fff_ffff) as usize;
        if length > crate::limits::RECORD_BYTES_MAX {
            return (records, "too long");
        }
        let Some((fragment, behind)) = rest.split_at_checked(length) else { return (records, "cut") };
        stream = behind;
        let mut record = joined.take().unwrap_or_default();
        record.extend_from_slice(fragment);
        if mark >> 31 == 1 { records.push(record) } else { joined = Some(record) }
    }
    (records, if stream.is_empty() && joined.is_none() { "end" } else { "cut" })
}
