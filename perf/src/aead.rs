//! What sealing and opening cost alone: the record layer on one buffer, without a socket.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use sealane_proto::limits::BUFFER_BIG_BYTES;
use sealane_proto::tls::{Inbound, Pieces, Role, Sealer, Suite, TrafficKey, Version, Window};

use crate::now;
use crate::tls::Tls;

const PLAIN_BYTES: usize = 1 << 20;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The TLS version
    #[arg(long, value_enum, default_value = "1.2")]
    tls: Tls,

    /// How long
    #[arg(long, default_value = "0.5", value_parser = crate::compare::parse_seconds)]
    seconds: Duration,
}

struct Count(usize);

impl Pieces for Count {
    fn push(&mut self, range: Range<usize>) -> bool {
        self.0 += range.len();
        true
    }

    fn grow_last(&mut self, _end: usize) {}
}

/// Prints `seal=CPU_S_PER_GIB open=CPU_S_PER_GIB`.
///
/// # Errors
/// What was sealed does not open.
pub(crate) fn run(options: &Options) -> Result<()> {
    let version = match options.tls {
        Tls::Tls12 => Version::Tls12,
        Tls::Tls13 => Version::Tls13,
    };
    let key = TrafficKey::new(version, Suite::Aes128Gcm, &[7; 16], &[9; 12], 0)?;
    let (mut sealer, mut inbound) = (Sealer::new(&key), Inbound::new(Role::Client, &key));
    let mut buffer = vec![3; BUFFER_BIG_BYTES];
    let (mut sealing, mut opening) = (Vec::new(), Vec::new());
    let deadline = now() + options.seconds;
    while now() < deadline {
        let started = now();
        let sealed = sealer.seal(&mut buffer, PLAIN_BYTES)?;
        let between = now();
        let mut window = Window::holding(sealed);
        let mut count = Count(0);
        inbound.advance(&mut buffer, window.cursor(), &mut count)?;
        opening.push(now() - between);
        sealing.push(between - started);
        ensure!(count.0 == PLAIN_BYTES, "{} bytes were opened", count.0);
    }
    println!("seal={:.5} open={:.5}", seconds_per_gib(&mut sealing), seconds_per_gib(&mut opening));
    Ok(())
}

/// The median, so that a time in which others had the processor does not count.
fn seconds_per_gib(times: &mut [Duration]) -> f64 {
    times.sort();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    middle.as_secs_f64() * f64::from(1 << 30) / PLAIN_BYTES as f64
}
