//! What the fuzz target of the command line runs: from arguments to what a tunnel would be started with. Nothing is
//! bound, no file is read: a name of a file stands for a text that is here, or is itself the text.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use sealane_proto::fuzzing::Script;
use sealane_relay::{Endpoint, PemSource, TunnelConfig};

use crate::args::{Cli, ClientOptions, Command, TunnelOptions};
use crate::{client, dialect, log, run, server, usage_error};

/// A certificate, its key and its authority; the same that the handshake's targets use.
const LEAF: &str = include_str!("../../relay/src/fuzzing/certificates/leaf.pem");
const LEAF_KEY: &str = include_str!("../../relay/src/fuzzing/certificates/leaf-key.pem");
const CA: &str = include_str!("../../relay/src/fuzzing/certificates/ca.pem");

/// A day, the longest that anything may be told to last.
const SECONDS_MAX: Duration = Duration::from_secs(86_400);

/// Whatever the arguments are, they are refused in one line, or come to a configuration that keeps its limits, or to one
/// line about why not.
///
/// The input is the arguments, a line each.
///
/// # Panics
/// When that is not so.
pub fn command_line(data: &[u8]) {
    // An argument cannot contain a NUL.
    let mut script = Script::new(data);
    let arguments =
        script.rest().split(|byte| *byte == b'\n' || *byte == 0).map(|line| OsString::from_vec(line.into()));
    let arguments: Vec<OsString> = arguments.take(64).collect();
    match Cli::try_parse_from(std::iter::once(OsString::from("sealane")).chain(arguments.iter().cloned())) {
        Err(error) if error.use_stderr() => {
            is_one_line(&usage_error(&error, arguments.first().map(OsString::as_os_str)));
        }
        // --help and --version.
        Err(text) => assert!(text.to_string().lines().count() > 0),
        Ok(Cli { command }) => judge(command),
    }
}

/// Whatever a file says, in each of the dialects and as one of our own, it is refused in one line, or its services are command lines as above.
///
/// The input is the file.
///
/// # Panics
/// When that is not so.
pub fn stunnel_file(data: &[u8]) {
    let own = str::from_utf8(data).ok().map(|text| run::plan(text, &BTreeMap::new()));
    let own = own.map(|plan| plan.map_err(|wrong| wrong.to_string()));
    let own = own.map(|plan| plan.map(|plan| plan.services.into_iter().map(|service| service.arguments).collect()));
    for services in dialect::services(data).into_iter().chain(own) {
        let services = match services {
            Ok(services) => services,
            Err(why) => {
                is_one_line(&log::with_causes(&anyhow::anyhow!(why)));
                continue;
            }
        };
        for service in services {
            let words = std::iter::once("sealane".to_string()).chain(service);
            match Cli::try_parse_from(words) {
                Err(error) => is_one_line(&log::in_one_line(&error.to_string(), None)),
                Ok(Cli { command }) => judge(command),
            }
        }
    }
}

fn judge(command: Command) {
    let (config, options) = match command {
        Command::Client(mut options) => {
            without_the_hosts_roots(&mut options);
            (client::config(&options, pem), options.tunnel)
        }
        Command::Check(mut options) => {
            without_the_hosts_roots(&mut options.client);
            (client::config(&options.client, pem), options.client.tunnel)
        }
        Command::Server(options) => (server::config(&options, pem), options.tunnel),
        // Its file is another target's.
        Command::Run(_) | Command::Stunnel(_) | Command::EfsProxy(_) => return,
        Command::Demo(options) => return assert!((1..=1024).contains(&options.passes)),
        Command::Bench(options) => {
            let windows = u64::from(options.rounds) * 12;
            return assert!(options.seconds.as_secs_f64() * windows as f64 <= 36_000.0 && options.connections <= 4);
        }
    };
    match config {
        Ok(config) => keeps_its_limits(&config, &options),
        Err(error) => is_one_line(&log::with_causes(&error)),
    }
}

/// Without --ca-file the host's own would be read.
fn without_the_hosts_roots(options: &mut ClientOptions) {
    if options.ca_file.is_empty() {
        options.ca_file.push("ca.pem".into());
    }
}

/// The text that a name stands for.
fn pem(file: PathBuf) -> PemSource {
    let pem = match file.as_path() {
        name if name == Path::new("leaf.pem") => LEAF.into(),
        name if name == Path::new("leaf-key.pem") => LEAF_KEY.into(),
        name if name == Path::new("ca.pem") => CA.into(),
        // A text of one line: the ends of lines are elsewhere.
        text => String::from_utf8_lossy(text.as_os_str().as_bytes()).replace('|', "\n"),
    };
    PemSource::Text { name: "a file", pem }
}

/// What the documentation of the options says.
fn keeps_its_limits(config: &TunnelConfig, options: &TunnelOptions) {
    let TunnelConfig { timeouts, connect, .. } = config;
    let memory = options.resources().memory;
    let endpoint: Result<Endpoint, _> = connect.to_string().parse();
    assert_eq!(endpoint.as_ref(), Ok(connect), "an endpoint is read as it is written");
    assert!(connect.port > 0 && !connect.host.is_empty());
    for time in [timeouts.connect, timeouts.handshake, timeouts.retry, timeouts.close, timeouts.half_close] {
        assert!((Duration::from_millis(1)..=SECONDS_MAX).contains(&time), "{time:?}");
    }
    assert!(options.keepalive <= SECONDS_MAX && options.user_timeout <= SECONDS_MAX);
    assert!((1..=256).contains(&memory.workers) && (1..=1_000_000).contains(&memory.connections_max));
    match memory.layout() {
        Err(error) => is_one_line(&error.to_string()),
        Ok(layout) => {
            assert!(layout.small_count * memory.workers >= 2 * memory.connections_max);
            let worker = layout.small_count * layout.small_bytes + layout.big_count * layout.big_bytes;
            assert!(layout.big_count > 0 && worker * memory.workers <= memory.bytes_max);
        }
    }
}

/// One line of printable characters: what a script or a journal takes for one message, and a terminal does not obey.
fn is_one_line(text: &str) {
    assert!(!text.is_empty(), "an error without a word");
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
