//! The client against the server, over TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sealane_selftest::client::{Create, OpenFile};
use sealane_selftest::load::{self, File, Kind, Load, LoadError, Progress, Until, Workload};
use sealane_selftest::nfs4::{Access, FileType, Stable, Status};
use sealane_selftest::{ClientError, Server, ServerOptions, Session, SessionOptions, pattern};

fn start() -> (Server, Session) {
    start_with(&SessionOptions::default())
}

fn start_with(options: &SessionOptions) -> (Server, Session) {
    let server = Server::start(&ServerOptions::default()).expect("a server");
    let session = Session::open(server.local_address(), options).expect("a session");
    (server, session)
}

fn create(session: &mut Session, name: &str) -> OpenFile {
    let root = session.root().expect("the root");
    session.open_file(&root, name, Access::Both, Create::Guarded).expect("a new file")
}

fn status<T>(result: Result<T, ClientError>) -> Option<Status> {
    result.err().and_then(|error| error.status())
}

#[test]
fn the_whole_workload_comes_back_as_it_was_written() {
    for connections in [1, 3] {
        let (server, mut session) = start_with(&SessionOptions { connections, ..SessionOptions::default() });
        assert_eq!(server.connections(), connections);
        let workload = Workload { passes: 2, getattr_calls: 500, ..Workload::default() };
        let progress = Progress::default();
        let report = workload.run(&mut session, &progress).unwrap();
        assert_eq!((report.write.bytes, report.read.bytes), (workload.bytes(), workload.bytes()));
        assert_eq!((report.write.calls, report.getattr_many.calls), (128, 500));
        assert_eq!(report.read.latencies.len(), 128);
        assert_eq!(progress.calls.load(Ordering::Relaxed), workload.calls());
        let root = session.root().unwrap();
        assert!(session.read_directory(&root, 4096).unwrap().is_empty());
        session.close().unwrap();
    }
}

#[test]
fn a_wrong_byte_is_named_by_file_offset_and_pass() {
    let (_server, mut session) = start();
    let workload = Workload { files: 3, passes: 1, ..Workload::default() };
    let files = workload.prepare(&mut session).unwrap();
    files.write(&mut session, 7, &Progress::default()).unwrap();
    let mut byte = [0];
    let (place, file) = (5_000_003, &files.files()[1]);
    session.read(&file.open, place, &mut byte).unwrap();
    session.write(&file.open, place, &[byte[0] ^ 0x10], Stable::File).unwrap();
    let Err(LoadError::Differs(found)) = files.read(&mut session, 7, &Progress::default()) else {
        panic!("not noticed")
    };
    assert_eq!((found.file, found.at, found.pass), (1, place, 7));
    assert_eq!((found.expected, found.found), (byte[0], byte[0] ^ 0x10));
}

#[test]
fn an_old_pass_is_noticed() {
    let (_server, mut session) = start();
    let workload = Workload { files: 1, ..Workload::default() };
    let files = workload.prepare(&mut session).unwrap();
    files.write(&mut session, 0, &Progress::default()).unwrap();
    let found = files.read(&mut session, 1, &Progress::default());
    assert!(matches!(found, Err(LoadError::Differs(pattern::Mismatch { file: 0, pass: 1, .. }))));
}

#[test]
fn a_load_ends_in_time_and_says_what_it_cannot_do() {
    let (server, mut session) = start();
    let open = create(&mut session, "file");
    let mut load = Load {
        kind: Kind::Write { pass: 3 },
        files: &[File { number: 9, open }],
        file_bytes: 4 << 20,
        payload_bytes: 65_536,
        depth: 8,
        until: Until::Elapsed(Duration::from_millis(200)),
    };
    let written = load::run(&mut session, &load, &Progress::default()).unwrap();
    assert!(written.calls >= 64 && written.elapsed < Duration::from_secs(3), "{written:?}");
    load.kind = Kind::Read { verify: Some(3) };
    assert_eq!(load::run(&mut session, &load, &Progress::default()).unwrap().bytes % 65_536, 0);
    load.file_bytes = 8 << 20;
    load.until = Until::Calls(128);
    let short = load::run(&mut session, &load, &Progress::default());
    assert!(matches!(short, Err(LoadError::Short { file: 9, offset: 4_194_304, moved: 0, .. })), "{short:?}");
    let mut session = Session::open(server.local_address(), &SessionOptions::default()).unwrap();
    load.depth = 1000;
    assert!(matches!(load::run(&mut session, &load, &Progress::default()), Err(LoadError::TooMuch { .. })));
}

