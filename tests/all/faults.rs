//! Peers that break the protocol, break off, or do unusual but lawful things.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use sealane_proto::tls::{AlertDescription, ContentType, TlsError, key_update};

use crate::support::bytes::{Random, call, reply};
use crate::support::peer::{Peer, PeerEnd, PeerListener, VERSIONS};
use crate::support::process::{SOON, now};
use crate::support::sealane::{DRIVERS, Joined, Sealane, expect_reset, join};

/// With room for a machine that stops for a moment.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What a hostile server sends, and the alert that it gets for it.
type Attack = (&'static str, fn(&mut Peer), AlertDescription);

fn flipped_bit(peer: &mut Peer) {
    let mut record = peer.record(ContentType::APPLICATION_DATA, &[1; 5000]);
    record[2500] ^= 4;
    peer.send_raw(&record);
}

fn oversized(peer: &mut Peer) {
    peer.send_raw(&[23, 3, 3, 0x41, 0x01, 1, 2, 3]);
}

fn too_long_inside(peer: &mut Peer) {
    peer.send_record(ContentType::APPLICATION_DATA, &[1; 16385]);
}

fn garbage(peer: &mut Peer) {
    peer.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n");
}

fn change_cipher_spec(peer: &mut Peer) {
    peer.send_record(ContentType::CHANGE_CIPHER_SPEC, &[1]);
}

fn empty_records(peer: &mut Peer) {
    let records: Vec<u8> = (0..40).flat_map(|_| peer.record(ContentType::APPLICATION_DATA, b"")).collect();
    // At once: after one too many nothing more can be said.
    peer.send_raw(&records);
}

fn interleaved(peer: &mut Peer) {
    // At once: TLS 1.2 has no such message after the handshake, and ends the connection at the first record.
    let mut records = peer.record(ContentType::HANDSHAKE, &[4, 0, 0, 100, 1, 2]);
    records.extend(peer.record(ContentType::APPLICATION_DATA, b"in between"));
    peer.send_raw(&records);
}

fn bad_alert(peer: &mut Peer) {
    peer.send_record(ContentType::ALERT, &[2]);
}

#[test]
fn what_breaks_the_protocol_gets_its_alert_and_the_client_a_reset() {
    let attacks: [Attack; 8] = [
        ("flipped bit", flipped_bit, AlertDescription::BAD_RECORD_MAC),
        ("oversized", oversized, AlertDescription::RECORD_OVERFLOW),
        ("too long inside", too_long_inside, AlertDescription::RECORD_OVERFLOW),
        ("garbage", garbage, AlertDescription::UNEXPECTED_MESSAGE),
        ("change_cipher_spec", change_cipher_spec, AlertDescription::UNEXPECTED_MESSAGE),
        ("empty records", empty_records, AlertDescription::UNEXPECTED_MESSAGE),
        ("interleaved", interleaved, AlertDescription::UNEXPECTED_MESSAGE),
        ("bad alert", bad_alert, AlertDescription::DECODE_ERROR),
    ];
    for driver in DRIVERS {
        for version in VERSIONS {
            let listener = PeerListener::bind(version);
            let sealane = Sealane::start(driver, listener.port(), &[]);
            // Another connection of the same worker pool lives through all of it.
            let mut bystander = sealane.connect();
            let mut bystander_peer = listener.accept();
            for (name, attack, alert) in attacks {
                let mut client = sealane.connect();
                let mut peer = listener.accept();
                client.write_all(&call(1, b"x")).unwrap();
                peer.read(45);
                peer.send(&reply(1, b"good"));
                client.read_exact(&mut [0; 32]).unwrap();
                attack(&mut peer);
                expect_reset(&mut client, AT_ONCE);
                let expected = PeerEnd::Tls(TlsError::PeerAlert(alert));
                assert_eq!(peer.read_to_end(), expected, "{driver} {version:?}: {name}");
            }
            bystander.write_all(&call(7, b"still there")).unwrap();
            assert_eq!(bystander_peer.read(55), call(7, b"still there"));
        }
    }
}

#[test]
fn a_record_under_the_old_key_behind_a_key_update_ends_the_connection() {
    for driver in DRIVERS {
        let Joined { sealane, mut client, mut peer, .. } = join(driver, &rustls::version::TLS13, &[]);
        // The sender of this does not know its own next key: the second record does not open.
        peer.send_record(ContentType::HANDSHAKE, &key_update(true));
        peer.send_record(ContentType::HANDSHAKE, &key_update(true));
        expect_reset(&mut client, SOON);
        sealane.wait_for("does not authenticate");
    }
}

#[test]
fn an_alert_of_the_server_is_named_and_the_client_reset() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let Joined { sealane, mut client, mut peer, .. } = join(driver, version, &[]);
            sealane.wait_for("opened:");
            peer.send_record(ContentType::ALERT, &[2, 80]);
            expect_reset(&mut client, AT_ONCE);
            sealane.wait_for("the peer sent the alert internal_error");
        }
    }
}

