//! A team's work: parts that its threads take one by one.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Where a team's threads find work.
#[derive(Default)]
pub(super) struct Board {
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

pub(super) type Work<'a> = &'a (dyn Fn(usize) + Sync);

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
    /// Parts that workers took.
    pub(super) fn helped(&self) -> usize {
        self.helped.load(Ordering::Relaxed)
    }

    /// Lets the workers go, now or as soon as they have done their part.
    pub(super) fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }

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
    pub(super) fn help(&self) {
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
    pub(super) fn run(&self, parts: usize, work: Work<'_>) {
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
