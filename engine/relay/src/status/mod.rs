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

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sealane_io::rt::{self, Receiver, Sender};
use sealane_proto::tls::AlertDescription;
use sealane_trust::{
    Algorithms, Answer, Certified, Date, Fingerprint, Hints, Link, OcspError, Purpose, Revocation, Status, Unreadable,
    Unverified,
};

use crate::peers::Peers;

pub(crate) use ask::serve;
use cache::{Cache, Known};
pub use options::{HttpUrl, OcspMode, OcspOptions, Proxy};
pub(crate) use stapling::Stapled;

/// Questions that may wait for the main thread.
const ASKS_MAX: usize = 1024;
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
    /// It was accepted, and now there is no chain for it.
    #[error(transparent)]
    Unverified(#[from] Unverified),
    /// No responder said anything that counts.
    #[error("{}", .0.join("; "))]
    Asked(Vec<String>),
    /// The responder took too long.
    #[error("no OCSP response in the time that is left to reach the server (--ocsp-timeout, --retry-timeout)")]
    Late,
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
    Open(Vec<Open>),
}

/// A certificate that is to be asked about, and what comes of it if nothing is said.
#[derive(Debug)]
pub(crate) struct Open {
    question: Arc<Question>,
    /// It promises a stapled response, for which a responder's answer can stand; nothing else can.
    must_staple: bool,
    /// It was, and only a later answer takes that back.
    was_revoked: Option<Revocation>,
}

/// What is known of a server's own certificate.
enum Own {
    Good,
    InFull,
    Open { must_staple: bool, was_revoked: Option<Revocation> },
}

/// What a server has shown, and the chain in it, which is looked for when it is wanted.
struct Seen<'s> {
    shown: &'s [CertificateDer<'s>],
    own: &'s CertificateDer<'s>,
    fingerprint: Fingerprint,
    now: UnixTime,
    path: OnceCell<Result<Vec<Link>, StatusError>>,
}

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
    /// Replaced when the CA files are read again; what has been learned stays, for it was signed by whom it is about.
    roots: RwLock<Arc<Vec<TrustAnchor<'static>>>>,
    algorithms: &'static Algorithms,
    cache: Mutex<Cache>,
    /// Those with which there are sessions.
    peers: Arc<Peers>,
    /// `None`: when the next question is due has changed.
    asks: Sender<Option<Ask>>,
    /// For the one who asks responders, once.
    asked: Mutex<Option<Receiver<Option<Ask>>>>,
}

