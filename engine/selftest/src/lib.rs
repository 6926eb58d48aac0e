//! A small, real NFSv4.1 server and client in memory, and a load between them.
//!
//! They are honest peers for tests, measurements and demonstrations: what lies between them sees what it would see
//! between a Linux client and a Linux server. The server serves the Linux kernel's client; the client uses nfs-ganesha.
//! They are no product: nothing is stored, access rights are kept but not enforced, there are no locks, delegations,
//! callbacks or layouts.
//!
//! ```no_run
//! use sealane_selftest::load::{Progress, Workload};
//! use sealane_selftest::{Server, ServerOptions, Session, SessionOptions};
//!
//! let server = Server::start(&ServerOptions::default())?;
//! let mut session = Session::open(server.local_address(), &SessionOptions::default())?;
//! let progress = Progress::default();
//! let report = Workload::default().run(&mut session, &progress)?; // names file, offset and pass of a wrong byte
//! println!("{} bytes written", report.write.bytes);
//! session.close()?;
//! drop(server); // its threads have ended
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`server`]: [`Server`] listens and serves one export, which begins empty.
//! - [`client`]: [`Session`] makes calls, one at a time, over one or more connections.
//! - [`load`]: makes many calls at a time on a session's connections and measures them; [`load::Workload`] is the whole
//!   course: write, COMMIT, read back and compare, GETATTR.
//! - [`endure`]: a load that goes on through faults and compares what must have survived them.
//! - [`pattern`]: what is written, and how it is told from anything else.

#![forbid(unsafe_code)]

pub mod client;
mod clock;
pub mod endure;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
pub mod load;
pub mod nfs4;
pub mod pattern;
mod rpc;
pub mod server;
mod stream;
mod xdr;

pub use client::{ClientError, Session, SessionOptions};
pub use rpc::Rejection;
pub use server::{Server, ServerOptions};
pub use xdr::XdrError;
