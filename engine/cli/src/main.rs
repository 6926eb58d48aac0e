//! `sealane`: a userspace TLS tunnel for NFS.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    sealane_cli::main()
}
