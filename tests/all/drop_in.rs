//! In stunnel's and efs-proxy's place: started as a mount helper starts these, and watched as its watchdog does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::far_ends::echo_server;
use crate::support::authority::Authority;
use crate::support::bytes::call;
use crate::support::openssl::SServer;
use crate::support::process::{SOON, eventually, eventually_within, free_port, now, scratch};
use crate::support::sealane::{Sealane, binary, expect_reset};
use crate::support::{is_root, not_run};

/// The program under another name.
pub fn called(name: &str) -> PathBuf {
    let link = scratch("names").join(name);
    symlink(binary(), &link).unwrap();
    link
}

/// A process that does not outlive its test.
struct Helped(Child);

impl Drop for Helped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Deref for Helped {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Helped {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

/// The same of one that is nobody's child.
pub struct Background(pub u32);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.0.to_string()]).stderr(Stdio::null()).status();
    }
}

/// As a mount helper starts it: a group of its own, standard error a pipe.
fn helped(name: &str, words: &[&str]) -> Helped {
    let mut command = Command::new(called(name));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    Helped(command.process_group(0).spawn().unwrap())
}

/// The state directory of a mount, and what is in it.
struct Mount {
    directory: PathBuf,
    port: u16,
}

impl Mount {
    fn new() -> Self {
        Self { directory: scratch("mount"), port: free_port() }
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// A file as amazon-efs-utils writes it.
    fn write(&self, foreground: &str, connect: u16, service: &str) -> String {
        let (port, pid) = (self.port, self.file("stunnel.pid"));
        let text = format!(
            "fips = no\nforeground = {foreground}\nsocket = l:SO_REUSEADDR=yes\nsocket = a:SO_BINDTODEVICE=lo\npid = {pid}\n[efs]\n\
             client = yes\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{connect}\nsslVersion = TLSv1.2\nrenegotiation = no\n\
             TIMEOUTbusy = 20\nTIMEOUTclose = 0\nTIMEOUTidle = 70\ndelay = yes\n{service}"
        );
        fs::write(self.file("conf"), text).unwrap();
        self.file("conf")
    }

    /// What a helper does before it mounts: connect and close, each 50 ms, until that works.
    fn probe(&self) {
        let started = now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(now() - started < Duration::from_secs(1), "not ready within a second");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.file("stunnel.pid")).ok()?;
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text:?}");
        text.trim().parse().ok()
    }

    /// A tunnel binds first and writes its file then, over a stale one, within a second: a probe may be sooner.
    fn has_the_pid_of(&self, tunnel: &Helped) {
        let is_its = || self.pid() == Some(tunnel.0.id());
        eventually_within(
            Duration::from_secs(1),
            "the pid file has the number of the process that was started",
            is_its,
        );
    }

    /// Whether what is said comes back.
    fn is_carried(&self) -> bool {
        let mut stream = self.connect();
        let mut back = [0; 14];
        stream.write_all(b"there and back").is_ok()
            && stream.read_exact(&mut back).is_ok()
            && &back == b"there and back"
    }
}

/// To the group, as helpers do.
fn signal_group(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), "--", &format!("-{pid}")]).status().unwrap().success());
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

