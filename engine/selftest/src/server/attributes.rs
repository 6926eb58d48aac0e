//! Attributes: what GETATTR and READDIR show, what SETATTR, OPEN and CREATE set (RFC 8881 section 5).

use super::export::{Export, Handle};
use super::tree::{Body, Meta, Node, Tree};
use crate::clock::Time;
use crate::limits::{
    ATTRIBUTE_BYTES_MAX, FILE_BYTES_MAX, LEASE_SECONDS, LINKS_MAX, NAME_BYTES_MAX, NAMES_MAX, PAYLOAD_BYTES_MAX,
};
use crate::nfs4::attribute::*;
use crate::nfs4::{Bitmap, Status};
use crate::xdr::{Decoder, Encoder};

/// What SETATTR takes.
const SETTABLE: Bitmap = Bitmap::of(&[SIZE, MODE, OWNER, OWNER_GROUP, TIME_ACCESS_SET, TIME_MODIFY_SET]);

/// What is shown, and what can be set.
pub(super) const SUPPORTED: Bitmap = Bitmap(
    SETTABLE.0
        | Bitmap::of(&[
            SUPPORTED_ATTRS,
            TYPE,
            FH_EXPIRE_TYPE,
            CHANGE,
            SIZE,
            LINK_SUPPORT,
            SYMLINK_SUPPORT,
            NAMED_ATTR,
            FSID,
            UNIQUE_HANDLES,
            LEASE_TIME,
            RDATTR_ERROR,
            CANSETTIME,
            CASE_INSENSITIVE,
            CASE_PRESERVING,
            CHOWN_RESTRICTED,
            FILEHANDLE,
            FILEID,
            FILES_AVAIL,
            FILES_FREE,
            FILES_TOTAL,
            HOMOGENEOUS,
            MAXFILESIZE,
            MAXLINK,
            MAXNAME,
            MAXREAD,
            MAXWRITE,
            MODE,
            NO_TRUNC,
            NUMLINKS,
            OWNER,
            OWNER_GROUP,
            RAWDEV,
            SPACE_AVAIL,
            SPACE_FREE,
            SPACE_TOTAL,
            SPACE_USED,
            TIME_ACCESS,
            TIME_DELTA,
            TIME_METADATA,
            TIME_MODIFY,
            MOUNTED_ON_FILEID,
            SUPPATTR_EXCLCREAT,
        ])
        .0,
);

/// What can only be set.
const WRITE_ONLY: Bitmap = Bitmap::of(&[TIME_ACCESS_SET, TIME_MODIFY_SET]);

/// The mode bits that are kept.
const MODE_MASK: u32 = 0o7777;

fn time(to: &mut Encoder, time: Time) {
    to.i64(time.seconds);
    to.u32(time.nanoseconds);
}

/// Encodes `fattr4`: of what is `wanted`, that which there is.
pub(super) fn encode(
    export: &Export,
    tree: &Tree,
    number: u64,
    wanted: Bitmap,
    to: &mut Encoder,
) -> Result<(), Status> {
    let node = tree.node(number)?;
    let shown = Bitmap(wanted.and(SUPPORTED).0 & !WRITE_ONLY.0);
    shown.encode(to);
    let length_at = to.len();
    to.u32(0);
    for attribute in shown.numbers() {
        if !of_node(export, number, node, attribute, to) {
            of_export(tree, attribute, to);
        }
    }
    to.set_u32(length_at, (to.len() - length_at - 4) as u32); // some hundred bytes
    Ok(())
}

/// Encodes an attribute that differs from node to node; `false` if it is not one of them.
fn of_node(export: &Export, number: u64, node: &Node, attribute: u32, to: &mut Encoder) -> bool {
    let Meta { mode, uid, gid, links, change, accessed, modified, changed, .. } = node.meta;
    match attribute {
        TYPE => to.u32(node.file_type().number()),
        CHANGE => to.u64(change),
        SIZE => to.u64(match &node.body {
            Body::Directory(_) => 4096,
            Body::File(file) => file.lock().size(),
            Body::Link(target) => target.len() as u64,
        }),
        FSID => {
            to.u64(export.instance);
            to.u64(0);
        }
        FILEHANDLE => to.opaque(&Handle { instance: export.instance, number }.bytes()),
        FILEID | MOUNTED_ON_FILEID => to.u64(number),
        MODE => to.u32(mode),
        NUMLINKS => to.u32(links),
        OWNER => to.opaque(uid.to_string().as_bytes()),
        OWNER_GROUP => to.opaque(gid.to_string().as_bytes()),
        RAWDEV => to.u64(0),
        SPACE_USED => to.u64(if let Body::File(file) = &node.body { file.lock().used() } else { 4096 }),
        TIME_ACCESS => time(to, accessed),
        TIME_METADATA => time(to, changed),
        TIME_MODIFY => time(to, modified),
        _ => return false,
    }
    true
}

