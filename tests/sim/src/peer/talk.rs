//! What a peer says, and when.

use std::io;
use std::time::Duration;

use sealane_io::rt::{self, Either};
use sealane_proto::tls::Version;

use super::{FLOOD_CALLS_MIN, HeardEnd, Over, Peer};
use crate::plan::{Behaviour, Close, WHEN_BLOCKED};
use crate::records::DATA;
use crate::rpc::{self, Draft, REPEATED_XID};
use crate::stats::Fault;
use crate::transport::{Transport, tickets};

/// More in a row are a flood.
const EMPTY_RECORDS_MAX: u64 = 30;

/// A send that waits for so long is blocked.
const BLOCKED_FOR: Duration = Duration::from_secs(1);

impl Peer {
    /// A reply to the call with that xid, or a call.
    pub(super) fn put_message(&self, answered: Option<u32>, bytes: usize, reply_bytes: usize) {
        let fragment = match self.behaviour.fragment {
            // Only small ones: see `Behaviour::record`.
            fragment if bytes > 2000 => fragment.max(5000),
            fragment => fragment,
        };
        if fragment < 100 {
            self.network.count(Fault::TinyFragments);
        }
        let (mut random, mut queue) = (self.random.borrow_mut(), self.queue.borrow_mut());
        let mut draft = Draft::new(&mut random, answered.is_none(), bytes, reply_bytes, fragment);
        let has_one_only = self.behaviour.hostile == Some(Fault::RepeatedXids);
        draft.xid = answered.unwrap_or(if has_one_only { REPEATED_XID } else { draft.xid });
        queue.extend(draft.record(&mut random));
        if let Some(kind) = self.behaviour.hostile
            && (!self.is_hostile.replace(true) || random.chance(100))
        {
            self.network.count(kind);
            queue.extend(rpc::hostile(&mut random, kind));
        }
    }

    /// Puts into the queue what comes next of its own accord.
    fn refill(&self) {
        let Behaviour { calls, depth, stream, .. } = &self.behaviour;
        if let Some(most) = *stream {
            if most == 0 {
                return;
            }
            let mut bytes = vec![0; 20_000.min(most - self.streamed.get())];
            self.random.borrow_mut().fill(&mut bytes);
            if self.streamed.get() == 0 {
                // No mark of a record begins so.
                bytes.iter_mut().take(4).for_each(|byte| *byte = b'G');
                self.network.count(Fault::NotRpc);
            }
            self.streamed.set(self.streamed.get() + bytes.len());
            return self.queue.borrow_mut().extend(bytes);
        }
        // A server makes its callbacks at once.
        let depth = if self.is_client { *depth } else { calls.len() };
        if self.is_client && depth >= FLOOD_CALLS_MIN && self.next_call.get() == 0 {
            self.network.count(Fault::CallFlood);
        }
        while self.outstanding.get() < depth
            && !self.is_to_idle()
            && let Some((bytes, reply_bytes)) = calls.get(self.next_call.get())
        {
            self.next_call.set(self.next_call.get() + 1);
            self.outstanding.set(self.outstanding.get() + 1);
            self.put_message(None, *bytes, *reply_bytes);
        }
    }

    /// Whether nothing more is to be said before the time in which there is nothing to do.
    fn is_to_idle(&self) -> bool {
        let count = if self.is_client { self.next_call.get() } else { self.calls_heard.get() as usize };
        self.behaviour.idle.is_some_and(|(at, _)| at == count) && !self.has_idled.get()
    }

    /// There is nothing to do; the TLS peer, and only it, may still want the relay's next key.
    async fn idle(&self) -> Result<(), Over> {
        let Some((_, duration)) = self.behaviour.idle else { return Ok(()) };
        self.has_idled.set(true);
        if self.random.borrow_mut().chance(500) {
            // Long after the relay has begun to wait, or while it still hopes for more.
            self.socket().idle(Duration::from_secs(10)).await;
        }
        if !self.age_key().await? {
            self.want_key().await?;
        }
        if self.is_client {
            self.network.count(Fault::IdleHours);
            self.socket().idle(duration).await;
            self.key_was_asked_for();
        }
        Ok(())
    }

    /// Where keys are short, uses up its own with records of nothing: only the relay may ask for the next one then.
    async fn age_key(&self) -> Result<bool, Over> {
        let wire: Vec<u8> = match &mut *self.transport.borrow_mut() {
            Transport::Records(records) => match records.records_to_old_key() {
                Some(count @ 0..=EMPTY_RECORDS_MAX) => (0..count).flat_map(|_| records.seal(DATA, &[], 0)).collect(),
                _ => return Ok(false),
            },
            _ => return Ok(false),
        };
        self.send(&wire).await?;
        Ok(true)
    }

