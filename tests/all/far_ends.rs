//! Through the binary to TLS servers that are not ours: stunnel and OpenSSL.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConnection;

use crate::support::bytes::Random;
use crate::support::not_run;
use crate::support::openssl::{SServer, Stunnel};
use crate::support::peer::VERSIONS;
use crate::support::pki::{NAME, Pki};
use crate::support::process::{SOON, have};
use crate::support::sealane::{DRIVERS, Sealane, binary, expect_reset};

/// A plain server that sends back what it gets, for any number of connections; returns its port.
pub fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    port
}

/// Sends `bytes` and reads as many back, both at once; then ends and expects the end.
pub fn echo(mut stream: TcpStream, bytes: &Arc<Vec<u8>>) {
    let mut sender = stream.try_clone().unwrap();
    let sent = Arc::clone(bytes);
    let sending = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    sending.join().unwrap();
    assert!(back == **bytes, "{} of {} bytes came back, or others", back.len(), bytes.len());
}

#[test]
fn bytes_survive_both_ways_through_stunnel() {
    if !have("stunnel4") {
        return not_run("far_ends::bytes_survive_both_ways_through_stunnel", "stunnel4 is not installed");
    }
    let bytes = Arc::new(Random::new(1).bytes(12 << 20));
    for (version, settings) in [("TLS 1.2", "sslVersion = TLSv1.2"), ("TLS 1.3", "sslVersion = TLSv1.3")] {
        let stunnel = Stunnel::start(echo_server(), settings);
        for driver in DRIVERS {
            let sealane = Sealane::start(driver, stunnel.port, &[]);
            echo(sealane.connect(), &bytes);
            sealane.wait_for(&format!("opened: {version}"));
            sealane.wait_for("closed: closed by the client");
            sealane.wait_for(&format!("out_bytes={0} back_bytes={0}", bytes.len()));
        }
    }
}

/// Lines both ways between a client of sealane and `openssl s_server`.
fn lines(server: &mut SServer, client: &mut TcpStream, tag: &str) {
    // One write, so that nothing that s_server prints comes in between.
    client.write_all(format!("from the client {tag}\n").as_bytes()).unwrap();
    server.process.wait_for(&format!("from the client {tag}"));
    let text = format!("from the server {tag}\n");
    server.line(text.trim_end());
    let mut back = vec![0; text.len()];
    client.read_exact(&mut back).unwrap();
    assert_eq!(String::from_utf8_lossy(&back), text);
}

#[test]
fn every_suite_of_both_versions_works_with_openssl() {
    let suites = [
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
        ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
        ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    ];
    for (index, (version, option, openssl_name, name)) in suites.into_iter().enumerate() {
        let driver = DRIVERS[index % 2];
        let mut server = SServer::start(&[version, option, openssl_name]);
        let sealane = Sealane::start(driver, server.port, &[]);
        let mut client = sealane.connect();
        lines(&mut server, &mut client, name);
        lines(&mut server, &mut client, "again");
        sealane.wait_for(name);
    }
}

#[test]
fn key_updates_of_openssl_are_followed_and_answered() {
    for driver in DRIVERS {
        let mut server = SServer::start(&["-tls1_3"]);
        let mut sealane = Sealane::start(driver, server.port, &[]);
        let mut client = sealane.connect();
        for round in 0..3 {
            lines(&mut server, &mut client, &format!("before K {round}"));
            server.line("K"); // updates the server's key and asks for ours
            crate::support::process::eventually("KeyUpdate", || {
                sealane.process.count("KeyUpdate received") == round + 1
            });
            lines(&mut server, &mut client, &format!("after K {round}"));
        }
        sealane.process.signal("TERM");
        assert_eq!(sealane.process.wait().code(), Some(0));
        sealane.wait_for("key_updates_received_total=3 key_updates_sent_total=3");
    }
}