/// Encodes an attribute that is the same for all nodes.
fn of_export(tree: &Tree, attribute: u32, to: &mut Encoder) {
    match attribute {
        SUPPORTED_ATTRS => SUPPORTED.encode(to),
        // Handles do not expire as long as the server runs; the type says nothing about the time after.
        FH_EXPIRE_TYPE | RDATTR_ERROR => to.u32(0),
        LINK_SUPPORT | SYMLINK_SUPPORT | UNIQUE_HANDLES | CANSETTIME | CASE_PRESERVING | HOMOGENEOUS | NO_TRUNC => {
            to.bool(true);
        }
        NAMED_ATTR | CASE_INSENSITIVE | CHOWN_RESTRICTED => to.bool(false),
        LEASE_TIME => to.u32(LEASE_SECONDS),
        FILES_AVAIL | FILES_FREE => to.u64(tree.names_free() as u64),
        FILES_TOTAL => to.u64(NAMES_MAX as u64),
        MAXFILESIZE => to.u64(FILE_BYTES_MAX),
        MAXLINK => to.u32(LINKS_MAX),
        MAXNAME => to.u32(NAME_BYTES_MAX as u32),
        MAXREAD | MAXWRITE => to.u64(PAYLOAD_BYTES_MAX as u64),
        SPACE_AVAIL | SPACE_FREE => to.u64(tree.budget.free()),
        SPACE_TOTAL => to.u64(tree.budget.total()),
        TIME_DELTA => time(to, Time { seconds: 0, nanoseconds: 1 }),
        SUPPATTR_EXCLCREAT => SETTABLE.encode(to),
        other => debug_assert!(false, "attribute {other} is said to be supported"),
    }
}

/// What a client wants to set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Settings {
    /// What is named in the request.
    pub(super) set: Bitmap,
    pub(super) size: Option<u64>,
    pub(super) mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    accessed: Option<SetTime>,
    modified: Option<SetTime>,
}

/// `settime4`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SetTime {
    Server,
    Client(Time),
}

impl SetTime {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, Status> {
        if from.u32()? == 0 {
            return Ok(Self::Server);
        }
        let time = Time { seconds: from.i64()?, nanoseconds: from.u32()? };
        if time.nanoseconds < 1_000_000_000 { Ok(Self::Client(time)) } else { Err(Status::INVAL) }
    }

    const fn at(self, now: Time) -> Time {
        match self {
            Self::Server => now,
            Self::Client(time) => time,
        }
    }
}

/// An owner or group: a number in decimal digits (RFC 8881 section 5.9); names are not known here.
fn id(from: &mut Decoder<'_>) -> Result<u32, Status> {
    let text = std::str::from_utf8(from.opaque(ATTRIBUTE_BYTES_MAX)?).map_err(|_| Status::INVAL)?;
    text.parse().map_err(|_| Status::BADOWNER)
}

impl Settings {
    /// Takes `fattr4` off a request.
    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, Status> {
        let set = Bitmap::decode(from)?;
        let mut values = Decoder::new(from.opaque(ATTRIBUTE_BYTES_MAX)?);
        let from = &mut values;
        let mut settings = Self { set, ..Self::default() };
        for attribute in set.numbers() {
            match attribute {
                SIZE => settings.size = Some(from.u64()?),
                MODE => settings.mode = Some(from.u32()? & MODE_MASK),
                OWNER => settings.uid = Some(id(from)?),
                OWNER_GROUP => settings.gid = Some(id(from)?),
                TIME_ACCESS_SET => settings.accessed = Some(SetTime::decode(from)?),
                TIME_MODIFY_SET => settings.modified = Some(SetTime::decode(from)?),
                shown if SUPPORTED.has(shown) => return Err(Status::INVAL),
                _ => return Err(Status::ATTRNOTSUPP),
            }
        }
        if from.left() == 0 { Ok(settings) } else { Err(Status::BADXDR) }
    }

    /// Sets everything but the size.
    pub(super) fn apply(&self, meta: &mut Meta, now: Time) {
        meta.mode = self.mode.unwrap_or(meta.mode);
        meta.uid = self.uid.unwrap_or(meta.uid);
        meta.gid = self.gid.unwrap_or(meta.gid);
        meta.accessed = self.accessed.map_or(meta.accessed, |time| time.at(now));
        meta.modified = self.modified.map_or(meta.modified, |time| time.at(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_that_is_said_to_be_supported_is_encoded() {
        let export = Export::new(1 << 20);
        let tree = export.tree();
        for attribute in SUPPORTED.numbers().filter(|number| !WRITE_ONLY.has(*number)) {
            let mut to = Encoder::new();
            encode(&export, &tree, super::super::tree::ROOT, Bitmap::of(&[attribute]), &mut to).unwrap();
            let mut from = Decoder::new(to.bytes());
            assert_eq!(Bitmap::decode(&mut from), Ok(Bitmap::of(&[attribute])));
            assert!(from.opaque(100).is_ok_and(|value| !value.is_empty()), "attribute {attribute}");
        }
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        let decode = |numbers: &[u32], value: &[u8]| {
            let mut to = Encoder::new();
            Bitmap::of(numbers).encode(&mut to);
            to.opaque(value);
            Settings::decode(&mut Decoder::new(to.bytes())).map(|settings| settings.mode)
        };
        assert_eq!(decode(&[MODE], &[0, 0, 0xff, 0xff]), Ok(Some(0o7777)));
        assert_eq!(decode(&[TYPE], &[0, 0, 0, 1]), Err(Status::INVAL));
        assert_eq!(decode(&[12], &[0, 0, 0, 1]), Err(Status::ATTRNOTSUPP));
        assert_eq!(decode(&[MODE], &[0, 0]), Err(Status::BADXDR));
        assert_eq!(decode(&[MODE], &[0; 8]), Err(Status::BADXDR));
        assert_eq!(decode(&[OWNER], b"\0\0\0\x04root"), Err(Status::BADOWNER));
    }
}
