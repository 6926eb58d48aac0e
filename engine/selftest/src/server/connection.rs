//! One connection: reads calls, answers them in order.

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
            write_all_vectored(stream, &mut out.slices())?;
            out.clear();
        }
    }
    Ok(())
}
