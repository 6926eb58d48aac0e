//! A TLS record layer of the peers' own (RFC 8446 section 5, RFC 5246 section 6.2, RFC 5288, RFC 7905), as plain as it can
//! be: what it agrees on with the relay's is not agreed on between copies of the same code.

use std::collections::BTreeSet;

use ring::aead;
use sealane_proto::tls::{Suite, TrafficKey, Version};

use crate::random::Random;

pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const DATA: u8 = 23;
const HEADER_BYTES: usize = 5;
pub(crate) const PLAIN_BYTES_MAX: usize = 1 << 14;

/// The relay looks at the age of its key before each buffer: 65 records of data, and what it says of its own accord.
const RECORDS_BEYOND_MAX: u64 = 70;

/// What both ends know without a handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secret {
    pub(crate) seed: u64,
    pub(crate) version: Version,
    pub(crate) suite: Suite,
}

impl Secret {
    fn bytes(self, from_relay: bool, generation: u32) -> (Vec<u8>, [u8; 12]) {
        let purpose = 0x5ec0 + u64::from(generation) * 2 + u64::from(from_relay);
        let mut random = Random::new(self.seed, purpose);
        let mut key = vec![0; if self.suite == Suite::Aes128Gcm { 16 } else { 32 }];
        let mut iv = [0; 12];
        random.fill(&mut key);
        random.fill(&mut iv);
        (key, iv)
    }

    /// The relay's form of a key.
    pub(crate) fn traffic_key(self, from_relay: bool, generation: u32) -> TrafficKey {
        let (key, iv) = self.bytes(from_relay, generation);
        TrafficKey::new(self.version, self.suite, &key, &iv, 0).expect("a key of the right length")
    }
}

/// One direction's key and its next record number.
struct Protection {
    secret: Secret,
    from_relay: bool,
    generation: u32,
    key: aead::LessSafeKey,
    iv: [u8; 12],
    number: u64,
    /// The explicit nonces of the records that were opened.
    nonces: BTreeSet<[u8; 8]>,
}

impl Protection {
    fn new(secret: Secret, from_relay: bool, generation: u32) -> Self {
        let algorithm = match secret.suite {
            Suite::Aes128Gcm => &aead::AES_128_GCM,
            Suite::Aes256Gcm => &aead::AES_256_GCM,
            Suite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        };
        let (key, iv) = secret.bytes(from_relay, generation);
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, &key).expect("a key of the right length"));
        Self { secret, from_relay, generation, key, iv, number: 0, nonces: BTreeSet::new() }
    }

    fn update(&mut self) {
        *self = Self::new(self.secret, self.from_relay, self.generation + 1);
    }

    fn has_explicit_nonce(&self) -> bool {
        self.secret.version == Version::Tls12 && self.secret.suite != Suite::ChaCha20Poly1305
    }

    fn nonce(&self, explicit: Option<[u8; 8]>) -> aead::Nonce {
        let mut nonce = self.iv;
        let number = self.number.to_be_bytes();
        for (index, byte) in nonce.iter_mut().skip(4).enumerate() {
            match explicit {
                Some(explicit) => *byte = explicit[index],
                None => *byte ^= number[index],
            }
        }
        aead::Nonce::assume_unique_for_key(nonce)
    }

    fn aad(&self, kind: u8, plain: usize, wire: usize) -> Vec<u8> {
        match self.secret.version {
            Version::Tls13 => vec![DATA, 3, 3, (wire >> 8) as u8, wire as u8],
            Version::Tls12 => {
                let mut aad = self.number.to_be_bytes().to_vec();
                aad.extend([kind, 3, 3, (plain >> 8) as u8, plain as u8]);
                aad
            }
        }
    }

    /// A record.
    fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = content.to_vec();
        let is_13 = self.secret.version == Version::Tls13;
        if is_13 {
            inner.push(kind);
            inner.resize(inner.len() + padding, 0);
        }
        let explicit = self.has_explicit_nonce().then(|| self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let body = explicit.map_or(0, |_| 8) + inner.len() + 16;
        let mut record = vec![if is_13 { DATA } else { kind }, 3, 3, (body >> 8) as u8, body as u8];
        record.extend(explicit.into_iter().flatten());
        let aad = aead::Aad::from(self.aad(kind, inner.len(), body));
        let tag = self.key.seal_in_place_separate_tag(self.nonce(explicit), aad, &mut inner).expect("a sealed record");
        record.extend(&inner);
        record.extend(tag.as_ref());
        self.number += 1;
        record
    }

    /// What is in the record at the front of `wire`, and how long it is; none when it is not whole.
    fn open(&mut self, wire: &[u8]) -> Result<Option<(u8, Vec<u8>, usize)>, String> {
        let [kind, 3, 3, high, low, rest @ ..] = wire else {
            return if wire.len() < HEADER_BYTES { Ok(None) } else { Err(format!("a header {:02x?}", &wire[..5])) };
        };
        let length = usize::from(*high) << 8 | usize::from(*low);
        if length > PLAIN_BYTES_MAX + 256 {
            return Err(format!("a record of {length} bytes"));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let is_13 = self.secret.version == Version::Tls13;
        let (explicit, sealed) = match self.has_explicit_nonce() {
            true => body.split_first_chunk::<8>().map(|(explicit, rest)| (Some(*explicit), rest)).ok_or("no nonce")?,
            false => (None, body),
        };
        // One nonce twice under one key gives away the key that authenticates (RFC 5288 section 3).
        if explicit.is_some_and(|explicit| !self.nonces.insert(explicit)) {
            return Err(format!("record {} has the nonce of an earlier one", self.number));
        }
        let plain_length = sealed.len().checked_sub(16).ok_or("a record without a tag")?;
        let aad = aead::Aad::from(self.aad(*kind, plain_length, length));
        let mut bytes = sealed.to_vec();
        let number = self.number;
        let plain = self.key.open_in_place(self.nonce(explicit), aad, &mut bytes);
        let plain = plain.map_err(|_| format!("record {number} of key {} does not open", self.generation))?;
        self.number += 1;
        let (kind, content) = match is_13 {
            false => (*kind, plain.to_vec()),
            true => {
                let end = plain.iter().rposition(|byte| *byte != 0).ok_or("a record without a type")?;
                (plain[end], plain[..end].to_vec())
            }
        };
        if content.len() > PLAIN_BYTES_MAX {
            return Err(format!("{} bytes in a record", content.len()));
        }
        Ok(Some((kind, content, HEADER_BYTES + length)))
    }
}

