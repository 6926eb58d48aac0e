//! The server's end of TLS: from files and options to rustls' configuration.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig};
use sealane_trust::{Algorithms, Certified, Purpose};

use crate::allow::{Allow, Client};
use crate::ca::CaOptions;
use crate::client_judge::ClientJudge;
use crate::config::TlsVersions;
use crate::crl::CrlOptions;
use crate::handshake::{Handshake, HandshakeError};
use crate::live::Live;
use crate::peers::{Peers, Shown, chain_of, revoke_by_crl};
use crate::status::{OcspOptions, Stapled};
use crate::tls_config::{PemSource, TlsConfigError, pair, protocol_versions};
use crate::tls_policy::TlsPolicy;

/// Sessions that clients without tickets can resume by their identifier (TLS 1.2), over all workers. Each is the
/// secrets and the client's certificates, a few KiB.
const SESSIONS_MAX: usize = 1024;

/// What the server's end is told about TLS.
#[derive(Clone, Debug)]
pub struct TlsServerOptions {
    /// Our certificate chain, our own first.
    pub certificate: PemSource,
    /// Its key.
    pub key: PemSource,
    /// The CAs whose certificates clients must show; none: clients need not show any.
    pub client_cas: CaOptions,
    /// Which versions.
    pub versions: TlsVersions,
    /// Which suites, groups and signatures.
    pub policy: TlsPolicy,
    /// How the status of our certificate is asked for, to be stapled; `None`: it is not.
    pub staple: Option<OcspOptions>,
    /// Clients' certificates that were revoked.
    pub crls: CrlOptions,
    /// A client's certificate must be one of those in `client_cas` itself.
    pub trusted_only: bool,
    /// A client without a certificate may connect, too.
    pub clients_optional: bool,
    /// Which of the certified clients may; none: all of them.
    pub allow: Vec<Allow>,
}

impl TlsServerOptions {
    /// This certificate with its key, any client, and all else as it is by default.
    pub fn new(certificate: PemSource, key: PemSource) -> Self {
        Self {
            certificate,
            key,
            client_cas: CaOptions::default(),
            versions: TlsVersions::default(),
            policy: TlsPolicy::default(),
            staple: None,
            crls: CrlOptions::default(),
            trusted_only: false,
            clients_optional: false,
            allow: Vec::new(),
        }
    }
}

/// What all connections of clients share: our certificate, trust, ticket keys, sessions to be resumed.
#[derive(Clone, Debug)]
pub struct TlsServer {
    pub(crate) config: Arc<ServerConfig>,
    /// Judges clients' certificates; again when a session is resumed, because rustls does not.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// What is stapled to our certificate.
    pub(crate) stapled: Option<Arc<Stapled>>,
    /// Our own certificate.
    pub(crate) own: Option<CertificateDer<'static>>,
    /// By whom clients must be certified.
    client_roots: Arc<RootCertStore>,
    algorithms: &'static Algorithms,
    /// The clients of live sessions, where their certificates can be revoked.
    peers: Option<Arc<Peers>>,
    clients_optional: bool,
    allow: Vec<Allow>,
}

impl TlsServer {
    /// Whether clients must show a certificate.
    pub fn verifies_clients(&self) -> bool {
        self.verifier.is_some()
    }

    /// The OCSP responders that are asked about our certificate.
    pub fn responders(&self) -> Vec<String> {
        self.stapled.as_ref().map(|stapled| stapled.urls()).unwrap_or_default()
    }

    pub(crate) fn handshake(&self) -> Result<Handshake, HandshakeError> {
        Handshake::server(&self.config)
    }

    /// What a client has shown that is going to have a session, where that can be revoked.
    pub(crate) fn enter(&self, done: &Handshake) -> Option<Arc<Shown>> {
        let (shown, now) = (done.peer_certificates(), UnixTime::now());
        self.peers.as_ref()?.enter(shown, now, || {
            let (roots, algorithms) = (self.client_roots.roots.as_slice(), self.algorithms);
            let path = Certified::path(shown, Purpose::Client, roots, now, algorithms);
            let verifier = self.verifier.as_ref()?;
            chain_of(shown, path, |own, others| verifier.verify_client_cert(own, others, now).is_ok())
        })
    }

    /// Tells the sessions of a client if a CRL names what it has shown.
    pub(crate) fn judge(&self, shown: &Shown) {
        let Some(verifier) = &self.verifier else { return };
        for (end_entity, intermediates) in shown.flights() {
            revoke_by_crl(shown, verifier.verify_client_cert(end_entity, intermediates, shown.since));
        }
    }

    /// The clients of live sessions.
    pub(crate) fn live(&self) -> Vec<Arc<Shown>> {
        self.peers.as_ref().map(|peers| peers.all()).unwrap_or_default()
    }

