//! What both drivers read with: tokio's reactor says when, calls that return at once move the bytes.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::unconstrained;

use crate::pool::Buffer;
use crate::socket::Socket;
use crate::stream::{BYTES_PER_TURN, Hold, Patience, Received, held_too_long};

/// A socket registered with the reactor, from which one direction reads.
pub(crate) struct Reading {
    fd: AsyncFd<Socket>,
    is_eager: Cell<bool>,
    hold: Hold,
    /// Bytes received since the last look.
    moved: Cell<usize>,
}

impl Reading {
    /// Takes over a connected socket; `interest` is what the reactor is to tell of.
    pub(crate) fn new(socket: Socket, interest: Interest) -> io::Result<Self> {
        socket.open_window()?;
        // SAFETY: the descriptor is open as long as any clone of `socket` is, and the `AsyncFd` keeps one; a `Socket`
        // never changes its descriptor.
        let fd = unsafe { AsyncFd::register_with_interest(socket, interest) };
        let fd = fd.map_err(|error| error.into_parts().1)?;
        Ok(Self { fd, is_eager: Cell::new(false), hold: Hold::default(), moved: Cell::new(0) })
    }

    /// The registered socket, for the other direction.
    pub(crate) fn fd(&self) -> &AsyncFd<Socket> {
        &self.fd
    }

    pub(crate) fn socket(&self) -> &Socket {
        self.fd.get_ref()
    }

    /// See [`crate::Stream::set_eager`].
    pub(crate) fn set_eager(&self, is_eager: bool) {
        self.is_eager.set(is_eager);
    }

    /// See [`crate::Stream::is_look_due`].
    pub(crate) fn is_look_due(&self) -> bool {
        self.moved.get() >= BYTES_PER_TURN
    }

    /// A look begins.
    pub(crate) fn note_look(&self) {
        self.moved.set(0);
    }

    /// See [`crate::Stream::readable`].
    pub(crate) async fn readable(&self) -> io::Result<()> {
        loop {
            // Readiness is remembered from before the last byte was taken: ask the socket itself, in a way that leaves an
            // error to the receive that follows.
            self.fd.readable().await?.retain_ready();
            let is_there = |socket: &Socket| match socket.is_readable() {
                true => Ok(()),
                false => Err(io::Error::from(io::ErrorKind::WouldBlock)),
            };
            if self.fd.try_io(Interest::READABLE, is_there).is_ok() {
                return Ok(());
            }
        }
    }

    /// See [`crate::Stream::receive`].
    pub(crate) async fn receive(&self, mut buffer: Buffer, patience: Patience) -> (io::Result<Received>, Buffer) {
        let mut hold_until = None;
        // Without tokio's budget of a task: when that is spent, the reactor says that nothing is there. `look` gives
        // others their turn.
        let poll = poll_fn(|context| self.poll_receive(context, &mut buffer, patience, &mut hold_until));
        let received = unconstrained(poll).await;
        if let Ok(Received::Bytes(count)) = received {
            self.hold.note();
            self.moved.set(self.moved.get() + count);
        }
        (received, buffer)
    }

    fn poll_receive(
        &self,
        context: &mut Context<'_>,
        buffer: &mut Buffer,
        patience: Patience,
        hold_until: &mut Option<Instant>,
    ) -> Poll<io::Result<Received>> {
        loop {
            let is_eager = self.is_eager.get();
            let result = match is_eager {
                true => self.socket().receive_message(buffer),
                false => match self.fd.poll_read_ready(context)? {
                    Poll::Ready(mut ready) => {
                        let result = self.socket().receive_message(buffer);
                        // A short count says what another call would say: that there is no more (but for bytes behind TCP's urgent
                        // mark, which neither side has a use for). An end of the stream that the reactor knows of is not
                        // forgotten.
                        let is_empty = match &result {
                            Ok(count) => *count < buffer.slices_bytes(),
                            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                        };
                        if is_empty {
                            ready.clear_ready();
                        }
                        match result {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                            result => result,
                        }
                    }
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                },
            };
            return match result {
                Ok(0) => Poll::Ready(Ok(Received::End)),
                Ok(count) => Poll::Ready(Ok(Received::Bytes(count))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Poll::Ready(Err(error)),
                Err(_) if patience == Patience::None => Poll::Ready(Ok(Received::Nothing)),
                Err(_) if is_eager && held_too_long(hold_until) => Poll::Ready(Ok(Received::Nothing)),
                Err(_) if is_eager => Poll::Pending,
                Err(_) => self.hold.poll_over(context).map(|()| Ok(Received::Nothing)),
            };
        }
    }
}
