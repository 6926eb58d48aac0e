//! The client's end of TLS: from files and options to rustls' configuration. Verification is on unless it was switched off
//! by name.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    WebPkiServerVerifier,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, SignatureScheme};

use crate::config::TlsVersions;
use crate::handshake::{Handshake, HandshakeError};
use crate::status::{self, OcspMode, OcspOptions, Outlook, Statuses, Unaccepted};
use crate::tls_config::{
    PemSource, TlsConfigError, certificates, pair_error, private_key, protocol_versions, provider, roots,
};

/// What the client's end is told about TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsClientOptions {
    /// Only these roots; none: the host's.
    pub ca_files: Vec<PemSource>,
    /// The client certificate chain and its key.
    pub identity: Option<(PemSource, PemSource)>,
    /// Which versions.
    pub versions: TlsVersions,
    /// Accept any certificate.
    pub insecure_no_verify: bool,
    /// Whether revoked certificates are noticed.
    pub ocsp: OcspOptions,
}

/// What all connections to servers share: keys, trust, and the cache of sessions to resume.
#[derive(Clone, Debug)]
pub struct TlsClient {
    /// Resumes sessions.
    pub(crate) config: Arc<ClientConfig>,
    /// Does full handshakes only; what they leave in the cache is for later ones.
    pub(crate) fresh: Arc<ClientConfig>,
    /// Judges certificates; again when a session is resumed, because rustls does not.
    pub(crate) verifier: Arc<dyn ServerCertVerifier>,
    /// What is known of certificates that may have been revoked.
    pub(crate) statuses: Arc<Statuses>,
}

impl TlsClient {
    /// A handshake with the server `name`; in full if `fresh`.
    pub(crate) fn handshake(&self, name: &ServerName<'static>, fresh: bool) -> Result<Handshake, HandshakeError> {
        Handshake::client(if fresh { &self.fresh } else { &self.config }, name)
    }

    /// What is known of the status of the certificates behind a handshake that is done.
    pub(crate) fn look(&self, done: &Handshake) -> Result<Outlook, Unaccepted> {
        self.statuses.look(done.peer_certificates(), done.staple(), done.is_resumed())
    }

    /// Asks OCSP responders for the workers of a tunnel, on its main thread. Never returns.
    pub(crate) fn answer_workers(&self) -> impl Future<Output = ()> + 'static {
        status::serve(Arc::clone(&self.statuses))
    }

    /// Waits for what is not known yet.
    pub(crate) async fn settle(&self, outlook: Result<Outlook, Unaccepted>) -> Result<(), Unaccepted> {
        self.statuses.settle(outlook?).await
    }

    /// rustls verifies in full handshakes only: a resumed session could outlive its certificate.
    pub(crate) fn verify_again(&self, done: &Handshake, name: &ServerName<'static>) -> Result<(), HandshakeError> {
        if !done.is_resumed() {
            return Ok(());
        }
        let Some((end_entity, intermediates)) = done.peer_certificates().split_first() else {
            return Err(HandshakeError::Internal("a resumed session without a certificate"));
        };
        let verdict = self.verifier.verify_server_cert(end_entity, intermediates, name, &[], UnixTime::now());
        verdict.map(drop).map_err(|error| HandshakeError::Stale(done.role(), error))
    }
}

/// Builds the configuration that all connections of a tunnel to its server share.
///
/// # Errors
/// The first file that is missing, unreadable, or does not contain what it should.
pub fn client_config(options: &TlsClientOptions) -> Result<TlsClient, TlsConfigError> {
    let provider = provider();
    let versions = protocol_versions(options.versions);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
    let algorithms = provider.signature_verification_algorithms.all;
    let (verifier, statuses): (Arc<dyn ServerCertVerifier>, _) = if options.insecure_no_verify {
        let nothing = OcspOptions { mode: OcspMode::Off, ..options.ocsp.clone() };
        (Arc::new(AnyCertificate(provider)), Statuses::new(nothing, Vec::new(), algorithms))
    } else {
        let roots = Arc::new(roots(&options.ca_files)?);
        let statuses = Statuses::new(options.ocsp.clone(), roots.roots.clone(), algorithms);
        let built = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        let chain = built.map_err(|error| TlsConfigError::Rustls(rustls::Error::General(error.to_string())))?;
        (Arc::new(KeepsStaple(chain)), statuses)
    };
    // "Dangerous" only for a verifier that verifies less than rustls' own, which this one is unless asked for by name.
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&verifier));
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| pair_error(certificate, key, &error))?,
    };
    config.enable_secret_extraction = true;
    let sessions: Arc<dyn ClientSessionStore> = Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX));
    config.resumption = Resumption::store(Arc::clone(&sessions));
    let mut fresh = config.clone();
    fresh.resumption = Resumption::store(Arc::new(WriteOnly(sessions)));
    Ok(TlsClient { config: Arc::new(config), fresh: Arc::new(fresh), verifier, statuses: Arc::new(statuses) })
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

thread_local! {
    /// What came stapled to the certificate that this thread is verifying: rustls shows it to its verifier, to nobody else.
    static STAPLE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What was stapled to the certificate that this thread has just verified; once.
pub(crate) fn take_staple() -> Vec<u8> {
    STAPLE.take()
}

/// Verifies the chain and the name, and keeps what is stapled for after the handshake: only then is it known that the peer
/// has the key, and only then may anybody wait.
#[derive(Debug)]
struct KeepsStaple(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for KeepsStaple {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        STAPLE.with_borrow_mut(|staple| *staple = ocsp_response.to_vec());
        self.0.verify_server_cert(end_entity, intermediates, server_name, &[], now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
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
