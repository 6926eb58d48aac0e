//! A throw-away certificate authority with good and bad certificates.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The name in every good server certificate.
pub const NAME: &str = "nfs.test";

/// A certificate and its key, as files.
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Files of one authority.
pub struct Pki {
    pub ca: PathBuf,
    pub other_ca: PathBuf,
    pub server: Identity,
    pub expired: Identity,
    pub wrong_name: Identity,
    pub self_signed: Identity,
    pub client: Identity,
    pub expired_client: Identity,
    pub foreign_client: Identity,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// The authority of this test run, made once.
    pub fn get() -> &'static Self {
        static PKI: OnceLock<Pki> = OnceLock::new();
        PKI.get_or_init(|| {
            let dir = super::process::scratch("pki");
            let (ca, issuer) = authority(&dir, "ca");
            let (other_ca, other_issuer) = authority(&dir, "other-ca");
            let names = [NAME.to_string(), "127.0.0.1".to_string()];
            let good = CertificateParams::new(names).unwrap();
            let mut expired = good.clone();
            expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
            expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
            let wrong_name = CertificateParams::new(["elsewhere.test".to_string()]).unwrap();
            let mut self_signed = good.clone();
            self_signed.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let client = CertificateParams::new(["client.test".to_string()]).unwrap();
            let mut expired_client = client.clone();
            expired_client.not_before = expired.not_before;
            expired_client.not_after = expired.not_after;
            Pki {
                ca,
                other_ca,
                server: issue(&dir, "server", &good, Some(&issuer)),
                expired: issue(&dir, "expired", &expired, Some(&issuer)),
                wrong_name: issue(&dir, "wrong-name", &wrong_name, Some(&issuer)),
                self_signed: issue(&dir, "self-signed", &self_signed, None),
                client: issue(&dir, "client", &client, Some(&issuer)),
                expired_client: issue(&dir, "expired-client", &expired_client, Some(&issuer)),
                foreign_client: issue(&dir, "foreign-client", &client, Some(&other_issuer)),
                issuer,
            }
        })
    }

    /// A server certificate that is valid for so many seconds from now.
    pub fn expiring_in(&self, seconds: u64) -> Identity {
        let dir = super::process::scratch("expiring");
        let mut params = CertificateParams::new([NAME.to_string()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        #[allow(clippy::disallowed_methods, reason = "certificates have dates")]
        let end = std::time::SystemTime::now() + std::time::Duration::from_secs(seconds);
        params.not_after = end.into();
        issue(&dir, "expiring", &params, Some(&self.issuer))
    }

    /// A rustls client that trusts the authority.
    pub fn client_config(&self, version: &'static rustls::SupportedProtocolVersion) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_secret_extraction = true;
        Arc::new(config)
    }

    /// A rustls server with the good certificate.
    pub fn server_config(&self, version: &'static rustls::SupportedProtocolVersion) -> Arc<rustls::ServerConfig> {
        self.server_config_with(version, None)
    }

    /// The same with one suite only.
    pub fn server_config_with(
        &self,
        version: &'static rustls::SupportedProtocolVersion,
        suite: Option<rustls::CipherSuite>,
    ) -> Arc<rustls::ServerConfig> {
        server_config_of(&self.server, version, suite, Vec::new())
    }
}

/// A rustls client that trusts one CA and shows a certificate.
pub fn client_config_of(
    ca: &Path,
    identity: &Identity,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let chain: Vec<_> = CertificateDer::pem_file_iter(&identity.cert).unwrap().map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&identity.key).unwrap())
        .unwrap();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// A rustls server with any certificate, and what is stapled to it.
pub fn server_config_of(
    identity: &Identity,
    version: &'static rustls::SupportedProtocolVersion,
    suite: Option<rustls::CipherSuite>,
    staple: Vec<u8>,
) -> Arc<rustls::ServerConfig> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|candidate| suite.is_none_or(|suite| candidate.suite() == suite));
    let chain: Vec<_> = CertificateDer::pem_file_iter(&identity.cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert_with_ocsp(chain, key, staple)
        .unwrap();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

fn authority(dir: &Path, name: &str) -> (PathBuf, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, format!("Sealane test {name}"));
    let key = KeyPair::generate().unwrap();
    let file = dir.join(format!("{name}.pem"));
    std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
    (file, Issuer::new(params, key))
}

fn issue(dir: &Path, name: &str, params: &CertificateParams, issuer: Option<&Issuer<'static, KeyPair>>) -> Identity {
    let key = KeyPair::generate().unwrap();
    let cert = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    let identity = Identity { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
    std::fs::write(&identity.cert, cert.unwrap().pem()).unwrap();
    std::fs::write(&identity.key, key.serialize_pem()).unwrap();
    identity
}
