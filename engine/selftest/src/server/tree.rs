//! The export: directories, files and symbolic links by number.
//!
//! Nothing here knows NFS operations; errors are nevertheless NFS statuses, because every one of them is for the wire.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::content::{Budget, Content};
use crate::clock::Time;
use crate::limits::{LINKS_MAX, NAME_BYTES_MAX, NAMES_MAX};
use crate::nfs4::{FileType, Status};

/// The number of the root directory.
pub(super) const ROOT: u64 = 2;
/// Cookies 0 to 2 have meanings of their own (RFC 8881 section 18.23.3).
const COOKIE_FIRST: u64 = 3;

/// What all nodes have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    /// Grows with every change, and never repeats.
    pub(super) change: u64,
    pub(super) accessed: Time,
    pub(super) modified: Time,
    /// When anything of the node changed.
    pub(super) changed: Time,
    /// The verifier of the exclusive OPEN that created the file.
    pub(super) exclusive: Option<[u8; 8]>,
}

/// A file's content, which is written without holding the tree.
#[derive(Clone, Debug)]
pub(super) struct File(Arc<Mutex<Content>>);

impl File {
    pub(super) fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Directory {
    parent: u64,
    /// By name: the node, and the entry's cookie.
    entries: BTreeMap<Vec<u8>, (u64, u64)>,
    /// By cookie: the name. A cookie is never used again, so a listing goes on correctly whatever comes and goes.
    names: BTreeMap<u64, Vec<u8>>,
    cookie_next: u64,
}

impl Directory {
    const fn new(parent: u64) -> Self {
        Self { parent, entries: BTreeMap::new(), names: BTreeMap::new(), cookie_next: COOKIE_FIRST }
    }

    fn insert(&mut self, name: &[u8], node: u64) {
        self.remove(name);
        self.names.insert(self.cookie_next, name.to_vec());
        self.entries.insert(name.to_vec(), (node, self.cookie_next));
        self.cookie_next += 1;
    }

    fn remove(&mut self, name: &[u8]) {
        if let Some((_, cookie)) = self.entries.remove(name) {
            self.names.remove(&cookie);
        }
    }

    fn find(&self, name: &[u8]) -> Option<u64> {
        self.entries.get(name).map(|(node, _)| *node)
    }

    /// The entries behind `cookie`, in the order of a listing: cookie, name, node.
    pub(super) fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], u64)> {
        let behind = self.names.range((Bound::Excluded(cookie), Bound::Unbounded));
        behind.filter_map(|(cookie, name)| Some((*cookie, name.as_slice(), self.find(name)?)))
    }
}

#[derive(Debug)]
pub(super) enum Body {
    Directory(Directory),
    File(File),
    Link(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) meta: Meta,
    pub(super) body: Body,
}

impl Node {
    pub(super) const fn file_type(&self) -> FileType {
        match self.body {
            Body::Directory(_) => FileType::Directory,
            Body::File(_) => FileType::Regular,
            Body::Link(_) => FileType::SymbolicLink,
        }
    }

    pub(super) const fn directory(&self) -> Result<&Directory, Status> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            Body::Link(_) => Err(Status::SYMLINK),
            Body::File(_) => Err(Status::NOTDIR),
        }
    }

    const fn directory_mut(&mut self) -> Result<&mut Directory, Status> {
        match &mut self.body {
            Body::Directory(directory) => Ok(directory),
            Body::Link(_) => Err(Status::SYMLINK),
            Body::File(_) => Err(Status::NOTDIR),
        }
    }

    /// The content of a regular file.
    pub(super) const fn file(&self) -> Result<&File, Status> {
        match &self.body {
            Body::File(file) => Ok(file),
            Body::Directory(_) => Err(Status::ISDIR),
            Body::Link(_) => Err(Status::SYMLINK),
        }
    }
}

/// `change_info4`: a directory before and after.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ChangeInfo {
    pub(super) before: u64,
    pub(super) after: u64,
}

/// What a new node begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Birth {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) now: Time,
}

/// What kind of node to make.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Directory,
    File,
    Link(Vec<u8>),
}

/// The nodes of the export.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: HashMap<u64, Node>,
    /// Names in all directories.
    names: usize,
    number_next: u64,
    change_last: u64,
    pub(super) budget: Arc<Budget>,
}

/// Whether a name can be one (RFC 8881 section 14.5).
fn check_name(name: &[u8]) -> Result<(), Status> {
    match name {
        [] => Err(Status::INVAL),
        b"." | b".." => Err(Status::BADNAME),
        _ if name.len() > NAME_BYTES_MAX => Err(Status::NAMETOOLONG),
        _ if name.contains(&b'/') || name.contains(&0) => Err(Status::BADCHAR),
        _ => Ok(()),
    }
}

