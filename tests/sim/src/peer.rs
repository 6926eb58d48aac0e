//! One end of a connection that the relay carries: an NFS client or server, in plain text or in TLS. It says what its plan
//! says, and compares every byte that it hears with what the other end has said.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use sealane_io::rt::{self, Signal};
use sealane_proto::tls::Version;

use crate::network::{End, Network};
use crate::plan::{Behaviour, Close};
use crate::random::Random;
use crate::records::{ALERT, DATA, HANDSHAKE, Heard, PLAIN_BYTES_MAX};
use crate::rpc::{self, Message};
use crate::stats::Fault;
use crate::transport::{Transport, tickets};

/// How the relay ended its direction towards a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HeardEnd {
    Open,
    /// FIN on the plain side, close_notify on the other.
    Well,
    Alert(u8),
    /// FIN on the TLS side, without close_notify.
    Bare,
    Reset,
}

/// What a direction says: what has been said so far, in order.
pub(crate) type Said = Rc<RefCell<Vec<u8>>>;

/// A peer.
pub(crate) struct Peer {
    end: RefCell<Option<End>>,
    network: Rc<Network>,
    transport: RefCell<Transport>,
    behaviour: Behaviour,
    is_client: bool,
    /// It speaks TLS 1.2.
    is_12: bool,
    random: RefCell<Random>,
    said: Said,
    other_said: Said,
    queue: RefCell<VecDeque<u8>>,
    reader: RefCell<rpc::Reader>,
    next_call: Cell<usize>,
    streamed: Cell<usize>,
    outstanding: Cell<usize>,
    changed: Signal,
    key_answer_due: Cell<bool>,
    was_reset: Cell<bool>,
    /// Nothing more is to be heard.
    listened: Cell<bool>,
    wire_said: Cell<usize>,
    pub(crate) heard_bytes: Cell<usize>,
    pub(crate) heard_end: Cell<HeardEnd>,
    pub(crate) calls_heard: Cell<u64>,
    pub(crate) replies_heard: Cell<u64>,
    pub(crate) key_updates_heard: Cell<u64>,
    /// It ended its direction well.
    pub(crate) ended_well: Cell<bool>,
    /// When its fault happened.
    pub(crate) struck: Cell<Option<Instant>>,
    /// What the relay did wrong.
    pub(crate) wrong: RefCell<Option<String>>,
}

/// Nothing more is to be said.
struct Over;

impl Peer {
    pub(crate) fn new(
        end: End,
        transport: Transport,
        behaviour: Behaviour,
        is_client: bool,
        random: Random,
        [said, other_said]: [Said; 2],
    ) -> Self {
        let is_12 = matches!(&transport, Transport::Records(records) if records.version == Version::Tls12);
        Self {
            is_12,
            network: Rc::clone(end.network()),
            end: RefCell::new(Some(end)),
            transport: RefCell::new(transport),
            behaviour,
            is_client,
            random: RefCell::new(random),
            said,
            other_said,
            queue: RefCell::default(),
            reader: RefCell::default(),
            next_call: Cell::new(0),
            streamed: Cell::new(0),
            outstanding: Cell::new(0),
            changed: Signal::default(),
            key_answer_due: Cell::new(false),
            was_reset: Cell::new(false),
            listened: Cell::new(false),
            wire_said: Cell::new(0),
            heard_bytes: Cell::new(0),
            heard_end: Cell::new(HeardEnd::Open),
            calls_heard: Cell::new(0),
            replies_heard: Cell::new(0),
            key_updates_heard: Cell::new(0),
            ended_well: Cell::new(false),
            struck: Cell::new(None),
            wrong: RefCell::default(),
        }
    }

    fn socket(&self) -> End {
        self.end.borrow().clone().expect("a peer that runs has its socket")
    }

    /// Closes its socket.
    pub(crate) fn let_go(&self) {
        self.end.borrow_mut().take();
    }

    /// Runs until its connection is over.
    pub(crate) async fn run(&self) {
        rt::join(self.listen(), self.talk()).await;
    }

    fn note_reset(&self) {
        self.was_reset.set(true);
        if self.heard_end.get() == HeardEnd::Open {
            self.heard_end.set(HeardEnd::Reset);
        }
    }

