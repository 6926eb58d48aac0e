//! Seals plaintext where it lies (RFC 8446 section 5.2, RFC 5246 section 6.2.3.3).

use ring::aead::{Aad, Nonce};

use super::TlsError;
use super::key::{Cipher, TrafficKey, Version};
use super::record::{ContentType, RecordShape, additional_data_12};
use crate::limits::{RECORD_HEADER_BYTES, RECORD_PLAIN_BYTES_MAX, TAG_BYTES};

const SHORT: TlsError = TlsError::ApiMisuse("the buffer is shorter than the record");

/// The sending half of a connection's record layer.
pub struct Sealer {
    cipher: Cipher,
    shape: RecordShape,
}

impl Sealer {
    /// Seals under `key` from now on.
    pub fn new(key: &TrafficKey) -> Self {
        Self { cipher: Cipher::new(key), shape: RecordShape::of(key.version, key.suite) }
    }

    /// Goes over to the next key of the same connection, after a KeyUpdate was sealed under the old one.
    pub fn rekey(&mut self, key: &TrafficKey) {
        *self = Self::new(key);
    }

    /// Where the plaintext has to lie.
    pub fn shape(&self) -> RecordShape {
        self.shape
    }

    /// The protocol version.
    pub fn version(&self) -> Version {
        self.cipher.version
    }

    /// How many records this key has protected.
    pub fn records(&self) -> u64 {
        self.cipher.records
    }

    /// From how many records on the key should be replaced.
    pub fn replace_at(&self) -> u64 {
        self.cipher.replace_at()
    }

    /// Seals `plain_bytes` of application data that lie in `wire` as [`RecordShape::chunks`] says, and returns how many
    /// bytes of `wire`, from its start, are now records.
    ///
    /// # Errors
    /// [`TlsError::KeyExhausted`] when the key may protect no more; [`TlsError::ApiMisuse`] when `wire` is too short.
    pub fn seal(&mut self, wire: &mut [u8], plain_bytes: usize) -> Result<usize, TlsError> {
        let mut rest = plain_bytes;
        let mut written = 0;
        while rest > 0 {
            let length = rest.min(RECORD_PLAIN_BYTES_MAX);
            let record = wire.get_mut(written..).ok_or(SHORT)?;
            written += self.seal_record(ContentType::APPLICATION_DATA, record, length)?;
            rest -= length;
        }
        Ok(written)
    }

    /// Seals an alert or a handshake message into the start of `wire` and returns the record's length.
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub fn seal_message(
        &mut self,
        content_type: ContentType,
        message: &[u8],
        wire: &mut [u8],
    ) -> Result<usize, TlsError> {
        let place = wire.get_mut(self.shape.prefix..).and_then(|wire| wire.get_mut(..message.len())).ok_or(SHORT)?;
        place.copy_from_slice(message);
        self.seal_record(content_type, wire, message.len())
    }

    fn seal_record(&mut self, kind: ContentType, record: &mut [u8], plain_bytes: usize) -> Result<usize, TlsError> {
        let RecordShape { prefix, suffix } = self.shape;
        let total = prefix + plain_bytes + suffix;
        let record = record.get_mut(..total).ok_or(SHORT)?;
        let (head, body) = record.split_at_mut_checked(prefix).ok_or(SHORT)?;
        let (text, tag) = body.split_at_mut_checked(plain_bytes + suffix - TAG_BYTES).ok_or(SHORT)?;
        let number = self.cipher.take_number().ok_or(TlsError::KeyExhausted)?;
        let nonce = self.cipher.nonce(number);
        let [high, low] = ((total - RECORD_HEADER_BYTES) as u16).to_be_bytes(); // at most 2^14 + 25
        let outer = if self.cipher.version == Version::Tls13 { ContentType::APPLICATION_DATA } else { kind };
        let header = [outer.0, 3, 3, high, low];
        let (header_place, explicit_place) = head.split_first_chunk_mut::<RECORD_HEADER_BYTES>().ok_or(SHORT)?;
        *header_place = header;
        if let Some(place) = explicit_place.first_chunk_mut::<8>() {
            let [_, _, _, _, explicit @ ..] = nonce;
            *place = explicit;
        }
        let sealed = match self.cipher.version {
            Version::Tls12 => {
                let additional = Aad::from(additional_data_12(number, kind, plain_bytes));
                self.cipher.aead().seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), additional, text)
            }
            Version::Tls13 => {
                *text.last_mut().ok_or(SHORT)? = kind.0;
                let nonce = Nonce::assume_unique_for_key(nonce);
                self.cipher.aead().seal_in_place_separate_tag(nonce, Aad::from(header), text)
            }
        };
        // ring refuses only a text that is longer than the AEAD's own limit, far above a record.
        tag.copy_from_slice(sealed.map_err(|_| TlsError::ApiMisuse("sealing failed"))?.as_ref());
        Ok(total)
    }
}
