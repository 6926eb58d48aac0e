//! What the engine's parts cost inside one process, without a socket.
//!
//! A [`Scenario`] is one piece of work of the engine, made ready again before each run. `benches/engine.rs` times them with
//! criterion; `sealane-icount` counts their instructions under callgrind and compares the counts with the recorded ones.

#![forbid(unsafe_code)]

mod handshake;
mod parts;
mod session;

use sealane_proto::tls::{Suite, TrafficKey, Version};

/// A piece of work that can be repeated.
pub trait Work {
    /// Makes the next run ready; not measured.
    fn prepare(&mut self) {}

    /// Does the work once.
    fn run(&mut self);
}

/// A named piece of work.
pub struct Scenario {
    /// `part/variant/size`, unique.
    pub name: String,
    /// Bytes of payload in one run; 0 where there are none.
    pub bytes: u64,
    /// Calls, records or loans in one run, that is what the cost is to be divided by.
    pub units: u64,
    make: Box<dyn Fn() -> Box<dyn Work> + Sync>,
}

impl Scenario {
    fn new<W: Work + 'static>(name: String, bytes: u64, units: u64, make: impl Fn() -> W + Sync + 'static) -> Self {
        Self { name, bytes, units, make: Box::new(move || Box::new(make())) }
    }

    /// The work, with all that it needs.
    pub fn work(&self) -> Box<dyn Work> {
        (self.make)()
    }
}

/// All of them.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = parts::scenarios();
    all.extend(session::scenarios());
    all.extend(handshake::scenarios());
    all
}

/// Does the work once. Only what is called from here is counted by `sealane-icount`.
#[inline(never)]
pub fn measured(work: &mut dyn Work) {
    work.run();
}

/// What is done in here is another one's, and not counted: callgrind stops counting where a function of a name like this one's
/// begins, and goes on where it ends.
#[inline(never)]
fn unmeasured<T>(other: impl FnOnce() -> T) -> T {
    other()
}

const VERSIONS: [(Version, &str); 2] = [(Version::Tls12, "tls12"), (Version::Tls13, "tls13")];
const SUITES: [(Suite, &str); 3] =
    [(Suite::Aes128Gcm, "aes128"), (Suite::Aes256Gcm, "aes256"), (Suite::ChaCha20Poly1305, "chacha20")];

fn key(version: Version, suite: Suite) -> TrafficKey {
    let bytes = if suite == Suite::Aes128Gcm { 16 } else { 32 };
    TrafficKey::new(version, suite, &[7; 32][..bytes], &[9; 12], 0).expect("a key of the right length")
}
