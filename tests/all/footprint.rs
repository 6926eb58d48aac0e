//! What the program takes: memory, allocations, copies. Counted, never timed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use sealane_proto::tls::ContentType;

use crate::ring::traced;
use crate::support::bytes::{call, reply};
use crate::support::peer::{Peer, PeerListener, VERSIONS};
use crate::support::process::{have, scratch};
use crate::support::sealane::{DRIVERS, Sealane, command};
use crate::support::{alone, not_run};

/// Resident memory of a tunnel that has done nothing.
const IDLE_KIB_MAX: u64 = 8 * 1024;
/// Resident memory under four streams of 1 MiB calls, four outstanding each.
const BUSY_KIB_MAX: u64 = 32 * 1024;
/// Streams of these tests, in calls or replies of 1 MiB each.
const WARM_UP: usize = 48;
const MEASURED: usize = 192;

/// Calls outstanding in these streams.
const OUTSTANDING: usize = 4;

/// A stream of so many calls, with so many outstanding.
type Work = fn(&mut TcpStream, Peer, usize, usize) -> Peer;

/// Calls of 1 MiB to the server, acknowledged by short replies: a WRITE stream.
fn write_stream(client: &mut TcpStream, peer: Peer, count: usize, outstanding: usize) -> Peer {
    let out = call(1, &vec![3; 1 << 20]);
    let (out_bytes, mut peer) = (out.len(), peer);
    let server = std::thread::spawn(move || {
        for _ in 0..count {
            peer.read(out_bytes);
            peer.send(&reply(1, b"ok__"));
        }
        peer
    });
    let mut back = [0; 32];
    for index in 0..count + outstanding {
        if index < count {
            client.write_all(&out).unwrap();
        }
        if index >= outstanding {
            client.read_exact(&mut back).unwrap();
        }
    }
    server.join().unwrap()
}

/// Replies of 1 MiB from the server to short calls: a READ stream.
fn read_stream(client: &mut TcpStream, peer: Peer, count: usize, outstanding: usize) -> Peer {
    let back = reply(1, &vec![4; 1 << 20]);
    let mut buffer = vec![0; back.len()];
    let mut peer = peer;
    let server = std::thread::spawn(move || {
        let mut sender = peer.split_sender();
        for _ in 0..count {
            peer.read(48);
            sender.send(&back);
        }
        peer.rejoin(sender);
        peer
    });
    for index in 0..count + outstanding {
        if index < count {
            client.write_all(&call(1, b"more")).unwrap();
        }
        if index >= outstanding {
            client.read_exact(&mut buffer).unwrap();
        }
    }
    server.join().unwrap()
}

