//! What the ring of a worker may be asked for. The kernel is told before the first submission and holds it for good, so
//! that nobody who takes over the process opens a file or a connection through the ring, where seccomp does not see it.
//!
//! Rules can be given only to a ring that was made switched off (Linux 5.10), by its descriptor, which tokio-uring keeps to
//! itself. But it is a low number, and the kernel says of each number whether it is a ring that is still switched off.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

use io_uring::register::Restriction;
use io_uring::{opcode, squeue};

/// `IORING_REGISTER_RESTRICTIONS` and `IORING_REGISTER_ENABLE_RINGS` of linux/io_uring.h.
const REGISTER_RESTRICTIONS: libc::c_uint = 11;
const REGISTER_ENABLE_RINGS: libc::c_uint = 12;

/// What the driver submits, and what tokio-uring does when it ends. Nothing may be registered any more.
pub(crate) fn rules() -> [Restriction; 4] {
    [
        Restriction::sqe_op(opcode::SendMsg::CODE),
        Restriction::sqe_op(opcode::PollAdd::CODE),
        Restriction::sqe_op(opcode::AsyncCancel::CODE),
        Restriction::sqe_flags_allowed(squeue::Flags::empty().bits()),
    ]
}

/// Makes a ring by `make`, switched off, gives it the rules, and switches it on.
///
/// # Errors
/// What `make` says; [`io::ErrorKind::Unsupported`] when the kernel does not take the rules.
pub(crate) fn give_to<T>(make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // Or one thread would take the ring of another for its own.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _others_wait = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let ring = make()?;
    switch_on()?;
    Ok(ring)
}

/// Gives the rules to the ring that has just been made, and switches it on.
fn switch_on() -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use io_uring::cqueue;
    use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

    use super::*;
    use crate::stream::Driver;
    use crate::uring::Uring;

    struct Number;

    impl OneshotOutputTransform for Number {
        type Output = i32;
        type StoredData = ();

        fn transform_oneshot_output(self, (): (), completion: cqueue::Entry) -> i32 {
            completion.result()
        }
    }

    #[test]
    fn a_ring_of_the_driver_does_what_the_driver_asks_for_and_nothing_else() {
        if Uring::probe().is_err() {
            return;
        }
        let submit = async |entry| UnsubmittedOneshot::new((), Number, entry).submit().await;
        let done = Uring::run(2, async {
            let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
            let fd = io_uring::types::Fd(left.as_raw_fd());
            let open = opcode::OpenAt::new(io_uring::types::Fd(libc::AT_FDCWD), c"/dev/null".as_ptr()).build();
            let poll = opcode::PollAdd::new(fd, libc::POLLOUT as u32).build();
            let drained = opcode::PollAdd::new(fd, libc::POLLOUT as u32).build().flags(squeue::Flags::IO_DRAIN);
            [submit(poll).await, submit(opcode::Nop::new().build()).await, submit(open).await, submit(drained).await]
        });
        let [poll, nop, open, drained] = done.unwrap();
        assert!(poll > 0, "{poll}");
        assert_eq!([nop, open, drained], [-libc::EACCES; 3]);
    }
}
