//! How many system calls a subject makes, counted by strace: in a window of its own, for strace slows down what it looks at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::now;
use crate::process::Process;
use crate::procfs;
use crate::report::Key;
use crate::subject::{OUTER_CPU, SUBJECT_PORT, Setup};
use crate::window::{LOAD_PATIENCE, WORKERS, fields};

/// Calls outstanding on the one connection.
const DEPTH: &str = "8";
/// Length of the window.
const SECONDS: &str = "1";
/// Time for strace to attach.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two looks whether it has.
const TICK: Duration = Duration::from_millis(10);

/// Whether strace is here.
pub(crate) fn can_be_counted() -> bool {
    let version = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// System calls of all threads of the subject and its children, for each MiB of payload; calls are 1 MiB each.
///
/// # Errors
/// What could not be started, or what failed.
pub(crate) fn for_a_mib(setup: &Setup, Key { tls, work, subject }: Key) -> Result<f64> {
    let mut server = setup.start_server(subject, tls, work.delay_us())?;
    let process = setup.start_subject(subject, tls, WORKERS)?.context("a subject without a process")?;
    let connect = format!("127.0.0.1:{SUBJECT_PORT}");
    let trace = Trace::begin(setup, &process)?;
    let name = work.name();
    let args = ["load", "--connect", &connect, "--work", &name, "--depth", DEPTH, "--seconds", SECONDS];
    let mut load = setup.start_load(&args)?;
    let (mut before, mut after) = (None, None);
    let line = loop {
        match load.lines.recv_timeout(LOAD_PATIENCE).with_context(|| load.log())? {
            line if line == "mark=begin" => before = Some(trace.seen()?),
            line if line == "mark=end" => after = Some(trace.seen()?),
            line => break line,
        }
    };
    if !load.wait(LOAD_PATIENCE)? {
        bail!("the load failed\n{}", load.log());
    }
    drop((trace, process));
    server.terminate()?;
    let fields = fields(&line);
    let bytes: f64 = fields.get("bytes").and_then(|text| text.parse().ok()).with_context(|| line.clone())?;
    let calls = before.zip(after).map(|(before, after)| after - before).context("a load without a window")?;
    if calls == 0 {
        bail!("strace saw no system call");
    }
    Ok(calls as f64 / (bytes / f64::from(1 << 20)))
}

/// strace at its work.
struct Trace {
    /// Ends with this.
    _strace: Process,
    file: PathBuf,
}

impl Trace {
    /// Attaches to all threads of `process` and its children; what they start later is followed.
    fn begin(setup: &Setup, process: &Process) -> Result<Self> {
        let file = setup.directory.file("strace");
        let mut args = vec!["-f".to_string(), "-o".to_string(), file.display().to_string()];
        let all = procfs::tree(process.pid());
        all.iter().for_each(|pid| args.extend(["-p".to_string(), pid.to_string()]));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let log = setup.directory.file("strace.log");
        let strace = Process::start("strace", OUTER_CPU, Path::new("strace"), &args, log)?;
        let deadline = now() + PATIENCE;
        while !all.iter().all(|pid| procfs::is_traced(*pid)) {
            if now() >= deadline {
                bail!("strace does not attach\n{}", strace.log());
            }
            thread::sleep(TICK);
        }
        Ok(Self { _strace: strace, file })
    }

    /// The calls so far.
    fn seen(&self) -> Result<usize> {
        let text = fs::read_to_string(&self.file).with_context(|| self.file.display().to_string())?;
        Ok(count(&text))
    }
}

/// The calls in the lines of strace: one that another thread interrupted has two lines.
fn count(text: &str) -> usize {
    text.lines().filter(|line| line.contains('(') && !line.contains("resumed>")).count()
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn a_call_in_two_lines_is_one_and_what_is_no_call_is_none() {
        let text = "7 read(3, <unfinished ...>\n8 write(4, \"x\", 1) = 1\n7 <... read resumed>\"y\", 9) = 1\n7 +++ exited with 0 +++\n";
        assert_eq!(count(text), 2);
    }
}
