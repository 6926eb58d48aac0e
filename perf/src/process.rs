//! Child processes that end when their owner does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::now;

/// Time between two looks at something that is awaited.
const TICK: Duration = Duration::from_millis(10);
/// Time for a process to end after SIGTERM.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// Time for a process to listen.
const LISTEN_PATIENCE: Duration = Duration::from_secs(5);
/// The state of a listening socket in /proc/net/tcp.
const LISTENING: &str = "0A";

/// A running child, with what it writes to standard error in a file.
///
/// Dropping this kills it. If this program dies first, the kernel kills it (PR_SET_PDEATHSIG).
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// What it has written to standard output.
    pub(crate) lines: mpsc::Receiver<String>,
}

impl Process {
    /// Starts `program` on the processor `cpu` only.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(name: &str, cpu: usize, program: &Path, args: &[&str], log: PathBuf) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "-c"]).arg(cpu.to_string()).arg(program).args(args);
        let errors = File::create(&log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).env_remove("RUST_LOG");
        let mut child = command.spawn().context("setpriv")?;
        let (sender, lines) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || {
                let lines = BufReader::new(output).lines().map_while(Result::ok);
                lines.map(|line| sender.send(line)).all(|sent| sent.is_ok())
            });
        }
        Ok(Self { name: name.into(), child, log, lines })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until a socket in this network namespace listens on `port`.
    ///
    /// # Errors
    /// When none does in time.
    pub(crate) fn wait_for_port(&mut self, port: u16) -> Result<()> {
        let deadline = now() + LISTEN_PATIENCE;
        while now() < deadline {
            let text = fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
            if is_listening(&text, port) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{}: {status}\n{}", self.name, self.log());
            }
            thread::sleep(TICK);
        }
        bail!("{} does not listen on port {port}\n{}", self.name, self.log());
    }

    /// Waits until it ends by itself; whether that was with status 0.
    ///
    /// # Errors
    /// When it does not end in time.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<bool> {
        let deadline = now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.success());
            }
            if now() >= deadline {
                bail!("{} (process {}) does not end", self.name, self.pid());
            }
            thread::sleep(TICK);
        }
    }

    /// Ends it with SIGTERM; whether it then exited with status 0.
    ///
    /// # Errors
    /// When it is not there any more, or had to be killed.
    pub(crate) fn terminate(&mut self) -> Result<bool> {
        let sent = Command::new("kill").args(["-TERM", &self.pid().to_string()]).output().context("kill")?;
        if !sent.status.success() {
            bail!("{}: {}\n{}", self.name, String::from_utf8_lossy(&sent.stderr).trim(), self.log());
        }
        self.wait(END_PATIENCE).with_context(|| self.log())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Of a child that has ended and was waited for, the standard library knows that there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `/proc/net/tcp` has a listening socket with this port.
fn is_listening(text: &str, port: u16) -> bool {
    let ending = format!(":{port:04X}");
    text.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&ending)) && words.nth(1) == Some(LISTENING)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listening_socket_counts() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
                    0: 0100007F:4E21 00000000:0000 0A 00000000:00000000\n   \
                    1: 0100007F:4E22 0100007F:4E21 01 00000000:00000000\n";
        assert!(is_listening(text, 0x4e21));
        assert!(!is_listening(text, 0x4e22));
        assert!(!is_listening("", 1));
    }
}
