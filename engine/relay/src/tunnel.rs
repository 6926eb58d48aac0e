//! A listening socket, its workers, and who gets which connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sealane_io::files::DirectoryWatch;
use sealane_io::host::{self, Throttling};
use sealane_io::net::{Accepted, Listener};
use sealane_io::rt::{self, Either, Receiver, Sender};
use sealane_io::{Driver, Epoll, PoolLayout, Uring};

use crate::addresses::Addresses;
use crate::care;
use crate::config::{IoChoice, Mode, TunnelConfig};
use crate::counters::Counters;
use crate::error::{NoUring, StartError};
use crate::throttle::{Loudness, Throttle};
use crate::worker::{self, Assigned, Context, Place, STOP_MAX, WorkerError};

/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What workers get beyond their own limit when the tunnel stops.
const STOP_GRACE: Duration = Duration::from_millis(200);
const STOP_TICK: Duration = Duration::from_millis(5);

/// The driver that a tunnel runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DriverKind {
    /// io_uring.
    Uring,
    /// epoll.
    Epoll,
}

impl DriverKind {
    /// The driver's name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => Uring::NAME,
            Self::Epoll => Epoll::NAME,
        }
    }
}

struct WorkerHandle {
    queue: Sender<Assigned>,
    active: Arc<AtomicUsize>,
    sessions: Arc<AtomicUsize>,
    thread: thread::JoinHandle<()>,
}

/// Starts all workers with one driver, or none.
///
/// # Errors
/// The first failure; what had been started has ended again.
fn start_workers(
    driver: DriverKind,
    config: &Arc<TunnelConfig>,
    counters: &Arc<Counters>,
    addresses: &Addresses,
    layout: PoolLayout,
    throttling: Option<&Arc<Throttling>>,
) -> Result<Vec<WorkerHandle>, StartError> {
    if driver == DriverKind::Uring {
        Uring::probe().map_err(StartError::NoUring)?;
    }
    let mut workers = Vec::new();
    let sessions_of_all = Arc::default();
    for worker in 0..config.memory.workers {
        let context = Context {
            config: Arc::clone(config),
            counters: Arc::clone(counters),
            worker,
            active: Arc::default(),
            sessions: Arc::default(),
            sessions_of_all: Arc::clone(&sessions_of_all),
            addresses: addresses.clone(),
            throttling: throttling.cloned(),
        };
        match start_worker(driver, context, layout) {
            Ok(handle) => workers.push(handle),
            Err(error) => {
                // Without its queue a worker ends.
                let threads: Vec<_> = workers.into_iter().map(|handle: WorkerHandle| handle.thread).collect();
                threads.into_iter().for_each(|thread| drop(thread.join()));
                return Err(error);
            }
        }
    }
    Ok(workers)
}

/// Connections that may wait until their worker looks at them: as many as it can have, handshakes included.
fn waiting_max(config: &TunnelConfig) -> usize {
    let handshakes = match &config.mode {
        Mode::Client(_) => 0,
        Mode::Server(mode) => mode.handshakes_max,
    };
    config.memory.connections_per_worker() + handshakes
}

fn start_worker(driver: DriverKind, context: Context, layout: PoolLayout) -> Result<WorkerHandle, StartError> {
    let (worker, active, sessions) = (context.worker, Arc::clone(&context.active), Arc::clone(&context.sessions));
    let (queue, receiver) = rt::queue(waiting_max(&context.config));
    let (ready, started) = mpsc::channel();
    let body: fn(&Context, PoolLayout, Receiver<Assigned>, &mpsc::Sender<_>) = match driver {
        DriverKind::Uring => worker::run::<Uring>,
        DriverKind::Epoll => worker::run::<Epoll>,
    };
    let thread = thread::Builder::new()
        .name(format!("{}-{worker}", context.config.mode.name()))
        .spawn(move || body(&context, layout, receiver, &ready))
        .map_err(|source| StartError::Io { op: "starting a thread", source })?;
    let gone = |_| Err(WorkerError::Other("the thread ended".into()));
    match started.recv().unwrap_or_else(gone) {
        Ok(()) => Ok(WorkerHandle { queue, active, sessions, thread }),
        Err(WorkerError::Driver(error)) if driver == DriverKind::Uring => Err(StartError::NoUring(error)),
        Err(WorkerError::Driver(error)) => Err(StartError::Worker { worker, what: error.to_string() }),
        Err(WorkerError::Other(what)) => Err(StartError::Worker { worker, what }),
    }
}

