//! Answers the calls of one connection: reads, opens, replies, with one buffer for each direction.
//!
//! A READ's payload is whatever lies in the sending buffer: nobody looks at it, and laying it out again for each reply
//! would cost the far end time that the proxy under test then waits for. With `--verify` it is a pattern, and that of each WRITE
//! is compared.

use std::io::{self, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sealane_proto::limits::{BUFFER_BIG_BYTES, PAYLOAD_BYTES_MAX, RECORD_PLAIN_BYTES_MAX};
use sealane_proto::tls::{
    AlertDescription, ContentType, Inbound, Pieces, Progress, RecordShape, Sealer, Window, key_update,
};
use sealane_relay::{Established, KeySchedule};

use crate::pattern;
use crate::rpc::{Call, Calls, put_reply};

/// Replies are collected up to this much before they are sent; a READ's payload ends a collection too.
const HEADS_BYTES_MAX: usize = 64 * 1024;

/// Where the plaintext of one read lies.
#[derive(Default)]
struct Plain(Vec<Range<usize>>);

impl Pieces for Plain {
    fn push(&mut self, range: Range<usize>) -> bool {
        self.0.push(range);
        true
    }

    fn grow_last(&mut self, end: usize) {
        if let Some(last) = self.0.last_mut() {
            last.end = end;
        }
    }
}

struct Secure {
    sealer: Sealer,
    inbound: Inbound,
    keys: Box<dyn KeySchedule>,
    window: Window,
}

/// What lies between the socket and the calls.
pub(crate) struct Link {
    /// None: plain text.
    secure: Option<Box<Secure>>,
    received: Vec<u8>,
    pieces: Plain,
}

/// What a read brought.
enum Received {
    Data,
    Closed,
}

impl Link {
    pub(crate) fn plain() -> Self {
        Self { secure: None, received: vec![0; BUFFER_BIG_BYTES], pieces: Plain::default() }
    }

    /// A link whose stream begins with the beginning of a record, if the handshake has left one over.
    pub(crate) fn tls(established: Established) -> Self {
        let Established { sealer, inbound, keys, left_over, .. } = established;
        let window = Window::holding(left_over.len());
        let mut received = left_over;
        received.resize(BUFFER_BIG_BYTES, 0);
        let secure = Some(Box::new(Secure { sealer, inbound, keys, window }));
        Self { secure, received, pieces: Plain::default() }
    }

    /// Reads once and opens what is whole.
    fn receive(&mut self, mut stream: &TcpStream) -> Result<Received> {
        self.pieces.0.clear();
        let Some(secure) = &mut self.secure else {
            let count = stream.read(&mut self.received)?;
            self.pieces.push(0..count);
            return Ok(if count == 0 { Received::Closed } else { Received::Data });
        };
        let plan = secure.window.plan(&mut self.received);
        let (front, near) = self.received.split_at_mut(plan.near.start);
        let near = near.get_mut(..plan.near.len()).unwrap_or_default();
        let front = front.get_mut(plan.front).unwrap_or_default();
        let count = stream.read_vectored(&mut [IoSliceMut::new(near), IoSliceMut::new(front)])?;
        if count == 0 {
            bail!("the peer closed without close_notify");
        }
        secure.window.filled(count);
        loop {
            match secure.inbound.advance(&mut self.received, secure.window.cursor(), &mut self.pieces)? {
                Progress::NeedBytes if secure.window.next_stretch() => {}
                Progress::NeedBytes => return Ok(Received::Data),
                Progress::Closed => return Ok(Received::Closed),
                Progress::KeyUpdate { answer } => {
                    secure.inbound.rekey(&secure.keys.next_receiving_key()?);
                    if answer {
                        send_message(&mut secure.sealer, stream, ContentType::HANDSHAKE, &key_update(false))?;
                        secure.sealer.rekey(&secure.keys.next_sending_key()?);
                    }
                }
                Progress::Ticket(_) | Progress::Renegotiation => bail!("a message that only a server sends"),
            }
        }
    }
}

fn send_message(sealer: &mut Sealer, mut stream: &TcpStream, kind: ContentType, message: &[u8]) -> Result<()> {
    let mut wire = [0; 128];
    let length = sealer.seal_message(kind, message, &mut wire)?;
    Ok(stream.write_all(wire.get(..length).unwrap_or_default())?)
}

fn look(calls: &mut Calls, manner: Manner, bytes: &[u8], found: &mut Vec<Call>) -> Result<()> {
    let add = |call| found.push(call);
    if manner.verify { calls.advance_and_compare(bytes, add) } else { Ok(calls.advance(bytes, add)?) }
}

/// One connection.
pub(crate) struct Session<'s> {
    stream: &'s TcpStream,
    link: Link,
    calls: Calls,
    /// What was found in the last read.
    found: Vec<Call>,
    heads: Vec<u8>,
    sending: Vec<u8>,
    manner: Manner,
}

