//! Plain connections through the tunnels: what they say, and how they end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::SockRef;

/// Nothing may take longer; the tunnel itself gives up reaching its server after 12 s.
const PATIENCE: Duration = Duration::from_secs(15);
/// Words of a call of the NULL procedure (RFC 5531 section 9) with its mark, and of its reply.
const CALL_WORDS: usize = 11;
const REPLY_BYTES: usize = 28;

/// A call of NFS version 4's NULL procedure.
fn call(xid: u32) -> Vec<u8> {
    let words: [u32; CALL_WORDS] = [0x8000_0028, xid, 0, 2, 100_003, 4, 0, 0, 0, 0, 0];
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// The reply to it.
fn reply(xid: u32) -> Vec<u8> {
    let words: [u32; REPLY_BYTES / 4] = [0x8000_0018, xid, 1, 0, 0, 0, 0];
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// How a connection of a storm ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// We close our direction, the server answers that.
    Orderly,
    /// Closed without waiting for anything.
    Close,
    /// Reset in the middle of a call.
    Reset,
    /// Closed without a byte.
    Silent,
}

impl End {
    /// Nine in sixteen are orderly, as most are; the others in turn.
    pub(crate) fn of(number: u64) -> Self {
        match number % 16 {
            3 | 11 => Self::Close,
            5 | 9 | 13 => Self::Reset,
            7 | 15 => Self::Silent,
            _ => Self::Orderly,
        }
    }
}

/// One connection.
pub(crate) struct Peer {
    stream: TcpStream,
    xid: u32,
}

impl Peer {
    /// Connects; the tunnel connects further at the first byte.
    ///
    /// # Errors
    /// What connect says.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, xid: 0 })
    }

    /// Makes `count` calls at once and compares every byte of the replies.
    ///
    /// # Errors
    /// When one is missing or another.
    pub(crate) fn calls(&mut self, count: u32) -> Result<()> {
        let first = self.xid.wrapping_add(1);
        self.xid = self.xid.wrapping_add(count);
        let xids = || (0..count).map(|index| first.wrapping_add(index));
        let calls: Vec<u8> = xids().flat_map(call).collect();
        self.stream.write_all(&calls).context("sending calls")?;
        let expected: Vec<u8> = xids().flat_map(reply).collect();
        let mut got = vec![0; expected.len()];
        self.stream.read_exact(&mut got).context("receiving replies")?;
        ensure!(got == expected, "the replies are not those to our calls");
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// When an orderly end is not answered by one.
    pub(crate) fn end(mut self, end: End) -> Result<()> {
        match end {
            End::Orderly => {
                self.stream.shutdown(Shutdown::Write).context("shutdown")?;
                let left = self.stream.read(&mut [0; 16]).context("waiting for the server's end")?;
                ensure!(left == 0, "bytes behind the last reply");
            }
            End::Close | End::Silent => {}
            End::Reset => {
                let call = call(0);
                self.stream.write_all(call.get(..30).unwrap_or_default()).context("sending half of a call")?;
                SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).context("SO_LINGER")?;
            }
        }
        Ok(())
    }
}

/// Connects and expects to be reset without having been served.
///
/// # Errors
/// When we are not.
pub(crate) fn expect_reset(address: SocketAddr) -> Result<()> {
    // The reset may be there before we know that we were connected.
    let is_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
    let mut stream = match TcpStream::connect_timeout(&address, PATIENCE) {
        Err(error) if is_reset(&error) => return Ok(()),
        connected => connected.context("connect")?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let _ = stream.write_all(&call(1));
    match stream.read(&mut [0; 64]) {
        Err(error) if is_reset(&error) => Ok(()),
        other => bail!("no reset, but {other:?}"),
    }
}

/// One connection of a storm: comes, makes some calls, goes in the way that its number says.
///
/// # Errors
/// What went wrong before its end.
pub(crate) fn visit(address: SocketAddr, number: u64) -> Result<()> {
    let mut peer = Peer::connect(address)?;
    let end = End::of(number);
    if end != End::Silent {
        peer.calls(1 + (number % 40) as u32)?; // below 40
    }
    peer.end(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_end_happens_and_most_are_orderly() {
        let ends: Vec<_> = (0..16).map(End::of).collect();
        for end in [End::Close, End::Reset, End::Silent] {
            assert!(ends.iter().filter(|other| **other == end).count() >= 2);
        }
        assert_eq!(ends.iter().filter(|end| **end == End::Orderly).count(), 9);
    }

    #[test]
    fn the_server_answers_as_expected_and_a_wrong_reply_is_noticed() {
        let server = sealane_selftest::Server::start(&sealane_selftest::ServerOptions::default()).unwrap();
        let mut peer = Peer::connect(server.local_address()).unwrap();
        peer.calls(40).unwrap();
        peer.end(End::Orderly).unwrap();
        let mut peer = Peer::connect(server.local_address()).unwrap();
        // A call of somebody else on the same connection: its reply is none of ours.
        peer.stream.write_all(&call(77)).unwrap();
        assert!(peer.calls(1).is_err());
    }
}
