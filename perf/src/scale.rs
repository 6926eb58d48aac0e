//! How cost grows with the number of connections: busy ones, idle ones, new ones.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::certificates::{self, RunDirectory};
use crate::process::Process;
use crate::procfs::{self, Watch};
use crate::report::{Key, Spread};
use crate::subject::{ProgramOptions, SUBJECT_PORT, Setup, Subject};
use crate::tls::Tls;
use crate::window::{LOAD_PATIENCE, Run, WORKERS, Window, fields};
use crate::work::Work;
use crate::{namespace, now, plot};

const BUSY: [u32; 4] = [1, 4, 16, 64];
const IDLE: [u32; 3] = [0, 100, 1000];
/// Whose cost with many connections is looked at; the relay, with busy ones only, shows what the kernel's part does.
const SUBJECTS: [Subject; 7] = [
    Subject::Relay,
    Subject::Uring,
    Subject::Epoll,
    Subject::Stunnel,
    Subject::Nginx,
    Subject::Haproxy,
    Subject::Socat,
];
/// Others are compared by memory alone, which needs no long look.
const SHORT: Duration = Duration::from_secs(2);
/// Long enough for a tunnel to see that a connection does nothing.
const UNTIL_IDLE: Duration = Duration::from_secs(10);
/// A window in which others were busy is made again, until it has been made so often.
const TRIES: u32 = 3;
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Length of each window with busy or new connections
    #[arg(long, default_value = "1", value_parser = crate::compare::parse_seconds)]
    seconds: Duration,

    /// How often each is measured
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Calls outstanding on each busy connection [default: as in the comparison, 4 of READ and WRITE and 16 of GETATTR]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    depth: Option<u32>,

    /// Leave idle and new connections out
    #[arg(long)]
    busy_only: bool,

    /// For how long Sealane's idle connections are watched
    #[arg(long, default_value = "60", value_parser = crate::compare::parse_seconds)]
    idle_seconds: Duration,

    /// The version of TLS
    #[arg(long, value_enum, default_value = "1.3")]
    tls: Tls,

    #[command(flatten)]
    programs: ProgramOptions,

    /// Write scale.md, scale.csv and the plots into this directory
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,

    /// Reject windows in which others used more than this share of one processor
    #[arg(long, value_name = "SHARE", default_value = "0.1")]
    foreign_max: f64,

    /// The network namespace that must be left first; set by this program itself
    #[arg(long, hide = true)]
    outside: Option<String>,
}

/// One figure of a subject: of what, with how many connections.
pub(crate) struct Point {
    pub(crate) what: &'static str,
    pub(crate) subject: Subject,
    pub(crate) connections: u32,
    pub(crate) value: Spread,
}

pub(crate) const READ_COST: &str = "READ, CPU s/GiB";
pub(crate) const WRITE_COST: &str = "WRITE, CPU s/GiB";
const READ_RATE: &str = "READ, MiB/s";
const WRITE_RATE: &str = "WRITE, MiB/s";
pub(crate) const CALL_COST: &str = "GETATTR, CPU us/call";
const CALL_RATE: &str = "GETATTR, calls/s";
/// What is asked for on few and on many connections, by cost and by rate.
const WORKS: [(&str, &str, Work); 3] =
    [(READ_COST, READ_RATE, Work::Read), (WRITE_COST, WRITE_RATE, Work::Write), (CALL_COST, CALL_RATE, Work::Getattr)];
pub(crate) const RESIDENT: &str = "resident KiB";
const EACH: &str = "resident KiB for each idle connection";
const IDLE_CPU: &str = "CPU ms in 60 s with idle connections, from 10 s after their last call on";
const NEW_COST: &str = "CPU us for a new connection";
const NEW_RATE: &str = "new connections/s";
const NEW_LATENCY: &str = "new connection to first reply, p50 us";

/// Measures and prints.
///
/// # Errors
/// The first measurement that could not be made.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let Some(outside) = &options.outside else { return Err(namespace::enter()) };
    namespace::prepare(outside)?;
    allow_many_connections()?;
    let programs = options.programs.find()?;
    let directory = RunDirectory::create()?;
    let certificates = certificates::make(&directory)?;
    let subjects: Vec<Subject> = SUBJECTS.into_iter().filter(|it| programs.obstacle(*it).is_none()).collect();
    let setup = Setup { directory, certificates, programs };
    eprintln!("about a quarter of an hour with five rounds");
    let mut points = busy(options, &setup, &subjects)?;
    let proxies: Vec<Subject> = subjects.into_iter().filter(|it| *it != Subject::Relay).collect();
    if !options.busy_only {
        points.extend(idle(options, &setup, &proxies)?);
        points.extend(new(options, &setup, &proxies)?);
    }
    let text = markdown(&points);
    print!("{text}");
    if let Some(out) = &options.out {
        write_down(out, &text, &points)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A connection has an end in the load, two in the subject and one at the far end.
///
/// # Errors
/// What setrlimit says.
pub(crate) fn allow_many_connections() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("getrlimit")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("setrlimit")
}

