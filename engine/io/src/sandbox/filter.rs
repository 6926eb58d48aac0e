//! seccomp: the system calls that there are for this process. Any other one is not implemented (`ENOSYS`), never a kill:
//! libraries ask for calls that may be missing, and have another way.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter, apply_filter_all_threads,
};

use super::Policy;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that are allowed whatever their arguments. Files and TCP ports are Landlock's.
const ALLOWED: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    // Threads and signals of this process.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // Files: what a reload, name services and the loader of their modules do.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_faccessat,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets. The listener listens already.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Who and where we are.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getrandom,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Only ever restricts more.
    libc::SYS_seccomp,
];

/// What x86-64 has besides, and glibc uses there.
#[cfg(target_arch = "x86_64")]
const ALLOWED_BY_ARCHITECTURE: &[i64] = &[
    libc::SYS_access,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_BY_ARCHITECTURE: &[i64] = &[];

/// What removes a file; which, is Landlock's.
const REMOVAL: &[i64] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

/// `ioctl`: do calls wait, how much has come, how much has not been acknowledged, is it a terminal; which interface is it (of
/// an address with a scope).
#[allow(clippy::unnecessary_cast, reason = "they are int in musl, and long in glibc")]
const REQUESTS: [u64; 6] = [
    libc::FIONBIO as u64,
    libc::FIONREAD as u64,
    libc::SIOCGIFINDEX as u64,
    libc::SIOCGIFNAME as u64,
    libc::TCGETS as u64,
    libc::TIOCOUTQ as u64,
];

/// What a tunnel under way needs no more: every ring is there, and knows what it may be asked for.
const FORBIDDEN_LATER: &[i64] = &[libc::SYS_io_uring_register, libc::SYS_io_uring_setup, libc::SYS_seccomp];

fn condition(argument: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    // The kernel, too, looks at 32 bits of these arguments only.
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)?)
}

/// One rule for each value: any of them will do.
fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let rule = |value: &u64| Ok(SeccompRule::new(vec![condition(argument, SeccompCmpOp::Eq, *value)?])?);
    values.iter().map(rule).collect()
}

/// TCP and UDP; where names are looked up, what these, and interfaces, are looked up with; datagrams to the system log. Landlock judges TCP, but not what looks like it: MPTCP, SCTP and
/// SMC are protocols of the same families, SCTP also that of a sequenced socket that asks for none.
fn sockets(policy: &Policy) -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let kinds = [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)];
        for (kind, protocol) in kinds.into_iter().flat_map(|(kind, protocol)| [(kind, 0), (kind, protocol)]) {
            rules.push(SeccompRule::new(vec![
                condition(0, SeccompCmpOp::Eq, family as u64)?,
                condition(1, SeccompCmpOp::MaskedEq(SOCKET_KIND), kind as u64)?,
                condition(2, SeccompCmpOp::Eq, protocol as u64)?,
            ])?);
        }
    }
    for family in [libc::AF_NETLINK, libc::AF_UNIX].into_iter().filter(|_| policy.names) {
        rules.push(SeccompRule::new(vec![
            condition(0, SeccompCmpOp::Eq, family as u64)?,
            condition(2, SeccompCmpOp::Eq, 0)?,
        ])?);
    }
    if policy.system_log {
        // What starts programs for whoever asks, systemd or a container engine, is asked by streams.
        rules.push(SeccompRule::new(vec![
            condition(0, SeccompCmpOp::Eq, libc::AF_UNIX as u64)?,
            condition(1, SeccompCmpOp::MaskedEq(SOCKET_KIND), libc::SOCK_DGRAM as u64)?,
            condition(2, SeccompCmpOp::Eq, 0)?,
        ])?);
    }
    Ok(rules)
}

/// What the second argument of `socket` says besides its flags (`SOCK_TYPE_MASK` of linux/net.h).
const SOCKET_KIND: u64 = 0xf;

