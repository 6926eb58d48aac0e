//! One process takes the place of another one: it gets its listening sockets, over a socket in the file system, and nobody who
//! connects meanwhile is refused.
//!
//! The one that serves listens on a [`ControlSocket`]. The next one connects to it ([`Predecessor::find`]), is given the sockets,
//! this one among them, makes itself ready, and says so ([`Predecessor::replace`]). Only then the first one accepts nobody any
//! more, and only when the next one does ([`Predecessor::begun`]) it gives up what it has: whatever happens to the next one before
//! that, it goes on. Both speak in lines:
//!
//! ```text
//! old: sealane 1 / pid N / of FILE / [supervisor MICROSECONDS] / listener ADDRESS, for each / (an empty line), with the descriptors
//! new: ready N                    its number, which need not be that of the process that has connected
//! old: released                   or, at any time: refused WHY
//! new: begun
//! ```

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg};
use nix::unistd::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use crate::activation::Passed;
use crate::rt;
use crate::supervisor::Supervisor;

/// What is spoken, in its version.
const GREETING: &str = "sealane 1";
const READY: &str = "ready ";
const RELEASED: &str = "released\n";
const REFUSED: &str = "refused ";
const BEGUN: &str = "begun";

/// What the kernel passes at once (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;
/// A greeting is shorter.
const GREETING_BYTES_MAX: usize = 16 << 10;
/// An answer is shorter.
const LINE_BYTES_MAX: usize = 256;
/// Whoever wants to take over is to be ready by then; what it has to read may be on a network.
const READY_MAX: Duration = Duration::from_secs(60);
/// For what takes no time: to begin, to write a small file.
const AT_ONCE_MAX: Duration = Duration::from_secs(5);
/// For a process that serves to let go. It may have been stopped, or its host; it goes on if this was too short.
const RELEASED_MAX: Duration = Duration::from_secs(30);
/// Successions that wait for the one before.
const BACKLOG: i32 = 8;

fn other(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

/// The process at the other end, if it is root's, or of the user of this one.
fn peer(stream: &impl AsFd) -> io::Result<u32> {
    let peer = getsockopt(stream, PeerCredentials)?;
    if peer.uid() == 0 || peer.uid() == geteuid().as_raw() {
        return Ok(peer.pid().unsigned_abs());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("process {} of user {}: neither root nor this user", peer.pid(), peer.uid()),
    ))
}

/// Connects to whoever listens at `path`; not for ever, if it does not accept.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_write_timeout(Some(AT_ONCE_MAX))?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// Where a process is found by the one that is to take its place.
#[derive(Debug)]
pub struct ControlSocket {
    inner: UnixListener,
    path: PathBuf,
    /// What the process serves, in a line.
    of: String,
}

impl ControlSocket {
    /// Makes it, for this user and root only, and for a process that serves what `of` says. One that nobody listens on any more
    /// makes way.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or what bind says.
    pub fn bind(path: &Path, of: &str) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        let address = socket2::SockAddr::unix(path)?;
        match fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() => match connect(path) {
                Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
                Err(error) => return Err(error),
            },
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else by that name")),
            Err(_) => {}
        }
        socket.bind(&address)?;
        // Nobody can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        Self::new(socket.into(), path, of)
    }

    fn new(descriptor: OwnedFd, path: &Path, of: &str) -> io::Result<Self> {
        let inner = UnixListener::from(descriptor);
        inner.set_nonblocking(true)?;
        Ok(Self { inner, path: path.into(), of: of.replace('\n', " ") })
    }

    /// Registers it with the reactor of the running thread.
    ///
    /// # Errors
    /// The registration failed.
    pub fn register(self) -> io::Result<Control> {
        Ok(Control { inner: tokio::net::UnixListener::from_std(self.inner)?, path: self.path, of: self.of })
    }
}

/// A control socket on the reactor.
pub struct Control {
    inner: tokio::net::UnixListener,
    path: PathBuf,
    of: String,
}

impl Control {
    /// Removes it. Until then it was listened on: nobody has put another one in its place.
    ///
    /// # Errors
    /// What unlink says.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// The next process that wants to take the place of this one.
    ///
    /// # Errors
    /// What accept says, or who it was that may not.
    pub async fn next(&self) -> io::Result<Successor> {
        let (stream, _) = self.inner.accept().await?;
        let pid = peer(&stream)?;
        Ok(Successor { stream, pid, said: Vec::new(), refusal: Some("this process ends".into()) })
    }

