//! Changes one byte behind the tunnels' back, to show that the demo notices it.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use sealane_selftest::client::Create;
use sealane_selftest::nfs4::{Access, Stable};
use sealane_selftest::{Session, SessionOptions};

/// Somewhere in the middle of the first file.
const AT: u64 = 5_000_001;

/// Goes straight to the server in memory and writes one byte of the first file in `directory`.
///
/// # Errors
/// The call that failed.
pub(super) fn one_byte(server: SocketAddr, directory: &str) -> Result<()> {
    let mut session = Session::open(server, &SessionOptions::default()).context("spoiling a byte")?;
    let directory = session.lookup(directory)?;
    let file = session.open_file(&directory, "file-0", Access::Both, Create::Never)?;
    let mut byte = [0];
    session.read(&file, AT, &mut byte)?;
    session.write(&file, AT, &byte.map(|byte| byte ^ 1), Stable::File)?;
    session.close_file(&file)?;
    Ok(session.close()?)
}
