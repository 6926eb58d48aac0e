//! The direction from the TLS side to the plain side: records in, opened where they lie, plaintext out in one gathered
//! write.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use sealane_io::rt::{self, Either};
use sealane_io::{Control, Patience, Received, Slices, Stream};
use sealane_proto::limits::{BUFFER_SMALL_BYTES, RECORD_PLAIN_BYTES_MAX};
use sealane_proto::rpc::{RecordError, RecordScanner, is_reply};
use sealane_proto::tls::{Inbound, Pieces, Progress, Role, TlsError, Version, Window};

use crate::draining::Drain;
use crate::error::{SessionError, Side};
use crate::lending::{Lender, Loan, Terms};
use crate::session::Shared;
use crate::watch::Flow;

/// How often a wait for the end looks at its conditions.
const TICK: Duration = Duration::from_millis(50);

/// Delivers what the TLS peer says.
pub(crate) struct InboundHalf<'s, S: Stream> {
    shared: &'s Shared<S>,
    inbound: Inbound,
    scanner: RecordScanner,
    lender: Lender,
    peer: SocketAddr,
    /// The buffer that holds the window's bytes; kept while the direction is busy.
    loan: Option<Loan>,
    window: Window,
    want_big: bool,
    /// The peer was asked for its next key and has not gone over to it.
    key_requested: bool,
    /// The connection drains: what comes is not delivered any more.
    discards: bool,
}

/// Plaintext ranges become the slices of the write.
struct Gather<'b>(Slices<'b>);

impl Pieces for Gather<'_> {
    fn push(&mut self, range: Range<usize>) -> bool {
        self.0.push(range)
    }

    fn grow_last(&mut self, end: usize) {
        self.0.grow_last(end);
    }
}

/// Whether another turn follows.
enum Turn {
    Next,
    /// close_notify has come, or nothing more is awaited.
    Last,
}

impl<'s, S: Stream> InboundHalf<'s, S> {
    pub(crate) fn new(shared: &'s Shared<S>, inbound: Inbound, lender: Lender, peer: SocketAddr) -> Self {
        Self {
            shared,
            inbound,
            scanner: RecordScanner::new(),
            lender,
            peer,
            loan: None,
            window: Window::default(),
            want_big: false,
            key_requested: false,
            discards: false,
        }
    }

    /// Runs the direction; `early` was opened and `left_over` received during the handshake.
    pub(crate) async fn run(
        &mut self,
        early: Vec<u8>,
        left_over: Vec<u8>,
        peer_closed: bool,
    ) -> Result<(), SessionError> {
        self.deliver_early(&early).await?;
        drop(early);
        let mut turn = if peer_closed { Turn::Last } else { Turn::Next };
        if !left_over.is_empty() && !peer_closed {
            let mut buffer = self.lender.small()?;
            // The beginning of one record: if it does not fit, the record is too long.
            let place = buffer.bytes_mut().get_mut(..left_over.len());
            place.ok_or(SessionError::Tls(TlsError::RecordOverflow))?.copy_from_slice(&left_over);
            self.window = Window::holding(left_over.len());
            let (loan, closed) = self.open_and_deliver(Loan { buffer, terms: Terms::Keep }).await?;
            self.keep_or_return(loan)?;
            turn = if closed { Turn::Last } else { Turn::Next };
        }
        drop(left_over);
        self.note_inside();
        while let Turn::Next = turn
            && !self.shared.is_failing()
        {
            turn = self.turn().await?;
        }
        self.loan = None;
        // Nothing more of a record is awaited from a direction that has ended.
        self.shared.back_flow.set(Flow { is_inside: false, ..self.shared.back_flow.get() });
        if !self.shared.is_failing() {
            self.shared.peer_closed.set(true);
            self.shared.plain.socket().shutdown_write();
            self.shared.wake_outbound.set();
        }
        Ok(())
    }

