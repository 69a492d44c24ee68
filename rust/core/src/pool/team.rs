//! Teams: the threads of a call.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use super::queue::Board;
use super::workers::{MOST_WORKERS, Pool, pool};

/// What sharing must gain at least, as far as known, which is less than it is: awake workers take about a
/// microsecond to come.
const LEAST_GAIN: Duration = Duration::from_micros(5);

/// Whether a call that takes this long on one thread can gain from others at all.
pub(crate) fn worth_sharing(serial_time: Duration) -> bool {
    serial_time > LEAST_GAIN
}

thread_local! {
    static PARTS_SHARED: Cell<usize> = const { Cell::new(0) };
}

/// For tests: parts of this thread's calls that other threads have done.
#[doc(hidden)]
pub fn parts_shared() -> usize {
    PARTS_SHARED.get()
}

/// The threads of one call: the caller, and workers that join it as they wake. They share one piece of work
/// after another, and spin in between.
///
/// Nobody waits for a worker that has not come: it finds less to do, or nothing.
pub(crate) struct Team {
    threads: usize,
    /// Missing where the call is not worth sharing.
    pool: Option<&'static Pool>,
    /// Missing where the caller is alone.
    board: Option<Arc<Board>>,
}

/// A caller alone.
pub(crate) static ALONE: Team = Team { threads: 1, pool: None, board: None };

impl Team {
    /// Up to `threads` threads, which save `gain` of the time that one takes, as far as known; or the caller
    /// alone, if that is too little, all workers are with other callers, or the system has no more threads.
    pub(crate) fn new(threads: usize, gain: Duration) -> Team {
        if threads == 1 || !worth_sharing(gain) {
            return Team { threads: 1, pool: None, board: None };
        }
        let pool = pool();
        let (board, workers) = pool.invite((threads - 1).min(MOST_WORKERS), gain).unzip();
        Team { threads: 1 + workers.unwrap_or(0), pool: Some(pool), board }
    }

    /// Threads that may take part.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work(part)` for every part in `0..parts`, each once, and returns when all are done.
    ///
    /// # Panics
    /// Where `work` does, on whatever thread, where there are several after the other parts. Such a team must
    /// not be asked within `work`.
    pub(crate) fn run(&self, parts: usize, work: impl Fn(usize) + Sync) {
        match &self.board {
            Some(board) if parts > 1 => board.run(parts, &work),
            _ => (0..parts).for_each(work),
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if let Some(pool) = self.pool {
            pool.end_call(self.threads - 1, self.board.as_ref());
        }
        if let Some(board) = &self.board {
            PARTS_SHARED.set(PARTS_SHARED.get() + board.helped());
        }
    }
}