#[test]
fn several_requests_for_our_next_key_get_one_answer() {
    for driver in DRIVERS {
        let config = Pki::get().server_config(&rustls::version::TLS13);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sealane = Sealane::start(driver, listener.local_addr().unwrap().port(), &[]);
        let mut client = sealane.connect();
        let (mut stream, _) = listener.accept().unwrap();
        let mut connection = ServerConnection::new(config).unwrap();
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut stream).unwrap();
        }
        // Five KeyUpdates, each with a request, and data under the last key: all in one write.
        let mut flight = Vec::new();
        for _ in 0..5 {
            connection.refresh_traffic_keys().unwrap();
        }
        connection.writer().write_all(b"under the fifth key").unwrap();
        while connection.wants_write() {
            connection.write_tls(&mut flight).unwrap();
        }
        stream.write_all(&flight).unwrap();
        client.read_exact(&mut [0; 19]).unwrap();
        client.write_all(b"under our second key").unwrap();
        let mut heard = Vec::new();
        while heard.len() < 20 {
            connection.read_tls(&mut stream).unwrap();
            let there = connection.process_new_packets().unwrap().plaintext_bytes_to_read();
            let before = heard.len();
            heard.resize(before + there, 0);
            connection.reader().read_exact(&mut heard[before..]).unwrap();
        }
        assert_eq!(heard, b"under our second key");
        sealane.process.signal("TERM");
        sealane.process.wait();
        sealane.wait_for("key_updates_received_total=5 key_updates_sent_total=1");
    }
}

#[test]
fn a_key_update_that_comes_with_the_handshake_is_answered() {
    for driver in DRIVERS {
        let config = Pki::get().server_config(&rustls::version::TLS13);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sealane = Sealane::start(driver, listener.local_addr().unwrap().port(), &[]);
        for _ in 0..10 {
            let mut client = sealane.connect();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            // As soon as the server may write, which is before the client's Finished: KeyUpdate behind its own Finished.
            connection.read_tls(&mut stream).unwrap();
            connection.process_new_packets().unwrap();
            let mut flight = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut flight).unwrap();
            }
            stream.write_all(&flight).unwrap();
            while connection.is_handshaking() {
                connection.read_tls(&mut stream).unwrap();
                connection.process_new_packets().unwrap();
            }
            connection.refresh_traffic_keys().unwrap();
            connection.writer().write_all(b"under the second key").unwrap();
            let mut flight = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut flight).unwrap();
            }
            stream.write_all(&flight).unwrap();
            client.read_exact(&mut [0; 20]).unwrap();
            client.write_all(b"answer").unwrap();
            let mut heard = [0; 6];
            while connection.reader().read_exact(&mut heard).is_err() {
                assert!(connection.read_tls(&mut stream).unwrap() > 0);
                connection.process_new_packets().unwrap();
            }
            assert_eq!(&heard, b"answer");
        }
    }
}

#[test]
fn a_resumed_session_does_not_outlive_its_certificate() {
    for (driver, version) in [("uring", "-tls1_2"), ("uring", "-tls1_3"), ("epoll", "-tls1_3")] {
        let short = Pki::get().expiring_in(10);
        let mut server = SServer::with_identity(&short, &[version]);
        let sealane = Sealane::start(driver, server.port, &[]);
        let mut expired = false;
        for round in 0.. {
            let mut client = sealane.connect();
            client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            if !expired {
                lines(&mut server, &mut client, &format!("connection {round}"));
                drop(client);
                crate::support::process::eventually("closed", || {
                    sealane.process.count("closed: closed by the client") == round + 1
                });
                assert!(sealane.process.count("resumed peer=") >= round, "{}", sealane.process.output());
            } else {
                expect_reset(&mut client, Duration::from_secs(3));
                break;
            }
            if round == 2 {
                std::thread::sleep(Duration::from_millis(11_500));
                expired = true;
            }
        }
        sealane.wait_for("the certificate of the resumed session is not valid any more");
        sealane.wait_for("the server's certificate has expired");
    }
}

#[test]
fn our_key_is_updated_when_it_is_due_and_the_peers_is_asked_for() {
    for driver in DRIVERS {
        let mut server = SServer::start(&["-tls1_3"]);
        let mut sealane = Sealane::start(driver, server.port, &["--records-per-key-max", "10"]);
        let mut client = sealane.connect();
        for round in 0..100 {
            lines(&mut server, &mut client, &format!("round {round}"));
        }
        sealane.process.signal("TERM");
        assert_eq!(sealane.process.wait().code(), Some(0));
        sealane.process.wait_for("stopped by SIGTERM");
        let log = sealane.process.output();
        let total = |name: &str| -> u32 {
            log.split(name).nth(1).map_or(0, |rest| rest[1..].split_whitespace().next().unwrap().parse().unwrap())
        };
        assert!(total("key_updates_sent_total") >= 10, "our key and requests: {log}");
        assert!(total("key_updates_received_total") >= 8, "the peer's answers: {log}");
    }
}

