//! What happens to sixteen finished sums of one row: the end of every kernel.

use super::arithmetic::{Arithmetic, Bytes, Floats};
use super::{ByteRowsMut, DenseRowsMut, ListsMut, Span};
use crate::simd::{LANES, Simd};

/// Takes the sums of sixteen neighbouring units of one row. For a row, columns come in ascending
/// order.
pub(crate) trait Emit<A: Arithmetic> {
    /// `v` holds the sums of units `column..column + 16`; lanes past the last unit are zero sums.
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: A::Vector<S>);
}

/// Takes the sum of one unit of one row, in any order.
pub(crate) trait Finish<A: Arithmetic> {
    /// What [`Emit::emit`] does with one lane.
    fn put_one(&mut self, row: usize, unit: usize, sum: A::Sum);
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

/// A layer's output: scale and bias, activation, then what the next layer wants: a dense row, a list
/// of non-zeros, a row of bytes.
pub(crate) struct Output<'a> {
    /// What the sums of an int8 layer are multiplied with, zero-padded to whole vectors; not looked
    /// at for sums of floats.
    pub(crate) scale: &'a [f32],
    /// Zero-padded to whole vectors.
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Fused,
    pub(crate) dense: Option<DenseRowsMut<'a>>,
    pub(crate) lists: Option<ListsMut<'a>>,
    pub(crate) bytes: Option<QuantizedRows<'a>>,
}

/// Rows being written as bytes: `y inverse + offset`, rounded.
pub(crate) struct QuantizedRows<'a> {
    pub(crate) rows: ByteRowsMut<'a>,
    pub(crate) inverse: f32,
    pub(crate) offset: f32,
}

impl Output<'_> {
    /// Makes all outputs of `rows` rows zero where they are not written one by one.
    pub(crate) fn clear(&mut self, rows: usize) {
        if let Some(dense) = &mut self.dense {
            (0..rows).for_each(|row| dense.row(row).fill(0.0));
        }
        if let Some(bytes) = &mut self.bytes {
            let zero = to_byte(bytes.offset);
            (0..rows).for_each(|row| bytes.rows.row(row).fill(zero));
        }
    }

    /// Sixteen activated outputs.
    #[inline(always)]
    fn put<S: Simd>(&mut self, simd: S, row: usize, column: usize, y: S::F32) {
        if let Some(bytes) = &mut self.bytes {
            // Unfused, so that the bytes are the same on every instruction set.
            let scaled = simd.mul(y, simd.splat(bytes.inverse));
            let scaled = simd.add(scaled, simd.splat(bytes.offset));
            let out = &mut bytes.rows.row(row)[column..column + LANES];
            // SAFETY: `out` has 16 entries.
            unsafe { simd.store_bytes(out.as_mut_ptr(), scaled) }
        }
        if let Some(dense) = &mut self.dense {
            let row = &mut dense.row(row)[column..];
            if row.len() >= LANES {
                // SAFETY: the row has 16 more columns.
                unsafe { simd.store(row.as_mut_ptr(), y) }
            } else {
                // SAFETY: the row has `len < 16` more columns.
                unsafe { simd.store_partial(row.as_mut_ptr(), row.len(), y) }
            }
        }
        if let Some(lists) = &mut self.lists {
            // Padding lanes are NaN where an input is not finite; they must not be listed.
            let mask = simd.nonzero(y) & lanes_within(lists.columns(), column);
            let (index, value, len) = lists.end(row);
            // SAFETY: a row emits at most `columns` entries before this vector, and its region has
            // room for them rounded up to vectors and 16 more.
            unsafe {
                simd.compress_index(index, mask, column as u32);
                simd.compress(value, mask, y);
            }
            *len += mask.count_ones() as usize;
        }
    }

    /// One pre-activation.
    #[inline(always)]
    fn put_pre_activation(&mut self, row: usize, unit: usize, z: f32) {
        let y = self.activation.apply_one(z);
        if let Some(bytes) = &mut self.bytes {
            bytes.rows.row(row)[unit] = to_byte(y * bytes.inverse + bytes.offset);
        }
        if let Some(dense) = &mut self.dense {
            dense.row(row)[unit] = y;
        }
        if let Some(lists) = &mut self.lists
            && y != 0.0
        {
            lists.push(row, unit, y);
        }
    }
}

/// One lane of [`Simd::store_bytes`].
#[inline(always)]
pub(crate) fn to_byte(v: f32) -> u8 {
    v.round_ties_even() as u8
}

