//! The TLS handshake by rustls' unbuffered connection, and the hand-over of its secrets to our record layer.
//!
//! Two things get lost easily. Application data can arrive with the server's last flight: it is kept in
//! [`Established::early`]. And a handshake message that is split over records is opened in place but stays in the input
//! until it is whole: handing over then would open those records twice, so as long as the left-over input begins with a
//! whole record, more is read first.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CertificateError, ConnectionTrafficSecrets, HandshakeKind, ProtocolVersion, SupportedCipherSuite};
use sealane_io::net::Outgoing;
use sealane_proto::limits::{RECORD_HEADER_BYTES, RECORD_WIRE_BYTES_MAX};
use sealane_proto::tls::{Inbound, KeyError, Role, Sealer, Suite, TrafficKey, Version};

use crate::tls_config::TlsClient;

/// The most unread handshake bytes: a message of 64 KiB in small records, and one record more.
const INPUT_BYTES_MAX: usize = 160 * 1024;
/// Room for at least this much at every read.
const READ_BYTES_MIN: usize = 8 * 1024;
/// The most application data that may come with the handshake; what is not read yet waits in the socket.
const EARLY_BYTES_MAX: usize = INPUT_BYTES_MAX;

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The connection failed or ended.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server closed the connection.
    #[error("the server closed the connection during the TLS handshake")]
    Closed,
    /// The handshake or the verification of the certificate.
    #[error("{}", Explained(.0))]
    Tls(#[from] rustls::Error),
    /// The server sent more than any handshake needs.
    #[error("the server sent more than {INPUT_BYTES_MAX} bytes of handshake")]
    TooLong,
    /// The certificate of a resumed session is not valid any more. A full handshake shows the server's present one.
    #[error("the certificate of the resumed session is not valid any more: {}", Explained(.0))]
    Stale(rustls::Error),
    /// A suite or state that rustls should not have agreed to.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl From<KeyError> for HandshakeError {
    fn from(_: KeyError) -> Self {
        Self::Internal("a traffic key of the wrong length")
    }
}

impl HandshakeError {
    /// Whether the same attempt may work a moment later: nothing was said about certificates or protocols.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Closed)
    }
}

/// rustls' error with the cause in words that an administrator can act on.
struct Explained<'e>(&'e rustls::Error);

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use rustls::Error as E;
        match self.0 {
            E::InvalidCertificate(CertificateError::UnknownIssuer) => f.write_str(
                "the server's certificate is not signed by a trusted CA (UnknownIssuer): name its CA with --ca-file",
            ),
            E::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => write!(f, "the server's certificate is for another name ({}): see --server-name", self.0),
            E::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                write!(f, "the server's certificate has expired ({})", self.0)
            }
            E::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
                write!(f, "the server's certificate is not valid yet ({}): is this host's clock right?", self.0)
            }
            E::InvalidCertificate(CertificateError::Other(other))
                if other.to_string().contains("CaUsedAsEndEntity") =>
            {
                f.write_str(
                    "the server's certificate is a CA certificate (CA:TRUE, as 'openssl req -x509' makes them): \
                     issue one without it (CaUsedAsEndEntity)",
                )
            }
            E::InvalidMessage(_) => write!(f, "the server does not seem to speak TLS ({})", self.0),
            E::AlertReceived(alert) => write!(f, "the server refused the handshake with the alert {alert:?}"),
            other => write!(f, "{other}"),
        }
    }
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

impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.version {
            Version::Tls12 => "TLS 1.2",
            Version::Tls13 => "TLS 1.3",
        };
        write!(f, "{version} {}{}", self.suite, if self.resumed { " resumed" } else { "" })
    }
}

/// rustls' part of an established connection: it knows the next traffic secrets and keeps tickets.
pub(crate) struct Kernel {
    connection: KernelConnection<ClientConnectionData>,
    version: Version,
}

impl Kernel {
    pub(crate) fn next_sending_key(&mut self) -> Result<TrafficKey, HandshakeError> {
        let (sequence, secrets) = self.connection.update_tx_secret()?;
        traffic_key(self.version, sequence, &secrets)
    }