fn end(child: &mut Child, limit: Duration) -> std::process::ExitStatus {
    let started = now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(now() - started < limit, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn said(mut child: Helped) -> (Option<i32>, String) {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().code(), text)
}

#[test]
fn a_mount_helper_finds_in_the_help_what_it_looks_for() {
    for name in ["stunnel", "stunnel4", "stunnel5"] {
        let out = Command::new(called(name)).arg("-help").output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(out.stdout.is_empty(), "all is said on standard error");
        let line =
            |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {text}"));
        assert!(line("foreground").contains("quiet"));
        for key in ["checkHost", "OCSPaia", "libwrap"] {
            line(key);
        }
    }
    for (words, what) in
        [(&["-version"][..], "sealane "), (&["-sockets"], "TCP_KEEPIDLE"), (&["-options"], "NO_TLSv1_2")]
    {
        let out = Command::new(called("stunnel")).args(words).output().unwrap();
        assert!(out.status.success() && String::from_utf8_lossy(&out.stderr).contains(what), "{words:?}: {out:?}");
    }
    for (name, words, what) in [
        ("stunnel", &["-nonsense"][..], "usage: stunnel [FILE]"),
        ("stunnel", &["-fd", "x"], "-fd x: "),
        ("stunnel", &["/no/such.conf"], "/no/such.conf: No such file"),
        ("efs-proxy", &[], "usage: efs-proxy FILE"),
        ("efs-proxy", &["/no/such.conf", "--tls"], "/no/such.conf: No such file"),
    ] {
        let (status, text) = said(helped(name, words));
        assert!(status == Some(1) && text.contains(what) && text.lines().count() == 1, "{words:?}: {status:?} {text}");
    }
}

/// What both dialects do for a helper and its watchdog.
fn serves_a_mount(name: &str, words: &[&str]) {
    let ca = Authority::new();
    let own = ca.server("own");
    let ca_file = ca.ca();
    let [own_cert, own_key] = [&own.cert, &own.key].map(|file| file.to_str().unwrap());
    let server = ["--cert", own_cert, "--key", own_key, "--client-ca", &ca_file];
    let server = Sealane::server("epoll", echo_server(), &server);
    let mount = Mount::new();
    let (certificate, key) = (mount.file("certificate.pem"), mount.file("key.pem"));
    let renew = |certified: &str| {
        let client = ca.issue(certified, "ca", "extendedKeyUsage=clientAuth");
        fs::copy(&client.key, &key).unwrap();
        // In place, as the watchdog does it.
        fs::write(&certificate, fs::read(&client.cert).unwrap()).unwrap();
    };
    renew("one");
    let conf = mount.write(
        "quiet",
        server.port,
        &format!("verify = 2\nCAfile = {ca_file}\ncert = {certificate}\nkey = {key}\ncheckHost = nfs.test\n"),
    );
    fs::write(mount.file("stunnel.pid"), "1\n").unwrap();
    let mut child = helped(name, &[&[conf.as_str()][..], words].concat());
    mount.probe();
    mount.has_the_pid_of(&child);
    let mode = fs::metadata(mount.file("stunnel.pid")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    // The mount is done: nobody reads standard error any more.
    drop(child.stderr.take());
    let ask = |stream: &mut TcpStream, text: &str| {
        writeln!(stream, "{text}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim().to_string()
    };
    let mut live = mount.connect();
    assert_eq!(ask(&mut live, "abc"), "abc");
    for certified in ["two", "three"] {
        renew(certified);
        signal_group(child.id(), "HUP");
        signal_group(child.id(), "USR2");
        let subject = format!("CN={certified}");
        eventually("the new certificate is shown", || {
            assert_eq!(ask(&mut mount.connect(), "hour"), "hour", "{name}: {certified}");
            server.process.output().contains(&subject)
        });
        assert_eq!(ask(&mut live, "live"), "live", "{name}: {certified}");
    }
    // A second one fails, and leaves the first one's pid file alone.
    let (status, text) = said(helped(name, &[&[conf.as_str()][..], words].concat()));
    let conflict = format!("127.0.0.1:{}: Address already in use", mount.port);
    assert!(status == Some(1) && text.contains(&conflict), "{status:?} {text}");
    assert_eq!(mount.pid(), Some(child.id()));
    assert!(child.try_wait().unwrap().is_none(), "it is alive");
    signal_group(child.id(), "TERM");
    assert!(end(&mut child, Duration::from_secs(1)).success());
    assert_eq!(mount.pid(), None, "the pid file has gone with it");
}

#[test]
fn as_stunnel_it_serves_a_mount() {
    serves_a_mount("stunnel", &[]);
}

#[test]
fn as_efs_proxy_it_serves_a_mount() {
    serves_a_mount("efs-proxy", &["--tls", "--no-direct-s3-read"]);
}

#[test]
fn a_server_that_is_another_or_not_there_ends_in_a_reset() {
    let (ca, other) = (Authority::named("one"), Authority::named("other"));
    let own = ca.server("own");
    let server = SServer::with_identity(&own, &["-rev"]);
    for (name, words) in [("stunnel", &[][..]), ("efs-proxy", &["--tls"])] {
        for service in [
            format!("verify = 2\nCAfile = {}\n", other.ca()),
            format!("verify = 2\nCAfile = {}\ncheckHost = other.test\n", ca.ca()),
        ] {
            let mount = Mount::new();
            let conf = mount.write("yes", server.port, &service);
            let mut child = helped(name, &[&[conf.as_str()][..], words].concat());
            mount.probe();
            let mut stream = mount.connect();
            stream.write_all(&call(1, b"x")).unwrap();
            expect_reset(&mut stream, Duration::from_secs(2));
            signal_group(child.id(), "TERM");
            end(&mut child, Duration::from_secs(1));
        }
    }
}

#[test]
fn without_tls_efs_proxy_carries_plain_text_and_needs_no_directory() {
    let mount = Mount::new();
    let conf = mount.write(
        "yes",
        echo_server(),
        "CAfile = /no/such.pem\nretry_nfs_mount_command_timeout_sec = 15\nregion = x\n",
    );
    let text = fs::read_to_string(&conf).unwrap().replace("/stunnel.pid", "/none/stunnel.pid");
    fs::write(&conf, text + "s3_unheard_of = 1\nlog_format = json").unwrap();
    let mut child = helped("efs-proxy", &[&conf, "--no-direct-s3-read", "--unheard-of", "of"]);
    mount.probe();
    assert!(mount.is_carried());
    signal_group(child.id(), "TERM");
    assert!(end(&mut child, Duration::from_secs(1)).success());
    let told = said(child).1;
    assert!(told.contains("no pid file"), "{told}");
    assert!(!told.contains(" INFO "), "only what is wrong would be copied for the user: {told}");
}

#[test]
fn what_a_file_of_efs_proxys_becomes_is_explained() {
    let mount = Mount::new();
    let conf = mount.write(
        "yes",
        2049,
        "verify = 2\nCAfile = ca.pem\ncert = c.pem\nkey = k.pem\ncheckHost = fs.test\nregion = x\n",
    );
    let explained = |words: &[&str]| {
        let out = Command::new(binary()).args(["efs-proxy", "--explain", &conf]).args(words).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let listen = format!("sealane client --listen 127.0.0.1:{} --connect 127.0.0.1:2049 ", mount.port);
    let with = explained(&["--tls"]);
    assert!(
        with.contains(&format!("{listen}--ca-file ca.pem --server-name fs.test --cert c.pem --key k.pem\n")),
        "{with}"
    );
    assert!(with.contains("TIMEOUTidle = 70\n    ignored with notice: efs-proxy does not obey it"), "{with}");
    let without = explained(&[]);
    assert!(without.contains(&format!("{listen}--no-tls\n")), "{without}");
    assert!(without.contains("CAfile = ca.pem\n    ignored with notice: not without --tls"), "{without}");
    let unverified = "verify = 0\ndebug = loud\ncheckHost = 10.0.0.1\ncheckHost = fs.test\ncheckHost = other.test\nOCSPaia = perhaps\n";
    let unverified = mount.write("yes", 2049, unverified);
    assert_eq!(unverified, conf);
    assert!(explained(&["--tls"]).contains(&format!("{listen}--sni fs.test --insecure-no-verify\n")));
}

#[test]
fn in_the_background_it_says_nothing_unless_it_fails() {
    let mount = Mount::new();
    let conf = mount.write("no", echo_server(), "verify = 0\n");
    // No TLS is spoken by the echo, so a client's service would not carry anything: what listens is enough.
    let out = Command::new(called("stunnel")).arg(&conf).output().unwrap();
    assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{out:?}");
    // The one that was started has ended: whoever reads the pid file now finds the other one, which listens.
    let pid = mount.pid().unwrap();
    let _ends = Background(pid);
    drop(mount.connect());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!(
        (fields[2], fields[3]),
        (pid.to_string().as_str(), pid.to_string().as_str()),
        "group and session: {stat}"
    );
    for descriptor in [0, 1] {
        assert_eq!(fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap(), Path::new("/dev/null"));
    }
    // Another one fails, and says why.
    let out = Command::new(called("stunnel")).arg(&conf).output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(1) && text.contains("Address already in use"), "{text}");
    assert_eq!(mount.pid(), Some(pid));
    signal(pid, "TERM");
    eventually("it has ended", || mount.pid().is_none());
    // It fails when there are two already: the one that was started says why.
    let text = fs::read_to_string(&conf).unwrap().replace("/stunnel.pid", "/none/stunnel.pid");
    fs::write(&conf, text).unwrap();
    let out = Command::new(called("stunnel")).arg(&conf).output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(1) && text.contains("the pid file") && text.lines().count() == 1, "{text}");
    TcpStream::connect(("127.0.0.1", mount.port)).unwrap_err();
}

#[test]
fn the_log_goes_where_the_file_says_and_is_opened_anew() {
    for sandbox in ["quiet", "yes"] {
        let mount = Mount::new();
        let log = mount.file("stunnel.log");
        let conf = mount.write(sandbox, echo_server(), "verify = 0\n");
        let text = fs::read_to_string(&conf).unwrap();
        fs::write(&conf, format!("debug = 7\noutput = {log}\n{text}")).unwrap();
        fs::write(&log, "what was there\n").unwrap();
        let mut child = helped("stunnel", &[&conf]);
        mount.probe();
        let read = |name: &str| fs::read_to_string(mount.file(name)).unwrap_or_default();
        eventually("it is written", || read("stunnel.log").contains("LOG5[main]: listening on "));
        let text = read("stunnel.log");
        assert!(text.starts_with("what was there\n"), "{text}");
        // As stunnel's: 2026.11.23 06:45:22 LOG5[main]: text
        let line = text.lines().find(|line| line.contains("listening on")).unwrap();
        let shape: String = line.chars().take(20).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000.00.00 00:00:00 ", "{line}");
        assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o644, "it was there");
        fs::rename(&log, mount.file("old.log")).unwrap();
        signal(child.id(), "USR1");
        eventually("it is opened anew", || {
            read("stunnel.log").contains("LOG5[main]: SIGUSR1: the log file is opened anew")
        });
        assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o640);
        let before = read("old.log");
        signal(child.id(), "USR2");
        eventually("connections are listed", || read("stunnel.log").contains("active connections: 0"));
        assert_eq!(read("old.log"), before);
        signal_group(child.id(), "TERM");
        assert!(end(&mut child, Duration::from_secs(1)).success());
        let is_on_stderr = said(child).1.contains("listening on");
        assert_eq!(is_on_stderr, sandbox == "yes");
    }
}

