//! Server mode behind TLS clients that are not ours, and before servers that are not: OpenSSL, stunnel, haproxy.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::far_ends::{echo, echo_server};
use crate::support::bytes::Random;
use crate::support::openssl::{SClient, Stunnel};
use crate::support::pki::{Identity, Pki};
use crate::support::process::{Process, eventually, free_port, have, scratch, wait_for_port};
use crate::support::sealane::{DRIVERS, Sealane, expect_reset};
use crate::support::{is_root, not_run};

pub const TLS_VERSIONS: [&str; 2] = ["1.2", "1.3"];

/// The options that show or demand the test's client certificate.
pub fn certificate(identity: &Identity) -> [&str; 4] {
    ["--cert", identity.cert.to_str().unwrap(), "--key", identity.key.to_str().unwrap()]
}

pub fn demand() -> [&'static str; 2] {
    ["--client-ca", Pki::get().ca.to_str().unwrap()]
}

#[test]
fn bytes_survive_both_ways_through_client_and_server_mode() {
    let bytes = Arc::new(Random::new(11).bytes(12 << 20));
    let show = certificate(&Pki::get().client);
    for driver in DRIVERS {
        for tls in TLS_VERSIONS {
            for mutual in [false, true] {
                let (mut server_args, mut client_args) = (vec!["--tls", tls], vec!["--tls", tls]);
                if mutual {
                    server_args.extend(demand());
                    client_args.extend(show);
                }
                let server = Sealane::server(driver, echo_server(), &server_args);
                let client = Sealane::start(driver, server.port, &client_args);
                echo(client.connect(), &bytes);
                for side in [&server, &client] {
                    side.wait_for(&format!("opened: TLS {tls}"));
                    side.wait_for("closed: closed by the client");
                    side.wait_for(&format!("out_bytes={0} back_bytes={0}", bytes.len()));
                }
            }
        }
    }
}

#[test]
fn stunnel_is_a_client_of_server_mode() {
    if !have("stunnel4") {
        return not_run("server_far_ends::stunnel_is_a_client_of_server_mode", "stunnel4 is not installed");
    }
    let bytes = Arc::new(Random::new(12).bytes(12 << 20));
    let Identity { cert, key } = &Pki::get().client;
    let show = format!("cert = {}\nkey = {}\n", cert.display(), key.display());
    for driver in DRIVERS {
        for tls in TLS_VERSIONS {
            let server = Sealane::server(driver, echo_server(), &[&["--tls", tls][..], &demand()].concat());
            let stunnel = Stunnel::client(server.port, &format!("{show}sslVersion = TLSv{tls}"));
            for _ in 0..3 {
                // stunnel passes the end on at once, and a TLS 1.2 server drops what it has not sent by then: so the
                // client ends when it has all.
                let mut stream = TcpStream::connect(("127.0.0.1", stunnel.port)).unwrap();
                let (mut sender, sent) = (stream.try_clone().unwrap(), Arc::clone(&bytes));
                let sending = std::thread::spawn(move || sender.write_all(&sent).unwrap());
                let mut back = vec![0; bytes.len()];
                stream.read_exact(&mut back).unwrap();
                sending.join().unwrap();
                assert!(back == *bytes);
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
            // Beside them there is the probe that waited for stunnel.
            let whole = format!("out_bytes={0} back_bytes={0}", bytes.len());
            eventually("three connections carried all", || server.process.count(&whole) == 3);
            assert_eq!(server.process.count("opened:"), server.process.count(&format!("opened: TLS {tls}")), "{tls}");
        }
    }
}

/// A plain server that hears lines and can say some; for one connection at a time.
struct Plain {
    listener: TcpListener,
}

impl Plain {
    fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(crate::support::process::SOON)).unwrap();
        stream
    }

    fn has_connection(&self) -> bool {
        self.listener.set_nonblocking(true).unwrap();
        let accepted = self.listener.accept().is_ok();
        self.listener.set_nonblocking(false).unwrap();
        accepted
    }
}

fn lines(client: &mut SClient, server: &mut TcpStream, tag: &str) {
    let text = format!("from the client {tag}\n");
    client.line(text.trim_end());
    let mut heard = vec![0; text.len()];
    server.read_exact(&mut heard).unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), text);
    server.write_all(format!("from the server {tag}\n").as_bytes()).unwrap();
    client.process.wait_for(&format!("from the server {tag}"));
}

