//! What the process gives up once it has bound its listener and read its keys.
//!
//! This module does what a [`Policy`] says; which files and ports a tunnel needs is not for it to know. Landlock, seccomp
//! and capabilities are properties of a thread that its later threads inherit: [`enter`] wants to be called while there is
//! only one.

mod account;
mod confine;
mod filter;
pub mod probe;

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

pub use account::Account;
pub use filter::forbid_new_rings;

/// How much is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Demand {
    /// No confinement; an [`Account`] is still obeyed.
    Off,
    /// What the host offers.
    Auto,
    /// All of it, or an error.
    On,
}

/// What the process needs from now on.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How much of this is asked for.
    pub demand: Demand,
    /// Who the process is to be.
    pub account: Option<Account>,
    /// Files that will be read again.
    pub files: Vec<PathBuf>,
    /// Directories below which anything may be read. One that is missing is no error.
    pub readable: Vec<PathBuf>,
    /// Files that are made anew where they are, to be written to.
    pub remade: Vec<PathBuf>,
    /// Files that are removed in the end.
    pub removed: Vec<PathBuf>,
    /// Whether names are looked up, or the interfaces of addresses: by local sockets, too.
    pub names: bool,
    /// Whether the system log is written to: by datagrams to a local socket.
    pub system_log: bool,
    /// TCP ports that may be connected to.
    pub connect_ports: Vec<u16>,
    /// TCP ports that outgoing connections may be bound to; 0 is "one of the kernel's choice".
    pub bind_ports: Vec<RangeInclusive<u16>>,
    /// Whether ports below 1024 must stay possible.
    pub privileged_ports: bool,
}

/// Why the process is not what it was told to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The system does not know that user or group.
    #[error("there is no {kind} '{name}' on this host")]
    Unknown {
        /// "user" or "group".
        kind: &'static str,
        /// As it was written.
        name: String,
    },
    /// An account that cannot be meant.
    #[error("{0}")]
    Account(&'static str),
    /// A step failed; `op` is the call as strace would name it.
    #[error("{op}: {source}")]
    Io {
        /// Which.
        op: &'static str,
        /// Why.
        source: io::Error,
    },
    /// All was asked for, and this host does not have all.
    #[error("{0}")]
    Incomplete(String),
}

fn failed<E: Into<io::Error>>(op: &'static str) -> impl FnOnce(E) -> SandboxError {
    move |error| SandboxError::Io { op, source: error.into() }
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// The account that the process has now, if it has changed.
    pub account: Option<Account>,
    /// Whether it was that user already and keeps groups that the user database does not have for it.
    pub keeps_groups: bool,
    /// Whether the process is root's.
    pub is_root: bool,
    /// Capabilities that are left.
    pub capabilities: Vec<String>,
    /// Steps that a filter around this process refused, and why.
    pub refused: Vec<String>,
    /// The kernel's Landlock ABI that is used, or why none is.
    pub landlock: Result<i32, String>,
    /// The number of system calls that the filter allows, or why there is none.
    pub filter: Result<usize, String>,
    /// Files that this process will not be able to read again.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// The first ABI with rules for TCP (Linux 6.7).
pub const LANDLOCK_ABI_WITH_TCP: i32 = 4;

impl Report {
    /// What of it this host does not offer, in words.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = self.refused.clone();
        match &self.landlock {
            Err(why) => missing.push(format!("Landlock: {why}")),
            Ok(abi) if *abi < LANDLOCK_ABI_WITH_TCP => {
                missing.push(format!("Landlock ABI {abi} has no rules for TCP (Linux 6.7)"));
            }
            Ok(_) => {}
        }
        missing.extend(self.filter.as_ref().err().map(|why| format!("seccomp: {why}")));
        missing
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.landlock {
            Ok(abi) => write!(f, "Landlock ABI {abi}")?,
            Err(_) => write!(f, "no Landlock")?,
        }
        match &self.filter {
            Ok(calls) => write!(f, ", seccomp with {calls} system calls")?,
            Err(_) => write!(f, ", no seccomp")?,
        }
        match self.capabilities.as_slice() {
            [] => write!(f, ", no capabilities"),
            some => write!(f, ", {}", some.join(" ")),
        }
    }
}

