//! Interruption of long calls.
//!
//! A caller that may need to end a call early installs a check. The check is called on the caller's
//! thread only: between tiles and measurements, inside tiles of large layers, and while weights are
//! packed. The Python binding uses this for Ctrl-C.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::ptr;

use crate::error::{Error, Result};

type Check<'a> = dyn Fn() -> bool + 'a;

thread_local! {
    static CHECK: Cell<Option<*const Check<'static>>> = const { Cell::new(None) };
}

/// The payload with which the crate unwinds if a call ends while weights are packed.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted;

/// Calls `f`. Calls of this crate within it end with [`Error::Interrupted`] soon after `check`
/// returns true. If they are packing weights, they unwind with [`Interrupted`], without calling the
/// panic hook; nothing is left half packed.
///
/// `check` is called often and should be fast. Once it has returned true it must keep returning
/// true.
pub fn with_check<R>(check: &Check<'_>, f: impl FnOnce() -> R) -> R {
    /// Restores the previous check, even if `f` panics.
    struct Restore(Option<*const Check<'static>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHECK.set(self.0);
        }
    }
    let check = ptr::from_ref(check);
    #[allow(clippy::transmute_ptr_to_ptr)] // a cast cannot make the lifetime longer
    // SAFETY: only the lifetime changes. The pointer is removed when `f` ends, and `check` lives
    // longer.
    let check = unsafe { std::mem::transmute::<*const Check<'_>, *const Check<'static>>(check) };
    let _restore = Restore(CHECK.replace(Some(check)));
    f()
}

/// Whether this thread's call should end.
pub(crate) fn requested() -> bool {
    // SAFETY: `with_check` removes the pointer before the check's lifetime ends.
    CHECK.get().is_some_and(|check| unsafe { (*check)() })
}

/// Multiply-adds that take a few milliseconds, long enough to call the check in between.
const LONG: usize = 1 << 28;

/// Whether a layer with this many weights takes long on `rows` rows.
pub(crate) fn is_long(weights: usize, rows: usize) -> bool {
    weights.saturating_mul(rows) >= LONG
}

/// Returns an error if this thread's call should end.
pub(crate) fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Unwinds with [`Interrupted`] if this thread's call should end.
pub(crate) fn check_or_unwind() {
    if requested() {
        resume_unwind(Box::new(Interrupted));
    }
}
