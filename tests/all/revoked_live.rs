//! A peer's certificate is revoked while there are connections with it: by a CRL that is read again, by what another
//! connection was stapled, by what a responder says when it is asked again.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::{ClientConnection, SupportedProtocolVersion};
use sealane_proto::tls::{AlertDescription, ContentType, TlsError};

use crate::reload::{put, reload};
use crate::server_ends::hear;
use crate::support::authority::{Authority, Reply, Responder, Spec};
use crate::support::bytes::{call, reply};
use crate::support::peer::{Peer, PeerEnd, PeerListener, VERSIONS};
use crate::support::pki::{Identity, NAME, client_config_of};
use crate::support::process::{SOON, eventually, eventually_within, now};
use crate::support::sealane::{DRIVERS, Sealane, expect_reset};

const REPLACED: &str = "were read again";
const ENDS: &str = "the connection ends when nothing is outstanding";

/// A CRL that lies where it is read.
struct List {
    ca: Authority,
    file: String,
}

impl List {
    fn new() -> Self {
        let ca = Authority::new();
        let file = ca.file("current").display().to_string();
        let list = Self { ca, file };
        list.renew();
        list
    }

    fn renew(&self) {
        put(&self.ca.crl("ca", "next", &["-crldays", "3"]), Path::new(&self.file));
    }
}

/// A client of `sealane client`, and the other end of its connection.
fn connect(sealane: &Sealane, listener: &PeerListener) -> (TcpStream, Peer) {
    let client = sealane.connect();
    (client, listener.accept())
}

/// A call there and its reply back, through `sealane client`.
fn call_and_reply(xid: u32, (client, peer): (&mut TcpStream, &mut Peer)) {
    client.write_all(&call(xid, b"call")).unwrap();
    assert_eq!(peer.read(call(xid, b"call").len()), call(xid, b"call"));
    peer.send(&reply(xid, b"reply"));
    hear(client, &reply(xid, b"reply"));
}

/// The client was told the end of its stream at a boundary, and the peer close_notify.
fn expect_closed((mut client, mut peer): (TcpStream, Peer)) {
    assert_eq!((peer.read_to_end(), peer.take()), (PeerEnd::Closed, vec![]));
    peer.send_record(ContentType::ALERT, &[1, 0]);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end at a boundary");
}

fn server_with_list(
    driver: &str,
    version: &'static SupportedProtocolVersion,
    list: &List,
    own: &Identity,
    args: &[&str],
) -> (PeerListener, Sealane) {
    let listener = PeerListener::with_identity(version, own);
    let ca_file = list.ca.ca();
    let mut all = vec!["--ca-file", &ca_file, "--crl-file", &list.file];
    all.extend(args);
    let sealane = Sealane::start(driver, listener.port(), &all);
    (listener, sealane)
}

