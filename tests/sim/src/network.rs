//! A network in memory: connected sockets as the relay and its peers see them.
//!
//! What TCP promises holds here (bytes arrive in order and once), and whatever it does not promise is decided by the seed:
//! how much a call takes, when bytes arrive, what is lost by a reset.

mod keepalive;
mod last_word;
mod pipe;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use sealane_io::rt::{self, Signal};

use self::pipe::Pipe;
use crate::moment::{Ledger, Moment};
use crate::random::Random;
use crate::stats::{Fault, Stats};
use crate::trace::{Event, Trace};

/// No alert is longer, as a record.
const ALERT_BYTES_MAX: usize = 64;

/// How hostile the network is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// How often, of a thousand, a receive or a send takes less than it could.
    pub(crate) short: usize,
    /// How often a completion comes late.
    pub(crate) late: usize,
    /// How often a segment is on its way for a while.
    pub(crate) slow: usize,
    /// The longest delay, in milliseconds.
    pub(crate) delay_ms_max: usize,
    /// What the buffers between both ends hold.
    pub(crate) capacity: usize,
}

/// What all connections of one world share.
pub(crate) struct Network {
    pub(crate) weather: Weather,
    pub(crate) random: RefCell<Random>,
    pub(crate) stats: RefCell<Stats>,
    pub(crate) trace: RefCell<Trace>,
    ledger: RefCell<Ledger>,
    /// A connection is over.
    pub(crate) one_is_over: Signal,
}

impl Network {
    pub(crate) fn new(weather: Weather, random: Random) -> Self {
        Self {
            weather,
            random: RefCell::new(random),
            stats: RefCell::default(),
            trace: RefCell::new(Trace::new(rt::now())),
            ledger: RefCell::default(),
            one_is_over: Signal::default(),
        }
    }

    /// Now, for a session of the relay.
    pub(crate) fn moment(&self, session: u32) -> Moment {
        self.ledger.borrow().moment(session, rt::now())
    }

    pub(crate) fn chance(&self, per_mille: usize) -> bool {
        self.random.borrow_mut().chance(per_mille)
    }

    pub(crate) fn count(&self, fault: Fault) {
        self.stats.borrow_mut().count(fault);
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(self.random.borrow_mut().within(1, self.weather.delay_ms_max) as u64)
    }

