//! The primitives of the work queue. Its model tests in `rust/loom` replace this module.

use std::hint;
use std::thread;
use std::time::Duration;

pub(super) use std::sync::Mutex;
pub(super) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};

/// Waits briefly for another thread, for the `idle`th time: spins at first, then yields, and
/// finally sleeps.
pub(super) fn pause(idle: &mut usize) {
    *idle += 1;
    if *idle < 1000 {
        hint::spin_loop();
    } else if *idle < 2000 {
        thread::yield_now();
    } else {
        thread::sleep(Duration::from_micros(50));
    }
}
