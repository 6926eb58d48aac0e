//! What the program does when it is called by another program's name.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use sealane_relay::ConfigError;

use crate::dialect::keys::{Fate, KEYS, Key, Scope};
use crate::dialect::{efs_proxy, stunnel};

/// The file that stunnel reads if none is named.
const STUNNEL_CONF: &str = "/etc/stunnel/stunnel.conf";

const EFS_PROXY_NAME: &str = "efs-proxy";

/// Names that stand for stunnel.
const STUNNEL_NAMES: [&str; 3] = ["stunnel", "stunnel4", "stunnel5"];

/// Does what the program does that has this name, `words` being the rest of the command line. `None`: it is our own.
pub(crate) fn called(name: &OsStr, words: impl IntoIterator<Item = OsString>) -> Option<Result<()>> {
    let name = Path::new(name).file_name()?.to_str()?;
    let words = words.into_iter().collect::<Vec<_>>();
    match name {
        EFS_PROXY_NAME => Some(as_efs_proxy(&words)),
        _ => STUNNEL_NAMES.contains(&name).then(|| as_stunnel(&words)),
    }
}

/// `efs-proxy FILE [--tls]`, and more that is for other things than a tunnel: unknown words must not keep a mount from being made.
fn as_efs_proxy(words: &[OsString]) -> Result<()> {
    match words.iter().find(|word| !word.to_string_lossy().starts_with('-')) {
        Some(file) => efs_proxy::serve_file(Path::new(file), words.iter().any(|word| word == "--tls")),
        None => bail!(ConfigError("usage: efs-proxy FILE [--tls]".into())),
    }
}

/// `stunnel [FILE] | -fd N | -help | -version | -sockets | -options`; all is said on standard error.
fn as_stunnel(words: &[OsString]) -> Result<()> {
    let words: Vec<_> = words.iter().map(|word| (word.as_os_str(), word.to_str().unwrap_or_default())).collect();
    match words.as_slice() {
        [] => stunnel::serve_file(Path::new(STUNNEL_CONF)),
        [(_, "-help" | "-h" | "--help")] => tell(help),
        [(_, "-version" | "--version")] => tell(version),
        [(_, "-sockets")] => tell(sockets),
        [(_, "-options")] => tell(|to| writeln!(to, "options = NO_TLSv1_2\noptions = NO_TLSv1_3")),
        [(_, "-fd"), (_, number)] => match number.parse::<u32>() {
            // It is opened anew, as a file or the pipe that it is.
            Ok(number) => stunnel::serve_file(&PathBuf::from(format!("/dev/fd/{number}"))),
            Err(_) => Err(ConfigError(format!("-fd {number}: it takes the number of a file that is open")).into()),
        },
        [(file, text)] if !text.starts_with('-') => stunnel::serve_file(Path::new(file)),
        _ => bail!(ConfigError("usage: stunnel [FILE] | -fd N | -help | -version | -sockets | -options".into())),
    }
}

/// Nobody may read it: that is no error.
fn tell(what: impl FnOnce(&mut io::StderrLock<'_>) -> io::Result<()>) -> Result<()> {
    let _ = what(&mut io::stderr().lock());
    Ok(())
}

fn version(to: &mut io::StderrLock<'_>) -> io::Result<()> {
    writeln!(to, "sealane {} in stunnel's place: 'sealane stunnel --help' says more", env!("CARGO_PKG_VERSION"))
}

/// Keys and what they take, in lines that begin with the key: mount helpers look for some.
fn help(to: &mut io::StderrLock<'_>) -> io::Result<()> {
    version(to)?;
    for (title, is_of_all) in [("Global", true), ("Service-level", false)] {
        writeln!(to, "\n{title} options:")?;
        let is_listed = |key: &&Key| {
            (key.scope == Scope::Global) == is_of_all && matches!(key.fate, Fate::Supported | Fate::Mapped)
        };
        KEYS.iter().filter(is_listed).try_for_each(|key| writeln!(to, "{:22} = {}", key.name, key.note))?;
    }
    Ok(())
}

fn sockets(to: &mut io::StderrLock<'_>) -> io::Result<()> {
    writeln!(to, "Socket options that are obeyed, of the accepted (l) and the connected (r) socket:")?;
    ["SO_KEEPALIVE", "TCP_KEEPIDLE", "SO_RCVBUF", "SO_SNDBUF"].iter().try_for_each(|name| writeln!(to, "{name}"))
}
