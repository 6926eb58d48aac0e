//! Verdicts, in the words of tests/lib.sh.

use std::process::ExitCode;

use anyhow::Result;

/// What has passed and what has not.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    passed: usize,
    failed: usize,
}

impl Verdicts {
    /// Prints and counts one.
    pub(crate) fn take(&mut self, name: &str, done: Result<String>) {
        match done {
            Ok(figures) => {
                self.passed += 1;
                println!("ok {name}: {figures}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED {name}: {error:#}");
            }
        }
    }

    /// The closing line, and the status that goes with it.
    pub(crate) fn summary(&self) -> ExitCode {
        println!("soak: {} passed, {} failed, 0 not run", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
