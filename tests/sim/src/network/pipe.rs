//! One direction of a connection.

use std::collections::VecDeque;
use std::time::Instant;

/// Bytes on their way in one direction.
#[derive(Default)]
pub(super) struct Pipe {
    pub(super) flying: VecDeque<(Instant, Vec<u8>)>,
    pub(super) flying_bytes: usize,
    pub(super) arrived: VecDeque<u8>,
    /// When the end of the stream arrives.
    pub(super) end_at: Option<Instant>,
    pub(super) last_at: Option<Instant>,
    /// Bytes that were ever sent, and taken.
    pub(super) sent: u64,
    pub(super) taken: u64,
    /// Where the last word of the sender ends, if it has one.
    pub(super) last_ends_at: Option<u64>,
    /// The sender has heard the last word of the other end, and has begun to send from this byte on.
    pub(super) is_last_heard: bool,
    pub(super) sends_behind: u32,
    /// The sender is in the middle of a send.
    pub(super) is_sending: bool,
    /// When the sender reset the connection, it could still have said why.
    pub(super) could_tell: bool,
    pub(super) silent_from: Option<u64>,
}

impl Pipe {
    pub(super) fn land(&mut self, now: Instant) {
        while self.flying.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, bytes)) = self.flying.pop_front() {
                self.flying_bytes -= bytes.len();
                self.arrived.extend(bytes);
            }
        }
    }

    pub(super) fn held(&self) -> usize {
        self.flying_bytes + self.arrived.len()
    }

    /// When something behind `now` arrives.
    pub(super) fn next_at(&self, now: Instant) -> Option<Instant> {
        let end = self.end_at.filter(|at| *at > now);
        self.flying.front().map(|(at, _)| *at).or(end)
    }
}
