//! The comparison: every subject in turn, round by round, each in a fresh process and with a fresh far end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::certificates::{self, RunDirectory};
use crate::report::{self, Floor, Floors, Key, Measurement, Memory, Summary};
use crate::subject::{ProgramOptions, Programs, SUBJECT_CPU, Setup, Subject};
use crate::tls::Tls;
use crate::window::{LOAD_PATIENCE, Run, WARM_UP, WORKERS, Window, fields};
use crate::work::Work;
use crate::{calls, namespace, now, plot, procfs, scale};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Length of each window
    #[arg(long, default_value = "1", value_parser = parse_seconds)]
    seconds: Duration,

    /// How often each subject is measured with each work
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Less of everything, for a look while developing: three rounds, TLS 1.3, few subjects
    #[arg(long, conflicts_with_all = ["seconds", "rounds", "subjects", "works", "tls"])]
    quick: bool,

    /// What is measured, in this order [default: all but those that never spin; with `getattr-alone` and `getattr-far`, which
    /// are about spinning, those as well, and with the latter nobody else]
    #[arg(long, value_enum, value_delimiter = ',')]
    subjects: Option<Vec<Subject>>,

    /// With which calls
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = WORKS)]
    works: Vec<Work>,

    /// Make so many calls a second on each connection, whether or not replies come in time (an open loop): latency then counts
    /// from when a call was to be made
    #[arg(long, value_name = "CALLS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,

    /// With which versions of TLS
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Tls::Tls12, Tls::Tls13])]
    tls: Vec<Tls>,

    #[command(flatten)]
    programs: ProgramOptions,

    /// Write README.md, raw.csv, summary.md and the plots into this directory
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,

    /// Reject windows in which others used more than this share of one processor
    #[arg(long, value_name = "SHARE", default_value = "0.1")]
    foreign_max: f64,

    /// Make each rejected window so many times again
    #[arg(long, default_value = "2", value_parser = clap::value_parser!(u32).range(..=10))]
    retries: u32,

    /// Exit with status 1 unless Sealane's CPU on read and write is at most this share of stunnel's
    #[arg(long, value_name = "RATIO")]
    bar: Option<f64>,

    /// The network namespace that must be left first; set by this program itself
    #[arg(long, hide = true)]
    outside: Option<String>,
}

const SUBJECTS: [Subject; 12] = [
    Subject::Direct,
    Subject::Relay,
    Subject::Uring,
    Subject::Epoll,
    Subject::Stunnel,
    Subject::StunnelTuned,
    Subject::Nginx,
    Subject::NginxTuned,
    Subject::Haproxy,
    Subject::HaproxyTuned,
    Subject::Socat,
    Subject::SocatTuned,
];
/// What windows that are made again may take in all.
const RETRIES_FOR: Duration = Duration::from_secs(60);
const RETRIES_FOR_QUICK: Duration = Duration::from_secs(15);
const SLEEPING: [Subject; 2] = [Subject::UringSleeping, Subject::EpollSleeping];
const SPINNING_OR_NOT: [Subject; 4] = [Subject::Uring, Subject::Epoll, Subject::UringSleeping, Subject::EpollSleeping];
const WORKS: [Work; 5] = [Work::Read, Work::Write, Work::Getattr, Work::GetattrAlone, Work::GetattrFar];
const QUICK_WORKS: [Work; 4] = [Work::Read, Work::Write, Work::Getattr, Work::GetattrAlone];

const QUICK_SUBJECTS: [Subject; 5] =
    [Subject::Relay, Subject::Uring, Subject::Epoll, Subject::Stunnel, Subject::HaproxyTuned];

