//! The comparison: every subject in turn, round by round, each in a fresh process and with a fresh far end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::certificates::{self, RunDirectory};
use crate::process::Process;
use crate::procfs::{self, Usage, Watch};
use crate::report::{self, Measurement};
use crate::rpc::Kind;
use crate::subject::{SUBJECT_PORT, Setup, Subject};
use crate::{namespace, now};

/// Load before each window.
const WARM_UP: Duration = Duration::from_millis(500);
/// A thread that ends within a window is lost for at most this long.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a load may take beyond its windows: connecting and ending.
const LOAD_PATIENCE: Duration = Duration::from_secs(40);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Length of each window
    #[arg(long, default_value = "3", value_parser = parse_seconds)]
    seconds: Duration,

    /// How often each subject is measured with each kind of call
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// What is measured, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "uring,epoll,stunnel")]
    subjects: Vec<Subject>,

    /// With which calls: read and write of 1 MiB, 4 outstanding on one connection; getattr, 16 outstanding on each of 4
    #[arg(long, value_enum, value_delimiter = ',', default_value = "read,write")]
    kinds: Vec<Kind>,

    /// The sealane binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    sealane: Option<PathBuf>,

    /// The stunnel binary
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/stunnel")]
    stunnel: PathBuf,

    /// Write each window as a line of this CSV file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

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
    if options.bar.is_some() && !options.subjects.contains(&Subject::Stunnel) {
        bail!("--bar needs stunnel among the subjects");
    }
    let Some(outside) = &options.outside else { return Err(namespace::enter()) };
    namespace::prepare(outside)?;
    let sealane = match &options.sealane {
        Some(file) => file.clone(),
        None => std::env::current_exe().context("the path of this program")?.with_file_name("sealane"),
    };
    let directory = RunDirectory::create()?;
    let certificates = certificates::make(&directory)?;
    let setup = Setup { directory, certificates, sealane, stunnel: options.stunnel.clone() };
    print_head(&setup);
    let all = measure_all(options, &setup)?;
    let lines = report::summarize(&options.kinds, &options.subjects, &all);
    print!("{}", report::table(&lines));
    Ok(judge(options.bar, &lines))
}

fn print_head(setup: &Setup) {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    println!(
        "Linux {}, {}, loopback, TCP cubic",
        read("/proc/sys/kernel/osrelease").trim(),
        model.unwrap_or("unknown CPU")
    );
    setup.versions().iter().for_each(|version| println!("{version}"));
    println!(
        "TLS 1.2 ECDHE-ECDSA-AES128-GCM-SHA256, certificate verified; subject on one processor, load and server on another\n"
    );
}

/// What cannot be judged has not passed.
fn judge(bar: Option<f64>, lines: &[report::Line]) -> ExitCode {
    let Some(bar) = bar else { return ExitCode::SUCCESS };
    let mut status = ExitCode::SUCCESS;
    for line in lines.iter().filter(|line| line.kind != Kind::Getattr && line.subject.is_sealane()) {
        let verdict = match line.ratio {
            Some(ratio) if ratio <= bar => continue,
            Some(_) => format!("above the bar of {bar}"),
            None => "not judged against the bar: no accepted windows to compare".to_string(),
        };
        println!("{} {}: {verdict}", line.kind.name(), line.subject.name());
        status = ExitCode::FAILURE;
    }
    status
}

fn measure_all(options: &Options, setup: &Setup) -> Result<Vec<Measurement>> {
    let mut csv = match &options.csv {
        Some(path) => Some(File::create(path).with_context(|| path.display().to_string())?),
        None => None,
    };
    if let Some(csv) = &mut csv {
        writeln!(csv, "{}", report::CSV_HEAD).context("--csv")?;
    }
    let ticks_per_second = procfs::ticks_per_second()?;
    let mut all = Vec::new();
    for round in 1..=options.rounds {
        for kind in &options.kinds {
            for subject in &options.subjects {
                let window = Window { round, kind: *kind, subject: *subject, ticks_per_second, options };
                for _ in 0..=options.retries {
                    let measured = window.measure(setup);
                    let name = || format!("{} {} round {round}", kind.name(), subject.name());
                    let measured = measured.with_context(name)?;
                    if let Some(csv) = &mut csv {
                        writeln!(csv, "{}", measured.csv()).context("--csv")?;
                    }
                    let accepted = measured.accepted;
                    all.push(measured);
                    if accepted {
                        break;
                    }
                }
            }
        }
    }
    Ok(all)
}

/// One measurement to be made.
struct Window<'o> {
    round: u32,
    kind: Kind,
    subject: Subject,
    ticks_per_second: u64,
    options: &'o Options,
}

