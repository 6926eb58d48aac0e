//! The io_uring driver, over tokio-uring: receives and sends are one call each, for up to a whole buffer; what a send's call does
//! not take goes through the ring, which waits for room and goes on by itself.
//!
//! That something has come is told by the reactor, which the thread waits in anyway: a wait in the ring would be a submission
//! and a completion more for each message, because tokio-uring waits for its ring in the reactor too.
//!
//! tokio-uring has no `readv`, and its `writev` takes a `Vec` per call. So operations are built here, as
//! [`tokio_uring::UnsubmittedOneshot`], from the message header that belongs to the buffer. Only operations with one
//! completion can go that way: a SEND_ZC would end the thread at its second one.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use io_uring::types::Fd;
use io_uring::{Probe, cqueue, opcode};
use tokio::io::Interest;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use crate::net::{self, ConnectOptions, Connection};
use crate::pool::Buffer;
use crate::reading::Reading;
use crate::ring_rules;
use crate::rt;
use crate::socket::Socket;
use crate::stream::{Driver, Patience, Received, Stream};

/// Submission entries for each stream: a send and a look. With so many the queue is not full before the thread waits, which
/// is when it is submitted; if it were, it would be submitted sooner.
const ENTRIES_PER_STREAM: usize = 2;
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

/// A socket whose sends go through the ring when they would wait.
pub struct UringStream(Reading);

impl Stream for UringStream {
    type Socket = Socket;

    fn adopt(socket: Socket) -> io::Result<Self> {
        // The ring waits for a socket only if its calls would wait.
        socket.set_nonblocking(false)?;
        Reading::new(socket, Interest::READABLE).map(Self)
    }

    fn socket(&self) -> &Socket {
        self.0.socket()
    }

    async fn look(&self) {
        self.0.note_look();
        look().await;
    }

    fn is_look_due(&self) -> bool {
        self.0.is_look_due() || is_submission_overdue()
    }

    fn set_eager(&self, is_eager: bool) {
        self.0.set_eager(is_eager);
    }

    fn readable(&self) -> impl Future<Output = io::Result<()>> {
        self.0.readable()
    }

    fn receive(&self, buffer: Buffer, patience: Patience) -> impl Future<Output = (io::Result<Received>, Buffer)> {
        RECEIVES.set(RECEIVES.get().saturating_add(1));
        self.0.receive(buffer, patience)
    }

    async fn send(&self, mut buffer: Buffer) -> (io::Result<()>, Buffer) {
        while buffer.slices_bytes() > 0 {
            let sent = match self.socket().send_message(&mut buffer) {
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
    /// With MSG_WAITALL the ring itself goes on after a short count (Linux 5.19); before, the caller does.
    async fn send_by_ring(&self, mut buffer: Buffer) -> (io::Result<usize>, Buffer) {
        let entry = opcode::SendMsg::new(Fd(self.socket().as_raw_fd()), buffer.message().cast_const())
            .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
            .build();
        let transfer = Transfer { buffer, _socket: self.socket().clone() };
        if BEGUN.get() == SUBMITTED.get() {
            RECEIVES.set(0);
        }
        let number = SUBMITTED.get() + 1;
        SUBMITTED.set(number);
        let sent = UnsubmittedOneshot::new(transfer, Moved, entry).submit().await;
        have_begun(number);
        sent
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
    /// Sends that were put into the ring of this thread, and how many of them have begun for certain.
    static SUBMITTED: Cell<u64> = const { Cell::new(0) };
    static BEGUN: Cell<u64> = const { Cell::new(0) };
    /// Receives on this thread since the first of those was put in that have perhaps not begun.
    static RECEIVES: Cell<u32> = const { Cell::new(0) };
}

/// So many receives of all streams, and a look is due while a send has perhaps not begun.
const RECEIVES_MAX: u32 = 32;

/// Whether the thread may have had no reason to wait, and so to submit, since a send was put into the ring. With more tasks at
/// work than tokio runs at a time (61) it has none, though no task yields.
fn is_submission_overdue() -> bool {
    BEGUN.get() != SUBMITTED.get() && RECEIVES.get() >= RECEIVES_MAX
}

/// The first `number` sends have begun: the ring takes them in order.
fn have_begun(number: u64) {
    BEGUN.set(BEGUN.get().max(number));
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

/// Lets the other tasks of this thread run, and returns when what was put into the ring before has begun.
///
/// tokio-uring submits only when the thread is about to wait, and tokio does not let it wait while a task has merely
/// yielded, or more are at work than it runs at a time. Such streams would keep the sends of all others from beginning for
/// ever: so while any has not begun, none yields, but each waits for an answer of the ring.
async fn look() {
    let submitted = SUBMITTED.get();
    let ready = if BEGUN.get() == submitted { None } else { READY.with(|ready| ready.borrow().clone()) };
    match ready {
        Some(ready) => {
            let entry = opcode::PollAdd::new(Fd(ready.as_raw_fd()), libc::POLLIN as u32).build();
            UnsubmittedOneshot::new(ready, Looked, entry).submit().await;
            have_begun(submitted);
        }
        // Nothing is in the ring that begins only when the thread waits.
        None => rt::yield_now().await,
    }
}

struct Looked;

impl OneshotOutputTransform for Looked {
    type Output = ();
    type StoredData = Rc<OwnedFd>;

    fn transform_oneshot_output(self, _: Rc<OwnedFd>, _: cqueue::Entry) {}
}