/// A tunnel that has its address, and no thread besides the one that made it: what the process gives up now, no thread of
/// the tunnel has.
pub struct Bound {
    listener: Listener,
    watch: Option<DirectoryWatch>,
    config: TunnelConfig,
    layout: PoolLayout,
    throttling: Option<Arc<Throttling>>,
}

/// A tunnel that listens.
pub struct Tunnel {
    listener: Listener,
    watch: Option<DirectoryWatch>,
    config: Arc<TunnelConfig>,
    counters: Arc<Counters>,
    addresses: Addresses,
    workers: Vec<WorkerHandle>,
    driver: DriverKind,
    driver_reason: String,
}

impl Tunnel {
    /// Binds, then starts the workers.
    ///
    /// # Errors
    /// The first thing that the host or a limit refuses.
    pub fn start(config: TunnelConfig) -> Result<Self, StartError> {
        Self::bind(config)?.start()
    }

    /// Does what may want privileges.
    ///
    /// # Errors
    /// The first thing that the host or a limit refuses.
    pub fn bind(config: TunnelConfig) -> Result<Bound, StartError> {
        let layout = config.memory.layout()?;
        let address = config.listen;
        let listener = Listener::bind(address).map_err(|source| StartError::Listen { address, source })?;
        config.outgoing.source_port.check().map_err(StartError::SourcePort)?;
        // Only a client's tunnel is in the way of the dirty pages of this host.
        if let Mode::Client(_) = config.mode
            && let Err(error) = host::set_io_flusher()
        {
            tracing::info!("prctl(PR_SET_IO_FLUSHER): {error}: under memory pressure write-back may wait for itself");
        }
        if let Err(error) = host::raise_open_files() {
            tracing::debug!("raising the limit of open files: {error}");
        }
        let watched = (!config.watched.is_empty()).then(|| DirectoryWatch::new(&config.watched));
        let watch = watched.transpose().map_err(StartError::Watch)?;
        Ok(Bound { listener, watch, config, layout, throttling: Throttling::find().map(Arc::new) })
    }