    /// Gives a successor the `listeners`, each with the address that was asked for, this socket, and the supervisor's, and waits until it is ready; its number.
    ///
    /// # Errors
    /// It has ended before that, or took too long: this process goes on.
    pub async fn give(
        &self,
        successor: &mut Successor,
        listeners: &[(SocketAddr, BorrowedFd<'_>)],
        supervisor: Option<&Supervisor>,
    ) -> io::Result<u32> {
        match rt::timeout(READY_MAX, self.try_give(successor, listeners, supervisor)).await {
            Some(Ok(pid)) => Ok(pid),
            Some(Err(error)) => {
                successor.refusal = Some(error.to_string());
                Err(error)
            }
            None => {
                successor.refusal = Some("it took too long to be ready".into());
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    async fn try_give(
        &self,
        successor: &mut Successor,
        listeners: &[(SocketAddr, BorrowedFd<'_>)],
        supervisor: Option<&Supervisor>,
    ) -> io::Result<u32> {
        let mut greeting = format!("{GREETING}\npid {}\nof {}\n", std::process::id(), self.of);
        let mut descriptors = vec![self.inner.as_fd().as_raw_fd()];
        if let Some((socket, watchdog)) = supervisor.and_then(Supervisor::parts) {
            greeting += &format!("supervisor {}\n", watchdog.unwrap_or_default().as_micros());
            descriptors.push(socket.as_raw_fd());
        }
        for (address, listener) in listeners {
            greeting += &format!("listener {address}\n");
            descriptors.push(listener.as_raw_fd());
        }
        greeting.push('\n');
        if descriptors.len() > DESCRIPTORS_MAX || greeting.len() > GREETING_BYTES_MAX {
            return Err(other(format!("more sockets than can be handed over ({DESCRIPTORS_MAX})")));
        }
        successor.send(greeting.as_bytes(), &descriptors).await?;
        let line = successor.line().await?;
        let pid = line.strip_prefix(READY).and_then(|pid| pid.parse().ok());
        pid.ok_or_else(|| other(format!("it said {line:?}")))
    }
}

/// A process that wants to take the place of this one.
pub struct Successor {
    stream: tokio::net::UnixStream,
    /// Who has connected.
    pub pid: u32,
    said: Vec<u8>,
    /// What it is told when this is dropped: an end without a word would mean that this process has died.
    refusal: Option<String>,
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(why) = self.refusal.take() {
            // Whoever is gone needs no answer, and a line has room.
            let _ = self.stream.try_write(format!("{REFUSED}{why}\n").as_bytes());
        }
    }
}

impl Successor {
    async fn send(&self, text: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let send = || {
            let flags = MsgFlags::MSG_NOSIGNAL;
            Ok(sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(text)], &rights, flags, None)?)
        };
        let sent = self.stream.async_io(Interest::WRITABLE, send).await?;
        // The socket's buffer is empty, and larger.
        if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// What it says next.
    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.said.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_string());
            }
            if self.said.len() >= LINE_BYTES_MAX {
                return Err(other("it said more than it has to"));
            }
            if self.stream.read_buf(&mut self.said).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended"));
            }
        }
    }

    /// Lets it begin: this process accepts nobody any more. Returns when it has.
    ///
    /// # Errors
    /// It has not: this process is to go on.
    pub async fn release(&mut self) -> io::Result<()> {
        let begin = async {
            self.stream.write_all(RELEASED.as_bytes()).await?;
            match self.line().await?.as_str() {
                BEGUN => Ok(()),
                said => Err(other(format!("it said {said:?}"))),
            }
        };
        let begun = rt::timeout(AT_ONCE_MAX, begin).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()));
        if begun.is_ok() {
            self.refusal = None;
        }
        begun
    }
}

/// The process whose place this one takes.
#[derive(Debug)]
pub struct Predecessor {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    /// Its number.
    pub pid: u32,
}

/// What it has given.
pub struct Inheritance {
    /// Where it was found, and this process is to be.
    pub control: ControlSocket,
    /// What it listened on.
    pub passed: Passed,
    /// Whoever supervised it.
    pub supervisor: Supervisor,
}

