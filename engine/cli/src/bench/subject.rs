//! The proxies that are compared: each a process of its own, started by us and ended with us.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::local::SERVER_NAME;

/// How long a proxy may take until it listens.
const START_MAX: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

/// A directory that only this user can look into; removed when dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn create() -> Result<Self> {
        let base = std::env::temp_dir();
        let made = (0..100).find_map(|attempt| {
            let path = base.join(format!("sealane-bench.{}.{attempt}", std::process::id()));
            DirBuilder::new().mode(0o700).create(&path).ok().map(|()| path)
        });
        made.map(Self).with_context(|| format!("no directory can be made in {}", base.display()))
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is a CA certificate and a configuration, both public.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a program, says which process it is, and ends it when standard input ends: so when this process ends, however. One
/// that does not obey within three seconds is killed. The keeper itself must outlive what ends us: a terminal's interrupt, and
/// that nobody reads any more what it says. (Caught, not ignored, which the program would inherit.)
const KEEPER: &str = r#"trap : HUP INT PIPE TERM
"$0" "$@" & p=$!; echo $p; read -r _; trap '' HUP INT PIPE TERM
kill $p; (sleep 3; kill -9 $p) >/dev/null 2>&1 & wait $p; kill -9 $!"#;

/// A program that runs until this is dropped.
struct Process {
    keeper: Child,
    pid: u32,
}

impl Process {
    fn start(name: &str, program: &Path, args: &[&OsStr]) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER]).arg(program).args(args).env_remove("RUST_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let said = || format!("starting {name} ({})", program.display());
        let mut keeper = command.spawn().with_context(said)?;
        let mut line = String::new();
        if let Some(output) = keeper.stdout.take() {
            BufReader::new(output).read_line(&mut line).with_context(said)?;
        }
        let mut process = Self { keeper, pid: 0 };
        process.pid = line.trim().parse().with_context(said)?;
        Ok(process)
    }

    fn is_there(&self) -> bool {
        // One that has ended stays as a zombie until its keeper does.
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    }

    /// What its threads have used so far, by the scheduler's account (proc(5), schedstat); none where there is no account.
    fn cpu(&self) -> Option<Duration> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        let used = tasks.filter_map(|task| {
            let account = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            account.split_ascii_whitespace().next()?.parse::<u64>().ok()
        });
        Some(Duration::from_nanos(used.sum())).filter(|sum| !sum.is_zero())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A proxy that listens on loopback.
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    process: Process,
}

impl Subject {
    /// `sealane client` of this same program, with `options` besides where it connects to.
    pub(super) fn sealane(name: &str, connect: SocketAddr, ca: &Path, options: &[&str]) -> Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let connect = connect.to_string();
        let words =
            ["client", "--listen", "127.0.0.1:0", "--server-name", SERVER_NAME, "--connect", &connect, "--ca-file"];
        let mut args: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        args.push(ca.as_os_str());
        args.extend(options.iter().map(OsStr::new));
        let mut process = Process::start(name, &program, &args)?;
        let errors = process.keeper.stderr.take().context("a pipe that was asked for")?;
        let (said, hear) = channel();
        // Reads on for as long as the process lives: it is not to wait for us.
        thread::Builder::new().name("listener".into()).spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        })?;
        let mut subject = Self { name: name.into(), address: (Ipv4Addr::LOCALHOST, 0).into(), process };
        let mut last = String::new();
        while let Ok(line) = hear.recv_timeout(START_MAX) {
            let address = line.split_once("listening on ").and_then(|(_, rest)| rest.split_once(','));
            if let Some(address) = address.and_then(|(address, _)| address.parse().ok()) {
                subject.address = address;
                return Ok(subject);
            }
            last = line;
        }
        Err(anyhow!("{name} does not listen: {last}"))
    }

    /// The host's stunnel, which verifies as much.
    pub(super) fn stunnel(program: &Path, connect: SocketAddr, ca: &Path, scratch: &Scratch) -> Result<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = free.context("a free port for stunnel")?;
        let text = format!(
            "foreground = yes\npid =\ndebug = err\n[nfs]\nclient = yes\naccept = {address}\nconnect = {connect}\n\
             CAfile = {}\nverifyChain = yes\ncheckHost = {SERVER_NAME}\n",
            ca.display()
        );
        let file = scratch.write("stunnel.conf", &text)?;
        let process = Process::start("stunnel", program, &[file.as_os_str()])?;
        let mut subject = Self { name: "stunnel".into(), address, process };
        for _ in 0..START_MAX.as_millis() / TICK.as_millis() {
            if TcpStream::connect(address).is_ok() {
                return Ok(subject);
            }
            if !subject.process.is_there() {
                let errors = subject.process.keeper.stderr.take();
                drop(subject.process.keeper.stdin.take());
                let lines = errors.into_iter().flat_map(|errors| BufReader::new(errors).lines().map_while(Result::ok));
                let last = lines.last().unwrap_or_else(|| "without a word".into());
                bail!("{} ended at its start: {last}", program.display());
            }
            thread::sleep(TICK);
        }
        bail!("{} does not listen on {address}", program.display())
    }

    /// What its threads have used so far.
    pub(super) fn cpu(&self) -> Option<Duration> {
        self.process.cpu()
    }
}

/// The first of `names` on the PATH.
pub(super) fn on_path(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let all = std::env::split_paths(&path).flat_map(|directory| names.iter().map(move |name| directory.join(name)));
    all.into_iter().find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a keeper of `program`, does `end` to it, and wants the program gone with it.
    fn ends_with_its_keeper(program: &[&str], said: Stdio, end: impl FnOnce(&mut Child)) {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER]).args(program).stdin(Stdio::piped()).stdout(said).stderr(Stdio::null());
        let mut keeper = command.spawn().expect("sh");
        let children = format!("/proc/{0}/task/{0}/children", keeper.id());
        let program = (0..500).find_map(|_| {
            thread::sleep(TICK);
            fs::read_to_string(&children).ok().and_then(|list| list.trim().parse::<u32>().ok())
        });
        let program = program.expect("the keeper lives, and runs its program");
        end(&mut keeper);
        drop(keeper.stdin.take());
        keeper.wait().expect("it can be awaited");
        assert!(!Path::new(&format!("/proc/{program}")).exists(), "{program} is still there");
    }

    fn signal(keeper: &Child, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &keeper.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    #[test]
    fn a_keeper_that_nobody_listens_to_any_more_ends_its_program() {
        let (nobody, said) = std::io::pipe().expect("a pipe");
        drop(nobody);
        ends_with_its_keeper(&["sleep", "60"], said.into(), |_| ());
    }

    #[test]
    fn a_keeper_ends_its_program_when_a_terminal_interrupts_both_of_us() {
        for name in ["INT", "HUP", "TERM"] {
            ends_with_its_keeper(&["sleep", "60"], Stdio::null(), |keeper| signal(keeper, name));
        }
    }

    #[test]
    fn a_keeper_ends_a_program_that_does_not_obey_however_often_it_is_interrupted() {
        let stubborn = ["sh", "-c", "trap '' TERM; exec sleep 60"];
        ends_with_its_keeper(&stubborn, Stdio::null(), |keeper| {
            thread::sleep(Duration::from_millis(200));
            drop(keeper.stdin.take());
            for _ in 0..3 {
                thread::sleep(Duration::from_millis(200));
                signal(keeper, "INT");
            }
        });
    }
}
