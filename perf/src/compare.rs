//! The comparison: every subject in turn, round by round, each in a fresh process and with a fresh far end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::certificates::{self, RunDirectory};
use crate::load::QUANTILES;
use crate::process::Process;
use crate::procfs::{self, Usage, Watch};
use crate::report::{self, Floor, Key, Measurement, Summary};
use crate::subject::{Programs, SUBJECT_CPU, SUBJECT_PORT, Setup, Subject};
use crate::tls::Tls;
use crate::work::Work;
use crate::{namespace, now, plot};

/// Load before each window.
const WARM_UP: Duration = Duration::from_millis(500);
/// A thread that ends within a window is lost for at most this long.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a load may take beyond its windows: connecting and ending.
const LOAD_PATIENCE: Duration = Duration::from_secs(40);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Length of each window
    #[arg(long, default_value = "2", value_parser = parse_seconds)]
    seconds: Duration,

    /// How often each subject is measured with each work
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Less of everything, for a look while developing: three rounds of one second, TLS 1.3, few subjects
    #[arg(long, conflicts_with_all = ["seconds", "rounds", "subjects", "works", "tls"])]
    quick: bool,

    /// What is measured, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = SUBJECTS)]
    subjects: Vec<Subject>,

    /// With which calls
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = WORKS)]
    works: Vec<Work>,

    /// With which versions of TLS
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Tls::Tls12, Tls::Tls13])]
    tls: Vec<Tls>,

    /// The sealane binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    sealane: Option<PathBuf>,

    /// The stunnel binary
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/stunnel")]
    stunnel: PathBuf,

    /// The nginx binary
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,

    /// The haproxy binary
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/haproxy")]
    haproxy: PathBuf,

    /// The socat binary
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/socat")]
    socat: PathBuf,

    /// A ghostunnel binary
    #[arg(long, value_name = "FILE")]
    ghostunnel: Option<PathBuf>,

    /// A binary of efs-proxy
    #[arg(long, value_name = "FILE")]
    efs_proxy: Option<PathBuf>,

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
const WORKS: [Work; 4] = [Work::Read, Work::Write, Work::Getattr, Work::GetattrAlone];

const QUICK_SUBJECTS: [Subject; 5] =
    [Subject::Relay, Subject::Uring, Subject::Epoll, Subject::Stunnel, Subject::HaproxyTuned];

impl Options {
    /// With what `--quick` stands for, and without what is not here.
    fn settled(&self, programs: &Programs) -> Plan {
        let mut plan = match self.quick {
            true => Plan {
                seconds: Duration::from_secs(1),
                rounds: 3,
                subjects: QUICK_SUBJECTS.to_vec(),
                works: WORKS.to_vec(),
                tls: vec![Tls::Tls13],
            },
            false => Plan {
                seconds: self.seconds,
                rounds: self.rounds,
                subjects: self.subjects.clone(),
                works: self.works.clone(),
                tls: self.tls.clone(),
            },
        };
        plan.subjects.extend(self.ghostunnel.is_some().then_some(Subject::Ghostunnel));
        plan.subjects.extend(self.efs_proxy.is_some().then_some(Subject::EfsProxy));
        plan.subjects.retain(|subject| match programs.obstacle(*subject) {
            Some(obstacle) => {
                println!("not run: {}: {obstacle}", subject.name());
                false
            }
            None => true,
        });
        plan
    }
}

