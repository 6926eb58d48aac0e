//! How tunnels stop: nothing more is accepted, calls under way are answered, and whoever is left is reset.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use sealane_proto::tls::ContentType;

use crate::plain;
use crate::server_ends::{self, hear};
use crate::support::bytes::{call, reply};
use crate::support::peer::{PeerEnd, VERSIONS};
use crate::support::process::{SOON, eventually, now};
use crate::support::sealane::{DRIVERS, Joined, Sealane, expect_reset, join};

/// Less than --drain, and than anything that a direction waits for.
const AT_ONCE: Duration = Duration::from_millis(800);

fn read(stream: &mut impl Read, wanted: &[u8]) {
    let mut heard = vec![0; wanted.len()];
    stream.read_exact(&mut heard).unwrap();
    assert!(heard == wanted);
}

/// The process has ended well.
fn ended(sealane: &mut Sealane) {
    assert!(sealane.process.wait().success(), "{}", sealane.process.output());
}

/// Nobody listens there any more, and what a direction had room for when it heard of that it has given back.
fn expect_refused(port: u16) {
    eventually("nobody listens any more", || {
        TcpStream::connect(("127.0.0.1", port)).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    std::thread::sleep(Duration::from_millis(100));
}

#[test]
fn a_tunnel_that_stops_answers_the_calls_that_it_took_and_takes_no_more() {
    for (driver, version) in DRIVERS.into_iter().flat_map(|driver| VERSIONS.map(|version| (driver, version))) {
        let Joined { mut sealane, mut client, mut peer, .. } = join(driver, version, &["--drain", "20"]);
        let port = sealane.port;
        // One whole call, and the beginning of another.
        let (first, second) = (call(1, b"first"), call(2, &[2; 300_000]));
        client.write_all(&first).unwrap();
        assert!(peer.read(first.len()) == first, "{driver}");
        client.write_all(&second[..100_000]).unwrap();
        assert!(peer.read(100_000) == second[..100_000], "{driver}");
        sealane.process.signal("TERM");
        sealane.wait_for("stopping: 1 connections");
        expect_refused(port);
        // What has begun comes to its end; what comes behind it is not taken.
        client.write_all(&[&second[100_000..], &call(3, b"too late")].concat()).unwrap();
        assert!(peer.read(second.len() - 100_000) == second[100_000..], "{driver}");
        peer.send(&reply(2, &[9; 200_000]));
        read(&mut client, &reply(2, &[9; 200_000]));
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(sealane.process.count("closed: "), 0, "{driver}: a reply is still due");
        peer.send(&reply(1, b"late, and in time"));
        read(&mut client, &reply(1, b"late, and in time"));
        let answered = now();
        assert_eq!((peer.read_to_end(), peer.take()), (PeerEnd::Closed, vec![]), "{driver}: at a boundary");
        peer.send_record(ContentType::ALERT, &[1, 0]);
        // A call was left unread: the connection ends, by whichever way, and the client makes it again on its next one.
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)), "{driver}");
        drop(client);
        ended(&mut sealane);
        assert!(now() - answered < AT_ONCE, "{driver}: {:?}", now() - answered);
        assert_eq!(sealane.process.count("closed: the tunnel stops"), 1, "{driver}");
        assert_eq!(sealane.process.count("replies outstanding"), 0, "{driver}");
    }
}

#[test]
fn a_server_in_front_that_stops_answers_the_calls_that_it_took() {
    for (driver, version) in DRIVERS.into_iter().flat_map(|driver| VERSIONS.map(|version| (driver, version))) {
        let joined = server_ends::join(driver, version, &["--drain", "20"]);
        let server_ends::Joined { mut sealane, mut client, mut server, .. } = joined;
        client.send(&call(1, b"x"));
        hear(&mut server, &call(1, b"x"));
        sealane.process.signal("TERM");
        expect_refused(sealane.port);
        client.send(&call(2, b"too late"));
        std::thread::sleep(Duration::from_millis(200));
        server.write_all(&reply(1, &[8; 100_000])).unwrap();
        assert!(client.read(reply(1, &[8; 100_000]).len()) == reply(1, &[8; 100_000]), "{driver}");
        assert_eq!(client.read_to_end(), PeerEnd::Closed, "{driver}");
        client.send_record(ContentType::ALERT, &[1, 0]);
        drop(client);
        ended(&mut sealane);
        // It was not given what could not be answered.
        server.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap_or(0), 0, "{driver}");
        assert_eq!(sealane.process.count("replies outstanding"), 0, "{driver}");
    }
}

