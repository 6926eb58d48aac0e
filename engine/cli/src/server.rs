//! `sealane server`.

use std::path::PathBuf;

use anyhow::Result;
use sealane_io::SocketOptions;
use sealane_io::net::ConnectOptions;
use sealane_io::sandbox::Policy;
use sealane_relay::{
    CaOptions, ConfigError, Live, Mode, PemSource, PerAddress, ServerMode, TlsServerOptions, TunnelConfig,
};

use crate::args::{ClientCert, ServerOptions};
use crate::log;
use crate::manners::Manners;
use crate::sandbox;
use crate::tunnel::{self, debug_panic_mark, source_port};

/// Runs the tunnel until it is told to stop.
///
/// # Errors
/// Why it could not start.
pub(crate) fn run(options: &ServerOptions) -> Result<()> {
    log::start(&options.tunnel.log_level)?;
    let config = config(options, PemSource::File)?;
    if matches!(&config.mode, Mode::Server(mode) if !mode.tls.now().verifies_clients()) {
        tracing::info!("any TLS client may connect; --client-ca FILE demands a certificate");
    }
    let policy = policy(options, &config)?;
    tunnel::serve(options.tunnel.resources(), vec![config], &policy, &Manners::default(), options.tunnel.sandbox_probe)
}

/// What a tunnel with these options needs.
///
/// # Errors
/// An account that this host does not know.
pub(crate) fn policy(options: &ServerOptions, config: &TunnelConfig) -> Result<Policy> {
    let responders = match &config.mode {
        Mode::Server(mode) => options.staple.connects_to(&mode.tls.now().responders())?,
        Mode::Client(_) | Mode::Plain => Vec::new(),
    };
    sandbox::policy(&options.tunnel, &options.connect, options.files(), false, &responders, &options.directories())
}

/// What the options come to. `pem` says where the text of a named file is.
///
/// # Errors
/// A file that cannot be used.
pub(crate) fn config(options: &ServerOptions, pem: fn(PathBuf) -> PemSource) -> Result<TunnelConfig> {
    let clients_optional = options.client_cert == ClientCert::Optional;
    let wrong = |what: &str| Err(ConfigError(what.into()).into());
    let client_cas = CaOptions {
        files: options.client_ca.iter().cloned().map(pem).collect(),
        directories: options.client_ca_dir.clone(),
    };
    if clients_optional && client_cas.is_empty() {
        return wrong("--client-cert optional: --client-ca says who signs those that are shown");
    }
    if !options.allow.is_empty() && client_cas.is_empty() {
        return wrong("--allow is about clients' certificates: demand these with --client-ca or --client-ca-dir");
    }
    if clients_optional && !options.allow.is_empty() {
        return wrong("--client-cert optional and --allow: nobody without a certificate is let in by a list");
    }
    if options.trusted_only && client_cas.is_empty() {
        return wrong("--trusted-only is about clients' certificates: name these with --client-ca or --client-ca-dir");
    }
    let crls = options.crl.options(pem);
    if !crls.is_empty() && client_cas.is_empty() {
        return wrong("--crl-file and --crl-dir are about clients' certificates: demand these with --client-ca");
    }
    if options.tunnel.revoked_live.closes() && crls.is_empty() {
        return wrong(
            "--revoked-live close: nobody says which clients' certificates are revoked: --crl-file or --crl-dir does",
        );
    }
    let tls = Live::server(TlsServerOptions {
        certificate: pem(options.cert.clone()),
        key: pem(options.key.clone()),
        client_cas,
        versions: options.tunnel.policy.versions(),
        policy: options.tunnel.policy.policy()?,
        staple: options.staple.options()?,
        crls,
        trusted_only: options.trusted_only,
        clients_optional,
        allow: options.allow.clone(),
    })?;
    let tunnel = &options.tunnel;
    Ok(TunnelConfig {
        listen: options.listen,
        connect: options.connect.clone(),
        mode: Mode::Server(ServerMode {
            tls,
            handshakes_max: options.handshakes_max,
            per_address: PerAddress {
                handshakes_max: options.handshakes_per_address_max,
                connections_max: options.connections_per_address_max,
            },
            proxy_protocol: options.proxy_protocol.map(Into::into),
        }),
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
        revoked_live: tunnel.revoked_live.into(),
        watched: tunnel.watched(options.files(), &options.directories()),
        panic_on: debug_panic_mark(),
    })
}
