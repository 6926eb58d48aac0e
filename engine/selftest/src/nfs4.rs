//! The numbers and small types of NFSv4.1 (RFC 8881, RFC 5662) that server and client share.

use crate::xdr::{Decoder, Encoder, XdrError};

/// The RPC program of NFS.
pub(crate) const PROGRAM: u32 = 100_003;
pub(crate) const VERSION: u32 = 4;
pub(crate) const MINOR_VERSION: u32 = 1;
pub(crate) const PROCEDURE_NULL: u32 = 0;
pub(crate) const PROCEDURE_COMPOUND: u32 = 1;

/// A number of the protocol that has a name there.
macro_rules! named_numbers {
    ($(#[$doc:meta])* $type:ident $prefix:literal { $($name:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Eq, Hash, PartialEq)]
        pub struct $type(pub u32);

        #[allow(missing_docs, reason = "the names and their meaning are the RFC's")]
        impl $type {
            $(pub const $name: Self = Self($value);)*

            /// The name as the RFC has it; `None` for a number that it does not have.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(concat!($prefix, stringify!($name))),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}{}", $prefix, self.0),
                }
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}

named_numbers! {
    /// `nfsstat4`: how an operation ended (RFC 8881 section 15.1).
    Status "NFS4ERR_" {
        OK = 0, PERM = 1, NOENT = 2, IO = 5, ACCESS = 13, EXIST = 17, XDEV = 18, NOTDIR = 20, ISDIR = 21, INVAL = 22,
        FBIG = 27, NOSPC = 28, ROFS = 30, MLINK = 31, NAMETOOLONG = 63, NOTEMPTY = 66, STALE = 70, BADHANDLE = 10001,
        BAD_COOKIE = 10003, NOTSUPP = 10004, TOOSMALL = 10005, SERVERFAULT = 10006, BADTYPE = 10007, DELAY = 10008,
        SAME = 10009, DENIED = 10010, EXPIRED = 10011, GRACE = 10013, SHARE_DENIED = 10015, CLID_INUSE = 10017,
        RESOURCE = 10018, NOFILEHANDLE = 10020, MINOR_VERS_MISMATCH = 10021, STALE_CLIENTID = 10022,
        STALE_STATEID = 10023, OLD_STATEID = 10024, BAD_STATEID = 10025, NOT_SAME = 10027, SYMLINK = 10029,
        RESTOREFH = 10030, ATTRNOTSUPP = 10032, NO_GRACE = 10033, BADXDR = 10036, LOCKS_HELD = 10037,
        OPENMODE = 10038, BADOWNER = 10039, BADCHAR = 10040, BADNAME = 10041, OP_ILLEGAL = 10044, BADSESSION = 10052,
        BADSLOT = 10053, COMPLETE_ALREADY = 10054, CONN_NOT_BOUND_TO_SESSION = 10055, SEQ_MISORDERED = 10063,
        SEQUENCE_POS = 10064, REQ_TOO_BIG = 10065, REP_TOO_BIG = 10066, REP_TOO_BIG_TO_CACHE = 10067,
        RETRY_UNCACHED_REP = 10068, TOO_MANY_OPS = 10070, OP_NOT_IN_SESSION = 10071, CLIENTID_BUSY = 10074,
        ENCR_ALG_UNSUPP = 10079, NOT_ONLY_OP = 10081, WRONG_TYPE = 10083, DEADSESSION = 10078,
    }
}

named_numbers! {
    /// `nfs_opnum4`: an operation of a COMPOUND (RFC 8881 section 16.2.3).
    Operation "" {
        ACCESS = 3, CLOSE = 4, COMMIT = 5, CREATE = 6, GETATTR = 9, GETFH = 10, LINK = 11, LOCK = 12, LOOKUP = 15,
        LOOKUPP = 16, NVERIFY = 17, OPEN = 18, OPEN_DOWNGRADE = 21, PUTFH = 22, PUTPUBFH = 23, PUTROOTFH = 24,
        READ = 25, READDIR = 26, READLINK = 27, REMOVE = 28, RENAME = 29, RESTOREFH = 31, SAVEFH = 32, SECINFO = 33,
        SETATTR = 34, VERIFY = 37, WRITE = 38, BIND_CONN_TO_SESSION = 41, EXCHANGE_ID = 42, CREATE_SESSION = 43,
        DESTROY_SESSION = 44, FREE_STATEID = 45, SECINFO_NO_NAME = 52, SEQUENCE = 53, TEST_STATEID = 55,
        DESTROY_CLIENTID = 57, RECLAIM_COMPLETE = 58, ILLEGAL = 10044,
    }
}

impl Operation {
    /// Whether minor version 1 has an operation of this number, known here by name or not.
    pub(crate) const fn is_of_minor_version_1(self) -> bool {
        3 <= self.0 && self.0 <= Self::RECLAIM_COMPLETE.0
    }
}

impl From<XdrError> for Status {
    fn from(_: XdrError) -> Self {
        Self::BADXDR
    }
}

/// `nfs_ftype4`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileType {
    /// NF4REG.
    Regular,
    /// NF4DIR.
    Directory,
    /// NF4LNK.
    SymbolicLink,
    /// A device, a socket, a pipe, a named attribute.
    Other,
}

impl FileType {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::SymbolicLink => 5,
            Self::Other => 3,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Regular,
            2 => Self::Directory,
            5 => Self::SymbolicLink,
            _ => Self::Other,
        }
    }
}

