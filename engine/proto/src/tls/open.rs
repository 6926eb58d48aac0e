//! Opens records where they lie (RFC 8446 section 5.2, RFC 5246 section 6.2.3.3).

use core::ops::Range;

use ring::aead::{Aad, Nonce};

use super::key::{Cipher, TrafficKey, Version};
use super::record::{ContentType, Header, additional_data_12, ciphertext_start};
use super::{PeerMisbehaved, TlsError};
use crate::limits::{RECORD_HEADER_BYTES, RECORD_PLAIN_BYTES_MAX, SHIFT_BELOW_BYTES, TAG_BYTES};

/// The receiving half of a connection's record layer.
pub struct Opener {
    cipher: Cipher,
}

/// One opened record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Opened {
    pub(super) content_type: ContentType,
    /// Where the plaintext lies now.
    pub(super) plain: Range<usize>,
    /// Where the next record begins.
    pub(super) end: usize,
}

impl Opener {
    /// Opens under `key` from now on.
    pub fn new(key: &TrafficKey) -> Self {
        Self { cipher: Cipher::new(key) }
    }

    /// The protocol version.
    pub fn version(&self) -> Version {
        self.cipher.version
    }

    /// How many records this key has opened.
    pub fn records(&self) -> u64 {
        self.cipher.records
    }

    /// From how many records on the key should be replaced.
    pub fn replace_at(&self) -> u64 {
        self.cipher.replace_at()
    }

    /// Opens the record that begins at `from` in `bytes`, or returns `None` when it is not all there.
    ///
    /// A record with less than [`SHIFT_BELOW_BYTES`] of text is opened to `onto`, if given (it must not lie behind the
    /// record's text); any other one stays where it is.
    pub(super) fn open(
        &mut self,
        bytes: &mut [u8],
        span: Range<usize>,
        onto: Option<usize>,
    ) -> Result<Option<Opened>, TlsError> {
        let Range { start: from, end: filled } = span;
        let there = bytes.get(from..filled).ok_or(TlsError::ApiMisuse("span outside the buffer"))?;
        let Some(header) = Header::parse(there, self.cipher.version)? else { return Ok(None) };
        if self.cipher.version == Version::Tls13 && header.content_type != ContentType::APPLICATION_DATA {
            return Err(TlsError::PeerMisbehaved(PeerMisbehaved::ContentType(header.content_type.0)));
        }
        let end = from + RECORD_HEADER_BYTES + header.length;
        if end > filled {
            return Ok(None);
        }
        let start = from + ciphertext_start(&self.cipher);
        let plain_bytes = end.checked_sub(start + TAG_BYTES).ok_or(TlsError::BadRecordMac)?;
        let target = match onto {
            Some(onto) if plain_bytes < SHIFT_BELOW_BYTES && onto <= start => onto,
            _ => start,
        };
        let number = self.cipher.take_number().ok_or(TlsError::KeyExhausted)?;
        let nonce = self.nonce(number, there)?;
        let region = bytes.get_mut(target..end).ok_or(TlsError::ApiMisuse("span outside the buffer"))?;
        let aead = self.cipher.aead();
        let opened = match self.cipher.version {
            Version::Tls12 => {
                let additional = Aad::from(additional_data_12(number, header.content_type, plain_bytes));
                aead.open_within(nonce, additional, region, start - target..)
            }
            Version::Tls13 => aead.open_within(nonce, Aad::from(header.bytes), region, start - target..),
        };
        let text = opened.map_err(|_| TlsError::BadRecordMac)?;
        let (content_type, length) = match self.cipher.version {
            Version::Tls12 => (header.content_type, text.len()),
            Version::Tls13 => inner_type(text)?,
        };
        if length > RECORD_PLAIN_BYTES_MAX {
            return Err(TlsError::RecordOverflow);
        }
        Ok(Some(Opened { content_type, plain: target..target + length, end }))
    }

    /// The nonce of the record `number` that begins with `record`.
    fn nonce(&self, number: u64, record: &[u8]) -> Result<Nonce, TlsError> {
        let nonce = if self.cipher.has_explicit_nonce() {
            let explicit = record.get(RECORD_HEADER_BYTES..).and_then(|rest| rest.first_chunk::<8>());
            self.cipher.explicit_nonce(*explicit.ok_or(TlsError::BadRecordMac)?)
        } else {
            self.cipher.nonce(number)
        };
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Splits TLSInnerPlaintext: content, type, zero padding (RFC 8446 section 5.4).
fn inner_type(text: &[u8]) -> Result<(ContentType, usize), TlsError> {
    if text.len() > RECORD_PLAIN_BYTES_MAX + 1 {
        return Err(TlsError::RecordOverflow);
    }
    let at = text.iter().rposition(|byte| *byte != 0);
    match at.and_then(|at| text.get(at).map(|kind| (*kind, at))) {
        Some((kind, at)) => Ok((ContentType(kind), at)),
        None => Err(TlsError::PeerMisbehaved(PeerMisbehaved::NoContent)),
    }
}
