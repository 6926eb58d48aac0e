//! The server's side of the TLS handshake by rustls, and the hand-over of its secrets to our record layer.
//!
//! Two things get lost easily. Application data can arrive with the client's last flight: it is kept in
//! [`Established::early`]. And a handshake message that is split over records stays in the input until it is whole:
//! handing over then would open those records twice, so as long as the left-over input begins with a whole record, more
//! is read first.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use rustls::kernel::KernelConnection;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CipherSuite, ConnectionTrafficSecrets, ProtocolVersion, ServerConfig, SupportedProtocolVersion};
use sealane_proto::limits::{RECORD_HEADER_BYTES, RECORD_WIRE_BYTES_MAX};
use sealane_proto::tls::{Inbound, Role, Sealer, Suite, TrafficKey, Version};

/// More than any client's handshake needs.
const INPUT_BYTES_MAX: usize = 160 * 1024;

/// The TLS version that the server speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Tls {
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

/// The AEAD that the server speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Aead {
    Aes128,
    Aes256,
    Chacha20,
}

impl Aead {
    fn admits(self, suite: CipherSuite) -> bool {
        use CipherSuite as S;
        match self {
            Self::Aes128 => matches!(
                suite,
                S::TLS13_AES_128_GCM_SHA256
                    | S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                    | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            ),
            Self::Aes256 => matches!(
                suite,
                S::TLS13_AES_256_GCM_SHA384
                    | S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                    | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
            ),
            Self::Chacha20 => matches!(
                suite,
                S::TLS13_CHACHA20_POLY1305_SHA256
                    | S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                    | S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
            ),
        }
    }
}

