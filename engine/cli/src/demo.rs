//! `sealane demo`: an NFS client and server in memory, and between them what a real mount would have, all in this
//! process and on loopback.
//!
//! ```text
//! Session -> sealane client -> TLS -> sealane server -> Server
//! ```

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use sealane_io::host;
use sealane_relay::{ClientMode, Mode, TlsClientOptions, TlsVersions, client_config};
use sealane_selftest::load::{LoadError, Outcome, Progress, Workload};
use sealane_selftest::{Server, ServerOptions, Session, SessionOptions};

use crate::args::DemoOptions;
use crate::local::{self, Running, SERVER_NAME, certificates, resources, tunnel_config};
use crate::log;

mod report;
mod spoil;

use report::{Direction, Report};

/// What the files take at the most: those of the workload and a few small ones.
const FILES_BYTES_MAX: u64 = 80 << 20;
/// How often the progress bar is drawn.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the demo and prints what it measured.
///
/// # Errors
/// What could not be started, or the first call that failed, or the first byte that came back wrong.
pub(crate) fn run(options: &DemoOptions) -> Result<()> {
    let measured = log::start(&options.log_level)
        .and_then(|()| log::begin())
        .and_then(|()| Chain::start(options)?.measure(options));
    local::tell(measured, options.json)
}

/// The peers and the two tunnels between them. Dropped from the client's end on.
struct Chain {
    client: Running,
    server: Running,
    nfs: Server,
}

impl Chain {
    fn start(options: &DemoOptions) -> Result<Self> {
        let certificates = certificates::make(SERVER_NAME)?;
        let ca = certificates.ca.clone();
        let nfs_options = ServerOptions { bytes_max: FILES_BYTES_MAX, ..ServerOptions::default() };
        let nfs = Server::start(&nfs_options).context("starting the NFS server in memory")?;
        let versions: TlsVersions = options.tls.into();
        let server = local::front(certificates, nfs.local_address(), versions, options.io.into())?;
        let tls = client_config(&TlsClientOptions { cas: ca.into(), versions, ..TlsClientOptions::default() })?;
        let server_name = SERVER_NAME.try_into().context("the name in the certificate")?;
        let mode = ClientMode { tls: tls.into(), server_name, verified: true };
        let client = Running::start(resources(options.io.into()), tunnel_config(Mode::Client(mode), server.address))?;
        Ok(Self { client, server, nfs })
    }

    fn measure(&self, options: &DemoOptions) -> Result<Report> {
        let workload = Workload {
            directory: "demo".into(),
            passes: options.passes,
            getattr_calls: options.calls,
            ..Workload::default()
        };
        let mut session = Session::open(self.client.address, &SessionOptions::default())
            .context("opening a session through the tunnels")?;
        let progress = Progress::default();
        let bar = Bar::start(&workload);
        let files = workload.prepare(&mut session)?;
        let (mut write, mut read) = (Direction::default(), Direction::default());
        for pass in 0..workload.passes {
            write.add(|| bar.during(&progress, || files.write(&mut session, pass, &progress)))?;
            if options.spoil {
                spoil::one_byte(self.nfs.local_address(), &workload.directory)?;
            }
            read.add(|| bar.during(&progress, || files.read(&mut session, pass, &progress)))?;
        }
        let mut getattr =
            |depth| bar.during(&progress, || files.getattr(&mut session, depth, workload.getattr_calls, &progress));
        let (getattr_one, getattr_many) = (getattr(1)?, getattr(workload.getattr_depth)?);
        files.remove(&mut session)?;
        session.close().context("ending the session")?;
        bar.finish();
        let tls = self.client.counters.facts().ok_or_else(|| anyhow!("no TLS connection was opened"))?;
        Ok(Report {
            ports: [self.client.address.port(), self.server.address.port(), self.nfs.local_address().port()],
            driver: self.client.driver.clone(),
            tls,
            write,
            read,
            getattr_one,
            getattr_many,
            getattr_depth: workload.getattr_depth,
        })
    }
}

impl Direction {
    /// Does a step and adds what it did, and what the tunnels' threads have used for it.
    fn add(&mut self, step: impl FnOnce() -> Result<Outcome, LoadError>) -> Result<(), LoadError> {
        let cpu = || [host::threads_cpu("client-"), host::threads_cpu("server-")];
        let before = cpu();
        let outcome = step()?;
        for ((total, before), after) in self.cpu.iter_mut().zip(before).zip(cpu()) {
            let used = after.ok().zip(before.ok()).map(|(after, before)| after.saturating_sub(before));
            *total = total.zip(used).map(|(total, used)| total + used);
        }
        match &mut self.outcome {
            None => self.outcome = Some(outcome),
            Some(sum) => sum.add(&outcome)?,
        }
        Ok(())
    }
}

/// The progress bar; nothing where standard error is no terminal.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn start(workload: &Workload) -> Self {
        // Hides itself where standard error is no terminal. A template that cannot be parsed leaves the plain bar.
        let bar = ProgressBar::new(workload.calls());
        if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} {bar:40} {percent}% of {len} NFS calls") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Draws the progress while `step` makes it.
    fn during<T>(&self, progress: &Progress, step: impl FnOnce() -> T) -> T {
        if self.bar.is_hidden() {
            return step();
        }
        let (done, until_done) = std::sync::mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = until_done.recv_timeout(BAR_INTERVAL) {
                    self.bar.set_position(progress.calls.load(std::sync::atomic::Ordering::Relaxed));
                }
            });
            let outcome = step();
            drop(done);
            outcome
        })
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