impl Tree {
    pub(super) fn new(bytes_max: u64, now: Time) -> Self {
        let budget = Arc::new(Budget::new(bytes_max));
        let mut tree = Self { nodes: HashMap::new(), names: 0, number_next: ROOT, change_last: 0, budget };
        tree.make(Kind::Directory, Birth { mode: 0o755, uid: 0, gid: 0, now }, ROOT);
        tree
    }

    /// Names that there is room for.
    pub(super) const fn names_free(&self) -> usize {
        NAMES_MAX - self.names
    }

    /// # Errors
    /// `NFS4ERR_STALE` when it was removed.
    pub(super) fn node(&self, number: u64) -> Result<&Node, Status> {
        self.nodes.get(&number).ok_or(Status::STALE)
    }

    fn node_mut(&mut self, number: u64) -> Result<&mut Node, Status> {
        self.nodes.get_mut(&number).ok_or(Status::STALE)
    }

    fn make(&mut self, kind: Kind, birth: Birth, parent: u64) -> u64 {
        let number = self.number_next;
        self.number_next += 1;
        self.change_last += 1;
        let Birth { mode, uid, gid, now } = birth;
        let (links, body) = match kind {
            Kind::Directory => (2, Body::Directory(Directory::new(parent))),
            Kind::File => (1, Body::File(File(Arc::new(Mutex::new(Content::new(Arc::clone(&self.budget))))))),
            Kind::Link(target) => (1, Body::Link(target)),
        };
        let (accessed, modified, changed) = (now, now, now);
        let change = self.change_last;
        let meta = Meta { mode, uid, gid, links, change, accessed, modified, changed, exclusive: None };
        self.nodes.insert(number, Node { meta, body });
        number
    }

    /// Notes that a node's metadata changed, and its content too if `modified`; lets `set` change the former.
    pub(super) fn touch(
        &mut self,
        number: u64,
        now: Time,
        modified: bool,
        set: impl FnOnce(&mut Meta),
    ) -> Result<(), Status> {
        self.change_last += 1;
        let change = self.change_last;
        let meta = &mut self.node_mut(number)?.meta;
        (meta.change, meta.changed) = (change, now);
        if modified {
            meta.modified = now;
        }
        set(meta);
        Ok(())
    }

    /// Counts one more name.
    const fn take_name(&mut self) -> Result<(), Status> {
        if self.names >= NAMES_MAX {
            return Err(Status::NOSPC);
        }
        self.names += 1;
        Ok(())
    }

    /// Changes a directory and returns the two values of its change attribute.
    fn change<F>(&mut self, number: u64, now: Time, change: F) -> Result<ChangeInfo, Status>
    where
        F: FnOnce(&mut Directory, &mut Meta),
    {
        let before = self.node(number)?.meta.change;
        self.touch(number, now, true, |_| ())?;
        let node = self.node_mut(number)?;
        let Node { meta, body: Body::Directory(directory) } = node else { return Err(Status::NOTDIR) };
        change(directory, meta);
        Ok(ChangeInfo { before, after: meta.change })
    }

    pub(super) fn lookup(&self, directory: u64, name: &[u8]) -> Result<u64, Status> {
        let directory = self.node(directory)?.directory()?;
        check_name(name)?;
        directory.find(name).ok_or(Status::NOENT)
    }

    /// The directory above; the root has none.
    pub(super) fn parent(&self, directory: u64) -> Result<u64, Status> {
        let above = self.node(directory)?.directory()?.parent;
        if directory == ROOT { Err(Status::NOENT) } else { Ok(above) }
    }

    pub(super) fn create(
        &mut self,
        directory: u64,
        name: &[u8],
        kind: Kind,
        birth: Birth,
    ) -> Result<(u64, ChangeInfo), Status> {
        match self.lookup(directory, name) {
            Err(Status::NOENT) => {}
            Err(other) => return Err(other),
            Ok(_) => return Err(Status::EXIST),
        }
        self.take_name()?;
        let is_directory = matches!(kind, Kind::Directory);
        let number = self.make(kind, birth, directory);
        let info = self.change(directory, birth.now, |entries, meta| {
            entries.insert(name, number);
            meta.links += u32::from(is_directory);
        })?;
        Ok((number, info))
    }

    pub(super) fn link(&mut self, number: u64, directory: u64, name: &[u8], now: Time) -> Result<ChangeInfo, Status> {
        match (self.node(number)?.file_type(), self.lookup(directory, name)) {
            (FileType::Directory, _) => return Err(Status::ISDIR),
            (_, Ok(_)) => return Err(Status::EXIST),
            (_, Err(Status::NOENT)) if self.node(number)?.meta.links >= LINKS_MAX => return Err(Status::MLINK),
            (_, Err(Status::NOENT)) => {}
            (_, Err(other)) => return Err(other),
        }
        self.take_name()?;
        self.touch(number, now, false, |meta| meta.links += 1)?;
        self.change(directory, now, |entries, _| entries.insert(name, number))
    }

