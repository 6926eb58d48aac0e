//! The tests of the whole: the record layer against rustls, and the `sealane` binary against real and hostile peers.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]
#![allow(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
#![allow(unreachable_pub, missing_docs, reason = "one test binary: nothing leaves it")]

mod support;

mod bench;
mod bounds;
mod check;
mod client_certificates;
mod clocks;
mod command_line;
mod corpus;
mod crl;
mod debugged;
mod demo;
mod drop_in;
mod drop_in_files;
mod ends;
mod far_ends;
mod faults;
mod footprint;
mod handover;
mod identity;
mod many;
mod ocsp;
mod oracle;
mod pages;
mod patience;
mod plain;
mod policy;
mod record_rules;
mod reload;
mod revoked_live;
mod ring;
mod run_file;
mod sandbox;
mod sandbox_files;
mod server_drain;
mod server_ends;
mod server_far_ends;
mod server_limits;
mod spin;
mod stop;
mod stunnel_files;
mod units;
mod verdicts;
mod windows;
