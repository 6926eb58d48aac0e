//! Reaching the server: names, addresses, the handshake, and trying again while the client waits.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sealane_io::net::ConnectOptions;
use sealane_io::{Driver, rt};
use sealane_proto::tls::AlertDescription;

use crate::config::{ClientMode, Endpoint, TunnelConfig, socket_options_for};
use crate::handshake::{Established, HandshakeError, shake_hands};
use crate::peers::Shown;
use crate::status::{Outlook, Unaccepted};

/// The next address is tried when the one before has not answered for so long (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
/// The part of the handshake's time that one of several addresses gets.
const HANDSHAKE_SHARE: u32 = 3;
/// The first pause before a new attempt; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why the server was not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The name has no address, or cannot be looked up.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address accepted a connection.
    #[error("cannot connect to {}", Tries(.0))]
    Connect(Vec<(SocketAddr, io::Error)>),
    /// The TLS handshake failed.
    #[error("TLS handshake with {address}: {source}")]
    Handshake {
        /// With whom.
        address: SocketAddr,
        /// Why.
        source: HandshakeError,
    },
    /// A certificate has been revoked, or is not known to be good.
    #[error("TLS with {address}: {source}")]
    Status {
        /// With whom.
        address: SocketAddr,
        /// Which, and why.
        source: Unaccepted,
    },
    /// The server did not finish the handshake.
    #[error("TLS handshake with {address}: nothing for {} s", .limit.as_secs())]
    HandshakeTimeout {
        /// With whom.
        address: SocketAddr,
        /// How long we waited.
        limit: Duration,
    },
    /// The time that the client can be made to wait is over.
    #[error("gave up after {} s: {last}", .limit.as_secs())]
    GaveUp {
        /// How long we tried.
        limit: Duration,
        /// The last failure.
        last: String,
    },
}

struct Tries<'e>(&'e [(SocketAddr, io::Error)]);

impl fmt::Display for Tries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, error)) in self.0.iter().enumerate() {
            write!(f, "{}{address} ({error})", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl UpstreamError {
    /// What a TLS peer is told, whose connection comes to nothing by this.
    pub(crate) fn alert(&self) -> AlertDescription {
        match self {
            Self::Status { source, .. } => source.why.alert(),
            _ => AlertDescription::INTERNAL_ERROR,
        }
    }

    /// Whether the same attempt may work a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::HandshakeTimeout { .. } => true,
            // What our own host refuses (a source port, an address) does not get better by waiting.
            Self::Connect(tries) => tries.iter().any(|(_, error)| {
                !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
            }),
            Self::Handshake { source, .. } => source.is_transient(),
            Self::GaveUp { .. } | Self::Status { .. } => false,
        }
    }
}

/// A TLS server whose handshake is done.
pub(crate) struct Reached<L> {
    pub(crate) connection: L,
    pub(crate) established: Established,
    /// Its certificates, where they can be revoked.
    pub(crate) shown: Option<Arc<Shown>>,
    pub(crate) address: SocketAddr,
    /// What is known of its certificates; nothing may be relayed before that is settled.
    pub(crate) outlook: Result<Outlook, Unaccepted>,
}

/// Reaches the TLS server, trying again after transient failures until [`crate::Timeouts::retry`] is over.
///
/// May be dropped at any time: nothing of the client's has been read yet.
pub(crate) async fn reach_tls<D: Driver>(
    config: &TunnelConfig,
    mode: &ClientMode,
) -> Result<Reached<D::Link>, UpstreamError> {
    persist(config, async || {
        let mut left = addresses::<D>(config).await?;
        loop {
            let (connection, address) = connect_any::<D>(left.clone(), config).await.map_err(UpstreamError::Connect)?;
            left.retain(|other| *other != address);
            // While there are others, one that accepts and says nothing may not have all the time.
            let share = if left.is_empty() { 1 } else { HANDSHAKE_SHARE };
            match handshake::<D>(connection, address, config, mode, config.timeouts.handshake / share).await {
                Err(error) if error.is_transient() && !left.is_empty() => {
                    tracing::debug!("{error}; trying the next address");
                }
                done => return done,
            }
        }
    })
    .await
}

/// Reaches the plain server, trying again as above. May be dropped at any time.
pub(crate) async fn reach_plain<D: Driver>(config: &TunnelConfig) -> Result<(D::Link, SocketAddr), UpstreamError> {
    persist(config, async || {
        connect_any::<D>(addresses::<D>(config).await?, config).await.map_err(UpstreamError::Connect)
    })
    .await
}

