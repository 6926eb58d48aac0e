//! What server mode lets strangers have, and what it never does for them: compression, early data. (Renegotiation:
//! `server_far_ends::a_client_that_wants_to_renegotiate_is_told_no`.)

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;

use crate::support::peer::Peer;
use crate::support::pki::{NAME, Pki};
use crate::support::process::{SOON, eventually, free_port};
use crate::support::sealane::{DRIVERS, Sealane, expect_reset};

/// A connection from one of this host's addresses.
fn connect_from(address: [u8; 4], port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Whether the connection has been left open for a while.
fn is_open(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let peeked = stream.peek(&mut [0]);
    matches!(peeked, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// What a look at a connection finds: `WouldBlock` while it is open.
fn state(stream: &TcpStream) -> ErrorKind {
    stream.set_nonblocking(true).unwrap();
    match stream.peek(&mut [0]) {
        Ok(_) => ErrorKind::UnexpectedEof,
        Err(error) => error.kind(),
    }
}

/// What a tunnel has said of handshakes.
struct Log {
    /// With the workers that have them, in their order.
    accepted: Vec<(String, SocketAddr)>,
    /// What is no handshake any more: sessions, and those that made way.
    gone: BTreeSet<SocketAddr>,
}

impl Log {
    fn of(sealane: &Sealane) -> Self {
        let output = sealane.process.output();
        let field = |line: &str, name: &str| {
            let value = line.split_once(&format!(" {name}="))?.1;
            value.split_whitespace().next().map(str::to_owned)
        };
        let peer = |line: &str| field(line, "peer").map(|peer| peer.parse().unwrap());
        let is_gone = |line: &&str| {
            line.contains(" opened: ") || line.contains(" made way for newer ones (--handshakes-per-address-max)")
        };
        Self {
            accepted: output.lines().filter_map(|line| Some((field(line, "worker")?, peer(line)?))).collect(),
            gone: output.lines().filter(is_gone).filter_map(peer).collect(),
        }
    }

    /// What each worker has accepted.
    fn workers(&self) -> impl Iterator<Item = (&str, Vec<SocketAddr>)> {
        let workers: BTreeSet<_> = self.accepted.iter().map(|(worker, _)| worker.as_str()).collect();
        workers.into_iter().map(|worker| {
            let own = self.accepted.iter().filter(|(of, _)| of == worker);
            (worker, own.map(|(_, peer)| *peer).collect())
        })
    }
}

/// Sooner than any timeout that would end the connection for another reason.
const AT_ONCE: Duration = Duration::from_secs(2);
const ONE: [u8; 4] = [127, 0, 0, 1];
const OTHER: [u8; 4] = [127, 0, 0, 2];

#[test]
fn silent_clients_of_an_address_keep_nobody_of_that_address_out_with_the_limits_as_they_are() {
    for (driver, workers) in DRIVERS.into_iter().flat_map(|driver| [(driver, "1"), (driver, "4")]) {
        let nfs = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = nfs.local_addr().unwrap().port();
        let mut sealane = Sealane::server(driver, port, &["--workers", workers]);
        let elsewhere = connect_from(OTHER, sealane.port);
        // More than the 64 of one address, and more than all places.
        let silent: Vec<_> = (0..300).map(|_| connect_from(ONE, sealane.port)).collect();
        let half: Vec<_> = (0..100).map(|_| sealane.connect_and_say(&[22, 3, 1, 0, 200])).collect();
        let shaken = (0..20).map(|_| Peer::try_connect(&rustls::version::TLS13, sealane.port));
        let sessions: Vec<_> =
            shaken.map(|shaken| shaken.unwrap_or_else(|error| panic!("{driver}: {error}"))).collect();
        eventually("all are sessions", || sealane.process.count("opened: ") == 20);
        let all = silent.len() + half.len();
        let most_of_a_worker = 64 / workers.parse::<usize>().unwrap();
        eventually("the address keeps its share in each worker", || {
            let log = Log::of(&sealane);
            log.accepted.len() == 1 + all + sessions.len()
                && log.workers().all(|(_, peers)| {
                    let of_one = peers.iter().filter(|peer| peer.ip() == IpAddr::from(ONE));
                    of_one.filter(|peer| !log.gone.contains(peer)).count() <= most_of_a_worker
                })
        });
        let log = Log::of(&sealane);
        for stream in silent.iter().chain(&half) {
            let has_gone = log.gone.contains(&stream.local_addr().unwrap());
            // An end of stream would be no reset.
            assert_eq!(state(stream), if has_gone { ErrorKind::ConnectionReset } else { ErrorKind::WouldBlock });
        }
        // Of those that got equally far, the oldest of the worker went.
        let are_silent: BTreeSet<_> = silent.iter().map(|stream| stream.local_addr().unwrap()).collect();
        for (worker, peers) in log.workers() {
            let have_gone = peers.iter().filter(|peer| are_silent.contains(peer)).map(|peer| log.gone.contains(peer));
            assert!(have_gone.is_sorted_by(|one, next| one >= next), "{driver}: worker {worker} of {workers}");
        }
        let first = half[0].local_addr().unwrap();
        assert!(workers != "1" || log.gone.contains(&first), "{driver}: of those that spoke, the oldest");
        assert!(is_open(&elsewhere), "{driver}: another address has its own share");
        sealane.wait_for("the TLS handshake made way for newer ones (--handshakes-per-address-max)");
        drop((silent, half, sessions));
        sealane.process.signal("TERM");
        sealane.process.wait();
        sealane.wait_for("handshakes_evicted_total=");
    }
}

#[test]
fn a_client_that_waits_for_an_nfs_server_is_no_handshake() {
    for driver in DRIVERS {
        // Nobody is there, so that each client waits; far more than may shake hands.
        let port = free_port();
        let sealane = Sealane::server(driver, port, &["--handshakes-per-address-max", "4", "--workers", "1"]);
        let waiting: Vec<_> = (0..12).map(|_| Peer::connect(&rustls::version::TLS13, sealane.port)).collect();
        assert!(waiting.iter().all(|peer| is_open(&peer.stream)), "{driver}");
        assert_eq!(sealane.process.count("made way"), 0, "{driver}");
        let nfs = TcpListener::bind(("127.0.0.1", port)).unwrap();
        eventually("all are sessions", || sealane.process.count("opened: ") == 12);
        drop(nfs);
    }
}

#[test]
fn an_address_with_its_share_of_connections_gets_no_more_and_others_do() {
    for driver in DRIVERS {
        let nfs = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ["--connections-per-address-max", "4"];
        let sealane = Sealane::server(driver, nfs.local_addr().unwrap().port(), &options);
        let mut sessions: Vec<_> = (0..4).map(|_| Peer::connect(&rustls::version::TLS13, sealane.port)).collect();
        eventually("the sessions are there", || sealane.process.count("opened: ") == 4);
        for _ in 0..20 {
            expect_reset(&mut connect_from(ONE, sealane.port), AT_ONCE);
        }
        assert!(is_open(&connect_from(OTHER, sealane.port)), "{driver}");
        sealane.wait_for("reset: its address has 4 connections already (--connections-per-address-max)");
        assert_eq!(sealane.process.count(" WARN reset: its address"), 1, "{driver}: one line for many");
        drop(sessions.pop());
        eventually("a place is free", || Peer::try_connect(&rustls::version::TLS13, sealane.port).is_ok());
        assert_eq!(sealane.process.count("panic"), 0);
    }
}

/// A ClientHello as a record (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2).
fn client_hello(compressions: &[u8], suites: &[u16], extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let counted = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let extensions: Vec<u8> =
        extensions.iter().flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &counted(body)].concat()).collect();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &counted(&suites),
        &[compressions.len() as u8],
        compressions,
        &counted(&extensions),
    ]
    .concat();
    let message = [&[1, 0][..], &counted(&body)].concat();
    [&[22, 3, 1][..], &counted(&message)].concat()
}

