//! `sealane client`.

use std::path::PathBuf;

use anyhow::Result;
use rustls::pki_types::ServerName;
use sealane_io::SocketOptions;
use sealane_io::net::ConnectOptions;
use sealane_io::sandbox::Policy;
use sealane_relay::{
    CaOptions, ClientMode, ConfigError, ExpectedName, Live, Mode, OcspMode, OcspOptions, PemSource, TlsClientOptions,
    TunnelConfig,
};

use crate::args::{ClientOptions, Sni};
use crate::log;
use crate::manners::Manners;
use crate::ocsp::connects_to;
use crate::sandbox;
use crate::tunnel::{self, debug_panic_mark, source_port};

/// Runs the tunnel until it is told to stop.
///
/// # Errors
/// Why it could not start.
pub(crate) fn run(options: &ClientOptions) -> Result<()> {
    log::start(&options.tunnel.log_level)?;
    check_listener(options)?;
    let config = config(options, PemSource::File)?;
    if matches!(&config.mode, Mode::Client(mode) if !mode.verified) {
        tracing::warn!(
            "certificates are NOT verified (--insecure-no-verify): anybody on the network can be the server"
        );
    }
    if options.no_tls {
        tracing::warn!("there is NO TLS (--no-tls): anybody on the network can read and change the files");
    }
    let policy = policy(options)?;
    tunnel::serve(options.tunnel.resources(), vec![config], &policy, &Manners::default(), options.tunnel.sandbox_probe)
}

/// What a tunnel with these options needs.
///
/// # Errors
/// An account that this host does not know.
pub(crate) fn policy(options: &ClientOptions) -> Result<Policy> {
    let names_no_ca = options.ca_file.is_empty() && options.ca_dir.is_empty();
    sandbox::policy(
        &options.tunnel,
        &options.connect,
        options.files(),
        names_no_ca && !options.insecure_no_verify && !options.pin_only && !options.no_tls,
        &connects_to(&ocsp(options)?),
        &options.directories(),
    )
}

/// What the options come to. `pem` says where the text of a named file is.
///
/// # Errors
/// What does not go together, or a file that cannot be used.
pub(crate) fn config(options: &ClientOptions, pem: fn(PathBuf) -> PemSource) -> Result<TunnelConfig> {
    let mode = if options.no_tls { without_tls(options)? } else { Mode::Client(client_mode(options, pem)?) };
    let tunnel = &options.tunnel;
    let keep_alive = tunnel.keep_alive();
    Ok(TunnelConfig {
        listen: options.listen,
        connect: options.connect.clone(),
        mode,
        timeouts: tunnel.timeouts(),
        // No user timeout on the plain side: it would also cut a client that reads nothing for a while.
        accepted: SocketOptions { keep_alive, ..SocketOptions::default() },
        outgoing: ConnectOptions {
            bind_address: tunnel.bind_address,
            source_port: source_port(tunnel.source_port),
            socket: tunnel.tls_socket(),
        },
        records_per_key_max: tunnel.records_per_key_max,
        revoked_live: tunnel.revoked_live.into(),
        watched: tunnel.watched(options.files(), &options.directories()),
        panic_on: debug_panic_mark(),
    })
}

/// Of certificates that nobody verifies it does not matter whether they were revoked.
fn ocsp(options: &ClientOptions) -> Result<OcspOptions, ConfigError> {
    let ocsp = options.ocsp.options()?;
    if options.pin_only && ocsp.mode.asks() {
        return Err(ConfigError(
            "--pin-only accepts whoever has the key: it does not go with --ocsp soft or hard".into(),
        ));
    }
    if options.insecure_no_verify && ocsp.mode.asks() {
        return Err(ConfigError(
            "--insecure-no-verify accepts any certificate: it does not go with --ocsp soft or hard".into(),
        ));
    }
    Ok(ocsp)
}

