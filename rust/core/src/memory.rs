//! Allocation of buffers whose size depends on rows or weights, and the handling of out-of-memory.
//!
//! Rust's collections abort the process if an allocation fails. Large buffers are allocated here
//! instead: a failure unwinds with [`OutOfMemory`], which the caller of the crate can catch. The
//! Python binding turns it into `MemoryError`.

use std::panic::resume_unwind;
use std::sync::OnceLock;

use aligned_vec::{AVec, ConstAlign};

/// The payload with which the crate unwinds if an allocation fails.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory;

/// Unwinds with [`OutOfMemory`], without calling the panic hook.
#[cold]
pub(crate) fn out_of_memory() -> ! {
    resume_unwind(Box::new(OutOfMemory))
}

/// An empty vector with capacity for `len` values.
///
/// # Panics
/// With [`OutOfMemory`] if the allocation fails.
pub fn with_capacity<T>(len: usize) -> Vec<T> {
    let mut values = Vec::new();
    reserve(&mut values, len);
    values
}

/// Reserves capacity for `more` additional values.
pub(crate) fn reserve<T>(values: &mut Vec<T>, more: usize) {
    if values.try_reserve(more).is_err() {
        out_of_memory();
    }
}

/// A vector of `len` copies of `value`.
///
/// # Panics
/// With [`OutOfMemory`] if the allocation fails.
pub fn filled<T: Clone>(value: T, len: usize) -> Vec<T> {
    let mut values = with_capacity(len);
    values.resize(len, value);
    values
}

/// A copy of `values`.
///
/// # Panics
/// With [`OutOfMemory`] if the allocation fails.
pub fn copied<T: Copy>(values: &[T]) -> Vec<T> {
    collected(values.iter().copied())
}

/// The values of an iterator of known length.
///
/// # Panics
/// With [`OutOfMemory`] if the allocation fails.
pub fn collected<T>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut all = with_capacity(values.size_hint().0);
    all.extend(values);
    all
}

/// A buffer that starts on a cache line.
pub(crate) type Aligned<T> = AVec<T, ConstAlign<64>>;

/// An empty aligned buffer with capacity for `len` values.
pub(crate) fn aligned_with_capacity<T>(len: usize) -> Aligned<T> {
    let mut values = Aligned::new(64);
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize - 64)
        || values.try_reserve_exact(len).is_err()
    {
        out_of_memory();
    }
    values
}

/// An aligned buffer of `len` zeros.
pub(crate) fn zeros<T: Copy + Default>(len: usize) -> Aligned<T> {
    let mut values = aligned_with_capacity(len);
    values.resize(len, T::default());
    values
}

/// The contents of `cell`, which `pack` makes if it is empty. It is made outside the cell's lock,
/// possibly twice by two threads, so that a process that forks meanwhile does not leave a locked
/// cell in the child.
pub(crate) fn packed<T>(cell: &OnceLock<T>, pack: impl FnOnce() -> T) -> &T {
    if let Some(packed) = cell.get() {
        return packed;
    }
    let made = pack();
    cell.get_or_init(|| made)
}

/// An empty buffer with capacity for `len` weights, on huge pages if the buffer is large.
pub(crate) fn with_weight_capacity<T>(len: usize) -> Aligned<T> {
    let weights = aligned_with_capacity(len);
    prefer_huge_pages(weights.as_ptr(), len);
    weights
}

/// Asks the system for huge pages for the `len` values from `start` on, if they are many. Call it
/// before they are written: faulting in 4 KiB pages takes longer than quantising and packing the
/// weights.
pub(crate) fn prefer_huge_pages<T>(start: *const T, len: usize) {
    #[cfg(target_os = "linux")]
    {
        /// Size of huge pages where pages have 4 KiB. On other systems the advice does no harm.
        const HUGE: usize = 2 << 20;
        let first = (start as usize).next_multiple_of(HUGE);
        let end = start as usize + len * size_of::<T>();
        if let Some(bytes) = end.checked_sub(first).filter(|bytes| *bytes >= HUGE) {
            // SAFETY: the advice does not change the contents of any memory. If the system has no
            // huge pages or does not provide them, it has no effect.
            unsafe { libc::madvise(first as *mut _, bytes - bytes % HUGE, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, len);
}
