//! What a ring is asked for, which seccomp does not see.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use super::{OUTSIDE, PORTS, WRITABLE, address, outcome, tcp};
use crate::stream::Driver;
use crate::uring::Uring;

/// `IORING_OP_BIND` and `IORING_OP_LISTEN` (Linux 6.11), which io-uring 0.6 does not know.
const OP_BIND: u8 = 56;
const OP_LISTEN: u8 = 57;

/// What came of one operation: a number that is an error or a descriptor.
struct Completed;

impl OneshotOutputTransform for Completed {
    type Output = io::Result<RawFd>;
    type StoredData = ();

    fn transform_oneshot_output(self, (): (), completion: cqueue::Entry) -> Self::Output {
        outcome_of(&completion)
    }
}

fn outcome_of(completion: &cqueue::Entry) -> io::Result<RawFd> {
    let result = completion.result();
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// Submits one operation to a ring of the driver, as it is when a worker has it, and waits for what comes of it.
pub(super) fn by_drivers_ring(entry: squeue::Entry) -> io::Result<RawFd> {
    Uring::run(1, async { UnsubmittedOneshot::new((), Completed, entry).submit().await })?
}

/// The same with a ring that nobody has given rules.
pub(super) fn by_new_ring(entry: squeue::Entry) -> io::Result<RawFd> {
    let mut ring = IoUring::new(8)?;
    // SAFETY: what the entry points at lives until this function has the completion.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let completion = ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?;
    outcome_of(&completion)
}

fn close(fd: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor came from a completion and is nobody else's.
    outcome(unsafe { libc::close(fd) }.into())
}

fn open(path: &CStr, flags: libc::c_int) -> squeue::Entry {
    opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).flags(flags | libc::O_CLOEXEC).build()
}

/// The same entry for another operation, whose fields lie where those of `entry` do.
fn as_operation(entry: squeue::Entry, code: u8) -> squeue::Entry {
    let mut entry = MaybeUninit::new(entry);
    let first = entry.as_mut_ptr().cast::<u8>();
    // SAFETY: an entry is the kernel's struct io_uring_sqe, whose first byte is the operation.
    unsafe { first.write(code) };
    // SAFETY: it was made from an entry.
    unsafe { entry.assume_init() }
}

pub(super) fn attempt(
    ring: &str,
    submit: fn(squeue::Entry) -> io::Result<RawFd>,
    tell: &mut impl FnMut(&str, io::Result<()>),
) -> io::Result<()> {
    let [connected, _, bound] = PORTS;
    let mut tell = |act: &str, came_of_it| tell(&format!("{ring}: {act}"), came_of_it);
    tell("open for reading", submit(open(OUTSIDE, libc::O_RDONLY)).and_then(close));
    tell("open for writing", submit(open(WRITABLE, libc::O_WRONLY)).and_then(close));
    let socket = tcp()?;
    let fd = Fd(socket.as_raw_fd());
    let to = address(connected);
    let done = submit(opcode::Connect::new(fd, to.as_ptr().cast(), to.len()).build());
    let refused = |error: io::Error| {
        if error.kind() == io::ErrorKind::ConnectionRefused { Ok(()) } else { Err(error) }
    };
    tell("connect", done.map(drop).or_else(refused));
    let socket = tcp()?;
    let (fd, here) = (Fd(socket.as_raw_fd()), address(bound));
    let bind = as_operation(opcode::Connect::new(fd, here.as_ptr().cast(), here.len()).build(), OP_BIND);
    tell("bind", submit(bind).map(drop));
    let socket = tcp()?;
    let listen = as_operation(opcode::Shutdown::new(Fd(socket.as_raw_fd()), 1).build(), OP_LISTEN);
    tell("listen", submit(listen).map(drop));
    let mptcp = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP).build();
    tell("MPTCP socket", submit(mptcp).and_then(close));
    Ok(())
}
