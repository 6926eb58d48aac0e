//! What a tunnel has given up when it begins to serve, and what it can do all the same.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::bytes::{call, reply};
use crate::support::peer::PeerListener;
use crate::support::pki::Pki;
use crate::support::process::{Process, have, scratch};
use crate::support::sealane::{DRIVERS, Sealane, binary, command, server_command};
use crate::support::{is_root, not_run};

/// What `--sandbox-probe` printed: each act with what came of it.
fn probe(command: &mut Command) -> Vec<(String, String)> {
    let output = command.arg("--sandbox-probe").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let acts = text.lines().map(|line| line.rsplit_once(": ").unwrap()).map(|(act, what)| (act.into(), what.into()));
    let acts: Vec<(String, String)> = acts.collect();
    assert!(acts.contains(&("the end".into(), "done".into())), "{text}{}", String::from_utf8_lossy(&output.stderr));
    acts
}

const BY_CALL: [&str; 21] = [
    "call: open for reading",
    "call: open for writing",
    "call: connect",
    "call: bind",
    "call: listen",
    "call: connect by sendto",
    "call: connect by sendmsg",
    "call: connect by sendmmsg",
    "call: packet socket",
    "call: MPTCP socket",
    "call: SCTP socket",
    "call: sequenced socket",
    "call: protocol on top of TCP",
    "call: UNIX socket",
    "call: pair of datagram sockets",
    "call: have signals sent",
    "call: start a program",
    "call: execve",
    "call: ptrace",
    "call: signal another process",
    "call: unshare",
];
/// A ring that somebody would make who got hold of the process before its workers were there. Landlock has no say in
/// listening, nor in protocols that are none of its; the next two are the answer to that.
const BY_NEW_RING: [&str; 4] =
    ["new ring: open for reading", "new ring: open for writing", "new ring: connect", "new ring: bind"];
const BY_WORKERS_RING: [&str; 6] = [
    "worker's ring: open for reading",
    "worker's ring: open for writing",
    "worker's ring: connect",
    "worker's ring: bind",
    "worker's ring: listen",
    "worker's ring: MPTCP socket",
];
const NEW_RING_LATER: &str = "later: make a ring";

#[test]
fn what_is_forbidden_is_refused_by_call_and_by_ring_and_what_is_needed_is_not() {
    const TEST: &str = "sandbox::what_is_forbidden_is_refused_by_call_and_by_ring_and_what_is_needed_is_not";
    if !is_root() {
        return not_run(TEST, "needs root: some of the acts are root's");
    }
    let pki = Pki::get();
    let files = [&pki.server.cert, &pki.server.key].map(|file| format!("read {}", file.display()));
    let ours = ["connect to --connect's port", files[0].as_str(), files[1].as_str()];
    for options in [&["--sandbox", "off"][..], &["--sandbox", "on"], &[], &["--sandbox", "on", "--user", "nobody"]] {
        let acts = probe(&mut server_command("auto", 9, options));
        let came_of = |act: &str| {
            let found = acts.iter().find(|(name, _)| name == act);
            found.unwrap_or_else(|| panic!("{options:?}: '{act}' was not tried: {acts:?}")).1.as_str()
        };
        let is_off = options.contains(&"off");
        for act in BY_CALL.iter().chain(&BY_NEW_RING).chain([&NEW_RING_LATER]) {
            assert_eq!(came_of(act) == "done", is_off, "{options:?}: {act}: {}", came_of(act));
        }
        for act in BY_CALL.iter().chain(&BY_NEW_RING).chain(&BY_WORKERS_RING).chain([&NEW_RING_LATER]) {
            let refusal = came_of(act);
            let (landlock, seccomp) = ("Permission denied (os error 13)", "Function not implemented (os error 38)");
            assert!(refusal == "done" || refusal == landlock || refusal == seccomp, "{options:?}: {act}: {refusal}");
        }
        // The rules of a worker's ring are the driver's, and hold in any case.
        assert!(BY_WORKERS_RING.iter().all(|act| came_of(act) != "done"), "{options:?}: {acts:?}");
        if !options.contains(&"--user") {
            assert!(ours.iter().all(|act| came_of(act) == "done"), "{options:?}: {acts:?}");
        }
    }
}

