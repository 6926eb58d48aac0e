//! What is under test: an NFS server in memory, `sealane server` before it, `sealane client` before that.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use sealane_selftest::{Server, ServerOptions};

use crate::now;
use crate::sample::Sample;

/// The name in the server's certificate.
const NAME: &str = "nfs.test";
const TICK: Duration = Duration::from_millis(10);
/// Time to listen, and to end after SIGTERM: the tunnel's own limit is a little over a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running tunnel; killed when dropped.
pub(crate) struct Tunnel {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Tunnel {
    fn start(sealane: &Path, mode: &'static str, args: &[String], log: PathBuf) -> Result<Self> {
        let errors = File::create(&log).with_context(|| log.display().to_string())?;
        // The kernel ends it, should this process die first.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(sealane).args([mode, "--listen", "127.0.0.1:0"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).env_remove("RUST_LOG");
        let child = command.spawn().context("setpriv")?;
        let mut tunnel = Self { name: mode, child, log, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
        let deadline = now() + PATIENCE;
        while now() < deadline {
            if let Some(port) = listening_port(&tunnel.log()) {
                tunnel.address.set_port(port);
                return Ok(tunnel);
            }
            if let Some(status) = tunnel.child.try_wait()? {
                bail!("sealane {mode}: {status}: {}", tunnel.log());
            }
            thread::sleep(TICK);
        }
        bail!("sealane {mode} does not listen: {}", tunnel.log());
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has at this moment.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn sample(&self) -> Result<Sample> {
        Sample::of(self.child.id()).with_context(|| format!("sealane {}", self.name))
    }

    /// Ends it with SIGTERM and returns the totals that it logs at the end.
    ///
    /// # Errors
    /// When it does not end in time and well, or had connections left, or one that panicked.
    pub(crate) fn terminate(&mut self) -> Result<String> {
        let name = self.name;
        Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status().context("kill")?;
        let deadline = now() + PATIENCE;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if now() > deadline => bail!("sealane {name} does not end"),
                None => thread::sleep(TICK),
            }
        };
        let log = self.log();
        let totals = log.lines().rev().find_map(|line| line.split("stopped by SIGTERM; ").nth(1)).unwrap_or_default();
        if !status.success() || totals.is_empty() {
            bail!("sealane {name}: {status}, without its totals");
        }
        if log.contains("the tunnel stops") {
            bail!("sealane {name} had connections left that nobody had opened");
        }
        if total(totals, "connections_panicked_total") > 0 {
            bail!("sealane {name}: a connection ended in a panic");
        }
        Ok(totals.to_string())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number behind `name=`; none is 0.
pub(crate) fn total(totals: &str, name: &str) -> u64 {
    let find = |word: &str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
    totals.split_ascii_whitespace().find_map(find).unwrap_or(0)
}

/// The port in the line that says where the program listens.
fn listening_port(log: &str) -> Option<u16> {
    log.split("listening on 127.0.0.1:").nth(1)?.split(',').next()?.parse().ok()
}

/// Both tunnels and the NFS server; ends them when dropped.
pub(crate) struct Lab {
    /// What clients connect to.
    pub(crate) client: Tunnel,
    /// What TLS clients connect to.
    pub(crate) server: Tunnel,
    nfs: Server,
    directory: PathBuf,
}

impl Lab {
    /// Starts everything: `both` are options of both tunnels, `server` of the server's alone.
    ///
    /// # Errors
    /// Whatever does not start.
    pub(crate) fn start(sealane: &Path, driver: &str, connections_max: usize, server: &[&str]) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("sealane-soak-{}-{driver}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        certificates(&directory)?;
        let path = |file: &str| directory.join(file).display().to_string();
        // A session's first connection comes before the place of one that has just ended is free again.
        let options = ServerOptions { connections_max: connections_max + 64, bytes_max: 1 << 30, ..Default::default() };
        let nfs = Server::start(&options).context("the NFS server")?;
        let common = ["--io", driver, "--connections-max", &connections_max.to_string()].map(String::from);
        let mut args = common.to_vec();
        args.extend(["--connect".into(), nfs.local_address().to_string()]);
        args.extend(["--cert".into(), path("server.pem"), "--key".into(), path("server.key")]);
        // All clients are at one address here.
        args.extend(["--connections-per-address-max".into(), connections_max.to_string()]);
        args.extend(server.iter().map(ToString::to_string));
        let server = Tunnel::start(sealane, "server", &args, directory.join("server.log"))?;
        let mut args = common.to_vec();
        args.extend(["--connect".into(), server.address.to_string(), "--ca-file".into(), path("ca.pem")]);
        args.extend(["--server-name".into(), NAME.into()]);
        let client = Tunnel::start(sealane, "client", &args, directory.join("client.log"))?;
        Ok(Self { client, server, nfs, directory })
    }

    /// Both tunnels with their names.
    pub(crate) fn tunnels(&self) -> [(&'static str, &Tunnel); 2] {
        [("client", &self.client), ("server", &self.server)]
    }

    /// Waits until nobody is connected to the NFS server, and the tunnels' descriptors are not more than `rest`.
    ///
    /// # Errors
    /// Who has more after `patience`.
    pub(crate) fn settle(&self, rest: Option<&[Sample; 2]>, patience: Duration) -> Result<[Sample; 2]> {
        let deadline = now() + patience;
        loop {
            let samples = [self.client.sample()?, self.server.sample()?];
            let is_less = |(sample, rest): (&Sample, &Sample)| sample.fds <= rest.fds && sample.threads <= rest.threads;
            let is_at_rest = rest.is_none_or(|rest| samples.iter().zip(rest).all(is_less));
            if self.nfs.connections() == 0 && is_at_rest {
                return Ok(samples);
            }
            if now() > deadline {
                let left = self.nfs.connections();
                bail!(
                    "after {patience:?} without a client: {left} connections at the NFS server, client and server \
                       {samples:?}, at first {rest:?}"
                );
            }
            thread::sleep(TICK);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// An authority, and the server's certificate under it.
fn certificates(directory: &Path) -> Result<()> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec![NAME.to_string()])?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = server.signed_by(&key, &issuer)?.pem();
    for (file, text) in [("ca.pem", ca_pem), ("server.pem", certificate), ("server.key", key.serialize_pem())] {
        fs::write(directory.join(file), text).with_context(|| file.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_found_by_their_whole_name() {
        let totals = "connections_accepted_total=12 connections_panicked_total=3";
        assert_eq!(total(totals, "connections_accepted_total"), 12);
        assert_eq!(total(totals, "accepted_total"), 0);
    }
}
