//! How connections begin and end: probes, retries, half-close, resets, used-up keys.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use sealane_proto::tls::{AlertDescription, ContentType, TlsError};

use crate::support::bytes::{Random, call, reply};
use crate::support::peer::{PeerEnd, PeerListener, VERSIONS};
use crate::support::process::{SOON, eventually, free_port, now};
use crate::support::sealane::{DRIVERS, Joined, Sealane, expect_reset, join};

/// Less than anything that the engine waits for, its quiet period of 500 ms too.
const AT_ONCE: Duration = Duration::from_millis(400);

/// Closes with RST.
pub fn reset(stream: std::net::TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_probe_costs_nothing_upstream() {
    for driver in DRIVERS {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        upstream.set_nonblocking(true).unwrap();
        let sealane = Sealane::start(driver, upstream.local_addr().unwrap().port(), &[]);
        for round in 0..20 {
            let probe = sealane.connect();
            if round % 2 == 0 { drop(probe) } else { reset(probe) }
        }
        eventually("all probes are noticed", || sealane.process.count("went away without a byte") == 20);
        assert_eq!(upstream.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "{driver}: connected for a probe");
    }
}

#[test]
fn a_server_that_comes_back_is_reached_while_the_client_waits() {
    for driver in DRIVERS {
        let port = free_port();
        let sealane = Sealane::start(driver, port, &[]);
        let mut client = sealane.connect_and_say(&call(1, &[0; 8]));
        sealane.wait_for("trying again");
        std::thread::sleep(Duration::from_millis(500));
        let listener = PeerListener::rebind(&rustls::version::TLS13, port);
        let mut peer = listener.accept_talkative();
        assert_eq!(peer.read(52), call(1, &[0; 8]), "{driver}");
        peer.send(&reply(1, &[0; 8]));
        let mut back = [0; 36];
        client.read_exact(&mut back).unwrap();
    }
}

#[test]
fn an_unreachable_server_ends_in_a_reset_after_the_retry_time() {
    for driver in DRIVERS {
        let sealane = Sealane::start(driver, free_port(), &["--retry-timeout", "1"]);
        let started = now();
        expect_reset(&mut sealane.connect_and_say(b"x"), SOON);
        let waited = now() - started;
        assert!((Duration::from_millis(900)..Duration::from_secs(3)).contains(&waited), "{driver}: {waited:?}");
        sealane.wait_for("gave up after 1 s");
        sealane.wait_for("Connection refused");
    }
}

#[test]
fn a_client_that_leaves_while_the_server_is_sought_stops_the_search() {
    for driver in DRIVERS {
        let sealane = Sealane::start(driver, free_port(), &[]);
        let client = sealane.connect_and_say(b"x");
        sealane.wait_for("trying again");
        reset(client);
        sealane.wait_for("went away before the server was reached");
    }
}

#[test]
fn a_name_without_an_address_is_said_and_reset() {
    let mut command = crate::support::sealane::command("epoll", 1, &["--retry-timeout", "0.5"]);
    command.args(["--connect", "no-such-host.invalid:2049"]);
    command = without_first_connect(command);
    let sealane = Sealane::from_command(&mut command);
    expect_reset(&mut sealane.connect_and_say(b"x"), SOON);
    sealane.wait_for("cannot resolve no-such-host.invalid");
}

#[test]
fn every_address_of_a_name_is_tried() {
    let test = "ends::every_address_of_a_name_is_tried";
    if !crate::support::is_root() {
        return crate::support::not_run(test, "not root: it needs a hosts file of its own");
    }
    let hosts = crate::support::process::scratch("hosts").join("hosts");
    std::fs::write(&hosts, "127.0.0.1 three.test\n127.0.0.2 three.test\n127.0.0.3 three.test\n").unwrap();
    for driver in DRIVERS {
        // The resolver sorts them: the first one accepts and says nothing, nobody listens on the second.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let listener = PeerListener::at(&rustls::version::TLS13, ("127.0.0.3", port));
        let mut command = crate::support::sealane::command(driver, 1, &["--handshake-timeout", "0.9"]);
        command.args(["--connect", &format!("three.test:{port}")]);
        let plain = without_first_connect(command);
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
        command.arg(&hosts).arg(plain.get_program()).args(plain.get_args()).stdin(std::process::Stdio::null());
        let sealane = Sealane::from_command(&mut command);
        let mut client = sealane.connect();
        let mut peer = listener.accept();
        client.write_all(&call(1, b"x")).unwrap();
        assert_eq!(peer.read(45), call(1, b"x"), "{driver}");
        sealane.wait_for("TLS handshake with 127.0.0.1");
        sealane.wait_for("trying the next address");
    }
}

#[test]
fn a_reset_is_passed_on_while_the_other_side_does_not_read() {
    for driver in DRIVERS {
        for version in VERSIONS {
            // The server does not read, and the client is reset.
            let Joined { sealane, mut client, peer, .. } = join(driver, version, &[]);
            socket2::SockRef::from(&peer.stream).set_recv_buffer_size(64 * 1024).unwrap();
            crate::many::stall(&client, || call(1, &vec![1; 1 << 20]));
            client.flush().unwrap();
            reset(client);
            sealane.wait_for("closed: plain side: receive: ");
            drop(peer);
            // The client does not read, and the server resets.
            let Joined { sealane, mut client, mut peer, .. } = join(driver, version, &[]);
            socket2::SockRef::from(&client).set_recv_buffer_size(64 * 1024).unwrap();
            let stream = peer.stream.try_clone().unwrap();
            crate::many::stall(&stream, || peer.records(&reply(1, &vec![1; 1 << 20]), 16384));
            drop(stream);
            reset(peer.stream);
            sealane.wait_for("closed: tls side: ");
            expect_reset(&mut client, Duration::from_secs(1));
        }
    }
}

#[test]
fn connections_come_from_the_address_and_port_that_were_asked_for() {
    if !crate::support::is_root() {
        return crate::support::not_run(
            "ends::connections_come_from_the_address_and_port_that_were_asked_for",
            "not root",
        );
    }
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let args = ["--bind-address", "127.0.0.77", "--source-port", "privileged"];
        let sealane = Sealane::start(driver, listener.port(), &args);
        let mut ports = Vec::new();
        let mut open = Vec::new();
        for _ in 0..3 {
            let client = sealane.connect();
            let peer = listener.accept();
            let source = peer.stream.peer_addr().unwrap();
            assert_eq!(source.ip().to_string(), "127.0.0.77");
            assert!((665..=1023).contains(&source.port()), "{source}");
            ports.push(source.port());
            open.push((client, peer));
        }
        ports.dedup();
        assert_eq!(ports.len(), 3, "{driver}: one port each");
    }
}

