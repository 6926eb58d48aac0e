//! The TLS handshake of either end by rustls' unbuffered connection, and the hand-over of its secrets to our record
//! layer.
//!
//! [`Handshake`] never reads a socket: its caller moves the bytes. Two things get lost easily. Application data can
//! arrive with the peer's last flight: it is kept in [`Established::early`]. And a handshake message that is split over
//! records is opened in place but stays in the input until it is whole: handing over then would open those records
//! twice, so as long as the left-over input begins with a whole record, more is read first.

use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, ExtractedSecrets, HandshakeKind, ProtocolVersion, ServerConfig};
use sealane_io::Link;
use sealane_proto::limits::{RECORD_HEADER_BYTES, RECORD_WIRE_BYTES_MAX, TAG_BYTES};
use sealane_proto::tls::{Inbound, Role, Sealer, Version};

use crate::explain::{Explained, peer_of};
use crate::keys::{ByRustls, KeySchedule, TicketSink, TlsFacts, traffic_key};
use crate::server_judge::take_staple;

/// The most unread handshake bytes: a message of 64 KiB in small records, and one record more.
const INPUT_BYTES_MAX: usize = 160 * 1024;
/// Room for at least this much at every read.
const READ_BYTES_MIN: usize = 8 * 1024;
/// The most application data that may come with the handshake; what is not read yet waits in the socket.
const EARLY_BYTES_MAX: usize = INPUT_BYTES_MAX;

/// Why a handshake failed. The [`Role`] is ours: the other end is to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The connection failed or ended.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer closed the connection.
    #[error("{} closed the connection during the TLS handshake", peer_of(*.0))]
    Closed(Role),
    /// The handshake or the verification of the certificate.
    #[error("{}", Explained(*.0, .1))]
    Tls(Role, rustls::Error),
    /// The peer sent more than any handshake needs.
    #[error("{} sent more than {INPUT_BYTES_MAX} bytes of handshake", peer_of(*.0))]
    TooLong(Role),
    /// The certificate of a resumed session is not valid any more. A full handshake shows the peer's present one.
    #[error("the certificate of the resumed session is not valid any more: {}", Explained(*.0, .1))]
    Stale(Role, rustls::Error),
    /// The client is known, and not let in; who it is.
    #[error("the client is none that --allow lets in: {0}")]
    NotAllowed(String),
    /// A suite or state that rustls should not have agreed to.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl HandshakeError {
    /// Whether a certificate was revoked.
    pub(crate) fn is_revocation(&self) -> bool {
        let revoked = rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked);
        matches!(self, Self::Tls(_, error) | Self::Stale(_, error) if *error == revoked)
    }

    /// Whether the same attempt may work a moment later: nothing was said about certificates or protocols.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Closed(_))
    }
}

/// A connection whose handshake is done.
pub struct Established {
    /// Seals what we send.
    pub sealer: Sealer,
    /// Opens what the peer sends.
    pub inbound: Inbound,
    /// Knows the next keys.
    pub keys: Box<dyn KeySchedule>,
    /// Application data that came with the handshake.
    pub early: Vec<u8>,
    /// The beginning of a record.
    pub left_over: Vec<u8>,
    /// The peer has sent close_notify already.
    pub peer_closed: bool,
    /// What was agreed on.
    pub facts: TlsFacts,
}

/// What a handshake wants next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// Bytes of the peer, by [`Handshake::space`] and [`Handshake::filled`].
    Read,
    /// [`Handshake::output`] is to be sent, before anything else.
    Write,
    /// Nothing: it is done, call [`Handshake::establish`].
    Done,
}

/// rustls' connection of either end.
enum Ends {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// One handshake in progress.
pub struct Handshake {
    ends: Ends,
    input: Vec<u8>,
    filled: usize,
    yields: Yields,
    /// The OCSP response that came with the peer's certificate (RFC 6066 section 8).
    staple: Vec<u8>,
}

/// What comes out of rustls.
#[derive(Default)]
struct Yields {
    output: Vec<u8>,
    early: Vec<u8>,
    peer_closed: bool,
    /// rustls has been asked for what it keeps until the next data is sent.
    flushed: bool,
}

/// What one look at the input asked for.
enum Step {
    Again,
    Want(Wanted),
}

impl Handshake {
    /// The client's end, towards the server `name`.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn client(config: &Arc<ClientConfig>, name: &ServerName<'static>) -> Result<Self, HandshakeError> {
        let connection = UnbufferedClientConnection::new(Arc::clone(config), name.clone());
        Ok(Self::new(Ends::Client(Box::new(connection.map_err(|error| HandshakeError::Tls(Role::Client, error))?))))
    }

