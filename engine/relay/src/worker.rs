//! One thread: its driver, its pool, and the connections that it was given.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sealane_io::host::Throttling;
use sealane_io::net::{Accepted, Connection};
use sealane_io::rt::{self, Receiver};
use sealane_io::{Driver, Link, Pool, PoolLayout};

use crate::addresses::{Addresses, Presence};
use crate::admission::Admission;
use crate::config::{Mode, Resources, TunnelConfig, socket_options_for};
use crate::connections::Connections;
use crate::counters::Counters;
use crate::error::SessionError;
use crate::plain;
use crate::prepare::{self, Prepared};
use crate::session::{self, Ended, Parts, Surroundings};
use crate::spinning::Spinning;
use crate::throttle::Throttle;

/// How long sessions may take to tell both sides that the tunnel stops.
pub(crate) const STOP_MAX: Duration = Duration::from_millis(700);
const STOP_TICK: Duration = Duration::from_millis(5);

/// What the connections that a worker has of one tunnel share with the process.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<TunnelConfig>,
    pub(crate) resources: Resources,
    pub(crate) counters: Arc<Counters>,
    /// The worker's number.
    pub(crate) worker: usize,
    /// Connections that the worker has, those on their way to it included.
    pub(crate) active: Arc<AtomicUsize>,
    /// Sessions of the worker.
    pub(crate) sessions: Arc<AtomicUsize>,
    /// Sessions of all workers.
    pub(crate) sessions_of_all: Arc<AtomicUsize>,
    /// Sessions of the tunnel, by the addresses of their TLS clients.
    pub(crate) addresses: Addresses,
    /// Sessions of the process.
    pub(crate) connections: Connections,
    /// Whoever is still there when the tunnels stop is given no more time.
    pub(crate) hurry: Arc<AtomicBool>,
    /// Of the process, where that is limited.
    pub(crate) throttling: Option<Arc<Throttling>>,
}

/// Why a client gets no session; named by the option that says so.
pub(crate) enum Full {
    /// `--connections-max`
    All(usize),
    /// `--connections-per-address-max`
    Address(usize),
}

/// A session's places: in its worker, in the tunnel, and among those of its address. Dropping it makes room.
pub(crate) struct Seat {
    _places: [Place; 2],
    _presence: Presence,
}

impl Context {
    /// A seat for a TLS client.
    ///
    /// # Errors
    /// Which limit does not let it in.
    pub(crate) fn seat(&self, address: IpAddr) -> Result<Seat, Full> {
        let memory = &self.resources.memory;
        let presence = self.addresses.enter(address).ok_or(Full::Address(self.addresses.most()))?;
        let places = || {
            let own = Place::take_below(&self.sessions, memory.connections_per_worker())?;
            Some([own, Place::take_below(&self.sessions_of_all, memory.connections_max)?])
        };
        let places = places().ok_or(Full::All(memory.connections_max))?;
        Ok(Seat { _places: places, _presence: presence })
    }
}

/// What the connections that a worker has of one tunnel share.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) surroundings: Surroundings,
    pub(crate) handshakes: Admission,
    /// What is said about clients that fail before their session begins.
    pub(crate) complaints: Rc<RefCell<Throttle>>,
}

/// Lines about failed clients in an interval: enough to see what is wrong, too few to fill a disk.
const COMPLAINTS_MAX: u64 = 20;

impl Worker {
    pub(crate) fn new(pool: Pool, context: &Context) -> Self {
        let spinning = Spinning::new(context.resources.spin, context.throttling.clone());
        Self::within(Surroundings::new(pool, spinning), context)
    }

    /// The same for another tunnel of the worker.
    fn within(surroundings: Surroundings, context: &Context) -> Self {
        let share = |most: usize| most / context.resources.memory.workers.max(1);
        let handshakes = match &context.config.mode {
            Mode::Client(_) | Mode::Plain => Admission::new(usize::MAX, usize::MAX),
            Mode::Server(mode) => Admission::new(share(mode.handshakes_max), share(mode.per_address.handshakes_max)),
        };
        let complaints = Rc::new(RefCell::new(Throttle::new(COMPLAINTS_MAX)));
        Self { surroundings, handshakes, complaints }
    }
}