#[test]
fn names_and_sizes_do_what_they_do_in_a_file_system() {
    let (_server, mut session) = start();
    let root = session.root().unwrap();
    let upper = session.make_directory(&root, "upper").unwrap();
    assert_eq!(status(session.make_directory(&root, "upper")), Some(Status::EXIST));
    let file = session.open_file(&upper, "file", Access::Both, Create::Exclusive([7; 8])).unwrap();
    assert_eq!(status(session.open_file(&upper, "file", Access::Both, Create::Guarded)), Some(Status::EXIST));
    assert_eq!(status(session.open_file(&upper, "file", Access::Both, Create::Exclusive([8; 8]))), Some(Status::EXIST));
    let again = session.open_file(&upper, "file", Access::Both, Create::Exclusive([7; 8])).unwrap();
    assert_eq!(again.handle, file.handle);
    assert_eq!(status(session.open_file(&root, "upper", Access::Read, Create::Never)), Some(Status::ISDIR));
    assert_eq!(status(session.close_file(&file)), Some(Status::OLD_STATEID));

    session.write(&again, 10, b"hello", Stable::File).unwrap();
    let mut buffer = [1; 100];
    assert_eq!(session.read(&again, 5, &mut buffer).unwrap(), (10, true));
    assert_eq!(&buffer[..10], b"\0\0\0\0\0hello");
    session.set_size(&again, 12).unwrap();
    session.set_size(&again, 20).unwrap();
    let attributes = session.attributes(&again.handle).unwrap();
    assert_eq!((attributes.size, attributes.file_type, attributes.mode), (20, FileType::Regular, 0o644));
    assert_eq!(session.read(&again, 8, &mut buffer).unwrap(), (12, true));
    assert_eq!(&buffer[..12], b"\0\0he\0\0\0\0\0\0\0\0");
    assert_eq!(session.access(&upper, 0x3f).unwrap(), 0x1f);

    session.close_file(&again).unwrap();
    assert_eq!(status(session.write(&again, 0, b"x", Stable::File)), Some(Status::BAD_STATEID));
    session.rename(&upper, "file", &root, "moved").unwrap();
    assert_eq!(session.lookup("/moved").unwrap(), again.handle);
    assert_eq!(status(session.lookup("upper/file")), Some(Status::NOENT));
    session.remove(&root, "moved").unwrap();
    assert_eq!(status(session.attributes(&again.handle)), Some(Status::STALE));
    session.remove(&root, "upper").unwrap();
    session.close().unwrap();
}

#[test]
fn a_directory_is_listed_in_full_whatever_the_page() {
    let (_server, mut session) = start();
    let root = session.root().unwrap();
    let mut expected: Vec<String> = (0..300).map(|number| format!("entry-{number:03}")).collect();
    for name in &expected {
        session.make_directory(&root, name).unwrap();
    }
    expected.sort();
    for page_bytes in [256, 1000, 4096, 1 << 20] {
        let mut names: Vec<_> =
            session.read_directory(&root, page_bytes).unwrap().into_iter().map(|it| it.name).collect();
        names.sort();
        assert_eq!(names, expected, "pages of {page_bytes}");
    }
    assert_eq!(status(session.read_directory(&root, 60)), Some(Status::TOOSMALL));
}

