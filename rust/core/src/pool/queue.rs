//! The work queue of a team: its threads take the parts of a job one by one, the caller from the
//! front and workers from the back. So in calls that follow each other, each of two threads mostly
//! gets the same parts of a layer, and finds their weights in its own cache.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::sync::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Mutex, pause};

/// The queue from which the threads of a team take parts of a job.
#[derive(Default)]
pub(super) struct WorkQueue {
    /// The number of the job and the range of its parts that no thread has taken yet (see
    /// [`State`]). Or [`CLOSED`].
    ///
    /// A thread takes a part by replacing the word. The number makes that fail if a new job has
    /// begun since the thread read the word. `work` may be accessed with relaxed ordering: it is
    /// written before the release store of `state` that publishes the job, and a successful
    /// exchange proves that the job is still the same.
    state: AtomicU64,
    work: AtomicPtr<Work<'static>>,
    running: AtomicBool,
    /// Parts taken by workers.
    helped: AtomicUsize,
    /// Finished parts of the job.
    done: CacheAligned<AtomicUsize>,
    /// The payload of the first part that panicked.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A value on its own cache lines, so that accesses to neighbouring values do not evict it.
#[derive(Default)]
#[repr(align(128))]
struct CacheAligned<T>(T);

pub(super) type Work<'a> = &'a (dyn Fn(usize) + Sync);

const CLOSED: u64 = u64::MAX;

/// Bits of a part's index.
const INDEX: u32 = 22;

/// Largest number of parts of a job: with fewer than all bits set, no word is [`CLOSED`].
pub(super) const MOST_PARTS: usize = (1 << INDEX) - 2;

/// A word of a queue that is not closed. Numbers of jobs repeat after a million jobs of a call.
struct State {
    /// Number of the job, modulo 2^20.
    job: u64,
    /// The first part that is left.
    first: u64,
    /// The end of the parts that are left.
    end: u64,
}

impl State {
    fn of(word: u64) -> State {
        let mask = (1 << INDEX) - 1;
        State { job: word >> (2 * INDEX), first: word >> INDEX & mask, end: word & mask }
    }

    fn word(self) -> u64 {
        self.job << (2 * INDEX) | self.first << INDEX | self.end
    }
}

/// The end of a job from which a thread takes parts.
#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

enum Claim {
    /// A part and its job, which lives until the part is finished.
    Part(*const Work<'static>, usize),
    /// All parts are taken.
    Nothing,
    Closed,
}

impl WorkQueue {
    /// Parts taken by workers.
    pub(super) fn helped(&self) -> usize {
        self.helped.load(Ordering::Relaxed)
    }

    /// Dismisses the workers, at once or when they have finished their part.
    pub(super) fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }

    /// Takes a part, which the caller must finish.
    fn claim(&self, end: End) -> Claim {
        let mut word = self.state.load(Ordering::Acquire);
        loop {
            if word == CLOSED {
                return Claim::Closed;
            }
            let mut left = State::of(word);
            if left.first == left.end {
                return Claim::Nothing;
            }
            // The work belongs to this state if the exchange succeeds: another job starts only when
            // all parts of this one are finished, and until the exchange one of them is not taken.
            let work = self.work.load(Ordering::Relaxed);
            let part = match end {
                End::Front => {
                    left.first += 1;
                    left.first - 1
                }
                End::Back => {
                    left.end -= 1;
                    left.end
                }
            };
            let next = left.word();
            match self.state.compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Claim::Part(work, part as usize),
                Err(now) => word = now,
            }
        }
    }

    /// Runs a part.
    ///
    /// # Safety
    /// `work` and `part` must come from one [`WorkQueue::claim`], and be finished only once.
    unsafe fn finish(&self, work: *const Work<'static>, part: usize) {
        // SAFETY: the part is not finished, so `run`, which owns the work, has not returned.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*work)(part) }));
        if let Err(payload) = result {
            let mut panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            match &*panic {
                None => *panic = Some(payload),
                // Dropping the payload might panic again.
                Some(_) => mem::forget(payload),
            }
        }
        self.done.0.fetch_add(1, Ordering::Release);
    }

    /// Takes and runs parts until the queue is closed: the loop of a worker.
    pub(super) fn help(&self) {
        let mut idle = 0;
        loop {
            match self.claim(End::Back) {
                Claim::Part(work, part) => {
                    self.helped.fetch_add(1, Ordering::Relaxed);
                    // SAFETY: the part was claimed.
                    unsafe { self.finish(work, part) }
                    idle = 0;
                }
                Claim::Nothing => pause(&mut idle),
                Claim::Closed => return,
            }
        }
    }

    /// [`Team::run`].
    pub(super) fn run(&self, parts: usize, work: Work<'_>) {
        assert!(parts <= MOST_PARTS, "the indices of parts fit a word");
        assert!(
            !self.running.swap(true, Ordering::Acquire),
            "a team does one piece of work at a time"
        );
        let work: *const Work<'_> = &raw const work;
        self.done.0.store(0, Ordering::Relaxed);
        self.work.store(work.cast_mut().cast(), Ordering::Relaxed);
        let job = State::of(self.state.load(Ordering::Relaxed)).job + 1;
        let word = State { job, first: 0, end: parts as u64 }.word();
        self.state.store(word, Ordering::Release);
        while let Claim::Part(work, part) = self.claim(End::Front) {
            // SAFETY: the part was claimed.
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
