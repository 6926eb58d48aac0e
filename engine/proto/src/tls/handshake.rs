//! Puts post-handshake messages together: they can be split over records and coalesced in one (RFC 8446 section 5.1).

use bytes::{Buf, Bytes, BytesMut};

use super::TlsError;

/// Message type and length in front of every handshake message.
const HEADER_BYTES: usize = 4;

pub(super) const HELLO_REQUEST: u8 = 0;
pub(super) const CLIENT_HELLO: u8 = 1;
pub(super) const NEW_SESSION_TICKET: u8 = 4;
pub(super) const KEY_UPDATE: u8 = 24;

/// The length of a KeyUpdate message, its header included.
pub const KEY_UPDATE_BYTES: usize = 5;

/// A KeyUpdate message (RFC 8446 section 4.6.3); `request` asks the peer to update its sending key too.
pub const fn key_update(request: bool) -> [u8; KEY_UPDATE_BYTES] {
    [KEY_UPDATE, 0, 0, 1, request as u8]
}

/// Handshake bytes that do not make a message yet. Holds no memory between messages.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    bytes: BytesMut,
}

/// One whole message: its type and its body.
pub(super) type Message = (u8, Bytes);

impl Joiner {
    /// Takes the content of one handshake record.
    pub(super) fn push(&mut self, content: &[u8]) {
        self.bytes.extend_from_slice(content);
    }

    /// The next whole message. `judge` is told type and length as soon as these are there: nothing is kept of a message
    /// that may not come.
    ///
    /// # Errors
    /// What `judge` says.
    pub(super) fn next(
        &mut self,
        judge: impl FnOnce(u8, usize) -> Result<(), TlsError>,
    ) -> Result<Option<Message>, TlsError> {
        let Some([kind, l0, l1, l2]) = self.bytes.first_chunk::<HEADER_BYTES>().copied() else { return Ok(None) };
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        judge(kind, length)?;
        if self.bytes.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        let mut message = self.bytes.split_to(HEADER_BYTES + length);
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
        message.advance(HEADER_BYTES);
        Ok(Some((kind, message.freeze())))
    }

    /// Whether no message has begun.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
