//! One end of a connection that the relay carries: an NFS client or server, in plain text or in TLS. It says what its plan
//! says, and compares every byte that it hears with what the other end has said.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use sealane_io::rt::{self, Either, Signal};
use sealane_proto::tls::Version;

use crate::moment::Moment;
use crate::network::{End, Network};
use crate::plan::{Behaviour, Close, WHEN_BLOCKED};
use crate::random::Random;
use crate::records::{DATA, Heard};
use crate::rpc::{self, Draft, Message, REPEATED_XID};
use crate::stats::Fault;
use crate::transport::{Transport, tickets};

mod faults;

/// From a request for the next key to the KeyUpdate that answers it, apart from what others take: what is on its way at the
/// moment of the request, and nothing for the relay.
const KEY_ANSWER_MAX: Duration = Duration::from_millis(45);

/// More in a row are a flood.
const EMPTY_RECORDS_MAX: u64 = 30;

/// A send that waits for so long is blocked.
const BLOCKED_FOR: Duration = Duration::from_secs(1);

/// So many calls at once are a flood.
pub(crate) const FLOOD_CALLS_MIN: usize = 300;

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
    /// It wants the relay's next key, since then.
    key_wanted: Cell<Option<Moment>>,
    is_hostile: Cell<bool>,
    has_idled: Cell<bool>,
    was_late: Cell<bool>,
    was_shut: Cell<bool>,
    was_reset: Cell<bool>,
    /// It was reset by a relay that could have said why.
    pub(crate) was_left_untold: Cell<bool>,
    /// Nothing more is to be heard.
    listened: Cell<bool>,
    wire_said: Cell<usize>,
    pub(crate) heard_bytes: Cell<usize>,
    pub(crate) heard_end: Cell<HeardEnd>,
    pub(crate) calls_heard: Cell<u64>,
    pub(crate) replies_heard: Cell<u64>,
    /// It ended its direction well.
    pub(crate) ended_well: Cell<bool>,
    /// When its fault happened.
    pub(crate) struck: Cell<Option<Moment>>,
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
            key_wanted: Cell::new(None),
            is_hostile: Cell::new(false),
            has_idled: Cell::new(false),
            was_late: Cell::new(false),
            was_shut: Cell::new(false),
            was_reset: Cell::new(false),
            was_left_untold: Cell::new(false),
            listened: Cell::new(false),
            wire_said: Cell::new(0),
            heard_bytes: Cell::new(0),
            heard_end: Cell::new(HeardEnd::Open),
            calls_heard: Cell::new(0),
            replies_heard: Cell::new(0),
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
        match self.behaviour.leaves {
            true => self.talk().await,
            false => drop(rt::join(self.listen(), self.talk()).await),
        }
    }

    /// Whether it spoke TLS records under known keys, with the relay's end of the session.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.behaviour.stream.is_none() && self.reader.borrow().at_boundary()
    }

    fn note_reset(&self) {
        if let Some(end) = &*self.end.borrow() {
            self.was_left_untold.set(end.could_be_told());
        }
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
            self.struck.set(Some(self.socket().moment()));
            self.network.count(fault);
        }
    }

    fn is_to_pause(&self) -> bool {
        self.random.borrow_mut().chance(self.behaviour.pauses)
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
            self.pause_reading().await;
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

    async fn pause_reading(&self) {
        let socket = self.socket();
        if !self.behaviour.reads_on && self.is_to_pause() {
            socket.pause(self.behaviour.pause).await;
            if socket.is_full() {
                self.network.count(Fault::SlowReader);
            }
        }
        let shut = self.behaviour.shut.filter(|(at, _)| self.heard_bytes.get() >= *at && !self.was_shut.get());
        if let Some((_, duration)) = shut {
            self.was_shut.set(true);
            socket.pause(duration).await;
            if socket.is_full() {
                self.network.count(if duration.as_secs() >= 100 { Fault::WindowShut } else { Fault::SlowReader });
            }
        }
    }

    fn most_to_receive(&self) -> usize {
        let mut random = self.random.borrow_mut();
        if random.chance(250) { random.within(1, 3000) } else { 1 << 18 }
    }

    fn hear(&self, bytes: Vec<u8>) -> Result<(), String> {
        if let HeardEnd::Alert(_) = self.heard_end.get() {
            return Ok(());
        }
        let silent_from = self.socket().silent_from();
        let heard = self.transport.borrow_mut().hear(bytes, silent_from)?;
        for heard in heard {
            match heard {
                _ if self.heard_end.get() == HeardEnd::Well => return Err(format!("{heard:?} behind the end")),
                Heard::Data(data) => self.take(&data)?,
                Heard::CloseNotify => {
                    self.heard_end.set(HeardEnd::Well);
                    self.key_answer_is_in_time()?;
                    if self.is_12 {
                        // Its receiver answers at once and drops what it would have written (RFC 5246 section 7.2.1).
                        self.queue.borrow_mut().clear();
                    }
                }
                Heard::Alert(description) => {
                    self.network.count(Fault::AlertHeard);
                    self.heard_end.set(HeardEnd::Alert(description));
                }
                Heard::KeyUpdate { answer, is_of_age } => {
                    if is_of_age {
                        self.network.count(Fault::OwnKeyUpdate);
                    }
                    if answer {
                        self.key_answer_due.set(true);
                    } else {
                        self.key_answer_is_in_time()?;
                        self.key_wanted.set(None);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the relay has not let the peer wait for its next key.
    fn key_answer_is_in_time(&self) -> Result<(), String> {
        let is_cut = self.fault() == Some(Fault::PathCut) && self.struck.get().is_some();
        // A tunnel may stop in the middle of a pause that the relay had to wait for.
        let is_excused = is_cut || self.fault() == Some(Fault::Stopped);
        let Some(wanted) = self.key_wanted.get().filter(|_| !is_excused) else { return Ok(()) };
        let waited = self.socket().moment().unexplained_since(wanted);
        match waited > KEY_ANSWER_MAX {
            true => Err(format!("a KeyUpdate was asked for and not answered for {} ms", waited.as_millis())),
            false => Ok(()),
        }
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
        if message.is_extra {
            return;
        }
        if !message.is_call {
            self.replies_heard.set(self.replies_heard.get() + 1);
            self.outstanding.set(self.outstanding.get().saturating_sub(1));
            return;
        }
        self.calls_heard.set(self.calls_heard.get() + 1);
        if self.behaviour.idle.is_some_and(|(at, _)| at as u64 + 1 == self.calls_heard.get()) {
            self.key_was_asked_for();
        }
        if self.is_due(Fault::ServerSilent) {
            return self.strike(Fault::ServerSilent);
        }
        self.put_message(Some(message.xid), message.reply_bytes, 0);
    }

    // ---- talking

    /// A reply to the call with that xid, or a call.
    fn put_message(&self, answered: Option<u32>, bytes: usize, reply_bytes: usize) {
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

    /// After a time in which there was nothing else to do, the relay must have asked for a new key in place of an old one.
    fn key_was_asked_for(&self) {
        if let Transport::Records(records) = &*self.transport.borrow()
            && records.is_own_key_old()
            && !self.key_answer_due.get()
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
        let late = self.behaviour.late.filter(|(at, _)| self.calls_heard.get() as usize >= *at);
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
        queue.drain(..count).collect()
    }

    async fn say(&self, bytes: &[u8]) -> Result<(), Over> {
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

    async fn close(&self) -> Result<(), Over> {
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
