//! Lets this thread's reactor look for events at once, without waiting for them.
//!
//! tokio's own `yield_now` looks too, but not as if the thread went to sleep: and only then does tokio-uring submit what has
//! been put into its ring. A task that yields for ever would keep the operations of all others from beginning.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::rt;

thread_local! {
    static BELL: OnceCell<Option<Rc<Bell>>> = const { OnceCell::new() };
}

/// An eventfd that the reactor hears.
struct Bell(AsyncFd<OwnedFd>);

impl Bell {
    fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: what is registered owns the descriptor and never changes it.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        registered.map(Self).map_err(|error| error.into_parts().1)
    }

    /// Each write is an event, whatever has been read: the reactor is told of changes.
    async fn ring(&self) -> io::Result<()> {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight bytes are read from an array of eight.
        if unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

/// Lets the other tasks of this thread run and the reactor look, with all that the drivers do before it does.
pub async fn look() {
    // Where there is no descriptor for a bell, this thread sleeps only when it has nothing to do.
    let bell = BELL.with(|bell| bell.get_or_init(|| Bell::new().ok().map(Rc::new)).clone());
    let rung = match bell {
        Some(bell) => bell.ring().await,
        None => Err(io::ErrorKind::Unsupported.into()),
    };
    if rung.is_err() {
        rt::yield_now().await;
    }
}