fn busy(options: &Options, setup: &Setup, subjects: &[Subject]) -> Result<Vec<Point>> {
    let ticks_per_second = procfs::ticks_per_second()?;
    let run = Run { setup, seconds: options.seconds, foreign_max: options.foreign_max, ticks_per_second, rate: None };
    let is_busy = |it: &&Subject| it.is_sealane() || [Subject::Relay, Subject::Stunnel].contains(it);
    let mut points = Vec::new();
    for (cost, rate, work) in WORKS {
        // Costs and rates of each subject with each number of connections.
        let mut all: Vec<(Subject, u32, [Vec<f64>; 2])> = Vec::new();
        for subject in subjects.iter().filter(is_busy) {
            all.extend(BUSY.map(|connections| (*subject, connections, [Vec::new(), Vec::new()])));
        }
        for round in 1..=options.rounds {
            for (subject, connections, [costs, rates]) in &mut all {
                let key = Key { tls: options.tls, work, subject: *subject };
                let window = Window { round, key, connections: Some(*connections), depth: options.depth, run: &run };
                for _ in 0..TRIES {
                    let measured = window.measure().with_context(|| format!("{cost}, {connections} connections"));
                    let measured = match measured {
                        // What another proxy cannot do is left out.
                        Err(error) if subject.is_rival() => {
                            eprintln!("{error:#}");
                            continue;
                        }
                        measured => measured?,
                    };
                    if measured.accepted {
                        costs.push(measured.cost());
                        rates.push(measured.rate());
                        break;
                    }
                }
            }
            eprintln!("{cost}: round {round} of {} done", options.rounds);
        }
        for (subject, connections, values) in all {
            for (what, values) in [cost, rate].into_iter().zip(values) {
                let value = Spread::of(values.into_iter());
                points.extend(value.map(|value| Point { what, subject, connections, value }));
            }
        }
    }
    Ok(points)
}

fn idle(options: &Options, setup: &Setup, subjects: &[Subject]) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for subject in subjects {
        let mut residents = Vec::new();
        for connections in IDLE {
            let is_watched = subject.is_sealane() && connections == IDLE[2];
            let seconds = if is_watched { options.idle_seconds } else { SHORT };
            let warm_up = if is_watched { UNTIL_IDLE } else { SHORT };
            let count = connections.to_string();
            let [time, warm_up] = [seconds, warm_up].map(|time| time.as_secs_f64().to_string());
            let words = ["hold", "--connections", &count, "--warm-up", &warm_up, "--seconds", &time];
            let held = watched(setup, *subject, options.tls, &words)
                .with_context(|| format!("{}: {connections} idle connections", subject.name()))?;
            let point = |what, value| Point { what, subject: *subject, connections, value: Spread::one(value) };
            points.push(point(RESIDENT, held.resident_kib as f64));
            if is_watched {
                points.push(point(IDLE_CPU, held.cpu.as_secs_f64() * 1e3 * 60.0 / seconds.as_secs_f64()));
            }
            residents.push(held.resident_kib as f64);
        }
        if let [_, some, many] = residents.as_slice() {
            let value = Spread::one((many - some) / f64::from(IDLE[2] - IDLE[1]));
            points.push(Point { what: EACH, subject: *subject, connections: IDLE[2], value });
        }
        eprintln!("idle connections: {} done", subject.name());
    }
    Ok(points)
}

fn new(options: &Options, setup: &Setup, subjects: &[Subject]) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    let seconds = options.seconds.as_secs_f64().to_string();
    for subject in subjects {
        let mut all = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..options.rounds {
            let churned = watched(setup, *subject, options.tls, &["churn", "--seconds", &seconds])
                .with_context(|| format!("{}: new connections", subject.name()))?;
            let field = |name| churned.field(name);
            let (count, time) = (field("connections")?, field("seconds")?);
            let figures = [churned.cpu.as_secs_f64() * 1e6 / count.max(1.0), count / time, field("p50_us")?];
            all.iter_mut().zip(figures).for_each(|(values, value)| values.push(value));
        }
        for (what, values) in [NEW_COST, NEW_RATE, NEW_LATENCY].into_iter().zip(all) {
            let value = Spread::of(values.into_iter());
            points.extend(value.map(|value| Point { what, subject: *subject, connections: 4, value }));
        }
        eprintln!("new connections: {} done", subject.name());
    }
    Ok(points)
}

/// What a load said, and what its subject used meanwhile.
pub(crate) struct Watched {
    line: String,
    cpu: Duration,
    pub(crate) resident_kib: u64,
}

impl Watched {
    fn field(&self, name: &str) -> Result<f64> {
        let fields = fields(&self.line);
        fields.get(name).and_then(|text| text.parse().ok()).with_context(|| format!("no {name} in: {}", self.line))
    }
}

