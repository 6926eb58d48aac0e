//! The certificates of the TLS peers of live sessions: these hear of it when one is revoked, without being asked one by one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};
use sealane_io::rt::Latch;
use sealane_trust::Fingerprint;

/// As many entries may be of sessions that are gone before these are looked for.
const GONE_MAX: usize = 64;

/// What peers have shown that have sessions: one entry for all that have shown the same.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    all: BTreeMap<Fingerprint, Weak<Shown>>,
    /// With so many, those of sessions that are gone are looked for.
    tidy_at: usize,
}

/// What a peer has shown, its own certificate first, and whether one of them was revoked since.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// When it was accepted: whether its certificates have expired since is another matter.
    pub(crate) since: UnixTime,
    revoked: Latch<String>,
}

impl Shown {
    /// Waits until one of the certificates is revoked; who says so. May be dropped.
    pub(crate) async fn revoked(&self) -> &str {
        self.revoked.wait().await
    }

    /// Tells all sessions.
    pub(crate) fn revoke(&self, why: String) {
        self.revoked.set(why);
    }
}

impl Peers {
    /// What a new session's peer has shown. Once it is revoked, whoever shows the same is another peer: it was accepted all the
    /// same, so the revocation has been taken back.
    pub(crate) fn enter(&self, certificates: &[CertificateDer<'_>], now: UnixTime) -> Arc<Shown> {
        let mut shown_bytes = Vec::with_capacity(certificates.iter().map(|certificate| certificate.len()).sum());
        certificates.iter().for_each(|certificate| shown_bytes.extend_from_slice(certificate));
        let key = Fingerprint::of(&shown_bytes);
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there = entries.all.get(&key).and_then(Weak::upgrade).filter(|shown| shown.revoked.get().is_none());
        if let Some(there) = there {
            return there;
        }
        if entries.all.len() >= entries.tidy_at {
            entries.all.retain(|_, shown| shown.strong_count() > 0);
            entries.tidy_at = entries.all.len() + GONE_MAX.max(entries.all.len());
        }
        let certificates = certificates.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let shown = Arc::new(Shown { certificates, since: now, revoked: Latch::default() });
        entries.all.insert(key, Arc::downgrade(&shown));
        shown
    }

    /// All that have sessions, but for those that are known to be revoked.
    pub(crate) fn all(&self) -> Vec<Arc<Shown>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let live = entries.all.values().filter_map(Weak::upgrade);
        live.filter(|shown| shown.revoked.get().is_none()).collect()
    }
}

/// Tells sessions of a peer's if this is the `verdict` on what it has shown. That it is not accepted any more for another reason is
/// for new ones.
pub(crate) fn revoke_by_crl<T>(shown: &Shown, verdict: Result<T, rustls::Error>) {
    if let Err(rustls::Error::InvalidCertificate(CertificateError::Revoked)) = verdict {
        shown.revoke("has been revoked, says a CRL".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(number: u32) -> CertificateDer<'static> {
        CertificateDer::from(number.to_be_bytes().to_vec())
    }

    #[test]
    fn who_shows_the_same_is_the_same_until_that_is_revoked() {
        let (peers, now) = (Peers::default(), UnixTime::now());
        let first = peers.enter(&[certificate(1), certificate(2)], now);
        assert!(Arc::ptr_eq(&first, &peers.enter(&[certificate(1), certificate(2)], now)));
        let other = peers.enter(&[certificate(1)], now);
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(peers.all().len(), 2);
        first.revoke("a CRL".into());
        first.revoke("another one".into());
        assert_eq!(first.revoked.get().map(String::as_str), Some("a CRL"));
        assert!(peers.all().iter().all(|shown| Arc::ptr_eq(shown, &other)));
        let again = peers.enter(&[certificate(1), certificate(2)], now);
        assert!(!Arc::ptr_eq(&first, &again), "it was accepted after it had been revoked");
    }

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let (peers, now) = (Peers::default(), UnixTime::now());
        let live: Vec<_> = (0..1000).map(|number| peers.enter(&[certificate(number)], now)).collect();
        for number in 1000..100_000 {
            peers.enter(&[certificate(number)], now);
        }
        assert_eq!(peers.all().len(), live.len());
        assert!(peers.0.lock().unwrap().all.len() <= 2 * live.len() + 1);
    }
}
