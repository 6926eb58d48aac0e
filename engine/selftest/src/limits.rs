//! Every size that a peer can drive, with its derivation.

/// The most that one READ or WRITE moves: `rsize` and `wsize` of a Linux mount.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Room for the RPC header, credentials and the operations around a payload in one COMPOUND.
pub(crate) const COMPOUND_BYTES_MAX: usize = 4096;

/// The longest record that is taken or sent, its mark not included.
pub(crate) const RECORD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + COMPOUND_BYTES_MAX;

/// How far a reader of records reads past the record that it needs: some hundred small calls.
pub(crate) const READ_AHEAD_BYTES: usize = 64 * 1024;

/// Replies, or calls, are collected up to this before they are sent.
pub(crate) const BATCH_BYTES_MAX: usize = 64 * 1024;

/// An opaque_auth body (RFC 5531 section 8.2).
pub(crate) const AUTH_BYTES_MAX: usize = 400;

/// Operations in one COMPOUND. Linux sends at most 8; its largest, OPEN with its attributes, has 7.
pub(crate) const OPERATIONS_MAX: usize = 16;

/// The tag of a COMPOUND, which is sent back. It has no use; Linux and nfs-ganesha send none.
pub(crate) const TAG_BYTES_MAX: usize = 128;

/// A client owner, an open owner, a server owner (NFS4_OPAQUE_LIMIT of RFC 8881).
pub(crate) const OPAQUE_BYTES_MAX: usize = 1024;

/// A file handle (NFS4_FHSIZE).
pub(crate) const HANDLE_BYTES_MAX: usize = 128;

/// A file name, as in every Linux file system.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// The target of a symbolic link. Linux allows 4,095; with [`NAMES_MAX`] links these would be 64 MiB at most.
pub(crate) const LINK_BYTES_MAX: usize = 1024;

/// The longest target that is looked at, to be refused as too long instead of as malformed.
pub(crate) const LINK_BYTES_SEEN_MAX: usize = 4096;

/// Encoded attributes: all that are settable, with two owners in full length, need less than a quarter of it.
pub(crate) const ATTRIBUTE_BYTES_MAX: usize = 4096;

/// The words of a bitmap that are looked at for their length; attributes go up to 82, which are three.
pub(crate) const BITMAP_WORDS_MAX: usize = 8;

/// Slots of one session, and so calls outstanding on it. Linux asks for 64.
pub(crate) const SLOTS_MAX: u32 = 64;

/// The longest reply that a slot keeps: OPEN and its GETATTR need less than 1 KiB. With all slots of all sessions in
/// use, the replay cache takes 32 MiB.
pub(crate) const REPLY_CACHED_BYTES_MAX: usize = 4096;

/// Clients known at a time; a mount is one, and a new mount of the same machine takes the old one's place.
pub(crate) const CLIENTS_MAX: usize = 64;

/// Sessions at a time: two for each client, the second while a client replaces its first.
pub(crate) const SESSIONS_MAX: usize = 2 * CLIENTS_MAX;

const _: () = assert!(SESSIONS_MAX * SLOTS_MAX as usize * REPLY_CACHED_BYTES_MAX <= 32 << 20);

/// Files open at a time, by all clients; each entry takes an owner of at most [`OPAQUE_BYTES_MAX`], 4 MiB in all.
pub(crate) const OPENS_MAX: usize = 4096;

/// Names in the export, and so files, directories and links, each of which has one or more. A name of full length is
/// kept twice: 32 MiB beside the files' content.
pub(crate) const NAMES_MAX: usize = 65_536;

/// Names of one file; what a client is told.
pub(crate) const LINKS_MAX: u32 = 1024;

/// The size of a block of a file, the unit of copy-on-write: an aligned payload is one block.
pub(crate) const BLOCK_BYTES: usize = PAYLOAD_BYTES_MAX;

/// The least memory that a block takes; small files are many.
pub(crate) const BLOCK_BYTES_MIN: usize = 4096;

/// The longest file. Holes take nothing, so this is only to keep sums of offsets far from their end.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 40;

/// How long a client may be silent before another may take its place, and what it is told.
pub(crate) const LEASE_SECONDS: u32 = 60;

/// How long a connection may be silent where its peer owes something: the first call, the rest of a record, room for
/// replies. As long as a lease: whoever is silent for longer than that is taken for gone elsewhere too.
pub(crate) const SILENCE_SECONDS_MAX: u32 = LEASE_SECONDS;
