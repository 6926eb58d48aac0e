//! Connections that come and go.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::growth::{self, SETTLE_MAX};
use crate::lab::{Lab, total};
use crate::peer::{End, Peer, expect_reset, visit};
use crate::sample::Sample;
use crate::{Window, now};

/// Connections at the same time that the tunnels allow: after the storm exactly so many must fit again.
const CONNECTIONS_MAX: usize = 200;
/// Who makes connections, one at a time.
const VISITORS: usize = 8;
/// Enough to fill what has a limit: 1,024 sessions in the server's cache at two tickets for each connection, and more
/// for the allocator to find its size.
const WARM_UP: u64 = 1600;
/// What a storm may leave in resident memory. It leaves nothing; 300 bytes for each of a thousand would be too much.
const RSS_KIB_MAX: u64 = 256;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    window: Window,

    /// Connections in a minute
    #[arg(long, value_name = "N", default_value = "5000", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    per_minute: u64,
}

/// Runs the storm and says what is left of it.
///
/// # Errors
/// What has grown, or a connection that failed.
pub(crate) fn run(sealane: &Path, driver: &str, options: &Options) -> Result<String> {
    let mut lab = Lab::start(sealane, driver, CONNECTIONS_MAX, &[])?;
    let address = lab.client.address;
    Peer::connect(address)?.end(End::Silent)?;
    let fresh = lab.settle(None, SETTLE_MAX)?;
    visits(address, WARM_UP, Duration::ZERO).context("warm-up")?;
    // A descriptor or a thread for the whole process may have come; more would be of the connections.
    let rest = fresh.map(|sample| Sample { fds: sample.fds + 2, threads: sample.threads + 2, ..sample });
    let before = growth::check(&lab, &rest, u64::MAX).context("warm-up")?;
    let count = options.per_minute * options.window.seconds / 60;
    let took = visits(address, count, Duration::from_secs(60) / options.per_minute as u32)?; // at most a million
    let rate = count as f64 * 60.0 / took.as_secs_f64();
    ensure!(rate > options.per_minute as f64 * 0.9, "only {rate:.0} connections a minute: the host cannot make more");
    let after = growth::check(&lab, &before, RSS_KIB_MAX)?;
    full_house(&lab)?;
    lab.settle(None, SETTLE_MAX)?;
    let totals = lab.client.terminate()?;
    let (accepted, refused) =
        (total(&totals, "connections_accepted_total"), total(&totals, "connections_refused_total"));
    let expected = 1 + WARM_UP + count + CONNECTIONS_MAX as u64 + 1;
    ensure!((accepted, refused) == (expected, 1), "{expected} connections with 1 refused, but: {totals}");
    lab.server.terminate()?;
    Ok(format!("{count} connections at {rate:.0} a minute; {}", growth::in_words(&before, &after)))
}

/// As many connections as are allowed, at the same time, and one more, which is reset: nobody counts who is gone.
fn full_house(lab: &Lab) -> Result<()> {
    let mut peers = Vec::new();
    for number in 0..CONNECTIONS_MAX {
        let mut peer = Peer::connect(lab.client.address)?;
        peer.calls(1).with_context(|| format!("{number} connections after the storm, of {CONNECTIONS_MAX}"))?;
        peers.push(peer);
    }
    expect_reset(lab.client.address).context("one connection more than there may be")?;
    peers.into_iter().try_for_each(|peer| peer.end(End::Orderly))
}

/// Makes `count` visits, one each `pause`, and returns how long that took.
fn visits(address: SocketAddr, count: u64, pause: Duration) -> Result<Duration> {
    let (next, started) = (AtomicU64::new(0), now());
    let visitor = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            thread::sleep((started + pause * number as u32).saturating_duration_since(now())); // a few million
            visit(address, number).with_context(|| format!("connection {number}"))?;
        }
    };
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..VISITORS).map(|_| scope.spawn(visitor)).collect();
        for visitor in visitors {
            match visitor.join() {
                Ok(done) => done?,
                Err(_panic) => bail!("a thread panicked"),
            }
        }
        Ok(now() - started)
    })
}
