//! One connection of the plain side joined to one TLS connection: what the two directions share, and how they end.
//!
//! Each direction is one future that owns its operations and buffers until they complete. Nothing is cancelled: a
//! failure ends the sockets, and that ends the operations.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealane_io::rt::{self, Broadcast, Either, Rouser, Signal};
use sealane_io::{Buffer, Control, Patience, Pool, Received, Stream};
use sealane_proto::outstanding::{Outstanding, Passing};
use sealane_proto::rpc::RecordScanner;
use sealane_proto::tls::{ContentType, Role, Sealer, Version};

use crate::config::TunnelConfig;
use crate::counters::Counters;
use crate::draining::Drain;
use crate::error::{SessionError, Side};
use crate::handshake::Established;
use crate::inbound::InboundHalf;
use crate::keys::KeySchedule;
use crate::lending::Lender;
use crate::outbound::OutboundHalf;
use crate::peers::Shown;
use crate::spinning::{Awake, Spinning};
use crate::watch::{self, Flow, SideFacts, Watch};

/// How often a direction whose send waits looks at the other side.
const WATCH_TICK: Duration = Duration::from_millis(250);

/// How often it is looked whether anything has gone over a connection, in the time that it may be idle.
const IDLE_LOOKS: u32 = 10;

/// The clocks begin anew when nobody could look at them for so many times the usual while.
const PAUSES_IN_TICKS: u32 = 2;

/// The server's end of a TLS 1.2 connection lets a key protect this part of its limit more: 2^18 records.
const SERVER_GRACE_PART: u64 = 60;

/// What one direction has seen of the RPC stream; the other one decides by it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) calls: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
    pub(crate) not_rpc: Cell<bool>,
    /// The calls of this direction, which the other one answers: they count as soon as they have been seen, replies when
    /// they have been passed on.
    pub(crate) outstanding: RefCell<Outstanding>,
}

impl Seen {
    /// Lets `scan` tell what passes in this direction, while `other` is the other one.
    pub(crate) fn told<T>(&self, other: &Self, scan: impl FnOnce(&mut Passing<'_>) -> T) -> T {
        let (mut calls, mut answered) = (self.outstanding.borrow_mut(), other.outstanding.borrow_mut());
        scan(&mut Passing { calls: &mut calls, answered: &mut answered })
    }

    /// What has been seen in this direction has been passed on.
    pub(crate) fn note(&self, scanner: &RecordScanner, other: &Self) {
        self.calls.set(scanner.calls());
        self.bytes.set(scanner.bytes());
        other.outstanding.borrow_mut().passed_on();
    }
}

/// What the two directions share.
pub(crate) struct Shared<S: Stream> {
    pub(crate) plain: S,
    pub(crate) tls: S,
    pub(crate) config: Arc<TunnelConfig>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) keys: RefCell<Box<dyn KeySchedule>>,
    pub(crate) version: Version,
    /// From the plain side, before sealing.
    pub(crate) out: Seen,
    /// To the plain side, after opening.
    pub(crate) back: Seen,
    pub(crate) back_last: Cell<Instant>,
    /// What each direction has done, for the clocks.
    pub(crate) out_flow: Cell<Flow>,
    pub(crate) back_flow: Cell<Flow>,
    /// What has been delivered, or is being, ends with a whole RPC record.
    pub(crate) back_at_boundary: Cell<bool>,
    /// Draining, a server delivers no more calls.
    pub(crate) calls_held_back: Cell<bool>,
    pub(crate) wake_outbound: Signal,
    pub(crate) wake_inbound: Signal,
    /// The peer wants our sending key updated.
    pub(crate) key_answer_due: Cell<bool>,
    /// The peer's own sending key is old: ask for the next one.
    pub(crate) key_request_due: Cell<bool>,
    /// TLS 1.2: a renegotiation is to be refused.
    pub(crate) renegotiation_due: Cell<bool>,
    /// Why the session is to end as soon as nothing is outstanding, and since when.
    pub(crate) drain: Cell<Option<(Drain, Instant)>>,
    /// close_notify was received, or is not awaited any longer.
    pub(crate) peer_closed: Cell<bool>,
    /// The plain side ended its direction.
    pub(crate) plain_ended: Cell<bool>,
    /// It did so before the TLS peer.
    pub(crate) plain_first: Cell<bool>,
    /// When close_notify was sent.
    pub(crate) closed: Cell<Option<Instant>>,
    /// A send towards the TLS peer is in flight, or failed: no alert can follow.
    pub(crate) wire_busy: Cell<bool>,
    pub(crate) awake: Awake,
    /// No clock has a reason to run.
    is_resting: Cell<bool>,
    stirred: Signal,
    failure: OnceCell<SessionError>,
    over: Cell<bool>,
}