impl Options {
    /// Those that `work` is measured with.
    fn subjects(&self, work: Work, programs: &Programs) -> Vec<Subject> {
        let mut all = match (&self.subjects, work) {
            (Some(subjects), _) => subjects.clone(),
            (None, _) if self.quick => QUICK_SUBJECTS.to_vec(),
            (None, Work::GetattrFar) => return SPINNING_OR_NOT.to_vec(),
            (None, Work::GetattrAlone) => [&SUBJECTS[..], &SLEEPING].concat(),
            (None, _) => SUBJECTS.to_vec(),
        };
        all.extend(programs.ghostunnel.is_some().then_some(Subject::Ghostunnel));
        all.extend(programs.efs_proxy.is_some().then_some(Subject::EfsProxy));
        all
    }

    /// With what `--quick` stands for, and without what is not here.
    fn settled(&self, programs: &Programs) -> Plan {
        let (rounds, works, tls) = match self.quick {
            true => (3, QUICK_WORKS.to_vec(), vec![Tls::Tls13]),
            false => (self.rounds, self.works.clone(), self.tls.clone()),
        };
        let mut works: Vec<_> = works.into_iter().map(|work| (work, self.subjects(work, programs))).collect();
        let mut missing = BTreeMap::new();
        for (_, subjects) in &mut works {
            subjects.retain(|subject| {
                let obstacle = programs.obstacle(*subject);
                let is_here = obstacle.is_none();
                missing.extend(obstacle.map(|obstacle| (*subject, obstacle)));
                is_here
            });
        }
        for (subject, obstacle) in missing {
            println!("not run: {}: {obstacle}", subject.name());
        }
        Plan { seconds: self.seconds, rounds, works, tls, rate: self.rate, is_quick: self.quick }
    }
}

/// What a run measures.
pub(crate) struct Plan {
    pub(crate) seconds: Duration,
    pub(crate) rounds: u32,
    /// Each with what it is measured of.
    pub(crate) works: Vec<(Work, Vec<Subject>)>,
    pub(crate) tls: Vec<Tls>,
    /// Calls a second on each connection; none: as many as are answered.
    pub(crate) rate: Option<u32>,
    pub(crate) is_quick: bool,
}

impl Plan {
    /// Everybody who takes part, each once.
    fn subjects(&self) -> Vec<Subject> {
        let mut all = Vec::new();
        for subject in self.works.iter().flat_map(|(_, subjects)| subjects) {
            if !all.contains(subject) {
                all.push(*subject);
            }
        }
        all
    }

    /// How often each makes a system call, counted in a window of its own with each work that has a size; the others with one
    /// version of TLS.
    fn counted(&self) -> impl Iterator<Item = Key> {
        let last = self.tls.last().copied();
        let bulk = self.works.iter().filter(|(work, _)| matches!(work, Work::Read | Work::Write));
        bulk.flat_map(move |(work, subjects)| {
            let keys = subjects
                .iter()
                .flat_map(|subject| self.tls.iter().map(|tls| Key { tls: *tls, work: *work, subject: *subject }));
            keys.filter(move |key| {
                key.subject.is_sealane() || (key.subject != Subject::Direct && Some(key.tls) == last)
            })
        })
    }
}

/// Seconds, at least 0.1 and at most 600.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("not a number of seconds from 0.1 to 600".into()),
    }
}

/// Measures and prints. The status is 1 when the bar is missed or could not be judged.
///
/// # Errors
/// The first measurement that could not be made.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let Some(outside) = &options.outside else { return Err(namespace::enter()) };
    namespace::prepare(outside)?;
    let programs = options.programs.find()?;
    let plan = options.settled(&programs);
    if options.bar.is_some() && !plan.subjects().contains(&Subject::Stunnel) {
        bail!("--bar needs stunnel among the subjects");
    }
    let begun = now();
    let directory = RunDirectory::create()?;
    let certificates = certificates::make(&directory)?;
    let setup = Setup { directory, certificates, programs };
    let head = head(&setup, &plan);
    print!("{head}");
    let ticks_per_second = procfs::ticks_per_second()?;
    let run = Run {
        setup: &setup,
        seconds: plan.seconds,
        foreign_max: options.foreign_max,
        ticks_per_second,
        rate: options.rate,
    };
    let (all, floors) = measure_all(&run, &plan, options.retries)?;
    let calls = calls(&setup, &plan)?;
    let memory = memory(&run, &plan)?;
    let summary = Summary::new(&plan, &all, floors, calls, memory);
    print!("{}", summary.markdown());
    if let Some(out) = &options.out {
        let head = format!("{head}Made in {} s.\n\n", (now() - begun).as_secs());
        write_down(out, &head, &setup, &plan, &all, &summary)?;
    }
    Ok(judge(options.bar, &summary))
}