#[test]
fn later_connections_resume_the_session() {
    for driver in DRIVERS {
        for version in ["-tls1_2", "-tls1_3"] {
            let mut server = SServer::start(&[version]);
            let sealane = Sealane::start(driver, server.port, &[]);
            for round in 1..=3 {
                let mut client = sealane.connect();
                lines(&mut server, &mut client, &format!("connection {round}"));
                drop(client);
                crate::support::process::eventually("closed", || {
                    sealane.process.count("closed: closed by the client") == round
                });
            }
            let log = sealane.process.output();
            let opened: Vec<bool> =
                log.lines().filter(|line| line.contains("opened:")).map(|line| line.contains("resumed")).collect();
            assert_eq!(opened, [false, true, true], "{driver} {version}: {log}");
        }
    }
}

#[test]
fn a_client_certificate_is_sent_when_there_is_one() {
    let pki = Pki::get();
    let (ca, cert, key) =
        (pki.ca.to_str().unwrap(), pki.client.cert.to_str().unwrap(), pki.client.key.to_str().unwrap());
    for (driver, version) in [("uring", "-tls1_2"), ("uring", "-tls1_3"), ("epoll", "-tls1_3")] {
        let mut server = SServer::start(&[version, "-Verify", "2", "-CAfile", ca, "-verify_return_error"]);
        let sealane = Sealane::start(driver, server.port, &["--cert", cert, "--key", key]);
        lines(&mut server, &mut sealane.connect(), "with a certificate");
        let server = SServer::start(&[version, "-Verify", "2", "-CAfile", ca, "-verify_return_error"]);
        let sealane = Sealane::start(driver, server.port, &[]);
        expect_reset(&mut sealane.connect_and_say(b"x"), SOON);
        sealane.wait_for("alert");
    }
}

#[test]
fn a_server_that_cannot_prove_who_it_is_gets_no_byte() {
    let pki = Pki::get();
    let other_ca = pki.other_ca.to_str().unwrap();
    let cases: [(&str, _, &[&str], &str); 6] = [
        ("wrong CA", &pki.server, &["--ca-file", other_ca], "not signed by a trusted CA"),
        ("wrong name", &pki.wrong_name, &[], "for another name"),
        ("asked for another name", &pki.server, &["--server-name", "elsewhere.test"], "for another name"),
        ("expired", &pki.expired, &[], "has expired"),
        ("self-signed", &pki.self_signed, &[], "CaUsedAsEndEntity"),
        // What is in the CA file itself is trusted as it is, but not for any name.
        (
            "self-signed, and in the CA file",
            &pki.self_signed,
            &["--ca-file", pki.self_signed.cert.to_str().unwrap(), "--server-name", "elsewhere.test"],
            "for another name",
        ),
    ];
    for (index, (case, identity, args, reason)) in cases.into_iter().enumerate() {
        let version = ["-tls1_2", "-tls1_3"][index % 2];
        let server = SServer::with_identity(identity, &[version]);
        let sealane = Sealane::start(DRIVERS[index / 2 % 2], server.port, args);
        let mut client = sealane.connect_and_say(b"the secret");
        expect_reset(&mut client, Duration::from_secs(3));
        sealane.wait_for(reason);
        assert_eq!(sealane.process.count("opened:"), 0, "{case}");
        assert!(!server.process.output().contains("the secret"), "{case}");
    }
}

#[test]
fn an_address_can_be_the_name() {
    let mut server = SServer::start(&[]);
    let sealane = Sealane::start("uring", server.port, &["--server-name", "127.0.0.1"]);
    lines(&mut server, &mut sealane.connect(), "by address");
}

#[test]
fn without_verification_every_connection_says_so() {
    let pki = Pki::get();
    // The signature in the handshake is checked in another way in each version.
    for version in ["-tls1_3", "-tls1_2"] {
        let mut server = SServer::with_identity(&pki.self_signed, &[version]);
        let sealane = Sealane::start("epoll", server.port, &["--insecure-no-verify"]);
        sealane.wait_for("certificates are NOT verified");
        for round in 1..=2 {
            let mut client = sealane.connect();
            lines(&mut server, &mut client, &round.to_string());
            crate::support::process::eventually("each connection says so", || {
                sealane.process.count("the server's certificate was NOT verified") == round
            });
            drop(client);
            crate::support::process::eventually("closed", || {
                sealane.process.count("closed: closed by the client") == round
            });
        }
    }
}