    fn is_over(&self) -> bool {
        self.was_reset.get() || matches!(self.heard_end.get(), HeardEnd::Reset | HeardEnd::Bare | HeardEnd::Alert(_))
    }

    fn fault(&self) -> Option<Fault> {
        self.behaviour.fault.map(|(fault, _)| fault)
    }

    fn is_due(&self, fault: Fault) -> bool {
        self.behaviour.fault.is_some_and(|(own, at)| own == fault && self.said.borrow().len() >= at)
    }

    fn strike(&self, fault: Fault) {
        if self.struck.get().is_none() {
            self.struck.set(Some(rt::now()));
            self.network.count(fault);
        }
    }

    async fn pause(&self, kind: Fault) {
        let pauses = self.random.borrow_mut().chance(self.behaviour.pauses);
        if pauses {
            self.network.count(kind);
            rt::sleep(self.behaviour.pause).await;
        }
    }

    // ---- listening

    async fn listen(&self) {
        loop {
            if self.fault() == Some(Fault::PeerTakesNothing) && self.is_due(Fault::PeerTakesNothing) {
                self.strike(Fault::PeerTakesNothing);
                self.socket().until(|end| end.is_abandoned().then_some(())).await;
                self.note_reset();
                break;
            }
            if !self.behaviour.reads_on {
                self.pause(Fault::SlowReader).await;
            }
            let most = self.most_to_receive();
            match self.socket().receive(most).await {
                Err(_) => self.note_reset(),
                Ok(bytes) if bytes.is_empty() => {
                    let is_plain = self.transport.borrow().is_plain();
                    if self.heard_end.get() == HeardEnd::Open {
                        self.heard_end.set(if is_plain { HeardEnd::Well } else { HeardEnd::Bare });
                    }
                }
                Ok(bytes) => {
                    if let Err(wrong) = self.hear(bytes) {
                        self.wrong.borrow_mut().get_or_insert(wrong);
                        self.socket().abort();
                        self.note_reset();
                    } else {
                        self.changed.set();
                        continue;
                    }
                }
            }
            break;
        }
        self.listened.set(true);
        self.changed.set();
    }

    fn most_to_receive(&self) -> usize {
        let mut random = self.random.borrow_mut();
        if random.chance(250) { random.within(1, 3000) } else { 1 << 18 }
    }

    fn hear(&self, bytes: Vec<u8>) -> Result<(), String> {
        if let HeardEnd::Alert(_) = self.heard_end.get() {
            return Ok(());
        }
        let heard = self.transport.borrow_mut().hear(bytes)?;
        for heard in heard {
            match heard {
                _ if self.heard_end.get() == HeardEnd::Well => return Err(format!("{heard:?} behind the end")),
                Heard::Data(data) => self.take(&data)?,
                Heard::CloseNotify => {
                    self.heard_end.set(HeardEnd::Well);
                    if self.is_12 {
                        // Its receiver answers at once and drops what it would have written (RFC 5246 section 7.2.1).
                        self.queue.borrow_mut().clear();
                    }
                }
                Heard::Alert(description) => {
                    self.network.count(Fault::AlertHeard);
                    self.heard_end.set(HeardEnd::Alert(description));
                }
                Heard::KeyUpdate { answer } => {
                    self.key_updates_heard.set(self.key_updates_heard.get() + 1);
                    if answer {
                        self.key_answer_due.set(true);
                    }
                }
            }
        }
        Ok(())
    }

    /// The first promise: what is heard is what was said, in order.
    fn take(&self, data: &[u8]) -> Result<(), String> {
        let at = self.heard_bytes.get();
        let expected = self.other_said.borrow();
        if expected.get(at..at + data.len()) != Some(data) {
            let same = expected.iter().skip(at).zip(data).take_while(|(said, heard)| said == heard).count();
            return Err(format!("byte {} is not what was said ({} bytes were)", at + same, expected.len()));
        }
        drop(expected);
        self.heard_bytes.set(at + data.len());
        if self.behaviour.stream.is_none() {
            let messages = self.reader.borrow_mut().read(data);
            messages.into_iter().for_each(|message| self.answer(message));
        }
        Ok(())
    }

