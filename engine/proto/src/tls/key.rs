//! Traffic keys: what a key is made of, how often it may be used, and how it is wiped.

use alloc::boxed::Box;
use core::fmt;
use core::hint::black_box;
use core::ops::DerefMut;

use ring::aead;
use zeroize::Zeroizing;

/// The TLS versions that we speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// RFC 5246 with AEAD suites only.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The AEAD of a cipher suite.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Suite {
    /// AES-128-GCM (RFC 5288, RFC 8446).
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 7905, RFC 8446).
    ChaCha20Poly1305,
}

/// The longest key of the three.
const KEY_BYTES_MAX: usize = 32;

/// The length of every nonce.
const NONCE_BYTES: usize = 12;

/// We update TLS 1.3 AES-GCM keys here: well below the 2^24.5 records of RFC 8446 section 5.5.
const UPDATE_AT_RECORDS: u64 = 1 << 23;

/// A TLS 1.2 AES-GCM connection is drained from here: TLS 1.2 has no KeyUpdate.
const DRAIN_AT_RECORDS: u64 = (1 << 24) - (1 << 20);

/// No AES-GCM key protects or opens more records: 2^24.5, rounded down (RFC 8446 section 5.5).
const REFUSE_AT_RECORDS: u64 = 23_726_566;

impl Suite {
    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

/// A key that does not fit its suite.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the key does not have the length that its suite wants")]
pub struct KeyError;

/// An expanded key, for whoever keeps it: nothing of it can be seen.
pub struct ExpandedKey(aead::LessSafeKey);

/// Where an expanded key lies while it is used. This crate has the heap only; others know of memory that is never swapped
/// out.
pub trait KeyPlace: DerefMut<Target = ExpandedKey> + Send {}

impl<P: DerefMut<Target = ExpandedKey> + Send> KeyPlace for P {}

fn on_heap(key: ExpandedKey) -> Box<dyn KeyPlace> {
    Box::new(Box::new(key))
}

/// One direction's key, initialization vector and next sequence number, as a handshake or a KeyUpdate gives them.
///
/// The bytes are wiped when this is dropped.
pub struct TrafficKey {
    pub(super) version: Version,
    pub(super) suite: Suite,
    key: Zeroizing<[u8; KEY_BYTES_MAX]>,
    iv: Zeroizing<[u8; NONCE_BYTES]>,
    pub(super) sequence: u64,
    keeper: fn(ExpandedKey) -> Box<dyn KeyPlace>,
}

impl fmt::Debug for TrafficKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, suite, sequence, .. } = self;
        write!(f, "TrafficKey({version:?}, {suite:?}, record {sequence}, ...)")
    }
}

impl TrafficKey {
    /// A key for `suite`, whose next record has the number `sequence`.
    ///
    /// # Errors
    /// [`KeyError`] when `key` or `iv` has the wrong length.
    pub fn new(version: Version, suite: Suite, key: &[u8], iv: &[u8], sequence: u64) -> Result<Self, KeyError> {
        if key.len() != suite.algorithm().key_len() || iv.len() != NONCE_BYTES {
            return Err(KeyError);
        }
        let mut own =
            Self { version, suite, key: Zeroizing::default(), iv: Zeroizing::default(), sequence, keeper: on_heap };
        for (to, from) in own.key.iter_mut().zip(key).chain(own.iv.iter_mut().zip(iv)) {
            *to = *from;
        }
        Ok(own)
    }

    /// The same key, which `keeper` keeps once it is used.
    #[must_use]
    pub fn kept_by(self, keeper: fn(ExpandedKey) -> Box<dyn KeyPlace>) -> Self {
        Self { keeper, ..self }
    }
}

/// A key ready for use, with the numbers that bound its use.
///
/// ring does not wipe its keys. The expanded key is in a place that never moves, and is overwritten with the expansion of
/// a zero key before that is given back.
pub(super) struct Cipher {
    key: Box<dyn KeyPlace>,
    iv: Zeroizing<[u8; NONCE_BYTES]>,
    pub(super) version: Version,
    pub(super) suite: Suite,
    /// The number of the next record.
    pub(super) sequence: u64,
    /// How many records this key has protected, or opened.
    pub(super) records: u64,
}

impl Cipher {
    pub(super) fn new(key: &TrafficKey) -> Self {
        Self {
            key: (key.keeper)(expand(key.suite, &key.key)),
            iv: key.iv.clone(),
            version: key.version,
            suite: key.suite,
            sequence: key.sequence,
            records: key.sequence,
        }
    }

