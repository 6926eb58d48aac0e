//! Everything on this host: an NFS client and server in memory and the server's end of TLS in this process, and between
//! them one proxy after the other.

use anyhow::{Context, Result, bail};
use sealane_io::{Driver, Uring};
use sealane_relay::PemSource;
use sealane_selftest::load::{Outcome, Progress, Workload};
use sealane_selftest::{Server, ServerOptions, Session};

use super::report::{Report, Row, Window};
use super::subject::{Scratch, Subject, on_path};
use super::{Files, Meter, Step, WARM_UP, session_options};
use crate::args::BenchOptions;
use crate::local::{self, Running, SERVER_NAME, certificates};

/// What the files take at the most.
const FILES_BYTES_MAX: u64 = 80 << 20;
const STUNNEL: &str = "stunnel";

/// The peers, and the proxies between them.
struct Bench {
    subjects: Vec<Subject>,
    front: Running,
    nfs: Server,
    _scratch: Scratch,
}

/// Measures every proxy that this host has with every step, round by round.
///
/// # Errors
/// What could not be started, or the first call that failed.
pub(super) fn measure(options: &BenchOptions) -> Result<Report> {
    let (bench, notes) = Bench::start(options)?;
    let workload = Workload { directory: "bench".into(), ..Workload::default() };
    bench.fill(options, &workload)?;
    let rows = bench.rows(options, &workload)?;
    let facts = bench.front.counters.facts().context("no TLS connection was opened")?;
    let mut head = vec![
        "NFSv4.1 client -> proxy -> TLS -> sealane server -> NFSv4.1 server in memory, on loopback".to_string(),
        format!("{facts}; CPU is the proxy's own, throughput is that of all of them on the same processors"),
    ];
    head.extend(notes);
    let rival = bench.subjects.iter().any(|subject| subject.name == STUNNEL).then(|| STUNNEL.to_string());
    Ok(Report { head, rounds: options.rounds, seconds: options.seconds, rows, rival })
}

impl Bench {
    /// With what is to be said of proxies that are missing.
    fn start(options: &BenchOptions) -> Result<(Self, Vec<String>)> {
        let nfs_options = ServerOptions { bytes_max: FILES_BYTES_MAX, ..ServerOptions::default() };
        let nfs = Server::start(&nfs_options).context("starting the NFS server in memory")?;
        let certificates = certificates::make(SERVER_NAME)?;
        let scratch = Scratch::create()?;
        let PemSource::Text { pem, .. } = &certificates.ca else { bail!("internal: a CA that is not in memory") };
        let ca = scratch.write("ca.pem", pem)?;
        let front = local::front(certificates, nfs.local_address(), options.tls.into(), options.io.into())?;
        let (mut subjects, mut notes) = (Vec::new(), Vec::new());
        let mut sealane = |name: &str, io: &str| -> Result<()> {
            subjects.push(Subject::sealane(name, front.address, &ca, &["--io", io])?);
            Ok(())
        };
        match Uring::probe() {
            Ok(()) => sealane("sealane (io_uring)", "uring")?,
            Err(error) => notes.push(format!("not measured: io_uring: {error}")),
        }
        sealane("sealane (epoll)", "epoll")?;
        match options.stunnel.clone().or_else(|| on_path(&["stunnel", "stunnel4"])) {
            Some(program) => subjects.push(Subject::stunnel(&program, front.address, &ca, &scratch)?),
            None => notes.push("not measured: stunnel: it is not on the PATH".into()),
        }
        Ok((Self { subjects, front, nfs, _scratch: scratch }, notes))
    }

    /// Writes the files once, past all proxies: reads are compared with that.
    fn fill(&self, options: &BenchOptions, workload: &Workload) -> Result<()> {
        let mut session = Session::open(self.nfs.local_address(), &session_options(options))?;
        let files = workload.prepare(&mut session)?;
        files.write(&mut session, 0, &Progress::default())?;
        files.close(&mut session)?;
        Ok(session.close()?)
    }

    fn rows(&self, options: &BenchOptions, workload: &Workload) -> Result<Vec<Row>> {
        let row = |(step, subject): (Step, &Subject)| Row { subject: subject.name.clone(), step, windows: Vec::new() };
        let pairs = || Step::ALL.into_iter().flat_map(|step| self.subjects.iter().map(move |subject| (step, subject)));
        let mut rows: Vec<Row> = pairs().map(row).collect();
        let meter = Meter::start(u64::from(options.rounds) * rows.len() as u64);
        for _ in 0..options.rounds {
            for ((step, subject), row) in pairs().zip(&mut rows) {
                meter.begin(&subject.name, step);
                let window = window(options, workload, subject, step);
                row.windows.push(window.with_context(|| format!("{}, {}", subject.name, step.title()))?);
                meter.end();
            }
        }
        Ok(rows)
    }
}

/// Makes calls through one proxy, over connections that are new to it.
fn window(options: &BenchOptions, workload: &Workload, subject: &Subject, step: Step) -> Result<Window> {
    let mut session = Session::open(subject.address, &session_options(options))?;
    let prepared = workload.prepare(&mut session)?;
    let files = Files { all: prepared.files().to_vec(), bytes: workload.file_bytes, pass: Some(0) };
    files.load(&mut session, step, WARM_UP)?;
    let before = subject.cpu();
    let outcome: Outcome = files.load(&mut session, step, options.seconds)?;
    let cpu = subject.cpu().zip(before).map(|(after, before)| after.saturating_sub(before));
    prepared.close(&mut session)?;
    session.close()?;
    Ok(Window { outcome, cpu })
}
