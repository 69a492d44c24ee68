//! Long calls that can be interrupted.
//!
//! A caller that may want to end a call early gives a check, which is asked between tiles and measurements, and
//! within tiles of large layers, on the caller's thread alone. Python's Ctrl-C comes this way.

use std::cell::Cell;
use std::ptr;

use crate::error::{Error, Result};

type Check<'a> = dyn Fn() -> bool + 'a;

thread_local! {
    static CHECK: Cell<Option<*const Check<'static>>> = const { Cell::new(None) };
}

/// Calls `f`, whose calls of this crate end with [`Error::Interrupted`] soon after `check` says true. It is asked
/// often, and should be quick; once it has said true, it must go on saying so.
pub fn with_check<R>(check: &Check<'_>, f: impl FnOnce() -> R) -> R {
    /// Puts back what was there, even if `f` panics.
    struct Restore(Option<*const Check<'static>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHECK.set(self.0);
        }
    }
    let check = ptr::from_ref(check);
    #[allow(clippy::transmute_ptr_to_ptr)] // a cast cannot make the lifetime longer
    // SAFETY: only the lifetime changes, and the pointer is not used after `f`, during which `check` lives.
    let check = unsafe { std::mem::transmute::<*const Check<'_>, *const Check<'static>>(check) };
    let _restore = Restore(CHECK.replace(Some(check)));
    f()
}

/// Whether this thread's call is to end.
pub(crate) fn requested() -> bool {
    // SAFETY: `with_check` takes the pointer away before the check ends.
    CHECK.get().is_some_and(|check| unsafe { (*check)() })
}

/// Multiply-adds that take long enough, some milliseconds, to ask in between.
const LONG: usize = 1 << 28;

/// Whether a layer of this many weights takes long on some rows.
pub(crate) fn is_long(weights: usize, rows: usize) -> bool {
    weights.saturating_mul(rows) >= LONG
}

/// An error where this thread's call is to end.
pub(crate) fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted) } else { Ok(()) }
}