/// What a peer hears.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    Data(Vec<u8>),
    CloseNotify,
    Alert(u8),
    /// `is_of_age`: the key had protected as many records as it may.
    KeyUpdate {
        answer: bool,
        is_of_age: bool,
    },
}

/// A peer's end of a TLS connection whose handshake is done.
pub(crate) struct Records {
    pub(crate) version: Version,
    sending: Protection,
    receiving: Protection,
    wire: Vec<u8>,
    /// How much of `wire` has been heard.
    heard: usize,
    /// How much has been heard before `wire`.
    heard_before: u64,
    /// After so many records a key of TLS 1.3 is to be replaced.
    pub(crate) records_per_key_max: u64,
    key_wanted: bool,
}

impl Records {
    pub(crate) fn new(secret: Secret, records_per_key_max: u64) -> Self {
        Self {
            version: secret.version,
            records_per_key_max,
            key_wanted: false,
            heard_before: 0,
            sending: Protection::new(secret, false, 0),
            receiving: Protection::new(secret, true, 0),
            wire: Vec::new(),
            heard: 0,
        }
    }

    pub(crate) fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        self.sending.seal(kind, content, padding)
    }

    /// Leaves a number out: what follows is a record too late.
    pub(crate) fn skip_number(&mut self) {
        self.sending.number += 1;
    }

    /// A KeyUpdate under the old key; what follows goes under the next one.
    pub(crate) fn key_update(&mut self, request: bool) -> Vec<u8> {
        let record = self.seal(HANDSHAKE, &[24, 0, 0, 1, u8::from(request)], 0);
        self.key_wanted |= request;
        self.sending.update();
        record
    }

    /// Whether the relay's next key has been asked for since this was called last.
    pub(crate) fn take_key_wanted(&mut self) -> bool {
        std::mem::take(&mut self.key_wanted)
    }

    /// Whether its own key is so old that the relay must ask for the next one.
    pub(crate) fn is_own_key_old(&self) -> bool {
        self.version == Version::Tls13 && self.sending.number >= self.records_per_key_max
    }

    /// After how many more records of its own the key is that old.
    pub(crate) fn records_to_old_key(&self) -> Option<u64> {
        let is_short = self.version == Version::Tls13 && self.records_per_key_max < u64::MAX;
        is_short.then(|| self.records_per_key_max.saturating_sub(self.sending.number))
    }

    /// Takes bytes of the relay.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.heard_before += self.heard as u64;
        self.wire.drain(..std::mem::take(&mut self.heard));
        self.wire.extend_from_slice(bytes);
    }

    /// What they say; none when a whole record is not there. `silent_from`: no data may lie there, or behind it.
    ///
    /// # Errors
    /// What the relay did wrong.
    pub(crate) fn hear(&mut self, silent_from: Option<u64>) -> Result<Option<Heard>, String> {
        let Some((kind, content, length)) = self.receiving.open(&self.wire[self.heard..])? else { return Ok(None) };
        let begins_at = self.heard_before + self.heard as u64;
        self.heard += length;
        let (is_13, count) = (self.version == Version::Tls13, self.receiving.number);
        if is_13 && count > self.records_per_key_max.saturating_add(RECORDS_BEYOND_MAX) {
            return Err(format!("{count} records under one key, and {} are allowed", self.records_per_key_max));
        }
        if kind == DATA && silent_from.is_some_and(|from| begins_at >= from) {
            return Err("data, sent after close_notify was received under TLS 1.2".into());
        }
        match (kind, &content[..]) {
            (DATA, []) => Err("an empty record".into()),
            (DATA, _) => Ok(Some(Heard::Data(content))),
            (ALERT, [_, 0]) => Ok(Some(Heard::CloseNotify)),
            (ALERT, [_, description]) => Ok(Some(Heard::Alert(*description))),
            (HANDSHAKE, [24, 0, 0, 1, request @ (0 | 1)]) if self.version == Version::Tls13 => {
                self.receiving.update();
                Ok(Some(Heard::KeyUpdate { answer: *request == 1, is_of_age: count > self.records_per_key_max }))
            }
            _ => Err(format!("content of type {kind}: {content:02x?}")),
        }
    }
}
