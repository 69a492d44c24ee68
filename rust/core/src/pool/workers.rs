//! The workers of the process: they wake, linger, sleep and exit.

use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::queue::WorkQueue;

/// Estimated cost of waking a sleeping worker; it also starts about this much later.
const WAKING: Duration = Duration::from_micros(20);

/// Workers woken by a call in a back-to-back sequence, even if this call alone would not justify
/// it.
const WOKEN_BACK_TO_BACK: usize = 4;

/// Time for which workers spin after a call. Calls that follow each other within this time are back
/// to back, which justifies waking workers.
const LINGER: Duration = Duration::from_micros(100);

/// Time for which a worker sleeps before it exits.
const KEEP: Duration = Duration::from_secs(5);

/// Memory that a new thread may map as it starts: its stack, its thread-local data, and the address
/// space that the C library reserves for its allocations (128 MiB with glibc).
const STARTUP_MEMORY: usize = 144 << 20;

/// Whether `threads` new threads can map [`STARTUP_MEMORY`] bytes each.
fn can_start(threads: usize) -> bool {
    let mut probe = Vec::<u8>::new();
    let available = probe.try_reserve_exact(threads.saturating_mul(STARTUP_MEMORY)).is_ok();
    // Without this, the compiler would remove the allocation, which is never written.
    black_box(&mut probe);
    available
}

/// Largest number of workers of a process, whatever number of threads is requested.
pub(super) const MOST_WORKERS: usize = 1023;

pub(super) struct Pool {
    process: u32,
    workers: Mutex<Workers>,
    wake: Condvar,
    /// Number of invitations that no worker has taken yet, read by spinning workers.
    pending: AtomicUsize,
}

#[derive(Default)]
struct Workers {
    /// Number of workers.
    count: usize,
    /// Workers that are not invited, asleep or awake.
    idle: usize,
    /// Workers that are awake and look for an invitation.
    awake: usize,
    invitations: Vec<Arc<WorkQueue>>,
    /// End of the latest call that was worth parallelising.
    last_call: Option<Instant>,
}

/// The pool of the process. It is never freed, because workers may use it as long as the process
/// lives.
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
    // The pool of another process is not touched: its threads exist only in the parent, and one of
    // them may have held its lock.
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
            // SAFETY: no other thread has seen it.
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

    /// Invites workers to a call of which they save `gain`: as many as are wanted and idle, and are
    /// worth waking. Returns the queue and the number of invited workers, or `None` if there are
    /// none.
    pub(super) fn invite(
        &'static self,
        wanted: usize,
        gain: Duration,
    ) -> Option<(Arc<WorkQueue>, usize)> {
        let mut workers = self.lock();
        let back_to_back = workers.last_call.is_some_and(|last| last.elapsed() < LINGER);
        let awake = workers.awake.saturating_sub(workers.invitations.len()).min(workers.idle);
        let able = wanted.min(workers.idle + wanted.saturating_sub(workers.count));
        let paid = (gain.as_nanos() / WAKING.as_nanos()).saturating_sub(1) as usize;
        let woken = if back_to_back { paid.max(WOKEN_BACK_TO_BACK) } else { paid };
        let mut invited = able.min(awake.saturating_add(woken));
        // Creating workers while holding the lock delays other callers, but only once per worker.
        let mut started = 0;
        while workers.idle < invited {
            let name = format!("lrgate-{}", workers.count);
            // A thread that cannot allocate as it starts would abort the process. Threads started
            // just now may still have to allocate.
            let spawn = || thread::Builder::new().name(name).spawn(|| self.work());
            if !can_start(started + 1) || spawn().is_err() {
                // The system cannot create more threads. The call uses fewer workers, or none.
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
        let queue = Arc::new(WorkQueue::default());
        workers.invitations.extend((0..invited).map(|_| Arc::clone(&queue)));
        self.pending.store(workers.invitations.len(), Ordering::Relaxed);
        drop(workers);
        (awake..invited).for_each(|_| self.wake.notify_one());
        Some((queue, invited))
    }

    /// Ends a call that was worth parallelising. Withdraws the invitations that no worker has
    /// taken. The other workers are idle at once, and count as awake.
    pub(super) fn end_call(&self, invited: usize, queue: Option<&Arc<WorkQueue>>) {
        let mut workers = self.lock();
        if let Some(queue) = queue {
            queue.close();
            let before = workers.invitations.len();
            workers.invitations.retain(|other| !Arc::ptr_eq(other, queue));
            workers.idle += invited;
            workers.awake += invited - (before - workers.invitations.len());
            self.pending.store(workers.invitations.len(), Ordering::Relaxed);
        }
        workers.last_call = Some(Instant::now());
    }

    /// The loop of a worker, until it has slept for [`KEEP`].
    fn work(&self) {
        let mut workers = self.lock();
        loop {
            if let Some(queue) = workers.invitations.pop() {
                self.pending.store(workers.invitations.len(), Ordering::Relaxed);
                drop(workers);
                queue.help();
                drop(queue);
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
                // The worker woke too late for this call, but is awake for the next one.
                workers.awake += 1;
                drop(workers);
                workers = self.linger();
            }
        }
    }

    /// Spins and yields until there is an invitation or [`LINGER`] is over. The worker must be
    /// counted as awake before.
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
