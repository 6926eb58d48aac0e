//! How connections of server mode begin, end and fail: against a TLS client and an NFS server in the test's hands.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use rustls::ClientConnection;
use sealane_proto::tls::{AlertDescription, ContentType, TlsError};

use crate::ends::reset;
use crate::support::bytes::{Random, call, reply};
use crate::support::peer::{Peer, PeerEnd, VERSIONS};
use crate::support::pki::{NAME, Pki};
use crate::support::process::{SOON, eventually, now};
use crate::support::sealane::{DRIVERS, Sealane, expect_reset, server_command};

/// A TLS client and an NFS server, joined by server mode.
pub struct Joined {
    pub listener: TcpListener,
    pub sealane: Sealane,
    pub client: Peer,
    pub server: TcpStream,
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    server.set_write_timeout(Some(SOON)).unwrap();
    server
}

pub fn join(driver: &str, version: &'static rustls::SupportedProtocolVersion, args: &[&str]) -> Joined {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sealane = Sealane::server(driver, listener.local_addr().unwrap().port(), args);
    let client = Peer::connect(version, sealane.port);
    let server = accept(&listener);
    Joined { listener, sealane, client, server }
}

pub fn hear(server: &mut TcpStream, wanted: &[u8]) {
    let mut heard = vec![0; wanted.len()];
    server.read_exact(&mut heard).unwrap();
    assert!(heard == wanted);
}

#[test]
fn half_close_passes_through_both_ways_and_tls_12_is_answered_at_once() {
    for driver in DRIVERS {
        // TLS 1.3: the client ends first, the server's answer still comes.
        let Joined { listener, sealane, mut client, mut server } = join(driver, &rustls::version::TLS13, &[]);
        client.send(&call(1, b"last call"));
        client.send_record(ContentType::ALERT, &[1, 0]);
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, call(1, b"last call"));
        let answer = reply(1, &Random::new(3).bytes(3_000_000));
        server.write_all(&answer).unwrap();
        drop(server);
        assert_eq!(client.read_to_end(), PeerEnd::Closed, "{driver}");
        assert!(client.take() == answer, "{driver}");
        sealane.wait_for("closed: closed by the client");
        // The server ends first.
        let mut client = Peer::connect(&rustls::version::TLS13, sealane.port);
        let mut server = accept(&listener);
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_to_end(), PeerEnd::Closed, "{driver}");
        client.send(&call(2, b"still here"));
        hear(&mut server, &call(2, b"still here"));
        client.send_record(ContentType::ALERT, &[1, 0]);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        sealane.wait_for("closed: closed by the server");
        // TLS 1.2: whoever has said close_notify takes nothing any more.
        let Joined { sealane, mut client, mut server, .. } = join(driver, &rustls::version::TLS12, &[]);
        client.send(&call(3, b"x"));
        client.send_record(ContentType::ALERT, &[1, 0]);
        assert_eq!(client.read_to_end(), PeerEnd::Closed, "{driver}: answered, the server did nothing");
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, call(3, b"x"));
        sealane.wait_for("closed: closed by the client");
    }
}

#[test]
fn an_nfs_server_that_ends_with_calls_outstanding_is_not_waited_for() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let Joined { sealane, mut client, mut server, .. } = join(driver, version, &["--close-timeout", "0.5"]);
            client.send(&call(1, b"never answered"));
            hear(&mut server, &call(1, b"never answered"));
            let started = now();
            server.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.read_to_end(), PeerEnd::Closed, "{driver}: the client is told at once");
            assert!(now() - started < Duration::from_secs(2), "{driver} {version:?}: after {:?}", now() - started);
            client.send_record(ContentType::ALERT, &[1, 0]);
            sealane.wait_for("closed: closed by the server");
            // What the client still owes the server is waited for under TLS 1.2: the reply to a callback.
            let Joined { sealane: _sealane, mut client, mut server, .. } = join(driver, version, &[]);
            server.write_all(&call(9, b"CB_RECALL")).unwrap();
            assert_eq!(client.read(53), call(9, b"CB_RECALL"));
            server.shutdown(Shutdown::Write).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            client.send(&reply(9, b"recalled"));
            hear(&mut server, &reply(9, b"recalled"));
            assert_eq!(client.read_to_end(), PeerEnd::Closed);
        }
    }
}