    /// After a time in which there was nothing else to do, the relay must have asked for a new key in place of an old one. Not
    /// when it has said close_notify: it may say nothing behind that (RFC 8446 section 6.1), and a key can be used up after it.
    pub(super) fn key_was_asked_for(&self) {
        if let Transport::Records(records) = &*self.transport.borrow()
            && records.is_own_key_old()
            && !self.key_answer_due.get()
            && self.heard_end.get() != HeardEnd::Well
        {
            self.wrong.borrow_mut().get_or_insert("a key is old, and the next one was not asked for".into());
        }
    }

    async fn want_key(&self) -> Result<(), Over> {
        let wire = match &mut *self.transport.borrow_mut() {
            Transport::Records(records) if records.version == Version::Tls13 => records.key_update(true),
            _ => return Ok(()),
        };
        self.note_key_wanted();
        self.send(&wire).await
    }

    /// Notes since when the relay's next key is wanted, if it is.
    fn note_key_wanted(&self) {
        let wants = match &mut *self.transport.borrow_mut() {
            // A key that is replaced for its age is no answer, and looks like one.
            Transport::Records(records) => records.take_key_wanted() && records.records_per_key_max == u64::MAX,
            _ => false,
        };
        if wants && self.key_wanted.get().is_none() && self.heard_end.get() == HeardEnd::Open {
            self.key_wanted.set(Some(self.socket().moment()));
        }
    }

    /// How many calls it has made.
    pub(crate) fn calls_made(&self) -> u64 {
        self.next_call.get() as u64
    }

    /// Whether all has been said.
    fn is_done(&self) -> bool {
        if self.behaviour.close != Close::After && self.heard_end.get() == HeardEnd::Well {
            // The server has ended: nobody answers any more.
            return self.queue.borrow().is_empty();
        }
        if self.is_12 && self.heard_end.get() == HeardEnd::Well {
            return true;
        }
        let has_heard_all = || self.heard_bytes.get() >= self.behaviour.expects;
        let calls_made = self.next_call.get() == self.behaviour.calls.len();
        let streamed = self.behaviour.stream.is_none_or(|most| self.streamed.get() == most);
        let waited = match (self.behaviour.close, self.behaviour.stream) {
            (Close::After, _) => self.heard_end.get() == HeardEnd::Well,
            (_, Some(_)) => has_heard_all(),
            (Close::Said, None) => true,
            (Close::Answered(calls), None) => self.calls_heard.get() as usize >= calls && self.outstanding.get() == 0,
            (Close::Done, None) => self.outstanding.get() == 0 && self.reader.borrow().at_boundary(),
        };
        calls_made && streamed && waited && self.queue.borrow().is_empty()
    }

    pub(super) async fn talk(&self) {
        // Whoever fails here has been reset, which it hears too.
        let _ = self.talk_on().await;
    }

    async fn talk_on(&self) -> Result<(), Over> {
        loop {
            let flight = self.transport.borrow_mut().pending();
            self.send(&flight).await?;
            if self.is_over() {
                return Ok(());
            }
            if self.transport.borrow().is_handshaking() {
                self.changed.wait().await;
                continue;
            }
            if self.key_answer_due.take() {
                self.answer_key_update().await?;
            }
            if self.queue.borrow().is_empty() {
                self.refill();
            }
            let done = self.is_done();
            if let Some((fault, at)) = self.behaviour.fault
                && (self.said.borrow().len() >= at || done)
                && !self.is_passive(fault)
            {
                return self.commit(fault).await;
            }
            if self.queue.borrow().is_empty() && self.is_to_idle() && self.outstanding.get() == 0 {
                self.idle().await?;
                continue;
            }
            if done && self.fault() == Some(Fault::NeverEnds) {
                return self.never_end().await;
            }
            let passive = [Some(Fault::ServerSilent), Some(Fault::PeerTakesNothing)].contains(&self.fault());
            let says_no_more = passive && self.struck.get().is_some();
            if says_no_more && self.listened.get() {
                // It keeps its socket until the relay has given up its own.
                self.socket().until(|end| end.is_abandoned().then_some(())).await;
                return Ok(());
            }
            if done && !says_no_more {
                return self.close().await;
            }
            if self.queue.borrow().is_empty() || says_no_more {
                self.changed.wait().await;
                continue;
            }
            self.pause_writing().await;
            if self.is_over() {
                return Ok(());
            }
            let bytes = self.next_bytes();
            self.say(&bytes).await?;
        }
    }

    async fn pause_writing(&self) {
        if self.is_to_pause() {
            self.network.count(Fault::SlowWriter);
            self.socket().pause(self.behaviour.pause).await;
        }
        // Nobody may take his time in the middle of a reply.
        let is_between = self.says_next_message.get();
        let late = self.behaviour.late.filter(|(at, _)| self.calls_heard.get() as usize >= *at && is_between);
        if let Some((_, duration)) = late
            && !self.was_late.replace(true)
        {
            self.network.count(Fault::LateReply);
            self.socket().pause(duration).await;
        }
    }

