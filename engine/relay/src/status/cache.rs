//! What is known of certificates, and until when. Bounded, and never asks anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use sealane_trust::{Answer, Fingerprint, Revocation, Status};

use crate::status::Question;

/// The most certificates that anything is remembered of.
const ENTRIES_MAX: usize = 1024;
/// An answer is asked for again no sooner than this after it came.
const REFRESH_SECONDS_MIN: u64 = 30;
/// What nobody answers in time is asked again so often, while there are sessions with whom it is about.
const RETRY_SECONDS: u64 = 60;
/// For so long nobody is asked again about a certificate that is accepted without an answer.
const FAILURE_SECONDS: u64 = 30;

/// What is known of one certificate.
#[derive(Debug)]
struct Entry {
    answer: Answer,
    /// The stapled response that was read last.
    staple: Option<Fingerprint>,
    /// How news is to be had; `None` where the server brings them.
    question: Option<Arc<Question>>,
    /// When it is time for that.
    refresh_at: Option<u64>,
    /// Somebody has wanted to know since the answer came.
    is_used: bool,
    used_at: u64,
}

/// What is known of a certificate now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Known {
    /// It is good; and whether this very staple said so.
    Good { by_staple: bool },
    /// It has been revoked; and whether there is no news to be had yet.
    Revoked { revocation: Revocation, is_current: bool },
    /// What was stapled does not count any more.
    RanOut,
    /// Nothing.
    Nothing,
}

/// The answers that still count, and those that revoke.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: BTreeMap<Fingerprint, Entry>,
    /// Until when nobody is asked about it again, because that has just failed.
    failures: BTreeMap<Fingerprint, u64>,
    /// What nobody has answered, and when it is asked again if there are sessions with whom it is about.
    unanswered: BTreeMap<Fingerprint, (Arc<Question>, u64)>,
}

impl Cache {
    /// What is known of `certificate`, which somebody wants to know who was shown `staple` with it.
    pub(crate) fn know(&mut self, certificate: &Fingerprint, staple: Option<Fingerprint>, now: u64) -> Known {
        let Some(entry) = self.entries.get_mut(certificate) else { return Known::Nothing };
        entry.used_at = now;
        entry.is_used = true;
        let is_current = now <= entry.answer.valid_until().0;
        match &entry.answer.status {
            Status::Revoked(revocation) => Known::Revoked { revocation: revocation.clone(), is_current },
            Status::Good if is_current => Known::Good { by_staple: staple.is_some() && entry.staple == staple },
            Status::Good if entry.staple.is_some() => Known::RanOut,
            Status::Good | Status::Unknown => Known::Nothing,
        }
    }

    /// The answer about `certificate` that counts, and whether it was stapled.
    pub(crate) fn answer_about(&self, certificate: &Fingerprint, now: u64) -> Option<(Answer, bool)> {
        let entry = self.entries.get(certificate).filter(|entry| now <= entry.answer.valid_until().0)?;
        Some((entry.answer.clone(), entry.staple.is_some()))
    }

    /// Remembers what a server has stapled; returns what counts, which may be something else.
    pub(crate) fn learn_stapled(
        &mut self,
        certificate: Fingerprint,
        answer: Answer,
        staple: Fingerprint,
        now: u64,
    ) -> Answer {
        let counts = self.learn(certificate, answer.clone(), now);
        // One that says nothing that counts is read again.
        if let Some(entry) = self.entries.get_mut(&certificate).filter(|entry| entry.answer == answer) {
            entry.staple = Some(staple);
        }
        counts
    }

    /// Remembers what a responder has answered; returns what counts, which may be something else. `jitter` is anything
    /// from 0 to 255.
    pub(crate) fn learn_asked(&mut self, question: &Arc<Question>, answer: Answer, jitter: u8, now: u64) -> Answer {
        let counts = self.learn(question.fingerprint, answer, now);
        if let Some(entry) = self.entries.get_mut(&question.fingerprint) {
            entry.question = Some(Arc::clone(question));
            entry.refresh_at = refresh_at(&entry.answer, jitter, now).or(Some(now + RETRY_SECONDS));
            entry.is_used = false;
        }
        self.failures.remove(&question.fingerprint);
        self.unanswered.remove(&question.fingerprint);
        counts
    }

