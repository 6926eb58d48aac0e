//! A worker that looks for the next message instead of sleeping: that it does, whom it does not keep waiting, and that it
//! ends. Counted in the kernel's account of its thread.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use sealane_proto::tls::ContentType;

use crate::support::alone;
use crate::support::bytes::{Random, call, reply};
use crate::support::peer::{Peer, PeerEnd, PeerListener};
use crate::support::process::now;
use crate::support::sealane::{DRIVERS, Sealane};

/// The worker's thread, of which there is one.
fn worker(sealane: &Sealane) -> String {
    let tasks = fs::read_dir(format!("/proc/{}/task", sealane.process.pid())).unwrap();
    let is_worker = |path: &std::path::PathBuf| fs::read_to_string(path.join("comm")).unwrap().starts_with("client-");
    let path = tasks.map(|task| task.unwrap().path()).find(is_worker).expect("a worker");
    path.to_str().unwrap().to_string()
}

/// How often the thread has gone to sleep.
fn sleeps(task: &str) -> u64 {
    let status = fs::read_to_string(format!("{task}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

/// How long it has had a processor.
fn cpu(task: &str) -> Duration {
    let account = fs::read_to_string(format!("{task}/schedstat")).unwrap();
    Duration::from_nanos(account.split_ascii_whitespace().next().unwrap().parse().unwrap())
}

/// Makes calls one at a time, each of which the server answers after `pause`.
fn calls_one_at_a_time(client: &mut TcpStream, peer: &mut Peer, count: u32, pause: Duration) {
    let mut back = vec![0; reply(0, b"x").len()];
    for xid in 0..count {
        client.write_all(&call(xid, b"x")).unwrap();
        assert_eq!(peer.read(45), call(xid, b"x"));
        std::thread::sleep(pause);
        peer.send(&reply(xid, b"x"));
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, reply(xid, b"x"));
    }
}

#[test]
fn lone_calls_are_waited_for_awake_where_that_is_asked_for_and_asleep_where_not() {
    const CALLS: u32 = 500;
    let _alone = alone();
    for driver in DRIVERS {
        // Callbacks that wait for their reply make no call less lone.
        for (spin, callbacks, is_awake) in [("5000", 0, true), ("5000", 3, true), ("off", 0, false)] {
            let listener = PeerListener::bind(&rustls::version::TLS13);
            let sealane = Sealane::start(driver, listener.port(), &["--workers", "1", "--spin", spin]);
            let mut client = sealane.connect();
            let mut peer = listener.accept();
            for xid in 0..callbacks {
                peer.send(&call(1000 + xid, b"x"));
                client.read_exact(&mut call(0, b"x")).unwrap();
            }
            calls_one_at_a_time(&mut client, &mut peer, 20, Duration::ZERO);
            let task = worker(&sealane);
            let before = sleeps(&task);
            // A server that answers at once may do so before the worker has got as far as to sleep.
            calls_one_at_a_time(&mut client, &mut peer, CALLS, Duration::from_micros(300));
            let each = (sleeps(&task) - before) as f64 / f64::from(CALLS);
            eprintln!("{driver} --spin {spin}, {callbacks} callbacks: {each:.2} sleeps for a call");
            assert!(
                if is_awake { each < 0.3 } else { each > 0.7 },
                "{driver} --spin {spin}, {callbacks} callbacks: {each:.2} for a call"
            );
        }
    }
}

/// What others have put into the ring begins only when the thread looks as if it went to sleep.
#[test]
fn nobody_waits_for_a_worker_that_spins() {
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let sealane = Sealane::start(driver, listener.port(), &["--workers", "1", "--spin", "10000"]);
        let mut lone = sealane.connect();
        let mut lone_peer = listener.accept();
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_done = done.clone();
        // Each answer takes so long that the worker is awake all the time.
        let calling = std::thread::spawn(move || {
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                calls_one_at_a_time(&mut lone, &mut lone_peer, 1, Duration::from_millis(5));
            }
        });
        for round in 0..3 {
            let mut client = sealane.connect();
            let mut peer = listener.accept();
            let (out, back) = (call(1, &Random::new(round).bytes(8 << 20)), reply(1, &Random::new(9).bytes(8 << 20)));
            let (sent, wanted) = (out.clone(), back.clone());
            let mut writer = client.try_clone().unwrap();
            let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
            assert!(peer.read(out.len()) == out, "{driver}");
            writing.join().unwrap();
            let sending = std::thread::spawn(move || {
                peer.send(&wanted);
                peer
            });
            let mut got = vec![0; back.len()];
            client.read_exact(&mut got).unwrap();
            assert!(got == back, "{driver}");
            drop(sending.join().unwrap());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        calling.join().unwrap();
    }
}

/// Who is polled all the time need not be told of anything by the driver: so the end must tell it.
#[test]
fn a_session_that_spins_hears_that_the_tunnel_stops() {
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let mut sealane = Sealane::start(driver, listener.port(), &["--workers", "1", "--spin", "10000"]);
        let mut client = sealane.connect();
        let mut peer = listener.accept();
        calls_one_at_a_time(&mut client, &mut peer, 100, Duration::ZERO);
        let calling = std::thread::spawn(move || {
            let mut back = vec![0; reply(0, b"x").len()];
            while client.write_all(&call(1, b"x")).is_ok() && client.read_exact(&mut back).is_ok() {}
        });
        let answering = std::thread::spawn(move || {
            loop {
                match peer.try_read(45) {
                    Ok(_) => {
                        let wire = peer.records(&reply(1, b"x"), 16384);
                        // It may be gone already; what it said before that is still to be read.
                        let _ = peer.stream.write_all(&wire);
                    }
                    Err(end) => {
                        let close_notify = peer.record(ContentType::ALERT, &[1, 0]);
                        let _ = peer.stream.write_all(&close_notify);
                        return end;
                    }
                }
            }
        });
        std::thread::sleep(Duration::from_millis(200));
        sealane.process.signal("TERM");
        assert_eq!(sealane.process.wait().code(), Some(0));
        sealane.wait_for("closed: the tunnel stops");
        calling.join().unwrap();
        let end = answering.join().unwrap();
        assert_eq!(end, PeerEnd::Closed, "{driver}: its calls were answered");
    }
}

