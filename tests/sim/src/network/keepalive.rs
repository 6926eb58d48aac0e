//! When TCP itself gives a connection up, and what it says meanwhile.

use std::time::{Duration, Instant};

use sealane_io::Unheard;
use sealane_io::rt;

use super::End;

/// After so long without a word TCP asks whether the other end is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// For so long it asks.
const KEEPALIVE_PROBES: Duration = Duration::from_secs(30);

/// As the tunnel sets it, where it does.
const USER_TIMEOUT: Duration = Duration::from_secs(180);

impl End {
    /// As [`sealane_io::Control::unheard`]. A peer whose buffer is full answers the probes, unless the path is cut.
    pub(crate) fn unheard(&self) -> Option<Unheard> {
        let cut_for = self.0.shared.state.borrow().cut_at.map(|at| rt::now() - at);
        let is_probed = cut_for.is_some() && self.room() == 0;
        match (cut_for, self.is_acknowledged() && !is_probed) {
            (cut_for, false) => Some(Unheard::Bytes(cut_for.unwrap_or_default())),
            // From then on TCP asks.
            (Some(cut_for), true) => cut_for.checked_sub(KEEPALIVE).map(Unheard::Probes),
            (None, true) => None,
        }
    }

    /// From now on TCP asks whether the other end is there.
    pub(crate) fn begins_to_ask(&self) {
        self.with(|_, _, own, _| (own.asks, own.user_timeout) = (true, Some(USER_TIMEOUT)));
    }

    pub(crate) fn user_timeout(&self) -> Option<Duration> {
        self.with(|_, _, own, _| own.user_timeout)
    }

    pub(crate) fn set_user_timeout(&self, timeout: Option<Duration>) {
        let is_ended = self.with(|_, _, own, _| {
            own.user_timeout = timeout;
            own.is_ended
        });
        assert!(!is_ended || timeout.is_some(), "left to keepalive, though nobody receives from it any more");
        self.0.shared.changed();
    }

    /// When keepalive gives the connection up, should nothing else be under way.
    pub(super) fn given_up_at(&self) -> Option<Instant> {
        let cut_at = self.0.shared.state.borrow().cut_at?;
        // Not while something waits behind the other end's closed window.
        let asks = self.is_acknowledged() && self.room() > 0 && self.with(|_, _, own, _| own.asks && !own.is_reset);
        let limit = self.user_timeout().unwrap_or(KEEPALIVE + KEEPALIVE_PROBES);
        asks.then(|| cut_at + limit)
    }

    pub(super) fn give_up(&self) {
        self.with(|_, _, own, _| (own.is_reset, own.is_given_up) = (true, true));
        self.0.shared.changed();
    }
}