    /// Who the client is, if it has shown a certificate; resumed sessions too: `allow` may be another one by now.
    ///
    /// # Errors
    /// It may not come in.
    pub(crate) fn admit(&self, done: &Handshake) -> Result<Option<Client>, HandshakeError> {
        let client = done.peer_certificates().first().map(Client::of).transpose();
        let client = client.map_err(HandshakeError::NotAllowed)?;
        match &client {
            Some(client) if !self.allow.is_empty() && !client.is_among(&self.allow) => {
                Err(HandshakeError::NotAllowed(client.to_string()))
            }
            None if !self.allow.is_empty() => Err(HandshakeError::NotAllowed("without a certificate".into())),
            _ => Ok(client),
        }
    }

    /// rustls verifies in full handshakes only: a resumed session could outlive the client's certificate. `is_other`: nor has what
    /// counts by now verified a full one.
    pub(crate) fn verify_again(&self, done: &Handshake, is_other: bool) -> Result<(), HandshakeError> {
        let is_due = done.is_resumed() || is_other;
        let Some(verifier) = self.verifier.as_ref().filter(|_| is_due) else { return Ok(()) };
        let Some((end_entity, intermediates)) = done.peer_certificates().split_first() else {
            let missing = HandshakeError::Internal("a resumed session without the client's certificate");
            return if self.clients_optional { Ok(()) } else { Err(missing) };
        };
        let verdict = verifier.verify_client_cert(end_entity, intermediates, UnixTime::now());
        verdict.map(drop).map_err(|error| done.not_valid_any_more(error))
    }
}

impl Live<TlsServer> {
    /// The same, which can be made again out of its files as they are then.
    ///
    /// # Errors
    /// As [`server_config`].
    pub fn server(options: TlsServerOptions) -> Result<Self, TlsConfigError> {
        let first = server_config(&options)?;
        Ok(Self::renewable(first, move |before| {
            let next = server_config(&options)?;
            if let (Some(before), Some(next)) = (&before.stapled, &next.stapled) {
                next.take_over(before);
            }
            Ok(TlsServer { peers: before.peers.clone(), ..next })
        }))
    }
}

/// By whom clients must be certified, and who judges that.
type Judged = (Arc<RootCertStore>, Option<Arc<dyn ClientCertVerifier>>);

fn client_verifier(options: &TlsServerOptions, provider: &Arc<CryptoProvider>) -> Result<Judged, TlsConfigError> {
    let TlsServerOptions { client_cas, crls, trusted_only, clients_optional, .. } = options;
    if client_cas.is_empty() {
        return Ok((Arc::new(RootCertStore::empty()), None));
    }
    let (roots, named) = client_cas.read()?;
    let roots = Arc::new(roots);
    let lists = crls.read(&roots, provider)?;
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider)).with_crls(lists);
    if crls.own_only {
        builder = builder.only_check_end_entity_revocation();
    }
    if !crls.accept_expired {
        builder = builder.enforce_revocation_expiration();
    }
    if *clients_optional {
        builder = builder.allow_unauthenticated();
    }
    let chain = builder.build().map_err(|error| TlsConfigError::Rustls(rustls::Error::General(error.to_string())))?;
    let trusted = named.sufficing(crls.is_empty());
    Ok((roots, Some(Arc::new(ClientJudge { chain, trusted, trusted_only: *trusted_only }))))
}

/// Builds the configuration that all connections of a tunnel's clients share.
///
/// # Errors
/// The first file that is missing, unreadable, or does not contain what it should.
pub fn server_config(options: &TlsServerOptions) -> Result<TlsServer, TlsConfigError> {
    let TlsServerOptions { certificate, key, versions, policy, staple, crls, clients_optional, allow, .. } = options;
    let provider = policy.provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(protocol_versions(*versions))?;
    let (client_roots, verifier) = client_verifier(options, &provider)?;
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let pair = pair(certificate, key, policy, *versions, &provider)?;
    let own = pair.cert.first().cloned();
    let (shown, stapled): (Arc<dyn ResolvesServerCert>, _) = match staple {
        None => (Arc::new(SingleCertAndKey::from(pair)), None),
        Some(staple) => {
            let algorithms = provider.signature_verification_algorithms.all;
            let stapled = Stapled::new(pair, staple.clone(), algorithms)
                .map_err(|why| certificate.error(format!("--ocsp-staple: {why}")))?;
            let stapled = Arc::new(stapled);
            (Arc::clone(&stapled) as Arc<dyn ResolvesServerCert>, Some(stapled))
        }
    };
    let mut config = builder.with_cert_resolver(shown);
    config.enable_secret_extraction = true;
    config.key_log = policy.key_log();
    // Data before the client's Finished would go out under keys that the record layer does not have yet.
    config.send_half_rtt_data = false;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(TlsServer {
        config: Arc::new(config),
        verifier,
        stapled,
        own,
        client_roots,
        algorithms: provider.signature_verification_algorithms.all,
        peers: (!crls.is_empty()).then(Arc::default),
        clients_optional: *clients_optional,
        allow: allow.clone(),
    })
}
