//! When a worker looks for the next message instead of sleeping until it comes.
//!
//! After a message was passed on, its answer is coming. To sleep until then costs the processor something, and to be woken
//! costs time: for small calls one at a time, more than everything else. To look until it comes costs as much as it takes.
//! Which is less depends on the host, on the server, and on who else wants the processor. So a worker tries now and then, and
//! goes by what its own thread has used for a message.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealane_io::host::{self, Throttling};
use sealane_io::rt::{self, Signal};

use crate::config::Spin;
use crate::counters::Counters;

/// More outstanding calls than these keep a worker awake by themselves.
const CALLS_MAX: u64 = 2;
/// A longer message is work of its own: who waits for it does not wait for a lone message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// The cost of a message is that of so many, divided.
const ROUND_MESSAGES: u32 = 64;
/// Whoever spins asks its own sockets so often until the driver, and others, have their turn.
const POLLS_PER_LOOK: u32 = 8;
/// A round begins after so many lone messages in a row.
const LONE_MIN: u32 = 4;
/// The longest spin, whatever sleeping costs.
const WINDOW_MAX: Duration = Duration::from_micros(200);
/// A trial ends early with so many spins in vain, if these are more than half of them.
const MISSES_MAX: u64 = 4;
/// The most rounds between two trials.
const STAY_MAX: u32 = 64;
/// By how much these become more after a trial that did not pay, and after one that was in vain: each costs as much as sleeping
/// does, several times.
const STAY_GROWS: u32 = 2;
const STAY_GROWS_IN_VAIN: u32 = 4;
/// After so many rounds in a row that were not of lone messages alone, what spinning costs is not known any more.
const DISTURBED_MAX: u32 = 16;
/// Rounds without spinning after processor time ran short: a few hundred milliseconds of busy calls, and half a minute.
const HOLD_MIN: u32 = 64;
const HOLD_MAX: u32 = 4096;
/// By so many rounds of spinning that are let pass, the next hold becomes shorter by one. A period of the kernel's account has
/// dozens to hundreds of rounds: where each ends in a hold, holds are to become longer all the same.
const HOLD_FADES: u32 = 16;
/// How much a round changes what is known of the cost of going on as before; that of a trial is its own.
const WEIGHT: f64 = 0.25;
/// Spinning is chosen when it costs at most this part of sleeping: what is measured is not exact.
const PAYS: f64 = 0.95;
/// When the cost of spinning changes by more than this part within a round, the work is another one.
const DRIFT: f64 = 0.2;

/// What is waited for awake.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Waking {
    /// Nothing.
    Never,
    /// What was called for.
    ForReplies,
    /// That, and the next call.
    Always,
}

/// What a round of one kind has cost.
#[derive(Clone, Copy, Debug, Default)]
struct Costs {
    never: Option<f64>,
    for_replies: Option<f64>,
    always: Option<f64>,
}

impl Costs {
    fn of(&mut self, awake: Waking) -> &mut Option<f64> {
        match awake {
            Waking::Never => &mut self.never,
            Waking::ForReplies => &mut self.for_replies,
            Waking::Always => &mut self.always,
        }
    }

    /// The most that costs less than sleeping.
    fn best(&self) -> Waking {
        let pays = |cost: Option<f64>| matches!((cost, self.never), (Some(cost), Some(never)) if cost.is_finite() && cost <= PAYS * never);
        if pays(self.always) {
            Waking::Always
        } else if pays(self.for_replies) {
            Waking::ForReplies
        } else {
            Waking::Never
        }
    }
}

/// Chooses between sleeping and spinning. Knows no clock: it is told what its thread has used.
#[derive(Debug)]
struct Policy {
    /// Nanoseconds for each message.
    costs: Costs,
    chosen: Waking,
    /// What this round does: what was chosen, or a trial of something else.
    tried: Waking,
    /// Which trial was the last one.
    last_trial: Waking,
    /// Rounds until the next trial, and how many there were between the last two.
    left: u32,
    stay: u32,
    disturbed: u32,
    /// Messages in a row that were lone ones.
    lone: u32,
    /// How many rounds of spinning are to be let pass until the last hold is forgotten: [`HOLD_FADES`] for each of its own.
    held: u32,
    round: Option<Round>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    messages: u32,
    begun: Account,
    misses: u64,
}

