//! Where a process is found by the one that is to take its place, and taking it.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sealane_io::handover::{ControlSocket, Inheritance, Predecessor};

/// Where nobody says another directory (systemd's `RuntimeDirectory=`).
const DIRECTORY: &str = "/run/sealane";

/// Where a process is found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// Its control socket.
    pub(crate) path: PathBuf,
    /// The configuration file.
    of: String,
    /// Whether it is an error that it cannot be made.
    pub(crate) is_needed: bool,
    /// Whether the one that is there is to be replaced.
    pub(crate) takes_over: bool,
}

impl Place {
    /// That of the tunnels of a configuration file.
    pub(crate) fn of(config: &Path, said: Option<PathBuf>, takes_over: bool) -> Self {
        let is_needed = said.is_some() || takes_over;
        let path = said.unwrap_or_else(|| {
            let directories = env::var("RUNTIME_DIRECTORY").unwrap_or_default();
            let directory = directories.split(':').next().filter(|name| !name.is_empty()).unwrap_or(DIRECTORY);
            let mut name = config.file_stem().unwrap_or_default().to_os_string();
            name.push(".sock");
            Path::new(directory).join(name)
        });
        // Not where a link leads: that may be elsewhere for the next version of the file.
        let of = std::path::absolute(config).unwrap_or_else(|_| config.into()).display().to_string();
        Self { path, of, is_needed, takes_over }
    }

    fn named(&self) -> String {
        format!("the control socket {}", self.path.display())
    }

    /// The process that is to be replaced, and what it gives.
    ///
    /// # Errors
    /// It does not give it.
    pub(crate) fn predecessor(&self) -> Result<Option<(Predecessor, Inheritance)>> {
        if !self.takes_over {
            return Ok(None);
        }
        let found = Predecessor::find(&self.path, &self.of).with_context(|| self.named())?;
        match &found {
            Some((predecessor, _)) => tracing::info!("taking the place of process {}", predecessor.pid),
            None => tracing::info!("nobody listens on {}: there is no place to be taken", self.path.display()),
        }
        Ok(found)
    }

    /// Makes the socket.
    ///
    /// # Errors
    /// It cannot be made, and is needed, or somebody else is there.
    pub(crate) fn claim(&self) -> Result<Option<(ControlSocket, Claimed)>> {
        let made = self.path.parent().map_or(Ok(()), |directory| match directory.exists() {
            true => Ok(()),
            false => DirBuilder::new().mode(0o755).create(directory),
        });
        match made.and_then(|()| ControlSocket::bind(&self.path, &self.of)) {
            Ok(socket) => Ok(Some((socket, Claimed(self.path.clone())))),
            Err(error) if self.is_needed => Err(error).with_context(|| self.named()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!("{}: {error}: no other process can take the place of this one", self.named());
                Ok(None)
            }
            Err(error) => {
                tracing::info!("{}: {error}: no other process can take the place of this one", self.named());
                Ok(None)
            }
        }
    }
}

/// A control socket that nobody serves yet; dropping this removes it.
#[derive(Debug)]
pub(crate) struct Claimed(PathBuf);

impl Claimed {
    /// From now on it is served, and removed by whoever does that.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        // One that nobody listens on any more is in nobody's way.
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!("{} stays: {error}", self.0.display());
        }
    }
}
