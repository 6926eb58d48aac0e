//! What a record layer owes besides sealing and opening: content rules, limits, floods, alerts.

use std::ops::Range;

use sealane_proto::limits::{HELLO_AGAIN_BYTES_MAX, TICKET_MESSAGE_BYTES_MAX};
use sealane_proto::tls::{
    AlertDescription, ContentType, Inbound, Invalid, PeerMisbehaved, Pieces, Progress, Role, Sealer, Suite, TlsError,
    TrafficKey, Version, Window, key_update,
};

const VERSIONS: [Version; 2] = [Version::Tls12, Version::Tls13];
const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

fn key_at(version: Version, suite: Suite, sequence: u64) -> TrafficKey {
    let length = if suite == Suite::Aes128Gcm { 16 } else { 32 };
    TrafficKey::new(version, suite, &[7; 32][..length], &[9; 12], sequence).unwrap()
}

fn key(version: Version, suite: Suite) -> TrafficKey {
    key_at(version, suite, 0)
}

#[derive(Default)]
struct Data(Vec<Range<usize>>);

impl Pieces for Data {
    fn push(&mut self, range: Range<usize>) -> bool {
        self.0.push(range);
        true
    }

    fn grow_last(&mut self, end: usize) {
        self.0.last_mut().unwrap().end = end;
    }
}

/// One direction between a sealer that does as it is told and the receiver under test.
struct Line {
    sealer: Sealer,
    inbound: Inbound,
}

impl Line {
    fn new(version: Version) -> Self {
        Self::with(version, Suite::Aes128Gcm, Role::Client)
    }

    fn with(version: Version, suite: Suite, role: Role) -> Self {
        let key = key(version, suite);
        Self { sealer: Sealer::new(&key), inbound: Inbound::new(role, &key) }
    }

    fn record(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        let mut wire = vec![0; content.len() + 64];
        let length = self.sealer.seal_message(ContentType(content_type), content, &mut wire).unwrap();
        wire.truncate(length);
        wire
    }

    /// What the receiver makes of `wire`: its data, then what stopped it.
    fn judge(&mut self, wire: &[u8]) -> (Vec<u8>, Result<Progress, TlsError>) {
        let mut bytes = wire.to_vec();
        let mut window = Window::holding(bytes.len());
        let mut data = Data::default();
        let progress = self.inbound.advance(&mut bytes, window.cursor(), &mut data);
        (data.0.into_iter().flat_map(|range| bytes[range].to_vec()).collect(), progress)
    }

    fn send(&mut self, content_type: u8, content: &[u8]) -> (Vec<u8>, Result<Progress, TlsError>) {
        let record = self.record(content_type, content);
        self.judge(&record)
    }

    fn fails(&mut self, content_type: u8, content: &[u8], error: TlsError) {
        assert_eq!(self.send(content_type, content), (vec![], Err(error)), "type {content_type}");
        // What has failed stays failed.
        assert_eq!(self.send(23, b"more"), (vec![], Err(error)));
    }
}

const NOTHING: Result<Progress, TlsError> = Ok(Progress::NeedBytes);

#[test]
fn every_flipped_bit_of_a_record_is_noticed() {
    for version in VERSIONS {
        for suite in SUITES {
            let wire = Line::with(version, suite, Role::Client).record(23, b"to be changed");
            for bit in 0..wire.len() * 8 {
                let mut line = Line::with(version, suite, Role::Client);
                let mut changed = wire.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let (data, progress) = line.judge(&changed);
                // A longer length waits for bytes that never come; everything else is an error, and no data comes out.
                let waits = progress == NOTHING && (24..40).contains(&bit);
                assert!(
                    data.is_empty() && (progress.is_err() || waits),
                    "{version:?} {suite:?} bit {bit}: {progress:?}"
                );
                if bit >= 40 {
                    assert_eq!(progress, Err(TlsError::BadRecordMac), "{version:?} {suite:?} bit {bit}");
                }
            }
        }
    }
}

