//! The record layer, the RPC scanner and the buffer pool, each alone.

use std::hint::black_box;
use std::ops::Range;

use sealane_io::{Buffer, Pool, PoolLayout};
use sealane_proto::limits::{
    BUFFER_BIG_BYTES, BUFFER_BIG_SLICES, BUFFER_SMALL_BYTES, BUFFER_SMALL_SLICES, RECORD_PLAIN_BYTES_MAX,
};
use sealane_proto::rpc::RecordScanner;
use sealane_proto::tls::{Inbound, Pieces, Progress, Role, Sealer, Suite, Version, Window};

use crate::{SUITES, Scenario, VERSIONS, Work, key};

const SIZES: [(usize, &str); 4] = [(200, "200B"), (4096, "4KiB"), (16 << 10, "16KiB"), (1 << 20, "1MiB")];

/// Sizes of RPC messages for the scanner: a GETATTR's and a 1 MiB WRITE's.
const MESSAGES: [(usize, usize, &str); 2] = [(200, 1000, "1000x200B"), ((1 << 20) + 200, 1, "1x1MiB")];

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (version, version_name) in VERSIONS {
        for (suite, suite_name) in SUITES {
            for (bytes, size) in SIZES {
                let records = bytes.div_ceil(RECORD_PLAIN_BYTES_MAX) as u64;
                let name = |part| format!("{part}/{version_name}/{suite_name}/{size}");
                all.push(Scenario::new(name("seal"), bytes as u64, records, move || Seal::new(version, suite, bytes)));
                all.push(Scenario::new(name("open"), bytes as u64, records, move || Open::new(version, suite, bytes)));
            }
        }
    }
    for (bytes, count, size) in MESSAGES {
        let total = (bytes * count) as u64;
        all.push(Scenario::new(format!("scan/{size}"), total, count as u64, move || Scan::new(bytes, count)));
    }
    for (is_big, size) in [(false, "small"), (true, "big")] {
        all.push(Scenario::new(format!("pool/{size}"), 0, LOANS, move || Lend { pool: pool(), is_big }));
    }
    all
}

/// Seals what lies in a buffer; what is sealed before is as good a plaintext as any.
struct Seal {
    sealer: Sealer,
    wire: Vec<u8>,
    bytes: usize,
}

impl Seal {
    fn new(version: Version, suite: Suite, bytes: usize) -> Self {
        let sealer = Sealer::new(&key(version, suite));
        let wire = vec![3; bytes.div_ceil(RECORD_PLAIN_BYTES_MAX) * sealer.shape().stride()];
        Self { sealer, wire, bytes }
    }
}

impl Work for Seal {
    fn run(&mut self) {
        let sealed = self.sealer.seal(&mut self.wire, self.bytes).expect("a fresh key");
        black_box(sealed);
    }
}

/// Opens what a sealer sealed for it.
struct Open {
    sealer: Sealer,
    inbound: Inbound,
    buffer: Vec<u8>,
    window: Window,
    bytes: usize,
}

impl Open {
    fn new(version: Version, suite: Suite, bytes: usize) -> Self {
        let key = key(version, suite);
        let buffer = vec![3; BUFFER_BIG_BYTES];
        Self {
            sealer: Sealer::new(&key),
            inbound: Inbound::new(Role::Client, &key),
            buffer,
            window: Window::default(),
            bytes,
        }
    }
}

struct Sum(usize);

impl Pieces for Sum {
    fn push(&mut self, range: Range<usize>) -> bool {
        self.0 += range.len();
        true
    }

    fn grow_last(&mut self, _end: usize) {}
}

impl Work for Open {
    fn prepare(&mut self) {
        self.window = Window::default();
        let plan = self.window.plan(&mut self.buffer);
        let sealed = self.sealer.seal(&mut self.buffer, self.bytes).expect("a fresh key");
        assert!(sealed <= plan.near.len(), "{sealed} bytes do not fit");
        self.window.filled(sealed);
    }

    fn run(&mut self) {
        let mut sum = Sum(0);
        let progress = self.inbound.advance(&mut self.buffer, self.window.cursor(), &mut sum).expect("good records");
        assert!(progress == Progress::NeedBytes && sum.0 == self.bytes, "not all was opened");
    }
}

/// The scanner over a stream of calls.
struct Scan {
    stream: Vec<u8>,
    scanner: RecordScanner,
}

impl Scan {
    fn new(bytes: usize, count: usize) -> Self {
        let stream = (0..count).flat_map(|index| message(bytes, index as u32, 0)).collect();
        Self { stream, scanner: RecordScanner::new() }
    }
}

/// An RPC record of `bytes` with its mark: a call (`kind` 0), or a reply (1).
pub(crate) fn message(bytes: usize, xid: u32, kind: u32) -> Vec<u8> {
    let mark = 1 << 31 | (bytes - 4) as u32;
    let version = if kind == 0 { 2 } else { 0 };
    let mut message: Vec<u8> = [mark, xid, kind, version].iter().flat_map(|word| word.to_be_bytes()).collect();
    message.resize(bytes, 5);
    message
}

impl Work for Scan {
    fn run(&mut self) {
        let ended = self.scanner.advance(black_box(&self.stream)).expect("RPC");
        black_box(ended);
    }
}

/// Buffers lent and given back.
struct Lend {
    pool: Pool,
    is_big: bool,
}

const LOANS: u64 = 1000;

fn pool() -> Pool {
    Pool::new(PoolLayout {
        small_bytes: BUFFER_SMALL_BYTES,
        small_count: 16,
        small_slices: BUFFER_SMALL_SLICES,
        big_bytes: BUFFER_BIG_BYTES,
        big_count: 16,
        big_slices: BUFFER_BIG_SLICES,
        small_prefaulted: 0,
    })
    .expect("memory")
}

impl Work for Lend {
    fn run(&mut self) {
        for _ in 0..LOANS {
            let buffer: Option<Buffer> = if self.is_big { self.pool.big() } else { self.pool.small() };
            black_box(buffer.is_some());
        }
    }
}
