//! The receiving direction as a state machine: records in, plaintext ranges and events out.
//!
//! What it decides: which content may come, what a flood is, when the stream has ended. What it leaves to the caller:
//! new keys after a KeyUpdate, tickets, answers.

use core::ops::Range;

use bytes::Bytes;

use super::handshake::{CLIENT_HELLO, HELLO_REQUEST, Joiner, KEY_UPDATE, NEW_SESSION_TICKET};
use super::key::{TrafficKey, Version};
use super::open::Opener;
use super::record::ContentType;
use super::{AlertDescription, Invalid, PeerMisbehaved, TlsError};
use crate::limits::{HELLO_AGAIN_BYTES_MAX, TICKET_MESSAGE_BYTES_MAX};

/// Consecutive records without content before the peer is taken for hostile.
const EMPTY_RECORDS_MAX: u8 = 32;
/// KeyUpdate messages without application data between them; as rustls has it.
const KEY_UPDATES_MAX: u8 = 32;
/// Tickets without application data between them; servers send two to eight.
const TICKETS_MAX: u8 = 32;
/// Warning alerts without application data between them; as rustls has it.
const WARNINGS_MAX: u8 = 4;
/// Renegotiation requests without application data between them; as rustls has it.
const RENEGOTIATIONS_MAX: u8 = 1;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// We sent ClientHello: tickets and HelloRequest may come.
    Client,
    /// We sent ServerHello.
    Server,
}

/// The receiver of plaintext ranges, in stream order.
pub trait Pieces {
    /// Plaintext lies at `range`. Returns false when there is no room to note it.
    fn push(&mut self, range: Range<usize>) -> bool;
    /// The last range has grown to end at `end`: a short record was shifted onto it.
    fn grow_last(&mut self, end: usize);
}

/// What stopped [`Inbound::advance`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Progress {
    /// What is left in the span is not a whole record.
    NeedBytes,
    /// The peer goes over to its next key: call [`Inbound::rekey`] before the next record is opened. `answer`: it wants
    /// ours updated too.
    KeyUpdate {
        /// update_requested was set.
        answer: bool,
    },
    /// A NewSessionTicket message's body.
    Ticket(Bytes),
    /// TLS 1.2: the peer asked for a renegotiation, which is to be refused by a no_renegotiation warning.
    Renegotiation,
    /// close_notify: the peer writes no more.
    Closed,
}

/// The part of a buffer that holds received bytes, and where a short record may be shifted to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cursor {
    /// Bytes that were received and not yet opened.
    pub span: Range<usize>,
    /// The end of the last piece, when it lies in the same stretch of the buffer.
    pub(super) onto: Option<usize>,
}

/// How often the peer did each thing since its last application data.
#[derive(Clone, Copy, Debug, Default)]
struct Floods {
    empty: u8,
    key_updates: u8,
    tickets: u8,
    warnings: u8,
    renegotiations: u8,
}

fn count(counter: &mut u8, most: u8, misbehaved: PeerMisbehaved) -> Result<(), TlsError> {
    *counter = counter.saturating_add(1);
    if *counter > most { Err(TlsError::PeerMisbehaved(misbehaved)) } else { Ok(()) }
}

/// Whether a handshake message of this type and length may come after the handshake.
fn may_come(version: Version, role: Role, kind: u8, length: usize) -> Result<(), TlsError> {
    let is_most = |most| if length > most { Err(TlsError::Invalid(Invalid::HandshakeTooLong)) } else { Ok(()) };
    match (version, role, kind) {
        (Version::Tls13, _, KEY_UPDATE) if length != 1 => Err(TlsError::Invalid(Invalid::KeyUpdate)),
        (Version::Tls12, Role::Client, HELLO_REQUEST) if length != 0 => Err(TlsError::Invalid(Invalid::HelloRequest)),
        (Version::Tls13, _, KEY_UPDATE) | (Version::Tls12, Role::Client, HELLO_REQUEST) => Ok(()),
        (Version::Tls13, Role::Client, NEW_SESSION_TICKET) => is_most(TICKET_MESSAGE_BYTES_MAX),
        (Version::Tls12, Role::Server, CLIENT_HELLO) => is_most(HELLO_AGAIN_BYTES_MAX),
        _ => Err(TlsError::PeerMisbehaved(PeerMisbehaved::HandshakeType(kind))),
    }
}

