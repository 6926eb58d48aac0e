//! Why a session or a start failed: which side, which call, whose fault.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use sealane_proto::tls::{AlertDescription, Role, TlsError};

use crate::config::ConfigError;
use crate::explain::peer_of;

/// The two sides of a session, by what travels there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The NFS client in client mode, the NFS server in server mode.
    Plain,
    /// Where the records travel.
    Tls,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
        })
    }
}

/// Why an established session ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// One of the sockets failed; `op` is the call as strace would name it.
    #[error("{side} side: {op}: {source}")]
    Io {
        /// Which socket.
        side: Side,
        /// Which call.
        op: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The plain side ended inside an RPC record, or the TLS side without close_notify: bytes may have been cut off on
    /// purpose.
    #[error("{side} side: the stream was cut off")]
    Truncated {
        /// Which socket.
        side: Side,
    },
    /// The NFS server owes replies and has said nothing.
    #[error("{side} side: the server owes replies and has been silent for {} s", .limit.as_secs_f32())]
    Silent {
        /// Where it is.
        side: Side,
        /// For how long, at least.
        limit: Duration,
    },
    /// A side has begun a record and not gone on with it.
    #[error("{side} side: nothing for {} s inside a record", .limit.as_secs_f32())]
    HalfRecord {
        /// Which side.
        side: Side,
        /// For how long, at least.
        limit: Duration,
    },
    /// A side takes nothing of what is sent to it.
    #[error("{side} side: nothing was taken for {} s", .limit.as_secs_f32())]
    Stalled {
        /// Which side.
        side: Side,
        /// For how long, at least.
        limit: Duration,
    },
    /// A side's host does not acknowledge what was sent, or keepalive probes.
    #[error("{side} side: no acknowledgement for {} s", .limit.as_secs_f32())]
    Unreachable {
        /// Which side.
        side: Side,
        /// For how long, at least.
        limit: Duration,
    },
    /// The TLS peer broke the protocol, or said that we did.
    #[error("tls side: {0}")]
    Tls(#[from] TlsError),
    /// rustls refused a ticket or a key update.
    #[error("tls side: {0}")]
    Keys(#[from] rustls::Error),
    /// Nothing has gone over the connection for so long.
    #[error("nothing for {} s (--idle-timeout)", .limit.as_secs_f32())]
    Idle {
        /// For how long, at least.
        limit: Duration,
    },
    /// The peer's certificate was revoked, and its stream has no boundary to end at.
    #[error("tls side: {}'s certificate was revoked while the connection lasted", peer_of(*.0))]
    Revoked(Role),
    /// The tunnel was told to stop.
    #[error("the tunnel stops")]
    Stopped,
    /// A promise of our own did not hold.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl SessionError {
    /// The alert that tells the TLS peer; `at_boundary`: what it got so far ends with a whole RPC record.
    pub(crate) fn alert(&self, at_boundary: bool) -> Option<AlertDescription> {
        match self {
            Self::Stopped if at_boundary => Some(AlertDescription::CLOSE_NOTIFY),
            Self::Tls(error) => error.alert(),
            Self::Io { side: Side::Tls, .. }
            | Self::Stalled { side: Side::Tls, .. }
            | Self::Truncated { side: Side::Tls }
            | Self::Unreachable { side: Side::Tls, .. } => None,
            Self::Keys(_) => Some(AlertDescription::DECODE_ERROR),
            Self::Revoked(_) => Some(AlertDescription::CERTIFICATE_REVOKED),
            Self::HalfRecord { .. }
            | Self::Idle { .. }
            | Self::Internal(_)
            | Self::Io { .. }
            | Self::Silent { .. }
            | Self::Stalled { .. }
            | Self::Stopped
            | Self::Truncated { .. }
            | Self::Unreachable { .. } => Some(AlertDescription::INTERNAL_ERROR),
        }
    }
}

/// Why a tunnel did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The listening socket.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A limit that does not fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// io_uring was asked for by name.
    #[error("io_uring is not available on this host: {} (--io epoll runs without it)", NoUring(.0))]
    NoUring(io::Error),
    /// A privileged source port was asked for.
    #[error("--source-port privileged: {0}: it needs CAP_NET_BIND_SERVICE")]
    SourcePort(io::Error),
    /// A directory is to be watched that cannot be.
    #[error("--watch: {0}")]
    Watch(io::Error),
    /// A worker could not start.
    #[error("worker {worker}: {what}")]
    Worker {
        /// Which.
        worker: usize,
        /// Why.
        what: String,
    },
    /// Anything else of the operating system.
    #[error("{op}: {source}")]
    Io {
        /// Which call.
        op: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// Why io_uring is not available, with what would help.
pub(crate) struct NoUring<'e>(pub(crate) &'e io::Error);

impl std::fmt::Display for NoUring<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.kind() {
            io::ErrorKind::OutOfMemory => write!(
                f,
                "{}: raise the limit of locked memory (ulimit -l, LimitMEMLOCK=), or lower --connections-max or --workers",
                self.0
            ),
            _ => write!(f, "{}", self.0),
        }
    }
}