/// The extensions that every version wants: groups, point formats, signature algorithms, extended master secret.
fn common_extensions() -> Vec<(u16, Vec<u8>)> {
    vec![
        (10, vec![0, 4, 0, 29, 0, 23]),
        (11, vec![1, 0]),
        (13, vec![0, 8, 4, 3, 8, 4, 5, 3, 4, 1]),
        (23, Vec::new()),
        (0xff01, vec![0]),
    ]
}

fn record(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).ok()?;
    let mut body = vec![0; u16::from_be_bytes([header[3], header[4]]).into()];
    stream.read_exact(&mut body).ok()?;
    Some((header[0], body))
}

/// ECDHE with the RSA and with the ECDSA certificate, AES-128-GCM.
const SUITES_12: [u16; 2] = [0xc02f, 0xc02b];

#[test]
fn nothing_is_ever_compressed() {
    for driver in DRIVERS {
        let sealane = Sealane::server(driver, 9, &[]);
        // DEFLATE (RFC 3749) before nothing: nothing is chosen.
        let mut stream = sealane.connect_and_say(&client_hello(&[1, 0], &SUITES_12, &common_extensions()));
        let (kind, hello) = record(&mut stream).unwrap();
        assert_eq!((kind, hello[0]), (22, 2), "{driver}: a ServerHello: {hello:?}");
        let session_id = usize::from(hello[38]);
        assert_eq!(hello[39 + session_id + 2], 0, "{driver}: the null compression method");
        // DEFLATE only: an alert that says no more than that.
        let mut stream = sealane.connect_and_say(&client_hello(&[1], &SUITES_12, &common_extensions()));
        let (kind, alert) = record(&mut stream).unwrap();
        assert_eq!((kind, alert[0], alert.len()), (21, 2, 2), "{driver}: {alert:?}");
        assert_eq!(record(&mut stream), None, "{driver}");
        assert_eq!(sealane.process.count("opened: "), 0, "{driver}");
    }
}

