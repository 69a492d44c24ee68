//! The workers of the process: who wakes, lingers, sleeps and ends.

use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::queue::Board;

/// What it is reckoned to cost a caller to wake a worker, which comes about as much later.
const WAKING: Duration = Duration::from_micros(20);

/// Workers that a call in a row wakes, even if it does not pay for itself.
const WOKEN_IN_A_ROW: usize = 4;

/// How long workers stay awake after a call. A call that begins within that time of another is one of a row,
/// which is worth waking workers for.
const LINGER: Duration = Duration::from_micros(100);

/// How long a worker sleeps before it ends.
const KEEP: Duration = Duration::from_secs(5);

/// Memory that a new thread may map before its first instruction of ours: its stack, its thread-local data, and the
/// address space that the C library reserves for its allocations (128 MiB with glibc).
const STARTUP_MEMORY: usize = 144 << 20;

/// Whether `threads` new threads can have the memory they start with.
fn can_start(threads: usize) -> bool {
    let mut memory = Vec::<u8>::new();
    let reserved = memory.try_reserve_exact(threads.saturating_mul(STARTUP_MEMORY)).is_ok();
    // The compiler would remove an allocation that nothing writes to.
    black_box(&mut memory);
    reserved
}

/// The most workers of a process, however many threads are asked for.
pub(super) const MOST_WORKERS: usize = 1023;

pub(super) struct Pool {
    process: u32,
    workers: Mutex<Workers>,
    wake: Condvar,
    /// Invitations that no worker has taken yet, for workers that are awake.
    pending: AtomicUsize,
}

#[derive(Default)]
struct Workers {
    /// All of them.
    count: usize,
    /// Those that nobody has invited: asleep or awake.
    idle: usize,
    /// Those that are awake and look for an invitation.
    awake: usize,
    invitations: Vec<Arc<Board>>,
    /// When the latest call ended that was worth sharing.
    last_call: Option<Instant>,
}

/// The pool of the process. It is never freed: workers may use it for as long as the process lives.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());

pub(super) fn pool() -> &'static Pool {
    let process = std::process::id();
    let current = POOL.load(Ordering::Acquire);
    // SAFETY: null, or a pool that is never freed.
    if let Some(pool) = unsafe { current.as_ref() }
        && pool.process == process
    {
        return pool;
    }
    // Nothing of another process's pool is touched: its threads exist in the parent only, and one of them
    // may have held its lock.
    let new = Box::into_raw(Box::new(Pool {
        process,
        workers: Mutex::default(),
        wake: Condvar::new(),
        pending: AtomicUsize::new(0),
    }));
    let set = POOL.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
    let pool = match set {
        Ok(_) => new,
        Err(other) => {
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw(new) });
            other
        }
    };
    // SAFETY: it is never freed.
    unsafe { &*pool }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Invites workers to a call that they save `gain` of: as many as are wanted and idle, and worth waking.
    /// Returns the board, and how many were invited, if any.
    pub(super) fn invite(
        &'static self,
        wanted: usize,
        gain: Duration,
    ) -> Option<(Arc<Board>, usize)> {
        let mut workers = self.lock();
        let in_a_row = workers.last_call.is_some_and(|last| last.elapsed() < LINGER);
        let awake = workers.awake.saturating_sub(workers.invitations.len()).min(workers.idle);
        let able = wanted.min(workers.idle + wanted.saturating_sub(workers.count));
        let paid = (gain.as_nanos() / WAKING.as_nanos()).saturating_sub(1) as usize;
        let woken = if in_a_row { paid.max(WOKEN_IN_A_ROW) } else { paid };
        let mut invited = able.min(awake.saturating_add(woken));
        // Other callers wait for the lock meanwhile, but once in a process.
        let mut started = 0;
        while workers.idle < invited {
            let name = format!("lrgate-{}", workers.count);
            // A thread that cannot allocate as it starts ends the process, and those started just now may still
            // have to allocate.
            let spawn = || thread::Builder::new().name(name).spawn(|| self.work());
            if !can_start(started + 1) || spawn().is_err() {
                // The system has no more; a call does with fewer, or none.
                invited = workers.idle;
                break;
            }
            started += 1;
            workers.count += 1;
            workers.idle += 1;
        }
        if invited == 0 {
            return None;
        }
        workers.idle -= invited;
        let board = Arc::new(Board::default());
        workers.invitations.extend((0..invited).map(|_| Arc::clone(&board)));
        self.pending.store(workers.invitations.len(), Ordering::Relaxed);
        drop(workers);
        (awake..invited).for_each(|_| self.wake.notify_one());
        Some((board, invited))
    }

    /// A call that was worth sharing has ended. Takes back the invitations to it that no worker has followed;
    /// the other workers are free at once, and awake as soon as they see it.
    pub(super) fn end_call(&self, invited: usize, board: Option<&Arc<Board>>) {
        let mut workers = self.lock();
        if let Some(board) = board {
            board.close();
            let before = workers.invitations.len();
            workers.invitations.retain(|other| !Arc::ptr_eq(other, board));
            workers.idle += invited;
            workers.awake += invited - (before - workers.invitations.len());
            self.pending.store(workers.invitations.len(), Ordering::Relaxed);
        }
        workers.last_call = Some(Instant::now());
    }

    /// What a worker does until it has slept for long.
    fn work(&self) {
        let mut workers = self.lock();
        loop {
            if let Some(board) = workers.invitations.pop() {
                self.pending.store(workers.invitations.len(), Ordering::Relaxed);
                drop(workers);
                board.help();
                drop(board);
                workers = self.linger();
                continue;
            }
            let (guard, waited) =
                self.wake.wait_timeout(workers, KEEP).unwrap_or_else(PoisonError::into_inner);
            workers = guard;
            if waited.timed_out() && workers.invitations.is_empty() && workers.idle > 0 {
                workers.idle -= 1;
                workers.count -= 1;
                return;
            }
            if workers.invitations.is_empty() {
                // Too late for one call, but awake for the next.
                workers.awake += 1;
                drop(workers);
                workers = self.linger();
            }
        }
    }

    /// Waits for an invitation, awake, but lets other threads run. The worker counts as awake before.
    fn linger(&self) -> MutexGuard<'_, Workers> {
        let start = Instant::now();
        loop {
            while self.pending.load(Ordering::Relaxed) == 0 && start.elapsed() < LINGER {
                (0..16).for_each(|_| std::hint::spin_loop());
                thread::yield_now();
            }
            let mut workers = self.lock();
            if !workers.invitations.is_empty() || start.elapsed() >= LINGER {
                workers.awake -= 1;
                return workers;
            }
        }
    }
}
