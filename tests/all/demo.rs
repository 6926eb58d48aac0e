//! `sealane demo`: what it prints, that it fails when it should, and what an eavesdropper on its TLS leg sees.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sealane_selftest::pattern::MARK;
use serde_json::Value;

use crate::ring::without_io_uring;
use crate::support::process::{have, scratch};
use crate::support::sealane::{DRIVERS, binary};
use crate::support::{is_root, not_run};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("demo").args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr));
    })
}

#[test]
fn everything_that_was_written_comes_back_with_every_driver_and_version() {
    for (driver, name) in DRIVERS.into_iter().zip(["io_uring", "epoll"]) {
        for tls in ["1.2", "1.3"] {
            // In full once with each driver.
            let passes = if tls == "1.3" { 16 } else { 2 };
            let args = ["--io", driver, "--tls", tls, "--json", "--passes", &passes.to_string()];
            let output = command(&args).output().unwrap();
            let report = json(&output);
            assert!(output.status.success(), "{report}");
            assert_eq!(report["ok"], true);
            assert_eq!(report["driver"]["name"], name);
            assert_eq!(report["tls"]["version"], format!("TLS {tls}"));
            assert!(report["tls"]["suite"].as_str().unwrap().starts_with("TLS_"), "{report}");
            for direction in ["read", "write"] {
                let direction = &report[direction];
                assert_eq!(direction["bytes"], passes * (64 << 20), "{report}");
                assert!(direction["mib_per_second"].as_f64().unwrap() > 1.0, "{report}");
                let cpu = &direction["cpu_seconds_per_gib"];
                for side in ["client", "server"] {
                    assert!((0.01..100.0).contains(&cpu[side].as_f64().unwrap()), "{report}");
                }
            }
            for (how, depth) in [("one_at_a_time", 1), ("many_at_a_time", 16)] {
                let calls = &report["getattr"][how];
                assert_eq!((&calls["calls"], &calls["depth"]), (&10_000.into(), &depth.into()), "{report}");
                let latency = |name: &str| calls["latency_us"][name].as_f64().unwrap();
                assert!(0.0 < latency("p50") && latency("p50") <= latency("p99"), "{report}");
                assert!(latency("p99") <= latency("p99_9"), "{report}");
            }
        }
    }
}