#[test]
fn without_a_ca_file_the_hosts_roots_are_trusted_and_must_be_there() {
    // OpenSSL's server serves one client at a time.
    let servers = [SServer::start(&[]), SServer::start(&[])];
    let start = |server: &SServer, roots: &Path| {
        let address = format!("127.0.0.1:{}", server.port);
        let mut command = Command::new(binary());
        command.args(["client", "--listen", "127.0.0.1:0", "--connect", &address, "--server-name", NAME]);
        command.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR").env_remove("RUST_LOG").stdin(Stdio::null());
        command
    };
    let sealane = Sealane::from_command(&mut start(&servers[0], &Pki::get().ca));
    let _client = sealane.connect_and_say(b"x");
    sealane.wait_for("opened: ");
    let other = Sealane::from_command(&mut start(&servers[1], &Pki::get().other_ca));
    expect_reset(&mut other.connect_and_say(b"x"), Duration::from_secs(3));
    other.wait_for("is not signed by a trusted CA");
    let output = start(&servers[1], Path::new("/dev/null")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("no root certificate found on this host") && text.contains("--ca-file"), "{text}");
}

#[test]
fn a_server_without_a_version_in_common_is_refused_with_a_reason() {
    for (server_args, args) in [
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..], &[][..]),
        (&["-tls1_2"], &["--tls", "1.3"]),
        (&["-tls1_3"], &["--tls", "1.2"]),
    ] {
        let server = SServer::start(server_args);
        let sealane = Sealane::start("uring", server.port, args);
        expect_reset(&mut sealane.connect_and_say(b"x"), Duration::from_secs(3));
        sealane.wait_for("TLS handshake with");
        let log = sealane.process.output();
        assert!(log.contains("ProtocolVersion") || log.contains("version"), "{server_args:?}: {log}");
    }
}

#[test]
fn tickets_split_over_records_do_not_break_the_hand_over() {
    for driver in DRIVERS {
        let mut server = SServer::start(&["-tls1_3", "-max_send_frag", "512", "-num_tickets", "8"]);
        let sealane = Sealane::start(driver, server.port, &[]);
        for round in 0..12 {
            let mut client = sealane.connect();
            lines(&mut server, &mut client, &format!("round {round}"));
            drop(client);
            crate::support::process::eventually("closed", || {
                sealane.process.count("closed: closed by the client") > round
            });
        }
        assert_eq!(sealane.process.count("closed: tls side"), 0, "{}", sealane.process.output());
    }
}

#[test]
fn a_server_that_talks_first_is_heard_in_full() {
    for version in VERSIONS {
        let config = Pki::get().server_config(version);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut random = Random::new(9);
        let greetings: Vec<Vec<u8>> = (0..60)
            .map(|_| {
                let length = random.length(60_000);
                random.bytes(length)
            })
            .collect();
        let expected = greetings.clone();
        std::thread::spawn(move || {
            for greeting in greetings.iter().cycle() {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                while connection.is_handshaking() {
                    let mut flight = Vec::new();
                    while connection.wants_write() {
                        connection.write_tls(&mut flight).unwrap();
                    }
                    stream.write_all(&flight).unwrap();
                    connection.read_tls(&mut stream).unwrap();
                    connection.process_new_packets().unwrap();
                }
                // The last flight, tickets and the greeting in one write.
                connection.writer().write_all(greeting).unwrap();
                connection.send_close_notify();
                let mut flight = Vec::new();
                while connection.wants_write() {
                    connection.write_tls(&mut flight).unwrap();
                }
                stream.write_all(&flight).unwrap();
                let _ = stream.read(&mut [0; 1024]);
            }
        });
        for driver in DRIVERS {
            let sealane = Sealane::start(driver, port, &[]);
            for (round, greeting) in expected.iter().enumerate() {
                // Half of the clients say something at once, half leave the first word to the server.
                let mut client = sealane.connect();
                if round % 2 == 0 {
                    client.write_all(b"hello").unwrap();
                }
                let mut heard = Vec::new();
                client.read_to_end(&mut heard).unwrap();
                assert!(
                    heard == *greeting,
                    "{driver} {version:?} round {round}: {} of {}",
                    heard.len(),
                    greeting.len()
                );
            }
        }
    }
}