#[test]
fn local_sockets_are_there_where_names_or_interfaces_are_looked_up_and_nowhere_else() {
    for (host, has_local, has_names) in [
        ("127.0.0.1", false, false),
        // An address, whose interface has a name: for that nothing need be read.
        ("[fe80::1%lo]", true, false),
        ("localhost", true, true),
    ] {
        let server = server_command("auto", 9, &["--sandbox", "on"]);
        let mut args: Vec<_> = server.get_args().map(ToOwned::to_owned).collect();
        *args.iter_mut().find(|arg| *arg == "127.0.0.1:9").unwrap() = format!("{host}:9").into();
        let acts = probe(Command::new(server.get_program()).args(args));
        let is_done = |act: &str| acts.contains(&(act.into(), "done".into()));
        assert!(is_done("resolve fe80::1%lo"), "{host}: {acts:?}");
        assert_eq!(is_done("resolve localhost"), has_names, "{host}: {acts:?}");
        assert_eq!(is_done("call: UNIX socket"), has_local, "{host}: {acts:?}");
        assert!(!is_done("call: pair of datagram sockets") && !is_done("call: open for reading"), "{host}: {acts:?}");
    }
}

/// The value behind `key:` in a file of /proc, with single spaces.
fn field(file: &Path, key: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// CAP_IPC_LOCK, where this process has it to give.
fn ipc_lock() -> u64 {
    u64::from_str_radix(&field(Path::new("/proc/self/status"), "CapPrm"), 16).unwrap() & (1 << 14)
}

#[test]
fn every_thread_has_given_up_what_the_process_does_not_need() {
    const TEST: &str = "sandbox::every_thread_has_given_up_what_the_process_does_not_need";
    if !is_root() {
        return not_run(TEST, "needs root");
    }
    for driver in DRIVERS {
        for (options, user, groups, capabilities) in [
            (&["--user", "nobody"][..], "65534", "65534", ipc_lock()),
            (&["--user", "3999999998", "--group", "4711"], "3999999998", "4711", ipc_lock()),
            (&["--user", "nobody", "--source-port", "privileged"], "65534", "65534", ipc_lock() | 1 << 10),
            (&[], "0", "", ipc_lock()),
        ] {
            let listener = PeerListener::bind(&rustls::version::TLS13);
            let sealane = Sealane::start(driver, listener.port(), options);
            // Names are looked up, and so threads started, for a connection.
            let mut client = sealane.connect_and_say(&call(1, b"x"));
            let mut peer = listener.accept_talkative();
            assert_eq!(peer.read(45), call(1, b"x"));
            peer.send(&reply(1, b""));
            client.read_exact(&mut vec![0; reply(1, b"").len()]).unwrap();
            let tasks = std::fs::read_dir(format!("/proc/{}/task", sealane.process.pid())).unwrap();
            let tasks: Vec<PathBuf> = tasks.map(|task| task.unwrap().path().join("status")).collect();
            assert!(tasks.len() >= 3, "main, log, worker: {tasks:?}");
            for task in &tasks {
                let name = format!("{driver} {options:?} {}", field(task, "Name"));
                assert_eq!(field(task, "Uid"), [user; 4].join(" "), "{name}");
                if user != "0" {
                    assert_eq!(field(task, "Groups"), groups, "{name}");
                    assert_eq!(field(task, "Gid"), [groups; 4].join(" "), "{name}");
                }
                for set in ["CapPrm", "CapEff"] {
                    assert_eq!(u64::from_str_radix(&field(task, set), 16).unwrap(), capabilities, "{name} {set}");
                }
                for set in ["CapInh", "CapBnd", "CapAmb"] {
                    assert_eq!(u64::from_str_radix(&field(task, set), 16).unwrap(), 0, "{name} {set}");
                }
                assert_eq!(field(task, "NoNewPrivs"), "1", "{name}");
                assert_eq!(field(task, "Seccomp"), "2", "{name}");
                assert_eq!(field(task, "Seccomp_filters"), "2", "{name}: the one of the start, the one without rings");
            }
            let limits = std::fs::read_to_string(format!("/proc/{}/limits", sealane.process.pid())).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
            sealane.process.signal("TERM");
            sealane.wait_for("stopped by SIGTERM");
        }
    }
}

#[test]
fn auto_says_what_the_host_does_not_offer_and_on_does_not_start_without() {
    const TEST: &str = "sandbox::auto_says_what_the_host_does_not_offer_and_on_does_not_start_without";
    if !have("strace") {
        return not_run(TEST, "strace is not installed");
    }
    let on_host_without = |call: &str, error: &str, sandbox: &str| {
        let tunnel = command("auto", 9, &["--sandbox", sandbox]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:error={error}"), "setpriv", "--pdeathsig", "KILL", "--"]);
        strace.arg(tunnel.get_program()).args(tunnel.get_args()).stdin(Stdio::null()).env_remove("RUST_LOG");
        Process::start(&mut strace)
    };
    for (call, error, why) in [
        ("landlock_create_ruleset", "ENOSYS", "Landlock: not in this kernel (Linux 5.13)"),
        ("landlock_create_ruleset", "EOPNOTSUPP", "Landlock: switched off in this kernel"),
        ("seccomp", "EINVAL", "seccomp: "),
        // Nor what a filter around this process refuses, a container's. The first capset is setpriv's.
        ("prlimit64", "EPERM", "setrlimit(RLIMIT_CORE): Operation not permitted"),
        ("capset", "EPERM:when=2+", "capset: "),
    ] {
        if call == "capset" && !is_root() {
            continue;
        }
        let auto = on_host_without(call, error, "auto");
        auto.wait_for("listening on");
        assert_eq!(auto.count(&format!("this host does not offer all of it: {why}")), 1, "{}", auto.output());
        let mut on = on_host_without(call, error, "on");
        assert_eq!(on.wait().code(), Some(1));
        on.wait_for(&format!("giving up privileges (--sandbox): {why}"));
    }
    // Who wants to be somebody else does not go on without what belongs to it.
    if is_root() {
        let tunnel = command("auto", 9, &["--user", "nobody"]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=prlimit64", "-e", "inject=prlimit64:error=EPERM"]);
        strace.arg(tunnel.get_program()).args(tunnel.get_args()).stdin(Stdio::null()).env_remove("RUST_LOG");
        assert_eq!(Process::start(&mut strace).wait().code(), Some(1));
    }
    let sealane = Sealane::start("auto", 9, &["--sandbox", "on"]);
    sealane.wait_for("sandbox: Landlock ABI ");
    let sealane = Sealane::start("auto", 9, &["--sandbox", "off"]);
    sealane.wait_for("no sandbox (--sandbox off)");
}

/// A library that makes io_uring_setup refuse the flags in SEALANE_TEST_REFUSED, as older kernels do.
const OLDER_KERNEL: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
long syscall(long number, ...) {
    va_list list;
    long a[6];
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    /* The third word of struct io_uring_params. */
    if (number == SYS_io_uring_setup && ((unsigned *)a[1])[2] & strtoul(getenv("SEALANE_TEST_REFUSED"), 0, 0)) {
        errno = EINVAL;
        return -1;
    }
    long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
"#;

#[test]
fn rings_have_rules_on_older_kernels_and_where_there_are_none_it_is_said() {
    const TEST: &str = "sandbox::rings_have_rules_on_older_kernels_and_where_there_are_none_it_is_said";
    if !have("cc") {
        return not_run(TEST, "there is no C compiler");
    }
    let dir = scratch("older-kernel");
    std::fs::write(dir.join("older.c"), OLDER_KERNEL).unwrap();
    let library = dir.join("older.so");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(dir.join("older.c")).status();
    assert!(compiled.unwrap().success());
    // IORING_SETUP_COOP_TASKRUN came with Linux 5.19, IORING_SETUP_R_DISABLED with 5.10.
    let (before_5_19, before_5_10) = ("0x100", "0x140");
    let older = |refused: &str, sandbox: &str| {
        let mut tunnel = command("uring", 9, &["--sandbox", sandbox]);
        tunnel.env("LD_PRELOAD", &library).env("SEALANE_TEST_REFUSED", refused);
        tunnel
    };
    let listens = |refused: &str, sandbox: &str| {
        let sealane = Sealane::from_command(&mut older(refused, sandbox));
        sealane.process.count("WARN sandbox: the kernel takes no rules for rings (Linux 5.10)")
    };
    for sandbox in ["on", "auto", "off"] {
        assert_eq!(listens(before_5_19, sandbox), 0, "{sandbox}");
    }
    assert_eq!(listens(before_5_10, "auto"), 1);
    assert_eq!(listens(before_5_10, "off"), 0, "nobody has asked");
    let mut on = Process::start(&mut older(before_5_10, "on"));
    assert_eq!(on.wait().code(), Some(1));
    on.wait_for("--sandbox on: the kernel takes no rules for rings (Linux 5.10)");
    for (refused, are_there) in [(before_5_19, true), (before_5_10, false)] {
        let acts = probe(&mut older(refused, "off"));
        let is_done = |act: &str| acts.contains(&(act.to_string(), "done".into()));
        assert!(BY_WORKERS_RING.iter().all(|act| is_done(act) != are_there), "{refused}: {acts:?}");
    }
}

#[test]
fn an_account_that_cannot_be_had_is_named_and_nothing_starts() {
    const TEST: &str = "sandbox::an_account_that_cannot_be_had_is_named_and_nothing_starts";
    if !is_root() {
        return not_run(TEST, "needs root");
    }
    let fails = |mut command: Command, reason: &str| {
        let mut process = Process::start(&mut command);
        assert_eq!(process.wait().code(), Some(1), "{reason}");
        process.wait_for(reason);
        assert_eq!(process.count("listening on"), 0);
    };
    fails(command("auto", 9, &["--user", "no-such-user"]), "--user: there is no user 'no-such-user' on this host");
    fails(command("auto", 9, &["--user", "nobody", "--group", "no-such"]), "there is no group 'no-such' on this host");
    fails(command("auto", 9, &["--user", "root"]), "--user: root is what is to be given up");
    fails(
        command("auto", 9, &["--user", "nobody", "--group", "root"]),
        "--user: the group root is what is to be given up",
    );
    let none = "--user: 4294967295 is no user: it asks to leave the user as it is";
    fails(command("auto", 9, &["--user", "4294967295", "--group", "4711"]), none);
    // Somebody else than root cannot become anybody.
    let dir = for_everybody("user");
    let other = as_user(&dir, &["--clear-groups"], &["--user", "nobody", "--sandbox", "off"]);
    fails(other, "giving up privileges (--user, --sandbox): setgroups: Operation not permitted");
    std::fs::remove_dir_all(dir).unwrap();
}

/// The program in a directory that everybody may look into.
fn for_everybody(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("sealane-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(binary(), dir.join("sealane")).unwrap();
    std::fs::set_permissions(dir.join("sealane"), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The program of `dir` started by user 4711, with the groups that `groups` says.
fn as_user(dir: &Path, groups: &[&str], args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "4711", "--regid", "4711"]).args(groups).arg(dir.join("sealane"));
    command.args(["client", "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:9", "--insecure-no-verify"]);
    command.args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

#[test]
fn a_process_that_is_that_user_already_keeps_its_groups_and_says_so() {
    const TEST: &str = "sandbox::a_process_that_is_that_user_already_keeps_its_groups_and_says_so";
    if !is_root() || !have("setpriv") {
        return not_run(TEST, "needs root and setpriv");
    }
    let dir = for_everybody("groups");
    let args = ["--user", "4711", "--group", "4711"];
    let sealane = Sealane::from_command(&mut as_user(&dir, &["--groups", "4712,4713"], &args));
    sealane.wait_for("runs as 4711 (4711:4711), with the groups that it had and may not change");
    let status = PathBuf::from(format!("/proc/{}/status", sealane.process.pid()));
    assert_eq!(field(&status, "Groups"), "4712 4713");
    drop(sealane);
    let sealane = Sealane::from_command(&mut as_user(&dir, &["--groups", "4711"], &args));
    sealane.wait_for("runs as 4711 (4711:4711)");
    assert_eq!(sealane.process.count("with the groups that it had"), 0);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn nobody_of_the_same_user_may_look_into_the_process() {
    const TEST: &str = "sandbox::nobody_of_the_same_user_may_look_into_the_process";
    if !is_root() || !have("setpriv") {
        return not_run(TEST, "needs root and setpriv");
    }
    let dir = for_everybody("dumpable");
    // Files in /proc of a process that is not dumpable are root's (proc(5)).
    for (sandbox, owner) in [("off", 4711), ("auto", 0), ("on", 0)] {
        let sealane = Sealane::from_command(&mut as_user(&dir, &["--clear-groups"], &["--sandbox", sandbox]));
        let memory = std::fs::metadata(format!("/proc/{}/mem", sealane.process.pid())).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&memory), owner, "{sandbox}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

/// A mapping of a process: its addresses, its name, and what smaps says of it.
struct Mapping {
    addresses: std::ops::Range<u64>,
    name: String,
    locked_kib: u64,
    flags: Vec<String>,
}

fn mappings(pid: u32) -> Vec<Mapping> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let (first, rest) = line.split_once(' ').unwrap();
        match first.strip_suffix(':') {
            None => {
                let (start, end) = first.split_once('-').unwrap();
                let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
                let name = rest.split_whitespace().nth(4).unwrap_or_default().to_string();
                all.push(Mapping { addresses: start..end, name, locked_kib: 0, flags: Vec::new() });
            }
            Some("Locked") => {
                all.last_mut().unwrap().locked_kib = rest.split_whitespace().next().unwrap().parse().unwrap();
            }
            Some("VmFlags") => all.last_mut().unwrap().flags = rest.split_whitespace().map(Into::into).collect(),
            Some(_) => {}
        }
    }
    all
}

/// The mappings of a process in which `bytes` stand.
fn mappings_with<'m>(pid: u32, mappings: &'m [Mapping], bytes: &[u8]) -> Vec<&'m Mapping> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let has = |mapping: &&Mapping| {
        let mut content = vec![0; (mapping.addresses.end - mapping.addresses.start) as usize];
        let read = std::os::unix::fs::FileExt::read_exact_at(&memory, &mut content, mapping.addresses.start);
        read.is_ok() && content.windows(bytes.len()).any(|window| window == bytes)
    };
    let is_ours = |mapping: &&Mapping| {
        let kept = mapping.flags.iter().any(|flag| flag == "wr") && !mapping.name.starts_with("[v");
        // The pool of buffers, of which nearly all is untouched.
        kept && mapping.addresses.end - mapping.addresses.start < 32 << 20
    };
    mappings.iter().filter(is_ours).filter(has).collect()
}

#[test]
fn traffic_keys_lie_in_locked_pages_that_no_core_dump_has() {
    const TEST: &str = "sandbox::traffic_keys_lie_in_locked_pages_that_no_core_dump_has";
    if !is_root() {
        return not_run(TEST, "needs root: it reads another process's memory");
    }
    for driver in DRIVERS {
        let listener = PeerListener::bind(&rustls::version::TLS13);
        let sealane = Sealane::start(driver, listener.port(), &["--workers", "1"]);
        let mut clients: Vec<_> = (0..10).map(|_| sealane.connect()).collect();
        let mut peers: Vec<_> = clients.iter().map(|_| listener.accept()).collect();
        // Which peer is whose is not known: they say the same.
        clients.iter_mut().for_each(|client| client.write_all(&call(1, b"x")).unwrap());
        peers.iter_mut().for_each(|peer| assert_eq!(peer.read(45), call(1, b"x")));
        let pid = sealane.process.pid();
        let mappings = mappings(pid);
        for key in peers.iter().flat_map(|peer| &peer.keys) {
            // What calls have left on stacks is overwritten by later calls, but not by a known one.
            let found = mappings_with(pid, &mappings, key);
            let locked: Vec<_> = found.iter().filter(|mapping| mapping.locked_kib > 0).collect();
            assert_eq!(locked.len(), 1, "{driver}: a key is in one place");
            for flag in ["lo", "dd"] {
                assert!(locked[0].flags.iter().any(|own| own == flag), "{driver}: {flag}: {:?}", locked[0].flags);
            }
            assert!(!found.iter().any(|mapping| mapping.name == "[heap]"), "{driver}: a key is on the heap");
        }
        // Twenty keys, six in a page.
        assert_eq!(mappings.iter().map(|mapping| mapping.locked_kib).sum::<u64>(), 16, "{driver}");
        assert_eq!(sealane.process.status_kib("VmLck"), 16, "{driver}");
    }
}

#[test]
fn where_no_more_can_be_locked_it_is_said_once_and_the_tunnel_goes_on() {
    const TEST: &str = "sandbox::where_no_more_can_be_locked_it_is_said_once_and_the_tunnel_goes_on";
    if !is_root() || !have("prlimit") || !have("setpriv") {
        return not_run(TEST, "needs root, prlimit and setpriv");
    }
    // Not with io_uring, whose rings count, too.
    let listener = PeerListener::bind(&rustls::version::TLS13);
    let tunnel = command("epoll", listener.port(), &[]);
    let mut limited = Command::new("prlimit");
    limited.args(["--memlock=4096:4096", "setpriv", "--bounding-set", "-ipc_lock"]);
    limited.arg(tunnel.get_program()).args(tunnel.get_args()).env_remove("RUST_LOG");
    let sealane = Sealane::from_command(limited.stdin(Stdio::null()));
    let mut clients: Vec<_> = (0..10).map(|_| sealane.connect()).collect();
    let mut peers: Vec<_> = clients.iter().map(|_| listener.accept()).collect();
    // Which peer is whose is not known: they say the same.
    clients.iter_mut().for_each(|client| client.write_all(&call(1, b"x")).unwrap());
    peers.iter_mut().for_each(|peer| assert_eq!(peer.read(45), call(1, b"x")));
    assert_eq!(sealane.process.count("mlock: "), 1, "{}", sealane.process.output());
    assert_eq!(sealane.process.status_kib("VmLck"), 4);
}