#[test]
fn records_in_the_wrong_order_or_twice_do_not_open() {
    for version in VERSIONS {
        for suite in SUITES {
            let mut line = Line::with(version, suite, Role::Client);
            let (first, second) = (line.record(23, b"first"), line.record(23, b"second"));
            assert_eq!(line.judge(&second).1, Err(TlsError::BadRecordMac), "{version:?} {suite:?}: order");
            let mut line = Line::with(version, suite, Role::Client);
            assert_eq!(line.judge(&first), (b"first".to_vec(), NOTHING));
            assert_eq!(line.judge(&first).1, Err(TlsError::BadRecordMac), "{version:?} {suite:?}: replay");
        }
    }
}

#[test]
fn a_record_longer_than_the_protocol_allows_is_record_overflow_before_it_has_come() {
    for version in VERSIONS {
        let mut line = Line::new(version);
        let longest = [23, 3, 3, 0x41, 0x00];
        assert_eq!(line.judge(&longest), (vec![], NOTHING), "{version:?}: 2^14 + 256 may be awaited");
        assert_eq!(line.judge(&[23, 3, 3, 0x41, 0x01]).1, Err(TlsError::RecordOverflow), "{version:?}");
        assert_eq!(TlsError::RecordOverflow.alert(), Some(AlertDescription::RECORD_OVERFLOW));
        // Short enough on the wire, too long inside.
        let mut line = Line::new(version);
        assert_eq!(line.send(23, &[5; 16384]).1, NOTHING, "{version:?}: 2^14 is lawful");
        assert_eq!(line.send(23, &[5; 16385]).1, Err(TlsError::RecordOverflow), "{version:?}");
    }
}

#[test]
fn garbage_and_foreign_versions_are_no_records() {
    for version in VERSIONS {
        assert_eq!(
            Line::new(version).judge(b"HTTP/1.1 400 Bad Request").1,
            Err(TlsError::PeerMisbehaved(PeerMisbehaved::RecordType(b'H')))
        );
    }
    assert_eq!(Line::new(Version::Tls12).judge(&[23, 3, 1, 0, 32]).1, Err(TlsError::Invalid(Invalid::RecordVersion)));
    // A record too short for its own tag.
    for version in VERSIONS {
        assert_eq!(Line::new(version).judge(&[23, 3, 3, 0, 3, 1, 2, 3]).1, Err(TlsError::BadRecordMac));
    }
}

#[test]
fn only_the_content_types_of_an_established_connection_are_taken() {
    let unexpected = |kind| TlsError::PeerMisbehaved(PeerMisbehaved::ContentType(kind));
    for version in VERSIONS {
        Line::new(version).fails(20, &[1], unexpected(20));
    }
    Line::new(Version::Tls13).fails(24, &[1], unexpected(24));
    // Unprotected records after the handshake.
    for kind in [20, 21, 22] {
        assert_eq!(Line::new(Version::Tls13).judge(&[kind, 3, 3, 0, 1, 1]).1, Err(unexpected(kind)));
    }
}

#[test]
fn empty_and_padded_records_are_lawful_but_not_for_ever() {
    for version in VERSIONS {
        let mut line = Line::new(version);
        for _ in 0..32 {
            assert_eq!(line.send(23, b""), (vec![], NOTHING));
        }
        assert_eq!(line.send(23, b"x"), (b"x".to_vec(), NOTHING), "{version:?}: data resets the count");
        for _ in 0..32 {
            assert_eq!(line.send(23, b"").1, NOTHING);
        }
        line.fails(23, b"", TlsError::PeerMisbehaved(PeerMisbehaved::TooManyEmptyRecords));
        for kind in [21, 22] {
            Line::new(version).fails(kind, b"", TlsError::PeerMisbehaved(PeerMisbehaved::NoContent));
        }
    }
    // TLSInnerPlaintext by hand: content, type, padding; the sealer adds one more zero as its type.
    let mut line = Line::new(Version::Tls13);
    assert_eq!(line.send(0, b"padded\x17\0\0\0"), (b"padded".to_vec(), NOTHING));
    assert_eq!(line.send(0, b"\x17\0\0\0"), (vec![], NOTHING));
    line.fails(0, &[0; 100], TlsError::PeerMisbehaved(PeerMisbehaved::NoContent));
}