/// How a session ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// `None`: as both sides wanted it.
    pub(crate) failure: Option<SessionError>,
    pub(crate) reason: &'static str,
    pub(crate) out_bytes: u64,
    pub(crate) back_bytes: u64,
    pub(crate) calls: u64,
    pub(crate) callbacks: u64,
    pub(crate) drained: bool,
    pub(crate) not_rpc: bool,
}

impl<S: Stream> Shared<S> {
    pub(crate) fn new(
        plain: S,
        tls: S,
        keys: Box<dyn KeySchedule>,
        version: Version,
        config: Arc<TunnelConfig>,
        counters: Arc<Counters>,
        surroundings: &Surroundings,
    ) -> Self {
        let awake = Awake::new(Rc::clone(&surroundings.spinning), Arc::clone(&counters));
        Self {
            plain,
            tls,
            config,
            counters,
            keys: RefCell::new(keys),
            version,
            out: Seen::default(),
            back: Seen::default(),
            back_last: Cell::new(rt::now()),
            out_flow: Cell::default(),
            back_flow: Cell::default(),
            back_at_boundary: Cell::new(true),
            calls_held_back: Cell::new(false),
            wake_outbound: Signal::default(),
            wake_inbound: Signal::default(),
            key_answer_due: Cell::new(false),
            key_request_due: Cell::new(false),
            renegotiation_due: Cell::new(false),
            drain: Cell::new(None),
            peer_closed: Cell::new(false),
            plain_ended: Cell::new(false),
            plain_first: Cell::new(false),
            closed: Cell::new(None),
            wire_busy: Cell::new(false),
            awake,
            is_resting: Cell::new(false),
            stirred: Signal::default(),
            failure: OnceCell::new(),
            over: Cell::new(false),
        }
    }

    /// Which end of TLS we are: the client's has the NFS client on its plain side, the server's the NFS server.
    pub(crate) fn role(&self) -> Role {
        self.config.mode.role()
    }

    /// After how many records a key is replaced, or in TLS 1.2 given up with its connection.
    ///
    /// There the client goes first: it can stop making calls before it ends, so that none crosses with the end. A
    /// server's end waits for a while longer, still far below the limit of the AEAD.
    pub(crate) fn records_max(&self, replace_at: u64) -> u64 {
        let limit = replace_at.min(self.config.records_per_key_max);
        let yields = self.version == Version::Tls12 && self.role() == Role::Server;
        if yields { limit.saturating_add(limit / SERVER_GRACE_PART) } else { limit }
    }

    /// Notes once that what comes from `side` is not RPC.
    pub(crate) fn note_not_rpc(&self, side: Side, peer: SocketAddr) {
        let (seen, who) = match (side, self.role()) {
            (Side::Plain, Role::Client) => (&self.out, "client"),
            (Side::Plain, Role::Server) => (&self.out, "server"),
            (Side::Tls, Role::Client) => (&self.back, "server"),
            (Side::Tls, Role::Server) => (&self.back, "client"),
        };
        if !seen.not_rpc.replace(true) {
            tracing::warn!(%peer, "the {who}'s stream is not ONC RPC; relaying it as it is");
        }
    }

