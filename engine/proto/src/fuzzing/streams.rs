//! Both directions of a connection: calls, callbacks, their replies, in fragments, delivered in pieces of any size.
//!
//! Who sends knows what it has sent. So the oracle reads nothing: it has written down at which byte of the stream what
//! becomes true, and compares that with what the scanners say after every piece.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::records::Facts;
use super::{Cuts, Script};
use crate::outstanding::{KNOWN_MAX, Outstanding, Passing};
use crate::rpc::{Messages, RecordScanner, is_reply};

/// A stream grows no longer than this.
const STREAM_BYTES_MAX: usize = 256 << 10;
/// The shortest message that is whole in one fragment (RFC 5531 section 9), and the words that are looked at.
const MESSAGE_BYTES_MIN: usize = 20;
const KIND_END: usize = 8;
const VERSION_END: usize = 12;

/// From here on transaction identifiers are those of replies that nobody asked for.
const XID_OF_NOTHING: u32 = 1 << 31;

/// What becomes true when a stream has been delivered up to a certain byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mark {
    /// The head of a call is there.
    Call { xid: u32 },
    /// The type word of a reply is there.
    Reply,
    /// A message is complete.
    End { xid: u32, reply: bool },
    /// It is no RPC from here on.
    Refusal,
}

/// A fragment with its mark: from `start`, `length` bytes behind the four of the mark.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    start: usize,
    length: usize,
    first: bool,
    reply: bool,
}

/// What one end has sent, and how much of it the relay has seen.
struct Direction {
    wire: Vec<u8>,
    marks: Vec<(usize, Mark)>,
    fragments: Vec<Fragment>,
    delivered: usize,
    /// The next of `marks` and of `fragments` that has not been passed.
    mark: usize,
    fragment: usize,
    expected: Facts,
    scanner: RecordScanner,
    /// Shown the same bytes, but record by record, as a drain does.
    stepper: RecordScanner,
}