/// The receiving direction of one TLS connection.
pub struct Inbound {
    opener: Opener,
    role: Role,
    joiner: Joiner,
    floods: Floods,
    end: End,
}

/// How the direction ended, which it does once.
#[derive(Clone, Copy, Debug)]
enum End {
    Open,
    Closed,
    Failed(TlsError),
}

impl Inbound {
    /// Receives under `key`.
    pub fn new(role: Role, key: &TrafficKey) -> Self {
        Self { opener: Opener::new(key), role, joiner: Joiner::default(), floods: Floods::default(), end: End::Open }
    }

    /// Goes over to the peer's next key, after [`Progress::KeyUpdate`].
    pub fn rekey(&mut self, key: &TrafficKey) {
        self.opener = Opener::new(key);
    }

    /// The protocol version.
    pub fn version(&self) -> Version {
        self.opener.version()
    }

    /// How many records the current key has opened.
    pub fn records(&self) -> u64 {
        self.opener.records()
    }

    /// From how many records on the peer's key should be replaced.
    pub fn replace_at(&self) -> u64 {
        self.opener.replace_at()
    }

    /// Opens records at `cursor` until something needs the caller; tells `pieces` where the plaintext lies.
    ///
    /// # Errors
    /// What the peer did wrong, and the same again on every later call. Pieces told before the error are good.
    pub fn advance(
        &mut self,
        bytes: &mut [u8],
        cursor: &mut Cursor,
        pieces: &mut impl Pieces,
    ) -> Result<Progress, TlsError> {
        match self.end {
            End::Open => {}
            End::Closed => return Ok(Progress::Closed),
            End::Failed(error) => return Err(error),
        }
        let progress = self.advance_open(bytes, cursor, pieces);
        match &progress {
            Ok(Progress::Closed) => self.end = End::Closed,
            Err(error) => self.end = End::Failed(*error),
            Ok(_) => {}
        }
        progress
    }

    fn advance_open(
        &mut self,
        bytes: &mut [u8],
        cursor: &mut Cursor,
        pieces: &mut impl Pieces,
    ) -> Result<Progress, TlsError> {
        loop {
            if let Some(progress) = self.message()? {
                return Ok(progress);
            }
            let Some(record) = self.opener.open(bytes, cursor.span.clone(), cursor.onto)? else {
                return Ok(Progress::NeedBytes);
            };
            cursor.span.start = record.end;
            if record.plain.is_empty() {
                self.empty(record.content_type)?;
                continue;
            }
            if record.content_type == ContentType::APPLICATION_DATA {
                self.data(&record.plain, cursor, pieces)?;
                continue;
            }
            self.floods.empty = 0;
            let content = bytes.get(record.plain).ok_or(TlsError::ApiMisuse("span outside the buffer"))?;
            match record.content_type {
                ContentType::HANDSHAKE => self.joiner.push(content),
                ContentType::ALERT => {
                    if self.alert(content)? {
                        return Ok(Progress::Closed);
                    }
                }
                ContentType(other) => return Err(TlsError::PeerMisbehaved(PeerMisbehaved::ContentType(other))),
            }
        }
    }