    /// Removes a name; the number of the node is returned if that was its last one.
    pub(super) fn remove(
        &mut self,
        directory: u64,
        name: &[u8],
        now: Time,
    ) -> Result<(ChangeInfo, Option<u64>), Status> {
        let number = self.lookup(directory, name)?;
        if self.node(number)?.directory().is_ok_and(|inside| !inside.entries.is_empty()) {
            return Err(Status::NOTEMPTY);
        }
        let gone = self.unlink(number, now)?;
        self.names -= 1;
        let is_directory = gone.as_ref().is_some_and(|node| node.file_type() == FileType::Directory);
        let info = self.change(directory, now, |entries, meta| {
            entries.remove(name);
            meta.links = meta.links.saturating_sub(u32::from(is_directory));
        })?;
        Ok((info, gone.map(|_| number)))
    }

    /// Takes one link from a node, and the node away if that was the last.
    fn unlink(&mut self, number: u64, now: Time) -> Result<Option<Node>, Status> {
        let node = self.node(number)?;
        if node.meta.links <= 1 || node.file_type() == FileType::Directory {
            return Ok(self.nodes.remove(&number));
        }
        self.touch(number, now, false, |meta| meta.links -= 1)?;
        Ok(None)
    }

    /// Moves a name; what had the new name before is returned if it is gone by that.
    pub(super) fn rename(
        &mut self,
        (from, old): (u64, &[u8]),
        (to, new): (u64, &[u8]),
        now: Time,
    ) -> Result<([ChangeInfo; 2], Option<u64>), Status> {
        let number = self.lookup(from, old)?;
        let target = match self.lookup(to, new) {
            Ok(target) => Some(target),
            Err(Status::NOENT) => None,
            Err(other) => return Err(other),
        };
        let is_directory = self.node(number)?.file_type() == FileType::Directory;
        if target == Some(number) {
            let same = |number| self.node(number).map(|node| node.meta.change);
            let unchanged = |change| ChangeInfo { before: change, after: change };
            return Ok(([unchanged(same(from)?), unchanged(same(to)?)], None));
        }
        if is_directory && self.is_inside(to, number)? {
            return Err(Status::INVAL);
        }
        if let Some(target) = target {
            let there = self.node(target)?.directory();
            if there.is_ok() != is_directory || there.is_ok_and(|there| !there.entries.is_empty()) {
                return Err(Status::EXIST);
            }
        }
        let gone = match target {
            Some(_) => self.remove(to, new, now)?.1,
            None => None,
        };
        let moved = u32::from(is_directory);
        let source = self.change(from, now, |entries, meta| {
            entries.remove(old);
            meta.links = meta.links.saturating_sub(moved);
        })?;
        let destination = self.change(to, now, |entries, meta| {
            entries.insert(new, number);
            meta.links += moved;
        })?;
        if let Ok(directory) = self.node_mut(number)?.directory_mut() {
            directory.parent = to;
        }
        self.touch(number, now, false, |_| ())?;
        Ok(([source, destination], gone))
    }

