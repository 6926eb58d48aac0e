//! Which faults happened, and in how many seeds.

use std::collections::BTreeMap;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub(crate) enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

faults! {
    /// A receive brought less than was there.
    ShortRead
    /// A send took less than there was room for.
    ShortWrite
    /// A completion came late.
    LateCompletion
    /// A completion came before an older one of its session.
    Reordered
    /// The news that something can be read came late.
    LateReadiness
    /// Something was said to be readable that was not.
    SpuriousReadiness
    /// The relay began to poll instead of waiting to be told.
    Spinning
    /// A direction let others have their turn.
    Pause
    /// Bytes were on their way for a while.
    SlowSegment
    /// A peer paused in reading, and its buffer was full.
    SlowReader
    /// A peer paused in writing.
    SlowWriter
    /// A pool without a free big buffer.
    PoolExhausted
    /// A connection ended at a boundary with replies outstanding, which still came.
    HalfClose
    /// Records of a few bytes.
    TinyRecords
    /// RPC records in fragments of a few bytes.
    TinyFragments
    /// The peer updated its key.
    PeerKeyUpdate
    /// The relay updated its key.
    OwnKeyUpdate
    /// Tickets, split and joined.
    Tickets
    /// Records without content, padding, warnings.
    Padding
    /// A stream that is not RPC.
    NotRpc
    /// A fragment of no bytes.
    ZeroFragment
    /// The mark of a fragment of more than 64 MiB, and something after it that is no RPC.
    AbsurdMark
    /// A stream that is something else for a while, long after it began as RPC.
    NotRpcMidway
    /// A message of no type, or too short to have one.
    NoMessage
    /// Replies that nobody asked for.
    UnsolicitedReplies
    /// One xid for all messages, and replies that come twice.
    RepeatedXids
    /// Hundreds of calls at once, whose replies are read slowly.
    CallFlood
    /// A connection without a word for an hour, or more.
    IdleHours
    /// A reply that took more than 100 s.
    LateReply
    /// A peer took nothing for 100 s, and then went on.
    WindowShut
    /// A plain peer closed its socket well, with most of its bytes still on their way to a slow TLS peer.
    OrderlyClose
    /// A TLS 1.2 key was used up.
    KeyUsedUp
    /// A TLS peer's certificate was revoked while the connection lasted.
    Revoked
    /// The tunnel of a connection stopped while it lasted.
    Left
    /// A TLS peer was told by an alert what was wrong.
    AlertHeard
    PlainReset
    TlsReset
    PlainEndInRecord
    TlsEndWithoutClose
    TlsEndInRecord
    /// A TLS peer said close_notify inside an RPC record, and the other one went on for minutes.
    CloseInRecord
    /// A TLS 1.2 peer said close_notify while much was outstanding.
    EarlyClose
    RecordChanged
    RecordDropped
    RecordRepeated
    RecordTooLong
    RecordOfNoType
    FatalAlert
    Flood
    Interleaved
    /// Something behind a KeyUpdate in its record.
    KeyUpdateNotLast
    /// An alert inside a handshake message.
    AlertInMessage
    Garbage
    ServerSilent
    PeerTakesNothing
    /// A peer does not answer the end of the other direction, and says nothing more.
    NeverEnds
    HalfARecord
    PathCut
    Stopped
    ConnectRefused
    ConnectHangs
    NameUnknown
    HandshakeCut
    HandshakeStalled
    HandshakeChanged
}

/// How often each happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats(BTreeMap<Fault, u64>);

impl Stats {
    pub(crate) fn count(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    pub(crate) fn get(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }
}