/// Does what `policy` says; `None` when it asks for nothing. There is no way back.
///
/// # Errors
/// [`SandboxError::Io`] from a step that no host refuses to one who may take it, where it was asked for: with an account, or
/// when all was demanded. [`SandboxError::Incomplete`] where all was demanded and this host does not have all.
pub fn enter(policy: &Policy) -> Result<Option<Report>, SandboxError> {
    let become_it = || policy.account.as_ref().map_or(Ok(false), |account| account.become_it(policy.privileged_ports));
    if policy.demand == Demand::Off {
        if policy.account.is_none() {
            return Ok(None);
        }
        let keeps_groups = become_it()?;
        prctl::set_dumpable(false).map_err(failed("prctl(PR_SET_DUMPABLE)"))?;
        let off = || (Err("off".into()), Err("off".into()));
        return Ok(Some(report(policy, keeps_groups, Vec::new(), unreadable(policy), off)));
    }
    let mut refused = Vec::new();
    // A container's filter may refuse any of these, to a tunnel that has worked there without.
    let is_hard = policy.demand == Demand::On || policy.account.is_some();
    let mut unless_hard = |step: Result<(), SandboxError>| match step {
        Err(error) if !is_hard => {
            refused.push(error.to_string());
            Ok(())
        }
        other => other,
    };
    unless_hard(clear_bounding_set())?;
    let keeps_groups = become_it()?;
    let mut unreadable_files = Vec::new();
    unless_hard(give_up_capabilities(policy, &mut unreadable_files))?;
    // A crash must not write keys to a disk, and nobody of the same user may look into this process.
    unless_hard(setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("setrlimit(RLIMIT_CORE)")))?;
    unless_hard(prctl::set_dumpable(false).map_err(failed("prctl(PR_SET_DUMPABLE)")))?;
    unless_hard(prctl::set_no_new_privs().map_err(failed("prctl(PR_SET_NO_NEW_PRIVS)")))?;
    let confine = || (confine::with_landlock(policy), filter::install(policy));
    let report = report(policy, keeps_groups, refused, unreadable_files, confine);
    if policy.demand == Demand::On {
        let missing = report.missing();
        if !missing.is_empty() {
            return Err(SandboxError::Incomplete(missing.join("; ")));
        }
    }
    Ok(Some(report))
}

fn report(
    policy: &Policy,
    keeps_groups: bool,
    refused: Vec<String>,
    unreadable: Vec<(PathBuf, io::Error)>,
    confine: impl FnOnce() -> (Result<i32, String>, Result<usize, String>),
) -> Report {
    // The filter does not let us ask any more.
    let left = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let mut capabilities: Vec<String> = left.iter().map(ToString::to_string).collect();
    capabilities.sort();
    let is_root = nix::unistd::Uid::effective().is_root();
    let account = policy.account.clone();
    let (landlock, filter) = confine();
    Report { account, keeps_groups, is_root, capabilities, refused, landlock, filter, unreadable }
}

/// What is kept where it is there. Rings and the pages of keys would count against RLIMIT_MEMLOCK without the first, which
/// gives nothing but that.
fn kept_capabilities(privileged_ports: bool) -> CapsHashSet {
    let ports = privileged_ports.then_some(Capability::CAP_NET_BIND_SERVICE);
    [Capability::CAP_IPC_LOCK].into_iter().chain(ports).collect()
}

fn unreadable(policy: &Policy) -> Vec<(PathBuf, io::Error)> {
    // What is no file (a shell's pipe) has been read once and for all, and opening it again could wait for ever.
    let open = |file: &PathBuf| match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_file() => std::fs::File::open(file).map(drop),
        other => other.map(drop),
    };
    let refusal = |file: &PathBuf| Some((file.clone(), open(file).err()?));
    policy.files.iter().filter_map(refusal).collect()
}

fn refused_by(op: &'static str) -> impl FnOnce(caps::errors::CapsError) -> SandboxError {
    move |error| failed(op)(io::Error::other(error.to_string()))
}

fn set(capset: CapSet, capabilities: &CapsHashSet) -> Result<(), SandboxError> {
    caps::set(None, capset, capabilities).map_err(refused_by("capset"))
}

/// Gives up what an exec could give back; it will not be allowed anyway. Another user could not do that any more.
fn clear_bounding_set() -> Result<(), SandboxError> {
    let had = caps::read(None, CapSet::Permitted).map_err(refused_by("capget"))?;
    if !had.contains(&Capability::CAP_SETPCAP) {
        return Ok(());
    }
    set(CapSet::Effective, &had)?;
    caps::clear(None, CapSet::Bounding).map_err(refused_by("prctl(PR_CAPBSET_DROP)"))
}

/// Leaves the process the capabilities that it needs; names the files that it cannot read with them.
///
/// Root without CAP_DAC_READ_SEARCH reads what belongs to root: it is kept only where one of the files wants it.
fn give_up_capabilities(policy: &Policy, unreadable_files: &mut Vec<(PathBuf, io::Error)>) -> Result<(), SandboxError> {
    let had = caps::read(None, CapSet::Permitted).map_err(refused_by("capget"))?;
    let mut kept: CapsHashSet = kept_capabilities(policy.privileged_ports).intersection(&had).copied().collect();
    if !had.is_empty() {
        set(CapSet::Effective, &kept)?;
    }
    *unreadable_files = unreadable(policy);
    if !unreadable_files.is_empty() && policy.account.is_none() && had.contains(&Capability::CAP_DAC_READ_SEARCH) {
        kept.insert(Capability::CAP_DAC_READ_SEARCH);
        set(CapSet::Effective, &kept)?;
        *unreadable_files = unreadable(policy);
    }
    if !caps::read(None, CapSet::Inheritable).map_err(refused_by("capget"))?.is_empty() {
        set(CapSet::Inheritable, &CapsHashSet::new())?;
    }
    if had.is_empty() { Ok(()) } else { set(CapSet::Permitted, &kept) }
}
