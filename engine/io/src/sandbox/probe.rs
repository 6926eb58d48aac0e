//! Tries what a sandboxed process must not do, and what it must: by system calls, and by submissions to a ring.
//!
//! For tests. Every act is harmless where it succeeds: nothing is written, nobody is signalled, nothing stays open.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::process::{Command, Stdio};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Policy, filter};
use crate::ring_rules;

/// Everybody may read it, and no tunnel needs it.
const OUTSIDE: &std::ffi::CStr = c"/proc/version";
/// Everybody may write it.
const WRITABLE: &std::ffi::CStr = c"/dev/null";
/// Ports on loopback that nobody listens on; the kernel gives none of them away by itself.
const PORTS: [u16; 3] = [17, 20_017, 20_018];
/// `IORING_OP_BIND` and `IORING_OP_LISTEN` (Linux 6.11), which io-uring 0.6 does not know.
const OP_BIND: u8 = 56;
const OP_LISTEN: u8 = 57;

/// Tells `tell` the name of each act and what came of it. `filtered`: the process has a filter, which the last acts complete
/// as a tunnel does when its workers run.
///
/// # Errors
/// An act could not even be tried.
pub fn run(policy: &Policy, filtered: bool, mut tell: impl FnMut(&str, io::Result<()>)) -> io::Result<()> {
    for file in &policy.files {
        tell(&format!("read {}", file.display()), read(file));
    }
    for port in policy.connect_ports.iter().take(1) {
        tell("connect to --connect's port", connect((Ipv4Addr::LOCALHOST, *port).into()));
    }
    tell("resolve localhost", ("localhost", 1).to_socket_addrs().map(drop));
    by_calls(&mut tell)?;
    // A ring without rules: here Landlock is the wall.
    by_ring("new ring", &mut IoUring::new(8)?, &mut tell)?;
    let mut ring = IoUring::builder().setup_r_disabled().build(8)?;
    ring.submitter().register_restrictions(&mut ring_rules::rules())?;
    ring.submitter().register_enable_rings()?;
    by_ring("worker's ring", &mut ring, &mut tell)?;
    if filtered {
        filter::forbid_new_rings(true)?;
    }
    tell("later: make a ring", IoUring::new(8).map(drop));
    Ok(())
}

/// Whether a file can be read.
///
/// # Errors
/// Why not.
pub fn read(file: &Path) -> io::Result<()> {
    std::fs::read(file).map(drop)
}

fn connect(address: SocketAddr) -> io::Result<()> {
    match TcpStream::connect(address) {
        // Nobody was there, but the way was free.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        other => other.map(drop),
    }
}

fn tcp() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, None)
}

fn address(port: u16) -> SockAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()
}

/// The calls that connect by sending, with MSG_FASTOPEN.
#[derive(Clone, Copy)]
enum FastOpen {
    SendTo,
    SendMsg,
    SendMany,
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
            Self::SendTo => socket.send_to_with_flags(&bytes, to, flags).map(drop),
            // SAFETY: the address and the one slice that the message names live until the call returns.
            Self::SendMsg => {
                outcome(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message.msg_hdr, flags) } as _)
            }
            // SAFETY: as above; it is one message.
            Self::SendMany => outcome(unsafe { libc::sendmmsg(socket.as_raw_fd(), &raw mut message, 1, flags) }.into()),
        };
        // Nobody was there, but the way was free.
        let refused = [io::ErrorKind::ConnectionRefused, io::ErrorKind::BrokenPipe];
        sent.or_else(|error| if refused.contains(&error.kind()) { Ok(()) } else { Err(error) })
    }
}