#[test]
fn key_updates_of_an_openssl_client_are_followed_and_answered() {
    for driver in DRIVERS {
        let plain = Plain::bind();
        let mut sealane = Sealane::server(driver, plain.port(), &[]);
        let mut client = SClient::start(sealane.port, &["-tls1_3"]);
        let mut server = plain.accept();
        for round in 0..3 {
            lines(&mut client, &mut server, &format!("before K {round}"));
            client.line("K"); // updates the client's key and asks for ours
            eventually("KeyUpdate", || sealane.process.count("KeyUpdate received") == 2 * round + 1);
            lines(&mut client, &mut server, &format!("after K {round}"));
            client.line("k"); // updates the client's key only
            eventually("KeyUpdate", || sealane.process.count("KeyUpdate received") == 2 * round + 2);
            lines(&mut client, &mut server, &format!("after k {round}"));
        }
        sealane.process.signal("TERM");
        assert_eq!(sealane.process.wait().code(), Some(0));
        sealane.wait_for("key_updates_received_total=6 key_updates_sent_total=3");
    }
}

#[test]
fn our_key_is_updated_when_it_is_due_and_the_clients_is_asked_for() {
    for driver in DRIVERS {
        let plain = Plain::bind();
        let mut sealane = Sealane::server(driver, plain.port(), &["--records-per-key-max", "10"]);
        let mut client = SClient::start(sealane.port, &["-tls1_3"]);
        let mut server = plain.accept();
        for round in 0..60 {
            lines(&mut client, &mut server, &format!("round {round}"));
        }
        sealane.process.signal("TERM");
        assert_eq!(sealane.process.wait().code(), Some(0));
        sealane.wait_for("stopped by SIGTERM");
        let total = |name: &str| -> u32 {
            let log = sealane.process.output();
            log.split(name).nth(1).map_or(0, |rest| rest[1..].split_whitespace().next().unwrap().parse().unwrap())
        };
        assert!(total("key_updates_sent_total") >= 6, "{}", sealane.process.output());
        assert!(total("key_updates_received_total") >= 5, "{}", sealane.process.output());
    }
}

#[test]
fn a_client_that_wants_to_renegotiate_is_told_no() {
    for driver in DRIVERS {
        let plain = Plain::bind();
        let mut sealane = Sealane::server(driver, plain.port(), &[]);
        let mut client = SClient::start(sealane.port, &["-tls1_2"]);
        let mut server = plain.accept();
        lines(&mut client, &mut server, "before R");
        // OpenSSL's own client ends when it is refused; that is its choice.
        client.line("R");
        client.process.wait_for("no renegotiation");
        drop(client);
        sealane.wait_for("closed: ");
        sealane.process.signal("TERM");
        sealane.process.wait();
        sealane.wait_for("renegotiations_refused_total=1");
    }
}

/// Connects once more with the session in `file`, while another connection keeps the first worker busy, so that a worker
/// gets it that has not made the session.
fn resumes(sealane: &Sealane, plain: &Plain, version: &[&str]) {
    let file = scratch("session").join("session.pem");
    // The line of a connection's end says it too, whenever that comes.
    let opened =
        || sealane.process.output().lines().filter(|it| it.contains("opened:") && it.contains(" resumed ")).count();
    let (file, before) = (file.to_str().unwrap(), opened());
    let mut first = SClient::start(sealane.port, &[version, &["-sess_out", file]].concat());
    let mut server = plain.accept();
    lines(&mut first, &mut server, "in full");
    eventually("the session is saved", || std::fs::metadata(file).is_ok_and(|file| file.len() > 0));
    // The first connection stays, so the other worker has fewer.
    let mut second = SClient::start(sealane.port, &[version, &["-sess_in", file]].concat());
    let mut server = plain.accept();
    lines(&mut second, &mut server, "resumed");
    second.process.wait_for("Reused, TLSv1.");
    eventually("it is logged as resumed", || opened() == before + 1);
    let log = sealane.process.output();
    let workers: Vec<_> = log.split("accepted peer=").skip(1).map(|line| line.split_whitespace().nth(1)).collect();
    let [.., first, second] = workers[..] else { panic!("{log}") };
    assert_ne!(first, second, "{version:?}: one worker served both: {log}");
}

#[test]
fn sessions_are_resumed_by_ticket_and_by_identifier_whichever_worker_made_them() {
    for driver in DRIVERS {
        let plain = Plain::bind();
        let sealane = Sealane::server(driver, plain.port(), &["--workers", "2"]);
        for version in [&["-tls1_3"][..], &["-tls1_2"], &["-tls1_2", "-no_ticket"]] {
            resumes(&sealane, &plain, version);
        }
        let show = &Pki::get().client;
        let show = ["-cert", show.cert.to_str().unwrap(), "-key", show.key.to_str().unwrap()];
        let sealane = Sealane::server(driver, plain.port(), &[&["--workers", "2"][..], &demand()].concat());
        for version in [&["-tls1_3"][..], &["-tls1_2"], &["-tls1_2", "-no_ticket"]] {
            resumes(&sealane, &plain, &[version, &show].concat());
        }
    }
}

