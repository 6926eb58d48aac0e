//! The far end: accepts connections and answers calls, a thread each.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use rustls::ServerConfig;

use crate::serve::{Link, Manner, Session};
use crate::tls::{self, Aead, Tls};

/// A connection that is silent for longer ends.
const SILENCE_MAX: Duration = Duration::from_secs(300);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Where to listen: ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// The certificate chain in PEM
    #[arg(long, value_name = "FILE", required_unless_present = "plain")]
    cert: Option<PathBuf>,

    /// The private key in PEM
    #[arg(long, value_name = "FILE", required_unless_present = "plain")]
    key: Option<PathBuf>,

    /// The only TLS version
    #[arg(long, value_enum, default_value = "1.2")]
    tls: Tls,

    /// The only AEAD
    #[arg(long, value_enum, default_value = "aes128")]
    suite: Aead,

    /// No TLS: what the load and this server can do without a proxy
    #[arg(long, conflicts_with_all = ["cert", "key"])]
    plain: bool,

    /// Answer so much later, as if the server were far away, in microseconds
    #[arg(long, value_name = "MICROSECONDS", default_value = "0")]
    delay: u64,

    /// Compare every byte of the payloads, and send such as `load --verify` compares; costs more than what is measured may
    #[arg(long)]
    verify: bool,

    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "86400")]
    lifetime: u64,
}

/// Serves until the lifetime is over.
///
/// # Errors
/// Why it could not start.
pub(crate) fn run(options: &Options) -> Result<()> {
    let config = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => Some(tls::server_config(cert, key, options.tls, options.suite)?),
        _ if options.plain => None,
        _ => bail!("--cert and --key belong together"),
    };
    let listener = TcpListener::bind(options.listen).with_context(|| format!("listening on {}", options.listen))?;
    let manner = Manner { delay: Duration::from_micros(options.delay), verify: options.verify };
    thread::spawn(move || accept_all(&listener, config.as_ref(), manner));
    thread::sleep(Duration::from_secs(options.lifetime));
    Ok(())
}

fn accept_all(listener: &TcpListener, config: Option<&Arc<ServerConfig>>, manner: Manner) {
    for stream in listener.incoming() {
        let config = config.cloned();
        match stream {
            Ok(stream) => drop(thread::spawn(move || {
                if let Err(error) = serve(&stream, config.as_ref(), manner) {
                    eprintln!("sealane-perf server: {error:#}");
                }
            })),
            Err(error) => {
                eprintln!("sealane-perf server: accept: {error}");
                thread::sleep(Duration::from_millis(100)); // out of descriptors, say: some will be closed
            }
        }
    }
}

fn serve(stream: &TcpStream, config: Option<&Arc<ServerConfig>>, manner: Manner) -> Result<()> {
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    stream.set_read_timeout(Some(SILENCE_MAX)).context("SO_RCVTIMEO")?;
    stream.set_write_timeout(Some(SILENCE_MAX)).context("SO_SNDTIMEO")?;
    let (link, early, closed) = match config {
        None => (Link::plain(), Vec::new(), false),
        Some(config) => {
            let mut established = tls::accept(stream, config)?;
            let (early, closed) = (std::mem::take(&mut established.early), established.peer_closed);
            (Link::tls(established), early, closed)
        }
    };
    Session::new(stream, link, manner).run(&early, closed)
}
