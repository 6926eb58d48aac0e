//! Whether the server's certificate still stands (RFC 6960): judged after the handshake and before the first byte, whether
//! the session was resumed or not.
//!
//! A worker never asks a responder: it knows, or it waits for the tunnel's main thread, which asks once for everybody
//! who wants to know the same ([`ask`]). What it has learned is asked again before it runs out. Only connections that have
//! nothing to go by wait, each for itself.

mod ask;
mod cache;
mod options;
mod stapling;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sealane_io::rt::{self, Receiver, Sender};
use sealane_proto::tls::AlertDescription;
use sealane_trust::{Algorithms, Answer, Certified, Fingerprint, Hints, OcspError, Revocation, Status, Unreadable};

pub(crate) use ask::serve;
use cache::{Cache, Known};
pub use options::{HttpUrl, OcspMode, OcspOptions, Proxy};
pub(crate) use stapling::Stapled;

/// Questions that may wait for the main thread.
const ASKS_MAX: usize = 1024;
/// The most certificates between a server's and its root that are judged.
const CHAIN_MAX: usize = 8;
/// What an answer may come later than it may be waited for.
const ANSWER_GRACE: Duration = Duration::from_millis(500);

/// Why a certificate is not accepted, or not known to be good.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// It has been revoked.
    #[error("it was {0}")]
    Revoked(Revocation),
    /// What the server stapled is worth nothing.
    #[error("the server stapled a response that cannot be used: {0}")]
    Staple(OcspError),
    /// Nothing was stapled to a certificate that promises it.
    #[error("it promises a stapled OCSP response (must-staple, RFC 7633), and the server sent none")]
    MustStaple,
    /// The responder does not know it.
    #[error("the OCSP responder does not know it (unknown)")]
    Unknown,
    /// It names no responder.
    #[error("it names no OCSP responder that can be asked (http, port 80): name one with --ocsp-url")]
    NoResponder,
    /// Its issuer is not at hand.
    #[error("the certificate of its issuer is not at hand to verify an OCSP response with")]
    NoIssuer,
    /// It is not what RFC 5280 says.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// No responder said anything that counts.
    #[error("{}", .0.join("; "))]
    Asked(Vec<String>),
    /// The responder took too long.
    #[error("no OCSP response within {0} s (--ocsp-timeout)")]
    Late(f32),
    /// Our own fault.
    #[error("too many certificates are being asked about")]
    Busy,
}

impl StatusError {
    /// What the server is told.
    pub(crate) fn alert(&self) -> AlertDescription {
        match self {
            Self::Revoked(_) => AlertDescription::CERTIFICATE_REVOKED,
            Self::Staple(_) => AlertDescription::BAD_CERTIFICATE_STATUS_RESPONSE,
            _ => AlertDescription::CERTIFICATE_UNKNOWN,
        }
    }
}

/// A certificate whose status a responder is to be asked for.
#[derive(Debug)]
pub(crate) struct Question {
    fingerprint: Fingerprint,
    certified: Certified,
    /// The responders that the certificate names.
    urls: Vec<String>,
    /// The certificate is ours: so is whom it names.
    is_ours: bool,
    /// What it is, in messages.
    what: &'static str,
}

/// What is known at the end of a handshake.
#[derive(Debug)]
pub(crate) enum Outlook {
    /// All that has to be.
    Settled,
    /// The session was resumed, and only a full handshake brings what is missing.
    InFull,
    /// These have to be asked about.
    Open(Vec<Arc<Question>>, MustStaple),
}

/// Whether the server's certificate promises a stapled response, which a responder's answer can stand for.
type MustStaple = bool;

struct Ask {
    question: Arc<Question>,
    answer: Sender<Result<Answer, StatusError>>,
}

/// A certificate that is not accepted: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("{what} is not accepted: {why}")]
pub struct Unaccepted {
    /// What it is in the chain.
    what: &'static str,
    /// Why.
    pub(crate) why: StatusError,
}

const OWN: &str = "the server's certificate";
const INTERMEDIATE: &str = "an intermediate certificate of the server's chain";

/// What a tunnel knows of its servers' certificates, in all its threads.
pub(crate) struct Statuses {
    options: OcspOptions,
    roots: Vec<TrustAnchor<'static>>,
    algorithms: &'static Algorithms,
    cache: Mutex<Cache>,
    asks: Sender<Ask>,
    /// For the one who asks responders, once.
    asked: Mutex<Option<Receiver<Ask>>>,
}