    pub(crate) fn next_receiving_key(&mut self) -> Result<TrafficKey, HandshakeError> {
        let (sequence, secrets) = self.connection.update_rx_secret()?;
        traffic_key(self.version, sequence, &secrets)
    }

    pub(crate) fn ticket(&mut self, body: &[u8]) -> Result<(), rustls::Error> {
        self.connection.handle_new_session_ticket(body)
    }
}

/// A connection whose handshake is done.
pub struct Established {
    pub(crate) outgoing: Outgoing,
    pub(crate) sealer: Sealer,
    pub(crate) inbound: Inbound,
    pub(crate) kernel: Kernel,
    /// Application data that came with the handshake.
    pub(crate) early: Vec<u8>,
    /// The beginning of a record.
    pub(crate) left_over: Vec<u8>,
    /// The server has sent close_notify already.
    pub(crate) peer_closed: bool,
    pub(crate) facts: TlsFacts,
}

/// What one look at the input asked for.
enum Step {
    Read,
    Done,
    Again,
}

struct Handshake<'o> {
    connection: UnbufferedClientConnection,
    outgoing: &'o mut Outgoing,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    early: Vec<u8>,
    peer_closed: bool,
    /// rustls has been asked for what it keeps until the next data is sent.
    flushed: bool,
}

/// Does the client's side of a handshake over `outgoing`.
///
/// # Errors
/// Why it failed; the alert for the server was sent as far as possible.
pub(crate) async fn client_handshake(
    mut outgoing: Outgoing,
    tls: &TlsClient,
    fresh: bool,
    name: &ServerName<'static>,
) -> Result<Established, HandshakeError> {
    let config = if fresh { &tls.fresh } else { &tls.config };
    let connection = UnbufferedClientConnection::new(Arc::clone(config), name.clone())?;
    let mut handshake = Handshake {
        connection,
        outgoing: &mut outgoing,
        input: Vec::new(),
        filled: 0,
        output: Vec::new(),
        early: Vec::new(),
        peer_closed: false,
        flushed: false,
    };
    handshake.run().await?;
    let Handshake { connection, mut input, filled, early, peer_closed, .. } = handshake;
    let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    if resumed {
        verify_again(connection.peer_certificates().unwrap_or_default(), tls, name)?;
    }
    let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
    let version = match kernel.protocol_version() {
        ProtocolVersion::TLSv1_2 => Version::Tls12,
        ProtocolVersion::TLSv1_3 => Version::Tls13,
        _ => return Err(HandshakeError::Internal("an unknown protocol version")),
    };
    let suite = suite_name(kernel.negotiated_cipher_suite());
    let sealer = Sealer::new(&traffic_key(version, secrets.tx.0, &secrets.tx.1)?);
    let inbound = Inbound::new(Role::Client, &traffic_key(version, secrets.rx.0, &secrets.rx.1)?);
    input.truncate(filled);
    Ok(Established {
        outgoing,
        sealer,
        inbound,
        kernel: Kernel { connection: kernel, version },
        early,
        left_over: input,
        peer_closed,
        facts: TlsFacts { version, suite, resumed },
    })
}