    /// A revocation goes only before a later answer that the certificate is good, and an answer only before a later one.
    /// That a responder does not know a certificate is no news.
    pub(crate) fn learn(&mut self, certificate: Fingerprint, answer: Answer, now: u64) -> Answer {
        if let Some(known) = self.entries.get(&certificate) {
            let is_later = answer.this_update > known.answer.this_update;
            let is_as_late = answer.this_update >= known.answer.this_update;
            let replaces = match (&known.answer.status, &answer.status) {
                (_, Status::Unknown) => false,
                (Status::Revoked(_), _) => is_later,
                (_, Status::Revoked(_)) => true,
                _ => is_as_late || known.answer.valid_until().0 < now,
            };
            let stands = matches!(known.answer.status, Status::Revoked(_)) || answer.status != Status::Unknown;
            if !replaces {
                return if stands { known.answer.clone() } else { answer };
            }
        } else if answer.status == Status::Unknown {
            return answer;
        }
        self.make_room(now);
        if self.entries.len() < ENTRIES_MAX || self.entries.contains_key(&certificate) {
            let entry = self.entries.entry(certificate).or_insert_with(|| Entry {
                answer: answer.clone(),
                staple: None,
                question: None,
                refresh_at: None,
                is_used: true,
                used_at: now,
            });
            entry.answer = answer.clone();
        }
        answer
    }

    /// Forgets what does not count any more, and where that is not enough what has not been wanted for longest. What was
    /// revoked stays.
    fn make_room(&mut self, now: u64) {
        if self.entries.len() < ENTRIES_MAX {
            return;
        }
        let is_revoked = |entry: &Entry| matches!(entry.answer.status, Status::Revoked(_));
        self.entries.retain(|_, entry| is_revoked(entry) || entry.answer.valid_until().0 >= now);
        while self.entries.len() >= ENTRIES_MAX {
            let others = self.entries.iter().filter(|(_, entry)| !is_revoked(entry));
            let Some(oldest) = others.min_by_key(|(_, entry)| entry.used_at).map(|(certificate, _)| *certificate)
            else {
                return;
            };
            self.entries.remove(&oldest);
        }
    }

    /// When the next answer is to be asked for again.
    pub(crate) fn next_refresh(&self) -> Option<u64> {
        let unanswered = self.unanswered.values().map(|(_, at)| *at);
        self.entries.values().filter_map(|entry| entry.refresh_at).chain(unanswered).min()
    }

    /// What is to be asked again now: of that which somebody has wanted to know since it was asked last, or `is_live`: there are
    /// sessions with whom it is about.
    pub(crate) fn take_due(&mut self, now: u64, is_live: impl Fn(&Fingerprint) -> bool) -> Vec<Arc<Question>> {
        let mut due = Vec::new();
        for (certificate, entry) in &mut self.entries {
            if entry.refresh_at.is_none_or(|at| now < at) {
                continue;
            }
            let is_live = is_live(certificate);
            // Whatever comes of it: the next time is later.
            // For as long as it counts, somebody may come and go by it.
            let goes_on = is_live || now <= entry.answer.valid_until().0;
            entry.refresh_at = refresh_at(&entry.answer, u8::MAX, now).or(goes_on.then_some(now + RETRY_SECONDS));
            if let (true, Some(question)) = (entry.is_used || is_live, &entry.question) {
                due.push(Arc::clone(question));
            }
        }
        self.unanswered.retain(|certificate, (question, at)| {
            if now < *at {
                return true;
            }
            *at = now + RETRY_SECONDS;
            let is_live = is_live(certificate);
            due.extend(is_live.then(|| Arc::clone(question)));
            is_live
        });
        due
    }

