//! The client's end of TLS: from files and options to rustls' configuration. Verification is on unless it was switched off
//! by name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue, WebPkiServerVerifier,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, NamedGroup, RootCertStore, SignatureScheme};

use crate::ca::{CaOptions, Trusted};
use crate::config::TlsVersions;
use crate::crl::CrlOptions;
use crate::expected_name::ExpectedName;
use crate::handshake::{Handshake, HandshakeError};
use crate::live::Live;
use crate::peers::{Peers, SHOWN_BYTES_MAX, Shown, chain_of, revoke_by_crl};
use crate::server_judge::{Pin, ServerJudge};
use crate::status::{self, OcspMode, OcspOptions, Outlook, Statuses, Unaccepted};
use crate::tls_config::{PemSource, TlsConfigError, pair, protocol_versions};
use crate::tls_policy::TlsPolicy;

/// What the client's end is told about TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsClientOptions {
    /// Whom certificates must lead to.
    pub cas: CaOptions,
    /// The client certificate chain and its key.
    pub identity: Option<(PemSource, PemSource)>,
    /// Which versions.
    pub versions: TlsVersions,
    /// Which suites, groups and signatures.
    pub policy: TlsPolicy,
    /// Accept any certificate.
    pub insecure_no_verify: bool,
    /// The names of which the certificate must have one; none: the one that the server is asked for by.
    pub names: Vec<ExpectedName>,
    /// A certificate may be for any name.
    pub any_name: bool,
    /// The certificate must be one of those in `cas` itself.
    pub trusted_only: bool,
    /// The server's key must be one of these; none: any.
    pub pins: Vec<Pin>,
    /// A pinned key is enough: chain, name and dates are not looked at.
    pub pin_only: bool,
    /// The server is not told by which name it is asked for (SNI).
    pub without_sni: bool,
    /// Whether revoked certificates are noticed by asking for their status.
    pub ocsp: OcspOptions,
    /// Whether they are noticed by lists.
    pub crls: CrlOptions,
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
    /// The servers of live sessions, where their certificates can be revoked.
    pub(crate) peers: Option<Arc<Peers>>,
    /// Whether CRLs are asked about them.
    pub(crate) has_crls: bool,
    /// Our own certificate, if there is one.
    pub(crate) own: Option<CertificateDer<'static>>,
    /// What notices that there should be one.
    pub(crate) asked: Arc<NoIdentity>,
}

/// There is no client certificate, and somebody may have asked for one.
#[derive(Debug, Default)]
pub(crate) struct NoIdentity(AtomicBool);

impl ResolvesClientCert for NoIdentity {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
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

    /// What a server has shown with which there is going to be a session, where that can be revoked.
    pub(crate) fn enter(&self, done: &Handshake, name: &ServerName<'static>) -> Option<Arc<Shown>> {
        let (shown, now) = (done.peer_certificates(), UnixTime::now());
        let is_much = shown.iter().map(|certificate| certificate.len()).sum::<usize>() > SHOWN_BYTES_MAX;
        // CRLs are asked about what is kept; OCSP goes by its chain in any case.
        self.peers.as_ref()?.enter(shown, now, || {
            let path = (self.has_crls || is_much).then(|| self.statuses.path_in(shown, now))?;
            chain_of(shown, path, |own, others| self.verifier.verify_server_cert(own, others, name, &[], now).is_ok())
        })
    }

    /// Tells the sessions with a server that asked for `name` if a CRL names what it has shown.
    pub(crate) fn judge(&self, shown: &Shown, name: &ServerName<'_>) {
        for (end_entity, intermediates) in shown.flights().filter(|_| self.has_crls) {
            revoke_by_crl(shown, self.verifier.verify_server_cert(end_entity, intermediates, name, &[], shown.since));
        }
    }

    /// The servers of live sessions.
    pub(crate) fn live(&self) -> Vec<Arc<Shown>> {
        self.peers.as_ref().map(|peers| peers.all()).unwrap_or_default()
    }

