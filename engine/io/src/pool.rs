//! The buffers of one worker: two sizes, fixed in number, cut from one mapping that is touched lazily.
//!
//! A buffer goes back to its pool when it is dropped, and an operation in flight owns its buffer, so a buffer cannot go
//! back before its operation has completed. Empty is a normal answer: the caller stops reading.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::fence::{self, FENCE_BYTES};

/// How many buffers of which size a pool has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolLayout {
    /// Bytes in a small buffer.
    pub small_bytes: usize,
    /// Small buffers: two for each connection, which nobody else can take.
    pub small_count: usize,
    /// The most slices of a small buffer.
    pub small_slices: usize,
    /// Bytes in a big buffer.
    pub big_bytes: usize,
    /// Big buffers: a bonus, lent in turn.
    pub big_count: usize,
    /// The most slices of a big buffer.
    pub big_slices: usize,
    /// Small buffers whose pages are touched at start, so that progress needs no new page under memory pressure.
    pub small_prefaulted: usize,
}

/// The pool's memory could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot reserve {bytes} bytes of buffers (mmap): {source}")]
pub struct PoolError {
    bytes: usize,
    source: io::Error,
}

/// One mapping, given back when the last buffer is gone.
struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

impl Region {
    fn new(bytes: usize) -> Result<Self, PoolError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address that the kernel chooses touches no memory of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes.max(1), protection, flags, -1, 0) };
        let failed = || PoolError { bytes, source: io::Error::last_os_error() };
        if base == libc::MAP_FAILED {
            return Err(failed());
        }
        // A huge page would make one small buffer resident as 2 MiB. Where the kernel has none, this fails: no matter.
        // SAFETY: the range is the mapping made above.
        unsafe { libc::madvise(base, bytes.max(1), libc::MADV_NOHUGEPAGE) };
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(failed)?;
        fence::close(base, bytes);
        Ok(Self { base, bytes })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Another mapping may come to lie here.
        fence::lend(self.base, self.bytes);
        // SAFETY: the mapping was made in `new` with this length, and no buffer is left: each holds the pool.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes.max(1)) };
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Size {
    Small,
    Big,
}

/// What a buffer is made of. Boxed, so that the kernel's view of `header` and `slices` never moves.
struct Slot {
    data: NonNull<u8>,
    capacity: usize,
    size: Size,
    slices: Box<[libc::iovec]>,
    slice_count: usize,
    header: libc::msghdr,
}

/// How far apart buffers lie.
fn stride_of(layout: PoolLayout, size: Size) -> usize {
    match size {
        Size::Small => (layout.small_bytes + FENCE_BYTES).next_multiple_of(64),
        Size::Big => (layout.big_bytes + FENCE_BYTES).next_multiple_of(4096),
    }
}

struct Shelf {
    /// Where the next slot, that nobody has had yet, begins in the region.
    unmade_at: usize,
    unmade: usize,
    #[allow(clippy::vec_box, reason = "the kernel holds addresses inside a slot: it must not move")]
    free: Vec<Box<Slot>>,
}

struct Shared {
    layout: PoolLayout,
    region: Region,
    small: RefCell<Shelf>,
    big: RefCell<Shelf>,
    /// The most big buffers that were out at once.
    big_peak: Cell<usize>,
}

/// The buffers of one worker thread.
#[derive(Clone)]
pub struct Pool {
    shared: Rc<Shared>,
}

impl Pool {
    /// Reserves the address space; memory is used as buffers are.
    ///
    /// # Errors
    /// [`PoolError`] when the mapping is refused.
    pub fn new(layout: PoolLayout) -> Result<Self, PoolError> {
        let small_total = stride_of(layout, Size::Small) * layout.small_count;
        let big_total = stride_of(layout, Size::Big) * layout.big_count;
        let big_at = small_total.next_multiple_of(4096);
        let region = Region::new(big_at + big_total)?;
        let shelf = |unmade_at, unmade| RefCell::new(Shelf { unmade_at, unmade, free: Vec::with_capacity(unmade) });
        let pool = Self {
            shared: Rc::new(Shared {
                layout,
                region,
                small: shelf(0, layout.small_count),
                big: shelf(big_at, layout.big_count),
                big_peak: Cell::new(0),
            }),
        };
        let prefaulted: Vec<Buffer> = (0..layout.small_prefaulted).map_while(|_| pool.small()).collect();
        for mut buffer in prefaulted {
            buffer.bytes_mut().iter_mut().step_by(4096).for_each(|byte| *byte = 0);
        }
        Ok(pool)
    }