/// How much of a WRITE must be safe before it is answered (`stable_how4`).
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Stable {
    /// UNSTABLE4: a COMMIT follows.
    #[default]
    Unstable,
    /// DATA_SYNC4.
    Data,
    /// FILE_SYNC4.
    File,
}

impl Stable {
    pub(crate) const fn number(self) -> u32 {
        self as u32
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, XdrError> {
        match from.u32()? {
            0 => Ok(Self::Unstable),
            1 => Ok(Self::Data),
            2 => Ok(Self::File),
            other => Err(XdrError::NotAValue(other)),
        }
    }
}

/// What a file is opened for (`OPEN4_SHARE_ACCESS_*`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// BOTH.
    Both,
}

impl Access {
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Both => 3,
        }
    }
}

/// `stateid4`: an open file as server and client name it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stateid {
    pub(crate) seqid: u32,
    pub(crate) other: [u8; 12],
}

impl Stateid {
    /// No open file: READ and WRITE are done all the same (RFC 8881 section 8.2.3).
    pub const ANONYMOUS: Self = Self { seqid: 0, other: [0; 12] };
    /// A READ that passes share reservations by.
    pub(crate) const BYPASS: Self = Self { seqid: u32::MAX, other: [0xff; 12] };
    /// Whatever an operation before this one in the same COMPOUND has returned.
    pub(crate) const CURRENT: Self = Self { seqid: 1, other: [0; 12] };

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, XdrError> {
        Ok(Self { seqid: from.u32()?, other: from.fixed()? })
    }

    pub(crate) fn encode(&self, to: &mut Encoder) {
        to.u32(self.seqid);
        to.fixed(&self.other);
    }
}

/// `sessionid4`.
pub(crate) type SessionId = [u8; 16];

/// `bitmap4`, as far as there are attributes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Bitmap(pub(crate) u128);

impl Bitmap {
    pub(crate) const fn of(numbers: &[u32]) -> Self {
        let (mut bits, mut index) = (0, 0);
        while index < numbers.len() {
            bits |= 1_u128 << numbers[index];
            index += 1;
        }
        Self(bits)
    }

