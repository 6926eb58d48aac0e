//! What a driver offers to the relay: streams that receive into and send from buffers that they own meanwhile.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::unconstrained;
use tokio::time::Sleep;

use crate::net::{ConnectOptions, FirstLook};
use crate::pool::Buffer;
use crate::rt;
use crate::socket::SocketOptions;

/// A stream is to let the other tasks of its thread run after moving so much, which takes about a millisecond. Calls that succeed at
/// once never wait, so without this a fast connection would hold its worker.
pub(crate) const BYTES_PER_TURN: usize = 2 << 20;

/// Whether a receive that is polled all the time has held its buffer for [`Patience::HOLD_MS`]; `until` is set at the first
/// call.
pub(crate) fn held_too_long(until: &mut Option<Instant>) -> bool {
    let now = rt::now();
    now >= *until.get_or_insert(now + Duration::from_millis(Patience::HOLD_MS))
}

/// Ends a wait with a buffer in which nothing comes for [`Patience::HOLD_MS`], or a little later: the timer of a busy stream is
/// not set anew for each message, but only when it has run out.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// From the first wait on; whom it has been told to wake.
    timer: RefCell<Option<(Pin<Box<Sleep>>, Waker)>>,
    is_armed: Cell<bool>,
    has_come: Cell<bool>,
}

impl Hold {
    const TIME: Duration = Duration::from_millis(Patience::HOLD_MS);

    /// Something came.
    pub(crate) fn note(&self) {
        self.has_come.set(true);
    }

    /// Whether nothing has come for so long.
    pub(crate) fn poll_over(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.timer.borrow_mut();
        let end = || tokio::time::Instant::now() + Self::TIME;
        let (timer, told) =
            slot.get_or_insert_with(|| (Box::pin(tokio::time::sleep_until(end())), context.waker().clone()));
        if !self.is_armed.replace(true) {
            self.has_come.set(false);
            timer.as_mut().reset(end());
        } else if !timer.is_elapsed() && told.will_wake(context.waker()) {
            return Poll::Pending;
        }
        // Without tokio's budget of a task: when that is spent, the timer does not learn whom to wake.
        while pin!(unconstrained(timer.as_mut())).poll(context).is_ready() {
            if !self.has_come.take() {
                self.is_armed.set(false);
                return Poll::Ready(());
            }
            timer.as_mut().reset(end());
        }
        told.clone_from(context.waker());
        Poll::Pending
    }
}

/// How long a receive may hold its buffer while nothing comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Patience {
    /// Not at all.
    None,
    /// [`Patience::HOLD_MS`], at most twice as long: a busy direction keeps its buffer over a short gap.
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

/// For how long a peer has not acknowledged what it is to acknowledge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unheard {
    /// Bytes, or the end of the stream: it has acknowledged nothing for so long, in part of which it may have owed nothing.
    Bytes(Duration),
    /// Keepalive probes: so long ago it was sent the first of them.
    Probes(Duration),
}

/// What is done to a connected socket besides moving bytes. Nothing here waits. Clones are the same socket, and an
/// operation in flight holds one.
pub trait Control: Clone + 'static {
    /// Lets waiting receives see the end of the stream. Nothing is sent to the peer.
    fn shutdown_read(&self);

    /// Sends FIN: the peer sees the end of the stream.
    fn shutdown_write(&self);

    /// Sends RST and lets every operation in flight end with an error.
    fn abort(&self);

    /// Sends what fits without waiting; for an alert before the end.
    ///
    /// # Errors
    /// What send says.
    fn try_send(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Looks at the next bytes without taking them and without waiting. An error is said only once: it is gone with this
    /// ([`Control::is_gone`] leaves it).
    ///
    /// # Errors
    /// What recv says.
    fn peek(&self, bytes: &mut [u8]) -> io::Result<usize>;

    /// How many bytes can surely be sent without waiting for the peer; 0 where that is not known.
    fn send_room(&self) -> usize;

    /// Whether the peer has acknowledged everything that was sent, the end of the stream included.
    fn is_acknowledged(&self) -> bool;

    /// How long ago the peer last acknowledged anything, while it has something to acknowledge: bytes, the end of the
    /// stream, or a keepalive probe.
    fn unheard(&self) -> Option<Unheard>;

    /// `TCP_USER_TIMEOUT`, if one is set.
    fn user_timeout(&self) -> Option<Duration>;

    /// Sets `TCP_USER_TIMEOUT`, or takes it away: while it is set, it alone decides how long keepalive probes may go
    /// unanswered, and not their number.
    fn set_user_timeout(&self, timeout: Option<Duration>);

    /// Whether the connection is gone: reset by the peer, or given up. Takes no error away from the calls that will report
    /// it.
    fn is_gone(&self) -> bool;
}

