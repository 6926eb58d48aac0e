//! One process takes the place of another one (`sealane run --replace`): nobody is refused, and no call is lost.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::support::bytes::{call, reply};
use crate::support::pki::{NAME, Pki};
use crate::support::process::{Process, SOON, eventually, free_port, now, scratch, wait_for_port};
use crate::support::sealane::{DRIVERS, binary};
use crate::support::{is_root, not_run};

/// Reads a record.
fn record(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut rest = vec![0; (u32::from_be_bytes(head) & 0x7fff_ffff) as usize];
    stream.read_exact(&mut rest)?;
    Ok([&head[..], &rest].concat())
}

fn xid(record: &[u8]) -> u32 {
    u32::from_be_bytes(record[4..8].try_into().unwrap())
}

/// What is answered to the call of this number.
fn answer(xid: u32) -> Vec<u8> {
    reply(xid, &xid.to_be_bytes().repeat(500))
}

/// Answers each call after a moment; the port.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                while let Ok(call) = record(&mut stream) {
                    std::thread::sleep(Duration::from_micros(300));
                    if stream.write_all(&answer(xid(&call))).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// Both ends of a tunnel in one file.
struct House {
    directory: PathBuf,
    port: u16,
}

impl House {
    fn new(of_process: &str) -> Self {
        let (directory, pki) = (scratch("handover"), Pki::get());
        let [port, middle] = [free_port(), free_port()];
        let [ca, cert, key] = [&pki.ca, &pki.server.cert, &pki.server.key].map(|file| file.display().to_string());
        let [pid, control] = ["pid", "control"].map(|name| directory.join(name));
        let nfs = server();
        let text = format!(
            "pid-file = {pid:?}\ncontrol-socket = {control:?}\nlog-level = \"debug\"\ndrain = 20\n{of_process}\n\
             [tunnels.out]\nmode = \"client\"\nlisten = \"127.0.0.1:{port}\"\nconnect = \"127.0.0.1:{middle}\"\nca-file = [{ca:?}]\n\
             server-name = \"{NAME}\"\n\n\
             [tunnels.in]\nmode = \"server\"\nlisten = \"127.0.0.1:{middle}\"\nconnect = \"127.0.0.1:{nfs}\"\ncert = {cert:?}\nkey = {key:?}\n"
        );
        fs::write(directory.join("sealane.toml"), text).unwrap();
        Self { directory, port }
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("run").args(words).arg(self.file("sealane.toml")).stdin(Stdio::null()).env_remove("RUST_LOG");
        command
    }