impl Emit<Floats> for Output<'_> {
    #[inline(always)]
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: S::F32) {
        let bias = &self.bias[column..column + LANES];
        // SAFETY: `bias` has 16 entries.
        let bias = unsafe { simd.load(bias.as_ptr()) };
        let y = self.activation.apply(simd, simd.add(v, bias));
        self.put(simd, row, column, y);
    }
}

impl Finish<Floats> for Output<'_> {
    #[inline(always)]
    fn put_one(&mut self, row: usize, unit: usize, sum: f32) {
        self.put_pre_activation(row, unit, sum + self.bias[unit]);
    }
}

impl Emit<Bytes> for Output<'_> {
    #[inline(always)]
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: S::I32) {
        let (scale, bias) =
            (&self.scale[column..column + LANES], &self.bias[column..column + LANES]);
        // SAFETY: both have 16 entries.
        let (scale, bias) = unsafe { (simd.load(scale.as_ptr()), simd.load(bias.as_ptr())) };
        let z = simd.add(simd.mul(simd.to_f32(v), scale), bias);
        let y = self.activation.apply(simd, z);
        self.put(simd, row, column, y);
    }
}

impl Finish<Bytes> for Output<'_> {
    #[inline(always)]
    fn put_one(&mut self, row: usize, unit: usize, sum: i32) {
        self.put_pre_activation(row, unit, sum as f32 * self.scale[unit] + self.bias[unit]);
    }
}

/// Bit i set where `column + i` is one of `columns` columns.
#[inline(always)]
pub(crate) fn lanes_within(columns: usize, column: usize) -> u16 {
    let left = columns.saturating_sub(column);
    if left < LANES { (1 << left) - 1 } else { u16::MAX }
}

/// The sums themselves, as dense rows padded to whole vectors: the gate's low-rank intermediate.
pub(crate) struct Sums<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) stride: usize,
}

impl Emit<Floats> for Sums<'_> {
    #[inline(always)]
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: S::F32) {
        let at = row * self.stride + column;
        let out = &mut self.data[at..at + LANES];
        // SAFETY: `out` has 16 entries.
        unsafe { simd.store(out.as_mut_ptr(), v) }
    }
}

/// The sums as bytes, `sum scale + bias` rounded: the low-rank intermediate of an int8 gate.
pub(crate) struct ByteSums<'a> {
    pub(crate) scale: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) rows: ByteRowsMut<'a>,
}

impl Emit<Bytes> for ByteSums<'_> {
    #[inline(always)]
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: S::I32) {
        let (scale, bias) =
            (&self.scale[column..column + LANES], &self.bias[column..column + LANES]);
        let out = &mut self.rows.row(row)[column..column + LANES];
        // SAFETY: all three have 16 entries.
        unsafe {
            let (scale, bias) = (simd.load(scale.as_ptr()), simd.load(bias.as_ptr()));
            let t = simd.add(simd.mul(simd.to_f32(v), scale), bias);
            simd.store_bytes(out.as_mut_ptr(), t);
        }
    }
}

/// The int8 gate's decision: the list of units whose score is above their threshold.
pub(crate) struct LiveBytes<'a> {
    /// i32, padded to whole vectors.
    pub(crate) threshold: &'a [u32],
    pub(crate) units: usize,
    pub(crate) index: &'a mut [u32],
    pub(crate) spans: &'a mut [Span],
}

impl Emit<Bytes> for LiveBytes<'_> {
    #[inline(always)]
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: S::I32) {
        let threshold = &self.threshold[column..column + LANES];
        // SAFETY: `threshold` has 16 entries.
        let threshold = unsafe { simd.load_i32(threshold.as_ptr()) };
        let mask = simd.above(v, threshold) & lanes_within(self.units, column);
        append_live(simd, self.index, &mut self.spans[row], column, mask);
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

impl Emit<Floats> for Live<'_> {
    #[inline(always)]
    fn emit<S: Simd>(&mut self, simd: S, row: usize, column: usize, v: S::F32) {
        let bias = &self.bias[column..column + LANES];
        // SAFETY: `bias` has 16 entries.
        let bias = unsafe { simd.load(bias.as_ptr()) };
        let mask = simd.not_at_most(simd.add(v, bias), simd.splat(0.0));
        let mask = mask & lanes_within(self.units, column);
        append_live(simd, self.index, &mut self.spans[row], column, mask);
    }
}

/// Appends the units of a vector that are on.
#[inline(always)]
fn append_live<S: Simd>(simd: S, index: &mut [u32], span: &mut Span, column: usize, mask: u16) {
    let end = span.start + span.len;
    let out = &mut index[end..end + LANES];
    // SAFETY: `out` has 16 entries.
    unsafe { simd.compress_index(out.as_mut_ptr(), mask, column as u32) }
    span.len += mask.count_ones() as usize;
}
