//! What happens to sixteen finished sums of one row: the end of every kernel.

use super::{DenseRowsMut, ListsMut, Span};
use crate::simd::{LANES, Simd};

/// Takes the sums of sixteen neighbouring units of one row. For a row, columns come in ascending
/// order.
pub(crate) trait Emit {
    /// `v` holds the sums of units `column..column + 16`; lanes past the last unit are zero sums.
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: S::F32);
}

/// An activation that is a few vector instructions, so that it is done in registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fused {
    Identity,
    Relu,
    Clipped { upper: f32 },
    Thresholded { threshold: f32 },
    Leaky { slope: f32 },
}

impl Fused {
    /// Applies it to a vector. NaN stays NaN.
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(self, simd: S, v: S::F32) -> S::F32 {
        let zero = simd.splat(0.0);
        match self {
            Fused::Identity => v,
            Fused::Relu => simd.at_least(v, zero),
            Fused::Clipped { upper } => simd.at_most(simd.at_least(v, zero), simd.splat(upper)),
            Fused::Thresholded { threshold } => {
                simd.keep(simd.not_at_most(v, simd.splat(threshold)), v)
            }
            Fused::Leaky { slope } => {
                let positive = simd.not_at_most(v, zero);
                let negative = simd.mul(simd.keep(!positive, v), simd.splat(slope));
                simd.add(simd.keep(positive, v), negative)
            }
        }
    }

    /// Applies it to one value; equals a lane of [`Fused::apply`].
    #[inline(always)]
    pub(crate) fn apply_one(self, v: f32) -> f32 {
        match self {
            Fused::Identity => v,
            Fused::Relu => {
                if v < 0.0 {
                    0.0
                } else {
                    v
                }
            }
            Fused::Clipped { upper } => {
                let v = if v < 0.0 { 0.0 } else { v };
                if v > upper { upper } else { v }
            }
            Fused::Thresholded { threshold } => {
                if v <= threshold {
                    0.0
                } else {
                    v
                }
            }
            Fused::Leaky { slope } => {
                if v <= 0.0 {
                    v * slope
                } else {
                    v
                }
            }
        }
    }
}

/// A layer's output: bias, activation, then a dense row, a list of non-zeros, or both, as the next
/// layer wants.
pub(crate) struct Output<'a> {
    /// Zero-padded to whole vectors.
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Fused,
    pub(crate) dense: Option<DenseRowsMut<'a>>,
    pub(crate) lists: Option<ListsMut<'a>>,
}

impl Emit for Output<'_> {
    #[inline(always)]
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: S::F32) {
        let bias = &self.bias[column..column + LANES];
        // SAFETY: `bias` has 16 entries.
        let bias = unsafe { simd.load(bias.as_ptr()) };
        let v = self.activation.apply(simd, simd.add(v, bias));
        if let Some(dense) = &mut self.dense {
            let row = &mut dense.row(row)[column..];
            if row.len() >= LANES {
                // SAFETY: the row has 16 more columns.
                unsafe { simd.store(row.as_mut_ptr(), v) }
            } else {
                // SAFETY: the row has `len < 16` more columns.
                unsafe { simd.store_partial(row.as_mut_ptr(), row.len(), v) }
            }
        }
        if let Some(lists) = &mut self.lists {
            // Padding lanes are NaN where an input is not finite; they must not be listed.
            let mask = simd.nonzero(v) & lanes_within(lists.columns(), column);
            let (index, value, len) = lists.end(row);
            // SAFETY: a row emits at most `columns` entries before this vector, and its region has
            // room for them rounded up to vectors and 16 more.
            unsafe {
                simd.compress_index(index, mask, column as u32);
                simd.compress(value, mask, v);
            }
            *len += mask.count_ones() as usize;
        }
    }
}

/// Bit i set where `column + i` is one of `columns` columns.
#[inline(always)]
fn lanes_within(columns: usize, column: usize) -> u16 {
    let left = columns.saturating_sub(column);
    if left < LANES { (1 << left) - 1 } else { u16::MAX }
}

/// The sums themselves, as dense rows padded to whole vectors: the gate's low-rank intermediate.
pub(crate) struct Sums<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) stride: usize,
}

impl Emit for Sums<'_> {
    #[inline(always)]
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: S::F32) {
        let at = row * self.stride + column;
        let out = &mut self.data[at..at + LANES];
        // SAFETY: `out` has 16 entries.
        unsafe { simd.store(out.as_mut_ptr(), v) }
    }
}

/// The gate's decision: the list of units whose score plus bias is positive, or NaN.
pub(crate) struct Live<'a> {
    /// Padded to whole vectors.
    pub(crate) bias: &'a [f32],
    pub(crate) units: usize,
    pub(crate) index: &'a mut [u32],
    pub(crate) spans: &'a mut [Span],
}

impl Emit for Live<'_> {
    #[inline(always)]
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: S::F32) {
        let bias = &self.bias[column..column + LANES];
        // SAFETY: `bias` has 16 entries.
        let bias = unsafe { simd.load(bias.as_ptr()) };
        let mask = simd.not_at_most(simd.add(v, bias), simd.splat(0.0));
        let mask = mask & lanes_within(self.units, column);
        let span = &mut self.spans[row];
        let end = span.start + span.len;
        let out = &mut self.index[end..end + LANES];
        // SAFETY: `out` has 16 entries.
        unsafe { simd.compress_index(out.as_mut_ptr(), mask, column as u32) }
        span.len += mask.count_ones() as usize;
    }
}
