//! Open files and their stateids (RFC 8881 sections 8.2 and 9).

use std::collections::HashMap;

use crate::limits::OPENS_MAX;
use crate::nfs4::{Stateid, Status};

/// One owner's open of one file.
#[derive(Debug)]
struct Open {
    client: u64,
    owner: Vec<u8>,
    node: u64,
    seqid: u32,
    access: u32,
    deny: u32,
}

/// All open files of all clients.
#[derive(Debug, Default)]
pub(super) struct Opens {
    opens: HashMap<[u8; 12], Open>,
    count: u64,
}

/// Access and denial, as OPEN asks for them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Share {
    pub(super) access: u32,
    pub(super) deny: u32,
}

impl Opens {
    /// Opens, or opens further, a file for an owner.
    pub(super) fn open(&mut self, client: u64, owner: &[u8], node: u64, share: Share) -> Result<Stateid, Status> {
        let is_own = |open: &Open| open.client == client && open.owner == owner;
        let mut others = self.opens.values().filter(|open| open.node == node && !is_own(open));
        if others.any(|open| open.access & share.deny != 0 || open.deny & share.access != 0) {
            return Err(Status::SHARE_DENIED);
        }
        if let Some((other, open)) = self.opens.iter_mut().find(|(_, open)| open.node == node && is_own(open)) {
            open.seqid = open.seqid.wrapping_add(1).max(1);
            open.access |= share.access;
            open.deny |= share.deny;
            return Ok(Stateid { seqid: open.seqid, other: *other });
        }
        if self.opens.len() >= OPENS_MAX {
            return Err(Status::SERVERFAULT);
        }
        self.count += 1;
        let mut other = *b"open........";
        other.iter_mut().skip(4).zip(self.count.to_be_bytes()).for_each(|(to, byte)| *to = byte);
        let Share { access, deny } = share;
        self.opens.insert(other, Open { client, owner: owner.to_vec(), node, seqid: 1, access, deny });
        Ok(Stateid { seqid: 1, other })
    }

    fn find(&mut self, client: u64, stateid: &Stateid) -> Result<&mut Open, Status> {
        let open =
            self.opens.get_mut(&stateid.other).filter(|open| open.client == client).ok_or(Status::BAD_STATEID)?;
        match stateid.seqid {
            0 => Ok(open),
            seqid if seqid > open.seqid => Err(Status::BAD_STATEID),
            seqid if seqid < open.seqid => Err(Status::OLD_STATEID),
            _ => Ok(open),
        }
    }

    fn find_of(&mut self, client: u64, stateid: &Stateid, node: u64) -> Result<&mut Open, Status> {
        self.find(client, stateid).and_then(|open| if open.node == node { Ok(open) } else { Err(Status::BAD_STATEID) })
    }

    /// Whether READ (or WRITE, with `access` 2) of `node` is allowed by `stateid`.
    ///
    /// Who has a file open for writing only may read it too: clients fill their caches by that.
    pub(super) fn check(&mut self, client: u64, stateid: &Stateid, node: u64, access: u32) -> Result<(), Status> {
        if [Stateid::ANONYMOUS, Stateid::BYPASS].contains(stateid) {
            return Ok(());
        }
        let open = self.find_of(client, stateid, node)?;
        if access & 2 != 0 && open.access & 2 == 0 { Err(Status::OPENMODE) } else { Ok(()) }
    }

    pub(super) fn downgrade(
        &mut self,
        client: u64,
        stateid: &Stateid,
        node: u64,
        share: Share,
    ) -> Result<Stateid, Status> {
        let open = self.find_of(client, stateid, node)?;
        if share.access == 0 || share.access & !open.access != 0 || share.deny & !open.deny != 0 {
            return Err(Status::INVAL);
        }
        open.seqid = open.seqid.wrapping_add(1).max(1);
        (open.access, open.deny) = (share.access, share.deny);
        Ok(Stateid { seqid: open.seqid, other: stateid.other })
    }

    pub(super) fn close(&mut self, client: u64, stateid: &Stateid, node: u64) -> Result<(), Status> {
        self.find_of(client, stateid, node)?;
        self.opens.remove(&stateid.other);
        Ok(())
    }

    /// TEST_STATEID of one.
    pub(super) fn test(&mut self, client: u64, stateid: &Stateid) -> Status {
        self.find(client, stateid).err().unwrap_or(Status::OK)
    }

    /// FREE_STATEID: an open file's stateid is freed by CLOSE only.
    pub(super) fn free(&mut self, client: u64, stateid: &Stateid) -> Status {
        self.find(client, stateid).err().unwrap_or(Status::LOCKS_HELD)
    }

    pub(super) fn any_of(&self, client: u64) -> bool {
        self.opens.values().any(|open| open.client == client)
    }

    pub(super) fn forget_client(&mut self, client: u64) {
        self.opens.retain(|_, open| open.client != client);
    }

    pub(super) fn forget_node(&mut self, node: u64) {
        self.opens.retain(|_, open| open.node != node);
    }
}