#[test]
fn a_client_that_may_not_in_gets_its_alert_and_the_server_no_connection() {
    let pki = Pki::get();
    let plain = Plain::bind();
    let demand = demand();
    // Version, certificate, whether one is demanded; the alert's number, our reason.
    let cases: [(&str, Option<&Identity>, bool, &str, &str); 10] = [
        ("-tls1_3", None, true, "alert number 116", "showed no certificate"),
        ("-tls1_2", None, true, "alert number", "showed no certificate"),
        ("-tls1_3", Some(&pki.foreign_client), true, "alert number 48", "not signed by a trusted CA"),
        ("-tls1_2", Some(&pki.foreign_client), true, "alert number 48", "not signed by a trusted CA"),
        ("-tls1_3", Some(&pki.expired_client), true, "alert number 45", "the client's certificate has expired"),
        ("-tls1_2", Some(&pki.expired_client), true, "alert number 45", "the client's certificate has expired"),
        ("-tls1_1", None, false, "alert number", "speaks no TLS version that is allowed here"),
        ("1.3 only", None, false, "alert number 70", "speaks no TLS version that is allowed here"),
        ("-cipher=AES128-SHA", None, false, "alert number 40", "offers no cipher suite that is spoken here"),
        (
            "-cipher=DHE-RSA-AES128-GCM-SHA256",
            None,
            false,
            "alert number 40",
            "offers no cipher suite that is spoken here",
        ),
    ];
    for (index, (version, show, demanded, alert, reason)) in cases.into_iter().enumerate() {
        let driver = DRIVERS[index % 2];
        let args: &[&str] = match (demanded, version) {
            (true, _) => &demand,
            (false, "1.3 only") => &["--tls", "1.3"],
            _ => &[],
        };
        let sealane = Sealane::server(driver, plain.port(), args);
        let mut options = Vec::new();
        match version.split_once('=') {
            Some((option, list)) => options.extend(["-tls1_2", option, list]),
            None if version == "1.3 only" => options.push("-tls1_2"),
            None if version == "-tls1_1" => options.extend([version, "-cipher", "ALL:@SECLEVEL=0"]),
            None => options.push(version),
        }
        if let Some(Identity { cert, key }) = show {
            options.extend(["-cert", cert.to_str().unwrap(), "-key", key.to_str().unwrap()]);
        }
        let mut client = SClient::start(sealane.port, &options);
        // TLS 1.3 clients are done before the server has judged them: the alert shows when they read.
        sealane.wait_for(reason);
        client.process.wait_for(alert);
        assert!(!client.process.wait().success(), "{version} {reason}");
        assert!(!plain.has_connection(), "{version} {reason}: the NFS server was connected to");
        assert_eq!(sealane.process.count("opened:"), 0, "{version} {reason}");
    }
}

#[test]
fn a_mount_without_a_tunnel_is_told_apart() {
    for driver in DRIVERS {
        let plain = Plain::bind();
        let sealane = Sealane::server(driver, plain.port(), &[]);
        let mut client = sealane.connect_and_say(&crate::support::bytes::call(1, b"EXCHANGE_ID in plain text"));
        let mut rest = Vec::new();
        // An alert, in plain text too, then the end.
        let _ = client.read_to_end(&mut rest);
        assert_eq!(rest.first(), Some(&21), "{rest:?}");
        sealane.wait_for("the client does not seem to speak TLS");
        assert!(!plain.has_connection());
    }
}

#[test]
fn a_resumed_session_does_not_outlive_the_clients_certificate() {
    let plain = Plain::bind();
    let short = Pki::get().expiring_in(8);
    let show = ["-cert", short.cert.to_str().unwrap(), "-key", short.key.to_str().unwrap()];
    let demand = demand();
    let files: Vec<_> = (0..2).map(|_| scratch("session").join("session.pem")).collect();
    let sealane = Sealane::server("uring", plain.port(), &demand);
    for (file, version) in files.iter().zip(["-tls1_2", "-tls1_3"]) {
        let file = file.to_str().unwrap();
        let mut client = SClient::start(sealane.port, &[&[version, "-sess_out", file][..], &show].concat());
        let mut server = plain.accept();
        lines(&mut client, &mut server, "in time");
        eventually("the session is saved", || std::fs::metadata(file).is_ok_and(|file| file.len() > 0));
        let mut client = SClient::start(sealane.port, &[&[version, "-sess_in", file][..], &show].concat());
        let mut server = plain.accept();
        lines(&mut client, &mut server, "still in time");
        client.process.wait_for("Reused");
    }
    std::thread::sleep(Duration::from_millis(9_500));
    for (index, (file, version)) in files.iter().zip(["-tls1_2", "-tls1_3"]).enumerate() {
        let file = file.to_str().unwrap();
        let mut client = SClient::start(sealane.port, &[&[version, "-sess_in", file][..], &show].concat());
        client.process.wait_for("alert number 45");
        assert!(!client.process.wait().success());
        let line = "the certificate of the resumed session is not valid any more";
        eventually(line, || sealane.process.count(line) == index + 1);
        assert!(!plain.has_connection());
    }
}

