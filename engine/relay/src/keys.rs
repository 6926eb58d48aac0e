//! Where traffic keys come from after the handshake, and what was agreed on in it.

use std::fmt;

use rustls::kernel::KernelConnection;
use rustls::{CipherSuite, ConnectionTrafficSecrets, SupportedCipherSuite};
use sealane_io::secret::{self, Locked};
use sealane_proto::tls::{ExpandedKey, KeyPlace, Suite, TrafficKey, Version};

use crate::error::SessionError;

/// Knows the next traffic keys of a connection and keeps its tickets.
pub trait KeySchedule {
    /// The key behind our next KeyUpdate.
    ///
    /// # Errors
    /// The schedule refuses; in TLS 1.2 it always does.
    fn next_sending_key(&mut self) -> Result<TrafficKey, SessionError>;

    /// The key behind the peer's next KeyUpdate.
    ///
    /// # Errors
    /// The schedule refuses; in TLS 1.2 it always does.
    fn next_receiving_key(&mut self) -> Result<TrafficKey, SessionError>;

    /// Keeps the body of a NewSessionTicket message for a later connection.
    ///
    /// # Errors
    /// It cannot be parsed.
    fn ticket(&mut self, body: &[u8]) -> Result<(), SessionError>;
}

/// What rustls does with the body of a ticket.
pub(crate) type TicketSink<Data> = fn(&mut KernelConnection<Data>, &[u8]) -> Result<(), rustls::Error>;

/// The schedule of a connection whose handshake rustls has done.
pub(crate) struct ByRustls<Data> {
    pub(crate) connection: KernelConnection<Data>,
    pub(crate) version: Version,
    pub(crate) ticket_sink: TicketSink<Data>,
}

impl<Data> KeySchedule for ByRustls<Data> {
    fn next_sending_key(&mut self) -> Result<TrafficKey, SessionError> {
        let (sequence, secrets) = self.connection.update_tx_secret()?;
        traffic_key(self.version, sequence, &secrets).map_err(SessionError::Internal)
    }

    fn next_receiving_key(&mut self) -> Result<TrafficKey, SessionError> {
        let (sequence, secrets) = self.connection.update_rx_secret()?;
        traffic_key(self.version, sequence, &secrets).map_err(SessionError::Internal)
    }

    fn ticket(&mut self, body: &[u8]) -> Result<(), SessionError> {
        Ok((self.ticket_sink)(&mut self.connection, body)?)
    }
}

/// The record layer's form of the secrets that rustls hands over.
pub(crate) fn traffic_key(
    version: Version,
    sequence: u64,
    secrets: &ConnectionTrafficSecrets,
) -> Result<TrafficKey, &'static str> {
    let (suite, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::ChaCha20Poly1305, key, iv),
        _ => return Err("an AEAD that the record layer does not know"),
    };
    TrafficKey::new(version, suite, key.as_ref(), iv.as_ref(), sequence)
        .map(|key| key.kept_by(in_locked_memory))
        .map_err(|_| "a traffic key that does not fit its suite")
}

/// Keys in use lie in pages of their own that are not swapped out; on the heap only where no page is to be had.
fn in_locked_memory(key: ExpandedKey) -> Box<dyn KeyPlace> {
    let kept: Box<dyn KeyPlace> = match Locked::new(key) {
        Ok(locked) => Box::new(locked),
        Err(key) => Box::new(Box::new(key)),
    };
    if let Some(error) = secret::first_refusal() {
        tracing::warn!("mlock: {error}: further keys are in memory that may be swapped out (RLIMIT_MEMLOCK)");
    }
    kept
}

/// What was agreed on, for logs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TlsFacts {
    /// The protocol version.
    pub version: Version,
    /// The suite's IANA name.
    pub suite: &'static str,
    /// Whether a former session was resumed.
    pub resumed: bool,
}

impl TlsFacts {
    pub(crate) fn new(version: Version, suite: SupportedCipherSuite, resumed: bool) -> Self {
        Self { version, suite: suite_name(suite), resumed }
    }
}

/// A suite's name at IANA.
pub(crate) fn suite_name(suite: SupportedCipherSuite) -> &'static str {
    // rustls has names of its own for these three.
    match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown suite"),
    }
}

impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.version {
            Version::Tls12 => "TLS 1.2",
            Version::Tls13 => "TLS 1.3",
        };
        write!(f, "{version} {}{}", self.suite, if self.resumed { " resumed" } else { "" })
    }
}
