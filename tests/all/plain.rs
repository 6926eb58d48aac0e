//! `sealane client --no-tls`: plain text is carried as it is, with the ends and errors of a tunnel.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::ends::reset;
use crate::support::bytes::{Random, call, reply};
use crate::support::process::{SOON, eventually, free_port, now};
use crate::support::sealane::{DRIVERS, Sealane, command, expect_reset};

struct Joined {
    sealane: Sealane,
    client: TcpStream,
    server: TcpStream,
}

pub fn start(driver: &str, connect: u16, args: &[&str]) -> Sealane {
    // What the helper adds for TLS does not go with this.
    let mut command = std::process::Command::new(crate::support::sealane::binary());
    command.args(["client", "--listen", "127.0.0.1:0", "--io", driver, "--log-level", "debug", "--no-tls"]);
    command.args(["--connect", &format!("127.0.0.1:{connect}")]).args(args).env_remove("RUST_LOG");
    Sealane::from_command(command.stdin(std::process::Stdio::null()))
}

/// Joins a client and a server over which a call has gone.
fn join(driver: &str, args: &[&str]) -> Joined {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sealane = start(driver, listener.local_addr().unwrap().port(), args);
    let client = sealane.connect_and_say(&call(1, b"first"));
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let mut first = call(1, b"first");
    server.read_exact(&mut first).unwrap();
    assert_eq!(first, call(1, b"first"));
    Joined { sealane, client, server }
}

#[test]
fn bytes_survive_both_ways_at_once() {
    for driver in DRIVERS {
        let Joined { mut sealane, mut client, mut server } = join(driver, &[]);
        server.write_all(&reply(1, b"first")).unwrap();
        client.read_exact(&mut reply(1, b"first")).unwrap();
        let mut random = Random::new(7);
        let calls: Vec<u8> = (2..40).flat_map(|xid| call(xid, &random.bytes(300_000))).collect();
        let replies: Vec<u8> = (2..40).flat_map(|xid| reply(xid, &random.bytes(1 << 20))).collect();
        std::thread::scope(|scope| {
            let (mut to_server, mut to_client) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (calls, replies) = (&calls, &replies);
            scope.spawn(move || to_server.write_all(calls).unwrap());
            scope.spawn(move || to_client.write_all(replies).unwrap());
            let server = &mut server;
            scope.spawn(move || {
                let mut got = vec![0; calls.len()];
                server.read_exact(&mut got).unwrap();
                assert!(&got == calls, "{driver}: towards the server");
            });
            let mut got = vec![0; replies.len()];
            client.read_exact(&mut got).unwrap();
            assert!(&got == replies, "{driver}: towards the client");
        });
        // The client ends first; what the server has still to say arrives, and then its end.
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0, "{driver}");
        server.write_all(&reply(99, b"the last")).unwrap();
        drop(server);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, reply(99, b"the last"), "{driver}");
        sealane.wait_for("closed: closed by the client; in PLAIN TEXT");
        sealane.process.signal("TERM");
        sealane.process.wait();
        sealane.wait_for("there is NO TLS (--no-tls)");
        assert!(sealane.process.count("connections_failed_total") == 0, "{}", sealane.process.output());
    }
}

#[test]
fn what_is_no_rpc_goes_through_as_well() {
    for driver in DRIVERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sealane = start(driver, listener.local_addr().unwrap().port(), &[]);
        let mut client = sealane.connect_and_say(b"GET / HTTP/1.0\r\n\r\n");
        let (mut server, _) = listener.accept().unwrap();
        let mut said = [0; 18];
        server.read_exact(&mut said).unwrap();
        server.write_all(b"HTTP/1.0 200 OK\r\n\r\nwell").unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(&said == b"GET / HTTP/1.0\r\n\r\n" && answer == "HTTP/1.0 200 OK\r\n\r\nwell", "{driver}: {answer}");
        drop(client);
        sealane.wait_for("closed by the server");
    }
}

#[test]
fn a_side_that_fails_resets_the_other() {
    for driver in DRIVERS {
        let Joined { mut client, server, sealane } = join(driver, &[]);
        reset(server);
        expect_reset(&mut client, SOON);
        sealane.wait_for("server side: receive: Connection reset by peer");
        let Joined { client, mut server, sealane } = join(driver, &[]);
        reset(client);
        expect_reset(&mut server, SOON);
        sealane.wait_for("client side: receive: Connection reset by peer");
        // The end of a stream inside a record is no end that was meant.
        let Joined { mut client, mut server, sealane } = join(driver, &[]);
        server.write_all(&reply(1, b"cut off")[..20]).unwrap();
        drop(server);
        expect_reset(&mut client, SOON);
        sealane.wait_for("server side: the stream was cut off");
    }
}