/// rustls verifies in full handshakes only: a resumed session could outlive its certificate.
fn verify_again(
    chain: &[CertificateDer<'_>],
    tls: &TlsClient,
    name: &ServerName<'static>,
) -> Result<(), HandshakeError> {
    let Some((end_entity, intermediates)) = chain.split_first() else {
        return Err(HandshakeError::Internal("a resumed session without a certificate"));
    };
    let verdict = tls.verifier.verify_server_cert(end_entity, intermediates, name, &[], UnixTime::now());
    verdict.map(drop).map_err(HandshakeError::Stale)
}

impl Handshake<'_> {
    async fn run(&mut self) -> Result<(), HandshakeError> {
        loop {
            match self.step().await {
                Ok(Step::Again) => {}
                Ok(Step::Done) => return Ok(()),
                Ok(Step::Read) => self.read().await?,
                Err(error) => {
                    self.send_alert().await;
                    return Err(error);
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step, HandshakeError> {
        let filled = self.input.get_mut(..self.filled).unwrap_or_default();
        let UnbufferedStatus { discard, state } = self.connection.process_tls_records(filled);
        let step = match state {
            Err(error) => Err(error.into()),
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let at = self.output.len();
                let needed = match data.encode(&mut []) {
                    Err(EncodeError::InsufficientSize(size)) => size.required_size,
                    _ => 0,
                };
                self.output.resize(at + needed, 0);
                let done = data.encode(self.output.get_mut(at..).unwrap_or_default());
                done.map(|_| Step::Again).map_err(|_| HandshakeError::Internal("encoding a handshake message"))
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                let sent = self.outgoing.write(&self.output).await;
                self.output.clear();
                data.done();
                sent.map(|()| Step::Again).map_err(HandshakeError::from)
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    self.early.extend_from_slice(record?.payload);
                }
                if self.early.len() > EARLY_BYTES_MAX { Err(HandshakeError::TooLong) } else { Ok(Step::Again) }
            }
            Ok(ConnectionState::PeerClosed) => {
                self.peer_closed = true;
                Ok(Step::Again)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Read),
            Ok(ConnectionState::WriteTraffic(mut traffic)) if !self.flushed => {
                // The answer to a KeyUpdate waits inside rustls for the next data, and would be lost with it. This moves
                // it to where it is sent from, and then has no room for the data.
                self.flushed = true;
                let refused = traffic.encrypt(&[0], &mut []);
                debug_assert!(refused.is_err(), "a record in no bytes");
                Ok(Step::Again)
            }
            Ok(ConnectionState::WriteTraffic(_)) => {
                self.flushed = false;
                Ok(Step::Done)
            }
            Ok(_) => Err(HandshakeError::Internal("an unexpected handshake state")),
        };
        self.input.copy_within(discard.min(self.filled)..self.filled, 0);
        self.filled = self.filled.saturating_sub(discard);
        match step {
            Ok(Step::Done) if self.begins_with_whole_record() && !self.peer_closed => Ok(Step::Read),
            other => other,
        }
    }

    /// Whether the input begins with a record that rustls has opened but still needs.
    fn begins_with_whole_record(&self) -> bool {
        match self.input.get(..self.filled) {
            Some([_, _, _, high, low, rest @ ..]) => rest.len() >= usize::from(u16::from_be_bytes([*high, *low])),
            _ => false,
        }
    }

    async fn read(&mut self) -> Result<(), HandshakeError> {
        if self.filled + READ_BYTES_MIN > INPUT_BYTES_MAX {
            return Err(HandshakeError::TooLong);
        }
        // At most one record beyond what is there: what follows the handshake is for the relay to read.
        let wanted = (self.filled + RECORD_HEADER_BYTES + RECORD_WIRE_BYTES_MAX).min(INPUT_BYTES_MAX);
        if self.input.len() < wanted {
            self.input.resize(wanted, 0);
        }
        let free = self.input.get_mut(self.filled..).unwrap_or_default();
        match self.outgoing.read(free).await? {
            0 => Err(HandshakeError::Closed),
            count => {
                self.filled += count;
                Ok(())
            }
        }
    }

    /// After an error rustls has an alert to send. The server may be gone: then there is nobody to tell.
    async fn send_alert(&mut self) {
        self.output.clear();
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = state {
            let mut alert = [0; 64];
            if let Ok(length) = data.encode(&mut alert) {
                let _ = self.outgoing.write(alert.get(..length).unwrap_or_default()).await;
            }
        }
    }
}

fn traffic_key(
    version: Version,
    sequence: u64,
    secrets: &ConnectionTrafficSecrets,
) -> Result<TrafficKey, HandshakeError> {
    let (suite, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::ChaCha20Poly1305, key, iv),
        _ => return Err(HandshakeError::Internal("an unknown AEAD")),
    };
    Ok(TrafficKey::new(version, suite, key.as_ref(), iv.as_ref(), sequence)?)
}

fn suite_name(suite: SupportedCipherSuite) -> &'static str {
    suite.suite().as_str().unwrap_or("unknown suite")
}
