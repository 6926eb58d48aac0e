//! The part of Sealane that acts: drivers, sockets, buffers, time.
//!
//! The only crate with `unsafe`, and the only one that knows libc, tokio and tokio-uring. It knows nothing of TLS, RPC
//! or NFS: buffers have sizes and slices, streams receive and send them.

#![warn(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::string_slice)]

pub mod activation;
pub mod daemon;
mod epoll;
mod fence;
pub mod files;
pub mod handover;
pub mod host;
pub mod http;
pub mod net;
mod pool;
mod reading;
mod ring_rules;
pub mod rt;
pub mod sandbox;
pub mod secret;
mod socket;
mod stream;
pub mod supervisor;
pub mod syslog;
mod uring;

pub use epoll::{Epoll, EpollStream};
pub use pool::{Buffer, Pool, PoolError, PoolLayout, Slices};
pub use socket::{KeepAlive, Socket, SocketOptions};
pub use stream::{Control, Driver, Link, Patience, Received, Stream, Unheard};
pub use uring::{Uring, UringStream};
