//! Whether a result has room in its reply: in what the client takes, and in what is kept for a repetition (RFC 8881
//! section 2.10.6.4).
//!
//! What an operation has changed cannot be taken back when its result turns out to be too long. So one that changes
//! something is refused before it is executed, by the longest result that it can have; the others, whose results differ
//! by a MiB, are executed and measured.

use super::clients::Channel;
use crate::nfs4::{Operation, Status};

const STATEID_BYTES: usize = 16;
const CHANGE_BYTES: usize = 20;
/// A bitmap of what can be set: its attributes are below 64.
const SET_BYTES_MAX: usize = 4 + 2 * 4;
const CHANNEL_BYTES: usize = 7 * 4;

/// What follows the status of a SEQUENCE.
pub(super) const SEQUENCE_BYTES: usize = 16 + 5 * 4;

/// A result that says why there is no more: operation, status, and the empty bitmap of a failed SETATTR.
const FAILURE_BYTES_MAX: usize = 12;

/// The most that follows the status of an operation that changes something; `None` for one that does not.
pub(super) const fn result_bytes_max(operation: Operation) -> Option<usize> {
    use Operation as O;
    match operation {
        // Flags and the kind of delegation behind the rest.
        O::OPEN => Some(STATEID_BYTES + CHANGE_BYTES + 4 + SET_BYTES_MAX + 4),
        O::OPEN_DOWNGRADE | O::CLOSE => Some(STATEID_BYTES),
        O::SETATTR => Some(SET_BYTES_MAX),
        O::WRITE => Some(4 + 4 + 8),
        O::CREATE => Some(CHANGE_BYTES + SET_BYTES_MAX),
        O::REMOVE | O::LINK => Some(CHANGE_BYTES),
        O::RENAME => Some(2 * CHANGE_BYTES),
        O::CREATE_SESSION => Some(16 + 4 + 4 + 2 * CHANNEL_BYTES),
        // The server's name twice, which is shorter than 60 bytes.
        O::EXCHANGE_ID => Some(8 + 4 + 4 + 4 + 8 + 2 * (4 + 60) + 4),
        O::RECLAIM_COMPLETE | O::FREE_STATEID | O::DESTROY_SESSION | O::DESTROY_CLIENTID => Some(0),
        _ => None,
    }
}

/// How long the reply to one request may become, its record mark not included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    reply_bytes_max: u32,
    /// If the client wants the reply to be kept.
    kept_bytes_max: Option<u32>,
}

impl Room {
    pub(super) fn new(channel: &Channel, cache_this: bool) -> Self {
        let kept_bytes_max = cache_this.then_some(channel.response_cached_bytes_max);
        Self { reply_bytes_max: channel.response_bytes_max, kept_bytes_max }
    }

    pub(super) const fn is_kept(self) -> bool {
        self.kept_bytes_max.is_some()
    }

    /// Whether the reply may have `length` bytes at the end of an operation, the last one or not.
    ///
    /// # Errors
    /// `NFS4ERR_REP_TOO_BIG`, `NFS4ERR_REP_TOO_BIG_TO_CACHE`.
    pub(super) fn check(self, length: usize, is_last: bool) -> Result<(), Status> {
        // The next operation has to have room at least for saying that it has none.
        let length = length + if is_last { 0 } else { FAILURE_BYTES_MAX };
        if length > self.reply_bytes_max as usize {
            return Err(Status::REP_TOO_BIG);
        }
        match self.kept_bytes_max {
            Some(max) if length > max as usize => Err(Status::REP_TOO_BIG_TO_CACHE),
            _ => Ok(()),
        }
    }
}
