//! What goes wrong before the tunnel runs: one line, the right exit code.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

use crate::support::bytes::call;
use crate::support::peer::Peer;
use crate::support::pki::Pki;
use crate::support::process::{Process, SOON, have, now, scratch};
use crate::support::sealane::{DRIVERS, Sealane, binary, command, listening_port, server_command};
use crate::support::{is_root, not_run};

fn run(args: &[&str]) -> Output {
    Command::new(binary()).args(args).stdin(Stdio::null()).env_remove("RUST_LOG").output().unwrap()
}

/// Runs `sealane client` with what a start needs, and `args`.
fn client(args: &[&str]) -> Output {
    let mut all = vec!["client", "--connect", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--log-level", "error"];
    if !args.contains(&"--ca-file") && !args.contains(&"--insecure-no-verify") {
        all.extend(["--ca-file", Pki::get().ca.to_str().unwrap()]);
    }
    all.extend(args);
    run(&all)
}

/// Asserts exit code 1 and one line that begins with the program's name and contains `reason`.
fn fails(args: &[&str], reason: &str) {
    let output = client(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    assert!(text.starts_with("sealane: ") && text.contains(reason), "{args:?}: {text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_wrong_command_line_exits_with_2_and_names_the_option() {
    let cases: [(&[&str], &str); 23] = [
        (&["client", "--connect", "h:1", "--server-name", "not a name"], "neither a DNS name nor an IP address"),
        (&["client", "--connect", "h:1", "--bind-address", "224.0.0.1"], "multicast"),
        (
            &["client", "--connect", "not_a/name:1", "--insecure-no-verify", "--log-level", "error"],
            "name the certificate with --server-name",
        ),
        (&["serve"], "unrecognized subcommand"),
        (&["client"], "--connect"),
        (&["client", "--connect", "host"], "is not HOST:PORT"),
        (&["client", "--connect", "::1:2049"], "is not HOST:PORT"),
        (&["client", "--connect", "h:1", "--listen", "localhost"], "--listen"),
        (&["client", "--connect", "h:1", "--memory-max", "1T"], "is not a size"),
        (&["client", "--connect", "h:1", "--workers", "0"], "--workers"),
        (&["client", "--connect", "h:1", "--tls", "1.1"], "--tls"),
        (&["client", "--connect", "h:1", "--io", "kqueue"], "--io"),
        (&["client", "--connect", "h:1", "--cert", "c.pem"], "--key"),
        (&["client", "--connect", "h:1", "--retry-timeout", "nan"], "--retry-timeout"),
        (&["client", "--connect", "h:1", "--ca-file", "c", "--insecure-no-verify"], "--insecure-no-verify"),
        (&["client", "--connect", "h:1", "--unknown"], "--unknown"),
        (&["server", "--connect", "h:1"], "--cert"),
        (&["server", "--connect", "h:1", "--cert", "c.pem"], "--key"),
        (&["server", "--cert", "c", "--key", "k"], "--connect"),
        (&["server", "--connect", "h:1", "--cert", "c", "--key", "k", "--proxy-protocol", "v3"], "--proxy-protocol"),
        (&["server", "--connect", "h:1", "--cert", "c", "--key", "k", "--handshakes-max", "0"], "--handshakes-max"),
        (&["server", "--connect", "h:1", "--cert", "c", "--key", "k", "--insecure-no-verify"], "sealane server --help"),
        (&["demo", "--io", "kqueue"], "sealane demo --help"),
    ];
    for (args, reason) in cases {
        let output = run(args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.starts_with("sealane: ") && text.contains(reason), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    }
    let nothing = run(&[]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("Usage"));
}

#[test]
fn help_and_version_are_on_standard_output_and_tell_defaults() {
    let help = String::from_utf8(run(&["client", "--help"]).stdout).unwrap();
    for text in
        ["--insecure-no-verify", "[default: 256M]", "[default: 1.2-1.3]", "Examples:", "Exit status:", "[default: 12]"]
    {
        assert!(help.contains(text), "{text}: {help}");
    }
    let help = String::from_utf8(run(&["server", "--help"]).stdout).unwrap();
    for text in ["--client-ca", "[default: 0.0.0.0:2049]", "[default: 256]", "Examples:", "insecure", "Exit status:"] {
        assert!(help.contains(text), "{text}: {help}");
    }
    let version = run(&["--version"]);
    assert!(version.status.success());
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("sealane 0."));
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let pki = Pki::get();
    let dir = scratch("files");
    let file = |name: &str, content: &str| {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_string()
    };
    let (cert, key) = (pki.client.cert.to_str().unwrap(), pki.client.key.to_str().unwrap());
    let empty = file("empty.pem", "");
    let text = file("text.pem", "; a comment\nno certificate\n");
    let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    let nonsense = file("nonsense.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let encrypted =
        file("encrypted.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    fails(&["--ca-file", "/no/such/file"], "/no/such/file: No such file or directory");
    fails(&["--ca-file", &empty], "empty.pem: contains no PEM certificate");
    fails(&["--ca-file", &text], "text.pem: contains no PEM certificate");
    fails(&["--ca-file", &broken], "broken.pem: not valid PEM");
    assert_eq!(client(&["--ca-file", &nonsense]).status.code(), Some(1));
    fails(&["--cert", cert, "--key", &empty], "empty.pem: contains no PEM private key");
    fails(&["--cert", cert, "--key", &encrypted], "encrypted.pem: the private key is encrypted");
    fails(&["--cert", &text, "--key", key], "text.pem: contains no PEM certificate");
    let other = pki.server.key.to_str().unwrap();
    fails(&["--cert", cert, "--key", other], "not the key of the certificate in");
}

#[test]
fn a_server_is_told_which_of_its_files_cannot_be_used() {
    let pki = Pki::get();
    let (ca, cert, key) =
        (pki.ca.to_str().unwrap(), pki.server.cert.to_str().unwrap(), pki.server.key.to_str().unwrap());
    let text = scratch("files").join("text.pem");
    std::fs::write(&text, "no certificate\n").unwrap();
    let text = text.to_str().unwrap();
    for (args, reason) in [
        (["--cert", "/no/such/file", "--key", key, "--client-ca", ca], "/no/such/file: No such file or directory"),
        (["--cert", text, "--key", key, "--client-ca", ca], "text.pem: contains no PEM certificate"),
        (["--cert", cert, "--key", text, "--client-ca", ca], "text.pem: contains no PEM private key"),
        (
            ["--cert", cert, "--key", pki.client.key.to_str().unwrap(), "--client-ca", ca],
            "not the key of the certificate",
        ),
        (["--cert", cert, "--key", key, "--client-ca", text], "text.pem: contains no PEM certificate"),
    ] {
        let listen = ["server", "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1", "--log-level", "error"];
        let output = run(&[&listen[..], &args].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert!(text.starts_with("sealane: ") && text.contains(reason), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    }
}

#[test]
fn limits_that_do_not_fit_each_other_are_refused_with_what_would_do() {
    for (size, reason) in
        [("8M", "need a buffer memory of at least"), ("0", "raise --memory-max or lower --connections-max")]
    {
        let output = client(&["--memory-max", size]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.lines().count() == 1 && text.contains(reason), "{text}");
    }
}

#[test]
fn plain_text_is_accepted_from_this_host_only_unless_asked_for() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[2001:db8::1]:0", "[::ffff:192.0.2.1]:0"] {
        let mut command = Command::new(binary());
        command.args(["client", "--connect", "127.0.0.1:1", "--insecure-no-verify", "--listen", address]);
        let mut process = Process::start(command.stdin(Stdio::null()).env_remove("RUST_LOG"));
        let status = process.wait();
        process.wait_for("sealane: ");
        let text = process.output();
        assert_eq!(status.code(), Some(2), "{address}: {text}");
        assert!(text.lines().count() == 1 && text.starts_with("sealane: --listen: "), "{address}: {text}");
        assert!(text.contains("is not a loopback address") && text.contains("--allow-non-loopback-listen"), "{text}");
    }
    for (address, option) in [("127.0.0.2:0", None), ("0.0.0.0:0", Some("--allow-non-loopback-listen"))] {
        let mut command = Command::new(binary());
        command.args(["client", "--connect", "127.0.0.1:1", "--insecure-no-verify", "--listen", address]).args(option);
        let process = Process::start(command.stdin(Stdio::null()).env_remove("RUST_LOG"));
        process.wait_for(&format!("listening on {}:", address.trim_end_matches(":0")));
        assert_eq!(process.count("PLAIN TEXT from other hosts"), usize::from(option.is_some()), "{address}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&[
        "client",
        "--connect",
        "127.0.0.1:1",
        "--listen",
        &address,
        "--ca-file",
        Pki::get().ca.to_str().unwrap(),
    ]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text.matches(&format!("cannot listen on {address}: Address already in use")).count(), 1, "{text}");
    assert_eq!(text.matches("Address already in use").count(), 1, "said once: {text}");
}

#[test]
fn a_closed_standard_error_is_no_reason_to_end() {
    use crate::support::bytes::call;
    use crate::support::peer::PeerListener;
    use std::io::{Read, Write};
    let listener = PeerListener::bind(&rustls::version::TLS13);
    let port = crate::support::process::free_port();
    let mut command = crate::support::sealane::command("auto", listener.port(), &[]);
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = Command::new(binary());
    command.args(
        args.iter().map(|arg| if arg == "127.0.0.1:0" { format!("127.0.0.1:{port}").into() } else { arg.clone() }),
    );
    let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut pipe = child.stderr.take().unwrap();
    let mut first = [0; 16];
    pipe.read_exact(&mut first).unwrap();
    drop(pipe);
    crate::support::process::wait_for_port(port);
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut peer = listener.accept();
    client.write_all(&call(1, b"x")).unwrap();
    assert_eq!(peer.read(45), call(1, b"x"));
    assert!(child.try_wait().unwrap().is_none(), "it ended");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_standard_error_that_nobody_reads_stops_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for driver in DRIVERS {
        let mut command =
            server_command(driver, listener.local_addr().unwrap().port(), &["--workers", "1", "--drain", "0"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        // Read as far as the port, and no further.
        let mut log = BufReader::with_capacity(1, child.stderr.take().unwrap());
        let mut line = String::new();
        let port = loop {
            line.clear();
            log.read_line(&mut line).unwrap();
            if let Some(port) = listening_port(&line) {
                break port;
            }
        };
        let mut client = Peer::connect(&rustls::version::TLS13, port);
        let (mut server, _) = listener.accept().unwrap();
        // Every one of these leaves lines in the log: several times what a pipe takes.
        for _ in 0..2000 {
            let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let _ = stranger.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let _ = stranger.read_to_end(&mut Vec::new());
        }
        client.send(&call(1, b"still here"));
        let mut heard = vec![0; call(1, b"still here").len()];
        server.set_read_timeout(Some(SOON)).unwrap();
        server.read_exact(&mut heard).unwrap();
        assert_eq!(heard, call(1, b"still here"), "{driver}");
        let started = now();
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if now() - started > SOON => {
                    child.kill().unwrap();
                    panic!("{driver}: does not end");
                }
                None => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        };
        assert_eq!(ended.code(), Some(0), "{driver}");
        assert!(now() - started < std::time::Duration::from_secs(2), "{driver}: {:?}", now() - started);
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        assert!(rest.len() > 60_000, "{driver}: the pipe was never full: {} bytes", rest.len());
    }
}

/// The same command as a user without privileges, with so much memory that may be locked.
fn unprivileged(command: &Command, memlock: &str) -> Command {
    // The binary's own directory may be closed to others.
    let binary = scratch("unprivileged").join("sealane");
    std::fs::copy(command.get_program(), &binary).unwrap();
    let mut wrapped = Command::new("prlimit");
    wrapped.args([memlock, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    wrapped.arg(binary).args(command.get_args()).stdin(Stdio::null()).env_remove("RUST_LOG");
    wrapped
}

#[test]
fn a_host_with_too_little_memory_to_lock_gets_epoll_and_is_told_why() {
    const NAME: &str = "command_line::a_host_with_too_little_memory_to_lock_gets_epoll_and_is_told_why";
    if !is_root() || !have("setpriv") || !have("prlimit") {
        return not_run(NAME, "needs root, setpriv and prlimit");
    }
    let args = ["--insecure-no-verify", "--workers", "4"];
    let tunnel = Sealane::from_command(&mut unprivileged(&command("auto", 1, &args), "--memlock=262144"));
    tunnel.wait_for("listening on ");
    if tunnel.process.count("driver io_uring") > 0 {
        return not_run(NAME, "this kernel does not count rings against the limit of locked memory");
    }
    tunnel.wait_for("driver epoll (io_uring is not available: Cannot allocate memory");
    tunnel.wait_for("raise the limit of locked memory (ulimit -l");
    let output = unprivileged(&command("uring", 1, &args), "--memlock=262144").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("sealane: io_uring is not available on this host: Cannot allocate memory"), "{text}");
    let one = ["--insecure-no-verify", "--workers", "1"];
    let enough = Sealane::from_command(&mut unprivileged(&command("auto", 1, &one), "--memlock=8388608"));
    enough.wait_for("driver io_uring (the host allows it)");
}

#[test]
fn workers_that_cannot_have_their_buffers_end_those_that_started_and_say_why() {
    const NAME: &str = "command_line::workers_that_cannot_have_their_buffers_end_those_that_started_and_say_why";
    if !have("prlimit") {
        return not_run(NAME, "needs prlimit");
    }
    for driver in DRIVERS {
        // Address space for two of four workers with 512 MiB each.
        let start = command(driver, 1, &["--workers", "4", "--memory-max", "2G"]);
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--as={}", 1536 << 20)).arg(start.get_program()).args(start.get_args());
        let started = now();
        let output = limited.stdin(Stdio::null()).env_remove("RUST_LOG").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{driver}: {text}");
        assert!(last.starts_with("sealane: ") && last.contains("bytes of buffers (mmap): Cannot"), "{driver}: {text}");
        assert!(now() - started < SOON, "{driver}: the workers that had started were waited for");
    }
}

#[test]
fn a_privileged_port_that_cannot_be_had_is_said_at_the_start() {
    const NAME: &str = "command_line::a_privileged_port_that_cannot_be_had_is_said_at_the_start";
    if !is_root() || !have("setpriv") || !have("prlimit") {
        return not_run(NAME, "needs root, setpriv and prlimit");
    }
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first.trim().parse().is_ok_and(|first: u16| first < 1024) {
        return not_run(NAME, "anybody may have such a port here (net.ipv4.ip_unprivileged_port_start)");
    }
    let args = ["--insecure-no-verify", "--source-port", "privileged"];
    let output = unprivileged(&command("epoll", 1, &args), "--memlock=8388608").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(
        last,
        "sealane: --source-port privileged: Permission denied (os error 13): it needs CAP_NET_BIND_SERVICE"
    );
}