impl std::fmt::Debug for Statuses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Statuses").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Statuses {
    pub(crate) fn new(options: OcspOptions, roots: Vec<TrustAnchor<'static>>, algorithms: &'static Algorithms) -> Self {
        let (asks, asked) = rt::queue(ASKS_MAX);
        Self { options, roots, algorithms, cache: Mutex::default(), asks, asked: Mutex::new(Some(asked)) }
    }

    /// The lock ends with `look`: a guard would last as long as the expression around it.
    fn with_cache<T>(&self, look: impl FnOnce(&mut Cache) -> T) -> T {
        look(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of the certificates that were `shown`, the server's own first, with this `staple`.
    ///
    /// # Errors
    /// One is not accepted, whatever a responder would say.
    pub(crate) fn look(
        &self,
        shown: &[CertificateDer<'_>],
        staple: &[u8],
        is_resumed: bool,
    ) -> Result<Outlook, Unaccepted> {
        let OcspOptions { mode, chain, .. } = self.options;
        let (OcspMode::Staple | OcspMode::Soft | OcspMode::Hard, Some(own)) = (mode, shown.first()) else {
            return Ok(Outlook::Settled);
        };
        let wrong = |what| move |why| Unaccepted { what, why };
        let now = UnixTime::now();
        let mut open = Vec::new();
        let good = self.look_at_own(own, shown, staple, now).map_err(wrong(OWN))?;
        // One whose extensions we cannot read promises nothing that we know of.
        let must_staple = !good && Hints::of(own).is_ok_and(|hints| hints.must_staple);
        if mode == OcspMode::Staple && must_staple {
            return if is_resumed { Ok(Outlook::InFull) } else { Err(wrong(OWN)(StatusError::MustStaple)) };
        }
        if mode.asks() && !good {
            open.extend(self.question(own, shown, OWN, must_staple, now).map_err(wrong(OWN))?);
        }
        if mode.asks() && chain {
            self.look_above(own, shown, now, &mut open).map_err(wrong(INTERMEDIATE))?;
        }
        Ok(if open.is_empty() { Outlook::Settled } else { Outlook::Open(open, must_staple) })
    }

    /// Whether the server's own certificate is known to be good.
    fn look_at_own(
        &self,
        own: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        staple: &[u8],
        now: UnixTime,
    ) -> Result<bool, StatusError> {
        let fingerprint = Fingerprint::of(own);
        let this_staple = (!staple.is_empty()).then(|| Fingerprint::of(staple));
        let is_good = match self.with_cache(|cache| cache.know(&fingerprint, this_staple, now.as_secs())) {
            Known::Revoked(revocation) => return Err(StatusError::Revoked(revocation)),
            Known::Good { by_staple: true } => return Ok(true),
            Known::Good { by_staple: false } => true,
            Known::Nothing => false,
        };
        let Some(this_staple) = this_staple else { return Ok(is_good) };
        let certified = self.certified(own, shown)?;
        match sealane_trust::read(staple, &certified, None, now, self.algorithms) {
            Ok(answer) if self.options.nonce && !matches!(answer.status, Status::Revoked(_)) => Ok(is_good),
            Ok(answer) => {
                let counts =
                    self.with_cache(|cache| cache.learn_stapled(fingerprint, answer, this_staple, now.as_secs()));
                match counts.status {
                    Status::Good => Ok(true),
                    Status::Revoked(revocation) => Err(StatusError::Revoked(revocation)),
                    Status::Unknown if self.options.mode.asks() => Ok(is_good),
                    Status::Unknown => Err(StatusError::Unknown),
                }
            }
            Err(error) if self.options.mode.asks() => {
                tracing::debug!("{}", StatusError::Staple(error));
                Ok(is_good)
            }
            Err(error) => Err(StatusError::Staple(error)),
        }
    }

    /// The certificates between the server's and the root.
    fn look_above(
        &self,
        own: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        now: UnixTime,
        open: &mut Vec<Arc<Question>>,
    ) -> Result<(), StatusError> {
        let mut certificate = own;
        for _ in 0..CHAIN_MAX {
            let issuer = self.certified(certificate, shown)?.issuer_at.and_then(|index| shown.get(index));
            let Some(issuer) = issuer else { return Ok(()) };
            certificate = issuer;
            match self.with_cache(|cache| cache.know(&Fingerprint::of(certificate), None, now.as_secs())) {
                Known::Revoked(revocation) => return Err(StatusError::Revoked(revocation)),
                Known::Good { .. } => {}
                Known::Nothing => open.extend(self.question(certificate, shown, INTERMEDIATE, false, now)?),
            }
        }
        Ok(())
    }

    fn certified(&self, certificate: &[u8], shown: &[CertificateDer<'_>]) -> Result<Certified, StatusError> {
        let found = Certified::find(certificate, shown, &self.roots, self.algorithms)?;
        found.ok_or(StatusError::NoIssuer)
    }

    /// What a responder is to be asked; nothing where it would have to be and cannot, and need not.
    fn question(
        &self,
        certificate: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        what: &'static str,
        must_staple: bool,
        now: UnixTime,
    ) -> Result<Option<Arc<Question>>, StatusError> {
        let fingerprint = Fingerprint::of(certificate);
        let is_soft = self.options.mode == OcspMode::Soft && !must_staple;
        if is_soft && self.with_cache(|cache| cache.has_failed(&fingerprint, now.as_secs())) {
            return Ok(None);
        }
        let question = || {
            let urls = Hints::of(certificate)?.ocsp_urls;
            let certified = self.certified(certificate, shown)?;
            if self.options.url.is_none() && urls.is_empty() {
                return Err(StatusError::NoResponder);
            }
            Ok(Arc::new(Question { fingerprint, certified, urls, is_ours: false, what }))
        };
        match question() {
            Ok(question) => Ok(Some(question)),
            Err(why) if is_soft => {
                self.accept(&fingerprint, what, &why, now);
                Ok(None)
            }
            Err(why) => Err(why),
        }
    }

    /// Accepts what is not known to be good, and says so once.
    fn accept(&self, fingerprint: &Fingerprint, what: &str, why: &StatusError, now: UnixTime) {
        if self.with_cache(|cache| cache.fail(*fingerprint, now.as_secs())) {
            tracing::warn!("{what} is not known to be good, and accepted (--ocsp soft): {why}");
        }
    }

    /// Waits for what is missing.
    ///
    /// # Errors
    /// A certificate is not accepted.
    pub(crate) async fn settle(&self, outlook: Outlook) -> Result<(), Unaccepted> {
        let (open, must_staple) = match outlook {
            Outlook::Settled => return Ok(()),
            Outlook::InFull => return Err(Unaccepted { what: OWN, why: StatusError::MustStaple }),
            Outlook::Open(open, must_staple) => (open, must_staple),
        };
        let asked: Vec<_> = open.into_iter().map(|question| (self.ask(&question), question)).collect();
        for (answer, question) in asked {
            let what = question.what;
            let why = match self.wait(answer).await {
                Ok(Answer { status: Status::Good, .. }) => continue,
                Ok(Answer { status: Status::Revoked(revocation), .. }) => StatusError::Revoked(revocation),
                Ok(Answer { status: Status::Unknown, .. }) => StatusError::Unknown,
                Err(error) => error,
            };
            let is_soft = self.options.mode == OcspMode::Soft && !matches!(why, StatusError::Revoked(_));
            match why {
                why if is_soft && !(must_staple && what == OWN) => {
                    self.accept(&question.fingerprint, what, &why, UnixTime::now());
                }
                why => return Err(Unaccepted { what, why }),
            }
        }
        Ok(())
    }

    fn ask(&self, question: &Arc<Question>) -> Option<Receiver<Result<Answer, StatusError>>> {
        let (answer, answered) = rt::queue(1);
        self.asks.try_send(Ask { question: Arc::clone(question), answer }).ok().map(|()| answered)
    }

    async fn wait(&self, answered: Option<Receiver<Result<Answer, StatusError>>>) -> Result<Answer, StatusError> {
        let mut answered = answered.ok_or(StatusError::Busy)?;
        // Whoever asks says more about what takes so long.
        let limit = self.options.timeout + ANSWER_GRACE;
        match rt::timeout(limit, answered.next()).await {
            Some(Some(answer)) => answer,
            Some(None) => Err(StatusError::Busy),
            None => Err(StatusError::Late(limit.as_secs_f32())),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair};
    use sealane_trust::Date;

    use super::*;

    pub(crate) fn revocation() -> Revocation {
        Revocation { at: Date(1), reason: Some("keyCompromise") }
    }

    /// A root and a certificate of it, which promises a staple or not.
    fn certified(must_staple: bool) -> (TrustAnchor<'static>, CertificateDer<'static>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let mut own = CertificateParams::new(["nfs.test".to_string()]).unwrap();
        if must_staple {
            let feature = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5]);
            own.custom_extensions.push(feature);
        }
        let own = own.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(params, key)).unwrap();
        (roots.roots.remove(0), own.der().clone())
    }

    fn algorithms() -> &'static Algorithms {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.all
    }

    pub(crate) fn question(what: &'static str) -> Question {
        let (root, own) = certified(false);
        let certified = Certified::find(&own, &[], &[root], algorithms()).unwrap().unwrap();
        Question { fingerprint: Fingerprint::of(&own), certified, urls: Vec::new(), is_ours: false, what }
    }

    #[test]
    fn a_resumed_session_is_refused_when_its_certificate_has_been_revoked_meanwhile() {
        for mode in [OcspMode::Staple, OcspMode::Soft, OcspMode::Hard] {
            let (root, own) = certified(false);
            let options = OcspOptions { mode, ..OcspOptions::default() };
            let statuses = Statuses::new(options, vec![root], algorithms());
            let shown = [own];
            let now = UnixTime::now().as_secs();
            let answer = |status| Answer { status, this_update: Date(now), next_update: Some(Date(now + 100)) };
            let (certificate, staple) = (Fingerprint::of(&shown[0]), Fingerprint::of(b"staple"));
            statuses.with_cache(|cache| cache.learn_stapled(certificate, answer(Status::Good), staple, now));
            assert!(matches!(statuses.look(&shown, &[], true), Ok(Outlook::Settled)));
            statuses.with_cache(|cache| {
                cache.learn_stapled(certificate, answer(Status::Revoked(revocation())), staple, now)
            });
            // A staple that is known already does not bring it back either.
            for (staple, is_resumed) in [(&b""[..], true), (b"staple", false)] {
                let error = statuses.look(&shown, staple, is_resumed).unwrap_err();
                assert!(matches!(error.why, StatusError::Revoked(_)), "{error}");
                assert_eq!(error.why.alert(), AlertDescription::CERTIFICATE_REVOKED);
            }
        }
    }

    #[test]
    fn without_a_responder_soft_accepts_and_hard_does_not() {
        let (root, own) = certified(false);
        let shown = [own];
        for (mode, accepted) in
            [(OcspMode::Off, true), (OcspMode::Staple, true), (OcspMode::Soft, true), (OcspMode::Hard, false)]
        {
            let options = OcspOptions { mode, ..OcspOptions::default() };
            let statuses = Statuses::new(options, vec![root.clone()], algorithms());
            match statuses.look(&shown, &[], false) {
                Ok(outlook) => assert!(accepted && matches!(outlook, Outlook::Settled), "{mode:?} {outlook:?}"),
                Err(error) => assert!(!accepted && matches!(error.why, StatusError::NoResponder), "{mode:?} {error}"),
            }
        }
    }

    #[test]
    fn a_promised_staple_is_wanted_of_every_session() {
        let (root, own) = certified(true);
        let shown = [own];
        for mode in [OcspMode::Staple, OcspMode::Soft, OcspMode::Hard] {
            let url = "http://ocsp.test/".parse().ok();
            let options = OcspOptions { mode, url, ..OcspOptions::default() };
            let statuses = Statuses::new(options, vec![root.clone()], algorithms());
            // Nothing is known: a resumed session, which brings none, has to come back in full; a full one is refused. Where a
            // responder is asked, its answer will do, and nothing else: soft does not accept it unknown.
            for is_resumed in [true, false] {
                match (statuses.look(&shown, &[], is_resumed), mode, is_resumed) {
                    (Ok(Outlook::InFull), OcspMode::Staple, true) => {}
                    (Err(error), OcspMode::Staple, false) => assert!(matches!(error.why, StatusError::MustStaple)),
                    (Ok(Outlook::Open(questions, true)), OcspMode::Soft | OcspMode::Hard, _) => {
                        assert_eq!(questions.len(), 1);
                    }
                    (other, ..) => panic!("{mode:?} {is_resumed}: {other:?}"),
                }
            }
            let now = UnixTime::now().as_secs();
            let good = Answer { status: Status::Good, this_update: Date(now), next_update: Some(Date(now + 100)) };
            let (certificate, staple) = (Fingerprint::of(&shown[0]), Fingerprint::of(b"staple"));
            statuses.with_cache(|cache| cache.learn_stapled(certificate, good, staple, now));
            assert!(matches!(statuses.look(&shown, &[], true), Ok(Outlook::Settled)), "it is known by now");
        }
    }
}