#[test]
fn connections_with_a_server_that_a_crl_names_by_now_end_when_their_calls_are_answered() {
    for (driver, version) in DRIVERS.into_iter().flat_map(|driver| VERSIONS.map(|version| (driver, version))) {
        let list = List::new();
        let own = list.ca.server("own");
        let (listener, sealane) = server_with_list(driver, version, &list, &own, &["--revoked-live", "close"]);
        let mut idle = connect(&sealane, &listener);
        call_and_reply(1, (&mut idle.0, &mut idle.1));
        let mut busy = connect(&sealane, &listener);
        busy.0.write_all(&call(1, b"slow")).unwrap();
        assert_eq!(busy.1.read(call(1, b"slow").len()), call(1, b"slow"));
        let mut half = connect(&sealane, &listener);
        let whole = call(1, &[7; 5000]);
        half.0.write_all(&whole[..3000]).unwrap();
        assert_eq!(half.1.read(3000), &whole[..3000]);
        // A reload that revokes nobody is felt by nobody.
        reload(&sealane, REPLACED);
        call_and_reply(2, (&mut idle.0, &mut idle.1));
        list.ca.revoke("own");
        list.renew();
        reload(&sealane, REPLACED);
        eventually("all three hear of it", || sealane.process.count(ENDS) >= 3);
        sealane.wait_for("the server's certificate has been revoked, says a CRL");
        expect_closed(idle);
        // No call more is taken, and the one that was is answered.
        busy.0.write_all(&call(2, b"not taken")).unwrap();
        busy.1.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(!busy.1.has_data(), "{driver}");
        busy.1.stream.set_read_timeout(Some(SOON)).unwrap();
        busy.1.send(&reply(1, b"done"));
        hear(&mut busy.0, &reply(1, b"done"));
        assert_eq!((busy.1.read_to_end(), busy.1.take()), (PeerEnd::Closed, vec![]), "{driver}");
        busy.1.send_record(ContentType::ALERT, &[1, 0]);
        // The rest of a call that has begun is taken, too.
        half.0.write_all(&whole[3000..]).unwrap();
        assert_eq!(half.1.read(whole.len() - 3000), &whole[3000..]);
        half.1.send(&reply(1, b"done"));
        hear(&mut half.0, &reply(1, b"done"));
        expect_closed(half);
        eventually("all are closed", || sealane.process.count("closed: the server's certificate was revoked") == 3);
        // Whoever comes now is refused.
        let mut late = sealane.connect_and_say(b"late");
        let refused = std::thread::spawn(move || drop(listener.try_accept()));
        expect_reset(&mut late, SOON);
        refused.join().unwrap();
        assert_eq!(sealane.process.count("connections_revoked_total"), 0, "only at the end");
        sealane.process.signal("TERM");
        sealane.wait_for("connections_revoked_total=3");
    }
}

#[test]
fn unless_told_otherwise_they_go_on_and_it_is_spoken_of() {
    let list = List::new();
    let own = list.ca.server("own");
    let (listener, sealane) = server_with_list("uring", &rustls::version::TLS13, &list, &own, &[]);
    let mut live = connect(&sealane, &listener);
    call_and_reply(1, (&mut live.0, &mut live.1));
    list.ca.revoke("own");
    list.renew();
    for _ in 0..3 {
        reload(&sealane, REPLACED);
    }
    sealane.wait_for("the server's certificate has been revoked, says a CRL; the connection goes on");
    call_and_reply(2, (&mut live.0, &mut live.1));
    assert_eq!(sealane.process.count("the connection goes on"), 1, "once");
}

#[test]
fn a_stream_without_boundaries_is_ended_at_once() {
    let list = List::new();
    let own = list.ca.server("own");
    for (driver, version) in DRIVERS.into_iter().zip(VERSIONS) {
        let (listener, sealane) = server_with_list(driver, version, &list, &own, &["--revoked-live", "close"]);
        let (mut client, mut peer) = connect(&sealane, &listener);
        client.write_all(b"this is not RPC, and nobody knows where it may end").unwrap();
        peer.read(50);
        list.ca.revoke("own");
        list.renew();
        reload(&sealane, REPLACED);
        expect_reset(&mut client, SOON);
        let told = PeerEnd::Tls(TlsError::PeerAlert(AlertDescription::CERTIFICATE_REVOKED));
        assert_eq!(peer.read_to_end(), told, "{driver}");
        sealane.wait_for("the server's certificate was revoked while the connection lasted");
        list.ca.restore("own");
        list.renew();
    }
}

