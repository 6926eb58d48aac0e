//! Directories whose files are replaced now and then.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};
use tokio::io::unix::AsyncFd;

use crate::rt;

/// Room for some dozens of events; more come with the next read.
const EVENT_BYTES: usize = 4096;
/// Who replaces several files is given so long between two of them, and so long in all.
const QUIET: Duration = Duration::from_secs(1);
const QUIET_MAX: Duration = Duration::from_secs(10);

/// Directories that are watched. Made before the process gives up what it takes to make it.
pub struct DirectoryWatch {
    inotify: Inotify,
}

impl DirectoryWatch {
    /// Watches what comes into, changes in and goes out of `directories`; not what is below them.
    ///
    /// # Errors
    /// Which directory cannot be watched, and why.
    pub fn new(directories: &[PathBuf]) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        for directory in directories {
            let added = inotify.watches().add(directory, mask);
            added.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))?;
        }
        Ok(Self { inotify })
    }

    /// Registers it with the reactor of the running thread.
    ///
    /// # Errors
    /// The registration failed.
    pub fn register(self) -> io::Result<DirectoryChanges> {
        // SAFETY: the descriptor is the inotify's own, which has the same one, open, until it is dropped; nobody else gets at it.
        let inotify = unsafe { AsyncFd::register(self.inotify)? };
        Ok(DirectoryChanges { inotify })
    }
}

/// The same on the reactor.
pub struct DirectoryChanges {
    inotify: AsyncFd<Inotify>,
}

impl DirectoryChanges {
    /// Waits until something has changed and then nothing more does for a moment; false: a directory is no longer where it
    /// was. May be dropped.
    ///
    /// # Errors
    /// What read says.
    pub async fn next(&mut self) -> io::Result<bool> {
        let mut are_there = self.some().await?;
        let started = rt::now();
        while rt::now() - started < QUIET_MAX {
            match rt::timeout(QUIET, self.some()).await {
                None => break,
                Some(more) => are_there &= more?,
            }
        }
        Ok(are_there)
    }

    async fn some(&mut self) -> io::Result<bool> {
        let mut buffer = [0; EVENT_BYTES];
        loop {
            let mut ready = self.inotify.readable_mut().await?;
            let read = ready.try_io(|inotify| {
                let events = inotify.get_mut().read_events(&mut buffer)?;
                let is_there = |mask: EventMask| !mask.intersects(EventMask::IGNORED | EventMask::MOVE_SELF);
                Ok(events.map(|event| is_there(event.mask)).reduce(|all, this| all && this))
            });
            match read {
                Ok(Ok(None)) | Err(_) => {}
                Ok(Ok(Some(are_there))) => return Ok(are_there),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}
