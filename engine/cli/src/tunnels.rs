//! Several tunnels in one process: each is what `sealane client` or `sealane server` with certain options is.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;
use sealane_io::sandbox::Policy;
use sealane_relay::{ConfigError, PemSource, TunnelConfig};

use crate::args::{Cli, Command, TunnelOptions};
use crate::log::Outlets;
use crate::manners::Manners;
use crate::{client, log, server, tunnel};

/// A tunnel of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// As behind `sealane`, beginning with `client` or `server`.
    pub(crate) arguments: Vec<String>,
}

impl Service {
    /// As a command line, with the options that all have in common.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn command(&self, shared: &[String]) -> Result<Command, ConfigError> {
        let words = ["sealane".to_string()].into_iter().chain(self.arguments.iter().chain(shared).cloned());
        let parsed = Cli::try_parse_from(words);
        let wrong = |error: clap::Error| ConfigError(format!("[{}]: {}", self.name, log::gist(&error.to_string())));
        Ok(parsed.map_err(wrong)?.command)
    }
}

/// What all tunnels come to.
pub(crate) struct Together {
    configs: Vec<TunnelConfig>,
    policy: Policy,
    options: TunnelOptions,
}

/// Reads the files of all.
///
/// # Errors
/// What is wrong with one.
pub(crate) fn together(services: &[Service], shared: &[String]) -> Result<Together> {
    let mut all: Option<Together> = None;
    for service in services {
        let (config, policy, options) = of_service(service, shared)?;
        match &mut all {
            None => all = Some(Together { configs: vec![config], policy, options }),
            Some(all) => {
                all.configs.push(config);
                join(&mut all.policy, policy);
            }
        }
    }
    all.context("no tunnel")
}

/// Runs them until the process is told to stop. The log has begun.
///
/// # Errors
/// Why they could not start.
pub(crate) fn serve(services: &[Service], shared: &[String], outlets: &Outlets, manners: Manners) -> Result<()> {
    let Together { configs, mut policy, options } = together(services, shared)?;
    policy.remade.extend(outlets.remade().map(Path::to_path_buf));
    policy.removed.extend(manners.pid_file.iter().map(|file| file.path.clone()));
    policy.removed.extend(manners.place.iter().map(|place| place.path.clone()));
    // What listens there may be started anew, and is then connected to again.
    policy.system_log = outlets.syslog.is_some();
    tunnel::serve(options.resources(), configs, &policy, &manners, false)
}

/// What a service is told, what it needs, and the options that all share.
fn of_service(service: &Service, shared: &[String]) -> Result<(TunnelConfig, Policy, TunnelOptions)> {
    let name = &service.name;
    let within = || format!("[{name}]");
    match service.command(shared)? {
        Command::Client(options) => {
            if options.insecure_no_verify {
                tracing::warn!(
                    "[{name}]: the server is NOT verified (--insecure-no-verify): anybody on the network can be it"
                );
            }
            if options.no_tls {
                tracing::info!(
                    "[{name}]: there is NO TLS (--no-tls): anybody on the network can read and change the files"
                );
            }
            client::check_listener(&options).with_context(within)?;
            let config = client::config(&options, PemSource::File).with_context(within)?;
            Ok((config, client::policy(&options).with_context(within)?, options.tunnel))
        }
        Command::Server(options) => {
            let config = server::config(&options, PemSource::File).with_context(within)?;
            let policy = server::policy(&options, &config).with_context(within)?;
            Ok((config, policy, options.tunnel))
        }
        _ => Err(ConfigError(within() + ": neither a client nor a server").into()),
    }
}

/// What both need.
fn join(policy: &mut Policy, other: Policy) {
    policy.files.extend(other.files);
    policy.readable.extend(other.readable);
    policy.readable.sort();
    policy.readable.dedup();
    policy.connect_ports.extend(other.connect_ports);
    policy.connect_ports.sort_unstable();
    policy.connect_ports.dedup();
    policy.bind_ports.extend(other.bind_ports);
    policy.names |= other.names;
    policy.privileged_ports |= other.privileged_ports;
}