    /// Asks OCSP responders for the workers of a tunnel, on its main thread. Never returns.
    pub(crate) fn answer_workers(&self) -> impl Future<Output = ()> + 'static {
        status::serve(Arc::clone(&self.statuses))
    }

    /// Whether a server has asked for a client certificate, and there is none.
    pub(crate) fn was_asked_for_a_certificate(&self) -> bool {
        self.asked.0.load(Ordering::Relaxed)
    }

    /// Waits for what is not known yet.
    pub(crate) async fn settle(&self, outlook: Result<Outlook, Unaccepted>, limit: Duration) -> Result<(), Unaccepted> {
        self.statuses.settle(outlook?, limit).await
    }

    /// rustls verifies in full handshakes only: a resumed session could outlive its certificate. `is_other`: nor has what counts by
    /// now verified a full one.
    pub(crate) fn verify_again(
        &self,
        done: &Handshake,
        name: &ServerName<'static>,
        is_other: bool,
    ) -> Result<(), HandshakeError> {
        if !done.is_resumed() && !is_other {
            return Ok(());
        }
        let Some((end_entity, intermediates)) = done.peer_certificates().split_first() else {
            return Err(HandshakeError::Internal("a resumed session without a certificate"));
        };
        let verdict = self.verifier.verify_server_cert(end_entity, intermediates, name, &[], UnixTime::now());
        verdict.map(drop).map_err(|error| done.not_valid_any_more(error))
    }
}

impl Live<TlsClient> {
    /// The same, which can be made again out of its files as they are then.
    ///
    /// # Errors
    /// As [`client_config`].
    pub fn client(options: TlsClientOptions) -> Result<Self, TlsConfigError> {
        let first = client_config(&options)?;
        Ok(Self::renewable(first, move |before| {
            let next = client_config(&options)?;
            before.statuses.trust_as(&next.statuses);
            Ok(TlsClient { statuses: Arc::clone(&before.statuses), peers: before.peers.clone(), ..next })
        }))
    }
}

/// Builds the configuration that all connections of a tunnel to its server share.
///
/// # Errors
/// The first file that is missing, unreadable, or does not contain what it should.
pub fn client_config(options: &TlsClientOptions) -> Result<TlsClient, TlsConfigError> {
    if options.pin_only && options.pins.is_empty() {
        return Err(TlsConfigError::NoPins);
    }
    let provider = options.policy.provider();
    let versions = protocol_versions(options.versions);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
    let algorithms = provider.signature_verification_algorithms.all;
    let mut trusted = Trusted::default();
    let (chain, statuses) = if options.insecure_no_verify || options.pin_only {
        // Without a chain there is no issuer, and nobody to say that a certificate was revoked.
        let nothing = OcspOptions { mode: OcspMode::Off, ..options.ocsp.clone() };
        (None, Statuses::new(nothing, Vec::new(), algorithms))
    } else {
        let (roots, named) = options.cas.read()?;
        let roots = Arc::new(roots);
        trusted = named.sufficing(options.crls.is_empty());
        let statuses = Statuses::new(options.ocsp.clone(), roots.roots.clone(), algorithms);
        (Some(chain_verifier(roots, &options.crls, &provider)?), statuses)
    };
    let has_crls = chain.is_some() && !options.crls.is_empty();
    let (names, pins) = (options.names.clone(), options.pins.clone());
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(ServerJudge {
        chain,
        trusted,
        trusted_only: options.trusted_only,
        names,
        any_name: options.any_name,
        pins,
        provider: Arc::clone(&provider),
    });
    // "Dangerous" only for a verifier that verifies less than rustls' own, which this one is unless asked for by name.
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&verifier));
    let (mut own, asked) = (None, Arc::new(NoIdentity::default()));
    let mut config = match &options.identity {
        None => builder.with_client_cert_resolver(Arc::clone(&asked) as Arc<dyn ResolvesClientCert>),
        Some((certificate, key)) => {
            let pair = pair(certificate, key, &options.policy, options.versions, &provider)?;
            own = pair.cert.first().cloned();
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
    };
    config.enable_secret_extraction = true;
    config.key_log = options.policy.key_log();
    config.enable_sni = !options.without_sni;
    let sessions: Arc<dyn ClientSessionStore> = Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX));
    config.resumption = Resumption::store(Arc::clone(&sessions));
    let mut fresh = config.clone();
    fresh.resumption = Resumption::store(Arc::new(WriteOnly(sessions)));
    Ok(TlsClient {
        config: Arc::new(config),
        fresh: Arc::new(fresh),
        verifier,
        peers: (has_crls || statuses.mode() != OcspMode::Off).then(|| Arc::clone(statuses.peers())),
        has_crls,
        statuses: Arc::new(statuses),
        own,
        asked,
    })
}

fn chain_verifier(
    roots: Arc<RootCertStore>,
    crls: &CrlOptions,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TlsConfigError> {
    let lists = crls.read(&roots, provider)?;
    let mut builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).with_crls(lists);
    if crls.own_only {
        builder = builder.only_check_end_entity_revocation();
    }
    if !crls.accept_expired {
        builder = builder.enforce_revocation_expiration();
    }
    builder.build().map_err(|error| TlsConfigError::Rustls(rustls::Error::General(error.to_string())))
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