#[test]
fn an_end_that_was_not_meant_is_none_on_the_other_side() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let sealane = Sealane::server(driver, listener.local_addr().unwrap().port(), &[]);
            for how in ["reset", "fin", "mid-record reset", "mid-record fin"] {
                // The TLS client goes without close_notify: the NFS server sees a reset, within 100 ms.
                let mut client = Peer::connect(version, sealane.port);
                let mut server = accept(&listener);
                client.send(&call(1, b"x"));
                hear(&mut server, &call(1, b"x"));
                if how.starts_with("mid-record") {
                    let record = client.record(ContentType::APPLICATION_DATA, &[1; 9000]);
                    client.send_raw(&record[..5000]);
                    std::thread::sleep(Duration::from_millis(60));
                }
                if how.ends_with("reset") {
                    reset(client.stream)
                } else {
                    drop(client)
                }
                expect_reset(&mut server, Duration::from_millis(if cfg!(debug_assertions) { 250 } else { 100 }));
            }
            sealane.wait_for("tls side: the stream was cut off");
            // The NFS server resets, or ends inside a record: the TLS client gets an alert and no close_notify.
            for how in ["reset in a record", "end in a record", "reset at rest"] {
                let mut client = Peer::connect(version, sealane.port);
                let mut server = accept(&listener);
                let reply = reply(1, &[7; 1000]);
                let said = if how.contains("record") { &reply[..500] } else { &reply };
                server.write_all(said).unwrap();
                client.read(said.len());
                // Until nobody waits with a buffer in hand.
                std::thread::sleep(Duration::from_millis(100));
                match how.contains("reset") {
                    true => reset(server),
                    false => server.shutdown(Shutdown::Write).unwrap(),
                }
                let alert = PeerEnd::Tls(TlsError::PeerAlert(AlertDescription::INTERNAL_ERROR));
                assert_eq!(client.read_to_end(), alert, "{driver} {version:?} {how}");
            }
            sealane.wait_for("plain side: the stream was cut off");
        }
    }
}

#[test]
fn what_came_before_close_notify_arrives_though_its_sender_is_gone() {
    for driver in DRIVERS {
        for version in VERSIONS {
            // The client says much, ends and goes, while the NFS server takes its time: our answer meets a closed socket.
            // How much our send waits for depends on the host's socket buffers, so all sizes are tried, side by side.
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let sealane = Sealane::server(driver, listener.local_addr().unwrap().port(), &[]);
            let mut joined = Vec::new();
            for eighths in 4..=64_usize {
                let mut client = Peer::connect(version, sealane.port);
                let server = accept(&listener);
                socket2::SockRef::from(&server).set_recv_buffer_size(64 * 1024).unwrap();
                let all = call(1, &Random::new(5).bytes(eighths << 17));
                let saying = std::thread::spawn(move || {
                    let mut said = client.records(&all, 16384);
                    said.extend(client.record(ContentType::ALERT, &[1, 0]));
                    // Waits until the tunnel has taken all of it, or as much as it takes before it is read.
                    client.stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
                    client.stream.write_all(&said).is_ok().then_some(all)
                });
                joined.push((saying, server));
            }
            std::thread::sleep(Duration::from_millis(900));
            let readers: Vec<_> = joined
                .into_iter()
                .map(|(saying, mut server)| {
                    std::thread::spawn(move || {
                        let mut heard = Vec::new();
                        let end = server.read_to_end(&mut heard);
                        (saying.join().unwrap().unwrap(), heard, end)
                    })
                })
                .collect();
            for reader in readers {
                let (all, heard, end) = reader.join().unwrap();
                assert!(end.is_ok() && heard == all, "{driver} {version:?}: {} of {} bytes", heard.len(), all.len());
            }
        }
    }
}

#[test]
fn a_client_that_has_said_all_is_served_by_a_server_that_comes_late() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let port = crate::support::process::free_port();
            let sealane = Sealane::server(driver, port, &[]);
            let mut stream = sealane.connect();
            let config = Pki::get().client_config(version);
            let mut connection = ClientConnection::new(config, NAME.try_into().unwrap()).unwrap();
            while connection.is_handshaking() || connection.wants_write() {
                if version == &rustls::version::TLS13 && !connection.is_handshaking() {
                    break;
                }
                if connection.wants_write() {
                    connection.write_tls(&mut stream).unwrap();
                } else {
                    connection.read_tls(&mut stream).unwrap();
                    connection.process_new_packets().unwrap();
                }
            }
            connection.writer().write_all(&call(1, b"the whole request")).unwrap();
            connection.send_close_notify();
            let mut flight = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut flight).unwrap();
            }
            stream.write_all(&flight).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            std::thread::sleep(Duration::from_millis(900));
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            let mut heard = Vec::new();
            accept(&listener).read_to_end(&mut heard).unwrap();
            assert_eq!(heard, call(1, b"the whole request"), "{driver} {version:?}");
        }
    }
}