/// A configuration for exactly this version and AEAD, with session tickets.
///
/// # Errors
/// A file that cannot be used.
pub(crate) fn server_config(certificate: &Path, key: &Path, tls: Tls, aead: Aead) -> Result<Arc<ServerConfig>> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| certificate.display().to_string())?;
    let private = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| aead.admits(suite.suite()));
    let versions: [&SupportedProtocolVersion; 1] = match tls {
        Tls::Tls12 => [&rustls::version::TLS12],
        Tls::Tls13 => [&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    config.enable_secret_extraction = true;
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// rustls' part of an established connection: it knows the next traffic secrets.
pub(crate) struct Kernel {
    connection: KernelConnection<ServerConnectionData>,
    version: Version,
}

impl Kernel {
    pub(crate) fn next_sending_key(&mut self) -> Result<TrafficKey> {
        let (sequence, secrets) = self.connection.update_tx_secret()?;
        traffic_key(self.version, sequence, &secrets)
    }

    pub(crate) fn next_receiving_key(&mut self) -> Result<TrafficKey> {
        let (sequence, secrets) = self.connection.update_rx_secret()?;
        traffic_key(self.version, sequence, &secrets)
    }
}

/// A connection whose handshake is done.
pub(crate) struct Established {
    pub(crate) sealer: Sealer,
    pub(crate) inbound: Inbound,
    pub(crate) kernel: Kernel,
    /// Application data that came with the handshake.
    pub(crate) early: Vec<u8>,
    /// The beginning of a record.
    pub(crate) left_over: Vec<u8>,
    /// The client has sent close_notify already.
    pub(crate) peer_closed: bool,
}

enum Step {
    Read,
    Done,
    Again,
}

struct Handshake<'s> {
    connection: UnbufferedServerConnection,
    stream: &'s TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    early: Vec<u8>,
    peer_closed: bool,
}

/// Does the server's side of a handshake on `stream`.
///
/// # Errors
/// Why it failed; the alert for the client was sent as far as possible.
pub(crate) fn accept(stream: &TcpStream, config: &Arc<ServerConfig>) -> Result<Established> {
    let connection = UnbufferedServerConnection::new(Arc::clone(config))?;
    let (input, output, early) = (Vec::new(), Vec::new(), Vec::new());
    let mut handshake = Handshake { connection, stream, input, output, early, peer_closed: false };
    handshake.run()?;
    let Handshake { connection, input, early, peer_closed, .. } = handshake;
    let (secrets, connection) = connection.dangerous_into_kernel_connection()?;
    let version = match connection.protocol_version() {
        ProtocolVersion::TLSv1_2 => Version::Tls12,
        ProtocolVersion::TLSv1_3 => Version::Tls13,
        other => bail!("unknown protocol version {other:?}"),
    };
    Ok(Established {
        sealer: Sealer::new(&traffic_key(version, secrets.tx.0, &secrets.tx.1)?),
        inbound: Inbound::new(Role::Server, &traffic_key(version, secrets.rx.0, &secrets.rx.1)?),
        kernel: Kernel { connection, version },
        early,
        left_over: input,
        peer_closed,
    })
}

impl Handshake<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            match self.step() {
                Ok(Step::Again) => {}
                Ok(Step::Done) => return Ok(()),
                Ok(Step::Read) => self.read()?,
                Err(error) => {
                    self.send_alert();
                    return Err(error);
                }
            }
        }
    }

    fn step(&mut self) -> Result<Step> {
        let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.input);
        let step = match state.context("TLS handshake")? {
            ConnectionState::EncodeTlsData(mut data) => {
                let at = self.output.len();
                let needed = match data.encode(&mut []) {
                    Err(EncodeError::InsufficientSize(size)) => size.required_size,
                    _ => 0,
                };
                self.output.resize(at + needed, 0);
                let place = self.output.get_mut(at..).unwrap_or_default();
                data.encode(place).map_err(|error| anyhow!("encoding a handshake message: {error}"))?;
                Step::Again
            }
            ConnectionState::TransmitTlsData(data) => {
                self.stream.write_all(&self.output).context("sending the handshake")?;
                self.output.clear();
                data.done();
                Step::Again
            }
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    self.early.extend_from_slice(record?.payload);
                }
                Step::Again
            }
            ConnectionState::PeerClosed => {
                self.peer_closed = true;
                Step::Again
            }
            ConnectionState::BlockedHandshake => Step::Read,
            ConnectionState::WriteTraffic(_) => Step::Done,
            other => bail!("unexpected handshake state {other:?}"),
        };
        self.input.drain(..discard);
        let hand_over_is_safe = self.peer_closed || !self.begins_with_whole_record();
        Ok(if matches!(step, Step::Done) && !hand_over_is_safe { Step::Read } else { step })
    }

    /// Whether the input begins with a record that rustls has opened but still needs.
    fn begins_with_whole_record(&self) -> bool {
        match self.input.as_slice() {
            [_, _, _, high, low, rest @ ..] => rest.len() >= usize::from(u16::from_be_bytes([*high, *low])),
            _ => false,
        }
    }

    fn read(&mut self) -> Result<()> {
        if self.input.len() > INPUT_BYTES_MAX {
            bail!("the client sent more than {INPUT_BYTES_MAX} bytes of handshake");
        }
        let filled = self.input.len();
        self.input.resize(filled + RECORD_HEADER_BYTES + RECORD_WIRE_BYTES_MAX, 0);
        let count = self.stream.read(self.input.get_mut(filled..).unwrap_or_default());
        self.input.truncate(filled + count.as_ref().map_or(0, |count| *count));
        match count.context("receiving the handshake")? {
            0 => bail!("the client closed the connection during the TLS handshake"),
            _ => Ok(()),
        }
    }

    /// After an error rustls has an alert to send. The client may be gone: then there is nobody to tell.
    fn send_alert(&mut self) {
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = state {
            let mut alert = [0; 64];
            if let Ok(length) = data.encode(&mut alert) {
                let _ = self.stream.write_all(alert.get(..length).unwrap_or_default());
            }
        }
    }
}

fn traffic_key(version: Version, sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<TrafficKey> {
    let (suite, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::ChaCha20Poly1305, key, iv),
        _ => bail!("an AEAD that the record layer does not know"),
    };
    TrafficKey::new(version, suite, key.as_ref(), iv.as_ref(), sequence).context("traffic key")
}
