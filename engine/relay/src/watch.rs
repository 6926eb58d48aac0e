//! Notices that a connection is dead although nobody has said so: decides from what both directions have done, never looks
//! at a socket or a clock itself.
//!
//! Four clocks run, each only while it has a reason. A side that is asked for nothing may be silent for ever: an idle mount
//! is never cut.

use std::time::{Duration, Instant};

use sealane_io::Unheard;

use crate::config::Timeouts;
use crate::error::{SessionError, Side};

/// The clocks are looked at so often within the shortest of their limits.
const LOOKS_PER_LIMIT: u32 = 8;
const TICK_MIN: Duration = Duration::from_millis(20);
const TICK_MAX: Duration = Duration::from_secs(5);

/// What one direction has done so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Flow {
    /// Bytes that were received.
    pub(crate) received: u64,
    /// Sends that were completed.
    pub(crate) sends: u64,
    /// A send waits for the other side.
    pub(crate) is_sending: bool,
    /// What was received ends inside a record, of TLS or of RPC.
    pub(crate) is_inside: bool,
}

/// A side of the session, by its own direction and what is known of its path.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct SideFacts {
    /// The direction that comes from this side.
    pub(crate) flow: Flow,
    /// It is the NFS server's, and owes replies.
    pub(crate) owes_replies: bool,
    /// It owes an acknowledgement, and its last one came so long ago.
    pub(crate) unheard: Option<Unheard>,
    /// Something waits for it: on its way, or behind its closed window, where keepalive does not ask.
    pub(crate) is_awaited: bool,
}

impl SideFacts {
    /// Whether none of its clocks has a reason to run: TCP's keepalive is enough.
    pub(crate) fn is_at_rest(&self) -> bool {
        let Self { flow, owes_replies, unheard, is_awaited } = self;
        !flow.is_sending && !flow.is_inside && !owes_replies && unheard.is_none() && !is_awaited
    }
}

/// How long something has stayed as it is.
#[derive(Clone, Copy, Debug, Default)]
struct Clock(Option<(u64, Instant)>);

impl Clock {
    /// `count`: what would change if anything happened; none stops the clock.
    fn read(&mut self, now: Instant, count: Option<u64>) -> Duration {
        match (count, self.0) {
            (Some(count), Some((same, since))) if count == same => now - since,
            (count, _) => {
                self.0 = count.map(|count| (count, now));
                Duration::ZERO
            }
        }
    }

    /// It began so long ago.
    fn begin(&mut self, now: Instant, ago: Duration) {
        self.0 = now.checked_sub(ago).map(|then| (0, then));
    }

    /// Something happened so long ago.
    fn set(&mut self, now: Instant, ago: Duration) {
        if let (Some((_, since)), Some(then)) = (&mut self.0, now.checked_sub(ago)) {
            *since = then.max(*since);
        }
    }
}

#[derive(Debug, Default)]
struct SideClocks {
    replies: Clock,
    half_record: Clock,
    taking: Clock,
    acknowledging: Clock,
}

/// The clocks of one session.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    plain: SideClocks,
    tls: SideClocks,
}

/// When to look next; `None` when every clock is switched off.
pub(crate) fn tick(times: &Timeouts) -> Option<Duration> {
    let limits = [times.silence, times.stall, times.acknowledge];
    let shortest = limits.into_iter().filter(|limit| !limit.is_zero()).min()?;
    Some((shortest / LOOKS_PER_LIMIT).clamp(TICK_MIN, TICK_MAX))
}

impl Watch {
    /// Looks at all clocks; the error of the first that has run out.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        times: &Timeouts,
        plain: SideFacts,
        tls: SideFacts,
    ) -> Option<SessionError> {
        let first = self.plain.look(now, times, Side::Plain, plain, tls.flow);
        first.or_else(|| self.tls.look(now, times, Side::Tls, tls, plain.flow))
    }
}