fn outcome(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Arguments that the call itself refuses show that it is there.
fn is_there(result: libc::c_long, refusal: i32) -> io::Result<()> {
    outcome(result).or_else(|error| if error.raw_os_error() == Some(refusal) { Ok(()) } else { Err(error) })
}

fn open(path: &std::ffi::CStr, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the path ends in a zero byte and lives as long as the program.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    outcome(fd.into())?;
    // SAFETY: the descriptor was opened above and is nobody else's.
    outcome(unsafe { libc::close(fd) }.into())
}

fn by_calls(tell: &mut impl FnMut(&str, io::Result<()>)) -> io::Result<()> {
    let [connected, bound, _] = PORTS;
    tell("call: open for reading", open(OUTSIDE, libc::O_RDONLY));
    tell("call: open for writing", open(WRITABLE, libc::O_WRONLY));
    tell("call: connect", connect((Ipv4Addr::LOCALHOST, connected).into()));
    tell("call: bind", tcp()?.bind(&address(bound)));
    tell("call: listen", tcp()?.listen(1));
    for (call, fast_open) in
        [("sendto", FastOpen::SendTo), ("sendmsg", FastOpen::SendMsg), ("sendmmsg", FastOpen::SendMany)]
    {
        tell(&format!("call: connect by {call}"), fast_open.connect(&address(connected)));
    }
    tell("call: packet socket", Socket::new(Domain::PACKET, Type::RAW, None).map(drop));
    let command = Command::new("/bin/true").stdin(Stdio::inherit()).status();
    tell("call: start a program", command.map(drop));
    let (path, none) = (c"/nonexistent", std::ptr::null::<*const libc::c_char>());
    // SAFETY: there is no such program, so that the call returns; the path ends in a zero byte, and no lists are given.
    let executed = unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), none, none) };
    tell("call: execve", is_there(executed, libc::ENOENT));
    // SAFETY: no process has the number 0, so that nothing is traced; no memory is given.
    let traced = unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, 0, 0, 0) };
    tell("call: ptrace", is_there(traced, libc::ESRCH));
    // SAFETY: the signal 0 is none; the call says whether one could be sent.
    tell("call: signal another process", outcome(unsafe { libc::kill(1, 0) }.into()));
    // SAFETY: no new name space is asked for.
    tell("call: unshare", outcome(unsafe { libc::unshare(0) }.into()));
    Ok(())
}

/// Submits one operation and waits for what comes of it: a number that is an error or a descriptor.
fn submit(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<RawFd> {
    // SAFETY: what the entry points at lives until this function has the completion.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let completion = ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?;
    if completion.result() < 0 {
        Err(io::Error::from_raw_os_error(-completion.result()))
    } else {
        Ok(completion.result())
    }
}

fn open_by(ring: &mut IoUring, path: &std::ffi::CStr, flags: libc::c_int) -> io::Result<()> {
    let entry = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).flags(flags | libc::O_CLOEXEC).build();
    let fd = submit(ring, &entry)?;
    // SAFETY: the descriptor was opened above and is nobody else's.
    outcome(unsafe { libc::close(fd) }.into())
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

fn by_ring(ring_name: &str, ring: &mut IoUring, tell: &mut impl FnMut(&str, io::Result<()>)) -> io::Result<()> {
    let [connected, _, bound] = PORTS;
    let mut tell = |act: &str, came_of_it| tell(&format!("{ring_name}: {act}"), came_of_it);
    tell("open for reading", open_by(ring, OUTSIDE, libc::O_RDONLY));
    tell("open for writing", open_by(ring, WRITABLE, libc::O_WRONLY));
    let socket = tcp()?;
    let fd = Fd(socket.as_raw_fd());
    let to = address(connected);
    let done = submit(ring, &opcode::Connect::new(fd, to.as_ptr().cast(), to.len()).build());
    let refused = |error: io::Error| {
        if error.kind() == io::ErrorKind::ConnectionRefused { Ok(()) } else { Err(error) }
    };
    tell("connect", done.map(drop).or_else(refused));
    let socket = tcp()?;
    let (fd, here) = (Fd(socket.as_raw_fd()), address(bound));
    let bind = as_operation(opcode::Connect::new(fd, here.as_ptr().cast(), here.len()).build(), OP_BIND);
    tell("bind", submit(ring, &bind).map(drop));
    let socket = tcp()?;
    let listen = as_operation(opcode::Shutdown::new(Fd(socket.as_raw_fd()), 1).build(), OP_LISTEN);
    tell("listen", submit(ring, &listen).map(drop));
    Ok(())
}
