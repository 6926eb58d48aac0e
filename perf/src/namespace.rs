//! A network namespace for one run, in which loopback is what it is on a plain NFS host: TCP with cubic.
//!
//! The namespace has no name: it ends with the last process in it, however that ends.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// Starts this program again with the same arguments in a new network namespace. Returns only when that fails.
pub(crate) fn enter() -> anyhow::Error {
    let begin = || -> Result<Command> {
        let program = std::env::current_exe().context("the path of this program")?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--"]).arg(program).args(std::env::args_os().skip(1)).arg("--outside").arg(own()?);
        Ok(command)
    };
    match begin() {
        Ok(mut command) => anyhow::Error::from(command.exec()).context("unshare"),
        Err(error) => error,
    }
}

fn own() -> Result<String> {
    let link = fs::read_link(OWN_NAMESPACE).context(OWN_NAMESPACE)?;
    Ok(link.to_string_lossy().into_owned())
}

/// Makes loopback ready, unless this is still the namespace `outside`.
///
/// # Errors
/// When a step fails.
pub(crate) fn prepare(outside: &str) -> Result<()> {
    if own()? == outside {
        bail!("not in a network namespace of its own");
    }
    ip(&["link", "set", "lo", "up"])?;
    // The sysctl in a namespace takes only what the host's tcp_allowed_congestion_control lists; a route takes any.
    for destination in ["127.0.0.0/8", "127.0.0.1"] {
        let route = ["route", "replace", "table", "local", "local", destination, "dev", "lo", "proto", "kernel"];
        ip(&[&route[..], &["scope", "host", "src", "127.0.0.1", "congctl", "cubic"]].concat())?;
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Whether at least `least` ends of connections are established in this namespace; that they all use cubic.
///
/// # Errors
/// When one uses something else.
pub(crate) fn verify_cubic(least: usize) -> Result<bool> {
    let output = Command::new("ss").args(["-Htin", "state", "established"]).output().context("ss")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let used = congestion_controls(&text);
    if let Some(other) = used.iter().find(|name| **name != "cubic") {
        bail!("a connection uses {other} instead of cubic");
    }
    Ok(used.len() >= least)
}

/// The congestion control of each connection: the first word of each indented line.
fn congestion_controls(text: &str) -> Vec<&str> {
    let inner = text.lines().filter(|line| line.starts_with([' ', '\t']));
    inner.filter_map(|line| line.split_ascii_whitespace().find(|word| *word != "ts" && *word != "sack")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_congestion_control_stands_behind_timestamps_and_sack() {
        let text = "0 0 127.0.0.1:4 127.0.0.1:5\n\t cubic wscale:10,10 rto:204\n0 0 a b\n\t ts sack bbr wscale:1,1\n";
        assert_eq!(congestion_controls(text), ["cubic", "bbr"]);
        assert!(congestion_controls("").is_empty());
    }
}
