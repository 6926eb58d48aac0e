//! One HTTP exchange over plain TCP: what is asked of an OCSP responder. No redirects, no cookies, one request for each
//! connection.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::rt::{self, Either};

/// Longer heads than this are an error.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The Host field.
    pub host: String,
    /// A path, or for a proxy a whole URL.
    pub target: String,
    /// The content and its type, for a POST; without, it is a GET.
    pub content: Option<(&'static str, Vec<u8>)>,
    /// The type that is wanted.
    pub accept: &'static str,
    /// Longer contents than this are an error.
    pub bytes_max: usize,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The Content-Type field.
    pub content_type: String,
    /// The content.
    pub content: Vec<u8>,
}

/// A connection to a server that has not been asked yet.
pub struct Http {
    stream: TcpStream,
}

impl Http {
    /// Connects.
    ///
    /// # Errors
    /// What connect says.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::connect(address).await? })
    }

    /// Whether the other end is this host, by whichever of its addresses.
    pub fn is_own_host(&self) -> bool {
        match (self.stream.local_addr(), self.stream.peer_addr()) {
            (Ok(own), Ok(other)) => own.ip() == other.ip(),
            _ => true,
        }
    }

    /// Asks, and returns the answer. Has no limit of time of its own; may be dropped.
    ///
    /// # Errors
    /// What is no HTTP, or too long, or the connection's.
    pub async fn exchange(self, request: Request) -> io::Result<Reply> {
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let (mut sender, connection) = builder.handshake(TokioIo::new(self.stream)).await.map_err(said)?;
        let mut connection = pin!(connection);
        let mut talk = pin!(async {
            let bytes_max = request.bytes_max;
            let reply = sender.send_request(encode(request)?).await.map_err(said)?;
            let (head, body) = reply.into_parts();
            let content = Limited::new(body, bytes_max).collect().await.map_err(|error| {
                let error = if error.is::<http_body_util::LengthLimitError>() {
                    format!("its answer is longer than {bytes_max} bytes")
                } else {
                    error.to_string()
                };
                io::Error::other(error)
            })?;
            let content_type = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            Ok(Reply {
                status: head.status.as_u16(),
                content_type: content_type.into(),
                content: content.to_bytes().into(),
            })
        });
        match rt::race(talk.as_mut(), connection.as_mut()).await {
            Either::Left(done) => done,
            // What it has received is still to be had.
            Either::Right(_) => talk.await,
        }
    }
}

fn encode(request: Request) -> io::Result<hyper::Request<Full<Bytes>>> {
    let Request { host, target, content, accept, .. } = request;
    let built = hyper::Request::builder().uri(target).header(HOST, host).header(ACCEPT, accept);
    let built = match content {
        None => built.method("GET").body(Full::default()),
        Some((kind, content)) => built.method("POST").header(CONTENT_TYPE, kind).body(Full::new(content.into())),
    };
    built.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// hyper's error with what is behind it.
fn said(error: hyper::Error) -> io::Error {
    io::Error::other(match std::error::Error::source(&error) {
        None => error.to_string(),
        Some(source) => format!("{error}: {source}"),
    })
}
