//! Listening sockets that somebody else has made: systemd's socket activation (sd_listen_fds(3)), or a process whose place this
//! one takes ([`crate::handover`]).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::net::Listener;

/// The first descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// More than anybody has tunnels.
const MOST: RawFd = 1024;

/// The sockets that were passed to this process and that nobody has taken yet, in their order.
#[derive(Default)]
pub struct Passed {
    listeners: Vec<(SocketAddr, Listener)>,
    /// Whether there may be others than are wanted.
    is_any: bool,
}

impl Passed {
    /// What `LISTEN_PID` and `LISTEN_FDS` say was passed to this process. Only the first caller gets it.
    ///
    /// # Errors
    /// One of them is no socket that listens for TCP connections.
    pub fn take() -> io::Result<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<RawFd>().ok());
        let is_ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        if !is_ours || TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Self::default());
        }
        let count = variable("LISTEN_FDS").unwrap_or(0).clamp(0, MOST);
        let descriptors = (FIRST..FIRST + count).map(|number| {
            let explained =
                |error: io::Error| io::Error::new(error.kind(), format!("descriptor {number} (LISTEN_FDS): {error}"));
            // SAFETY: it is only looked at; that there is none, or another kind, is an answer.
            let there = unsafe { BorrowedFd::borrow_raw(number) };
            Listener::check(&there).map_err(explained)?;
            // SAFETY: it listens, which nothing that this process has opened does: it was passed, and this is the first call.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| explained(error.into()))?;
            Ok(descriptor)
        });
        Self::of(descriptors)
    }

    /// Those whose descriptors these are.
    fn of(descriptors: impl Iterator<Item = io::Result<OwnedFd>>) -> io::Result<Self> {
        let listeners = descriptors.map(|descriptor| {
            let descriptor = descriptor?;
            Listener::check(&descriptor)?;
            let listener = Listener::passed(descriptor)?;
            Ok((listener.local_address()?, listener))
        });
        Ok(Self { listeners: listeners.collect::<io::Result<_>>()?, is_any: false })
    }

    /// Those that another process has listened on, each with the address that it was told.
    pub(crate) fn inherited(all: impl Iterator<Item = (SocketAddr, OwnedFd)>) -> io::Result<Self> {
        let listeners = all.map(|(address, descriptor)| {
            Listener::check(&descriptor)?;
            Ok((address, Listener::passed(descriptor)?))
        });
        Ok(Self { listeners: listeners.collect::<io::Result<_>>()?, is_any: true })
    }

    /// Whether it is no mistake that nobody wants what is left.
    pub fn may_be_left(&self) -> bool {
        self.is_any
    }

    /// The one that listens on `address`.
    pub fn at(&mut self, address: SocketAddr) -> Option<Listener> {
        let index = self.listeners.iter().position(|(own, _)| *own == address)?;
        Some(self.listeners.remove(index).1)
    }

    /// The first of those that are left, and where it listens.
    pub fn first(&mut self) -> Option<(SocketAddr, Listener)> {
        if self.listeners.is_empty() { None } else { Some(self.listeners.remove(0)) }
    }

    /// How many are left.
    pub fn count(&self) -> usize {
        self.listeners.len()
    }
}