/// `--connect` may be given once only.
fn without_first_connect(command: std::process::Command) -> std::process::Command {
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let first = args.iter().position(|arg| arg == "--connect").unwrap();
    let mut new = std::process::Command::new(command.get_program());
    new.args(args[..first].iter().chain(&args[first + 2..])).stdin(std::process::Stdio::null());
    new
}

#[test]
fn tls_13_half_close_passes_through_both_ways() {
    for driver in DRIVERS {
        let Joined { listener, sealane, mut client, mut peer } = join(driver, &rustls::version::TLS13, &[]);
        client.write_all(&call(1, b"last call")).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer.read_to_end(), PeerEnd::Closed, "{driver}: close_notify at once");
        assert_eq!(peer.take(), call(1, b"last call"));
        std::thread::sleep(Duration::from_millis(300));
        let answer = reply(1, &Random::new(3).bytes(3_000_000));
        peer.send(&answer);
        peer.send_record(ContentType::ALERT, &[1, 0]);
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert!(back == answer, "{driver}");
        // The other way: the server ends first, the client still writes.
        let mut client = sealane.connect();
        let mut peer = listener.accept();
        peer.send_record(ContentType::ALERT, &[1, 0]);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "{driver}: FIN");
        client.write_all(&call(2, b"still here")).unwrap();
        assert_eq!(peer.read(54), call(2, b"still here"));
        drop(client);
        assert_eq!(peer.read_to_end(), PeerEnd::Closed);
    }
}

#[test]
fn tls_12_close_notify_waits_for_outstanding_replies() {
    for driver in DRIVERS {
        let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, &rustls::version::TLS12, &[]);
        client.write_all(&call(1, b"last call")).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer.read(53), call(1, b"last call"));
        peer.stream.set_nonblocking(true).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        let early = peer.stream.peek(&mut [0]);
        assert_eq!(
            early.unwrap_err().kind(),
            ErrorKind::WouldBlock,
            "{driver}: close_notify while a reply is outstanding"
        );
        peer.stream.set_nonblocking(false).unwrap();
        let answer = reply(1, &[9; 100_000]);
        peer.send(&answer);
        assert_eq!(peer.read_to_end(), PeerEnd::Closed, "{driver}: close_notify after the reply");
        peer.send_record(ContentType::ALERT, &[1, 0]);
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert!(back == answer, "{driver}");
    }
}