    /// Whether a direction has failed and the other is to stop.
    pub(crate) fn is_failing(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Notes the first failure, resets the plain side at once, and lets every operation in flight end.
    pub(crate) fn fail(&self, error: SessionError) {
        if self.failure.set(error).is_err() {
            return;
        }
        self.plain.socket().abort();
        if self.wire_busy.get() {
            self.tls.socket().abort();
        } else {
            // Nothing is sent by this: the alert is still to come.
            self.tls.socket().shutdown_read();
        }
        self.wake_outbound.set();
        self.wake_inbound.set();
    }

    /// Whether both directions are RPC as far as they have been seen.
    pub(crate) fn is_rpc(&self) -> bool {
        !self.out.not_rpc.get() && !self.back.not_rpc.get()
    }

    /// Calls of the plain side to which the TLS peer still owes the reply: an NFS client's forward calls, or an NFS
    /// server's callbacks.
    pub(crate) fn replies_due(&self) -> u64 {
        self.out.outstanding.borrow().count()
    }

    /// Calls of the TLS peer to which the plain side still owes the reply.
    pub(crate) fn replies_owed(&self) -> u64 {
        self.back.outstanding.borrow().count()
    }

    /// Calls of the NFS client that await their reply; not the callbacks of its server.
    fn calls_in_progress(&self) -> u64 {
        match self.role() {
            Role::Client => self.replies_due(),
            Role::Server => self.replies_owed(),
        }
    }

    /// Whether no call awaits its reply in either direction. Says nothing of a stream that is not RPC.
    pub(crate) fn nothing_outstanding(&self) -> bool {
        self.replies_due() == 0 && self.replies_owed() == 0
    }

    /// Sends towards `side`. While that has to wait, nobody receives from the other side: so its reset is looked for.
    pub(crate) async fn send(&self, side: Side, buffer: Buffer) -> (io::Result<()>, Buffer) {
        let (to, other_side, other, flow) = match side {
            Side::Plain => (&self.plain, Side::Tls, &self.tls, &self.back_flow),
            Side::Tls => (&self.tls, Side::Plain, &self.plain, &self.out_flow),
        };
        flow.set(Flow { is_sending: true, ..flow.get() });
        self.stir();
        let bytes = buffer.slices_bytes();
        let mut send = pin!(to.send(buffer));
        loop {
            match rt::race(send.as_mut(), rt::sleep(WATCH_TICK)).await {
                Either::Left(done) => {
                    flow.set(Flow { is_sending: false, sends: flow.get().sends + 1, ..flow.get() });
                    if self.is_rpc() {
                        self.awake.expect(bytes, self.calls_in_progress());
                    }
                    return done;
                }
                // Whoever has said close_notify may be gone: what it said before that still goes to its end.
                Either::Right(()) if side == Side::Plain && self.peer_closed.get() => {}
                // Ends the sockets, and so the send, which is never dropped.
                Either::Right(()) if other.socket().is_gone() && !self.is_failing() => {
                    let source = io::Error::from(io::ErrorKind::ConnectionReset);
                    self.fail(SessionError::Io { side: other_side, op: "receive", source });
                }
                Either::Right(()) => {}
            }
        }
    }

    /// Returns when one of the clocks has run out.
    async fn watch(&self) -> SessionError {
        let times = &self.config.timeouts;
        let Some(tick) = watch::tick(times) else { return std::future::pending().await };
        let (mut watch, mut looked) = (Watch::default(), rt::now());
        loop {
            if self.is_resting.get() {
                self.rest().await;
            }
            rt::sleep(tick).await;
            let now = rt::now();
            if now - looked > PAUSES_IN_TICKS * tick {
                // No clock ran, or this process was stopped, and its host perhaps: nobody has read meanwhile what the
                // sockets hold.
                watch = Watch::default();
            }
            looked = now;
            // A call counts when its head has been seen; nothing is owed for the one that is still on its way.
            let is_owed = |replies: u64, calls: &Cell<Flow>| replies > u64::from(calls.get().is_inside);
            let (due, owed) = match (self.is_rpc(), self.role()) {
                (true, Role::Client) => (!self.peer_closed.get() && is_owed(self.replies_due(), &self.out_flow), false),
                (true, Role::Server) => (false, is_owed(self.replies_owed(), &self.back_flow)),
                (false, _) => (false, false),
            };
            let facts = |flow: &Cell<Flow>, stream: &S, owes_replies| SideFacts {
                flow: flow.get(),
                owes_replies,
                unheard: stream.socket().unheard(),
                is_awaited: !stream.socket().is_acknowledged(),
            };
            let (plain, tls) = (facts(&self.out_flow, &self.plain, owed), facts(&self.back_flow, &self.tls, due));
            if let Some(error) = watch.look(now, times, plain, tls) {
                return error;
            }
            // Where a side has ended, nobody listens to it, and an error of its socket would be heard by nobody.
            let is_whole = !self.peer_closed.get() && !self.plain_ended.get();
            self.is_resting.set(is_whole && plain.is_at_rest() && tls.is_at_rest());
        }
    }

    /// Returns when nothing has gone over the connection for as long as it may.
    async fn idle(&self) -> SessionError {
        let limit = self.config.timeouts.idle;
        if limit.is_zero() {
            return std::future::pending().await;
        }
        let received = || self.out_flow.get().received + self.back_flow.get().received;
        let (mut last, mut since) = (received(), rt::now());
        while rt::now() - since < limit {
            rt::sleep((limit / IDLE_LOOKS).max(WATCH_TICK)).await;
            if received() != last {
                (last, since) = (received(), rt::now());
            }
        }
        SessionError::Idle { limit }
    }

    /// Leaves it to keepalive whether both sides are there, until something comes: an idle connection costs nothing.
    async fn rest(&self) {
        let limits_rest = !self.config.timeouts.acknowledge.is_zero();
        let _without =
            [&self.plain, &self.tls].map(|side| limits_rest.then(|| WithoutUserTimeout::begin(side.socket())));
        self.stirred.wait().await;
    }

    /// Something has come: the clocks may have a reason to run.
    pub(crate) fn stir(&self) {
        if self.is_resting.take() {
            self.stirred.set();
        }
    }

    /// Runs both directions to their ends, which a clock, `stop` or an error that `besides` returns bring about sooner.
    ///
    /// They are pinned where they were made: this future would hold what it is given as often as it passes it on.
    pub(crate) async fn run_both(
        &self,
        out: Pin<&mut impl Future<Output = ()>>,
        back: Pin<&mut impl Future<Output = ()>>,
        stop: &Broadcast,
        besides: Pin<&mut impl Future<Output = SessionError>>,
    ) {
        let (out, back) = (rt::apart(out), rt::apart(back));
        let rousers = [out.rouser(), back.rouser()];
        let rouse = || rousers.iter().for_each(Rouser::rouse);
        let mut both = pin!(rt::join(out, back));
        let set_eager = |is_eager| {
            self.plain.set_eager(is_eager);
            self.tls.set_eager(is_eager);
        };
        let ended = {
            let others = pin!({
                let awake = self.awake.run(set_eager, rouse, || self.plain.look());
                let clocks = rt::race(self.watch(), self.idle());
                rt::race(rt::apart(rt::race(rt::race(stop.wait(), clocks), awake)), rt::apart(besides))
            });
            rt::race(both.as_mut(), others).await
            // Here nobody is awake any more: from now on the sockets tell by themselves.
        };
        match ended {
            Either::Left(_) => {}
            Either::Right(Either::Left(Either::Right(never))) => match never {},
            Either::Right(Either::Right(error)) => {
                self.fail(error);
                both.await;
            }
            Either::Right(Either::Left(Either::Left(why))) => {
                self.fail(match why {
                    Either::Left(()) => SessionError::Stopped,
                    Either::Right(Either::Left(error) | Either::Right(error)) => error,
                });
                both.await;
            }
        }
    }

    /// The NFS client, without TLS, has ended.
    pub(crate) fn note_end_of_plain(&self) {
        self.plain_ended.set(true);
        self.plain_first.set(!self.peer_closed.get());
    }

    /// Closes the sockets of a session without TLS; how it ended.
    pub(crate) fn end_in_plain(mut self) -> Ended {
        self.over.set(true);
        let failure = self.failure.take();
        if failure.is_some() {
            self.tls.socket().abort();
        }
        self.ended(failure)
    }

    /// What is told of a session that ended so.
    fn ended(&self, failure: Option<SessionError>) -> Ended {
        let reason = match &failure {
            Some(_) => "failed",
            None => match (self.drain(), self.plain_first.get(), self.role()) {
                (Some(why), _, role) => why.reason(role),
                (None, true, Role::Client) | (None, false, Role::Server) => "closed by the client",
                (None, false, Role::Client) | (None, true, Role::Server) => "closed by the server",
            },
        };
        let (forward, backward) = match self.role() {
            Role::Client => (&self.out, &self.back),
            Role::Server => (&self.back, &self.out),
        };
        Ended {
            failure,
            reason,
            out_bytes: self.out.bytes.get(),
            back_bytes: self.back.bytes.get(),
            calls: forward.calls.get(),
            callbacks: backward.calls.get(),
            drained: self.drain().is_some(),
            not_rpc: !self.is_rpc(),
        }
    }

    pub(crate) fn io_error(side: Side, op: &'static str) -> impl Fn(std::io::Error) -> SessionError {
        move |source| SessionError::Io { side, op, source }
    }
}

impl<S: Stream> Drop for Shared<S> {
    fn drop(&mut self) {
        if !self.over.get() {
            // A panic, or the end of the process: no operation may keep the sockets.
            self.plain.socket().abort();
            self.tls.socket().abort();
        }
    }
}

/// A socket has no user timeout for as long as this lives.
struct WithoutUserTimeout<'s, C: Control> {
    socket: &'s C,
    before: Option<Duration>,
}

