//! Log lines: on standard error, and where stunnel writes them.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use sealane_io::syslog::find_time_zone;
use tracing_subscriber::EnvFilter;

mod outlets;
mod queue;
mod stunnel;

pub(crate) use outlets::{Form, LogFile, Outlets};
use queue::Queue;

/// How long the end of the process waits for standard error to take the last lines.
const FLUSH_MAX: Duration = Duration::from_millis(200);

static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Queues log lines for standard error from now on: those that `RUST_LOG` asks for, else those of `level`. They are
/// written once [`begin`] or [`flush`] has been called.
///
/// # Errors
/// `RUST_LOG` cannot be parsed.
pub(crate) fn start(level: &str) -> Result<()> {
    start_to(level, &Outlets::default())
}

/// The same for lines that go elsewhere.
///
/// # Errors
/// `RUST_LOG` cannot be parsed, or a file cannot be written to.
pub(crate) fn start_to(level: &str, outlets: &Outlets) -> Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.trim().is_empty() => EnvFilter::try_new(&text).with_context(|| format!("RUST_LOG={text}"))?,
        _ => EnvFilter::try_new(level)?,
    };
    find_time_zone();
    let opened = outlets.open()?;
    let queue = QUEUE.get_or_init(|| Queue::new(opened)).clone();
    let is_read = outlets.form == Form::Own && io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(queue)
        .with_target(false)
        .with_ansi(is_read)
        // A tunnel whose standard error nobody reads any more goes on without a word.
        .log_internal_errors(false);
    match outlets.form {
        Form::Own => lines.init(),
        Form::Stunnel => lines.event_format(stunnel::Stunnel).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}");
        // Elsewhere a panic ends a connection; here it ends the process.
        if thread::current().name() == Some("main") {
            flush();
        }
    }));
    Ok(())
}

/// Starts the thread that writes them: not before the process has given up what its threads must not have.
///
/// # Errors
/// No thread could be started.
pub(crate) fn begin() -> Result<()> {
    QUEUE.get().map_or(Ok(()), Queue::begin).context("starting a thread")
}

/// Opens the file anew, if lines go to one: it may have been given another name.
pub(crate) fn reopen() {
    outlets::reopen();
    tracing::info!("SIGUSR1: the log file is opened anew");
}

/// Waits, not for long, until standard error has taken what was logged.
pub(crate) fn flush() {
    if let Some(queue) = QUEUE.get() {
        // Without a thread there is no word, as below.
        let _ = queue.begin();
        queue.flush(FLUSH_MAX);
    }
}

/// One line of reason before the process ends. Not `eprintln`: that panics when standard error is a closed pipe; and not
/// on this thread: it would wait for one that is full.
pub(crate) fn last_words(reason: &str) {
    flush();
    let line = format!("sealane: {reason}\n");
    let (done, said) = channel();
    let speak = move || {
        let _ = io::stderr().write_all(line.as_bytes());
        let _ = done.send(());
    };
    // Without a thread there is no word: the status says that something was wrong.
    let _ = thread::Builder::new().spawn(speak);
    let _ = said.recv_timeout(FLUSH_MAX);
}

/// An error and its causes in one line; a cause that the error has named already is not repeated.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.ends_with(&cause) {
            line = if line.is_empty() { cause } else { format!("{line}: {cause}") };
        }
    }
    printable(&line)
}

/// One line, whatever was quoted: the name of a file may contain the end of a line, and what a terminal obeys.
fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            // Also what only Unicode takes for the end of a line.
            '\u{2028}' | '\u{2029}' => line.extend(character.escape_unicode()),
            control if control.is_control() => line.extend(control.escape_default()),
            other => line.push(other),
        }
    }
    line
}

/// What clap says on several lines: the error and its details in one, without usage and hints.
pub(crate) fn gist(text: &str) -> String {
    let gist = text.split("\n\nUsage:").next().unwrap_or(text);
    let gist = gist.split("\n\nFor more information").next().unwrap_or(gist);
    let words: Vec<&str> = gist.split_whitespace().collect();
    let line = words.join(" ");
    printable(line.strip_prefix("error: ").unwrap_or(&line))
}

/// The gist of what clap says on several lines: the error and its details, without usage and hints; and which help says
/// more.
pub(crate) fn in_one_line(text: &str, command: Option<&str>) -> String {
    let line = gist(text);
    match command {
        Some(command) => format!("{line} (see 'sealane {command} --help')"),
        None => format!("{line} (see 'sealane --help')"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_in_an_error_stays_in_its_line_and_commands_no_terminal() {
        let error = anyhow::anyhow!("No such file").context("a\nb\u{1b}[2J\u{85}\u{2028}é.pem");
        assert_eq!(with_causes(&error), "a\\nb\\u{1b}[2J\\u{85}\\u{2028}é.pem: No such file");
        let text = "error: no '\u{1b}[2J'\n  tip: none\n\nUsage: x";
        assert_eq!(in_one_line(text, None), "no '\\u{1b}[2J' tip: none (see 'sealane --help')");
    }
}
