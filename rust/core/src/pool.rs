//! The thread pool: one for the process, entered once per forward pass, and again for rows that are
//! recomputed; safe to use after fork.
//!
//! The calling thread works too, so `n` threads need `n - 1` workers. The pool grows as workers are of use.
//! Idle workers stay awake for a moment, then sleep, and end after some seconds. A call's threads are a `Team`. After a fork the child has none of the parent's threads: the pool remembers the process that
//! made it, and another process makes its own.

use std::any::Any;
use std::cell::Cell;
use std::hint::black_box;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

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
            let set = std::env::var_os("LRGATE_NUM_THREADS");
            let threads = match set.filter(|text| !text.is_empty()) {
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

/// What sharing must gain at least, as far as known, which is less than it is: awake workers take about a
/// microsecond to come.
const LEAST_GAIN: Duration = Duration::from_micros(5);

/// What it is reckoned to cost a caller to wake a worker, which comes about as much later.
const WAKING: Duration = Duration::from_micros(20);

/// Workers that a call in a row wakes, even if it does not pay for itself.
const WOKEN_IN_A_ROW: usize = 4;

/// How long workers stay awake after a call. A call that begins within that time of another is one of a row,
/// which is worth waking workers for.
const LINGER: Duration = Duration::from_micros(100);

/// How long a worker sleeps before it ends.
const KEEP: Duration = Duration::from_secs(5);

/// Bytes that must be left for a new worker's stack, and what the system and it allocate first.
const HEADROOM: usize = 16 << 20;

/// Whether so much memory can be had.
fn has_headroom() -> bool {
    let mut room = Vec::<u8>::new();
    let there_is = room.try_reserve_exact(HEADROOM).is_ok();
    // Else nothing would be allocated, since nothing is written.
    black_box(&mut room);
    there_is
}

/// The most workers of a process, however many threads are asked for.
const MOST_WORKERS: usize = 1023;

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

struct Pool {
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

fn pool() -> &'static Pool {
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
    fn invite(&'static self, wanted: usize, gain: Duration) -> Option<(Arc<Board>, usize)> {
        let mut workers = self.lock();
        let in_a_row = workers.last_call.is_some_and(|last| last.elapsed() < LINGER);
        let awake = workers.awake.saturating_sub(workers.invitations.len()).min(workers.idle);
        let able = wanted.min(workers.idle + wanted.saturating_sub(workers.count));
        let paid = (gain.as_nanos() / WAKING.as_nanos()).saturating_sub(1) as usize;
        let woken = if in_a_row { paid.max(WOKEN_IN_A_ROW) } else { paid };
        let mut invited = able.min(awake.saturating_add(woken));
        // Others wait for the lock meanwhile, but once in a process.
        while workers.idle < invited {
            let name = format!("lrgate-{}", workers.count);
            // A thread that begins with no memory left ends the process.
            if !has_headroom() || thread::Builder::new().name(name).spawn(|| self.work()).is_err() {
                // The system has no more; a call does with fewer, or none.
                invited = workers.idle;
                break;
            }
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
    fn end_call(&self, invited: usize, board: Option<&Arc<Board>>) {
        let mut workers = self.lock();
        if let Some(board) = board {
            board.state.store(CLOSED, Ordering::Release);
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
            PARTS_SHARED.set(PARTS_SHARED.get() + board.helped.load(Ordering::Relaxed));
        }
    }
}

/// Where a team's threads find work.
#[derive(Default)]
struct Board {
    /// The number of the work in its upper half, how many of its parts nobody has taken yet in its lower; or
    /// [`CLOSED`].
    state: AtomicU64,
    work: AtomicPtr<Work<'static>>,
    running: AtomicBool,
    /// Parts that workers took.
    helped: AtomicUsize,
    /// Parts of the work that are done.
    done: Apart<AtomicUsize>,
    /// What a part panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// On cache lines of its own, which threads that look at what is beside it do not take away.
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

type Work<'a> = &'a (dyn Fn(usize) + Sync);

const CLOSED: u64 = u64::MAX;

const LEFT: u64 = u32::MAX as u64;

enum Claim {
    /// A part, and the work that it is of, which lives until the part is done.
    Part(*const Work<'static>, usize),
    /// All parts are taken.
    Nothing,
    Closed,
}

impl Board {
    /// Takes a part, which must be finished.
    fn claim(&self) -> Claim {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            if state == CLOSED {
                return Claim::Closed;
            }
            let left = state & LEFT;
            if left == 0 {
                return Claim::Nothing;
            }
            // Of this work if the exchange succeeds: another is put up only when all parts of this one are
            // done, and one of them is not taken until then.
            let work = self.work.load(Ordering::Relaxed);
            let next = state - 1;
            match self.state.compare_exchange(state, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Claim::Part(work, left as usize - 1),
                Err(now) => state = now,
            }
        }
    }

    /// Does a part.
    ///
    /// # Safety
    /// Both must be what [`Board::claim`] returned, once.
    unsafe fn finish(&self, work: *const Work<'static>, part: usize) {
        // SAFETY: the part is not done, so `run`, which the work belongs to, has not returned.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*work)(part) }));
        if let Err(payload) = result {
            let mut panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            match &*panic {
                None => *panic = Some(payload),
                // What is dropped might panic in its turn.
                Some(_) => mem::forget(payload),
            }
        }
        self.done.0.fetch_add(1, Ordering::Release);
    }

    /// What a worker does until the team is dropped.
    fn help(&self) {
        let mut idle = 0;
        loop {
            match self.claim() {
                Claim::Part(work, part) => {
                    self.helped.fetch_add(1, Ordering::Relaxed);
                    // SAFETY: it was claimed.
                    unsafe { self.finish(work, part) }
                    idle = 0;
                }
                Claim::Nothing => pause(&mut idle),
                Claim::Closed => return,
            }
        }
    }

    /// [`Team::run`].
    fn run(&self, parts: usize, work: Work<'_>) {
        assert!((parts as u64) < LEFT, "parts fit half of a word");
        assert!(
            !self.running.swap(true, Ordering::Acquire),
            "a team does one piece of work at a time"
        );
        let work: *const Work<'_> = &raw const work;
        self.done.0.store(0, Ordering::Relaxed);
        self.work.store(work.cast_mut().cast(), Ordering::Relaxed);
        let number = (self.state.load(Ordering::Relaxed) >> 32) + 1;
        self.state.store(number << 32 | parts as u64, Ordering::Release);
        while let Claim::Part(work, part) = self.claim() {
            // SAFETY: it was claimed.
            unsafe { self.finish(work, part) }
        }
        let mut idle = 0;
        while self.done.0.load(Ordering::Acquire) < parts {
            pause(&mut idle);
        }
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.running.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

/// Waits a moment for another thread, the `idle`th time: ready to go on at first, then letting others of the
/// machine run, in the end asleep.
fn pause(idle: &mut usize) {
    *idle += 1;
    if *idle < 1000 {
        std::hint::spin_loop();
    } else if *idle < 2000 {
        thread::yield_now();
    } else {
        thread::sleep(Duration::from_micros(50));
    }
}