#[test]
fn what_comes_with_the_clients_last_flight_is_delivered() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let sealane = Sealane::server(driver, listener.local_addr().unwrap().port(), &[]);
            for round in 0..30_u32 {
                let mut stream = sealane.connect();
                let config = Pki::get().client_config(version);
                let mut connection = ClientConnection::new(config, NAME.try_into().unwrap()).unwrap();
                let early = call(round, &Random::new(u64::from(round)).bytes(round as usize * 700));
                let mut last_flight = Vec::new();
                // Everything that rustls has to say once it has heard the server's flight goes out in one write.
                while connection.is_handshaking() {
                    while connection.wants_write() {
                        connection.write_tls(&mut stream).unwrap();
                    }
                    connection.read_tls(&mut stream).unwrap();
                    connection.process_new_packets().unwrap();
                    if version == &rustls::version::TLS13 && !connection.is_handshaking() {
                        break;
                    }
                }
                if version == &rustls::version::TLS13 && round % 3 == 0 {
                    connection.refresh_traffic_keys().unwrap();
                }
                connection.writer().write_all(&early).unwrap();
                if round % 2 == 0 {
                    connection.send_close_notify();
                }
                while connection.wants_write() {
                    connection.write_tls(&mut last_flight).unwrap();
                }
                stream.write_all(&last_flight).unwrap();
                let mut server = accept(&listener);
                hear(&mut server, &early);
                if round % 2 == 0 {
                    assert_eq!(server.read(&mut [0]).unwrap(), 0, "{driver} {version:?} round {round}: FIN");
                } else {
                    server.write_all(&reply(round, b"heard")).unwrap();
                    let mut back = Vec::new();
                    while back.len() < 33 {
                        connection.read_tls(&mut stream).unwrap();
                        let there = connection.process_new_packets().unwrap().plaintext_bytes_to_read();
                        let before = back.len();
                        back.resize(before + there, 0);
                        connection.reader().read_exact(&mut back[before..]).unwrap();
                    }
                    assert_eq!(back, reply(round, b"heard"), "{driver} {version:?} round {round}");
                }
            }
        }
    }
}

#[test]
fn a_probe_or_a_silent_client_costs_the_nfs_server_nothing() {
    for driver in DRIVERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut sealane = Sealane::server(driver, port, &["--handshake-timeout", "0.5"]);
        for _ in 0..10 {
            drop(sealane.connect());
        }
        let started = now();
        let mut silent = sealane.connect();
        let mut half = sealane.connect_and_say(&[22, 3, 1, 0, 200, 1]);
        for stream in [&mut silent, &mut half] {
            assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        }
        assert!((Duration::from_millis(450)..Duration::from_secs(3)).contains(&(now() - started)));
        eventually("both are logged", || sealane.process.count("the TLS handshake was not done within 0.5 s") == 2);
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        sealane.process.signal("TERM");
        sealane.process.wait();
        sealane.wait_for("connections_probed_total=10 handshakes_failed_total=2");
    }
}

#[test]
fn slow_handshakes_make_way_for_those_that_get_on() {
    for driver in DRIVERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let args = ["--handshakes-max", "8", "--workers", "2", "--connections-max", "64"];
        let sealane = Sealane::server(driver, port, &args);
        let mut slow = Vec::new();
        for round in 0..20 {
            // Ten more that begin a handshake and say no more, and one that means it.
            slow.extend((0..10).map(|_| sealane.connect_and_say(&[22, 3, 1, 0, 200])));
            let mut client = Peer::connect(&rustls::version::TLS13, sealane.port);
            let mut server = accept(&listener);
            client.send(&call(round, b"served all the same"));
            hear(&mut server, &call(round, b"served all the same"));
        }
        eventually("the oldest have gone", || {
            sealane.process.count("made way for newer ones (--handshakes-max)") >= slow.len() - 8
        });
        expect_reset(&mut slow[0], Duration::from_secs(1));
    }
}

#[test]
fn silent_clients_take_no_place_from_those_that_speak() {
    for (driver, workers) in DRIVERS.into_iter().flat_map(|driver| [(driver, "1"), (driver, "2")]) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Fewer connections than handshakes, and all but one in use, whichever worker has it.
        for silent in 59..=62 {
            let args = ["--connections-max", "4", "--workers", workers];
            let sealane = Sealane::server(driver, port, &args);
            let _open: Vec<_> =
                (0..3).map(|_| (Peer::connect(&rustls::version::TLS13, sealane.port), accept(&listener))).collect();
            let _silent: Vec<_> = (0..silent).map(|_| sealane.connect()).collect();
            let mut client = Peer::connect(&rustls::version::TLS13, sealane.port);
            let mut server = accept(&listener);
            client.send(&call(1, b"the fourth"));
            hear(&mut server, &call(1, b"the fourth"));
        }
    }
}