    async fn deliver_early(&mut self, early: &[u8]) -> Result<(), SessionError> {
        for chunk in early.chunks(BUFFER_SMALL_BYTES) {
            let mut buffer = self.lender.small()?;
            let place = buffer.bytes_mut().get_mut(..chunk.len());
            place.ok_or(SessionError::Internal("a small buffer is too small"))?.copy_from_slice(chunk);
            let mut slices = buffer.slices();
            if !slices.push(0..chunk.len()) {
                return Err(SessionError::Internal("a small buffer has no slice"));
            }
            self.deliver(Loan { buffer, terms: Terms::Keep }).await?;
        }
        Ok(())
    }

    /// Receives once, opens what is whole, and sends it to the plain side.
    async fn turn(&mut self) -> Result<Turn, SessionError> {
        if self.shared.has_waited_for_close() {
            // Not in the middle of what it says, and not while it owes a reply: that would look whole.
            let is_whole = (self.scanner.at_boundary() || self.discards) && !self.shared.still_owes();
            return if is_whole { Ok(Turn::Last) } else { Err(SessionError::Truncated { side: Side::Tls }) };
        }
        if self.shared.tls.is_look_due() {
            if self.window.held().is_empty() {
                self.window = Window::default();
                self.loan = None;
            }
            self.shared.tls.look().await;
        }
        let mut loan = self.take_loan()?;
        let bytes_max = loan.bytes_max();
        let (bytes, mut slices) = loan.buffer.split();
        let plan = self.window.plan(bytes);
        slices.clear();
        let near = plan.near.start..plan.near.end.min(plan.near.start.saturating_add(bytes_max));
        let front = plan.front.start..plan.front.end.min(bytes_max.saturating_sub(near.len()));
        let whole = near.len() + front.len();
        if !slices.push(near) || (!front.is_empty() && !slices.push(front)) {
            return Err(SessionError::Internal("a window outside its buffer"));
        }
        let patience = self.lender.patience(&loan);
        let (received, buffer) = self.shared.tls.receive(loan.buffer, patience).await;
        loan.buffer = buffer;
        match received.map_err(Shared::<S>::io_error(Side::Tls, "receive"))? {
            Received::Bytes(_) if self.shared.is_failing() => Ok(Turn::Last),
            Received::Bytes(count) => {
                self.shared.awake.came(count);
                self.window.filled(count);
                self.note_received(count);
                let filled_small = count == whole && !loan.buffer.is_big();
                let (loan, closed) = self.open_and_deliver(loan).await?;
                self.want_big = filled_small
                    || count > BUFFER_SMALL_BYTES
                    || self.scanner.record_bytes_left() > RECORD_PLAIN_BYTES_MAX;
                self.note_inside();
                self.keep_or_return(loan)?;
                Ok(if closed { Turn::Last } else { Turn::Next })
            }
            Received::End if self.shared.is_failing() => Ok(Turn::Last),
            // EOF without close_notify: somebody may have cut the stream (RFC 8446 section 6.1).
            Received::End => Err(SessionError::Truncated { side: Side::Tls }),
            Received::Nothing => {
                self.window.filled(0);
                // A stream that has stopped begins again with a small one; without patience nobody knows whether it has.
                if let Patience::Hold = patience {
                    self.want_big = self.scanner.record_bytes_left() > RECORD_PLAIN_BYTES_MAX;
                }
                self.shrink(loan)?;
                self.wait_for_peer().await
            }
        }
    }

    fn note_received(&self, count: usize) {
        let flow = self.shared.back_flow.get();
        self.shared.back_flow.set(Flow { received: flow.received + count as u64, ..flow });
        self.shared.stir();
    }

    fn note_inside(&self) {
        let inside_rpc = !self.scanner.at_boundary() && !self.scanner.is_refused();
        let is_inside = inside_rpc || !self.window.held().is_empty() || self.inbound.is_inside_message();
        self.shared.back_flow.set(Flow { is_inside, ..self.shared.back_flow.get() });
    }

    /// The buffer of the last turn, or one of the size that is wanted now; a half-received record moves along.
    fn take_loan(&mut self) -> Result<Loan, SessionError> {
        match self.loan.take() {
            Some(loan) if loan.buffer.is_big() || !self.want_big => Ok(loan),
            Some(small) => {
                // Not `lend`: that could ask for a second small one.
                match self.lender.big(self.shared.plain.socket()) {
                    Some(big) => self.move_held(&small, big),
                    None => Ok(small),
                }
            }
            None => self.lender.lend(self.want_big, self.shared.plain.socket()),
        }
    }

