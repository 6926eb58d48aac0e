//! The relay: a plain TCP connection of an NFS client, joined to a TLS connection to its server.
//!
//! `engine/proto` decides, `engine/io` acts, this crate joins the two: it accepts, connects, verifies, and runs the two
//! directions of each session.

#![forbid(unsafe_code)]

mod config;
mod counters;
mod error;
mod handshake;
mod inbound;
mod lending;
mod outbound;
mod session;
mod tls_config;
mod tunnel;
mod upstream;
mod worker;

pub use config::{ConfigError, Endpoint, IoChoice, Memory, Timeouts, TlsVersions, TunnelConfig};
pub use counters::Counters;
pub use error::{SessionError, Side, StartError};
pub use handshake::{Established, HandshakeError, TlsFacts};
pub use tls_config::{TlsClient, TlsConfigError, TlsOptions, client_config};
pub use tunnel::{DriverKind, Tunnel, choose_driver};
pub use upstream::UpstreamError;
