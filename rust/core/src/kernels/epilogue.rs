//! The epilogue of every kernel: the steps applied to the finished sums of a row.

use std::array::from_fn;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::arithmetic::{Arithmetic, Bytes, Floats};
use crate::layout::PANEL;
use crate::signal::{ByteRowsMut, DenseRowsMut, RowRange, SparseRowsMut};
use crate::simd::{LANES, Simd};

/// Takes the sums of consecutive units of one row. For a row, columns come in ascending order.
pub(crate) trait Epilogue<A: Arithmetic> {
    /// `sums` are V vectors, at most four, with the sums of the units from `column` on. Lanes past
    /// the last unit are sums of zero.
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        sums: [A::Vector<S>; V],
    );

    /// As [`Epilogue::store`], for the same units of several rows, whose sums follow each other.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn store_rows<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        column: usize,
        sums: &[A::Word],
    ) {
        store_each::<S, A, _, V>(self, simd, rows, column, sums);
    }
}

/// [`Epilogue::store`] for each of several rows.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn store_each<S: Simd, A: Arithmetic, E: Epilogue<A> + ?Sized, const V: usize>(
    epilogue: &mut E,
    simd: S,
    rows: Range<usize>,
    column: usize,
    sums: &[A::Word],
) {
    for (row, sums) in rows.zip(sums.chunks_exact(V * LANES)) {
        // SAFETY: V vectors.
        let sums = from_fn(|v| unsafe { A::load(simd, sums.as_ptr().add(v * LANES)) });
        epilogue.store::<S, V>(simd, row, column, sums);
    }
}

/// The steps of a gate that take sums of floats. They share one type, so that kernels are compiled
/// once for both.
pub(crate) enum GateStep<'a> {
    LowRank(Sums<'a>),
    Choice(Live<'a>),
}

impl Epilogue<Floats> for GateStep<'_> {
    #[inline(always)]
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        sums: [S::F32; V],
    ) {
        match self {
            GateStep::LowRank(low_rank) => low_rank.store(simd, row, column, sums),
            GateStep::Choice(live) => live.store(simd, row, column, sums),
        }
    }
}

/// Takes the sums of chosen units.
pub(crate) trait SelectedEpilogue<A: Arithmetic> {
    /// As [`Epilogue::store`], for up to sixteen units of a row, each with its sum. For a row,
    /// units come in ascending order.
    fn store_selected<S: Simd>(
        &mut self,
        simd: S,
        row: usize,
        units: &[u32],
        sums: &[A::Sum; LANES],
    );
}

/// An activation of a few vector instructions, applied in registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fused {
    Identity,
    Relu,
    Clamped { lower: f32, upper: f32 },
    Thresholded { threshold: f32 },
    Squared,
    Leaky { slope: f32 },
}

impl Fused {
    /// Whether all outputs are at least 0.
    pub(crate) fn is_not_negative(self) -> bool {
        match self {
            Fused::Relu | Fused::Squared => true,
            Fused::Clamped { lower, .. } => lower >= 0.0,
            Fused::Thresholded { threshold } => threshold >= 0.0,
            Fused::Identity | Fused::Leaky { .. } => false,
        }
    }

    /// Applies the activation to vectors. NaN stays NaN.
    #[inline(always)]
    pub(crate) fn apply<S: Simd, const V: usize>(self, simd: S, mut v: [S::F32; V]) -> [S::F32; V] {
        let zero = simd.splat(0.0);
        match self {
            Fused::Identity => {}
            Fused::Relu => {
                for v in &mut v {
                    *v = simd.at_least(*v, zero);
                }
            }
            Fused::Clamped { lower, upper } => {
                let (lower, upper) = (simd.splat(lower), simd.splat(upper));
                for v in &mut v {
                    *v = simd.at_most(simd.at_least(*v, lower), upper);
                }
            }
            Fused::Thresholded { threshold } => {
                let threshold = simd.splat(threshold);
                for v in &mut v {
                    *v = simd.keep(simd.not_at_most(*v, threshold), *v);
                }
            }
            Fused::Squared => {
                for v in &mut v {
                    let positive = simd.at_least(*v, zero);
                    *v = simd.mul(positive, positive);
                }
            }
            Fused::Leaky { slope } => {
                let slope = simd.splat(slope);
                for v in &mut v {
                    let positive = simd.not_at_most(*v, zero);
                    let negative = simd.mul(simd.keep(!positive, *v), slope);
                    *v = simd.add(simd.keep(positive, *v), negative);
                }
            }
        }
        v
    }
}

