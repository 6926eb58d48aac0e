//! The epoll driver: tokio's reactor says when, `recvmsg` and `sendmsg` move the bytes.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::net::{self, ConnectOptions, Connection};
use crate::pool::Buffer;
use crate::rt;
use crate::socket::Socket;
use crate::stream::{BYTES_PER_TURN, Control, Driver, Patience, Received, Stream, held_too_long, polled_again};

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
    /// Bytes moved since the last pause.
    moved: Cell<usize>,
}

impl EpollStream {
    async fn note_moved(&self, count: usize) {
        self.moved.set(self.moved.get() + count);
        if self.moved.get() >= BYTES_PER_TURN {
            self.moved.set(0);
            rt::yield_now().await;
        }
    }
}

impl Stream for EpollStream {
    type Socket = Socket;

    fn adopt(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // SAFETY: the descriptor is open as long as any clone of `socket` is, and the `AsyncFd` keeps one; a `Socket`
        // never changes its descriptor.
        let fd = unsafe { AsyncFd::register(socket) };
        Ok(Self { fd: fd.map_err(|error| error.into_parts().1)?, is_eager: Cell::new(false), moved: Cell::new(0) })
    }

    fn socket(&self) -> &Socket {
        self.fd.get_ref()
    }

    fn set_eager(&self, is_eager: bool) {
        self.is_eager.set(is_eager);
    }

    async fn readable(&self) -> io::Result<()> {
        loop {
            // Readiness is remembered from before the last byte was taken: ask the socket itself.
            self.fd.readable().await?.retain_ready();
            match self.fd.try_io(Interest::READABLE, |socket| socket.peek(&mut [0])) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Ok(()),
            }
        }
    }

    async fn receive(&self, mut buffer: Buffer, patience: Patience) -> (io::Result<Received>, Buffer) {
        let mut hold_until = None;
        loop {
            let result = match self.is_eager.get() {
                true => self.fd.get_ref().receive_message(&mut buffer),
                false => self.fd.try_io(Interest::READABLE, |socket| socket.receive_message(&mut buffer)),
            };
            match result {
                Ok(0) => return (Ok(Received::End), buffer),
                Ok(count) => {
                    self.note_moved(count).await;
                    return (Ok(Received::Bytes(count)), buffer);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return (Err(error), buffer),
                Err(_) if patience == Patience::None => return (Ok(Received::Nothing), buffer),
                Err(_) if self.is_eager.get() && held_too_long(&mut hold_until) => {
                    return (Ok(Received::Nothing), buffer);
                }
                Err(_) if self.is_eager.get() => polled_again().await,
                Err(_) => match rt::timeout(Duration::from_millis(Patience::HOLD_MS), self.fd.readable()).await {
                    None => return (Ok(Received::Nothing), buffer),
                    Some(Err(error)) => return (Err(error), buffer),
                    Some(Ok(mut ready)) => ready.retain_ready(),
                },
            }
        }
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
