//! The bytes of one file, in blocks that a reader can hold while they are sent.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{BLOCK_BYTES, BLOCK_BYTES_MIN, FILE_BYTES_MAX};
use crate::nfs4::Status;

/// How many bytes the files' blocks may take together.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: u64,
    used: AtomicU64,
}

impl Budget {
    pub(super) const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, used: AtomicU64::new(0) }
    }

    fn take(&self, bytes: usize) -> Result<(), Status> {
        let add = |used: u64| used.checked_add(bytes as u64).filter(|sum| *sum <= self.bytes_max);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        taken.map(drop).map_err(|_| Status::NOSPC)
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn total(&self) -> u64 {
        self.bytes_max
    }

    pub(super) fn free(&self) -> u64 {
        self.bytes_max.saturating_sub(self.used.load(Ordering::Relaxed))
    }
}

/// Bytes of a block, held as they were when they were read: a later write copies the block first.
#[derive(Clone, Debug)]
pub(super) struct Held {
    block: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Held {
    pub(super) fn bytes(&self) -> &[u8] {
        self.block.get(self.range.clone()).unwrap_or_default()
    }
}

/// A stretch of a file.
#[derive(Clone, Debug)]
pub(super) enum Stretch {
    Data(Held),
    /// Zeros that no block holds.
    Hole(usize),
}

impl Stretch {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Data(held) => held.range.len(),
            Self::Hole(length) => *length,
        }
    }
}

/// A file's bytes.
///
/// A block may be shorter than [`BLOCK_BYTES`], or absent: what it lacks is zeros. Behind the size it has only zeros.
#[derive(Debug)]
pub(super) struct Content {
    size: u64,
    /// By number. Each is in the budget, so they are no more than that has room for, wherever in the file they are.
    blocks: BTreeMap<u64, Arc<Vec<u8>>>,
    used: u64,
    budget: Arc<Budget>,
}

/// Where `offset` is: the number of the block, and how far inside.
const fn place(offset: u64) -> (u64, usize) {
    let block = BLOCK_BYTES as u64;
    (offset / block, (offset % block) as usize)
}

