//! One end of a connection that the relay carries: an NFS client or server, in plain text or in TLS. It says what its plan
//! says, and compares every byte that it hears with what the other end has said.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use sealane_io::rt::{self, Signal};
use sealane_proto::tls::Version;

use crate::moment::Moment;
use crate::network::{End, Network};
use crate::plan::Behaviour;
use crate::random::Random;
use crate::rpc;
use crate::stats::Fault;
use crate::transport::Transport;

mod faults;
mod listen;
mod talk;

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
    /// What it says next begins a message.
    says_next_message: Cell<bool>,
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
            says_next_message: Cell::new(true),
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
}