impl<'s, C: Control> WithoutUserTimeout<'s, C> {
    fn begin(socket: &'s C) -> Self {
        let before = socket.user_timeout();
        if before.is_some() {
            socket.set_user_timeout(None);
        }
        Self { socket, before }
    }
}

impl<C: Control> Drop for WithoutUserTimeout<'_, C> {
    fn drop(&mut self) {
        if self.before.is_some() {
            self.socket.set_user_timeout(self.before);
        }
    }
}

/// The parts of a session before it runs.
pub(crate) struct Parts<Socket> {
    pub(crate) plain: Socket,
    pub(crate) tls: Socket,
    /// Who was accepted.
    pub(crate) peer: SocketAddr,
    pub(crate) established: Established,
    /// The peer's certificates, where they can be revoked.
    pub(crate) shown: Option<Arc<Shown>>,
    pub(crate) config: Arc<TunnelConfig>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) surroundings: Surroundings,
}

/// What the sessions of a worker share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) lender: Lender,
    /// Set when no more calls are to be taken.
    pub(crate) leave: Rc<Broadcast>,
    /// Set when all is to end.
    pub(crate) stop: Rc<Broadcast>,
    pub(crate) spinning: Rc<Spinning>,
}

impl Surroundings {
    pub(crate) fn new(pool: Pool, spinning: Spinning) -> Self {
        Self { lender: Lender::new(pool), leave: Rc::default(), stop: Rc::default(), spinning: Rc::new(spinning) }
    }
}

