//! `sealane-icount`: instruction counts of the engine's parts, under callgrind, as a gate.

#![forbid(unsafe_code)]

mod callgrind;
mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use sealane_bench::{Scenario, measured, scenarios};

use record::{Record, Tools};

/// A handshake may cost so much more if it is known already whether the certificate was revoked than if nobody asks.
const KNOWING_RATIO_MAX: f64 = 1.05;

/// A count that is higher than the recorded one by more than this fails.
const RISE_PERCENT_MAX: f64 = 3.0;

/// Counts instructions of the engine's parts under callgrind (Debian: valgrind).
///
/// Ciphers and copies of the C library are not counted: valgrind shows the program another processor than the
/// host's, which takes other ways through them. What is counted is framing and bookkeeping.
#[derive(Parser)]
#[command(
    name = "sealane-icount",
    version,
    after_help = "\
Examples:
  sealane-icount check           compares with bench/icount.txt; status 1 if a count rose by more than 3 %
  sealane-icount check session   only those whose names have this in them
  sealane-icount update          records the counts of today; say in the commit why they changed
  sealane-icount functions session/tls13/write    where the instructions of one go"
)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Compares with the recorded counts.
    Check {
        /// Part of a name.
        filter: Option<String>,
    },
    /// Records the counts of today.
    Update,
    /// Prints the most expensive functions of a scenario.
    Functions {
        /// Its whole name.
        name: String,
    },
    /// Lists the scenarios.
    List,
    /// Does a scenario once; what the others run under valgrind.
    #[command(hide = true)]
    Run { name: String },
}

fn main() -> ExitCode {
    match act(Arguments::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sealane-icount: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> Result<ExitCode> {
    match action {
        Action::Run { name } => run(&find(&name)?),
        Action::List => scenarios().iter().for_each(|scenario| println!("{}", scenario.name)),
        Action::Functions { name } => functions(&find(&name)?)?,
        Action::Update => update()?,
        Action::Check { filter } => return check(filter.as_deref().unwrap_or_default()),
    }
    Ok(ExitCode::SUCCESS)
}

fn recorded_at() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("icount.txt")
}

fn find(name: &str) -> Result<Scenario> {
    let found = scenarios().into_iter().find(|scenario| scenario.name == name);
    found.with_context(|| format!("there is no scenario {name:?}: see `sealane-icount list`"))
}

fn run(scenario: &Scenario) {
    let mut work = scenario.work();
    // Twice, so that what was left behind by the first time shows.
    for _ in 0..2 {
        work.prepare();
        measured(work.as_mut());
    }
}

/// Instructions for each unit of a scenario, over both runs.
#[derive(Clone, Copy)]
struct Count {
    /// What does not depend on the processor.
    ours: f64,
    /// All of them.
    all: f64,
}

fn count(scenario: &Scenario) -> Result<Count> {
    let functions = callgrind::functions(&scenario.name)?;
    let (mut ours, mut all) = (0, 0);
    for function in &functions {
        all += function.instructions;
        ours += if function.is_excluded() { 0 } else { function.instructions };
    }
    if ours == 0 {
        bail!("{}: nothing was counted", scenario.name);
    }
    let each = |sum| sum as f64 / (2 * scenario.units) as f64;
    Ok(Count { ours: each(ours), all: each(all) })
}

/// The same of each, in their order, on all processors: a count does not depend on what else is running.
fn counts(scenarios: &[&Scenario]) -> Result<Vec<Count>> {
    let lanes = thread::available_parallelism().map_or(1, usize::from);
    let lane = |first: usize| -> Vec<Result<Count>> {
        scenarios.iter().skip(first).step_by(lanes).map(|scenario| count(scenario)).collect()
    };
    let mut counted: Vec<_> = thread::scope(|scope| {
        let started: Vec<_> = (0..lanes).map(|first| scope.spawn(move || lane(first).into_iter())).collect();
        started.into_iter().map(|lane| lane.join().unwrap_or_default()).collect()
    });
    let in_turn = (0..scenarios.len()).map(|index| counted.get_mut(index % lanes).and_then(Iterator::next));
    in_turn.map(|count| count.context("a count was broken off")?).collect()
}

fn functions(scenario: &Scenario) -> Result<()> {
    let mut functions = callgrind::functions(&scenario.name)?;
    functions.sort_by_key(|function| std::cmp::Reverse(function.instructions));
    println!("instructions per unit ({} units), [not counted]", scenario.units);
    for function in functions.iter().take(40) {
        let each = function.instructions as f64 / (2 * scenario.units) as f64;
        let name = if function.is_excluded() { format!("[{}]", function.name) } else { function.name.clone() };
        println!("{each:12.1} {name}");
    }
    Ok(())
}

fn update() -> Result<()> {
    let mut record = Record::new(Tools::of_this_host()?);
    let all = scenarios();
    for (scenario, count) in all.iter().zip(counts(&all.iter().collect::<Vec<_>>())?) {
        println!("{:12.1} {}", count.ours, scenario.name);
        record.counts.insert(scenario.name.clone(), count.ours);
    }
    let path = recorded_at();
    std::fs::write(&path, record.to_string()).with_context(|| path.display().to_string())
}

/// Of those that ask, how much more they cost than those that do not: ciphers included, both counted now.
fn costs_of_knowing<'n>(counts: &BTreeMap<&'n str, Count>) -> Vec<(&'n str, f64)> {
    let pair = |(name, count): (&&'n str, &Count)| {
        let other = name.strip_suffix("/ocsp-hard")?.to_string() + "/ocsp-off";
        counts.get(other.as_str()).map(|other| (*name, count.all / other.all))
    };
    counts.iter().filter_map(pair).collect()
}

fn check(filter: &str) -> Result<ExitCode> {
    let path = recorded_at();
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let recorded = Record::parse(&text).with_context(|| path.display().to_string())?;
    let tools = Tools::of_this_host()?;
    if recorded.tools != tools {
        bail!(
            "the counts were recorded with {}, here are {tools}: re-record them (`sealane-icount update`)",
            recorded.tools
        );
    }
    let (mut passed, mut failed) = (0, 0);
    let all = scenarios();
    for name in recorded.counts.keys().filter(|name| all.iter().all(|scenario| scenario.name != **name)) {
        println!("FAILED {name}: recorded, but there is no such scenario: re-record");
        failed += 1;
    }
    let chosen: Vec<_> = all.iter().filter(|scenario| scenario.name.contains(filter)).collect();
    let counted = counts(&chosen)?;
    let named: BTreeMap<&str, Count> = chosen.iter().map(|scenario| scenario.name.as_str()).zip(counted).collect();
    for (name, Count { ours: count, .. }) in &named {
        let Some(before) = recorded.counts.get(*name) else {
            println!("FAILED {name}: {count:.1}, not recorded: re-record");
            failed += 1;
            continue;
        };
        let change = (count / before - 1.0) * 100.0;
        let line = format!("{name}: {count:.1} instructions, recorded {before:.1} ({change:+.1} %)");
        if change > RISE_PERCENT_MAX {
            println!("FAILED {line}");
            failed += 1;
        } else {
            println!("ok {line}");
            passed += 1;
        }
    }
    for (name, ratio) in costs_of_knowing(&named) {
        let line = format!("{name}: {:+.1} % of one that nobody asks about", (ratio - 1.0) * 100.0);
        if ratio > KNOWING_RATIO_MAX {
            println!("FAILED {line}");
            failed += 1;
        } else {
            println!("ok {line}");
            passed += 1;
        }
    }
    println!("icount: {passed} passed, {failed} failed, 0 not run");
    Ok(if failed > 0 || passed == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