    /// The server's end.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, HandshakeError> {
        let connection = UnbufferedServerConnection::new(Arc::clone(config));
        Ok(Self::new(Ends::Server(Box::new(connection.map_err(|error| HandshakeError::Tls(Role::Server, error))?))))
    }

    fn new(ends: Ends) -> Self {
        Self { ends, input: Vec::new(), filled: 0, yields: Yields::default(), staple: Vec::new() }
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        match self.ends {
            Ends::Client(_) => Role::Client,
            Ends::Server(_) => Role::Server,
        }
    }

    /// Goes on with what has been read, and says what is wanted next.
    ///
    /// # Errors
    /// Why it failed; [`Handshake::output`] is then what the peer still has to be told, an alert last, if anything.
    pub fn advance(&mut self) -> Result<Wanted, HandshakeError> {
        loop {
            match self.step() {
                Ok(Step::Again) => {}
                Ok(Step::Want(Wanted::Done)) if !self.may_hand_over() => return Ok(Wanted::Read),
                Ok(Step::Want(wanted)) => return Ok(wanted),
                Err(error) => {
                    self.put_alert();
                    return Err(error);
                }
            }
        }
    }

    /// Where the next bytes of the peer go.
    ///
    /// # Errors
    /// [`HandshakeError::TooLong`] when it has sent too many.
    pub fn space(&mut self) -> Result<&mut [u8], HandshakeError> {
        if self.filled + READ_BYTES_MIN > INPUT_BYTES_MAX {
            return Err(HandshakeError::TooLong(self.role()));
        }
        // At most one record beyond what is there: what follows the handshake is for the relay to read.
        let wanted = (self.filled + RECORD_HEADER_BYTES + RECORD_WIRE_BYTES_MAX).min(INPUT_BYTES_MAX);
        if self.input.len() < wanted {
            self.input.resize(wanted, 0);
        }
        Ok(self.input.get_mut(self.filled..).unwrap_or_default())
    }

    /// The first `count` bytes of [`Handshake::space`] have been filled; 0 is the end of the stream.
    ///
    /// # Errors
    /// [`HandshakeError::Closed`]: a handshake that was wanted to go on cannot end there.
    pub fn filled(&mut self, count: usize) -> Result<(), HandshakeError> {
        self.filled = (self.filled + count).min(self.input.len());
        if count == 0 { Err(HandshakeError::Closed(self.role())) } else { Ok(()) }
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        &self.yields.output
    }

    /// [`Handshake::output`] has been sent.
    pub fn sent(&mut self) {
        self.yields.output.clear();
    }

    /// The peer's certificates, its own first.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        let shown = match &self.ends {
            Ends::Client(connection) => connection.peer_certificates(),
            Ends::Server(connection) => connection.peer_certificates(),
        };
        shown.unwrap_or_default()
    }

    /// The OCSP response that the server has stapled; empty: none, or the session was resumed.
    pub fn staple(&self) -> &[u8] {
        &self.staple
    }

    /// The group of the key exchange; empty: there was none.
    pub(crate) fn group(&self) -> String {
        let group = match &self.ends {
            Ends::Client(connection) => connection.negotiated_key_exchange_group(),
            Ends::Server(connection) => connection.negotiated_key_exchange_group(),
        };
        group.map_or_else(String::new, |group| format!("{:?}", group.name()))
    }

    /// Whether a former session was resumed.
    pub fn is_resumed(&self) -> bool {
        let kind = match &self.ends {
            Ends::Client(connection) => connection.handshake_kind(),
            Ends::Server(connection) => connection.handshake_kind(),
        };
        kind == Some(HandshakeKind::Resumed)
    }

    /// The peer's certificate is not accepted by what counts now: whoever resumed a session has another chance in full.
    pub(crate) fn not_valid_any_more(&self, error: rustls::Error) -> HandshakeError {
        if self.is_resumed() {
            HandshakeError::Stale(self.role(), error)
        } else {
            HandshakeError::Tls(self.role(), error)
        }
    }

    /// Hands the secrets over to the record layer.
    ///
    /// # Errors
    /// The handshake is not done.
    pub fn establish(self) -> Result<Established, HandshakeError> {
        let (role, resumed) = (self.role(), self.is_resumed());
        let Self { ends, mut input, filled, yields: Yields { early, peer_closed, .. }, staple: _ } = self;
        input.truncate(filled);
        let wrong = |error| HandshakeError::Tls(role, error);
        let (sealer, inbound, keys, facts) = match ends {
            Ends::Client(connection) => {
                let both = connection.dangerous_into_kernel_connection().map_err(wrong)?;
                hand_over(role, both, KernelConnection::handle_new_session_ticket, resumed)?
            }
            Ends::Server(connection) => {
                let both = connection.dangerous_into_kernel_connection().map_err(wrong)?;
                // The record layer refuses tickets of a client before they come here.
                let no_tickets: TicketSink<_> = |_, _| Err(rustls::Error::General("a ticket of a client".into()));
                hand_over(role, both, no_tickets, resumed)?
            }
        };
        Ok(Established { sealer, inbound, keys, early, left_over: input, peer_closed, facts })
    }

    fn step(&mut self) -> Result<Step, HandshakeError> {
        let role = self.role();
        let Self { ends, input, filled, yields, staple } = self;
        let there = input.get_mut(..*filled).unwrap_or_default();
        let (discard, step) = match ends {
            Ends::Client(connection) => {
                let taken = yields.take(role, connection.process_tls_records(there));
                // At most one of all looks verifies.
                *staple =
                    Some(take_staple()).filter(|found| !found.is_empty()).unwrap_or_else(|| std::mem::take(staple));
                taken
            }
            Ends::Server(connection) => yields.take(role, connection.process_tls_records(there)),
        };
        input.copy_within(discard.min(*filled)..*filled, 0);
        *filled = filled.saturating_sub(discard);
        step
    }

    /// Not while the input begins with a record that rustls has opened but still needs.
    fn may_hand_over(&self) -> bool {
        let begins_with_whole_record = match self.input.get(..self.filled) {
            Some([_, _, _, high, low, rest @ ..]) => rest.len() >= usize::from(u16::from_be_bytes([*high, *low])),
            _ => false,
        };
        self.yields.peer_closed || !begins_with_whole_record
    }

    /// After an error rustls may have an alert to send, behind what it had queued before, and what has not been sent yet: without
    /// that the peer could not read the alert. If it has none it looks at the
    /// input again, and panics if that does not begin with the half message that it has already seen.
    fn put_alert(&mut self) {
        let Self { ends, input, filled, yields: Yields { output, .. }, .. } = self;
        let there = input.get_mut(..*filled).unwrap_or_default();
        let unsent = output.len();
        match ends {
            Ends::Client(connection) => while encode_next(connection.process_tls_records(there), output) {},
            Ends::Server(connection) => while encode_next(connection.process_tls_records(there), output) {},
        }
        if output.len() == unsent {
            output.clear();
        }
    }
}