    /// Of what could be moved, what is.
    fn part(&self, most: usize, fault: Fault) -> usize {
        if most < 2 || !self.chance(self.weather.short) {
            return most;
        }
        self.count(fault);
        let mut random = self.random.borrow_mut();
        match random.below(3) {
            0 => random.within(1, most.min(8)),
            _ => random.within(1, most - 1),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct EndState {
    is_reset: bool,
    read_shut: bool,
    write_shut: bool,
    closed: bool,
    /// Keepalive ended it.
    is_given_up: bool,
    /// The kernel says only once why a connection is gone; who asks again hears of an end.
    is_said: bool,
    /// Its owner knows that the stream has ended.
    is_ended: bool,
    /// Keepalive is on.
    asks: bool,
    user_timeout: Option<Duration>,
}

impl EndState {
    fn reset(&self) -> io::Error {
        io::Error::from(if self.is_given_up { io::ErrorKind::TimedOut } else { io::ErrorKind::ConnectionReset })
    }
}

struct State {
    /// From end 0 to end 1, and back.
    pipes: [Pipe; 2],
    ends: [EndState; 2],
    /// From then on nothing arrives any more.
    cut_at: Option<Instant>,
}

struct Shared {
    network: Rc<Network>,
    number: u32,
    state: RefCell<State>,
    waiting: RefCell<Vec<Waker>>,
}

/// One end of a connection. Clones are the same end; the last one to go closes it.
#[derive(Clone)]
pub(crate) struct End(Rc<Held>);

struct Held {
    shared: Rc<Shared>,
    side: usize,
}

/// A connection: both of its ends.
pub(crate) fn connection(network: &Rc<Network>, number: u32) -> (End, End) {
    let state = State { pipes: Default::default(), ends: Default::default(), cut_at: None };
    let shared = Rc::new(Shared {
        network: Rc::clone(network),
        number,
        state: RefCell::new(state),
        waiting: RefCell::default(),
    });
    let end = |side| End(Rc::new(Held { shared: Rc::clone(&shared), side }));
    (end(0), end(1))
}

fn would_block() -> io::Error {
    io::Error::from(io::ErrorKind::WouldBlock)
}

pub(crate) fn is_would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl Shared {
    fn changed(&self) {
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }

    fn note(&self, side: usize, event: Event, count: usize) {
        self.network.trace.borrow_mut().note(rt::now(), self.number, side, event, count);
    }

    /// Both ends are reset. Of what flies to the other end some may still arrive.
    fn reset(&self, side: usize) {
        let keep = self.network.random.borrow_mut().below(3);
        let state = &mut *self.state.borrow_mut();
        if state.cut_at.is_none() {
            state.pipes.iter_mut().for_each(|pipe| pipe.land(rt::now()));
        }
        let [first, second] = &mut state.pipes;
        let (out, back) = if side == 0 { (first, second) } else { (second, first) };
        for (_, bytes) in out.flying.drain(..).take(keep) {
            out.arrived.extend(bytes);
        }
        out.flying_bytes = 0;
        *back = Pipe::default();
        state.ends.iter_mut().for_each(|end| end.is_reset = true);
    }
}

impl End {
    fn with<T>(&self, act: impl FnOnce(&mut Pipe, &mut Pipe, &mut EndState, &mut EndState) -> T) -> T {
        let state = &mut *self.0.shared.state.borrow_mut();
        let now = rt::now();
        if state.cut_at.is_none() {
            state.pipes.iter_mut().for_each(|pipe| pipe.land(now));
        }
        let ([p0, p1], [e0, e1]) = (&mut state.pipes, &mut state.ends);
        // Outgoing and incoming, own and other.
        if self.0.side == 0 { act(p0, p1, e0, e1) } else { act(p1, p0, e1, e0) }
    }

    pub(crate) fn network(&self) -> &Rc<Network> {
        &self.0.shared.network
    }

    /// Which session of the relay it belongs to: two connections make one.
    fn session(&self) -> u32 {
        self.0.shared.number / 2
    }

    /// Now, and how much of the time until now the network and the peers have taken.
    pub(crate) fn moment(&self) -> Moment {
        self.network().moment(self.session())
    }

    /// A peer does nothing for a while.
    pub(crate) async fn pause(&self, duration: Duration) {
        rt::sleep(duration).await;
        self.network().ledger.borrow_mut().explain(self.session(), duration);
    }

    /// Nobody has anything to do for a while.
    pub(crate) async fn idle(&self, duration: Duration) {
        rt::sleep(duration).await;
        self.network().ledger.borrow_mut().idle(self.session(), duration);
    }

    /// Lets a completion be late, so that later ones of its session can come before it.
    pub(crate) async fn complete(&self) {
        let (network, session) = (self.network(), self.session());
        if !network.chance(network.weather.late) {
            if network.ledger.borrow().is_one_late(session) {
                network.count(Fault::Reordered);
            }
            return;
        }
        network.count(Fault::LateCompletion);
        let delay = network.delay();
        network.ledger.borrow_mut().late(session, true);
        rt::sleep(delay).await;
        let mut ledger = network.ledger.borrow_mut();
        ledger.late(session, false);
        ledger.explain(session, delay);
    }

    /// Lets the news that something can be read be late.
    pub(crate) async fn tell_late(&self) {
        if self.network().chance(self.network().weather.late) {
            self.network().count(Fault::LateReadiness);
            let delay = self.network().delay();
            // At once: whoever waits for this may stop waiting.
            self.network().ledger.borrow_mut().explain(self.session(), delay);
            rt::sleep(delay).await;
        }
    }

    /// Whether its buffer of received bytes is full: the other end cannot send.
    pub(crate) fn is_full(&self) -> bool {
        let capacity = self.network().weather.capacity;
        self.with(|_, incoming, _, _| incoming.held() >= capacity)
    }

    /// Takes what is there, at most so much; nothing at the end of the stream.
    pub(crate) fn try_receive(&self, most: usize) -> io::Result<Vec<u8>> {
        let there = self.with(|_, incoming, own, _| {
            let there = incoming.arrived.len().min(most);
            let ended = incoming.end_at.is_some_and(|at| at <= rt::now()) && incoming.flying.is_empty();
            match there {
                0 if own.is_reset && own.is_said => Ok(0),
                0 if own.is_reset => Err(own.reset()),
                0 if ended || own.read_shut => Ok(0),
                0 => Err(would_block()),
                there => Ok(there),
            }
        });
        let count = match there? {
            0 => 0,
            there => self.network().part(there, Fault::ShortRead),
        };
        let bytes: Vec<u8> = self.with(|_, incoming, _, _| {
            incoming.taken += count as u64;
            incoming.arrived.drain(..count).collect()
        });
        self.0.shared.note(self.0.side, Event::Received, count);
        self.0.shared.changed();
        Ok(bytes)
    }

    /// Looks at what is there, at most so much.
    pub(crate) fn peek(&self, most: usize) -> io::Result<Vec<u8>> {
        self.with(|_, incoming, own, _| {
            let bytes: Vec<u8> = incoming.arrived.iter().take(most).copied().collect();
            let ended = incoming.end_at.is_some_and(|at| at <= rt::now()) && incoming.flying.is_empty();
            match bytes.is_empty() {
                true if own.is_reset => Err(own.reset()),
                true if !ended && !own.read_shut => Err(would_block()),
                _ => Ok(bytes),
            }
        })
    }

    /// Its owner has heard of `error`, without receiving.
    pub(crate) fn has_said(&self, error: &io::Error) {
        self.with(|_, _, own, _| own.is_said |= !is_would_block(error));
    }

    /// Its owner knows that the stream has ended.
    pub(crate) fn has_ended(&self) {
        self.with(|_, _, own, _| own.is_ended = true);
    }

    /// Sends some of `bytes`.
    pub(crate) fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send_now(bytes, |room| self.network().part(room, Fault::ShortWrite))
    }

    /// Sends as much of `bytes` as there is room for.
    pub(crate) fn try_send_all(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send_now(bytes, |room| room)
    }

    fn send_now(&self, bytes: &[u8], part: impl Fn(usize) -> usize) -> io::Result<usize> {
        let capacity = self.network().weather.capacity;
        let room = self.with(|outgoing, _, own, other| {
            if own.is_reset || other.closed {
                own.is_reset = true;
                return Err(own.reset());
            }
            if own.write_shut {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe));
            }
            match capacity.saturating_sub(outgoing.held()).min(bytes.len()) {
                0 if !bytes.is_empty() => Err(would_block()),
                room => Ok(room),
            }
        });
        let count = part(room?);
        let mut at = rt::now();
        if self.network().chance(self.network().weather.slow) {
            self.network().count(Fault::SlowSegment);
            let delay = self.network().delay();
            self.network().ledger.borrow_mut().explain(self.session(), delay);
            at += delay;
        }
        self.with(|outgoing, _, _, _| {
            at = outgoing.last_at.map_or(at, |last| last.max(at));
            outgoing.last_at = Some(at);
            outgoing.flying_bytes += count;
            outgoing.sent += count as u64;
            outgoing.flying.push_back((at, bytes.get(..count).unwrap_or_default().to_vec()));
        });
        self.0.shared.note(self.0.side, Event::Sent, count);
        self.0.shared.changed();
        Ok(count)
    }

