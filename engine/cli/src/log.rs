//! Log lines on standard error.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error from now on: those that `RUST_LOG` asks for, else those of `level`.
///
/// # Errors
/// `RUST_LOG` cannot be parsed.
pub(crate) fn start(level: &str) -> Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.trim().is_empty() => EnvFilter::try_new(&text).with_context(|| format!("RUST_LOG={text}"))?,
        _ => EnvFilter::try_new(level)?,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        // A tunnel whose standard error nobody reads any more goes on without a word.
        .log_internal_errors(false)
        .init();
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(())
}

/// One line of reason before the process ends. Not `eprintln`: that panics when standard error is a closed pipe.
pub(crate) fn last_words(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "sealane: {error:#}");
}
