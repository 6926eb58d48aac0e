//! Listening sockets, their workers, and who gets which connection.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sealane_io::activation::Passed;
use sealane_io::files::DirectoryWatch;
use sealane_io::handover::{Control, ControlSocket, Predecessor};
use sealane_io::host::{self, Throttling};
use sealane_io::net::{Acceptor, Listener};
use sealane_io::rt::{self, Broadcast, Either, Receiver, Request};
use sealane_io::supervisor::Supervisor;
use sealane_io::{Driver, Epoll, PoolLayout, Uring};

use sealane_proto::tls::Role;

use crate::addresses::Addresses;
use crate::care;
use crate::config::{ConfigError, IoChoice, Mode, Resources, TunnelConfig};
use crate::connections::Connections;
use crate::counters::Counters;
use crate::entrance::{Entrance, HandOut, WorkerHandle, accept};
use crate::error::{NoUring, StartError};
use crate::reports::Reports;
use crate::succession;
use crate::throttle::Throttle;
use crate::worker::{self, Assigned, Context, STOP_MAX, WorkerError};

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

/// What all workers get.
struct Common<'c> {
    resources: Resources,
    counters: &'c Arc<Counters>,
    connections: &'c Connections,
    hurry: &'c Arc<AtomicBool>,
    /// Each tunnel, and who has connections through it.
    tunnels: Vec<(Arc<TunnelConfig>, Addresses)>,
    layout: PoolLayout,
    throttling: Option<Arc<Throttling>>,
}

impl Common<'_> {
    /// Starts all workers with one driver, or none.
    ///
    /// # Errors
    /// The first failure; what had been started has ended again.
    fn start_workers(&self, driver: DriverKind) -> Result<Vec<WorkerHandle>, StartError> {
        if driver == DriverKind::Uring {
            Uring::probe().map_err(StartError::NoUring)?;
        }
        let mut workers = Vec::new();
        let sessions_of_all = Arc::default();
        for worker in 0..self.resources.memory.workers {
            match self.start_worker(driver, worker, &sessions_of_all) {
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
    fn waiting_max(&self) -> usize {
        let handshakes = |(config, _): &(Arc<TunnelConfig>, Addresses)| match &config.mode {
            Mode::Client(_) | Mode::Plain => 0,
            Mode::Server(mode) => mode.handshakes_max,
        };
        self.resources.memory.connections_per_worker() + self.tunnels.iter().map(handshakes).sum::<usize>()
    }

    fn start_worker(
        &self,
        driver: DriverKind,
        worker: usize,
        sessions_of_all: &Arc<AtomicUsize>,
    ) -> Result<WorkerHandle, StartError> {
        let (active, sessions): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let context = |(config, addresses): &(Arc<TunnelConfig>, Addresses)| Context {
            config: Arc::clone(config),
            resources: self.resources,
            counters: Arc::clone(self.counters),
            worker,
            active: Arc::clone(&active),
            sessions: Arc::clone(&sessions),
            sessions_of_all: Arc::clone(sessions_of_all),
            addresses: addresses.clone(),
            connections: self.connections.clone(),
            hurry: Arc::clone(self.hurry),
            throttling: self.throttling.clone(),
        };
        let contexts: Vec<_> = self.tunnels.iter().map(context).collect();
        let (queue, receiver) = rt::queue(self.waiting_max());
        let (ready, started) = mpsc::channel();
        let body: fn(&[Context], PoolLayout, Receiver<Assigned>, &mpsc::Sender<_>) = match driver {
            DriverKind::Uring => worker::run::<Uring>,
            DriverKind::Epoll => worker::run::<Epoll>,
        };
        let layout = self.layout;
        let thread = thread::Builder::new()
            .name(format!("{}-{worker}", self.name()))
            .spawn(move || body(&contexts, layout, receiver, &ready))
            .map_err(|source| StartError::Io { op: "starting a thread", source })?;
        let gone = |_| Err(WorkerError::Other("the thread ended".into()));
        match started.recv().unwrap_or_else(gone) {
            Ok(()) => Ok(WorkerHandle { queue, active, sessions, thread }),
            Err(WorkerError::Driver(error)) if driver == DriverKind::Uring => Err(StartError::NoUring(error)),
            Err(WorkerError::Driver(error)) => Err(StartError::Worker { worker, what: error.to_string() }),
            Err(WorkerError::Other(what)) => Err(StartError::Worker { worker, what }),
        }
    }

    /// What threads are called.
    fn name(&self) -> &'static str {
        match self.tunnels.as_slice() {
            [(config, _)] => config.mode.name(),
            _ => "worker",
        }
    }
}

/// A tunnel that has its address.
struct Door {
    listener: Listener,
    watch: Option<DirectoryWatch>,
    config: Arc<TunnelConfig>,
}

impl Door {
    fn open(config: TunnelConfig, listener: Option<Listener>) -> Result<Self, StartError> {
        let address = config.listen;
        let bind = || Listener::bind(address).map_err(|source| StartError::Listen { address, source });
        let listener = listener.map_or_else(bind, Ok)?;
        config.outgoing.source_port.check().map_err(StartError::SourcePort)?;
        // Only a client's tunnel is in the way of the dirty pages of this host.
        if config.mode.role() == Role::Client
            && let Err(error) = host::set_io_flusher()
        {
            tracing::info!("prctl(PR_SET_IO_FLUSHER): {error}: under memory pressure write-back may wait for itself");
        }
        let watched = (!config.watched.is_empty()).then(|| DirectoryWatch::new(&config.watched));
        let watch = watched.transpose().map_err(StartError::Watch)?;
        Ok(Self { listener, watch, config: Arc::new(config) })
    }
}

/// What was passed to this process, for each tunnel: what listens on its address, or else each in its turn.
fn passed_to(configs: &[TunnelConfig], mut passed: Passed) -> Result<Vec<Option<Listener>>, StartError> {
    let mut listeners: Vec<_> = configs.iter().map(|config| passed.at(config.listen)).collect();
    if passed.may_be_left() {
        while let Some((address, _)) = passed.first() {
            tracing::info!("no tunnel listens on {address} any more");
        }
        return Ok(listeners);
    }
    let without = listeners.iter().filter(|listener| listener.is_none()).count();
    if passed.count() == without {
        for (listener, config) in listeners.iter_mut().zip(configs).filter(|(listener, _)| listener.is_none()) {
            *listener = passed.first().map(|(address, listener)| {
                tracing::info!("the socket that was passed for {} listens on {address}", config.listen);
                listener
            });
        }
    }
    match passed.first() {
        Some((address, _)) => {
            Err(ConfigError(format!("a socket was passed (LISTEN_FDS) that listens on {address}: no tunnel does"))
                .into())
        }
        None => Ok(listeners),
    }
}

/// Tunnels that have their addresses, and no thread besides the one that made them: what the process gives up now, no thread
/// of theirs has.
pub struct Bound {
    doors: Vec<Door>,
    resources: Resources,
    layout: PoolLayout,
    throttling: Option<Arc<Throttling>>,
}

/// What the tunnels of a process share with whoever has started it.
pub struct Process {
    /// Opens its log anew.
    pub reopen: fn(),
    /// Whoever wants to hear how it is.
    pub supervisor: Supervisor,
    /// Where the process is found that is to be replaced.
    pub control: Option<ControlSocket>,
    /// Whoever wants to hear that this process accepts connections.
    pub predecessor: Option<Predecessor>,
}

/// Why tunnels have stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// By a signal.
    Signal(&'static str),
    /// Another process has their sockets.
    Replaced {
        /// Its number.
        pid: u32,
    },
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => f.write_str(name),
            Self::Replaced { pid } => write!(f, "process {pid}, which goes on in the place of this one"),
        }
    }
}