impl Direction {
    fn new() -> Self {
        Self {
            wire: Vec::new(),
            marks: Vec::new(),
            fragments: Vec::new(),
            delivered: 0,
            mark: 0,
            fragment: 0,
            expected: Facts { at_boundary: true, ..Facts::default() },
            scanner: RecordScanner::new(),
            stepper: RecordScanner::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.wire.len() >= STREAM_BYTES_MAX
    }

    /// Appends a message of `length` bytes in fragments that `cuts` chooses.
    fn message(&mut self, xid: u32, reply: bool, length: usize, cuts: &mut Cuts) {
        let length = length.max(MESSAGE_BYTES_MIN);
        // Words that look like marks, types and versions: none may be taken for one.
        let mut text: Vec<u8> = [xid, u32::from(reply), if reply { 0 } else { 2 }].map(u32::to_be_bytes).concat();
        let body = [0x8000_0014_u32, 0, 1, 2, 0x8000_0000, 0xffff_ffff, 0x1603_0300];
        text.extend(body.iter().cycle().flat_map(|word| word.to_be_bytes()).take(length - VERSION_END));
        self.fragments_of(&text, reply, cuts);
        let position = |at| self.position_of(text.len(), at);
        let (kind, version, end) = (position(KIND_END), position(VERSION_END), self.wire.len());
        match reply {
            true => self.marks.push((kind, Mark::Reply)),
            false => self.marks.push((version, Mark::Call { xid })),
        }
        self.marks.push((end, Mark::End { xid, reply }));
    }

    fn fragments_of(&mut self, text: &[u8], reply: bool, cuts: &mut Cuts) {
        let mut at = 0;
        while at < text.len() {
            // At least the whole of the shortest message, where there is only one fragment: `text` is that long.
            let length = cuts.next(text.len() - at);
            let last = at + length == text.len();
            let mark = length as u32 | if last { 1 << 31 } else { 0 };
            self.fragments.push(Fragment { start: self.wire.len(), length, first: at == 0, reply });
            self.wire.extend(mark.to_be_bytes());
            self.wire.extend(&text[at..at + length]);
            at += length;
        }
    }

    /// Where in the stream the first `at` bytes of the last message, which has `length`, have passed.
    fn position_of(&self, length: usize, at: usize) -> usize {
        let mut behind = length;
        for fragment in self.fragments.iter().rev() {
            behind -= fragment.length;
            if behind < at {
                return fragment.start + 4 + (at - behind);
            }
        }
        unreachable!("a message begins in its first fragment")
    }

    /// Appends something that is no RPC, in a way that `kind` chooses.
    fn garbage(&mut self, kind: u8) {
        let start = self.wire.len();
        let (words, refused_at): (&[u32], usize) = match kind % 6 {
            0 => (&[0x8000_0000], 4),                 // an empty fragment
            1 => (&[0x0400_0001], 4),                 // longer than any
            2 => (&[0x8000_0013, 1], 4),              // shorter than any message
            3 => (&[0x8000_0014, 1, 2, 2, 0, 0], 12), // neither call nor reply
            4 => (&[0x8000_0014, 1, 0, 3, 0, 0], 16), // a call of another version
            _ => (&[4, 1, 0x8000_0004, 1], 16),       // over before its head is
        };
        self.wire.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        if kind % 6 == 5 {
            self.marks.push((start + 16, Mark::Reply));
        }
        self.marks.push((start + refused_at, Mark::Refusal));
        // What is looked at before that: its fragments, for the bytes that are left.
        for (at, length, first) in [(0, 20, true), (8, 4, false)].iter().take(1 + usize::from(kind % 6 == 5)) {
            let length = if kind % 6 == 5 { 4 } else { *length };
            self.fragments.push(Fragment { start: start + at, length, first: *first, reply: kind % 6 == 5 });
        }
    }

    /// Shows the next `count` bytes to the scanners, of which one tells `messages`. Returns what has become true.
    fn deliver(&mut self, count: usize, messages: &mut impl Messages) -> Vec<Mark> {
        let from = self.delivered;
        let to = self.wire.len().min(from + count);
        self.delivered = to;
        let passed = self.passed();
        let ended = passed.iter().filter(|mark| matches!(mark, Mark::End { .. })).count();
        let piece = &self.wire[from..to];
        match self.scanner.advance_and_tell(piece, messages) {
            Ok(found) => assert_eq!(found, ended, "records that end in {from}..{to}"),
            Err(_) => assert!(self.expected.refused, "{from}..{to} is refused"),
        }
        self.step_through(from, to);
        self.expected.bytes = to as u64;
        self.expected.left = self.left();
        assert_eq!(Facts::of(&self.scanner), self.expected, "after {from}..{to}");
        assert_eq!(Facts::of(&self.stepper), self.expected, "record by record, after {from}..{to}");
        passed
    }

    /// Takes what has become true into account.
    fn passed(&mut self) -> Vec<Mark> {
        let mut passed = Vec::new();
        while let Some((at, mark)) = self.marks.get(self.mark)
            && *at <= self.delivered
            && !self.expected.refused
        {
            passed.push(*mark);
            self.mark += 1;
            match mark {
                Mark::Call { .. } => self.expected.calls += 1,
                Mark::Reply => self.expected.replies += 1,
                Mark::End { reply, .. } => self.expected.replies_ended += u64::from(*reply),
                Mark::Refusal => self.expected.refused = true,
            }
        }
        let is_end = |(at, mark): &(usize, Mark)| *at == self.delivered && matches!(mark, Mark::End { .. });
        let at_end = self.mark.checked_sub(1).is_some_and(|last| is_end(&self.marks[last]));
        self.expected.at_boundary = !self.expected.refused && (self.delivered == 0 || at_end);
        passed
    }

    /// No step goes beyond the end of a record.
    fn step_through(&mut self, from: usize, to: usize) {
        let mut at = from;
        while at < to {
            let ahead = self.marks.partition_point(|(end, _)| *end <= at);
            let end = self.marks[ahead..].iter().find(|(_, mark)| matches!(mark, Mark::End { .. }));
            match self.stepper.advance_in_record(&self.wire[at..to], &mut ()) {
                Ok(taken) => {
                    assert_eq!(taken, end.map_or(to, |(end, _)| *end).min(to) - at, "a step from {at} in {from}..{to}");
                    at += taken;
                }
                Err(_) => return assert!(self.expected.refused, "{at}..{to} is refused"),
            }
        }
    }

    /// What surely belongs to the record that has begun.
    fn left(&mut self) -> usize {
        let ends_at = |fragment: &Fragment| fragment.start + 4 + fragment.length;
        while self.fragments.get(self.fragment).is_some_and(|fragment| ends_at(fragment) <= self.delivered) {
            self.fragment += 1;
        }
        if self.expected.refused || self.expected.at_boundary {
            return 0;
        }
        match self.fragments.get(self.fragment) {
            Some(fragment) if self.delivered < fragment.start + 4 => fragment.start + 4 - self.delivered,
            Some(fragment) => ends_at(fragment) - self.delivered,
            None => 0,
        }
    }

    /// What a direction that begins to read here would be told of the record.
    fn kind_is_told(&self) {
        let Some(fragment) = self.fragments.get(self.fragment).filter(|fragment| fragment.first) else { return };
        if self.expected.refused || fragment.start > self.delivered || self.marks.last().is_some_and(is_refusal) {
            return;
        }
        let there = &self.wire[fragment.start..self.delivered];
        let expected = (there.len() >= VERSION_END && fragment.length >= KIND_END).then_some(fragment.reply);
        assert_eq!(is_reply(there), expected, "the record at {}", fragment.start);
    }
}

fn is_refusal((_, mark): &(usize, Mark)) -> bool {
    *mark == Mark::Refusal
}

/// Calls in one direction and their replies in the other.
#[derive(Default)]
struct Conversation {
    /// Calls whose head has passed and whose reply has not ended; `true` once the whole call has arrived.
    open: BTreeMap<u32, bool>,
    xid: u32,
}

impl Conversation {
    fn next_xid(&mut self) -> u32 {
        self.xid = self.xid.wrapping_add(1);
        self.xid
    }

