//! Landlock: which files and TCP ports there are for this process, however it asks for them.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::Policy;

/// What is restricted: all that this ABI can restrict, and what an older kernel can of it. Not more, because later ones
/// restrict what name services need (UNIX sockets by path).
const RESTRICTED: ABI = ABI::V7;

/// Restricts this thread, and those that it starts; returns the ABI that the kernel and we have in common, or why there is
/// no restriction.
pub(super) fn with_landlock(policy: &Policy) -> Result<i32, String> {
    let status = restrict(policy).map_err(|error| error.to_string())?;
    match status.landlock {
        LandlockStatus::NotEnabled => Err("switched off in this kernel".into()),
        LandlockStatus::NotImplemented => Err("not in this kernel (Linux 5.13)".into()),
        LandlockStatus::Available { .. } if status.ruleset == RulesetStatus::NotEnforced => {
            Err("the kernel does not enforce the rules".into())
        }
        LandlockStatus::Available { effective_abi, .. } => Ok((effective_abi as i32).min(RESTRICTED as i32)),
    }
}

/// Where a file is, by its name and where links lead.
fn directories_of(file: &Path) -> Vec<PathBuf> {
    let directory = |file: &Path| match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let real = file.canonicalize().ok();
    [Some(file), real.as_deref()].into_iter().flatten().map(directory).collect()
}

fn restrict(policy: &Policy) -> Result<landlock::RestrictionStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(RESTRICTED))?
        .handle_access(AccessNet::from_all(RESTRICTED))?
        .scope(Scope::from_all(RESTRICTED))?
        .create()?;
    for directory in &policy.readable {
        // A rule belongs to the directory that is there now: one that comes later would have none anyway.
        let Ok(directory) = PathFd::new(directory) else { continue };
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::ReadFile | AccessFs::ReadDir))?;
    }
    // A rule on a file would be bound to the one that is there now.
    let written = AccessFs::MakeReg | AccessFs::WriteFile;
    let removed = AccessFs::ReadFile | AccessFs::RemoveFile;
    for (files, access) in [(&policy.remade, written), (&policy.removed, removed)] {
        for directory in files.iter().flat_map(|file| directories_of(file)) {
            let Ok(directory) = PathFd::new(directory) else { continue };
            rules = rules.add_rule(PathBeneath::new(directory, access))?;
        }
    }
    for port in &policy.connect_ports {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    for port in policy.bind_ports.iter().cloned().flatten() {
        rules = rules.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
    }
    rules.restrict_self()
}