impl Content {
    pub(super) const fn new(budget: Arc<Budget>) -> Self {
        Self { size: 0, blocks: BTreeMap::new(), used: 0, budget }
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// The memory that the blocks take.
    pub(super) const fn used(&self) -> u64 {
        self.used
    }

    /// Up to `count` bytes from `offset`, in order; `true` if they reach the end of the file.
    pub(super) fn read(&self, offset: u64, count: usize) -> (Vec<Stretch>, bool) {
        let mut left = self.size.saturating_sub(offset).min(count as u64) as usize;
        let (mut number, mut inside) = place(offset);
        let mut stretches = Vec::with_capacity(2);
        let end = offset.saturating_add(left as u64);
        while left > 0 {
            let wanted = left.min(BLOCK_BYTES - inside);
            let block = self.blocks.get(&number);
            let there = block.map_or(0, |block| block.len().saturating_sub(inside).min(wanted));
            if let (Some(block), true) = (block, there > 0) {
                let range = inside..inside + there;
                stretches.push(Stretch::Data(Held { block: Arc::clone(block), range }));
            }
            if there < wanted {
                stretches.push(Stretch::Hole(wanted - there));
            }
            left -= wanted;
            (number, inside) = (number + 1, 0);
        }
        (stretches, end >= self.size)
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// `NFS4ERR_FBIG`, `NFS4ERR_NOSPC`. What was written before the budget was used up stays.
    pub(super) fn write(&mut self, offset: u64, mut bytes: &[u8]) -> Result<(), Status> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Status::FBIG)?;
        let (mut number, mut inside) = place(offset);
        let mut at = offset;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - inside));
            let block = self.block_of(number, inside + piece.len())?;
            if let Some(to) = block.get_mut(inside..inside + piece.len()) {
                to.copy_from_slice(piece);
            }
            at += piece.len() as u64;
            self.size = self.size.max(at);
            bytes = rest;
            (number, inside) = (number + 1, 0);
        }
        debug_assert_eq!(at, end);
        Ok(())
    }

    /// Block `number`, with at least `length` bytes, not shared with anybody who reads it.
    fn block_of(&mut self, number: u64, length: usize) -> Result<&mut Vec<u8>, Status> {
        let before = self.blocks.get(&number).map_or(0, |block| block.len());
        // Doubling, so that a file written in small pieces is not copied for each of them.
        let after = length.next_power_of_two().max(BLOCK_BYTES_MIN).max(before);
        self.budget.take(after - before)?;
        self.used += (after - before) as u64;
        let block = Arc::make_mut(self.blocks.entry(number).or_default());
        block.reserve_exact(after - before);
        block.resize(after, 0);
        Ok(block)
    }

    /// Cuts the file, or makes it longer by a hole.
    ///
    /// # Errors
    /// `NFS4ERR_FBIG`.
    pub(super) fn set_size(&mut self, size: u64) -> Result<(), Status> {
        if size > FILE_BYTES_MAX {
            return Err(Status::FBIG);
        }
        let (last, inside) = place(size);
        let mut gone: u64 =
            self.blocks.split_off(&(last + u64::from(inside > 0))).values().map(|block| block.len() as u64).sum();
        if let Some(block) = self.blocks.get_mut(&last)
            && size < self.size
            && inside < block.len()
        {
            let kept = inside.next_power_of_two().max(BLOCK_BYTES_MIN).min(block.len());
            gone += (block.len() - kept) as u64;
            let block = Arc::make_mut(block);
            block.truncate(kept);
            block.shrink_to_fit();
            block.iter_mut().skip(inside).for_each(|byte| *byte = 0);
        }
        self.used -= gone;
        self.budget.give_back(gone);
        self.size = size;
        Ok(())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.budget.give_back(self.used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(content: &Content, offset: u64, count: usize) -> Vec<u8> {
        let (stretches, _) = content.read(offset, count);
        let mut bytes = Vec::new();
        for stretch in stretches {
            match stretch {
                Stretch::Data(held) => bytes.extend_from_slice(held.bytes()),
                Stretch::Hole(length) => bytes.resize(bytes.len() + length, 0),
            }
        }
        bytes
    }

    #[test]
    fn any_course_of_writes_and_cuts_leaves_what_a_plain_vector_has() {
        const SPAN: u64 = 3 << 20;
        let (budget, mut seed) = (Arc::new(Budget::new(64 << 20)), 0x5ea1_a9e0_u64);
        let (mut content, mut model) = (Content::new(Arc::clone(&budget)), Vec::<u8>::new());
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for step in 0..300 {
            let (offset, length) = (random(SPAN), random(if step % 7 == 0 { 1 << 21 } else { 9000 }) as usize);
            if random(4) == 0 {
                content.set_size(offset).unwrap();
                model.resize(offset as usize, 0);
            } else {
                let bytes: Vec<u8> = (0..length).map(|index| (index * 7 + step) as u8).collect();
                content.write(offset, &bytes).unwrap();
                model.resize(model.len().max(offset as usize + if length > 0 { length } else { 0 }), 0);
                model[offset as usize..offset as usize + length].copy_from_slice(&bytes);
            }
            if content.size() != model.len() as u64 {
                // A write of nothing does not make a file longer.
                assert_eq!(length, 0, "step {step}");
                model.truncate(content.size() as usize);
            }
            let from = random(SPAN);
            let to = model.len().min(from as usize + 1_500_000);
            assert_eq!(
                bytes_of(&content, from, 1_500_000),
                model.get(from as usize..to).unwrap_or_default(),
                "step {step}"
            );
            assert_eq!(budget.total() - budget.free(), content.used(), "step {step}");
        }
        drop(content);
        assert_eq!(budget.free(), budget.total());
    }

    #[test]
    fn what_a_reader_holds_does_not_change_under_it() {
        let mut content = Content::new(Arc::new(Budget::new(1 << 20)));
        content.write(0, b"before").unwrap();
        let (held, end) = content.read(0, 100);
        content.write(0, b"behind").unwrap();
        content.set_size(2).unwrap();
        assert!(end);
        assert!(matches!(&held[..], [Stretch::Data(held)] if held.bytes() == b"before"));
        assert_eq!(bytes_of(&content, 0, 100), b"be");
    }

    #[test]
    fn beyond_the_budget_there_is_no_space_and_a_cut_gives_it_back() {
        let mut content = Content::new(Arc::new(Budget::new(2 << 20)));
        let block = vec![1; 1 << 20];
        content.write(0, &block).unwrap();
        content.write(1 << 20, &block).unwrap();
        assert_eq!(content.write(2 << 20, &block), Err(Status::NOSPC));
        assert_eq!(content.size(), 2 << 20);
        content.set_size(0).unwrap();
        content.write(5 << 20, &block).unwrap();
        assert_eq!(content.write(FILE_BYTES_MAX, &[1]), Err(Status::FBIG));
        assert_eq!(content.write(u64::MAX, &[1]), Err(Status::FBIG));
    }
}