fn head(setup: &Setup, plan: &Plan) -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let mut text = format!(
        "Linux {}, {}, {} processors, loopback, TCP cubic.\n",
        read("/proc/sys/kernel/osrelease").trim(),
        model.unwrap_or("unknown CPU"),
        info.lines().filter(|line| line.starts_with("processor")).count(),
    );
    let mut versions: Vec<String> = plan.subjects().into_iter().filter_map(|subject| setup.version(subject)).collect();
    versions.dedup();
    versions.extend(tree().into_iter().chain(said(&["rustc", "--version"])));
    versions.iter().for_each(|version| text += &format!("{version}\n"));
    text += "AES-128-GCM, ECDSA P-256, certificate and name verified; the subject on one processor, load and far end on \
             another.\n\n";
    text
}

/// The first line of what a command says, if it can be run.
fn said(command: &[&str]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_string)
}

/// The commit that the current directory has, where it has one.
fn tree() -> Option<String> {
    let commit = said(&["git", "rev-parse", "--short=12", "HEAD"])?;
    let is_changed = said(&["git", "status", "--porcelain", "--untracked-files=no"]).is_some();
    Some(format!("commit {commit}{}", if is_changed { ", changed" } else { "" }))
}

fn write_down(
    out: &Path,
    head: &str,
    setup: &Setup,
    plan: &Plan,
    all: &[Measurement],
    summary: &Summary,
) -> Result<()> {
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let write = |name: &str, text: String| {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    let mut raw = format!("{}\n", report::CSV_HEAD);
    all.iter().for_each(|measurement| raw += &format!("{}\n", measurement.csv()));
    write("raw.csv", raw)?;
    write("summary.md", summary.markdown())?;
    let open_loop = plan.rate.map(|rate| format!(" {rate} calls a second on each connection, an open loop."));
    let mut readme = format!("# {}\n\n{head}", out.file_name().unwrap_or_default().to_string_lossy());
    readme += &format!(
        "{} rounds, each subject in turn, windows of {} s after {} s of load.{}\n\n",
        plan.rounds,
        plan.seconds.as_secs_f64(),
        WARM_UP.as_secs_f64(),
        open_loop.unwrap_or_default()
    );
    readme += &summary.markdown();
    for tls in &plan.tls {
        readme += &format!("\n## How each was started, TLS {}\n", tls.name());
        for subject in plan.subjects().into_iter().filter(|subject| !subject.is_plain()) {
            readme += &format!("\n{}:\n\n```\n{}```\n", subject.name(), setup.settings(subject, *tls, WORKERS));
        }
    }
    write("README.md", readme)?;
    plot::all(out, summary)
}

/// What cannot be judged has not passed.
fn judge(bar: Option<f64>, summary: &Summary) -> ExitCode {
    let Some(bar) = bar else { return ExitCode::SUCCESS };
    let mut status = ExitCode::SUCCESS;
    let judged =
        |line: &&report::Line| matches!(line.key.work, Work::Read | Work::Write) && line.key.subject.is_sealane();
    for line in summary.lines.iter().filter(judged) {
        let verdict = match summary.to_stunnel(line) {
            Some(ratio) if ratio <= bar => continue,
            Some(_) => format!("above the bar of {bar}"),
            None => "not judged against the bar: no accepted windows to compare".to_string(),
        };
        println!("TLS {} {} {}: {verdict}", line.key.tls.name(), line.key.work.name(), line.key.subject.name());
        status = ExitCode::FAILURE;
    }
    status
}

/// Every subject with every work, in turn, round by round. On a busy machine nothing is made again for ever.
fn measure_all(run: &Run<'_>, plan: &Plan, retries: u32) -> Result<(Vec<Measurement>, Floors)> {
    let (mut all, mut alone) = (Vec::new(), Vec::new());
    let (mut retried, limit) = (Duration::ZERO, if plan.is_quick { RETRIES_FOR_QUICK } else { RETRIES_FOR });
    for round in 1..=plan.rounds {
        for key in report::keys(plan) {
            let window = Window { round, key, connections: None, depth: None, run };
            for attempt in 0..=retries {
                let name =
                    || format!("TLS {} {} {} round {round}", key.tls.name(), key.work.name(), key.subject.name());
                let begun = now();
                let measured = window.measure().with_context(name)?;
                let accepted = measured.accepted;
                all.push(measured);
                retried += if attempt > 0 { now() - begun } else { Duration::ZERO };
                if accepted || retried >= limit {
                    break;
                }
            }
        }
        for tls in &plan.tls {
            alone.push((*tls, aead_alone(run, *tls)?));
        }
        eprintln!("round {round} of {} done", plan.rounds);
    }
    Ok((all, plan.tls.iter().filter_map(|tls| Some((*tls, Floor::of(&alone, *tls)?))).collect()))
}

/// What sealing and opening cost alone, on the subject's processor, in CPU seconds per GiB.
fn aead_alone(run: &Run<'_>, tls: Tls) -> Result<(f64, f64)> {
    let mut aead = run.setup.start_own("aead", SUBJECT_CPU, &["aead", "--tls", tls.name()])?;
    let line = aead.lines.recv_timeout(LOAD_PATIENCE).with_context(|| aead.log())?;
    let fields = fields(&line);
    let field = |name| fields.get(name).and_then(|text| text.parse().ok()).with_context(|| line.clone());
    let costs = (field("seal")?, field("open")?);
    aead.wait(LOAD_PATIENCE)?;
    Ok(costs)
}

/// What Sealane keeps resident, with the last version of TLS; nothing where that is not looked for.
fn memory(run: &Run<'_>, plan: &Plan) -> Result<Vec<Memory>> {
    let has = |wanted| plan.works.iter().any(|(work, _)| *work == wanted);
    let is_looked_for = !plan.is_quick && has(Work::Read) && has(Work::Write);
    let Some(tls) = plan.tls.last().copied().filter(|_| is_looked_for) else { return Ok(Vec::new()) };
    scale::allow_many_connections()?;
    let memory = |subject: Subject| {
        let idle = |connections: u32| {
            let count = connections.to_string();
            let held = scale::watched(run.setup, subject, tls, &["hold", "--connections", &count, "--seconds", "1"]);
            let held = held.with_context(|| format!("{}: {connections} idle connections", subject.name()))?;
            anyhow::Ok(held.resident_kib as f64)
        };
        let busy = |work| {
            let key = Key { tls, work, subject };
            anyhow::Ok(Window { round: 0, key, connections: Some(4), depth: None, run }.measure()?.resident_kib as f64)
        };
        let [none, some, many] = [idle(0)?, idle(100)?, idle(1000)?];
        let busy_kib = busy(Work::Read)?.max(busy(Work::Write)?);
        Ok(Memory { tls, subject, idle_kib: none, each_kib: (many - some) / 900.0, busy_kib })
    };
    let sealane = plan.subjects().into_iter().filter(|it| it.is_sealane() && it.sleeping() != *it);
    sealane.map(memory).collect()
}

/// How many system calls each makes for a MiB, where there is strace.
fn calls(setup: &Setup, plan: &Plan) -> Result<Vec<(Key, f64)>> {
    if !calls::can_be_counted() {
        println!("not run: system calls: there is no strace");
        return Ok(Vec::new());
    }
    let count = |key: Key| {
        let name = || format!("the system calls of {} with {}", key.subject.name(), key.work.name());
        Ok((key, calls::for_a_mib(setup, key).with_context(name)?))
    };
    plan.counted().map(count).collect()
}