    /// How much could be sent at once.
    pub(crate) fn room(&self) -> usize {
        let capacity = self.network().weather.capacity;
        self.with(|outgoing, _, _, _| capacity.saturating_sub(outgoing.held()))
    }

    pub(crate) fn shutdown_read(&self) {
        self.with(|_, _, own, _| own.read_shut = true);
        self.0.shared.changed();
    }

    pub(crate) fn shutdown_write(&self) {
        self.with(|outgoing, _, own, _| {
            if !std::mem::replace(&mut own.write_shut, true) && !own.is_reset {
                let now = rt::now();
                outgoing.end_at = Some(outgoing.last_at.map_or(now, |last| last.max(now)));
            }
        });
        self.0.shared.note(self.0.side, Event::Fin, 0);
        self.0.shared.changed();
    }

    pub(crate) fn abort(&self) {
        let has_room = self.room() >= ALERT_BYTES_MAX;
        self.with(|outgoing, _, own, _| {
            outgoing.could_tell |= has_room && !outgoing.is_sending && !own.is_reset;
        });
        self.0.shared.reset(self.0.side);
        self.0.shared.note(self.0.side, Event::Reset, 0);
        self.0.shared.changed();
    }

    /// The network between both ends is cut: nobody hears of anything any more.
    pub(crate) fn cut(&self) {
        self.0.shared.state.borrow_mut().cut_at = Some(rt::now());
        self.0.shared.changed();
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.with(|_, _, own, _| own.is_reset)
    }