#[test]
fn people_are_told_the_figures_and_how_to_mount() {
    let output = command(&["--passes", "1", "--calls", "100"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for part in [
        "TLS 1.3 TLS_AES",
        "driver ",
        "MiB/s    CPU s/GiB: client 0.",
        "p99.9",
        "100 calls, 16 at a time",
        "ok: every byte",
        "sealane client --listen 127.0.0.1:20049 --connect ",
        "mount -t nfs4 -o vers=4.1,",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Nothing is drawn where nobody looks, and nothing is logged when nothing is wrong.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn one_byte_that_differs_is_a_loud_failure() {
    for driver in DRIVERS {
        let args = ["--io", driver, "--passes", "2", "--calls", "10", "--spoil"];
        let output = command(&args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("sealane: data is wrong: byte 5000001 of file 0 is 0x"), "{text}");
        assert!(last.ends_with("of pass 0") && output.stdout.is_empty(), "{text}");
        let output = command(&[&args[..], &["--json"]].concat()).output().unwrap();
        let report = json(&output);
        assert_eq!((output.status.code(), &report["ok"]), (Some(1), &false.into()));
        assert!(report["error"].as_str().unwrap().starts_with("data is wrong: byte 5000001 of file 0"), "{report}");
    }
}

#[test]
fn a_failure_before_the_start_is_json_too() {
    let output = command(&["--json"]).env("RUST_LOG", "a=b=c").output().unwrap();
    let report = json(&output);
    assert_eq!((output.status.code(), &report["ok"]), (Some(1), &false.into()));
    assert!(report["error"].as_str().unwrap().starts_with("RUST_LOG=a=b=c"), "{report}");
}

#[test]
fn a_terminal_gets_a_progress_bar() {
    if !have("script") {
        return not_run("demo::a_terminal_gets_a_progress_bar", "script is not installed");
    }
    let line = format!("{} demo --passes 4 --calls 2000", binary().display());
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("% of 4512 NFS calls"), "{text}");
    assert!(text.contains("ok: every byte"), "{text}");
}

#[test]
fn the_driver_that_was_asked_for_is_taken_or_refused() {
    if !have("strace") {
        return not_run("demo::the_driver_that_was_asked_for_is_taken_or_refused", "strace is not installed");
    }
    let small = ["--passes", "1", "--calls", "10", "--json"];
    let output = without_io_uring(&command(&small), "EPERM").output().unwrap();
    let report = json(&output);
    assert_eq!((&report["ok"], &report["driver"]["name"]), (&true.into(), &"epoll".into()), "{report}");
    assert!(report["driver"]["reason"].as_str().unwrap().contains("io_uring is not available"), "{report}");
    let output = without_io_uring(&command(&[&small[..], &["--io", "uring"]].concat()), "EPERM").output().unwrap();
    assert_eq!((output.status.code(), &json(&output)["ok"]), (Some(1), &false.into()));
}

#[test]
fn it_needs_no_privileges_and_nobody_who_reads() {
    let mut unprivileged = command(&["--passes", "1", "--calls", "10"]);
    if is_root() {
        unprivileged.uid(65534).gid(65534);
    }
    let output = unprivileged.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A report that cannot be written is not one.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&["--passes", "1", "--calls", "10"]).stdout(full).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("sealane: standard output: No space left on device"), "{text}");
    // Standard output is closed before anything is printed: whoever closed it knows.
    let mut child = command(&["--passes", "1", "--calls", "10"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// The payload of every TCP segment in a capture of loopback, by the ports that it went from and to.
fn payloads(capture: &Path) -> HashMap<(u16, u16), Vec<u8>> {
    let bytes = std::fs::read(capture).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0xa1b2_c3d4, "a capture in this host's byte order");
    assert_eq!(word(20), 1, "Ethernet");
    let (mut by_ports, mut at) = (HashMap::<_, Vec<u8>>::new(), 24);
    while at + 16 <= bytes.len() {
        let (captured, sent) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(captured, sent, "a packet was cut");
        let Some(packet) = bytes.get(at + 16..at + 16 + captured) else { break };
        at += 16 + captured;
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        // IPv4 and TCP only: that is all the demo speaks.
        assert_eq!((port(12), packet[23]), (0x0800, 6));
        let tcp = 14 + usize::from(packet[14] & 15) * 4;
        let data = tcp + usize::from(packet[tcp + 12] >> 4) * 4;
        by_ports.entry((port(tcp), port(tcp + 2))).or_default().extend(&packet[data..]);
    }
    by_ports
}

#[test]
fn an_eavesdropper_on_the_tls_leg_never_sees_the_plain_text() {
    const NAME: &str = "demo::an_eavesdropper_on_the_tls_leg_never_sees_the_plain_text";
    if !is_root() || !have("tcpdump") || !have("unshare") {
        return not_run(NAME, "needs root, tcpdump and unshare");
    }
    for (tls, driver) in [("1.2", "uring"), ("1.3", "epoll")] {
        let dir = scratch("capture");
        let (capture, log) = (dir.join("lo.pcap"), dir.join("tcpdump.log"));
        // A network of its own: what is on loopback there is the demo's.
        let script = format!(
            "ip link set lo up && {{ tcpdump -i lo -w {0} -s 0 -B 262144 -Z root tcp 2>{1} & }} && \
             until grep -q listening {1}; do sleep 0.05; done && \
             {2} demo --json --passes 1 --calls 10 --tls {tls} --io {driver} && sleep 1 && kill -INT $! && wait $!",
            capture.display(),
            log.display(),
            binary().display(),
        );
        let output = Command::new("unshare").args(["-n", "sh", "-c", &script]).output().unwrap();
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(output.status.success(), "{log}{}", String::from_utf8_lossy(&output.stderr));
        let report = json(&output);
        let by_ports = payloads(&capture);
        std::fs::remove_file(&capture).unwrap();
        // On each leg: bytes both ways, and how often the mark was seen.
        let leg = |name: &str| -> (usize, usize) {
            let port = report["ports"][name].as_u64().unwrap() as u16;
            let of_leg = by_ports.iter().filter(|((from, to), _)| *from == port || *to == port);
            of_leg.fold((0, 0), |(bytes, marks), (_, payload)| {
                let seen = payload.windows(MARK.len()).filter(|window| window == MARK).count();
                (bytes + payload.len(), marks + seen)
            })
        };
        // 64 MiB each way, a mark in every 4 KiB. A capture may lose packets; it must not have lost most.
        let (whole, pages) = (128 << 20, 32_768);
        for plain in ["client", "nfs"] {
            let (bytes, marks) = leg(plain);
            assert!(bytes > whole / 2 && marks > pages / 2, "{plain}: {bytes} bytes, {marks} marks; {log}");
        }
        let (bytes, marks) = leg("tls");
        assert!(bytes > whole / 2, "tls: {bytes} bytes; {log}");
        assert_eq!(marks, 0, "TLS {tls}: plain text on the TLS leg");
    }
}