    fn start(&self, words: &[&str]) -> Process {
        let process = Process::start(&mut self.command(words));
        eventually("it listens", || process.count("listening on 127.0.0.1:") == 2);
        process
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("nobody is refused");
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    fn exchange(&self, number: u32) {
        let mut stream = self.connect();
        stream.write_all(&call(number, b"x")).unwrap();
        let heard = record(&mut stream).unwrap_or_else(|error| panic!("a connection that was made is served: {error}"));
        assert!(heard == answer(number));
    }

    fn pid(&self) -> String {
        fs::read_to_string(self.file("pid")).unwrap()
    }
}

/// Makes calls, eight at a time, over one connection, and over the next one where that ends; each until it is answered. How many
/// connections it took.
fn work(house: &House, until: &AtomicBool, calls: &AtomicU32) -> u32 {
    const DEPTH: u32 = 8;
    let (mut connections, mut next) = (0, 0);
    'connection: while !until.load(Ordering::Relaxed) {
        let mut stream = house.connect();
        connections += 1;
        loop {
            // At the end all that were made are answered.
            if until.load(Ordering::Relaxed) {
                return connections;
            }
            for number in next..next + DEPTH {
                if stream.write_all(&call(number, &[7; 2000])).is_err() {
                    continue 'connection;
                }
            }
            let made = next..next + DEPTH;
            for number in made {
                match record(&mut stream) {
                    Ok(heard) => assert!(heard == answer(number), "the answer to call {number}, and whole"),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("call {number} is not answered"),
                    Err(_) => continue 'connection,
                }
                next = number + 1;
                calls.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    connections
}

#[test]
fn ten_processes_one_after_the_other_refuse_nobody_and_lose_no_call() {
    for driver in DRIVERS {
        let house = Arc::new(House::new(&format!("io = \"{driver}\"")));
        let mut process = house.start(&[]);
        let (over, calls, exchanges) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::new(AtomicU32::new(0)));
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let (house, over, calls) = (Arc::clone(&house), Arc::clone(&over), Arc::clone(&calls));
                std::thread::spawn(move || work(&house, &over, &calls))
            })
            .collect();
        let storm: Vec<_> = (0..3)
            .map(|_| {
                let (house, over, exchanges) = (Arc::clone(&house), Arc::clone(&over), Arc::clone(&exchanges));
                std::thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        house.exchange(exchanges.fetch_add(1, Ordering::Relaxed));
                    }
                })
            })
            .collect();
        let socket = fs::metadata(house.file("control")).unwrap();
        assert_eq!(socket.permissions().mode() & 0o777, 0o600);
        for round in 0..10 {
            let before = (calls.load(Ordering::Relaxed), exchanges.load(Ordering::Relaxed));
            eventually("both go on", || {
                calls.load(Ordering::Relaxed) > before.0 + 50 && exchanges.load(Ordering::Relaxed) > before.1 + 10
            });
            let next = house.start(&["--replace"]);
            assert!(process.wait().success(), "{driver}, {round}: {}", process.output());
            process.wait_for(&format!("stopped by process {}, which goes on", next.pid()));
            assert_eq!(house.pid().trim_end(), next.pid().to_string());
            process = next;
        }
        over.store(true, Ordering::Relaxed);
        storm.into_iter().for_each(|thread| thread.join().unwrap());
        let connections: Vec<_> = workers.into_iter().map(|thread| thread.join().unwrap()).collect();
        // One for each process as a rule; one more where it ended before it was used, one less where a thread had to wait.
        assert!(connections.iter().all(|count| (6..=30).contains(count)), "{driver}: {connections:?}");
        process.signal("TERM");
        assert!(process.wait().success());
        assert!(!PathBuf::from(house.file("pid")).exists() && !PathBuf::from(house.file("control")).exists());
    }
}

