//! The sending end: a script of records, sealed, and what a receiver must make of them.

use alloc::vec;
use alloc::vec::Vec;

use super::Script;
use crate::limits::{HELLO_AGAIN_BYTES_MAX, RECORD_HEADER_BYTES, RECORD_PLAIN_BYTES_MAX, TICKET_MESSAGE_BYTES_MAX};
use crate::tls::{
    AlertDescription, ContentType, Invalid, PeerMisbehaved, Role, Sealer, Suite, TlsError, TrafficKey, Version,
    key_update,
};

/// No AES-GCM key protects more records (RFC 8446 section 5.5).
const RECORDS_PER_KEY_MAX: u64 = 23_726_566;

/// What both ends of a line have agreed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Setup {
    /// The protocol version.
    pub version: Version,
    /// The AEAD.
    pub suite: Suite,
    /// The role of the receiver.
    pub role: Role,
    /// The number of the first record.
    pub sequence: u64,
}

impl Setup {
    /// Any of them, by the bits of one byte.
    pub fn of(bits: u8) -> Self {
        let suite = match bits >> 1 & 3 {
            0 | 3 => Suite::Aes128Gcm,
            1 => Suite::Aes256Gcm,
            _ => Suite::ChaCha20Poly1305,
        };
        Self {
            version: if bits & 1 == 0 { Version::Tls13 } else { Version::Tls12 },
            suite,
            role: if bits & 8 == 0 { Role::Client } else { Role::Server },
            sequence: sequence_of(bits),
        }
    }
}

/// The number of a script's first record: 0, or a few records before a key of AES-GCM is used up.
pub fn sequence_of(bits: u8) -> u64 {
    if bits & 16 == 0 { 0 } else { RECORDS_PER_KEY_MAX - 5 }
}

/// The key that is in use after `generation` updates.
///
/// # Panics
/// When it is refused.
pub fn key(setup: Setup, generation: u32) -> TrafficKey {
    let length = if setup.suite == Suite::Aes128Gcm { 16 } else { 32 };
    let [.., high, low] = generation.to_be_bytes();
    let (mut bytes, mut iv) = ([high; 32], [low; 12]);
    bytes[0] = low;
    iv[0] = 0xa5;
    let sequence = if generation == 0 { setup.sequence } else { 0 };
    TrafficKey::new(setup.version, setup.suite, &bytes[..length], &iv, sequence).expect("a key of the right length")
}

/// What comes out of a line besides data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The sender goes over to its next key.
    KeyUpdate {
        /// It wants the receiver's updated too.
        answer: bool,
    },
    /// The body of a ticket.
    Ticket(Vec<u8>),
    /// A renegotiation is asked for.
    Renegotiation,
}

/// How a line ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// Not at all: the receiver waits for more.
    Open,
    /// By close_notify.
    Closed,
    /// By this error.
    Failed(TlsError),
    /// Bytes without a meaning were sent: nothing comes of them but an error, or a wait for more.
    Unknown,
}

/// What a receiver must make of what was sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expected {
    /// The application data.
    pub data: Vec<u8>,
    /// What else came, and behind how many bytes of data.
    pub events: Vec<(usize, Event)>,
    /// How it ended.
    pub end: End,
}

/// What was expected once so many bytes had been sent.
struct Mark {
    wire: usize,
    data: usize,
    events: usize,
    end: End,
}

/// A sender, its bytes, and what is expected of them.
pub struct Line {
    setup: Setup,
    sealer: Sealer,
    generation: u32,
    /// What was sent.
    pub wire: Vec<u8>,
    expected: Expected,
    marks: Vec<Mark>,
    model: Model,
    last_record: Vec<u8>,
    /// The next record is changed at this place.
    tamper: Option<u16>,
    /// A record was dropped: the next one has the wrong number.
    gap: bool,
}

