//! The direction from the plain side to the TLS side: plaintext in, sealed where it lies, records out.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use sealane_io::rt::{self, Either};
use sealane_io::{Buffer, Control, Patience, Received, Stream};
use sealane_proto::limits::RECORD_PLAIN_BYTES_MAX;
use sealane_proto::rpc::{RecordScanner, is_reply};
use sealane_proto::tls::{AlertDescription, ContentType, Role, Sealer, Version, key_update};

use crate::draining::{Drain, TICK};
use crate::error::{SessionError, Side};
use crate::lending::{Lender, Loan, Terms};
use crate::session::Shared;
use crate::watch::Flow;

/// How long a stream that is not RPC must be silent before a TLS 1.2 close_notify may cut off its answers.
const QUIET: Duration = Duration::from_millis(500);

/// Sends what the plain side says. The only one that seals, so the only one that sends alerts and key updates.
pub(crate) struct OutboundHalf<'s, S: Stream> {
    shared: &'s Shared<S>,
    sealer: Sealer,
    scanner: RecordScanner,
    lender: Lender,
    peer: SocketAddr,
    loan: Option<Loan>,
    want_big: bool,
    /// What is outstanding has been waited for.
    is_drained_out: bool,
    /// Why the peer, which had said close_notify, did not take all that was to be sent.
    lost: Option<SessionError>,
}

/// Whether another turn follows.
enum Turn {
    Next,
    /// Nothing more comes from the plain side, or nothing more may be sent.
    Last,
}

impl<'s, S: Stream> OutboundHalf<'s, S> {
    pub(crate) fn new(shared: &'s Shared<S>, sealer: Sealer, lender: Lender, peer: SocketAddr) -> Self {
        Self {
            shared,
            sealer,
            scanner: RecordScanner::new(),
            lender,
            peer,
            loan: None,
            want_big: false,
            is_drained_out: false,
            lost: None,
        }
    }

    /// The sealer, for the last alert; whether what was sent ends at a record boundary; and why some of it was lost behind
    /// the peer's end.
    pub(crate) fn into_parts(self) -> (Sealer, bool, Option<SessionError>) {
        let at_boundary = self.scanner.at_boundary();
        (self.sealer, at_boundary, self.lost)
    }

    pub(crate) async fn run(&mut self) -> Result<(), SessionError> {
        match self.carry().await {
            // Whoever has sent close_notify may close: that it takes no more is no failure of what it sent before, which is
            // still to arrive.
            Err(error @ SessionError::Io { side: Side::Tls, .. }) if self.shared.peer_closed.get() => {
                let was_to_listen = self.shared.version == Version::Tls13 && self.shared.role() == Role::Client;
                self.lost = Some(error).filter(|_| was_to_listen && self.shared.wire_busy.get());
                Ok(())
            }
            other => other,
        }
    }

    async fn carry(&mut self) -> Result<(), SessionError> {
        while !self.shared.is_failing() {
            self.send_control().await?;
            if self.must_stop() {
                break;
            }
            if let Some(why) = self.shared.drain() {
                if !self.shared.is_rpc() {
                    // A stream without boundaries cannot be ended at one.
                    return Err(why.error(self.shared.role()));
                }
                if self.scanner.at_boundary() {
                    self.loan = None;
                    self.drain(why).await?;
                    self.is_drained_out = true;
                    break;
                }
            }
            if let Turn::Last = self.turn().await? {
                break;
            }
        }
        self.loan = None;
        if self.shared.is_failing() { Ok(()) } else { self.close().await }
    }

    /// A TLS 1.2 peer drops what we write after its close_notify (RFC 5246 section 7.2.1).
    fn must_stop(&self) -> bool {
        self.shared.peer_closed.get() && self.shared.version == Version::Tls12
    }

