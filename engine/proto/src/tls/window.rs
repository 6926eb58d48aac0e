//! Where the bytes of the receiving direction lie in their buffer, and where the next read has to put more.
//!
//! A record that a read has cut stays where it is: the next read puts its rest behind it, and what follows to the front
//! of the buffer, in one call. So a stream of long records is received without moving a byte.

use core::ops::Range;

use super::inbound::Cursor;
use super::record::announced_bytes;
use crate::limits::{RECORD_HEADER_BYTES, RECORD_WIRE_BYTES_MAX};

/// Where to read to: first `near`, then `front`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadPlan {
    /// Directly behind what is there.
    pub near: Range<usize>,
    /// From the start of the buffer; empty when `near` is all.
    pub front: Range<usize>,
}

/// Follows one buffer of the receiving direction.
#[derive(Clone, Debug, Default)]
pub struct Window {
    cursor: Cursor,
    /// What the last read put to the front of the buffer, behind the cursor's record in the stream.
    front: usize,
    plan: Option<ReadPlan>,
}

impl Window {
    /// A window onto `held` bytes at the start of a buffer.
    pub fn holding(held: usize) -> Self {
        Self { cursor: Cursor { span: 0..held, onto: None }, ..Self::default() }
    }

    /// Received bytes that are not a whole record yet.
    pub fn held(&self) -> Range<usize> {
        self.cursor.span.clone()
    }

    /// Plans the next read into `bytes`, whose earlier plaintext must have been sent. Moves at most a record header,
    /// except in a buffer that has no room for two records.
    pub fn plan(&mut self, bytes: &mut [u8]) -> ReadPlan {
        debug_assert_eq!(self.front, 0, "the front was not opened");
        self.cursor.onto = None;
        let capacity = bytes.len();
        // Records may begin before `soft`; what begins there fits behind it.
        let soft = if capacity >= 2 * RECORD_WIRE_BYTES_MAX { capacity - RECORD_WIRE_BYTES_MAX } else { capacity };
        let Range { start, end } = self.cursor.span.clone();
        let plan = if start == end {
            self.cursor.span = 0..0;
            ReadPlan { near: 0..soft, front: 0..0 }
        } else {
            let held = bytes.get(start..end).unwrap_or_default();
            let whole = announced_bytes(held).map_or(RECORD_HEADER_BYTES, |whole| whole.max(RECORD_HEADER_BYTES));
            let record_end = start + whole;
            let header_known = held.len() >= RECORD_HEADER_BYTES;
            if header_known && record_end > end && record_end <= capacity && start > soft.saturating_sub(end) {
                ReadPlan { near: end..record_end, front: 0..start.min(soft) }
            } else if start > 0 && (record_end > capacity || !header_known || end >= soft) {
                bytes.copy_within(start..end, 0);
                self.cursor.span = 0..end - start;
                ReadPlan { near: end - start..soft, front: 0..0 }
            } else {
                ReadPlan { near: end..soft.max(record_end).min(capacity), front: 0..0 }
            }
        };
        self.plan = Some(plan.clone());
        plan
    }

    /// The planned read brought `count` bytes.
    pub fn filled(&mut self, count: usize) {
        let Some(plan) = self.plan.take() else { return };
        let near = count.min(plan.near.len());
        self.cursor.span.end = plan.near.start + near;
        self.front = (count - near).min(plan.front.len());
    }

    /// The stretch of bytes to be opened now.
    pub fn cursor(&mut self) -> &mut Cursor {
        &mut self.cursor
    }

    /// Goes on to the stretch at the front of the buffer, once the cursor's is used up; false when there is none.
    pub fn next_stretch(&mut self) -> bool {
        if self.front == 0 || !self.cursor.span.is_empty() {
            return false;
        }
        self.cursor = Cursor { span: 0..core::mem::take(&mut self.front), onto: None };
        true
    }
}
