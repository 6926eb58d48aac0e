//! The certificates of the TLS peers of live sessions: these hear of it when one is revoked, without being asked one by one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};
use sealane_io::rt::Latch;
use sealane_trust::{Fingerprint, Link, Unverified};

/// As many entries may be of sessions that are gone before these are looked for.
const GONE_MAX: usize = 64;

/// Of more certificates than these no chain is made by trying.
const OTHERS_MAX: usize = 12;

/// So much is kept as it was shown, where nobody can gain anything by showing more.
pub(crate) const SHOWN_BYTES_MAX: usize = 8 * 1024;

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
    /// All that was shown, where that is more and not too much: when CAs change, another chain in it can be the one that counts.
    also: Vec<CertificateDer<'static>>,
    /// When it was accepted: whether its certificates have expired since is another matter.
    pub(crate) since: UnixTime,
    revoked: Latch<String>,
}

impl Shown {
    /// Waits until one of the certificates is revoked; who says so. May be dropped.
    pub(crate) async fn revoked(&self) -> &str {
        self.revoked.wait().await
    }

    /// What a verdict may be asked about: the chain that was accepted, and perhaps all that was shown.
    pub(crate) fn flights(&self) -> impl Iterator<Item = (&CertificateDer<'static>, &[CertificateDer<'static>])> {
        [&self.certificates, &self.also].into_iter().filter_map(|flight| flight.split_first())
    }

    /// Whether one of the certificates has been revoked; who says so.
    pub(crate) fn is_revoked(&self) -> Option<&str> {
        self.revoked.get().map(String::as_str)
    }

    /// Tells all sessions.
    pub(crate) fn revoke(&self, why: String) {
        self.revoked.set(why);
    }
}

impl Peers {
    /// What a new session's peer has shown. Who is accepted by the same `chain`, or has shown the same where that is not looked
    /// for, is the same peer, until that is revoked: if it is accepted then, the revocation has been taken back.
    pub(crate) fn enter(
        &self,
        certificates: &[CertificateDer<'_>],
        now: UnixTime,
        chain: impl FnOnce() -> Option<Vec<CertificateDer<'static>>>,
    ) -> Option<Arc<Shown>> {
        certificates.first()?;
        let bytes: usize = certificates.iter().map(|certificate| certificate.len()).sum();
        let all: Vec<_> = certificates.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let (certificates, also) = match chain() {
            None => (all, Vec::new()),
            Some(chain) if bytes > SHOWN_BYTES_MAX || chain.len() == all.len() => (chain, Vec::new()),
            Some(chain) => (chain, all),
        };
        let mut bytes = Vec::with_capacity(bytes);
        certificates.iter().for_each(|certificate| bytes.extend_from_slice(certificate));
        let key = Fingerprint::of(&bytes);
        let mut entries = self.entries();
        let there = entries.all.get(&key).and_then(Weak::upgrade);
        if let Some(there) = there.filter(|shown| shown.revoked.get().is_none()) {
            return Some(there);
        }
        if entries.all.len() >= entries.tidy_at {
            entries.all.retain(|_, shown| shown.strong_count() > 0);
            entries.tidy_at = entries.all.len() + GONE_MAX.max(entries.all.len());
        }
        let shown = Arc::new(Shown { certificates, also, since: now, revoked: Latch::default() });
        entries.all.insert(key, Arc::downgrade(&shown));
        Some(shown)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that have sessions, but for those that are known to be revoked.
    pub(crate) fn all(&self) -> Vec<Arc<Shown>> {
        let entries = self.entries();
        let live = entries.all.values().filter_map(Weak::upgrade);
        live.filter(|shown| shown.revoked.get().is_none()).collect()
    }
}

/// The certificates of the chain in what was `shown` that `is_accepted`: the one that was found, or what is left of all when
/// nothing more can be taken away. Anybody can show more besides, behind which a revocation would hide.
pub(crate) fn chain_of(
    shown: &[CertificateDer<'_>],
    path: Result<Vec<Link>, Unverified>,
    is_accepted: impl Fn(&CertificateDer<'static>, &[CertificateDer<'static>]) -> bool,
) -> Option<Vec<CertificateDer<'static>>> {
    let found: Option<Vec<_>> = path.ok().map(|path| path.into_iter().map(|link| link.certificate).collect());
    let found = found.filter(|chain| chain.split_first().is_some_and(|(own, others)| is_accepted(own, others)));
    if found.is_some() || shown.len() > OTHERS_MAX {
        return found;
    }
    let mut left: Vec<_> = shown.iter().map(|certificate| certificate.clone().into_owned()).collect();
    for index in (1..left.len()).rev() {
        let taken = left.remove(index);
        if left.split_first().is_some_and(|(own, others)| !is_accepted(own, others)) {
            left.insert(index, taken);
        }
    }
    Some(left)
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
    use sealane_trust::{Certified, Purpose};

    use super::*;

    fn certificate(number: u32) -> CertificateDer<'static> {
        CertificateDer::from(number.to_be_bytes().to_vec())
    }

