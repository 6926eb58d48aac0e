//! The io_uring driver, over tokio-uring: receives and sends are one call each, for up to a whole buffer; where a call would wait,
//! the ring does: for readiness, and with the rest of a send.
//!
//! tokio-uring has no `readv`, and its `writev` takes a `Vec` per call. So operations are built here, as
//! [`tokio_uring::UnsubmittedOneshot`], from the message header that belongs to the buffer. Only operations with one
//! completion can go that way: a SEND_ZC would end the thread at its second one.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use io_uring::types::Fd;
use io_uring::{Probe, cqueue, opcode};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use crate::net::{self, ConnectOptions, Connection};
use crate::pool::Buffer;
use crate::ring_rules;
use crate::rt;
use crate::socket::Socket;
use crate::stream::{BYTES_PER_TURN, Control, Driver, Hold, Patience, Received, Stream, held_too_long, polled_again};

/// Submission entries for each stream: a send, the readiness wait, and a look. With so many the queue is not full before
/// the thread waits, which is when it is submitted; if it were, it would be submitted sooner.
const ENTRIES_PER_STREAM: usize = 4;
const ENTRIES_MIN: usize = 64;
/// A ring to look at what the kernel has; small, because what it takes (RLIMIT_MEMLOCK) is given back late.
const PROBE_ENTRIES: u32 = 4;
/// The most that the kernel gives (`IORING_MAX_ENTRIES`).
const ENTRIES_MAX: usize = 32_768;

/// Set by the first ring without rules.
static LACKS_RULES: AtomicBool = AtomicBool::new(false);

/// The driver of first choice.
pub struct Uring;

impl Uring {
    fn entries(streams: usize) -> u32 {
        let entries = streams.saturating_mul(ENTRIES_PER_STREAM).clamp(ENTRIES_MIN, ENTRIES_MAX);
        entries.next_power_of_two() as u32 // at most ENTRIES_MAX
    }

    fn probe_ring() -> io::Result<()> {
        let ring = io_uring::IoUring::new(PROBE_ENTRIES)?;
        let unsupported =
            |what| io::Error::new(io::ErrorKind::Unsupported, format!("the kernel's io_uring has no {what}"));
        if !ring.params().is_feature_fast_poll() || !ring.params().is_feature_nodrop() {
            return Err(unsupported("internal polling (Linux 5.7)"));
        }
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let wanted = [("SENDMSG", opcode::SendMsg::CODE), ("POLL_ADD", opcode::PollAdd::CODE)];
        match wanted.iter().find(|(_, code)| !probe.is_supported(*code)) {
            Some((name, _)) => Err(unsupported(name)),
            None => Ok(()),
        }
    }

    /// Whether the driver had to make a ring that may be asked for anything, because the kernel takes no rules.
    pub fn lacks_rules() -> bool {
        LACKS_RULES.load(Ordering::Relaxed)
    }

    fn runtime(streams: usize) -> io::Result<tokio_uring::Runtime> {
        let plain = tokio_uring::uring_builder();
        // Linux 5.19: completions are run when this thread enters the kernel anyway, without an interrupt.
        let mut cooperative = plain.clone();
        cooperative.setup_coop_taskrun();
        let start = |ring: &io_uring::Builder| {
            tokio_uring::Runtime::new(tokio_uring::builder().entries(Self::entries(streams)).uring_builder(ring))
        };
        let restricted = |ring: &io_uring::Builder| ring_rules::give_to(|| start(ring.clone().setup_r_disabled()));
        let unrestricted = |ring: &io_uring::Builder| {
            let runtime = start(ring)?;
            LACKS_RULES.store(true, Ordering::Relaxed);
            Ok(runtime)
        };
        let is_unknown =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported);
        // Rules before speed: Linux 5.10 takes them. Where the kernel does not, the sandbox is all there is.
        restricted(&cooperative)
            .or_else(|error| if is_unknown(&error) { restricted(&plain) } else { Err(error) })
            .or_else(|error| if is_unknown(&error) { unrestricted(&cooperative) } else { Err(error) })
            .or_else(|error| if is_unknown(&error) { unrestricted(&plain) } else { Err(error) })
    }
}

