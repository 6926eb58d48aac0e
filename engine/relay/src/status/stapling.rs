//! The status of our own certificate, stapled for clients (RFC 6066 section 8): asked for when the tunnel starts, and again
//! before it runs out.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sealane_io::rt;
use sealane_trust::{Algorithms, Answer, Certified, Fingerprint, Hints, Status};

use crate::status::ask::{Asked, ask_all};
use crate::status::cache::refresh_at;
use crate::status::{OcspOptions, Question, StatusError};

/// The first pause after a responder that gave no answer; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// The clock is looked at at least so often.
const LOOK_MAX: Duration = Duration::from_secs(600);

/// Our certificate, with what is stapled to it at the time.
pub(crate) struct Stapled {
    options: OcspOptions,
    algorithms: &'static Algorithms,
    question: Question,
    shown: Mutex<Shown>,
}

struct Shown {
    key: Arc<CertifiedKey>,
    /// What is stapled to it.
    answer: Option<Answer>,
}

impl fmt::Debug for Stapled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stapled").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Stapled {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        // What has run out is worse than nothing: clients refuse it.
        if shown.answer.as_ref().is_some_and(|answer| answer.valid_until().0 < UnixTime::now().as_secs()) {
            *shown = Shown { key: with_staple(&shown.key, None), answer: None };
        }
        Some(Arc::clone(&shown.key))
    }
}

fn with_staple(key: &CertifiedKey, ocsp: Option<Vec<u8>>) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey { ocsp, ..key.clone() })
}

impl Stapled {
    /// `key` with nothing stapled to it yet.
    ///
    /// # Errors
    /// Its issuer is not in the chain, or nobody is named who could be asked.
    pub(crate) fn new(
        key: CertifiedKey,
        options: OcspOptions,
        algorithms: &'static Algorithms,
    ) -> Result<Self, StatusError> {
        let (own, others) = key.cert.split_first().ok_or(StatusError::NoIssuer)?;
        let certified = Certified::find(own, others, algorithms)?.ok_or(StatusError::NoIssuer)?;
        let urls = Hints::of(own)?.ocsp_urls;
        if options.url.is_none() && urls.is_empty() {
            return Err(StatusError::NoResponder);
        }
        let fingerprint = Fingerprint::of(own);
        // What our own certificate names is the administrator's choice.
        let question = Question { fingerprint, certified, urls, is_ours: true, what: "our certificate" };
        Ok(Self { options, algorithms, question, shown: Mutex::new(Shown { key: Arc::new(key), answer: None }) })
    }

    /// Shows what `before` does, if that is about the same certificate.
    pub(crate) fn take_over(&self, before: &Self) {
        if self.question.fingerprint != before.question.fingerprint {
            return;
        }
        let (answer, response) = {
            let before = before.shown.lock().unwrap_or_else(PoisonError::into_inner);
            (before.answer.clone(), before.key.ocsp.clone())
        };
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = Shown { key: with_staple(&shown.key, response), answer };
    }

    /// Whether the certificate promises a staple, and there is none.
    pub(crate) fn breaks_its_promise(&self) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let promises = |own: &[u8]| Hints::of(own).is_ok_and(|hints| hints.must_staple);
        shown.answer.is_none() && shown.key.cert.first().is_some_and(|own| promises(own))
    }

    /// Whom it asks.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.options.url.as_ref().map_or_else(|| self.question.urls.clone(), |url| vec![url.to_string()])
    }

    /// Asks once, within `--ocsp-timeout`, and shows what is answered; returns how long that is good for at most, as the pause
    /// before it is asked again. `failures`: how often in a row nothing came of it.
    pub(crate) async fn ask(&self, failures: &mut u32) -> Duration {
        let pause = PAUSE_MIN.saturating_mul(1 << (*failures).min(7)).min(PAUSE_MAX);
        let why = match ask_all(&self.options, self.algorithms, &self.question).await {
            Ok(Asked { answer: Answer { status: Status::Unknown, .. }, .. }) => StatusError::Unknown,
            Err(why) => why,
            Ok(Asked { answer, response }) => {
                *failures = 0;
                return self.show(&answer, response);
            }
        };
        *failures += 1;
        tracing::warn!("no new OCSP response to staple, next attempt in {} s: {why}", pause.as_secs());
        pause
    }

    fn show(&self, answer: &Answer, response: Vec<u8>) -> Duration {
        let (now, until) = (UnixTime::now().as_secs(), answer.valid_until());
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody on the way, or a cache, may have kept an old one.
        if shown.answer.as_ref().is_some_and(|shown| shown.this_update > answer.this_update) {
            tracing::debug!("an OCSP response of {} is older than what is stapled", answer.this_update);
        } else {
            match &answer.status {
                // Clients are told as well.
                Status::Revoked(revocation) => tracing::error!("our certificate was {revocation}"),
                _ => tracing::info!("an OCSP response of {} is stapled, good until {until}", answer.this_update),
            }
            *shown = Shown { key: with_staple(&shown.key, Some(response)), answer: Some(answer.clone()) };
        }
        let jitter = sealane_trust::nonce().map_or(0, |[first, ..]| first);
        refresh_at(answer, jitter, now).map_or(PAUSE_MIN, |at| Duration::from_secs(at.saturating_sub(now)))
    }

    /// Asks again before what is stapled runs out, as long as the certificate is in use.
    pub(crate) async fn keep(stapled: Weak<Self>, mut pause: Duration, mut failures: u32) {
        loop {
            // By the clock that dates are of: a host may sleep for days, or its clock be set.
            let due = UnixTime::now().as_secs().saturating_add(pause.as_secs());
            while let left @ 1.. = due.saturating_sub(UnixTime::now().as_secs()) {
                if stapled.strong_count() == 0 {
                    return;
                }
                rt::sleep(Duration::from_secs(left).min(LOOK_MAX)).await;
            }
            let Some(stapled) = stapled.upgrade() else { return };
            pause = stapled.ask(&mut failures).await;
        }
    }
}