impl Yields {
    /// Takes what one look at the input gave; returns how much of the input is used up.
    fn take<Data>(
        &mut self,
        role: Role,
        status: UnbufferedStatus<'_, '_, Data>,
    ) -> (usize, Result<Step, HandshakeError>) {
        let UnbufferedStatus { discard, state } = status;
        let step = match state {
            Err(error) => Err(HandshakeError::Tls(role, error)),
            Ok(state) => self.take_state(role, state),
        };
        (discard, step)
    }

    fn take_state<Data>(&mut self, role: Role, state: ConnectionState<'_, '_, Data>) -> Result<Step, HandshakeError> {
        match state {
            ConnectionState::EncodeTlsData(mut data) => {
                let done = encode(&mut data, &mut self.output);
                if done { Ok(Step::Again) } else { Err(HandshakeError::Internal("encoding a handshake message")) }
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Ok(if self.output.is_empty() { Step::Again } else { Step::Want(Wanted::Write) })
            }
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(|error| HandshakeError::Tls(role, error))?;
                    self.early.extend_from_slice(record.payload);
                }
                if self.early.len() > EARLY_BYTES_MAX { Err(HandshakeError::TooLong(role)) } else { Ok(Step::Again) }
            }
            ConnectionState::PeerClosed => {
                self.peer_closed = true;
                Ok(Step::Again)
            }
            ConnectionState::BlockedHandshake => Ok(Step::Want(Wanted::Read)),
            ConnectionState::WriteTraffic(mut traffic) if !self.flushed => {
                // The answer to a KeyUpdate waits inside rustls for the next data, and would be lost with it. This moves
                // it to where it is sent from, and then has no room for the data.
                self.flushed = true;
                let refused = traffic.encrypt(&[0], &mut []);
                debug_assert!(refused.is_err(), "a record in no bytes");
                Ok(Step::Again)
            }
            ConnectionState::WriteTraffic(_) => {
                self.flushed = false;
                Ok(Step::Want(Wanted::Done))
            }
            _ => Err(HandshakeError::Internal("an unexpected handshake state")),
        }
    }
}

