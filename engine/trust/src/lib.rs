//! Whether a certificate still stands: who issued it, what it says about its status, what an OCSP responder is asked
//! (RFC 6960, RFC 5019), and what its answer is worth.
//!
//! Everything here is a function of bytes that are passed in: `engine/relay` decides when to ask, `engine/io` asks.

#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::string_slice)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod certificate;
mod date;
mod describe;
#[doc(hidden)]
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what a fuzz target finds wrong is a panic"
)]
pub mod fuzzing;
mod ocsp;
#[cfg(test)]
mod tests;

pub use certificate::{Certified, Fingerprint, Hints, Link, Purpose, Unreadable, Unverified, serves, validity};
pub use date::Date;
pub use describe::{Description, printable};
pub use ocsp::{Answer, NoRandomness, OcspError, Revocation, Status, nonce, read, request, url_encoded};

/// What signatures are verified with: the algorithms of rustls' provider.
pub type Algorithms = [&'static dyn rustls_pki_types::SignatureVerificationAlgorithm];