#[test]
fn a_tls_12_close_notify_is_answered_delivered_and_nothing_follows() {
    for driver in DRIVERS {
        let Joined { sealane, mut client, mut peer, .. } = join(driver, &rustls::version::TLS12, &[]);
        peer.send(&reply(1, b"last word"));
        peer.send_record(ContentType::ALERT, &[1, 0]);
        assert_eq!(peer.read_to_end(), PeerEnd::Closed, "{driver}: answered at once, the client did nothing");
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert_eq!(back, reply(1, b"last word"));
        sealane.wait_for("closed: closed by the server");
    }
}

#[test]
fn a_peer_that_never_answers_close_notify_is_not_awaited_for_ever() {
    for driver in DRIVERS {
        let Joined { sealane, mut client, mut peer, .. } =
            join(driver, &rustls::version::TLS13, &["--close-timeout", "0.5"]);
        client.write_all(&call(1, b"x")).unwrap();
        peer.read(45);
        peer.send(&reply(1, b"y"));
        let mut back = [0; 29];
        client.read_exact(&mut back).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let started = now();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        let waited = now() - started;
        assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&waited), "{driver}: {waited:?}");
        sealane.wait_for("closed: closed by the client");
    }
}

#[test]
fn a_client_that_ends_badly_is_no_close_notify() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let listener = PeerListener::bind(version);
            let sealane = Sealane::start(driver, listener.port(), &[]);
            for how in ["reset in a record", "end in a record", "reset at rest"] {
                let mut client = sealane.connect();
                let mut peer = listener.accept();
                let call = call(1, &[7; 1000]);
                let said = if how.contains("record") { &call[..500] } else { &call };
                client.write_all(said).unwrap();
                peer.read(said.len());
                // Until nobody waits with a buffer in hand.
                std::thread::sleep(Duration::from_millis(100));
                match how.contains("reset") {
                    true => reset(client),
                    false => client.shutdown(Shutdown::Write).unwrap(),
                }
                let alert = PeerEnd::Tls(TlsError::PeerAlert(AlertDescription::INTERNAL_ERROR));
                assert_eq!(peer.read_to_end(), alert, "{driver} {version:?} {how}");
            }
            sealane.wait_for("plain side: the stream was cut off");
        }
    }
}

#[test]
fn an_upstream_failure_resets_the_client_at_once_with_a_read_in_flight() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let listener = PeerListener::bind(version);
            let sealane = Sealane::start(driver, listener.port(), &[]);
            for how in ["reset", "fin", "mid-record reset", "mid-record fin"] {
                let mut client = sealane.connect();
                let mut peer = listener.accept();
                // Both directions have been used and wait again.
                client.write_all(&call(1, b"x")).unwrap();
                peer.read(45);
                peer.send(&reply(1, b"y"));
                client.read_exact(&mut [0; 29]).unwrap();
                if how.starts_with("mid-record") {
                    let record = peer.record(ContentType::APPLICATION_DATA, &[1; 9000]);
                    peer.send_raw(&record[..5000]);
                    std::thread::sleep(Duration::from_millis(60));
                }
                if how.ends_with("reset") {
                    reset(peer.stream)
                } else {
                    drop(peer)
                }
                expect_reset(&mut client, AT_ONCE);
            }
            sealane.wait_for("tls side: the stream was cut off");
        }
    }
}

#[test]
fn a_tls_12_connection_whose_key_is_used_up_is_drained_at_a_boundary() {
    for driver in DRIVERS {
        let Joined { mut sealane, mut client, mut peer, .. } =
            join(driver, &rustls::version::TLS12, &["--records-per-key-max", "40"]);
        // The server has a callback outstanding, and the last call's reply is slow.
        peer.send(&call(900, b"CB_RECALL"));
        let mut callback = vec![0; 53];
        client.read_exact(&mut callback).unwrap();
        // One call a record, since each is awaited before the next is written; until no more are taken.
        let mut taken = 0;
        peer.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        loop {
            let text = call(taken + 1, &[0; 60]);
            client.write_all(&text).unwrap();
            if !peer.has_data() && sealane.process.output().contains("the TLS 1.2 key was used up: the connection ends")
            {
                break;
            }
            taken += 1;
            assert_eq!(peer.read(104), text, "{driver}: call {taken}");
            assert!(taken <= 40, "{driver}: {taken} calls were taken");
        }
        assert!(taken >= 38, "{driver}: {taken} calls were taken");
        let log = sealane.process.output();
        assert_eq!(log.matches("closed:").count(), 0, "{driver}: closed with replies outstanding: {log}");
        // What is written now piles up in the socket.
        for xid in 0..20 {
            client.write_all(&call(1000 + xid, &[0; 60])).unwrap();
        }
        assert!(!peer.has_data(), "{driver}: a call was taken by a connection that is drained");
        peer.stream.set_read_timeout(Some(SOON)).unwrap();
        for xid in 1..=taken {
            peer.send(&reply(xid, &[1; 20]));
        }
        let mut back = vec![0; 48 * taken as usize];
        client.read_exact(&mut back).unwrap();
        // All calls are answered, the callback is not: calls behind it wait, so it can never be. It ends in time.
        assert_eq!(peer.read_to_end(), PeerEnd::Closed, "{driver}");
        peer.send_record(ContentType::ALERT, &[1, 0]);
        sealane.wait_for("closed: the TLS 1.2 key was used up");
        sealane.process.signal("TERM");
        sealane.process.wait();
        sealane.wait_for("connections_drained_total=1");
    }
}

