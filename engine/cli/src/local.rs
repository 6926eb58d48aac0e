//! What `demo` and `bench` share: certificates that exist in memory only, tunnels in threads of this process, and how they
//! say what they measured.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use sealane_io::SocketOptions;
use sealane_io::net::ConnectOptions;
use sealane_io::rt::{self, Sender};
use sealane_relay::{
    Endpoint, IoChoice, Memory, Mode, PerAddress, Resources, ServerMode, TlsServerOptions, TlsVersions, TunnelConfig,
    Tunnels, server_config,
};

use serde_json::{Value, json};

use crate::log;

pub(crate) mod certificates;

pub(crate) use certificates::Certificates;

/// The name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "nfs.demo.test";
/// Buffers of each tunnel: more than four calls of 1 MiB both ways.
const BUFFERS_BYTES: usize = 32 << 20;
/// Connections of each tunnel.
pub(crate) const CONNECTIONS_MAX: usize = 16;

/// What was measured, for people and for programs.
pub(crate) trait Told {
    fn text(&self) -> String;
    fn json(&self) -> Value;
}

/// Prints what was measured on standard output; as JSON also why nothing was.
///
/// # Errors
/// Why nothing was measured, or what standard output says.
pub(crate) fn tell(measured: Result<impl Told>, as_json: bool) -> Result<()> {
    let text = match &measured {
        Ok(report) if as_json => report.json().to_string(),
        Ok(report) => report.text(),
        Err(error) if as_json => json!({ "ok": false, "error": log::with_causes(error) }).to_string(),
        Err(_) => return measured.map(drop),
    };
    // Not `println`: that panics when nobody reads.
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => measured.and(Err(error).context("standard output")),
        _ => measured.map(drop),
    }
}

/// A tunnel that runs in threads of its own until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) driver: (&'static str, String),
    pub(crate) counters: std::sync::Arc<sealane_relay::Counters>,
    stop: Option<Sender<()>>,
    accepting: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// What the host or a limit refuses.
    pub(crate) fn start(resources: Resources, config: TunnelConfig) -> Result<Self> {
        let tunnel = Tunnels::start(resources, config)?;
        let address = tunnel.local_addresses().context("getsockname")?.first().copied().context("no address")?;
        let (kind, why) = tunnel.driver();
        let (driver, counters) = ((kind.name(), why.to_string()), tunnel.counters());
        let (stop, told) = rt::queue(1);
        let accepting = thread::Builder::new().name("accept".into()).spawn(move || {
            if let Err(error) = tunnel.run_until_told(told) {
                tracing::error!("the accept loop: {error}");
            }
        });
        let accepting = Some(accepting.context("starting a thread")?);
        Ok(Self { address, driver, counters, stop: Some(stop), accepting })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Starts the server's end of TLS in front of `nfs`, with the certificate for [`SERVER_NAME`].
///
/// # Errors
/// What the host refuses.
pub(crate) fn front(
    Certificates { certificate, key, .. }: Certificates,
    nfs: SocketAddr,
    versions: TlsVersions,
    io: IoChoice,
) -> Result<Running> {
    let tls = server_config(&TlsServerOptions { versions, ..TlsServerOptions::new(certificate, key) })?;
    let per_address = PerAddress::UNLIMITED;
    let mode = ServerMode { tls: tls.into(), handshakes_max: CONNECTIONS_MAX, per_address, proxy_protocol: None };
    Running::start(resources(io), tunnel_config(Mode::Server(mode), nfs))
}

/// For few connections.
pub(crate) fn resources(io: IoChoice) -> Resources {
    let memory = Memory { bytes_max: BUFFERS_BYTES, connections_max: CONNECTIONS_MAX, workers: 1 };
    Resources { io, memory, spin: sealane_relay::Spin::default() }
}

/// The configuration of a tunnel on loopback.
pub(crate) fn tunnel_config(mode: Mode, connect: SocketAddr) -> TunnelConfig {
    TunnelConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        connect: Endpoint { host: connect.ip().to_string(), port: connect.port() },
        mode,
        timeouts: sealane_relay::Timeouts::default(),
        accepted: SocketOptions::default(),
        outgoing: ConnectOptions::default(),
        records_per_key_max: u64::MAX,
        revoked_live: sealane_relay::RevokedLive::default(),
        watched: Vec::new(),
        panic_on: None,
    }
}
