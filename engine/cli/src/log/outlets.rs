//! Where log lines go: standard error, a file that can be opened anew, the system log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use sealane_io::host;
use sealane_io::syslog::{Facility, Syslog};

use super::stunnel;

/// Where lines go, and how they are written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Outlets {
    pub(crate) stderr: bool,
    pub(crate) file: Option<LogFile>,
    pub(crate) syslog: Option<(String, Facility)>,
    pub(crate) form: Form,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Form {
    /// With the time in UTC, the level, the text and its fields.
    #[default]
    Own,
    /// As stunnel does it: `2026.11.23 06:45:22 LOG5[main]: text`.
    Stunnel,
}

/// A file of log lines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    /// Whether it begins anew with this process.
    pub(crate) overwrites: bool,
}

impl Default for Outlets {
    fn default() -> Self {
        Self { stderr: true, file: None, syslog: None, form: Form::Own }
    }
}

impl Outlets {
    /// Opens all.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub(super) fn open(&self) -> Result<Opened> {
        let file = self.file.as_ref().map(|LogFile { path, overwrites }| {
            let opened = open(path, *overwrites).with_context(|| path.display().to_string())?;
            Ok::<_, anyhow::Error>((opened, path.clone()))
        });
        Ok(Opened {
            stderr: self.stderr,
            file: file.transpose()?,
            syslog: self.syslog.as_ref().map(|(identity, facility)| Syslog::open(identity, *facility)),
        })
    }

    /// Files that are opened again when the process is told to.
    pub(crate) fn remade(&self) -> Option<&Path> {
        // What is a device is there for good.
        let path = self.file.as_ref().map(|file| file.path.as_path())?;
        (!path.starts_with("/dev")).then_some(path)
    }
}

fn open(path: &Path, overwrites: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o640);
    let file = options.open(path)?;
    if overwrites {
        file.set_len(0)?;
    }
    Ok(file)
}

static REOPEN: AtomicBool = AtomicBool::new(false);

/// Has the file opened anew before the next line.
pub(super) fn reopen() {
    REOPEN.store(true, Ordering::Relaxed);
}

/// What takes the lines.
pub(super) struct Opened {
    stderr: bool,
    file: Option<(File, PathBuf)>,
    syslog: Option<Syslog>,
}

impl Opened {
    /// One that cannot take the line now must not keep the others from getting theirs.
    fn write_to_all(&mut self, line: &[u8]) -> io::Result<()> {
        if let Some((file, path)) = &mut self.file
            && REOPEN.swap(false, Ordering::Relaxed)
        {
            match open(path, false) {
                Ok(opened) => *file = opened,
                // Whoever looks for lines finds this one where they are.
                Err(error) => {
                    let _ = writeln!(file, "sealane: {}: {error}: the log goes on in this file", path.display());
                }
            }
        }
        if let Some(syslog) = &self.syslog {
            let (severity, text) = stunnel::without_time(line);
            syslog.say(severity, text.trim_ascii_end());
        }
        if self.stderr && host::takes_bytes(io::stderr()) {
            let _ = io::stderr().write_all(line);
        }
        self.file.as_mut().map_or(Ok(()), |(file, _)| file.write_all(line))
    }
}

impl Write for Opened {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self { stderr: true, file: None, syslog: None } => io::stderr().write(line),
            _ => self.write_to_all(line).map(|()| line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