#[test]
fn whoever_ends_before_it_is_ready_is_not_waited_for() {
    let house = House::new("");
    let process = house.start(&[]);
    let goes_on = |times: usize, why: &str| {
        eventually("it goes on", || process.count("which goes on: ") == times);
        process.wait_for(why);
        house.exchange(times as u32);
        assert_eq!(house.pid(), format!("{}\n", process.pid()));
    };
    // Its file names an address that somebody else has.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let good = fs::read_to_string(house.file("sealane.toml")).unwrap();
    let more = format!(
        "[tunnels.more]\nmode = \"client\"\nlisten = \"{}\"\nconnect = \"nfs.test:2049\"\n",
        taken.local_addr().unwrap()
    );
    fs::write(house.file("sealane.toml"), format!("{good}\n{more}")).unwrap();
    let mut next = Process::start(&mut house.command(&["--replace"]));
    assert_eq!(next.wait().code(), Some(1), "{}", next.output());
    next.wait_for("Address already in use");
    goes_on(1, "it has ended");
    // It cannot read what it needs, before it asks for anything.
    fs::write(house.file("sealane.toml"), good.replace("mode = \"server\"", "mode = \"sever\"")).unwrap();
    let mut next = Process::start(&mut house.command(&["--replace"]));
    assert_eq!(next.wait().code(), Some(2));
    fs::write(house.file("sealane.toml"), &good).unwrap();
    // It is killed as soon as it has the sockets; or stays, and says something else.
    let mut stream = UnixStream::connect(house.file("control")).unwrap();
    assert!(stream.read(&mut [0; 4096]).unwrap() > 20);
    drop(stream);
    goes_on(2, "it has ended");
    for (times, (said, why)) in
        [("hello\n", "it said \"hello\""), (&"x".repeat(400), "it said more")].into_iter().enumerate()
    {
        let mut stream = UnixStream::connect(house.file("control")).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        let mut heard = Vec::new();
        // What was not read of what it said resets it.
        let _ = stream.read_to_end(&mut heard);
        let heard = String::from_utf8_lossy(&heard);
        assert!(heard.starts_with("sealane 1\npid "), "{heard:?}");
        assert!(said.len() > 100 || heard.contains("\n\nrefused it said"), "{heard:?}");
        goes_on(3 + times, why);
    }
    // It says that it is ready, is let go, and ends before it accepts anybody.
    let mut stream = UnixStream::connect(house.file("control")).unwrap();
    let mut heard = vec![0; 4096];
    assert!(stream.read(&mut heard).unwrap() > 20);
    stream.write_all(b"ready 4711\n").unwrap();
    let count = stream.read(&mut heard).unwrap();
    assert_eq!(&heard[..count], b"released\n");
    let waiting = house.connect();
    drop(stream);
    process.wait_for("process 4711 was ready, and does not go on: it has ended; this one does");
    house.exchange(8);
    drop(waiting);
    assert_eq!(house.pid(), format!("{}\n", process.pid()));
    // And who comes then does take over.
    let mut process = process;
    let mut next = house.start(&["--replace"]);
    assert!(process.wait().success());
    house.exchange(9);
    next.signal("TERM");
    assert!(next.wait().success());
}

#[test]
fn where_nobody_is_to_be_replaced_it_starts_and_two_are_not_there_at_once() {
    let house = House::new("");
    let mut process = house.start(&["--replace"]);
    process.wait_for("there is no place to be taken");
    // One that was killed leaves its socket, and nothing that it listens on.
    process.signal("KILL");
    process.wait();
    assert!(PathBuf::from(house.file("control")).exists());
    let process = house.start(&[]);
    // The same socket, other addresses.
    let other = House::new("");
    let text = fs::read_to_string(other.file("sealane.toml")).unwrap();
    fs::write(other.file("sealane.toml"), text.replace(&other.file("control"), &house.file("control"))).unwrap();
    let mut second = Process::start(&mut other.command(&[]));
    assert_eq!(second.wait().code(), Some(1));
    second.wait_for(&format!("the control socket {}: another process listens there", house.file("control")));
    assert!(!PathBuf::from(other.file("pid")).exists(), "it did not start");
    house.exchange(1);
    // Something else by that name is left alone.
    fs::write(other.file("control"), "a file").unwrap();
    fs::write(other.file("sealane.toml"), text).unwrap();
    let mut second = Process::start(&mut other.command(&[]));
    assert_eq!(second.wait().code(), Some(1));
    second.wait_for("there is something else by that name");
    assert_eq!(fs::read_to_string(other.file("control")).unwrap(), "a file");
    drop(process);
}

#[test]
fn a_process_that_is_told_to_stop_hands_nothing_over() {
    let house = House::new("");
    let mut process = house.start(&[]);
    let mut stream = UnixStream::connect(house.file("control")).unwrap();
    let mut heard = vec![0; 4096];
    assert!(stream.read(&mut heard).unwrap() > 20);
    process.signal("TERM");
    let count = stream.read(&mut heard).unwrap();
    assert_eq!(String::from_utf8_lossy(&heard[..count]), "refused this process ends\n");
    assert!(process.wait().success());
}

