//! OPEN, OPEN_DOWNGRADE, CLOSE (RFC 8881 sections 18.16, 18.18, 18.2).

use super::directory::encode_change;
use crate::limits::OPAQUE_BYTES_MAX;
use crate::nfs4::{Bitmap, Stateid, Status, attribute};
use crate::server::attributes::Settings;
use crate::server::compound::Compound;
use crate::server::opens::Share;
use crate::server::tree::{ChangeInfo, Kind, Tree};
use crate::xdr::Decoder;

/// What share_access says beside the access: wishes about delegations, which there are none of.
const WANT_MASK: u32 = 0x0003_ff00;

/// `openflag4`: whether the file may be created, and how.
#[derive(Clone, Copy, Debug)]
enum How {
    Never,
    /// Whether it was there or not; its size is set if it was.
    Unchecked(Settings),
    /// Only if it was not there.
    Guarded(Settings),
    /// Only if it was not there, or was created by the same verifier.
    Exclusive([u8; 8], Settings),
}

impl How {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, Status> {
        if from.u32()? == 0 {
            return Ok(Self::Never);
        }
        Ok(match from.u32()? {
            0 => Self::Unchecked(Settings::decode(from)?),
            1 => Self::Guarded(Settings::decode(from)?),
            2 => Self::Exclusive(from.fixed()?, Settings::default()),
            3 => Self::Exclusive(from.fixed()?, Settings::decode(from)?),
            _ => return Err(Status::BADXDR),
        })
    }
}

/// Takes the access and denial off a request.
fn decode_share(from: &mut Decoder<'_>) -> Result<Share, Status> {
    let share = Share { access: from.u32()? & !WANT_MASK, deny: from.u32()? };
    if share.access == 0 || share.access > 3 || share.deny > 3 { Err(Status::INVAL) } else { Ok(share) }
}

/// A file that is to be opened: its number, what became of its directory, what was set.
type Found = (u64, ChangeInfo, Bitmap);

impl Compound<'_> {
    pub(in crate::server) fn open(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (_seqid, share) = (from.u32()?, decode_share(from)?);
        let (_client, owner, how) = (from.u64()?, from.opaque(OPAQUE_BYTES_MAX)?, How::decode(from)?);
        let (client, current) = (self.client()?, self.current()?);
        let (node, info, set) = match from.u32()? {
            0 => self.open_by_name(current, from.opaque(OPAQUE_BYTES_MAX)?, &how)?,
            1 => return Err(Status::NO_GRACE), // CLAIM_PREVIOUS: nothing outlives this server
            4 if matches!(how, How::Never) => {
                let change = self.export.tree().node(current)?.meta.change;
                (current, ChangeInfo { before: change, after: change }, Bitmap::default())
            }
            4 => return Err(Status::INVAL),
            2 | 3 | 5 | 6 => return Err(Status::NOTSUPP), // delegations
            _ => return Err(Status::BADXDR),
        };
        self.export.tree().node(node)?.file()?;
        let stateid = self.export.opens().open(client, owner, node, share)?;
        // A REMOVE on another connection may have come in between; it did not see this open.
        if let Err(gone) = self.export.tree().node(node).map(drop) {
            self.export.opens().forget_node(node);
            return Err(gone);
        }
        self.set_current(node);
        self.stateid = Some(stateid);
        let out = &mut self.out.bytes;
        stateid.encode(out);
        encode_change(info, out);
        out.u32(0); // no flags: no byte-range locks, nothing to confirm
        set.encode(out);
        out.u32(0); // OPEN_DELEGATE_NONE
        Ok(())
    }

    /// CLAIM_NULL: the file of a name, created if asked for.
    fn open_by_name(&self, directory: u64, name: &[u8], how: &How) -> Result<Found, Status> {
        let mut tree = self.export.tree();
        match (tree.lookup(directory, name), how) {
            (Ok(number), how) => {
                let change = tree.node(directory)?.meta.change;
                let set = self.open_existing(&mut tree, number, how)?;
                Ok((number, ChangeInfo { before: change, after: change }, set))
            }
            (Err(Status::NOENT), How::Unchecked(settings) | How::Guarded(settings)) => {
                self.open_new(&mut tree, (directory, name), settings, None)
            }
            (Err(Status::NOENT), How::Exclusive(verifier, settings)) => {
                self.open_new(&mut tree, (directory, name), settings, Some(*verifier))
            }
            (Err(other), _) => Err(other),
        }
    }

    fn open_existing(&self, tree: &mut Tree, number: u64, how: &How) -> Result<Bitmap, Status> {
        let node = tree.node(number)?;
        match how {
            How::Never => Ok(Bitmap::default()),
            How::Guarded(_) => Err(Status::EXIST),
            How::Exclusive(verifier, settings) if node.meta.exclusive == Some(*verifier) => Ok(settings.set),
            How::Exclusive(..) => Err(Status::EXIST),
            How::Unchecked(Settings { size: Some(0), .. }) => {
                node.file()?.lock().set_size(0)?;
                tree.touch(number, self.birth(0).now, true, |_| ())?;
                Ok(Bitmap::of(&[attribute::SIZE]))
            }
            How::Unchecked(_) => node.file().map(|_| Bitmap::default()),
        }
    }

    fn open_new(
        &self,
        tree: &mut Tree,
        (directory, name): (u64, &[u8]),
        settings: &Settings,
        exclusive: Option<[u8; 8]>,
    ) -> Result<Found, Status> {
        let birth = self.birth(0o644);
        let (number, info) = tree.create(directory, name, Kind::File, birth)?;
        if let Some(size) = settings.size {
            tree.node(number)?.file()?.lock().set_size(size)?;
        }
        tree.touch(number, birth.now, false, |meta| {
            settings.apply(meta, birth.now);
            meta.exclusive = exclusive;
        })?;
        Ok((number, info, settings.set))
    }

    pub(in crate::server) fn open_downgrade(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (stateid, _seqid, share) = (self.decode_stateid(from)?, from.u32()?, decode_share(from)?);
        let downgraded = self.export.opens().downgrade(self.client()?, &stateid, self.current()?, share)?;
        self.stateid = Some(downgraded);
        downgraded.encode(&mut self.out.bytes);
        Ok(())
    }

    pub(in crate::server) fn close(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (_seqid, stateid) = (from.u32()?, self.decode_stateid(from)?);
        self.export.opens().close(self.client()?, &stateid, self.current()?)?;
        self.stateid = None;
        // There is no stateid any more (RFC 8881 section 18.2.4).
        Stateid { seqid: u32::MAX, other: [0; 12] }.encode(&mut self.out.bytes);
        Ok(())
    }
}
