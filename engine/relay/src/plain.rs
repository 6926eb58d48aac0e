//! A connection without TLS, where that is what was asked for: the same clocks and ends, and nothing sealed.
//!
//! The NFS client is on the plain side, the NFS server where otherwise TLS is spoken.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use sealane_io::rt::{self, Either};
use sealane_io::{Buffer, Control, Patience, Received, Stream};
use sealane_proto::limits::RECORD_PLAIN_BYTES_MAX;
use sealane_proto::rpc::{RecordScanner, is_reply};
use sealane_proto::tls::{TrafficKey, Version};

use crate::config::TunnelConfig;
use crate::counters::Counters;
use crate::draining::{Drain, TICK};
use crate::error::{SessionError, Side};
use crate::keys::KeySchedule;
use crate::lending::{Lender, Loan};
use crate::session::{Ended, Shared, Surroundings, adopt, discard_rest};
use crate::watch::Flow;

/// The parts of a session before it runs.
pub(crate) struct Parts<Socket> {
    pub(crate) client: Socket,
    pub(crate) server: Socket,
    /// Who was accepted.
    pub(crate) peer: SocketAddr,
    pub(crate) config: Arc<TunnelConfig>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) surroundings: Surroundings,
}

/// Runs a session to its end.
pub(crate) async fn run<S: Stream>(parts: Parts<S::Socket>) -> Ended {
    let Parts { client, server, peer, config, counters, surroundings } = parts;
    let (client, server) = match adopt::<S>(client, server) {
        Ok(streams) => streams,
        Err(ended) => return ended,
    };
    let shared = Shared::new(client, server, Box::new(NoKeys), Version::Tls13, config, counters, &surroundings);
    // A failure ends both sockets at once, and with them a send that waits: there is no alert that would have to follow.
    shared.wire_busy.set(true);
    let Surroundings { lender, leave, stop, .. } = surroundings;
    let carry = async |from: Side| {
        if let Err(error) = Direction::new(&shared, from, lender.clone(), peer).run().await {
            shared.fail(error);
        }
    };
    {
        let (out, back) = (pin!(carry(Side::Plain)), pin!(carry(Side::Tls)));
        shared.run_both(out, back, &stop, pin!(shared.hear(None, peer, &leave))).await;
    }
    if !shared.is_failing() && !shared.plain_ended.get() {
        discard_rest(&shared, &lender, &stop).await;
    }
    shared.end_in_plain()
}

/// What says how long a fragment of a record is (RFC 5531 section 11).
const RECORD_MARK_BYTES: usize = 4;

/// There is nothing to be sealed.
struct NoKeys;

impl KeySchedule for NoKeys {
    fn next_sending_key(&mut self) -> Result<TrafficKey, SessionError> {
        Err(SessionError::Internal("a key without TLS"))
    }

    fn next_receiving_key(&mut self) -> Result<TrafficKey, SessionError> {
        Err(SessionError::Internal("a key without TLS"))
    }

    fn ticket(&mut self, _body: &[u8]) -> Result<(), SessionError> {
        Err(SessionError::Internal("a ticket without TLS"))
    }
}

/// What one side says, on its way to the other one.
struct Direction<'s, S: Stream> {
    shared: &'s Shared<S>,
    from: Side,
    scanner: RecordScanner,
    lender: Lender,
    peer: SocketAddr,
    loan: Option<Loan>,
    want_big: bool,
    /// Its side has said that no more comes.
    has_ended: bool,
}

/// Whether another turn follows.
enum Turn {
    Next,
    Last,
}

impl<'s, S: Stream> Direction<'s, S> {
    fn new(shared: &'s Shared<S>, from: Side, lender: Lender, peer: SocketAddr) -> Self {
        Self {
            shared,
            from,
            scanner: RecordScanner::new(),
            lender,
            peer,
            loan: None,
            want_big: false,
            has_ended: false,
        }
    }