impl Line {
    /// Nothing was sent yet.
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            sealer: Sealer::new(&key(setup, 0)),
            generation: 0,
            wire: Vec::new(),
            expected: Expected { data: Vec::new(), events: Vec::new(), end: End::Open },
            marks: Vec::new(),
            model: Model::new(setup),
            last_record: Vec::new(),
            tamper: None,
            gap: false,
        }
    }

    /// Does what the script says next.
    pub fn act(&mut self, script: &mut Script<'_>) {
        match script.byte() % 16 {
            0 | 1 => self.data(usize::from(script.byte())),
            2 => self.data(usize::from(script.word()) % 5000),
            3 => self.data(RECORD_PLAIN_BYTES_MAX + 1 - usize::from(script.byte()) % 32),
            4 => (0..=script.byte() % 40).for_each(|_| self.data(0)),
            5 => self.send(21, &[script.byte(), script.byte()], 0),
            6 => {
                let count = usize::from(script.byte() % 4);
                self.send(21, script.bytes(count), 0);
            }
            7 => {
                let count = usize::from(script.byte() % 64);
                self.send(22, script.bytes(count), 0);
            }
            8 => {
                let length = usize::from(script.word()) % 4000;
                let part = 1 + usize::from(script.byte()) * 8;
                self.message(&ticket(length), part);
            }
            9 => {
                let bits = script.byte();
                for _ in 0..=bits >> 3 & if bits & 2 == 0 { 0 } else { 31 } {
                    self.message(&key_update(bits & 1 != 0), if bits & 4 == 0 { 5 } else { 3 });
                }
            }
            10 => (0..=script.byte() % 3).for_each(|_| self.send(22, &[0; 4], 0)),
            11 => {
                let (kind, count) = (script.byte().max(1), usize::from(script.byte() % 32));
                self.send(kind, script.bytes(count), 0);
            }
            12 => {
                let (length, padding) = (usize::from(script.byte()), usize::from(script.word()) % 17_000);
                let data = self.next_data(length);
                self.send(23, &data, padding);
            }
            13 => self.tamper = Some(script.word()),
            14 if script.byte() & 1 == 0 => self.gap = true,
            14 => self.replay(),
            _ => {
                let count = usize::from(script.byte());
                self.raw(script.bytes(count));
            }
        }
    }

    /// Sends `length` bytes of data in one record.
    pub fn data(&mut self, length: usize) {
        let data = self.next_data(length);
        self.send(23, &data, 0);
    }

    /// Sends close_notify.
    pub fn close(&mut self) {
        self.send(21, &[1, 0], 0);
    }

    /// Whether what was sent ends the line well.
    pub fn is_closed(&self) -> bool {
        self.expected.end == End::Closed
    }

    /// Whether the receiver must find nothing wrong so far.
    pub fn is_open(&self) -> bool {
        self.expected.end == End::Open
    }

    /// What a receiver of the first `wire` bytes must make of them.
    pub fn expected(&self, wire: usize) -> Expected {
        let there = self.marks.iter().take_while(|mark| mark.wire <= wire).last();
        let Some(mark) = there else { return Expected { data: vec![], events: vec![], end: End::Open } };
        Expected {
            data: self.expected.data[..mark.data].to_vec(),
            events: self.expected.events[..mark.events].to_vec(),
            end: mark.end.clone(),
        }
    }

    /// Data that shows where it belongs.
    fn next_data(&self, length: usize) -> Vec<u8> {
        let at = self.expected.data.len();
        (at..at + length).map(|at| (at ^ at >> 7 ^ at >> 13) as u8 | 0x40).collect()
    }

    /// Sends `data` in records of at most `part` bytes.
    pub fn bytes(&mut self, data: &[u8], part: usize) {
        data.chunks(part.clamp(1, RECORD_PLAIN_BYTES_MAX)).for_each(|chunk| self.send(23, chunk, 0));
    }

    /// A handshake message, split into records of `part` bytes.
    pub fn message(&mut self, message: &[u8], part: usize) {
        message.chunks(part).for_each(|part| self.send(22, part, 0));
    }

    fn replay(&mut self) {
        let record = self.last_record.clone();
        if !record.is_empty() {
            self.wire.extend_from_slice(&record);
            // A receiver's key is used up no later than its sender's, unless a record was dropped.
            let used_up = self.setup.suite != Suite::ChaCha20Poly1305
                && self.sealer.records() >= RECORDS_PER_KEY_MAX
                && !self.model.broken;
            let error = if used_up { TlsError::KeyExhausted } else { TlsError::BadRecordMac };
            self.mark(self.wire.len(), Err(error));
        }
    }

    fn raw(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.wire.extend_from_slice(bytes);
        if self.is_open() {
            self.expected.end = End::Unknown;
            // From its first byte on.
            let wire = self.wire.len() - bytes.len() + 1;
            let Expected { data, events, end } = &self.expected;
            self.marks.push(Mark { wire, data: data.len(), events: events.len(), end: end.clone() });
        }
    }

    /// Seals one record, with so many bytes of padding where the version has any.
    pub fn send(&mut self, kind: u8, content: &[u8], padding: usize) {
        let is_13 = self.setup.version == Version::Tls13;
        let mut inner = content.to_vec();
        let mut sealed_kind = kind;
        if is_13 && padding > 0 {
            inner.push(kind);
            inner.resize(content.len() + padding, 0);
            sealed_kind = 0;
        }
        let mut record = vec![0; inner.len() + 64];
        match self.sealer.seal_message(ContentType(sealed_kind), &inner, &mut record) {
            Ok(length) => record.truncate(length),
            Err(error) => {
                assert_eq!(error, TlsError::KeyExhausted);
                assert!(self.sealer.records() >= RECORDS_PER_KEY_MAX, "refused after {}", self.sealer.records());
                return;
            }
        }
        if core::mem::take(&mut self.gap) {
            self.tamper = None;
            self.model.broken = true;
            return;
        }
        let tampered = self.tamper.take().map(|place| tamper(&mut record, place));
        let start = self.wire.len();
        self.wire.extend_from_slice(&record);
        self.last_record = record;
        let whole = self.wire.len();
        if !is_13 && !(20..=23).contains(&kind) {
            self.mark(start + RECORD_HEADER_BYTES, Err(TlsError::PeerMisbehaved(PeerMisbehaved::RecordType(kind))));
        } else if !is_13 && matches!(tampered, Some(1 | 2)) {
            self.mark(start + RECORD_HEADER_BYTES, Err(TlsError::Invalid(Invalid::RecordVersion)));
        } else if whole - start - RECORD_HEADER_BYTES > RECORD_PLAIN_BYTES_MAX + 256 {
            self.mark(start + RECORD_HEADER_BYTES, Err(TlsError::RecordOverflow));
        } else if tampered.is_some() || self.model.broken {
            self.mark(whole, Err(TlsError::BadRecordMac));
        } else if inner.len() > RECORD_PLAIN_BYTES_MAX {
            // The padding counts (RFC 8446 section 5.4).
            self.mark(whole, Err(TlsError::RecordOverflow));
        } else {
            let before = self.expected.events.len();
            let result = if self.is_open() { self.model.take(kind, content, &mut self.expected) } else { Ok(false) };
            self.mark(whole, result);
            let updates = |(_, event): &(usize, Event)| matches!(event, Event::KeyUpdate { .. });
            if self.expected.events[before..].iter().any(updates) {
                self.generation += 1;
                self.sealer.rekey(&key(self.setup, self.generation));
            }
        }
    }

    fn mark(&mut self, wire: usize, result: Result<bool, TlsError>) {
        if self.is_open() {
            match result {
                Ok(false) => {}
                Ok(true) => self.expected.end = End::Closed,
                Err(error) => self.expected.end = End::Failed(error),
            }
            let Expected { data, events, end } = &self.expected;
            self.marks.push(Mark { wire, data: data.len(), events: events.len(), end: end.clone() });
        }
    }
}

