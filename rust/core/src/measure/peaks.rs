//! Measures the highest rates of this machine, which bound the time of a network's phases.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::interrupt;
use crate::kernels::arithmetic::{Arithmetic, Bytes, Floats};
use crate::kernels::peak::{Load, ROWS, VectorProducts};
#[cfg(target_arch = "x86_64")]
use crate::kernels::peak::{ShortProducts, TileProducts};
use crate::layout::PANEL;
use crate::memory::{Aligned, zeros};
#[cfg(target_arch = "x86_64")]
use crate::simd::Simd;
#[cfg(target_arch = "x86_64")]
use crate::simd::shorts::Shorts;
use crate::simd::{Isa, LANES};

/// The highest rates of one core with an instruction set.
#[derive(Clone, Debug, PartialEq)]
pub struct Peaks {
    /// Bytes loaded per second from buffers of the requested sizes, in their order.
    pub bandwidth: Vec<f64>,
    /// f32 operations per second; a multiply-add is two operations.
    pub f32_operations: f64,
    /// Byte operations per second in vectors; a multiply-add is two operations.
    pub int8_operations: f64,
    /// The same in AMX tiles, if the instruction set has them.
    pub tile_operations: Option<f64>,
}

/// Bytes loaded, or vectors multiplied, per measurement: a few microseconds.
const STEP: usize = 1 << 19;

/// Words of a buffer that are filled at a time: some milliseconds.
const FILLED: usize = 1 << 22;

/// Inputs of the rows that are multiplied: 32 KiB of weights, at most half of which are read.
const INPUTS: usize = 128;

/// Four bytes, each 1.
const ONES: u32 = 0x0101_0101;

impl Peaks {
    /// Measures loads from buffers of `sizes` bytes, and multiply-adds. Each rate is the best of at
    /// least three runs within its share of about `time`. Buffers are rounded up to 1 KiB.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn measure(isa: Isa, sizes: &[usize], time: Duration) -> Result<Peaks> {
        let share = time / (sizes.len() as u32 + if isa.has_tiles() { 3 } else { 2 });
        let bandwidth: Result<_> = sizes.iter().map(|size| bandwidth(isa, *size, share)).collect();
        Ok(Peaks {
            bandwidth: bandwidth?,
            f32_operations: 2.0 * lanes_per_second::<Floats>(isa, 1.0, share)?,
            int8_operations: 8.0 * words_per_second(isa, share)?,
            tile_operations: tile_operations(isa, share)?,
        })
    }
}

fn bandwidth(isa: Isa, size: usize, time: Duration) -> Result<f64> {
    let mut data: Aligned<u32> = zeros((size / 4).next_multiple_of(16 * LANES).max(16 * LANES));
    // Pages of zeros that were never written may share one physical page.
    for part in data.chunks_mut(FILLED) {
        interrupt::check()?;
        part.fill(1);
    }
    let bytes = data.len() * 4;
    let passes = STEP.div_ceil(bytes);
    let seconds = least_seconds(time, || isa.run(Load { data: &data, passes }))?;
    Ok((passes * bytes) as f64 / seconds)
}

fn lanes_per_second<A: Arithmetic>(isa: Isa, one: A::Word, time: Duration) -> Result<f64> {
    let (mut x, mut w) = (zeros::<A::Word>(INPUTS * ROWS), zeros::<A::Word>(INPUTS * PANEL));
    x.fill(one);
    w.fill(one);
    let passes = (STEP / LANES).div_ceil(INPUTS * ROWS);
    let mut vectors = 0;
    let seconds = least_seconds(time, || {
        vectors = isa.run(VectorProducts::<A> { x: &x, w: &w, passes });
    })?;
    Ok((vectors * LANES) as f64 / seconds)
}

/// Words of four bytes that are multiplied and added per second.
fn words_per_second(isa: Isa, time: Duration) -> Result<f64> {
    #[cfg(target_arch = "x86_64")]
    if let Some((simd, shorts)) = isa.with_shorts() {
        let (mut x, mut w) = (zeros(INPUTS * Shorts::ROWS), zeros(INPUTS * PANEL));
        x.fill(ONES);
        w.fill(ONES);
        let passes = (STEP / LANES).div_ceil(INPUTS * Shorts::ROWS);
        let mut vectors = 0;
        let seconds = least_seconds(time, || {
            vectors = simd.run(ShortProducts { shorts, x: &x, w: &w, passes });
        })?;
        return Ok((vectors * LANES) as f64 / seconds);
    }
    lanes_per_second::<Bytes>(isa, ONES, time)
}

fn tile_operations(isa: Isa, time: Duration) -> Result<Option<f64>> {
    #[cfg(target_arch = "x86_64")]
    if let Some((_, amx)) = isa.with_tiles() {
        let (mut x, mut w) = (zeros::<u32>(32 * INPUTS), zeros::<u32>(32 * INPUTS));
        x.fill(ONES);
        w.fill(ONES);
        let passes = STEP.div_ceil(256 * INPUTS);
        let mut vectors = 0;
        let seconds = least_seconds(time, || {
            vectors = TileProducts { amx, x: &x, w: &w, passes }.run();
        })?;
        return Ok(Some(8.0 * (vectors * LANES) as f64 / seconds));
    }
    let _ = (isa, time);
    Ok(None)
}

/// The shortest time of a run, after a warm-up run.
fn least_seconds(time: Duration, mut run: impl FnMut()) -> Result<f64> {
    run();
    let (begin, mut least) = (Instant::now(), Duration::MAX);
    for count in 1.. {
        interrupt::check()?;
        let start = Instant::now();
        run();
        least = least.min(start.elapsed());
        if count >= 3 && begin.elapsed() > time {
            break;
        }
    }
    Ok(least.as_secs_f64().max(1e-9))
}