#[test]
fn a_draining_connection_still_carries_the_clients_reply_to_a_callback() {
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS12);
        // Sent: Finished and five calls. Received: Finished, a callback and five replies, which makes seven.
        let sealane = Sealane::start(driver, listener.port(), &["--records-per-key-max", "7"]);
        let mut client = sealane.connect();
        let mut peer = listener.accept();
        peer.send(&call(900, b"CB_RECALL"));
        client.read_exact(&mut [0; 53]).unwrap();
        for xid in 1..=5 {
            client.write_all(&call(xid, b"")).unwrap();
            assert_eq!(peer.read(44), call(xid, b""));
            peer.send(&reply(xid, b""));
            client.read_exact(&mut [0; 28]).unwrap();
        }
        sealane.wait_for("the TLS 1.2 key was used up: the connection ends");
        let started = now();
        client.write_all(&reply(900, b"done")).unwrap();
        client.write_all(&call(6, b"too late")).unwrap();
        assert_eq!(peer.read(32), reply(900, b"done"), "{driver}");
        assert_eq!(peer.read_to_end(), PeerEnd::Closed, "{driver}");
        assert_eq!(peer.take(), b"", "{driver}: no new call is taken");
        assert!(now() - started < Duration::from_secs(3), "{driver}: it waited for nothing");
    }
}

#[test]
fn a_refused_renegotiation_is_answered_and_the_stream_goes_on() {
    for driver in DRIVERS {
        let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, &rustls::version::TLS12, &[]);
        peer.send_record(ContentType::HANDSHAKE, &[0, 0, 0, 0]);
        // A warning: our receiver takes it and goes on to the data.
        peer.send(&reply(1, b"go on"));
        client.read_exact(&mut [0; 33]).unwrap();
        eventually("the warning has come", || peer.stream.peek(&mut [0; 64]).is_ok_and(|count| count >= 31));
        client.write_all(&call(1, b"x")).unwrap();
        assert_eq!(peer.read(45), call(1, b"x"), "{driver}");
    }
}

#[test]
fn a_raw_answer_that_takes_a_moment_is_awaited_under_tls_12() {
    for driver in DRIVERS {
        let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, &rustls::version::TLS12, &[]);
        // The connection is older than the quiet period when the client asks and ends.
        std::thread::sleep(Duration::from_millis(700));
        client.write_all(b"a raw question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        peer.read(14);
        peer.stream.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        assert!(peer.stream.peek(&mut [0]).is_err(), "{driver}: close_notify before the answer");
        peer.stream.set_read_timeout(Some(SOON)).unwrap();
        peer.send(b"a raw answer");
        assert_eq!(peer.read_to_end(), PeerEnd::Closed, "{driver}");
        peer.send_record(ContentType::ALERT, &[1, 0]);
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert_eq!(back, b"a raw answer", "{driver}");
    }
}

#[test]
fn a_server_that_falls_silent_in_a_reply_is_no_clean_end() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let Joined { sealane, mut client, mut peer, .. } = join(driver, version, &["--half-close-timeout", "0.7"]);
            client.write_all(&call(1, b"last call")).unwrap();
            peer.read(53);
            let answer = reply(1, &[9; 100_000]);
            peer.send(&answer[..50_000]);
            client.shutdown(Shutdown::Write).unwrap();
            let mut half = vec![0; 50_000];
            client.read_exact(&mut half).unwrap();
            expect_reset(&mut client, Duration::from_secs(4));
            sealane.wait_for("closed: tls side: the stream was cut off");
        }
    }
}

