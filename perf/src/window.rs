//! One measurement: a fresh far end, a fresh subject, the load between them, and what is watched meanwhile.

use std::collections::BTreeMap;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::load::QUANTILES;
use crate::process::Process;
use crate::procfs::{self, Usage, Watch};
use crate::report::{Key, Measurement};
use crate::subject::{SUBJECT_PORT, Setup};
use crate::{namespace, now};

/// Load before each window.
pub(crate) const WARM_UP: Duration = Duration::from_millis(500);
/// So much more for each connection beyond those of `compare`: their handshakes have to get through beside the load.
const WARM_UP_EACH: Duration = Duration::from_millis(25);
const CONNECTIONS_OF_COMPARE: u32 = 4;
/// A thread that ends within a window is lost for at most this long.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a load may take beyond its windows: connecting and ending.
pub(crate) const LOAD_PATIENCE: Duration = Duration::from_secs(40);
/// Sealane's threads: as many as it has processors here.
pub(crate) const WORKERS: usize = 1;

/// What all windows share.
pub(crate) struct Run<'r> {
    pub(crate) setup: &'r Setup,
    /// Length of each window.
    pub(crate) seconds: Duration,
    /// Windows in which others used more than this share of one processor are rejected.
    pub(crate) foreign_max: f64,
    pub(crate) ticks_per_second: u64,
    /// Calls a second on each connection, whether or not replies come in time.
    pub(crate) rate: Option<u32>,
}

/// The pairs `name=value` of a line.
pub(crate) fn fields(line: &str) -> BTreeMap<&str, &str> {
    line.split(' ').filter_map(|pair| pair.split_once('=')).collect()
}

/// One measurement to be made.
pub(crate) struct Window<'r> {
    pub(crate) round: u32,
    pub(crate) key: Key,
    /// Connections instead of those of the work.
    pub(crate) connections: Option<u32>,
    /// Calls outstanding on each instead of those of the work.
    pub(crate) depth: Option<u32>,
    pub(crate) run: &'r Run<'r>,
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
    /// Measures.
    ///
    /// # Errors
    /// What could not be started, or what failed.
    pub(crate) fn measure(&self) -> Result<Measurement> {
        let Key { tls, work, subject } = self.key;
        let setup = self.run.setup;
        let server = setup.start_server(subject, tls, work.delay_us())?;
        let process = setup.start_subject(subject, tls, WORKERS)?;
        let connect = format!("127.0.0.1:{SUBJECT_PORT}");
        let connections = self.connections.unwrap_or(work.connections());
        let warm_up = WARM_UP + WARM_UP_EACH * connections.saturating_sub(CONNECTIONS_OF_COMPARE);
        let deadline = warm_up + self.run.seconds + LOAD_PATIENCE;
        let [seconds, warm_up] = [self.run.seconds, warm_up].map(|time| time.as_secs_f64().to_string());
        let (name, count) = (work.name(), connections.to_string());
        let args = ["load", "--connect", &connect, "--work", &name, "--connections", &count];
        let rate = self.run.rate.map(|rate| rate.to_string());
        let open_loop = rate.as_ref().map_or(Vec::new(), |rate| vec!["--rate", rate]);
        let depth = self.depth.map(|depth| depth.to_string());
        let depth = depth.as_ref().map_or(Vec::new(), |depth| vec!["--depth", depth]);
        let times = ["--seconds", &seconds, "--warm-up", &warm_up];
        let mut load = setup.start_load(&[&args[..], &times, &open_loop, &depth].concat())?;
        let deadline = now() + deadline;
        // Of each connection both ends of both halves; without a subject there is one half.
        let ends = if process.is_some() { 4 } else { 2 } * connections as usize;
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
                    tcp_verified = tcp_verified || namespace::verify_cubic(ends)?;
                }
                Ok(line) => break line,
                Err(RecvTimeoutError::Disconnected) => bail!("the load failed\n{}", load.log()),
                Err(RecvTimeoutError::Timeout) => {
                    open.as_mut().map_or(Ok(()), Open::look)?;
                    // Many connections may take longer than the warm-up.
                    tcp_verified = tcp_verified || namespace::verify_cubic(ends)?;
                }
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
            accepted: foreign_cpu_seconds <= self.run.foreign_max * seconds,
        })
    }
}
