//! Directories whose files are replaced now and then.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};
use tokio::io::unix::AsyncFd;

use crate::rt;

/// Room for some dozens of events; more come with the next read.
const EVENT_BYTES: usize = 4096;
/// Who replaces several files is given so long between two of them, and so long in all.
const QUIET: Duration = Duration::from_secs(1);
const QUIET_MAX: Duration = Duration::from_secs(10);

/// Opens a file to write behind what is there, which is for nobody else to read; makes it so if it is not there.
///
/// # Errors
/// It cannot be opened, is a link or no regular file, or others may read or change it.
pub fn append_private(file: &Path) -> io::Result<File> {
    // Without O_NONBLOCK a pipe would be waited for that nobody reads.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(file)?;
    let metadata = file.metadata()?;
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !metadata.is_file() {
        return wrong("it is no regular file");
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.nlink() != 1 {
        return wrong("it belongs to another user, or has another name");
    }
    if metadata.mode() & 0o077 != 0 {
        return wrong("others may read or change it: chmod 600");
    }
    Ok(file)
}

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
        Ok(DirectoryChanges { inotify, noted: None })
    }
}

/// The same on the reactor.
pub struct DirectoryChanges {
    inotify: AsyncFd<Inotify>,
    /// What has been read and not been returned: whoever drops [`DirectoryChanges::next`] and comes back gets it then.
    noted: Option<bool>,
}

impl DirectoryChanges {
    /// Waits until something has changed and then nothing more does for a moment; false: a directory is no longer where it
    /// was. May be dropped.
    ///
    /// # Errors
    /// What read says.
    pub async fn next(&mut self) -> io::Result<bool> {
        if self.noted.is_none() {
            self.noted = Some(self.some().await?);
        }
        let started = rt::now();
        while rt::now() - started < QUIET_MAX {
            match rt::timeout(QUIET, self.some()).await {
                None => break,
                Some(more) => {
                    let more = more?;
                    self.noted = self.noted.map(|are_there| are_there && more);
                }
            }
        }
        Ok(self.noted.take().unwrap_or(true))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_not_lost_with_the_wait_for_it_and_a_directory_that_moves_is_told() {
        rt::tested(|| rt::run_on_reactor(changes()).unwrap());
    }

    async fn changes() {
        let top = std::env::temp_dir().join(format!("sealane-watch-{}", std::process::id()));
        let directory = top.join("watched");
        std::fs::create_dir_all(&directory).unwrap();
        let mut changes = DirectoryWatch::new(std::slice::from_ref(&directory)).unwrap().register().unwrap();
        assert!(rt::timeout(QUIET / 10, changes.next()).await.is_none(), "nothing has changed");
        std::fs::write(directory.join("file"), "").unwrap();
        // Given up while it waits for more.
        assert!(rt::timeout(QUIET / 2, changes.next()).await.is_none());
        assert!(changes.next().await.unwrap());
        assert!(rt::timeout(2 * QUIET, changes.next()).await.is_none(), "it is told once");
        std::fs::rename(&directory, top.join("elsewhere")).unwrap();
        assert!(!changes.next().await.unwrap());
        assert!(DirectoryWatch::new(&[directory]).is_err(), "it is not there");
        std::fs::remove_dir_all(top).unwrap();
    }
}
