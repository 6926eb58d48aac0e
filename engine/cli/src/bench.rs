//! `sealane bench`: what NFS calls cost through Sealane on this host, next to its stunnel; or how a tunnel that is there
//! already serves them.

use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use sealane_selftest::load::{self, File, Kind, Load, LoadError, Outcome, Progress, Until};
use sealane_selftest::{Session, SessionOptions};

use crate::args::BenchOptions;
use crate::{local, log};

mod here;
mod plot;
mod report;
mod subject;
mod there;

/// Calls before each window.
const WARM_UP: Duration = Duration::from_millis(200);
/// Bytes of each READ and WRITE.
const PAYLOAD_BYTES: u32 = 1 << 20;
/// READs and WRITEs outstanding on each connection.
const BULK_DEPTH: usize = 4;
/// GETATTRs outstanding on each connection, where there are many.
const MANY: usize = 16;

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Write,
    Read,
    GetattrAlone,
    GetattrMany,
}

impl Step {
    const ALL: [Self; 4] = [Self::Write, Self::Read, Self::GetattrAlone, Self::GetattrMany];

    const fn depth(self) -> usize {
        match self {
            Self::Write | Self::Read => BULK_DEPTH,
            Self::GetattrAlone => 1,
            Self::GetattrMany => MANY,
        }
    }

    /// Whether it moves payload.
    const fn is_bulk(self) -> bool {
        matches!(self, Self::Write | Self::Read)
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Write => "WRITE, 1 MiB, 4 at a time",
            Self::Read => "READ, 1 MiB, 4 at a time",
            Self::GetattrAlone => "GETATTR, one at a time",
            Self::GetattrMany => "GETATTR, 16 at a time",
        }
    }

    /// Its name for programs.
    const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::GetattrAlone => "getattr_one_at_a_time",
            Self::GetattrMany => "getattr_many_at_a_time",
        }
    }
}

/// Files that a session has open, all of the same length.
#[derive(Clone)]
struct Files {
    all: Vec<File>,
    bytes: u64,
    /// The pass whose pattern is in them, where that is known.
    pass: Option<u32>,
}

impl Files {
    fn close(&self, session: &mut Session) -> Result<()> {
        Ok(self.all.iter().try_for_each(|file| session.close_file(&file.open))?)
    }

    /// Makes calls for so long.
    fn load(&self, session: &mut Session, step: Step, time: Duration) -> Result<Outcome, LoadError> {
        let kind = match step {
            Step::Write => Kind::Write { pass: self.pass.unwrap_or_default() },
            Step::Read => Kind::Read { verify: self.pass },
            Step::GetattrAlone | Step::GetattrMany => Kind::Getattr,
        };
        let load = Load {
            kind,
            files: &self.all,
            file_bytes: self.bytes,
            payload_bytes: PAYLOAD_BYTES.min(self.bytes as u32),
            depth: step.depth(),
            until: Until::Elapsed(time),
        };
        load::run(session, &load, &Progress::default())
    }
}

/// Measures, and prints what came of it.
///
/// # Errors
/// What does not go together, could not be started, or the first call that failed.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    let measured = log::start(&options.log_level).and_then(|()| log::begin()).and_then(|()| match &options.connect {
        Some(endpoint) => there::measure(options, endpoint),
        None => here::measure(options),
    });
    let drawn = measured.and_then(|report| {
        if let Some(path) = &options.svg {
            plot::draw(path, &report)?;
        }
        Ok(report)
    });
    local::tell(drawn, options.json)
}

/// How sessions are opened.
fn session_options(options: &BenchOptions) -> SessionOptions {
    SessionOptions { connections: options.connections, ..SessionOptions::default() }
}

/// How far it is; nothing where standard error is no terminal.
struct Meter(ProgressBar);

impl Meter {
    fn start(windows: u64) -> Self {
        let bar = ProgressBar::new(windows);
        // A template that cannot be parsed leaves the plain bar.
        if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} {bar:40} {pos} of {len}: {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn begin(&self, subject: &str, step: Step) {
        self.0.set_message(format!("{subject}: {}", step.title()));
    }

    fn end(&self) {
        self.0.inc(1);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
