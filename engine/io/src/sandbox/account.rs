//! Becoming another user for good.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{
    Gid, Group, Uid, User, getgrouplist, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid,
};

use super::{SandboxError, failed, kept_capabilities};

fn refused(error: caps::errors::CapsError) -> SandboxError {
    failed("capset")(io::Error::other(error.to_string()))
}

/// A user without privileges, with its groups.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
    /// All groups, `gid` among them.
    groups: Vec<Gid>,
}

impl Account {
    /// Looks up a user, by name or number, and a group other than the user's own. A number that no user has needs a group.
    ///
    /// # Errors
    /// [`SandboxError::Unknown`] where there is none, [`SandboxError::Account`] for root, and for the number that means "none".
    pub fn find(user: &str, group: Option<&str>) -> Result<Self, SandboxError> {
        let number = user.parse().ok().map(Uid::from_raw);
        let known = match number {
            Some(uid) => User::from_uid(uid),
            None => User::from_name(user),
        };
        let known = known.map_err(failed("getpwnam"))?;
        let unknown = |kind, name: &str| SandboxError::Unknown { kind, name: name.into() };
        let uid = known.as_ref().map(|user| user.uid).or(number).ok_or_else(|| unknown("user", user))?;
        if uid.is_root() {
            return Err(SandboxError::Account("root is what is to be given up"));
        }
        if uid.as_raw() == UNCHANGED {
            return Err(SandboxError::Account("4294967295 is no user: it asks to leave the user as it is"));
        }
        let gid = match group {
            Some(name) => match name.parse() {
                Ok(number) => Some(Gid::from_raw(number)),
                Err(_) => {
                    let group = Group::from_name(name).map_err(failed("getgrnam"))?;
                    Some(group.ok_or_else(|| unknown("group", name))?.gid)
                }
            },
            None => known.as_ref().map(|user| user.gid),
        };
        let gid = gid.ok_or(SandboxError::Account("a user without an entry in the user database needs a group"))?;
        if gid.as_raw() == 0 {
            return Err(SandboxError::Account("the group root is what is to be given up"));
        }
        if gid.as_raw() == UNCHANGED {
            return Err(SandboxError::Account("4294967295 is no group: it asks to leave the group as it is"));
        }
        let groups = match known.as_ref().and_then(|user| std::ffi::CString::new(user.name.as_str()).ok()) {
            Some(name) => getgrouplist(&name, gid).map_err(failed("getgrouplist"))?,
            None => vec![gid],
        };
        Ok(Self { name: known.map_or_else(|| uid.to_string(), |user| user.name), uid, gid, groups })
    }

    /// Gives it a file.
    ///
    /// # Errors
    /// What fchown says.
    pub fn give(&self, file: impl AsFd) -> io::Result<()> {
        std::os::unix::fs::fchown(file, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
    }

    /// Makes this process that user, and checks that it cannot come back. Whether it is that user already, but keeps other
    /// groups than the user database has for it, because it has no right to change them.
    pub(super) fn become_it(&self, privileged_ports: bool) -> Result<bool, SandboxError> {
        let before = self.compare()?;
        let keeps_groups = before.ids && !before.groups && setgroups(&self.groups) == Err(Errno::EPERM);
        if !before.ids || !(before.groups || keeps_groups) {
            self.change(privileged_ports)?;
        }
        let now = self.compare()?;
        let root = Uid::from_raw(0);
        if !now.ids || !(now.groups || keeps_groups) || setresuid(root, root, root).is_ok() {
            return Err(SandboxError::Account("the user was changed, and is not what it should be"));
        }
        Ok(keeps_groups)
    }

    fn change(&self, privileged_ports: bool) -> Result<(), SandboxError> {
        let had = caps::read(None, CapSet::Permitted).map_err(refused)?;
        let kept: CapsHashSet = kept_capabilities(privileged_ports).intersection(&had).copied().collect();
        prctl::set_keepcaps(!kept.is_empty()).map_err(failed("prctl(PR_SET_KEEPCAPS)"))?;
        setgroups(&self.groups).map_err(failed("setgroups"))?;
        setresgid(self.gid, self.gid, self.gid).map_err(failed("setresgid"))?;
        setresuid(self.uid, self.uid, self.uid).map_err(failed("setresuid"))?;
        prctl::set_keepcaps(false).map_err(failed("prctl(PR_SET_KEEPCAPS)"))?;
        for set in [CapSet::Effective, CapSet::Permitted] {
            caps::set(None, set, &kept).map_err(refused)?;
        }
        Ok(())
    }

    fn compare(&self) -> Result<Matches, SandboxError> {
        let user = getresuid().map_err(failed("getresuid"))?;
        let group = getresgid().map_err(failed("getresgid"))?;
        let (mut groups, mut wanted) = (getgroups().map_err(failed("getgroups"))?, self.groups.clone());
        for list in [&mut groups, &mut wanted] {
            list.sort_by_key(|gid| gid.as_raw());
            list.dedup();
        }
        let ids = [user.real, user.effective, user.saved] == [self.uid; 3]
            && [group.real, group.effective, group.saved] == [self.gid; 3];
        Ok(Matches { ids, groups: groups == wanted })
    }
}

/// What of an account is this process's own.
struct Matches {
    /// User and group, real, effective and saved.
    ids: bool,
    groups: bool,
}

/// What setresuid and setresgid take for "leave it as it is".
const UNCHANGED: u32 = u32::MAX;

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.name, self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_and_root_is_none() {
        let nobody = Account::find("nobody", None).unwrap();
        assert_eq!(Account::find(&nobody.uid.to_string(), None).unwrap(), nobody);
        assert_eq!(Account::find("nobody", Some("4711")).unwrap().gid, Gid::from_raw(4711));
        let stranger = Account::find("3999999998", Some("3999999997")).unwrap();
        assert_eq!((stranger.groups.len(), stranger.to_string().as_str()), (1, "3999999998 (3999999998:3999999997)"));
        for (user, group) in [("root", None), ("0", None), ("no such user", None), ("3999999998", None)] {
            assert!(Account::find(user, group).is_err(), "{user}");
        }
        for group in ["no such group", "root", "0", "4294967295"] {
            assert!(Account::find("nobody", Some(group)).is_err(), "{group}");
        }
        let error = Account::find("4294967295", Some("4711")).unwrap_err();
        assert_eq!(error.to_string(), "4294967295 is no user: it asks to leave the user as it is");
    }
}