    /// Receives once and sends it.
    async fn turn(&mut self) -> Result<Turn, SessionError> {
        self.let_others_run().await;
        let mut loan = match self.loan.take() {
            Some(loan) if loan.buffer.is_big() == self.want_big => loan,
            other => {
                drop(other);
                self.lender.lend(self.want_big, self.shared.tls.socket())?
            }
        };
        let mut bytes_max = loan.bytes_max();
        if self.shared.drain().is_some() {
            bytes_max = bytes_max.min(self.scanner.record_bytes_left());
        }
        let whole = self.lay_out(&mut loan.buffer, bytes_max)?;
        let patience = self.lender.patience(&loan);
        let (received, buffer) = self.shared.plain.receive(loan.buffer, patience).await;
        loan.buffer = buffer;
        match received.map_err(Shared::<S>::io_error(Side::Plain, "receive"))? {
            // The peer may have ended while this was waited for.
            Received::Bytes(_) if self.shared.is_failing() || self.must_stop() => Ok(Turn::Last),
            Received::Bytes(count) => {
                self.shared.awake.came(count);
                self.note(&loan.buffer, count)?;
                self.want_big = (count == whole && !loan.buffer.is_big())
                    || count > RECORD_PLAIN_BYTES_MAX
                    || self.scanner.record_bytes_left() > RECORD_PLAIN_BYTES_MAX;
                let loan = self.forward(loan, count).await?;
                if self.lender.keeps(&loan) {
                    self.loan = Some(loan);
                }
                Ok(Turn::Next)
            }
            Received::End => {
                self.shared.plain_ended.set(true);
                self.shared.stir();
                self.shared.plain_first.set(!self.shared.peer_closed.get());
                Ok(Turn::Last)
            }
            Received::Nothing => {
                drop(loan);
                // A stream that has stopped begins again with a small one; without patience nobody knows whether it has.
                if let Patience::Hold = patience {
                    self.want_big = self.scanner.record_bytes_left() > RECORD_PLAIN_BYTES_MAX;
                }
                self.wait_for_plain().await
            }
        }
    }

    /// Their buffer is this one, while it is still near the processor.
    async fn let_others_run(&mut self) {
        if self.shared.plain.is_look_due() {
            self.loan = None;
            self.shared.plain.look().await;
        }
    }

    /// Lays the slices of a receive so that sealing has its room around each record; returns their sum.
    fn lay_out(&self, buffer: &mut Buffer, bytes_max: usize) -> Result<usize, SessionError> {
        let shape = self.sealer.shape();
        let room = shape.records_in(buffer.capacity()) * RECORD_PLAIN_BYTES_MAX;
        let whole = room.min(bytes_max.max(1));
        let mut slices = buffer.slices();
        slices.clear();
        let all_fit = shape.chunks(whole).all(|(start, length)| slices.push(start..start + length));
        if all_fit { Ok(whole) } else { Err(SessionError::Internal("more records than slices")) }
    }

    /// Lets the scanner see what was received.
    fn note(&mut self, buffer: &Buffer, count: usize) -> Result<(), SessionError> {
        let Self { shared, scanner, .. } = self;
        for (start, length) in self.sealer.shape().chunks(count) {
            let bytes = buffer.bytes().get(start..start + length).ok_or(SessionError::Internal("a slice outside"))?;
            #[cfg(debug_assertions)]
            #[allow(clippy::panic, reason = "a test of what a panic does")]
            if shared.config.panic_on.as_deref().is_some_and(|mark| bytes.starts_with(mark)) {
                panic!("asked for by the client: debug builds do this when SEALANE_PANIC_ON is set");
            }
            if shared.out.told(&shared.back, |passing| scanner.advance_and_tell(bytes, passing)).is_err() {
                shared.note_not_rpc(Side::Plain, self.peer);
            }
        }
        shared.out.note(scanner, &shared.back);
        let flow = shared.out_flow.get();
        let is_inside = !scanner.at_boundary() && !scanner.is_refused();
        shared.out_flow.set(Flow { received: flow.received + count as u64, is_inside, ..flow });
        shared.stir();
        shared.counters.plain_received_bytes_total.add(count as u64);
        Ok(())
    }

    /// Seals `count` bytes and sends the records.
    async fn forward(&mut self, mut loan: Loan, count: usize) -> Result<Loan, SessionError> {
        let wire_bytes = self.sealer.seal(loan.buffer.bytes_mut(), count)?;
        if self.shared.version == Version::Tls12 && self.key_is_used_up() {
            self.shared.begin_drain(Drain::KeyUsedUp);
        }
        loan.buffer = self.send(loan.buffer, wire_bytes).await?;
        Ok(loan)
    }

    async fn send(&self, mut buffer: Buffer, wire_bytes: usize) -> Result<Buffer, SessionError> {
        let mut slices = buffer.slices();
        slices.clear();
        if !slices.push(0..wire_bytes) {
            return Err(SessionError::Internal("records beyond the buffer"));
        }
        self.shared.wire_busy.set(true);
        let (sent, buffer) = self.shared.send(Side::Tls, buffer).await;
        sent.map_err(Shared::<S>::io_error(Side::Tls, "send"))?;
        self.shared.wire_busy.set(false);
        Ok(buffer)
    }

    fn key_is_used_up(&self) -> bool {
        self.sealer.records() >= self.shared.records_max(self.sealer.replace_at())
    }