    /// Some call that has arrived and was not answered yet.
    fn answerable(&self, choice: u8, answered: &[u32]) -> Option<u32> {
        let ready: Vec<u32> =
            self.open.iter().filter(|(xid, whole)| **whole && !answered.contains(xid)).map(|(xid, _)| *xid).collect();
        ready.get(usize::from(choice) % ready.len().max(1)).copied()
    }

    fn note(&mut self, mark: Mark) {
        match mark {
            Mark::Call { xid } => drop(self.open.insert(xid, false)),
            // One that is said again may have had its reply meanwhile.
            Mark::End { xid, reply: false } => self.open.get_mut(&xid).into_iter().for_each(|whole| *whole = true),
            Mark::End { .. } | Mark::Reply | Mark::Refusal => {}
        }
    }
}

/// Both ends of a connection: `[0]` is the NFS client's direction, `[1]` the server's.
struct Connection {
    directions: [Direction; 2],
    /// Calls that go in each direction: forward calls, callbacks.
    conversations: [Conversation; 2],
    answered: [Vec<u32>; 2],
    /// What a session would know of them.
    outstanding: [Outstanding; 2],
    /// There were once more calls than are known one by one.
    was_crowded: bool,
    cuts: Cuts,
}

impl Connection {
    fn call(&mut self, side: usize, length: usize) {
        let xid = self.conversations[side].next_xid();
        self.directions[side].message(xid, false, length, &mut self.cuts);
    }

    /// Says a call again that was said before.
    fn repeat(&mut self, side: usize, choice: u8, length: usize) {
        let xid = 1 + u32::from(choice) % self.conversations[side].xid.max(1);
        self.directions[side].message(xid, false, length, &mut self.cuts);
    }

    /// A reply to nothing, in direction `side`.
    fn answer_nothing(&mut self, side: usize, choice: u8, length: usize) {
        self.directions[side].message(XID_OF_NOTHING + u32::from(choice), true, length, &mut self.cuts);
    }