/// Adds the next record that rustls has queued to `output`; false when that was the alert, or there was none.
fn encode_next<Data>(status: UnbufferedStatus<'_, '_, Data>, output: &mut Vec<u8>) -> bool {
    let at = output.len();
    match status.state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let done = encode(&mut data, output);
            // Asked again behind its alert, rustls may fail again and want to send another one, which it must not.
            done && !is_alert(output.get(at..).unwrap_or_default())
        }
        _ => false,
    }
}

/// Whether a record is an alert: by its type, or under TLS 1.3 by its length, which no other message has.
fn is_alert(record: &[u8]) -> bool {
    const CIPHERTEXT_BYTES: u8 = (2 + 1 + TAG_BYTES) as u8;
    matches!(record, [21, ..] | [23, _, _, 0, CIPHERTEXT_BYTES, ..])
}

/// Adds one queued record to `output`.
fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, output: &mut Vec<u8>) -> bool {
    let at = output.len();
    let needed = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        _ => 0,
    };
    output.resize(at + needed, 0);
    data.encode(output.get_mut(at..).unwrap_or_default()).is_ok()
}

type HandedOver = (Sealer, Inbound, Box<dyn KeySchedule>, TlsFacts);

fn hand_over<Data: 'static>(
    role: Role,
    (secrets, connection): (ExtractedSecrets, KernelConnection<Data>),
    ticket_sink: TicketSink<Data>,
    resumed: bool,
) -> Result<HandedOver, HandshakeError> {
    let version = match connection.protocol_version() {
        ProtocolVersion::TLSv1_2 => Version::Tls12,
        ProtocolVersion::TLSv1_3 => Version::Tls13,
        _ => return Err(HandshakeError::Internal("an unknown protocol version")),
    };
    let key = |(sequence, secrets)| traffic_key(version, sequence, &secrets).map_err(HandshakeError::Internal);
    let (sealer, inbound) = (Sealer::new(&key(secrets.tx)?), Inbound::new(role, &key(secrets.rx)?));
    let facts = TlsFacts::new(version, connection.negotiated_cipher_suite(), resumed);
    Ok((sealer, inbound, Box::new(ByRustls { connection, version, ticket_sink }), facts))
}

/// Does a handshake over `connection`; what the peer has to be told about a failure is sent as far as possible. `answered`
/// is called when there is something to be sent: for a server, when it has understood a ClientHello.
///
/// # Errors
/// Why it failed.
pub(crate) async fn shake_hands(
    connection: &mut impl Link,
    handshake: &mut Handshake,
    mut answered: impl FnMut(),
) -> Result<(), HandshakeError> {
    loop {
        match handshake.advance() {
            Ok(Wanted::Done) => return Ok(()),
            Ok(Wanted::Write) => {
                answered();
                connection.write(handshake.output()).await?;
                handshake.sent();
            }
            Ok(Wanted::Read) => {
                let count = connection.read(handshake.space()?).await?;
                handshake.filled(count)?;
            }
            Err(error) => {
                // The peer may be gone: then there is nobody to tell.
                let _ = connection.write(handshake.output()).await;
                return Err(error);
            }
        }
    }
}