/// The same where streams at full speed keep the thread from ever going to sleep, both ways and out of step.
#[test]
fn nobody_waits_for_streams_that_never_do() {
    const PAUSE: Duration = Duration::from_millis(30);
    let _alone = alone();
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let sealane = Sealane::start(driver, listener.port(), &["--workers", "1"]);
        let mut lone = sealane.connect();
        let mut lone_peer = listener.accept();
        let is_done = std::sync::atomic::AtomicBool::new(false);
        let goes_on = || !is_done.load(std::sync::atomic::Ordering::Relaxed);
        let bulk: Vec<_> = (0..3).map(|_| (sealane.connect(), listener.accept())).collect();
        let slowest = std::thread::scope(|scope| {
            for (client, mut peer) in bulk {
                let (mut writer, mut reader) = (client.try_clone().unwrap(), client);
                let mut sender = peer.split_sender();
                let (out, back) = (call(1, &vec![3; 1 << 20]), reply(1, &vec![4; 1 << 20]));
                let (out_bytes, mut buffer) = (out.len(), vec![0; 1 << 20]);
                scope.spawn(move || {
                    while goes_on() {
                        writer.write_all(&out).unwrap();
                    }
                    writer.shutdown(std::net::Shutdown::Write).unwrap();
                });
                scope.spawn(move || while reader.read(&mut buffer).unwrap() > 0 {});
                scope.spawn(move || while peer.try_read(out_bytes).is_ok() {});
                scope.spawn(move || {
                    while goes_on() {
                        sender.send(&back);
                    }
                    sender.close();
                });
            }
            let end = now() + Duration::from_secs(3);
            let mut slowest = Duration::ZERO;
            while now() < end {
                // Longer than a receive keeps its buffer: from then on it waits without one.
                std::thread::sleep(PAUSE);
                let began = now();
                calls_one_at_a_time(&mut lone, &mut lone_peer, 1, Duration::ZERO);
                slowest = slowest.max(now() - began);
            }
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
            slowest
        });
        eprintln!("{driver}: {slowest:?} at most");
        assert!(slowest < Duration::from_secs(1), "{driver}: a call took {slowest:?} beside streams at full speed");
    }
}

#[test]
fn a_tunnel_that_nobody_calls_sleeps() {
    let _alone = alone();
    for driver in DRIVERS {
        for spin in ["auto", "10000", "off"] {
            let listener = PeerListener::bind(&rustls::version::TLS13);
            let mut sealane = Sealane::start(driver, listener.port(), &["--workers", "1", "--spin", spin]);
            let mut client = sealane.connect();
            let mut peer = listener.accept();
            calls_one_at_a_time(&mut client, &mut peer, 1000, Duration::ZERO);
            let task = worker(&sealane);
            std::thread::sleep(Duration::from_millis(100));
            let before = cpu(&task);
            std::thread::sleep(Duration::from_secs(1));
            let used = cpu(&task) - before;
            assert!(used < Duration::from_millis(20), "{driver} --spin {spin}: {used:?} in a second without a call");
            // `auto` tries it, whatever it comes to think of it.
            sealane.process.signal("TERM");
            sealane.process.wait();
            sealane.wait_for("connections_accepted_total=1");
            let log = sealane.process.output();
            let did_spin = log.contains(" spins_total=");
            assert_eq!(did_spin, spin != "off", "{driver} --spin {spin}: {log}");
        }
    }
}
