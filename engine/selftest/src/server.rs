//! An NFSv4.1 server of one export in memory (RFC 8881).
//!
//! A thread for each connection reads calls and answers them in order. The payload of a READ is sent from where the
//! file has it; the payload of a WRITE is copied once, from where it was received.
//!
//! A connection that makes no call, or stops inside one, or does not take its replies, ends after 60 s of that. One that
//! has made a call keeps its place until its peer closes, however long it is idle: mounts are. So peers that mean it can
//! take all places; this is a server for tests, and lets everybody in who can connect.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

mod attributes;
mod clients;
mod compound;
mod connection;
mod content;
mod export;
pub(crate) mod fuzzing;
mod opens;
mod operation;
mod room;
mod tree;

use crate::limits::SILENCE_SECONDS_MAX;
use export::Export;

/// How a server is to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerOptions {
    /// Where to listen; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// The most that the files' bytes may take; beyond it a WRITE gets `NFS4ERR_NOSPC`.
    pub bytes_max: u64,
    /// Connections at a time; one more is closed at once. Each takes a thread and a buffer of a little over 1 MiB. An
    /// idle one counts, unless it never made a call: that ends after 60 s.
    pub connections_max: usize,
}

impl Default for ServerOptions {
    /// Any port of 127.0.0.1, 256 MiB, 64 connections.
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { listen, bytes_max: 256 << 20, connections_max: 64 }
    }
}

/// A connection, as far as who stops the server needs it.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    thread: JoinHandle<()>,
}

/// What the listener's thread shares with who stops it.
#[derive(Debug)]
struct Shared {
    export: Arc<Export>,
    connections_max: usize,
    connections: Mutex<Vec<Connection>>,
    stopping: AtomicBool,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, listener: &TcpListener) {
        while !self.stopping.load(Ordering::Acquire) {
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                // Out of descriptors, for example: those who have one may give it back.
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Starts a connection's thread, unless there are too many.
    fn admit(&self, stream: TcpStream) {
        let mut connections = self.connections();
        connections.retain(|connection| !connection.thread.is_finished());
        if connections.len() >= self.connections_max || self.stopping.load(Ordering::Acquire) {
            return;
        }
        let Ok(own) = stream.try_clone() else { return };
        let export = Arc::clone(&self.export);
        let started = thread::Builder::new().name("nfs".into()).spawn(move || {
            // How a connection ends is its peer's affair: there is nobody here to be told.
            let _ = connection::serve(&stream, &export, Duration::from_secs(SILENCE_SECONDS_MAX.into()));
            let _ = stream.shutdown(Shutdown::Both);
        });
        if let Ok(thread) = started {
            connections.push(Connection { stream: own, thread });
        }
    }
}

/// A running server. Dropping it closes its listener and its connections and waits for its threads, which takes
/// milliseconds.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to listen, with an empty export.
    ///
    /// # Errors
    /// When the address cannot be listened on, or no thread can be started.
    pub fn start(options: &ServerOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            export: Arc::new(Export::new(options.bytes_max)),
            connections_max: options.connections_max,
            connections: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let thread = thread::Builder::new().name("nfs-listen".into()).spawn(move || accepting.accept(&listener))?;
        Ok(Self { address, shared, listener: Some(thread) })
    }

    /// Where it listens, the port chosen.
    pub const fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.connections().iter().filter(|connection| !connection.thread.is_finished()).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let mut to = self.address;
        if to.ip().is_unspecified() {
            to.set_ip(if to.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) });
        }
        // Wakes the listener's thread. Where that cannot be reached, it must not be waited for.
        let woken = TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok();
        if let Some(listener) = self.listener.take()
            && woken
        {
            let _ = listener.join();
        }
        let connections = std::mem::take(&mut *self.shared.connections());
        for connection in &connections {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        for connection in connections {
            let _ = connection.thread.join();
        }
    }
}
