//! What the fuzz targets run. Each function takes arbitrary bytes, does with them what they say, and panics when a
//! promise of this crate did not hold.
//!
//! They are here, so that an ordinary test replays the corpus through the same code. Nothing of the product calls them.

mod line;
mod receiver;
mod records;
mod streams;
mod tls;

pub use line::{End, Event, Expected, Line, Setup, key, sequence_of};
pub use receiver::Receiver;
pub use records::records;
pub use streams::streams;
pub use tls::{open, seal};

/// Reads an input as a script: numbers and byte strings, one after the other. Behind its end everything is zero.
#[derive(Clone, Debug)]
pub struct Script<'d> {
    rest: &'d [u8],
}

impl<'d> Script<'d> {
    /// From the start of `data`.
    pub fn new(data: &'d [u8]) -> Self {
        Self { rest: data }
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes, the high one first.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next `count` bytes, fewer at the end.
    pub fn bytes(&mut self, count: usize) -> &'d [u8] {
        let (bytes, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'d [u8] {
        core::mem::take(&mut self.rest)
    }
}

/// Numbers that follow from a seed: where a stream is cut.
#[derive(Clone, Debug)]
pub struct Cuts {
    seed: u16,
    state: u64,
}

impl Cuts {
    /// Seed 0 never cuts, seed 1 cuts behind every byte, any other one cuts here and there.
    pub fn new(seed: u16) -> Self {
        Self { seed, state: u64::from(seed) << 32 | 0x9e37_79b9 }
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % limit.max(1) as u64) as usize // below a usize
    }

    /// The length of the next piece: from 1 to `most`.
    pub fn next(&mut self, most: usize) -> usize {
        match self.seed {
            0 => most,
            1 => 1,
            _ => match self.below(4) {
                0 => 1 + self.below(8),
                1 => 1 + self.below(700),
                2 => 1 + self.below(40_000),
                _ => most,
            },
        }
        .clamp(1, most.max(1))
    }
}
