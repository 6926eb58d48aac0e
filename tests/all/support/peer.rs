//! A TLS server or client of our own that can do everything wrong, on purpose: rustls does its handshake, then each record
//! is in the test's hands.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;

use rustls::{ClientConnection, ConnectionTrafficSecrets, ServerConnection, SupportedProtocolVersion};
use sealane_proto::limits::BUFFER_BIG_BYTES;
use sealane_proto::tls::{
    ContentType, Inbound, Pieces, Progress, Role, Sealer, Suite, TlsError, TrafficKey, Version, Window,
};

use super::pki::{Identity, NAME, Pki, server_config_of};
use super::process::SOON;

pub fn traffic_key(version: Version, secrets: &(u64, ConnectionTrafficSecrets)) -> TrafficKey {
    let (suite, key, iv) = match &secrets.1 {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::ChaCha20Poly1305, key, iv),
        _ => panic!("an unknown AEAD"),
    };
    TrafficKey::new(version, suite, key.as_ref(), iv.as_ref(), secrets.0).unwrap()
}

fn key_bytes((_, secrets): &(u64, ConnectionTrafficSecrets)) -> Vec<u8> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, .. }
        | ConnectionTrafficSecrets::Aes256Gcm { key, .. }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, .. } => key.as_ref().to_vec(),
        _ => panic!("an unknown AEAD"),
    }
}

/// Our version of a rustls version.
pub fn version_of(version: &SupportedProtocolVersion) -> Version {
    if version == &rustls::version::TLS13 { Version::Tls13 } else { Version::Tls12 }
}

pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// How many tickets a TLS 1.3 server of rustls sends.
const TICKETS: u32 = 2;

/// The listening end.
pub struct PeerListener {
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    version: Version,
}

impl PeerListener {
    pub fn bind(version: &'static SupportedProtocolVersion) -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            config: Pki::get().server_config(version),
            version: version_of(version),
        }
    }

    /// The same with another certificate.
    pub fn with_identity(version: &'static SupportedProtocolVersion, identity: &Identity) -> Self {
        Self { config: server_config_of(identity, version, None, Vec::new()), ..Self::bind(version) }
    }

    /// The same socket with another certificate.
    pub fn with_other_identity(&self, version: &'static SupportedProtocolVersion, identity: &Identity) -> Self {
        self.stapling(version, identity, Vec::new())
    }

    /// The same with an OCSP response that is stapled to it.
    pub fn stapling(&self, version: &'static SupportedProtocolVersion, identity: &Identity, response: Vec<u8>) -> Self {
        Self {
            listener: self.listener.try_clone().unwrap(),
            config: server_config_of(identity, version, None, response),
            version: version_of(version),
        }
    }

    /// The same on a port that somebody waits for.
    pub fn rebind(version: &'static SupportedProtocolVersion, port: u16) -> Self {
        Self::at(version, ("127.0.0.1", port))
    }

    /// The same on another address.
    pub fn at(version: &'static SupportedProtocolVersion, address: (&str, u16)) -> Self {
        Self { listener: TcpListener::bind(address).unwrap(), ..Self::bind(version) }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The next connection after its handshake. The client must not send data before it is told to: a client behind
    /// sealane that stays silent is connected after 200 ms.
    pub fn accept(&self) -> Peer {
        self.accept_with(&mut Vec::new())
    }

    /// The next connection, whose client may have said something already: that must be less than a record.
    pub fn accept_talkative(&self) -> Peer {
        let mut early = Vec::new();
        let mut peer = self.accept_with(&mut early);
        peer.plain = early;
        peer
    }

    /// The next connection, whose handshake the client may refuse.
    pub fn try_accept(&self) -> std::io::Result<()> {
        let (mut stream, _) = self.listener.accept()?;
        let mut connection = ServerConnection::new(Arc::clone(&self.config)).unwrap();
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut stream)?;
        }
        Ok(())
    }

    fn accept_with(&self, early: &mut Vec<u8>) -> Peer {
        let (mut stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = ServerConnection::new(Arc::clone(&self.config)).unwrap();
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut stream).unwrap();
        }
        let _ = connection.reader().read_to_end(early);
        let secrets = connection.dangerous_extract_secrets().unwrap();
        Peer::new(Role::Server, self.version, stream, &secrets)
    }
}

/// The sending half of a peer, for a thread of its own.
pub struct PeerSender {
    stream: TcpStream,
    sealer: Sealer,
    wire: Vec<u8>,
}

impl PeerSender {
    /// Sends `bytes` in full records.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// The same to somebody who may be gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let shape = self.sealer.shape();
        self.wire.resize((bytes.len() / 16384 + 1) * shape.stride(), 0);
        for ((start, length), chunk) in shape.chunks(bytes.len()).zip(bytes.chunks(16384)) {
            self.wire[start..start + length].copy_from_slice(chunk);
        }
        let length = self.sealer.seal(&mut self.wire, bytes.len()).unwrap();
        self.stream.write_all(&self.wire[..length])
    }

    /// Sends close_notify.
    pub fn close(&mut self) {
        self.wire.resize(64, 0);
        let length = self.sealer.seal_message(ContentType::ALERT, &[1, 0], &mut self.wire).unwrap();
        self.stream.write_all(&self.wire[..length]).unwrap();
    }
}

/// One connection of the hostile server or client.
pub struct Peer {
    pub stream: TcpStream,
    sealer: Option<Sealer>,
    inbound: Inbound,
    buffer: Vec<u8>,
    window: Window,
    plain: Vec<u8>,
    scratch: Vec<u8>,
    /// The bytes of the keys of both directions.
    pub keys: [Vec<u8>; 2],
}

