//! The epoll driver: tokio's reactor says when, calls that return at once move the bytes.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio::io::Interest;

use crate::net::{self, ConnectOptions, Connection};
use crate::pool::Buffer;
use crate::reading::Reading;
use crate::rt;
use crate::socket::Socket;
use crate::stream::{Driver, Patience, Received, Stream};

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
pub struct EpollStream(Reading);

impl Stream for EpollStream {
    type Socket = Socket;

    fn adopt(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Reading::new(socket, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    fn socket(&self) -> &Socket {
        self.0.socket()
    }

    async fn look(&self) {
        self.0.note_look();
        rt::yield_now().await;
    }

    fn is_look_due(&self) -> bool {
        self.0.is_look_due()
    }

    fn set_eager(&self, is_eager: bool) {
        self.0.set_eager(is_eager);
    }

    fn readable(&self) -> impl Future<Output = io::Result<()>> {
        self.0.readable()
    }

    fn receive(&self, buffer: Buffer, patience: Patience) -> impl Future<Output = (io::Result<Received>, Buffer)> {
        self.0.receive(buffer, patience)
    }

    async fn send(&self, mut buffer: Buffer) -> (io::Result<()>, Buffer) {
        while buffer.slices_bytes() > 0 {
            match self.0.fd().try_io(Interest::WRITABLE, |socket| socket.send_message(&mut buffer)) {
                Ok(count) => buffer.consume(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return (Err(error), buffer),
                Err(_) => match self.0.fd().writable().await {
                    Ok(mut ready) => ready.retain_ready(),
                    Err(error) => return (Err(error), buffer),
                },
            }
        }
        (Ok(()), buffer)
    }
}
