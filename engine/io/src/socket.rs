//! A connected TCP socket and everything that is done to one besides moving bytes.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::pool::Buffer;
use crate::stream::{Control, Unheard};

/// What a peer may send without being read: a big buffer that is read, and one that comes meanwhile. The kernel gives at most half of
/// what `tcp_rmem` says.
const WINDOW_BYTES: libc::c_int = 2 << 20;

/// When TCP asks an idle peer whether it is still there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeepAlive {
    /// Idle time before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes before the connection is given up.
    pub count: u32,
}

/// Options that a socket gets once, before its first byte.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SocketOptions {
    /// `SO_KEEPALIVE` and its times; none: off.
    pub keep_alive: Option<KeepAlive>,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged, or a zero window last.
    pub user_timeout: Option<Duration>,
    /// `SO_RCVBUF`; none leaves the kernel's autotuning on.
    pub receive_buffer_bytes: Option<usize>,
    /// `SO_SNDBUF`; none leaves the kernel's autotuning on.
    pub send_buffer_bytes: Option<usize>,
}

/// A connected TCP socket. Clones share the descriptor; an operation in flight holds one.
#[derive(Clone, Debug)]
pub struct Socket {
    fd: Rc<OwnedFd>,
}

impl Socket {
    /// Takes over a descriptor.
    pub fn new(fd: impl Into<OwnedFd>) -> Self {
        Self { fd: Rc::new(fd.into()) }
    }