/// Flips one bit behind the length; returns the place of its byte.
fn tamper(record: &mut [u8], place: u16) -> usize {
    let at = match 1 + usize::from(place >> 3) % (record.len() - 1) {
        3 | 4 => RECORD_HEADER_BYTES,
        at => at,
    };
    record[at] ^= 1 << (place & 7);
    at
}

fn ticket(length: usize) -> Vec<u8> {
    let [_, _, high, low] = (length as u32).to_be_bytes();
    let mut message = vec![4, 0, high, low];
    message.extend((0..length).map(|at| at as u8));
    message
}

/// What a receiver must make of contents, one after the other: as short and as plain as it can be said.
struct Model {
    setup: Setup,
    joined: Vec<u8>,
    empty: u32,
    key_updates: u32,
    tickets: u32,
    warnings: u32,
    renegotiations: u32,
    /// A record is missing: no other one opens.
    broken: bool,
}

fn limit(count: &mut u32, most: u32, misbehaved: PeerMisbehaved) -> Result<(), TlsError> {
    *count += 1;
    if *count > most { Err(TlsError::PeerMisbehaved(misbehaved)) } else { Ok(()) }
}

impl Model {
    fn new(setup: Setup) -> Self {
        let joined = Vec::new();
        Self { setup, joined, empty: 0, key_updates: 0, tickets: 0, warnings: 0, renegotiations: 0, broken: false }
    }

