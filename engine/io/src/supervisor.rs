//! Whoever supervises this process and wants to hear how it is: systemd (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A supervisor, or none.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`). To be called while sockets can be made.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn from_environment() -> io::Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address(&name)?)?;
        // It may have other things to do.
        socket.set_nonblocking(true)?;
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|time| is_ours && *time > 0).map(Duration::from_micros);
        Ok(Self { socket: Some(socket), watchdog })
    }

    /// What it takes for another process to speak to the same one: the socket, and how often it wants to hear something.
    pub(crate) fn parts(&self) -> Option<(BorrowedFd<'_>, Option<Duration>)> {
        self.socket.as_ref().map(|socket| (socket.as_fd(), self.watchdog))
    }

    pub(crate) fn from_parts(socket: OwnedFd, watchdog: Option<Duration>) -> Self {
        Self { socket: Some(UnixDatagram::from(socket)), watchdog }
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Says something, in lines `NAME=value`; whether it is heard is another matter.
    pub fn say(&self, lines: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(lines.as_bytes());
        }
    }

    /// Says that files are read again, since now.
    pub fn say_reloading(&self) {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one timespec.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        let now = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// How often it wants to hear that this process is well: twice in the time after which it would end it.
    pub fn watchdog_pause(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }
}

/// A path, or behind an @ a name that is in no directory.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}
