//! What the host allows and what it is told about us.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// How many cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Tells the kernel that this process is part of how it writes dirty pages back (`PR_SET_IO_FLUSHER`, Linux 5.6), so
/// that our own page faults do not wait for the NFS write-back that waits for us.
///
/// # Errors
/// `EPERM` without CAP_SYS_RESOURCE, `EINVAL` before Linux 5.6.
pub fn set_io_flusher() -> io::Result<()> {
    const PR_SET_IO_FLUSHER: libc::c_int = 57; // linux/prctl.h
    // SAFETY: prctl with integer arguments only.
    let done = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has signals that ask for something do nothing, until somebody takes them over ([`crate::rt::requests`]).
pub fn ignore_requests() {
    for signal in [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
        // SAFETY: no handler is installed, and none was.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Whether a write of a page would not wait, or would fail at once.
pub fn takes_bytes(to: impl AsFd) -> bool {
    let mut wanted = libc::pollfd { fd: to.as_fd().as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: the kernel writes into one pollfd.
    unsafe { libc::poll(&raw mut wanted, 1, 0) > 0 }
}

/// Raises the soft limit of open files to the hard one and returns it: two descriptors a connection.
///
/// # Errors
/// What getrlimit or setrlimit says.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// The CPU time of this thread so far; zero where the kernel keeps none.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The CPU time of this process's threads whose names begin with `prefix`, by the scheduler's own account (proc(5),
/// schedstat).
///
/// # Errors
/// A kernel without the account, or no such thread.
pub fn threads_cpu(prefix: &str) -> io::Result<Duration> {
    let mut total = None;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // A thread that has ended meanwhile is none.
        if !fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(prefix)) {
            continue;
        }
        let account = fs::read_to_string(task.join("schedstat"))?;
        let nanoseconds = account.split_ascii_whitespace().next().and_then(|first| first.parse().ok());
        let used = nanoseconds.map(Duration::from_nanos).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        total = Some(total.unwrap_or(Duration::ZERO) + used);
    }
    total.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// How often a limit on this process's processor time has made it wait. Found while files can still be opened.
#[derive(Debug)]
pub struct Throttling {
    /// Of each group that this process is in: each may have a limit, or get one later.
    stats: Vec<File>,
}

impl Throttling {
    /// None where there are no such groups.
    pub fn find() -> Option<Self> {
        Self::find_in(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").ok()?)
    }

    /// `groups`: the lines of /proc/self/cgroup (cgroups(7)), of either version.
    fn find_in(root: &Path, groups: &str) -> Option<Self> {
        let of_line = |line: &str| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?);
            let root = match controllers {
                "" => root.to_path_buf(),
                _ if controllers.split(',').any(|name| name == "cpu") => root.join("cpu"),
                _ => return None,
            };
            let own = root.join(group.trim_start_matches('/'));
            let all = own.ancestors().take_while(|path| path.starts_with(&root));
            Some(all.filter_map(|path| File::open(path.join("cpu.stat")).ok()).collect::<Vec<_>>())
        };
        let stats: Vec<File> = groups.lines().filter_map(of_line).flatten().collect();
        (!stats.is_empty()).then_some(Self { stats })
    }

    /// The count so far; zero where the kernel does not say.
    pub fn count(&self) -> u64 {
        self.stats.iter().map(throttled).sum()
    }
}

fn throttled(stat: &File) -> u64 {
    let mut text = [0; 1024];
    let length = stat.read_at(&mut text, 0).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
    let line = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_on_processor_time_of_every_group_above_are_seen_in_either_version() {
        let root = std::env::temp_dir().join(format!("sealane-cgroup.{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("cpu.stat", "usage_usec 1\n");
        put("a/cpu.stat", "usage_usec 1\nnr_periods 9\nnr_throttled 7\nthrottled_usec 1\n");
        put("a/b/cpu.stat", "usage_usec 1\nnr_periods 9\nnr_throttled 2\nthrottled_usec 1\n");
        put("cpu/held/cpu.stat", "nr_periods 3\nnr_throttled 2\nthrottled_time 1\n");
        for (groups, count) in [
            ("0::/a/b\n", Some(9)),
            ("0::/a\n", Some(7)),
            ("0::/\n", Some(0)),
            ("4:memory:/a\n2:cpu,cpuacct:/held\n", Some(2)),
            ("2:cpuset:/held\n", None),
            ("nonsense", None),
        ] {
            let found = Throttling::find_in(&root, groups);
            assert_eq!(found.as_ref().map(Throttling::count), count, "{groups}");
        }
        // One that is limited later.
        let found = Throttling::find_in(&root, "0::/a/b\n").unwrap();
        put("a/b/cpu.stat", "nr_throttled 5\n");
        assert_eq!(found.count(), 12);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_time_of_a_busy_thread_is_counted_and_nobody_elses() {
        let (done, waiting) = std::sync::mpsc::channel::<()>();
        let spin = move || {
            let mut number = 1_u64;
            while threads_cpu("busy-").unwrap() < Duration::from_millis(20) {
                (0..10_000).for_each(|_| number = std::hint::black_box(number.wrapping_mul(3)));
            }
            // Stays until it was looked at.
            let _ = waiting.recv();
        };
        let busy = std::thread::Builder::new().name("busy-0".into()).spawn(spin).unwrap();
        while !threads_cpu("busy-").is_ok_and(|used| used >= Duration::from_millis(20)) {
            std::thread::yield_now();
        }
        assert_eq!(threads_cpu("nobody-").unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(done);
        busy.join().unwrap();
    }
}