#[test]
fn a_slow_client_that_has_spoken_outlasts_any_number_of_silent_ones() {
    for driver in DRIVERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sealane = Sealane::server(driver, port, &["--handshakes-max", "8", "--workers", "1"]);
        let mut honest = sealane.connect_and_say(&[22, 3, 1, 0, 200]);
        let mut silent = Vec::new();
        for _ in 0..50 {
            silent.extend((0..10).map(|_| sealane.connect()));
            std::thread::sleep(Duration::from_millis(5));
        }
        eventually("the silent have gone", || sealane.process.count("made way for newer ones") >= silent.len() - 8);
        honest.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let still_waited_for = honest.read(&mut [0]).unwrap_err().kind();
        assert_eq!(still_waited_for, ErrorKind::WouldBlock, "{driver}");
    }
}

#[test]
fn what_strangers_do_is_not_logged_without_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut command = server_command("epoll", port, &["--workers", "1"]);
    command.env("RUST_LOG", "info");
    let mut sealane = Sealane::from_command(&mut command);
    for _ in 0..300 {
        let _ = sealane.connect_and_say(b"GET / HTTP/1.0\r\n\r\n").read_to_end(&mut Vec::new());
    }
    sealane.process.signal("TERM");
    sealane.process.wait();
    sealane.wait_for("handshakes_failed_total=300");
    let lines = sealane.process.count("does not seem to speak TLS");
    assert!((20..=100).contains(&lines), "{lines} of 300 lines");
}

#[test]
fn without_a_drain_sigterm_ends_handshakes_searches_and_sessions_within_a_second() {
    for driver in DRIVERS {
        let Joined { listener, mut sealane, mut client, mut server } =
            join(driver, &rustls::version::TLS13, &["--drain", "0"]);
        let mut shaking = sealane.connect_and_say(&[22, 3, 1, 0, 200]);
        client.send(&call(1, b"x"));
        hear(&mut server, &call(1, b"x"));
        drop(listener);
        // Its NFS server cannot be reached any more: it waits.
        let mut seeking = Peer::connect(&rustls::version::TLS13, sealane.port);
        std::thread::sleep(Duration::from_millis(100));
        let started = now();
        sealane.process.signal("TERM");
        assert_eq!(sealane.process.wait().code(), Some(0));
        assert!(now() - started < Duration::from_secs(1), "{driver}: {:?}", now() - started);
        assert_eq!(client.read_to_end(), PeerEnd::Closed, "{driver}");
        assert_eq!(seeking.read_to_end(), PeerEnd::Closed, "{driver}");
        expect_reset(&mut server, Duration::from_secs(1));
        assert!(matches!(shaking.read(&mut [0]), Ok(0) | Err(_)));
    }
}

#[test]
fn sessions_beyond_the_limit_are_refused_and_the_others_go_on() {
    for driver in DRIVERS {
        let args = ["--connections-max", "3", "--workers", "1"];
        let Joined { listener, sealane, client, server } = join(driver, &rustls::version::TLS13, &args);
        let mut open = vec![(client, server)];
        for _ in 0..2 {
            let client = Peer::connect(&rustls::version::TLS13, sealane.port);
            open.push((client, accept(&listener)));
        }
        // The alert comes behind the tickets, or between them.
        match Peer::try_connect(&rustls::version::TLS13, sealane.port) {
            Ok(mut refused) => {
                let alert = PeerEnd::Tls(TlsError::PeerAlert(AlertDescription::INTERNAL_ERROR));
                assert_eq!(refused.read_to_end(), alert, "{driver}");
            }
            Err(error) => assert!(error.to_string().contains("InternalError"), "{driver}: {error}"),
        }
        sealane.wait_for("closed: there are 3 connections already (--connections-max)");
        for (index, (client, server)) in open.iter_mut().enumerate() {
            client.send(&call(index as u32, b"one of three"));
            hear(server, &call(index as u32, b"one of three"));
        }
        drop(open.pop());
        eventually("a place is free", || sealane.process.count("the stream was cut off") >= 1);
        let _fourth = Peer::connect(&rustls::version::TLS13, sealane.port);
        accept(&listener);
    }
}