#[test]
fn who_starts_while_another_one_still_ends_keeps_its_socket() {
    let house = House::new("");
    let mut process = house.start(&[]);
    // A call that is never answered whole keeps it for as long as it may.
    let mut stream = house.connect();
    stream.write_all(&call(1, &[0; 3000])[..2000]).unwrap();
    eventually("it is under way", || process.count("opened: ") == 2);
    process.signal("TERM");
    process.wait_for("stopping: ");
    let mut next = house.start(&[]);
    process.signal("TERM");
    assert!(process.wait().success());
    assert_eq!(house.pid(), format!("{}\n", next.pid()));
    let last = house.start(&["--replace"]);
    assert!(next.wait().success());
    drop(last);
}

#[test]
fn the_place_of_who_serves_another_file_is_not_taken() {
    let house = House::new("");
    let process = house.start(&[]);
    let other = House::new("");
    let text = fs::read_to_string(other.file("sealane.toml")).unwrap();
    fs::write(other.file("sealane.toml"), text.replace(&other.file("control"), &house.file("control"))).unwrap();
    let mut next = Process::start(&mut other.command(&["--replace"]));
    assert_eq!(next.wait().code(), Some(1));
    let serves = format!("serves {}, and not {}", house.file("sealane.toml"), other.file("sealane.toml"));
    next.wait_for(&serves);
    house.exchange(1);
    drop(process);
}

#[test]
fn in_the_background_its_log_stays_in_the_journal() {
    let house = House::new("");
    let log = house.file("journal");
    let start = |words: &[&str]| {
        let file = fs::File::options().append(true).create(true).open(&log).unwrap();
        let there = file.metadata().unwrap();
        let mut command = house.command(words);
        command.env("JOURNAL_STREAM", format!("{}:{}", there.dev(), there.ino())).stderr(file);
        assert!(command.status().unwrap().success());
    };
    start(&["--background"]);
    start(&["--background", "--replace"]);
    let before = fs::read_to_string(&log).unwrap().matches("opened: ").count();
    house.exchange(1);
    eventually("it is still written", || fs::read_to_string(&log).unwrap().matches("opened: ").count() >= before + 2);
    let pid = house.pid();
    assert!(Command::new("kill").args(["-TERM", pid.trim_end()]).status().unwrap().success());
    eventually("it has ended", || fs::read_to_string(&log).unwrap().contains("stopped by SIGTERM"));
}

#[test]
fn another_account_takes_over_from_its_like() {
    if !is_root() {
        return not_run("another_account_takes_over_from_its_like", "becoming another user needs root");
    }
    // Files and directories that the account can reach, as an administrator would make them.
    let house = House::new("user = \"nobody\"\nsandbox = \"on\"");
    let mut process = house.start(&[]);
    house.exchange(1);
    let next = house.start(&["--replace"]);
    assert!(process.wait().success(), "{}", process.output());
    house.exchange(2);
    assert_eq!(house.pid().trim_end(), next.pid().to_string());
}

#[test]
fn it_works_with_what_the_unit_leaves_it() {
    if !is_root() {
        return not_run("it_works_with_what_the_unit_leaves_it", "a bounding set is root's");
    }
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/systemd/sealane@.service");
    let unit = fs::read_to_string(unit).unwrap();
    let kept = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let kept = kept.split(' ').map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    let kept = format!("-all{}", kept.collect::<String>());
    let house = House::new("user = \"nobody\"");
    let start = |words: &[&str]| {
        let own = house.command(words);
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", &kept, "--no-new-privs"]).arg(own.get_program()).args(own.get_args());
        command.stdin(Stdio::null()).env_remove("RUST_LOG");
        let process = Process::start(&mut command);
        eventually("it listens", || process.count("listening on 127.0.0.1:") == 2);
        process
    };
    let mut process = start(&[]);
    house.exchange(1);
    let mut next = start(&["--replace"]);
    assert!(process.wait().success(), "{}", process.output());
    house.exchange(2);
    assert_eq!(house.pid().trim_end(), next.pid().to_string());
    next.signal("TERM");
    assert!(next.wait().success());
}

