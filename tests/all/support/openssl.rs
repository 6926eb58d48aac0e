//! OpenSSL's server and client, and stunnel, as far ends.

use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};

use super::pki::{Identity, NAME, Pki};
use super::process::{Process, free_port, scratch, wait_for_port};

/// A running `openssl s_server`; what is written to `input` goes to the client, `K` lines update keys.
pub struct SServer {
    pub process: Process,
    pub input: ChildStdin,
    pub port: u16,
}

impl SServer {
    pub fn start(args: &[&str]) -> Self {
        Self::with_identity(&Pki::get().server, args)
    }

    pub fn with_identity(identity: &Identity, args: &[&str]) -> Self {
        // The kernel chooses the port: one that was free a moment ago may be somebody's by now.
        Self::at(0, identity, args)
    }

    /// The same on a port that somebody knows.
    pub fn at(port: u16, identity: &Identity, args: &[&str]) -> Self {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", &format!("127.0.0.1:{port}")]);
        command.arg("-cert").arg(&identity.cert).arg("-key").arg(&identity.key).args(args);
        let mut process = Process::start(command.stdin(Stdio::piped()));
        let input = process.child.stdin.take().unwrap();
        process.wait_for("ACCEPT");
        let port = if port == 0 { accepting_port(&process, "ACCEPT 127.0.0.1:") } else { port };
        Self { process, input, port }
    }

    /// Writes a line: payload, or one of s_server's commands.
    pub fn line(&mut self, text: &str) {
        self.input.write_all(format!("{text}\n").as_bytes()).unwrap();
    }
}

/// The port that one of OpenSSL's servers says it has got, behind `words`.
pub fn accepting_port(process: &Process, words: &str) -> u16 {
    process.wait_for(words);
    let said = process.output();
    let rest = said.split(words).nth(1).unwrap();
    rest.split(|sign: char| !sign.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// A running `openssl s_client`; what is written to `input` goes to the server, `K` and `k` lines update keys.
pub struct SClient {
    pub process: Process,
    pub input: ChildStdin,
}

impl SClient {
    /// Connects to a TLS server on loopback, verifying it.
    pub fn start(port: u16, args: &[&str]) -> Self {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", NAME]);
        if !args.contains(&"-CAfile") {
            command.arg("-CAfile").arg(&Pki::get().ca);
        }
        command.args(["-verify_return_error", "-verify_hostname", NAME]).args(args);
        let mut process = Process::start(command.stdin(Stdio::piped()));
        let input = process.child.stdin.take().unwrap();
        Self { process, input }
    }

    /// Writes a line: payload, or one of s_client's commands.
    pub fn line(&mut self, text: &str) {
        self.input.write_all(format!("{text}\n").as_bytes()).unwrap();
    }
}

/// A running stunnel in server or client mode.
pub struct Stunnel {
    pub process: Process,
    pub port: u16,
}

impl Stunnel {
    /// Accepts plain text and speaks TLS to `connect`, verifying it.
    pub fn client(connect: u16, settings: &str) -> Self {
        Self::trusting(&Pki::get().ca.display().to_string(), NAME, connect, settings)
    }

    /// The same with another CA and name.
    pub fn trusting(ca: &str, name: &str, connect: u16, settings: &str) -> Self {
        Self::run(&format!(
            "client = yes\nconnect = 127.0.0.1:{connect}\nCAfile = {ca}\nverifyChain = yes\ncheckHost = {name}\n{settings}\n"
        ))
    }

    /// Speaks TLS as `settings` (lines of a service section) say, and plain text to `connect`.
    pub fn start(connect: u16, settings: &str) -> Self {
        let Identity { cert, key } = &Pki::get().server;
        let (cert, key) = (cert.display(), key.display());
        Self::run(&format!("connect = 127.0.0.1:{connect}\ncert = {cert}\nkey = {key}\n{settings}\n"))
    }

    fn run(service: &str) -> Self {
        let port = free_port();
        let file = scratch("stunnel").join("stunnel.conf");
        let text = format!("foreground = yes\npid =\ndebug = info\n[nfs]\naccept = 127.0.0.1:{port}\n{service}");
        std::fs::write(&file, text).unwrap();
        let process = Process::start(Command::new("stunnel4").arg(&file).stdin(Stdio::null()));
        wait_for_port(port);
        Self { process, port }
    }
}