/// The output of a layer: scale, bias and activation, and the buffers that the next layer reads:
/// dense rows, lists of non-zeros, or either of them as bytes.
pub(crate) struct Output<'a> {
    /// Factors of the sums of an int8 layer, zero-padded to whole vectors. Not used for sums of
    /// floats.
    pub(crate) scale: &'a [f32],
    /// Zero-padded to whole vectors.
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Fused,
    pub(crate) dense: Option<DenseRowsMut<'a>>,
    pub(crate) lists: Option<SparseRowsMut<'a>>,
    pub(crate) bytes: Option<Quantized<'a>>,
}

/// Outputs written as bytes: `y inverse + offset`, rounded. Rows with an output outside the range
/// of the bytes are marked.
pub(crate) struct Quantized<'a> {
    pub(crate) rows: Option<ByteRowsMut<'a>>,
    /// Only for chosen units, and only if 0 is stored as byte 0, because units that are off are not
    /// visited. Rows written vector by vector are listed afterwards, which is faster.
    pub(crate) lists: Option<SparseRowsMut<'a, u8, u16>>,
    /// One per unit, zero-padded to whole vectors. `None` if the scale and the bias of the output
    /// contain these factors and the offset.
    pub(crate) inverse: Option<&'a [f32]>,
    /// The byte of a zero.
    pub(crate) offset: f32,
    /// Smaller values, before rounding, are out of range. Minus infinity if outputs cannot be
    /// negative, or if negative outputs are to become byte 0.
    pub(crate) least: f32,
    /// Set for a row with an output that is out of range or becomes 255, because larger outputs
    /// saturate to 255. Never cleared.
    pub(crate) out_of_range: &'a [AtomicBool],
}

/// Smaller values, before rounding, are out of range.
pub(crate) const LEAST_BYTE: f32 = -0.5;

impl<'a> Output<'a> {
    /// Whether several threads may write to this output, each to its own columns. Lists are
    /// ordered, so only rows can be shared.
    pub(crate) fn can_be_shared(&self) -> bool {
        let lists = self.bytes.as_ref().is_some_and(|bytes| bytes.lists.is_some());
        self.lists.is_none() && !lists
    }

    /// A second handle to the same output, without its lists.
    ///
    /// # Safety
    /// The two handles must not write to the same columns at the same time.
    pub(crate) unsafe fn alias(&self) -> Self {
        // SAFETY: the caller's promise; each handle writes only its own columns of a row.
        let dense = self.dense.as_ref().map(|rows| unsafe { rows.alias() });
        let bytes = self.bytes.as_ref().map(|bytes| {
            // SAFETY: the caller's promise.
            let rows = bytes.rows.as_ref().map(|rows| unsafe { rows.alias() });
            Quantized { rows, lists: None, ..*bytes }
        });
        Output { dense, lists: None, bytes, ..*self }
    }

