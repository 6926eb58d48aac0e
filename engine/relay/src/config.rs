//! What a tunnel is told: addresses, limits, times. Parsed once; nothing later can be out of range.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use sealane_io::net::ConnectOptions;
use sealane_io::{PoolLayout, SocketOptions};
use sealane_proto::limits::{BUFFER_BIG_BYTES, BUFFER_BIG_SLICES, BUFFER_SMALL_BYTES, BUFFER_SMALL_SLICES};
use sealane_proto::tls::Role;

use crate::addresses::PerAddress;
use crate::draining::Drain;
use crate::live::Live;
use crate::proxy_protocol::ProxyProtocol;
use crate::tls_client::TlsClient;
use crate::tls_server::TlsServer;

/// Small buffers of each worker whose pages are there from the start: two directions of two connections.
const SMALL_PREFAULTED: usize = 4;

/// A value that cannot be used, and what would be right.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// A host and a port, as written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong =
            || ConfigError(format!("'{text}' is not HOST:PORT (an IPv6 address wants brackets: [2001:db8::1]:2049)"));
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if host.is_empty() || (bare.is_none() && host.contains(':')) || host.contains(char::is_whitespace) {
            return Err(wrong());
        }
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Which driver was asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IoChoice {
    /// io_uring where the host allows it, else epoll.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll.
    Epoll,
}

/// Whether a worker looks for what it expects soon, instead of sleeping until it comes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Spin {
    /// Where that has turned out to cost no more.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always, for so long.
    For(Duration),
}

/// What becomes of a session whose peer's certificate is revoked while it lasts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RevokedLive {
    /// It is spoken of.
    #[default]
    Log,
    /// It takes no more calls, and ends when those under way are answered.
    Close,
}

/// Which TLS versions may be spoken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TlsVersions {
    /// 1.2 only.
    Tls12,
    /// 1.3 only.
    Tls13,
    /// Both; 1.3 is preferred.
    #[default]
    Both,
}

/// How long each state may last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// For a plain client's first byte before the server is connected to anyway: it may have to speak first.
    pub first_byte: Duration,
    /// For one address to accept a connection.
    pub connect: Duration,
    /// For the TLS handshake; for a TLS client, from the moment that it was accepted.
    pub handshake: Duration,
    /// For reaching the server at all, transient failures retried. Below the 15 s after which mount helpers kill their
    /// attempt, so that they see a reset and not a time-out.
    pub retry: Duration,
    /// For the peer's close_notify, when nothing is outstanding.
    pub close: Duration,
    /// For a connection of which one direction has ended, without a byte in the other; where that owes replies, for as long
    /// as `silence` if that is longer.
    pub half_close: Duration,
    /// For answers to callbacks, when a TLS 1.2 key is used up; where an NFS server owes replies, as above.
    pub drain: Duration,
    /// For calls under way when the tunnel stops. Zero: none.
    pub leave: Duration,
    /// For the next byte of an NFS server that owes replies; longer than a COMMIT or a delegation recall can lawfully take,
    /// and than the client's own time-outs. Zero: for ever.
    pub silence: Duration,
    /// For a side to take what one buffer holds, and for the next byte of a record that has begun. Zero: for ever.
    pub stall: Duration,
    /// Over which nothing may go either way. Zero: for ever.
    pub idle: Duration,
    /// For a peer's host to acknowledge anything while it has something to acknowledge. Zero: as TCP has it.
    pub acknowledge: Duration,
}

/// A peer that means to answer close_notify does so at once.
const LEFT_CLOSE_MAX: Duration = Duration::from_millis(500);

impl Timeouts {
    /// What an administrator gets who asks for nothing else.
    pub const DEFAULT: Self = Self {
        first_byte: Duration::from_millis(200),
        connect: Duration::from_secs(5),
        handshake: Duration::from_secs(10),
        retry: Duration::from_secs(12),
        close: Duration::from_secs(5),
        half_close: Duration::from_secs(60),
        drain: Duration::from_secs(5),
        leave: Duration::from_secs(5),
        silence: Duration::from_secs(180),
        stall: Duration::from_secs(180),
        idle: Duration::ZERO,
        acknowledge: Duration::from_secs(30),
    };
}