    fn answer(&self, message: Message) {
        if !message.is_call {
            self.replies_heard.set(self.replies_heard.get() + 1);
            self.outstanding.set(self.outstanding.get().saturating_sub(1));
            return;
        }
        self.calls_heard.set(self.calls_heard.get() + 1);
        if self.is_due(Fault::ServerSilent) {
            return self.strike(Fault::ServerSilent);
        }
        self.put_message(false, message.reply_bytes, 0);
    }

    // ---- talking

    fn put_message(&self, is_call: bool, bytes: usize, reply_bytes: usize) {
        let fragment = match self.behaviour.fragment {
            // Only small ones: see `Behaviour::record`.
            fragment if bytes > 2000 => fragment.max(5000),
            fragment => fragment,
        };
        if fragment < 100 {
            self.network.count(Fault::TinyFragments);
        }
        let message = rpc::message(&mut self.random.borrow_mut(), is_call, bytes, reply_bytes, fragment);
        self.queue.borrow_mut().extend(message);
    }

    /// Puts into the queue what comes next of its own accord.
    fn refill(&self) {
        let Behaviour { calls, depth, stream, .. } = &self.behaviour;
        if let Some(most) = *stream {
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
        while self.outstanding.get() < depth
            && let Some((bytes, reply_bytes)) = calls.get(self.next_call.get())
        {
            self.next_call.set(self.next_call.get() + 1);
            self.outstanding.set(self.outstanding.get() + 1);
            self.put_message(true, *bytes, *reply_bytes);
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
        let has_heard_all = || self.heard_bytes.get() >= self.behaviour.stream.unwrap_or(0);
        let calls_made = self.next_call.get() == self.behaviour.calls.len();
        let streamed = self.behaviour.stream.is_none_or(|most| self.streamed.get() == most);
        let waited = match (self.behaviour.close, self.behaviour.stream) {
            (Close::After, _) => self.heard_end.get() == HeardEnd::Well,
            (_, Some(_)) => has_heard_all(),
            (Close::Said, None) => true,
            (Close::Done, None) => self.outstanding.get() == 0 && self.reader.borrow().at_boundary(),
        };
        calls_made && streamed && waited && self.queue.borrow().is_empty()
    }

    async fn talk(&self) {
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
            self.pause(Fault::SlowWriter).await;
            let bytes = self.next_bytes();
            self.say(&bytes).await?;
        }
    }

    /// Faults that another part of the peer, or of the world, commits.
    fn is_passive(&self, fault: Fault) -> bool {
        matches!(
            fault,
            Fault::ServerSilent
                | Fault::PeerTakesNothing
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
        queue.drain(..count).collect()
    }

    async fn say(&self, bytes: &[u8]) -> Result<(), Over> {
        self.said.borrow_mut().extend_from_slice(bytes);
        let wire = {
            let network = &self.network;
            let (mut transport, mut random) = (self.transport.borrow_mut(), self.random.borrow_mut());
            transport.say(bytes, &self.behaviour, &mut random, &mut network.stats.borrow_mut())
        };
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
    async fn send(&self, wire: &[u8]) -> Result<(), Over> {
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

    async fn write(&self, wire: &[u8]) -> Result<(), Over> {
        let sent: io::Result<()> = self.socket().send(wire).await;
        sent.map_err(|_| Over)
    }

    async fn close(&self) -> Result<(), Over> {
        self.ended_well.set(true);
        if self.behaviour.close == Close::Said && self.outstanding.get() > 0 {
            self.network.count(Fault::HalfClose);
        }
        let wire = self.transport.borrow_mut().close();
        self.send(&wire).await?;
        let ends_too = self.transport.borrow().is_plain() || self.random.borrow_mut().chance(500);
        if ends_too {
            self.socket().shutdown_write();
        }
        Ok(())
    }

    // ---- faults

    async fn commit(&self, fault: Fault) -> Result<(), Over> {
        if fault == Fault::CloseInRecord {
            // An end like any other: everything is still to arrive.
            self.network.count(fault);
            self.say_half_message().await?;
            return self.close().await;
        }
        self.strike(fault);
        match fault {
            Fault::PlainReset | Fault::TlsReset => self.socket().abort(),
            Fault::PathCut => self.socket().cut(),
            Fault::TlsEndWithoutClose => self.socket().shutdown_write(),
            Fault::PlainEndInRecord | Fault::HalfARecord | Fault::TlsEndInRecord => {
                self.say_half().await?;
                if fault != Fault::HalfARecord {
                    self.socket().shutdown_write();
                }
            }
            _ => {
                let wire = self.bad_records(fault);
                self.write(&wire).await?;
            }
        }
        Ok(())
    }

    /// What waits: it may be the rest of a message.
    async fn say_rest(&self) -> Result<(), Over> {
        let rest: Vec<u8> = self.queue.borrow_mut().drain(..).collect();
        if rest.is_empty() { Ok(()) } else { self.say(&rest).await }
    }

    fn message_to_cut(&self) -> Vec<u8> {
        rpc::message(&mut self.random.borrow_mut(), true, 600, 20, 1 << 24)
    }

    /// Half of a message, in whole records.
    async fn say_half_message(&self) -> Result<(), Over> {
        self.say_rest().await?;
        let message = self.message_to_cut();
        let half = self.random.borrow_mut().within(1, message.len() - 1);
        self.say(message.get(..half).unwrap_or_default()).await
    }

    /// Half of a message, or of a record with one in it.
    async fn say_half(&self) -> Result<(), Over> {
        self.say_rest().await?;
        let message = self.message_to_cut();
        if self.transport.borrow().is_plain() {
            let half = self.random.borrow_mut().within(1, message.len() - 1);
            self.said.borrow_mut().extend_from_slice(&message[..half]);
            return self.write(&message[..half]).await;
        }
        let wire = match &mut *self.transport.borrow_mut() {
            Transport::Records(records) => records.seal(DATA, &message, 0),
            _ => return Err(Over),
        };
        let half = self.random.borrow_mut().within(1, wire.len() - 1);
        self.write(&wire[..half]).await
    }

    /// Records that break the protocol. Whatever they carry was never said.
    fn bad_records(&self, fault: Fault) -> Vec<u8> {
        let mut transport = self.transport.borrow_mut();
        let Transport::Records(records) = &mut *transport else { return Vec::new() };
        let mut random = self.random.borrow_mut();
        let is_13 = records.version == Version::Tls13;
        let lie = vec![0x55; random.within(1, 300)];
        match fault {
            Fault::RecordChanged => {
                let mut wire = records.seal(DATA, &lie, 0);
                let at = random.within(5, wire.len() - 1);
                wire[at] ^= 1 << random.below(8);
                wire
            }
            Fault::RecordDropped => {
                records.skip_number();
                records.seal(DATA, &lie, 0)
            }
            Fault::RecordRepeated => {
                let text = rpc::message(&mut random, false, 40, 0, 1 << 24);
                self.said.borrow_mut().extend_from_slice(&text);
                let record = records.seal(DATA, &text, 0);
                [record.clone(), record].concat()
            }
            Fault::RecordTooLong => match random.below(2) {
                0 => vec![DATA, 3, 3, 0x41, 0x01],
                _ => records.seal(DATA, &vec![0x55; PLAIN_BYTES_MAX + 1], 0),
            },
            Fault::RecordOfNoType => records.seal(if is_13 { 99 } else { 20 }, &lie, 0),
            Fault::FatalAlert => records.seal(ALERT, &[2, 80], 0),
            Fault::Flood => {
                let kind = random.below(2);
                let mut one = || match (is_13, kind) {
                    (true, 0) => records.key_update(false),
                    (false, 0) => records.seal(ALERT, &[1, 90], 0),
                    _ => records.seal(DATA, &[], 0),
                };
                (0..40).flat_map(|_| one()).collect()
            }
            Fault::Interleaved => {
                let mut wire = records.seal(HANDSHAKE, &[4, 0, 1, 0, 7], 0);
                wire.extend(records.seal(DATA, &lie, 0));
                wire
            }
            _ => {
                let mut wire = vec![0; 20_000];
                random.fill(&mut wire);
                wire
            }
        }
    }
}
