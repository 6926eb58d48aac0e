//! One connection: reads calls, answers them in order.

use std::io::{self, IoSlice, Write};
use std::net::TcpStream;

use super::compound::answer;
use super::export::{Export, Reply};
use crate::limits::BATCH_BYTES_MAX;
use crate::rpc::{RecordError, RecordReader};
use crate::stream::write_all_vectored;

/// Answers until the peer closes, or sends what is not a call.
///
/// # Errors
/// Why the connection ended otherwise.
pub(super) fn serve(stream: &TcpStream, export: &Export) -> Result<(), RecordError> {
    stream.set_nodelay(true)?;
    let (mut records, mut out) = (RecordReader::new(), Reply::default());
    while let Some(record) = records.record(&mut &*stream)? {
        if answer(export, record, &mut out).is_err() {
            return Ok(());
        }
        // Replies to calls that came together leave together; those with payloads are long enough by themselves.
        if !out.payloads.is_empty() || out.bytes.len() >= BATCH_BYTES_MAX || !records.has_record() {
            send(stream, &out)?;
            out.clear();
        }
    }
    Ok(())
}

/// Writes the replies, payloads in their places.
fn send(mut stream: &TcpStream, reply: &Reply) -> io::Result<()> {
    if reply.payloads.is_empty() {
        return stream.write_all(reply.bytes.bytes());
    }
    let (mut slices, mut rest) = (Vec::with_capacity(4), reply.bytes.bytes());
    let mut taken = 0;
    for payload in &reply.payloads {
        let (head, behind) = rest.split_at_checked(payload.at - taken).unwrap_or((rest, &[]));
        slices.push(IoSlice::new(head));
        slices.push(IoSlice::new(payload.held.bytes()));
        (rest, taken) = (behind, payload.at);
    }
    slices.push(IoSlice::new(rest));
    write_all_vectored(stream, &mut slices)
}
