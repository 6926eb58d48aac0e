//! What a tunnel needs once it has its listener and its keys: files, ports, an account. The rest is given up.

use std::io::{self, BufRead, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sealane_io::net::SourcePort;
use sealane_io::sandbox::{self, Account, Demand, Policy, probe};
use sealane_relay::Endpoint;

use crate::args::TunnelOptions;
use crate::tunnel::source_port;

/// Where name services keep what they read: their configuration, their modules, resolv.conf where it is a link.
const NAME_SERVICE_DIRECTORIES: [&str; 10] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/NetworkManager",
    "/run/nscd",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/var/lib/sss",
];

/// Where distributions keep the host's roots, and what is linked to from there.
const ROOT_DIRECTORIES: [&str; 6] = [
    "/etc/ca-certificates",
    "/etc/pki",
    "/etc/ssl",
    "/usr/local/share/ca-certificates",
    "/usr/share/ca-certificates",
    "/var/lib/ca-certificates",
];

/// DNS over TCP, where an answer is too long for a datagram.
const DOMAIN_PORT: u16 = 53;

/// What a tunnel to `connect` with these PEM files needs. `host_roots`: it trusts the host's roots. `others`: whom it connects to
/// besides, where a host of `*` is any. `directories`: all that is in them is read again, too.
///
/// # Errors
/// A user or a group that this host does not know; with `--sandbox on`, a file in the root directory.
pub(crate) fn policy(
    options: &TunnelOptions,
    connect: &Endpoint,
    files: Vec<PathBuf>,
    host_roots: bool,
    others: &[Endpoint],
    directories: &[PathBuf],
) -> Result<Policy> {
    let account = options.user.as_deref().map(|user| Account::find(user, options.group.as_deref())).transpose();
    let mut readable: Vec<PathBuf> = files.iter().flat_map(|file| directories_of(file)).collect();
    readable.extend_from_slice(directories);
    let mut connect_ports: Vec<u16> = others.iter().map(|other| other.port).chain([connect.port]).collect();
    let is_name = |endpoint: &Endpoint| endpoint.host.parse::<IpAddr>().is_err();
    let address = connect.host.split_once('%').map_or(connect.host.as_str(), |(address, _)| address);
    if address.parse::<IpAddr>().is_err() || others.iter().any(is_name) {
        readable.extend(NAME_SERVICE_DIRECTORIES.map(PathBuf::from));
        readable.extend(resolver_directory(Path::new("/etc/resolv.conf")));
        connect_ports.push(DOMAIN_PORT);
    }
    if host_roots {
        readable.extend(ROOT_DIRECTORIES.map(PathBuf::from));
        let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().filter_map(std::env::var_os);
        readable.extend(named.flat_map(|paths| std::env::split_paths(&paths).collect::<Vec<_>>()));
    }
    readable.sort();
    readable.dedup();
    connect_ports.sort_unstable();
    connect_ports.dedup();
    let demand = options.sandbox.into();
    if demand != Demand::Off {
        check_readable(demand, &files, &readable)?;
    }
    let source_port = source_port(options.source_port);
    let bind_ports = match (source_port, options.bind_address) {
        (SourcePort::Privileged, _) => vec![sealane_io::net::PRIVILEGED_PORTS],
        (SourcePort::Any, Some(_)) => vec![0..=0],
        (SourcePort::Any, None) => Vec::new(),
    };
    Ok(Policy {
        demand,
        account: account.context("--user")?,
        files,
        readable,
        remade: Vec::new(),
        removed: Vec::new(),
        names: is_name(connect) || others.iter().any(is_name),
        system_log: false,
        connect_ports,
        bind_ports,
        privileged_ports: source_port == SourcePort::Privileged,
    })
}

/// Where a file is: by its name, and where links lead. Directories, because a rule on a file would be bound to the one that
/// is there now, and a renewal puts another one in its place.
fn directories_of(file: &Path) -> Vec<PathBuf> {
    let real = file.canonicalize().ok();
    [Some(file), real.as_deref()].into_iter().flatten().map(directory_of).collect()
}

pub(crate) fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn is_root(directory: &Path) -> bool {
    directory.canonicalize().is_ok_and(|real| real == Path::new("/"))
}

/// Links that are followed from one to the next, as the kernel does (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// The directories of a file, and of all that links lead to on the way to it: a renewal can change any of them.
pub(crate) fn directories_on_the_way(file: &Path) -> Vec<PathBuf> {
    let (mut file, mut all) = (file.to_path_buf(), Vec::new());
    for _ in 0..LINKS_MAX {
        let directory = directory_of(&file);
        all.push(directory.clone());
        let Ok(target) = file.read_link() else { break };
        file = directory.join(target);
    }
    all
}

/// The directories of the links that lead from this name to what it stands for, if it is one.
pub(crate) fn links_on_the_way(name: &Path) -> Vec<PathBuf> {
    let (mut name, mut all) = (name.to_path_buf(), Vec::new());
    while let (Ok(target), true) = (name.read_link(), all.len() < LINKS_MAX) {
        let directory = directory_of(&name);
        name = directory.join(target);
        all.push(directory);
    }
    all
}

