//! The load that outlives faults: what it survives, and what it must notice.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sealane_selftest::endure::{Endurance, Tally};
use sealane_selftest::{Server, ServerOptions};

fn endurance(address: SocketAddr) -> Endurance {
    Endurance {
        address,
        name: "endure".into(),
        lanes: 2,
        idle_lanes: 1,
        payload_bytes: 64 << 10,
        places: 4,
        pause: Duration::ZERO,
        patience: Duration::from_secs(5),
        spoil: None,
    }
}

/// Runs it beside `faults`, which ends it by returning.
fn run(endurance: &Endurance, faults: impl FnOnce(&Tally)) -> (Tally, bool) {
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let is_done = thread::scope(|scope| {
        let load = scope.spawn(|| endurance.run(&stop, &tally, &|what| println!("{what}")));
        // A failed assertion must not leave it running.
        let faults = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| faults(&tally)));
        stop.store(true, Ordering::Relaxed);
        let is_done = load.join().expect("the load").is_ok();
        faults.expect("the faults");
        is_done
    });
    (tally, is_done)
}

fn wait_for(what: impl Fn() -> bool) {
    const TICK: Duration = Duration::from_millis(5);
    let is_so = (0..4000).any(|_| {
        thread::sleep(TICK);
        what()
    });
    assert!(is_so, "nothing happens");
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Waits until something more has been written.
fn wait_for_more(tally: &Tally) {
    let before = get(&tally.written_bytes);
    wait_for(|| get(&tally.written_bytes) > before + (1 << 20));
}

/// Connections through here can be cut.
struct Wire {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(server: impl Fn() -> SocketAddr + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let (address, streams) = (listener.local_addr().expect("an address"), Arc::<Mutex<Vec<TcpStream>>>::default());
        let all = Arc::clone(&streams);
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.expect("a connection");
                let Ok(far) = TcpStream::connect(server()) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) =
                        (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
                all.lock().expect("the streams").extend([near, far]);
            }
        });
        Self { address, streams }
    }

    fn cut(&self) {
        for stream in self.streams.lock().expect("the streams").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn cut_connections_are_made_again_and_nothing_is_lost() {
    let server = Server::start(&ServerOptions::default()).unwrap();
    let address = server.local_address();
    let wire = Wire::to(move || address);
    let (tally, is_done) = run(&endurance(wire.address), |tally| {
        for _ in 0..5 {
            wait_for_more(tally);
            wire.cut();
        }
        wait_for_more(tally);
    });
    println!("{tally}");
    assert!(is_done);
    assert_eq!((get(&tally.lost_bytes), get(&tally.silent)), (0, 0));
    assert!(get(&tally.ended) >= 10, "{tally}");
    assert!(get(&tally.compared_bytes) > get(&tally.written_bytes), "each place was read, and more than once");
}

#[test]
fn a_server_that_forgets_what_it_promised_is_noticed() {
    let servers = Arc::new(Mutex::new(Server::start(&ServerOptions::default()).unwrap()));
    let present = Arc::clone(&servers);
    let wire = Wire::to(move || present.lock().unwrap().local_address());
    let (tally, is_done) = run(&endurance(wire.address), |tally| {
        wait_for_more(tally);
        // A new one, whose export is empty.
        let before = get(&tally.connections);
        *servers.lock().unwrap() = Server::start(&ServerOptions::default()).unwrap();
        wire.cut();
        // The idle one notices in the end.
        wait_for(|| get(&tally.connections) >= before + 2);
    });
    println!("{tally}");
    assert!(is_done);
    // Of two lanes four places each; of the idle one at the least what it had written by then.
    assert!(get(&tally.lost_bytes) >= 8 * (64 << 10), "{tally}");
}

#[test]
fn a_byte_that_changed_on_its_way_is_noticed() {
    let server = Server::start(&ServerOptions::default()).unwrap();
    let spoiled = Endurance { spoil: Some(3), ..endurance(server.local_address()) };
    let (tally, is_done) = run(&spoiled, wait_for_more);
    println!("{tally}");
    assert!(is_done);
    assert!(get(&tally.lost_bytes) >= 4096, "{tally}");
}

#[test]
fn a_server_that_does_not_come_back_is_no_success() {
    let server = Server::start(&ServerOptions::default()).unwrap();
    let address = server.local_address();
    let hurried = Endurance { patience: Duration::from_millis(500), ..endurance(address) };
    let (tally, is_done) = run(&hurried, |tally| {
        wait_for_more(tally);
        drop(server);
    });
    assert!(!is_done, "{tally}");
}
