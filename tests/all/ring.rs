//! The io_uring driver: hosts without it, more connections than tasks run at a time, and key bytes that do not stay in memory.

use std::hint::black_box;
use std::io::{Read, Write};
use std::process::Command;

use sealane_proto::tls::{Inbound, Role, Sealer, Suite, TrafficKey, Version};

use crate::support::bytes::{Random, call, reply};
use crate::support::peer::{Peer, PeerListener};
use crate::support::pki::Pki;
use crate::support::process::{Process, have};
use crate::support::sealane::{DRIVERS, Sealane, command};
use crate::support::{alone, is_root, not_run};

/// The same command under strace with `options`. A tracer that is killed leaves what it traced behind, unless that ends
/// with it.
pub fn traced(command: &Command, options: &[&str]) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq"]).args(options).args(["setpriv", "--pdeathsig", "KILL", "--"]);
    strace.arg(command.get_program()).args(command.get_args()).stdin(std::process::Stdio::null());
    strace
}

/// The same command on a host that lets io_uring_setup fail.
pub fn without_io_uring(command: &Command, error: &str) -> Command {
    let inject = format!("inject=io_uring_setup:error={error}");
    traced(command, &["-o", "/dev/null", "-e", "trace=io_uring_setup", "-e", &inject])
}

#[test]
fn a_host_without_io_uring_gets_epoll_and_is_told_why() {
    if !have("strace") {
        return not_run("ring::a_host_without_io_uring_gets_epoll_and_is_told_why", "strace is not installed");
    }
    for (error, text) in [("ENOSYS", "Function not implemented"), ("EPERM", "Operation not permitted")] {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let sealane = Sealane::from_command(&mut without_io_uring(&command("auto", listener.port(), &[]), error));
        sealane.wait_for(&format!("driver epoll (io_uring is not available: {text}"));
        let mut client = sealane.connect();
        let mut peer = listener.accept();
        client.write_all(&call(1, b"x")).unwrap();
        assert_eq!(peer.read(45), call(1, b"x"));
        let mut refused = Process::start(&mut without_io_uring(&command("uring", listener.port(), &[]), error));
        assert_eq!(refused.wait().code(), Some(1));
        refused.wait_for(&format!("io_uring is not available on this host: {text}"));
        assert_eq!(refused.count("panicked"), 0);
    }
}

/// One word of a system call, at the start of a line of strace.
fn calls<'s>(trace: &'s str, name: &str) -> Vec<&'s str> {
    trace.lines().filter(|line| line.contains(name)).collect()
}

#[test]
fn the_host_is_told_what_it_must_know_and_autotuning_stays_on() {
    if !have("strace") {
        return not_run("ring::the_host_is_told_what_it_must_know_and_autotuning_stays_on", "strace is not installed");
    }
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let trace_file = crate::support::process::scratch("strace").join("trace");
        let options = ["-e", "trace=prctl,setsockopt,connect", "-o", trace_file.to_str().unwrap()];
        let sealane = Sealane::from_command(&mut traced(&command(driver, listener.port(), &[]), &options));
        let mut client = sealane.connect();
        let mut peer = listener.accept();
        client.write_all(&call(1, b"x")).unwrap();
        peer.read(45);
        let trace = std::fs::read_to_string(&trace_file).unwrap();
        // It is part of how dirty pages are written back, and says so.
        assert_eq!(calls(&trace, "prctl(PR_SET_IO_FLUSHER, 1").len(), 1, "{driver}: {trace}");
        // Sizes set by hand would switch the kernel's tuning off.
        assert!(calls(&trace, "SO_RCVBUF").is_empty() && calls(&trace, "SO_SNDBUF").is_empty(), "{driver}: {trace}");
        // Room for whole buffers is asked for, and taken as given: nobody waits for so many bytes.
        let low = |bytes| calls(&trace, &format!("SO_RCVLOWAT, [{bytes}]")).len();
        assert_eq!((low(2 << 20), low(1)), (2, 2), "{driver}: both sides: {trace}");
        // A user timeout also cuts a peer that does not read: not on loopback, and both sides are that here.
        assert!(calls(&trace, "TCP_USER_TIMEOUT").is_empty(), "{driver}: {trace}");
        assert_eq!(calls(&trace, "SO_KEEPALIVE, [1]").len(), 2, "{driver}: both sides: {trace}");
        assert!(calls(&trace, "TCP_NODELAY, [1]").len() >= 2, "{driver}: both sides: {trace}");
    }
}

