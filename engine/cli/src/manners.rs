//! What a process does besides serving, for whoever has started it: where it stays, and how it is found.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process;

use anyhow::{Context, Result, bail};
use sealane_io::sandbox::Account;

use crate::place::Place;

/// The longest number of a process, and the end of its line.
const PID_BYTES_MAX: u64 = 16;

/// How a process behaves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Manners {
    /// Whether it goes on in the background once it listens.
    pub(crate) detaches: bool,
    pub(crate) pid_file: Option<PidFile>,
    /// Whether it is in another program's place.
    pub(crate) is_another: bool,
    pub(crate) place: Option<Place>,
}

/// The file that has the process's number in it, and the end of a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PidFile {
    pub(crate) path: PathBuf,
    /// Whether it is an error that its directory is not there.
    pub(crate) is_needed: bool,
}

impl PidFile {
    /// Writes it, in the place of one that is there; it is the account's.
    ///
    /// # Errors
    /// It cannot be written, unless its directory is not there and it may be missing.
    pub(crate) fn write(&self, account: Option<&Account>) -> Result<Option<Written>> {
        let Self { path, is_needed } = self;
        let there = fs::symlink_metadata(path);
        if there.is_ok_and(|there| !there.is_file() && !there.is_symlink()) {
            bail!("the pid file {}: there is something else by that name", path.display());
        }
        let number = process::id();
        // Whoever reads it finds the old number or the new one, and never half of it.
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{number}"));
        let new = path.with_file_name(name);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
            // Whatever the umask: a watchdog may be anybody's.
            file.set_permissions(Permissions::from_mode(0o644))?;
            writeln!(file, "{number}")?;
            // It can also stay its writer's (without CAP_CHOWN): nobody has to write to it.
            if let Some(Err(error)) = account.map(|account| account.give(&file)) {
                tracing::debug!("the pid file is not the account's: {error}");
            }
            fs::rename(&new, path)
        };
        match write() {
            Ok(()) => Ok(Some(Written { path: path.clone() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_needed => {
                tracing::warn!("no pid file: {}: {error}", path.display());
                Ok(None)
            }
            Err(error) => {
                let _ = fs::remove_file(&new);
                Err(error).with_context(|| format!("the pid file {}", path.display()))
            }
        }
    }
}

impl PidFile {
    /// Opens the one that another process has written, whose place this one is to take; `None` if it has not.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(crate) fn of_predecessor(&self) -> Result<Option<Inherited>> {
        let path = self.path.clone();
        let named = || format!("the pid file {}", path.display());
        let file = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(named),
        };
        // Nothing has been written yet, and is not where a link leads: its directory may be another user's.
        let (opened, there) = (file.metadata().with_context(named)?, fs::symlink_metadata(&path).with_context(named)?);
        if !there.is_file() || opened.nlink() != 1 || (opened.dev(), opened.ino()) != (there.dev(), there.ino()) {
            bail!("{}: a link, or something else by that name", named());
        }
        Ok(Some(Inherited { file, path }))
    }
}

/// A pid file with another process's number, which is opened before it may be written to: later no file can be.
#[derive(Debug)]
pub(crate) struct Inherited {
    file: File,
    path: PathBuf,
}

impl Inherited {
    /// Puts our number in the place of the other one, in one write.
    ///
    /// # Errors
    /// What write says.
    pub(crate) fn write(mut self) -> io::Result<Written> {
        let number = process::id().to_string();
        let length = self.file.metadata()?.len().min(PID_BYTES_MAX) as usize;
        // A shorter number leaves empty lines behind it, and no digits.
        let text = format!("{number}{}", "\n".repeat(length.saturating_sub(number.len()).max(1)));
        self.file.write_all(text.as_bytes())?;
        Ok(Written { path: self.path })
    }
}

/// A file with our number; dropping this removes it, if it has that number still.
#[derive(Debug)]
pub(crate) struct Written {
    path: PathBuf,
}

impl Drop for Written {
    fn drop(&mut self) {
        // Somebody who has taken our place has written his.
        let is_ours = fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == process::id().to_string());
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("the pid file {} stays: {error}", self.path.display());
        }
    }
}