    /// Sends what the receiving direction, or the age of the key, has made due.
    async fn send_control(&mut self) -> Result<(), SessionError> {
        if self.shared.renegotiation_due.take() {
            self.shared.counters.renegotiations_refused_total.add(1);
            self.send_message(ContentType::ALERT, &AlertDescription::NO_RENEGOTIATION.encode()).await?;
        }
        if self.shared.version == Version::Tls12 {
            if self.key_is_used_up() {
                self.shared.begin_drain(Drain::KeyUsedUp);
            }
            return Ok(());
        }
        // An answer requests nothing (RFC 8446 section 4.6.3), so a request of ours is a message of its own.
        if self.shared.key_answer_due.take() || self.key_is_used_up() {
            self.update_key(false).await?;
        }
        if self.shared.key_request_due.take() {
            self.update_key(true).await?;
        }
        Ok(())
    }

    /// Sends KeyUpdate under the old key; everything behind it goes under the next one.
    async fn update_key(&mut self, request: bool) -> Result<(), SessionError> {
        self.send_message(ContentType::HANDSHAKE, &key_update(request)).await?;
        let key = self.shared.keys.borrow_mut().next_sending_key()?;
        self.sealer.rekey(&key);
        self.shared.counters.key_updates_sent_total.add(1);
        Ok(())
    }

    async fn send_message(&mut self, content_type: ContentType, message: &[u8]) -> Result<(), SessionError> {
        let mut buffer = match self.loan.take() {
            Some(loan) => loan.buffer,
            None => self.lender.small()?,
        };
        let wire_bytes = self.sealer.seal_message(content_type, message, buffer.bytes_mut())?;
        self.send(buffer, wire_bytes).await.map(drop)
    }

    /// Waits without a buffer until the plain side says something or something else is to be done.
    async fn wait_for_plain(&self) -> Result<Turn, SessionError> {
        let wait = rt::race(self.shared.plain.readable(), self.shared.wake_outbound.wait());
        let first = if self.shared.drain().is_some() {
            rt::timeout(TICK, wait).await
        } else if self.shared.peer_closed.get() {
            // After the peer's close_notify only a plain side that goes on writing keeps the connection.
            let times = &self.shared.config.timeouts;
            let is_owed = self.scanner.at_boundary() && self.shared.replies_owed() > 0;
            let limit = if is_owed { times.reply() } else { times.half_close };
            rt::timeout(limit, wait).await
        } else {
            Some(wait.await)
        };
        match first {
            None if self.shared.drain().is_some() => Ok(Turn::Next),
            // It has not even been told of the end: what came before that is still on its way to it.
            None if self.shared.back_flow.get().is_sending => Ok(Turn::Next),
            None if self.scanner.at_boundary() && self.shared.replies_owed() == 0 => Ok(Turn::Last),
            // It has not ended, and what it has said is not whole, or not all.
            None => Err(SessionError::Truncated { side: Side::Plain }),
            Some(Either::Right(())) => Ok(Turn::Next),
            Some(Either::Left(ready)) => {
                ready.map_err(Shared::<S>::io_error(Side::Plain, "poll"))?;
                Ok(Turn::Next)
            }
        }
    }

    /// Takes no new call, but still carries the replies that are due, until nothing is outstanding or the time is over. The server's end lets the receiving direction hold the calls back, and carries
    /// whatever the NFS server says until it has answered those that it was given.
    async fn drain(&mut self, why: Drain) -> Result<(), SessionError> {
        let shared = self.shared;
        let times = &shared.config.timeouts;
        let is_server = shared.role() == Role::Server;
        if why == Drain::KeyUsedUp {
            // Of all other reasons, whoever had one has spoken.
            let reason = why.reason(shared.role());
            tracing::info!(peer = %self.peer, "{reason}: the connection ends when nothing is outstanding");
        }
        while !shared.is_failing() && !self.must_stop() {
            // A key can grow old meanwhile, and a peer can want another one.
            self.send_control().await?;
            let time = shared.draining_for();
            // The NFS server may take its time, the NFS client's answer to a callback may be behind calls that are not taken.
            let replies = if is_server { shared.replies_owed() } else { shared.replies_due() };
            // It may be another one by now.
            let why = shared.drain().unwrap_or(why);
            // What a server's end did not take, nobody will answer.
            let is_left = !is_server && shared.peer_closed.get();
            if is_left || time >= times.most_for_callbacks(why) && replies == 0 {
                break;
            }
            if time >= times.most_to_drain(why) || !shared.is_rpc() {
                return Err(why.error(shared.role()));
            }
            if self.scanner.at_boundary() && self.is_drained() {
                return Ok(());
            }
            let mut head = [0; 12];
            // Before the look, which would take the error away from the turn.
            let is_gone = shared.plain.socket().is_gone();
            let there = if is_gone { Ok(0) } else { shared.plain.socket().peek(&mut head) };
            // A server that has ended answers nothing any more, and nobody does who has failed: the turn finds out which.
            let is_over = is_gone
                || is_server
                    && match &there {
                        Ok(count) => *count == 0,
                        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                    };
            let is_due =
                there.as_ref().is_ok_and(|count| *count == head.len()) && (is_server || is_reply(&head) == Some(true));
            if !self.scanner.at_boundary() || is_over {
                if let Turn::Last = self.turn().await? {
                    break;
                }
            } else if is_due {
                // The bytes are there, but a driver may not have heard of it: without this it could spin.
                shared.plain.readable().await.map_err(Shared::<S>::io_error(Side::Plain, "poll"))?;
                self.take_record_head().await?;
            } else if is_server && there.is_err() {
                let next = rt::race(shared.plain.readable(), shared.wake_outbound.wait());
                rt::race(next, rt::sleep(TICK)).await;
            } else {
                rt::race(shared.wake_outbound.wait(), rt::sleep(TICK)).await;
            }
        }
        let left = shared.replies_due() + shared.replies_owed();
        if left > 0 && !shared.is_failing() {
            tracing::warn!(peer = %self.peer, "the connection ends with {left} replies outstanding");
        }
        Ok(())
    }

