//! OpenSSL's server and stunnel as far ends.

use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};

use super::pki::{Identity, Pki};
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
        let port = free_port();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", &format!("127.0.0.1:{port}")]);
        command.arg("-cert").arg(&identity.cert).arg("-key").arg(&identity.key).args(args);
        let mut process = Process::start(command.stdin(Stdio::piped()));
        let input = process.child.stdin.take().unwrap();
        process.wait_for("ACCEPT");
        Self { process, input, port }
    }

    /// Writes a line: payload, or one of s_server's commands.
    pub fn line(&mut self, text: &str) {
        self.input.write_all(format!("{text}\n").as_bytes()).unwrap();
    }
}

/// A running stunnel in server mode.
pub struct Stunnel {
    _process: Process,
    pub port: u16,
}

impl Stunnel {
    /// Speaks TLS as `settings` (lines of a service section) say, and plain text to `connect`.
    pub fn start(connect: u16, settings: &str) -> Self {
        let port = free_port();
        let pki = Pki::get();
        let file = scratch("stunnel").join("stunnel.conf");
        let text = format!(
            "foreground = yes\npid =\ndebug = info\n[nfs]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{connect}\ncert = {}\nkey = {}\n{settings}\n",
            pki.server.cert.display(),
            pki.server.key.display(),
        );
        std::fs::write(&file, text).unwrap();
        let process = Process::start(Command::new("stunnel4").arg(&file).stdin(Stdio::null()));
        wait_for_port(port);
        Self { _process: process, port }
    }
}
