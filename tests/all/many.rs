//! Many connections: none waits for another, none takes what belongs to another, none falls with another.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sealane_proto::tls::ContentType;

use crate::far_ends::{echo, echo_server};
use crate::footprint::system_calls;
use crate::ring::traced;
use crate::support::bytes::{Random, call, reply};
use crate::support::openssl::Stunnel;
use crate::support::peer::{Peer, PeerListener};
use crate::support::process::{SOON, eventually, have, now, scratch};
use crate::support::sealane::{DRIVERS, Sealane, built, command, command_of, expect_reset};
use crate::support::{alone, not_run};

#[test]
fn two_hundred_connections_at_once_carry_their_own_bytes() {
    if !have("stunnel4") {
        return not_run("many::two_hundred_connections_at_once_carry_their_own_bytes", "stunnel4 is not installed");
    }
    let stunnel = Stunnel::start(echo_server(), "");
    for driver in DRIVERS {
        let sealane = Arc::new(Sealane::start(driver, stunnel.port, &[]));
        let clients: Vec<JoinHandle<()>> = (0..200)
            .map(|index| {
                let sealane = Arc::clone(&sealane);
                std::thread::spawn(move || echo(sealane.connect(), &Arc::new(Random::new(index).bytes(300_000))))
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        eventually("all are closed", || sealane.process.count("closed: closed by the client") == 200);
        assert_eq!(sealane.process.count("out_bytes=300000 back_bytes=300000"), 200, "{driver}");
    }
}

#[test]
fn connections_beyond_the_limit_are_reset_and_the_others_go_on() {
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let sealane = Sealane::start(driver, listener.port(), &["--connections-max", "2", "--workers", "2"]);
        let mut clients: Vec<(TcpStream, Peer)> = (0..2)
            .map(|_| {
                let client = sealane.connect();
                (client, listener.accept())
            })
            .collect();
        expect_reset(&mut sealane.connect(), SOON);
        sealane.wait_for("there are 2 connections already (--connections-max)");
        for (client, peer) in &mut clients {
            client.write_all(&call(1, b"x")).unwrap();
            assert_eq!(peer.read(45), call(1, b"x"));
        }
        clients.pop();
        eventually("a place is free", || sealane.process.count("closed:") >= 1);
        let mut client = sealane.connect();
        let mut peer = listener.accept();
        client.write_all(&call(2, b"y")).unwrap();
        assert_eq!(peer.read(45), call(2, b"y"), "{driver}");
    }
}

#[test]
fn a_panic_ends_its_own_connection_only() {
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        // One worker: the panic happens on the thread that serves the bystander.
        let mut command = command_of(built("debug"), driver, listener.port(), &["--workers", "1"]);
        let sealane = Sealane::from_command(command.env("SEALANE_PANIC_ON", "PANIC NOW"));
        let mut bystander = sealane.connect();
        let mut bystander_peer = listener.accept();
        for _ in 0..3 {
            let mut client = sealane.connect();
            let _peer = listener.accept();
            client.write_all(b"PANIC NOW, please, a record's worth of it").unwrap();
            expect_reset(&mut client, SOON);
            bystander.write_all(&call(1, b"here")).unwrap();
            assert_eq!(bystander_peer.read(48), call(1, b"here"), "{driver}");
            bystander_peer.send(&reply(1, b"there"));
            bystander.read_exact(&mut [0; 33]).unwrap();
        }
        sealane.wait_for("internal error (panic: asked for by the client");
        eventually("three are reported", || sealane.process.count("other connections go on") == 3);
    }
}

/// Sends to `stream` in parts made by `part` until nothing more fits: the far end does not read.
pub fn stall(stream: &TcpStream, mut part: impl FnMut() -> Vec<u8>) {
    let mut stream = stream.try_clone().unwrap();
    for _ in 0..64 {
        let bytes = part();
        if fill(&mut stream, &bytes) < bytes.len() {
            return;
        }
    }
    panic!("64 parts were sent and nobody reads");
}

/// Sends without waiting until nothing more fits, for a while.
fn fill(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut refusals = 0;
    while sent < bytes.len() && refusals < 10 {
        match stream.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refusals += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// MiB/s of `megabytes` in 1 MiB calls to the server, and as much in replies to the client, at once.
fn throughput(client: &mut TcpStream, peer: Peer, megabytes: usize) -> (f64, Peer) {
    let out = call(1, &vec![3; 1 << 20]);
    let back = reply(1, &vec![4; 1 << 20]);
    let (out_bytes, back_bytes) = (out.len(), back.len());
    let started = now();
    let mut peer_reader = peer;
    let mut peer_writer = peer_reader.split_sender();
    let mut client_writer = client.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        for _ in 0..megabytes {
            peer_reader.read(out_bytes);
        }
        peer_reader
    });
    let replying = std::thread::spawn(move || {
        for _ in 0..megabytes {
            peer_writer.send(&back);
        }
        peer_writer
    });
    let writing = std::thread::spawn(move || {
        for _ in 0..megabytes {
            client_writer.write_all(&out).unwrap();
        }
    });
    let mut buffer = vec![0; back_bytes];
    for _ in 0..megabytes {
        client.read_exact(&mut buffer).unwrap();
    }
    writing.join().unwrap();
    let mut peer = reading.join().unwrap();
    peer.rejoin(replying.join().unwrap());
    (2.0 * megabytes as f64 / (now() - started).as_secs_f64(), peer)
}