    /// Whether nothing is outstanding, as far as it is waited for. A server's end has its calls held back by the receiving
    /// direction, which may be inside of one that was on its way.
    fn is_drained(&self) -> bool {
        let shared = self.shared;
        match shared.role() {
            Role::Client => shared.nothing_outstanding(),
            Role::Server => {
                let no_more_comes = shared.calls_held_back.get();
                shared.replies_owed() == 0
                    && (no_more_comes || (shared.back_at_boundary.get() && shared.replies_due() == 0))
            }
        }
    }

    /// Moves the first four bytes of a record, so that the rest of it can be told from what follows.
    async fn take_record_head(&mut self) -> Result<(), SessionError> {
        self.let_others_run().await;
        self.loan = None;
        let mut buffer = self.lender.small()?;
        self.lay_out(&mut buffer, 4)?;
        let (received, buffer) = self.shared.plain.receive(buffer, Patience::None).await;
        let received = received.map_err(Shared::<S>::io_error(Side::Plain, "receive"))?;
        if let Received::Bytes(count) = received
            && !self.must_stop()
        {
            self.note(&buffer, count)?;
            self.forward(Loan { buffer, terms: Terms::Keep }, count).await?;
        }
        Ok(())
    }

    /// Ends our direction with close_notify, when nothing is lost by it.
    async fn close(&mut self) -> Result<(), SessionError> {
        // Under TLS 1.2 the peer's close_notify is answered wherever the plain side stands: nothing may follow it anyway.
        if !self.scanner.at_boundary() && !self.scanner.is_refused() && !self.must_stop() {
            return Err(SessionError::Truncated { side: Side::Plain });
        }
        if self.shared.version == Version::Tls12 && !self.is_drained_out {
            self.hold_back().await?;
        }
        if self.shared.is_failing() {
            return Ok(());
        }
        self.send_message(ContentType::ALERT, &AlertDescription::CLOSE_NOTIFY.encode()).await?;
        self.shared.closed.set(Some(rt::now()));
        self.shared.wake_inbound.set();
        Ok(())
    }

    /// Waits, before a TLS 1.2 close_notify, for the replies that the peer owes: its receiver drops its pending writes
    /// (RFC 5246 section 7.2.1). The plain side has ended, so what it owes never comes.
    async fn hold_back(&self) -> Result<(), SessionError> {
        let shared = self.shared;
        let started = rt::now();
        while !shared.peer_closed.get() && !shared.is_failing() {
            let silent = rt::now() - started.max(shared.back_last.get());
            // While the plain side does not take what came, nobody listens to the peer.
            let is_silent_for = |limit| silent >= limit && !shared.back_flow.get().is_sending;
            if if shared.is_rpc() { shared.replies_due() == 0 } else { is_silent_for(QUIET) } {
                return Ok(());
            }
            let times = &shared.config.timeouts;
            let is_between = shared.is_rpc() && shared.back_at_boundary.get();
            if is_silent_for(if is_between { times.reply() } else { times.half_close }) {
                return Err(SessionError::Truncated { side: Side::Tls });
            }
            rt::race(shared.wake_outbound.wait(), rt::sleep(TICK)).await;
        }
        Ok(())
    }
}
