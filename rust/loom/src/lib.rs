//! Model tests of the pool's work queue: loom runs the interleavings of its threads, with every
//! value that the memory model allows a load to return, up to a number of preemptions.
//!
//! `cargo test --manifest-path rust/loom/Cargo.toml` (under a minute)

#![cfg(test)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, JoinHandle};

use queue::WorkQueue;

#[path = "../../core/src/pool/queue.rs"]
mod queue;

/// The primitives of the queue, as modelled by loom.
mod sync {
    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};

    /// Lets the other threads continue. Loom may schedule two waiting threads for ever; such
    /// interleavings are not explored beyond a few rounds.
    pub(super) fn pause(idle: &mut usize) {
        *idle += 1;
        if *idle > 3 {
            loom::skip_branch();
        }
        loom::thread::yield_now();
    }
}

/// Runs all interleavings with at most this many preemptions.
fn model(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

/// A counter without synchronisation. Loom reports an access that is not ordered after the previous
/// write, so reading it checks that the write happened before.
struct Counter(UnsafeCell<usize>);

// SAFETY: loom checks every access.
unsafe impl Sync for Counter {}

impl Counter {
    fn add(&self) {
        // SAFETY: loom checks that no other thread accesses it.
        self.0.with_mut(|value| unsafe { *value += 1 });
    }

    fn get(&self) -> usize {
        // SAFETY: loom checks that no other thread writes it.
        self.0.with(|value| unsafe { *value })
    }
}

fn counters<const N: usize>() -> [Counter; N] {
    std::array::from_fn(|_| Counter(UnsafeCell::new(0)))
}

/// A queue and workers that take parts from it.
fn start(workers: usize) -> (Arc<WorkQueue>, Vec<JoinHandle<()>>) {
    let queue = Arc::new(WorkQueue::default());
    let spawn = |_| {
        let queue = queue.clone();
        thread::spawn(move || queue.help())
    };
    let workers = (0..workers).map(spawn).collect();
    (queue, workers)
}

/// Dismisses the workers and waits for them.
fn finish(queue: &WorkQueue, workers: Vec<JoinHandle<()>>) {
    queue.close();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

#[test]
fn every_part_is_done_once_before_a_job_returns() {
    model(3, || {
        let (queue, workers) = start(1);
        let parts: [Counter; 2] = counters();
        queue.run(2, &|part| parts[part].add());
        assert_eq!(parts.each_ref().map(Counter::get), [1, 1]);
        finish(&queue, workers);
    });
}

#[test]
fn two_workers_share_a_job() {
    model(2, || {
        let (queue, workers) = start(2);
        let parts: [Counter; 2] = counters();
        queue.run(2, &|part| parts[part].add());
        assert_eq!(parts.each_ref().map(Counter::get), [1, 1]);
        finish(&queue, workers);
    });
}

/// The jobs use the same memory, one after the other, and a worker may have read the state of the
/// first one.
#[test]
fn no_part_of_a_finished_job_is_run() {
    model(3, || {
        let (queue, workers) = start(1);
        for n in [2, 2] {
            let parts: [Counter; 2] = counters();
            queue.run(n, &|part| parts[part].add());
            assert_eq!(parts.each_ref().map(Counter::get), [1, 1]);
        }
        finish(&queue, workers);
    });
}

#[test]
fn a_panic_is_passed_on_when_all_parts_are_done() {
    model(2, || {
        let (queue, workers) = start(1);
        let done = AtomicUsize::new(0);
        let work = |part: usize| {
            done.fetch_add(1, Ordering::Relaxed);
            // Without the panic hook, which would print every interleaving.
            if part == 1 {
                std::panic::resume_unwind(Box::new("part 1"));
            }
        };
        let run = catch_unwind(AssertUnwindSafe(|| queue.run(2, &work)));
        assert_eq!(run.unwrap_err().downcast_ref(), Some(&"part 1"));
        assert_eq!(done.load(Ordering::Relaxed), 2);
        // The queue can be used again.
        queue.run(1, &|_| ());
        finish(&queue, workers);
    });
}

#[test]
fn workers_leave_a_queue_without_jobs() {
    model(3, || {
        let (queue, workers) = start(2);
        finish(&queue, workers);
    });
}

#[test]
fn helped_counts_the_parts_of_workers() {
    model(3, || {
        let (queue, workers) = start(1);
        let by_caller = AtomicUsize::new(0);
        let caller = thread::current().id();
        queue.run(2, &|_| {
            if thread::current().id() == caller {
                by_caller.fetch_add(1, Ordering::Relaxed);
            }
        });
        finish(&queue, workers);
        assert_eq!(queue.helped() + by_caller.load(Ordering::Relaxed), 2);
    });
}