/// What ended a read of the peer.
#[derive(Debug, Eq, PartialEq)]
pub enum PeerEnd {
    Closed,
    Eof,
    Reset,
    Tls(TlsError),
    Event(Progress),
}

#[derive(Default)]
struct Ranges(Vec<Range<usize>>);

impl Pieces for Ranges {
    fn push(&mut self, range: Range<usize>) -> bool {
        self.0.push(range);
        true
    }

    fn grow_last(&mut self, end: usize) {
        self.0.last_mut().unwrap().end = end;
    }
}

impl Peer {
    fn new(role: Role, version: Version, stream: TcpStream, secrets: &rustls::ExtractedSecrets) -> Self {
        Self {
            stream,
            sealer: Some(Sealer::new(&traffic_key(version, &secrets.tx))),
            inbound: Inbound::new(role, &traffic_key(version, &secrets.rx)),
            buffer: vec![0; BUFFER_BIG_BYTES],
            window: Window::default(),
            plain: Vec::new(),
            scratch: vec![0; 20_000],
            keys: [&secrets.tx, &secrets.rx].map(key_bytes),
        }
    }

    /// A client's connection to the TLS server on `port`, which may say nothing before it is told to: tickets are the
    /// only messages that are taken with the handshake.
    pub fn connect(version: &'static SupportedProtocolVersion, port: u16) -> Self {
        Self::try_connect(version, port).unwrap()
    }

    /// The same, when the server may refuse.
    pub fn try_connect(version: &'static SupportedProtocolVersion, port: u16) -> std::io::Result<Self> {
        Self::try_connect_with(version, &Pki::get().client_config(version), port)
    }

    /// The same with another configuration, which lets its secrets be extracted.
    pub fn try_connect_with(
        version: &'static SupportedProtocolVersion,
        config: &Arc<rustls::ClientConfig>,
        port: u16,
    ) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = ClientConnection::new(Arc::clone(config), NAME.try_into().unwrap()).unwrap();
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut stream)?;
        }
        // The tickets of TLS 1.3 come behind the handshake: into rustls, or the keys would be extracted in between.
        while version == &rustls::version::TLS13 && connection.tls13_tickets_received() < TICKETS {
            connection.complete_io(&mut stream)?;
        }
        let secrets = connection.dangerous_extract_secrets().unwrap();
        Ok(Self::new(Role::Client, version_of(version), stream, &secrets))
    }

    /// Takes out the sending half until [`Peer::rejoin`].
    pub fn split_sender(&mut self) -> PeerSender {
        let stream = self.stream.try_clone().unwrap();
        PeerSender { stream, sealer: self.sealer.take().unwrap(), wire: Vec::new() }
    }

    pub fn rejoin(&mut self, sender: PeerSender) {
        self.sealer = Some(sender.sealer);
    }

    /// One record of any type.
    pub fn record(&mut self, content_type: ContentType, content: &[u8]) -> Vec<u8> {
        let sealer = self.sealer.as_mut().unwrap();
        let length = sealer.seal_message(content_type, content, &mut self.scratch).unwrap();
        self.scratch[..length].to_vec()
    }

    /// `bytes` as records of `size` bytes each.
    pub fn records(&mut self, bytes: &[u8], size: usize) -> Vec<u8> {
        bytes.chunks(size).flat_map(|chunk| self.record(ContentType::APPLICATION_DATA, chunk)).collect()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        let records = self.records(bytes, 16384);
        self.stream.write_all(&records).unwrap();
    }

    pub fn send_record(&mut self, content_type: ContentType, content: &[u8]) {
        let record = self.record(content_type, content);
        self.stream.write_all(&record).unwrap();
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads until `count` bytes of data have come.
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        self.try_read(count).unwrap_or_else(|end| panic!("{end:?} after {} of {count} bytes", self.plain.len()))
    }

    /// Reads until `count` bytes of data have come, or the stream ends.
    pub fn try_read(&mut self, count: usize) -> Result<Vec<u8>, PeerEnd> {
        while self.plain.len() < count {
            if let Some(end) = self.step()
                && self.plain.len() < count
            {
                return Err(end);
            }
        }
        Ok(self.plain.drain(..count).collect())
    }

    /// Whether there is data, or something comes within the stream's read time-out.
    pub fn has_data(&self) -> bool {
        !self.plain.is_empty() || !self.window.held().is_empty() || self.stream.peek(&mut [0]).is_ok()
    }

    /// Reads until the stream ends; data before that is kept for [`Peer::take`].
    pub fn read_to_end(&mut self) -> PeerEnd {
        loop {
            if let Some(end) = self.step() {
                return end;
            }
        }
    }

    /// Data that was read and not taken.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plain)
    }

    fn step(&mut self) -> Option<PeerEnd> {
        let mut pieces = Ranges::default();
        let progress = self.inbound.advance(&mut self.buffer, self.window.cursor(), &mut pieces);
        let got_data = !pieces.0.is_empty();
        for range in pieces.0 {
            self.plain.extend_from_slice(&self.buffer[range]);
        }
        match progress {
            Err(error) => return Some(PeerEnd::Tls(error)),
            Ok(Progress::NeedBytes) if self.window.next_stretch() || got_data => return None,
            Ok(Progress::NeedBytes) => {}
            Ok(Progress::Closed) => return Some(PeerEnd::Closed),
            Ok(event) => return Some(PeerEnd::Event(event)),
        }
        let plan = self.window.plan(&mut self.buffer);
        match self.stream.read(&mut self.buffer[plan.near]) {
            Ok(0) => Some(PeerEnd::Eof),
            Ok(count) => {
                self.window.filled(count);
                None
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(PeerEnd::Reset),
            Err(error) => panic!("reading from sealane: {error}"),
        }
    }
}