    /// The rows of bytes and their marks, if the scale and the bias give bytes, and nothing else is
    /// written.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn only_bytes(&mut self) -> Option<(&mut ByteRowsMut<'a>, &'a [AtomicBool])> {
        if self.dense.is_some() || self.lists.is_some() {
            return None;
        }
        match &mut self.bytes {
            Some(Quantized {
                rows: Some(rows),
                lists: None,
                inverse: None,
                least,
                out_of_range,
                ..
            }) if *least == f32::NEG_INFINITY && self.activation == Fused::Identity => {
                Some((rows, out_of_range))
            }
            _ => None,
        }
    }

    /// Sets all outputs of `rows` rows to zero, for outputs of which only chosen units are written.
    pub(crate) fn clear(&mut self, rows: usize) {
        if let Some(dense) = &mut self.dense {
            (0..rows).for_each(|row| dense.row(row).fill(0.0));
        }
        if let Some(Quantized { rows: Some(bytes), offset, .. }) = &mut self.bytes {
            let zero = to_byte(*offset);
            (0..rows).for_each(|row| bytes.row(row).fill(zero));
        }
    }

    /// Takes pre-activations of consecutive units.
    #[inline(always)]
    fn store_pre_activations<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        z: [S::F32; V],
    ) {
        let y = self.activation.apply(simd, z);
        if let Some(bytes) = &mut self.bytes
            && let Some(rows) = &mut bytes.rows
        {
            let mut q = [simd.splat(0.0); 4];
            q[..V].copy_from_slice(&y);
            if let Some(inverse) = bytes.inverse {
                let inverse = &inverse[column..column + V * LANES];
                let offset = simd.splat(bytes.offset);
                for (v, q) in q[..V].iter_mut().enumerate() {
                    // SAFETY: `inverse` has V vectors.
                    let inverse = unsafe { simd.load(inverse.as_ptr().add(v * LANES)) };
                    // Not fused, so that the bytes are the same on every instruction set.
                    *q = simd.add(simd.mul(*q, inverse), offset);
                }
            }
            let out = rows.part(row, column, V * LANES);
            assert_eq!(out.len(), V * LANES);
            let mut outside = false;
            if V == 4 {
                // SAFETY: `out` has 64 entries.
                unsafe {
                    simd.store_bytes4(out.as_mut_ptr(), q);
                    outside = simd.any_full_of_64(out.as_ptr());
                }
            } else {
                for (q, out) in q.into_iter().zip(out.chunks_exact_mut(LANES)) {
                    // SAFETY: `out` has 16 entries.
                    unsafe {
                        simd.store_bytes(out.as_mut_ptr(), simd.to_bytes(q));
                        outside |= simd.any_full_of_16(out.as_ptr());
                    }
                }
            }
            if bytes.least != f32::NEG_INFINITY {
                let mut low = q[0];
                for q in &q[1..V] {
                    low = simd.at_most(*q, low);
                }
                outside |= simd.not_at_most(simd.splat(bytes.least), low) != 0;
            }
            if outside {
                bytes.out_of_range[row].store(true, Ordering::Relaxed);
            }
        }
        if let Some(dense) = &mut self.dense {
            let out = dense.part(row, column, V * LANES);
            for (y, out) in y.into_iter().zip(out.chunks_mut(LANES)) {
                // SAFETY: `out` has at least as many entries as are written.
                unsafe {
                    if out.len() == LANES {
                        simd.store(out.as_mut_ptr(), y);
                    } else {
                        simd.store_partial(out.as_mut_ptr(), out.len(), y);
                    }
                }
            }
        }
        if let Some(lists) = &mut self.lists {
            let columns = lists.columns();
            let (index, value, len) = lists.end(row);
            let mut more = 0;
            for (v, y) in y.into_iter().enumerate() {
                let column = column + v * LANES;
                // If an input is not finite, padding lanes are NaN. They must not be listed.
                let mask = simd.nonzero(y) & lanes_within(columns, column);
                // SAFETY: a row appends at most `columns` entries before this vector, and its
                // region has room for them rounded up to vectors and 16 more.
                unsafe {
                    simd.compress_index(index.add(more), mask, column as u32);
                    simd.compress(value.add(more), mask, y);
                }
                more += mask.count_ones() as usize;
            }
            *len += more;
        }
    }

    /// Takes pre-activations of chosen units, whose indices are in the first lanes of `index`.
    #[inline(always)]
    fn store_selected_pre_activations<S: Simd>(
        &mut self,
        simd: S,
        row: usize,
        units: &[u32],
        index: S::I32,
        z: S::F32,
    ) {
        let [y] = self.activation.apply(simd, [z]);
        let within = lanes_within(units.len(), 0);
        if let Some(Quantized { rows, lists, inverse, offset, least, out_of_range }) =
            &mut self.bytes
        {
            let mut q = y;
            if let Some(inverse) = inverse {
                // SAFETY: the lanes of `index` are units or 0, and `inverse` has an entry for each.
                let inverse = unsafe { simd.gather(inverse, index) };
                q = simd.add(simd.mul(q, inverse), simd.splat(*offset));
            }
            let below = *least != f32::NEG_INFINITY
                && simd.not_at_most(simd.splat(*least), simd.keep(within, q)) != 0;
            let q = simd.to_bytes(q);
            if below || simd.above(q, simd.splat_i32(254)) & within != 0 {
                out_of_range[row].store(true, Ordering::Relaxed);
            }
            if let Some(rows) = rows {
                let (out, mut bytes) = (rows.row(row), [0; LANES]);
                // SAFETY: `bytes` has 16 entries.
                unsafe { simd.store_bytes(bytes.as_mut_ptr(), q) }
                units.iter().zip(bytes).for_each(|(unit, byte)| out[*unit as usize] = byte);
            }
            if let Some(lists) = lists {
                let (columns, value, len) = lists.end(row);
                let mask = within & simd.nonzero_i32(q);
                // SAFETY: a row stores a unit once, and its region has room for all, rounded up to
                // vectors, and 16 more.
                unsafe {
                    simd.compress_shorts(columns, mask, index);
                    simd.compress_bytes(value, mask, q);
                }
                *len += mask.count_ones() as usize;
            }
        }
        if let Some(dense) = &mut self.dense {
            let (out, mut values) = (dense.row(row), [0.0; LANES]);
            // SAFETY: `values` has 16 entries.
            unsafe { simd.store(values.as_mut_ptr(), y) }
            units.iter().zip(values).for_each(|(unit, y)| out[*unit as usize] = y);
        }
        if let Some(lists) = &mut self.lists {
            let (columns, value, len) = lists.end(row);
            let mask = within & simd.nonzero(y);
            // SAFETY: as above.
            unsafe {
                simd.compress_words(columns, mask, index);
                simd.compress(value, mask, y);
            }
            *len += mask.count_ones() as usize;
        }
    }
}

