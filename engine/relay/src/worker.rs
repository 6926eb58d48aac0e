//! One thread: its driver, its pool, and the connections that it was given.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sealane_io::net::{Accepted, FirstLook, Waiting};
use sealane_io::rt::{self, Broadcast, Either, Receiver};
use sealane_io::{Driver, Pool, PoolLayout};

use crate::config::TunnelConfig;
use crate::counters::Counters;
use crate::error::SessionError;
use crate::lending::Lender;
use crate::session::{self, Ended, Parts};
use crate::upstream;

/// How long sessions may take to tell both sides that the tunnel stops.
pub(crate) const STOP_MAX: Duration = Duration::from_millis(700);
const STOP_TICK: Duration = Duration::from_millis(5);

/// What a worker shares with the tunnel.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<TunnelConfig>,
    pub(crate) counters: Arc<Counters>,
    /// Connections that the worker has, those on their way to it included.
    pub(crate) active: Arc<AtomicUsize>,
}

/// A connection on its way to a worker.
pub(crate) struct Assigned {
    pub(crate) accepted: Accepted,
    pub(crate) peer: SocketAddr,
    pub(crate) place: Place,
}

/// A connection's place among those of its worker; dropping it frees the place.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    pub(crate) fn take(active: &Arc<AtomicUsize>) -> Self {
        active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(active))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves connections until the queue is closed. `ready` is told once whether the worker could start.
pub(crate) fn run<D: Driver>(
    context: &Context,
    layout: PoolLayout,
    mut queue: Receiver<Assigned>,
    ready: &std::sync::mpsc::Sender<Result<(), String>>,
) {
    // A connection is two streams.
    let streams = 2 * context.config.memory.connections_per_worker();
    let served = D::run(streams, async {
        let stop = Rc::new(Broadcast::default());
        let lender = match Pool::new(layout) {
            Ok(pool) => Lender::new(pool),
            Err(error) => return drop(ready.send(Err(error.to_string()))),
        };
        // The tunnel waits for this; if it is gone, so is the queue.
        let _ = ready.send(Ok(()));
        while let Some(assigned) = queue.next().await {
            rt::spawn(serve_and_report::<D>(assigned, context.clone(), lender.clone(), Rc::clone(&stop)));
        }
        stop.set();
        let started = rt::now();
        while context.active.load(Ordering::Relaxed) > 0 && rt::now() - started < STOP_MAX {
            rt::sleep(STOP_TICK).await;
        }
    });
    if let Err(error) = served {
        let _ = ready.send(Err(format!("cannot run {}: {error}", D::NAME)));
    }
}

/// Serves one connection. A panic ends this connection only.
async fn serve_and_report<D: Driver>(assigned: Assigned, context: Context, lender: Lender, stop: Rc<Broadcast>) {
    let Assigned { accepted, peer, place } = assigned;
    if let Err(message) = rt::catch_panic(serve::<D>(accepted, peer, &context, lender, stop)).await {
        context.counters.connections_panicked_total.add(1);
        tracing::error!(%peer, "closed: internal error (panic: {message}); other connections go on");
    }
    drop(place);
}

async fn serve<D: Driver>(
    accepted: Accepted,
    peer: SocketAddr,
    context: &Context,
    lender: Lender,
    stop: Rc<Broadcast>,
) {
    let Context { config, counters, .. } = context;
    let client = match accepted.register() {
        Ok(client) => client,
        Err(error) => return tracing::error!(%peer, "closed: cannot register the connection: {error}"),
    };
    if client.first_look(config.timeouts.first_byte).await == FirstLook::Gone {
        counters.connections_probed_total.add(1);
        return tracing::debug!(%peer, "closed: the client went away without a byte");
    }
    let reached = match rt::race(upstream::reach(config), rt::race(client.gone(), stop.wait())).await {
        Either::Left(reached) => reached,
        Either::Right(Either::Right(())) => {
            reset(client);
            return tracing::info!(%peer, "closed: the tunnel stops");
        }
        Either::Right(Either::Left(())) => {
            counters.connections_probed_total.add(1);
            return tracing::info!(%peer, "closed: the client went away before the server was reached");
        }
    };
    let (established, server) = match reached {
        Ok(reached) => reached,
        Err(error) => {
            counters.upstream_failures_total.add(1);
            reset(client);
            return tracing::error!(%peer, server = %config.connect, "closed: {error}");
        }
    };
    let facts = established.facts;
    counters.connections_established_total.add(1);
    counters.handshakes_resumed_total.add(u64::from(facts.resumed));
    if !config.verified {
        tracing::warn!(%peer, %server, "the server's certificate was NOT verified (--insecure-no-verify)");
    }
    tracing::info!(%peer, %server, "opened: {facts}");
    let client = match client.into_socket() {
        Ok(client) => client,
        Err(error) => return tracing::error!(%peer, "closed: cannot take over the connection: {error}"),
    };
    if let Err(error) = client.set_options(&config.plain_socket) {
        tracing::debug!(%peer, "socket options of the plain side: {error}");
    }
    let (config, counters) = (Arc::clone(config), Arc::clone(counters));
    let parts = Parts { client, peer, established, config, counters, lender, stop };
    let ended = session::run::<D::Stream>(parts).await;
    report(&ended, context, peer, server, &facts.to_string());
}

fn reset(client: Waiting) {
    if let Ok(socket) = client.into_socket() {
        socket.abort();
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
            tracing::warn!(%peer, %server, out_bytes, back_bytes, calls, callbacks, "closed: {error}; {facts}");
        }
        None => tracing::info!(%peer, %server, out_bytes, back_bytes, calls, callbacks, "closed: {reason}; {facts}"),
    }
}