#[test]
fn live_connections_are_listed() {
    let mount = Mount::new();
    let echo = echo_server();
    let conf = mount.write("yes", echo, "");
    let mut child = helped("efs-proxy", &[&conf]);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    mount.probe();
    let mut stream = mount.connect();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    signal(child.id(), "USR2");
    signal_group(child.id(), "TERM");
    end(&mut child, Duration::from_secs(1));
    // At its default level only warnings are written.
    assert!(lines.all(|line| !line.unwrap().contains("active")));
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("debug = info\n{text}")).unwrap();
    let mut child = helped("efs-proxy", &[&conf]);
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    mount.probe();
    let mut stream = mount.connect();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let own = stream.local_addr().unwrap();
    signal(child.id(), "USR2");
    std::thread::sleep(Duration::from_millis(100));
    signal_group(child.id(), "TERM");
    end(&mut child, Duration::from_secs(1));
    let lines: Vec<_> = lines.map(Result::unwrap).collect();
    let wanted = format!("active peer={own} server=127.0.0.1:{echo}");
    assert!(lines.iter().any(|line| line.contains(&wanted)), "{wanted}: {lines:#?}");
}

#[test]
fn another_user_can_remove_its_pid_file() {
    if !is_root() {
        return not_run("drop_in::another_user_can_remove_its_pid_file", "it takes root");
    }
    let mount = Mount::new();
    let directory = std::env::temp_dir().join(format!("sealane-drop-in-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    let pid_file = directory.join("nfs.pid");
    let conf = mount.write("quiet", 1, "verify = 0\n");
    let text = fs::read_to_string(&conf).unwrap().replace(&mount.file("stunnel.pid"), pid_file.to_str().unwrap());
    fs::write(&conf, format!("setuid = nobody\nsetgid = nogroup\n{text}")).unwrap();
    let mut child = helped("stunnel", &[&conf]);
    mount.probe();
    eventually("it is there", || pid_file.exists());
    assert_ne!(fs::metadata(&pid_file).unwrap().uid(), 0);
    signal_group(child.id(), "TERM");
    assert!(end(&mut child, Duration::from_secs(1)).success());
    assert!(!pid_file.exists());
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_file_can_be_given_as_a_descriptor() {
    let mount = Mount::new();
    let conf = mount.write("quiet", 1, "verify = 0\n");
    let mut command = Command::new(called("stunnel"));
    command.args(["-fd", "0"]).stdin(File::open(conf).unwrap()).stderr(Stdio::piped()).process_group(0);
    let mut child = Helped(command.spawn().unwrap());
    mount.probe();
    mount.has_the_pid_of(&child);
    signal_group(child.id(), "TERM");
    assert!(end(&mut child, Duration::from_secs(1)).success());
}

#[test]
fn the_address_is_bound_before_the_pid_file_is_written_and_before_anything_is_asked() {
    if !Path::new("/usr/bin/strace").exists() {
        return not_run("drop_in::the_address_is_bound_before", "strace is not there");
    }
    let mount = Mount::new();
    let conf = mount.write("quiet", 1, "verify = 0\n");
    let text = fs::read_to_string(&conf).unwrap().replace("127.0.0.1:1\n", "nfs.test:2049\n");
    fs::write(&conf, text).unwrap();
    let trace = mount.file("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-o", &trace, "-e", "trace=bind,listen,openat,rename,socket,connect,mmap"]);
    command.arg(called("stunnel")).arg(&conf).stdin(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = Helped(command.spawn().unwrap());
    eventually("the pid file is there", || mount.pid().is_some());
    let pid = mount.pid().unwrap();
    drop(mount.connect());
    signal(pid, "TERM");
    assert!(end(&mut child, SOON).success(), "a signal that comes at once is heeded when all is there");
    let text = fs::read_to_string(&trace).unwrap();
    let place = |what: &str| text.lines().position(|line| line.contains(what));
    let listens = place(" listen(").unwrap();
    assert!(place(" rename(").unwrap() > listens, "the pid file");
    // Name services, the host's roots.
    for what in ["resolv.conf", "nsswitch.conf", "nscd/socket", "/etc/ssl"] {
        assert!(place(what).is_none_or(|place| place > listens), "{what}:\n{text}");
    }
    // The buffers, of 256 MiB in all.
    let is_pool = |line: &str| {
        let length = line.split_once("mmap(NULL, ").and_then(|(_, rest)| rest.split(',').next()?.parse::<u64>().ok());
        length.is_some_and(|length| length > 50_000_000) && line.contains("PROT_READ|PROT_WRITE")
    };
    assert!(text.lines().position(is_pool).unwrap() > listens, "{text}");
}

/// Starts the program with a /dev of its own, in which the system log is ours.
fn with_own_dev(dev: &Path, conf: &str) -> Helped {
    let script = format!(
        "set -e; for f in null zero urandom; do touch {0}/$f; mount --bind /dev/$f {0}/$f; done; ln -sf /proc/self/fd {0}/fd; \
         mount --rbind {0} /dev; exec \"$@\"",
        dev.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(called("stunnel")).arg(conf);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).env_remove("RUST_LOG");
    Helped(command.spawn().unwrap())
}

#[test]
fn the_system_log_has_its_lines_and_a_new_one_has_them_too() {
    if !is_root() {
        return not_run("drop_in::the_system_log_has_its_lines", "it takes root");
    }
    let mount = Mount::new();
    let conf = mount.write("quiet", 1, "verify = 0\n");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("debug = local3.info\nservice = nfs-tunnel\n{text}")).unwrap();
    // A socket's name has 107 bytes at most.
    let dev = std::env::temp_dir().join(format!("sealane-dev-{}", std::process::id()));
    fs::create_dir_all(&dev).unwrap();
    let log = || {
        let _ = fs::remove_file(dev.join("log"));
        let log = UnixDatagram::bind(dev.join("log")).unwrap();
        log.set_read_timeout(Some(SOON)).unwrap();
        log
    };
    let line = |log: &UnixDatagram, what: &str| loop {
        let mut bytes = [0; 4096];
        let count = log.recv(&mut bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        let line = String::from_utf8_lossy(&bytes[..count]).into_owned();
        if line.contains(what) {
            return line;
        }
    };
    let first = log();
    let mut child = with_own_dev(&dev, &conf);
    mount.probe();
    let said_of = line(&first, "listening on ");
    // local3 (19) and notice (5); the name; the process.
    assert!(said_of.starts_with(&format!("<{}>", 19 * 8 + 5)), "{said_of}");
    assert!(said_of.contains(&format!("nfs-tunnel[{}]: LOG5[main]: listening on ", child.id())), "{said_of}");
    // syslogd is started anew.
    drop(first);
    let second = log();
    signal(child.id(), "USR2");
    line(&second, "active connections: 0");
    signal_group(child.id(), "TERM");
    assert!(end(&mut child, Duration::from_secs(1)).success());
    fs::remove_dir_all(&dev).unwrap();
}

#[test]
fn twelve_at_once_are_all_ready() {
    let echo = echo_server();
    let mounts: Vec<_> = (0..12).map(|_| Mount::new()).collect();
    let confs: Vec<_> = mounts.iter().map(|mount| mount.write("quiet", echo, "")).collect();
    let mut children: Vec<_> = confs.iter().map(|conf| helped("efs-proxy", &[conf])).collect();
    for mount in &mounts {
        eventually("it listens", || TcpStream::connect(("127.0.0.1", mount.port)).is_ok());
        assert!(mount.is_carried());
    }
    for (mount, child) in mounts.iter().zip(&mut children) {
        mount.has_the_pid_of(child);
        signal_group(child.id(), "TERM");
        assert!(end(child, SOON).success());
        assert_eq!(mount.pid(), None);
    }
}

#[test]
fn relative_names_are_those_of_the_directory_that_it_was_started_in() {
    let mount = Mount::new();
    let conf = mount.write("quiet", 1, "verify = 0\n");
    let text = fs::read_to_string(&conf).unwrap().replace(&mount.file("stunnel.pid"), "stunnel.pid");
    fs::write(&conf, format!("output = x.log\nsyslog = no\n{text}")).unwrap();
    let mut command = Command::new(called("stunnel"));
    command.arg("conf").current_dir(&mount.directory).stdin(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = Helped(command.spawn().unwrap());
    mount.probe();
    let read = || fs::read_to_string(mount.file("x.log")).unwrap_or_default();
    eventually("it is written", || read().contains("listening on "));
    fs::rename(mount.file("x.log"), mount.file("old.log")).unwrap();
    signal(child.id(), "USR1");
    eventually("it is opened anew", || read().contains("SIGUSR1: the log file is opened anew"));
    // Now it cannot be.
    fs::rename(mount.file("x.log"), mount.file("last.log")).unwrap();
    fs::create_dir(mount.file("x.log")).unwrap();
    signal(child.id(), "USR1");
    let last = || fs::read_to_string(mount.file("last.log")).unwrap();
    eventually("that is said", || last().contains("sealane: x.log: Is a directory"));
    signal_group(child.id(), "TERM");
    assert!(end(&mut child, Duration::from_secs(1)).success());
    assert_eq!(mount.pid(), None, "it has gone");
    // What is no file stays what it is.
    let text = fs::read_to_string(&conf).unwrap().replace("pid = stunnel.pid", "pid = x.log");
    fs::write(&conf, text.replace("output = x.log\n", "")).unwrap();
    let out = Command::new(called("stunnel")).arg("conf").current_dir(&mount.directory).output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(1) && text.contains("the pid file x.log: there is something else"), "{text}");
}
