//! What happened, in numbers. The same words as in logs and documentation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::keys::TlsFacts;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// Totals since the start, over all workers.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
            facts: Mutex<Option<TlsFacts>>,
            failure: Mutex<Option<String>>,
        }

        impl Counters {
            /// Every counter with its name.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }
        }
    };
}

impl Counters {
    /// What was agreed on in the TLS connection that was opened last.
    pub fn facts(&self) -> Option<TlsFacts> {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the session that failed last did.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn note_failure(&self, failure: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    pub(crate) fn note_facts(&self, facts: TlsFacts) {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts);
    }
}

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The total.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Connections accepted.
    connections_accepted_total
    /// Connections reset because there were connections_max already.
    connections_refused_total
    /// Connections whose peer's certificate was revoked while they lasted.
    connections_revoked_total
    /// Connections reset because their address had as many as one address may have.
    connections_refused_by_address_total
    /// Connections whose client went away before the server was reached.
    connections_probed_total
    /// Connections whose TLS handshake is done and whose server was reached.
    connections_established_total
    /// Established connections that ended in an error.
    connections_failed_total
    /// Connections that ended because a TLS 1.2 key was used up.
    connections_drained_total
    /// Connections whose stream was not RPC.
    connections_not_rpc_total
    /// Connections that ended in a panic.
    connections_panicked_total
    /// Handshakes with TLS clients that failed.
    handshakes_failed_total
    /// Handshakes with TLS clients that made way for newer ones.
    handshakes_evicted_total
    /// Times that the server could not be reached.
    upstream_failures_total
    /// TLS connections that resumed a session.
    handshakes_resumed_total
    /// KeyUpdate messages received.
    key_updates_received_total
    /// KeyUpdate messages sent.
    key_updates_sent_total
    /// Session tickets received after the handshake.
    tickets_received_total
    /// Renegotiation requests refused.
    renegotiations_refused_total
    /// Times that a thread looked for the next message instead of sleeping.
    spins_total
    /// Times that none came while it did.
    spins_in_vain_total
    /// Bytes from plain sides, before sealing.
    plain_received_bytes_total
    /// Bytes to plain sides, after opening.
    plain_sent_bytes_total
}