#[test]
fn the_network_side_has_a_user_timeout_in_both_modes() {
    const NAME: &str = "ring::the_network_side_has_a_user_timeout_in_both_modes";
    if !is_root() || !have("strace") || !have("unshare") || !have("openssl") {
        return not_run(NAME, "needs root, strace, unshare and openssl");
    }
    let pki = Pki::get();
    let pair = format!("--cert {} --key {}", pki.server.cert.display(), pki.server.key.display());
    let sides = "--listen 10.99.99.1:2 --connect 10.99.99.1:3";
    let cases = [
        (
            "client",
            format!("{sides} --insecure-no-verify --allow-non-loopback-listen"),
            1,
            "bash -c 'exec 3<>/dev/tcp/10.99.99.1/2; sleep 1'",
        ),
        ("server", format!("{sides} {pair}"), 2, "openssl s_client -connect 10.99.99.1:2"),
    ];
    for (mode, options, timeouts, client) in cases {
        let dir = crate::support::process::scratch("user-timeout");
        let (trace, log) = (dir.join("trace"), dir.join("log"));
        // A network of its own with an address that is not loopback; who connects to it comes from it, too. All of it
        // ends within seconds, whatever happens.
        let script = format!(
            "ip link add v0 type veth peer name v1; ip addr add 10.99.99.1/24 dev v0; ip link set v0 up\n\
             ip link set v1 up; ip link set lo up\n\
             timeout 9 openssl s_server -quiet -accept 10.99.99.1:3 {} </dev/zero >/dev/null 2>&1 &\n\
             timeout 9 strace -f -qq -e trace=setsockopt,prctl -o {} setpriv --pdeathsig KILL -- \
             {} {mode} {options} 2>{} &\n\
             for _ in $(seq 99); do grep -q listening {} && break; sleep 0.05; done\n\
             timeout 1 {client} </dev/zero >/dev/null 2>&1\n\
             kill %1 %2; wait",
            pair.replace("--", "-"),
            trace.display(),
            crate::support::sealane::binary().display(),
            log.display(),
            log.display(),
        );
        let output = Command::new("unshare").args(["-n", "bash", "-c", &script]).output().unwrap();
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        let (trace, log) = (read(trace), read(log));
        assert_eq!(calls(&trace, "TCP_USER_TIMEOUT, [180000]").len(), timeouts, "{mode}: {trace}{log}{output:?}");
        assert_eq!(calls(&trace, "SO_KEEPALIVE, [1]").len(), 2, "{mode}: {trace}{log}");
        // Only a client's tunnel is in the way of this host's dirty pages.
        let flusher = calls(&trace, "prctl(PR_SET_IO_FLUSHER, 1").len();
        assert_eq!(flusher, usize::from(mode == "client"), "{mode}: {trace}");
    }
}

/// While a user timeout is set, the number of unanswered keepalive probes says nothing; nothing else asks for an idle peer.
#[test]
fn an_idle_connection_is_left_to_keepalive_until_something_comes() {
    const NAME: &str = "ring::an_idle_connection_is_left_to_keepalive_until_something_comes";
    if !is_root() || !have("strace") || !have("unshare") || !have("openssl") {
        return not_run(NAME, "needs root, strace, unshare and openssl");
    }
    let pki = Pki::get();
    for driver in DRIVERS {
        let dir = crate::support::process::scratch("idle");
        let (trace, log) = (dir.join("trace"), dir.join("log"));
        let script = format!(
            "ip link add v0 type veth peer name v1; ip addr add 10.99.99.1/24 dev v0; ip link set v0 up\n\
             ip link set v1 up; ip link set lo up\n\
             sleep 9 | timeout 9 openssl s_server -quiet -accept 10.99.99.1:3 -cert {} -key {} >/dev/null 2>&1 &\n\
             timeout 9 strace -f -qq -e trace=setsockopt,getsockopt -o {trace} setpriv --pdeathsig KILL -- {sealane} client \
             --io {driver} --listen 127.0.0.1:2 --connect 10.99.99.1:3 --insecure-no-verify --ack-timeout 1 2>{log} &\n\
             for _ in $(seq 99); do grep -q listening {log} && break; sleep 0.05; done\n\
             exec 3<>/dev/tcp/127.0.0.1/2\n\
             for _ in $(seq 40); do grep -q 'TCP_USER_TIMEOUT, .0.' {trace} && break; sleep 0.05; done\n\
             sleep 0.1; cp {trace} {trace}.first; sleep 1; cp {trace} {trace}.idle\n\
             echo x >&3; sleep 0.5; kill %1 %2; wait",
            pki.server.cert.display(),
            pki.server.key.display(),
            trace = trace.display(),
            log = log.display(),
            sealane = crate::support::sealane::binary().display(),
        );
        let output = Command::new("unshare").args(["-n", "bash", "-c", &script]).output().unwrap();
        let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        let (first, idle, trace, log) = (read("trace.first"), read("trace.idle"), read("trace"), read("log"));
        let timeouts: Vec<String> = calls(&trace, "setsockopt")
            .iter()
            .filter_map(|line| Some(line.split_once("TCP_USER_TIMEOUT, [")?.1.split_once(']')?.0.to_string()))
            .collect();
        assert_eq!(timeouts, ["180000", "0", "180000"], "{driver}: {trace}{log}{output:?}");
        assert!(log.contains("opened"), "{driver}: {log}");
        // Probes go out after 30 s, the first of which may go unanswered for a second.
        assert!(!calls(&trace, "TCP_KEEPCNT, [1]").is_empty(), "{driver}: {trace}");
        assert_eq!(first, idle, "{driver}: an idle connection was looked at");
    }
}

