//! Fences between buffers, for the tests under AddressSanitizer (`tests/asan`).
//!
//! The pool cuts its buffers from one mapping, so to the sanitizer a byte behind a buffer is as good as one inside. With
//! `--cfg sealane_asan` it is told which bytes nobody has borrowed. In every other build there is nothing here.

use std::ptr::NonNull;

/// Bytes behind each buffer that belong to nobody: at least one granule (8 bytes) of the sanitizer.
pub(crate) const FENCE_BYTES: usize = if cfg!(sealane_asan) { 64 } else { 0 };

#[cfg(sealane_asan)]
unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const libc::c_void, bytes: usize);
    fn __asan_unpoison_memory_region(start: *const libc::c_void, bytes: usize);
}

/// Nobody may touch these bytes until [`lend`].
#[cfg_attr(not(sealane_asan), allow(unused_variables, reason = "nothing to be told"))]
pub(crate) fn close(start: NonNull<u8>, bytes: usize) {
    #[cfg(sealane_asan)]
    // SAFETY: marks addresses in the sanitizer's own table; the memory is not touched.
    unsafe {
        __asan_poison_memory_region(start.as_ptr().cast(), bytes);
    }
}

/// These bytes belong to somebody from now on.
#[cfg_attr(not(sealane_asan), allow(unused_variables, reason = "nothing to be told"))]
pub(crate) fn lend(start: NonNull<u8>, bytes: usize) {
    #[cfg(sealane_asan)]
    // SAFETY: as above.
    unsafe {
        __asan_unpoison_memory_region(start.as_ptr().cast(), bytes);
    }
}

#[cfg(all(test, sealane_asan))]
mod tests {
    use std::process::Command;

    use crate::pool::{Pool, PoolLayout};

    /// Without this, a run without a finding would say nothing. The child does what must not be done.
    #[test]
    fn a_byte_behind_a_buffer_or_of_one_that_was_given_back_is_noticed() {
        const NAME: &str = "fence::tests::a_byte_behind_a_buffer_or_of_one_that_was_given_back_is_noticed";
        const PLANT: &str = "SEALANE_PLANT";
        let layout = PoolLayout {
            small_bytes: 4096,
            small_count: 2,
            small_slices: 1,
            big_bytes: 8192,
            big_count: 1,
            big_slices: 1,
            small_prefaulted: 0,
        };
        if let Ok(plant) = std::env::var(PLANT) {
            let pool = Pool::new(layout).unwrap();
            let (buffer, _neighbour) = (pool.small().unwrap(), pool.small().unwrap());
            let (start, last) = (buffer.bytes().as_ptr(), buffer.capacity() - 1);
            let at = if plant == "behind" { last + 1 } else { last };
            if plant == "given-back" {
                drop(buffer);
            }
            // SAFETY: none: it is the fault that is to be found. The mapping is still there, so nothing else would.
            let byte = unsafe { start.add(at).read_volatile() };
            assert_eq!(byte, 0);
            return;
        }
        for (plant, found) in [("inside", false), ("behind", true), ("given-back", true)] {
            let mut child = Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", NAME]).env(PLANT, plant).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).contains("use-after-poison");
            assert_eq!((output.status.success(), said), (!found, found), "{plant}");
        }
    }
}
