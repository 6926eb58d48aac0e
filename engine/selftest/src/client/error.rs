//! Why a call failed: whose fault.

use std::io;

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
}

impl From<RecordError> for ClientError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Io(source) => Self::Io { op: "recv", source },
            RecordError::Cut => Self::Closed,
            RecordError::TooLong => Self::Malformed("a record longer than any reply"),
        }
    }
}