#[test]
fn addresses_come_and_go_with_the_file() {
    let house = House::new("");
    let mut process = house.start(&[]);
    let (old, new) = (house.port, free_port());
    let text = fs::read_to_string(house.file("sealane.toml")).unwrap();
    fs::write(house.file("sealane.toml"), text.replace(&format!("127.0.0.1:{old}\""), &format!("127.0.0.1:{new}\"")))
        .unwrap();
    let next = house.start(&["--replace"]);
    assert!(process.wait().success());
    next.wait_for(&format!("no tunnel listens on 127.0.0.1:{old} any more"));
    assert_eq!(TcpStream::connect(("127.0.0.1", old)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    House { port: new, directory: house.directory.clone() }.exchange(1);
}

#[test]
fn a_supervisor_hears_which_process_it_is_now() {
    let house = House::new("");
    let name = std::env::temp_dir().join(format!("sealane-handover-{}", std::process::id()));
    let socket = UnixDatagram::bind(&name).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let heard = || {
        let mut bytes = [0; 4096];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut command = house.command(&[]);
    command.env("NOTIFY_SOCKET", &name).env("WATCHDOG_USEC", "200000");
    let mut process = Process::start(&mut command);
    assert_eq!(heard(), "READY=1\nSTATUS=serving");
    // The next one is told nothing by its environment, as what systemd runs for a reload is not.
    let mut next = house.start(&["--replace"]);
    let mut line = heard();
    while line == "WATCHDOG=1" {
        line = heard();
    }
    assert_eq!(line, format!("MAINPID={}", next.pid()));
    assert_eq!(heard(), "READY=1\nSTATUS=serving");
    assert!(process.wait().success());
    for _ in 0..5 {
        assert_eq!(heard(), "WATCHDOG=1", "the one that has ended has nothing to say");
    }
    next.signal("TERM");
    assert!(next.wait().success());
    let _ = fs::remove_file(name);
}

#[test]
fn in_the_background_it_is_ready_when_the_command_has_ended() {
    let house = House::new("");
    let stop = |house: &House| {
        let pid = house.pid();
        assert!(Command::new("kill").args(["-TERM", pid.trim_end()]).status().unwrap().success());
        eventually("it has ended", || !PathBuf::from(house.file("pid")).exists());
    };
    let begun = house.command(&["--background"]).output().unwrap();
    assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
    house.exchange(1);
    let first = house.pid();
    let second = house.command(&["--background", "--replace"]).output().unwrap();
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    assert_ne!(house.pid(), first);
    house.exchange(2);
    // Whoever cannot start says so, with its status.
    let text = fs::read_to_string(house.file("sealane.toml")).unwrap();
    fs::write(house.file("sealane.toml"), text.replace("server.pem", "no-such.pem")).unwrap();
    let failed = house.command(&["--background", "--replace"]).output().unwrap();
    assert!(!failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("no-such.pem"));
    house.exchange(3);
    stop(&house);
}

#[test]
fn somebody_else_gets_nothing() {
    if !is_root() {
        return not_run("somebody_else_gets_nothing", "becoming another user needs root");
    }
    let house = House::new("sandbox = \"off\"");
    let process = house.start(&[]);
    let ask = || {
        let script =
            "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nprint(len(s.recv(4096)))";
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c", script]);
        let done = command.arg(house.file("control")).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
    };
    let said = ask();
    assert!(said.contains("PermissionError") || said.contains("Permission denied"), "{said}");
    // Even where its permissions were changed.
    let mut way = PathBuf::from(house.file("control"));
    fs::set_permissions(&way, fs::Permissions::from_mode(0o666)).unwrap();
    while way.pop() && way.parent().is_some() {
        if fs::metadata(&way).unwrap().permissions().mode() & 1 == 0 {
            return not_run("somebody_else_gets_nothing", "a directory on the way is closed to others");
        }
    }
    assert_eq!(ask().trim(), "0");
    process.wait_for("neither root nor this user");
    let started = now();
    house.exchange(1);
    assert!(now() - started < SOON);
    wait_for_port(house.port);
}
