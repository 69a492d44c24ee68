//! Tests of teams of threads. The pool's source is included, because callers see only its results.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pool::Team;

mod error {
    pub(crate) use lrgate::{Error, Result};
}

#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../src/pool/mod.rs"]
mod pool;

/// A gain for which workers are woken.
const LONG: Duration = Duration::from_secs(1);

/// A gain for which workers are woken only by back-to-back calls.
const SHORT: Duration = Duration::from_micros(15);

/// Tests share the pool, so they run one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A team of three.
fn team() -> Team {
    Team::new(3, LONG)
}

/// Whether `condition` becomes true soon: the operating system decides when threads run.
fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if condition() {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Runs a test with teams of three until workers have taken part.
fn with_teams(mut test: impl FnMut(&Team)) {
    let _turn = TURN.lock();
    let before = pool::parts_shared();
    assert!(soon(|| {
        let team = team();
        assert_eq!(team.threads(), 3);
        test(&team);
        drop(team);
        pool::parts_shared() > before
    }));
}

#[test]
fn every_part_runs_once_and_is_done() {
    with_teams(|team| {
        for parts in [0, 1, 2, 3, 7, 100].repeat(200) {
            let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            team.run(parts, |part| _ = counts[part].fetch_add(1, Ordering::Relaxed));
            assert!(counts.into_iter().all(|count| count.into_inner() == 1));
        }
    });
}

#[test]
fn more_parts_than_a_word_has_indices_for() {
    with_teams(|team| {
        let (parts, sum) = (5_000_000, AtomicUsize::new(0));
        team.run(parts, |part| _ = sum.fetch_add(part, Ordering::Relaxed));
        assert_eq!(sum.into_inner(), parts * (parts - 1) / 2);
    });
}

/// So that in call after call a thread gets the same units.
#[test]
fn the_caller_takes_the_first_parts_and_workers_the_last() {
    with_teams(|team| {
        let (caller, by) = (thread::current().id(), Mutex::new(Vec::new()));
        team.run(12, |part| {
            by.lock().unwrap().push((thread::current().id() == caller, part));
            thread::sleep(Duration::from_millis(1));
        });
        let parts_of = |mine| {
            let by = by.lock().unwrap();
            by.iter().filter(|(by, _)| *by == mine).map(|(_, part)| *part).collect::<Vec<_>>()
        };
        let (first, last) = (parts_of(true), parts_of(false));
        assert!(first.iter().max() < last.iter().min() || last.is_empty());
        assert!(first.is_sorted());
    });
}

#[test]
fn all_invited_threads_take_part() {
    let _turn = TURN.lock();
    let ids = Mutex::new(HashSet::new());
    let before = pool::parts_shared();
    assert!(soon(|| {
        // Parts take some time, so that the workers can join.
        team().run(3, |_| {
            ids.lock().unwrap().insert(thread::current().id());
            thread::sleep(Duration::from_millis(2));
        });
        ids.lock().unwrap().len() == 3
    }));
    assert!(pool::parts_shared() - before >= 2);
}

#[test]
fn a_panic_of_any_part_comes_out_after_the_others_are_done() {
    with_teams(|team| {
        for panicking in 0..5 {
            let done = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(5, |part| {
                    // Parts take some time, so that workers can join on a single core too.
                    thread::sleep(Duration::from_millis(1));
                    if part == panicking {
                        resume_unwind(Box::new("of a part"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }));
            assert_eq!(*result.unwrap_err().downcast::<&str>().unwrap(), "of a part");
            assert_eq!(done.into_inner(), 4);
        }
        // The team can be used again.
        let done = AtomicUsize::new(0);
        team.run(5, |_| _ = done.fetch_add(1, Ordering::Relaxed));
        assert_eq!(done.into_inner(), 5);
    });
}

#[test]
fn teams_of_several_callers_do_not_mix() {
    let _turn = TURN.lock();
    thread::scope(|scope| {
        for caller in 0..4 {
            scope.spawn(move || {
                for round in 0..200 {
                    let team = team();
                    let sum = AtomicUsize::new(0);
                    team.run(8, |part| _ = sum.fetch_add(part + caller + round, Ordering::Relaxed));
                    assert_eq!(sum.into_inner(), 28 + 8 * (caller + round));
                }
            });
        }
    });
    // All workers are available again.
    assert_eq!(team().threads(), 3);
}

/// The next call gets the workers of the previous one, even if they sleep in the middle of it.
#[test]
fn workers_of_a_call_are_free_as_it_ends() {
    let _turn = TURN.lock();
    for _ in 0..20 {
        let team = team();
        assert_eq!(team.threads(), 3);
        let caller = thread::current().id();
        team.run(2, |_| {
            if thread::current().id() == caller {
                thread::sleep(Duration::from_millis(3));
            }
        });
    }
}

#[test]
fn short_calls_wake_no_worker_unless_they_are_back_to_back() {
    let _turn = TURN.lock();
    let threads = |gain| Team::new(3, gain).threads();
    assert_eq!(threads(LONG), 3);
    assert_eq!(threads(Duration::from_micros(4)), 1);
    assert_eq!(Team::new(1, LONG).threads(), 1);
    assert!(soon(|| threads(SHORT) == 1), "the first of a row");
    assert!(soon(|| threads(SHORT) == 1 && threads(SHORT) == 3), "the second");
}

#[test]
fn as_many_workers_are_woken_as_pay() {
    let _turn = TURN.lock();
    let threads = |micros| {
        let team = Team::new(3, Duration::from_micros(micros));
        team.threads()
    };
    assert_eq!(threads(1000), 3);
    for (gain, most) in [(30, 1), (50, 2), (70, 3)] {
        // Workers fall asleep between calls.
        assert!(soon(|| threads(gain) == most), "{gain} us");
    }
}

#[test]
fn workers_with_one_caller_do_not_keep_another_waiting() {
    let _turn = TURN.lock();
    let (first, second) = (team(), team());
    assert_eq!((first.threads(), second.threads()), (3, 1));
    let sum = AtomicUsize::new(0);
    for team in [&second, &first] {
        team.run(10, |part| _ = sum.fetch_add(part, Ordering::Relaxed));
    }
    assert_eq!(sum.into_inner(), 90);
}

#[test]
fn work_within_work_of_the_same_team_is_refused() {
    let _turn = TURN.lock();
    let team = team();
    assert_eq!(team.threads(), 3);
    let nested = catch_unwind(AssertUnwindSafe(|| team.run(2, |_| team.run(2, |_| ()))));
    assert!(nested.is_err());
}