/// What is said of the thread.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Its processor time so far.
    used: Duration,
    /// How often the process has been made to wait for want of processor time so far.
    throttled: u64,
}

impl Policy {
    const fn new() -> Self {
        Self {
            costs: Costs { never: None, for_replies: None, always: None },
            chosen: Waking::Never,
            tried: Waking::Never,
            last_trial: Waking::Never,
            left: 1,
            stay: 1,
            disturbed: 0,
            lone: 0,
            held: 0,
            round: None,
        }
    }

    /// How long to spin for a message; `is_reply`: it was called for.
    fn window(&self, is_reply: bool) -> Option<Duration> {
        let is_awake = self.tried == Waking::Always || (self.tried == Waking::ForReplies && is_reply);
        let asleep = self.costs.never.filter(|_| is_awake)?;
        Some(Duration::from_nanos(asleep as u64).min(WINDOW_MAX))
    }

    /// There is more to do than to wait for a lone message.
    fn disturb(&mut self) {
        if std::mem::take(&mut self.lone) > 0 {
            self.round = None;
            self.disturbed += 1;
            if self.disturbed >= DISTURBED_MAX {
                let costs = Costs { never: self.costs.never, ..Costs::default() };
                let left = if self.held > 0 { self.left.max(1) } else { 1 };
                *self = Self { costs, held: self.held, left, ..Self::new() };
            }
        }
    }

    /// A lone message has come. `misses`: the thread's spins in vain so far.
    fn message(&mut self, account: impl FnOnce() -> Account, misses: u64) {
        self.lone = self.lone.saturating_add(1);
        let Some(round) = &mut self.round else {
            // To ask for the account costs as much as a small call's own work: not between the messages of a stream.
            if self.lone < LONE_MIN {
                return;
            }
            self.round = Some(Round { messages: 0, begun: account(), misses });
            return;
        };
        round.messages += 1;
        let missed = misses - round.misses;
        // Misses of a round without spinning are left over from the one before.
        let is_vain = self.tried != Waking::Never && missed >= MISSES_MAX && missed > u64::from(round.messages) / 2;
        if is_vain || round.messages >= ROUND_MESSAGES {
            let (begun, now) = (round.begun, account());
            let cost = (now.used.saturating_sub(begun.used).as_nanos() as f64) / f64::from(round.messages);
            self.round = None;
            self.disturbed = 0;
            if self.tried != Waking::Never && now.throttled > begun.throttled {
                self.hold();
            } else {
                // What was cut short is not compared: it has failed.
                self.judge(if is_vain { f64::INFINITY } else { cost });
            }
        }
    }

    /// Where processor time is short, there is none for this: not for a while, and each time for longer. The kernel makes a
    /// process wait once in a period (100 ms), so most rounds between do not show it.
    fn hold(&mut self) {
        self.costs = Costs { never: self.costs.never, always: Some(f64::INFINITY), for_replies: Some(f64::INFINITY) };
        (self.chosen, self.tried, self.stay) = (Waking::Never, Waking::Never, 1);
        self.held = (self.held * 2).clamp(HOLD_MIN * HOLD_FADES, HOLD_MAX * HOLD_FADES);
        self.left = self.held / HOLD_FADES;
    }

    /// A round has cost so much.
    fn judge(&mut self, cost: f64) {
        if self.tried != Waking::Never {
            self.held = self.held.saturating_sub(1);
        }
        let was_trial = self.tried != self.chosen;
        let known = self.costs.of(self.tried);
        let before = known.filter(|before| !was_trial && before.is_finite() && cost.is_finite());
        let has_drifted =
            before.is_some_and(|before| self.chosen != Waking::Never && (cost - before).abs() > DRIFT * before);
        *known = Some(before.filter(|_| !has_drifted).map_or(cost, |before| before + WEIGHT * (cost - before)));
        let best = self.costs.best();
        if best != self.chosen {
            (self.chosen, self.stay) = (best, 1);
            self.left = self.stay;
        } else if was_trial {
            let by = if cost.is_finite() { STAY_GROWS } else { STAY_GROWS_IN_VAIN };
            self.stay = (self.stay * by).min(STAY_MAX);
            self.left = self.stay;
        } else {
            self.left = self.left.saturating_sub(1);
        }
        self.tried = match (has_drifted, self.left) {
            // What sleeping costs with this work is not known: to find out costs nothing.
            (true, _) => Waking::Never,
            (false, 0) => self.next_trial(),
            (false, _) => self.chosen,
        };
    }