/// Hands both sockets to the driver.
///
/// # Errors
/// How the session has ended by that.
pub(crate) fn adopt<S: Stream>(plain: S::Socket, tls: S::Socket) -> Result<(S, S), Ended> {
    S::adopt(plain.clone()).and_then(|plain| Ok((plain, S::adopt(tls.clone())?))).map_err(|source| {
        plain.abort();
        tls.abort();
        let failure = Some(SessionError::Io { side: Side::Plain, op: "handing the sockets to the driver", source });
        Ended { failure, reason: "failed", ..Ended::default() }
    })
}

/// Runs a session to its end.
pub(crate) async fn run<S: Stream>(parts: Parts<S::Socket>) -> Ended {
    let Parts { plain, tls, peer, established, shown, config, counters, surroundings } = parts;
    let Established { sealer, inbound, keys, early, left_over, peer_closed, facts } = established;
    let (plain, tls) = match adopt::<S>(plain, tls) {
        Ok(streams) => streams,
        Err(ended) => return ended,
    };
    let shared = Shared::new(plain, tls, keys, facts.version, config, counters, &surroundings);
    let Surroundings { lender, leave, stop, .. } = surroundings;
    let mut outbound = OutboundHalf::new(&shared, sealer, lender.clone(), peer);
    let mut inbound = InboundHalf::new(&shared, inbound, lender.clone(), peer);
    {
        let out = pin!(async {
            if let Err(error) = outbound.run().await {
                shared.fail(error);
            }
        });
        let back = pin!(async {
            if let Err(error) = inbound.run(early, left_over, peer_closed).await {
                shared.fail(error);
            }
        });
        shared.run_both(out, back, &stop, pin!(shared.hear(shown, peer, &leave))).await;
    }
    let (sealer, at_boundary, lost) = outbound.into_parts();
    drop(inbound);
    if !shared.is_failing() && !shared.plain_ended.get() {
        discard_rest(&shared, &lender, &stop).await;
    }
    if let Some(error) = lost {
        shared.fail(error);
    }
    end(shared, sealer, at_boundary)
}