    fn enter(peers: &Peers, shown: &[CertificateDer<'static>]) -> Arc<Shown> {
        peers.enter(shown, UnixTime::now(), || Some(vec![shown[0].clone()])).unwrap()
    }

    #[test]
    fn who_shows_the_same_is_the_same_until_that_is_revoked() {
        let peers = Peers::default();
        let first = enter(&peers, &[certificate(1), certificate(2)]);
        assert!(Arc::ptr_eq(&first, &enter(&peers, &[certificate(1), certificate(2)])));
        assert!(
            Arc::ptr_eq(&first, &enter(&peers, &[certificate(1), certificate(3)])),
            "what else is shown shields nobody"
        );
        let other = enter(&peers, &[certificate(2)]);
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(peers.all().len(), 2);
        first.revoke("a CRL".into());
        first.revoke("another one".into());
        assert_eq!(first.is_revoked(), Some("a CRL"));
        assert!(peers.all().iter().all(|shown| Arc::ptr_eq(shown, &other)));
        let again = enter(&peers, &[certificate(1), certificate(2)]);
        assert!(!Arc::ptr_eq(&first, &again), "it was accepted after it had been revoked");
        assert!(peers.enter(&[], UnixTime::now(), || None).is_none());
        assert_eq!((again.certificates.as_slice(), again.flights().count()), (&[certificate(1)][..], 2));
        let all = peers.enter(&[certificate(4), certificate(5)], UnixTime::now(), || None).unwrap();
        assert_eq!(all.certificates, [certificate(4), certificate(5)]);
    }

    #[test]
    fn a_chain_that_is_not_found_is_what_is_left_when_nothing_more_can_be_taken_away() {
        let shown = [certificate(1), certificate(7), certificate(2), certificate(8), certificate(3)];
        let none = || Err(Certified::path(&[], Purpose::Server, &[], UnixTime::now(), &[]).unwrap_err());
        let is_accepted = |own: &CertificateDer<'static>, others: &[CertificateDer<'static>]| {
            *own == certificate(1) && [2, 3].iter().all(|number| others.contains(&certificate(*number)))
        };
        let chain = chain_of(&shown, none(), is_accepted).unwrap();
        assert_eq!(chain, [certificate(1), certificate(2), certificate(3)]);
        let many: Vec<_> = (0..100).map(certificate).collect();
        assert!(chain_of(&many, none(), |_, _| true).is_none());
    }

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let peers = Peers::default();
        let live: Vec<_> = (0..1000).map(|number| enter(&peers, &[certificate(number)])).collect();
        (1000..100_000).for_each(|number| drop(enter(&peers, &[certificate(number)])));
        assert_eq!(peers.all().len(), live.len());
        assert!(peers.entries().all.len() <= 2 * live.len() + 1);
    }
}
