//! From an accepted connection to two sockets and the keys of one of them: what comes before a session, in either mode.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sealane_io::net::FirstLook;
use sealane_io::rt::{self, Broadcast, Either};
use sealane_io::{Control, Driver, Link};
use sealane_proto::tls::{AlertDescription, ContentType};

use crate::admission::{Admitted, Stage};
use crate::allow::Client;
use crate::config::{ClientMode, ServerMode};
use crate::handshake::{Established, HandshakeError, shake_hands};
use crate::peers::Shown;
use crate::throttle::Loudness;
use crate::upstream::{self, Reached, UpstreamError};
use crate::worker::{Context, Full, Seat, Worker};

/// An alert of two bytes, sealed by any suite of either version: 33 at most.
const ALERT_RECORD_BYTES_MAX: usize = 64;

/// A server that was reached at the last moment still has so much time for its certificate's status to be known.
const SETTLE_MIN: Duration = Duration::from_secs(1);

/// What a session is made of.
pub(crate) struct Prepared<Socket> {
    pub(crate) plain: Socket,
    pub(crate) tls: Socket,
    pub(crate) established: Established,
    /// The peer's certificates, where they can be revoked.
    pub(crate) shown: Option<Arc<Shown>>,
    /// The address of `connect` that was reached.
    pub(crate) server: SocketAddr,
    /// Held while the session lasts. In client mode the limit has been kept when the connection was accepted.
    pub(crate) seat: Option<Seat>,
    /// Who the TLS client is, by its certificate.
    pub(crate) who: Option<String>,
}

/// The client's end: the NFS client has been accepted, its server is reached when it has something to say.
///
/// `None` when nothing comes of it; that has been logged and counted.
pub(crate) async fn as_client<D: Driver>(
    client: D::Link,
    peer: SocketAddr,
    context: &Context,
    mode: &ClientMode,
    stop: &Broadcast,
) -> Option<Prepared<<D::Link as Link>::Socket>> {
    let Context { config, counters, .. } = context;
    if client.first_look(Some(config.timeouts.first_byte)).await == FirstLook::Gone {
        counters.connections_probed_total.add(1);
        tracing::debug!(%peer, "closed: the client went away without a byte");
        return None;
    }
    let began = rt::now();
    let reaching = upstream::reach_tls::<D>(config, mode);
    let reached = match reach(reaching, &client, false, peer, context, stop).await {
        Ok(reached) => reached,
        Err(Farewell::Gone) => return None,
        Err(Farewell::Refused(_)) => {
            client.reset();
            return None;
        }
    };
    let Reached { connection: outgoing, mut established, shown, address: server, outlook } = reached;
    // Within the same limit, but for a second that there is in any case; and nothing is to be tried again.
    let left = config.timeouts.retry.saturating_sub(rt::now() - began).max(SETTLE_MIN);
    let settling = async {
        mode.tls.now().settle(outlook, left).await.map_err(|source| UpstreamError::Status { address: server, source })
    };
    match reach(settling, &client, false, peer, context, stop).await {
        Ok(()) => {}
        Err(Farewell::Gone) => {
            refuse(outgoing, &mut established, AlertDescription::CLOSE_NOTIFY);
            return None;
        }
        Err(Farewell::Refused(alert)) => {
            refuse(outgoing, &mut established, alert);
            client.reset();
            return None;
        }
    }
    if let Some(why) = shown.as_ref().and_then(|shown| shown.is_revoked()) {
        counters.upstream_failures_total.add(1);
        tracing::error!(%peer, %server, "closed: the server's certificate {why}");
        refuse(outgoing, &mut established, AlertDescription::CERTIFICATE_REVOKED);
        client.reset();
        return None;
    }
    if !mode.verified {
        tracing::warn!(%peer, %server, "the server's certificate was NOT verified (--insecure-no-verify)");
    }
    sockets(client, outgoing, peer).map(|(plain, tls)| Prepared {
        plain,
        tls,
        established,
        shown,
        server,
        seat: None,
        who: None,
    })
}

/// Without TLS: both sockets, and where the server is.
///
/// `None` when nothing comes of it; that has been logged and counted.
pub(crate) async fn as_plain<D: Driver>(
    client: D::Link,
    peer: SocketAddr,
    context: &Context,
    stop: &Broadcast,
) -> Option<(<D::Link as Link>::Socket, <D::Link as Link>::Socket, SocketAddr)> {
    let Context { config, counters, .. } = context;
    if client.first_look(Some(config.timeouts.first_byte)).await == FirstLook::Gone {
        counters.connections_probed_total.add(1);
        tracing::debug!(%peer, "closed: the client went away without a byte");
        return None;
    }
    match reach(upstream::reach_plain::<D>(config), &client, false, peer, context, stop).await {
        Ok((outgoing, server)) => sockets(client, outgoing, peer).map(|(client, outgoing)| (client, outgoing, server)),
        Err(Farewell::Gone) => None,
        Err(Farewell::Refused(_)) => {
            client.reset();
            None
        }
    }
}

