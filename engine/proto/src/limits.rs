//! Every size that more than one part of the engine must agree on, with its derivation.

/// The most plaintext in one TLS record (RFC 8446 section 5.1, RFC 5246 section 6.2.1).
pub const RECORD_PLAIN_BYTES_MAX: usize = 1 << 14;

/// Content type, version and length in front of every record (RFC 8446 section 5.1).
pub const RECORD_HEADER_BYTES: usize = 5;

/// The authentication tag of every AEAD that we speak.
pub const TAG_BYTES: usize = 16;

/// The part of the nonce that TLS 1.2 AES-GCM sends with each record (RFC 5288 section 3).
pub const EXPLICIT_NONCE_BYTES: usize = 8;

/// The most that protection may add to a record's plaintext: 256 bytes in TLS 1.3 (RFC 8446 section 5.2).
///
/// TLS 1.2 speaks of 2,048 (RFC 5246 section 6.2.3), but its AEAD suites add at most 24: a longer record would open to
/// more than 2^14 bytes, and is the same `record_overflow`.
pub const RECORD_EXPANSION_BYTES_MAX: usize = 256;

/// The longest record on the wire that can be lawful: 16,645 bytes.
pub const RECORD_WIRE_BYTES_MAX: usize = RECORD_HEADER_BYTES + RECORD_PLAIN_BYTES_MAX + RECORD_EXPANSION_BYTES_MAX;

/// The most that we put around the plaintext of a record when sealing: header, explicit nonce, inner type, tag.
pub const RECORD_OVERHEAD_BYTES_MAX: usize = RECORD_HEADER_BYTES + EXPLICIT_NONCE_BYTES + 1 + TAG_BYTES;

/// The payload that the engine is made for: `rsize` and `wsize` of a Linux mount.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Room for the RPC header, credentials and the operations around a payload in one COMPOUND.
pub const COMPOUND_BYTES_MAX: usize = 4096;

/// The most plaintext that one big buffer takes: a payload, the COMPOUND around it, rounded up to whole TLS records.
pub const BUFFER_PLAIN_BYTES_MAX: usize =
    (PAYLOAD_BYTES_MAX + COMPOUND_BYTES_MAX).next_multiple_of(RECORD_PLAIN_BYTES_MAX);

/// The size of a big buffer: the records of [`BUFFER_PLAIN_BYTES_MAX`] as sealed, and behind them room for the rest of
/// a record that a read has cut, so that it is completed where it lies (see [`crate::tls::Window`]).
pub const BUFFER_BIG_BYTES: usize = BUFFER_PLAIN_BYTES_MAX
    + BUFFER_PLAIN_BYTES_MAX / RECORD_PLAIN_BYTES_MAX * RECORD_OVERHEAD_BYTES_MAX
    + RECORD_WIRE_BYTES_MAX;

/// The size of a small buffer: one TLS record with the most overhead that a peer may send.
pub const BUFFER_SMALL_BYTES: usize = RECORD_WIRE_BYTES_MAX;

/// An opened record with less plaintext than this is shifted onto the end of the one before it; a longer one stays where
/// it is and becomes a slice of its own.
///
/// So the number of slices is bounded by the buffer's size, however small a peer makes its records, and what is shifted
/// stays a small part of the stream.
pub const SHIFT_BELOW_BYTES: usize = 2048;

/// The most slices that one big buffer is ever written with: each but the first and the one behind a wrap is at least
/// [`SHIFT_BELOW_BYTES`] long.
pub const BUFFER_BIG_SLICES: usize = BUFFER_BIG_BYTES / SHIFT_BELOW_BYTES + 4;

/// The same for a small buffer.
pub const BUFFER_SMALL_SLICES: usize = BUFFER_SMALL_BYTES / SHIFT_BELOW_BYTES + 4;

/// The most slices that Linux takes in one `sendmsg` (`UIO_MAXIOV`).
pub const GATHER_SLICES_MAX: usize = 1024;

const _: () = assert!(BUFFER_BIG_SLICES <= GATHER_SLICES_MAX);
const _: () = assert!(BUFFER_PLAIN_BYTES_MAX / RECORD_PLAIN_BYTES_MAX <= BUFFER_BIG_SLICES);
const _: () = assert!(RECORD_PLAIN_BYTES_MAX + RECORD_OVERHEAD_BYTES_MAX <= BUFFER_SMALL_BYTES);

/// The longest NewSessionTicket that is put together: a ticket has at most 2^16 - 1 bytes (RFC 8446 section 4.6.1).
pub const TICKET_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The longest ClientHello of a TLS 1.2 client that wants to renegotiate; it gets its no_renegotiation when it is whole.
pub const HELLO_AGAIN_BYTES_MAX: usize = RECORD_PLAIN_BYTES_MAX;
