//! Which sessions there are, for whoever asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sealane_io::rt;

/// The sessions of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<Sessions>>);

#[derive(Debug, Default)]
struct Sessions {
    /// In the order in which they began.
    all: BTreeMap<u64, Session>,
    next: u64,
}

#[derive(Debug)]
struct Session {
    peer: SocketAddr,
    server: SocketAddr,
    since: Instant,
}

impl Connections {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins.
    pub(crate) fn enter(&self, peer: SocketAddr, server: SocketAddr) -> Listed {
        let mut sessions = self.sessions();
        let number = sessions.next;
        sessions.next += 1;
        sessions.all.insert(number, Session { peer, server, since: rt::now() });
        Listed { connections: self.clone(), number }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.sessions().all.len()
    }

    /// Says which there are.
    pub(crate) fn list(&self) {
        // Nobody waits for the log.
        let lines: Vec<_> = {
            let sessions = self.sessions();
            sessions
                .all
                .iter()
                .map(|(number, session)| (*number, session.peer, session.server, session.since))
                .collect()
        };
        let now = rt::now();
        tracing::info!("active connections: {}", lines.len());
        for (number, peer, server, since) in lines {
            let seconds = now.saturating_duration_since(since).as_secs();
            tracing::info!(%peer, %server, number, seconds, "active");
        }
    }
}

/// One session that is listed; dropping it takes it off.
#[derive(Debug)]
pub(crate) struct Listed {
    connections: Connections,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connections.sessions().all.remove(&self.number);
    }
}