    /// Whether `directory` is `above` or somewhere below it.
    fn is_inside(&self, mut directory: u64, above: u64) -> Result<bool, Status> {
        while directory != ROOT {
            if directory == above {
                return Ok(true);
            }
            directory = self.parent(directory)?;
        }
        Ok(above == ROOT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time { seconds: 1, nanoseconds: 2 };
    const BIRTH: Birth = Birth { mode: 0o644, uid: 1, gid: 2, now: NOW };

    fn tree() -> Tree {
        Tree::new(1 << 20, NOW)
    }

    #[test]
    fn names_that_cannot_be_are_told_apart() {
        let mut tree = tree();
        let mut create = |name: &[u8]| tree.create(ROOT, name, Kind::File, BIRTH).map(drop);
        assert_eq!(create(b""), Err(Status::INVAL));
        assert_eq!(create(b".."), Err(Status::BADNAME));
        assert_eq!(create(b"a/b"), Err(Status::BADCHAR));
        assert_eq!(create(&[b'x'; 256]), Err(Status::NAMETOOLONG));
        assert_eq!(create(&[b'x'; 255]), Ok(()));
        assert_eq!(create(&[b'x'; 255]), Err(Status::EXIST));
    }

    #[test]
    fn a_removed_node_is_stale_and_its_name_is_free() {
        let mut tree = tree();
        let (file, _) = tree.create(ROOT, b"file", Kind::File, BIRTH).unwrap();
        tree.link(file, ROOT, b"second", NOW).unwrap();
        assert_eq!(tree.remove(ROOT, b"file", NOW).unwrap().1, None);
        assert_eq!(tree.lookup(ROOT, b"second"), Ok(file));
        assert_eq!(tree.remove(ROOT, b"second", NOW).unwrap().1, Some(file));
        assert!(matches!(tree.node(file), Err(Status::STALE)));
        assert_eq!(tree.lookup(ROOT, b"file"), Err(Status::NOENT));
    }

    #[test]
    fn one_name_more_than_the_limit_has_no_space_until_one_is_removed() {
        let mut tree = tree();
        let mut last = ROOT;
        for number in 0..NAMES_MAX - 1 {
            (last, _) = tree.create(ROOT, format!("{number}").as_bytes(), Kind::File, BIRTH).unwrap();
        }
        tree.link(last, ROOT, b"link", NOW).unwrap();
        assert_eq!(tree.names_free(), 0);
        assert_eq!(tree.create(ROOT, b"more", Kind::File, BIRTH).map(drop), Err(Status::NOSPC));
        assert_eq!(tree.link(last, ROOT, b"more", NOW).map(drop), Err(Status::NOSPC));
        tree.rename((ROOT, b"link"), (ROOT, b"0"), NOW).unwrap();
        tree.link(last, ROOT, b"more", NOW).unwrap();
        tree.remove(ROOT, b"1", NOW).unwrap();
        assert_eq!(tree.names_free(), 1);
    }

    #[test]
    fn a_directory_is_removed_only_when_empty_and_never_moved_into_itself() {
        let mut tree = tree();
        let (upper, _) = tree.create(ROOT, b"upper", Kind::Directory, BIRTH).unwrap();
        let (lower, _) = tree.create(upper, b"lower", Kind::Directory, BIRTH).unwrap();
        assert_eq!(tree.remove(ROOT, b"upper", NOW).map(drop), Err(Status::NOTEMPTY));
        assert_eq!(tree.rename((ROOT, b"upper"), (lower, b"x"), NOW).map(drop), Err(Status::INVAL));
        assert_eq!(tree.rename((ROOT, b"upper"), (upper, b"x"), NOW).map(drop), Err(Status::INVAL));
        tree.rename((upper, b"lower"), (ROOT, b"moved"), NOW).unwrap();
        assert_eq!(tree.parent(lower), Ok(ROOT));
        assert_eq!(tree.node(ROOT).unwrap().meta.links, 4);
        tree.remove(ROOT, b"upper", NOW).unwrap();
        assert_eq!(tree.node(ROOT).unwrap().meta.links, 3);
    }

    #[test]
    fn a_rename_replaces_a_file_but_no_directory() {
        let mut tree = tree();
        let (first, _) = tree.create(ROOT, b"first", Kind::File, BIRTH).unwrap();
        let (second, _) = tree.create(ROOT, b"second", Kind::File, BIRTH).unwrap();
        tree.create(ROOT, b"directory", Kind::Directory, BIRTH).unwrap();
        assert_eq!(tree.rename((ROOT, b"first"), (ROOT, b"directory"), NOW).map(drop), Err(Status::EXIST));
        let (infos, gone) = tree.rename((ROOT, b"first"), (ROOT, b"second"), NOW).unwrap();
        assert_eq!(gone, Some(second));
        assert!(infos.iter().all(|info| info.before < info.after));
        assert_eq!(tree.lookup(ROOT, b"second"), Ok(first));
    }

    #[test]
    fn a_listing_goes_on_where_it_was_whatever_was_removed_and_added() {
        let mut tree = tree();
        for number in 0..10 {
            tree.create(ROOT, format!("n{number}").as_bytes(), Kind::File, BIRTH).unwrap();
        }
        let names = |tree: &Tree, cookie| -> Vec<(u64, String)> {
            let directory = tree.node(ROOT).unwrap().directory().unwrap();
            directory.after(cookie).map(|(cookie, name, _)| (cookie, String::from_utf8_lossy(name).into())).collect()
        };
        let (cookie, name) = names(&tree, 0)[4].clone();
        tree.remove(ROOT, name.as_bytes(), NOW).unwrap();
        tree.remove(ROOT, b"n9", NOW).unwrap();
        tree.create(ROOT, b"n9", Kind::File, BIRTH).unwrap();
        let rest: Vec<_> = names(&tree, cookie).into_iter().map(|(_, name)| name).collect();
        assert_eq!(rest, ["n5", "n6", "n7", "n8", "n9"]);
    }
}