impl Predecessor {
    /// Asks whoever listens on the control socket `path`, and serves what `of` says, for its sockets; `None` if nobody does.
    ///
    /// # Errors
    /// It does not answer as it should, or is somebody else's.
    pub fn find(path: &Path, of: &str) -> io::Result<Option<(Self, Inheritance)>> {
        let stream = match connect(path) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        peer(&stream)?;
        stream.set_read_timeout(Some(READY_MAX))?;
        let (greeting, descriptors) = receive(&stream)?;
        let stream = BufReader::new(stream);
        let mut lines = greeting.lines();
        let first = lines.next().unwrap_or_default();
        if let Some(why) = first.strip_prefix(REFUSED) {
            return Err(other(why));
        }
        if first != GREETING {
            return Err(other(format!("it says {first:?}, and not {GREETING:?}: another version")));
        }
        let value =
            |name: &str| -> Option<u64> { lines.clone().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()) };
        let (pid, watchdog) = (value("pid "), value("supervisor "));
        let theirs = lines.clone().find_map(|line| line.strip_prefix("of ")).unwrap_or_default();
        if theirs != of {
            return Err(other(format!(
                "the process {} that listens there serves {theirs}, and not {of}",
                pid.unwrap_or(0)
            )));
        }
        let addresses = lines.filter_map(|line| line.strip_prefix("listener ")?.parse().ok()).collect::<Vec<_>>();
        let mut descriptors = descriptors.into_iter();
        let control = descriptors.next().ok_or_else(|| other("it gave no socket"))?;
        let supervisor = match watchdog {
            Some(micros) => {
                let socket = descriptors.next().ok_or_else(|| other("it gave no supervisor's socket"))?;
                Supervisor::from_parts(socket, (micros > 0).then(|| Duration::from_micros(micros)))
            }
            None => Supervisor::default(),
        };
        if addresses.len() != descriptors.len() {
            return Err(other("not all of its sockets arrived"));
        }
        let passed = Passed::inherited(addresses.into_iter().zip(descriptors))?;
        let pid = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let inheritance = Inheritance { control: ControlSocket::new(control, path, of)?, passed, supervisor };
        Ok(Some((Self { stream, path: path.into(), pid }, inheritance)))
    }

    /// Says that this process is ready, and returns when the other one accepts nobody any more. It wants to hear of it when this one
    /// does ([`Predecessor::begun`]).
    ///
    /// # Errors
    /// It does not let go: it goes on, and this process must not.
    pub fn replace(&mut self) -> io::Result<()> {
        let explained = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display()));
        self.stream.get_ref().set_read_timeout(Some(RELEASED_MAX)).map_err(explained)?;
        let said = writeln!(self.stream.get_mut(), "{READY}{}", std::process::id());
        let mut line = String::new();
        // What it says before it closes can still be read.
        let heard = (&mut self.stream).take(LINE_BYTES_MAX as u64).read_line(&mut line);
        match (line.as_str(), said, heard) {
            (RELEASED, ..) => Ok(()),
            // It has died meanwhile, and its sockets are here.
            ("", _, Ok(_)) | ("", Err(_), Err(_)) => Ok(()),
            ("", Ok(()), Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            ("", Ok(()), Err(error)) => Err(explained(error)),
            (said, ..) => Err(explained(other(said.trim_end().strip_prefix(REFUSED).unwrap_or(said).to_string()))),
        }
    }
}

impl Predecessor {
    /// Says that this process accepts connections: the other one may end. Returns when it has told its supervisor.
    pub async fn begun(mut self) {
        // If it has died meanwhile, it needs not hear it.
        let _ = writeln!(self.stream.get_mut(), "{BEGUN}");
        let stream = self.stream.into_inner();
        let closed = async {
            stream.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(stream)?.read(&mut [0]).await
        };
        let _ = rt::timeout(AT_ONCE_MAX, closed).await;
    }
}

/// A greeting and the descriptors that come with it.
fn receive(stream: &UnixStream) -> io::Result<(String, Vec<OwnedFd>)> {
    let (mut text, mut descriptors) = (Vec::new(), Vec::new());
    while !text.ends_with(b"\n\n") && !text.starts_with(REFUSED.as_bytes()) {
        let mut some = [0; GREETING_BYTES_MAX];
        let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
        let mut slices = [IoSliceMut::new(&mut some)];
        let got = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for message in got.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = message {
                // SAFETY: the kernel has just made them for this process, and nobody else has heard of them.
                descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
        }
        let count = got.bytes;
        if count == 0 || text.len() + count > GREETING_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it does not say who it is"));
        }
        text.extend(some.get(..count).unwrap_or_default());
    }
    Ok((String::from_utf8_lossy(&text).into_owned(), descriptors))
}
