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
pub(crate) fn last_words(reason: &str) {
    let _ = writeln!(io::stderr(), "sealane: {reason}");
}

/// The gist of what clap says on several lines: the error and its details, without usage and hints.
pub(crate) fn in_one_line(text: &str) -> String {
    let gist = text.split("\n\nUsage:").next().unwrap_or(text);
    let gist = gist.split("\n\nFor more information").next().unwrap_or(gist);
    let words: Vec<&str> = gist.split_whitespace().collect();
    let line = words.join(" ");
    // The usage begins with the command itself; what follows is options and values.
    let usage = text.split("\n\nUsage: ").nth(1).unwrap_or("sealane");
    let is_name = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
    let command: Vec<&str> = usage.split_whitespace().take_while(is_name).collect();
    format!("{} (see '{} --help')", line.strip_prefix("error: ").unwrap_or(&line), command.join(" "))
}
