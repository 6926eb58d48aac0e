//! What happened, as one number, and on demand as text.

use std::time::Instant;

/// What a socket did.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Received,
    Sent,
    Fin,
    Reset,
    Closed,
    Ended,
}

/// A hash over all events: when, where, what, how much. Not over bytes, because those of a handshake are random.
pub(crate) struct Trace {
    started: Instant,
    hash: u64,
    pub(crate) is_printed: bool,
}

impl Trace {
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, hash: 0xcbf2_9ce4_8422_2325, is_printed: false }
    }

    pub(crate) fn note(&mut self, now: Instant, connection: u32, side: usize, event: Event, count: usize) {
        let ms = (now - self.started).as_millis() as u64; // centuries
        for word in [ms, u64::from(connection), side as u64, event as u64, count as u64] {
            // FNV-1a (a 64-bit word at a time).
            self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3);
            self.hash ^= self.hash >> 29;
        }
        if self.is_printed {
            println!("{ms:>8} ms  connection {connection} end {side}  {event:?} {count}");
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}
