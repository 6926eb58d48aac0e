//! A process that goes on in the background, and of which whoever has started it hears how that went.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::stat::fstat;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, getppid, setsid};

/// For the process that waits to end, once it has been told to.
const PARENT_TICKS_MAX: u32 = 1000;
const PARENT_TICK: Duration = Duration::from_millis(1);

/// Ends what the child says before it is ready.
const READY: u8 = 0;

/// A process in the background, for which the one that made it still waits.
#[derive(Debug)]
pub struct Detached {
    /// To the process that waits, where that is not standard error.
    says: Option<PipeWriter>,
    /// Who waits.
    parent: Pid,
}

/// Whether standard error is the journal's (`JOURNAL_STREAM`, systemd.exec(5)).
fn is_in_journal() -> bool {
    let Ok(there) = fstat(io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|name| name == format!("{}:{}", there.st_dev, there.st_ino))
}

/// Goes on as another process, in a session of its own, without standard input and output, nor standard error but for the
/// journal's. The one that has called this does not return from it: it passes on what the other one writes to standard error until that is [`Detached::ready`], and ends then, with
/// 0, or with it, with its status. To be called while there is only one thread.
///
/// # Errors
/// A step that failed, before there were two.
pub fn detach() -> io::Result<Detached> {
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    let is_in_journal = is_in_journal();
    let (said, says) = io::pipe()?;
    // SAFETY: there is only one thread, so the child may do what it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(says);
            let status = wait_for(child, said);
            // SAFETY: ends this process and touches nothing: what its buffers hold is the child's to write.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Child => {
            let parent = getppid();
            setsid()?;
            dup2_stdin(nothing.as_fd())?;
            dup2_stdout(nothing.as_fd())?;
            if is_in_journal {
                return Ok(Detached { says: Some(says), parent });
            }
            // When the other process has ended, nobody reads it any more.
            dup2_stderr(says.as_fd())?;
            Ok(Detached { says: None, parent })
        }
    }
}

impl Detached {
    /// Lets the process that made this one end well.
    pub fn ready(self) {
        // If it is gone, nobody waits.
        let _ = match self.says {
            Some(mut says) => says.write_all(&[READY]),
            None => io::stderr().write_all(&[READY]),
        };
        // A supervisor takes a process for its own when the one in between has ended.
        for _ in 0..PARENT_TICKS_MAX {
            if getppid() != self.parent {
                break;
            }
            sleep(PARENT_TICK);
        }
    }
}

/// Passes on what the child says; the status that this process ends with.
fn wait_for(child: Pid, mut said: PipeReader) -> i32 {
    const FAILURE: i32 = 1;
    let mut some = [0; 4096];
    loop {
        let text = match said.read(&mut some) {
            Ok(0) => break,
            Ok(count) => some.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let end = text.iter().position(|byte| *byte == READY);
        let _ = io::stderr().write_all(text.get(..end.unwrap_or(text.len())).unwrap_or_default());
        if end.is_some() {
            return 0;
        }
    }
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, status)) if status != 0 => status,
        _ => FAILURE,
    }
}
