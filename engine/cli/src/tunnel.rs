//! What `client` and `server` share: from options to limits, and running until a signal comes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use sealane_io::activation::Passed;
use sealane_io::daemon;
use sealane_io::handover::{ControlSocket, Inheritance, Predecessor};
use sealane_io::net::SourcePort;
use sealane_io::rt;
use sealane_io::sandbox::{Policy, forbid_new_rings};
use sealane_io::supervisor::Supervisor;
use sealane_io::{KeepAlive, SocketOptions, Uring, host};
use sealane_relay::{DriverKind, Memory, Mode, Process, Resources, Timeouts, TunnelConfig, Tunnels};

use crate::args::{self, TunnelOptions};
use crate::manners::{Inherited, Manners, Written};
use crate::place::{Claimed, Place};
use crate::{log, sandbox};

/// More threads than this do not help one NFS mount.
const WORKERS_DEFAULT_MAX: usize = 4;
/// Unanswered keepalive probes before a peer is taken for dead; more where the time between them is rounded down.
const KEEPALIVE_COUNT: u32 = 3;
/// The kernel takes keepalive times in whole seconds, none below one, and none above `MAX_TCP_KEEPIDLE` and
/// `MAX_TCP_KEEPINTVL`.
const KEEPALIVE_SECOND: Duration = Duration::from_secs(1);
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);
/// The time between keepalive probes where nothing says how long they may go unanswered.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Runs tunnels until SIGTERM or SIGINT. Nothing before the sandbox starts a thread.
///
/// # Errors
/// Why they could not start.
pub(crate) fn serve(
    resources: Resources,
    configs: Vec<TunnelConfig>,
    policy: &Policy,
    manners: &Manners,
    probe: bool,
) -> Result<()> {
    let Memory { bytes_max, connections_max, workers } = resources.memory;
    // Until they are taken over, they would end the process.
    host::ignore_requests();
    let mut start = Start::of(manners)?;
    let bound = Tunnels::bind(resources, configs, std::mem::take(&mut start.passed))?;
    let detached = manners.detaches.then(daemon::detach).transpose().context("going on in the background")?;
    if manners.pid_file.is_some() || manners.place.is_some() {
        rt::hold_stop_signals().context("sigprocmask")?;
    }
    let mut tidy = start.settle(manners, policy)?;
    let is_filtered = sandbox::enter(policy)?;
    log::begin()?;
    if probe {
        return sandbox::probe(policy, is_filtered);
    }
    let tunnels = bound.start()?;
    let (driver, why) = tunnels.driver();
    if driver == DriverKind::Uring && Uring::lacks_rules() {
        sandbox::rings_lack_rules(policy)?;
    }
    if is_filtered {
        forbid_new_rings(driver == DriverKind::Uring).context("seccomp")?;
    }
    let shared = format!(
        "driver {} ({why}), {workers} workers, {} MiB of buffers, {connections_max} connections at most",
        driver.name(),
        bytes_max >> 20
    );
    for (address, config) in tunnels.local_addresses().context("getsockname")?.into_iter().zip(tunnels.configs()) {
        let kind = match config.mode {
            Mode::Client(_) => "tunnel to",
            Mode::Server(_) => "TLS, in front of",
            Mode::Plain => "PLAIN TEXT to",
        };
        tracing::info!("listening on {address}, {kind} {}; {shared}", config.connect);
    }
    let counters = tunnels.counters();
    start.take_place(&mut tidy)?;
    if let Some(detached) = detached {
        detached.ready();
    }
    let Start { predecessor, supervisor, control, .. } = start;
    if let Some(claimed) = tidy.control.take() {
        claimed.leave();
    }
    let process = Process { reopen: log::reopen, supervisor, control, predecessor };
    let stop = tunnels.run(process).context("the accept loop")?;
    let totals: Vec<String> =
        counters.all().filter(|(_, total)| *total > 0).map(|(name, total)| format!("{name}={total}")).collect();
    tracing::info!("stopped by {stop}; {}", if totals.is_empty() { "nothing came".into() } else { totals.join(" ") });
    Ok(())
}

