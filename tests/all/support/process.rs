//! Child processes that never outlive their test, and what they print.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The longest wait for anything that should happen soon.
pub const SOON: Duration = Duration::from_secs(20);

#[allow(clippy::disallowed_methods, reason = "tests measure")]
pub fn now() -> Instant {
    Instant::now()
}

/// Waits until `condition` holds; panics with `what` after [`SOON`].
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(SOON, what, condition);
}

pub fn eventually_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = now();
    while !condition() {
        assert!(now() - started < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A fresh directory of this run.
pub fn scratch(name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let unique = format!("{}-{}-{name}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// A port on loopback that nobody listens on at this moment, and that nobody else of this run was given.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let any = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::iter::repeat_with(any).find(|port| GIVEN.lock().unwrap().insert(*port)).unwrap()
}

/// Whether a program is there.
pub fn have(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(program).exists())
}

/// A child process whose output is collected; killed by its id when dropped.
pub struct Process {
    pub child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    name: String,
}

impl Process {
    /// Starts `command`; standard input is as the caller set it, both outputs are collected together.
    pub fn start(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let output = Arc::clone(&output);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut line = Vec::new();
                while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                    output.lock().unwrap().append(&mut line);
                }
            });
        }
        Self { child, output, name }
    }

    /// Everything printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// Waits until `text` has been printed.
    pub fn wait_for(&self, text: &str) {
        let started = now();
        while !self.output().contains(text) {
            assert!(now() - started < SOON, "{} did not print '{text}':\n{}", self.name, self.output());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How often `text` has been printed.
    pub fn count(&self, text: &str) -> usize {
        self.output().matches(text).count()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to this process.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let started = now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(now() - started < SOON, "{} does not end:\n{}", self.name, self.output());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// An instrumented program (tests/coverage) writes down what it executed when it ends by itself, not when killed.
    fn let_profile_be_written(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(3);
        if std::env::var_os("LLVM_PROFILE_FILE").is_none() || !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = Command::new("kill").args(["-s", "TERM", &self.pid().to_string()]).status();
        let started = now();
        while matches!(self.child.try_wait(), Ok(None)) && now() - started < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A number out of /proc/PID/status, in KiB.
    pub fn status_kib(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.let_profile_be_written();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}---", self.name, self.output());
        }
    }
}

/// Waits until somebody accepts connections on a port of loopback.
pub fn wait_for_port(port: u16) {
    eventually(&format!("port {port} is listened on"), || TcpStream::connect(("127.0.0.1", port)).is_ok());
}
