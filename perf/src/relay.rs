//! What a relay costs that only copies: the floor under everything that also seals and opens.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use clap::Args;

/// As large as the engine's buffers.
const BUFFER_BYTES: usize = 1 << 20;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Where to listen: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Where to connect to: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    connect: SocketAddr,
}

/// Relays until it is killed: a thread for each direction, blocking calls, one buffer each.
///
/// # Errors
/// Why it could not start.
pub(crate) fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind(options.listen).with_context(|| format!("listening on {}", options.listen))?;
    for near in listener.incoming() {
        let near = Arc::new(near.context("accept")?);
        let far = TcpStream::connect(options.connect).with_context(|| format!("connecting to {}", options.connect))?;
        let far = Arc::new(far);
        near.set_nodelay(true).context("TCP_NODELAY")?;
        far.set_nodelay(true).context("TCP_NODELAY")?;
        for (from, to) in [(Arc::clone(&near), Arc::clone(&far)), (far, near)] {
            thread::spawn(move || {
                if let Err(error) = copy(&from, &to) {
                    eprintln!("sealane-perf relay: {error:#}");
                }
                to.shutdown(Shutdown::Write).ok();
            });
        }
    }
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).context("read")?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(buffer.get(..count).unwrap_or_default()).context("write")?;
    }
}
