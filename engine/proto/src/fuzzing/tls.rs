//! Sealing and opening: what is sent is what comes out, however the stream is cut and wherever it lies.

use alloc::vec;
use alloc::vec::Vec;

use super::line::{End, Line, Setup};
use super::receiver::Receiver;
use super::{Cuts, Script};
use crate::limits::{BUFFER_BIG_BYTES, BUFFER_SMALL_BYTES, RECORD_PLAIN_BYTES_MAX, RECORD_WIRE_BYTES_MAX};
use crate::tls::{ContentType, Sealer, TlsError};

/// The most that one script sends.
const WIRE_BYTES_MAX: usize = 160 * 1024;

/// A receiver makes of a script of records what it must, in whatever pieces they come.
///
/// The input is one byte of [`Setup`], a seed of two bytes for the cuts, two bytes that say how much is cut off at the
/// end, and the acts of a [`Line`].
///
/// # Panics
/// When it does not.
pub fn open(data: &[u8]) {
    let mut script = Script::new(data);
    let setup = Setup::of(script.byte());
    let (seed, cut_off) = (script.word(), usize::from(script.word()));
    let mut line = Line::new(setup);
    while !script.is_over() && line.wire.len() < WIRE_BYTES_MAX {
        line.act(&mut script);
    }
    let there = line.wire.len() - if cut_off % 4 == 3 { (cut_off / 4).min(line.wire.len()) } else { 0 };
    let wire = &line.wire[..there];
    let expected = line.expected(there);
    let mut first_end = None;
    let middle = 2 * RECORD_WIRE_BYTES_MAX + usize::from(seed);
    for (seed, capacity, moves) in [
        (0, BUFFER_BIG_BYTES, false),
        (0, BUFFER_SMALL_BYTES, false),
        (seed, middle, false),
        (seed, BUFFER_SMALL_BYTES, true),
    ] {
        let mut receiver = Receiver::new(setup, capacity);
        receive(&mut receiver, wire, seed, moves);
        receiver.stays_ended();
        assert!(receiver.data == expected.data, "seed {seed}: {}", difference(&receiver.data, &expected.data));
        assert_eq!(receiver.events, expected.events, "seed {seed}, {capacity} bytes");
        if expected.end == End::Unknown {
            assert_ne!(receiver.end, End::Closed, "seed {seed}: bytes without a meaning were taken for an end");
            assert_eq!(*first_end.get_or_insert(receiver.end.clone()), receiver.end, "seed {seed}");
        } else {
            assert_eq!(receiver.end, expected.end, "seed {seed}, {capacity} bytes");
        }
    }
}

fn receive(receiver: &mut Receiver, mut wire: &[u8], seed: u16, moves: bool) {
    let mut cuts = Cuts::new(seed);
    while !wire.is_empty() && receiver.end == End::Open {
        let count = receiver.read(&wire[..cuts.next(wire.len())]);
        wire = &wire[count..];
        if moves && receiver.end == End::Open && cuts.below(3) == 0 {
            let middle = 3 * RECORD_WIRE_BYTES_MAX;
            assert!(receiver.move_to([BUFFER_SMALL_BYTES, middle][cuts.below(2)]), "more than a record is held");
        }
    }
}

/// Where two byte strings part, in words.
fn difference(found: &[u8], expected: &[u8]) -> alloc::string::String {
    let at = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    alloc::format!("{} bytes instead of {}, the same up to {at}", found.len(), expected.len())
}

/// What is sealed in place opens to the same bytes, has the promised length, and touches nothing behind it.
///
/// The input is one byte of [`Setup`], then a word for each call.
///
/// # Panics
/// When it does not.
pub fn seal(data: &[u8]) {
    const BEHIND: u8 = 0xe7;
    let mut script = Script::new(data);
    let setup = Setup::of(script.byte());
    let mut sealer = Sealer::new(&super::key(setup, 0));
    let shape = sealer.shape();
    let mut receiver = Receiver::new(setup, BUFFER_BIG_BYTES);
    let mut expected: Vec<u8> = Vec::new();
    while !script.is_over() && expected.len() < WIRE_BYTES_MAX {
        let word = usize::from(script.word());
        // Three of four lengths are small or at the edge of a record.
        let length = match word & 3 {
            0 => word >> 6,
            1 => RECORD_PLAIN_BYTES_MAX * (1 + (word >> 10 & 3)) - 2 + (word >> 2 & 3),
            2 => RECORD_PLAIN_BYTES_MAX + (word >> 8),
            _ => word,
        };
        let count = length.div_ceil(RECORD_PLAIN_BYTES_MAX);
        let whole = length + count * (shape.prefix + shape.suffix);
        let mut wire = vec![BEHIND; whole + 40];
        let text: Vec<u8> = (0..length).map(|at| (at ^ at >> 8 ^ expected.len()) as u8).collect();
        for ((start, length), chunk) in shape.chunks(length).zip(text.chunks(RECORD_PLAIN_BYTES_MAX)) {
            wire[start..start + length].copy_from_slice(chunk);
        }
        let before = sealer.records();
        if count == 1 {
            let short = sealer.seal(&mut wire[..whole - 1], length);
            assert!(matches!(short, Err(TlsError::ApiMisuse(_))), "sealed into too little room: {short:?}");
            assert_eq!(sealer.records(), before, "a refused call used a number");
        }
        let sealed = match script.byte() & 1 {
            0 => sealer.seal(&mut wire, length),
            _ if count == 1 => sealer.seal_message(ContentType::APPLICATION_DATA, &text, &mut wire),
            _ => sealer.seal(&mut wire, length),
        };
        match sealed {
            Err(error) => return assert_eq!(error, TlsError::KeyExhausted),
            Ok(sealed) => assert_eq!(sealed, whole, "{length} bytes"),
        }
        assert_eq!(sealer.records() - before, count as u64, "{length} bytes");
        assert!(wire[whole..].iter().all(|byte| *byte == BEHIND), "sealing wrote behind its records");
        assert!(length == 0 || !contains(&wire[..whole], &text), "plain text on the wire");
        expected.extend_from_slice(&text);
        let mut rest = &wire[..whole];
        while !rest.is_empty() {
            let count = receiver.read(rest);
            rest = &rest[count..];
        }
        assert_eq!(receiver.end, End::Open, "what was sealed does not open");
        assert!(receiver.data == expected, "{}", difference(&receiver.data, &expected));
    }
}

/// Whether the first bytes of `text` are in `wire`; few bytes can be there by chance.
fn contains(wire: &[u8], text: &[u8]) -> bool {
    text.first_chunk::<16>().is_some_and(|start| wire.windows(16).any(|window| window == start))
}
