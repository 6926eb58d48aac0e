//! Listening, connecting, names: what happens to a socket before a driver takes it over. Always on tokio's reactor.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::rt;
use crate::socket::{Socket, SocketOptions, set_options};
use crate::stream::{Control, Link};

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 1024;

/// How often a waiting peer is looked at while its server is sought.
const GONE_INTERVAL: Duration = Duration::from_millis(250);

/// Source ports that only root may use: those that the kernel's NFS client takes.
pub const PRIVILEGED_PORTS: std::ops::RangeInclusive<u16> = 665..=1023;

/// A listening socket.
pub struct Listener {
    inner: std::net::TcpListener,
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// What bind or listen says.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self { inner: socket.into() })
    }

    /// Whether this could be one.
    ///
    /// # Errors
    /// It does not listen for TCP connections.
    pub(crate) fn check(descriptor: &impl AsFd) -> io::Result<()> {
        let socket = socket2::SockRef::from(descriptor);
        let is_tcp = socket.protocol()? == Some(socket2::Protocol::TCP) && socket.is_listener()?;
        if is_tcp && socket.local_addr()?.as_socket().is_some() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen for TCP connections"))
    }

    /// One that was passed to this process, and was looked at.
    ///
    /// # Errors
    /// What fcntl says.
    pub(crate) fn passed(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = socket2::Socket::from(descriptor);
        socket.set_nonblocking(true)?;
        Ok(Self { inner: socket.into() })
    }

    /// The address that it listens on; the port is the kernel's choice where 0 was asked for.
    ///
    /// # Errors
    /// What getsockname says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Registers it with the reactor of the running thread.
    ///
    /// # Errors
    /// The registration failed.
    pub fn register(self) -> io::Result<Acceptor> {
        Ok(Acceptor { inner: TcpListener::from_std(self.inner)? })
    }
}

/// A listening socket on the reactor.
pub struct Acceptor {
    inner: TcpListener,
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Acceptor {
    /// The next connection and where it comes from.
    ///
    /// # Errors
    /// What accept says: a connection that ended early, descriptors or memory used up.
    pub async fn accept(&self) -> io::Result<(Accepted, SocketAddr)> {
        let (stream, peer) = self.inner.accept().await?;
        Ok((Accepted { stream: stream.into_std()? }, peer))
    }
}

/// An accepted connection on its way to a worker.
pub struct Accepted {
    stream: std::net::TcpStream,
}

impl Accepted {
    /// Registers it with the reactor of the running thread.
    ///
    /// # Errors
    /// The registration failed.
    pub fn register(self) -> io::Result<Connection> {
        Ok(Connection { stream: TcpStream::from_std(self.stream)? })
    }

    /// Sends RST.
    pub fn reset(self) {
        Socket::new(self.stream).abort();
    }
}

/// What the first look at a client showed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FirstLook {
    /// It has sent something.
    Bytes,
    /// It has gone.
    Gone,
    /// It waits for us: the server may have to speak first.
    Silent,
}

/// A connection that no driver has taken over yet: an accepted one that waits, or either kind during its handshake.
pub struct Connection {
    stream: TcpStream,
}

impl Link for Connection {
    type Socket = Socket;

    async fn first_look(&self, limit: Option<Duration>) -> FirstLook {
        let mut first = [0];
        let peek = self.stream.peek(&mut first);
        let seen = match limit {
            Some(limit) => rt::timeout(limit, peek).await,
            None => Some(peek.await),
        };
        match seen {
            None => FirstLook::Silent,
            Some(Ok(1..)) => FirstLook::Bytes,
            Some(Ok(0) | Err(_)) => FirstLook::Gone,
        }
    }

    fn has_bytes(&self) -> bool {
        matches!(SockRef::from(&self.stream).peek(&mut [std::mem::MaybeUninit::uninit()]), Ok(1..))
    }

    /// Looks from time to time: readiness cannot tell, because the peer's first bytes stay in the socket.
    async fn gone(&self, has_spoken: bool) {
        loop {
            rt::sleep(GONE_INTERVAL).await;
            // A reset behind bytes that nobody has read shows here only.
            if !matches!(self.stream.take_error(), Ok(None)) {
                return;
            }
            match SockRef::from(&self.stream).peek(&mut [std::mem::MaybeUninit::uninit()]) {
                Ok(1..) => {}
                Ok(0) if has_spoken => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.read(bytes).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    fn set_options(&self, options: &SocketOptions) -> io::Result<()> {
        set_options(&SockRef::from(&self.stream), options)
    }

    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::new(self.stream.into_std()?))
    }
}

/// The source port of outgoing connections.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SourcePort {
    /// The kernel chooses.
    #[default]
    Any,
    /// Below 1024, for servers that demand it (`secure` in exports(5)).
    Privileged,
}

impl SourcePort {
    /// Whether this process may have such a port.
    ///
    /// # Errors
    /// What bind says to the first one that is free; one that is in use is somebody's who may.
    pub fn check(self) -> io::Result<()> {
        if self == Self::Any {
            return Ok(());
        }
        let bind = |port| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
        };
        let refused = PRIVILEGED_PORTS.rev().find_map(|port| match bind(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            other => Some(other),
        });
        refused.unwrap_or(Ok(()))
    }
}

/// From where, and with which options, outgoing connections are made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConnectOptions {
    /// The source address.
    pub bind_address: Option<IpAddr>,
    /// The source port.
    pub source_port: SourcePort,
    /// What the socket gets before it connects.
    pub socket: SocketOptions,
}

/// The addresses of a name, by the system's resolver, in its order.
///
/// # Errors
/// What the resolver says.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// Connects to one address.
///
/// # Errors
/// What socket, bind or connect says.
pub async fn connect(address: SocketAddr, options: &ConnectOptions) -> io::Result<Connection> {
    match options.source_port {
        SourcePort::Any => connect_from(address, options, None).await,
        SourcePort::Privileged => {
            let mut last = io::Error::from(io::ErrorKind::AddrInUse);
            for port in PRIVILEGED_PORTS.rev() {
                match connect_from(address, options, Some(port)).await {
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) =>
                    {
                        last = error;
                    }
                    other => return other,
                }
            }
            Err(last)
        }
    }
}

async fn connect_from(address: SocketAddr, options: &ConnectOptions, port: Option<u16>) -> io::Result<Connection> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    set_options(&SockRef::from(&socket), &options.socket)?;
    let unspecified = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    if options.bind_address.is_some() || port.is_some() {
        socket.bind(SocketAddr::new(options.bind_address.unwrap_or(unspecified), port.unwrap_or(0)))?;
    }
    Ok(Connection { stream: socket.connect(address).await? })
}