#[test]
fn a_client_that_breaks_off_after_the_servers_close_is_no_clean_end_either() {
    for driver in DRIVERS {
        // It ends inside a record, or falls silent there.
        for ends in [true, false] {
            let args = ["--half-close-timeout", "0.7"];
            let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, &rustls::version::TLS13, &args);
            peer.send_record(ContentType::ALERT, &[1, 0]);
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            client.write_all(&call(1, &[7; 1000])[..500]).unwrap();
            peer.read(500);
            if ends {
                client.shutdown(Shutdown::Write).unwrap();
            }
            let alert = PeerEnd::Tls(TlsError::PeerAlert(AlertDescription::INTERNAL_ERROR));
            assert_eq!(peer.read_to_end(), alert, "{driver}: ends {ends}");
        }
    }
}

#[test]
fn a_raw_stream_whose_tls_12_key_is_used_up_ends_in_an_error() {
    for driver in DRIVERS {
        let args = ["--records-per-key-max", "20"];
        let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, &rustls::version::TLS12, &args);
        for _ in 0..40 {
            // Whatever has been sent when the key is used up: the server must not take it for all.
            if client.write_all(b"a raw upload, no RPC").is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        let alert = PeerEnd::Tls(TlsError::PeerAlert(AlertDescription::INTERNAL_ERROR));
        assert_eq!(peer.read_to_end(), alert, "{driver}");
    }
}

#[test]
fn what_was_sent_before_close_notify_arrives_though_the_client_goes_on_writing() {
    for driver in DRIVERS {
        for version in VERSIONS {
            let Joined { sealane: _sealane, mut client, mut peer, .. } = join(driver, version, &[]);
            socket2::SockRef::from(&client).set_recv_buffer_size(64 * 1024).unwrap();
            client.write_all(&call(1, b"")).unwrap();
            peer.read(44);
            // More than the sockets on the way hold.
            let answer = reply(1, &Random::new(8).bytes(24 << 20));
            let record = peer.records(&answer, 16384);
            let close = peer.record(ContentType::ALERT, &[1, 0]);
            let serving = std::thread::spawn(move || {
                peer.send_raw(&[record, close].concat());
                peer
            });
            // The client is slow to read, and goes on calling.
            let mut writer = client.try_clone().unwrap();
            let mut back = vec![0; answer.len()];
            for (index, part) in back.chunks_mut(400_000).enumerate() {
                client.read_exact(part).unwrap_or_else(|error| panic!("{driver} {version:?} part {index}: {error}"));
                let _ = writer.write_all(&call(2, &[0; 1000]));
                std::thread::sleep(Duration::from_millis(15));
            }
            let _peer = serving.join().unwrap();
            assert!(back == answer, "{driver} {version:?}");
            let end = client.read(&mut [0]);
            assert!(matches!(&end, Ok(0)), "{driver} {version:?}: FIN, not {end:?}");
        }
    }
}

#[test]
fn without_a_drain_sigterm_tells_both_sides() {
    for driver in DRIVERS {
        for at_boundary in [true, false] {
            let joined = join(driver, &rustls::version::TLS13, &["--drain", "0"]);
            let Joined { mut sealane, mut client, mut peer, .. } = joined;
            let text = call(1, &[1; 1000]);
            let sent = if at_boundary { text.len() } else { 700 };
            client.write_all(&text[..sent]).unwrap();
            peer.read(sent);
            let started = now();
            sealane.process.signal("TERM");
            expect_reset(&mut client, Duration::from_secs(1));
            let cut = PeerEnd::Tls(TlsError::PeerAlert(AlertDescription::INTERNAL_ERROR));
            assert_eq!(peer.read_to_end(), if at_boundary { PeerEnd::Closed } else { cut }, "{driver}");
            assert_eq!(sealane.process.wait().code(), Some(0));
            assert!(now() - started < Duration::from_secs(1));
            sealane.wait_for("closed: the tunnel stops");
        }
    }
}

#[test]
fn without_a_drain_sigterm_ends_it_at_once_and_cleanly() {
    for driver in DRIVERS {
        for signal in ["TERM", "INT"] {
            let joined = join(driver, &rustls::version::TLS13, &["--drain", "0"]);
            let Joined { mut sealane, mut client, mut peer, .. } = joined;
            client.write_all(&call(1, b"x")).unwrap();
            peer.read(45);
            let started = now();
            sealane.process.signal(signal);
            assert_eq!(sealane.process.wait().code(), Some(0));
            assert!(now() - started < Duration::from_secs(1));
            sealane.wait_for(&format!("stopped by SIG{signal}"));
        }
    }
}