#[test]
fn clients_that_a_crl_names_by_now_lose_their_connections_and_others_do_not() {
    for (driver, version) in DRIVERS.into_iter().flat_map(|driver| VERSIONS.map(|version| (driver, version))) {
        let Door { list, nfs, sealane } = Door::new(driver, &["--revoked-live", "close"]);
        let [bad, good] = ["bad", "good"].map(|name| list.ca.issue(name, "ca", "extendedKeyUsage=clientAuth"));
        let join = |identity: &Identity| {
            let config = client_config_of(&list.ca.file("ca.pem"), identity, version);
            let client = Peer::try_connect_with(version, &config, sealane.port);
            client.map(|client| (client, nfs.accept().unwrap().0)).unwrap()
        };
        let mut all = [join(&bad), join(&bad), join(&good)];
        for (client, server) in &mut all {
            server.set_read_timeout(Some(SOON)).unwrap();
            client.send(&call(1, b"slow"));
            hear(server, &call(1, b"slow"));
        }
        let [(client, server), _, _] = &mut all;
        server.write_all(&reply(1, b"idle from now on")).unwrap();
        assert_eq!(client.read(reply(1, b"idle from now on").len()), reply(1, b"idle from now on"));
        list.ca.revoke("bad");
        list.renew();
        reload(&sealane, REPLACED);
        eventually("both hear of it", || sealane.process.count(ENDS) >= 2);
        sealane.wait_for("the client's certificate has been revoked, says a CRL");
        let [(mut idle, mut idle_server), (mut busy, mut busy_server), (mut other, mut other_server)] = all;
        assert_eq!((idle.read_to_end(), idle.take()), (PeerEnd::Closed, vec![]), "{driver}");
        idle.send_record(ContentType::ALERT, &[1, 0]);
        assert_eq!(idle_server.read(&mut [0]).unwrap(), 0);
        busy.send(&call(2, b"not taken"));
        busy_server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let nothing = busy_server.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(nothing, Err(ErrorKind::WouldBlock), "{driver}");
        busy_server.write_all(&reply(1, b"done")).unwrap();
        assert_eq!(busy.read(reply(1, b"done").len()), reply(1, b"done"));
        assert_eq!((busy.read_to_end(), busy.take()), (PeerEnd::Closed, vec![]), "{driver}");
        busy.send_record(ContentType::ALERT, &[1, 0]);
        other_server.write_all(&reply(1, b"done")).unwrap();
        assert_eq!(other.read(reply(1, b"done").len()), reply(1, b"done"));
        other.send(&call(2, b"goes on"));
        hear(&mut other_server, &call(2, b"goes on"));
        eventually("both are closed", || sealane.process.count("closed: the client's certificate was revoked") == 2);
        assert_eq!(sealane.process.count(ENDS), 2, "only those two");
    }
}

#[test]
fn what_else_a_client_shows_shields_neither_it_nor_others() {
    for (driver, version) in DRIVERS.into_iter().zip(VERSIONS) {
        let Door { list, nfs, sealane } = Door::new(driver, &["--revoked-live", "close"]);
        let bad = list.ca.issue("bad", "ca", "extendedKeyUsage=clientAuth");
        // A namesake of the CA that has run out: what webpki says of a path through it comes before a revocation.
        let junk = Authority::named("root").certify(&Spec {
            name: "junk".into(),
            subject: "/CN=root".into(),
            extensions: "basicConstraints=critical,CA:TRUE".into(),
            dates: Some(("20200101000000Z".into(), "20210101000000Z".into())),
            ..Spec::default()
        });
        let both = [&bad.cert, &junk.cert].map(|file| std::fs::read_to_string(file).unwrap()).concat();
        std::fs::write(list.ca.file("both.pem"), both).unwrap();
        let shielded = Identity { cert: list.ca.file("both.pem"), key: bad.key.clone() };
        let mut all = [&shielded, &bad, &shielded].map(|identity| {
            let config = client_config_of(&list.ca.file("ca.pem"), identity, version);
            let mut client = Peer::try_connect_with(version, &config, sealane.port).unwrap();
            let mut server = nfs.accept().unwrap().0;
            client.send(&call(1, b"one"));
            hear(&mut server, &call(1, b"one"));
            server.write_all(&reply(1, b"done")).unwrap();
            assert_eq!(client.read(reply(1, b"done").len()), reply(1, b"done"));
            (client, server)
        });
        list.ca.revoke("bad");
        list.renew();
        reload(&sealane, REPLACED);
        eventually("all hear of it", || sealane.process.count(ENDS) == 3);
        for (client, _) in &mut all {
            assert_eq!((client.read_to_end(), client.take()), (PeerEnd::Closed, vec![]), "{driver}");
        }
    }
}