/// Room for 18 big buffers and the small ones: a fraction of what the stalled ones would like to have.
const STALLED_ARGS: [&str; 6] = ["--workers", "1", "--connections-max", "128", "--memory-max", "24M"];

/// Connections that stop in different ways, each of which keeps what was read for it.
fn stalled_peers(sealane: &Sealane, listener: &PeerListener, count: usize) -> Vec<(TcpStream, Peer)> {
    let mib_reply = reply(1, &vec![1; 1 << 20]);
    let mib_call = call(1, &vec![2; 1 << 20]);
    let mut stalled = Vec::new();
    for index in 0..count {
        // A client that says nothing would be waited for.
        let client = sealane.connect_and_say(&call(1, b"hello"));
        let mut peer = listener.accept_talkative();
        // What does not read has little room, so that the stall reaches sealane soon.
        for stream in [&client, &peer.stream] {
            socket2::SockRef::from(stream).set_recv_buffer_size(64 * 1024).unwrap();
        }
        match index % 4 {
            // Half-received records: after a long stretch of data, and as little as three bytes of a header.
            0 => {
                let mut wire = peer.records(&mib_reply[..200_000], 16384);
                wire.truncate(wire.len() - 700);
                peer.send_raw(&wire);
            }
            1 => peer.send_raw(&[23, 3, 3]),
            // A client that does not read.
            2 => {
                let stream = peer.stream.try_clone().unwrap();
                stall(&stream, || peer.records(&mib_reply, 16384));
            }
            // A server that does not read.
            _ => stall(&client, || mib_call.clone()),
        }
        stalled.push((client, peer));
    }
    stalled
}

/// The same, counted: with small buffers a MiB takes several times as many.
#[test]
fn forty_stalled_peers_leave_a_healthy_connection_its_big_buffers() {
    const MIB: usize = 96;
    if !have("strace") {
        let name = "many::forty_stalled_peers_leave_a_healthy_connection_its_big_buffers";
        return not_run(name, "strace is not installed");
    }
    let _alone = alone();
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS12);
        let trace = scratch("system-calls").join("trace");
        let options = ["-o", trace.to_str().unwrap()];
        let command = command(driver, listener.port(), &STALLED_ARGS);
        let sealane = Sealane::from_command(&mut traced(&command, &options));
        let mut client = sealane.connect();
        let counted = |client: &mut TcpStream, peer: Peer| {
            let before = system_calls(&trace);
            let (_, peer) = throughput(client, peer, MIB);
            ((system_calls(&trace) - before) as f64 / (2 * MIB) as f64, peer)
        };
        let (_, peer) = counted(&mut client, listener.accept());
        let (before, peer) = counted(&mut client, peer);
        let stalled = stalled_peers(&sealane, &listener, 40);
        let (during, _peer) = counted(&mut client, peer);
        drop(stalled);
        eprintln!("{driver}: {before:.1} system calls for a MiB before, {during:.1} with 40 stalled peers");
        assert!(before > 1.5, "{driver}: {before:.1}: they are not counted");
        assert!(during <= 3.0 * before, "{driver}: {during:.1} system calls for a MiB instead of {before:.1}");
    }
}

#[test]
fn a_hundred_stalled_peers_leave_a_healthy_connection_its_throughput() {
    let _alone = alone();
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS12);
        let sealane = Sealane::start(driver, listener.port(), &STALLED_ARGS);
        let mut client = sealane.connect();
        let mut peer = listener.accept();
        // The best of so many windows, or the first that is enough: others may want the processor, now and then.
        let best = |client: &mut TcpStream, mut peer: Peer, windows: u32, enough: f64| {
            let mut best: f64 = 0.0;
            for _ in 0..windows {
                let (speed, back) = throughput(client, peer, 96);
                best = best.max(speed);
                peer = back;
                if best >= enough {
                    break;
                }
            }
            (best, peer)
        };
        let (before, back) = best(&mut client, peer, 3, f64::INFINITY);
        peer = back;
        let stalled = stalled_peers(&sealane, &listener, 100);
        let (during, back) = best(&mut client, peer, 12, 0.8 * before);
        drop(stalled);
        eventually("the stalled ones are gone", || sealane.process.count("closed:") == 100);
        let (after, back) = best(&mut client, back, 3, f64::INFINITY);
        peer = back;
        let usual = before.min(after);
        eprintln!("{driver}: {before:.0} MiB/s before, {during:.0} with 100 stalled peers, {after:.0} after");
        assert!(during >= 0.8 * usual, "{driver}: {during:.0} MiB/s of {usual:.0}");
        peer.send_record(ContentType::ALERT, &[1, 0]);
    }
}