#[test]
fn no_ticket_allows_early_data_and_early_data_goes_nowhere() {
    for driver in DRIVERS {
        let nfs = TcpListener::bind("127.0.0.1:0").unwrap();
        nfs.set_nonblocking(true).unwrap();
        let sealane = Sealane::server(driver, nfs.local_addr().unwrap().port(), &["--handshake-timeout", "1"]);
        // A client that would send some, with a ticket of ours.
        let mut config = (*Pki::get().client_config(&rustls::version::TLS13)).clone();
        config.enable_early_data = true;
        let config = Arc::new(config);
        let connection = || ClientConnection::new(Arc::clone(&config), NAME.try_into().unwrap()).unwrap();
        let mut stream = sealane.connect();
        let mut first = connection();
        while first.is_handshaking() || first.wants_write() || first.tls13_tickets_received() == 0 {
            first.complete_io(&mut stream).unwrap();
        }
        let mut second = connection();
        assert!(second.early_data().is_none(), "{driver}: the ticket allows early data");
        let mut stream = sealane.connect();
        while second.is_handshaking() {
            second.complete_io(&mut stream).unwrap();
        }
        assert_eq!(second.handshake_kind(), Some(rustls::HandshakeKind::Resumed), "{driver}: it was a ticket");
        eventually("both sessions are there", || sealane.process.count("opened: ") == 2);
        while nfs.accept().is_ok() {}
        // A client that sends some all the same, with a ticket that nobody has given it.
        let mut extensions = common_extensions();
        extensions.extend([
            (43, vec![2, 3, 4]),
            (51, [&[0, 36, 0, 29, 0, 32][..], &[9; 32]].concat()),
            (45, vec![1, 1]),
            (42, Vec::new()),
            (41, [&[0, 38, 0, 32][..], &[5; 32], &[0; 4], &[0, 33, 32], &[6; 32]].concat()),
        ]);
        let hello = client_hello(&[0], &[0x1301, 0x1302], &extensions);
        let early = [&[23, 3, 3, 0, 64][..], &[0xaa; 64]].concat();
        let mut stream = sealane.connect_and_say(&[hello, early.clone(), early].concat());
        let (kind, answer) = record(&mut stream).unwrap();
        assert_eq!((kind, answer[0]), (22, 2), "{driver}: the handshake goes on without it: {answer:?}");
        // The key_share of 51 is taken, and no pre_shared_key (41) is selected.
        assert!(!answer.windows(4).any(|bytes| bytes == [0, 41, 0, 2]), "{driver}: {answer:?}");
        let _ = stream.write_all(b"");
        while record(&mut stream).is_some() {}
        sealane.wait_for("closed: the TLS handshake was not done within 1 s");
        assert!(nfs.accept().is_err(), "{driver}: early data reached the NFS server");
        assert_eq!(sealane.process.count("opened: "), 2, "{driver}");
    }
}
