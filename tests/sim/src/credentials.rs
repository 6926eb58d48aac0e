//! Certificates of the worlds that shake hands: Ed25519, whose signatures have one length.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519, SerialNumber};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sealane_proto::tls::Role;
use sealane_proto::tls::Version;
use sealane_relay::{
    ClientMode, Mode, PemSource, PerAddress, ServerMode, TlsClientOptions, TlsServerOptions, TlsVersions,
    client_config, server_config,
};

struct Pem {
    ca: String,
    leaf: String,
    key: String,
}

fn pem() -> &'static Pem {
    static PEM: OnceLock<Pem> = OnceLock::new();
    PEM.get_or_init(|| {
        let key = || KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("a CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serial_number = Some(SerialNumber::from(7_u64));
        let ca = CertifiedIssuer::self_signed(params, key()).expect("a CA");
        let leaf_key = key();
        let mut params = CertificateParams::new(vec!["nfs.test".into()]).expect("a certificate");
        params.serial_number = Some(SerialNumber::from(8_u64));
        let leaf = params.signed_by(&leaf_key, &ca).expect("a certificate");
        Pem { ca: ca.pem(), leaf: leaf.pem(), key: leaf_key.serialize_pem() }
    })
}

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from("nfs.test").expect("a name")
}

fn text(name: &'static str, pem: &str) -> PemSource {
    PemSource::Text { name, pem: pem.into() }
}

/// The relay's mode. Nothing is remembered from one world to the next.
pub(crate) fn mode(role: Role) -> Mode {
    let Pem { ca, leaf, key } = pem();
    match role {
        Role::Client => {
            let options = TlsClientOptions {
                cas: text("ca", ca).into(),
                versions: TlsVersions::Both,
                ..TlsClientOptions::default()
            };
            let tls = client_config(&options).expect("a configuration");
            Mode::Client(ClientMode { tls: tls.into(), server_name: name(), verified: true })
        }
        Role::Server => {
            let options = TlsServerOptions::new(text("leaf", leaf), text("key", key));
            let tls = server_config(&options).expect("a configuration");
            let per_address = PerAddress::UNLIMITED;
            Mode::Server(ServerMode { tls: tls.into(), handshakes_max: 8, per_address, proxy_protocol: None })
        }
    }
}

fn versions(version: Version) -> [&'static rustls::SupportedProtocolVersion; 1] {
    [match version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    }]
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A peer that is a client.
pub(crate) fn peer_client(version: Version) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem().ca.as_bytes()).expect("a CA")).expect("a CA");
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&versions(version));
    Arc::new(builder.expect("a version").with_root_certificates(roots).with_no_client_auth())
}

/// A peer that is a server.
pub(crate) fn peer_server(version: Version) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(pem().leaf.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(pem().key.as_bytes()).expect("a key");
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&versions(version));
    Arc::new(builder.expect("a version").with_no_client_auth().with_single_cert(chain, key).expect("a configuration"))
}