#[test]
fn alerts_end_the_stream_or_are_counted() {
    for version in VERSIONS {
        let mut line = Line::new(version);
        assert_eq!(line.send(21, &[1, 0]), (vec![], Ok(Progress::Closed)));
        assert_eq!(line.send(23, b"after the end"), (vec![], Ok(Progress::Closed)), "nothing is read behind it");
        for content in [&[2][..], &[2, 20, 0], &[1, 0, 1, 0]] {
            Line::new(version).fails(21, content, TlsError::Invalid(Invalid::Alert));
        }
        Line::new(version).fails(21, &[2, 20], TlsError::PeerAlert(AlertDescription::BAD_RECORD_MAC));
        assert_eq!(TlsError::PeerAlert(AlertDescription::BAD_RECORD_MAC).alert(), None);
    }
    // In TLS 1.3 the level says nothing: an error stays an error.
    Line::new(Version::Tls13).fails(21, &[1, 40], TlsError::PeerAlert(AlertDescription(40)));
    for (version, warning) in [(Version::Tls12, [1, 112]), (Version::Tls13, [1, 90])] {
        let mut line = Line::new(version);
        for _ in 0..4 {
            assert_eq!(line.send(21, &warning).1, NOTHING, "{version:?}");
        }
        assert_eq!(line.send(23, b"data"), (b"data".to_vec(), NOTHING));
        for _ in 0..4 {
            assert_eq!(line.send(21, &warning).1, NOTHING);
        }
        line.fails(21, &warning, TlsError::PeerMisbehaved(PeerMisbehaved::TooManyWarnings));
    }
}

#[test]
fn key_update_ends_its_record_and_what_follows_needs_the_next_key() {
    let next = TrafficKey::new(Version::Tls13, Suite::Aes128Gcm, &[1; 16], &[2; 12], 0).unwrap();
    for request in [false, true] {
        let mut line = Line::new(Version::Tls13);
        let mut wire = line.record(23, b"old key");
        wire.extend(line.record(22, &key_update(request)));
        line.sealer.rekey(&next);
        wire.extend(line.record(23, b"new key"));
        let mut bytes = wire.clone();
        let mut window = Window::holding(bytes.len());
        let mut data = Data::default();
        let progress = line.inbound.advance(&mut bytes, window.cursor(), &mut data);
        assert_eq!(progress, Ok(Progress::KeyUpdate { answer: request }));
        line.inbound.rekey(&next);
        assert_eq!(line.inbound.advance(&mut bytes, window.cursor(), &mut data), NOTHING);
        let texts: Vec<&[u8]> = data.0.iter().map(|range| &bytes[range.clone()]).collect();
        assert_eq!(texts.concat(), b"old keynew key");
    }
    let mut two = key_update(false).to_vec();
    two.extend(key_update(false));
    Line::new(Version::Tls13).fails(22, &two, TlsError::PeerMisbehaved(PeerMisbehaved::KeyUpdateNotLast));
    Line::new(Version::Tls13).fails(22, &[24, 0, 0, 1, 2], TlsError::KeyUpdateValue(2));
    Line::new(Version::Tls13).fails(22, &[24, 0, 0, 2, 0, 0], TlsError::Invalid(Invalid::KeyUpdate));
    Line::new(Version::Tls12).fails(
        22,
        &key_update(false),
        TlsError::PeerMisbehaved(PeerMisbehaved::HandshakeType(24)),
    );
}

