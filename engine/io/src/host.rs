//! What the host allows and what it is told about us.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
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

#[cfg(test)]
mod tests {
    use super::*;

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