/// A connection on its way to a worker.
pub(crate) struct Assigned {
    pub(crate) accepted: Accepted,
    pub(crate) peer: SocketAddr,
    /// Which of the tunnels has accepted it.
    pub(crate) tunnel: usize,
    pub(crate) place: Place,
}

/// One of a counted number of things; dropping it gives it back.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    pub(crate) fn take(active: &Arc<AtomicUsize>) -> Self {
        active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(active))
    }

    /// Takes one unless there are `most` already.
    fn take_below(active: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let more = |active| (active < most).then_some(active + 1);
        active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(Arc::clone(active)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a worker could not start.
#[derive(Debug)]
pub(crate) enum WorkerError {
    /// The host does not give what the driver needs.
    Driver(io::Error),
    /// Anything else.
    Other(String),
}

/// Serves connections of all `tunnels` until the queue is closed. `ready` is told once whether the worker could start.
pub(crate) fn run<D: Driver<Link = Connection>>(
    tunnels: &[Context],
    layout: PoolLayout,
    mut queue: Receiver<Assigned>,
    ready: &std::sync::mpsc::Sender<Result<(), WorkerError>>,
) {
    let Some(first) = tunnels.first() else {
        return drop(ready.send(Err(WorkerError::Other("no tunnel to serve".into()))));
    };
    // A connection is two streams.
    let streams = 2 * first.resources.memory.connections_per_worker();
    let served = D::run(streams, async {
        let surroundings = match Pool::new(layout) {
            Ok(pool) => Worker::new(pool, first).surroundings,
            Err(error) => return drop(ready.send(Err(WorkerError::Other(error.to_string())))),
        };
        let own = |context: &Context| (context.clone(), Worker::within(surroundings.clone(), context));
        let tunnels: Vec<_> = tunnels.iter().map(own).collect();
        // The tunnel waits for this; if it is gone, so is the queue.
        let _ = ready.send(Ok(()));
        while let Some(assigned) = queue.next().await {
            if let Some((context, worker)) = tunnels.get(assigned.tunnel) {
                rt::spawn(serve_assigned::<D>(assigned, context.clone(), worker.clone()));
            }
        }
        surroundings.leave.set();
        let gone = async |most: Duration, hurry: &AtomicBool| {
            let started = rt::now();
            let is_in_time = || rt::now() - started < most && !hurry.load(Ordering::Relaxed);
            while first.active.load(Ordering::Relaxed) > 0 && is_in_time() {
                rt::sleep(STOP_TICK).await;
            }
        };
        gone(first.config.timeouts.leave, &first.hurry).await;
        surroundings.stop.set();
        gone(STOP_MAX, &AtomicBool::new(false)).await;
    });
    if let Err(error) = served {
        let _ = ready.send(Err(WorkerError::Driver(error)));
    }
}

async fn serve_assigned<D: Driver<Link = Connection>>(assigned: Assigned, context: Context, worker: Worker) {
    let Assigned { accepted, peer, place, .. } = assigned;
    match accepted.register() {
        Ok(connection) => serve_and_report::<D>(connection, peer, &context, worker).await,
        Err(error) => tracing::error!(%peer, "closed: cannot register the connection: {error}"),
    }
    drop(place);
}

/// Serves one connection. A panic ends this connection only.
pub(crate) async fn serve_and_report<D: Driver>(
    connection: D::Link,
    peer: SocketAddr,
    context: &Context,
    worker: Worker,
) {
    if let Err(message) = rt::catch_panic(serve::<D>(connection, peer, context, worker)).await {
        context.counters.connections_panicked_total.add(1);
        tracing::error!(%peer, "closed: internal error (panic: {message}); other connections go on");
    }
}

/// Serves one connection to its end: what comes before its session, and the session.
async fn serve<D: Driver>(connection: D::Link, peer: SocketAddr, context: &Context, worker: Worker) {
    let Context { config, counters, .. } = context;
    if let Err(error) = connection.set_options(&socket_options_for(peer.ip(), &config.accepted)) {
        tracing::debug!(%peer, "socket options of the accepted connection: {error}");
    }
    tracing::debug!(%peer, worker = context.worker, "accepted");
    // In a box, which is gone when the session begins: that may be idle for days.
    let preparing = Box::pin(async {
        match &config.mode {
            Mode::Client(mode) => {
                prepare::as_client::<D>(connection, peer, context, mode, &worker.surroundings.stop).await
            }
            Mode::Server(mode) => prepare::as_server::<D>(connection, peer, context, mode, &worker).await,
            Mode::Plain => {
                serve_plain::<D>(connection, peer, context, worker.surroundings.clone()).await;
                None
            }
        }
    });
    let Some(Prepared { plain, tls, established, shown, server, seat, who }) = preparing.await else { return };
    let facts = established.facts;
    counters.connections_established_total.add(1);
    counters.handshakes_resumed_total.add(u64::from(facts.resumed));
    counters.note_facts(facts);
    tracing::info!(%peer, %server, client = who, "opened: {facts}");
    drop(who);
    let listed = context.connections.enter(peer, server);
    let (config, counters) = (Arc::clone(config), Arc::clone(counters));
    let surroundings = worker.surroundings;
    let parts = Parts { plain, tls, peer, established, shown, config, counters, surroundings };
    let ended = session::run::<D::Stream>(parts).await;
    drop(listed);
    report(&ended, context, peer, server, &facts.to_string());
    drop(seat);
}

/// Serves one connection without TLS to its end.
async fn serve_plain<D: Driver>(connection: D::Link, peer: SocketAddr, context: &Context, surroundings: Surroundings) {
    let prepared = prepare::as_plain::<D>(connection, peer, context, &surroundings.stop).await;
    let Some((client, server, address)) = prepared else { return };
    let (config, counters) = (Arc::clone(&context.config), Arc::clone(&context.counters));
    counters.connections_established_total.add(1);
    tracing::info!(%peer, server = %address, "opened: {IN_PLAIN}");
    let listed = context.connections.enter(peer, address);
    let ended = plain::run::<D::Stream>(plain::Parts { client, server, peer, config, counters, surroundings }).await;
    drop(listed);
    report(&ended, context, peer, address, IN_PLAIN);
}

/// What is said of a connection without TLS.
const IN_PLAIN: &str = "in PLAIN TEXT";

/// Without TLS a side is named by who is there.
fn in_words(error: &SessionError, mode: &Mode) -> String {
    let text = error.to_string();
    match mode {
        Mode::Plain => text.replacen("plain side", "client side", 1).replacen("tls side", "server side", 1),
        Mode::Client(_) | Mode::Server(_) => text,
    }
}

fn report(ended: &Ended, context: &Context, peer: SocketAddr, server: SocketAddr, facts: &str) {
    let counters = &context.counters;
    counters.connections_drained_total.add(u64::from(ended.drained));
    counters.connections_not_rpc_total.add(u64::from(ended.not_rpc));
    let Ended { reason, out_bytes, back_bytes, calls, callbacks, .. } = ended;
    match &ended.failure {
        Some(SessionError::Stopped) => {
            tracing::info!(%peer, %server, out_bytes, back_bytes, calls, callbacks, "closed: the tunnel stops; {facts}");
        }
        Some(error) => {
            counters.connections_failed_total.add(1);
            counters.note_failure(error.to_string());
            let error = in_words(error, &context.config.mode);
            tracing::warn!(%peer, %server, out_bytes, back_bytes, calls, callbacks, "closed: {error}; {facts}");
        }
        None => tracing::info!(%peer, %server, out_bytes, back_bytes, calls, callbacks, "closed: {reason}; {facts}"),
    }
}