#[test]
fn a_reply_to_a_client_that_has_ended_its_direction_still_comes() {
    let list = List::new();
    let own = list.ca.server("own");
    let args = ["--revoked-live", "close", "--close-timeout", "0.5"];
    let (listener, sealane) = server_with_list("uring", &rustls::version::TLS13, &list, &own, &args);
    let (mut client, mut peer) = connect(&sealane, &listener);
    client.write_all(&call(1, b"the last one")).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(peer.read(call(1, b"the last one").len()), call(1, b"the last one"));
    assert_eq!(peer.read_to_end(), PeerEnd::Closed);
    std::thread::sleep(Duration::from_secs(1));
    list.ca.revoke("own");
    list.renew();
    reload(&sealane, REPLACED);
    eventually("it hears of it", || sealane.process.count(ENDS) == 1);
    std::thread::sleep(Duration::from_millis(1500));
    peer.send(&reply(1, b"done"));
    hear(&mut client, &reply(1, b"done"));
    peer.send_record(ContentType::ALERT, &[1, 0]);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_revoked_client_that_takes_nothing_is_not_waited_for() {
    for (driver, version) in DRIVERS.into_iter().zip(VERSIONS) {
        let Door { list, nfs, sealane } = Door::new(driver, &["--revoked-live", "close", "--close-timeout", "0.5"]);
        let client = list.ca.issue("bad", "ca", "extendedKeyUsage=clientAuth");
        let config = client_config_of(&list.ca.file("ca.pem"), &client, version);
        let mut client = Peer::try_connect_with(version, &config, sealane.port).unwrap();
        let mut server = nfs.accept().unwrap().0;
        client.send(&call(1, b"much"));
        hear(&mut server, &call(1, b"much"));
        // More than the sockets on the way hold, which grow to tens of megabytes.
        let giving = std::thread::spawn(move || server.write_all(&reply(1, &vec![7; 100_000_000])).is_err());
        std::thread::sleep(Duration::from_millis(300));
        list.ca.revoke("bad");
        list.renew();
        reload(&sealane, REPLACED);
        let started = now();
        sealane.wait_for("closed: tls side: the client's certificate was revoked while the connection lasted");
        assert!(now() - started < Duration::from_secs(8), "{driver}: after {:?}", now() - started);
        assert!(giving.join().unwrap(), "{driver}: the NFS server is not waited for either");
    }
}

#[test]
fn what_one_connection_was_stapled_the_others_hear() {
    for (driver, version) in DRIVERS.into_iter().zip(VERSIONS) {
        let ca = Authority::new();
        let own = ca.server("own");
        let staple = |ca: &Authority| std::fs::read(ca.staple("own")).unwrap();
        let listener = PeerListener::bind(version).stapling(version, &own, staple(&ca));
        let args = ["--ca-file", &ca.ca(), "--ocsp", "staple", "--revoked-live", "close"];
        let sealane = Sealane::start(driver, listener.port(), &args);
        let mut live = connect(&sealane, &listener);
        call_and_reply(1, (&mut live.0, &mut live.1));
        ca.revoke("own");
        let revoked = listener.stapling(version, &own, staple(&ca));
        let mut late = sealane.connect_and_say(b"late");
        let refused = std::thread::spawn(move || drop(revoked.try_accept()));
        expect_reset(&mut late, SOON);
        refused.join().unwrap();
        sealane.wait_for("the server's certificate was revoked on 2026-01-02");
        expect_closed(live);
        sealane.wait_for("closed: the server's certificate was revoked");
    }
}

/// A connection whose server's certificate is revoked after its responder was asked once.
pub struct Watched {
    _responder: Responder,
    sealane: Sealane,
    live: (TcpStream, Peer),
}

impl Watched {
    /// It is accepted by what the responder says, or by what is stapled.
    pub fn begin(driver: &str, is_stapled: bool) -> Self {
        let ca = Arc::new(Authority::new());
        let own = ca.server("own");
        let (answering, was_asked) = (Arc::clone(&ca), AtomicBool::new(is_stapled));
        let responder = Responder::start(move |request| {
            if was_asked.swap(true, Ordering::Relaxed) {
                answering.revoke("own");
            }
            Reply::Response(answering.answer_for(1, request))
        });
        let request = ca.file("own.req");
        ca.run("ocsp -issuer ca.pem -cert own.pem -no_nonce -reqout own.req");
        let staple = if is_stapled { ca.answer_for(1, &std::fs::read(request).unwrap()) } else { Vec::new() };
        let version = &rustls::version::TLS13;
        let listener = PeerListener::bind(version).stapling(version, &own, staple);
        let args = ["--ca-file", &ca.ca(), "--ocsp", "soft", "--ocsp-url", &responder.url(), "--revoked-live", "close"];
        let sealane = Sealane::start(driver, listener.port(), &args);
        // One connection, for months, as a mount has it: nobody else wants to know.
        let mut live = connect(&sealane, &listener);
        call_and_reply(1, (&mut live.0, &mut live.1));
        Self { _responder: responder, sealane, live }
    }

    /// An answer counts for a minute, and is asked for again after 30 to 45 seconds.
    pub fn expect_its_end(self) {
        let Self { _responder, sealane, live } = self;
        eventually_within(Duration::from_secs(55), "it hears of the revocation", || sealane.process.count(ENDS) == 1);
        sealane.wait_for("(keyCompromise) (OCSP)");
        expect_closed(live);
        sealane.wait_for("closed: the server's certificate was revoked");
    }
}

#[test]
fn whoever_goes_on_talking_when_its_certificate_is_revoked_is_not_waited_for() {
    // Five seconds for what is owed, one for close_notify.
    const SPARE: Duration = Duration::from_secs(8);
    for (driver, version) in DRIVERS.into_iter().zip(VERSIONS.into_iter().rev()) {
        // A server that calls back all the time, and does not answer close_notify.
        let list = List::new();
        let own = list.ca.server("own");
        let args = ["--revoked-live", "close", "--close-timeout", "1"];
        let (listener, sealane) = server_with_list(driver, version, &list, &own, &args);
        let (mut client, mut peer) = connect(&sealane, &listener);
        call_and_reply(1, (&mut client, &mut peer));
        list.ca.revoke("own");
        list.renew();
        reload(&sealane, REPLACED);
        let started = now();
        let talking = std::thread::spawn(move || {
            let mut sender = peer.split_sender();
            for xid in 0..1000 {
                std::thread::sleep(Duration::from_millis(20));
                if sender.try_send(&call(xid, b"CB_NULL")).is_err() {
                    return;
                }
            }
            panic!("it may go on for ever");
        });
        let mut heard = Vec::new();
        let _ = client.read_to_end(&mut heard);
        assert!(now() - started < SPARE, "{driver}: the NFS client hears of the end after {:?}", now() - started);
        assert_eq!(heard.len() % call(0, b"CB_NULL").len(), 0, "{driver}: at a boundary");
        drop(client);
        talking.join().unwrap();
        sealane.wait_for("closed: the server's certificate was revoked");
    }
}

#[test]
fn a_revoked_server_gains_no_time_by_owing_a_reply() {
    let list = List::new();
    let own = list.ca.server("own");
    let (listener, sealane) =
        server_with_list("epoll", &rustls::version::TLS13, &list, &own, &["--revoked-live", "close"]);
    let (mut client, mut peer) = connect(&sealane, &listener);
    client.write_all(&call(1, b"never answered")).unwrap();
    peer.read(call(1, b"never answered").len());
    list.ca.revoke("own");
    list.renew();
    reload(&sealane, REPLACED);
    // Those five seconds that anybody gets.
    expect_reset(&mut client, Duration::from_secs(8));
    let told = PeerEnd::Tls(TlsError::PeerAlert(AlertDescription::CERTIFICATE_REVOKED));
    assert_eq!(peer.read_to_end(), told);
}

#[test]
fn a_revoked_client_that_goes_on_talking_is_not_waited_for_either() {
    for (driver, version) in DRIVERS.into_iter().zip(VERSIONS.into_iter().rev()) {
        let Door { list, nfs, sealane } = Door::new(driver, &["--revoked-live", "close", "--close-timeout", "1"]);
        let client = list.ca.issue("bad", "ca", "extendedKeyUsage=clientAuth");
        let config = client_config_of(&list.ca.file("ca.pem"), &client, version);
        let mut client = Peer::try_connect_with(version, &config, sealane.port).unwrap();
        let mut server = nfs.accept().unwrap().0;
        server.set_read_timeout(Some(SOON)).unwrap();
        client.send(&call(1, b"one"));
        hear(&mut server, &call(1, b"one"));
        server.write_all(&reply(1, b"done")).unwrap();
        list.ca.revoke("bad");
        list.renew();
        reload(&sealane, REPLACED);
        let started = now();
        let talking = std::thread::spawn(move || {
            let mut sender = client.split_sender();
            // Replies that nobody has asked for: no call that could be held back.
            while sender.try_send(&reply(9, b"nobody asked")).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
                assert!(now() - started < Duration::from_secs(15), "it may go on for ever");
            }
        });
        let mut heard = Vec::new();
        let _ = server.read_to_end(&mut heard);
        assert!(now() - started < Duration::from_secs(3), "{driver}: after {:?}", now() - started);
        drop(server);
        talking.join().unwrap();
        sealane.wait_for("closed: the client's certificate was revoked");
    }
}