/// Up to sixteen ascending units as lanes. The other lanes are 0.
#[inline(always)]
fn lanes_of<S: Simd>(simd: S, units: &[u32], outputs: usize) -> S::I32 {
    assert!(units.last().is_none_or(|last| (*last as usize) < outputs));
    let mut lanes = [0; LANES];
    lanes[..units.len()].copy_from_slice(units);
    // SAFETY: `lanes` has 16 entries.
    unsafe { simd.load_i32(lanes.as_ptr()) }
}

/// One lane of [`Simd::to_bytes`].
#[inline(always)]
pub(crate) fn to_byte(v: f32) -> u8 {
    v.round_ties_even() as u8
}

impl Epilogue<Floats> for Output<'_> {
    #[inline(always)]
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        mut sums: [S::F32; V],
    ) {
        let bias = &self.bias[column..column + V * LANES];
        for (v, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `bias` has V vectors.
            *sum = unsafe { simd.add(*sum, simd.load(bias.as_ptr().add(v * LANES))) };
        }
        self.store_pre_activations(simd, row, column, sums);
    }
}

impl SelectedEpilogue<Floats> for Output<'_> {
    #[inline(always)]
    fn store_selected<S: Simd>(&mut self, simd: S, row: usize, units: &[u32], sums: &[f32; LANES]) {
        let index = lanes_of(simd, units, self.bias.len());
        // SAFETY: `sums` has 16 entries. Units ascend, so all are within the bias.
        let z = unsafe { simd.add(simd.load(sums.as_ptr()), simd.gather(self.bias, index)) };
        self.store_selected_pre_activations(simd, row, units, index, z);
    }
}

