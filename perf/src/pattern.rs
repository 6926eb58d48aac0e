//! What payloads are made of when both ends compare them: each byte follows from its call and its place.

use std::fmt;

/// A payload that is not what was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Spoiled {
    xid: u32,
    at: usize,
}

impl std::error::Error for Spoiled {}

impl fmt::Display for Spoiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} of the payload of call {:#x} is not the one that was sent", self.at, self.xid)
    }
}

/// The byte at `at`: neither its neighbours' nor that of the same place in the next call or the next record.
fn byte(xid: u32, at: usize) -> u8 {
    (xid.wrapping_mul(0x9e37_79b1) >> 24) as u8 ^ (at % 251) as u8
}

/// Appends a payload.
pub(crate) fn put(to: &mut Vec<u8>, xid: u32, bytes: usize) {
    to.extend((0..bytes).map(|at| byte(xid, at)));
}

/// Compares what of `piece` belongs to the payload of `payload_bytes` that ends its record: `left` bytes of that were to come
/// when the piece began.
///
/// # Errors
/// The first byte that is another one.
pub(crate) fn compare(xid: u32, payload_bytes: usize, left: usize, piece: &[u8]) -> Result<(), Spoiled> {
    let head = left.saturating_sub(payload_bytes);
    let begun = payload_bytes.saturating_sub(left);
    for (at, found) in (begun..).zip(piece.iter().skip(head)) {
        if *found != byte(xid, at) {
            return Err(Spoiled { xid, at });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_compared_wherever_it_is_cut_and_whatever_comes_before_it() {
        let mut record = vec![7; 100];
        put(&mut record, 5, 1000);
        for cut in 0..record.len() {
            let (first, second) = record.split_at(cut);
            assert_eq!(
                compare(5, 1000, 1100, first).and_then(|()| compare(5, 1000, 1100 - cut, second)),
                Ok(()),
                "{cut}"
            );
        }
        for at in [0, 1, 500, 999] {
            let mut spoiled = record.clone();
            spoiled[100 + at] ^= 1;
            assert_eq!(compare(5, 1000, 1100, &spoiled), Err(Spoiled { xid: 5, at }));
            assert_eq!(compare(5, 1000, 1000, &spoiled[100..]), Err(Spoiled { xid: 5, at }));
        }
        assert!(compare(6, 1000, 1100, &record).is_err());
    }
}
