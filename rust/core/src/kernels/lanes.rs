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
    /// Computes the layer. `x` has a vector per input, and `y` gets one per unit. Each lane is of
    /// one row, and lanes do not mix.
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

/// Columns that are transposed together.
const FOUR: usize = 4;

/// Makes lanes of rows: `x` gets a vector per column, and some more up to a multiple of four. Four
/// columns of sixteen rows are four 4x4 matrices, so row `4 a + b` gets lane `4 b + a`. Lanes without
/// a row are zero.
pub(crate) struct ToLanes<'a> {
    /// Starts with the first row.
    pub(crate) data: &'a [f32],
    /// From 1 to 16.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// From one row to the next.
    pub(crate) stride: usize,
    /// Gets a copy of the rows if there are fewer than sixteen, or if reading the last four values
    /// of a row would pass the end of `data`. Has room for sixteen rows of `columns` values,
    /// rounded up to a multiple of four.
    pub(crate) scratch: &'a mut [f32],
}

impl ToLanes<'_> {
    #[inline(always)]
    pub(crate) fn run<S: Simd>(self, simd: S, x: &mut [f32]) {
        let Self { data, rows, columns, stride, scratch } = self;
        let padded = columns.next_multiple_of(FOUR);
        let (data, stride) = if rows == LANES && data.len() >= (LANES - 1) * stride + padded {
            (data, stride)
        } else {
            for (row, to) in scratch.chunks_exact_mut(padded).enumerate().take(rows) {
                to[..columns].copy_from_slice(&data[row * stride..][..columns]);
            }
            // Left-over values may be subnormal, which is slow.
            scratch[rows * padded..LANES * padded].fill(0.0);
            (&*scratch, padded)
        };
        assert!(data.len() >= (LANES - 1) * stride + padded && x.len() >= padded * LANES);
        for (four, x) in x.chunks_exact_mut(FOUR * LANES).take(padded / FOUR).enumerate() {
            let mut vectors = [simd.splat(0.0); FOUR];
            for (a, vector) in vectors.iter_mut().enumerate() {
                // SAFETY: the last of these rows has `padded` values within `data`.
                *vector = unsafe {
                    simd.load_fours(data.as_ptr().add(FOUR * (a * stride + four)), stride)
                };
            }
            for (vector, x) in
                simd.transpose_fours(vectors).into_iter().zip(x.chunks_exact_mut(LANES))
            {
                // SAFETY: `x` has 16 entries.
                unsafe { simd.store(x.as_mut_ptr(), vector) }
            }
        }
    }
}

/// Makes rows of lanes that have the order and padding of [`ToLanes`].
pub(crate) struct ToRows<'a> {
    pub(crate) y: &'a [f32],
    pub(crate) columns: usize,
    /// As in [`ToLanes`].
    pub(crate) scratch: &'a mut [f32],
}

impl ToRows<'_> {
    /// Writes sixteen rows to the front of `out`, one after the other, or as many as fit. What
    /// follows them may be overwritten.
    #[inline(always)]
    pub(crate) fn run<S: Simd>(self, simd: S, out: &mut [f32]) {
        let Self { y, columns, scratch } = self;
        let fours = columns.div_ceil(FOUR);
        let end = (LANES - 1) * columns + FOUR * fours;
        let fits = out.len() >= end;
        let to = if fits { &mut *out } else { &mut *scratch };
        assert!(to.len() >= end && y.len() >= FOUR * fours * LANES);
        // The last four values of a row may reach into the next rows, which are written afterwards.
        for four in (0..fours).rev() {
            let mut vectors = [simd.splat(0.0); FOUR];
            for (c, vector) in vectors.iter_mut().enumerate() {
                // SAFETY: `y` has as many vectors.
                *vector = unsafe { simd.load(y.as_ptr().add((FOUR * four + c) * LANES)) };
            }
            for (a, vector) in simd.transpose_fours(vectors).into_iter().enumerate() {
                // SAFETY: the last of these rows ends at `end`, within `to`.
                unsafe {
                    let first = to.as_mut_ptr().add(FOUR * (a * columns + four));
                    simd.store_fours(first, columns, vector);
                }
            }
        }
        if !fits {
            let count = out.len().min(LANES * columns);
            out[..count].copy_from_slice(&scratch[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    struct ThreeRows<'a>(&'a mut [f32]);

    impl Kernel for ThreeRows<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let (data, scratch) = ([1.0; 15], &mut [1e-40; 16 * 8]);
            ToLanes { data: &data, rows: 3, columns: 5, stride: 5, scratch }.run(simd, self.0);
        }
    }

    /// Values that earlier calls left there may be subnormal, which is slow.
    #[test]
    fn lanes_without_a_row_are_zero() {
        for isa in Isa::available() {
            let mut x = vec![f32::NAN; 8 * LANES];
            isa.run_floats(ThreeRows(&mut x));
            for column in x.chunks(LANES).take(5) {
                let mut lanes = column.to_vec();
                lanes.sort_by(f32::total_cmp);
                assert_eq!(lanes[..13], [0.0; 13], "{}", isa.name());
                assert_eq!(lanes[13..], [1.0; 3], "{}", isa.name());
            }
        }
    }
}
