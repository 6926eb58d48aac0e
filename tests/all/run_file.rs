//! `sealane run`: the tunnels of a configuration file of our own.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::far_ends::echo_server;
use crate::support::pki::{NAME, Pki};
use crate::support::process::{Process, SOON, eventually, free_port, now, scratch, wait_for_port};
use crate::support::sealane::binary;

fn run(words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("run").args(words).stdin(Stdio::null()).env_remove("RUST_LOG");
    // Each has its own control socket, unless its file names one.
    command.env("RUNTIME_DIRECTORY", scratch("run-control"));
    command
}

/// A file with both ends of a tunnel.
struct Both {
    directory: PathBuf,
    client: u16,
}

impl Both {
    fn new(of_process: &str, of_client: &str) -> Self {
        let (directory, pki) = (scratch("run"), Pki::get());
        let [client, server] = [free_port(), free_port()];
        let [ca, cert, key] = [&pki.ca, &pki.server.cert, &pki.server.key].map(|file| file.display().to_string());
        let echo = echo_server();
        let text = format!(
            "# both ends in one\npid-file = {:?}\n{of_process}\n[tunnels.out]\nmode = \"client\"\nlisten = \"127.0.0.1:{client}\"\nconnect = \
             \"127.0.0.1:{server}\"\nca-file = [{ca:?}]\nserver-name = \"{NAME}\"\n{of_client}\n[tunnels.in]\nmode = \"server\"\nlisten = \
             \"127.0.0.1:{server}\"\nconnect = \"127.0.0.1:{echo}\"\ncert = {cert:?}\nkey = {key:?}\n",
            directory.join("pid")
        );
        fs::write(directory.join("sealane.toml"), text).unwrap();
        Self { directory, client }
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn is_carried(&self) -> bool {
        wait_for_port(self.client);
        let mut stream = TcpStream::connect(("127.0.0.1", self.client)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut back = [0; 14];
        stream.write_all(b"there and back").is_ok()
            && stream.read_exact(&mut back).is_ok()
            && &back == b"there and back"
    }
}

#[test]
fn its_tunnels_share_a_process() {
    for io in ["uring", "epoll"] {
        let both = Both::new(&format!("io = \"{io}\"\nworkers = 3"), "");
        let mut process = Process::start(&mut run(&[&both.file("sealane.toml")]));
        assert!(both.is_carried(), "{}", process.output());
        eventually("two tunnels listen", || process.count("listening on 127.0.0.1:") == 2);
        assert_eq!(fs::read_to_string(both.file("pid")).unwrap(), format!("{}\n", process.pid()));
        let threads = fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
        let names = threads.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
        let workers = names.filter(|name| name.starts_with("worker-")).count();
        assert_eq!(workers, 3, "of all tunnels together: {}", process.output());
        let started = now();
        process.signal("TERM");
        assert!(process.wait().success() && now() - started < Duration::from_secs(1));
        assert!(!PathBuf::from(both.file("pid")).exists());
    }
}

#[test]
fn the_log_can_go_to_a_file() {
    let both = Both::new("", "");
    let log = both.file("sealane.log");
    let text = fs::read_to_string(both.file("sealane.toml")).unwrap();
    fs::write(both.file("sealane.toml"), format!("log-file = {log:?}\nlog-level = \"debug\"\n{text}")).unwrap();
    let mut process = Process::start(&mut run(&[&both.file("sealane.toml")]));
    assert!(both.is_carried(), "{}", process.output());
    let read = || fs::read_to_string(&log).unwrap_or_default();
    eventually("it is written", || read().contains(" INFO opened: TLS 1.3"));
    fs::rename(&log, both.file("old.log")).unwrap();
    process.signal("USR1");
    eventually("it is opened anew", || read().contains("SIGUSR1: the log file is opened anew"));
    process.signal("TERM");
    assert!(process.wait().success());
    assert_eq!(process.output(), "");
    assert!(read().contains("stopped by SIGTERM"));
}

#[test]
fn the_environment_overrides_a_file() {
    let both = Both::new("", "tls = \"1.2\"");
    let mut command = run(&["--explain", &both.file("sealane.toml")]);
    command.env("SEALANE_OUT__TLS", "1.3").env("SEALANE_LOG_LEVEL", "debug");
    let out = command.output().unwrap();
    let told = String::from_utf8(out.stdout).unwrap();
    assert!(told.contains("[out]\n    sealane client ") && told.contains(" --tls 1.3 --log-level debug\n"), "{told}");
    let process = Process::start(run(&[&both.file("sealane.toml")]).env("SEALANE_OUT__TLS", "1.3"));
    assert!(both.is_carried(), "{}", process.output());
    process.wait_for("opened: TLS 1.3");
}

#[test]
fn a_file_is_checked_before_it_is_served() {
    let both = Both::new("", "");
    let file = both.file("sealane.toml");
    let out = run(&["--check", &file]).output().unwrap();
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("2 tunnels can start"), "{out:?}");
    let text = fs::read_to_string(&file).unwrap();
    for (old, new, status, why) in [
        ("[tunnels.in]", "[tunnels.in]\ncrt = 1", 2, "sealane.toml:12:1: no key 'crt' is known: did you mean cert?"),
        ("mode = \"server\"", "mode = \"serve\"", 2, "mode is \"client\" or \"server\""),
        ("ca-file = [\"", "ca-file = [\"/none", 1, "[out]: /none"),
        ("# both ends in one", "# both ends in one\nworkers = \"many\"", 2, "invalid value 'many' for '--workers <N>'"),
        ("# both ends in one", "[", 2, "sealane.toml:1:"),
        ("listen = \"127.0.0.1", "listen = \"0.0.0.0", 2, "[out]: --listen: 0.0.0.0 is not a loopback address"),
    ] {
        let broken = both.file("broken-sealane.toml");
        fs::write(&broken, text.replacen(old, new, 1)).unwrap();
        for words in [&["--check", broken.as_str()][..], &[&broken]] {
            let out = run(words).output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.code() == Some(status) && said.contains(why), "{new}: {:?} {said}", out.status);
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
    let out = run(&["/no/such.toml"]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("/no/such.toml: No such file"));
}

/// Starts the program as systemd does for a socket that it listens on: descriptor 3.
fn activated(listener: TcpListener, words: &[&str]) -> Process {
    let mut command = Command::new("sh");
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    command.args(["-c", script]).arg(binary()).args(words).env_remove("RUST_LOG");
    Process::start(command.stdin(OwnedFd::from(listener)))
}

#[test]
fn a_socket_that_was_passed_is_served() {
    let both = Both::new("", "");
    let listener = TcpListener::bind(("127.0.0.1", both.client)).unwrap();
    // Somebody has connected before the tunnel was started.
    let mut early = TcpStream::connect(("127.0.0.1", both.client)).unwrap();
    let mut process = activated(listener, &["run", &both.file("sealane.toml")]);
    early.set_read_timeout(Some(SOON)).unwrap();
    early.write_all(b"early").unwrap();
    let mut back = [0; 5];
    early.read_exact(&mut back).unwrap_or_else(|error| panic!("{error}: {}", process.output()));
    assert!(both.is_carried());
    process.signal("TERM");
    assert!(process.wait().success());
    // One tunnel, one socket: it is that one's, wherever it listens.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let words = ["client", "--listen", "127.0.0.1:1", "--connect", "127.0.0.1:2", "--insecure-no-verify"];
    let process = activated(listener, &words);
    process.wait_for(&format!("listening on 127.0.0.1:{port}, tunnel to 127.0.0.1:2"));
    drop(process);
    // Two tunnels, and a socket that is neither's.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut process = activated(listener, &["run", &both.file("sealane.toml")]);
    assert_eq!(process.wait().code(), Some(2));
    process.wait_for("a socket was passed (LISTEN_FDS) that listens on 127.0.0.1:");
    // Something else was passed.
    let mut command = Command::new("sh");
    let script = "exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    command.args(["-c", script]).arg(binary()).args(words).env_remove("RUST_LOG");
    let mut process = Process::start(command.stdin(Stdio::null()));
    assert_eq!(process.wait().code(), Some(1));
    process.wait_for("descriptor 3 (LISTEN_FDS): ");
}

#[test]
fn a_supervisor_hears_how_it_is() {
    for (is_abstract, io) in [(false, "uring"), (true, "epoll")] {
        let both = Both::new(&format!("io = \"{io}\""), "");
        let name = format!("sealane-notify-{}-{io}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let address = match is_abstract {
            true => SocketAddr::from_abstract_name(&name).unwrap(),
            false => SocketAddr::from_pathname(&path).unwrap(),
        };
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let heard = || {
            let mut bytes = [0; 4096];
            let count = socket.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..count]).into_owned()
        };
        let mut command = run(&[&both.file("sealane.toml")]);
        command.env("WATCHDOG_USEC", "200000");
        match is_abstract {
            true => command.env("NOTIFY_SOCKET", format!("@{name}")),
            false => command.env("NOTIFY_SOCKET", &path),
        };
        let mut process = Process::start(&mut command);
        assert_eq!(heard(), "READY=1\nSTATUS=serving", "{}", process.output());
        // Ready is when it serves.
        TcpStream::connect(("127.0.0.1", both.client)).unwrap();
        let began = now();
        for _ in 0..5 {
            assert_eq!(heard(), "WATCHDOG=1");
        }
        assert!(now() - began >= Duration::from_millis(350), "twice in the time");
        process.signal("HUP");
        let mut all = Vec::new();
        while all.last().is_none_or(|last: &String| !last.starts_with("READY=1")) {
            let one = heard();
            if one != "WATCHDOG=1" {
                all.push(one);
            }
        }
        assert!(all.len() == 2 && all[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{all:?}");
        process.signal("TERM");
        assert!(process.wait().success());
        while heard() != "STOPPING=1\nSTATUS=stopping" {}
        let _ = fs::remove_file(path);
    }
}

#[test]
fn a_supervisor_that_is_not_there_is_no_reason_not_to_start() {
    let both = Both::new("", "");
    let process = Process::start(run(&[&both.file("sealane.toml")]).env("NOTIFY_SOCKET", "/no/such/socket"));
    assert!(both.is_carried(), "{}", process.output());
    process.wait_for("NOTIFY_SOCKET: No such file or directory");
}