impl Driver for Uring {
    type Stream = UringStream;
    type Link = Connection;

    const NAME: &'static str = "io_uring";

    fn probe() -> io::Result<()> {
        Self::probe_ring()
    }

    fn resolve(host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> {
        net::resolve(host, port)
    }

    fn connect(address: SocketAddr, options: &ConnectOptions) -> impl Future<Output = io::Result<Connection>> {
        net::connect(address, options)
    }

    fn run<F: Future>(streams: usize, future: F) -> io::Result<F::Output> {
        let ready = Rc::new(always_ready()?);
        READY.with(|mine| *mine.borrow_mut() = Some(ready));
        // As in `rt::run_on_reactor`.
        Ok(Self::runtime(streams)?.block_on(rt::apart(future)))
    }
}

/// A socket whose bytes go through the ring.
pub struct UringStream {
    socket: Socket,
    /// The readiness wait, of which at most one is in the ring. It belongs to the stream, not to the future that waits
    /// for it: dropping the future leaves it, and the next wait goes on with it.
    poll: RefCell<Option<InFlightOneshot<Socket, PollDone>>>,
    is_eager: Cell<bool>,
    hold: Hold,
    /// The last receive took all that was there.
    is_drained: Cell<bool>,
    /// Bytes received since the last look.
    moved: Cell<usize>,
}

impl Stream for UringStream {
    type Socket = Socket;

    fn adopt(socket: Socket) -> io::Result<Self> {
        // The ring waits for a socket only if its calls would wait.
        socket.set_nonblocking(false)?;
        socket.open_window()?;
        Ok(Self {
            socket,
            poll: RefCell::new(None),
            is_eager: Cell::new(false),
            hold: Hold::default(),
            is_drained: Cell::new(false),
            moved: Cell::new(0),
        })
    }

    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn readable(&self) -> impl Future<Output = io::Result<()>> {
        poll_fn(|context| self.poll_readable(context))
    }

    async fn look(&self) {
        self.moved.set(0);
        look().await;
    }

    fn is_look_due(&self) -> bool {
        self.moved.get() >= BYTES_PER_TURN
    }

    fn set_eager(&self, is_eager: bool) {
        self.is_eager.set(is_eager);
    }

