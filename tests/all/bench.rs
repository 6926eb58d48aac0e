//! `sealane bench`: figures of every proxy that is here, nothing written where nothing is to be, nothing left behind.

use std::process::{Command, Output, Stdio};

use sealane_selftest::client::Create;
use sealane_selftest::nfs4::{Access, Stable};
use sealane_selftest::{Server, ServerOptions, Session, SessionOptions};
use serde_json::Value;

use crate::support::process::{Process, eventually, free_port, have, scratch};
use crate::support::sealane::binary;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("bench").args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr));
    })
}

/// `SUBJECT WORK` of each line of figures, all of which are plausible.
fn figures(report: &Value) -> Vec<(String, String)> {
    let all = report["figures"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    for row in all {
        let rate = if row["mib_per_second"].is_null() { &row["calls_per_second"] } else { &row["mib_per_second"] };
        let latency = |name: &str| row["latency_us"][name]["median"].as_f64().unwrap();
        assert!(rate["median"].as_f64().unwrap() > 1.0, "{row}");
        assert!(0.0 < latency("p50") && latency("p50") <= latency("p99"), "{row}");
    }
    all.iter().map(|row| (text(&row["subject"]), text(&row["work"]))).collect()
}

#[test]
fn every_proxy_of_this_host_is_measured_and_nothing_is_left_behind() {
    let directory = scratch("bench");
    let svg = directory.join("figures.svg");
    let temporary = directory.join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let args = ["--seconds", "0.1", "--rounds", "1", "--json", "--svg", svg.to_str().unwrap()];
    let output = command(&args).env("TMPDIR", &temporary).output().unwrap();
    let report = json(&output);
    assert!(output.status.success() && report["ok"] == true, "{report}");
    let found = figures(&report);
    let stunnel = have("stunnel") || have("stunnel4");
    let subjects = [Some("sealane (io_uring)"), Some("sealane (epoll)"), stunnel.then_some("stunnel")];
    let works = ["write", "read", "getattr_one_at_a_time", "getattr_many_at_a_time"];
    for subject in subjects.into_iter().flatten() {
        for work in works {
            assert!(found.contains(&(subject.to_string(), work.to_string())), "{subject} {work}: {report}");
        }
    }
    for row in report["figures"].as_array().unwrap() {
        let cost =
            if row["cpu_seconds_per_gib"].is_null() { "cpu_microseconds_per_call" } else { "cpu_seconds_per_gib" };
        assert!(row[cost]["median"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["cpu_ratio"].is_number(), stunnel && row["subject"] != "stunnel", "{row}");
    }
    let drawn = std::fs::read_to_string(&svg).unwrap();
    for part in
        ["<svg", "READ, 1 MiB, 4 at a time: CPU s/GiB", "GETATTR, one at a time: CPU us/call", "sealane (epoll)"]
    {
        assert!(drawn.contains(part), "{part}");
    }
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn people_get_a_table() {
    let output = command(&["--seconds", "0.1", "--rounds", "1"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for part in [
        "NFSv4.1 client -> proxy -> TLS -> sealane server",
        "One window of 0.1 s",
        "READ, 1 MiB, 4 at a time",
        "CPU us/call",
        "  sealane (epoll)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// An NFS server with one file of 2 MiB, and a session with it.
fn server_with_a_file() -> (Server, Session) {
    let server = Server::start(&ServerOptions { bytes_max: 80 << 20, ..ServerOptions::default() }).unwrap();
    let mut session = Session::open(server.local_address(), &SessionOptions::default()).unwrap();
    let root = session.root().unwrap();
    let file = session.open_file(&root, "there", Access::Both, Create::Guarded).unwrap();
    for offset in [0, 1 << 20] {
        session.write(&file, offset, &vec![7; 1 << 20], Stable::File).unwrap();
    }
    session.close_file(&file).unwrap();
    (server, session)
}

/// What is in the root, with the numbers that change when anything does.
fn tree(session: &mut Session) -> Vec<(String, u64, u64)> {
    let root = session.root().unwrap();
    let change = session.attributes(&root).unwrap().change;
    let mut all = vec![(String::new(), change, 0)];
    let entries = session.read_directory(&root, 4096).unwrap();
    all.extend(entries.into_iter().map(|entry| (entry.name, entry.attributes.change, entry.attributes.size)));
    all
}

#[test]
fn a_tunnel_that_is_there_is_only_asked_and_read_from() {
    let (server, mut session) = server_with_a_file();
    let before = tree(&mut session);
    let address = server.local_address().to_string();
    let asked = |more: &[&str]| {
        let args = ["--connect", &address, "--seconds", "0.1", "--rounds", "2", "--json"];
        let output = command(&[&args, more].concat()).output().unwrap();
        let report = json(&output);
        assert!(output.status.success(), "{report}");
        let mut works: Vec<String> = figures(&report).into_iter().map(|(_, work)| work).collect();
        works.sort();
        works
    };
    assert_eq!(asked(&[]), ["getattr_many_at_a_time", "getattr_one_at_a_time"]);
    assert_eq!(asked(&["--path", "/there"]), ["getattr_many_at_a_time", "getattr_one_at_a_time", "read"]);
    assert_eq!(tree(&mut session), before, "nothing was written, made or removed");
    let all = ["getattr_many_at_a_time", "getattr_one_at_a_time", "read", "write"];
    assert_eq!(asked(&["--write", "--connections", "2"]), all);
    let names = |tree: &[(String, u64, u64)]| tree.iter().map(|(name, _, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&tree(&mut session)), names(&before), "what was made is gone again");
}

#[test]
fn what_cannot_be_measured_is_told_in_one_line() {
    let (server, _session) = server_with_a_file();
    let address = server.local_address().to_string();
    let closed = format!("127.0.0.1:{}", free_port());
    for (args, status, words) in [
        (vec!["--connect", "192.0.2.1:2049"], 2, "192.0.2.1:2049 is not on this host"),
        (vec!["--connect", &closed], 1, "Connection refused"),
        (vec!["--connect", &address, "--path", "missing"], 1, "missing on the server"),
        (vec!["--path", "x"], 2, "--connect"),
        (vec!["--stunnel", "/nonexistent/stunnel"], 1, "/nonexistent/stunnel"),
        (vec!["--seconds", "0"], 2, "from 0.1 to 60"),
    ] {
        let output = command(&args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
        assert!(text.contains(words) && text.trim_end().lines().count() == 1, "{args:?}: {text}");
    }
    let output = command(&["--connect", &closed, "--json"]).output().unwrap();
    let report = json(&output);
    assert_eq!((output.status.code(), &report["ok"]), (Some(1), &Value::Bool(false)));
    assert!(report["error"].as_str().unwrap().contains("Connection refused"), "{report}");
}

#[test]
fn proxies_end_with_it_however_it_ends() {
    let temporary = scratch("bench-killed");
    let mut running = Process::start(command(&["--seconds", "5"]).env("TMPDIR", &temporary));
    let children = |pid: u32| -> Vec<u32> {
        let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        listed.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    };
    let pid = running.pid();
    let proxies = || children(pid).into_iter().flat_map(children).collect::<Vec<u32>>();
    eventually("two proxies run", || proxies().len() >= 2);
    let proxies = proxies();
    running.signal("KILL");
    running.wait();
    let is_gone = |pid: &u32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
    eventually("they have ended too", || proxies.iter().all(is_gone));
}
