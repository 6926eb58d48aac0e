//! Tries what a sandboxed process must not do, and what it must: by system calls, and by submissions to a ring.
//!
//! For tests. Every act is harmless where it succeeds: nothing is written, nobody is signalled, nothing stays open.

mod calls;
mod rings;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;

use io_uring::IoUring;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Policy, filter};

/// Everybody may read it, and no tunnel needs it.
const OUTSIDE: &std::ffi::CStr = c"/proc/version";
/// Everybody may write it.
const WRITABLE: &std::ffi::CStr = c"/dev/null";
/// Ports on loopback that nobody listens on; the kernel gives none of them away by itself.
const PORTS: [u16; 3] = [17, 20_017, 20_018];

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
    for host in ["localhost", "fe80::1%lo"] {
        tell(&format!("resolve {host}"), (host, 1).to_socket_addrs().map(drop));
    }
    calls::attempt(&mut tell)?;
    // A ring without rules: here Landlock is the wall.
    rings::attempt("new ring", rings::by_new_ring, &mut tell)?;
    rings::attempt("worker's ring", rings::by_drivers_ring, &mut tell)?;
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

fn outcome(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open(path: &std::ffi::CStr, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the path ends in a zero byte and lives as long as the program.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    outcome(fd.into())?;
    // SAFETY: the descriptor was opened above and is nobody else's.
    outcome(unsafe { libc::close(fd) }.into())
}