#[test]
fn a_full_server_says_no_space_and_goes_on() {
    let server = Server::start(&ServerOptions { bytes_max: 3 << 20, ..ServerOptions::default() }).unwrap();
    let mut session = Session::open(server.local_address(), &SessionOptions::default()).unwrap();
    let file = create(&mut session, "file");
    let block = vec![1; 1 << 20];
    for number in 0..3 {
        assert_eq!(session.write(&file, number << 20, &block, Stable::Unstable).unwrap().count, 1 << 20);
    }
    assert_eq!(status(session.write(&file, 3 << 20, &block, Stable::Unstable)), Some(Status::NOSPC));
    session.set_size(&file, 1 << 20).unwrap();
    session.write(&file, 3 << 20, &block, Stable::Unstable).unwrap();
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how long it takes is under test")]
fn a_dropped_server_takes_its_connections_with_it_at_once() {
    let (server, mut session) = start_with(&SessionOptions { connections: 4, ..SessionOptions::default() });
    let address = server.local_address();
    let idle = TcpStream::connect(address).unwrap();
    let begun = std::time::Instant::now();
    drop(server);
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    assert!(TcpStream::connect(address).is_err());
    assert!(matches!(session.root(), Err(ClientError::Closed | ClientError::Io { .. })));
    drop(idle);
}

/// A call of the NULL procedure, as one record.
fn null_call() -> Vec<u8> {
    let words = [1 << 31 | 40_u32, 7, 0, 2, 100_003, 4, 0, 0, 0, 0, 0];
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how long it takes is under test")]
fn peers_that_stop_inside_a_record_or_read_nothing_do_not_keep_a_server_from_ending() {
    let (server, session) = start();
    let mut half = TcpStream::connect(server.local_address()).unwrap();
    half.write_all(&null_call()[..20]).unwrap();
    let mut deaf = TcpStream::connect(server.local_address()).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let calls = null_call().repeat(1000);
    // Until the server waits for us to read.
    while deaf.write_all(&calls).is_ok() {}
    let begun = std::time::Instant::now();
    drop(server);
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    drop(session);
}

#[test]
fn noise_is_closed_and_does_not_reach_others() {
    let (server, mut session) = start();
    let mut state = 0x5ea1_a9e5_u64;
    for number in 0..100 {
        let mut peer = TcpStream::connect(server.local_address()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut noise: Vec<u8> = (0..2000)
            .flat_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 32).to_be_bytes()
            })
            .collect();
        if number % 2 == 0 {
            // What looks like a record, with noise inside.
            noise.splice(..4, (1 << 31 | 12_000_u32).to_be_bytes());
        }
        // The server may have closed before all of it was sent.
        let _ = peer.write_all(&noise);
        let _ = peer.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let ended = peer.read_to_end(&mut answer);
        assert!(
            ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
            "{number}"
        );
        assert!(answer.len() < 100, "{number}");
    }
    session.root().unwrap();
    session.close().unwrap();
}

#[test]
fn more_connections_than_allowed_are_closed_and_the_rest_goes_on() {
    let server = Server::start(&ServerOptions { connections_max: 2, ..ServerOptions::default() }).unwrap();
    let address: SocketAddr = server.local_address();
    let mut first = Session::open(address, &SessionOptions { connections: 2, ..SessionOptions::default() }).unwrap();
    assert!(Session::open(address, &SessionOptions::default()).is_err());
    first.root().unwrap();
    first.close().unwrap();
    while server.connections() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    Session::open(address, &SessionOptions::default()).unwrap().close().unwrap();
}

#[test]
fn what_is_not_nfs_is_an_error_that_says_so() {
    let closing = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closing.local_addr().unwrap();
    let answers: [&[u8]; 2] = [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""];
    let thread = std::thread::spawn(move || {
        for answer in answers {
            let (mut peer, _) = closing.accept().unwrap();
            assert!(peer.read(&mut [0; 4096]).unwrap() > 0);
            peer.write_all(answer).unwrap();
        }
    });
    assert!(matches!(Session::open(address, &SessionOptions::default()), Err(ClientError::Malformed(_))));
    assert!(matches!(Session::open(address, &SessionOptions::default()), Err(ClientError::Closed)));
    thread.join().unwrap();
}

#[test]
fn a_server_that_does_not_answer_is_named_with_the_time_that_it_had() {
    let patience = Duration::from_millis(200);
    let options = SessionOptions { patience, ..SessionOptions::default() };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let answer = Session::open(listener.local_addr().unwrap(), &options);
    let Err(error @ ClientError::Silent { op: "recv", .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(error.to_string(), "the server did not answer within 0.2 s (recv)");
}

/// Stands between a client and a server, and takes nothing from the client while it is `deaf`.
fn between(server: SocketAddr, deaf: Arc<AtomicBool>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("the client");
        let mut server = TcpStream::connect(server).expect("the server");
        let (mut from_server, mut to_client) =
            (server.try_clone().expect("a descriptor"), client.try_clone().expect("a descriptor"));
        std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = client.read(&mut buffer) {
            while deaf.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if server.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
    address
}

#[test]
fn a_load_on_a_server_that_takes_and_answers_nothing_ends_and_says_so() {
    let server = Server::start(&ServerOptions::default()).unwrap();
    let deaf = Arc::default();
    let options = SessionOptions { patience: Duration::from_millis(300), ..SessionOptions::default() };
    let mut session = Session::open(between(server.local_address(), Arc::clone(&deaf)), &options).unwrap();
    let workload = Workload { depth: 16, ..Workload::default() };
    let files = workload.prepare(&mut session).unwrap();
    deaf.store(true, Ordering::Relaxed);
    let failed = files.write(&mut session, 0, &Progress::default());
    deaf.store(false, Ordering::Relaxed);
    assert!(matches!(failed, Err(LoadError::Client(ClientError::Silent { .. }))), "{failed:?}");
}