/// How calls are answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// How far away the far end is.
    pub(crate) delay: Duration,
    /// Payloads are made and compared.
    pub(crate) verify: bool,
}

impl<'s> Session<'s> {
    pub(crate) fn new(stream: &'s TcpStream, link: Link, manner: Manner) -> Self {
        // Zeroes take no memory before they are used: there may be a thousand of these.
        let sending = vec![0; BUFFER_BIG_BYTES + 2 * HEADS_BYTES_MAX];
        Self { stream, link, calls: Calls::new(), found: Vec::new(), heads: Vec::new(), sending, manner }
    }

    /// Answers until the peer closes; `early` came with the handshake.
    ///
    /// # Errors
    /// Why the connection ended otherwise.
    pub(crate) fn run(mut self, early: &[u8], closed: bool) -> Result<()> {
        look(&mut self.calls, self.manner, early, &mut self.found)?;
        self.answer().context("answering the first calls")?;
        let mut received = if closed { Received::Closed } else { Received::Data };
        while let Received::Data = received {
            received = self.link.receive(self.stream).context("receiving calls")?;
            for range in self.link.pieces.0.drain(..) {
                let piece = self.link.received.get(range).unwrap_or_default();
                look(&mut self.calls, self.manner, piece, &mut self.found)?;
            }
            self.answer().context("sending replies")?;
        }
        if let Some(secure) = &mut self.link.secure {
            let alert = AlertDescription::CLOSE_NOTIFY.encode();
            send_message(&mut secure.sealer, self.stream, ContentType::ALERT, &alert)
                .context("sending close_notify")?;
        }
        match self.stream.shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error).context("shutdown"),
            _ => Ok(()),
        }
    }

    fn answer(&mut self) -> Result<()> {
        if !self.found.is_empty() && !self.manner.delay.is_zero() {
            thread::sleep(self.manner.delay);
        }
        let mut found = std::mem::take(&mut self.found);
        for call in found.drain(..) {
            let payload = call.read_bytes as usize;
            if payload > PAYLOAD_BYTES_MAX {
                bail!("a READ of {payload} bytes");
            }
            put_reply(&mut self.heads, &call);
            if self.manner.verify {
                pattern::put(&mut self.heads, call.xid, payload);
                self.send(0)?;
            } else if payload > 0 || self.heads.len() > HEADS_BYTES_MAX {
                self.send(payload)?;
            }
        }
        self.found = found;
        if self.heads.is_empty() { Ok(()) } else { self.send(0) }
    }

    /// Sends the collected heads and `payload` bytes behind them.
    fn send(&mut self, payload: usize) -> Result<()> {
        let shape = self.link.secure.as_ref().map_or(RecordShape { prefix: 0, suffix: 0 }, |it| it.sealer.shape());
        for (chunk, (start, _)) in self.heads.chunks(RECORD_PLAIN_BYTES_MAX).zip(shape.chunks(self.heads.len())) {
            let place = self.sending.get_mut(start..start + chunk.len());
            place.context("the sending buffer is too short")?.copy_from_slice(chunk);
        }
        let plain_bytes = self.heads.len() + payload;
        self.heads.clear();
        let wire_bytes = match &mut self.link.secure {
            None => plain_bytes,
            Some(secure) => secure.sealer.seal(&mut self.sending, plain_bytes)?,
        };
        let wire = self.sending.get(..wire_bytes).context("the sending buffer is too short")?;
        Ok(self.stream.write_all(wire)?)
    }
}
