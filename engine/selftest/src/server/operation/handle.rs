//! File handles: PUTFH to LOOKUPP, and SECINFO, which consumes one.

use crate::limits::{HANDLE_BYTES_MAX, OPAQUE_BYTES_MAX};
use crate::nfs4::{FileType, Status};
use crate::server::compound::Compound;
use crate::server::export::Handle;
use crate::server::tree::ROOT;
use crate::xdr::Decoder;

const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;

impl Compound<'_> {
    pub(in crate::server) fn putrootfh(&mut self) -> Result<(), Status> {
        self.set_current(ROOT);
        Ok(())
    }

    pub(in crate::server) fn putfh(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let handle = Handle::from_bytes(from.opaque(HANDLE_BYTES_MAX)?)?;
        if handle.instance != self.export.instance {
            return Err(Status::STALE);
        }
        self.export.tree().node(handle.number)?;
        self.set_current(handle.number);
        Ok(())
    }

    pub(in crate::server) fn getfh(&mut self) -> Result<(), Status> {
        let handle = self.handle_of(self.current()?);
        self.out.bytes.opaque(&handle.bytes());
        Ok(())
    }

    pub(in crate::server) fn savefh(&mut self) -> Result<(), Status> {
        self.saved = Some((self.current()?, self.stateid));
        Ok(())
    }

    pub(in crate::server) fn restorefh(&mut self) -> Result<(), Status> {
        let (node, stateid) = self.saved.ok_or(Status::RESTOREFH)?;
        (self.current, self.stateid) = (Some(node), stateid);
        Ok(())
    }

    pub(in crate::server) fn lookup(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let name = from.opaque(OPAQUE_BYTES_MAX)?;
        let found = self.export.tree().lookup(self.current()?, name)?;
        self.set_current(found);
        Ok(())
    }

    pub(in crate::server) fn lookupp(&mut self) -> Result<(), Status> {
        let above = self.export.tree().parent(self.current()?)?;
        self.set_current(above);
        Ok(())
    }

    pub(in crate::server) fn secinfo(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let name = from.opaque(OPAQUE_BYTES_MAX)?;
        self.export.tree().lookup(self.current()?, name)?;
        self.encode_flavors();
        Ok(())
    }

    pub(in crate::server) fn secinfo_no_name(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (style, node) = (from.u32()?, self.current()?);
        match style {
            0 => self.export.tree().node(node).map(drop)?,
            1 => self.export.tree().parent(node).map(drop)?,
            _ => return Err(Status::BADXDR),
        }
        self.encode_flavors();
        Ok(())
    }

    /// The flavors, best first. The current file handle is consumed (RFC 8881 section 2.6.3.1.1.8).
    fn encode_flavors(&mut self) {
        (self.current, self.stateid) = (None, None);
        self.out.bytes.words([2, AUTH_SYS, AUTH_NONE]);
    }

    /// ACCESS: everything that the kind of node has a meaning for.
    pub(in crate::server) fn access(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        const READ: u32 = 0x01;
        const LOOKUP: u32 = 0x02;
        const MODIFY: u32 = 0x04;
        const EXTEND: u32 = 0x08;
        const DELETE: u32 = 0x10;
        const EXECUTE: u32 = 0x20;
        let asked = from.u32()?;
        let supported = match self.export.tree().node(self.current()?)?.file_type() {
            FileType::Directory => READ | LOOKUP | MODIFY | EXTEND | DELETE,
            _ => READ | MODIFY | EXTEND | EXECUTE,
        };
        self.out.bytes.u32(asked & supported);
        self.out.bytes.u32(asked & supported);
        Ok(())
    }
}