    fn source(&self) -> &'s S {
        match self.from {
            Side::Plain => &self.shared.plain,
            Side::Tls => &self.shared.tls,
        }
    }

    fn to(&self) -> Side {
        match self.from {
            Side::Plain => Side::Tls,
            Side::Tls => Side::Plain,
        }
    }

    fn target(&self) -> &'s S {
        match self.from {
            Side::Plain => &self.shared.tls,
            Side::Tls => &self.shared.plain,
        }
    }

    /// Until its side has ended, or the other direction has, and this one has no more to say.
    async fn run(&mut self) -> Result<(), SessionError> {
        while !self.shared.is_failing() {
            let turn = match self.shared.drain() {
                Some(why) if self.from == Side::Plain => self.drain(why).await?,
                _ => self.turn().await?,
            };
            if let Turn::Last = turn {
                break;
            }
        }
        self.loan = None;
        if self.shared.is_failing() {
            return Ok(());
        }
        match self.from {
            Side::Plain if self.has_ended => self.shared.note_end_of_plain(),
            Side::Plain => self.shared.closed.set(Some(rt::now())),
            Side::Tls => self.shared.peer_closed.set(true),
        }
        self.target().socket().shutdown_write();
        self.shared.stir();
        self.shared.wake_outbound.set();
        self.shared.wake_inbound.set();
        Ok(())
    }

    /// Takes no new call of the client's, but the rest of one that has begun, and its replies, until nothing is outstanding.
    async fn drain(&mut self, why: Drain) -> Result<Turn, SessionError> {
        let shared = self.shared;
        if !shared.is_rpc() {
            // A stream without boundaries cannot be ended at one.
            return Err(why.error(shared.role()));
        }
        if self.is_inside() {
            return self.turn().await;
        }
        self.loan = None;
        let times = &shared.config.timeouts;
        let is_answered = shared.replies_due() == 0;
        let is_over = shared.draining_for() >= times.most_for_callbacks(why);
        if shared.peer_closed.get() || is_answered && (is_over || shared.replies_owed() == 0) {
            return Ok(Turn::Last);
        }
        let mut head = [0; 12];
        let socket = shared.plain.socket();
        let there = if socket.is_gone() { Ok(0) } else { socket.peek(&mut head) };
        match there {
            Ok(0) => self.turn().await,
            // The bytes are there, but a driver may not have heard of it: without this it could spin.
            Ok(count) if count == head.len() && is_reply(&head) == Some(true) => {
                shared.plain.readable().await.map_err(Shared::<S>::io_error(Side::Plain, "poll"))?;
                self.turn().await
            }
            _ => {
                rt::race(shared.wake_outbound.wait(), rt::sleep(TICK)).await;
                Ok(Turn::Next)
            }
        }
    }

    /// What may be received at once: of a client from whom nothing new is taken, the rest of its record, or the four bytes that
    /// tell how long the next one is.
    fn bytes_max(&self) -> usize {
        match (self.from, self.shared.drain()) {
            (Side::Plain, Some(_)) if self.is_inside() => self.scanner.record_bytes_left(),
            (Side::Plain, Some(_)) => RECORD_MARK_BYTES,
            _ => usize::MAX,
        }
    }

    /// Receives once and sends it.
    async fn turn(&mut self) -> Result<Turn, SessionError> {
        let (source, shared) = (self.source(), self.shared);
        if source.is_look_due() {
            self.loan = None;
            source.look().await;
        }
        let mut loan = match self.loan.take() {
            Some(loan) if loan.buffer.is_big() == self.want_big => loan,
            other => {
                drop(other);
                self.lender.lend(self.want_big, self.target().socket())?
            }
        };
        let room = loan.buffer.capacity().min(loan.bytes_max().max(1)).min(self.bytes_max().max(1));
        lay_out(&mut loan.buffer, room)?;
        let patience = self.lender.patience(&loan);
        let (received, buffer) = source.receive(loan.buffer, patience).await;
        loan.buffer = buffer;
        match received.map_err(Shared::<S>::io_error(self.from, "receive"))? {
            Received::Bytes(_) if shared.is_failing() => Ok(Turn::Last),
            Received::Bytes(count) => {
                shared.awake.came(count);
                self.note(&loan.buffer, count)?;
                self.want_big = (count == room && !loan.buffer.is_big())
                    || count > RECORD_PLAIN_BYTES_MAX
                    || self.scanner.record_bytes_left() > RECORD_PLAIN_BYTES_MAX;
                lay_out(&mut loan.buffer, count)?;
                let (sent, buffer) = shared.send(self.to(), loan.buffer).await;
                loan.buffer = buffer;
                match sent {
                    // A server that has ended may take no more: what it said before that is still to arrive.
                    Err(_) if self.from == Side::Plain && shared.peer_closed.get() => return Ok(Turn::Last),
                    done => done.map_err(Shared::<S>::io_error(self.to(), "send"))?,
                }
                self.passed_on(count);
                if self.lender.keeps(&loan) {
                    self.loan = Some(loan);
                }
                Ok(Turn::Next)
            }
            Received::End if self.is_inside() => Err(SessionError::Truncated { side: self.from }),
            Received::End => {
                self.has_ended = true;
                Ok(Turn::Last)
            }
            Received::Nothing => {
                drop(loan);
                // A stream that has stopped begins again with a small one; without patience nobody knows whether it has.
                if let Patience::Hold = patience {
                    self.want_big = self.scanner.record_bytes_left() > RECORD_PLAIN_BYTES_MAX;
                }
                self.wait().await
            }
        }
    }

    fn is_inside(&self) -> bool {
        is_inside(&self.scanner)
    }

    /// Lets the scanner and the clocks see what was received.
    fn note(&mut self, buffer: &Buffer, count: usize) -> Result<(), SessionError> {
        let Self { shared, scanner, from, peer, .. } = self;
        let bytes = buffer.bytes().get(..count).ok_or(SessionError::Internal("a slice outside"))?;
        let (own, other, flow) = match from {
            Side::Plain => (&shared.out, &shared.back, &shared.out_flow),
            Side::Tls => (&shared.back, &shared.out, &shared.back_flow),
        };
        if own.told(other, |passing| scanner.advance_and_tell(bytes, passing)).is_err() {
            shared.note_not_rpc(*from, *peer);
        }
        let is_inside = is_inside(scanner);
        flow.set(Flow { received: flow.get().received + count as u64, is_inside, ..flow.get() });
        if *from == Side::Plain {
            own.note(scanner, other);
            shared.counters.plain_received_bytes_total.add(count as u64);
        }
        shared.stir();
        Ok(())
    }

    /// The server's replies count when the client has them.
    fn passed_on(&self, count: usize) {
        if self.from == Side::Tls {
            self.shared.back.note(&self.scanner, &self.shared.out);
            self.shared.counters.plain_sent_bytes_total.add(count as u64);
            if self.shared.drain().is_some() {
                self.shared.wake_outbound.set();
            }
        }
    }

    /// Waits without a buffer until its side says something. When the other one has ended, this one has a while to.
    async fn wait(&self) -> Result<Turn, SessionError> {
        let (shared, times) = (self.shared, &self.shared.config.timeouts);
        let (wake, other_ended, owes, is_sending) = match self.from {
            Side::Plain => (&shared.wake_outbound, shared.peer_closed.get(), shared.replies_owed(), &shared.back_flow),
            Side::Tls => (&shared.wake_inbound, shared.plain_ended.get(), shared.replies_due(), &shared.out_flow),
        };
        let waiting = rt::race(self.source().readable(), wake.wait());
        let first = match (other_ended, owes) {
            // It was told that nothing more comes, and owes nothing.
            (false, _) if self.from == Side::Tls && shared.closed.get().is_some() => {
                rt::timeout(times.close, waiting).await
            }
            (false, _) => Some(waiting.await),
            (true, 0) => rt::timeout(times.half_close, waiting).await,
            (true, _) => rt::timeout(times.reply(), waiting).await,
        };
        match first {
            Some(Either::Left(ready)) => ready.map(|()| Turn::Next).map_err(Shared::<S>::io_error(self.from, "poll")),
            Some(Either::Right(())) => Ok(Turn::Next),
            // It has not even been told of the end: what came before that is still on its way to it.
            None if is_sending.get().is_sending => Ok(Turn::Next),
            None if shared.is_rpc() && !self.is_inside() && owes == 0 => Ok(Turn::Last),
            None => Err(SessionError::Truncated { side: self.from }),
        }
    }
}

/// Whether the last record is not whole. What is not RPC has none.
fn is_inside(scanner: &RecordScanner) -> bool {
    !scanner.at_boundary() && !scanner.is_refused()
}

/// One slice of so many bytes.
fn lay_out(buffer: &mut Buffer, count: usize) -> Result<(), SessionError> {
    let mut slices = buffer.slices();
    slices.clear();
    if slices.push(0..count) { Ok(()) } else { Err(SessionError::Internal("a slice beyond the buffer")) }
}
