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
    /// A completion came before an older one.
    Reordered
    /// Bytes were on their way for a while.
    SlowSegment
    /// A peer paused in reading until its buffer was full.
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
    /// A TLS 1.2 key was used up.
    KeyUsedUp
    /// A TLS peer was told by an alert what was wrong.
    AlertHeard
    PlainReset
    TlsReset
    PlainEndInRecord
    TlsEndWithoutClose
    TlsEndInRecord
    /// A TLS peer said close_notify inside an RPC record, and the other one went on for minutes.
    CloseInRecord
    RecordChanged
    RecordDropped
    RecordRepeated
    RecordTooLong
    RecordOfNoType
    FatalAlert
    Flood
    Interleaved
    Garbage
    ServerSilent
    PeerTakesNothing
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
