//! A connection to the TLS server step by step, with all that is seen on the way: for somebody who wants to know why there
//! is none.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use sealane_io::net;
use sealane_io::rt;
use sealane_trust::{Description, printable};

use crate::config::{ClientMode, TunnelConfig};
use crate::handshake::{Handshake, HandshakeError, shake_hands};
use crate::keys::TlsFacts;
use crate::status::OcspMode;
use crate::tls_client::{TlsClient, TlsClientOptions, client_config};

/// What was seen. A step that was not come to is not there.
#[derive(Debug)]
pub struct Inspection {
    /// The addresses of the server, and how long it took to find them.
    pub addresses: (Result<Vec<SocketAddr>, String>, Duration),
    /// Each of them, and whether it accepts a connection.
    pub connections: Vec<(SocketAddr, Result<(), String>, Duration)>,
    /// The handshake with the first that does.
    pub handshake: Option<(SocketAddr, Result<Agreed, String>, Duration)>,
    /// The certificates that were shown, also by a server that is not accepted.
    pub chain: Vec<Result<Description, String>>,
    /// The server has asked for a client certificate.
    pub wants_certificate: bool,
    /// What is known of their status; `None` before a handshake is done.
    pub status: Option<Result<String, String>>,
}

/// What was agreed on.
#[derive(Debug)]
pub struct Agreed {
    /// Version and suite.
    pub facts: TlsFacts,
    /// The group of the key exchange, by its name at IANA.
    pub group: String,
}

/// Tries the server of `config` as a tunnel would, once, and sends it nothing.
pub async fn inspect(config: &TunnelConfig, mode: &ClientMode, options: &TlsClientOptions) -> Inspection {
    let began = rt::now();
    let (host, port) = (config.connect.host.as_str(), config.connect.port);
    let found = match rt::timeout(config.timeouts.retry, net::resolve(host, port)).await {
        None => Err("the resolver does not answer".into()),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(found)) if found.is_empty() => Err("the name has no address".into()),
        Some(Ok(found)) => Ok(found),
    };
    let all = found.clone().unwrap_or_default();
    let mut seen = Inspection {
        addresses: (found, since(began)),
        connections: Vec::new(),
        handshake: None,
        chain: Vec::new(),
        wants_certificate: false,
        status: None,
    };
    let mut first = None;
    for address in all {
        let began = rt::now();
        let connected = rt::timeout(config.timeouts.connect, net::connect(address, &config.outgoing)).await;
        let outcome = match connected {
            None => Err(format!("no answer within {} s", config.timeouts.connect.as_secs_f32())),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(connection)) => {
                first.get_or_insert((address, connection));
                Ok(())
            }
        };
        seen.connections.push((address, outcome, since(began)));
    }
    let Some((address, connection)) = first else { return seen };
    let tls = mode.tls.now();
    rt::spawn(tls.answer_workers());
    let began = rt::now();
    let limit = config.timeouts.handshake;
    let agreed = match rt::timeout(limit, shake(connection, &tls, &mode.server_name)).await {
        None => Err(format!("nothing for {} s", limit.as_secs_f32())),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(handshake)) => {
            seen.chain = described(handshake.peer_certificates());
            let group = handshake.group();
            let (outlook, own) = (tls.look(&handshake), handshake.peer_certificates().first().cloned());
            match handshake.establish() {
                Err(error) => Err(error.to_string()),
                Ok(established) => {
                    let settled = tls.settle(outlook, config.timeouts.retry).await;
                    let status = || own.map_or_else(String::new, |own| tls.status_of(&own, options.ocsp.mode));
                    seen.status = Some(settled.map(|()| status()).map_err(|error| error.to_string()));
                    Ok(Agreed { facts: established.facts, group })
                }
            }
        }
    };
    let took = since(began);
    seen.wants_certificate = tls.was_asked_for_a_certificate();
    if agreed.is_err() && seen.chain.is_empty() {
        seen.chain = chain_of_whoever_it_is(config, address, mode, options).await;
    }
    seen.handshake = Some((address, agreed, took));
    seen
}

fn since(began: Instant) -> Duration {
    rt::now() - began
}

async fn shake(
    mut connection: net::Connection,
    tls: &TlsClient,
    name: &ServerName<'static>,
) -> Result<Handshake, HandshakeError> {
    let mut handshake = tls.handshake(name, true)?;
    shake_hands(&mut connection, &mut handshake, || {}).await?;
    Ok(handshake)
}

/// What a server shows that is not accepted: nothing but its certificates is wanted of it.
async fn chain_of_whoever_it_is(
    config: &TunnelConfig,
    address: SocketAddr,
    mode: &ClientMode,
    options: &TlsClientOptions,
) -> Vec<Result<Description, String>> {
    let any = TlsClientOptions { versions: options.versions, insecure_no_verify: true, ..TlsClientOptions::default() };
    let Ok(tls) = client_config(&any) else { return Vec::new() };
    let look = async {
        let connection = net::connect(address, &config.outgoing).await.ok()?;
        let handshake = shake(connection, &tls, &mode.server_name).await.ok()?;
        Some(described(handshake.peer_certificates()))
    };
    rt::timeout(config.timeouts.handshake, look).await.flatten().unwrap_or_default()
}

fn described(chain: &[CertificateDer<'_>]) -> Vec<Result<Description, String>> {
    let shown = |Description { subject, issuer, names, not_before, not_after }| Description {
        subject: printable(&subject),
        issuer: printable(&issuer),
        names: names.iter().map(|name| printable(name)).collect(),
        not_before,
        not_after,
    };
    let describe = |certificate| Description::of(certificate).map(shown).map_err(|error| error.to_string());
    chain.iter().map(|certificate| describe(certificate)).collect()
}

impl TlsClient {
    /// What is known of the status of a certificate that was accepted, in words.
    fn status_of(&self, own: &CertificateDer<'_>, mode: OcspMode) -> String {
        match (mode, self.statuses.answer_about(own)) {
            (OcspMode::Off, _) => "not looked at (--ocsp off)".into(),
            (_, Some((answer, is_stapled))) => {
                let source = if is_stapled { "stapled" } else { "by its responder" };
                format!("good, {source}, of {}, until {}", answer.this_update, answer.valid_until())
            }
            (OcspMode::Staple, None) => "nothing was stapled, nobody is asked (--ocsp staple)".into(),
            (OcspMode::Soft | OcspMode::Hard, None) => "not known, and accepted (--ocsp soft)".into(),
        }
    }
}
