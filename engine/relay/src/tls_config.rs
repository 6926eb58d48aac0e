//! From files and options to rustls' configuration. Verification is on unless it was switched off by name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    WebPkiServerVerifier,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};

use crate::config::TlsVersions;

/// What the command line says about TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Only these roots; none: the host's.
    pub ca_files: Vec<PathBuf>,
    /// The client certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Which versions.
    pub versions: TlsVersions,
    /// Accept any certificate.
    pub insecure_no_verify: bool,
}

/// A file or a combination that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file.
    #[error("{}: {what}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// The host has no roots.
    #[error("no root certificate found on this host ({0}); name one with --ca-file")]
    NoRoots(String),
    /// rustls refuses the combination.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

fn file_error(file: &Path, what: impl fmt::Display) -> TlsConfigError {
    TlsConfigError::File { file: file.into(), what: what.to_string() }
}

/// What all connections of a tunnel share: keys, trust, and the cache of sessions to resume.
#[derive(Clone, Debug)]
pub struct TlsClient {
    /// Resumes sessions.
    pub(crate) config: Arc<ClientConfig>,
    /// Does full handshakes only; what they leave in the cache is for later ones.
    pub(crate) fresh: Arc<ClientConfig>,
    /// Judges certificates; again when a session is resumed, because rustls does not.
    pub(crate) verifier: Arc<dyn ServerCertVerifier>,
}

/// Builds the configuration that all connections of a tunnel share.
///
/// # Errors
/// The first file that is missing, unreadable, or does not contain what it should.
pub fn client_config(options: &TlsOptions) -> Result<TlsClient, TlsConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&SupportedProtocolVersion] = match options.versions {
        TlsVersions::Tls12 => &[&rustls::version::TLS12],
        TlsVersions::Tls13 => &[&rustls::version::TLS13],
        TlsVersions::Both => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
    let verifier: Arc<dyn ServerCertVerifier> = if options.insecure_no_verify {
        Arc::new(AnyCertificate(provider))
    } else {
        let roots = Arc::new(roots(&options.ca_files)?);
        let built = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        built.map_err(|error| TlsConfigError::Rustls(rustls::Error::General(error.to_string())))?
    };
    // "Dangerous" only for a verifier that verifies less than rustls' own, which this one is unless asked for by name.
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&verifier));
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((cert_file, key_file)) => {
            let chain = certificates(cert_file)?;
            let key = private_key(key_file)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    file_error(key_file, format!("not the key of the certificate in {}", cert_file.display()))
                }
                other => file_error(key_file, format!("cannot be used with {}: {other}", cert_file.display())),
            })?
        }
    };
    config.enable_secret_extraction = true;
    let sessions: Arc<dyn ClientSessionStore> = Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX));
    config.resumption = Resumption::store(Arc::clone(&sessions));
    let mut fresh = config.clone();
    fresh.resumption = Resumption::store(Arc::new(WriteOnly(sessions)));
    Ok(TlsClient { config: Arc::new(config), fresh: Arc::new(fresh), verifier })
}

/// Sessions that can be resumed later; each server gives several tickets.
const SESSIONS_MAX: usize = 256;

/// A cache that remembers, but offers nothing for resumption.
#[derive(Debug)]
struct WriteOnly(Arc<dyn ClientSessionStore>);

impl ClientSessionStore for WriteOnly {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.0.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, _server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

fn roots(files: &[PathBuf]) -> Result<RootCertStore, TlsConfigError> {
    let mut store = RootCertStore::empty();
    if files.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(TlsConfigError::NoRoots(reasons.join("; ")));
        }
    }
    for file in files {
        let before = store.len();
        let mut refused = None;
        for (index, certificate) in certificates(file)?.into_iter().enumerate() {
            if let Err(error) = store.add(certificate) {
                tracing::warn!("{}: certificate {} cannot be used as a root: {error}", file.display(), index + 1);
                refused = Some(error);
            }
        }
        if let (Some(error), true) = (refused, store.len() == before) {
            return Err(file_error(file, format!("no certificate in it can be used as a root: {error}")));
        }
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let pem = read(file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| file_error(file, format!("not valid PEM: {error}")))?;
    if all.is_empty() {
        return Err(file_error(file, "contains no PEM certificate (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(all)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    let pem = read(file)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let encrypted = [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], &b"Proc-Type: 4,ENCRYPTED"[..]];
        if encrypted.iter().any(|mark| pem.windows(mark.len()).any(|window| window == *mark)) {
            file_error(file, "the private key is encrypted; decrypt it first (openssl pkey -in FILE -out FILE)")
        } else {
            file_error(file, format!("contains no PEM private key (PKCS#8, PKCS#1 or SEC1): {error}"))
        }
    })
}

fn read(file: &Path) -> Result<Vec<u8>, TlsConfigError> {
    std::fs::read(file).map_err(|error| file_error(file, error))
}

/// Accepts any certificate, but not a handshake that its key did not sign.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
