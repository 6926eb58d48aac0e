//! What the kernel says about a process.

use std::fs;

use anyhow::{Context, Result};

/// What a process has at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sample {
    /// Resident memory.
    pub(crate) rss_kib: u64,
    /// Open file descriptors.
    pub(crate) fds: u64,
    /// Threads.
    pub(crate) threads: u64,
}

impl Sample {
    /// Looks at `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let number = |name| number_of(&text, name).with_context(|| format!("{path}: no {name}"));
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).context("/proc/PID/fd")?.count() as u64;
        Ok(Self { rss_kib: number("VmRSS")?, fds, threads: number("Threads")? })
    }
}

/// The number behind `name:` in `/proc/PID/status`.
fn number_of(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "Name:\tx\nVmRSS:\t    4096 kB\nThreads:\t7\n";
        assert_eq!(number_of(text, "VmRSS"), Some(4096));
        assert_eq!(number_of(text, "Threads"), Some(7));
        assert_eq!(number_of(text, "Thread"), None);
    }

    #[test]
    fn this_process_has_memory_and_a_descriptor_more_when_it_opens_one() {
        let before = Sample::of(std::process::id()).unwrap();
        assert!(before.rss_kib > 0 && before.threads > 0);
        // Other tests of this process open files too: many more than they.
        let files: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        assert!(Sample::of(std::process::id()).unwrap().fds >= before.fds + 90);
        drop(files);
    }
}