/// The server's end: a TLS client has been accepted. It costs the NFS server nothing until it has shown who it is.
///
/// `None` when nothing comes of it; that has been logged and counted.
pub(crate) async fn as_server<D: Driver>(
    client: D::Link,
    peer: SocketAddr,
    context: &Context,
    mode: &ServerMode,
    worker: &Worker,
) -> Option<Prepared<<D::Link as Link>::Socket>> {
    let Context { config, counters, .. } = context;
    let listener = client.local_address();
    let Welcomed { client, mut established, shown, who } = welcome(client, peer, context, mode, worker).await?;
    let seat = match context.seat(peer.ip()) {
        Ok(seat) => seat,
        Err(full) => {
            refuse(client, &mut established, AlertDescription::INTERNAL_ERROR);
            let full = match full {
                Full::All(most) => {
                    counters.connections_refused_total.add(1);
                    format!("closed: there are {most} connections already (--connections-max)")
                }
                Full::Address(most) => {
                    counters.connections_refused_by_address_total.add(1);
                    format!("closed: its address has {most} connections already (--connections-per-address-max)")
                }
            };
            complain(peer, worker, &full);
            return None;
        }
    };
    // Whoever has said all it has to say may have ended its direction: that has to be carried, and answered.
    let has_spoken = established.peer_closed || !established.early.is_empty() || !established.left_over.is_empty();
    let reaching = upstream::reach_plain::<D>(config);
    let (mut outgoing, server) =
        match reach(reaching, &client, has_spoken, peer, context, &worker.surroundings.stop).await {
            Ok(reached) => reached,
            Err(Farewell::Gone) => return None,
            Err(Farewell::Refused(alert)) => {
                refuse(client, &mut established, alert);
                return None;
            }
        };
    if let Some(why) = shown.as_ref().and_then(|shown| shown.is_revoked()) {
        refuse(client, &mut established, AlertDescription::CERTIFICATE_REVOKED);
        complain(peer, worker, &format!("closed: the client's certificate {why}"));
        return None;
    }
    if let Some(version) = mode.proxy_protocol {
        let introduced = match listener {
            // Less than any socket takes at once, so it does not wait.
            Ok(listener) => outgoing.write(&version.header(peer, listener)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = introduced {
            counters.upstream_failures_total.add(1);
            refuse(client, &mut established, AlertDescription::INTERNAL_ERROR);
            tracing::error!(%peer, %server, "closed: telling the server where the client is: {error}");
            return None;
        }
    }
    let (seat, who) = (Some(seat), who.map(|who| who.to_string()));
    sockets(outgoing, client, peer).map(|(plain, tls)| Prepared { plain, tls, established, shown, server, seat, who })
}

/// How a client that waited for its server ends.
enum Farewell {
    /// It went away itself.
    Gone,
    /// It is reset; over TLS it is told this before.
    Refused(AlertDescription),
}

/// Waits for `reaching` the server while the client stays. What comes of it otherwise has been logged and counted.
async fn reach<T, L: Link>(
    reaching: impl Future<Output = Result<T, UpstreamError>>,
    client: &L,
    has_spoken: bool,
    peer: SocketAddr,
    context: &Context,
    stop: &Broadcast,
) -> Result<T, Farewell> {
    let Context { config, counters, .. } = context;
    match rt::race(reaching, rt::race(client.gone(has_spoken), stop.wait())).await {
        Either::Left(Ok(reached)) => Ok(reached),
        Either::Left(Err(error)) => {
            counters.upstream_failures_total.add(1);
            tracing::error!(%peer, server = %config.connect, "closed: {error}");
            Err(Farewell::Refused(error.alert()))
        }
        Either::Right(Either::Right(())) => {
            tracing::info!(%peer, "closed: the tunnel stops");
            Err(Farewell::Refused(AlertDescription::CLOSE_NOTIFY))
        }
        Either::Right(Either::Left(())) => {
            counters.connections_probed_total.add(1);
            tracing::info!(%peer, "closed: the client went away before the server was reached");
            Err(Farewell::Gone)
        }
    }
}

/// A TLS client that may come in.
struct Welcomed<L> {
    client: L,
    established: Established,
    shown: Option<Arc<Shown>>,
    /// Who it is, if it has shown a certificate.
    who: Option<Client>,
}

/// Shakes hands with a client, unless it takes too long, or others need its place.
async fn welcome<L: Link>(
    mut client: L,
    peer: SocketAddr,
    context: &Context,
    mode: &ServerMode,
    worker: &Worker,
) -> Option<Welcomed<L>> {
    let Context { config, counters, .. } = context;
    let stage = if client.has_bytes() { Stage::Speaking } else { Stage::Silent };
    let admitted = worker.handshakes.enter(stage, peer.ip().into());
    let limit = config.timeouts.handshake;
    let done = rt::timeout(limit, handshake(&mut client, mode, &admitted));
    let why = match rt::race(done, rt::race(admitted.evicted(), worker.surroundings.stop.wait())).await {
        Either::Left(Some(Ok(Some((established, shown, who))))) => {
            return Some(Welcomed { client, established, shown, who });
        }
        Either::Left(Some(Ok(None))) => {
            counters.connections_probed_total.add(1);
            tracing::debug!(%peer, "closed: the client went away without a byte");
            return None;
        }
        Either::Right(Either::Right(())) => {
            client.reset();
            tracing::info!(%peer, "closed: the tunnel stops");
            return None;
        }
        Either::Left(Some(Err(error))) => {
            counters.handshakes_failed_total.add(1);
            format!("closed: TLS handshake: {error}")
        }
        Either::Left(None) => {
            client.reset();
            counters.handshakes_failed_total.add(1);
            format!("closed: the TLS handshake was not done within {} s", limit.as_secs_f32())
        }
        Either::Right(Either::Left(limit)) => {
            client.reset();
            counters.handshakes_evicted_total.add(1);
            format!("closed: the TLS handshake made way for newer ones ({})", limit.option())
        }
    };
    complain(peer, worker, &why);
    None
}

/// The server's end of a handshake; `None` when the client went away without a byte.
async fn handshake(
    client: &mut impl Link,
    mode: &ServerMode,
    admitted: &Admitted,
) -> Result<Option<(Established, Option<Arc<Shown>>, Option<Client>)>, HandshakeError> {
    if client.first_look(None).await == FirstLook::Gone {
        return Ok(None);
    }
    admitted.reached(Stage::Speaking);
    let tls = mode.tls.now();
    let mut handshake = tls.handshake()?;
    shake_hands(client, &mut handshake, || admitted.reached(Stage::Answered)).await?;
    // Before anything is asked: what comes to be known later is told to whoever has entered.
    let shown = tls.enter(&handshake);
    // What a reload has replaced meanwhile does not count any more.
    let now = mode.tls.now();
    let verdict = now.verify_again(&handshake, !Arc::ptr_eq(&now, &tls)).and_then(|()| now.admit(&handshake));
    let mut established = handshake.establish()?;
    if let Err(error) = &verdict {
        let alert = match error {
            HandshakeError::NotAllowed(_) => AlertDescription::ACCESS_DENIED,
            error if error.is_revocation() => AlertDescription::CERTIFICATE_REVOKED,
            HandshakeError::Tls(..) => AlertDescription::CERTIFICATE_UNKNOWN,
            // The client must forget the session (RFC 5246 section 7.2.2, RFC 8446 section 6.2) and comes back in full.
            _ => AlertDescription::CERTIFICATE_EXPIRED,
        };
        let mut record = [0; ALERT_RECORD_BYTES_MAX];
        client.write(seal_alert(&mut established, alert, &mut record)).await?;
    }
    verdict.map(|client| Some((established, shown, client)))
}

/// Logs a client that gets no session; quietly when there are many, because anybody can be one.
fn complain(peer: SocketAddr, worker: &Worker, why: &str) {
    match worker.complaints.borrow_mut().event(rt::now()) {
        Loudness::Aloud { missed: 0 } => tracing::warn!(%peer, "{why}"),
        Loudness::Aloud { missed } => {
            tracing::warn!(%peer, "{why}; {missed} more clients failed before and were logged at level debug only");
        }
        Loudness::Quiet => tracing::debug!(%peer, "{why}"),
    }
}

/// Tells a TLS peer that its connection ends here, if there is room for that in its socket; then resets it.
fn refuse(client: impl Link, established: &mut Established, alert: AlertDescription) {
    if let Ok(socket) = client.into_socket() {
        let mut record = [0; ALERT_RECORD_BYTES_MAX];
        // What does not fit into the socket now never will: the connection is reset next.
        let _ = socket.try_send(seal_alert(established, alert, &mut record));
        socket.abort();
    }
}

/// The alert as a record in `place`; nothing when the key is used up.
fn seal_alert<'p>(established: &mut Established, alert: AlertDescription, place: &'p mut [u8]) -> &'p [u8] {
    let length = established.sealer.seal_message(ContentType::ALERT, &alert.encode(), place).unwrap_or(0);
    place.get(..length).unwrap_or_default()
}

/// Takes both connections off the reactor.
fn sockets<L: Link>(left: L, right: L, peer: SocketAddr) -> Option<(L::Socket, L::Socket)> {
    match left.into_socket().and_then(|left| Ok((left, right.into_socket()?))) {
        Ok(both) => Some(both),
        Err(error) => {
            tracing::error!(%peer, "closed: cannot take over the connections: {error}");
            None
        }
    }
}