#[test]
fn a_flood_of_key_updates_is_refused() {
    let mut line = Line::new(Version::Tls13);
    let same = key(Version::Tls13, Suite::Aes128Gcm);
    for round in 0..33 {
        let (_, progress) = line.send(22, &key_update(true));
        if round < 32 {
            assert_eq!(progress, Ok(Progress::KeyUpdate { answer: true }), "round {round}");
            line.inbound.rekey(&same);
            line.sealer.rekey(&same);
        } else {
            assert_eq!(progress, Err(TlsError::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdates)));
        }
    }
}

#[test]
fn tickets_are_put_together_from_any_split_and_only_a_client_gets_them() {
    let body: Vec<u8> = (0..200).collect();
    let mut message = vec![4, 0, 0, 200];
    message.extend(&body);
    message.extend([4, 0, 0, 1, 9]);
    for step in 1..=message.len() {
        let mut line = Line::new(Version::Tls13);
        let wire: Vec<u8> = message.chunks(step).flat_map(|part| line.record(22, part)).collect();
        let mut bytes = wire.clone();
        let mut window = Window::holding(bytes.len());
        let mut tickets = Vec::new();
        loop {
            match line.inbound.advance(&mut bytes, window.cursor(), &mut Data::default()).unwrap() {
                Progress::Ticket(ticket) => tickets.push(ticket),
                Progress::NeedBytes => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(tickets, [body.clone(), vec![9]], "step {step}");
    }
    let mut server = Line::with(Version::Tls13, Suite::Aes128Gcm, Role::Server);
    server.fails(22, &message, TlsError::PeerMisbehaved(PeerMisbehaved::HandshakeType(4)));
}

#[test]
fn a_handshake_message_is_not_interrupted_and_not_endless() {
    let interleaved = TlsError::PeerMisbehaved(PeerMisbehaved::Interleaved);
    for (kind, content) in [(23, &b"data"[..]), (23, b""), (21, &[1, 0])] {
        let mut line = Line::new(Version::Tls13);
        assert_eq!(line.send(22, &[4, 0, 0, 9, 1]).1, NOTHING);
        line.fails(kind, content, interleaved);
    }
    let head = |kind: u8, length: usize| {
        let [_, l0, l1, l2] = (length as u32).to_be_bytes();
        [kind, l0, l1, l2]
    };
    let too_long = TlsError::Invalid(Invalid::HandshakeTooLong);
    assert_eq!(Line::new(Version::Tls13).send(22, &head(4, TICKET_MESSAGE_BYTES_MAX)).1, NOTHING);
    Line::new(Version::Tls13).fails(22, &head(4, TICKET_MESSAGE_BYTES_MAX + 1), too_long);
    let server = || Line::with(Version::Tls12, Suite::Aes128Gcm, Role::Server);
    assert_eq!(server().send(22, &head(1, HELLO_AGAIN_BYTES_MAX)).1, NOTHING);
    server().fails(22, &head(1, HELLO_AGAIN_BYTES_MAX + 1), too_long);
    // What may not come is refused when its head has come, and nothing of it is kept.
    for kind in [1, 2, 8, 13, 20] {
        let unexpected = TlsError::PeerMisbehaved(PeerMisbehaved::HandshakeType(kind));
        Line::new(Version::Tls13).fails(22, &head(kind, 0x00ff_ffff), unexpected);
    }
    Line::new(Version::Tls13).fails(22, &head(24, 2), TlsError::Invalid(Invalid::KeyUpdate));
    Line::new(Version::Tls12).fails(22, &head(0, 1), TlsError::Invalid(Invalid::HelloRequest));
}

#[test]
fn one_renegotiation_request_is_put_up_with() {
    let mut line = Line::new(Version::Tls12);
    assert_eq!(line.send(22, &[0, 0, 0, 0]).1, Ok(Progress::Renegotiation));
    assert_eq!(line.send(23, b"data"), (b"data".to_vec(), NOTHING));
    assert_eq!(line.send(22, &[0, 0, 0, 0]).1, Ok(Progress::Renegotiation));
    line.fails(22, &[0, 0, 0, 0], TlsError::PeerMisbehaved(PeerMisbehaved::TooManyRenegotiations));
    Line::new(Version::Tls12).fails(22, &[0, 0, 0, 1, 0], TlsError::Invalid(Invalid::HelloRequest));
    // What asks a client for it is HelloRequest, what asks a server is ClientHello; each is nothing to the other.
    let mut line = Line::with(Version::Tls12, Suite::Aes128Gcm, Role::Server);
    assert_eq!(line.send(22, &[1, 0, 0, 2, 3, 3]).1, Ok(Progress::Renegotiation));
    line.fails(22, &[1, 0, 0, 2, 3, 3], TlsError::PeerMisbehaved(PeerMisbehaved::TooManyRenegotiations));
    let mut line = Line::with(Version::Tls12, Suite::Aes128Gcm, Role::Server);
    line.fails(22, &[0, 0, 0, 0], TlsError::PeerMisbehaved(PeerMisbehaved::HandshakeType(0)));
    Line::new(Version::Tls12).fails(22, &[1, 0, 0, 0], TlsError::PeerMisbehaved(PeerMisbehaved::HandshakeType(1)));
    let mut line = Line::with(Version::Tls13, Suite::Aes128Gcm, Role::Server);
    line.fails(22, &[1, 0, 0, 0], TlsError::PeerMisbehaved(PeerMisbehaved::HandshakeType(1)));
    Line::new(Version::Tls13).fails(22, &[0, 0, 0, 0], TlsError::PeerMisbehaved(PeerMisbehaved::HandshakeType(0)));
}

#[test]
fn a_used_up_key_neither_seals_nor_opens() {
    for version in VERSIONS {
        let last = key_at(version, Suite::Aes256Gcm, 23_726_565);
        let mut line = Line { sealer: Sealer::new(&last), inbound: Inbound::new(Role::Client, &last) };
        assert!(line.sealer.records() > line.sealer.replace_at());
        assert_eq!(line.send(23, b"last"), (b"last".to_vec(), NOTHING), "{version:?}");
        let sealed = line.sealer.seal_message(ContentType::APPLICATION_DATA, b"one more", &mut [0; 64]);
        assert_eq!(sealed, Err(TlsError::KeyExhausted));
        let mut other = Sealer::new(&key_at(version, Suite::Aes256Gcm, 23_726_566 - 1));
        let mut wire = [0; 64];
        let length = other.seal_message(ContentType::APPLICATION_DATA, b"one more", &mut wire).unwrap();
        assert_eq!(line.judge(&wire[..length]).1, Err(TlsError::KeyExhausted));
    }
    let sealer = |version, suite| Sealer::new(&key(version, suite)).replace_at();
    assert_eq!(sealer(Version::Tls13, Suite::Aes128Gcm), 1 << 23);
    assert_eq!(sealer(Version::Tls12, Suite::Aes128Gcm), (1 << 24) - (1 << 20));
    assert_eq!(sealer(Version::Tls12, Suite::ChaCha20Poly1305), u64::MAX);
}

#[test]
fn a_buffer_that_is_too_short_is_an_error_and_costs_no_sequence_number() {
    let mut line = Line::new(Version::Tls13);
    for length in 0..4 + 22 {
        let sealed = line.sealer.seal_message(ContentType::APPLICATION_DATA, b"data", &mut vec![0; length]);
        assert!(matches!(sealed, Err(TlsError::ApiMisuse(_))), "{length}");
    }
    assert_eq!(line.send(23, b"data"), (b"data".to_vec(), NOTHING), "the numbers still agree");
    assert_eq!(line.judge(&[]), (vec![], NOTHING));
}
