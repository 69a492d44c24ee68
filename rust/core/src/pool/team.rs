//! Teams: the threads of a call.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use super::queue::{MOST_PARTS, WorkQueue};
use super::workers::{MOST_WORKERS, Pool, pool};

/// Minimum estimated saving before a call is parallelised. The estimate is a lower bound; an awake
/// worker joins within about 1 us.
const LEAST_GAIN: Duration = Duration::from_micros(5);

/// Whether a call that takes this long on one thread can gain from more threads at all.
pub(crate) fn worth_sharing(serial_time: Duration) -> bool {
    serial_time > LEAST_GAIN
}

thread_local! {
    static PARTS_SHARED: Cell<usize> = const { Cell::new(0) };
}

/// For tests: parts of this thread's calls that other threads have run.
#[doc(hidden)]
pub fn parts_shared() -> usize {
    PARTS_SHARED.get()
}

/// The threads of one call: the caller and the workers that join it. They share one job after
/// another, and spin in between.
///
/// The caller never waits for a worker that has not joined. A late worker finds fewer parts, or
/// none.
pub(crate) struct Team {
    threads: usize,
    /// `None` if the call is not worth parallelising.
    pool: Option<&'static Pool>,
    /// `None` if the caller works alone.
    queue: Option<Arc<WorkQueue>>,
}

/// A team of the caller alone.
pub(crate) static ALONE: Team = Team { threads: 1, pool: None, queue: None };

impl Team {
    /// A team of up to `threads` threads that save at least an estimated `gain`. It has only the
    /// caller if the gain is too small, if all workers are busy with other callers, or if the
    /// system cannot create more threads.
    pub(crate) fn new(threads: usize, gain: Duration) -> Team {
        if threads == 1 || !worth_sharing(gain) {
            return Team { threads: 1, pool: None, queue: None };
        }
        let pool = pool();
        let (queue, workers) = pool.invite((threads - 1).min(MOST_WORKERS), gain).unzip();
        Team { threads: 1 + workers.unwrap_or(0), pool: Some(pool), queue }
    }

    /// Number of threads that may take part.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work(part)` once for every part in `0..parts`, and returns when all are finished.
    ///
    /// # Panics
    /// If `work` panics on any thread. With several threads, the other parts (of four million that
    /// are shared at a time) are finished first,
    /// and `run` must not be called from within `work`.
    pub(crate) fn run(&self, parts: usize, work: impl Fn(usize) + Sync) {
        match &self.queue {
            Some(queue) if parts > 1 => {
                for first in (0..parts).step_by(MOST_PARTS) {
                    queue.run(MOST_PARTS.min(parts - first), &|part| work(first + part));
                }
            }
            _ => (0..parts).for_each(work),
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if let Some(pool) = self.pool {
            pool.end_call(self.threads - 1, self.queue.as_ref());
        }
        if let Some(queue) = &self.queue {
            PARTS_SHARED.set(PARTS_SHARED.get() + queue.helped());
        }
    }
}