/// The preloaded counter, compiled once.
fn counter() -> PathBuf {
    let library = scratch("counter").join("libcount.so");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("preload/count.c");
    let done = Command::new("cc")
        .args(["-O2", "-fPIC", "-shared", "-fno-builtin", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .arg(&source)
        .status()
        .unwrap();
    assert!(done.success(), "the counter does not compile");
    library
}

/// (allocations, copied bytes) so far.
fn totals(file: &PathBuf) -> (u64, u64) {
    let bytes = std::fs::read(file).unwrap();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    (word(0), word(8))
}

#[test]
fn bytes_are_neither_copied_nor_is_anything_allocated_for_them() {
    if !have("cc") {
        return not_run("footprint::bytes_are_neither_copied_nor_is_anything_allocated_for_them", "no C compiler");
    }
    let _alone = alone();
    let library = counter();
    for driver in DRIVERS {
        for version in VERSIONS {
            let listener = PeerListener::bind(version);
            let file = scratch("totals").join("totals");
            let mut command = command(driver, listener.port(), &["--workers", "1"]);
            command.env("LD_PRELOAD", &library).env("SEALANE_COUNT_FILE", &file);
            let sealane = Sealane::from_command(&mut command);
            let mut client = sealane.connect();
            let mut peer = listener.accept();
            let at_start = totals(&file);
            assert!(at_start.0 > 100, "the allocations of the start are not counted");
            for (name, stream) in [("WRITE", write_stream as Work), ("READ", read_stream)] {
                peer = stream(&mut client, peer, WARM_UP, OUTSTANDING);
                let before = totals(&file);
                peer = stream(&mut client, peer, MEASURED, OUTSTANDING);
                let after = totals(&file);
                let allocations = after.0 - before.0;
                let copied = (after.1 - before.1) as f64 / (MEASURED << 20) as f64;
                eprintln!("{driver} {version:?} {name}: {allocations} allocations, {:.3} % copied", copied * 100.0);
                // A timer or a line of the log may come in between: none belongs to the stream.
                assert!(allocations <= 2, "{driver} {name}: {allocations} allocations in {MEASURED} MiB");
                assert!(copied < 0.0001, "{driver} {name}: {:.4} % of the payload were copied", copied * 100.0);
            }
            assert_eq!(sealane.process.count("closed:"), 0);
        }
    }
}

/// System calls so far, by the lines of strace: one that was interrupted by another thread's has two.
pub fn system_calls(trace: &Path) -> usize {
    let text = std::fs::read_to_string(trace).unwrap();
    text.lines().filter(|line| line.contains('(') && !line.contains("resumed>")).count()
}

/// Of the whole process, one connection with eight calls outstanding, records of 16 KiB.
#[test]
fn a_mib_takes_few_system_calls() {
    const OUTSTANDING: usize = 8;
    const MOST: f64 = 8.0;
    if !have("strace") {
        return not_run("footprint::a_mib_takes_few_system_calls", "strace is not installed");
    }
    let _alone = alone();
    for (driver, version) in DRIVERS.iter().flat_map(|driver| VERSIONS.map(|version| (driver, version))) {
        let listener = PeerListener::bind(version);
        let trace = scratch("system-calls").join("trace");
        let options = ["-o", trace.to_str().unwrap()];
        // With strace on one processor it is slower than its peers, which then keep it busy: a slower peer brings its MiB in
        // pieces, each of which is passed on at once.
        let whole = traced(&command(driver, listener.port(), &[]), &options);
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", "0"]).arg(whole.get_program()).args(whole.get_args());
        let sealane = Sealane::from_command(&mut pinned);
        let mut client = sealane.connect();
        let mut peer = listener.accept();
        for (name, stream) in [("WRITE", write_stream as Work), ("READ", read_stream)] {
            peer = stream(&mut client, peer, WARM_UP, OUTSTANDING);
            let before = system_calls(&trace);
            peer = stream(&mut client, peer, MEASURED, OUTSTANDING);
            let each = (system_calls(&trace) - before) as f64 / MEASURED as f64;
            eprintln!("{driver} {version:?} {name}: {each:.2} system calls for a MiB");
            assert!(each > 1.5, "{driver} {version:?} {name}: {each:.2}: they are not counted");
            assert!(each <= MOST, "{driver} {version:?} {name}: {each:.2} system calls for a MiB");
        }
        assert_eq!(sealane.process.count("closed:"), 0);
    }
}

/// What each further connection takes that does nothing.
const IDLE_CONNECTION_BYTES_MAX: u64 = 16 * 1024;
/// The most that a connection may take besides buffers, whatever its peer does: what it is, and a handshake message that
/// is not whole yet (64 KiB; what holds it may have twice the room). SECURITY.md states it.
const CONNECTION_BYTES_MAX: u64 = (16 + 128) * 1024;

/// Bytes that each of `count` connections takes, beyond the `before` first ones: each has made a call, and its peer has
/// done `misdeed`. None may have ended.
fn bytes_of_each(driver: &str, before: u64, count: u64, misdeed: impl Fn(&mut Peer)) -> u64 {
    let listener = PeerListener::bind(&rustls::version::TLS13);
    let sealane = Sealane::start(driver, listener.port(), &["--workers", "1"]);
    let mut open = Vec::new();
    let mut hold = |count: u64, misdeed: Option<&dyn Fn(&mut Peer)>| {
        for index in 0..count {
            // One that is silent at first is waited for.
            let client = sealane.connect_and_say(&call(index as u32, b"x"));
            let mut peer = listener.accept_talkative();
            if let Some(misdeed) = misdeed {
                misdeed(&mut peer);
            }
            assert_eq!(peer.read(45), call(index as u32, b"x"));
            open.push((client, peer));
        }
        // A direction keeps its buffer for a moment.
        std::thread::sleep(std::time::Duration::from_millis(500));
        sealane.process.status_kib("VmRSS")
    };
    let at_first = hold(before, None);
    let each = (hold(count, Some(&misdeed)) - at_first) * 1024 / count;
    assert_eq!(sealane.process.count("closed:"), 0, "{driver}");
    each
}

#[test]
fn an_idle_connection_takes_little_memory() {
    let _alone = alone();
    for driver in DRIVERS {
        let each = bytes_of_each(driver, 100, 400, |_| {});
        eprintln!("{driver}: {each} bytes for each idle connection");
        assert!(each <= IDLE_CONNECTION_BYTES_MAX, "{driver}: {each} bytes for each idle connection");
    }
}

#[test]
fn a_peer_that_never_finishes_a_message_takes_what_is_stated() {
    /// A NewSessionTicket of as many bytes as are accepted, and nearly all of it.
    const HEAD: [u8; 4] = [4, 0, 0xff, 0xff];
    let _alone = alone();
    let ticket = [&HEAD[..], &[7; 0xff00]].concat();
    for driver in DRIVERS {
        let each = bytes_of_each(driver, 20, 100, |peer| {
            ticket.chunks(16 << 10).for_each(|part| peer.send_record(ContentType::HANDSHAKE, part));
        });
        eprintln!("{driver}: {each} bytes for each connection with a handshake message that is not whole");
        assert!(each > 60 * 1024, "{driver}: {each} bytes: the message is not held");
        assert!(each <= CONNECTION_BYTES_MAX, "{driver}: {each} bytes for each connection");
    }
}

#[test]
fn resident_memory_stays_small() {
    let _alone = alone();
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS12);
        let sealane = Sealane::start(driver, listener.port(), &[]);
        // What counts is the tunnel at rest, its threads started: not the moment of its start.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let idle = sealane.process.status_kib("VmRSS");
        let streams: Vec<_> = (0..4)
            .map(|index| {
                let mut client = sealane.connect();
                let peer = listener.accept();
                std::thread::spawn(move || {
                    let stream = if index % 2 == 0 { write_stream } else { read_stream };
                    stream(&mut client, peer, MEASURED, OUTSTANDING)
                })
            })
            .collect();
        let mut busy = 0;
        while !streams.iter().all(std::thread::JoinHandle::is_finished) {
            busy = busy.max(sealane.process.status_kib("VmRSS"));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        streams.into_iter().for_each(|stream| drop(stream.join().unwrap()));
        let after = sealane.process.status_kib("VmRSS");
        eprintln!("{driver}: VmRSS {idle} KiB idle, {busy} KiB under four streams, {after} KiB after them");
        assert!(idle < IDLE_KIB_MAX, "{driver}: {idle} KiB idle");
        assert!(busy < BUSY_KIB_MAX, "{driver}: {busy} KiB busy");
    }
}
