//! The client's part of a handshake, with all that is asked about the server's certificate: what OCSP costs where everything is
//! known already.

use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ServerConfig, ServerConnection};
use sealane_proto::tls::Version;
use sealane_relay::simulation::Caller;
use sealane_relay::{OcspMode, OcspOptions, PemSource, TlsClientOptions, TlsVersions, Wanted};

use crate::{Scenario, VERSIONS, Work, unmeasured};

/// Random numbers decide how long signatures are: enough for a mean.
const HANDSHAKES: u64 = 24;
const NAME: &str = "nfs.test";
/// For so many seconds the answer counts.
const DAY: u64 = 86_400;

/// How the status of the server's certificate is asked for; the last must not cost 5 % more than the first.
const MODES: [(OcspMode, &str); 2] = [(OcspMode::Off, "ocsp-off"), (OcspMode::Hard, "ocsp-hard")];

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (version, version_name) in VERSIONS {
        // The tickets of TLS 1.3 come behind the handshake.
        let kinds: &[bool] = if version == Version::Tls12 { &[true, false] } else { &[true] };
        for &is_full in kinds {
            let kind = if is_full { "full" } else { "resumed" };
            for (mode, mode_name) in MODES {
                let name = format!("handshake/{version_name}/{kind}/{mode_name}");
                all.push(Scenario::new(name, 0, HANDSHAKES, move || Handshakes::new(version, is_full, mode)));
            }
        }
    }
    all
}

/// A server, and a client that knows its certificate to be good.
struct Handshakes {
    caller: Caller,
    server: Arc<ServerConfig>,
    is_full: bool,
}

impl Handshakes {
    fn new(version: Version, is_full: bool, mode: OcspMode) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("a CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (ca_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let ca = params.self_signed(&ca_key).expect("a CA").pem();
        let leaf = CertificateParams::new([NAME.to_string()]).expect("a name");
        let leaf = leaf.signed_by(&key, &Issuer::new(params, ca_key)).expect("a certificate");
        let options = TlsClientOptions {
            cas: PemSource::Text { name: "ca", pem: ca }.into(),
            versions: if version == Version::Tls12 { TlsVersions::Tls12 } else { TlsVersions::Tls13 },
            ocsp: OcspOptions { mode, url: "http://ocsp.test/".parse().ok(), ..OcspOptions::default() },
            ..TlsClientOptions::default()
        };
        let caller = Caller::new(&options, ServerName::try_from(NAME).expect("a name")).expect("a configuration");
        caller.learn_good(leaf.der(), DAY);
        let server = server(leaf.der().clone(), &key);
        let mut handshakes = Self { caller, server, is_full };
        // The first one leaves a session behind.
        handshakes.shake_hands(true);
        handshakes
    }

    fn shake_hands(&mut self, is_full: bool) {
        let mut client = self.caller.begin(is_full).expect("a handshake");
        let mut server = unmeasured(|| ServerConnection::new(Arc::clone(&self.server)).expect("a server"));
        let mut from_server = Vec::new();
        loop {
            match client.advance().expect("a handshake") {
                Wanted::Done => break,
                Wanted::Write => {
                    unmeasured(|| exchange(&mut server, client.output(), &mut from_server));
                    client.sent();
                }
                Wanted::Read => {
                    let space = client.space().expect("room");
                    let count = space.len().min(from_server.len());
                    space[..count].copy_from_slice(&from_server[..count]);
                    from_server.drain(..count);
                    client.filled(count).expect("the server has something to say");
                }
            }
        }
        assert_eq!(client.is_resumed(), !is_full);
        let established = self.caller.accept(client).expect("it is accepted");
        assert!(established.is_some(), "nobody is asked");
        unmeasured(|| drop((established, server)));
    }
}

impl Work for Handshakes {
    fn run(&mut self) {
        for _ in 0..HANDSHAKES {
            self.shake_hands(self.is_full);
        }
    }
}

fn server(leaf: CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.with_no_client_auth().with_single_cert(vec![leaf], key).expect("a certificate");
    config.ticketer = rustls::crypto::ring::Ticketer::new().expect("a ticketer");
    Arc::new(config)
}

/// The server hears this, and says what it has to say.
fn exchange(server: &mut ServerConnection, mut heard: &[u8], says: &mut Vec<u8>) {
    while !heard.is_empty() {
        server.read_tls(&mut heard).expect("memory");
        server.process_new_packets().expect("a client's messages");
    }
    while server.wants_write() {
        let written: io::Result<usize> = server.write_tls(says);
        written.expect("memory");
    }
}
