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
    /// It may be kept from one turn to the next, and over a short gap, unless there is a crowd by then.
    Keep,
    /// For one turn of at most so many bytes.
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
    /// stalled peers can pin all but the reserve, and the reserve comes back at the end of each turn. In a crowd
    /// the others come back then, too.
    pub(crate) fn lend(&self, want_big: bool, to: &impl Control) -> Result<Loan, SessionError> {
        match if want_big { self.big(to) } else { None } {
            Some(loan) => Ok(loan),
            None => Ok(Loan { buffer: self.small()?, terms: Terms::Keep }),
        }
    }

    /// A big buffer, on the terms above.
    pub(crate) fn big(&self, to: &impl Control) -> Option<Loan> {
        let has_more = self.pool.big_free() > self.reserve;
        let terms = if has_more && !self.is_crowded() {
            Terms::Keep
        } else {
            let room = to.send_room();
            if room >= RESERVE_ROOM_BYTES_MIN {
                Terms::Turn { bytes_max: room }
            } else if has_more && to.is_acknowledged() {
                // Its send buffer is small, not full. It grows only when a send meets its end.
                Terms::Turn { bytes_max: usize::MAX }
            } else {
                return None;
            }
        };
        Some(Loan { buffer: self.pool.big()?, terms })
    }

    /// Whether a direction may keep what it was lent from one turn to the next.
    pub(crate) fn keeps(&self, loan: &Loan) -> bool {
        loan.terms == Terms::Keep && !(loan.buffer.is_big() && self.is_crowded())
    }

    /// How long a receive may hold it.
    pub(crate) fn patience(&self, loan: &Loan) -> Patience {
        if self.keeps(loan) { Patience::Hold } else { Patience::None }
    }

    /// So many directions are busy that a buffer each would be more memory than a cache keeps. Then it is lent for a turn, so
    /// that who is next gets the one that was used last.
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
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use sealane_io::{Socket, SocketOptions};

    use super::*;
    use crate::config::Memory;

    fn lender() -> Lender {
        let memory = Memory { bytes_max: 16 << 20, connections_max: 8, workers: 1 };
        Lender::new(Pool::new(memory.layout().unwrap()).unwrap())
    }

    /// A connection whose other end reads nothing, and that end.
    fn connection(send_buffer_bytes: usize) -> (TcpStream, Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Socket::new(stream.try_clone().unwrap());
        let options = SocketOptions { send_buffer_bytes: Some(send_buffer_bytes), ..SocketOptions::default() };
        socket.set_options(&options).unwrap();
        (stream, socket, listener.accept().unwrap().0)
    }

    fn crowd(lender: &Lender, to: &Socket) -> Vec<Loan> {
        (0..=CROWD).map(|_| lender.lend(true, to).unwrap()).collect()
    }

    #[test]
    fn in_a_crowd_nobody_waits_with_a_big_buffer() {
        let (lender, (_stream, to, _peer)) = (lender(), connection(128 * 1024));
        let mut lent = crowd(&lender, &to);
        assert!(lent.iter().all(|loan| loan.buffer.is_big() && loan.terms == Terms::Keep));

        let next = lender.lend(true, &to).unwrap();
        let Terms::Turn { bytes_max } = next.terms else { panic!("{:?} in a crowd", next.terms) };
        // The kernel doubles the size, and its account of a byte is not of a byte alone.
        assert!((RESERVE_ROOM_BYTES_MIN..=256 * 1024).contains(&bytes_max), "{bytes_max}");
        assert!(next.buffer.is_big() && lender.patience(&next) == Patience::None);
        assert!(!lent.iter().any(|loan| lender.keeps(loan)), "those from before give theirs back, too");
        let small = lender.lend(false, &to).unwrap();
        assert_eq!(lender.patience(&small), Patience::Hold);

        drop(next);
        lent.truncate(CROWD);
        assert!(lent.iter().all(|loan| lender.patience(loan) == Patience::Hold));
        assert_eq!(lender.lend(true, &to).unwrap().terms, Terms::Keep);
    }

    #[test]
    fn a_small_send_buffer_gets_a_big_one_of_ours_while_it_is_empty_and_more_than_the_reserve_is_left() {
        let (lender, (mut stream, to, _peer)) = (lender(), connection(16 * 1024));
        assert!(to.send_room() < RESERVE_ROOM_BYTES_MIN);
        let mut lent = crowd(&lender, &to);
        let next = lender.lend(true, &to).unwrap();
        assert!(next.buffer.is_big() && next.terms == Terms::Turn { bytes_max: usize::MAX }, "{:?}", next.terms);
        assert!(!lender.keeps(&next));

        while lender.pool.big_free() > lender.reserve {
            lent.push(lender.lend(true, &to).unwrap());
        }
        assert!(!lender.lend(true, &to).unwrap().buffer.is_big(), "the reserve is for those who have room");

        lent.truncate(CROWD + 1);
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 64 * 1024]).is_ok() {}
        assert!(!lender.lend(true, &to).unwrap().buffer.is_big(), "the peer does not read");
    }
}