/// What a process begins with: its own, or that of the one whose place it takes.
struct Start {
    predecessor: Option<Predecessor>,
    passed: Passed,
    control: Option<ControlSocket>,
    supervisor: Supervisor,
}

impl Start {
    fn of(manners: &Manners) -> Result<Self> {
        let found = manners.place.as_ref().map(Place::predecessor).transpose()?.flatten();
        let own = || supervisor(manners);
        Ok(match found {
            Some((predecessor, Inheritance { control, passed, supervisor })) => {
                let supervisor = if supervisor.is_there() { supervisor } else { own() };
                Self { predecessor: Some(predecessor), passed, control: Some(control), supervisor }
            }
            None => {
                let passed = Passed::take().context("socket activation")?;
                Self { predecessor: None, passed, control: None, supervisor: own() }
            }
        })
    }
}

impl Start {
    /// Makes the control socket and the pid file, but for those of a predecessor, which has them still.
    fn settle(&mut self, manners: &Manners, policy: &Policy) -> Result<Tidy> {
        let mut tidy = Tidy::default();
        if let (None, Some(place)) = (&self.control, &manners.place)
            && let Some((control, claimed)) = place.claim()?
        {
            (self.control, tidy.control) = (Some(control), Some(claimed));
        }
        if let Some(file) = &manners.pid_file {
            tidy.inherited = if self.predecessor.is_some() { file.of_predecessor()? } else { None };
            if tidy.inherited.is_none() {
                tidy.pid_file = file.write(policy.account.as_ref())?;
            }
        }
        Ok(tidy)
    }

    /// Has the predecessor, if there is one, let go; what it was known by is this process's from then on.
    fn take_place(&mut self, tidy: &mut Tidy) -> Result<()> {
        let Some(predecessor) = &mut self.predecessor else { return Ok(()) };
        predecessor.replace().context("the process whose place this one takes does not let go")?;
        match tidy.inherited.take().map(Inherited::write) {
            Some(Ok(written)) => tidy.pid_file = Some(written),
            // Nobody else serves any more.
            Some(Err(error)) => tracing::error!("the pid file has another process's number: {error}"),
            None => {}
        }
        Ok(())
    }
}

/// What a process leaves in the file system is removed when this is dropped.
#[derive(Default)]
struct Tidy {
    pid_file: Option<Written>,
    control: Option<Claimed>,
    /// Another process's pid file, until this one has its place.
    inherited: Option<Inherited>,
}

/// Whoever supervises this process. In another program's place nobody expects it to speak to the one of its parent.
fn supervisor(manners: &Manners) -> Supervisor {
    if manners.is_another {
        return Supervisor::default();
    }
    Supervisor::from_environment().unwrap_or_else(|error| {
        tracing::warn!("NOTIFY_SOCKET: {error}: nobody hears how this process is");
        Supervisor::default()
    })
}