    /// Answers, in direction `side`, a call that came from the other.
    fn answer(&mut self, side: usize, choice: u8, length: usize) {
        let other = 1 - side;
        if let Some(xid) = self.conversations[other].answerable(choice, &self.answered[other]) {
            self.answered[other].push(xid);
            self.directions[side].message(xid, true, length, &mut self.cuts);
        }
    }

    fn deliver(&mut self, side: usize, count: usize) {
        let [first, second] = &mut self.outstanding;
        let (calls, answered) = if side == 0 { (first, second) } else { (second, first) };
        let passed = self.directions[side].deliver(count, &mut Passing { calls, answered });
        for mark in passed {
            self.conversations[side].note(mark);
            if let Mark::End { xid, reply: true } = mark {
                let closed = self.conversations[1 - side].open.remove(&xid).is_some();
                assert_eq!(closed, xid < XID_OF_NOTHING, "a reply to a call that has not arrived");
            }
        }
        self.directions[side].kind_is_told();
        self.outstanding_is_what_was_not_answered();
    }

    /// What a session waits for before it closes: calls in one direction without a reply in the other.
    fn outstanding_is_what_was_not_answered(&mut self) {
        self.was_crowded |= self.conversations.iter().any(|conversation| conversation.open.len() > KNOWN_MAX);
        if self.was_crowded || self.directions.iter().any(|direction| direction.expected.refused) {
            return;
        }
        for (outstanding, conversation) in self.outstanding.iter_mut().zip(&self.conversations) {
            outstanding.passed_on();
            assert_eq!(outstanding.count(), conversation.open.len() as u64);
        }
    }
}

/// The scanners of a connection say, after each piece of either direction, what its ends have sent so far: records,
/// calls, replies, what is outstanding, what is left of the record.
///
/// The input is a seed of two bytes for where things are cut, and a script of what the ends do and what is delivered.
///
/// # Panics
/// When they do not.
pub fn streams(data: &[u8]) {
    let mut script = Script::new(data);
    let mut connection = Connection {
        directions: [Direction::new(), Direction::new()],
        conversations: [Conversation::default(), Conversation::default()],
        answered: [Vec::new(), Vec::new()],
        outstanding: [Outstanding::default(), Outstanding::default()],
        was_crowded: false,
        cuts: Cuts::new(script.word()),
    };
    while !script.is_over() {
        let act = script.byte();
        let side = usize::from(act >> 7);
        let is_full =
            connection.directions[side].is_full() || connection.directions[side].marks.last().is_some_and(is_refusal);
        match act % 8 {
            0 if !is_full => connection.call(side, usize::from(script.byte())),
            1 if !is_full => match script.byte() {
                choice @ 0..=31 => connection.repeat(side, choice, 60),
                choice @ 32..=47 => connection.answer_nothing(side, choice, 60),
                length => connection.call(side, usize::from(length)),
            },
            2 if !is_full => connection.call(side, usize::from(script.word())),
            3 | 4 if !is_full => {
                let (choice, length) = (script.byte(), script.byte());
                connection.answer(side, choice, usize::from(length) << (act >> 3 & 7));
            }
            5 => connection.deliver(side, usize::from(script.byte())),
            6 => connection.deliver(side, usize::from(script.word())),
            7 if !is_full && act & 8 != 0 => connection.directions[side].garbage(script.byte()),
            _ => connection.deliver(side, 1 + usize::from(act >> 3 & 7)),
        }
    }
    // The rest, in pieces.
    while connection.directions.iter().any(|direction| direction.delivered < direction.wire.len()) {
        for side in 0..2 {
            let left = connection.directions[side].wire.len() - connection.directions[side].delivered;
            // A byte at a time through all of it shows nothing new.
            let count = connection.cuts.next(left.max(1)).max(left / 64);
            connection.deliver(side, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scanners_say_what_the_ends_have_sent() {
        for seed in 1..=600 {
            let mut random = Cuts::new(seed);
            let script: Vec<u8> = (0..40 + random.below(200)).map(|_| random.below(256) as u8).collect();
            streams(&script);
        }
    }
}