    /// Copies the half-received record, at most one, to the front of another buffer.
    fn move_held(&mut self, from: &Loan, mut to: Loan) -> Result<Loan, SessionError> {
        let held = from.buffer.bytes().get(self.window.held()).unwrap_or_default();
        let place = to.buffer.bytes_mut().get_mut(..held.len());
        place.ok_or(SessionError::Internal("a half record longer than a small buffer"))?.copy_from_slice(held);
        self.window = Window::holding(held.len());
        Ok(to)
    }

    /// After a turn: a busy direction keeps its buffer; one that is not to be kept is returned.
    fn keep_or_return(&mut self, loan: Loan) -> Result<(), SessionError> {
        let big_enough = loan.buffer.is_big() == self.want_big || !loan.buffer.is_big();
        if big_enough && self.lender.keeps(&loan) {
            self.loan = Some(loan);
            return Ok(());
        }
        self.shrink(loan)
    }

    /// Gives the buffer back; a half-received record moves to a small one.
    fn shrink(&mut self, loan: Loan) -> Result<(), SessionError> {
        if self.window.held().is_empty() {
            self.window = Window::default();
        } else if loan.buffer.is_big() {
            let small = Loan { buffer: self.lender.small()?, terms: Terms::Keep };
            self.loan = Some(self.move_held(&loan, small)?);
        } else {
            self.loan = Some(loan);
        }
        Ok(())
    }

    /// Opens every whole record in the window; true when close_notify was among them.
    async fn open_and_deliver(&mut self, mut loan: Loan) -> Result<(Loan, bool), SessionError> {
        let (bytes, mut slices) = loan.buffer.split();
        slices.clear();
        let mut pieces = Gather(slices);
        let closed = loop {
            match self.inbound.advance(bytes, self.window.cursor(), &mut pieces)? {
                Progress::NeedBytes if self.window.next_stretch() => {}
                Progress::NeedBytes => break false,
                Progress::Closed => break true,
                event => self.event(event)?,
            }
        };
        self.watch_key();
        if closed {
            // Before anything is awaited: nothing may be written behind a TLS 1.2 close_notify.
            self.shared.peer_closed.set(true);
            self.shared.wake_outbound.set();
        }
        if loan.buffer.slices_bytes() > 0 && !self.discards {
            loan = self.deliver(loan).await?;
        }
        Ok((loan, closed))
    }

    fn event(&mut self, event: Progress) -> Result<(), SessionError> {
        let shared = self.shared;
        match event {
            Progress::KeyUpdate { answer } => {
                shared.counters.key_updates_received_total.add(1);
                tracing::debug!(peer = %self.peer, "KeyUpdate received");
                let key = shared.keys.borrow_mut().next_receiving_key()?;
                self.inbound.rekey(&key);
                self.key_requested = false;
                if answer {
                    // Several requests get one answer.
                    shared.key_answer_due.set(true);
                    shared.wake_outbound.set();
                }
            }
            Progress::Ticket(body) => {
                shared.counters.tickets_received_total.add(1);
                shared.keys.borrow_mut().ticket(&body)?;
            }
            Progress::Renegotiation => {
                shared.renegotiation_due.set(true);
                shared.wake_outbound.set();
            }
            Progress::NeedBytes | Progress::Closed => {}
        }
        Ok(())
    }

    /// The peer's key has its limit too (RFC 8446 section 5.5); only we may see that it is near.
    fn watch_key(&mut self) {
        let limit = self.shared.records_max(self.inbound.replace_at());
        if self.inbound.records() < limit || std::mem::replace(&mut self.key_requested, true) {
            return;
        }
        match self.inbound.version() {
            Version::Tls12 => self.shared.begin_drain(Drain::KeyUsedUp),
            Version::Tls13 => self.shared.key_request_due.set(true),
        }
        self.shared.wake_outbound.set();
    }