    /// Whether it is known from elsewhere than a responder.
    pub(crate) fn lacks_question(&self, certificate: &Fingerprint) -> bool {
        self.entries.get(certificate).is_some_and(|entry| entry.question.is_none())
    }

    /// What is known from elsewhere is to be asked, too, before it runs out.
    pub(crate) fn ask_ahead(&mut self, question: &Arc<Question>, now: u64) {
        if let Some(entry) = self.entries.get_mut(&question.fingerprint) {
            entry.refresh_at = refresh_at(&entry.answer, 0, now).or(Some(now + RETRY_SECONDS));
            entry.question = Some(Arc::clone(question));
        }
    }

    /// Nobody has answered: while there are sessions, that is asked again.
    pub(crate) fn ask_later(&mut self, question: &Arc<Question>, now: u64) {
        let is_known = self.entries.get(&question.fingerprint).is_some_and(|entry| entry.refresh_at.is_some());
        if !is_known && self.unanswered.len() < ENTRIES_MAX {
            self.unanswered.insert(question.fingerprint, (Arc::clone(question), now + RETRY_SECONDS));
        }
    }

    /// Nobody has said anything of `certificate`; whether that is new.
    pub(crate) fn fail(&mut self, certificate: Fingerprint, now: u64) -> bool {
        self.failures.retain(|_, until| *until + FAILURE_SECONDS > now);
        if self.failures.len() >= ENTRIES_MAX {
            return true;
        }
        self.failures.insert(certificate, now + FAILURE_SECONDS).is_none()
    }

    /// Whether nobody is to be asked about `certificate` now, because that has just failed.
    pub(crate) fn has_failed(&self, certificate: &Fingerprint, now: u64) -> bool {
        self.failures.get(certificate).is_some_and(|until| now < *until)
    }
}

/// Between half and three quarters of the time that is left; `None` when no time is left to ask ahead.
pub(crate) fn refresh_at(answer: &Answer, jitter: u8, now: u64) -> Option<u64> {
    let end = answer.next_update.unwrap_or_else(|| answer.valid_until()).0;
    let left = end.checked_sub(now)?;
    let wait = (left / 2 + left * u64::from(jitter) / 1024).max(REFRESH_SECONDS_MIN);
    (wait < left).then_some(now + wait)
}

#[cfg(test)]
mod tests {
    use sealane_trust::Date;

    use super::*;
    use crate::status::tests::{question, revocation};

    const NOW: u64 = 1_000_000;

    fn answer(status: Status, this_update: u64, next_update: u64) -> Answer {
        Answer { status, this_update: Date(this_update), next_update: Some(Date(next_update)) }
    }

    fn good(this_update: u64) -> Answer {
        answer(Status::Good, this_update, NOW + 1000)
    }

    fn revoked(this_update: u64) -> Answer {
        answer(Status::Revoked(revocation()), this_update, NOW + 1000)
    }

