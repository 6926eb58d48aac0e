//! `sealane client`.

use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use sealane_io::net::{ConnectOptions, SourcePort};
use sealane_io::{KeepAlive, SocketOptions, host};
use sealane_relay::{ConfigError, Memory, Timeouts, TlsOptions, Tunnel, TunnelConfig, client_config};

use crate::args::{self, ClientOptions};
use crate::log;

/// More threads than this do not help one NFS mount.
const WORKERS_DEFAULT_MAX: usize = 4;
/// Unanswered keepalive probes before the server is taken for dead.
const KEEPALIVE_COUNT: u32 = 3;
/// Time between keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Runs the tunnel until it is told to stop.
///
/// # Errors
/// Why it could not start.
pub(crate) fn run(options: &ClientOptions) -> Result<()> {
    log::start(&options.log_level)?;
    let config = tunnel_config(options)?;
    let connect = config.connect.clone();
    let Memory { bytes_max, connections_max, workers } = config.memory;
    if !config.verified {
        tracing::warn!(
            "certificates are NOT verified (--insecure-no-verify): anybody on the network can be the server"
        );
    }
    let tunnel = Tunnel::start(config)?;
    let (driver, why) = tunnel.driver();
    tracing::info!(
        "listening on {}, tunnel to {connect}; driver {} ({why}), {workers} workers, {} MiB of buffers, {connections_max} connections at most",
        tunnel.local_address().context("getsockname")?,
        driver.name(),
        bytes_max >> 20,
    );
    let counters = tunnel.counters();
    let signal = tunnel.run().context("the accept loop")?;
    let totals: Vec<String> =
        counters.all().filter(|(_, total)| *total > 0).map(|(name, total)| format!("{name}={total}")).collect();
    tracing::info!("stopped by {signal}; {}", if totals.is_empty() { "nothing came".into() } else { totals.join(" ") });
    Ok(())
}

fn tunnel_config(options: &ClientOptions) -> Result<TunnelConfig> {
    let tls = client_config(&TlsOptions {
        ca_files: options.ca_file.clone(),
        identity: options.cert.clone().zip(options.key.clone()),
        versions: options.tls.into(),
        insecure_no_verify: options.insecure_no_verify,
    })?;
    let server_name = match &options.server_name {
        Some(name) => name.clone(),
        None => ServerName::try_from(options.connect.host.clone()).map_err(|_| {
            let host = &options.connect.host;
            ConfigError(format!(
                "--connect: '{host}' is neither a DNS name nor an IP address; name the certificate with --server-name"
            ))
        })?,
    };
    let keep_alive = (!options.keepalive.is_zero()).then_some(KeepAlive {
        idle: options.keepalive,
        interval: KEEPALIVE_INTERVAL,
        count: KEEPALIVE_COUNT,
    });
    Ok(TunnelConfig {
        listen: options.listen,
        connect: options.connect.clone(),
        server_name,
        tls,
        verified: !options.insecure_no_verify,
        io: options.io.into(),
        memory: Memory {
            bytes_max: options.memory_max,
            connections_max: options.connections_max,
            workers: options.workers.unwrap_or_else(|| host::cores().min(WORKERS_DEFAULT_MAX)),
        },
        timeouts: Timeouts {
            connect: options.connect_timeout,
            handshake: options.handshake_timeout,
            retry: options.retry_timeout,
            close: options.close_timeout,
            half_close: options.half_close_timeout,
            ..Timeouts::default()
        },
        // No user timeout on the plain side: it would also cut a client that reads nothing for a while.
        plain_socket: SocketOptions { keep_alive, ..SocketOptions::default() },
        outgoing: ConnectOptions {
            bind_address: options.bind_address,
            source_port: match options.source_port {
                args::SourcePort::Any => SourcePort::Any,
                args::SourcePort::Privileged => SourcePort::Privileged,
            },
            socket: SocketOptions {
                keep_alive,
                user_timeout: (!options.user_timeout.is_zero()).then_some(options.user_timeout),
                receive_buffer_bytes: options.receive_buffer,
                send_buffer_bytes: options.send_buffer,
            },
        },
        records_per_key_max: options.records_per_key_max,
        panic_on: debug_panic_mark(),
    })
}

/// The test of "a panic ends one connection" needs a panic. Release builds have none to offer.
fn debug_panic_mark() -> Option<Vec<u8>> {
    if cfg!(debug_assertions) { std::env::var("SEALANE_PANIC_ON").ok().map(String::into_bytes) } else { None }
}
