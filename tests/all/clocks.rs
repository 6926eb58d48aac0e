//! Peers that are slow, or quiet, or have been stopped, and are not dead.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use sealane_proto::tls::ContentType;

use crate::ends::reset;
use crate::support::bytes::{Random, call, reply};
use crate::support::peer::PeerEnd;
use crate::support::process::SOON;
use crate::support::sealane::{DRIVERS, Joined, expect_reset, join};

const TLS13: &rustls::SupportedProtocolVersion = &rustls::version::TLS13;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// Writes it all, ends, and closes, however long that takes.
fn say_all(mut client: TcpStream, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        client.write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    })
}

pub fn exchange(client: &mut TcpStream, peer: &mut crate::support::peer::Peer, xid: u32) {
    client.write_all(&call(xid, b"a call")).unwrap();
    assert_eq!(peer.read(call(xid, b"a call").len()), call(xid, b"a call"));
    let answer = reply(xid, b"an answer");
    peer.send(&answer);
    let mut heard = vec![0; answer.len()];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(heard, answer);
}

#[test]
fn a_peer_whose_window_is_closed_is_not_taken_for_dead() {
    for driver in DRIVERS {
        let args = ["--ack-timeout", "1", "--send-buffer", "65536"];
        let Joined { sealane, client, mut peer, .. } = join(driver, TLS13, &args);
        let calls: Vec<u8> = (0..12).flat_map(|xid| call(xid, &Random::new(xid.into()).bytes(1_000_000))).collect();
        let saying = say_all(client, calls.clone());
        // The kernel asks a closed window ever more rarely, soon less than once in that time-out.
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(sealane.process.count("closed:"), 0, "{driver}: {}", sealane.process.output());
        assert_eq!(peer.read_to_end(), PeerEnd::Closed, "{driver}");
        assert!(peer.take() == calls, "{driver}");
        saying.join().unwrap();
    }
}

#[test]
fn a_client_that_has_closed_well_is_not_taken_for_reset() {
    for driver in DRIVERS {
        let Joined { sealane: _sealane, client, mut peer, .. } = join(driver, TLS13, &["--send-buffer", "65536"]);
        peer.send_record(ContentType::ALERT, &CLOSE_NOTIFY);
        let text = call(2, &Random::new(2).bytes(1_500_000));
        assert_eq!((&client).read(&mut [0]).unwrap(), 0, "{driver}: FIN");
        let saying = say_all(client, text.clone());
        // It has said all and closed; what it said is still in the sockets, before a server that takes its time.
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(peer.read_to_end(), PeerEnd::Closed, "{driver}");
        assert!(peer.take() == text, "{driver}");
        saying.join().unwrap();
    }
}

#[test]
fn a_call_that_was_said_twice_and_answered_once_leaves_nothing_owed() {
    for driver in DRIVERS {
        let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, TLS13, &["--silence-timeout", "1"]);
        let text = call(1, b"a call");
        client.write_all(&[&text[..], &text].concat()).unwrap();
        assert_eq!(peer.read(2 * text.len()), [&text[..], &text].concat());
        peer.send(&reply(1, b"once"));
        client.read_exact(&mut vec![0; reply(1, b"once").len()]).unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        exchange(&mut client, &mut peer, 2);
    }
}

#[test]
fn a_reply_that_nobody_asked_for_pays_no_debt() {
    for driver in DRIVERS {
        let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, TLS13, &["--silence-timeout", "1"]);
        peer.send(&reply(99, b"to nothing"));
        client.read_exact(&mut vec![0; reply(99, b"to nothing").len()]).unwrap();
        client.write_all(&call(1, b"a call")).unwrap();
        expect_reset(&mut client, SOON);
    }
}

#[test]
fn a_process_that_was_stopped_reads_before_it_judges() {
    for driver in DRIVERS {
        let Joined { sealane, mut client, mut peer, .. } = join(driver, TLS13, &["--silence-timeout", "1"]);
        for xid in 0..4 {
            let text = call(2 * xid, b"a call");
            client.write_all(&text).unwrap();
            assert_eq!(peer.read(text.len()), text);
            // So that it has seen what is owed.
            std::thread::sleep(Duration::from_millis(300));
            sealane.process.signal("STOP");
            peer.send(&reply(2 * xid, b"an answer"));
            std::thread::sleep(Duration::from_millis(1500));
            sealane.process.signal("CONT");
            client.read_exact(&mut vec![0; reply(0, b"an answer").len()]).unwrap();
            exchange(&mut client, &mut peer, 2 * xid + 1);
        }
    }
}

#[test]
fn what_a_server_does_not_take_behind_its_close_is_a_failure() {
    for driver in DRIVERS {
        let Joined { sealane, client, mut peer, .. } = join(driver, TLS13, &["--send-buffer", "65536"]);
        peer.send_record(ContentType::ALERT, &CLOSE_NOTIFY);
        assert_eq!((&client).read(&mut [0]).unwrap(), 0, "{driver}: FIN");
        let mut writer = client.try_clone().unwrap();
        let saying = std::thread::spawn(move || writer.write_all(&call(2, &[7; 3_000_000])));
        std::thread::sleep(Duration::from_millis(500));
        reset(peer.stream);
        sealane.wait_for("closed: ");
        let log = sealane.process.output();
        assert!(!log.contains("closed: closed by the server"), "{driver}: {log}");
        assert!(log.contains(": send: "), "{driver}: {log}");
        // Whatever it still had to say, it hears that it went nowhere.
        drop(client);
        let _ = saying.join().unwrap();
    }
}

#[test]
fn a_slow_reply_is_awaited_when_a_tls_12_key_is_used_up() {
    for driver in DRIVERS {
        let args = ["--records-per-key-max", "10"];
        let Joined { sealane, mut client, mut peer, .. } = join(driver, &rustls::version::TLS12, &args);
        for xid in 0..12 {
            client.write_all(&call(xid, b"a call")).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        sealane.wait_for("the TLS 1.2 key was used up: the connection ends");
        // Longer than what is granted to a callback.
        std::thread::sleep(Duration::from_secs(6));
        assert_eq!(sealane.process.count("closed:"), 0, "{driver}: {}", sealane.process.output());
        let mut taken = 0;
        peer.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        while peer.has_data() {
            assert_eq!(peer.read(call(0, b"a call").len()), call(taken, b"a call"), "{driver}");
            taken += 1;
        }
        (0..taken).for_each(|xid| peer.send(&reply(xid, b"late")));
        let mut heard = Vec::new();
        client
            .read_exact({
                heard.resize(taken as usize * reply(0, b"late").len(), 0);
                &mut heard
            })
            .unwrap();
        assert_eq!(heard, (0..taken).flat_map(|xid| reply(xid, b"late")).collect::<Vec<_>>(), "{driver}");
        sealane.wait_for("closed: the TLS 1.2 key was used up");
    }
}

#[test]
fn a_handshake_message_that_is_never_whole_has_its_time() {
    for driver in DRIVERS {
        let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, TLS13, &["--stall-timeout", "1"]);
        exchange(&mut client, &mut peer, 1);
        // Longer than the limit: what is whole is not timed.
        std::thread::sleep(Duration::from_millis(1500));
        exchange(&mut client, &mut peer, 2);
        peer.send_record(ContentType::HANDSHAKE, &[4, 0, 0, 9, 1]);
        expect_reset(&mut client, SOON);
    }
}