#[test]
fn without_tls_calls_under_way_are_answered_too() {
    for driver in DRIVERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut sealane = plain::start(driver, port, &["--drain", "20"]);
        let mut client = sealane.connect_and_say(&[call(1, b"first"), call(2, &[2; 200_000])[..50].to_vec()].concat());
        let (mut server, _) = listener.accept().unwrap();
        read(&mut server, &call(1, b"first"));
        read(&mut server, &call(2, &[2; 200_000])[..50]);
        // A callback, whose answer comes behind a call that is not taken any more, is not waited for as long as replies are.
        server.write_all(&call(7, b"CB_RECALL")).unwrap();
        read(&mut client, &call(7, b"CB_RECALL"));
        sealane.process.signal("TERM");
        expect_refused(sealane.port);
        client.write_all(&[&call(2, &[2; 200_000])[50..], &reply(7, b"recalled"), &call(3, b"no")].concat()).unwrap();
        read(&mut server, &call(2, &[2; 200_000])[50..]);
        read(&mut server, &reply(7, b"recalled"));
        server.write_all(&[reply(1, b"a"), reply(2, &[3; 100_000])].concat()).unwrap();
        read(&mut client, &[reply(1, b"a"), reply(2, &[3; 100_000])].concat());
        let answered = now();
        server.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0, "{driver}: the call was taken");
        drop(server);
        drop(client);
        ended(&mut sealane);
        assert!(now() - answered < AT_ONCE, "{driver}");
        assert_eq!(sealane.process.count("closed: the tunnel stops"), 1, "{driver}: {}", sealane.process.output());
    }
}

#[test]
fn idle_connections_hold_nobody_up_and_whoever_still_waits_then_is_reset() {
    for (driver, version) in DRIVERS.into_iter().flat_map(|driver| VERSIONS.map(|version| (driver, version))) {
        // A peer that answers close_notify.
        let Joined { mut sealane, mut client, mut peer, .. } = join(driver, version, &["--drain", "20"]);
        client.write_all(&call(1, b"x")).unwrap();
        assert_eq!(peer.read(call(1, b"x").len()), call(1, b"x"));
        peer.send(&reply(1, b"y"));
        read(&mut client, &reply(1, b"y"));
        std::thread::sleep(Duration::from_millis(100));
        let told = now();
        sealane.process.signal("TERM");
        assert_eq!(peer.read_to_end(), PeerEnd::Closed);
        peer.send_record(ContentType::ALERT, &[1, 0]);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "{driver}: FIN, nothing was lost");
        drop(client);
        ended(&mut sealane);
        assert!(now() - told < AT_ONCE, "{driver}: {:?}", now() - told);

        // One that does not answer close_notify.
        let Joined { mut sealane, mut client, mut peer, .. } = join(driver, version, &["--drain", "20"]);
        client.write_all(&call(1, b"x")).unwrap();
        assert_eq!(peer.read(call(1, b"x").len()), call(1, b"x"));
        peer.send(&reply(1, b"y"));
        read(&mut client, &reply(1, b"y"));
        let told = now();
        sealane.process.signal("TERM");
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "{driver}: FIN, nothing was lost");
        drop(client);
        ended(&mut sealane);
        assert!(now() - told < AT_ONCE, "{driver}: {:?}", now() - told);
        drop(peer);

        // One who owes a reply, and does not give it.
        for (drain, more) in [("1", false), ("0", false), ("20", true)] {
            let Joined { mut sealane, mut client, mut peer, .. } = join(driver, version, &["--drain", drain]);
            client.write_all(&call(1, b"x")).unwrap();
            assert_eq!(peer.read(call(1, b"x").len()), call(1, b"x"));
            let told = now();
            sealane.process.signal("TERM");
            if more {
                sealane.wait_for("stopping: ");
                sealane.process.signal("TERM");
            }
            expect_reset(&mut client, SOON);
            ended(&mut sealane);
            let took = now() - told;
            let least = if drain == "1" { Duration::from_millis(900) } else { Duration::ZERO };
            assert!(took >= least && took < least + AT_ONCE, "{driver}: --drain {drain}: {took:?}");
            sealane.wait_for("stopped by SIGTERM");
        }
    }
}

#[test]
fn what_was_accepted_is_served_and_what_is_no_rpc_ends_at_once() {
    for driver in DRIVERS {
        // The handshake has not begun when the tunnel is told to stop.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut sealane = plain::start(driver, port, &["--drain", "20"]);
        let mut client = sealane.connect();
        sealane.wait_for(" accepted");
        sealane.process.signal("TERM");
        expect_refused(sealane.port);
        client.write_all(&call(1, b"x")).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        read(&mut server, &call(1, b"x"));
        server.write_all(&reply(1, b"served")).unwrap();
        read(&mut client, &reply(1, b"served"));
        drop(server);
        ended(&mut sealane);

        // The session has begun, and its client speaks only when the tunnel has been told to stop.
        let server_ends::Joined { mut sealane, mut client, mut server, .. } =
            server_ends::join(driver, &rustls::version::TLS13, &["--drain", "20"]);
        sealane.process.signal("TERM");
        sealane.wait_for("stopping: 1 connections");
        expect_refused(sealane.port);
        client.send(&call(1, b"x"));
        hear(&mut server, &call(1, b"x"));
        server.write_all(&reply(1, b"served")).unwrap();
        let answer = reply(1, b"served");
        assert!(client.read(answer.len()) == answer, "{driver}");
        drop(server);
        ended(&mut sealane);

        let Joined { mut sealane, mut client, mut peer, .. } =
            join(driver, &rustls::version::TLS13, &["--drain", "20"]);
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        peer.read(18);
        let told = now();
        sealane.process.signal("TERM");
        expect_reset(&mut client, SOON);
        ended(&mut sealane);
        assert!(now() - told < AT_ONCE, "{driver}");
    }
}