impl Epilogue<Bytes> for Output<'_> {
    #[inline(always)]
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        sums: [S::I32; V],
    ) {
        let z = scaled(simd, sums, &self.scale[column..], &self.bias[column..]);
        self.store_pre_activations(simd, row, column, z);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn store_rows<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        column: usize,
        sums: &[u32],
    ) {
        let (scale, bias) = (self.scale, self.bias);
        let Some((bytes, out_of_range)) = self.only_bytes().filter(|_| V == 4) else {
            return store_each::<S, Bytes, _, V>(self, simd, rows, column, sums);
        };
        let (scale, bias) = (&scale[column..][..PANEL], &bias[column..][..PANEL]);
        for (row, sums) in rows.zip(sums.chunks_exact(PANEL)) {
            // SAFETY: four vectors.
            let sums = from_fn(|v| unsafe { simd.load_i32(sums.as_ptr().add(v * LANES)) });
            let out = bytes.part(row, column, PANEL);
            assert_eq!(out.len(), PANEL);
            // Negative values become byte 0. SAFETY: `out` has 64 entries.
            unsafe {
                simd.store_bytes4(out.as_mut_ptr(), scaled::<S, 4>(simd, sums, scale, bias));
                if simd.any_full_of_64(out.as_ptr()) {
                    out_of_range[row].store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

impl SelectedEpilogue<Bytes> for Output<'_> {
    #[inline(always)]
    fn store_selected<S: Simd>(&mut self, simd: S, row: usize, units: &[u32], sums: &[i32; LANES]) {
        let index = lanes_of(simd, units, self.scale.len().min(self.bias.len()));
        // SAFETY: `sums` has 16 entries. Units ascend, so all are within the scale and the bias.
        let z = unsafe {
            let sums = simd.to_f32(simd.load_i32(sums.as_ptr().cast()));
            let scaled = simd.mul(sums, simd.gather(self.scale, index));
            simd.add(scaled, simd.gather(self.bias, index))
        };
        self.store_selected_pre_activations(simd, row, units, index, z);
    }
}

/// `sums scale + bias`, not fused, so that it is the same on every instruction set.
#[inline(always)]
fn scaled<S: Simd, const V: usize>(
    simd: S,
    sums: [S::I32; V],
    scale: &[f32],
    bias: &[f32],
) -> [S::F32; V] {
    let (scale, bias) = (&scale[..V * LANES], &bias[..V * LANES]);
    let mut z = [simd.splat(0.0); V];
    for (v, (z, sum)) in z.iter_mut().zip(sums).enumerate() {
        // SAFETY: both have V vectors.
        unsafe {
            let scaled = simd.mul(simd.to_f32(sum), simd.load(scale.as_ptr().add(v * LANES)));
            *z = simd.add(scaled, simd.load(bias.as_ptr().add(v * LANES)));
        }
    }
    z
}

/// Bit i is set if `column + i` is below `columns`.
#[inline(always)]
pub(crate) fn lanes_within(columns: usize, column: usize) -> u16 {
    let left = columns.saturating_sub(column);
    if left < LANES { (1 << left) - 1 } else { u16::MAX }
}

/// Stores the sums as dense rows padded to whole vectors: the gate's low-rank intermediate.
pub(crate) struct Sums<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) stride: usize,
}

impl Epilogue<Floats> for Sums<'_> {
    #[inline(always)]
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        sums: [S::F32; V],
    ) {
        let out = &mut self.data[row * self.stride + column..][..V * LANES];
        for (out, sum) in out.chunks_exact_mut(LANES).zip(sums) {
            // SAFETY: `out` has 16 entries.
            unsafe { simd.store(out.as_mut_ptr(), sum) }
        }
    }
}