#[test]
fn one_big_buffer_is_enough_for_a_worker() {
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let args = ["--workers", "1", "--connections-max", "1", "--memory-max", "2M"];
        let sealane = Sealane::start(driver, listener.port(), &args);
        let mut client = sealane.connect();
        let mut peer = listener.accept();
        socket2::SockRef::from(&client).set_recv_buffer_size(64 * 1024).unwrap();
        let back = reply(1, &Random::new(4).bytes(12 << 20));
        let out = call(1, &Random::new(5).bytes(4 << 20));
        let mut sender = peer.split_sender();
        let (sent, calls) = (back.clone(), out.clone());
        let sending = std::thread::spawn(move || {
            sender.send(&sent);
            sender
        });
        let mut client_writer = client.try_clone().unwrap();
        let calling = std::thread::spawn(move || client_writer.write_all(&calls).unwrap());
        let out_bytes = out.len();
        let reading = std::thread::spawn(move || (peer.read(out_bytes), peer));
        // Slowly, so that the way to the client is nearly always full.
        let mut got = vec![0; back.len()];
        for part in got.chunks_mut(200_000) {
            client.read_exact(part).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(got == back, "{driver}");
        let (got, _peer) = reading.join().unwrap();
        assert!(got == out, "{driver}");
        let _sender = sending.join().unwrap();
        calling.join().unwrap();
        assert_eq!(sealane.process.count("closed:"), 0, "{driver}");
    }
}

#[test]
fn a_stream_at_full_speed_does_not_hold_its_worker() {
    let _alone = alone();
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS12);
        let sealane = Sealane::start(driver, listener.port(), &["--workers", "1"]);
        let mut busy = sealane.connect();
        let busy_peer = listener.accept();
        let mut other = sealane.connect();
        let mut other_peer = listener.accept();
        // The server's side is drained as raw bytes: sealane is what limits this stream.
        let mut drain = busy_peer.stream.try_clone().unwrap();
        let draining = std::thread::spawn(move || {
            let mut buffer = vec![0; 4 << 20];
            while matches!(drain.read(&mut buffer), Ok(1..)) {}
        });
        let writing = std::thread::spawn(move || {
            let bytes = vec![7; 4 << 20];
            let started = now();
            while now() - started < Duration::from_secs(3) {
                busy.write_all(&bytes).unwrap();
            }
        });
        std::thread::sleep(Duration::from_millis(300));
        let mut times = Vec::new();
        for xid in 0..50 {
            let started = now();
            other.write_all(&call(xid, b"x")).unwrap();
            assert_eq!(other_peer.read(45), call(xid, b"x"));
            times.push(now() - started);
            std::thread::sleep(Duration::from_millis(20));
        }
        times.sort();
        eprintln!("{driver}: of 50 calls beside a full stream the 25th took {:?}, the 45th {:?}", times[25], times[45]);
        // Two turns of a megabyte take a millisecond or two. A worker that is held takes what the sockets' buffers last.
        assert!(times[45] < Duration::from_millis(50), "{driver}: {times:?}");
        writing.join().unwrap();
        busy_peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
        draining.join().unwrap();
    }
}

#[test]
fn both_directions_full_at_once_still_drain() {
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let args = ["--workers", "1", "--connections-max", "4", "--memory-max", "3M"];
        let sealane = Sealane::start(driver, listener.port(), &args);
        let out = call(1, &Random::new(1).bytes(24 << 20));
        let back = reply(1, &Random::new(2).bytes(24 << 20));
        let mut pairs = Vec::new();
        for _ in 0..4 {
            let mut client = sealane.connect();
            let mut peer = listener.accept();
            for stream in [&client, &peer.stream] {
                socket2::SockRef::from(stream).set_recv_buffer_size(64 * 1024).unwrap();
            }
            let wire = peer.records(&back, 16384);
            let (sent_out, sent_back) = (fill(&mut client, &out), fill(&mut peer.stream, &wire));
            assert!(sent_out < out.len() && sent_back < wire.len(), "nobody reads, and yet all was taken");
            pairs.push((client, peer, sent_out, wire, sent_back));
        }
        for (mut client, mut peer, sent_out, wire, sent_back) in pairs {
            let mut client_writer = client.try_clone().unwrap();
            let mut peer_stream = peer.stream.try_clone().unwrap();
            let rest_out = out[sent_out..].to_vec();
            let writing = [
                std::thread::spawn(move || client_writer.write_all(&rest_out).unwrap()),
                std::thread::spawn(move || peer_stream.write_all(&wire[sent_back..]).unwrap()),
            ];
            let out_bytes = out.len();
            // The server stays until the client has all: an end without close_notify would be a reset.
            let reading = std::thread::spawn(move || (peer.read(out_bytes), peer));
            let mut got = vec![0; back.len()];
            client.read_exact(&mut got).unwrap();
            assert!(got == back, "{driver}");
            let (heard, _peer) = reading.join().unwrap();
            assert!(heard == out, "{driver}");
            writing.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }
}
