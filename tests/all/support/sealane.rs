//! The program under test.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::peer::{Peer, PeerListener};
use super::pki::{NAME, Pki};
use super::process::{Process, SOON};

/// Both drivers, by their name on the command line.
pub const DRIVERS: [&str; 2] = ["uring", "epoll"];

/// The binary: `SEALANE` or the one that was built beside this test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SEALANE") {
        return path.into();
    }
    built("debug")
}

/// The binary of one profile in this workspace's target directory.
pub fn built(profile: &str) -> PathBuf {
    // CARGO_TARGET_TMPDIR is TARGET/tmp.
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join(profile).join("sealane");
    assert!(path.exists(), "{} is missing: build it first (tests/run does)", path.display());
    path
}

/// `sealane server` with a free port, the test certificate, and `args`.
pub fn server_command(driver: &str, connect: u16, args: &[&str]) -> Command {
    let identity = &Pki::get().server;
    let mut command = Command::new(binary());
    command.args(["server", "--listen", "127.0.0.1:0", "--io", driver, "--log-level", "debug"]);
    command.args(["--connect", &format!("127.0.0.1:{connect}")]);
    if !args.contains(&"--cert") {
        command.arg("--cert").arg(&identity.cert).arg("--key").arg(&identity.key);
    }
    finish(command, args)
}

/// What all have in common. SEALANE_TEST_SANDBOX is for a program that is to write files of its own (tests/coverage).
fn finish(mut command: Command, args: &[&str]) -> Command {
    if let Some(sandbox) = std::env::var_os("SEALANE_TEST_SANDBOX").filter(|_| !args.contains(&"--sandbox")) {
        command.arg("--sandbox").arg(sandbox);
    }
    command.args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// A running `sealane client` or `sealane server`.
pub struct Sealane {
    pub process: Process,
    pub port: u16,
}

/// `sealane client` with a free port, the test CA, and `args`.
pub fn command(driver: &str, connect: u16, args: &[&str]) -> Command {
    command_of(binary(), driver, connect, args)
}

pub fn command_of(binary: PathBuf, driver: &str, connect: u16, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(["client", "--listen", "127.0.0.1:0", "--io", driver, "--log-level", "debug"]);
    command.args(["--connect", &format!("127.0.0.1:{connect}")]);
    if !args.contains(&"--ca-file") && !args.contains(&"--insecure-no-verify") {
        command.arg("--ca-file").arg(&Pki::get().ca);
    }
    if !args.contains(&"--server-name") {
        command.args(["--server-name", NAME]);
    }
    finish(command, args)
}

impl Sealane {
    /// Starts the tunnel and waits until it listens.
    pub fn start(driver: &str, connect: u16, args: &[&str]) -> Self {
        Self::from_command(&mut command(driver, connect, args))
    }

    /// Starts server mode and waits until it listens.
    pub fn server(driver: &str, connect: u16, args: &[&str]) -> Self {
        Self::from_command(&mut server_command(driver, connect, args))
    }

    pub fn from_command(command: &mut Command) -> Self {
        let mut process = Process::start(command);
        let started = super::process::now();
        loop {
            if let Some(port) = listening_port(&process.output()) {
                return Self { process, port };
            }
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("sealane ended with {status}: {}", process.output());
            }
            assert!(super::process::now() - started < SOON, "sealane does not listen: {}", process.output());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A client connection, with a limit on every read.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A client connection that has said `bytes`.
    pub fn connect_and_say(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// Waits for a log line.
    pub fn wait_for(&self, text: &str) {
        self.process.wait_for(text);
    }
}

/// The port in the line that says where the program listens.
pub fn listening_port(log: &str) -> Option<u16> {
    let rest = log.split("listening on 127.0.0.1:").nth(1)?;
    rest.split(',').next()?.parse().ok()
}

/// A tunnel between a client and a server of ours, over which nothing has gone yet.
pub struct Joined {
    pub listener: PeerListener,
    pub sealane: Sealane,
    pub client: TcpStream,
    pub peer: Peer,
}

/// Joins a client and a server that speaks `version` by `sealane client` with `args`.
pub fn join(driver: &str, version: &'static rustls::SupportedProtocolVersion, args: &[&str]) -> Joined {
    let listener = PeerListener::bind(version);
    let sealane = Sealane::start(driver, listener.port(), args);
    let client = sealane.connect();
    let peer = listener.accept();
    Joined { listener, sealane, client, peer }
}

/// Asserts that the connection was reset, and how soon: an end of stream would let an NFS client wait.
pub fn expect_reset(stream: &mut TcpStream, limit: Duration) {
    use std::io::Read;
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut rest = [0; 65536];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => panic!("the connection ended with FIN, not with RST"),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("no RST within {limit:?}: {error}"),
        }
    }
}
