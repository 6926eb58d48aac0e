//! What the scenarios share: certificates, processes, peers, bytes.

pub mod authority;
pub mod bytes;
pub mod dns;
pub mod openssl;
pub mod peer;
pub mod pki;
pub mod process;
pub mod sealane;

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Notes that a test could not run here, and why: `tests/run` counts these lines and does not call them passed.
pub fn not_run(test: &str, why: &str) {
    eprintln!("NOT RUN {test}: {why}");
    if let Some(file) = std::env::var_os("SEALANE_NOT_RUN") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        writeln!(file, "{test}: {why}").unwrap();
    }
}

pub fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// Held by tests that compare times or memory: they run one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