/// What is watched while the window is open.
struct Open {
    subject: Watch,
    /// The far end, the load and this program.
    outer: [Watch; 3],
    busy_seconds: f64,
}

impl Open {
    fn look(&mut self) -> Result<()> {
        self.subject.look()?;
        self.outer.iter_mut().try_for_each(Watch::look)
    }
}

impl Window<'_> {
    fn measure(&self, setup: &Setup) -> Result<Measurement> {
        let server = setup.start_server()?;
        let subject = setup.start_subject(self.subject)?;
        let (connections, depth) = if self.kind == Kind::Getattr { (4, 16) } else { (1, 4) };
        let connect = format!("127.0.0.1:{SUBJECT_PORT}");
        let [connections_text, depth_text] = [connections, depth].map(|number: usize| number.to_string());
        let [seconds, warm_up] = [self.options.seconds, WARM_UP].map(|time| time.as_secs_f64().to_string());
        let args = ["load", "--connect", &connect, "--kind", self.kind.name(), "--connections", &connections_text];
        let more = ["--depth", &depth_text, "--seconds", &seconds, "--warm-up", &warm_up];
        let mut load = setup.start_own("load", &[&args[..], &more].concat())?;
        let deadline = now() + WARM_UP + self.options.seconds + LOAD_PATIENCE;

        let measured = self.watch(&server, &subject, &mut load, deadline, 4 * connections);
        let measured = measured.with_context(|| format!("the log of {}:\n{}", self.subject.name(), subject.log()))?;
        self.end(subject, server)?;
        Ok(measured)
    }

    /// Ends both, and prints what they complained of.
    fn end(&self, mut subject: Process, mut server: Process) -> Result<()> {
        let (name, round) = (self.subject.name(), self.round);
        let status_is_good = subject.terminate()? || !self.subject.is_sealane();
        server.terminate()?;
        let mut log = subject.log();
        if !status_is_good {
            log.push_str("ERROR did not exit with status 0 after SIGTERM\n");
        }
        let notable = |line: &&str| ["WARN", "ERROR", "LOG3", "LOG4"].iter().any(|mark| line.contains(mark));
        log.lines().filter(notable).for_each(|line| println!("{name} round {round}: {line}"));
        server.log().lines().for_each(|line| println!("server of {name} round {round}: {line}"));
        Ok(())
    }

    /// Follows the load from its beginning to its end. `ends` ends of connections must use the right TCP.
    fn watch(
        &self,
        server: &Process,
        subject: &Process,
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
                    let busy = procfs::busy_seconds(self.ticks_per_second)? - open.busy_seconds;
                    closed = Some((open, busy, procfs::resident_kib(subject.pid())?));
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

    fn open(&self, server: &Process, subject: &Process, load: &Process) -> Result<Open> {
        let busy_seconds = procfs::busy_seconds(self.ticks_per_second)?;
        let [server, load, own] = [server.pid(), load.pid(), std::process::id()].map(Watch::begin);
        Ok(Open { subject: Watch::begin(subject.pid())?, outer: [server?, load?, own?], busy_seconds })
    }

    fn result(&self, line: &str, open: &Open, busy_seconds: f64, resident_kib: u64) -> Result<Measurement> {
        let fields: BTreeMap<_, _> = line.split(' ').filter_map(|pair| pair.split_once('=')).collect();
        let field = |name| fields.get(name).copied().with_context(|| format!("no {name} in: {line}"));
        let Usage { cpu_ns, voluntary_switches } = open.subject.usage();
        let subject_cpu = Duration::from_nanos(cpu_ns);
        let [server, load, own] = [0, 1, 2].map(|index: usize| Duration::from_nanos(open.outer[index].usage().cpu_ns));
        let (seconds, ops): (f64, u64) = (field("seconds")?.parse()?, field("ops")?.parse()?);
        if ops == 0 {
            bail!("no call was answered within the window");
        }
        let foreign_cpu_seconds = busy_seconds - (subject_cpu + server + load + own).as_secs_f64();
        Ok(Measurement {
            round: self.round,
            kind: self.kind,
            subject: self.subject,
            seconds,
            ops,
            bytes: field("bytes")?.parse()?,
            subject_cpu,
            outer_cpu: server + load,
            foreign_cpu_seconds,
            resident_kib,
            voluntary_switches,
            p50_us: field("p50_us")?.parse()?,
            p99_us: field("p99_us")?.parse()?,
            end: field("end")?.to_string(),
            accepted: foreign_cpu_seconds <= self.options.foreign_max * seconds,
        })
    }
}