    /// Faults that another part of the peer, or of the world, commits.
    fn is_passive(&self, fault: Fault) -> bool {
        matches!(
            fault,
            Fault::ServerSilent
                | Fault::PeerTakesNothing
                | Fault::NeverEnds
                | Fault::Stopped
                | Fault::ConnectRefused
                | Fault::ConnectHangs
                | Fault::NameUnknown
                | Fault::HandshakeCut
                | Fault::HandshakeStalled
                | Fault::HandshakeChanged
        )
    }

    fn next_bytes(&self) -> Vec<u8> {
        let mut queue = self.queue.borrow_mut();
        let mut random = self.random.borrow_mut();
        let most = if random.chance(100) { random.within(1, 100) } else { self.behaviour.piece };
        let count = most.min(queue.len());
        self.says_next_message.set(count == queue.len());
        queue.drain(..count).collect()
    }

    pub(super) async fn say(&self, bytes: &[u8]) -> Result<(), Over> {
        self.said.borrow_mut().extend_from_slice(bytes);
        let wire = {
            let network = &self.network;
            let (mut transport, mut random) = (self.transport.borrow_mut(), self.random.borrow_mut());
            transport.say(bytes, &self.behaviour, &mut random, &mut network.stats.borrow_mut())
        };
        self.note_key_wanted();
        self.send(&wire).await?;
        let sends_tickets = !self.is_client && self.random.borrow_mut().chance(self.behaviour.extras);
        if sends_tickets {
            self.send_tickets().await?;
        }
        Ok(())
    }

    async fn send_tickets(&self) -> Result<(), Over> {
        let wire = match &mut *self.transport.borrow_mut() {
            Transport::Records(records) if records.version == Version::Tls13 => {
                self.network.count(Fault::Tickets);
                tickets(records, &mut self.random.borrow_mut())
            }
            _ => return Ok(()),
        };
        self.send(&wire).await
    }

    async fn answer_key_update(&self) -> Result<(), Over> {
        let wire = match &mut *self.transport.borrow_mut() {
            Transport::Records(records) => records.key_update(false),
            _ => return Ok(()),
        };
        self.send(&wire).await
    }

    /// Sends what travels as it is; the faults of the handshake are committed here, by the place on the wire.
    pub(super) async fn send(&self, wire: &[u8]) -> Result<(), Over> {
        let mut wire = wire.to_vec();
        if wire.is_empty() {
            return Ok(());
        }
        let before = self.wire_said.get();
        self.wire_said.set(before + wire.len());
        let strikes = self.behaviour.fault.and_then(|(fault, at)| Some((fault, at.checked_sub(before)?)));
        match strikes.filter(|(_, at)| *at < wire.len()) {
            Some((fault @ Fault::HandshakeChanged, at)) => {
                self.strike(fault);
                wire[at] ^= 1 << (at % 8);
            }
            Some((fault @ (Fault::HandshakeCut | Fault::HandshakeStalled), at)) => {
                self.strike(fault);
                let part = wire.get(..at).unwrap_or_default();
                self.write(part).await?;
                if fault == Fault::HandshakeCut {
                    if at % 2 == 0 { self.socket().shutdown_write() } else { self.socket().abort() }
                }
                return Err(Over);
            }
            _ => {}
        }
        self.write(&wire).await
    }

    pub(super) async fn write(&self, wire: &[u8]) -> Result<(), Over> {
        let socket = self.socket();
        let sent: io::Result<()> = match self.behaviour.fault {
            Some((fault, WHEN_BLOCKED)) => match rt::race(socket.send(wire), rt::sleep(BLOCKED_FOR)).await {
                Either::Left(sent) => sent,
                Either::Right(()) => {
                    self.strike(fault);
                    socket.abort();
                    return Err(Over);
                }
            },
            _ => socket.send(wire).await,
        };
        sent.map_err(|_| Over)
    }

    pub(super) async fn close(&self) -> Result<(), Over> {
        self.ended_well.set(true);
        if self.behaviour.close == Close::Said && self.outstanding.get() > 0 {
            self.network.count(Fault::HalfClose);
        }
        let wire = self.transport.borrow_mut().close();
        if self.is_12 {
            self.socket().says_last(wire.len());
        }
        self.send(&wire).await?;
        let ends_too = self.transport.borrow().is_plain() || self.random.borrow_mut().chance(500);
        if ends_too {
            self.socket().shutdown_write();
        }
        if self.behaviour.leaves {
            self.network.count(Fault::OrderlyClose);
        }
        Ok(())
    }
}
