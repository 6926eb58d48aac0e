//! Record headers and the shape of sealed records (RFC 8446 section 5.1, RFC 5246 section 6.2).

use super::key::{Cipher, Suite, Version};
use super::{Invalid, PeerMisbehaved, TlsError};
use crate::limits::{
    EXPLICIT_NONCE_BYTES, RECORD_EXPANSION_BYTES_MAX, RECORD_HEADER_BYTES, RECORD_PLAIN_BYTES_MAX, TAG_BYTES,
};

/// The content type of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ContentType(pub u8);

impl ContentType {
    /// change_cipher_spec
    pub const CHANGE_CIPHER_SPEC: Self = Self(20);
    /// alert
    pub const ALERT: Self = Self(21);
    /// handshake
    pub const HANDSHAKE: Self = Self(22);
    /// application_data
    pub const APPLICATION_DATA: Self = Self(23);
}

/// What sealing puts in front of and behind the plaintext of each record.
///
/// A reader lays chunks of [`RECORD_PLAIN_BYTES_MAX`] at this distance from each other, and the sealed records follow
/// each other without a gap: one buffer, one write, nothing moved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordShape {
    /// Bytes in front of the plaintext.
    pub prefix: usize,
    /// Bytes behind the plaintext.
    pub suffix: usize,
}

impl RecordShape {
    pub(super) fn of(version: Version, suite: Suite) -> Self {
        match (version, suite) {
            (Version::Tls13, _) => Self { prefix: RECORD_HEADER_BYTES, suffix: 1 + TAG_BYTES },
            (Version::Tls12, Suite::ChaCha20Poly1305) => Self { prefix: RECORD_HEADER_BYTES, suffix: TAG_BYTES },
            (Version::Tls12, _) => Self { prefix: RECORD_HEADER_BYTES + EXPLICIT_NONCE_BYTES, suffix: TAG_BYTES },
        }
    }

    /// The distance from the start of a full record to the start of the next.
    pub const fn stride(self) -> usize {
        self.prefix + RECORD_PLAIN_BYTES_MAX + self.suffix
    }

    /// How many full records fit into `capacity` bytes.
    pub const fn records_in(self, capacity: usize) -> usize {
        capacity / self.stride()
    }

    /// Where the plaintext of the record `index` lies.
    pub const fn plain_start(self, index: usize) -> usize {
        index * self.stride() + self.prefix
    }

    /// The chunks of `plain_bytes` of plaintext as they lie in a buffer: (start, length) of each.
    pub fn chunks(self, plain_bytes: usize) -> impl Iterator<Item = (usize, usize)> {
        let count = plain_bytes.div_ceil(RECORD_PLAIN_BYTES_MAX);
        (0..count).map(move |index| {
            let left = plain_bytes - index * RECORD_PLAIN_BYTES_MAX;
            (self.plain_start(index), left.min(RECORD_PLAIN_BYTES_MAX))
        })
    }
}

/// A parsed record header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) content_type: ContentType,
    /// The five bytes, for the additional data of TLS 1.3.
    pub(super) bytes: [u8; RECORD_HEADER_BYTES],
    /// The length of what follows the header.
    pub(super) length: usize,
}

impl Header {
    /// Parses the header at the start of `bytes`; `None` when fewer than five bytes are there.
    pub(super) fn parse(bytes: &[u8], version: Version) -> Result<Option<Self>, TlsError> {
        let Some(header) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(None) };
        let [content_type, major, minor, high, low] = *header;
        if !(20..=23).contains(&content_type) {
            return Err(TlsError::PeerMisbehaved(PeerMisbehaved::RecordType(content_type)));
        }
        // TLS 1.3 wants the version ignored (RFC 8446 section 5.1); it is authenticated as additional data.
        if version == Version::Tls12 && (major, minor) != (3, 3) {
            return Err(TlsError::Invalid(Invalid::RecordVersion));
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > RECORD_PLAIN_BYTES_MAX + RECORD_EXPANSION_BYTES_MAX {
            return Err(TlsError::RecordOverflow);
        }
        Ok(Some(Self { content_type: ContentType(content_type), bytes: *header, length }))
    }
}

/// The length that the header at the start of `bytes` announces, header included, however absurd; `None` when fewer
/// than five bytes are there.
pub(super) fn announced_bytes(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, high, low] = *bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    Some(RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low])))
}

/// The additional data of a TLS 1.2 record (RFC 5246 section 6.2.3.3).
pub(super) fn additional_data_12(number: u64, content_type: ContentType, plain_bytes: usize) -> [u8; 13] {
    let [n0, n1, n2, n3, n4, n5, n6, n7] = number.to_be_bytes();
    let [high, low] = (plain_bytes as u16).to_be_bytes(); // at most 2^14 + 256
    [n0, n1, n2, n3, n4, n5, n6, n7, content_type.0, 3, 3, high, low]
}

/// Where the ciphertext of a record begins, counted from its header.
pub(super) fn ciphertext_start(cipher: &Cipher) -> usize {
    RECORD_HEADER_BYTES + if cipher.has_explicit_nonce() { EXPLICIT_NONCE_BYTES } else { 0 }
}