impl std::fmt::Debug for Statuses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Statuses").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Statuses {
    pub(crate) fn new(options: OcspOptions, roots: Vec<TrustAnchor<'static>>, algorithms: &'static Algorithms) -> Self {
        let (asks, asked) = rt::queue(ASKS_MAX);
        let roots = RwLock::new(Arc::new(roots));
        let (cache, peers, asked) = (Mutex::default(), Arc::default(), Mutex::new(Some(asked)));
        Self { options, roots, algorithms, cache, peers, asks, asked }
    }

    fn roots(&self) -> Arc<Vec<TrustAnchor<'static>>> {
        Arc::clone(&self.roots.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The chain in what was `shown`.
    pub(crate) fn path_in(&self, shown: &[CertificateDer<'_>], now: UnixTime) -> Result<Vec<Link>, Unverified> {
        Certified::path(shown, Purpose::Server, &self.roots(), now, self.algorithms)
    }

    /// Those with which there are sessions.
    pub(crate) fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Learns that `certificate` is good for so many seconds, for a simulation.
    pub(crate) fn learn_good(&self, certificate: &CertificateDer<'_>, seconds: u64) {
        let now = UnixTime::now().as_secs();
        let answer = Answer {
            status: Status::Good,
            this_update: Date(now),
            next_update: Some(Date(now.saturating_add(seconds))),
        };
        self.with_cache(|cache| cache.learn(Fingerprint::of(certificate), answer, now));
    }

    /// The certificates of whom there are sessions with.
    fn live(&self) -> BTreeSet<Fingerprint> {
        let all = self.peers.all();
        all.iter().flat_map(|shown| &shown.certificates).map(|certificate| Fingerprint::of(certificate)).collect()
    }

    /// Tells the sessions with whoever has shown `certificate` in its chain that it was revoked.
    fn tell(&self, certificate: &Fingerprint, revocation: &Revocation) {
        let is_it = |shown: &CertificateDer<'_>| Fingerprint::of(shown) == *certificate;
        for shown in self.peers.all() {
            let is_own = shown.certificates.first().is_some_and(is_it);
            // What was shown besides the chain is nobody's concern.
            let is_above = || {
                self.path_in(&shown.certificates, shown.since)
                    .is_ok_and(|path| path.iter().skip(1).any(|link| is_it(&link.certificate)))
            };
            if is_own || (shown.certificates.iter().skip(1).any(is_it) && is_above()) {
                let which = if is_own { "was" } else { "is below one that was" };
                shown.revoke(format!("{which} {revocation} (OCSP)"));
            }
        }
    }

    /// How strict it is.
    pub(crate) fn mode(&self) -> OcspMode {
        self.options.mode
    }

    /// What counts of the answers about `certificate`, and whether it was stapled.
    pub(crate) fn answer_about(&self, certificate: &CertificateDer<'_>) -> Option<(Answer, bool)> {
        self.with_cache(|cache| cache.answer_about(&Fingerprint::of(certificate), UnixTime::now().as_secs()))
    }

    /// Trusts whom `other` does.
    pub(crate) fn trust_as(&self, other: &Self) {
        *self.roots.write().unwrap_or_else(PoisonError::into_inner) = other.roots();
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
        let seen = Seen { shown, own, fingerprint: Fingerprint::of(own), now: UnixTime::now(), path: OnceCell::new() };
        let mut open = Vec::new();
        match self.look_at_own(&seen, staple, is_resumed).map_err(wrong(OWN))? {
            Own::Good => self.ask_ahead(&seen),
            Own::InFull => return Ok(Outlook::InFull),
            Own::Open { must_staple, was_revoked } => {
                let link = |path: &[Link]| path.first().cloned();
                let is_needed = must_staple || was_revoked.is_some();
                let question = self.question(&seen, link, OWN, is_needed).map_err(wrong(OWN))?;
                open.extend(question.map(|question| Open { question, must_staple, was_revoked }));
            }
        }
        if mode.asks() && chain {
            self.look_above(&seen, &mut open).map_err(wrong(INTERMEDIATE))?;
        }
        Ok(if open.is_empty() { Outlook::Settled } else { Outlook::Open(open) })
    }

    /// Where responders are asked, they are asked about what was stapled, too, before that runs out.
    fn ask_ahead(&self, seen: &Seen<'_>) {
        let (own, now) = (seen.fingerprint, seen.now.as_secs());
        if !self.options.mode.asks() || !self.with_cache(|cache| cache.lacks_question(&own)) {
            return;
        }
        let is_anybody =
            self.options.url.is_some() || Hints::of(seen.own).is_ok_and(|hints| !hints.ocsp_urls.is_empty());
        if !is_anybody {
            return;
        }
        // That it cannot be asked about is no reason not to accept what is known to be good.
        if let Ok(Some(question)) = self.question(seen, |path| path.first().cloned(), OWN, true) {
            self.with_cache(|cache| cache.ask_ahead(&question, now));
            // Whoever asks is awake if its queue is full.
            drop(self.asks.try_send(None));
        }
    }

    /// What is known of the server's own certificate, and read in what it staples.
    fn look_at_own(&self, seen: &Seen<'_>, staple: &[u8], is_resumed: bool) -> Result<Own, StatusError> {
        let (fingerprint, now) = (seen.fingerprint, seen.now.as_secs());
        let this_staple = (!staple.is_empty()).then(|| Fingerprint::of(staple));
        let known = self.with_cache(|cache| cache.know(&fingerprint, this_staple, now));
        let known = match this_staple {
            Some(this_staple) if known != (Known::Good { by_staple: true }) => {
                self.read_staple(seen, staple, this_staple, fingerprint, known)?
            }
            _ => known,
        };
        // One whose extensions we cannot read promises nothing that we know of.
        let must_staple = || Hints::of(seen.own).is_ok_and(|hints| hints.must_staple);
        let asks = self.options.mode.asks();
        match known {
            Known::Revoked { revocation, is_current } if is_current || !asks => Err(StatusError::Revoked(revocation)),
            Known::Revoked { revocation, .. } => Ok(Own::Open { must_staple: false, was_revoked: Some(revocation) }),
            // What was stapled to another connection is not what this one was promised.
            Known::Good { .. } if !asks && !is_resumed && this_staple.is_none() && must_staple() => {
                Err(StatusError::MustStaple)
            }
            Known::Good { .. } => Ok(Own::Good),
            Known::RanOut | Known::Nothing if asks => Ok(Own::Open { must_staple: must_staple(), was_revoked: None }),
            // Only a full handshake brings what the server would staple by now.
            Known::RanOut if is_resumed => Ok(Own::InFull),
            Known::RanOut | Known::Nothing if !must_staple() => Ok(Own::Good),
            Known::RanOut | Known::Nothing if is_resumed => Ok(Own::InFull),
            Known::RanOut | Known::Nothing => Err(StatusError::MustStaple),
        }
    }

    /// What counts now that this staple has come, too.
    fn read_staple(
        &self,
        seen: &Seen<'_>,
        staple: &[u8],
        this_staple: Fingerprint,
        fingerprint: Fingerprint,
        known: Known,
    ) -> Result<Known, StatusError> {
        let now = seen.now;
        let asks = self.options.mode.asks();
        let own = self.path(seen).map(|path| path.first());
        let read = match &own {
            Ok(Some(own)) => {
                sealane_trust::read(staple, &own.certified, None, now, self.algorithms).map_err(StatusError::Staple)
            }
            Ok(None) => Err(StatusError::NoIssuer),
            Err(why) => Err(why.clone()),
        };
        match (read, &known) {
            // It was not made for us: that it revokes is all that counts.
            (Ok(answer), _) if self.options.nonce && !matches!(answer.status, Status::Revoked(_)) => Ok(known),
            (Ok(answer), _) => {
                let learn = |cache: &mut Cache| cache.learn_stapled(fingerprint, answer, this_staple, now.as_secs());
                let counts = self.with_cache(learn);
                if let Status::Revoked(revocation) = &counts.status {
                    self.tell(&fingerprint, revocation);
                }
                let is_current = now.as_secs() <= counts.valid_until().0;
                match counts.status {
                    Status::Good => Ok(Known::Good { by_staple: true }),
                    Status::Revoked(revocation) => Ok(Known::Revoked { revocation, is_current }),
                    Status::Unknown if asks => Ok(known),
                    Status::Unknown => Err(StatusError::Unknown),
                }
            }
            (Err(_), Known::Revoked { .. }) => Ok(known),
            (Err(why), _) if asks => {
                tracing::debug!("{why}");
                Ok(known)
            }
            (Err(why), _) => Err(why),
        }
    }

    /// The certificates between the server's and the root.
    fn look_above(&self, seen: &Seen<'_>, open: &mut Vec<Open>) -> Result<(), StatusError> {
        let path = match self.path(seen) {
            Ok(path) => path,
            Err(why) if self.options.mode == OcspMode::Soft => {
                self.accept(&Fingerprint::of(seen.own), INTERMEDIATE, &why, seen.now);
                return Ok(());
            }
            Err(why) => return Err(why),
        };
        for link in path.iter().skip(1) {
            let fingerprint = Fingerprint::of(&link.certificate);
            let was_revoked = match self.with_cache(|cache| cache.know(&fingerprint, None, seen.now.as_secs())) {
                Known::Revoked { revocation, is_current: true } => return Err(StatusError::Revoked(revocation)),
                Known::Revoked { revocation, .. } => Some(revocation),
                Known::Good { .. } => continue,
                Known::RanOut | Known::Nothing => None,
            };
            let question = self.question(seen, |_| Some(link.clone()), INTERMEDIATE, was_revoked.is_some())?;
            open.extend(question.map(|question| Open { question, must_staple: false, was_revoked }));
        }
        Ok(())
    }

    /// The chain that was verified, once for each look.
    fn path<'s>(&self, seen: &'s Seen<'_>) -> Result<&'s [Link], StatusError> {
        let find = || self.path_in(seen.shown, seen.now).map_err(StatusError::from);
        seen.path.get_or_init(find).as_deref().map_err(Clone::clone)
    }

    /// What a responder is to be asked about one certificate of the chain; nothing where it would have to be and cannot, and
    /// need not: `is_needed` says that it has to be good in any case.
    fn question(
        &self,
        seen: &Seen<'_>,
        link: impl FnOnce(&[Link]) -> Option<Link>,
        what: &'static str,
        is_needed: bool,
    ) -> Result<Option<Arc<Question>>, StatusError> {
        let is_soft = self.options.mode == OcspMode::Soft && !is_needed;
        let found = self.path(seen).and_then(|path| link(path).ok_or(StatusError::NoIssuer));
        let certificate = found.as_ref().map_or(&**seen.own, |link| &*link.certificate);
        let fingerprint = Fingerprint::of(certificate);
        if is_soft && self.with_cache(|cache| cache.has_failed(&fingerprint, seen.now.as_secs())) {
            return Ok(None);
        }
        let question = || {
            let Link { certificate, certified } = found?;
            let urls = Hints::of(&certificate)?.ocsp_urls;
            if self.options.url.is_none() && urls.is_empty() {
                return Err(StatusError::NoResponder);
            }
            Ok(Arc::new(Question { fingerprint, certified, urls, is_ours: false, what }))
        };
        match question() {
            Ok(question) => Ok(Some(question)),
            Err(why) if is_soft => {
                self.accept(&fingerprint, what, &why, seen.now);
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

    /// Waits for what is missing, within `limit`.
    ///
    /// # Errors
    /// A certificate is not accepted.
    pub(crate) async fn settle(&self, outlook: Outlook, limit: Duration) -> Result<(), Unaccepted> {
        let open = match outlook {
            Outlook::Settled => return Ok(()),
            Outlook::InFull => return Err(Unaccepted { what: OWN, why: StatusError::MustStaple }),
            Outlook::Open(open) => open,
        };
        // Whoever asks says more about what takes so long.
        let until = rt::now() + limit.min(self.options.timeout + ANSWER_GRACE);
        let asked: Vec<_> = open.into_iter().map(|open| (self.ask(&open.question), open)).collect();
        for (answer, Open { question, must_staple, was_revoked }) in asked {
            let what = question.what;
            let why = match self.wait(answer, until.saturating_duration_since(rt::now())).await {
                Ok(Answer { status: Status::Good, .. }) => continue,
                Ok(Answer { status: Status::Revoked(revocation), .. }) => StatusError::Revoked(revocation),
                Ok(Answer { status: Status::Unknown, .. }) => StatusError::Unknown,
                Err(error) => error,
            };
            match (why, was_revoked) {
                (StatusError::Revoked(revocation), _) | (_, Some(revocation)) => {
                    return Err(Unaccepted { what, why: StatusError::Revoked(revocation) });
                }
                (why, None) if self.options.mode == OcspMode::Soft && !must_staple => {
                    self.accept(&question.fingerprint, what, &why, UnixTime::now());
                }
                (why, None) => return Err(Unaccepted { what, why }),
            }
        }
        Ok(())
    }

    fn ask(&self, question: &Arc<Question>) -> Option<Receiver<Result<Answer, StatusError>>> {
        let (answer, answered) = rt::queue(1);
        self.asks.try_send(Some(Ask { question: Arc::clone(question), answer })).ok().map(|()| answered)
    }

    async fn wait(
        &self,
        answered: Option<Receiver<Result<Answer, StatusError>>>,
        limit: Duration,
    ) -> Result<Answer, StatusError> {
        let mut answered = answered.ok_or(StatusError::Busy)?;
        match rt::timeout(limit, answered.next()).await {
            Some(Some(answer)) => answer,
            Some(None) => Err(StatusError::Busy),
            None => Err(StatusError::Late),
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
        let path = Certified::path(std::slice::from_ref(&own), Purpose::Server, &[root], UnixTime::now(), algorithms());
        let certified = path.unwrap().remove(0).certified;
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
                    (Ok(Outlook::Open(open)), OcspMode::Soft | OcspMode::Hard, _) => {
                        assert!(open.len() == 1 && open[0].must_staple);
                    }
                    (other, ..) => panic!("{mode:?} {is_resumed}: {other:?}"),
                }
            }
            let now = UnixTime::now().as_secs();
            let good = Answer { status: Status::Good, this_update: Date(now), next_update: Some(Date(now + 100)) };
            let (certificate, staple) = (Fingerprint::of(&shown[0]), Fingerprint::of(b"staple"));
            statuses.with_cache(|cache| cache.learn_stapled(certificate, good, staple, now));
            assert!(matches!(statuses.look(&shown, &[], true), Ok(Outlook::Settled)), "it is known by now");
            // A full handshake without one breaks the promise all the same; where a responder is asked, it is known to be good.
            match (mode, statuses.look(&shown, &[], false)) {
                (OcspMode::Staple, Err(error)) => assert!(matches!(error.why, StatusError::MustStaple)),
                (OcspMode::Soft | OcspMode::Hard, Ok(Outlook::Settled)) => {}
                (mode, other) => panic!("{mode:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_resumed_session_comes_back_in_full_when_what_was_stapled_has_run_out() {
        let (root, own) = certified(false);
        let shown = [own];
        let statuses = Statuses::new(OcspOptions::default(), vec![root], algorithms());
        assert!(matches!(statuses.look(&shown, &[], true), Ok(Outlook::Settled)), "nothing was ever stapled");
        let now = UnixTime::now().as_secs();
        let past = Answer { status: Status::Good, this_update: Date(now - 1000), next_update: Some(Date(now - 500)) };
        let (certificate, staple) = (Fingerprint::of(&shown[0]), Fingerprint::of(b"staple"));
        statuses.with_cache(|cache| cache.learn_stapled(certificate, past, staple, now - 900));
        assert!(matches!(statuses.look(&shown, &[], true), Ok(Outlook::InFull)));
        assert!(matches!(statuses.look(&shown, &[], false), Ok(Outlook::Settled)), "it staples no more");
    }

    #[test]
    fn soft_does_not_accept_what_was_revoked_when_its_news_is_old_and_nobody_can_be_asked() {
        for url in [None, "http://ocsp.test/".parse().ok()] {
            let (root, own) = certified(false);
            let shown = [own];
            let is_asked = url.is_some();
            let options = OcspOptions { mode: OcspMode::Soft, url, ..OcspOptions::default() };
            let statuses = Statuses::new(options, vec![root], algorithms());
            let now = UnixTime::now().as_secs();
            let past = Answer {
                status: Status::Revoked(revocation()),
                this_update: Date(now - 1000),
                next_update: Some(Date(now - 500)),
            };
            let certificate = Fingerprint::of(&shown[0]);
            statuses.with_cache(|cache| {
                cache.learn_stapled(certificate, past, Fingerprint::of(b"staple"), now - 900);
                // Nobody has answered a moment ago either.
                cache.fail(certificate, now)
            });
            match statuses.look(&shown, &[], false) {
                Ok(Outlook::Open(open)) => assert!(is_asked && open[0].was_revoked.is_some()),
                Err(error) => assert!(!is_asked, "{error}"),
                Ok(other) => panic!("{other:?}"),
            }
        }
    }
}