impl TunnelOptions {
    pub(crate) fn resources(&self) -> Resources {
        let memory = Memory {
            bytes_max: self.memory_max,
            connections_max: self.connections_max,
            workers: self.workers.unwrap_or_else(|| host::cores().min(WORKERS_DEFAULT_MAX)),
        };
        Resources { io: self.io.into(), memory, spin: self.spin }
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: self.connect_timeout,
            handshake: self.handshake_timeout,
            retry: self.retry_timeout,
            close: self.close_timeout,
            leave: self.drain,
            half_close: self.half_close_timeout,
            silence: self.silence_timeout,
            stall: self.stall_timeout,
            idle: self.idle_timeout,
            acknowledge: self.ack_timeout,
            ..Timeouts::default()
        }
    }

    /// The directories that are watched: of these files, by the names that were given for them, and these.
    pub(crate) fn watched(&self, files: Vec<PathBuf>, directories: &[PathBuf]) -> Vec<PathBuf> {
        if !self.watch {
            return Vec::new();
        }
        let of_files = files.iter().flat_map(|file| sandbox::directories_on_the_way(file));
        let of_directories = directories.iter().flat_map(|directory| {
            // Without a slash at the end, which would be what is behind a link.
            let name: PathBuf = directory.components().collect();
            sandbox::links_on_the_way(&name).into_iter().chain([name])
        });
        let mut all: Vec<PathBuf> = of_files.chain(of_directories).collect();
        all.sort();
        all.dedup();
        all
    }

    pub(crate) fn keep_alive(&self) -> Option<KeepAlive> {
        let limits = [self.ack_timeout, self.user_timeout].into_iter().filter(|limit| !limit.is_zero());
        keep_alive(self.keepalive, limits.min())
    }

    pub(crate) fn user_timeout(&self) -> Option<Duration> {
        (!self.user_timeout.is_zero()).then_some(self.user_timeout)
    }

    /// The options of the side that speaks TLS.
    pub(crate) fn tls_socket(&self) -> SocketOptions {
        SocketOptions {
            keep_alive: self.keep_alive(),
            user_timeout: self.user_timeout(),
            receive_buffer_bytes: self.receive_buffer,
            send_buffer_bytes: self.send_buffer,
        }
    }
}

/// Probes from the end of `idle` on, of which as many may go unanswered as fit into `unheard`: where nothing else is under way,
/// this is all that notices a dead peer.
fn keep_alive(idle: Duration, unheard: Option<Duration>) -> Option<KeepAlive> {
    let (interval, count) = match unheard {
        None => (KEEPALIVE_INTERVAL, KEEPALIVE_COUNT),
        Some(unheard) => {
            let interval = Duration::from_secs((unheard / KEEPALIVE_COUNT).as_secs()).max(KEEPALIVE_SECOND);
            (interval, unheard.as_millis().div_ceil(interval.as_millis()) as u32) // at most 6
        }
    };
    (!idle.is_zero()).then_some(KeepAlive { idle: idle.clamp(KEEPALIVE_SECOND, KEEPALIVE_MAX), interval, count })
}

pub(crate) fn source_port(port: args::SourcePort) -> SourcePort {
    match port {
        args::SourcePort::Any => SourcePort::Any,
        args::SourcePort::Privileged => SourcePort::Privileged,
    }
}

/// The test of "a panic ends one connection" needs a panic. Release builds have none to offer.
pub(crate) fn debug_panic_mark() -> Option<Vec<u8>> {
    if cfg!(debug_assertions) { std::env::var("SEALANE_PANIC_ON").ok().map(String::into_bytes) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_takes_as_long_as_acknowledgements_may_and_its_times_are_such_as_the_kernel_takes() {
        let seconds = Duration::from_secs_f64;
        assert_eq!(keep_alive(Duration::ZERO, Some(seconds(30.0))), None);
        for (idle, unheard, wanted) in [
            (30.0, 30.0, (30, 10, 3)),
            (7200.0, 30.0, (7200, 10, 3)),
            (1.0, 30.0, (1, 10, 3)),
            (30.0, 0.0, (30, 10, 3)),
            (0.001, 0.001, (1, 1, 1)),
            (30.0, 3.0, (30, 1, 3)),
            (30.0, 5.9, (30, 1, 6)),
            (30.0, 10.0, (30, 3, 4)),
            (30.0, 300.0, (30, 100, 3)),
            (86_400.0, 86_400.0, (32_767, 28_800, 3)),
        ] {
            let unheard = Some(seconds(unheard)).filter(|unheard| !unheard.is_zero());
            let KeepAlive { idle: first, interval, count } = keep_alive(seconds(idle), unheard).unwrap();
            assert_eq!((first.as_secs(), interval.as_secs(), count), wanted, "{idle} {unheard:?}");
        }
    }
}