/// Tunnels that listen, and share their workers.
pub struct Tunnels {
    doors: Vec<Door>,
    resources: Resources,
    counters: Arc<Counters>,
    connections: Connections,
    hurry: Arc<AtomicBool>,
    addresses: Vec<Addresses>,
    workers: Vec<WorkerHandle>,
    driver: DriverKind,
    driver_reason: String,
}

impl Tunnels {
    /// Binds one, then starts the workers.
    ///
    /// # Errors
    /// The first thing that the host or a limit refuses.
    pub fn start(resources: Resources, config: TunnelConfig) -> Result<Self, StartError> {
        Self::bind(resources, vec![config], Passed::default())?.start()
    }

    /// Does what may want privileges: all of them are bound, or none. What was `passed` to this process need not be.
    ///
    /// # Errors
    /// The first thing that the host or a limit refuses.
    pub fn bind(resources: Resources, configs: Vec<TunnelConfig>, passed: Passed) -> Result<Bound, StartError> {
        let layout = resources.memory.layout()?;
        let passed = passed_to(&configs, passed)?;
        let doors: Result<Vec<_>, _> =
            configs.into_iter().zip(passed).map(|(config, listener)| Door::open(config, listener)).collect();
        let doors = doors?;
        if let Err(error) = host::raise_open_files() {
            tracing::debug!("raising the limit of open files: {error}");
        }
        Ok(Bound { doors, resources, layout, throttling: Throttling::find().map(Arc::new) })
    }