    /// Whether the other end is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.with(|_, _, own, other| own.is_reset || other.closed)
    }

    /// Whether everything that was sent has arrived.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.with(|outgoing, _, own, _| {
            own.is_reset || (outgoing.flying.is_empty() && outgoing.end_at.is_none_or(|at| at <= rt::now()))
        })
    }

    /// Waits until `done` gives something; asks again whenever this connection changes, and when bytes arrive.
    pub(crate) async fn until<T>(&self, mut done: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            if let Some(value) = done(self) {
                return value;
            }
            let now = rt::now();
            let is_cut = self.0.shared.state.borrow().cut_at.is_some();
            let given_up_at = self.given_up_at();
            if given_up_at.is_some_and(|at| at <= now) {
                self.give_up();
                continue;
            }
            let next = self.with(|outgoing, incoming, _, _| {
                [outgoing.next_at(now), incoming.next_at(now)].into_iter().flatten().min()
            });
            match next.filter(|_| !is_cut).or(given_up_at) {
                Some(at) => drop(rt::race(self.change(), rt::sleep(at - now)).await),
                None => self.change().await,
            }
        }
    }

    /// The next change of this connection.
    async fn change(&self) {
        let mut asked = false;
        poll_fn(|context| {
            if std::mem::replace(&mut asked, true) {
                return Poll::Ready(());
            }
            self.0.shared.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Receives, waiting for it.
    pub(crate) async fn receive(&self, most: usize) -> io::Result<Vec<u8>> {
        self.until(|end| match end.try_receive(most) {
            Err(error) if is_would_block(&error) => None,
            done => Some(done),
        })
        .await
    }

    /// Sends all of `bytes`, waiting for room.
    pub(crate) async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self
                .until(|end| match end.try_send(bytes) {
                    Err(error) if is_would_block(&error) => None,
                    done => Some(done),
                })
                .await?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (unread, is_reset) = {
            let state = &mut *self.shared.state.borrow_mut();
            let [first, second] = &state.pipes;
            let (outgoing_ended, incoming) =
                if self.side == 0 { (first.end_at, second) } else { (second.end_at, first) };
            let unread = incoming.held() > 0;
            let Some(own) = state.ends.get_mut(self.side) else { return };
            own.closed = true;
            let is_reset = own.is_reset;
            if !unread && !is_reset && outgoing_ended.is_none() {
                let now = rt::now();
                if let Some(outgoing) = state.pipes.get_mut(self.side) {
                    outgoing.end_at = Some(outgoing.last_at.map_or(now, |last| last.max(now)));
                }
            }
            (unread, is_reset)
        };
        // Unread bytes make close a reset (RFC 9293 section 3.6.1... as Linux does it).
        if unread && !is_reset {
            self.shared.reset(self.side);
        }
        self.shared.note(self.side, Event::Closed, usize::from(unread));
        self.shared.changed();
    }
}
