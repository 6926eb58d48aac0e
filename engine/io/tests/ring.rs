//! The ring under more operations than it has entries.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;

use sealane_io::{Driver, Patience, Pool, PoolLayout, Received, Socket, Stream, Uring, UringStream, rt};

const PAIRS: usize = 1000;
/// More than the sockets still take when they are said to be full.
const SENT_BYTES: usize = 64 << 10;

/// Streams of one end of many connections, which take nothing more until the other ends, with what is in them, read.
fn pairs() -> (Vec<TcpStream>, Vec<(TcpStream, usize)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pair = || {
        let (near, far) = (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0);
        // Small ones: a thousand usual ones would be gigabytes.
        SockRef::from(&near).set_send_buffer_size(16 << 10).unwrap();
        SockRef::from(&far).set_recv_buffer_size(16 << 10).unwrap();
        near.set_nonblocking(true).unwrap();
        let taken = std::iter::from_fn(|| (&near).write(&[1; 4096]).ok()).sum();
        (near, (far, taken))
    };
    (0..PAIRS).map(|_| pair()).unzip()
}

/// Says something to all of them, and reads what each had taken and what was sent to it. All at once: a segment that found
/// the buffer full is sent again after seconds, if it has waited for long.
fn read_all(far: &mut [(TcpStream, usize)]) {
    for (stream, _) in &mut *far {
        stream.write_all(b"at last").unwrap();
        stream.set_nonblocking(true).unwrap();
    }
    let mut left: Vec<_> = far.iter_mut().map(|(stream, taken)| (stream, *taken + SENT_BYTES)).collect();
    let mut buffer = vec![0; SENT_BYTES];
    while !left.is_empty() {
        left.retain_mut(|(stream, bytes)| {
            match stream.read(&mut buffer) {
                Ok(count) => *bytes = bytes.checked_sub(count).filter(|_| count > 0).unwrap(),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            *bytes > 0
        });
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// tests/run counts what could not run here.
fn not_run(what: &str) {
    eprintln!("NOT RUN {what}");
    if let Some(file) = std::env::var_os("SEALANE_NOT_RUN") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        writeln!(file, "{what}").unwrap();
    }
}

#[test]
fn a_thousand_sends_are_pending_in_a_ring_of_128_entries() {
    let layout = PoolLayout {
        small_bytes: SENT_BYTES,
        small_count: 2 * PAIRS,
        small_slices: 1,
        big_bytes: 4096,
        big_count: 1,
        big_slices: 1,
        small_prefaulted: 0,
    };
    sealane_io::host::raise_open_files().unwrap();
    let (near, mut far) = pairs();
    // 64 streams: 128 entries. All of these are pushed before the thread parks for the first time.
    let served = Uring::run(64, async {
        let pool = Pool::new(layout).unwrap();
        let (sent, received) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        for socket in near {
            let stream = Rc::new(UringStream::adopt(Socket::new(socket)).unwrap());
            let (sender, sent) = (Rc::clone(&stream), Rc::clone(&sent));
            let mut buffer = pool.small().unwrap();
            rt::spawn(async move {
                assert!(buffer.slices().push(0..SENT_BYTES));
                sender.send(buffer).await.0.unwrap();
                sent.set(sent.get() + 1);
            });
            let mut buffer = pool.small().unwrap();
            let received = Rc::clone(&received);
            rt::spawn(async move {
                assert!(buffer.slices().push(0..4096));
                loop {
                    let (result, back) = stream.receive(buffer, Patience::Hold).await;
                    buffer = back;
                    match result.unwrap() {
                        Received::Bytes(count) => {
                            assert_eq!(&buffer.bytes()[..count], b"at last");
                            received.set(received.get() + 1);
                            return;
                        }
                        Received::Nothing => {}
                        Received::End => panic!("nobody ended it"),
                    }
                }
            });
        }
        rt::sleep(Duration::from_millis(200)).await;
        assert_eq!((sent.get(), received.get()), (0, 0));
        // In a thread: what is read here lets the other side send more.
        let reader = std::thread::spawn(move || read_all(&mut far));
        for _ in 0..6000 {
            if sent.get() == PAIRS && received.get() == PAIRS {
                break;
            }
            rt::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((sent.get(), received.get()), (PAIRS, PAIRS));
        reader.join().unwrap();
        rt::sleep(Duration::from_millis(50)).await;
        assert_eq!(pool.small_free(), 2 * PAIRS, "every buffer is back");
    });
    match served {
        Ok(()) => {}
        Err(error) => not_run(&format!("a_thousand_sends_are_pending_in_a_ring_of_128_entries: {error}")),
    }
}

/// Streams that look all the time, or more at work than tokio runs tasks at a time.
#[test]
fn a_send_that_waits_in_the_ring_begins_though_others_never_let_the_thread_wait() {
    for (others, always_looks) in [(2, true), (150, false)] {
        if let Err(error) = send_beside(others, always_looks) {
            not_run(&format!("a_send_that_waits_in_the_ring_begins_though_others_never_let_the_thread_wait: {error}"));
        }
    }
}

fn send_beside(others: usize, always_looks: bool) -> std::io::Result<()> {
    const BYTES: usize = 4 << 20;
    let layout = PoolLayout {
        small_bytes: 4096,
        small_count: others,
        small_slices: 1,
        big_bytes: BYTES,
        big_count: 1,
        big_slices: 1,
        small_prefaulted: 0,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = || {
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    };
    let (near, mut far) = connect();
    SockRef::from(&near).set_send_buffer_size(16 << 10).unwrap();
    let others: Vec<_> = (0..others).map(|_| connect()).collect();
    Uring::run(200, async {
        let adopt = |socket: &TcpStream| UringStream::adopt(Socket::new(socket.try_clone().unwrap())).unwrap();
        let pool = Pool::new(layout).unwrap();
        for (near, _) in &others {
            let (stream, mut buffer) = (adopt(near), pool.small().unwrap());
            rt::spawn(async move {
                assert!(buffer.slices().push(0..4096));
                loop {
                    buffer = stream.receive(buffer, Patience::None).await.1;
                    if always_looks || stream.is_look_due() {
                        stream.look().await;
                    } else {
                        rt::poll_again().await;
                    }
                }
            });
        }
        let stream = adopt(&near);
        let mut buffer = pool.big().unwrap();
        assert!(buffer.slices().push(0..BYTES));
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            far.read_exact(&mut vec![0; BYTES]).unwrap();
        });
        let sent = rt::timeout(Duration::from_secs(10), stream.send(buffer)).await;
        sent.expect("it never began").0.unwrap();
        reader.join().unwrap();
    })
}