#[test]
fn the_nfs_server_is_told_where_its_client_is() {
    for (driver, version) in DRIVERS.into_iter().zip(["v1", "v2"]) {
        let plain = Plain::bind();
        let sealane = Sealane::server(driver, plain.port(), &["--proxy-protocol", version]);
        let mut client = SClient::start(sealane.port, &[]);
        let mut server = plain.accept();
        let line = "opened: ";
        sealane.wait_for(line);
        let log = sealane.process.output();
        let peer = log.split(line).nth(1).unwrap().split("peer=127.0.0.1:").nth(1).unwrap();
        let peer: u16 = peer.split_whitespace().next().unwrap().parse().unwrap();
        let wanted = match version {
            "v1" => format!("PROXY TCP4 127.0.0.1 127.0.0.1 {peer} {}\r\n", sealane.port).into_bytes(),
            _ => {
                let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
                header.extend(peer.to_be_bytes());
                header.extend(sealane.port.to_be_bytes());
                header
            }
        };
        let mut header = vec![0; wanted.len()];
        server.read_exact(&mut header).unwrap();
        assert_eq!(header, wanted, "{version}");
        lines(&mut client, &mut server, "behind the header");
    }
}

#[test]
fn haproxy_understands_the_header() {
    if !have("haproxy") {
        return not_run("server_far_ends::haproxy_understands_the_header", "haproxy is not installed");
    }
    // haproxy takes the header off, and sends the address that it found on in a header of its own, of version 1.
    let plain = Plain::bind();
    let port = free_port();
    let file = scratch("haproxy").join("haproxy.cfg");
    let text = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
         listen nfs\n bind 127.0.0.1:{port} accept-proxy\n server plain 127.0.0.1:{} send-proxy\n",
        plain.port(),
    );
    std::fs::write(&file, text).unwrap();
    let _haproxy = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(&file).stdin(Stdio::null()));
    wait_for_port(port);
    for version in ["v1", "v2"] {
        let sealane = Sealane::server("uring", port, &["--proxy-protocol", version]);
        let mut client = SClient::start(sealane.port, &[]);
        let mut server = plain.accept();
        sealane.wait_for("opened: ");
        let log = sealane.process.output();
        let peer = log.split("opened: ").nth(1).unwrap().split("peer=127.0.0.1:").nth(1).unwrap();
        let peer = peer.split_whitespace().next().unwrap();
        let wanted = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {peer} {}\r\n", sealane.port);
        let mut header = vec![0; wanted.len()];
        server.read_exact(&mut header).unwrap();
        assert_eq!(String::from_utf8_lossy(&header), wanted, "{version}");
        lines(&mut client, &mut server, "through haproxy");
    }
}

#[test]
fn the_nfs_server_sees_a_privileged_port_when_it_demands_one() {
    if !is_root() {
        return not_run("server_far_ends::the_nfs_server_sees_a_privileged_port_when_it_demands_one", "not root");
    }
    for driver in DRIVERS {
        let plain = Plain::bind();
        let sealane = Sealane::server(driver, plain.port(), &["--source-port", "privileged"]);
        let mut client = SClient::start(sealane.port, &[]);
        let mut server = plain.accept();
        assert!((665..=1023).contains(&server.peer_addr().unwrap().port()));
        lines(&mut client, &mut server, "privileged");
    }
}

#[test]
fn an_nfs_server_that_is_away_is_waited_for_and_its_client_told() {
    for driver in DRIVERS {
        for tls in TLS_VERSIONS {
            let port = free_port();
            let server = Sealane::server(driver, port, &["--tls", tls, "--retry-timeout", "1.5"]);
            let client = Sealane::start(driver, server.port, &["--tls", tls]);
            // Not at all.
            let mut plain = client.connect_and_say(b"x");
            expect_reset(&mut plain, Duration::from_secs(4));
            server.wait_for("gave up after 1 s: cannot connect to 127.0.0.1");
            client.wait_for("the peer sent the alert internal_error");
            // Late.
            let mut plain = client.connect_and_say(b"late");
            std::thread::sleep(Duration::from_millis(400));
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = [0; 4];
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"late");
            plain.shutdown(Shutdown::Write).unwrap();
            drop(stream);
            let mut rest = Vec::new();
            plain.read_to_end(&mut rest).unwrap();
        }
    }
}