#[test]
fn what_is_not_tls_or_never_answers_ends_in_a_reset_with_a_reason() {
    for driver in DRIVERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for (index, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                if index == 0 {
                    stream.write_all(b"220 mail.example.com ESMTP ready\r\n").unwrap();
                    let _ = stream.read(&mut [0; 1000]);
                } else {
                    silent.push(stream);
                }
            }
        });
        let args = ["--handshake-timeout", "0.3", "--retry-timeout", "1"];
        let sealane = Sealane::start(driver, port, &args);
        expect_reset(&mut sealane.connect_and_say(b"x"), SOON);
        sealane.wait_for("does not seem to speak TLS");
        let started = now();
        expect_reset(&mut sealane.connect_and_say(b"x"), SOON);
        assert!(now() - started < Duration::from_secs(3), "{driver}");
        sealane.wait_for("gave up after 1 s: TLS handshake with");
    }
}

#[test]
fn records_of_one_byte_are_more_pieces_than_one_write_takes_and_all_arrive() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, version, &[]);
            // A long RPC record, so that big buffers are in use: 1 MiB of wire bytes then holds 30,000 pieces.
            let text = reply(1, &Random::new(5).bytes(150_000));
            let wire = peer.records(&text, 1);
            let sending = std::thread::spawn(move || {
                peer.send_raw(&wire);
                peer
            });
            let mut back = vec![0; text.len()];
            client.read_exact(&mut back).unwrap();
            assert!(back == text, "{driver} {version:?}");
            drop(sending.join().unwrap());
        }
    }
}

#[test]
fn mixed_record_sizes_arrive_in_order() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, version, &[]);
            let mut random = Random::new(11);
            let text = random.bytes(3_000_000);
            let mut wire = Vec::new();
            let mut rest = &text[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(random.length(16384).min(rest.len()));
                wire.extend(peer.record(ContentType::APPLICATION_DATA, now));
                rest = later;
            }
            let sending = std::thread::spawn(move || {
                // Cut anywhere, with pauses that let every buffer be returned in the middle of a record.
                for (index, part) in wire.chunks(77_777).enumerate() {
                    peer.send_raw(part);
                    if index % 8 == 0 {
                        std::thread::sleep(Duration::from_millis(30));
                    }
                }
                peer
            });
            let mut back = vec![0; text.len()];
            client.read_exact(&mut back).unwrap();
            assert!(back == text, "{driver} {version:?}");
            drop(sending.join().unwrap());
        }
    }
}

#[test]
fn a_record_longer_than_any_buffer_streams_through_both_ways() {
    for driver in DRIVERS {
        let Joined { sealane, mut client, mut peer, .. } = join(driver, &rustls::version::TLS12, &[]);
        let body = Random::new(2).bytes(9 << 20);
        let (out, back) = (call(1, &body), reply(1, &body));
        let (out_bytes, expected) = (out.len(), back.clone());
        let serving = std::thread::spawn(move || {
            let got = peer.read(out_bytes);
            peer.send(&back);
            (peer, got)
        });
        client.write_all(&out).unwrap();
        let mut got = vec![0; expected.len()];
        client.read_exact(&mut got).unwrap();
        assert!(got == expected, "{driver}");
        let (peer, got) = serving.join().unwrap();
        assert!(got == out, "{driver}");
        drop((client, peer));
        sealane.wait_for("calls=1");
        assert_eq!(sealane.process.count("not ONC RPC"), 0);
    }
}

#[test]
fn a_stream_that_is_not_rpc_is_relayed_and_reported_once() {
    for driver in DRIVERS {
        let Joined { mut sealane, mut client, mut peer, .. } = join(driver, &rustls::version::TLS13, &[]);
        for round in 0..5 {
            let text = format!("SSH-2.0-round-{round}\r\n");
            client.write_all(text.as_bytes()).unwrap();
            assert_eq!(peer.read(text.len()), text.as_bytes());
            peer.send(text.as_bytes());
            let mut back = vec![0; text.len()];
            client.read_exact(&mut back).unwrap();
            assert_eq!(back, text.as_bytes());
        }
        drop(client);
        assert_eq!(peer.read_to_end(), PeerEnd::Closed, "{driver}");
        peer.send_record(ContentType::ALERT, &[1, 0]);
        sealane.wait_for("closed: closed by the client");
        assert_eq!(sealane.process.count("the client's stream is not ONC RPC"), 1);
        assert_eq!(sealane.process.count("the server's stream is not ONC RPC"), 1);
        sealane.process.signal("TERM");
        sealane.process.wait();
        sealane.wait_for("connections_not_rpc_total=1");
    }
}
