//! What goes wrong before the tunnel runs: one line, the right exit code.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use crate::support::pki::Pki;
use crate::support::process::scratch;
use crate::support::sealane::binary;

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