async fn persist<T>(
    config: &TunnelConfig,
    attempt: impl AsyncFn() -> Result<T, UpstreamError>,
) -> Result<T, UpstreamError> {
    let started = rt::now();
    let limit = config.timeouts.retry;
    let mut pause = PAUSE_MIN;
    let mut last = format!("no answer from the resolver or from {}", config.connect);
    loop {
        let left = limit.saturating_sub(rt::now() - started);
        if left.is_zero() {
            return Err(UpstreamError::GaveUp { limit, last });
        }
        match rt::timeout(left, attempt()).await {
            None => return Err(UpstreamError::GaveUp { limit, last }),
            Some(Err(error)) if error.is_transient() => {
                tracing::debug!("{error}; trying again");
                last = error.to_string();
            }
            Some(done) => return done,
        }
        rt::sleep(pause.min(limit.saturating_sub(rt::now() - started))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The addresses of the server, in the order in which they are tried.
async fn addresses<D: Driver>(config: &TunnelConfig) -> Result<Vec<SocketAddr>, UpstreamError> {
    let Endpoint { host, port } = &config.connect;
    let resolve_error = |source| UpstreamError::Resolve { host: host.clone(), source };
    let addresses = D::resolve(host, *port).await.map_err(resolve_error)?;
    if addresses.is_empty() {
        return Err(resolve_error(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(interleave(addresses))
}

/// Shakes hands; once more in full when the resumed session's certificate has run out, or its status has.
async fn handshake<D: Driver>(
    mut connection: D::Link,
    address: SocketAddr,
    config: &TunnelConfig,
    mode: &ClientMode,
    limit: Duration,
) -> Result<Reached<D::Link>, UpstreamError> {
    let server_name = &mode.server_name;
    let mut fresh = false;
    loop {
        let tls = mode.tls.now();
        let done = rt::timeout(limit, async {
            let mut handshake = tls.handshake(server_name, fresh)?;
            shake_hands(&mut connection, &mut handshake, || {}).await?;
            // Before anything is asked: what comes to be known later is told to whoever has entered.
            let shown = tls.enter(&handshake, server_name);
            // What a reload has replaced meanwhile does not count any more.
            let now = mode.tls.now();
            now.verify_again(&handshake, server_name, !Arc::ptr_eq(&now, &tls))?;
            let outlook = now.look(&handshake);
            Ok((handshake.establish()?, shown, outlook))
        });
        match done.await {
            None => return Err(UpstreamError::HandshakeTimeout { address, limit }),
            Some(Err(error @ HandshakeError::Stale(..))) if !fresh => {
                tracing::debug!("{error}; shaking hands in full");
            }
            Some(Ok((_, _, Ok(Outlook::InFull)))) if !fresh => {
                tracing::debug!("the OCSP response of the resumed session has run out; shaking hands in full");
            }
            Some(Err(source)) => return Err(UpstreamError::Handshake { address, source }),
            Some(Ok((established, shown, outlook))) => {
                return Ok(Reached { connection, established, shown, address, outlook });
            }
        }
        fresh = true;
        connection = D::connect(address, &options_for(address, &config.outgoing))
            .await
            .map_err(|error| UpstreamError::Connect(vec![(address, error)]))?;
    }
}

fn options_for(address: SocketAddr, options: &ConnectOptions) -> ConnectOptions {
    ConnectOptions { socket: socket_options_for(address.ip(), &options.socket), ..*options }
}

/// Address families in turn, beginning with the resolver's first choice (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv4() == first_is_4);
    let mut second = second.into_iter();
    let mut all: Vec<_> = first.into_iter().flat_map(|address| [Some(address), second.next()]).flatten().collect();
    all.extend(second);
    all.truncate(ADDRESSES_MAX);
    all
}

type Attempt<'a, L> = Pin<Box<dyn Future<Output = (SocketAddr, io::Result<L>)> + 'a>>;

/// Connects to the first address that answers; the next one is tried when those before fail or take their time.
async fn connect_any<D: Driver>(
    addresses: Vec<SocketAddr>,
    config: &TunnelConfig,
) -> Result<(D::Link, SocketAddr), Vec<(SocketAddr, io::Error)>> {
    let mut waiting = addresses.into_iter();
    let mut running: Vec<Attempt<'_, D::Link>> = Vec::new();
    let mut failed = Vec::new();
    loop {
        match waiting.next() {
            Some(address) => running.push(Box::pin(async move {
                let timed_out = || Err(io::Error::from(io::ErrorKind::TimedOut));
                let limit = config.timeouts.connect;
                (
                    address,
                    rt::timeout(limit, D::connect(address, &options_for(address, &config.outgoing)))
                        .await
                        .unwrap_or_else(timed_out),
                )
            })),
            None if running.is_empty() => return Err(failed),
            None => {}
        }
        let next = first_of(&mut running);
        let done = if waiting.len() > 0 { rt::timeout(ATTEMPT_DELAY, next).await } else { Some(next.await) };
        match done {
            Some((address, Ok(connection))) => return Ok((connection, address)),
            Some((address, Err(error))) => failed.push((address, error)),
            None => {}
        }
    }
}

/// Waits for the first of the attempts and takes it out.
async fn first_of<L>(running: &mut Vec<Attempt<'_, L>>) -> (SocketAddr, io::Result<L>) {
    poll_fn(|context| {
        for index in 0..running.len() {
            if let Some(attempt) = running.get_mut(index)
                && let Poll::Ready(done) = attempt.as_mut().poll(context)
            {
                drop(running.swap_remove(index));
                return Poll::Ready(done);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_the_resolvers_first_choice_is_first() {
        let all: Vec<SocketAddr> =
            ["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1"].iter().map(|text| text.parse().unwrap()).collect();
        let ports: Vec<String> = interleave(all).iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"]);
        let many = (0..99).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        assert_eq!(interleave(many).len(), ADDRESSES_MAX);
    }
}