    /// Where each listens; the port is the kernel's choice where 0 was asked for.
    ///
    /// # Errors
    /// What getsockname says.
    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.doors.iter().map(|door| door.listener.local_address()).collect()
    }

    /// What each was told.
    pub fn configs(&self) -> impl Iterator<Item = &TunnelConfig> {
        self.doors.iter().map(|door| &*door.config)
    }

    /// The driver, and why this one.
    pub fn driver(&self) -> (DriverKind, &str) {
        (self.driver, &self.driver_reason)
    }

    /// What has happened so far; can be kept beyond the tunnels.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Serves until SIGTERM, SIGINT or SIGQUIT comes, or another process has taken the place of this one; which. By then nothing
    /// more is accepted, calls under way are given their time, unless a second signal comes, and the sessions that are left end
    /// within a second. SIGHUP has the files of certificates, keys, CAs and CRLs read again, SIGUSR1 has the log opened anew,
    /// SIGUSR2 lists the sessions in it. The supervisor hears of all that.
    ///
    /// # Errors
    /// The reactor or the signal handlers could not be set up, or every worker has died.
    pub fn run(self, process: Process) -> io::Result<Stop> {
        self.run_until(None, Some(process))
    }

    /// The same until `stop` is done or every other end of it is gone.
    ///
    /// # Errors
    /// As [`Tunnels::run`].
    pub fn run_until_told(self, stop: Receiver<()>) -> io::Result<()> {
        self.run_until(Some(stop), None).map(drop)
    }

    /// Until it is told to stop, or with `process`, whose signals are for these tunnels, until one of them comes.
    fn run_until(self, mut told: Option<Receiver<()>>, process: Option<Process>) -> io::Result<Stop> {
        rt::run_on_reactor(async {
            let is_process = process.is_some();
            let mut signals = is_process.then(rt::stop_signals).transpose()?;
            let reports = Rc::new(Reports::default());
            let (mut control, mut predecessor) = (None, None);
            if let Some(process) = process {
                reports.begin(process.supervisor);
                control = process.control.map(ControlSocket::register).transpose()?;
                predecessor = process.predecessor;
                answer(Request::Reopen, process.reopen)?;
                let connections = self.connections.clone();
                answer(Request::List, move || connections.list())?;
            }
            let mut serving = self.serve(is_process, &reports)?;
            let (watched, ready) = (Rc::clone(&serving.hand_out), Rc::clone(&reports));
            rt::spawn(async move {
                // Until then another process is the one that is supervised.
                if let Some(predecessor) = predecessor {
                    predecessor.begun().await;
                }
                ready.ready(move || watched.borrow().is_served()).await;
            });
            let stopped = loop {
                let stop = async {
                    match (&mut signals, &mut told) {
                        (Some(signals), _) => Stop::Signal(signals.next().await),
                        (None, Some(told)) => {
                            told.next().await;
                            Stop::Signal("its owner")
                        }
                        (None, None) => std::future::pending().await,
                    }
                };
                let ready = succession::is_ready(control.as_ref(), &serving.doors, reports.supervisor());
                match rt::race(rt::race(stop, ready), serving.failed.next()).await {
                    Either::Left(Either::Left(stop)) => break Ok(stop),
                    Either::Right(why) => break Err(why.unwrap_or_else(|| io::Error::other("nothing is accepted"))),
                    Either::Left(Either::Right((mut successor, pid))) => {
                        // Both would do, neither would not.
                        serving.pause().await;
                        match successor.release().await {
                            Ok(()) => {
                                reports.replaced(pid);
                                drop(successor);
                                break Ok(Stop::Replaced { pid });
                            }
                            Err(error) => {
                                tracing::error!("process {pid} was ready, and does not go on: {error}; this one does");
                                serving.accept();
                            }
                        }
                    }
                }
            };
            serving.pause().await;
            match stopped {
                Ok(Stop::Replaced { .. }) => drop(control),
                Ok(Stop::Signal(_)) | Err(_) => {
                    reports.stopping();
                    // Whoever starts while connections end makes its own.
                    if let Some(Err(error)) = control.map(Control::remove) {
                        tracing::debug!("the control socket stays: {error}");
                    }
                }
            }
            let hurry = async {
                if let Some(signals) = &mut signals {
                    signals.next().await;
                }
            };
            serving.leave(hurry, is_process).await;
            stopped
        })?
    }

    /// Accepts connections from now on.
    fn serve(self, is_process: bool, reports: &Rc<Reports>) -> io::Result<Serving> {
        let Self { doors, resources, counters, connections, hurry, addresses, workers, .. } = self;
        let (complaints, refusals) = (Throttle::new(1), Throttle::new(1));
        let hand_out = HandOut { resources, counters, workers, complaints, refusals };
        let hand_out = Rc::new(RefCell::new(hand_out));
        let leave_max = doors.iter().map(|door| door.config.timeouts.leave).max().unwrap_or_default();
        let mut open = Vec::new();
        for (tunnel, (door, addresses)) in doors.into_iter().zip(addresses).enumerate() {
            let acceptor = door.listener.register()?;
            let hangups = is_process.then(|| rt::requests(Request::Reload)).transpose()?;
            let changes = door.watch.map(DirectoryWatch::register).transpose()?;
            let config = door.config;
            if let Mode::Client(mode) = &config.mode {
                rt::spawn(mode.tls.now().answer_workers());
            }
            rt::spawn(care::run(Arc::clone(&config), hangups, changes, Rc::clone(reports)));
            open.push((Rc::new(acceptor), Rc::new(Entrance { config, addresses, tunnel })));
        }
        let (_, failed) = rt::queue(1);
        let closing = Rc::default();
        let mut serving = Serving { hand_out, doors: open, failed, closing, connections, leave_max, hurry };
        serving.accept();
        Ok(serving)
    }
}