/// `sealane server` before an NFS server of ours, which demands certificates that a list does not name.
struct Door {
    list: List,
    nfs: TcpListener,
    sealane: Sealane,
}

impl Door {
    fn new(driver: &str, more: &[&str]) -> Self {
        let list = List::new();
        let own = list.ca.server("own");
        let [cert, key] = [&own.cert, &own.key].map(|file| file.display().to_string());
        let ca = list.ca.ca();
        let nfs = TcpListener::bind("127.0.0.1:0").unwrap();
        let args = ["--cert", &cert, "--key", &key, "--client-ca", &ca, "--crl-file", &list.file];
        let args = [&args[..], more].concat();
        let sealane = Sealane::server(driver, nfs.local_addr().unwrap().port(), &args);
        Self { list, nfs, sealane }
    }
}

#[test]
fn a_handshake_that_began_before_a_reload_is_judged_by_what_counts_behind_it() {
    for (driver, version) in DRIVERS.into_iter().flat_map(|driver| VERSIONS.map(|version| (driver, version))) {
        let Door { list, nfs, sealane } = Door::new(driver, &[]);
        let client = list.ca.issue("bad", "ca", "extendedKeyUsage=clientAuth");
        let config = client_config_of(&list.ca.file("ca.pem"), &client, version);
        let mut connection = ClientConnection::new(config, NAME.try_into().unwrap()).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", sealane.port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        connection.write_tls(&mut stream).unwrap();
        // The server has answered, by what counted then.
        stream.peek(&mut [0]).unwrap();
        list.ca.revoke("bad");
        list.renew();
        reload(&sealane, REPLACED);
        connection.writer().write_all(&call(1, b"too late")).unwrap();
        let error = loop {
            match connection.complete_io(&mut stream) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("CertificateRevoked"), "{driver} {version:?}: {error}");
        sealane.wait_for("the client's certificate has been revoked, says a CRL");
        nfs.set_nonblocking(true).unwrap();
        assert_eq!(nfs.accept().map_err(|error| error.kind()).err(), Some(ErrorKind::WouldBlock), "{driver}");
        assert_eq!(sealane.process.count("opened: "), 0, "{driver} {version:?}");
    }
}
