//! What the load does: the lines of the comparison.

use clap::ValueEnum;

use crate::rpc::Kind;

const MIB: u32 = 1 << 20;
/// Sizes of a mixed load, one after the other.
const MIXED_BYTES: [u32; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, MIB];

/// Which calls, how many at a time.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Work {
    /// READ of 1 MiB, 4 outstanding on one connection
    Read,
    /// WRITE of 1 MiB, 4 outstanding on one connection
    Write,
    /// GETATTR, 16 outstanding on each of 4 connections
    Getattr,
    /// GETATTR, one at a time
    GetattrAlone,
    /// GETATTR, one at a time, of a server that answers 500 us later
    GetattrFar,
    /// 70 % READ, 20 % WRITE, 10 % GETATTR, of 4 KiB to 1 MiB, 8 outstanding on one connection
    Mixed,
}

impl Work {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }

    pub(crate) const fn connections(self) -> u32 {
        if matches!(self, Self::Getattr) { 4 } else { 1 }
    }

    pub(crate) const fn depth(self) -> u32 {
        match self {
            Self::Read | Self::Write => 4,
            Self::Getattr => 16,
            Self::GetattrAlone | Self::GetattrFar => 1,
            Self::Mixed => 8,
        }
    }

    /// How much later the far end answers, in microseconds.
    pub(crate) const fn delay_us(self) -> u32 {
        if matches!(self, Self::GetattrFar) { 500 } else { 0 }
    }

    /// Whether its cost is by the byte, else by the call.
    pub(crate) const fn is_bulk(self) -> bool {
        matches!(self, Self::Read | Self::Write | Self::Mixed)
    }

    /// The call `number`, and its payload; `size` instead of that of the table, if given.
    pub(crate) fn call(self, number: u32, size: Option<u32>) -> (Kind, u32) {
        let kind = match (self, number % 10) {
            (Self::Read, _) | (Self::Mixed, 0..=6) => Kind::Read,
            (Self::Write, _) | (Self::Mixed, 7..=8) => Kind::Write,
            (Self::Getattr | Self::GetattrAlone | Self::GetattrFar, _) | (Self::Mixed, _) => Kind::Getattr,
        };
        let bytes = match self {
            Self::Mixed => {
                let index = (number / 10) as usize % MIXED_BYTES.len();
                MIXED_BYTES.get(index).copied().unwrap_or(MIB)
            }
            _ => MIB,
        };
        (kind, if kind == Kind::Getattr { 0 } else { size.unwrap_or(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_load_has_its_shares_and_all_sizes() {
        let calls: Vec<_> = (0..1000).map(|number| Work::Mixed.call(number, None)).collect();
        let share = |wanted| calls.iter().filter(|(kind, _)| *kind == wanted).count();
        assert_eq!([share(Kind::Read), share(Kind::Write), share(Kind::Getattr)], [700, 200, 100]);
        for bytes in MIXED_BYTES {
            assert_eq!(calls.iter().filter(|(_, size)| *size == bytes).count(), 180);
        }
    }
}