    /// A small buffer, if one is free.
    pub fn small(&self) -> Option<Buffer> {
        self.take(Size::Small)
    }

    /// A big buffer, if one is free.
    pub fn big(&self) -> Option<Buffer> {
        let buffer = self.take(Size::Big);
        let out = self.shared.layout.big_count - self.big_free();
        self.shared.big_peak.set(self.shared.big_peak.get().max(out));
        buffer
    }

    /// How many big buffers are free.
    pub fn big_free(&self) -> usize {
        let shelf = self.shared.big.borrow();
        shelf.unmade + shelf.free.len()
    }

    /// How many small buffers are free.
    pub fn small_free(&self) -> usize {
        let shelf = self.shared.small.borrow();
        shelf.unmade + shelf.free.len()
    }

    /// The pool's numbers.
    pub fn layout(&self) -> PoolLayout {
        self.shared.layout
    }

    /// The most big buffers that were out at once since the start.
    pub fn big_peak(&self) -> usize {
        self.shared.big_peak.get()
    }

    fn shelf(&self, size: Size) -> &RefCell<Shelf> {
        match size {
            Size::Small => &self.shared.small,
            Size::Big => &self.shared.big,
        }
    }

    fn take(&self, size: Size) -> Option<Buffer> {
        let mut shelf = self.shelf(size).borrow_mut();
        let mut slot = match shelf.free.pop() {
            Some(slot) => slot,
            None => self.make(size, &mut shelf)?,
        };
        slot.slice_count = 0;
        fence::lend(slot.data, slot.capacity);
        Some(Buffer { slot: Some(slot), pool: self.clone() })
    }

    fn make(&self, size: Size, shelf: &mut Shelf) -> Option<Box<Slot>> {
        shelf.unmade = shelf.unmade.checked_sub(1)?;
        let layout = &self.shared.layout;
        let (capacity, slices) = match size {
            Size::Small => (layout.small_bytes, layout.small_slices),
            Size::Big => (layout.big_bytes, layout.big_slices),
        };
        let at = shelf.unmade_at;
        shelf.unmade_at += stride_of(*layout, size);
        debug_assert!(at + capacity <= self.shared.region.bytes);
        // SAFETY: `new` made the region long enough for `unmade` slots of this stride behind `unmade_at`.
        let data = unsafe { self.shared.region.base.add(at) };
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a msghdr of zeroes is a valid one without name, control data or slices.
        let header = unsafe { std::mem::zeroed::<libc::msghdr>() };
        Some(Box::new(Slot { data, capacity, size, slices: vec![empty; slices].into(), slice_count: 0, header }))
    }
}

/// A buffer on loan, with the slices that the next receive or send is to use.
///
/// Dropping it gives it back.
pub struct Buffer {
    /// `None` only while dropping.
    slot: Option<Box<Slot>>,
    pool: Pool,
}

impl Buffer {
    fn slot(&self) -> &Slot {
        self.slot.as_deref().unwrap_or_else(|| unreachable!("a buffer has its slot until it is dropped"))
    }

    fn slot_mut(&mut self) -> &mut Slot {
        self.slot.as_deref_mut().unwrap_or_else(|| unreachable!("a buffer has its slot until it is dropped"))
    }

    /// How many bytes it holds.
    pub fn capacity(&self) -> usize {
        self.slot().capacity
    }

    /// Whether it is one of the big ones.
    pub fn is_big(&self) -> bool {
        self.slot().size == Size::Big
    }

