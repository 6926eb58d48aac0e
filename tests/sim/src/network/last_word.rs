//! Who may still send when the other end has said its last word, which is a close_notify that ends both directions.

use super::End;

/// Sends that may follow the last word of the other end.
const SENDS_BEHIND_MAX: u32 = 0;

impl End {
    /// Behind the next `count` bytes this end says nothing: a close_notify that ends both directions.
    pub(crate) fn says_last(&self, count: usize) {
        self.with(|outgoing, _, _, _| outgoing.last_ends_at = Some(outgoing.sent + count as u64));
    }

    /// From which byte on the other end may say nothing, because it has heard the last of this one.
    pub(crate) fn silent_from(&self) -> Option<u64> {
        self.with(|_, incoming, _, _| incoming.silent_from)
    }

    /// This end has received something, and its owner knows of it.
    pub(crate) fn has_heard(&self) {
        self.with(|outgoing, incoming, _, _| {
            if incoming.last_ends_at.is_some_and(|end| incoming.taken >= end) {
                outgoing.is_last_heard = true;
            }
        });
    }

    /// Whether the other end, when it reset the connection, could have said why.
    pub(crate) fn could_be_told(&self) -> bool {
        self.with(|_, incoming, _, _| incoming.could_tell)
    }

    /// This end has sent what it wanted to.
    pub(crate) fn ends_to_send(&self) {
        self.with(|outgoing, _, _, _| outgoing.is_sending = false);
    }

    /// This end begins to send.
    pub(crate) fn begins_to_send(&self) {
        self.with(|outgoing, _, _, _| {
            outgoing.is_sending = true;
            if outgoing.is_last_heard {
                outgoing.sends_behind += 1;
            }
            if outgoing.sends_behind > SENDS_BEHIND_MAX && outgoing.silent_from.is_none() {
                outgoing.silent_from = Some(outgoing.sent);
            }
        });
    }
}
