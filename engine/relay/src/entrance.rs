//! Where connections come in, and which worker gets each.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use sealane_io::net::{Accepted, Acceptor};
use sealane_io::rt::{self, Sender};
use sealane_proto::tls::Role;

use crate::addresses::Addresses;
use crate::care;
use crate::config::{Mode, Resources, TunnelConfig};
use crate::counters::Counters;
use crate::throttle::{Loudness, Throttle};
use crate::worker::{Assigned, Place};

/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A worker, for whoever gives it connections.
pub(crate) struct WorkerHandle {
    pub(crate) queue: Sender<Assigned>,
    pub(crate) active: Arc<AtomicUsize>,
    pub(crate) sessions: Arc<AtomicUsize>,
    pub(crate) thread: thread::JoinHandle<()>,
}

/// Accepts the connections of one tunnel until there is nobody to serve them any more; why not.
pub(crate) async fn accept(acceptor: &Acceptor, entrance: &Entrance, hand_out: &RefCell<HandOut>) -> io::Error {
    if let Mode::Server(mode) = &entrance.config.mode {
        care::staple(&mode.tls.now()).await;
    }
    loop {
        match acceptor.accept().await {
            Ok((accepted, peer)) => {
                if let Err(error) = hand_out.borrow_mut().assign(accepted, peer, entrance) {
                    return error;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                hand_out.borrow_mut().complain(&format!("accept: {error}"));
                rt::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Where a tunnel's connections come in.
pub(crate) struct Entrance {
    pub(crate) config: Arc<TunnelConfig>,
    pub(crate) addresses: Addresses,
    /// The tunnel's number.
    pub(crate) tunnel: usize,
}

/// Gives each connection to the worker with the fewest.
pub(crate) struct HandOut {
    pub(crate) resources: Resources,
    pub(crate) counters: Arc<Counters>,
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) complaints: Throttle,
    /// What is said of addresses with too many connections: any of them can have it said, so it hides nothing else.
    pub(crate) refusals: Throttle,
}

impl HandOut {
    fn assign(&mut self, accepted: Accepted, peer: SocketAddr, entrance: &Entrance) -> io::Result<()> {
        let Entrance { config, addresses, tunnel } = entrance;
        self.counters.connections_accepted_total.add(1);
        // Its handshake would be for nothing. Whether it does get a session is decided when that is done.
        if addresses.is_full(peer.ip()) {
            self.counters.connections_refused_by_address_total.add(1);
            accepted.reset();
            let most = addresses.most();
            let why = format!("its address has {most} connections already (--connections-per-address-max)");
            match self.refusals.event(rt::now()) {
                Loudness::Aloud { missed: 0 } => tracing::warn!(%peer, "reset: {why}"),
                Loudness::Aloud { missed } => tracing::warn!(%peer, "reset: {why} ({missed} more times before)"),
                Loudness::Quiet => tracing::debug!(%peer, "reset: {why}"),
            }
            return Ok(());
        }
        let memory = &self.resources.memory;
        let most = memory.connections_max;
        // TLS clients take their place when they have shown who they are; until then their handshakes have a limit.
        let counts_here = config.mode.role() == Role::Client;
        let total: usize = self.workers.iter().map(|worker| worker.active.load(Ordering::Relaxed)).sum();
        let alive = self.workers.iter().filter(|worker| !worker.queue.is_closed());
        // A worker that can take no session more is no choice, however few shake hands there.
        let per_worker = memory.connections_per_worker();
        let load = |worker: &&WorkerHandle| {
            (worker.sessions.load(Ordering::Relaxed) >= per_worker, worker.active.load(Ordering::Relaxed))
        };
        let Some(worker) = alive.min_by_key(load) else {
            accepted.reset();
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
        if let Err(assigned) = worker.queue.try_send(Assigned { accepted, peer, tunnel: *tunnel, place }) {
            // The queue holds as many as the worker may have: only one that has died, or cannot keep up, refuses.
            self.counters.connections_refused_total.add(1);
            assigned.accepted.reset();
            self.complain(&format!("{peer}: reset, its worker does not take it"));
        }
        Ok(())
    }

    /// Whether each worker is there.
    pub(crate) fn is_served(&self) -> bool {
        self.workers.iter().all(|worker| !worker.queue.is_closed())
    }

    /// Lets the workers end their sessions; nobody gets a connection any more.
    pub(crate) fn stop(&mut self) -> Vec<thread::JoinHandle<()>> {
        self.workers.drain(..).map(|worker| worker.thread).collect()
    }

    fn complain(&mut self, what: &str) {
        match self.complaints.event(rt::now()) {
            Loudness::Aloud { missed: 0 } => tracing::error!("{what}"),
            Loudness::Aloud { missed } => tracing::error!("{what} ({missed} more times before)"),
            Loudness::Quiet => tracing::debug!("{what}"),
        }
    }
}