/// Where resolv.conf is, or will be: while a host boots, it may lead to what nobody has made yet. Then what is there of the way
/// to it may be read, but not everything.
fn resolver_directory(file: &Path) -> Option<PathBuf> {
    let mut file = file.to_path_buf();
    for _ in 0..LINKS_MAX {
        let Ok(target) = file.read_link() else { break };
        file = directory_of(&file).join(target);
    }
    let directory = directory_of(&file);
    let there = directory.ancestors().find(|directory| directory.is_dir())?;
    if is_root(there) {
        let (file, directory) = (file.display(), directory.display());
        tracing::warn!(
            "sandbox: {directory} is not there: names may not be found when {file} comes, only by a new start"
        );
        return None;
    }
    Some(there.to_path_buf())
}

/// Whoever may read what is below the root directory may read everything.
fn check_readable(demand: Demand, files: &[PathBuf], readable: &[PathBuf]) -> Result<()> {
    tracing::debug!("sandbox: readable are {readable:?}");
    if !readable.iter().any(|directory| is_root(directory)) {
        return Ok(());
    }
    let in_root = files.iter().find(|file| directories_of(file).iter().any(|directory| is_root(directory)));
    let what = in_root.map_or("SSL_CERT_DIR or SSL_CERT_FILE".into(), |file| file.display().to_string());
    let why =
        format!("{what} is in the root directory, so that every file stays readable: give it a directory of its own");
    if demand == Demand::On {
        bail!("--sandbox on: {why}");
    }
    tracing::warn!("sandbox: {why}");
    Ok(())
}

/// Gives up what `policy` does not name, and says so. Whether system calls are filtered from now on.
///
/// # Errors
/// The account cannot be had, or all was asked for and the host does not have it.
pub(crate) fn enter(policy: &Policy) -> Result<bool> {
    let report = sandbox::enter(policy).context(match policy.account {
        Some(_) => "giving up privileges (--user, --sandbox)",
        None => "giving up privileges (--sandbox)",
    })?;
    let Some(report) = report else {
        tracing::info!("no sandbox (--sandbox off)");
        return Ok(false);
    };
    let who = match &report.account {
        Some(account) if report.keeps_groups => {
            format!("; runs as {account}, with the groups that it had and may not change")
        }
        Some(account) => format!("; runs as {account}"),
        None if report.is_root => "; runs as root, which --user NAME would give up".into(),
        None => String::new(),
    };
    let missing = report.missing();
    if policy.demand == Demand::Off {
        tracing::info!("no sandbox (--sandbox off){who}");
    } else if missing.is_empty() {
        tracing::info!("sandbox: {report}{who}");
    } else {
        tracing::warn!("sandbox: {report}{who}; this host does not offer all of it: {}", missing.join("; "));
    }
    if !report.unreadable.is_empty() {
        let files: Vec<String> =
            report.unreadable.iter().map(|(file, error)| format!("{} ({error})", file.display())).collect();
        tracing::warn!("cannot be read again by this process, only by a new start: {}", files.join(", "));
    }
    Ok(report.filter.is_ok())
}

/// Says that the rings of the workers may be asked for anything.
///
/// # Errors
/// All was asked for.
pub(crate) fn rings_lack_rules(policy: &Policy) -> Result<()> {
    const WHY: &str = "the kernel takes no rules for rings (Linux 5.10)";
    match policy.demand {
        Demand::Off => {}
        Demand::Auto => {
            tracing::warn!("sandbox: {WHY}: what is asked of them only Landlock judges; --io epoll has none")
        }
        Demand::On => bail!("--sandbox on: {WHY}; --io epoll runs without them"),
    }
    Ok(())
}

/// Tries what is forbidden, and what must not be; once more to read the files behind each line on standard input.
///
/// # Errors
/// An act could not be tried, or nobody reads what came of it.
pub(crate) fn probe(policy: &Policy, is_filtered: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut lines = Vec::new();
    probe::run(policy, is_filtered, |act, came_of_it| lines.push((act.to_string(), came_of_it)))?;
    let mut tell = |act: &str, came_of_it: io::Result<()>| match came_of_it {
        Ok(()) => writeln!(out, "{act}: done"),
        Err(error) => writeln!(out, "{act}: {error}"),
    };
    for (act, came_of_it) in lines {
        tell(&act, came_of_it)?;
    }
    tell("the end", Ok(()))?;
    for _ in io::stdin().lock().lines() {
        for file in &policy.files {
            tell(&format!("again: read {}", file.display()), probe::read(file))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_that_is_still_to_come_is_waited_for_in_what_is_there() {
        let top = std::env::temp_dir().join(format!("sealane-resolver-{}", std::process::id()));
        std::fs::create_dir_all(top.join("etc")).unwrap();
        std::fs::create_dir_all(top.join("run/manager")).unwrap();
        let link = top.join("etc/resolv.conf");
        let ways = [
            ("none/of/it/resolv.conf", Some(top.join("etc"))),
            ("../run/manager/resolve/stub.conf", Some(top.join("run/manager"))),
            ("../run/manager/stub.conf", Some(top.join("run/manager"))),
            ("/no-such-directory/resolv.conf", None),
            // One link leads to the next.
            ("../run/next", Some(top.join("run/manager"))),
        ];
        std::os::unix::fs::symlink("manager/resolve/stub.conf", top.join("run/next")).unwrap();
        for (target, wanted) in ways {
            std::os::unix::fs::symlink(target, &link).unwrap();
            let found = resolver_directory(&link).map(|found| found.canonicalize().unwrap());
            assert_eq!(found, wanted.map(|wanted| wanted.canonicalize().unwrap()), "{target}");
            std::fs::remove_file(&link).unwrap();
        }
        assert_eq!(resolver_directory(&link), Some(top.join("etc")), "no link, no file");
        std::fs::remove_dir_all(top).unwrap();
    }
}