impl Timeouts {
    /// For what is owed when a connection drains. Whose certificate was revoked is given no more time for owing a reply, nor is
    /// anybody when the tunnel stops.
    pub(crate) fn most_to_drain(&self, why: Drain) -> Duration {
        match why {
            Drain::KeyUsedUp => self.drain.max(self.reply()),
            Drain::Revoked => self.drain,
            Drain::Leaving => self.leave,
        }
    }

    /// For the peer's close_notify when a connection has drained. The client is to come again soon.
    pub(crate) fn most_to_close(&self, why: Drain) -> Duration {
        match why {
            Drain::KeyUsedUp | Drain::Revoked => self.close,
            Drain::Leaving => self.close.min(LEFT_CLOSE_MAX).min(self.leave / 2),
        }
    }

    /// For answers to callbacks when a connection drains, where nothing else is owed.
    pub(crate) fn most_for_callbacks(&self, why: Drain) -> Duration {
        match why {
            Drain::KeyUsedUp | Drain::Revoked => self.drain,
            // The client's answer may be behind calls that are not taken, and its connection is to end well.
            Drain::Leaving => self.drain.min(self.leave / 2),
        }
    }

    /// For a reply that is waited for before a connection ends.
    pub(crate) fn reply(&self) -> Duration {
        self.half_close.max(self.silence)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How much of everything there may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Memory {
    /// Bytes of buffers in all workers together.
    pub bytes_max: usize,
    /// Connections in all workers together.
    pub connections_max: usize,
    /// Worker threads.
    pub workers: usize,
}

impl Memory {
    /// The most connections that one worker can get: the next one goes to the worker with the fewest.
    pub fn connections_per_worker(&self) -> usize {
        self.connections_max.div_ceil(self.workers.max(1))
    }

    /// The buffers of one worker: two small ones for each connection, and big ones in what is left.
    ///
    /// # Errors
    /// When the small ones do not fit into `bytes_max` together with one big one for each worker.
    pub fn layout(&self) -> Result<PoolLayout, ConfigError> {
        if self.workers == 0 || self.connections_max == 0 {
            return Err(ConfigError("at least one worker and one connection are needed".into()));
        }
        let small_count = 2 * self.connections_per_worker();
        let small_bytes = small_count * BUFFER_SMALL_BYTES.next_multiple_of(64);
        let per_worker = self.bytes_max / self.workers;
        let big_bytes = BUFFER_BIG_BYTES.next_multiple_of(4096);
        let big_count = per_worker.saturating_sub(small_bytes + 4096) / big_bytes;
        if big_count == 0 {
            let least = (small_bytes + 4096 + big_bytes) * self.workers;
            return Err(ConfigError(format!(
                "{} connections and {} workers need a buffer memory of at least {} MiB, not {} MiB: \
                 raise --memory-max or lower --connections-max",
                self.connections_max,
                self.workers,
                least.div_ceil(1 << 20),
                self.bytes_max >> 20,
            )));
        }
        Ok(PoolLayout {
            small_bytes: BUFFER_SMALL_BYTES,
            small_count,
            small_slices: BUFFER_SMALL_SLICES,
            big_bytes: BUFFER_BIG_BYTES,
            big_count,
            big_slices: BUFFER_BIG_SLICES,
            small_prefaulted: SMALL_PREFAULTED.min(small_count),
        })
    }
}

/// What all tunnels of a process share.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    /// Which driver.
    pub io: IoChoice,
    /// Limits.
    pub memory: Memory,
    /// Whether workers spin.
    pub spin: Spin,
}

/// The client's end: NFS clients are accepted in plain text, their server is spoken to in TLS.
#[derive(Clone, Debug)]
pub struct ClientMode {
    /// Roots, client certificate, versions.
    pub tls: Live<TlsClient>,
    /// The name that the server's certificate must be valid for.
    pub server_name: ServerName<'static>,
    /// Whether certificates are verified. If not, each connection says so in the log.
    pub verified: bool,
}

/// The server's end: TLS clients are accepted, the NFS server behind is spoken to in plain text.
#[derive(Clone, Debug)]
pub struct ServerMode {
    /// Our certificate, whom clients must be certified by, versions.
    pub tls: Live<TlsServer>,
    /// Handshakes in progress, in all workers together, which have equal shares of at least one. One more ends the one that
    /// has got least far, of those the oldest.
    pub handshakes_max: usize,
    /// What one address may have of these, and of connections.
    pub per_address: PerAddress,
    /// Tells the NFS server where its client really is.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Which end of TLS a tunnel is.
#[derive(Clone, Debug)]
pub enum Mode {
    /// `sealane client`
    Client(ClientMode),
    /// `sealane server`
    Server(ServerMode),
    /// No end of it: plain text is carried as it is, where a file of efs-proxy's asks for that.
    Plain,
}

impl Mode {
    /// Our role in the TLS connections.
    pub fn role(&self) -> Role {
        match self {
            // Without TLS the NFS client is where it is with a client's end.
            Self::Client(_) | Self::Plain => Role::Client,
            Self::Server(_) => Role::Server,
        }
    }

