//! The overhead of a call of lrgate's thread pool beside rayon, with two threads:
//! `cargo run --release --manifest-path benches/pool/Cargo.toml` (docs/architecture.md).
//!
//! A call has two parts, each empty or spinning for 5 us. Its time is from the call to its end. Calls
//! are back to back, or each follows a pause of 1 ms. The candidates take turns in every round.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pool::Team;

#[allow(dead_code)]
#[path = "../../../rust/core/src/error.rs"]
mod error;

#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../../rust/core/src/pool/mod.rs"]
mod pool;

const ROUNDS: usize = 15;
const CALLS: usize = 100;

/// Runs two parts of a job.
type Candidate<'a> = (&'static str, Box<dyn Fn(&(dyn Fn() + Sync)) + 'a>);

fn main() {
    let two = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("threads");
    let team = |gain: u64| {
        move |part: &(dyn Fn() + Sync)| Team::new(2, Duration::from_micros(gain)).run(2, |_| part())
    };
    let candidates: Vec<Candidate<'_>> = vec![
        ("one thread", Box::new(|part| (0..2).for_each(|_| part()))),
        ("lrgate, estimated gain 6 us", Box::new(team(6))),
        ("lrgate, estimated gain 100 us", Box::new(team(100))),
        ("rayon, install and scope", Box::new(|part| two.install(|| scope(part)))),
        (
            "rayon, in_place_scope",
            Box::new(|part| {
                one.in_place_scope(|scope| {
                    scope.spawn(|_| part());
                    part();
                });
            }),
        ),
    ];
    println!("us per call, median (quartiles); {} CPUs", thread::available_parallelism().unwrap());
    for work in [Duration::ZERO, Duration::from_micros(5)] {
        for pause in [Duration::ZERO, Duration::from_millis(1)] {
            println!("parts of {work:?}, pauses of {pause:?}");
            compare(&candidates, work, pause);
        }
    }
}

fn scope(part: &(dyn Fn() + Sync)) {
    rayon::scope(|scope| {
        scope.spawn(|_| part());
        part();
    });
}

fn compare(candidates: &[Candidate<'_>], work: Duration, pause: Duration) {
    let mut times = vec![Vec::new(); candidates.len()];
    for _ in 0..ROUNDS {
        for ((_, run), times) in candidates.iter().zip(&mut times) {
            for _ in 0..CALLS {
                if !pause.is_zero() {
                    thread::sleep(pause);
                }
                let done = AtomicUsize::new(0);
                let start = Instant::now();
                run(&|| {
                    let start = Instant::now();
                    while start.elapsed() < work {}
                    done.fetch_add(1, Ordering::Relaxed);
                });
                times.push(start.elapsed().as_secs_f64() * 1e6);
                assert_eq!(done.into_inner(), 2, "both parts are done");
            }
        }
    }
    for ((name, _), times) in candidates.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times[times.len() * share / 4];
        println!("  {name:<30} {:6.1} ({:.1} to {:.1})", at(2), at(1), at(3));
    }
}
