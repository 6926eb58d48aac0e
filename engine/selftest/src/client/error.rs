//! Why a call failed: whose fault.

use std::io;
use std::time::Duration;

use crate::nfs4::Status;
use crate::rpc::{RecordError, Rejection};
use crate::xdr::XdrError;

/// Why a call failed. After anything but [`ClientError::Status`] the session is of no use any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The socket failed; `op` is the call as strace would name it.
    #[error("{op}: {source}")]
    Io {
        /// Which call.
        op: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The server, or what lies between, let our patience run out; `op` is the call that waited.
    #[error("the server did not answer within {} s ({op})", .patience.as_secs_f64())]
    Silent {
        /// Which call.
        op: &'static str,
        /// How long it waited.
        patience: Duration,
    },
    /// The server, or what lies between, closed the connection.
    #[error("the connection was closed while a reply was awaited")]
    Closed,
    /// The server refused the call before it looked at its operations.
    #[error("the server rejected the call: {0}")]
    Rejected(#[from] Rejection),
    /// An operation failed.
    #[error("{operation}: {status}")]
    Status {
        /// The operation, as the RFC names it.
        operation: &'static str,
        /// How it ended.
        status: Status,
    },
    /// The server sent something that is not a reply to our call.
    #[error("malformed reply: {0}")]
    Malformed(&'static str),
    /// The server's reply does not decode.
    #[error("malformed reply: {0}")]
    Undecodable(#[from] XdrError),
}

impl ClientError {
    /// The status, if an operation failed.
    pub const fn status(&self) -> Option<Status> {
        if let Self::Status { status, .. } = self { Some(*status) } else { None }
    }

    /// Of the call `op` on a socket that waits for so long.
    pub(super) fn of_socket(op: &'static str, patience: Duration, source: io::Error) -> Self {
        // The kernel's own ETIMEDOUT, which has a number, is about a connection that broke.
        let is_ours = match source.kind() {
            io::ErrorKind::WouldBlock => true,
            io::ErrorKind::TimedOut => source.raw_os_error().is_none(),
            _ => false,
        };
        if is_ours { Self::Silent { op, patience } } else { Self::Io { op, source } }
    }

    /// Of reading a record.
    pub(super) fn of_record(error: RecordError, patience: Duration) -> Self {
        match error {
            RecordError::Io(source) => Self::of_socket("recv", patience, source),
            RecordError::Cut => Self::Closed,
            RecordError::TooLong => Self::Malformed("a record longer than any reply"),
        }
    }
}
