//! What system calls are asked for.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{OUTSIDE, PORTS, WRITABLE, address, connect, open, outcome, tcp};

/// The calls that connect by sending, with MSG_FASTOPEN.
#[derive(Clone, Copy)]
enum FastOpen {
    To,
    Message,
    Messages,
}

impl FastOpen {
    fn connect(self, to: &SockAddr) -> io::Result<()> {
        let flags = libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL;
        let socket = tcp()?;
        let mut bytes = io::IoSlice::new(b"x");
        let msg_iov = (&raw mut bytes).cast();
        // SAFETY: all zeroes is an empty message.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        (message.msg_hdr.msg_name, message.msg_hdr.msg_namelen) = (to.as_ptr().cast_mut().cast(), to.len());
        (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (msg_iov, 1);
        let sent = match self {
            Self::To => socket.send_to_with_flags(&bytes, to, flags).map(drop),
            Self::Message => {
                // SAFETY: the address and the one slice that the message names live until the call returns.
                let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message.msg_hdr, flags) };
                outcome(sent as libc::c_long) // a count of one, or an error
            }
            Self::Messages => {
                // SAFETY: as above; it is one message.
                let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), &raw mut message, 1, flags) };
                outcome(sent.into())
            }
        };
        // Nobody was there, but the way was free.
        let refused = [io::ErrorKind::ConnectionRefused, io::ErrorKind::BrokenPipe];
        sent.or_else(|error| if refused.contains(&error.kind()) { Ok(()) } else { Err(error) })
    }
}

/// Asks for a protocol that there is not.
fn set_protocol_on_top(socket: &Socket) -> io::Result<()> {
    let name = c"none";
    let length = name.count_bytes() as libc::socklen_t;
    let (fd, value) = (socket.as_raw_fd(), name.as_ptr().cast());
    // SAFETY: the name is `length` bytes long and lives as long as the program.
    outcome(unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_ULP, value, length) }.into())
}

/// Arguments that the call itself refuses show that it is there.
fn is_there(result: io::Result<()>, refusals: &[i32]) -> io::Result<()> {
    let is_refusal = |error: &io::Error| error.raw_os_error().is_some_and(|error| refusals.contains(&error));
    result.or_else(|error| if is_refusal(&error) { Ok(()) } else { Err(error) })
}

pub(super) fn attempt(tell: &mut impl FnMut(&str, io::Result<()>)) -> io::Result<()> {
    let [connected, bound, _] = PORTS;
    tell("call: open for reading", open(OUTSIDE, libc::O_RDONLY));
    tell("call: open for writing", open(WRITABLE, libc::O_WRONLY));
    tell("call: connect", connect((Ipv4Addr::LOCALHOST, connected).into()));
    tell("call: bind", tcp()?.bind(&address(bound)));
    tell("call: listen", tcp()?.listen(1));
    for (call, fast_open) in
        [("sendto", FastOpen::To), ("sendmsg", FastOpen::Message), ("sendmmsg", FastOpen::Messages)]
    {
        tell(&format!("call: connect by {call}"), fast_open.connect(&address(connected)));
    }
    tell("call: packet socket", Socket::new(Domain::PACKET, Type::RAW, None).map(drop));
    // What this kernel does not have, it was asked for.
    let socket = |kind, protocol| {
        let made = Socket::new(Domain::IPV4, kind, protocol).map(drop);
        is_there(made, &[libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT])
    };
    tell("call: MPTCP socket", socket(Type::STREAM, Some(Protocol::MPTCP)));
    tell("call: SCTP socket", socket(Type::STREAM, Some(Protocol::from(libc::IPPROTO_SCTP))));
    tell("call: sequenced socket", socket(Type::SEQPACKET, None));
    tell("call: protocol on top of TCP", is_there(set_protocol_on_top(&tcp()?), &[libc::ENOENT]));
    tell("call: UNIX socket", Socket::new(Domain::UNIX, Type::STREAM, None).map(drop));
    let (connected, _) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
    tell("call: pair of datagram sockets", Socket::pair(Domain::UNIX, Type::DGRAM, None).map(drop));
    let ourselves = std::process::id() as libc::pid_t;
    // SAFETY: signals of this socket, of which there are none, are for this process.
    let owned = unsafe { libc::fcntl(connected.as_raw_fd(), libc::F_SETOWN, ourselves) };
    tell("call: have signals sent", outcome(owned.into()));
    let command = Command::new("/bin/true").stdin(Stdio::inherit()).status();
    tell("call: start a program", command.map(drop));
    let (path, none) = (c"/nonexistent", std::ptr::null::<*const libc::c_char>());
    // SAFETY: there is no such program, so that the call returns; the path ends in a zero byte, and no lists are given.
    let executed = unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), none, none) };
    tell("call: execve", is_there(outcome(executed), &[libc::ENOENT]));
    // SAFETY: no process has the number 0, so that nothing is traced; no memory is given.
    let traced = unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, 0, 0, 0) };
    tell("call: ptrace", is_there(outcome(traced), &[libc::ESRCH]));
    // SAFETY: the signal 0 is none; the call says whether one could be sent.
    tell("call: signal another process", outcome(unsafe { libc::kill(1, 0) }.into()));
    // SAFETY: no new name space is asked for.
    tell("call: unshare", outcome(unsafe { libc::unshare(0) }.into()));
    Ok(())
}
