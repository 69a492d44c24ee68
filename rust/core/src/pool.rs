//! The thread pool: one for the process, entered once per forward pass, and again for rows that are
//! computed anew; safe to use after fork.
//!
//! The calling thread works too, so `n` threads need `n - 1` workers. The pool grows to the most
//! workers ever asked for; idle workers sleep. After a fork the child has none of the parent's
//! threads: the pool remembers the process that made it, and another process makes its own.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// The process-wide number of threads; 0 until first asked for.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread's own number of threads; 0 where it follows the process.
    static OVERRIDE: Cell<usize> = const { Cell::new(0) };
}

/// Threads a forward pass may use when called from this thread: the thread's own number if
/// [`set_thread_override`] gave one, else the process's.
///
/// # Errors
/// [`Error::Threads`] when `LRGATE_NUM_THREADS` is set to something other than an integer >= 1.
pub fn num_threads() -> Result<usize> {
    match OVERRIDE.get() {
        0 => process_threads(),
        own => Ok(own),
    }
}

fn process_threads() -> Result<usize> {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let threads = match std::env::var_os("LRGATE_NUM_THREADS") {
                None => available_parallelism().map_or(1, usize::from),
                Some(text) => {
                    let text = text.to_string_lossy();
                    match text.trim().parse() {
                        Ok(n) if n >= 1 => n,
                        _ => {
                            let name = "LRGATE_NUM_THREADS";
                            return Err(Error::Threads { name, got: format!("{text:?}") });
                        }
                    }
                }
            };
            // Someone may have set it meanwhile; theirs wins.
            let set = THREADS.compare_exchange(0, threads, Ordering::Relaxed, Ordering::Relaxed);
            Ok(set.err().unwrap_or(threads))
        }
        threads => Ok(threads),
    }
}

/// Sets the process's number of threads. Results do not depend on it.
///
/// # Errors
/// [`Error::Threads`] when `threads` is 0.
pub fn set_num_threads(threads: usize) -> Result<()> {
    check_threads(threads)?;
    THREADS.store(threads, Ordering::Relaxed);
    Ok(())
}

/// Sets this thread's own number of threads (`None`: follow the process) and returns what it was.
///
/// # Errors
/// [`Error::Threads`] when the number is 0.
pub fn set_thread_override(threads: Option<usize>) -> Result<Option<usize>> {
    threads.map_or(Ok(()), check_threads)?;
    let before = OVERRIDE.replace(threads.unwrap_or(0));
    Ok((before != 0).then_some(before))
}

fn check_threads(threads: usize) -> Result<()> {
    if threads == 0 {
        return Err(Error::Threads { name: "num_threads", got: "0".to_owned() });
    }
    Ok(())
}

struct Pool {
    process: u32,
    workers: usize,
    /// The shortest of a few empty forks and joins, measured when the pool was made, and at most
    /// [`LONGEST_FORK_JOIN`].
    fork_join: Duration,
    threads: ThreadPool,
}

/// A fork and join measured above this met other work on the machine (another library's threads that
/// spin after a call, say); it must not keep the pool unused for the life of the process.
const LONGEST_FORK_JOIN: Duration = Duration::from_micros(50);

static POOL: ArcSwapOption<Pool> = ArcSwapOption::const_empty();

/// The pool with at least `workers` workers.
fn pool(workers: usize) -> Result<Arc<Pool>> {
    let process = std::process::id();
    let current = POOL.load_full();
    if let Some(pool) = &current
        && pool.process == process
        && pool.workers >= workers
    {
        return Ok(Arc::clone(pool));
    }
    let threads = ThreadPoolBuilder::new()
        .num_threads(workers)
        .thread_name(|i| format!("lrgate-{i}"))
        .build()
        .map_err(|error| Error::Pool(error.to_string()))?;
    let mut pool = Pool { process, workers, fork_join: Duration::ZERO, threads };
    pool.fork_join = pool.measure_fork_join();
    let pool = Arc::new(pool);
    if let Some(old) = POOL.swap(Some(Arc::clone(&pool)))
        && old.process != process
    {
        // Its threads exist in the parent only; dropping it here could wait on their locks.
        std::mem::forget(old);
    }
    // `current` of another process must not be the last owner either.
    if let Some(current) = current
        && current.process != process
    {
        std::mem::forget(current);
    }
    Ok(pool)
}

impl Pool {
    fn measure_fork_join(&self) -> Duration {
        let mut shortest = LONGEST_FORK_JOIN;
        for _ in 0..9 {
            let start = Instant::now();
            self.threads.in_place_scope(|scope| scope.spawn(|_| {}));
            shortest = shortest.min(start.elapsed());
        }
        shortest
    }
}

/// Whether work that takes this long on one thread can gain from a pool at all: less than it takes
/// to wake a sleeping worker cannot.
pub(crate) fn worth_sharing(serial_time: Duration) -> bool {
    serial_time > Duration::from_micros(10)
}

/// Runs `work(part)` for every part in `0..parts`, on up to `threads` threads including this one.
///
/// `serial_time` is what the whole takes on one thread, as far as known: where it is not several
/// times a measured fork and join, this thread does it alone.
///
/// # Errors
/// [`Error::Pool`] when the system refuses threads.
pub(crate) fn run(
    parts: usize,
    threads: usize,
    serial_time: Duration,
    work: impl Fn(usize) + Sync,
) -> Result<()> {
    let threads = threads.min(parts);
    if threads > 1 && worth_sharing(serial_time) {
        let pool = pool(threads - 1)?;
        if serial_time > 4 * pool.fork_join {
            let next = AtomicUsize::new(0);
            let worker = || {
                while let part = next.fetch_add(1, Ordering::Relaxed)
                    && part < parts
                {
                    work(part);
                }
            };
            pool.threads.in_place_scope(|scope| {
                for _ in 1..threads {
                    scope.spawn(|_| worker());
                }
                worker();
            });
            return Ok(());
        }
    }
    (0..parts).for_each(work);
    Ok(())
}