    fn sock(&self) -> SockRef<'_> {
        SockRef::from(&*self.fd)
    }

    /// Sets `TCP_NODELAY` and `options`.
    ///
    /// # Errors
    /// The first option that the kernel refuses.
    pub fn set_options(&self, options: &SocketOptions) -> io::Result<()> {
        set_options(&self.sock(), options)
    }

    /// What TCP knows; none where the kernel does not say.
    fn tcp_info(&self) -> Option<libc::tcp_info> {
        // SAFETY: tcp_info is made of integers, for which zeroes are valid.
        let mut info = unsafe { std::mem::zeroed::<libc::tcp_info>() };
        let mut length = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `info`, which is that long.
        let done = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        (done == 0).then_some(info)
    }

    /// The peer's address.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.sock().peer_addr()?.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Receives what is there into the buffer's slices.
    pub(crate) fn receive_message(&self, buffer: &mut Buffer) -> io::Result<usize> {
        let fd = self.as_raw_fd();
        let count = match buffer.only_slice() {
            // SAFETY: the slice lies in the buffer, which is borrowed until the call has returned.
            Some(slice) => unsafe { libc::recv(fd, slice.iov_base, slice.iov_len, libc::MSG_DONTWAIT) },
            // SAFETY: the message is valid while `buffer` is borrowed, its slices lie in the buffer, and the call returns before
            // the borrow ends.
            None => unsafe { libc::recvmsg(fd, buffer.message(), libc::MSG_DONTWAIT) },
        };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
    }

    /// Sends what fits of the buffer's slices.
    pub(crate) fn send_message(&self, buffer: &mut Buffer) -> io::Result<usize> {
        let (fd, flags) = (self.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        let count = match buffer.only_slice() {
            // SAFETY: as in `receive_message`.
            Some(slice) => unsafe { libc::send(fd, slice.iov_base, slice.iov_len, flags) },
            // SAFETY: as in `receive_message`.
            None => unsafe { libc::sendmsg(fd, buffer.message(), flags) },
        };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
    }

    /// Whether a receive would bring something: bytes, the end, or an error, which is left to it.
    pub(crate) fn is_readable(&self) -> bool {
        self.poll(libc::POLLIN) != 0
    }

    /// What of `events`, or of what is always told, is there.
    fn poll(&self, events: libc::c_short) -> libc::c_short {
        let mut asked = libc::pollfd { fd: self.as_raw_fd(), events, revents: 0 };
        // SAFETY: one entry, which the kernel fills in; without a time it does not wait. An error stays where it is.
        let there = unsafe { libc::poll(&raw mut asked, 1, 0) };
        if there > 0 { asked.revents } else { 0 }
    }

    /// Has the kernel offer room for whole buffers from now on, and not only once it has seen that they are read at once, which on
    /// a busy host it may never see: then 1 MiB comes in pieces of 64 KiB for good.
    ///
    /// Asking to be woken for so many bytes only makes that room (`tcp_set_rcvlowat`), and taking the wish back does not take it
    /// away; other than by `SO_RCVBUF`, the kernel goes on to tune it.
    pub(crate) fn open_window(&self) -> io::Result<()> {
        for bytes in [WINDOW_BYTES, 1] {
            // SAFETY: the kernel reads one int.
            let done = unsafe {
                libc::setsockopt(
                    self.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVLOWAT,
                    (&raw const bytes).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            if done != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Sets whether calls on the descriptor itself wait.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.sock().set_nonblocking(nonblocking)
    }
}

impl Control for Socket {
    fn shutdown_read(&self) {
        // Fails only on a socket that is no longer connected, whose receives end anyway.
        let _ = self.sock().shutdown(Shutdown::Read);
    }

    fn shutdown_write(&self) {
        // As above: on a socket that is no longer connected there is nobody to tell.
        let _ = self.sock().shutdown(Shutdown::Write);
    }

    /// `close` alone does neither: an operation in flight holds the socket. Connecting to no address does (it is how
    /// TCP sockets are disconnected, connect(2)).
    fn abort(&self) {
        // SAFETY: a sockaddr of zeroes is a valid one of the family AF_UNSPEC (0).
        let nobody = unsafe { std::mem::zeroed::<libc::sockaddr>() };
        let length = size_of::<libc::sockaddr>() as libc::socklen_t;
        // SAFETY: `nobody` is a sockaddr of `length` bytes and the descriptor is open: `self` holds it.
        let done = unsafe { libc::connect(self.as_raw_fd(), &raw const nobody, length) };
        if done != 0 {
            // Not connected any more. Whatever is left is reset by close.
            let _ = self.sock().set_linger(Some(Duration::ZERO));
        }
    }

    fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.sock().send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    }

    fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and the length are those of one slice that is borrowed until the call returns.
        let count = unsafe {
            libc::recv(self.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_PEEK | libc::MSG_DONTWAIT)
        };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
    }

    /// Three quarters of what the kernel's accounting leaves free, because that counts its own overhead too.
    fn send_room(&self) -> usize {
        let mut info = [0_u32; 9]; // SK_MEMINFO_VARS of linux/sock_diag.h
        let mut length = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `info`, which is that long.
        let done = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        let [_, _, _, send_buffer, _, queued, ..] = info;
        if done == 0 { (send_buffer.saturating_sub(queued) / 4 * 3) as usize } else { 0 }
    }

    fn is_acknowledged(&self) -> bool {
        let mut queued: libc::c_int = 0;
        // SAFETY: the kernel writes one int. TIOCOUTQ is SIOCOUTQ on a socket (tcp(7)).
        let done = unsafe { libc::ioctl(self.as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) };
        done != 0 || queued == 0
    }

    /// What waits behind a closed window is not on its way: the peer's host answers the probes of that window, which come
    /// ever more rarely.
    fn unheard(&self) -> Option<Unheard> {
        let info = self.tcp_info()?;
        let heard = Duration::from_millis(info.tcpi_last_ack_recv.into());
        if info.tcpi_unacked == 0 && info.tcpi_probes == 0 {
            None
        } else if info.tcpi_unacked > 0 || !self.is_acknowledged() {
            Some(Unheard::Bytes(heard))
        } else {
            // The kernel counts from what it heard last, bytes or an acknowledgement. However long that was: the first of so
            // many probes was sent no longer ago than they take, which counts when the whole host has been stopped.
            let heard = heard.min(Duration::from_millis(info.tcpi_last_data_recv.into()));
            let (idle, interval) = (self.sock().tcp_keepalive_time(), self.sock().tcp_keepalive_interval());
            let probing = interval.unwrap_or_default() * u32::from(info.tcpi_probes);
            Some(Unheard::Probes(heard.saturating_sub(idle.unwrap_or_default()).min(probing)))
        }
    }

    fn user_timeout(&self) -> Option<Duration> {
        self.sock().tcp_user_timeout().ok().flatten()
    }

    fn set_user_timeout(&self, timeout: Option<Duration>) {
        // Fails only on a socket that is no longer connected, which has nothing to wait for.
        let _ = self.sock().set_tcp_user_timeout(timeout);
    }

    /// The state alone would not do: a connection that has ended well in both directions is in the same one, with bytes that
    /// are still to be read.
    fn is_gone(&self) -> bool {
        self.poll(0) & libc::POLLERR != 0
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

pub(crate) fn set_options(sock: &SockRef<'_>, options: &SocketOptions) -> io::Result<()> {
    sock.set_tcp_nodelay(true)?;
    if let Some(KeepAlive { idle, interval, count }) = options.keep_alive {
        let times = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
        sock.set_tcp_keepalive(&times)?;
    }
    if let Some(timeout) = options.user_timeout {
        sock.set_tcp_user_timeout(Some(timeout))?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        sock.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        sock.set_send_buffer_size(bytes)?;
    }
    Ok(())
}