    async fn receive(&self, mut buffer: Buffer, patience: Patience) -> (io::Result<Received>, Buffer) {
        let mut hold_until = None;
        loop {
            // After a short count the next call would find nothing, as a rule. The ring's wait looks too, when it begins.
            let is_to_wait = self.is_drained.take() && patience == Patience::Hold && !self.is_eager.get();
            if !is_to_wait {
                match self.socket.receive_message(&mut buffer) {
                    Ok(0) => return (Ok(Received::End), buffer),
                    Ok(count) => {
                        self.is_drained.set(count < buffer.slices_bytes());
                        self.hold.note();
                        self.moved.set(self.moved.get() + count);
                        return (Ok(Received::Bytes(count)), buffer);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return (Err(error), buffer),
                    Err(_) if patience == Patience::None => return (Ok(Received::Nothing), buffer),
                    Err(_) => {}
                }
            }
            if self.is_eager.get() {
                if held_too_long(&mut hold_until) {
                    return (Ok(Received::Nothing), buffer);
                }
                polled_again().await;
                continue;
            }
            let waited = poll_fn(|context| match self.poll_readable(context) {
                Poll::Ready(readable) => Poll::Ready(Some(readable)),
                // What waits when somebody begins to poll all the time goes over to that.
                Poll::Pending if self.is_eager.get() => Poll::Ready(Some(Ok(()))),
                Poll::Pending => self.hold.poll_over(context).map(|()| None),
            });
            match waited.await {
                None => return (Ok(Received::Nothing), buffer),
                Some(Err(error)) => return (Err(error), buffer),
                Some(Ok(())) => {}
            }
        }
    }

    async fn send(&self, mut buffer: Buffer) -> (io::Result<()>, Buffer) {
        while buffer.slices_bytes() > 0 {
            let sent = match self.socket.send_message(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let (sent, back) = self.send_by_ring(buffer).await;
                    buffer = back;
                    sent
                }
                sent => sent,
            };
            match sent {
                Ok(count) => buffer.consume(count),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }
}

impl UringStream {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut slot = self.poll.borrow_mut();
        let poll = slot.get_or_insert_with(|| {
            let entry = opcode::PollAdd::new(Fd(self.socket.as_raw_fd()), libc::POLLIN as u32).build();
            UnsubmittedOneshot::new(self.socket.clone(), PollDone, entry).submit()
        });
        let result = ready!(Pin::new(poll).poll(context));
        *slot = None;
        Poll::Ready(result)
    }

    /// With MSG_WAITALL the ring itself goes on after a short count (Linux 5.19); before, the caller does.
    async fn send_by_ring(&self, mut buffer: Buffer) -> (io::Result<usize>, Buffer) {
        let entry = opcode::SendMsg::new(Fd(self.socket.as_raw_fd()), buffer.message().cast_const())
            .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
            .build();
        let transfer = Transfer { buffer, _socket: self.socket.clone() };
        UnsubmittedOneshot::new(transfer, Moved, entry).submit().await
    }
}

impl Drop for UringStream {
    fn drop(&mut self) {
        if self.poll.get_mut().is_some() {
            // The wait holds the descriptor: let it end, or the socket would never be closed.
            self.socket.shutdown_read();
        }
    }
}

/// What a send in flight owns: its buffer, and the descriptor that it works on.
struct Transfer {
    buffer: Buffer,
    _socket: Socket,
}

fn outcome(completion: &cqueue::Entry) -> io::Result<usize> {
    usize::try_from(completion.result()).map_err(|_| io::Error::from_raw_os_error(-completion.result()))
}

struct Moved;

impl OneshotOutputTransform for Moved {
    type Output = (io::Result<usize>, Buffer);
    type StoredData = Transfer;

    fn transform_oneshot_output(self, data: Transfer, completion: cqueue::Entry) -> Self::Output {
        (outcome(&completion), data.buffer)
    }
}

thread_local! {
    /// An eventfd that always has something to read; from when the driver runs on this thread.
    static READY: RefCell<Option<Rc<OwnedFd>>> = const { RefCell::new(None) };
}

fn always_ready() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::eventfd(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns when the ring has answered, so when all that was put into it before has begun.
///
/// tokio-uring submits only when the thread is about to wait, and tokio does not let it wait while a task has merely
/// yielded. Streams that yield in turn would keep the operations of all others from beginning for ever: so none yields.
async fn look() {
    match READY.with(|ready| ready.borrow().clone()) {
        Some(ready) => {
            let entry = opcode::PollAdd::new(Fd(ready.as_raw_fd()), libc::POLLIN as u32).build();
            UnsubmittedOneshot::new(ready, Looked, entry).submit().await;
        }
        // Not under this driver, so not with a ring.
        None => rt::yield_now().await,
    }
}

struct Looked;

impl OneshotOutputTransform for Looked {
    type Output = ();
    type StoredData = Rc<OwnedFd>;

    fn transform_oneshot_output(self, _: Rc<OwnedFd>, _: cqueue::Entry) {}
}

struct PollDone;

impl OneshotOutputTransform for PollDone {
    type Output = io::Result<()>;
    type StoredData = Socket;

    fn transform_oneshot_output(self, _: Socket, completion: cqueue::Entry) -> Self::Output {
        outcome(&completion).map(|_| ())
    }
}