/// What a run measures.
pub(crate) struct Plan {
    pub(crate) seconds: Duration,
    pub(crate) rounds: u32,
    pub(crate) subjects: Vec<Subject>,
    pub(crate) works: Vec<Work>,
    pub(crate) tls: Vec<Tls>,
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
    let sealane = match &options.sealane {
        Some(file) => file.clone(),
        None => std::env::current_exe().context("the path of this program")?.with_file_name("sealane"),
    };
    let programs = Programs {
        sealane,
        stunnel: options.stunnel.clone(),
        nginx: options.nginx.clone(),
        haproxy: options.haproxy.clone(),
        socat: options.socat.clone(),
        ghostunnel: options.ghostunnel.clone(),
        efs_proxy: options.efs_proxy.clone(),
    };
    let plan = options.settled(&programs);
    if options.bar.is_some() && !plan.subjects.contains(&Subject::Stunnel) {
        bail!("--bar needs stunnel among the subjects");
    }
    let directory = RunDirectory::create()?;
    let certificates = certificates::make(&directory)?;
    let setup = Setup { directory, certificates, programs };
    let head = head(&setup, &plan);
    print!("{head}");
    let run = Run { options, plan: &plan, setup: &setup, ticks_per_second: procfs::ticks_per_second()? };
    let all = run.measure_all()?;
    let floors = run.floors()?;
    let summary = Summary::new(&plan, &all, floors);
    print!("{}", summary.markdown());
    if let Some(out) = &options.out {
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
    let mut versions: Vec<String> = plan.subjects.iter().filter_map(|subject| setup.version(*subject)).collect();
    versions.dedup();
    versions.iter().for_each(|version| text += &format!("{version}\n"));
    text += "AES-128-GCM, ECDSA P-256, certificate and name verified; the subject on one processor, load and far end on \
             another.\n\n";
    text
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
    let mut readme = format!("# {}\n\n{head}", out.file_name().unwrap_or_default().to_string_lossy());
    readme += &format!(
        "{} rounds, each subject in turn, windows of {} s after {} s of load.\n\n",
        plan.rounds,
        plan.seconds.as_secs_f64(),
        WARM_UP.as_secs_f64()
    );
    readme += &summary.markdown();
    readme += "\n## How each was started (TLS 1.2)\n";
    for subject in plan.subjects.iter().filter(|subject| !subject.is_plain()) {
        readme += &format!("\n{}:\n\n```\n{}```\n", subject.name(), setup.settings(*subject, Tls::Tls12, WORKERS));
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

/// Sealane's threads: as many as it has processors here.
const WORKERS: usize = 1;

/// What all windows share.
struct Run<'r> {
    options: &'r Options,
    plan: &'r Plan,
    setup: &'r Setup,
    ticks_per_second: u64,
}

impl Run<'_> {
    fn measure_all(&self) -> Result<Vec<Measurement>> {
        let mut all = Vec::new();
        for round in 1..=self.plan.rounds {
            for key in report::keys(self.plan) {
                let window = Window { round, key, run: self };
                for _ in 0..=self.options.retries {
                    let name =
                        || format!("TLS {} {} {} round {round}", key.tls.name(), key.work.name(), key.subject.name());
                    let measured = window.measure().with_context(name)?;
                    let accepted = measured.accepted;
                    all.push(measured);
                    if accepted {
                        break;
                    }
                }
            }
            eprintln!("round {round} of {} done", self.plan.rounds);
        }
        Ok(all)
    }

    /// What sealing and opening cost alone, on the subject's processor.
    fn floors(&self) -> Result<Vec<(Tls, Floor)>> {
        let floor = |tls: &Tls| {
            let mut aead = self.setup.start_own("aead", SUBJECT_CPU, &["aead", "--tls", tls.name()])?;
            let line = aead.lines.recv_timeout(LOAD_PATIENCE).with_context(|| aead.log())?;
            let fields = fields(&line);
            let field = |name| fields.get(name).and_then(|text| text.parse().ok()).with_context(|| line.clone());
            let floor = Floor { seal: field("seal")?, open: field("open")? };
            aead.wait(LOAD_PATIENCE)?;
            Ok((*tls, floor))
        };
        self.plan.tls.iter().map(floor).collect()
    }
}

fn fields(line: &str) -> BTreeMap<&str, &str> {
    line.split(' ').filter_map(|pair| pair.split_once('=')).collect()
}

/// One measurement to be made.
struct Window<'r> {
    round: u32,
    key: Key,
    run: &'r Run<'r>,
}

/// What is watched while the window is open.
struct Open {
    subject: Option<Watch>,
    /// The far end, the load and this program.
    outer: [Watch; 3],
    busy_seconds: f64,
}

impl Open {
    fn look(&mut self) -> Result<()> {
        self.subject.iter_mut().chain(&mut self.outer).try_for_each(Watch::look)
    }
}

