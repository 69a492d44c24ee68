//! Memory whose size follows from rows or weights, and what happens where the system has none left.
//!
//! Rust's collections end the process where an allocation fails. What is large is therefore allocated here: a
//! failure unwinds with [`OutOfMemory`], which whoever called the crate can catch. The Python binding makes
//! `MemoryError` of it.

use std::panic::resume_unwind;

use aligned_vec::{AVec, ConstAlign};

/// What the crate unwinds with where an allocation fails.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory;

/// Unwinds with [`OutOfMemory`]; no panic hook is told.
#[cold]
pub(crate) fn out_of_memory() -> ! {
    resume_unwind(Box::new(OutOfMemory))
}

/// An empty vector with room for `len` values.
///
/// # Panics
/// With [`OutOfMemory`], where there is no room.
pub fn room<T>(len: usize) -> Vec<T> {
    let mut values = Vec::new();
    reserve(&mut values, len);
    values
}

/// Room for `more` values after those that there are.
pub(crate) fn reserve<T>(values: &mut Vec<T>, more: usize) {
    if values.try_reserve(more).is_err() {
        out_of_memory();
    }
}

/// `len` times a value.
///
/// # Panics
/// With [`OutOfMemory`], where there is no room.
pub fn filled<T: Clone>(value: T, len: usize) -> Vec<T> {
    let mut values = room(len);
    values.resize(len, value);
    values
}

/// A copy.
///
/// # Panics
/// With [`OutOfMemory`], where there is no room.
pub fn copied<T: Copy>(values: &[T]) -> Vec<T> {
    collected(values.iter().copied())
}

/// The values of an iterator that knows how many they are.
///
/// # Panics
/// With [`OutOfMemory`], where there is no room.
pub fn collected<T>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut all = room(values.size_hint().0);
    all.extend(values);
    all
}

/// A buffer that starts on a cache line.
pub(crate) type Aligned<T> = AVec<T, ConstAlign<64>>;

/// An empty one with room for `len` values.
pub(crate) fn aligned_room<T>(len: usize) -> Aligned<T> {
    let mut values = Aligned::new(64);
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize - 64)
        || values.try_reserve_exact(len).is_err()
    {
        out_of_memory();
    }
    values
}

/// `len` zeros on a cache line.
pub(crate) fn zeros<T: Copy + Default>(len: usize) -> Aligned<T> {
    let mut values = aligned_room(len);
    values.resize(len, T::default());
    values
}

/// An empty buffer with room for `len` weights.
pub(crate) fn room_for_weights<T>(len: usize) -> Aligned<T> {
    let room = aligned_room(len);
    prefer_huge_pages(room.as_ptr(), len);
    room
}

/// Asks for huge pages for as many values from `start` on, if they are many; best before they are written
/// to: to be given memory page by page takes longer than to quantise and pack weights into it.
pub(crate) fn prefer_huge_pages<T>(start: *const T, len: usize) {
    #[cfg(target_os = "linux")]
    {
        /// Their size where pages are of 4 KiB; elsewhere the advice does no harm.
        const HUGE: usize = 2 << 20;
        let first = (start as usize).next_multiple_of(HUGE);
        let end = start as usize + len * size_of::<T>();
        if let Some(bytes) = end.checked_sub(first).filter(|bytes| *bytes >= HUGE) {
            // SAFETY: this advice changes the contents of no memory, whatever memory it is of. If the system
            // has no such pages, or gives none, nothing is lost.
            unsafe { libc::madvise(first as *mut _, bytes - bytes % HUGE, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, len);
}
