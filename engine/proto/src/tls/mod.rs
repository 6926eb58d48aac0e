//! The TLS record layer after the handshake: records sealed and opened in place (RFC 8446, RFC 5246).
//!
//! rustls does the handshake and hands over traffic secrets; from then on this module owes everything that a record
//! layer owes: sequence numbers, limits, alerts, post-handshake messages. It never sends or receives: the relay does.

mod alert;
mod handshake;
mod inbound;
mod key;
mod open;
mod record;
mod seal;
mod window;

pub use alert::AlertDescription;
pub use handshake::KEY_UPDATE_BYTES;
pub use handshake::key_update;
pub use inbound::{Cursor, Inbound, Pieces, Progress, Role};
pub use key::{ExpandedKey, KeyError, KeyPlace, Suite, TrafficKey, Version};
pub use open::Opener;
pub use record::{ContentType, RecordShape};
pub use seal::Sealer;
pub use window::{ReadPlan, Window};

/// What went wrong in the record layer, by who is to blame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A record did not authenticate: it was changed on the way, or sealed under another key.
    #[error("a record does not authenticate (bad_record_mac)")]
    BadRecordMac,
    /// A record is longer than the protocol allows (RFC 8446 section 5.1 and 5.2).
    #[error("a record is too long (record_overflow)")]
    RecordOverflow,
    /// Bytes that cannot be parsed.
    #[error("{0} (decode_error)")]
    Invalid(Invalid),
    /// A message that is well formed but must not come here.
    #[error("{0} (unexpected_message)")]
    PeerMisbehaved(PeerMisbehaved),
    /// A KeyUpdate that asks for what RFC 8446 section 4.6.3 does not know.
    #[error("a KeyUpdate of value {0} (illegal_parameter)")]
    KeyUpdateValue(u8),
    /// The peer ended the connection with this alert.
    #[error("the peer sent the alert {0}")]
    PeerAlert(AlertDescription),
    /// The key has protected as many records as it may (RFC 8446 section 5.5).
    #[error("the key is used up")]
    KeyExhausted,
    /// The caller broke the contract of this module.
    #[error("internal: {0}")]
    ApiMisuse(&'static str),
}

impl TlsError {
    /// The alert to send before the connection ends; none when the peer has sent one itself.
    pub fn alert(&self) -> Option<AlertDescription> {
        match self {
            Self::BadRecordMac => Some(AlertDescription::BAD_RECORD_MAC),
            Self::RecordOverflow => Some(AlertDescription::RECORD_OVERFLOW),
            Self::Invalid(_) => Some(AlertDescription::DECODE_ERROR),
            Self::PeerMisbehaved(_) => Some(AlertDescription::UNEXPECTED_MESSAGE),
            Self::KeyUpdateValue(_) => Some(AlertDescription::ILLEGAL_PARAMETER),
            Self::PeerAlert(_) => None,
            Self::KeyExhausted | Self::ApiMisuse(_) => Some(AlertDescription::INTERNAL_ERROR),
        }
    }
}

/// What could not be parsed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// An alert record whose content is not one alert of two bytes.
    #[error("malformed alert")]
    Alert,
    /// A KeyUpdate with another length than RFC 8446 section 4.6.3 defines.
    #[error("malformed KeyUpdate")]
    KeyUpdate,
    /// A TLS 1.2 record with another version in its header.
    #[error("wrong version in a record header")]
    RecordVersion,
    /// A handshake message longer than [`crate::limits::TICKET_MESSAGE_BYTES_MAX`] or
    /// [`crate::limits::HELLO_AGAIN_BYTES_MAX`].
    #[error("a handshake message is too long")]
    HandshakeTooLong,
    /// A HelloRequest with content (RFC 5246 section 7.4.1.1).
    #[error("malformed HelloRequest")]
    HelloRequest,
}

/// What the peer did that it must not do.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerMisbehaved {
    /// A record of a type that TLS does not know: most likely the peer does not speak TLS here.
    #[error("content type {0}, which no TLS record has")]
    RecordType(u8),
    /// A content type that must not come at this point.
    #[error("unexpected content type {0}")]
    ContentType(u8),
    /// A handshake message that must not come after the handshake.
    #[error("unexpected handshake message {0}")]
    HandshakeType(u8),
    /// Another record between the parts of one handshake message (RFC 8446 section 5.1).
    #[error("a record between the parts of a handshake message")]
    Interleaved,
    /// A KeyUpdate that does not end its record (RFC 8446 section 5.1).
    #[error("a message behind KeyUpdate in the same record")]
    KeyUpdateNotLast,
    /// A TLS 1.3 record that consists of padding only (RFC 8446 section 5.4), or an empty handshake or alert record.
    #[error("a record without content")]
    NoContent,
    /// More empty records in a row than we put up with.
    #[error("too many empty records")]
    TooManyEmptyRecords,
    /// More KeyUpdate messages without data between them than we put up with.
    #[error("too many KeyUpdate messages")]
    TooManyKeyUpdates,
    /// More tickets without data between them than we put up with.
    #[error("too many session tickets")]
    TooManyTickets,
    /// More renegotiation requests without data between them than we put up with.
    #[error("too many renegotiation requests")]
    TooManyRenegotiations,
    /// More warning alerts without data between them than we put up with.
    #[error("too many warning alerts")]
    TooManyWarnings,
}
