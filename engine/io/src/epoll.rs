//! The epoll driver: tokio's reactor says when, calls that return at once move the bytes.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::unconstrained;

use crate::net::{self, ConnectOptions, Connection};
use crate::pool::Buffer;
use crate::rt;
use crate::socket::Socket;
use crate::stream::{BYTES_PER_TURN, Driver, Hold, Patience, Received, Stream, held_too_long};

/// The driver for hosts without io_uring.
pub struct Epoll;

impl Driver for Epoll {
    type Stream = EpollStream;
    type Link = Connection;

    const NAME: &'static str = "epoll";

    fn probe() -> io::Result<()> {
        Ok(())
    }

    fn resolve(host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> {
        net::resolve(host, port)
    }

    fn connect(address: SocketAddr, options: &ConnectOptions) -> impl Future<Output = io::Result<Connection>> {
        net::connect(address, options)
    }

    fn run<F: Future>(_streams: usize, future: F) -> io::Result<F::Output> {
        rt::run_on_reactor(future)
    }
}

/// A socket registered with the reactor.
pub struct EpollStream {
    fd: AsyncFd<Socket>,
    is_eager: Cell<bool>,
    hold: Hold,
    /// Bytes received since the last look.
    moved: Cell<usize>,
}

impl EpollStream {
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

impl Stream for EpollStream {
    type Socket = Socket;

    fn adopt(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.open_window()?;
        // SAFETY: the descriptor is open as long as any clone of `socket` is, and the `AsyncFd` keeps one; a `Socket`
        // never changes its descriptor.
        let fd = unsafe { AsyncFd::register(socket) };
        let fd = fd.map_err(|error| error.into_parts().1)?;
        Ok(Self { fd, is_eager: Cell::new(false), hold: Hold::default(), moved: Cell::new(0) })
    }

    fn socket(&self) -> &Socket {
        self.fd.get_ref()
    }

    async fn look(&self) {
        self.moved.set(0);
        rt::yield_now().await;
    }

    fn is_look_due(&self) -> bool {
        self.moved.get() >= BYTES_PER_TURN
    }

    fn set_eager(&self, is_eager: bool) {
        self.is_eager.set(is_eager);
    }

    async fn readable(&self) -> io::Result<()> {
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

    async fn receive(&self, mut buffer: Buffer, patience: Patience) -> (io::Result<Received>, Buffer) {
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

    async fn send(&self, mut buffer: Buffer) -> (io::Result<()>, Buffer) {
        while buffer.slices_bytes() > 0 {
            match self.fd.try_io(Interest::WRITABLE, |socket| socket.send_message(&mut buffer)) {
                Ok(count) => buffer.consume(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return (Err(error), buffer),
                Err(_) => match self.fd.writable().await {
                    Ok(mut ready) => ready.retain_ready(),
                    Err(error) => return (Err(error), buffer),
                },
            }
        }
        (Ok(()), buffer)
    }
}