/// What is accepted here is plain text, and carried on with our certificate: only for this host, unless asked for.
pub(crate) fn check_listener(options: &ClientOptions) -> Result<(), ConfigError> {
    let address = options.listen.ip();
    if address.to_canonical().is_loopback() {
        return Ok(());
    }
    if options.allow_non_loopback_listen {
        tracing::warn!("NFS clients are accepted in PLAIN TEXT from other hosts too (--allow-non-loopback-listen)");
        return Ok(());
    }
    Err(ConfigError(format!(
        "--listen: {address} is not a loopback address: what NFS clients send to it is plain text; \
         --allow-non-loopback-listen accepts that"
    )))
}

/// Nothing can be verified, or found revoked, of a server that shows nothing.
fn without_tls(options: &ClientOptions) -> Result<Mode, ConfigError> {
    if options.ocsp.options()?.mode.asks() {
        return Err(ConfigError("--no-tls: no certificate is shown: it does not go with --ocsp soft or hard".into()));
    }
    if options.tunnel.revoked_live.closes() {
        return Err(ConfigError("--no-tls: no certificate is shown: it does not go with --revoked-live close".into()));
    }
    Ok(Mode::Plain)
}

fn client_mode(options: &ClientOptions, pem: fn(PathBuf) -> PemSource) -> Result<ClientMode> {
    let server_name = match (&options.sni, options.server_name.iter().find_map(ExpectedName::host)) {
        (Some(Sni::Name(name)), _) | (_, Some(name)) => name.clone(),
        _ => host_name(options)?,
    };
    let tls = Live::client(tls_options(options, pem)?)?;
    Ok(ClientMode { tls, server_name, verified: !options.insecure_no_verify })
}

/// The name of the server where no other one is given.
fn host_name(options: &ClientOptions) -> Result<ServerName<'static>, ConfigError> {
    let host = &options.connect.host;
    ServerName::try_from(host.clone()).map_err(|_| {
        ConfigError(format!(
            "--connect: '{host}' is neither a DNS name nor an IP address; name the certificate with --server-name"
        ))
    })
}

/// What the options come to that are about TLS.
///
/// # Errors
/// What does not go together.
pub(crate) fn tls_options(options: &ClientOptions, pem: fn(PathBuf) -> PemSource) -> Result<TlsClientOptions> {
    let identity = options.cert.clone().zip(options.key.clone());
    // Who is asked for by another name is judged by its own.
    let is_asked_for_otherwise = options.server_name.is_empty() && matches!(options.sni, Some(Sni::Name(_)));
    let names = if is_asked_for_otherwise { vec![host_name(options)?.into()] } else { options.server_name.clone() };
    if options.trusted_only && options.ca_file.is_empty() && options.ca_dir.is_empty() {
        return Err(ConfigError("--trusted-only: name the certificates with --ca-file or --ca-dir".into()).into());
    }
    let crls = options.crl.options(pem);
    if !crls.is_empty() && (options.insecure_no_verify || options.pin_only) {
        return Err(ConfigError(
            "CRLs are asked about a chain, which is not verified: leave --crl-file and --crl-dir out".into(),
        )
        .into());
    }
    let ocsp = ocsp(options)?;
    let is_verified = !options.insecure_no_verify && !options.pin_only;
    if options.tunnel.revoked_live.closes() && (!is_verified || (ocsp.mode == OcspMode::Off && crls.is_empty())) {
        return Err(ConfigError(
            "--revoked-live close: nobody says what is revoked: that takes a verified chain, and --ocsp, --crl-file or --crl-dir"
                .into(),
        )
        .into());
    }
    Ok(TlsClientOptions {
        cas: CaOptions {
            files: options.ca_file.iter().cloned().map(pem).collect(),
            directories: options.ca_dir.clone(),
        },
        identity: identity.map(|(certificate, key)| (pem(certificate), pem(key))),
        versions: options.tunnel.policy.versions(),
        policy: options.tunnel.policy.policy()?,
        insecure_no_verify: options.insecure_no_verify,
        names,
        any_name: options.any_server_name,
        trusted_only: options.trusted_only,
        pins: options.pin.clone(),
        pin_only: options.pin_only,
        without_sni: options.sni == Some(Sni::Off),
        ocsp,
        crls,
    })
}
