//! Measures the time of layers.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::exec::{self, Observer, Program};
use crate::path::Watch;
use crate::rows::Rows;
use crate::signal::Signal;

/// Accumulates the time of each layer.
struct Clock {
    start: Instant,
    nanoseconds: Vec<f64>,
}

impl Watch for Clock {}

impl Observer for Clock {
    #[inline]
    fn before(&mut self, _layer: usize, _input: Signal<'_>) {
        self.start = Instant::now();
    }
    #[inline]
    fn after(&mut self, layer: usize, _rows: usize, _computed: usize) {
        self.nanoseconds[layer] += self.start.elapsed().as_nanos() as f64;
    }
}

/// Nanoseconds of reading the clock twice, which are part of every measured layer time.
pub(super) fn clock_overhead() -> f64 {
    let mut times: Vec<u128> = (0..101)
        .map(|_| {
            let start = Instant::now();
            start.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2] as f64
}

pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median seconds per row of each of the network's layers, over passes repeated for `time`.
pub(super) fn time_layers(
    program: &Program,
    rows: Rows<'_>,
    batch: usize,
    time: Duration,
    least_passes: usize,
) -> Result<Vec<f64>> {
    let overhead = clock_overhead();
    let layers = program.network_layers();
    let mut passes: Vec<Vec<f64>> = vec![Vec::new(); layers];
    let begin = Instant::now();
    // The first pass is a warm-up.
    for pass in 0.. {
        let mut tiles = 0;
        let mut clock = Clock { start: begin, nanoseconds: vec![0.0; program.layers.len()] };
        let mut of_layers = vec![0.0; layers];
        for rows in rows.batches(batch) {
            tiles += rows.rows.div_ceil(program.tile);
            exec::observe(program, rows, &mut clock)?;
        }
        if pass > 0 {
            for (layer, t) in program.layers.iter().zip(&clock.nanoseconds) {
                of_layers[layer.layer] += (t - tiles as f64 * overhead).max(0.0);
            }
            passes.iter_mut().zip(of_layers).for_each(|(times, t)| times.push(t));
        }
        if pass >= least_passes && begin.elapsed() > time {
            break;
        }
    }
    let per_row = 1e-9 / rows.rows as f64;
    Ok(passes.iter_mut().map(|times| median(times) * per_row).collect())
}
