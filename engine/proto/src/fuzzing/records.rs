//! The record scanner against a reader of whole streams.

use alloc::vec::Vec;

use super::{Cuts, Script};
use crate::rpc::{RecordScanner, is_reply};

/// What is known of a stream, or of a part of it from the start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Facts {
    pub(super) calls: u64,
    pub(super) replies: u64,
    pub(super) replies_ended: u64,
    pub(super) bytes: u64,
    pub(super) refused: bool,
    pub(super) at_boundary: bool,
    pub(super) left: usize,
}

impl Facts {
    pub(super) fn of(scanner: &RecordScanner) -> Self {
        Self {
            calls: scanner.calls(),
            replies: scanner.replies(),
            replies_ended: scanner.replies_ended(),
            bytes: scanner.bytes(),
            refused: scanner.is_refused(),
            at_boundary: scanner.at_boundary(),
            left: scanner.record_bytes_left(),
        }
    }
}

/// The scanner says the same of a stream however it is cut, and says what a plain reader of the whole says.
///
/// The input is a seed of two bytes and the stream.
///
/// # Panics
/// When it does not.
pub fn records(data: &[u8]) {
    let mut script = Script::new(data);
    let seed = script.word();
    let stream = script.rest();
    let (expected, ends) = read(stream);
    for seed in [0, 1, seed] {
        let mut cuts = Cuts::new(seed);
        let mut scanner = RecordScanner::new();
        let (mut at, mut found) = (0, 0);
        while at < stream.len() {
            let end = at + cuts.next(stream.len() - at);
            let answer = scanner.advance(&stream[at..end]);
            let there = ends.iter().filter(|mark| (at + 1..=end).contains(*mark)).count();
            match answer {
                Ok(count) => assert_eq!(count, there, "seed {seed}: records that end in {at}..{end}"),
                Err(_) => assert!(scanner.is_refused(), "seed {seed}: an error that is not kept"),
            }
            found += answer.unwrap_or(0);
            assert!(scanner.is_refused() || scanner.at_boundary() == (end == 0 || ends.contains(&end)));
            at = end;
        }
        assert_eq!(Facts::of(&scanner), expected, "seed {seed}");
        assert!(expected.refused || found == ends.len(), "seed {seed}: {found} of {} records", ends.len());
    }
    steps_never_cross_an_end(stream, &ends);
    for start in core::iter::once(&0).chain(&ends) {
        kind_is_that_of_the_record(&stream[*start..]);
    }
}

/// `record_bytes_left` is what a drain reads by: it must stop exactly at each end.
fn steps_never_cross_an_end(stream: &[u8], ends: &[usize]) {
    let mut scanner = RecordScanner::new();
    let (mut at, mut found) = (0, 0);
    while at < stream.len() && !scanner.is_refused() {
        let end = (at + scanner.record_bytes_left().max(1)).min(stream.len());
        if let Ok(count) = scanner.advance(&stream[at..end]) {
            assert!(count == 0 || (count == 1 && scanner.at_boundary()), "{at}..{end} holds more than its record");
            found += count;
            assert_eq!(found, ends.iter().filter(|mark| **mark <= end).count(), "a record end in {at}..{end}");
        }
        at = end;
    }
}

fn kind_is_that_of_the_record(stream: &[u8]) {
    let Some(head) = stream.first_chunk::<12>() else { return assert_eq!(is_reply(stream), None) };
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) & 0x7fff_ffff;
    let kind = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    let expected = if length < 8 || kind > 1 { None } else { Some(kind == 1) };
    assert_eq!(is_reply(stream), expected);
}

/// Reads a stream that is all there (RFC 5531 sections 9 and 11): its facts, and where its records end.
fn read(stream: &[u8]) -> (Facts, Vec<usize>) {
    let mut facts = Facts { bytes: stream.len() as u64, ..Facts::default() };
    let mut ends = Vec::new();
    let mut at = 0;
    // What one message has shown of its text.
    let mut text = Vec::new();
    loop {
        let rest = &stream[at..];
        let Some(mark) = rest.first_chunk::<4>() else {
            facts.at_boundary = rest.is_empty() && text.is_empty();
            facts.left = if facts.at_boundary || (text.is_empty() && rest.is_empty()) { 0 } else { 4 - rest.len() };
            return (facts, ends);
        };
        let (last, length) = (mark[0] & 0x80 != 0, (u32::from_be_bytes(*mark) & 0x7fff_ffff) as usize);
        if length == 0 || length > 64 << 20 || (text.is_empty() && last && length < 20) {
            return refused(facts, ends);
        }
        let there = &rest[4..rest.len().min(4 + length)];
        let before = text.len();
        text.extend_from_slice(there);
        let is_new = |at: usize| before < at && text.len() >= at;
        if is_new(8) {
            match text[4..8] {
                [0, 0, 0, 0] => {}
                [0, 0, 0, 1] => facts.replies += 1,
                _ => return refused(facts, ends),
            }
        }
        if is_new(12) && text[7] == 0 {
            if text[8..12] != [0, 0, 0, 2] {
                return refused(facts, ends);
            }
            facts.calls += 1;
        }
        if there.len() < length {
            facts.left = length - there.len();
            return (facts, ends);
        }
        at += 4 + length;
        if last {
            if text.len() < 12 {
                return refused(facts, ends);
            }
            facts.replies_ended += u64::from(text[7]);
            ends.push(at);
            text.clear();
        }
    }
}

fn refused(facts: Facts, ends: Vec<usize>) -> (Facts, Vec<usize>) {
    (Facts { refused: true, at_boundary: false, left: 0, ..facts }, ends)
}
