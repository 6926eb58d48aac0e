//! The numbers and names that the RFCs and a Linux mount give, written out once more: whoever changes one changes two.

use std::ops::Range;

use rustls::AlertDescription as RustlsAlert;
use sealane_proto::limits::{
    BUFFER_BIG_BYTES, BUFFER_BIG_SLICES, BUFFER_PLAIN_BYTES_MAX, BUFFER_SMALL_BYTES, BUFFER_SMALL_SLICES,
    COMPOUND_BYTES_MAX, HELLO_AGAIN_BYTES_MAX, PAYLOAD_BYTES_MAX, RECORD_OVERHEAD_BYTES_MAX, RECORD_PLAIN_BYTES_MAX,
    RECORD_WIRE_BYTES_MAX, SHIFT_BELOW_BYTES, TICKET_MESSAGE_BYTES_MAX,
};
use sealane_proto::rpc::{RecordError, RecordScanner};
use sealane_proto::tls::{
    AlertDescription, Inbound, Pieces, Progress, Role, Sealer, Suite, TrafficKey, Version, Window,
};

#[test]
fn sizes_are_those_of_the_rfcs_and_of_a_mount() {
    assert_eq!(RECORD_PLAIN_BYTES_MAX, 16_384);
    // RFC 8446 section 5.2: 5 + 2^14 + 256.
    assert_eq!(RECORD_WIRE_BYTES_MAX, 16_645);
    // RFC 5288: 5 + 8 + 16; the inner type of TLS 1.3 is never there as well.
    assert_eq!(RECORD_OVERHEAD_BYTES_MAX, 30);
    // rsize and wsize, and what COMPOUND puts around them, in whole records: 65 of them.
    assert_eq!((PAYLOAD_BYTES_MAX, COMPOUND_BYTES_MAX), (1_048_576, 4_096));
    assert_eq!(BUFFER_PLAIN_BYTES_MAX, 65 * 16_384);
    assert_eq!(BUFFER_BIG_BYTES, 65 * (16_384 + 30) + 16_645);
    assert_eq!(BUFFER_SMALL_BYTES, 16_645);
    // What is not shifted is at least so long, but for the first slice and the last of each stretch.
    assert_eq!(BUFFER_BIG_SLICES, BUFFER_BIG_BYTES / SHIFT_BELOW_BYTES + 4);
    assert_eq!((BUFFER_BIG_SLICES, BUFFER_SMALL_SLICES), (533, 12));
    // A ticket is at most 2^16 - 1 bytes (RFC 8446 section 4.6.1); what is longer is refused.
    assert_eq!([TICKET_MESSAGE_BYTES_MAX, HELLO_AGAIN_BYTES_MAX], [65_536, 16_384]);
}

#[test]
fn a_big_buffer_takes_as_many_whole_records_as_are_laid_into_it() {
    for version in [Version::Tls12, Version::Tls13] {
        for (suite, key_bytes) in [(Suite::Aes128Gcm, 16), (Suite::Aes256Gcm, 32), (Suite::ChaCha20Poly1305, 32)] {
            let key = TrafficKey::new(version, suite, &[1; 32][..key_bytes], &[2; 12], 0).unwrap();
            let shape = Sealer::new(&key).shape();
            let records = shape.records_in(BUFFER_BIG_BYTES);
            assert!(records >= 65, "{version:?} {suite:?}: {records}");
            assert_eq!(records, BUFFER_BIG_BYTES / shape.stride());
            assert!(shape.stride() - RECORD_PLAIN_BYTES_MAX <= RECORD_OVERHEAD_BYTES_MAX);
        }
    }
}

/// RFC 8446 section 5.5: 2^24.5 records under AES-GCM; TLS 1.3 updates at half of it, TLS 1.2 ends its connection before.
#[test]
fn keys_are_replaced_long_before_their_limit() {
    // Those of the handshake, before the key was handed over, count too.
    const FIRST: u64 = 5;
    for (version, suite, key_bytes, records) in [
        (Version::Tls13, Suite::Aes128Gcm, 16, 1 << 23),
        (Version::Tls13, Suite::Aes256Gcm, 32, 1 << 23),
        (Version::Tls12, Suite::Aes128Gcm, 16, (1 << 24) - (1 << 20)),
        (Version::Tls12, Suite::Aes256Gcm, 32, (1 << 24) - (1 << 20)),
        (Version::Tls12, Suite::ChaCha20Poly1305, 32, u64::MAX),
        (Version::Tls13, Suite::ChaCha20Poly1305, 32, u64::MAX),
    ] {
        let key = TrafficKey::new(version, suite, &[1; 32][..key_bytes], &[2; 12], FIRST).unwrap();
        let (mut sealer, mut inbound) = (Sealer::new(&key), Inbound::new(Role::Client, &key));
        assert_eq!((sealer.replace_at(), inbound.replace_at()), (records, records), "{version:?} {suite:?}");
        let mut wire = [0; 3 * 64];
        for count in 1..=3 {
            let length = sealer.seal(&mut wire, 10).unwrap();
            let mut window = Window::holding(length);
            assert_eq!(inbound.advance(&mut wire, window.cursor(), &mut Ignored), Ok(Progress::NeedBytes));
            assert_eq!((sealer.records(), inbound.records()), (FIRST + count, FIRST + count), "{version:?} {suite:?}");
        }
    }
}

struct Ignored;

impl Pieces for Ignored {
    fn push(&mut self, _: Range<usize>) -> bool {
        true
    }

    fn grow_last(&mut self, _: usize) {}
}

/// rustls names alerts of its own; those that only older or newer protocols have are none of ours.
#[test]
fn alerts_have_the_names_that_rustls_gives_them() {
    const LEFT_BEHIND: [&str; 7] = [
        "decryptionfailed",
        "decompressionfailure",
        "nocertificate",
        "exportrestriction",
        "certificateunobtainable",
        "badcertificatehashvalue",
        "encryptedclienthellorequired",
    ];
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "").replace("unrecognised", "unrecognized");
    let mut named = 0;
    for code in 0..=255 {
        let theirs = plain(&format!("{:?}", RustlsAlert::from(code)));
        let theirs = Some(theirs).filter(|name| !name.contains("(0x") && !LEFT_BEHIND.contains(&name.as_str()));
        let ours = AlertDescription(code).name();
        assert_eq!(ours.map(plain), theirs, "alert {code}");
        named += usize::from(ours.is_some());
        let shown = ours.map_or_else(|| code.to_string(), str::to_string);
        assert_eq!(format!("{0} {0:?}", AlertDescription(code)), format!("{shown} {shown}"));
    }
    assert_eq!(named, 28);
    // The level: 1 is a warning, 2 is fatal.
    for (alert, level) in [
        (AlertDescription::CLOSE_NOTIFY, 1),
        (AlertDescription::NO_RENEGOTIATION, 1),
        (AlertDescription::INTERNAL_ERROR, 2),
    ] {
        assert_eq!(alert.encode(), [level, alert.0]);
    }
}

#[test]
fn a_fragment_may_have_64_mib_and_not_a_byte_more() {
    let mark = |bytes: u32| (1 << 31 | bytes).to_be_bytes();
    assert_eq!(RecordScanner::new().advance(&mark(64 << 20)), Ok(0));
    assert_eq!(RecordScanner::new().advance(&mark((64 << 20) + 1)), Err(RecordError::NotRpc));
    assert_eq!(RecordScanner::new().advance(&mark(20)), Ok(0));
    assert_eq!(RecordScanner::new().advance(&mark(19)), Err(RecordError::NotRpc));
}