    /// The AEAD key.
    pub(super) fn aead(&self) -> &aead::LessSafeKey {
        &self.key.0
    }

    /// The nonce of the record `number`: the vector XOR the number (RFC 8446 section 5.3; RFC 7905 section 2; for TLS
    /// 1.2 AES-GCM a counter behind the salt, RFC 5288 section 3).
    pub(super) fn nonce(&self, number: u64) -> [u8; NONCE_BYTES] {
        let mut nonce = *self.iv;
        for (byte, number) in nonce.iter_mut().rev().zip(number.to_be_bytes().iter().rev()) {
            *byte ^= *number;
        }
        nonce
    }

    /// The nonce that a TLS 1.2 AES-GCM peer chose: the salt and what the record carries.
    pub(super) fn explicit_nonce(&self, explicit: [u8; 8]) -> [u8; NONCE_BYTES] {
        let [s0, s1, s2, s3, ..] = *self.iv;
        let [e0, e1, e2, e3, e4, e5, e6, e7] = explicit;
        [s0, s1, s2, s3, e0, e1, e2, e3, e4, e5, e6, e7]
    }

    /// Takes the next sequence number; none when the key is used up.
    pub(super) fn take_number(&mut self) -> Option<u64> {
        let refuse_at = match self.suite {
            Suite::Aes128Gcm | Suite::Aes256Gcm => REFUSE_AT_RECORDS,
            Suite::ChaCha20Poly1305 => u64::MAX - 1,
        };
        if self.records >= refuse_at || self.sequence == u64::MAX {
            return None;
        }
        let number = self.sequence;
        self.sequence += 1;
        self.records += 1;
        Some(number)
    }

    /// From how many records on this key should be replaced: by KeyUpdate, or in TLS 1.2 by a new connection.
    pub(super) fn replace_at(&self) -> u64 {
        match (self.suite, self.version) {
            (Suite::ChaCha20Poly1305, _) => u64::MAX,
            (_, Version::Tls12) => DRAIN_AT_RECORDS,
            (_, Version::Tls13) => UPDATE_AT_RECORDS,
        }
    }

    /// Whether TLS 1.2 AES-GCM, which sends part of the nonce, is in use.
    pub(super) fn has_explicit_nonce(&self) -> bool {
        self.version == Version::Tls12 && self.suite != Suite::ChaCha20Poly1305
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        **self.key = expand(self.suite, &[0; KEY_BYTES_MAX]);
        black_box(&mut **self.key);
    }
}

/// ring's expanded form of the key's first bytes; the array is as long as the longest key of any suite.
fn expand(suite: Suite, key: &[u8; KEY_BYTES_MAX]) -> ExpandedKey {
    let algorithm = suite.algorithm();
    let unbound = key.get(..algorithm.key_len()).and_then(|key| aead::UnboundKey::new(algorithm, key).ok());
    match unbound {
        Some(unbound) => ExpandedKey(aead::LessSafeKey::new(unbound)),
        None => unreachable!("every suite's key fits KEY_BYTES_MAX"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_count_in_the_last_bytes_and_never_repeat() {
        let key = TrafficKey::new(Version::Tls13, Suite::Aes128Gcm, &[1; 16], &[0xff; 12], 0).unwrap();
        let cipher = Cipher::new(&key);
        assert_eq!(cipher.nonce(0), [0xff; 12]);
        assert_eq!(cipher.nonce(1), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(cipher.nonce(u64::MAX), [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_key_of_the_wrong_length_is_refused() {
        assert!(TrafficKey::new(Version::Tls13, Suite::Aes256Gcm, &[0; 16], &[0; 12], 0).is_err());
        assert!(TrafficKey::new(Version::Tls12, Suite::Aes128Gcm, &[0; 16], &[0; 11], 0).is_err());
    }

    #[test]
    fn a_used_up_key_gives_no_number() {
        let key = |suite, sequence| {
            Cipher::new(&TrafficKey::new(Version::Tls13, suite, &[0; 32], &[0; 12], sequence).unwrap())
        };
        let mut cipher = key(Suite::Aes256Gcm, REFUSE_AT_RECORDS - 1);
        assert_eq!(cipher.take_number(), Some(REFUSE_AT_RECORDS - 1));
        assert_eq!(cipher.take_number(), None);
        assert_eq!(key(Suite::ChaCha20Poly1305, REFUSE_AT_RECORDS).take_number(), Some(REFUSE_AT_RECORDS));
        assert_eq!(key(Suite::ChaCha20Poly1305, u64::MAX).take_number(), None);
    }
}
