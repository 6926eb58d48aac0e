//! The worker's part of the relay for a simulated driver: what `tests/sim` drives. Nothing of the product calls it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sealane_io::rt::Broadcast;
use sealane_io::{Driver, Pool, PoolLayout, Stream};

use crate::addresses::Addresses;
use crate::config::{ConfigError, Resources, TunnelConfig};
use crate::connections::Connections;
use crate::counters::Counters;
use crate::error::SessionError;
use crate::handshake::{Established, Handshake, HandshakeError};
use crate::peers::{Peers, Shown};
use crate::session::{self, Ended, Parts};
use crate::status::Outlook;
use crate::tls_client::{TlsClient, TlsClientOptions, client_config};
use crate::tls_config::TlsConfigError;
use crate::worker::{Context, Worker, serve_and_report};

/// One worker without its thread: the caller runs its futures.
pub struct Stage {
    context: Context,
    worker: Worker,
    pool: Pool,
}

/// What a peer has shown, and how its session alone is told that the tunnel stops.
#[derive(Clone, Debug)]
pub struct Credential {
    shown: Arc<Shown>,
    leave: Rc<Broadcast>,
    stop: Rc<Broadcast>,
}

impl Default for Credential {
    fn default() -> Self {
        let any = CertificateDer::from(vec![0]);
        let shown = Peers::default().enter(&[any], UnixTime::since_unix_epoch(Duration::ZERO), || None);
        let shown = shown.unwrap_or_else(|| unreachable!("a certificate was shown"));
        Self { shown, leave: Rc::default(), stop: Rc::default() }
    }
}

impl Credential {
    /// It is revoked while its session lasts.
    pub fn revoke(&self) {
        self.shown.revoke("was revoked".into());
    }

    /// Its session is to end as soon as nothing is outstanding.
    pub fn leave(&self) {
        self.leave.set();
    }

    /// Its session is to end.
    pub fn stop(&self) {
        self.stop.set();
    }
}

/// The client's part of handshakes, without a network.
#[derive(Debug)]
pub struct Caller {
    tls: TlsClient,
    name: ServerName<'static>,
}

impl Caller {
    /// Of a tunnel that is told this.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn new(options: &TlsClientOptions, name: ServerName<'static>) -> Result<Self, TlsConfigError> {
        Ok(Self { tls: client_config(options)?, name })
    }

    /// A responder has said that `certificate` is good for so many seconds.
    pub fn learn_good(&self, certificate: &CertificateDer<'_>, seconds: u64) {
        self.tls.statuses.learn_good(certificate, seconds);
    }

    /// Begins one; in full if `fresh`.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn begin(&self, fresh: bool) -> Result<Handshake, HandshakeError> {
        self.tls.handshake(&self.name, fresh)
    }

    /// What a tunnel does between the end of a handshake and the first byte that is relayed. Where it would have to ask a
    /// responder, it is `None`.
    ///
    /// # Errors
    /// The server is not accepted.
    pub fn accept(&self, done: Handshake) -> Result<Option<Established>, Box<dyn std::error::Error>> {
        self.tls.verify_again(&done, &self.name, false)?;
        let shown = self.tls.enter(&done, &self.name);
        let outlook = self.tls.look(&done)?;
        let established = done.establish()?;
        drop(shown);
        Ok(matches!(outlook, Outlook::Settled).then_some(established))
    }
}

/// How a session ended.
#[derive(Debug)]
pub struct Outcome {
    /// `None`: as both sides wanted it.
    pub failure: Option<SessionError>,
    /// A TLS 1.2 key was used up, the peer's certificate revoked, or the tunnel stopped.
    pub drained: bool,
}

impl Stage {
    /// A worker of a tunnel that is told this.
    ///
    /// # Errors
    /// The limits do not fit, or there is no memory.
    pub fn new(resources: Resources, config: TunnelConfig) -> Result<Self, ConfigError> {
        let pool = Pool::new(resources.memory.layout()?).map_err(|error| ConfigError(error.to_string()))?;
        let addresses = Addresses::of(&config.mode);
        let context = Context {
            config: Arc::new(config),
            resources,
            counters: Arc::default(),
            worker: 0,
            active: Arc::default(),
            sessions: Arc::default(),
            sessions_of_all: Arc::default(),
            addresses,
            connections: Connections::default(),
            hurry: Arc::default(),
            throttling: None,
        };
        let worker = Worker::new(pool.clone(), &context);
        Ok(Self { context, worker, pool })
    }

    /// Serves an accepted connection to its end, the handshake included.
    pub async fn serve<D: Driver>(&self, link: D::Link, peer: SocketAddr) {
        serve_and_report::<D>(link, peer, &self.context, self.worker.clone()).await;
    }

    /// Runs a session whose handshake is done.
    pub async fn session<S: Stream>(
        &self,
        plain: S::Socket,
        tls: S::Socket,
        peer: SocketAddr,
        established: Established,
        credential: Option<Credential>,
    ) -> Outcome {
        let mut surroundings = self.worker.surroundings.clone();
        if let Some(Credential { leave, stop, .. }) = &credential {
            (surroundings.leave, surroundings.stop) = (Rc::clone(leave), Rc::clone(stop));
        }
        let parts = Parts {
            plain,
            tls,
            peer,
            established,
            shown: credential.map(|credential| credential.shown),
            config: Arc::clone(&self.context.config),
            counters: Arc::clone(&self.context.counters),
            surroundings,
        };
        let Ended { failure, drained, .. } = session::run::<S>(parts).await;
        Outcome { failure, drained }
    }

    /// Tells every connection that the tunnel stops.
    pub fn stop(&self) {
        self.worker.surroundings.stop.set();
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.context.counters
    }

    /// The pool's numbers, and how many small and big buffers are free.
    pub fn buffers(&self) -> (PoolLayout, usize, usize) {
        (self.pool.layout(), self.pool.small_free(), self.pool.big_free())
    }
}
