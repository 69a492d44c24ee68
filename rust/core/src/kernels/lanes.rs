//! Sixteen rows in the lanes of vectors, times packed panels: layers with too few units to fill
//! vectors.
//!
//! ```text
//! for group of units:             # eight, or four if a vector is more than one register
//!     sums = 0                    # one vector per unit, with a lane per row
//!     for i in inputs: sums[unit] += x[i] * w[i][unit]
//!     y[unit] = activation(sums[unit] + bias[unit])
//! ```
//!
//! Each sum is one chain over the inputs in order, as in `dense.rs`, so rows have the same bits.

use super::epilogue::Fused;
use crate::layout::Panels;
use crate::simd::{LANES, Simd};

/// A layer: weights, bias (one per unit) and activation.
pub(crate) struct LanesLayer<'a> {
    pub(crate) panels: &'a Panels,
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Fused,
}

impl LanesLayer<'_> {
    /// Computes the layer. `x` has a vector per input, and `y` gets one per unit: lane r is of row
    /// r.
    #[inline(always)]
    pub(crate) fn run<S: Simd>(&self, simd: S, x: &[f32], y: &mut [f32]) {
        let (x, outputs) = (&x[..self.panels.inputs() * LANES], self.panels.outputs());
        assert!(self.bias.len() >= outputs && y.len() >= outputs * LANES);
        for p in self.panels.all() {
            let (first, vectors, weights) = self.panels.panel(p);
            let width = vectors * LANES;
            assert_eq!(weights.len(), self.panels.inputs() * width);
            let end = outputs.min(first + width);
            let mut unit = first;
            while unit < end {
                let weights = (&weights[unit - first..], width);
                // Eight registers of sums hide the latency of a multiply-add.
                unit += match end - unit {
                    8.. if S::TWO_PANELS => self.units::<S, 8>(simd, x, weights, unit, y),
                    4.. => self.units::<S, 4>(simd, x, weights, unit, y),
                    2.. => self.units::<S, 2>(simd, x, weights, unit, y),
                    _ => self.units::<S, 1>(simd, x, weights, unit, y),
                }
            }
        }
    }

    /// Computes U units from `unit` on, and returns U. The weights of an input to them come first
    /// of `width` weights.
    #[inline(always)]
    fn units<S: Simd, const U: usize>(
        &self,
        simd: S,
        x: &[f32],
        (weights, width): (&[f32], usize),
        unit: usize,
        y: &mut [f32],
    ) -> usize {
        let mut sums = [simd.splat(0.0); U];
        for (x, weights) in x.chunks_exact(LANES).zip(weights.chunks(width)) {
            // SAFETY: `x` has 16 entries.
            let x = unsafe { simd.load(x.as_ptr()) };
            for (sum, weight) in sums.iter_mut().zip(&weights[..U]) {
                *sum = simd.mul_add(x, simd.splat(*weight), *sum);
            }
        }
        for (sum, bias) in sums.iter_mut().zip(&self.bias[unit..]) {
            *sum = simd.add(*sum, simd.splat(*bias));
        }
        let sums = self.activation.apply(simd, sums);
        for (sum, y) in sums.into_iter().zip(y[unit * LANES..].chunks_exact_mut(LANES)) {
            // SAFETY: `y` has 16 entries.
            unsafe { simd.store(y.as_mut_ptr(), sum) }
        }
        U
    }
}

/// Makes lanes of `rows` rows, at most sixteen: `x` gets a vector per column, and some more up to a
/// multiple of sixteen. The rows have `columns` values and are `stride` apart.
#[inline(always)]
pub(crate) fn to_lanes<S: Simd>(
    simd: S,
    (data, rows, columns, stride): (&[f32], usize, usize, usize),
    x: &mut [f32],
) {
    for (block, x) in x.chunks_exact_mut(LANES * LANES).take(columns.div_ceil(LANES)).enumerate() {
        let first = block * LANES;
        let mut vectors = [simd.splat(0.0); LANES];
        for (r, vector) in vectors.iter_mut().enumerate().take(rows) {
            *vector = load_up_to(simd, &data[r * stride..][first..columns]);
        }
        for (vector, x) in simd.transpose(vectors).into_iter().zip(x.chunks_exact_mut(LANES)) {
            // SAFETY: `x` has 16 entries.
            unsafe { simd.store(x.as_mut_ptr(), vector) }
        }
    }
}

/// Makes rows of lanes, which are padded as in [`to_lanes`]: `out` has at most sixteen rows, one
/// after the other.
#[inline(always)]
pub(crate) fn to_rows<S: Simd>(simd: S, y: &[f32], columns: usize, out: &mut [f32]) {
    if columns == 1 {
        out.copy_from_slice(&y[..out.len()]);
        return;
    }
    for (block, y) in y.chunks_exact(LANES * LANES).take(columns.div_ceil(LANES)).enumerate() {
        let first = block * LANES;
        let mut vectors = [simd.splat(0.0); LANES];
        for (vector, y) in vectors.iter_mut().zip(y.chunks_exact(LANES)) {
            // SAFETY: `y` has 16 entries.
            *vector = unsafe { simd.load(y.as_ptr()) };
        }
        for (vector, row) in simd.transpose(vectors).into_iter().zip(out.chunks_exact_mut(columns))
        {
            let row = &mut row[first..];
            // SAFETY: `row` has 16 entries, or as many as are stored.
            unsafe {
                match row.len() {
                    LANES.. => simd.store(row.as_mut_ptr(), vector),
                    n => simd.store_partial(row.as_mut_ptr(), n, vector),
                }
            }
        }
    }
}

/// The first sixteen floats, or all with zeros after them.
#[inline(always)]
fn load_up_to<S: Simd>(simd: S, from: &[f32]) -> S::F32 {
    // SAFETY: `from` has 16 entries, or as many as are read.
    unsafe {
        match from.len() {
            LANES.. => simd.load(from.as_ptr()),
            n => simd.load_partial(from.as_ptr(), n),
        }
    }
}