/// Reads what a plain side still says that was told the end of its stream, until it has acknowledged all it was sent:
/// closing a socket with unread bytes resets it, and what is not acknowledged by then is gone.
pub(crate) async fn discard_rest<S: Stream>(shared: &Shared<S>, lender: &Lender, stop: &Broadcast) {
    let started = rt::now();
    let limit = shared.config.timeouts.half_close;
    while !shared.plain.socket().is_acknowledged() && !stop.is_set() && rt::now() - started < limit {
        if shared.plain.is_look_due() {
            shared.plain.look().await;
        }
        let Ok(mut buffer) = lender.small() else { return };
        let capacity = buffer.capacity();
        if !buffer.slices().push(0..capacity) {
            return;
        }
        match shared.plain.receive(buffer, Patience::Hold).await.0 {
            Ok(Received::Bytes(_) | Received::Nothing) => {}
            Ok(Received::End) | Err(_) => return,
        }
    }
}

/// Tells both sides how it ended and closes the sockets.
fn end<S: Stream>(mut shared: Shared<S>, mut sealer: Sealer, at_boundary: bool) -> Ended {
    shared.over.set(true);
    let failure = shared.failure.take();
    match &failure {
        None => shared.tls.socket().shutdown_write(),
        Some(error) => {
            if let Some(alert) = error.alert(at_boundary)
                && !shared.wire_busy.get()
                && shared.closed.get().is_none()
            {
                let mut record = [0; 64];
                if let Ok(length) = sealer.seal_message(ContentType::ALERT, &alert.encode(), &mut record) {
                    // What does not fit into the socket now never will: the connection is reset next.
                    let _ = shared.tls.socket().try_send(record.get(..length).unwrap_or_default());
                }
            }
            shared.tls.socket().abort();
        }
    }
    shared.ended(failure)
}