#[test]
fn auto_takes_io_uring_where_the_host_allows_it() {
    let listener = PeerListener::bind(&rustls::version::TLS13);
    let sealane = Sealane::start("auto", listener.port(), &[]);
    sealane.wait_for("driver io_uring (the host allows it)");
}

#[test]
fn a_thousand_connections_become_busy_at_once() {
    let _alone = alone();
    sealane_io::host::raise_open_files().unwrap();
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let sealane = Sealane::start(driver, listener.port(), &["--workers", "1"]);
        // Each connection waits for both sides.
        let mut pairs: Vec<(std::net::TcpStream, Peer)> = (0..1000)
            .map(|index| {
                let mut client = sealane.connect();
                client.write_all(&call(index, b"")).unwrap();
                (client, listener.accept_talkative())
            })
            .collect();
        for round in 0..2 {
            // All become busy at once: more tasks than tokio runs at a time.
            for (index, (client, peer)) in pairs.iter_mut().enumerate() {
                client.write_all(&call(index as u32, &[round; 16])).unwrap();
                peer.send(&reply(index as u32, &[round; 16]));
            }
            for (index, (client, peer)) in pairs.iter_mut().enumerate() {
                if round == 0 {
                    assert_eq!(peer.read(44), call(index as u32, b""));
                }
                assert_eq!(peer.read(60), call(index as u32, &[round; 16]), "{driver} connection {index}");
                let mut back = [0; 44];
                client.read_exact(&mut back).unwrap();
                assert_eq!(back[..], reply(index as u32, &[round; 16]), "{driver} connection {index}");
            }
        }
        assert_eq!(sealane.process.count("closed:"), 0, "{driver}");
    }
}

/// How often the bytes that `mask` hides stand in the memory of this process, dead parts of stacks left out.
fn occurrences(masked: &[u8], mask: u8) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|flags| flags.starts_with("rw")))
    {
        let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        if std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, start).is_err() {
            continue;
        }
        // The pattern is never put together, so that looking for it does not make it.
        let wanted = |window: &[u8]| window.iter().zip(masked).all(|(byte, masked)| byte ^ mask == *masked);
        found += bytes.windows(masked.len()).filter(|window| wanted(window)).count();
        bytes.fill(0);
        black_box(&mut bytes);
    }
    found
}

/// Overwrites what calls have left below this frame of the stack.
#[inline(never)]
fn scrub_stack() {
    let mut low = [0_u8; 192 * 1024];
    black_box(&mut low);
}

#[test]
fn key_bytes_do_not_outlive_their_use() {
    let _alone = alone();
    const MASK: u8 = 0xa7;
    // ring's expanded forms of these two hold the key's own bytes.
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let masked: Vec<u8> = Random::new(77 + suite as u64).bytes(32);
        let make = |masked: &[u8]| {
            let mut key = [0; 32];
            key.iter_mut().zip(masked).for_each(|(to, from)| *to = *from ^ MASK);
            let traffic = TrafficKey::new(Version::Tls13, suite, &key, &[0; 12], 0).unwrap();
            key.fill(0);
            black_box(&mut key);
            (Sealer::new(&traffic), Inbound::new(Role::Client, &traffic))
        };
        let both = make(&masked);
        scrub_stack();
        assert!(occurrences(&masked, MASK) >= 2, "{suite:?}: the search does not find what is there");
        drop(both);
        scrub_stack();
        assert_eq!(occurrences(&masked, MASK), 0, "{suite:?}: key bytes are still in memory");
    }
}
