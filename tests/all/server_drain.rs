//! A TLS 1.2 key that is used up, in server mode: its connection takes no more calls, and ends when those it took are answered.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use sealane_proto::tls::{AlertDescription, ContentType, TlsError};

use crate::ends::reset;
use crate::server_ends::{Joined, hear, join};
use crate::support::bytes::{call, reply};
use crate::support::peer::PeerEnd;
use crate::support::process::now;
use crate::support::sealane::DRIVERS;

#[test]
fn a_tls_12_key_that_is_used_up_ends_the_connection_at_a_boundary() {
    for driver in DRIVERS {
        let args = ["--records-per-key-max", "40"];
        let Joined { mut sealane, mut client, mut server, .. } = join(driver, &rustls::version::TLS12, &args);
        server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut rounds = 0;
        // A call can cross with the end: then it is not delivered, and a client makes it again on its next connection.
        let end = loop {
            client.send(&call(rounds, &[5; 3000]));
            let mut heard = vec![0; call(0, &[5; 3000]).len()];
            if server.read_exact(&mut heard).is_err() {
                break client.read_to_end();
            }
            server.write_all(&reply(rounds, &[6; 100])).unwrap();
            match client.try_read(128) {
                Ok(heard) => assert_eq!(heard, reply(rounds, &[6; 100]), "{driver}: round {rounds}"),
                Err(end) => break end,
            }
            rounds += 1;
            assert!(rounds < 60, "{driver}: the key is never given up");
        };
        assert_eq!((end, client.take()), (PeerEnd::Closed, vec![]), "{driver}: after {rounds} rounds");
        assert!((30..=40).contains(&rounds), "{driver}: after {rounds} rounds");
        client.send_record(ContentType::ALERT, &[1, 0]);
        sealane.wait_for("closed: the TLS 1.2 key was used up");
        sealane.process.signal("TERM");
        sealane.process.wait();
    }
}

#[test]
fn a_used_up_tls_12_key_leaves_no_call_without_its_reply() {
    const DEPTH: u32 = 8;
    for driver in DRIVERS {
        let args = ["--records-per-key-max", "300"];
        let Joined { sealane, mut client, mut server, .. } = join(driver, &rustls::version::TLS12, &args);
        // A server that takes its time, with a callback now and then; it says how many calls it has executed.
        let answering = std::thread::spawn(move || {
            let mut heard = call(0, &[5; 3000]);
            let mut executed = 0;
            while server.read_exact(&mut heard).is_ok() {
                std::thread::sleep(Duration::from_micros(500));
                let mut answer = reply(executed, &[6; 700]);
                if executed % 10 == 0 {
                    answer.extend(call(1_000_000 + executed, b"CB_NOTIFY"));
                }
                executed += 1;
                server.write_all(&answer).unwrap();
            }
            executed
        });
        // The client has eight calls outstanding at all times, as long as it is let.
        let (mut sent, mut answered, mut heard) = (0, 0, Vec::new());
        let end = loop {
            while sent < answered + DEPTH {
                // Records end anywhere, often inside of a call's first words, and what follows takes a moment.
                let two = [call(sent, &[5; 3000]), call(sent + 1, &[5; 3000])].concat();
                let cut = [1, 4, 9, 12, 600, two.len() / 2 + 8][sent as usize / 2 % 6];
                client.send(&two[..cut]);
                std::thread::sleep(Duration::from_micros(300));
                client.send(&two[cut..]);
                sent += 2;
            }
            match client.try_read(1) {
                Ok(first) => heard.extend(first),
                Err(end) => break end,
            }
            heard.extend(client.take());
            while heard.len() >= 4 {
                let length = u32::from_be_bytes(heard[..4].try_into().unwrap()) as usize & 0x7fff_ffff;
                if heard.len() < 4 + length {
                    break;
                }
                let message: Vec<u8> = heard.drain(..4 + length).collect();
                if message[11] == 1 {
                    assert_eq!(message, reply(answered, &[6; 700]), "{driver}");
                    answered += 1;
                }
            }
            assert!(sent < 1000, "{driver}: the key is never given up");
        };
        assert_eq!((end, heard.len()), (PeerEnd::Closed, 0), "{driver}: close_notify, at a boundary");
        client.send_record(ContentType::ALERT, &[1, 0]);
        sealane.wait_for("closed: the TLS 1.2 key was used up");
        drop(client);
        let executed = answering.join().unwrap();
        // What was not executed is made again on the next connection; nothing was executed and not answered.
        assert_eq!(executed, answered, "{driver}: {sent} calls made");
        let left = sealane.process.count("replies outstanding");
        assert!(executed >= 100 && left == 0, "{driver}: {executed} executed, {left}");
    }
}

