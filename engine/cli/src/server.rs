//! `sealane server`.

use anyhow::Result;
use sealane_io::SocketOptions;
use sealane_io::net::ConnectOptions;
use sealane_relay::{Mode, ServerMode, TlsServerOptions, TunnelConfig, server_config};

use crate::args::ServerOptions;
use crate::log;
use crate::tunnel::{self, debug_panic_mark, source_port};

/// Runs the tunnel until it is told to stop.
///
/// # Errors
/// Why it could not start.
pub(crate) fn run(options: &ServerOptions) -> Result<()> {
    log::start(&options.tunnel.log_level)?;
    let tls = server_config(&TlsServerOptions {
        certificate: options.cert.clone().into(),
        key: options.key.clone().into(),
        client_cas: options.client_ca.iter().cloned().map(Into::into).collect(),
        versions: options.tunnel.tls.into(),
    })?;
    if !tls.verifies_clients() {
        tracing::info!("any TLS client may connect; --client-ca FILE demands a certificate");
    }
    let tunnel = &options.tunnel;
    tunnel::serve(TunnelConfig {
        listen: options.listen,
        connect: options.connect.clone(),
        mode: Mode::Server(ServerMode {
            tls,
            handshakes_max: options.handshakes_max,
            proxy_protocol: options.proxy_protocol.map(Into::into),
        }),
        io: tunnel.io.into(),
        memory: tunnel.memory(),
        timeouts: tunnel.timeouts(),
        accepted: tunnel.tls_socket(),
        outgoing: ConnectOptions {
            bind_address: tunnel.bind_address,
            source_port: source_port(tunnel.source_port),
            socket: SocketOptions {
                keep_alive: tunnel.keep_alive(),
                user_timeout: tunnel.user_timeout(),
                ..SocketOptions::default()
            },
        },
        records_per_key_max: tunnel.records_per_key_max,
        panic_on: debug_panic_mark(),
    })
}
