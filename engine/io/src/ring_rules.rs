//! What the ring of a worker may be asked for. The kernel is told before the first submission and holds it for good, so
//! that nobody who takes over the process opens a file or a connection through the ring, where seccomp does not see it.
//!
//! Rules can be given only to a ring that was made switched off (Linux 5.10), by its descriptor, which tokio-uring keeps to
//! itself. But it is a low number, and the kernel says of each number whether it is a ring that is still switched off.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::register::Restriction;
use io_uring::{opcode, squeue};

/// `IORING_REGISTER_RESTRICTIONS` and `IORING_REGISTER_ENABLE_RINGS` of linux/io_uring.h.
const REGISTER_RESTRICTIONS: libc::c_uint = 11;
const REGISTER_ENABLE_RINGS: libc::c_uint = 12;

/// What the driver submits, and what tokio-uring does when it ends. Nothing may be registered any more.
pub(crate) fn rules() -> [Restriction; 6] {
    [
        Restriction::sqe_op(opcode::RecvMsg::CODE),
        Restriction::sqe_op(opcode::SendMsg::CODE),
        Restriction::sqe_op(opcode::PollAdd::CODE),
        Restriction::sqe_op(opcode::LinkTimeout::CODE),
        Restriction::sqe_op(opcode::AsyncCancel::CODE),
        Restriction::sqe_flags_allowed(squeue::Flags::IO_LINK.bits()),
    ]
}

/// Gives the rules to the ring that this thread has just made, and switches it on.
///
/// # Errors
/// There is no such ring, or the kernel does not take the rules.
pub(crate) fn switch_on() -> io::Result<()> {
    // The ring took the lowest free number; the next one is above it, but where somebody has closed one meanwhile.
    let (above, _) = std::os::unix::net::UnixStream::pair()?;
    let found = (0..above.as_raw_fd() + NUMBERS_ABOVE).rev().find(|fd| give_rules(*fd).is_ok());
    let fd = found.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the ring does not take rules"))?;
    // SAFETY: this registration has no argument.
    let done = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_ENABLE_RINGS, 0_usize, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// More numbers are looked at, in case that lower ones were closed while the ring was made.
const NUMBERS_ABOVE: RawFd = 64;

/// Fails for what is no ring, and for a ring that is on, without any effect.
fn give_rules(fd: RawFd) -> io::Result<()> {
    let rules = rules();
    let count = rules.len() as libc::c_uint;
    // SAFETY: the kernel reads `count` restrictions from `rules`, which is that long; the type has the kernel's layout.
    let done = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RESTRICTIONS, rules.as_ptr(), count) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