#[test]
fn what_a_server_said_before_its_end_arrives_whoever_speaks_to_it_then() {
    for driver in DRIVERS {
        let Joined { mut client, mut server, sealane } = join(driver, &[]);
        let last = reply(1, &[7; 100_000]);
        server.write_all(&last).unwrap();
        drop(server);
        std::thread::sleep(Duration::from_millis(100));
        // The server has gone: these are answered by a reset.
        for xid in 2..6 {
            let _ = client.write_all(&call(xid, b"too late"));
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut got = vec![0; last.len()];
        client.read_exact(&mut got).unwrap_or_else(|error| panic!("{driver}: {error}: {}", sealane.process.output()));
        assert!(got == last, "{driver}");
        drop(client);
        sealane.wait_for("closed: ");
    }
}

#[test]
fn what_is_no_rpc_and_falls_silent_is_cut_off_and_not_ended() {
    for driver in DRIVERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sealane = start(driver, listener.local_addr().unwrap().port(), &["--half-close-timeout", "1"]);
        let mut client = sealane.connect_and_say(b"GET / HTTP/1.0\r\n\r\n");
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut [0; 18]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        server.write_all(b"HTTP/1.0 200 OK\r\nhalf of").unwrap();
        expect_reset(&mut client, SOON);
        sealane.wait_for("server side: the stream was cut off");
    }
}

#[test]
fn a_send_that_waits_ends_with_the_other_side() {
    for driver in DRIVERS {
        // Neither side reads what the other has to say, until the one that says it goes.
        let Joined { mut client, server: _server, sealane } = join(driver, &[]);
        client.set_nonblocking(true).unwrap();
        let full = |stream: &mut TcpStream| {
            let mut silent = 0;
            while silent < 20 {
                match stream.write(&call(2, &[0; 1 << 16])) {
                    Ok(_) => silent = 0,
                    Err(_) => silent += 1,
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        full(&mut client);
        reset(client);
        sealane.wait_for("closed: ");
        let Joined { client: _client, mut server, sealane } = join(driver, &[]);
        server.set_nonblocking(true).unwrap();
        full(&mut server);
        reset(server);
        sealane.wait_for("closed: ");
    }
}

#[test]
fn nobody_waits_for_a_server_that_is_not_there() {
    for driver in DRIVERS {
        let sealane = start(driver, free_port(), &["--retry-timeout", "1"]);
        let started = now();
        expect_reset(&mut sealane.connect_and_say(&call(1, b"x")), SOON);
        assert!(now() - started < Duration::from_secs(3), "{driver}");
        sealane.wait_for("gave up after 1 s");
        // A probe costs the server nothing.
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        upstream.set_nonblocking(true).unwrap();
        let sealane = start(driver, upstream.local_addr().unwrap().port(), &[]);
        drop(sealane.connect());
        eventually("the probe is noticed", || sealane.process.count("went away without a byte") == 1);
        assert_eq!(upstream.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "{driver}");
    }
}

#[test]
fn its_clocks_run_and_its_end_is_within_a_second() {
    for driver in DRIVERS {
        // The server owes a reply.
        let Joined { mut client, mut server, sealane } = join(driver, &["--silence-timeout", "1"]);
        expect_reset(&mut client, SOON);
        expect_reset(&mut server, SOON);
        sealane.wait_for("server side: the server owes replies and has been silent for 1 s");
        let Joined { mut client, mut server, sealane } =
            join(driver, &["--idle-timeout", "1", "--silence-timeout", "0"]);
        expect_reset(&mut client, SOON);
        expect_reset(&mut server, SOON);
        sealane.wait_for("nothing for 1 s (--idle-timeout)");
        let Joined { mut client, mut server, mut sealane } = join(driver, &[]);
        let started = now();
        sealane.process.signal("TERM");
        assert!(sealane.process.wait().success());
        assert!(now() - started < Duration::from_secs(1), "{driver}");
        expect_reset(&mut client, SOON);
        expect_reset(&mut server, SOON);
    }
}

#[test]
fn what_is_about_certificates_does_not_go_with_it() {
    for args in [
        &["--ca-file", "x"][..],
        &["--pin", "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],
        &["--ocsp", "hard"],
    ] {
        let mut command = command("epoll", 1, &["--insecure-no-verify"]);
        let mut words: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        words.retain(|word| {
            word != "--insecure-no-verify" && word != "--server-name" && word != crate::support::pki::NAME
        });
        command = std::process::Command::new(crate::support::sealane::binary());
        let out = command.args(words).arg("--no-tls").args(args).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(2) && said.contains("--no-tls"), "{args:?}: {said}");
    }
}
