//! A connection to the TLS server step by step, with all that is seen on the way: for somebody who wants to know why there
//! is none.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sealane_io::net;
use sealane_io::rt;
use sealane_trust::{Description, printable};

use crate::config::{ClientMode, TunnelConfig};
use crate::expected_name::ExpectedName;
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
    /// What the server was accepted by; `None` before a handshake is done.
    pub trust: Option<String>,
    /// What CRLs say of it; `None` before a handshake is done.
    pub lists: Option<String>,
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
        trust: None,
        lists: None,
        status: None,
    };
    let mut reached = Vec::new();
    for address in all {
        let began = rt::now();
        let connected = rt::timeout(config.timeouts.connect, net::connect(address, &config.outgoing)).await;
        let outcome = match connected {
            None => Err(format!("no answer within {} s", config.timeouts.connect.as_secs_f32())),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(_)) => {
                reached.push(address);
                Ok(())
            }
        };
        seen.connections.push((address, outcome, since(began)));
    }
    let tls = mode.tls.now();
    rt::spawn(tls.answer_workers());
    let mut left = reached.into_iter().peekable();
    while let Some(address) = left.next() {
        let began = rt::now();
        let shaken = shake(address, config, &tls, &mode.server_name).await;
        // As a tunnel does it: one that says nothing of certificates or versions is no reason to give up.
        let goes_on = left.peek().is_some() && shaken.as_ref().is_err_and(HandshakeError::is_transient);
        let took = since(began);
        let agreed = match shaken {
            Err(error) => Err(error.to_string()),
            Ok(handshake) => {
                seen.trust = handshake.peer_certificates().first().map(|own| accepted_by(own, mode, options));
                seen.lists = Some(asked_of_lists(options));
                settle(handshake, config, &tls, &mut seen).await
            }
        };
        if agreed.is_err() && seen.chain.is_empty() && !goes_on {
            seen.chain = chain_of_whoever_it_is(config, address, mode, options).await;
        }
        seen.handshake = Some((address, agreed, took));
        if !goes_on {
            break;
        }
    }
    seen.wants_certificate = tls.was_asked_for_a_certificate();
    seen
}

/// What was asked of CRLs about a server that was accepted.
fn asked_of_lists(options: &TlsClientOptions) -> String {
    let crls = &options.crls;
    if crls.is_empty() {
        return "none is given (--crl-file, --crl-dir)".into();
    }
    let which = if crls.own_only { "its own certificate (--crl-check own)" } else { "a certificate of its chain" };
    let expired = if crls.accept_expired { "; they may have expired (--crl-expired accept)" } else { "" };
    format!("none names {which}{expired}")
}

/// Why a server that has shown `own` was accepted, but for its status.
fn accepted_by(own: &CertificateDer<'_>, mode: &ClientMode, options: &TlsClientOptions) -> String {
    let pinned = if options.pins.is_empty() { "" } else { ", and its key is one of --pin" };
    if options.insecure_no_verify {
        return "NOT verified (--insecure-no-verify): anybody on the network can be this server".into();
    }
    if options.pin_only {
        return "its key is one of --pin; chain, name and dates are not looked at (--pin-only)".into();
    }
    let asked_for = [mode.server_name.clone().into()];
    let names = if options.names.is_empty() { asked_for.as_slice() } else { options.names.as_slice() };
    let is_for = |name: &&ExpectedName| name.check(own).is_ok();
    let is_trusted = options.cas.read().is_ok_and(|(_, trusted)| trusted.contains(own)) && options.crls.is_empty();
    let by = if is_trusted { "it is itself in --ca-file or --ca-dir" } else { "it leads to a trusted CA" };
    match names.iter().find(is_for) {
        _ if options.any_name => format!("{by}, for any name (--any-server-name){pinned}"),
        Some(name) => format!("{by}, and is for {name}{pinned}"),
        None => format!("{by}{pinned}"),
    }
}

/// What a handshake that is done has shown.
async fn settle(
    handshake: Handshake,
    config: &TunnelConfig,
    tls: &TlsClient,
    seen: &mut Inspection,
) -> Result<Agreed, String> {
    seen.chain = described(handshake.peer_certificates());
    let group = handshake.group();
    let (outlook, own) = (tls.look(&handshake), handshake.peer_certificates().first().cloned());
    let established = handshake.establish().map_err(|error| error.to_string())?;
    let settled = tls.settle(outlook, config.timeouts.retry).await;
    let status = || own.map_or_else(String::new, |own| tls.status_of(&own));
    seen.status = Some(settled.map(|()| status()).map_err(|error| error.to_string()));
    Ok(Agreed { facts: established.facts, group })
}

fn since(began: Instant) -> Duration {
    rt::now() - began
}

async fn shake(
    address: SocketAddr,
    config: &TunnelConfig,
    tls: &TlsClient,
    name: &ServerName<'static>,
) -> Result<Handshake, HandshakeError> {
    let late = || HandshakeError::Io(io::ErrorKind::TimedOut.into());
    let all = async {
        let mut connection = net::connect(address, &config.outgoing).await?;
        let mut handshake = tls.handshake(name, true)?;
        shake_hands(&mut connection, &mut handshake, || {}).await?;
        Ok(handshake)
    };
    rt::timeout(config.timeouts.handshake, all).await.unwrap_or_else(|| Err(late()))
}

/// What a server shows that is not accepted: nothing but its certificates is wanted of it.
async fn chain_of_whoever_it_is(
    config: &TunnelConfig,
    address: SocketAddr,
    mode: &ClientMode,
    options: &TlsClientOptions,
) -> Vec<Result<Description, String>> {
    let any = TlsClientOptions {
        versions: options.versions,
        policy: options.policy.clone(),
        without_sni: options.without_sni,
        insecure_no_verify: true,
        ..TlsClientOptions::default()
    };
    let Ok(tls) = client_config(&any) else { return Vec::new() };
    let shaken = shake(address, config, &tls, &mode.server_name).await;
    shaken.map(|handshake| described(handshake.peer_certificates())).unwrap_or_default()
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

/// A time in the unit that fits it.
fn in_words(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

impl TlsClient {
    /// What is known of the status of a certificate that was accepted, in words.
    fn status_of(&self, own: &CertificateDer<'_>) -> String {
        match (self.statuses.mode(), self.statuses.answer_about(own)) {
            (OcspMode::Off, _) => "not looked at".into(),
            (_, Some((answer, is_stapled))) => {
                let source = if is_stapled { "stapled" } else { "by its responder" };
                let age = UnixTime::now().as_secs().saturating_sub(answer.this_update.0);
                let (of, until) = (answer.this_update, answer.valid_until());
                format!("good, {source}, of {of} ({} old), until {until}", in_words(age))
            }
            (OcspMode::Staple, None) => "nothing was stapled, nobody is asked (--ocsp staple)".into(),
            (OcspMode::Soft | OcspMode::Hard, None) => "not known, and accepted (--ocsp soft)".into(),
        }
    }
}
