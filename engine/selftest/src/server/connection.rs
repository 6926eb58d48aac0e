//! One connection: reads calls, answers them in order.
//!
//! A peer that stops where it owes something, the first call, the rest of a record, room for replies, is given up after
//! a time; it would keep its place for ever. Between calls it may be silent for as long as it likes: a mount that nobody
//! uses is.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use super::compound::answer;
use super::export::{Export, Reply};
use crate::limits::BATCH_BYTES_MAX;
use crate::rpc::{RecordError, RecordReader};
use crate::stream::write_all_vectored;

/// Answers until the peer closes, or sends what is not a call, or owes something for longer than `silence_max`.
///
/// # Errors
/// Why the connection ended otherwise.
pub(super) fn serve(stream: &TcpStream, export: &Export, silence_max: Duration) -> Result<(), RecordError> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(silence_max))?;
    stream.set_write_timeout(Some(silence_max))?;
    let (mut records, mut out, mut has_called) = (RecordReader::new(), Reply::default(), false);
    loop {
        match records.begins(&mut &*stream) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(RecordError::Io(error)) if has_called && error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let Some(record) = records.record(&mut &*stream)? else { return Ok(()) };
        if answer(export, record, &mut out).is_err() {
            return Ok(());
        }
        has_called = true;
        // Replies to calls that came together leave together; those with payloads are long enough by themselves.
        if !out.payloads.is_empty() || out.bytes.len() >= BATCH_BYTES_MAX || !records.has_record() {
            write_all_vectored(stream, &mut out.slices())?;
            out.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::clock;
    use crate::nfs4::PROCEDURE_NULL;
    use crate::rpc::{begin_call, finish};
    use crate::xdr::Encoder;

    const SILENCE_MAX: Duration = Duration::from_millis(100);

    fn null_call() -> Vec<u8> {
        let mut call = Encoder::new();
        let mark_at = begin_call(&mut call, 7, PROCEDURE_NULL, 0, 0);
        finish(&mut call, mark_at, 0);
        call.bytes().to_vec()
    }

    /// Serves a peer that does `act` and then holds its end open: how the connection ended, and after how long.
    fn served(act: impl FnOnce(&mut TcpStream)) -> (Result<(), RecordError>, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let begun = clock::monotonic();
        let server = thread::spawn(move || serve(&stream, &Export::new(1 << 20), SILENCE_MAX));
        act(&mut peer);
        let ended = server.join().unwrap();
        (ended, clock::monotonic() - begun)
    }

    #[test]
    fn a_peer_that_is_silent_where_it_owes_something_is_given_up() {
        let call = null_call();
        for end in [0, 1, 4, 5, call.len() - 1] {
            let (ended, after) = served(|peer| peer.write_all(&call[..end]).unwrap());
            let is_time_out = matches!(ended, Err(RecordError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock);
            assert!(is_time_out && after >= SILENCE_MAX, "{end} bytes of a call");
        }
        // A fragment that is not the last.
        let (ended, _) = served(|peer| peer.write_all(&[call.as_slice(), &[0, 0, 0, 0]].concat()).unwrap());
        assert!(matches!(ended, Err(RecordError::Io(_))));
        // Until the server waits for us to read.
        let (ended, _) = served(|peer| {
            peer.set_write_timeout(Some(SILENCE_MAX / 2)).unwrap();
            while peer.write_all(&call.repeat(1000)).is_ok() {}
        });
        assert!(matches!(ended, Err(RecordError::Io(_))));
    }

    #[test]
    fn between_two_calls_a_peer_may_be_silent() {
        let (ended, after) = served(|peer| {
            for _ in 0..2 {
                peer.write_all(&null_call()).unwrap();
                peer.read_exact(&mut [0; 28]).unwrap();
                thread::sleep(3 * SILENCE_MAX);
            }
            peer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(ended.is_ok() && after >= 6 * SILENCE_MAX, "{ended:?} after {after:?}");
    }
}
