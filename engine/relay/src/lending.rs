//! Who gets which buffer. A small one is everybody's right, a big one is a bonus.

use sealane_io::{Buffer, Control, Patience, Pool};

use crate::error::SessionError;

/// This part of a worker's big buffers, at least one, is lent only for turns that are sure to end: see [`Lender::lend`].
const RESERVE_PART: usize = 4;

/// Less room than this in the receiving socket is not worth a big buffer.
const RESERVE_ROOM_BYTES_MIN: usize = 64 * 1024;

/// A buffer and the terms that it was lent on.
pub(crate) struct Loan {
    pub(crate) buffer: Buffer,
    pub(crate) terms: Terms,
}

/// The terms of a loan.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Terms {
    /// It may be kept from one turn to the next, and over a short gap.
    Keep,
    /// For one turn of at most so many bytes, which the other socket has room for.
    Turn { bytes_max: usize },
}

impl Loan {
    /// How long a receive may hold the buffer.
    pub(crate) fn patience(&self) -> Patience {
        match self.terms {
            Terms::Keep => Patience::Hold,
            Terms::Turn { .. } => Patience::None,
        }
    }

    /// The most bytes of this turn.
    pub(crate) fn bytes_max(&self) -> usize {
        match self.terms {
            Terms::Keep => usize::MAX,
            Terms::Turn { bytes_max } => bytes_max,
        }
    }
}

/// Lends the buffers of one worker.
#[derive(Clone)]
pub(crate) struct Lender {
    pool: Pool,
    reserve: usize,
}

impl Lender {
    pub(crate) fn new(pool: Pool) -> Self {
        let reserve = (pool.layout().big_count / RESERVE_PART).max(1);
        Self { pool, reserve }
    }

    /// A buffer for one turn that receives on one socket and sends on `to`.
    ///
    /// A writer that stalls keeps what was read for it: nothing can be done about that afterwards. So while few big
    /// buffers are left, one is lent only for as many bytes as `to` takes without waiting, and only for that turn:
    /// stalled peers can pin all but the reserve, and the reserve comes back at the end of each turn.
    pub(crate) fn lend(&self, want_big: bool, to: &impl Control) -> Result<Loan, SessionError> {
        match if want_big { self.big(to) } else { None } {
            Some(loan) => Ok(loan),
            None => Ok(Loan { buffer: self.small()?, terms: Terms::Keep }),
        }
    }

    /// A big buffer, on the terms above.
    pub(crate) fn big(&self, to: &impl Control) -> Option<Loan> {
        if self.pool.big_free() > self.reserve {
            return Some(Loan { buffer: self.pool.big()?, terms: Terms::Keep });
        }
        let bytes_max = to.send_room();
        if bytes_max < RESERVE_ROOM_BYTES_MIN {
            return None;
        }
        Some(Loan { buffer: self.pool.big()?, terms: Terms::Turn { bytes_max } })
    }

    /// A small buffer. Each direction holds at most one, and the pool has two for each connection.
    pub(crate) fn small(&self) -> Result<Buffer, SessionError> {
        self.pool.small().ok_or(SessionError::Internal("a direction was denied its small buffer"))
    }
}
