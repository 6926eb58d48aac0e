//! The part of Sealane that decides: RPC record framing (RFC 5531) and the TLS record layer (RFC 8446, RFC 5246).
//!
//! Everything here is a function of bytes that are passed in. The crate is `no_std`, so it cannot name a socket, a
//! clock or a file; `engine/io` acts and `engine/relay` joins the two.

#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::string_slice)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[doc(hidden)]
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what a fuzz target finds wrong is a panic"
)]
pub mod fuzzing;
pub mod limits;
pub mod outstanding;
pub mod rpc;
pub mod tls;
