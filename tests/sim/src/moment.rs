//! When things happen, and who had the time until then.
//!
//! The relay takes no time of its own: on the virtual clock its work is instantaneous. So of the time between two events of
//! one session, whatever is more than its delays on the network and its peers' pauses is time in which the relay stood
//! still, for one of its clocks or because it missed something.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A moment in one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    /// What the network and the peers have taken so far.
    explained: Duration,
    /// What nobody had anything to do in.
    idle: Duration,
}

impl Moment {
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.at.saturating_duration_since(earlier.at)
    }

    /// The time since then that the network and the peers have not taken.
    pub(crate) fn unexplained_since(self, earlier: Self) -> Duration {
        self.since(earlier).saturating_sub(self.explained.saturating_sub(earlier.explained))
    }

    /// The same, without the time in which there was nothing to do.
    pub(crate) fn stood_still_since(self, earlier: Self) -> Duration {
        self.unexplained_since(earlier).saturating_sub(self.idle.saturating_sub(earlier.idle))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    explained: Duration,
    idle: Duration,
    late: u32,
}

/// What has taken time, by session.
#[derive(Default)]
pub(crate) struct Ledger(BTreeMap<u32, Account>);

impl Ledger {
    pub(crate) fn moment(&self, session: u32, at: Instant) -> Moment {
        let Account { explained, idle, .. } = self.0.get(&session).copied().unwrap_or_default();
        Moment { at, explained, idle }
    }

    /// Something takes so long. Two things at once count twice: a bound, not a measure.
    pub(crate) fn explain(&mut self, session: u32, duration: Duration) {
        self.0.entry(session).or_default().explained += duration;
    }

    pub(crate) fn idle(&mut self, session: u32, duration: Duration) {
        self.0.entry(session).or_default().idle += duration;
    }

    /// A completion begins, or ends, to be late.
    pub(crate) fn late(&mut self, session: u32, begins: bool) {
        let late = &mut self.0.entry(session).or_default().late;
        *late = if begins { *late + 1 } else { late.saturating_sub(1) };
    }

    pub(crate) fn is_one_late(&self, session: u32) -> bool {
        self.0.get(&session).is_some_and(|account| account.late > 0)
    }
}