/// A connected socket under a driver.
///
/// `receive` and `send` own the buffer until they complete and must be awaited to their end: a deadline ends the socket
/// ([`Control::abort`], [`Control::shutdown_read`]), which completes them. Only `readable` may be dropped at any time.
pub trait Stream: Sized + 'static {
    /// The socket that it drives.
    type Socket: Control;

    /// Takes over a connected socket.
    ///
    /// # Errors
    /// Whatever the driver's registration of the socket says.
    fn adopt(socket: Self::Socket) -> io::Result<Self>;

    /// The socket, for what needs no buffer.
    fn socket(&self) -> &Self::Socket;

    /// From now on somebody polls what waits here all the time, with [`Stream::look`] in between: the socket can be asked
    /// again each time, and need not tell. Or from now on not any more: then what waits is to be polled once more.
    fn set_eager(&self, _is_eager: bool) {}

    /// Lets the other tasks of this thread run and its reactor look, and sees that what was put into the ring begins: whoever
    /// goes on without waiting is to call this now and then.
    fn look(&self) -> impl Future<Output = ()>;

    /// Whether so much has been received since the last [`Stream::look`], or a send may have been waiting for one so long, that it
    /// is time for the next, best between two buffers: what is in one is still near the processor.
    fn is_look_due(&self) -> bool;

    /// Waits, without a buffer, until a receive would bring something: bytes, the end, or an error.
    fn readable(&self) -> impl Future<Output = io::Result<()>>;

    /// Receives once into the buffer's slices.
    fn receive(&self, buffer: Buffer, patience: Patience) -> impl Future<Output = (io::Result<Received>, Buffer)>;

    /// Sends all of the buffer's slices.
    fn send(&self, buffer: Buffer) -> impl Future<Output = (io::Result<()>, Buffer)>;
}

/// A connection that no stream has taken over yet: an accepted one that waits, or either kind during its handshake.
///
/// Its futures may be dropped at any time.
pub trait Link: Sized + 'static {
    /// What it becomes.
    type Socket: Control;

    /// Waits for the peer's first byte; at most for `limit`, if there is one.
    fn first_look(&self, limit: Option<Duration>) -> impl Future<Output = FirstLook>;

    /// Whether the peer has sent something that has not been read.
    fn has_bytes(&self) -> bool;

    /// Waits until the peer has gone: reset, or closed without a byte to serve. `has_spoken`: there are such bytes, though
    /// the socket has them no more, so that the end of the stream is no reason.
    fn gone(&self, has_spoken: bool) -> impl Future<Output = ()>;

    /// Reads what is there into `bytes`; 0 at the end.
    fn read(&mut self, bytes: &mut [u8]) -> impl Future<Output = io::Result<usize>>;

    /// Writes all of `bytes`.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>>;

    /// Our end's address.
    ///
    /// # Errors
    /// What getsockname says.
    fn local_address(&self) -> io::Result<SocketAddr>;

    /// Sets `TCP_NODELAY` and `options`.
    ///
    /// # Errors
    /// The first option that the kernel refuses.
    fn set_options(&self, options: &SocketOptions) -> io::Result<()>;

    /// The socket, for a stream.
    ///
    /// # Errors
    /// It could not be taken off the reactor.
    fn into_socket(self) -> io::Result<Self::Socket>;

    /// Sends RST.
    fn reset(self) {
        if let Ok(socket) = self.into_socket() {
            socket.abort();
        }
    }
}

/// A way of doing input and output.
pub trait Driver: Sized + 'static {
    /// Its streams.
    type Stream: Stream;

    /// Its connections before they are streams.
    type Link: Link<Socket = <Self::Stream as Stream>::Socket>;

    /// Its name on the command line and in logs.
    const NAME: &'static str;

    /// Whether this host has what the driver needs. Whether there is enough of it for so many threads and streams shows when
    /// they run: what a probe of that size had taken would not be given back in time.
    ///
    /// # Errors
    /// Why not.
    fn probe() -> io::Result<()>;

    /// The addresses of a name, in the order in which they are to be tried. May be dropped.
    fn resolve(host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>>;

    /// Connects to one address. May be dropped.
    fn connect(address: SocketAddr, options: &ConnectOptions) -> impl Future<Output = io::Result<Self::Link>>;

    /// Runs `future`, and the tasks that it spawns, on this thread, for at most so many streams at once.
    ///
    /// # Errors
    /// Why this host cannot run the driver.
    fn run<F: Future>(streams: usize, future: F) -> io::Result<F::Output>;
}

#[cfg(test)]
#[cfg(feature = "simulation")]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn over(hold: &Hold) -> impl Future<Output = ()> {
        poll_fn(|context| hold.poll_over(context))
    }

    /// Runs `future` on a clock of its own; it may not take longer than a minute.
    fn within_a_minute<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
        rt::tested(|| {
            let limited = async { rt::timeout(Duration::from_secs(60), test()).await };
            assert!(rt::run_on_virtual_time(limited).unwrap().is_some(), "nobody was woken");
        });
    }

    #[test]
    fn a_hold_ends_when_nothing_has_come_for_its_time_or_up_to_twice_that() {
        within_a_minute(|| async {
            let (hold, ms) = (Hold::default(), Duration::from_millis);
            for round in 0..3 {
                let begun = rt::now();
                over(&hold).await;
                assert_eq!(rt::now() - begun, ms(20), "round {round}: nothing came");
                // What came before is of no account.
                hold.note();
                rt::sleep(ms(100)).await;
                let begun = rt::now();
                over(&hold).await;
                assert_eq!(rt::now() - begun, ms(20), "round {round}: something came before the wait");
                let begun = rt::now();
                for _ in 0..3 {
                    assert_eq!(rt::timeout(ms(5), over(&hold)).await, None);
                    hold.note();
                }
                over(&hold).await;
                assert_eq!(rt::now() - begun, ms(40), "round {round}: something came after 15 ms");
            }
        });
    }

    #[test]
    fn a_hold_wakes_who_waits_last_whatever_has_become_of_the_budget_of_its_task() {
        within_a_minute(|| async {
            let hold = Hold::default();
            let noop = &mut Context::from_waker(Waker::noop());
            assert!(hold.poll_over(noop).is_pending());
            over(&hold).await;
            poll_fn(|context| {
                while tokio::task::coop::has_budget_remaining() {
                    let _ = pin!(tokio::task::consume_budget()).poll(context);
                }
                hold.poll_over(context)
            })
            .await;
        });
    }
}