/// Tunnels that accept connections.
struct Serving {
    hand_out: Rc<RefCell<HandOut>>,
    doors: Vec<(Rc<Acceptor>, Rc<Entrance>)>,
    /// Why one accepts no more; it ends when none does.
    failed: Receiver<io::Error>,
    closing: Rc<Broadcast>,
    connections: Connections,
    /// What calls under way are given.
    leave_max: Duration,
    hurry: Arc<AtomicBool>,
}

impl Serving {
    fn accept(&mut self) {
        let (failing, failed) = rt::queue(1);
        (self.failed, self.closing) = (failed, Rc::default());
        for (acceptor, entrance) in &self.doors {
            let (acceptor, entrance) = (Rc::clone(acceptor), Rc::clone(entrance));
            let (hand_out, failing, closing) = (Rc::clone(&self.hand_out), failing.clone(), Rc::clone(&self.closing));
            rt::spawn(async move {
                if let Either::Left(why) = rt::race(accept(&acceptor, &entrance, &hand_out), closing.wait()).await {
                    // Whoever hears of the first failure ends them all.
                    let _ = failing.try_send(why);
                }
            });
        }
    }

    /// Accepts nobody for now: whoever comes waits in the socket.
    async fn pause(&mut self) {
        self.closing.set();
        while self.failed.next().await.is_some() {}
    }

    /// Ends the connections: when their calls are answered, as soon as `hurry` is done, or when their time is over. Nobody who
    /// comes now is served here; the addresses are free for whoever comes next.
    async fn leave(mut self, hurry: impl Future<Output = ()>, is_process: bool) {
        self.doors.clear();
        let (count, seconds) = (self.connections.count(), self.leave_max.as_secs_f64());
        if is_process && count > 0 && seconds > 0.0 {
            tracing::info!(
                "stopping: {count} connections end when their calls are answered, after {seconds} s in any case"
            );
        }
        let threads = self.hand_out.borrow_mut().stop();
        let ended = async |most: Duration| {
            let started = rt::now();
            while !threads.iter().all(thread::JoinHandle::is_finished) && rt::now() - started < most {
                rt::sleep(STOP_TICK).await;
            }
        };
        let most = STOP_MAX + STOP_GRACE;
        if let Either::Right(()) = rt::race(ended(self.leave_max + most), hurry).await {
            self.hurry.store(true, Ordering::Relaxed);
            ended(most).await;
        }
    }
}

/// Does something each time that a signal asks for it.
fn answer(request: Request, mut act: impl FnMut() + 'static) -> io::Result<()> {
    let mut requests = rt::requests(request)?;
    rt::spawn(async move {
        loop {
            requests.next().await;
            act();
        }
    });
    Ok(())
}

impl Bound {
    /// Starts the workers.
    ///
    /// # Errors
    /// What the driver, the memory or a thread could not have.
    pub fn start(self) -> Result<Tunnels, StartError> {
        let Self { doors, resources, layout, throttling } = self;
        let counters = Arc::default();
        let addresses: Vec<_> = doors.iter().map(|door| Addresses::of(&door.config.mode)).collect();
        let tunnels = doors.iter().map(|door| Arc::clone(&door.config)).zip(addresses.iter().cloned()).collect();
        let (connections, hurry) = (Connections::default(), Arc::default());
        let common = Common {
            resources,
            counters: &counters,
            connections: &connections,
            hurry: &hurry,
            tunnels,
            layout,
            throttling,
        };
        let start = |driver| common.start_workers(driver);
        let (workers, driver, driver_reason) = match resources.io {
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
        Ok(Tunnels { doors, resources, counters, connections, hurry, addresses, workers, driver, driver_reason })
    }
}