    /// The whole buffer. Always initialised: the mapping began as zeroes.
    pub fn bytes(&self) -> &[u8] {
        let slot = self.slot();
        // SAFETY: the slot's range belongs to this buffer alone, the mapping outlives it (`pool`), its bytes are
        // initialised, and no operation is in flight: one would own the buffer.
        unsafe { std::slice::from_raw_parts(slot.data.as_ptr(), slot.capacity) }
    }

    /// The whole buffer, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.split().0
    }

    /// The bytes and the slices at once.
    pub fn split(&mut self) -> (&mut [u8], Slices<'_>) {
        let slot = self.slot_mut();
        // SAFETY: as in `bytes`, and the exclusive borrow of `self` lasts as long as the result. `Slices` holds
        // addresses into the range but never reads or writes through them.
        let bytes = unsafe { std::slice::from_raw_parts_mut(slot.data.as_ptr(), slot.capacity) };
        let base = slot.data;
        let slices = Slices { base, capacity: slot.capacity, slices: &mut slot.slices, count: &mut slot.slice_count };
        (bytes, slices)
    }

    /// The slices alone.
    pub fn slices(&mut self) -> Slices<'_> {
        self.split().1
    }

    /// The ranges that the slices cover, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let slot = self.slot();
        let base = slot.data.as_ptr() as usize;
        slot.slices.iter().take(slot.slice_count).map(move |slice| {
            let start = slice.iov_base as usize - base;
            start..start + slice.iov_len
        })
    }

    /// The sum of the slices' lengths.
    pub fn slices_bytes(&self) -> usize {
        self.ranges().map(|range| range.len()).sum()
    }

    /// Takes `count` bytes from the front of the slices: they were sent.
    pub fn consume(&mut self, mut count: usize) {
        let slot = self.slot_mut();
        let mut sent = 0;
        for slice in slot.slices.iter_mut().take(slot.slice_count) {
            if count < slice.iov_len {
                slice.iov_base = slice.iov_base.cast::<u8>().wrapping_add(count).cast();
                slice.iov_len -= count;
                break;
            }
            count -= slice.iov_len;
            sent += 1;
        }
        slot.slices.copy_within(sent..slot.slice_count, 0);
        slot.slice_count -= sent;
    }

    /// The slice, when there is just one: then neither the header nor the slices need be copied for a call.
    pub(crate) fn only_slice(&mut self) -> Option<libc::iovec> {
        let slot = self.slot();
        slot.slices.first().filter(|_| slot.slice_count == 1).copied()
    }

    /// The message header over the current slices, for one `recvmsg` or `sendmsg`.
    ///
    /// Valid until the buffer is changed or dropped: the slot is boxed, so moving the buffer moves nothing.
    pub(crate) fn message(&mut self) -> *mut libc::msghdr {
        let slot = self.slot_mut();
        slot.header.msg_iov = slot.slices.as_mut_ptr();
        slot.header.msg_iovlen = slot.slice_count;
        &raw mut slot.header
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            fence::close(slot.data, slot.capacity);
            // The free list was made with room for every slot: this never allocates.
            self.pool.shelf(slot.size).borrow_mut().free.push(slot);
        }
    }
}

/// The slices of a buffer: ranges of it, in the order in which they are filled or sent.
pub struct Slices<'b> {
    base: NonNull<u8>,
    capacity: usize,
    slices: &'b mut [libc::iovec],
    count: &'b mut usize,
}