    /// Lets the scanner see the plaintext and sends it to the plain side.
    async fn deliver(&mut self, mut loan: Loan) -> Result<Loan, SessionError> {
        let shared = self.shared;
        let count = self.look_at(&loan)?;
        if self.discards {
            loan.buffer.slices().truncate(count);
        }
        shared.back_at_boundary.set(self.scanner.at_boundary());
        if shared.drain().is_some() {
            shared.wake_outbound.set();
        }
        if count == 0 {
            return Ok(loan);
        }
        shared.back_last.set(rt::now());
        let (sent, buffer) = shared.send(Side::Plain, loan.buffer).await;
        loan.buffer = buffer;
        sent.map_err(Shared::<S>::io_error(Side::Plain, "send"))?;
        shared.back_last.set(rt::now());
        shared.back.note(&self.scanner, &shared.out);
        shared.counters.plain_sent_bytes_total.add(count as u64);
        if shared.drain().is_some() {
            shared.wake_outbound.set();
        }
        Ok(loan)
    }

    /// Lets the scanner see the plaintext; returns how much of it is to be delivered, which is all, but for the calls that
    /// a draining server does not take any more.
    fn look_at(&mut self, loan: &Loan) -> Result<usize, SessionError> {
        let takes_calls = self.shared.role() == Role::Client || self.shared.drain().is_none();
        let mut count = 0;
        for range in loan.buffer.ranges() {
            let bytes = loan.buffer.bytes().get(range).ok_or(SessionError::Internal("a slice outside"))?;
            let taken = match takes_calls {
                true => {
                    let Shared { out, back, .. } = self.shared;
                    back.told(out, |passing| self.scanner.advance_and_tell(bytes, passing)).map(|_| bytes.len())
                }
                false => self.look_for_calls(bytes),
            };
            count += taken.unwrap_or_else(|_| {
                self.shared.note_not_rpc(Side::Tls, self.peer);
                bytes.len()
            });
            if self.discards {
                break;
            }
        }
        Ok(count)
    }

    /// Lets the scanner see replies, and the rest of a call that has begun, up to the next call, or to what is too short to
    /// tell; from there on everything is discarded. A client makes those calls again on its next connection.
    fn look_for_calls(&mut self, bytes: &[u8]) -> Result<usize, RecordError> {
        let mut rest = bytes;
        while !rest.is_empty() && !self.discards {
            if self.scanner.at_boundary() && is_reply(rest) != Some(true) {
                self.discards = true;
                self.shared.calls_held_back.set(true);
                break;
            }
            let Shared { out, back, .. } = self.shared;
            let taken = back.told(out, |passing| self.scanner.advance_in_record(rest, passing))?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(bytes.len() - rest.len())
    }

    /// Waits until the TLS peer says something; when both our close_notify is sent and nothing is awaited, not for ever.
    async fn wait_for_peer(&self) -> Result<Turn, SessionError> {
        let shared = self.shared;
        let wait = rt::race(shared.tls.readable(), shared.wake_inbound.wait());
        let closed = shared.closed.get();
        let first = if closed.is_some() { rt::timeout(TICK, wait).await } else { Some(wait.await) };
        match first {
            Some(Either::Left(ready)) => {
                ready.map_err(Shared::<S>::io_error(Side::Tls, "poll"))?;
                Ok(Turn::Next)
            }
            Some(Either::Right(())) => Ok(Turn::Next),
            // Its times are looked at before each turn.
            None if shared.drain().is_some() => Ok(Turn::Next),
            None => {
                let times = &shared.config.timeouts;
                let is_between = shared.is_rpc() && self.scanner.at_boundary() && self.window.held().is_empty();
                let nothing_due = is_between && shared.replies_due() == 0;
                let limit = match is_between {
                    true if nothing_due => times.close,
                    // A server may take its time, but not in the middle of a reply.
                    true => times.reply(),
                    false => times.half_close,
                };
                let silent = rt::now() - shared.back_last.get().max(closed.unwrap_or(shared.back_last.get()));
                match (silent >= limit, nothing_due) {
                    (false, _) => Ok(Turn::Next),
                    (true, true) => Ok(Turn::Last),
                    // Without close_notify nobody knows whether that was all.
                    (true, false) => Err(SessionError::Truncated { side: Side::Tls }),
                }
            }
        }
    }
}