    /// Where it listens; the port is the kernel's choice where 0 was asked for.
    ///
    /// # Errors
    /// What getsockname says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_address()
    }

    /// The driver, and why this one.
    pub fn driver(&self) -> (DriverKind, &str) {
        (self.driver, &self.driver_reason)
    }

    /// What has happened so far; can be kept beyond the tunnel.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Serves until SIGTERM or SIGINT, whose name it returns; then ends the sessions, within a second. SIGHUP has the files of
    /// certificates, keys, CAs and CRLs read again.
    ///
    /// # Errors
    /// The reactor or the signal handlers could not be set up, or every worker has died.
    pub fn run(self) -> io::Result<&'static str> {
        self.run_until(rt::stop_signal(), true)
    }

    /// The same until `stop` is done or every other end of it is gone.
    ///
    /// # Errors
    /// As [`Tunnel::run`].
    pub fn run_until_told(self, mut stop: Receiver<()>) -> io::Result<()> {
        self.run_until(
            async {
                stop.next().await;
                Ok(())
            },
            false,
        )
    }

    /// `reloads`: SIGHUP is for this tunnel.
    fn run_until<T>(self, stop: impl Future<Output = io::Result<T>>, reloads: bool) -> io::Result<T> {
        let Self { listener, watch, config, counters, addresses, workers, .. } = self;
        rt::run_on_reactor(async {
            let acceptor = listener.register()?;
            let hangups = reloads.then(rt::hangups).transpose()?;
            let (complaints, refusals) = (Throttle::new(1), Throttle::new(1));
            if let Mode::Client(mode) = &config.mode {
                rt::spawn(mode.tls.now().answer_workers());
            }
            let changes = watch.map(DirectoryWatch::register).transpose()?;
            rt::spawn(care::run(Arc::clone(&config), hangups, changes));
            let mut hand_out = HandOut { config, counters, workers, addresses, complaints, refusals };
            let accepting = async {
                if let Mode::Server(mode) = &hand_out.config.mode {
                    care::staple(&mode.tls.now()).await;
                }
                loop {
                    match acceptor.accept().await {
                        Ok((accepted, peer)) => hand_out.assign(accepted, peer)?,
                        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                        Err(error) => {
                            hand_out.complain(&format!("accept: {error}"));
                            rt::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            };
            let stopped = match rt::race(stop, accepting).await {
                Either::Left(stopped) => stopped,
                Either::Right(failed) => failed,
            };
            hand_out.stop().await;
            stopped
        })?
    }
}

impl Bound {
    /// Starts the workers.
    ///
    /// # Errors
    /// What the driver, the memory or a thread could not have.
    pub fn start(self) -> Result<Tunnel, StartError> {
        let Self { listener, watch, config, layout, throttling } = self;
        let (addresses, config, counters) = (Addresses::of(&config.mode), Arc::new(config), Arc::default());
        let start = |driver| start_workers(driver, &config, &counters, &addresses, layout, throttling.as_ref());
        let (workers, driver, driver_reason) = match config.io {
            // Not even probed: a host may end a process that tries.
            IoChoice::Epoll => (start(DriverKind::Epoll)?, DriverKind::Epoll, "asked for".into()),
            IoChoice::Uring => (start(DriverKind::Uring)?, DriverKind::Uring, "asked for".into()),
            IoChoice::Auto => match start(DriverKind::Uring) {
                Ok(workers) => (workers, DriverKind::Uring, "the host allows it".into()),
                Err(StartError::NoUring(error)) => {
                    let reason = format!("io_uring is not available: {}", NoUring(&error));
                    (start(DriverKind::Epoll)?, DriverKind::Epoll, reason)
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Tunnel { listener, watch, config, counters, addresses, workers, driver, driver_reason })
    }
}

/// Gives each connection to the worker with the fewest.
struct HandOut {
    config: Arc<TunnelConfig>,
    counters: Arc<Counters>,
    workers: Vec<WorkerHandle>,
    addresses: Addresses,
    complaints: Throttle,
    /// What is said of addresses with too many connections: any of them can have it said, so it hides nothing else.
    refusals: Throttle,
}

impl HandOut {
    fn assign(&mut self, accepted: Accepted, peer: SocketAddr) -> io::Result<()> {
        self.counters.connections_accepted_total.add(1);
        // Its handshake would be for nothing. Whether it does get a session is decided when that is done.
        if self.addresses.is_full(peer.ip()) {
            self.counters.connections_refused_by_address_total.add(1);
            accepted.reset();
            let most = self.addresses.most();
            let why = format!("its address has {most} connections already (--connections-per-address-max)");
            match self.refusals.event(rt::now()) {
                Loudness::Aloud { missed: 0 } => tracing::warn!(%peer, "reset: {why}"),
                Loudness::Aloud { missed } => tracing::warn!(%peer, "reset: {why} ({missed} more times before)"),
                Loudness::Quiet => tracing::debug!(%peer, "reset: {why}"),
            }
            return Ok(());
        }
        let most = self.config.memory.connections_max;
        // TLS clients take their place when they have shown who they are; until then their handshakes have a limit.
        let counts_here = matches!(self.config.mode, Mode::Client(_));
        let total: usize = self.workers.iter().map(|worker| worker.active.load(Ordering::Relaxed)).sum();
        let alive = self.workers.iter().filter(|worker| !worker.queue.is_closed());
        // A worker that can take no session more is no choice, however few shake hands there.
        let per_worker = self.config.memory.connections_per_worker();
        let load = |worker: &&WorkerHandle| {
            (worker.sessions.load(Ordering::Relaxed) >= per_worker, worker.active.load(Ordering::Relaxed))
        };
        let Some(worker) = alive.min_by_key(load) else {
            return Err(io::Error::other("every worker has died"));
        };
        let is_full = worker.active.load(Ordering::Relaxed) >= per_worker;
        if counts_here && (total >= most || is_full) {
            self.counters.connections_refused_total.add(1);
            accepted.reset();
            self.complain(&format!("{peer}: reset, there are {most} connections already (--connections-max)"));
            return Ok(());
        }
        let place = Place::take(&worker.active);
        if let Err(assigned) = worker.queue.try_send(Assigned { accepted, peer, place }) {
            // The queue holds as many as the worker may have: only one that has died, or cannot keep up, refuses.
            self.counters.connections_refused_total.add(1);
            assigned.accepted.reset();
            self.complain(&format!("{peer}: reset, its worker does not take it"));
        }
        Ok(())
    }

    /// Lets the workers end their sessions.
    async fn stop(&mut self) {
        let threads: Vec<_> = self.workers.drain(..).map(|worker| worker.thread).collect();
        let started = rt::now();
        while !threads.iter().all(thread::JoinHandle::is_finished) && rt::now() - started < STOP_MAX + STOP_GRACE {
            rt::sleep(STOP_TICK).await;
        }
    }

    fn complain(&mut self, what: &str) {
        match self.complaints.event(rt::now()) {
            Loudness::Aloud { missed: 0 } => tracing::error!("{what}"),
            Loudness::Aloud { missed } => tracing::error!("{what} ({missed} more times before)"),
            Loudness::Quiet => tracing::debug!("{what}"),
        }
    }
}
