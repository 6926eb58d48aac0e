//! What a driver offers to the relay: streams that receive into and send from buffers that they own meanwhile.

use std::future::Future;
use std::io;

use crate::pool::Buffer;
use crate::socket::Socket;

/// How long a receive may hold its buffer while nothing comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Patience {
    /// Not at all.
    None,
    /// [`Patience::HOLD_MS`]: a busy direction keeps its buffer over a short gap.
    Hold,
}

impl Patience {
    /// Long enough to bridge the gap between the segments of one message, short enough that a stalled peer's buffer is
    /// soon back in the pool.
    pub const HOLD_MS: u64 = 20;
}

/// What a receive brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// This many bytes, in the buffer's slices from the first on.
    Bytes(usize),
    /// The peer has ended its direction.
    End,
    /// Nothing came within the patience.
    Nothing,
}

/// A connected socket under a driver.
///
/// `receive` and `send` own the buffer until they complete and must be awaited to their end: a deadline ends the socket
/// ([`Socket::abort`], [`Socket::shutdown_read`]), which completes them. Only `readable` may be dropped at any time.
pub trait Stream: Sized + 'static {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// Whatever the driver's registration of the socket says.
    fn adopt(socket: Socket) -> io::Result<Self>;

    /// The socket, for what needs no buffer.
    fn socket(&self) -> &Socket;

    /// Waits, without a buffer, until a receive would bring something: bytes, the end, or an error.
    fn readable(&self) -> impl Future<Output = io::Result<()>>;

    /// Receives once into the buffer's slices.
    fn receive(&self, buffer: Buffer, patience: Patience) -> impl Future<Output = (io::Result<Received>, Buffer)>;

    /// Sends all of the buffer's slices.
    fn send(&self, buffer: Buffer) -> impl Future<Output = (io::Result<()>, Buffer)>;
}

/// A way of doing input and output.
pub trait Driver: Sized + 'static {
    /// Its streams.
    type Stream: Stream;

    /// Its name on the command line and in logs.
    const NAME: &'static str;

    /// Whether this host has what the driver needs. Whether there is enough of it for so many threads and streams shows when
    /// they run: what a probe of that size had taken would not be given back in time.
    ///
    /// # Errors
    /// Why not.
    fn probe() -> io::Result<()>;

    /// Runs `future`, and the tasks that it spawns, on this thread, for at most so many streams at once.
    ///
    /// # Errors
    /// Why this host cannot run the driver.
    fn run<F: Future>(streams: usize, future: F) -> io::Result<F::Output>;
}
