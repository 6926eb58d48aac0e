//! The ring under more operations than it has entries.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::Cell;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use sealane_io::{Driver, Patience, Pool, PoolLayout, Received, Socket, Stream, Uring, UringStream, rt};

const PAIRS: usize = 1000;

/// Streams of one end of many connections, and the other ends.
fn pairs() -> (Vec<TcpStream>, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (0..PAIRS).map(|_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0)).unzip()
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
fn two_thousand_operations_are_pending_in_a_ring_of_256_entries() {
    let layout = PoolLayout {
        small_bytes: 4096,
        small_count: PAIRS,
        small_slices: 1,
        big_bytes: 4096,
        big_count: 1,
        big_slices: 1,
        small_prefaulted: 0,
    };
    sealane_io::host::raise_open_files().unwrap();
    let (near, mut far) = pairs();
    // 64 streams: 256 entries. All of these are pushed before the thread parks for the first time.
    let served = Uring::run(64, async {
        let pool = Pool::new(layout).unwrap();
        let (received, ready) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        for socket in near {
            let stream = Rc::new(UringStream::adopt(Socket::new(socket)).unwrap());
            let (waiter, ready) = (Rc::clone(&stream), Rc::clone(&ready));
            rt::spawn(async move {
                waiter.readable().await.unwrap();
                ready.set(ready.get() + 1);
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
        assert_eq!((received.get(), ready.get()), (0, 0));
        for stream in &mut far {
            stream.write_all(b"at last").unwrap();
        }
        for _ in 0..500 {
            if received.get() == PAIRS && ready.get() == PAIRS {
                break;
            }
            rt::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((received.get(), ready.get()), (PAIRS, PAIRS));
        rt::sleep(Duration::from_millis(50)).await;
        assert_eq!(pool.small_free(), PAIRS, "every buffer is back");
    });
    match served {
        Ok(()) => {}
        Err(error) => not_run(&format!("two_thousand_operations_are_pending_in_a_ring_of_256_entries: {error}")),
    }
}