/// Stores the sums as bytes, `sum scale + bias` rounded: the low-rank intermediate of an int8 gate.
pub(crate) struct ByteSums<'a> {
    pub(crate) scale: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) rows: ByteRowsMut<'a>,
}

impl Epilogue<Bytes> for ByteSums<'_> {
    #[inline(always)]
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        sums: [S::I32; V],
    ) {
        let t = scaled(simd, sums, &self.scale[column..], &self.bias[column..]);
        let out = &mut self.rows.row(row)[column..column + V * LANES];
        for (out, t) in out.chunks_exact_mut(LANES).zip(t) {
            // SAFETY: `out` has 16 entries.
            unsafe { simd.store_bytes(out.as_mut_ptr(), simd.to_bytes(t)) }
        }
    }
}

/// The decision of an int8 gate: lists the units whose score is above their threshold.
pub(crate) struct LiveBytes<'a> {
    /// i32, padded to whole vectors with the largest value, which no score exceeds.
    pub(crate) threshold: &'a [u32],
    pub(crate) index: &'a mut [u32],
    pub(crate) row_ranges: &'a mut [RowRange],
}

impl Epilogue<Bytes> for LiveBytes<'_> {
    #[inline(always)]
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        sums: [S::I32; V],
    ) {
        let threshold = &self.threshold[column..column + V * LANES];
        let mut masks = [0; V];
        for (v, (mask, sum)) in masks.iter_mut().zip(sums).enumerate() {
            // SAFETY: `threshold` has V vectors.
            let threshold = unsafe { simd.load_i32(threshold.as_ptr().add(v * LANES)) };
            *mask = simd.above(sum, threshold);
        }
        append_live(simd, self.index, &mut self.row_ranges[row], column, masks);
    }
}

/// The decision of an f32 gate: lists the units whose score plus bias is positive or NaN.
pub(crate) struct Live<'a> {
    /// Zero-padded to whole vectors.
    pub(crate) bias: &'a [f32],
    pub(crate) units: usize,
    pub(crate) index: &'a mut [u32],
    pub(crate) row_ranges: &'a mut [RowRange],
}

impl Epilogue<Floats> for Live<'_> {
    #[inline(always)]
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        sums: [S::F32; V],
    ) {
        let bias = &self.bias[column..column + V * LANES];
        let mut masks = [0; V];
        for (v, (mask, sum)) in masks.iter_mut().zip(sums).enumerate() {
            // SAFETY: `bias` has V vectors.
            let bias = unsafe { simd.load(bias.as_ptr().add(v * LANES)) };
            let live = simd.not_at_most(simd.add(sum, bias), simd.splat(0.0));
            *mask = live & lanes_within(self.units, column + v * LANES);
        }
        append_live(simd, self.index, &mut self.row_ranges[row], column, masks);
    }
}

/// Appends the units of V vectors that are on.
#[inline(always)]
fn append_live<S: Simd, const V: usize>(
    simd: S,
    index: &mut [u32],
    row_range: &mut RowRange,
    column: usize,
    masks: [u16; V],
) {
    let mut end = row_range.start + row_range.len;
    // Compressed vectors are stored whole.
    let out = &mut index[..end + V * LANES];
    for (v, mask) in masks.into_iter().enumerate() {
        let column = (column + v * LANES) as u32;
        // SAFETY: `out` has 16 entries from `end` on, since each vector moved it by at most 16.
        unsafe { simd.compress_index(out.as_mut_ptr().add(end), mask, column) }
        end += mask.count_ones() as usize;
    }
    row_range.len = end - row_range.start;
}
