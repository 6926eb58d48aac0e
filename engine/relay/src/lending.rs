//! Who gets which buffer. A small one is everybody's right, a big one is a bonus.

use sealane_io::{Buffer, Control, Patience, Pool};

use crate::error::SessionError;

/// This part of a worker's big buffers, at least one, is lent only for turns that are sure to end: see [`Lender::lend`].
const RESERVE_PART: usize = 4;

/// Less room than this in the receiving socket is not worth a big buffer.
const RESERVE_ROOM_BYTES_MIN: usize = 64 * 1024;

/// More big buffers than these, lent by one worker, are a crowd: see [`Lender::is_crowded`]. One connection has two directions.
const CROWD: usize = 2;

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
    /// stalled peers can pin all but the reserve, and the reserve comes back at the end of each turn. The same holds in a crowd.
    pub(crate) fn lend(&self, want_big: bool, to: &impl Control) -> Result<Loan, SessionError> {
        match if want_big { self.big(to) } else { None } {
            Some(loan) => Ok(loan),
            None => Ok(Loan { buffer: self.small()?, terms: Terms::Keep }),
        }
    }

    /// A big buffer, on the terms above.
    pub(crate) fn big(&self, to: &impl Control) -> Option<Loan> {
        if self.pool.big_free() > self.reserve && !self.is_crowded() {
            return Some(Loan { buffer: self.pool.big()?, terms: Terms::Keep });
        }
        let bytes_max = to.send_room();
        if bytes_max < RESERVE_ROOM_BYTES_MIN {
            return None;
        }
        Some(Loan { buffer: self.pool.big()?, terms: Terms::Turn { bytes_max } })
    }

    /// How long a receive may hold what was lent.
    pub(crate) fn patience(&self, loan: &Loan) -> Patience {
        match loan.terms {
            Terms::Keep if !(loan.buffer.is_big() && self.is_crowded()) => Patience::Hold,
            _ => Patience::None,
        }
    }

    /// So many directions are busy that a buffer each would be more memory than a cache keeps. Then none waits with one, be it
    /// to receive or for room to send: it comes back at the end of the turn, and who is next gets the one that was used last.
    fn is_crowded(&self) -> bool {
        self.pool.layout().big_count - self.pool.big_free() > CROWD
    }

    /// A small buffer. Each direction holds at most one, and the pool has two for each connection.
    pub(crate) fn small(&self) -> Result<Buffer, SessionError> {
        self.pool.small().ok_or(SessionError::Internal("a direction was denied its small buffer"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use sealane_io::Socket;

    use super::*;
    use crate::config::Memory;

    #[test]
    fn in_a_crowd_nobody_waits_with_a_big_buffer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let to = Socket::new(socket);
        let memory = Memory { bytes_max: 16 << 20, connections_max: 2, workers: 1 };
        let lender = Lender::new(Pool::new(memory.layout().unwrap()).unwrap());
        let mut lent: Vec<Loan> = (0..=CROWD).map(|_| lender.lend(true, &to).unwrap()).collect();
        assert!(lent.iter().all(|loan| loan.buffer.is_big() && loan.terms == Terms::Keep));

        let next = lender.lend(true, &to).unwrap();
        let Terms::Turn { bytes_max } = next.terms else { panic!("{:?} in a crowd", next.terms) };
        assert!(
            next.buffer.is_big() && bytes_max >= RESERVE_ROOM_BYTES_MIN && bytes_max <= to.send_room(),
            "{bytes_max}"
        );
        assert_eq!(lender.patience(&next), Patience::None);
        assert!(
            lent.iter().all(|loan| lender.patience(loan) == Patience::None),
            "those from before give theirs back, too"
        );
        let small = lender.lend(false, &to).unwrap();
        assert_eq!(lender.patience(&small), Patience::Hold);

        drop(next);
        lent.truncate(CROWD);
        assert!(lent.iter().all(|loan| lender.patience(loan) == Patience::Hold));
        assert_eq!(lender.lend(true, &to).unwrap().terms, Terms::Keep);
    }
}