fn not_equal(argument: u8, value: libc::c_int) -> Result<SeccompRule, seccompiler::Error> {
    Ok(SeccompRule::new(vec![condition(argument, SeccompCmpOp::Ne, value as u64)?])?)
}

fn allowed(policy: &Policy) -> Result<Rules, seccompiler::Error> {
    let mut rules: Rules = ALLOWED.iter().chain(ALLOWED_BY_ARCHITECTURE).map(|call| (*call, Vec::new())).collect();
    if !policy.removed.is_empty() {
        rules.extend(REMOVAL.iter().map(|call| (*call, Vec::new())));
    }
    rules.insert(libc::SYS_socket, sockets(policy)?);
    // Not one whose other end could be anybody's, as that of datagrams can.
    let connected = condition(1, SeccompCmpOp::MaskedEq(SOCKET_KIND), libc::SOCK_STREAM as u64)?;
    rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(vec![connected])?]);
    // A protocol on top makes SMC of TCP.
    rules.insert(libc::SYS_setsockopt, vec![not_equal(1, libc::IPPROTO_TCP)?, not_equal(2, libc::TCP_ULP)?]);
    // A thread, no process. clone3 keeps its flags in memory, where no filter sees them: glibc falls back to clone.
    let thread = libc::CLONE_THREAD as u64;
    let is_thread = condition(0, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    // Signals to ourselves only: abort.
    rules.insert(libc::SYS_tgkill, one_of(0, &[u64::from(std::process::id())])?);
    // What the standard library asks descriptors for: not who gets signals, leases or notices of them.
    let requests = [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];
    rules.insert(libc::SYS_fcntl, one_of(1, &requests.map(|request| request as u64))?);
    rules.insert(libc::SYS_ioctl, one_of(1, &REQUESTS)?);
    let names = [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS, libc::PR_SET_VMA].map(|name| name as u64);
    rules.insert(libc::SYS_prctl, one_of(0, &names)?);
    // To ask, not to set: the third argument is where new limits are.
    let nothing = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![nothing])?]);
    // Data in the SYN would connect without a look at Landlock's ports.
    let without_fast_open = |argument| -> Result<_, seccompiler::Error> {
        let fast_open = SeccompCmpOp::MaskedEq(libc::MSG_FASTOPEN as u64);
        Ok(vec![SeccompRule::new(vec![condition(argument, fast_open, 0)?])?])
    };
    rules.insert(libc::SYS_sendmmsg, without_fast_open(3)?);
    rules.insert(libc::SYS_sendmsg, without_fast_open(2)?);
    rules.insert(libc::SYS_sendto, without_fast_open(3)?);
    Ok(rules)
}

fn program(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, seccompiler::Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, otherwise, matched, architecture)?.try_into()?)
}

const NOT_IMPLEMENTED: SeccompAction = SeccompAction::Errno(libc::ENOSYS as u32);

/// From now on this thread, and those that it starts, have the allowed calls only, and of those what
/// `policy` needs; returns how many these are.
pub(super) fn install(policy: &Policy) -> Result<usize, String> {
    let install = || {
        let rules = allowed(policy)?;
        let calls = rules.len();
        apply_filter(&program(rules, NOT_IMPLEMENTED, SeccompAction::Allow)?)?;
        Ok::<_, seccompiler::Error>(calls)
    };
    install().map_err(|error| error.to_string())
}

/// From now on no thread of this process makes a ring, and without `rings` none uses one.
///
/// # Errors
/// The kernel refuses the filter.
pub fn forbid_new_rings(rings: bool) -> io::Result<()> {
    let enter: &[i64] = if rings { &[] } else { &[libc::SYS_io_uring_enter] };
    let rules = FORBIDDEN_LATER.iter().chain(enter).map(|call| (*call, Vec::new())).collect();
    let install = || apply_filter_all_threads(&program(rules, SeccompAction::Allow, NOT_IMPLEMENTED)?);
    install().map_err(|error| io::Error::other(error.to_string()))
}