#[test]
fn a_server_that_ends_while_its_connection_drains_is_not_waited_for() {
    for (driver, is_reset) in DRIVERS.into_iter().flat_map(|driver| [(driver, false), (driver, true)]) {
        let args = ["--records-per-key-max", "40"];
        let Joined { sealane, mut client, mut server, .. } = join(driver, &rustls::version::TLS12, &args);
        client.send(&call(0, b"never answered"));
        hear(&mut server, &call(0, b"never answered"));
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        for xid in 1.. {
            assert!(xid < 60, "{driver}: the key is never given up");
            client.send(&call(xid, b"x"));
            // Once it drains, no call is delivered any more.
            if server.read_exact(&mut call(xid, b"x")).is_err() {
                break;
            }
            server.write_all(&reply(xid, b"x")).unwrap();
            assert_eq!(client.read(29), reply(xid, b"x"));
        }
        let started = now();
        if is_reset {
            reset(server);
            let alert = PeerEnd::Tls(TlsError::PeerAlert(AlertDescription::INTERNAL_ERROR));
            assert_eq!(client.read_to_end(), alert, "{driver}");
            assert!(now() - started < Duration::from_secs(2), "{driver}: {:?}", now() - started);
            sealane.wait_for("closed: plain side: receive: Connection reset by peer");
            continue;
        }
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_to_end(), PeerEnd::Closed, "{driver}");
        assert!(now() - started < Duration::from_secs(2), "{driver}: {:?}", now() - started);
        client.send_record(ContentType::ALERT, &[1, 0]);
        sealane.wait_for("the connection ends with ");
        sealane.wait_for("closed: the TLS 1.2 key was used up");
    }
}

#[test]
fn a_call_that_has_begun_when_its_connection_drains_is_answered() {
    for driver in DRIVERS {
        // Each call comes in two records, the first of which ends inside of its first words: with one limit or the other,
        // that is the record which uses the key up.
        for limit in ["40", "41"] {
            let args = ["--records-per-key-max", limit];
            let Joined { sealane, mut client, mut server, .. } = join(driver, &rustls::version::TLS12, &args);
            server.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let (mut executed, mut answered) = (0, 0);
            let end = loop {
                assert!(executed < 60, "{driver}: the key is never given up");
                let one = call(executed, b"in two records");
                client.send(&one[..8]);
                std::thread::sleep(Duration::from_millis(30));
                client.send(&one[8..]);
                if server.read_exact(&mut one.clone()).is_err() {
                    break client.read_to_end();
                }
                server.write_all(&reply(executed, b"done")).unwrap();
                executed += 1;
                match client.try_read(32) {
                    Ok(_) => answered += 1,
                    Err(end) => break end,
                }
            };
            assert_eq!((end, executed), (PeerEnd::Closed, answered), "{driver}, limit {limit}");
            client.send_record(ContentType::ALERT, &[1, 0]);
            sealane.wait_for("closed: the TLS 1.2 key was used up");
        }
    }
}

#[test]
fn hundreds_of_calls_are_answered_at_once_when_their_connection_drains() {
    for driver in DRIVERS {
        let args = ["--records-per-key-max", "20"];
        let Joined { sealane, mut client, mut server, .. } = join(driver, &rustls::version::TLS12, &args);
        let mut xids = 1..;
        let mut twenty_calls = || xids.by_ref().take(20).flat_map(|xid| call(xid, b"")).collect::<Vec<u8>>();
        // Records that come together are of one mind: behind the last of the key none of their calls is taken. So what is to be
        // taken comes before.
        let first: Vec<u8> = (0..15)
            .flat_map(|_| {
                let calls = twenty_calls();
                client.send(&calls);
                calls
            })
            .collect();
        let mut heard = vec![0; first.len()];
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        server.read_exact(&mut heard).unwrap();
        assert!(heard == first, "{driver}");
        (0..15).for_each(|_| client.send(&twenty_calls()));
        server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert!(server.read_to_end(&mut heard).is_err(), "{driver}: the connection is not ended while replies are due");
        let count = heard.len() / call(1, b"").len();
        assert!((300..600).contains(&count), "{driver}: {count} calls were taken");
        let replies: Vec<u8> = (1..).take(count).flat_map(|xid| reply(xid, b"")).collect();
        server.write_all(&replies).unwrap();
        assert!(client.read(replies.len()) == replies, "{driver}");
        assert_eq!(client.read_to_end(), PeerEnd::Closed, "{driver}");
        client.send_record(ContentType::ALERT, &[1, 0]);
        sealane.wait_for("closed: the TLS 1.2 key was used up");
    }
}