impl Slices<'_> {
    /// Removes all.
    pub fn clear(&mut self) {
        *self.count = 0;
    }

    /// Adds a range. False, and nothing changes, when it lies outside the buffer or all slices are in use.
    #[must_use]
    pub fn push(&mut self, range: Range<usize>) -> bool {
        if range.start > range.end || range.end > self.capacity {
            return false;
        }
        let Some(slice) = self.slices.get_mut(*self.count) else { return false };
        slice.iov_base = self.base.as_ptr().wrapping_add(range.start).cast();
        slice.iov_len = range.end - range.start;
        *self.count += 1;
        true
    }

    /// Keeps the first `bytes` of what the ranges cover.
    pub fn truncate(&mut self, mut bytes: usize) {
        let mut kept = 0;
        for slice in self.slices.iter_mut().take(*self.count) {
            if bytes == 0 {
                break;
            }
            slice.iov_len = slice.iov_len.min(bytes);
            bytes -= slice.iov_len;
            kept += 1;
        }
        *self.count = kept;
    }

    /// Lets the last range end at `end` instead; ignored when it would shrink or leave the buffer.
    pub fn grow_last(&mut self, end: usize) {
        let base = self.base.as_ptr() as usize;
        if let Some(slice) = self.count.checked_sub(1).and_then(|last| self.slices.get_mut(last))
            && let Some(length) = (base + end).checked_sub(slice.iov_base as usize)
            && end <= self.capacity
            && length >= slice.iov_len
        {
            slice.iov_len = length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> PoolLayout {
        PoolLayout {
            small_bytes: 100,
            small_count: 4,
            small_slices: 3,
            big_bytes: 5000,
            big_count: 2,
            big_slices: 10,
            small_prefaulted: 2,
        }
    }

    #[test]
    fn a_pool_gives_what_it_has_and_takes_back_what_it_gave() {
        let pool = Pool::new(layout()).unwrap();
        for _ in 0..3 {
            let small: Vec<_> = (0..4).map(|_| pool.small().unwrap()).collect();
            let big: Vec<_> = (0..2).map(|_| pool.big().unwrap()).collect();
            assert!(pool.small().is_none() && pool.big().is_none());
            assert_eq!((pool.small_free(), pool.big_free(), pool.big_peak()), (0, 0, 2));
            drop((small, big));
            assert_eq!((pool.small_free(), pool.big_free()), (4, 2));
        }
    }

    #[test]
    fn buffers_do_not_overlap_and_outlive_the_pool() {
        let pool = Pool::new(layout()).unwrap();
        let mut all: Vec<_> = std::iter::from_fn(|| pool.small()).chain(std::iter::from_fn(|| pool.big())).collect();
        drop(pool);
        for (index, buffer) in all.iter_mut().enumerate() {
            buffer.bytes_mut().fill(index as u8);
        }
        for (index, buffer) in all.iter().enumerate() {
            assert!(buffer.bytes().iter().all(|byte| *byte == index as u8), "buffer {index}");
        }
    }

    #[test]
    fn truncated_slices_cover_what_is_kept_and_no_more() {
        let pool = Pool::new(layout()).unwrap();
        let mut buffer = pool.big().unwrap();
        let cases: [(usize, &[(usize, usize)]); 5] =
            [(0, &[]), (1, &[(0, 1)]), (10, &[(0, 10)]), (11, &[(0, 10), (50, 51)]), (99, &[(0, 10), (50, 70)])];
        for (keep, left) in cases {
            let mut slices = buffer.slices();
            slices.clear();
            assert!(slices.push(0..10) && slices.push(50..70));
            slices.truncate(keep);
            assert_eq!(buffer.ranges().map(|range| (range.start, range.end)).collect::<Vec<_>>(), left, "{keep}");
        }
    }

    #[test]
    fn slices_stay_inside_the_buffer_and_within_their_number() {
        let pool = Pool::new(layout()).unwrap();
        let mut buffer = pool.small().unwrap();
        let mut slices = buffer.slices();
        assert!(!slices.push(90..101));
        assert!(slices.push(0..10) && slices.push(50..60) && slices.push(99..100));
        assert!(!slices.push(0..1), "a fourth slice of three");
        slices.grow_last(101);
        assert_eq!(buffer.ranges().collect::<Vec<_>>(), [0..10, 50..60, 99..100]);
    }

    #[test]
    fn consuming_any_count_leaves_exactly_the_rest() {
        let pool = Pool::new(layout()).unwrap();
        let mut buffer = pool.small().unwrap();
        for count in 0..=21 {
            let mut slices = buffer.slices();
            slices.clear();
            assert!(slices.push(0..10) && slices.push(50..60));
            slices.grow_last(61);
            let all: Vec<usize> = buffer.ranges().flatten().collect();
            buffer.consume(count);
            assert_eq!(buffer.ranges().flatten().collect::<Vec<_>>(), all[count..], "consumed {count}");
            assert_eq!(buffer.slices_bytes(), 21 - count);
        }
    }
}
