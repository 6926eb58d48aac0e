//! Sessions that are to end as soon as nothing is outstanding: why, since when, and who says so.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sealane_io::Stream;
use sealane_io::rt::{self, Broadcast, Either};
use sealane_proto::tls::{Role, TlsError};

use crate::config::RevokedLive;
use crate::error::SessionError;
use crate::explain::peer_of;
use crate::peers::Shown;
use crate::session::Shared;

/// What a session that was to end for a revocation has beyond its times, before it is ended.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// How long a session waits for its first call when the tunnel stops: whoever was accepted is served.
const FIRST_CALL_MAX: Duration = Duration::from_secs(1);
const FIRST_CALL_TICK: Duration = Duration::from_millis(5);

/// How often a wait looks at its conditions when no signal comes.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Why a session takes no more calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Drain {
    /// TLS 1.2: a key is used up.
    KeyUsedUp,
    /// The peer's certificate was revoked.
    Revoked,
    /// The tunnel stops.
    Leaving,
}

impl Drain {
    /// Why the session ends, on our end of TLS.
    pub(crate) fn reason(self, role: Role) -> &'static str {
        match (self, role) {
            (Self::KeyUsedUp, _) => "the TLS 1.2 key was used up",
            (Self::Revoked, Role::Client) => "the server's certificate was revoked",
            (Self::Revoked, Role::Server) => "the client's certificate was revoked",
            (Self::Leaving, _) => "the tunnel stops",
        }
    }

    /// What it comes to where a session cannot end well.
    pub(crate) fn error(self, role: Role) -> SessionError {
        match self {
            Self::KeyUsedUp => SessionError::Tls(TlsError::KeyExhausted),
            Self::Revoked => SessionError::Revoked(role),
            Self::Leaving => SessionError::Stopped,
        }
    }
}

impl<S: Stream> Shared<S> {
    /// Has the session end as soon as nothing is outstanding.
    pub(crate) fn begin_drain(&self, why: Drain) {
        if self.drain().is_none_or(|before| before != why && why == Drain::Revoked) {
            self.drain.set(Some((why, rt::now())));
        }
    }

    /// Why the session is to end as soon as nothing is outstanding, if it is.
    pub(crate) fn drain(&self) -> Option<Drain> {
        self.drain.get().map(|(why, _)| why)
    }

    /// For how long the session has been draining.
    pub(crate) fn draining_for(&self) -> Duration {
        self.drain.get().map_or(Duration::ZERO, |(_, began)| rt::now() - began)
    }

    /// Whether the peer of a drained session owes a reply that would still be taken.
    pub(crate) fn still_owes(&self) -> bool {
        self.replies_due() > 0 && !self.calls_held_back.get()
    }

    /// Whether a drained peer has had its time to close: what it owes has its own before that.
    pub(crate) fn has_waited_for_close(&self) -> bool {
        let (Some((why, began)), Some(closed)) = (self.drain.get(), self.closed.get()) else { return false };
        let times = &self.config.timeouts;
        let owed = if self.still_owes() { times.most_to_drain(why) } else { Duration::ZERO };
        rt::now() >= (began + owed).max(closed) + times.most_to_close(why)
    }

    /// Hears of what has the session end at a boundary. Returns when one of these was to end it, and has not.
    pub(crate) async fn hear(&self, shown: Option<Arc<Shown>>, peer: SocketAddr, leave: &Broadcast) -> SessionError {
        match rt::race(self.heed(shown, peer), self.leave(leave)).await {
            Either::Left(error) => error,
            Either::Right(never) => match never {},
        }
    }

    /// Hears of it when the tunnel stops: it ends what has not ended by itself in time.
    pub(crate) async fn leave(&self, leave: &Broadcast) -> Infallible {
        leave.wait().await;
        let (since, most) = (rt::now(), FIRST_CALL_MAX.min(self.config.timeouts.leave / 2));
        let client = match self.role() {
            Role::Client => &self.out,
            Role::Server => &self.back,
        };
        while client.bytes.get() == 0 && rt::now() - since < most {
            rt::sleep(FIRST_CALL_TICK).await;
        }
        self.begin_drain(Drain::Leaving);
        self.wake_outbound.set();
        std::future::pending().await
    }

    /// Hears of it when what the peer has `shown` is revoked. Returns when that was to end the session, and has not.
    async fn heed(&self, shown: Option<Arc<Shown>>, peer: SocketAddr) -> SessionError {
        let Some(shown) = shown else { return std::future::pending().await };
        let why = shown.revoked().await;
        let who = peer_of(self.role());
        self.counters.connections_revoked_total.add(1);
        match self.config.revoked_live {
            RevokedLive::Log => {
                tracing::warn!(%peer, "{who}'s certificate {why}; the connection goes on (--revoked-live log)");
            }
            RevokedLive::Close => {
                tracing::warn!(%peer, "{who}'s certificate {why}; the connection ends when nothing is outstanding");
                self.begin_drain(Drain::Revoked);
                self.wake_outbound.set();
                // Whatever a direction waits for by then.
                let times = &self.config.timeouts;
                rt::sleep(times.most_to_drain(Drain::Revoked) + times.close + DRAIN_GRACE).await;
                return SessionError::Revoked(self.role());
            }
        }
        std::future::pending().await
    }
}
