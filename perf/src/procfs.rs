//! What the kernel says about processes and about the whole machine.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};

/// What one thread, or all threads of a process, used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Usage {
    /// Time on a processor, user and system.
    pub(crate) cpu_ns: u64,
    /// Times that a thread went to sleep of its own accord.
    pub(crate) voluntary_switches: u64,
}

/// The first field of `/proc/PID/task/TID/schedstat`: nanoseconds on a processor.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// The number behind `name:` in `/proc/PID/status`.
fn parse_status(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// The ticks that a process took, with its threads that have ended, and with its children that have been waited for if that is
/// asked for; from `/proc/PID/stat`.
fn parse_process_ticks(text: &str, with_children: bool) -> Option<u64> {
    // The name, which may hold anything, is in parentheses; the state is the third field of proc_pid_stat(5).
    let fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(14 - 3);
    let wanted = if with_children { 4 } else { 2 };
    let times: Vec<u64> = fields.take(wanted).map_while(|field| field.parse().ok()).collect();
    (times.len() == wanted).then(|| times.iter().sum())
}

/// The ticks of all processors that were not idle or waiting, from `/proc/stat`.
fn parse_busy_ticks(text: &str) -> Option<u64> {
    let mut fields = text.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().map(str::parse);
    let mut next = || fields.next()?.ok();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal]: [u64; 8] =
        [next()?, next()?, next()?, next()?, next()?, next()?, next()?, next()?];
    Some(user + nice + system + irq + softirq + steal)
}

/// Follows all threads of a process and of its children, those included that come and go meanwhile.
///
/// What threads did that came and went between two calls of [`Watch::look`] is known in ticks only: those count where they are
/// clearly more.
pub(crate) struct Watch {
    pid: u32,
    with_children: bool,
    tick_ns: u64,
    /// First and last, in ticks.
    ticks: (u64, u64),
    /// First and last usage seen of each thread; the first is zero when the thread came later.
    threads: BTreeMap<u32, (Usage, Usage)>,
}

impl Watch {
    /// Begins to count now.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) fn begin(pid: u32) -> Result<Self> {
        Self::begin_with(pid, true)
    }

    /// The same, without its children.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) fn begin_alone(pid: u32) -> Result<Self> {
        Self::begin_with(pid, false)
    }

    fn begin_with(pid: u32, with_children: bool) -> Result<Self> {
        let threads = threads(pid, with_children)?.into_iter().map(|(tid, usage)| (tid, (usage, usage))).collect();
        let (ticks, tick_ns) = (process_ticks(pid, with_children), 1_000_000_000 / ticks_per_second()?);
        Ok(Self { pid, with_children, tick_ns, ticks: (ticks, ticks), threads })
    }

    /// Takes note of what was used up to now.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn look(&mut self) -> Result<()> {
        for (tid, usage) in threads(self.pid, self.with_children)? {
            self.threads.entry(tid).or_default().1 = usage;
        }
        self.ticks.1 = process_ticks(self.pid, self.with_children);
        Ok(())
    }

    /// What was used from the beginning to the last look.
    pub(crate) fn usage(&self) -> Usage {
        let seen = self.threads.values().fold(Usage::default(), |sum, (first, last)| Usage {
            cpu_ns: sum.cpu_ns + last.cpu_ns.saturating_sub(first.cpu_ns),
            voluntary_switches: sum.voluntary_switches
                + last.voluntary_switches.saturating_sub(first.voluntary_switches),
        });
        let ticks = self.ticks.1.saturating_sub(self.ticks.0);
        let is_more = ticks.saturating_sub(TICKS_OF_DOUBT) * self.tick_ns > seen.cpu_ns;
        Usage { cpu_ns: if is_more { ticks * self.tick_ns } else { seen.cpu_ns }, ..seen }
    }
}

/// A process's time and its sum may differ by this, and mean the same.
const TICKS_OF_DOUBT: u64 = 3;

/// The process and its descendants.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<u32> = children
            .flat_map(|text| text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect();
        all.extend(children);
        next += 1;
    }
    all
}

/// Of those that are gone, their parent says it.
fn process_ticks(pid: u32, with_children: bool) -> u64 {
    let processes = if with_children { tree(pid) } else { vec![pid] };
    let of = |pid| parse_process_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, with_children);
    processes.into_iter().filter_map(of).sum()
}

fn threads(pid: u32, with_children: bool) -> Result<Vec<(u32, Usage)>> {
    let mut found = threads_of(pid)?;
    if !with_children {
        return Ok(found);
    }
    // A child may end between the two.
    tree(pid).iter().skip(1).for_each(|child| found.extend(threads_of(*child).unwrap_or_default()));
    Ok(found)
}