    pub(crate) const fn has(self, number: u32) -> bool {
        self.0 >> number & 1 == 1
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The numbers in it, in the order of the attributes on the wire.
    pub(crate) fn numbers(self) -> impl Iterator<Item = u32> {
        (0..u128::BITS).filter(move |number| self.has(*number))
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, XdrError> {
        let words = from.count(crate::limits::BITMAP_WORDS_MAX)?;
        let mut bits = 0;
        for index in 0..words {
            let word = u128::from(from.u32()?);
            // Nobody has attributes behind the fourth word; asked for, they are as unsupported as the rest.
            bits |= if index < 4 { word << (32 * index) } else { 0 };
        }
        Ok(Self(bits))
    }

    pub(crate) fn encode(self, to: &mut Encoder) {
        let words = (u128::BITS - self.0.leading_zeros()).div_ceil(32);
        to.u32(words);
        (0..words).for_each(|index| to.u32((self.0 >> (32 * index)) as u32));
    }
}

/// The numbers of the attributes (RFC 8881 sections 5.6 and 5.7).
pub(crate) mod attribute {
    pub(crate) const SUPPORTED_ATTRS: u32 = 0;
    pub(crate) const TYPE: u32 = 1;
    pub(crate) const FH_EXPIRE_TYPE: u32 = 2;
    pub(crate) const CHANGE: u32 = 3;
    pub(crate) const SIZE: u32 = 4;
    pub(crate) const LINK_SUPPORT: u32 = 5;
    pub(crate) const SYMLINK_SUPPORT: u32 = 6;
    pub(crate) const NAMED_ATTR: u32 = 7;
    pub(crate) const FSID: u32 = 8;
    pub(crate) const UNIQUE_HANDLES: u32 = 9;
    pub(crate) const LEASE_TIME: u32 = 10;
    pub(crate) const RDATTR_ERROR: u32 = 11;
    pub(crate) const CANSETTIME: u32 = 15;
    pub(crate) const CASE_INSENSITIVE: u32 = 16;
    pub(crate) const CASE_PRESERVING: u32 = 17;
    pub(crate) const CHOWN_RESTRICTED: u32 = 18;
    pub(crate) const FILEHANDLE: u32 = 19;
    pub(crate) const FILEID: u32 = 20;
    pub(crate) const FILES_AVAIL: u32 = 21;
    pub(crate) const FILES_FREE: u32 = 22;
    pub(crate) const FILES_TOTAL: u32 = 23;
    pub(crate) const HOMOGENEOUS: u32 = 26;
    pub(crate) const MAXFILESIZE: u32 = 27;
    pub(crate) const MAXLINK: u32 = 28;
    pub(crate) const MAXNAME: u32 = 29;
    pub(crate) const MAXREAD: u32 = 30;
    pub(crate) const MAXWRITE: u32 = 31;
    pub(crate) const MODE: u32 = 33;
    pub(crate) const NO_TRUNC: u32 = 34;
    pub(crate) const NUMLINKS: u32 = 35;
    pub(crate) const OWNER: u32 = 36;
    pub(crate) const OWNER_GROUP: u32 = 37;
    pub(crate) const RAWDEV: u32 = 41;
    pub(crate) const SPACE_AVAIL: u32 = 42;
    pub(crate) const SPACE_FREE: u32 = 43;
    pub(crate) const SPACE_TOTAL: u32 = 44;
    pub(crate) const SPACE_USED: u32 = 45;
    pub(crate) const TIME_ACCESS: u32 = 47;
    pub(crate) const TIME_ACCESS_SET: u32 = 48;
    pub(crate) const TIME_DELTA: u32 = 51;
    pub(crate) const TIME_METADATA: u32 = 52;
    pub(crate) const TIME_MODIFY: u32 = 53;
    pub(crate) const TIME_MODIFY_SET: u32 = 54;
    pub(crate) const MOUNTED_ON_FILEID: u32 = 55;
    pub(crate) const SUPPATTR_EXCLCREAT: u32 = 75;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_attribute_survives_its_bitmap() {
        for number in 0..128 {
            let mut to = Encoder::new();
            Bitmap::of(&[number]).encode(&mut to);
            assert_eq!(to.len(), 4 + 4 * (1 + number as usize / 32));
            let back = Bitmap::decode(&mut Decoder::new(to.bytes()));
            assert_eq!(back.map(|bitmap| bitmap.numbers().collect()), Ok(vec![number]));
        }
    }

    #[test]
    fn a_number_is_shown_by_its_name() {
        assert_eq!(Status::STALE.to_string(), "NFS4ERR_STALE");
        assert_eq!(Status(12345).to_string(), "NFS4ERR_12345");
        assert_eq!(format!("{:?}", Operation::PUTROOTFH), "PUTROOTFH");
    }
}