    /// Of the two that were not chosen, the one that was not tried last.
    fn next_trial(&mut self) -> Waking {
        let others = match self.chosen {
            Waking::Never => [Waking::ForReplies, Waking::Always],
            Waking::ForReplies => [Waking::Never, Waking::Always],
            Waking::Always => [Waking::Never, Waking::ForReplies],
        };
        let [first, second] = others;
        self.last_trial = if self.last_trial == first { second } else { first };
        self.last_trial
    }
}

/// What the sessions of one worker know of each other's waiting.
pub(crate) struct Spinning {
    mode: Spin,
    policy: RefCell<Policy>,
    misses: Cell<u64>,
    throttling: Option<Arc<Throttling>>,
}

impl Spinning {
    pub(crate) fn new(mode: Spin, throttling: Option<Arc<Throttling>>) -> Self {
        Self { mode, policy: RefCell::new(Policy::new()), misses: Cell::new(0), throttling }
    }

    /// How long to spin when a message of so many bytes has been passed on and so many calls are outstanding.
    fn window(&self, bytes: usize, outstanding: u64) -> Option<Duration> {
        let is_lone = bytes <= MESSAGE_BYTES_MAX && outstanding <= CALLS_MAX;
        match self.mode {
            Spin::Off => None,
            Spin::For(time) => is_lone.then_some(time),
            Spin::Auto if !is_lone => {
                self.policy.borrow_mut().disturb();
                None
            }
            Spin::Auto => self.policy.borrow().window(outstanding > 0),
        }
    }

    /// So many bytes have come.
    fn came(&self, bytes: usize) {
        if self.mode != Spin::Auto {
        } else if bytes > MESSAGE_BYTES_MAX {
            self.policy.borrow_mut().disturb();
        } else {
            let throttled = || self.throttling.as_ref().map_or(0, |throttling| throttling.count());
            let account = || Account { used: host::thread_time(), throttled: throttled() };
            self.policy.borrow_mut().message(account, self.misses.get());
        }
    }
}

/// The spinning of one session.
pub(crate) struct Awake {
    worker: Rc<Spinning>,
    counters: Arc<Counters>,
    until: Cell<Option<Instant>>,
    begun: Signal,
}

impl Awake {
    pub(crate) fn new(worker: Rc<Spinning>, counters: Arc<Counters>) -> Self {
        Self { worker, counters, until: Cell::new(None), begun: Signal::default() }
    }

    /// A message of so many bytes was passed on, and now so many calls are outstanding: the next one may come soon.
    pub(crate) fn expect(&self, bytes: usize, outstanding: u64) {
        if let Some(window) = self.worker.window(bytes, outstanding) {
            self.counters.spins_total.add(1);
            if self.until.replace(Some(rt::now() + window)).is_none() {
                self.begun.set();
            }
        }
    }

    /// So many bytes came.
    pub(crate) fn came(&self, bytes: usize) {
        self.until.set(None);
        self.worker.came(bytes);
    }

    /// Keeps the session from sleeping while something is expected; `set_eager` tells its streams, `rouse` has polled, next
    /// time, what receives and sends: before this here. `look`: [`sealane_io::Stream::look`].
    pub(crate) async fn run(&self, set_eager: impl Fn(bool), rouse: impl Fn(), look: impl AsyncFn()) -> Infallible {
        let eagerness = Eagerness { set_eager, rouse };
        let mut polls = 0_u32;
        loop {
            self.begun.wait().await;
            (eagerness.set_eager)(true);
            while let Some(until) = self.until.get() {
                if rt::now() >= until {
                    self.until.set(None);
                    self.worker.misses.set(self.worker.misses.get() + 1);
                    self.counters.spins_in_vain_total.add(1);
                    break;
                }
                (eagerness.rouse)();
                polls = polls.wrapping_add(1);
                if polls.is_multiple_of(POLLS_PER_LOOK) {
                    look().await;
                } else {
                    rt::poll_again().await;
                }
            }
            eagerness.end();
            look().await;
        }
    }
}