fn threads_of(pid: u32) -> Result<Vec<(u32, Usage)>> {
    let path = format!("/proc/{pid}/task");
    let mut found = Vec::new();
    for entry in fs::read_dir(&path).context(path)? {
        let Ok(entry) = entry else { continue };
        let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A thread may end between the listing and the reading.
        let read = |name| fs::read_to_string(entry.path().join(name)).ok();
        let cpu_ns = read("schedstat").and_then(|text| parse_schedstat(&text));
        let switches = read("status").and_then(|text| parse_status(&text, "voluntary_ctxt_switches"));
        if let (Some(cpu_ns), Some(voluntary_switches)) = (cpu_ns, switches) {
            found.push((tid, Usage { cpu_ns, voluntary_switches }));
        }
    }
    Ok(found)
}

/// Whether somebody traces every thread of the process.
pub(crate) fn is_traced(pid: u32) -> bool {
    let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().collect();
    let status = |task: &fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap_or_default();
    !tasks.is_empty() && tasks.iter().all(|task| parse_status(&status(task), "TracerPid").is_some_and(|pid| pid != 0))
}

/// Resident memory of a process and its children; what they share is counted for each.
///
/// # Errors
/// When there is no such process.
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    let of = |pid: u32| {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        parse_status(&text, "VmRSS").context(path)
    };
    let children: u64 = tree(pid).iter().skip(1).filter_map(|child| of(*child).ok()).sum();
    Ok(of(pid)? + children)
}

/// How long all processors together have been busy since the machine was started.
///
/// The kernel counts this in ticks: a process that runs only between two ticks is not seen.
///
/// # Errors
/// When `/proc/stat` is not as Linux has it.
pub(crate) fn busy_seconds(ticks_per_second: u64) -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let ticks = parse_busy_ticks(&text).context("/proc/stat: no line of all processors")?;
    Ok(ticks as f64 / ticks_per_second as f64)
}

/// The unit of `/proc/stat`.
///
/// # Errors
/// When `getconf` cannot be run.
pub(crate) fn ticks_per_second() -> Result<u64> {
    static KNOWN: OnceLock<u64> = OnceLock::new();
    if let Some(ticks) = KNOWN.get() {
        return Ok(*ticks);
    }
    let output = Command::new("getconf").arg("CLK_TCK").output().context("getconf")?;
    let ticks = String::from_utf8_lossy(&output.stdout).trim().parse().context("getconf CLK_TCK")?;
    Ok(*KNOWN.get_or_init(|| ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_begins_with_the_time_on_a_processor() {
        assert_eq!(parse_schedstat("79187 54772 2\n"), Some(79_187));
        assert_eq!(parse_schedstat(""), None);
        assert_eq!(parse_schedstat("x 1 2"), None);
    }

    #[test]
    fn status_fields_are_found_by_their_whole_name() {
        let text = "Name:\tx\nVmRSS:\t    4096 kB\nnonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t3\n";
        assert_eq!(parse_status(text, "VmRSS"), Some(4096));
        assert_eq!(parse_status(text, "voluntary_ctxt_switches"), Some(3));
        assert_eq!(parse_status(text, "VmHWM"), None);
    }

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let text = "cpu  10 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_busy_ticks(text), Some(10 + 20 + 30 + 6 + 7 + 8));
        assert_eq!(parse_busy_ticks("intr 1 2 3"), None);
    }

    #[test]
    fn a_process_has_its_own_time_and_that_of_its_dead_children() {
        let text = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3 4000 20 0 1 0 9 9\n";
        assert_eq!(parse_process_ticks(text, true), Some(4123));
        assert_eq!(parse_process_ticks(text, false), Some(120));
        assert_eq!(parse_process_ticks("7 (a) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3", true), None);
    }

    fn watch(ticks: u64) -> Watch {
        let usage = |cpu_ns| Usage { cpu_ns, voluntary_switches: 0 };
        let threads = [(1, (usage(100), usage(150))), (2, (usage(0), usage(30))), (3, (usage(5), usage(5)))];
        Watch {
            pid: 0,
            with_children: false,
            tick_ns: 10,
            ticks: (7, 7 + ticks),
            threads: threads.into_iter().collect(),
        }
    }

    #[test]
    fn a_thread_that_comes_later_counts_from_zero_and_one_that_goes_counts_to_its_end() {
        assert_eq!(watch(0).usage().cpu_ns, 80);
    }

    #[test]
    fn threads_that_nobody_has_seen_count_in_ticks() {
        assert_eq!(watch(11).usage().cpu_ns, 80);
        assert_eq!(watch(12).usage().cpu_ns, 120);
    }

    #[test]
    fn a_thread_that_came_and_went_is_in_the_time_of_its_process() {
        let mut watch = Watch::begin_alone(std::process::id()).unwrap();
        let busy = || {
            let began = crate::now();
            while crate::now() - began < std::time::Duration::from_millis(300) {
                std::hint::black_box(0);
            }
        };
        std::thread::spawn(busy).join().unwrap();
        watch.look().unwrap();
        assert!(watch.usage().cpu_ns > 100_000_000, "{:?}", watch.usage());
    }
}