    /// The mode's name in thread names.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Server(_) => "server",
            Self::Plain => "plain",
        }
    }
}

/// Everything that one tunnel is told.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// Where connections are accepted.
    pub listen: SocketAddr,
    /// Where each is carried to.
    pub connect: Endpoint,
    /// Which side speaks TLS.
    pub mode: Mode,
    /// Times.
    pub timeouts: Timeouts,
    /// Options of accepted sockets.
    pub accepted: SocketOptions,
    /// How `connect` is connected to.
    pub outgoing: ConnectOptions,
    /// Replaces a key after this many records, if that is earlier than the protocol wants it.
    pub records_per_key_max: u64,
    /// What becomes of a session whose peer's certificate is revoked.
    pub revoked_live: RevokedLive,
    /// Directories in which a change has files read again, as SIGHUP does.
    pub watched: Vec<PathBuf>,
    /// Debug builds panic in the connection whose plain side sends this; release builds ignore it.
    pub panic_on: Option<Vec<u8>>,
}

/// On loopback nothing is lost, and a user timeout would only cut a peer that does not read for a while.
pub(crate) fn socket_options_for(peer: IpAddr, options: &SocketOptions) -> SocketOptions {
    let user_timeout = options.user_timeout.filter(|_| !peer.to_canonical().is_loopback());
    SocketOptions { user_timeout, ..*options }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_they_are_written() {
        for (text, host, port) in [
            ("nfs.example.com:2049", "nfs.example.com", 2049),
            ("10.0.0.1:1", "10.0.0.1", 1),
            ("[::1]:2049", "::1", 2049),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port));
            assert_eq!(endpoint.to_string(), text);
        }
        for text in ["", "host", "host:", ":2049", "host:0", "host:65536", "::1:2049", "a b:1", "[::1]"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_user_timeout_is_for_the_network_only() {
        let options = SocketOptions { user_timeout: Some(Duration::from_secs(180)), ..SocketOptions::default() };
        for (address, kept) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("10.0.0.1", true),
            ("2001:db8::1", true),
        ] {
            let timeout = socket_options_for(address.parse().unwrap(), &options).user_timeout;
            assert_eq!(timeout.is_some(), kept, "{address}");
        }
    }

    #[test]
    fn every_connection_has_its_two_small_buffers_within_the_limit() {
        for (bytes_max, connections_max, workers) in [(256 << 20, 1024, 4), (64 << 20, 200, 1), (64 << 20, 333, 2)] {
            let memory = Memory { bytes_max, connections_max, workers };
            let layout = memory.layout().unwrap();
            assert!(layout.small_count * workers >= 2 * connections_max);
            let used = layout.small_count * layout.small_bytes + layout.big_count * layout.big_bytes;
            assert!(layout.big_count > 0 && used * workers <= bytes_max, "{memory:?} {layout:?}");
        }
        let tight = Memory { bytes_max: 8 << 20, connections_max: 1024, workers: 4 };
        assert!(tight.layout().unwrap_err().to_string().contains("at least"), "{:?}", tight.layout());
    }
}
