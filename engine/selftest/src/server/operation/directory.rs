//! Directories: CREATE, READDIR, REMOVE, RENAME, LINK; and READLINK.

use crate::clock;
use crate::limits::{LINK_BYTES_MAX, LINK_BYTES_SEEN_MAX, OPAQUE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::nfs4::{Bitmap, Status};
use crate::rpc::Credential;
use crate::server::attributes::{self, Settings};
use crate::server::compound::Compound;
use crate::server::tree::{Birth, Body, ChangeInfo, Kind, ROOT};
use crate::xdr::{Decoder, Encoder, padding};

const NF4BLK: u32 = 3;
const NF4NAMEDATTR: u32 = 9;

pub(super) fn encode_change(info: ChangeInfo, to: &mut Encoder) {
    to.bool(true);
    to.u64(info.before);
    to.u64(info.after);
}

impl Compound<'_> {
    /// What a node made by this call begins with.
    pub(super) fn birth(&self, mode: u32) -> Birth {
        let (uid, gid) = match self.credential {
            Credential::Sys { uid, gid } => (uid, gid),
            Credential::None => (65_534, 65_534), // nobody
        };
        Birth { mode, uid, gid, now: clock::wall() }
    }

    pub(in crate::server) fn create(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let kind = match from.u32()? {
            2 => Kind::Directory,
            5 => match from.opaque(LINK_BYTES_SEEN_MAX)? {
                [] => return Err(Status::INVAL),
                long if long.len() > LINK_BYTES_MAX => return Err(Status::NAMETOOLONG),
                target => Kind::Link(target.to_vec()),
            },
            NF4BLK..=NF4NAMEDATTR => return Err(Status::NOTSUPP),
            _ => return Err(Status::BADTYPE),
        };
        let name = from.opaque(OPAQUE_BYTES_MAX)?;
        let settings = Settings::decode(from)?;
        if settings.size.is_some() {
            return Err(Status::INVAL);
        }
        let birth = self.birth(if matches!(kind, Kind::Directory) { 0o755 } else { 0o777 });
        let mut tree = self.export.tree();
        let (number, info) = tree.create(self.current()?, name, kind, birth)?;
        tree.touch(number, birth.now, false, |meta| settings.apply(meta, birth.now))?;
        drop(tree);
        self.set_current(number);
        encode_change(info, &mut self.out.bytes);
        settings.set.encode(&mut self.out.bytes);
        Ok(())
    }

    pub(in crate::server) fn readlink(&mut self) -> Result<(), Status> {
        let tree = self.export.tree();
        let Body::Link(target) = &tree.node(self.current()?)?.body else { return Err(Status::INVAL) };
        self.out.bytes.opaque(target);
        Ok(())
    }

    /// READDIR (RFC 8881 section 18.23): `maxcount` bounds the result, `dircount` the names and cookies in it.
    pub(in crate::server) fn readdir(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (cookie, verifier) = (from.u64()?, from.fixed::<8>()?);
        let (dircount, maxcount, wanted) = (from.u32()?, from.u32()?, Bitmap::decode(from)?);
        if cookie == 1 || cookie == 2 {
            return Err(Status::BAD_COOKIE);
        }
        if cookie != 0 && verifier != self.export.verifier() {
            return Err(Status::NOT_SAME);
        }
        let tree = self.export.tree();
        let directory = tree.node(self.current()?)?.directory()?;
        let out = &mut self.out.bytes;
        let begin = out.len();
        out.fixed(&self.export.verifier());
        // Behind the last entry come two words: no more entries, and whether this was the end.
        let end_max = begin + (maxcount as usize).min(PAYLOAD_BYTES_MAX).saturating_sub(8);
        let (mut names_left, mut is_first, mut eof) = (dircount as usize, true, true);
        for (cookie, name, number) in directory.after(cookie) {
            let entry = out.len();
            out.bool(true);
            out.u64(cookie);
            out.opaque(name);
            attributes::encode(self.export, &tree, number, wanted, out)?;
            let name_bytes = 8 + 4 + name.len() + padding(name.len());
            let is_enough = dircount > 0 && name_bytes > names_left && !is_first;
            if out.len() > end_max || is_enough {
                out.truncate(entry);
                eof = false;
                break;
            }
            names_left = names_left.saturating_sub(name_bytes);
            is_first = false;
        }
        if out.len() > end_max || (is_first && !eof) {
            return Err(Status::TOOSMALL);
        }
        out.bool(false);
        out.bool(eof);
        Ok(())
    }

    pub(in crate::server) fn remove(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let name = from.opaque(OPAQUE_BYTES_MAX)?;
        let (info, gone) = self.export.tree().remove(self.current()?, name, clock::wall())?;
        self.forget(gone);
        encode_change(info, &mut self.out.bytes);
        Ok(())
    }

    pub(in crate::server) fn rename(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (old, new) = (from.opaque(OPAQUE_BYTES_MAX)?, from.opaque(OPAQUE_BYTES_MAX)?);
        let (source, _) = self.saved.ok_or(Status::NOFILEHANDLE)?;
        let target = self.current()?;
        let (infos, gone) = self.export.tree().rename((source, old), (target, new), clock::wall())?;
        self.forget(gone);
        for info in infos {
            encode_change(info, &mut self.out.bytes);
        }
        Ok(())
    }

    pub(in crate::server) fn link(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let name = from.opaque(OPAQUE_BYTES_MAX)?;
        let (node, _) = self.saved.ok_or(Status::NOFILEHANDLE)?;
        let info = self.export.tree().link(node, self.current()?, name, clock::wall())?;
        encode_change(info, &mut self.out.bytes);
        Ok(())
    }

    /// An open file that has lost its last name is stale; so are its stateids.
    fn forget(&self, gone: Option<u64>) {
        if let Some(node) = gone.filter(|node| *node != ROOT) {
            self.export.opens().forget_node(node);
        }
    }
}