    fn data(&mut self, plain: &Range<usize>, cursor: &mut Cursor, pieces: &mut impl Pieces) -> Result<(), TlsError> {
        if !self.joiner.is_empty() {
            return Err(TlsError::PeerMisbehaved(PeerMisbehaved::Interleaved));
        }
        self.floods = Floods::default();
        if cursor.onto == Some(plain.start) {
            pieces.grow_last(plain.end);
        } else if !pieces.push(plain.clone()) {
            return Err(TlsError::ApiMisuse("more pieces than the buffer can have"));
        }
        cursor.onto = Some(plain.end);
        Ok(())
    }

    /// Empty application data is lawful in both versions (a countermeasure of old, padding of new), nothing else is.
    fn empty(&mut self, content_type: ContentType) -> Result<(), TlsError> {
        if content_type != ContentType::APPLICATION_DATA {
            return Err(TlsError::PeerMisbehaved(PeerMisbehaved::NoContent));
        }
        if !self.joiner.is_empty() {
            return Err(TlsError::PeerMisbehaved(PeerMisbehaved::Interleaved));
        }
        count(&mut self.floods.empty, EMPTY_RECORDS_MAX, PeerMisbehaved::TooManyEmptyRecords)
    }

    /// Judges one alert; true for close_notify.
    fn alert(&mut self, content: &[u8]) -> Result<bool, TlsError> {
        if !self.joiner.is_empty() {
            return Err(TlsError::PeerMisbehaved(PeerMisbehaved::Interleaved));
        }
        let &[level, description] = content else { return Err(TlsError::Invalid(Invalid::Alert)) };
        let description = AlertDescription(description);
        let is_warning = match self.version() {
            Version::Tls12 => level == 1,
            // RFC 8446 section 6: the level is ignored; all but these two are errors.
            Version::Tls13 => description == AlertDescription::USER_CANCELED,
        };
        if description == AlertDescription::CLOSE_NOTIFY {
            return Ok(true);
        }
        if !is_warning {
            return Err(TlsError::PeerAlert(description));
        }
        count(&mut self.floods.warnings, WARNINGS_MAX, PeerMisbehaved::TooManyWarnings)?;
        Ok(false)
    }

    fn renegotiation(&mut self) -> Result<Option<Progress>, TlsError> {
        count(&mut self.floods.renegotiations, RENEGOTIATIONS_MAX, PeerMisbehaved::TooManyRenegotiations)?;
        Ok(Some(Progress::Renegotiation))
    }

    /// Whether a handshake message has begun and is not whole.
    pub fn is_inside_message(&self) -> bool {
        !self.joiner.is_empty()
    }

    /// Judges the next whole handshake message, if there is one.
    fn message(&mut self) -> Result<Option<Progress>, TlsError> {
        let (version, role) = (self.version(), self.role);
        let judge = |kind, length| may_come(version, role, kind, length);
        let Some((kind, body)) = self.joiner.next(judge)? else { return Ok(None) };
        match (version, kind) {
            (Version::Tls13, KEY_UPDATE) => {
                let answer = match *body {
                    [0] => false,
                    [1] => true,
                    [value, ..] => return Err(TlsError::KeyUpdateValue(value)),
                    [] => return Err(TlsError::Invalid(Invalid::KeyUpdate)),
                };
                if !self.joiner.is_empty() {
                    return Err(TlsError::PeerMisbehaved(PeerMisbehaved::KeyUpdateNotLast));
                }
                count(&mut self.floods.key_updates, KEY_UPDATES_MAX, PeerMisbehaved::TooManyKeyUpdates)?;
                Ok(Some(Progress::KeyUpdate { answer }))
            }
            (Version::Tls13, NEW_SESSION_TICKET) => {
                count(&mut self.floods.tickets, TICKETS_MAX, PeerMisbehaved::TooManyTickets)?;
                Ok(Some(Progress::Ticket(body)))
            }
            // Whatever a hello offers is refused, so nobody looks.
            (Version::Tls12, HELLO_REQUEST | CLIENT_HELLO) => self.renegotiation(),
            _ => Err(TlsError::PeerMisbehaved(PeerMisbehaved::HandshakeType(kind))),
        }
    }
}
