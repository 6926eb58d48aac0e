//! The whole relay on a simulated driver.
//!
//! A seed decides everything: how the network behaves, what both peers of each connection say, and what goes wrong. The
//! clock is virtual, so that minutes take no time. In each world the first connection is spared, and must move all its bytes
//! while its neighbours fail.

#![forbid(unsafe_code)]
#![allow(clippy::indexing_slicing, reason = "a peer that runs out of bounds is a failed seed")]

mod credentials;
mod driver;
mod judge;
mod moment;
mod network;
mod peer;
mod plan;
mod random;
mod records;
mod rpc;
mod stats;
mod trace;
mod transport;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;

use crate::stats::{Fault, Stats};
use crate::world::Report;

/// A kind of fault that happens in fewer than one seed of so many is not tested.
const SEEDS_PER_FAULT_MAX: u64 = 100;
/// With fewer seeds than this the share of a fault says nothing.
const SEEDS_FOR_SHARES_MIN: u64 = 2000;

/// The whole relay on a simulated network, seed by seed
#[derive(Debug, Parser)]
struct Options {
    /// How many seeds
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// The first one
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this one, with its plan and every event
    #[arg(long)]
    replay: Option<u64>,
    /// Run each seed twice and compare
    #[arg(long)]
    twice: bool,
    /// Stop at the first failure, and judge no shares
    #[arg(long)]
    until_failure: bool,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: u64,
}

/// Any thread's seed has failed.
static FAILED: AtomicBool = AtomicBool::new(false);

#[derive(Default)]
struct Totals {
    seeds: u64,
    bytes: [u64; 2],
    /// In how many seeds each fault happened.
    seeds_with: Stats,
    happened: BTreeMap<Fault, u64>,
    /// From a fault to the end of its connection, at most.
    longest: BTreeMap<Fault, Duration>,
    failures: Vec<(u64, String)>,
}

impl Totals {
    fn add(&mut self, seed: u64, report: Result<Report, String>, again: Option<Result<Report, String>>) {
        self.seeds += 1;
        match report {
            Err(panic) => self.failures.push((seed, format!("panic: {panic}"))),
            Ok(report) => {
                if let Some(Ok(again)) = again
                    && again.hash != report.hash
                {
                    self.failures.push((seed, "two runs differ".into()));
                }
                self.failures.extend(report.wrong.into_iter().map(|wrong| (seed, wrong)));
                self.bytes = [self.bytes[0] + report.bytes[0], self.bytes[1] + report.bytes[1]];
                report.longest.into_iter().for_each(|(fault, duration)| self.lasted(fault, duration));
                for fault in Fault::ALL {
                    let count = report.stats.get(*fault);
                    *self.happened.entry(*fault).or_default() += count;
                    if count > 0 {
                        self.seeds_with.count(*fault);
                    }
                }
            }
        }
    }

    fn lasted(&mut self, fault: Fault, duration: Duration) {
        let longest = self.longest.entry(fault).or_default();
        *longest = duration.max(*longest);
    }

    fn join(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.bytes = [self.bytes[0] + other.bytes[0], self.bytes[1] + other.bytes[1]];
        for fault in Fault::ALL {
            (0..other.seeds_with.get(*fault)).for_each(|_| self.seeds_with.count(*fault));
            *self.happened.entry(*fault).or_default() += other.happened.get(fault).copied().unwrap_or(0);
        }
        other.longest.into_iter().for_each(|(fault, duration)| self.lasted(fault, duration));
        self.failures.extend(other.failures);
    }
}

fn run(seed: u64, is_printed: bool) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| world::run(seed, is_printed))).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(seed) = options.replay {
        let mut totals = Totals::default();
        totals.add(seed, run(seed, true), None);
        return finish(&totals, false);
    }
    let threads = options.threads.max(1);
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let seeds = (options.from..options.from + options.seeds).skip(thread as usize).step_by(threads as usize);
            std::thread::spawn(move || {
                let mut totals = Totals::default();
                for seed in seeds {
                    if options.until_failure && FAILED.load(Ordering::Relaxed) {
                        break;
                    }
                    let again = options.twice.then(|| run(seed, false));
                    totals.add(seed, run(seed, false), again);
                    FAILED.fetch_or(!totals.failures.is_empty(), Ordering::Relaxed);
                }
                totals
            })
        })
        .collect();
    let mut totals = Totals::default();
    for worker in workers {
        match worker.join() {
            Ok(part) => totals.join(part),
            Err(_) => totals.failures.push((0, "a thread ended".into())),
        }
    }
    finish(&totals, options.seeds >= SEEDS_FOR_SHARES_MIN && !options.until_failure)
}

/// Prints what happened and what failed.
fn finish(totals: &Totals, judges_shares: bool) -> ExitCode {
    let Totals { seeds, bytes: [from_plain, to_plain], seeds_with, happened, longest, failures } = totals;
    println!("{:<20} {:>12} {:>10} {:>12}", "fault", "happened", "in seeds", "to end in ms");
    let mut rare = Vec::new();
    for fault in Fault::ALL {
        let name = format!("{fault:?}");
        let lasted = longest.get(fault).map_or(String::new(), |longest| longest.as_millis().to_string());
        let happened = happened.get(fault).copied().unwrap_or(0);
        println!("{name:<20} {happened:>12} {:>10} {lasted:>12}", seeds_with.get(*fault));
        if seeds_with.get(*fault) * SEEDS_PER_FAULT_MAX < *seeds {
            rare.push(name);
        }
    }
    let mib = |bytes: &u64| bytes >> 20;
    println!("{seeds} seeds; {} MiB from the plain side and {} MiB to it compared", mib(from_plain), mib(to_plain));
    let mut failed: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
    failed.sort_unstable();
    failed.dedup();
    for (seed, wrong) in failures.iter().take(20) {
        println!("FAILED seed {seed}: {wrong}");
        println!("  replay it with: cargo run --release -p sealane-sim -- --replay {seed}");
    }
    if judges_shares && !rare.is_empty() {
        println!("FAILED in fewer than 1 % of the seeds: {}", rare.join(", "));
    }
    let failures = failed.len() + usize::from(judges_shares && !rare.is_empty());
    println!("sim: {} passed, {failures} failed, 0 not run", *seeds as usize - failed.len());
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
