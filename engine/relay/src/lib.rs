//! The relay: a plain TCP connection joined to a TLS connection, at either end of it: towards an NFS client whose server
//! speaks TLS, or towards an NFS server whose clients do.
//!
//! `engine/proto` decides, `engine/io` acts, this crate joins the two: it accepts, connects, verifies, and runs the two
//! directions of each session.

#![forbid(unsafe_code)]
#![warn(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::string_slice)]

mod addresses;
mod admission;
mod allow;
mod ca;
mod care;
mod client_judge;
mod config;
mod connections;
mod counters;
mod crl;
mod draining;
mod entrance;
mod error;
mod expected_name;
mod explain;
#[doc(hidden)]
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what a fuzz target finds wrong is a panic"
)]
pub mod fuzzing;
mod handshake;
mod inbound;
mod inspect;
mod keys;
mod lending;
mod live;
mod outbound;
mod peers;
mod plain;
mod prepare;
mod proxy_protocol;
mod reports;
mod server_judge;
mod session;
#[doc(hidden)]
pub mod simulation;
mod spinning;
mod status;
mod succession;
mod throttle;
mod tls_client;
mod tls_config;
mod tls_policy;
mod tls_server;
mod tunnel;
mod upstream;
mod watch;
mod worker;

pub use addresses::PerAddress;
pub use allow::Allow;
pub use ca::CaOptions;
pub use config::{
    ClientMode, ConfigError, Endpoint, IoChoice, Memory, Mode, Resources, RevokedLive, ServerMode, Spin, Timeouts,
    TlsVersions, TunnelConfig,
};
pub use counters::Counters;
pub use crl::CrlOptions;
pub use error::{SessionError, Side, StartError};
pub use expected_name::ExpectedName;
pub use handshake::{Established, Handshake, HandshakeError, Wanted};
pub use inspect::{Agreed, Inspection, inspect};
pub use keys::{KeySchedule, TlsFacts};
pub use live::Live;
pub use proxy_protocol::ProxyProtocol;
pub use server_judge::Pin;
pub use status::{HttpUrl, OcspMode, OcspOptions, Proxy, StatusError, Unaccepted};
pub use tls_client::{TlsClient, TlsClientOptions, client_config};
pub use tls_config::{PemSource, TlsConfigError};
pub use tls_policy::{Group, KeyLogFile, Signature, Signatures, Suite, TlsPolicy};
pub use tls_server::{TlsServer, TlsServerOptions, server_config};
pub use tunnel::{Bound, DriverKind, Process, Stop, Tunnels};
pub use upstream::UpstreamError;