    #[test]
    fn a_revocation_stands_until_a_later_answer_takes_it_back() {
        let certificate = Fingerprint::of(b"certificate");
        let unknown = answer(Status::Unknown, NOW, NOW + 1000);
        for (before, after, counts) in [
            (good(NOW - 10), revoked(NOW - 20), revoked(NOW - 20)),
            (revoked(NOW - 10), good(NOW - 20), revoked(NOW - 10)),
            (revoked(NOW - 10), good(NOW - 10), revoked(NOW - 10)),
            (revoked(NOW - 10), good(NOW - 9), good(NOW - 9)),
            (revoked(NOW - 10), unknown.clone(), revoked(NOW - 10)),
            (good(NOW - 10), good(NOW - 20), good(NOW - 10)),
            (good(NOW - 20), good(NOW - 10), good(NOW - 10)),
            (good(NOW - 10), unknown.clone(), unknown.clone()),
            // What has run out does not stand in the way of what has not, whenever that was said.
            (answer(Status::Good, NOW - 500, NOW - 400), good(NOW - 600), good(NOW - 600)),
        ] {
            let mut cache = Cache::default();
            cache.learn(certificate, before.clone(), NOW);
            assert_eq!(cache.learn(certificate, after.clone(), NOW), counts, "{before:?} {after:?}");
            let known = cache.know(&certificate, None, NOW);
            let wanted = if matches!(counts.status, Status::Revoked(_)) {
                Known::Revoked { revocation: revocation(), is_current: true }
            } else {
                Known::Good { by_staple: false }
            };
            assert_eq!(known, wanted, "that nobody knows it takes nothing back: {before:?} {after:?}");
        }
        let mut cache = Cache::default();
        cache.learn(certificate, unknown, NOW);
        assert_eq!(cache.know(&certificate, None, NOW), Known::Nothing);
        cache.learn(certificate, revoked(NOW), NOW);
        assert_eq!(
            cache.know(&certificate, None, NOW + 1_000_000),
            Known::Revoked { revocation: revocation(), is_current: false },
            "long after"
        );
    }

    #[test]
    fn an_answer_counts_for_its_time_and_a_staple_is_known_again() {
        let (certificate, staple) = (Fingerprint::of(b"certificate"), Fingerprint::of(b"staple"));
        let mut cache = Cache::default();
        cache.learn_stapled(certificate, good(NOW - 10), staple, NOW);
        let mut know = |staple, now| cache.know(&certificate, staple, now);
        assert_eq!(know(Some(staple), NOW), Known::Good { by_staple: true });
        assert_eq!(know(Some(Fingerprint::of(b"another")), NOW), Known::Good { by_staple: false });
        assert_eq!(know(None, NOW + 1060), Known::Good { by_staple: false });
        assert_eq!(know(Some(staple), NOW + 1061), Known::RanOut);
        assert_eq!(cache.next_refresh(), None, "the server brings news");
    }

    /// There are no sessions.
    fn nobody(_: &Fingerprint) -> bool {
        false
    }