impl SideClocks {
    /// `towards`: the direction that this side is to take.
    fn look(
        &mut self,
        now: Instant,
        times: &Timeouts,
        side: Side,
        facts: SideFacts,
        towards: Flow,
    ) -> Option<SessionError> {
        let SideFacts { flow, owes_replies, unheard, .. } = facts;
        // While the other side does not take what came from this one, nobody listens to it.
        let listened_to = !flow.is_sending;
        let silent = self.replies.read(now, (owes_replies && listened_to).then_some(flow.received));
        let inside = self.half_record.read(now, (flow.is_inside && listened_to).then_some(flow.received));
        let stalled = self.taking.read(now, towards.is_sending.then_some(towards.sends));
        self.acknowledging.read(now, unheard.map(|_| 0));
        match unheard {
            None => {}
            Some(Unheard::Bytes(ago)) => self.acknowledging.set(now, ago),
            Some(Unheard::Probes(ago)) => self.acknowledging.begin(now, ago),
        }
        let unheard = self.acknowledging.read(now, unheard.map(|_| 0));
        let is_over = |time: Duration, limit: Duration| !limit.is_zero() && time >= limit;
        if is_over(unheard, times.acknowledge) {
            Some(SessionError::Unreachable { side, limit: times.acknowledge })
        } else if is_over(silent, times.silence) {
            Some(SessionError::Silent { side, limit: times.silence })
        } else if is_over(inside, times.stall) {
            Some(SessionError::HalfRecord { side, limit: times.stall })
        } else if is_over(stalled, times.stall) {
            Some(SessionError::Stalled { side, limit: times.stall })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Timeouts = Timeouts {
        silence: Duration::from_secs(180),
        stall: Duration::from_secs(100),
        acknowledge: Duration::from_secs(30),
        ..Timeouts::DEFAULT
    };

    /// Looks each second for so long; when the first error came.
    fn after(seconds: u64, facts: impl Fn(u64) -> (SideFacts, SideFacts)) -> Option<(u64, String)> {
        let (mut watch, start) = (Watch::default(), sealane_io::rt::now());
        (0..=seconds).find_map(|second| {
            let (plain, tls) = facts(second);
            let error = watch.look(start + Duration::from_secs(second), &TIMES, plain, tls)?;
            Some((second, format!("{error:?}")))
        })
    }

    fn owing(received: u64) -> SideFacts {
        SideFacts { owes_replies: true, flow: Flow { received, ..Flow::default() }, ..SideFacts::default() }
    }

    #[test]
    fn only_who_owes_nothing_is_at_rest() {
        assert!(SideFacts::default().is_at_rest());
        let (busy, idle) = (Flow::default(), SideFacts::default());
        for facts in [
            owing(0),
            SideFacts { flow: Flow { is_sending: true, ..busy }, ..idle },
            SideFacts { flow: Flow { is_inside: true, ..busy }, ..idle },
            SideFacts { unheard: Some(Unheard::Bytes(Duration::ZERO)), ..idle },
            SideFacts { is_awaited: true, ..idle },
        ] {
            assert!(!facts.is_at_rest(), "{facts:?}");
        }
    }

    #[test]
    fn an_idle_connection_is_never_cut() {
        assert_eq!(after(1_000_000, |_| Default::default()), None);
    }

    #[test]
    fn a_commit_may_take_100_seconds_and_a_server_that_owes_a_reply_180_since_its_last_byte() {
        let commit = |second: u64| if (1000..1100).contains(&second) { owing(7) } else { SideFacts::default() };
        assert_eq!(after(3000, |second| (SideFacts::default(), commit(second))), None);
        // It owes a reply from second 1000 on, and says its last byte in second 1050.
        let dead = |second: u64| if second < 1000 { SideFacts::default() } else { owing(second.min(1050)) };
        let (second, error) = after(3000, |second| (SideFacts::default(), dead(second))).unwrap();
        assert_eq!(second, 1230, "{error}");
        assert!(error.contains("Silent") && error.contains("Tls"), "{error}");
    }

    #[test]
    fn a_server_whose_replies_nobody_takes_is_not_called_silent() {
        let blocked = |second: u64| {
            let flow = Flow { is_sending: true, sends: second / 99, ..Flow::default() };
            (SideFacts::default(), SideFacts { flow, ..owing(1) })
        };
        assert_eq!(after(3000, blocked), None);
    }

    #[test]
    fn a_side_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let sending = |sends| {
            let flow = Flow { is_sending: true, sends, ..Flow::default() };
            (SideFacts { flow, ..SideFacts::default() }, SideFacts::default())
        };
        assert_eq!(after(3000, |second| sending(second / 90)), None);
        let (second, error) = after(3000, |second| sending(second.min(50))).unwrap();
        assert_eq!(second, 150, "{error}");
        // What comes from the plain side is not taken by the TLS side.
        assert!(error.contains("Stalled") && error.contains("Tls"), "{error}");
    }

    #[test]
    fn half_a_record_does_not_stay() {
        let inside = |received| {
            let flow = Flow { is_inside: true, received, ..Flow::default() };
            (SideFacts { flow, ..SideFacts::default() }, SideFacts::default())
        };
        assert_eq!(after(3000, |second| inside(second / 99)), None);
        let (second, error) = after(3000, |second| inside(second.min(10))).unwrap();
        assert_eq!(second, 110, "{error}");
        assert!(error.contains("HalfRecord") && error.contains("Plain"), "{error}");
    }

    #[test]
    fn a_path_is_dead_30_seconds_after_the_last_acknowledgement_that_was_owed() {
        let path = |unheard: Option<Duration>| {
            let unheard = unheard.map(Unheard::Bytes);
            (SideFacts::default(), SideFacts { unheard, ..SideFacts::default() })
        };
        // Idle for long, then 29 s without an acknowledgement, then one.
        let patchy = |second: u64| match second % 1000 {
            0..900 => None,
            second => Some(Duration::from_secs(if second < 929 { second } else { 0 })),
        };
        assert_eq!(after(30_000, |second| path(patchy(second))), None);
        let dead = |second: u64| (second >= 900).then(|| Duration::from_secs(second));
        let (second, error) = after(3000, |second| path(dead(second))).unwrap();
        assert_eq!(second, 930, "{error}");
        // Acknowledgements came until second 1000.
        let late = |second: u64| (second >= 900).then(|| Duration::from_secs(second.saturating_sub(1000)));
        assert_eq!(after(3000, |second| path(late(second))).unwrap().0, 1030);
    }

    #[test]
    fn an_idle_path_is_dead_30_seconds_after_the_first_probe_however_rarely_it_is_looked_at() {
        let (mut watch, start) = (Watch::default(), sealane_io::rt::now());
        let mut look = |second, probed_for: Option<u64>| {
            let unheard = probed_for.map(|seconds| Unheard::Probes(Duration::from_secs(seconds)));
            let tls = SideFacts { unheard, ..SideFacts::default() };
            watch.look(start + Duration::from_secs(second), &TIMES, SideFacts::default(), tls)
        };
        assert!(look(10, None).is_none() && look(20, Some(29)).is_none() && look(30, None).is_none());
        let error = look(40, Some(30)).unwrap();
        assert!(matches!(error, SessionError::Unreachable { side: Side::Tls, .. }), "{error:?}");
    }

    #[test]
    fn a_limit_of_nothing_is_no_limit() {
        let none = Timeouts { silence: Duration::ZERO, stall: Duration::ZERO, acknowledge: Duration::ZERO, ..TIMES };
        assert_eq!(tick(&none), None);
        let (mut watch, start) = (Watch::default(), sealane_io::rt::now());
        for second in [0, 100_000] {
            let facts = SideFacts { unheard: Some(Unheard::Bytes(Duration::from_secs(second))), ..owing(1) };
            assert!(watch.look(start + Duration::from_secs(second), &none, facts, facts).is_none());
        }
        assert_eq!(tick(&TIMES), Some(Duration::from_millis(3750)));
    }
}