/// Ends when it is dropped: nobody polls all the time any more when the future is gone that did.
struct Eagerness<F: Fn(bool), G: Fn()> {
    set_eager: F,
    rouse: G,
}

impl<F: Fn(bool), G: Fn()> Eagerness<F, G> {
    /// What waits is polled once more, and so told of by its driver from now on.
    fn end(&self) {
        (self.set_eager)(false);
        (self.rouse)();
    }
}

impl<F: Fn(bool), G: Fn()> Drop for Eagerness<F, G> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host and a server, in nanoseconds.
    struct World {
        /// To pass on a message.
        work: u64,
        /// To sleep and to be woken.
        sleep: u64,
        /// Until a reply comes, and until the next call.
        reply: u64,
        think: u64,
        /// There is no processor time for spinning.
        is_limited: bool,
    }

    /// A worker, and what its thread has used so far.
    struct Life {
        policy: Policy,
        used: u64,
        misses: u64,
        /// Messages that were waited for awake.
        awake: u64,
        throttled: u64,
        throttled_at: u64,
    }

    impl Life {
        fn new() -> Self {
            Self { policy: Policy::new(), used: 0, misses: 0, awake: 0, throttled: 0, throttled_at: 0 }
        }

        /// Passes on so many calls and their replies; what a message has cost.
        fn live(&mut self, world: &World, calls: u32) -> f64 {
            let before = self.used;
            for _ in 0..calls {
                for (is_reply, wait) in [(true, world.reply), (false, world.think)] {
                    let awake = self.policy.window(is_reply).map(|window| window.as_nanos() as u64);
                    self.used += world.work
                        + match awake {
                            Some(window) if wait <= window => wait,
                            Some(window) => {
                                self.misses += 1;
                                window + world.sleep
                            }
                            None => world.sleep,
                        };
                    self.awake += u64::from(awake.is_some());
                    // Once in a period, for whoever spins in it.
                    if awake.is_some() && world.is_limited && self.used - self.throttled_at >= PERIOD {
                        (self.throttled, self.throttled_at) = (self.throttled + 1, self.used);
                    }
                    let account = Account { used: Duration::from_nanos(self.used), throttled: self.throttled };
                    self.policy.message(|| account, self.misses);
                }
            }
            (self.used - before) as f64 / f64::from(2 * calls)
        }
    }

    /// Of a limit on processor time.
    const PERIOD: u64 = 100_000_000;
    const LOOPBACK: World = World { work: 10_000, sleep: 15_000, reply: 12_000, think: 3_000, is_limited: false };

    #[test]
    fn where_answers_come_sooner_than_sleeping_costs_it_spins() {
        let mut life = Life::new();
        let cost = life.live(&LOOPBACK, 100_000);
        assert_eq!(life.policy.chosen, Waking::Always);
        assert!(cost < 25_000.0, "{cost}");
    }

    #[test]
    fn where_answers_take_longer_it_sleeps_and_trying_costs_next_to_nothing() {
        for reply in [40_000, 500_000, 10_000_000] {
            let mut life = Life::new();
            let cost = life.live(&World { reply, think: 200_000, ..LOOPBACK }, 100_000);
            assert_eq!(life.policy.chosen, Waking::Never);
            assert!(cost < 25_000.0 * 1.01, "{reply}: {cost}");
        }
    }

    #[test]
    fn to_find_that_out_costs_little_from_the_beginning() {
        for think in [3_000, 200_000] {
            let cost = Life::new().live(&World { reply: 500_000, think, ..LOOPBACK }, 2_000);
            assert!(cost < 25_000.0 * 1.02, "{think}: {cost}");
        }
    }

    #[test]
    fn a_client_that_takes_its_time_is_not_waited_for_awake_but_its_replies_are() {
        let mut life = Life::new();
        life.live(&World { think: 1_000_000, ..LOOPBACK }, 10_000);
        assert_eq!(life.policy.chosen, Waking::ForReplies);
    }

    #[test]
    fn it_notices_when_a_server_becomes_slow_and_when_it_is_fast_again() {
        let mut life = Life::new();
        for _ in 0..3 {
            life.live(&LOOPBACK, 20_000);
            assert_eq!(life.policy.chosen, Waking::Always);
            life.live(&World { reply: 500_000, ..LOOPBACK }, 200);
            assert_ne!(life.policy.chosen, Waking::Always);
            life.live(&World { reply: 500_000, ..LOOPBACK }, 20_000);
        }
    }

    #[test]
    fn when_the_work_changes_it_is_not_held_to_what_other_work_has_cost() {
        let heavy = World { work: 90_000, ..LOOPBACK };
        let light = World { reply: 80_000, think: 40_000, ..LOOPBACK };
        let asleep = (light.work + light.sleep) as f64;
        for (calls, most) in [(7_000, 1.05), (1_000, 1.15)] {
            let mut life = Life::new();
            for cycle in 0..12 {
                life.live(&heavy, calls);
                let cost = life.live(&light, calls);
                assert!(cost < asleep * most, "{calls} calls, cycle {cycle}: {cost}");
            }
        }
    }

    #[test]
    fn a_long_message_is_no_lone_one() {
        let spinning = Spinning::new(Spin::For(Duration::from_millis(1)), None);
        assert_eq!(spinning.window(MESSAGE_BYTES_MAX, CALLS_MAX), Some(Duration::from_millis(1)));
        assert_eq!(spinning.window(MESSAGE_BYTES_MAX + 1, 1), None);
        assert_eq!(spinning.window(100, CALLS_MAX + 1), None);
    }

    #[test]
    fn where_processor_time_is_limited_it_sleeps() {
        let mut life = Life::new();
        let (calls, limited) = (1_000_000, World { is_limited: true, ..LOOPBACK });
        life.live(&limited, calls);
        // Of each period only the beginning is spun through, if that.
        let part = life.awake as f64 / f64::from(2 * calls);
        assert!(part < 0.06, "{part} of all messages, {} times short", life.throttled);
        life.live(&LOOPBACK, calls);
        assert_eq!(life.policy.chosen, Waking::Always);
    }

    #[test]
    fn misses_that_are_left_over_do_not_make_sleeping_dear() {
        let mut life = Life::new();
        life.live(&World { reply: 300_000, think: 300_000, ..LOOPBACK }, 10_000);
        assert_eq!(life.policy.chosen, Waking::Never);
        let known = life.policy.costs.never;
        // A new round, and spins of other sessions that end in it.
        life.policy.round = None;
        life.policy.tried = Waking::Never;
        life.policy.message(Account::default, life.misses);
        for _ in 0..MISSES_MAX + 8 {
            life.misses += 1;
            life.policy.message(Account::default, life.misses);
        }
        assert!(life.policy.costs.never.is_some_and(f64::is_finite), "{known:?}, {:?}", life.policy.costs);
        let dear = Some(f64::INFINITY);
        assert_eq!(Costs { never: dear, for_replies: dear, always: dear }.best(), Waking::Never);
    }

    #[test]
    fn many_calls_at_a_time_end_it_until_there_are_lone_ones_again() {
        let mut life = Life::new();
        life.live(&LOOPBACK, 10_000);
        assert!(life.policy.window(true).is_some());
        for _ in 0..DISTURBED_MAX {
            life.policy.message(Account::default, life.misses);
            life.policy.disturb();
        }
        assert_eq!(life.policy.window(true), None);
        life.live(&LOOPBACK, 10_000);
        assert_eq!(life.policy.chosen, Waking::Always);
    }

    #[test]
    fn in_a_stream_nobody_is_asked_for_the_account() {
        let mut policy = Policy::new();
        for _ in 0..1000 {
            policy.message(|| panic!("asked"), 0);
            policy.message(|| panic!("asked"), 0);
            policy.disturb();
        }
    }

    #[test]
    fn nothing_is_waited_for_awake_before_it_is_known_what_sleeping_costs() {
        let policy = Policy::new();
        assert_eq!((policy.window(true), policy.window(false)), (None, None));
    }
}