    #[test]
    fn while_there_are_sessions_it_is_asked_again_whether_anybody_wants_to_know_or_has_answered() {
        let (answered, not) = (Arc::new(question("answered")), Arc::new(question("not")));
        let mut cache = Cache::default();
        cache.learn_asked(&answered, good(NOW), 0, NOW);
        cache.ask_later(&not, NOW);
        let mut asked = BTreeMap::new();
        let everybody = |_: &Fingerprint| true;
        // Nobody answers any more, far beyond the end of what was answered.
        while let Some(next) = cache.next_refresh().filter(|next| *next < NOW + 2000) {
            let due = cache.take_due(next, everybody);
            assert!(!due.is_empty());
            due.iter().for_each(|question| asked.entry(question.what).or_insert_with(Vec::new).push(next));
            due.iter().for_each(|question| cache.ask_later(question, next));
        }
        for (what, times) in &asked {
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= REFRESH_SECONDS_MIN), "{what}: {times:?}");
            assert!(times.last().is_some_and(|last| *last > NOW + 1900), "{what}: {times:?}");
        }
        assert_eq!(asked.len(), 2);
        // Without sessions nobody is asked, and it is forgotten.
        assert!(cache.take_due(NOW + 3000, nobody).is_empty());
        assert_eq!(cache.next_refresh(), None);
    }

    #[test]
    fn what_was_stapled_is_asked_about_too_and_what_counts_is_never_given_up() {
        let question = Arc::new(question("stapled"));
        let mut cache = Cache::default();
        assert!(!cache.lacks_question(&question.fingerprint), "nothing is known");
        cache.learn_stapled(question.fingerprint, good(NOW), Fingerprint::of(b"staple"), NOW);
        assert!(cache.lacks_question(&question.fingerprint) && cache.next_refresh().is_none());
        cache.ask_ahead(&question, NOW);
        assert!(!cache.lacks_question(&question.fingerprint));
        assert_eq!(cache.next_refresh(), Some(NOW + 500));
        // Nobody is there at these times; whoever comes before its end goes by it, and is asked for again.
        while let Some(next) = cache.next_refresh().filter(|next| *next < NOW + 990) {
            cache.take_due(next, nobody);
        }
        let next = cache.next_refresh().unwrap();
        assert!(next < NOW + 1100, "{next}");
        cache.know(&question.fingerprint, None, NOW + 995);
        assert_eq!(cache.take_due(next, |_| true).len(), 1);
    }

    #[test]
    fn what_somebody_wants_to_know_is_asked_again_ahead_of_its_end() {
        let question = Arc::new(question("asked"));
        let mut cache = Cache::default();
        cache.learn_asked(&question, good(NOW), 0, NOW);
        assert_eq!(cache.next_refresh(), Some(NOW + 500));
        assert!(cache.take_due(NOW + 499, nobody).is_empty());
        assert!(cache.take_due(NOW + 500, nobody).is_empty(), "nobody has wanted to know");
        let second = cache.next_refresh().unwrap();
        assert!(second > NOW + 500 && second < NOW + 1000, "{second}");
        cache.know(&question.fingerprint, None, NOW + 600);
        assert_eq!(cache.take_due(second, nobody).len(), 1);
        // The same answer again: half of what is left, until nothing is left.
        let mut times = vec![second];
        while let Some(next) = cache.next_refresh().filter(|next| *next < NOW + 1000) {
            cache.learn_asked(&question, good(NOW), 0, next);
            times.push(next);
            assert!(times.len() < 10, "{times:?}");
        }
        assert!(
            times.windows(2).all(|pair| pair[1] - pair[0] >= REFRESH_SECONDS_MIN || pair[1] == pair[0]),
            "{times:?}"
        );
        for (left, jitter, wanted) in [
            (1000, 0, Some(NOW + 500)),
            (1000, 255, Some(NOW + 749)),
            (40, 255, Some(NOW + 30)),
            (30, 0, None),
            (1, 0, None),
        ] {
            assert_eq!(refresh_at(&answer(Status::Good, NOW, NOW + left), jitter, NOW), wanted, "{left} {jitter}");
        }
    }

    #[test]
    fn there_is_room_for_so_many_and_what_was_revoked_keeps_its_place() {
        let of = |index: usize| Fingerprint::of(&index.to_be_bytes());
        let mut cache = Cache::default();
        cache.learn(of(0), revoked(NOW), NOW);
        for index in 1..ENTRIES_MAX * 2 {
            cache.learn(of(index), good(NOW), NOW + index as u64 / 16);
        }
        assert_eq!(cache.entries.len(), ENTRIES_MAX);
        assert_eq!(cache.know(&of(0), None, NOW), Known::Revoked { revocation: revocation(), is_current: true });
        assert_eq!(cache.know(&of(1), None, NOW), Known::Nothing, "the oldest");
        assert_eq!(cache.know(&of(ENTRIES_MAX * 2 - 1), None, NOW), Known::Good { by_staple: false });
        for index in 0..ENTRIES_MAX * 2 {
            cache.fail(of(index), NOW);
        }
        assert!(cache.failures.len() <= ENTRIES_MAX);
    }

    #[test]
    fn a_failure_is_not_repeated_for_a_while_and_said_once() {
        let certificate = Fingerprint::of(b"certificate");
        let mut cache = Cache::default();
        assert!(!cache.has_failed(&certificate, NOW));
        assert!(cache.fail(certificate, NOW), "new");
        assert!(cache.has_failed(&certificate, NOW + FAILURE_SECONDS - 1));
        assert!(!cache.has_failed(&certificate, NOW + FAILURE_SECONDS));
        assert!(!cache.fail(certificate, NOW + FAILURE_SECONDS), "it goes on");
        assert!(cache.fail(certificate, NOW + 10 * FAILURE_SECONDS), "new again");
    }
}
