//! Files: READ, WRITE, COMMIT, and the attributes of any node.

use crate::clock;
use crate::limits::{PAYLOAD_BYTES_MAX, RECORD_BYTES_MAX};
use crate::nfs4::{Bitmap, Stable, Stateid, Status};
use crate::server::attributes::{self, SUPPORTED, Settings};
use crate::server::compound::Compound;
use crate::server::content::Stretch;
use crate::server::export::Payload;
use crate::server::tree::File;
use crate::xdr::{Decoder, Encoder, padding};

const ACCESS_READ: u32 = 1;
const ACCESS_WRITE: u32 = 2;

impl Compound<'_> {
    /// The current file, if `stateid` allows `access` to it.
    fn file(&self, stateid: &Stateid, access: u32) -> Result<(u64, File), Status> {
        let node = self.current()?;
        let file = self.export.tree().node(node)?.file()?.clone();
        self.export.opens().check(self.client()?, stateid, node, access)?;
        Ok((node, file))
    }

    pub(in crate::server) fn read(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (stateid, offset, count) = (self.decode_stateid(from)?, from.u64()?, from.u32()?);
        let (_, file) = self.file(&stateid, ACCESS_READ)?;
        let (stretches, eof) = file.lock().read(offset, (count as usize).min(PAYLOAD_BYTES_MAX));
        let length: usize = stretches.iter().map(Stretch::len).sum();
        let out = &mut self.out;
        out.bytes.bool(eof);
        out.bytes.u32(length as u32); // at most PAYLOAD_BYTES_MAX
        for stretch in stretches {
            match stretch {
                Stretch::Data(held) => out.payloads.push(Payload { at: out.bytes.len(), held }),
                Stretch::Hole(length) => out.bytes.zeros(length),
            }
        }
        out.bytes.zeros(padding(length));
        Ok(())
    }

    pub(in crate::server) fn write(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (stateid, offset, stable) = (self.decode_stateid(from)?, from.u64()?, Stable::decode(from)?);
        let bytes = from.opaque(RECORD_BYTES_MAX)?;
        let (node, file) = self.file(&stateid, ACCESS_WRITE)?;
        file.lock().write(offset, bytes)?;
        self.export.tree().touch(node, clock::wall(), true, |_| ())?;
        let out = &mut self.out.bytes;
        out.u32(bytes.len() as u32); // at most RECORD_BYTES_MAX
        out.u32(stable.number());
        out.fixed(&self.export.verifier());
        Ok(())
    }

    /// COMMIT: memory is as stable as it gets here. The verifier tells a client that this is still the same memory.
    pub(in crate::server) fn commit(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (_offset, _count) = (from.u64()?, from.u32()?);
        self.export.tree().node(self.current()?)?.file()?;
        self.out.bytes.fixed(&self.export.verifier());
        Ok(())
    }

    pub(in crate::server) fn getattr(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let wanted = Bitmap::decode(from)?;
        let tree = self.export.tree();
        attributes::encode(self.export, &tree, self.current()?, wanted, &mut self.out.bytes)
    }

    pub(in crate::server) fn setattr(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let stateid = self.decode_stateid(from)?;
        let settings = Settings::decode(from)?;
        let node = self.current()?;
        if let Some(size) = settings.size {
            let (_, file) = self.file(&stateid, ACCESS_WRITE)?;
            file.lock().set_size(size)?;
        }
        let now = clock::wall();
        self.export.tree().touch(node, now, settings.size.is_some(), |meta| settings.apply(meta, now))?;
        settings.set.encode(&mut self.out.bytes);
        Ok(())
    }

    /// VERIFY and NVERIFY: whether the attributes are those in the request.
    pub(in crate::server) fn verify(&mut self, from: &mut Decoder<'_>, same_wanted: bool) -> Result<(), Status> {
        let wanted = Bitmap::decode(from)?;
        let values = from.opaque(RECORD_BYTES_MAX)?;
        if wanted.and(SUPPORTED) != wanted {
            return Err(Status::ATTRNOTSUPP);
        }
        let (mut ours, mut theirs) = (Encoder::new(), Encoder::new());
        attributes::encode(self.export, &self.export.tree(), self.current()?, wanted, &mut ours)?;
        wanted.encode(&mut theirs);
        theirs.opaque(values);
        match (ours.bytes() == theirs.bytes(), same_wanted) {
            (true, true) | (false, false) => Ok(()),
            (false, true) => Err(Status::NOT_SAME),
            (true, false) => Err(Status::SAME),
        }
    }
}
