//! The number of threads that calls may use.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use crate::error::{Error, Result};

/// The number of threads of the process; 0 until the first call that needs it.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The number of threads of this thread; 0 if it follows the process.
    static OVERRIDE: Cell<usize> = const { Cell::new(0) };
}

/// The number of threads that a forward pass may use when called from this thread: the thread's own
/// number if [`set_thread_override`] has set one, otherwise the number of the process.
///
/// # Errors
/// [`Error::Threads`] if `LRGATE_NUM_THREADS` is set to something other than an integer >= 1.
pub fn num_threads() -> Result<usize> {
    match OVERRIDE.get() {
        0 => process_threads(),
        own => Ok(own),
    }
}

fn process_threads() -> Result<usize> {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let set = std::env::var_os("LRGATE_NUM_THREADS");
            let threads = match set.filter(|text| !text.is_empty()) {
                None => available_parallelism().map_or(1, usize::from),
                Some(text) => {
                    let text = text.to_string_lossy();
                    match text.trim().parse() {
                        Ok(n) if n >= 1 => n,
                        _ => {
                            let variable = Some("LRGATE_NUM_THREADS");
                            return Err(Error::Threads { variable, got: format!("{text:?}") });
                        }
                    }
                }
            };
            // If another thread has set the number meanwhile, its number is used.
            let set = THREADS.compare_exchange(0, threads, Ordering::Relaxed, Ordering::Relaxed);
            Ok(set.err().unwrap_or(threads))
        }
        threads => Ok(threads),
    }
}

/// Sets the number of threads of the process. Results do not depend on it.
///
/// # Errors
/// [`Error::Threads`] if `threads` is 0.
pub fn set_num_threads(threads: usize) -> Result<()> {
    check_threads(threads)?;
    THREADS.store(threads, Ordering::Relaxed);
    Ok(())
}

/// Sets the number of threads of this thread and returns the previous one. `None` follows the
/// process.
///
/// # Errors
/// [`Error::Threads`] if the number is 0.
pub fn set_thread_override(threads: Option<usize>) -> Result<Option<usize>> {
    threads.map_or(Ok(()), check_threads)?;
    let before = OVERRIDE.replace(threads.unwrap_or(0));
    Ok((before != 0).then_some(before))
}

fn check_threads(threads: usize) -> Result<()> {
    if threads == 0 {
        return Err(Error::Threads { variable: None, got: "0".to_owned() });
    }
    Ok(())
}