impl Window<'_> {
    fn measure(&self) -> Result<Measurement> {
        let Key { tls, work, subject } = self.key;
        let setup = self.run.setup;
        let server = setup.start_server(subject, tls)?;
        let process = setup.start_subject(subject, tls, WORKERS)?;
        let connect = format!("127.0.0.1:{SUBJECT_PORT}");
        let [seconds, warm_up] = [self.run.plan.seconds, WARM_UP].map(|time| time.as_secs_f64().to_string());
        let args =
            ["load", "--connect", &connect, "--work", &work.name(), "--seconds", &seconds, "--warm-up", &warm_up];
        let mut load = setup.start_load(&args)?;
        let deadline = now() + WARM_UP + self.run.plan.seconds + LOAD_PATIENCE;
        // Of each connection both ends of both halves; without a subject there is one half.
        let ends = if process.is_some() { 4 } else { 2 } * work.connections() as usize;
        let measured = self.watch(&server, process.as_ref(), &mut load, deadline, ends);
        let log =
            || format!("the log of {}:\n{}", subject.name(), process.as_ref().map(Process::log).unwrap_or_default());
        let measured = measured.with_context(log)?;
        self.end(process, server)?;
        Ok(measured)
    }

    /// Ends both, and prints what they complained of.
    fn end(&self, subject: Option<Process>, mut server: Process) -> Result<()> {
        let (name, round) = (self.key.subject.name(), self.round);
        if let Some(mut process) = subject {
            let status_is_good = process.terminate()? || !self.key.subject.is_sealane();
            let mut log = process.log();
            if !status_is_good {
                log.push_str("ERROR did not exit with status 0 after SIGTERM\n");
            }
            let notable =
                |line: &&str| ["WARN", "ERROR", "LOG3", "LOG4", "[error]"].iter().any(|mark| line.contains(mark));
            log.lines().filter(notable).for_each(|line| println!("{name} round {round}: {line}"));
        }
        server.terminate()?;
        server.log().lines().for_each(|line| println!("server of {name} round {round}: {line}"));
        Ok(())
    }

    /// Follows the load from its beginning to its end. `ends` ends of connections must use the right TCP.
    fn watch(
        &self,
        server: &Process,
        subject: Option<&Process>,
        load: &mut Process,
        deadline: Instant,
        ends: usize,
    ) -> Result<Measurement> {
        let mut open = None;
        let mut closed = None;
        let mut tcp_verified = false;
        let result = loop {
            if now() >= deadline {
                bail!("the load does not end\n{}", load.log());
            }
            match load.lines.recv_timeout(LOOK_EVERY) {
                Ok(line) if line == "mark=begin" => open = Some(self.open(server, subject, load)?),
                Ok(line) if line == "mark=end" => {
                    let mut open: Open = open.take().context("a window ends that did not begin")?;
                    open.look()?;
                    let busy = procfs::busy_seconds(self.run.ticks_per_second)? - open.busy_seconds;
                    let resident = subject.map_or(Ok(0), |subject| procfs::resident_kib(subject.pid()))?;
                    closed = Some((open, busy, resident));
                }
                Ok(line) => break line,
                Err(RecvTimeoutError::Disconnected) => bail!("the load failed\n{}", load.log()),
                Err(RecvTimeoutError::Timeout) => match &mut open {
                    Some(open) => open.look()?,
                    None => tcp_verified = tcp_verified || namespace::verify_cubic(ends)?,
                },
            }
        };
        if !load.wait(LOAD_PATIENCE)? {
            bail!("the load failed\n{}", load.log());
        }
        let (open, busy_seconds, resident_kib) = closed.context("the load ended before its window did")?;
        if !tcp_verified {
            bail!("the load ended before all its connections were seen");
        }
        self.result(&result, &open, busy_seconds, resident_kib)
    }

    fn open(&self, server: &Process, subject: Option<&Process>, load: &Process) -> Result<Open> {
        let busy_seconds = procfs::busy_seconds(self.run.ticks_per_second)?;
        let [server, load, own] = [server.pid(), load.pid(), std::process::id()].map(Watch::begin_alone);
        let subject = subject.map(|subject| Watch::begin(subject.pid())).transpose()?;
        Ok(Open { subject, outer: [server?, load?, own?], busy_seconds })
    }

    fn result(&self, line: &str, open: &Open, busy_seconds: f64, resident_kib: u64) -> Result<Measurement> {
        let fields = fields(line);
        let field = |name: &str| fields.get(name).copied().with_context(|| format!("no {name} in: {line}"));
        let Usage { cpu_ns, voluntary_switches } = open.subject.as_ref().map(Watch::usage).unwrap_or_default();
        let subject_cpu = Duration::from_nanos(cpu_ns);
        let [server, load, own] = [0, 1, 2].map(|index: usize| Duration::from_nanos(open.outer[index].usage().cpu_ns));
        let (seconds, ops): (f64, u64) = (field("seconds")?.parse()?, field("ops")?.parse()?);
        if ops == 0 {
            bail!("no call was answered within the window");
        }
        let foreign_cpu_seconds = busy_seconds - (subject_cpu + server + load + own).as_secs_f64();
        let mut latencies_us = [0.0; QUANTILES.len()];
        for (place, (name, _)) in latencies_us.iter_mut().zip(QUANTILES) {
            *place = field(&format!("{name}_us"))?.parse()?;
        }
        Ok(Measurement {
            round: self.round,
            key: self.key,
            seconds,
            ops,
            bytes: field("bytes")?.parse()?,
            subject_cpu,
            outer_cpu: server + load,
            foreign_cpu_seconds,
            resident_kib,
            voluntary_switches,
            latencies_us,
            end: field("end")?.to_string(),
            accepted: foreign_cpu_seconds <= self.run.options.foreign_max * seconds,
        })
    }
}