/// Runs a load, `words`, on a fresh subject.
///
/// # Errors
/// What could not be started, or what failed.
pub(crate) fn watched(setup: &Setup, subject: Subject, tls: Tls, words: &[&str]) -> Result<Watched> {
    let mut server = setup.start_server(subject, tls, 0)?;
    let process = setup.start_subject(subject, tls, WORKERS)?.context("a subject without a process")?;
    let connect = format!("127.0.0.1:{SUBJECT_PORT}");
    let mut load = setup.start_load(&[words, &["--connect", &connect]].concat())?;
    let said = || format!("the log of {}:\n{}", subject.name(), process.log());
    let measured = follow(&mut load, &process).with_context(said)?;
    if !load.wait(LOAD_PATIENCE)? {
        bail!("the load failed\n{}", load.log());
    }
    drop(process);
    server.terminate()?;
    Ok(measured)
}

fn follow(load: &mut Process, subject: &Process) -> Result<Watched> {
    let deadline = now() + Duration::from_secs(600) + LOAD_PATIENCE;
    let (mut watch, mut resident_kib) = (None, 0);
    loop {
        if now() >= deadline {
            bail!("the load does not end\n{}", load.log());
        }
        match load.lines.recv_timeout(LOOK_EVERY) {
            Ok(line) if line == "mark=begin" => watch = Some(Watch::begin(subject.pid())?),
            Ok(line) if line == "mark=end" => {
                watch.as_mut().map_or(Ok(()), Watch::look)?;
                resident_kib = procfs::resident_kib(subject.pid())?;
            }
            Ok(line) => {
                let cpu_ns = watch.context("a load without a window")?.usage().cpu_ns;
                return Ok(Watched { line, cpu: Duration::from_nanos(cpu_ns), resident_kib });
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the load failed\n{}", load.log()),
            Err(RecvTimeoutError::Timeout) => watch.as_mut().map_or(Ok(()), Watch::look)?,
        }
    }
}

fn markdown(points: &[Point]) -> String {
    let mut text = String::new();
    let mut whats: Vec<&str> = points.iter().map(|point| point.what).collect();
    whats.dedup();
    let mut seen = Vec::new();
    for what in whats {
        if seen.contains(&what) {
            continue;
        }
        seen.push(what);
        let here: Vec<&Point> = points.iter().filter(|point| point.what == what).collect();
        let mut counts: Vec<u32> = here.iter().map(|point| point.connections).collect();
        let is_busy = WORKS.iter().any(|(cost, rate, _)| *cost == what || *rate == what);
        if is_busy {
            counts.extend(BUSY);
        }
        counts.sort_unstable();
        counts.dedup();
        let heads: Vec<String> = counts.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "## {what}\n\n| connections | {} | most to least |", heads.join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(counts.len() + 1));
        let mut subjects: Vec<Subject> = here.iter().map(|point| point.subject).collect();
        subjects.dedup();
        for subject in subjects {
            let own: Vec<&&Point> = here.iter().filter(|point| point.subject == subject).collect();
            let none = if is_busy { "not measured" } else { "" };
            let cell = |count: &u32| {
                own.iter().find(|point| point.connections == *count).map_or(none.to_string(), |point| {
                    let Spread { median, min, max } = point.value;
                    let digits = if median < 10.0 { 3 } else { 0 };
                    if min < max {
                        format!("{median:.digits$} [{min:.digits$}-{max:.digits$}]")
                    } else {
                        format!("{median:.digits$}")
                    }
                })
            };
            let cells: Vec<String> = counts.iter().map(cell).collect();
            let medians = || own.iter().map(|point| point.value.median);
            let (most, least) = (medians().fold(f64::MIN, f64::max), medians().fold(f64::MAX, f64::min));
            let is_whole = !is_busy || counts.iter().all(|count| own.iter().any(|point| point.connections == *count));
            let ratio = if is_whole && own.len() > 1 { format!("{:.2}", most / least) } else { String::new() };
            let _ = writeln!(text, "| {} | {} | {ratio} |", subject.name(), cells.join(" | "));
        }
        text.push('\n');
    }
    text
}

fn write_down(out: &Path, text: &str, points: &[Point]) -> Result<()> {
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let mut raw = "what,subject,connections,median,min,max\n".to_string();
    for Point { what, subject, connections, value: Spread { median, min, max } } in points {
        let _ = writeln!(raw, "\"{what}\",{},{connections},{median:.4},{min:.4},{max:.4}", subject.name());
    }
    for (name, content) in [("scale.md", text), ("scale.csv", &raw)] {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| path.display().to_string())?;
    }
    plot::curves(&out.join("scale-read.svg"), READ_COST, points)?;
    plot::curves(&out.join("scale-write.svg"), WRITE_COST, points)?;
    plot::curves(&out.join("scale-write-rate.svg"), WRITE_RATE, points)?;
    plot::curves(&out.join("scale-read-rate.svg"), READ_RATE, points)?;
    plot::curves(&out.join("scale-getattr.svg"), CALL_COST, points)?;
    plot::curves(&out.join("scale-memory.svg"), RESIDENT, points)
}
