//! Memory for keys: pages that hold nothing else, are never swapped out, and are left out of core dumps.
//!
//! A page is asked for when the places of those before are taken, and kept: as many as there were keys at once. Where the
//! kernel locks no more (RLIMIT_MEMLOCK), pages are used unlocked, and [`first_refusal`] says so once.

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

const PAGE_BYTES: usize = 4096;
/// ring's expanded AES-256-GCM key is 544 bytes; six of these fit into a page.
const PLACE_BYTES: usize = 640;
const PLACE_ALIGN: usize = 64;
const PLACES_PER_PAGE: usize = PAGE_BYTES / PLACE_BYTES;
const _: () = assert!(PLACE_BYTES.is_multiple_of(PLACE_ALIGN));

/// A place that nobody has.
struct Place(NonNull<u8>);

// SAFETY: a place is memory that belongs to whoever holds the `Place`, on whatever thread.
unsafe impl Send for Place {}

static FREE: Mutex<Vec<Place>> = Mutex::new(Vec::new());
/// The error of the first page that could not be locked; 0: none.
static REFUSAL: AtomicI32 = AtomicI32::new(0);
static REFUSAL_TOLD: AtomicBool = AtomicBool::new(false);

/// A value in locked memory, wiped when it is dropped.
pub struct Locked<T> {
    place: Place,
    value: PhantomData<T>,
}

impl<T> Locked<T> {
    /// Moves `value` there; gives it back when the kernel gives no page at all.
    pub fn new(value: T) -> Result<Self, T> {
        const { assert!(size_of::<T>() <= PLACE_BYTES && align_of::<T>() <= PLACE_ALIGN) };
        let Some(place) = take_place() else { return Err(value) };
        // SAFETY: the place is `PLACE_BYTES` long and aligned to `PLACE_ALIGN`, and nobody else has it.
        unsafe { place.0.cast::<T>().write(value) };
        Ok(Self { place, value: PhantomData })
    }
}

impl<T> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `new` has put a value there, which stays until this is dropped.
        unsafe { self.place.0.cast::<T>().as_ref() }
    }
}

impl<T> DerefMut for Locked<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { self.place.0.cast::<T>().as_mut() }
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        // SAFETY: the value is there and nobody will look at it again.
        unsafe { self.place.0.cast::<T>().drop_in_place() };
        let bytes = self.place.0.cast::<u64>();
        for word in 0..PLACE_BYTES / size_of::<u64>() {
            // SAFETY: the words of the place, which is aligned for them.
            let word = unsafe { bytes.add(word) };
            // SAFETY: as above. Volatile: nobody reads it, and it has to happen all the same.
            unsafe { word.write_volatile(0) };
        }
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(Place(self.place.0));
    }
}

/// Why the kernel locked no more, the first time that it is asked after it happened.
pub fn first_refusal() -> Option<io::Error> {
    let error = REFUSAL.load(Ordering::Relaxed);
    (error != 0 && !REFUSAL_TOLD.swap(true, Ordering::Relaxed)).then(|| io::Error::from_raw_os_error(error))
}

fn take_place() -> Option<Place> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    if free.is_empty() {
        let page = new_page()?;
        for index in 0..PLACES_PER_PAGE {
            // SAFETY: all of these places lie within the page.
            free.push(Place(unsafe { page.add(index * PLACE_BYTES) }));
        }
    }
    free.pop()
}

fn new_page() -> Option<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: an anonymous mapping at an address that the kernel chooses touches no memory of ours.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE_BYTES, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the range is the mapping made above. A kernel that does not know the advice has RLIMIT_CORE.
    unsafe { libc::madvise(page, PAGE_BYTES, libc::MADV_DONTDUMP) };
    // SAFETY: the range is the mapping made above.
    if unsafe { libc::mlock(page, PAGE_BYTES) } != 0 {
        let error = io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOMEM);
        let _ = REFUSAL.compare_exchange(0, error, Ordering::Relaxed, Ordering::Relaxed);
    }
    NonNull::new(page.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, because places are shared by all.
    #[test]
    fn values_keep_to_their_places_are_dropped_and_leave_nothing_behind() {
        let values: Vec<Locked<[u8; 600]>> =
            (0..20).map(|index| Locked::new([index; 600]).unwrap_or_else(|_| panic!("no page"))).collect();
        for (index, value) in values.iter().enumerate() {
            assert!(value.iter().all(|byte| *byte == index as u8), "{index}");
        }
        let places: Vec<NonNull<u8>> = values.iter().map(|value| value.place.0).collect();
        drop(values);
        let again = Locked::new([1_u8; 8]).unwrap_or_else(|_| panic!("no page"));
        assert!(places.contains(&again.place.0), "places are used again");
        for place in places.into_iter().filter(|place| *place != again.place.0) {
            // SAFETY: pages are never given back, and no other test takes places.
            let left = unsafe { std::slice::from_raw_parts(place.as_ptr(), PLACE_BYTES) };
            assert!(left.iter().all(|byte| *byte == 0));
        }
        let kept = std::rc::Rc::new(());
        let locked = Locked::new(std::rc::Rc::clone(&kept)).unwrap_or_else(|_| panic!("no page"));
        assert_eq!(std::rc::Rc::strong_count(&locked), 2);
        drop(locked);
        assert_eq!(std::rc::Rc::strong_count(&kept), 1);
    }
}
