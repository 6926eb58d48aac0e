//! A listening socket, its workers, and who gets which connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use sealane_io::net::{Accepted, Listener};
use sealane_io::rt::{self, Either, Receiver, Sender};
use sealane_io::{Driver, Epoll, PoolLayout, Uring, host};

use crate::config::{IoChoice, Mode, TunnelConfig};
use crate::counters::Counters;
use crate::error::StartError;
use crate::worker::{self, Assigned, Context, Place, STOP_MAX};

/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Repeated complaints of the accept loop are logged this often at the most.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

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

/// Chooses the driver for workers with so many connections each, and says why.
///
/// # Errors
/// [`StartError::NoUring`] when io_uring was asked for by name and the host refuses it.
pub fn choose_driver(choice: IoChoice, connections: usize) -> Result<(DriverKind, String), StartError> {
    if choice == IoChoice::Epoll {
        // Not even probed: a host may end a process that tries.
        return Ok((DriverKind::Epoll, "asked for".into()));
    }
    match (choice, Uring::probe(2 * connections)) {
        (IoChoice::Auto, Err(error)) => Ok((DriverKind::Epoll, format!("io_uring is not available: {error}"))),
        (_, Err(error)) => Err(StartError::NoUring(error)),
        (IoChoice::Auto, Ok(())) => Ok((DriverKind::Uring, "the host allows it".into())),
        (_, Ok(())) => Ok((DriverKind::Uring, "asked for".into())),
    }
}

struct WorkerHandle {
    queue: Sender<Assigned>,
    active: Arc<AtomicUsize>,
    thread: thread::JoinHandle<()>,
}

/// A tunnel that listens.
pub struct Tunnel {
    listener: Listener,
    config: Arc<TunnelConfig>,
    counters: Arc<Counters>,
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
        let layout = config.memory.layout()?;
        let address = config.listen;
        let listener = Listener::bind(address).map_err(|source| StartError::Listen { address, source })?;
        let (driver, driver_reason) = choose_driver(config.io, config.memory.connections_per_worker())?;
        // Only a client's tunnel is in the way of the dirty pages of this host.
        if let Mode::Client(_) = config.mode
            && let Err(error) = host::set_io_flusher()
        {
            tracing::info!("prctl(PR_SET_IO_FLUSHER): {error}: under memory pressure write-back may wait for itself");
        }
        if let Err(error) = host::raise_open_files() {
            tracing::debug!("raising the limit of open files: {error}");
        }
        let mut tunnel = Self {
            listener,
            config: Arc::new(config),
            counters: Arc::default(),
            workers: Vec::new(),
            driver,
            driver_reason,
        };
        for worker in 0..tunnel.config.memory.workers {
            tunnel.start_worker(worker, layout)?;
        }
        Ok(tunnel)
    }

    fn start_worker(&mut self, worker: usize, layout: PoolLayout) -> Result<(), StartError> {
        let (queue, receiver) = rt::queue(self.config.memory.connections_per_worker());
        let (ready, started) = mpsc::channel();
        let context =
            Context { config: Arc::clone(&self.config), counters: Arc::clone(&self.counters), active: Arc::default() };
        let active = Arc::clone(&context.active);
        let body: fn(&Context, PoolLayout, Receiver<Assigned>, &mpsc::Sender<_>) = match self.driver {
            DriverKind::Uring => worker::run::<Uring>,
            DriverKind::Epoll => worker::run::<Epoll>,
        };
        let thread = thread::Builder::new()
            .name(format!("{}-{worker}", self.config.mode.name()))
            .spawn(move || body(&context, layout, receiver, &ready))
            .map_err(|source| StartError::Io { op: "starting a thread", source })?;
        self.workers.push(WorkerHandle { queue, active, thread });
        let gone = |_| Err("the thread ended".to_string());
        started.recv().unwrap_or_else(gone).map_err(|what| StartError::Worker { worker, what })
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

    /// Serves until SIGTERM or SIGINT, whose name it returns; then ends the sessions, within a second.
    ///
    /// # Errors
    /// The reactor or the signal handlers could not be set up, or every worker has died.
    pub fn run(self) -> io::Result<&'static str> {
        self.run_until(rt::stop_signal())
    }

    /// The same until `stop` is done or every other end of it is gone.
    ///
    /// # Errors
    /// As [`Tunnel::run`].
    pub fn run_until_told(self, mut stop: Receiver<()>) -> io::Result<()> {
        self.run_until(async {
            stop.next().await;
            Ok(())
        })
    }

    fn run_until<T>(self, stop: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let Self { listener, config, counters, workers, .. } = self;
        rt::run_on_reactor(async {
            let acceptor = listener.register()?;
            let mut hand_out = HandOut { config, counters, workers, complained: None };
            let accepting = async {
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

/// Gives each connection to the worker with the fewest.
struct HandOut {
    config: Arc<TunnelConfig>,
    counters: Arc<Counters>,
    workers: Vec<WorkerHandle>,
    complained: Option<Instant>,
}

impl HandOut {
    fn assign(&mut self, accepted: Accepted, peer: SocketAddr) -> io::Result<()> {
        self.counters.connections_accepted_total.add(1);
        let most = self.config.memory.connections_max;
        let total: usize = self.workers.iter().map(|worker| worker.active.load(Ordering::Relaxed)).sum();
        let alive = self.workers.iter().filter(|worker| !worker.queue.is_closed());
        let Some(worker) = alive.min_by_key(|worker| worker.active.load(Ordering::Relaxed)) else {
            return Err(io::Error::other("every worker has died"));
        };
        let is_full = worker.active.load(Ordering::Relaxed) >= self.config.memory.connections_per_worker();
        if total >= most || is_full {
            self.counters.connections_refused_total.add(1);
            accepted.reset();
            self.complain(&format!("{peer}: reset, there are {most} connections already (--connections-max)"));
            return Ok(());
        }
        let place = Place::take(&worker.active);
        if let Err(assigned) = worker.queue.try_send(Assigned { accepted, peer, place }) {
            // The queue holds as many as the worker may have: only a worker that has died refuses.
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
        let now = rt::now();
        if self.complained.is_none_or(|last| now - last >= COMPLAINT_INTERVAL) {
            self.complained = Some(now);
            tracing::error!("{what}");
        } else {
            tracing::debug!("{what}");
        }
    }
}