    /// True for the end of the line.
    fn take(&mut self, kind: u8, content: &[u8], expected: &mut Expected) -> Result<bool, TlsError> {
        let interrupts = !self.joined.is_empty();
        match (kind, content) {
            (21 | 22, []) => Err(TlsError::PeerMisbehaved(PeerMisbehaved::NoContent)),
            (21 | 23, _) if interrupts => Err(TlsError::PeerMisbehaved(PeerMisbehaved::Interleaved)),
            (23, []) => limit(&mut self.empty, 32, PeerMisbehaved::TooManyEmptyRecords).map(|()| false),
            (23, _) => {
                *self = Self::new(self.setup);
                expected.data.extend_from_slice(content);
                Ok(false)
            }
            (22, _) => {
                self.empty = 0;
                self.joined.extend_from_slice(content);
                self.messages(expected).map(|()| false)
            }
            (21, [level, description]) => {
                self.empty = 0;
                self.alert(*level, *description)
            }
            (21, _) => Err(TlsError::Invalid(Invalid::Alert)),
            (_, []) => Err(TlsError::PeerMisbehaved(PeerMisbehaved::NoContent)),
            _ => Err(TlsError::PeerMisbehaved(PeerMisbehaved::ContentType(kind))),
        }
    }

    fn alert(&mut self, level: u8, description: u8) -> Result<bool, TlsError> {
        match (self.setup.version, level, description) {
            (_, _, 0) => Ok(true),
            (Version::Tls12, 1, _) | (Version::Tls13, _, 90) => {
                limit(&mut self.warnings, 4, PeerMisbehaved::TooManyWarnings).map(|()| false)
            }
            _ => Err(TlsError::PeerAlert(AlertDescription(description))),
        }
    }

    fn messages(&mut self, expected: &mut Expected) -> Result<(), TlsError> {
        while let [kind, l0, l1, l2, rest @ ..] = &self.joined[..] {
            let length = usize::from(*l0) << 16 | usize::from(*l1) << 8 | usize::from(*l2);
            let most = match (self.setup.version, self.setup.role, *kind) {
                (Version::Tls13, _, 24) => 1,
                (Version::Tls13, Role::Client, 4) => TICKET_MESSAGE_BYTES_MAX,
                (Version::Tls12, Role::Client, 0) => 0,
                (Version::Tls12, Role::Server, 1) => HELLO_AGAIN_BYTES_MAX,
                _ => return Err(TlsError::PeerMisbehaved(PeerMisbehaved::HandshakeType(*kind))),
            };
            match (*kind, length) {
                (24, length) if length != most => return Err(TlsError::Invalid(Invalid::KeyUpdate)),
                (0, length) if length != most => return Err(TlsError::Invalid(Invalid::HelloRequest)),
                (_, length) if length > most => return Err(TlsError::Invalid(Invalid::HandshakeTooLong)),
                _ => {}
            }
            let Some(body) = rest.get(..length) else { return Ok(()) };
            let (kind, body, more) = (*kind, body.to_vec(), rest[length..].to_vec());
            let event = match (self.setup.version, self.setup.role, kind, &body[..]) {
                (Version::Tls13, _, 24, [0 | 1]) if !more.is_empty() => {
                    return Err(TlsError::PeerMisbehaved(PeerMisbehaved::KeyUpdateNotLast));
                }
                (Version::Tls13, _, 24, [asks @ (0 | 1)]) => {
                    limit(&mut self.key_updates, 32, PeerMisbehaved::TooManyKeyUpdates)?;
                    Event::KeyUpdate { answer: *asks == 1 }
                }
                (Version::Tls13, _, 24, body) => return Err(TlsError::KeyUpdateValue(body[0])),
                (Version::Tls13, Role::Client, 4, _) => {
                    limit(&mut self.tickets, 32, PeerMisbehaved::TooManyTickets)?;
                    Event::Ticket(body)
                }
                // What a client asks for with a new hello is refused whatever the hello says.
                (Version::Tls12, Role::Client, 0, []) | (Version::Tls12, Role::Server, 1, _) => {
                    limit(&mut self.renegotiations, 1, PeerMisbehaved::TooManyRenegotiations)?;
                    Event::Renegotiation
                }
                _ => unreachable!("a type that was let through"),
            };
            expected.events.push((expected.data.len(), event));
            self.joined = more;
        }
        Ok(())
    }
}
