//! Finds the non-zero entries of rows: the caller's, or those of a layer's finished output.

use std::sync::atomic::{AtomicBool, Ordering};

use super::epilogue::lanes_within;
use crate::layout::{PANEL, padded};
use crate::signal::{ByteRowsMut, DenseRows, DenseRowsMut, SparseRowsMut, fill_fours};
use crate::simd::{Kernel, LANES, Simd};

/// Lists the non-zeros of dense f32 rows. NaN counts as non-zero.
pub(crate) struct Scan<'a> {
    pub(crate) rows: DenseRows<'a>,
    pub(crate) lists: SparseRowsMut<'a>,
}

impl Kernel for Scan<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for r in 0..self.rows.rows() {
            let row = self.rows.row(r);
            let (index, value, len) = self.lists.end(r);
            let mut end = *len;
            for column in (0..row.len()).step_by(LANES) {
                let rest = &row[column..];
                // SAFETY: 16 entries are left, or as many as are read.
                let v = unsafe {
                    if rest.len() >= LANES {
                        simd.load(rest.as_ptr())
                    } else {
                        simd.load_partial(rest.as_ptr(), rest.len())
                    }
                };
                // SAFETY: a row appends at most `column` entries before this vector, and its region
                // has room for its columns rounded up to vectors and 16 more.
                end += unsafe { append(simd, index.add(end), value.add(end), column, v) };
            }
            *len = end;
        }
    }
}

/// Lists the non-zero bytes of byte rows as [`crate::signal::SparseByteRows`].
pub(crate) struct ScanBytes<'a> {
    /// Rows with their padding to whole vectors of words.
    pub(crate) rows: DenseRows<'a, u32>,
    pub(crate) columns: usize,
    pub(crate) lists: SparseRowsMut<'a, u8, u16>,
}

impl Kernel for ScanBytes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        assert!(self.columns.next_multiple_of(PANEL) <= 4 * self.rows.columns());
        for r in 0..self.rows.rows() {
            let bytes = self.rows.row(r).as_ptr().cast::<u8>();
            let (index, value, len) = self.lists.end(r);
            // Kept in a register, because every line depends on it.
            let mut end = *len;
            for column in (0..self.columns).step_by(PANEL) {
                // SAFETY: the row has its columns rounded up to lines of 64. A row appends at most
                // `column` entries before this line, and its region has room for its columns
                // rounded up to lines and 64 more.
                unsafe {
                    let line = bytes.add(column);
                    let mask = simd.nonzero_bytes(simd.load_i32(line.cast()));
                    let mask = mask & first_bits(self.columns - column);
                    simd.compress_line(index.add(end), value.add(end), mask, line, column as u16);
                    end += mask.count_ones() as usize;
                }
            }
            *len = end;
        }
        let row_ranges = &mut self.lists.row_ranges[..self.rows.rows()];
        fill_fours(self.lists.index, self.lists.value, row_ranges);
    }
}

/// The lowest `n` of 64 bits are set.
#[inline(always)]
fn first_bits(n: usize) -> u64 {
    if n < 64 { (1 << n) - 1 } else { u64::MAX }
}

/// Lists the non-zero words of pairs of rows as [`crate::signal::SparsePairs`]. A last single row
/// is paired with itself.
pub(crate) struct ScanPairs<'a> {
    /// Rows with their padding to whole vectors of words.
    pub(crate) rows: DenseRows<'a, u32>,
    pub(crate) lists: SparseRowsMut<'a, u32>,
}

impl Kernel for ScanPairs<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (n, columns) = (self.rows.rows(), self.lists.columns());
        let (index, value) = (self.lists.index.as_mut_ptr(), self.lists.value.as_mut_ptr());
        assert!(padded(columns) <= self.rows.columns());
        for r in (0..n).step_by(2) {
            let second = (r + 1).min(n - 1);
            let (a, b) = (self.rows.row(r).as_ptr(), self.rows.row(second).as_ptr());
            let starts = [r, second].map(|row| self.lists.row_ranges[row].start);
            let mut end = 0;
            for column in (0..columns).step_by(LANES) {
                // SAFETY: a row has its words rounded up to vectors. A row appends at most `column`
                // entries before this vector, and its region has room for its columns rounded up to
                // vectors and 16 more.
                unsafe {
                    let (a, b) = (simd.load_i32(a.add(column)), simd.load_i32(b.add(column)));
                    let mask = simd.nonzero_i32(a) | simd.nonzero_i32(b);
                    let mask = mask & lanes_within(columns, column);
                    simd.compress_index(index.add(starts[0] + end), mask, column as u32);
                    simd.compress_words(value.add(starts[0] + end), mask, a);
                    simd.compress_words(value.add(starts[1] + end), mask, b);
                    end += mask.count_ones() as usize;
                }
            }
            self.lists.row_ranges[r].len = end;
            self.lists.row_ranges[second].len = end;
        }
    }
}

/// Counts the entries that the two forms of lists would have.
pub(crate) struct CountBytes<'a> {
    /// Rows with their padding to whole vectors of words.
    pub(crate) rows: DenseRows<'a, u32>,
}

impl Kernel for CountBytes<'_> {
    /// Non-zero bytes; words that are non-zero in at least one row of their pair.
    type Output = (usize, usize);
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (usize, usize) {
        let (n, mut bytes, mut words) = (self.rows.rows(), 0, 0);
        for r in (0..n).step_by(2) {
            let (a, b) = (self.rows.row(r), self.rows.row((r + 1).min(n - 1)));
            for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
                // SAFETY: both have 16 words.
                let (a, b) = unsafe { (simd.load_i32(a.as_ptr()), simd.load_i32(b.as_ptr())) };
                words += (simd.nonzero_i32(a) | simd.nonzero_i32(b)).count_ones() as usize;
                bytes += simd.nonzero_bytes(a).count_ones() as usize;
                if r + 1 < n {
                    bytes += simd.nonzero_bytes(b).count_ones() as usize;
                }
            }
        }
        (bytes, words)
    }
}

/// Quantises f32 rows: `x inverse + offset`, rounded, per column. Marks rows with a value that is
/// not finite.
pub(crate) struct Quantize<'a> {
    pub(crate) rows: DenseRows<'a>,
    /// One for all columns, or one per column, padded to whole vectors.
    pub(crate) inverse: &'a [f32],
    pub(crate) offset: &'a [f32],
    pub(crate) bytes: ByteRowsMut<'a>,
    /// Set for rows with a value that is not finite. Never cleared.
    pub(crate) non_finite: &'a mut [bool],
    /// If given, set for finite rows with a value outside `range` before rounding. Never cleared.
    pub(crate) out_of_range: Option<&'a [AtomicBool]>,
    pub(crate) range: (f32, f32),
}

/// Range of a network's inputs: one step beyond the bytes, slightly more than rounding allows.
pub(crate) const INPUT_RANGE: (f32, f32) = (-1.0, 256.0);

/// Range of a hidden layer's inputs, as in the epilogue, which marks rows with a byte of 255.
pub(crate) const HIDDEN_RANGE: (f32, f32) = (super::epilogue::LEAST_BYTE, 254.5);

/// Prefetch distance in values: loading a row from outside the near caches takes as long as
/// processing it.
const AHEAD: usize = 1024;

/// Copies byte rows unchanged and pads them with zeros.
pub(crate) struct CopyBytes<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) bytes: ByteRowsMut<'a>,
}

impl Kernel for CopyBytes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for r in 0..self.rows {
            let from = &self.data[r * self.stride..r * self.stride + self.columns];
            let to = self.bytes.row(r);
            let (lines, rest) = from.as_chunks::<64>();
            let (to_lines, to_rest) = to.split_at_mut(64 * lines.len());
            for (from, to) in lines.iter().zip(to_lines.chunks_exact_mut(64)) {
                simd.prefetch(from.as_ptr().wrapping_add(AHEAD));
                // SAFETY: both have 64 bytes, and neither operation needs alignment.
                unsafe {
                    let line = simd.load_i32(from.as_ptr().cast());
                    simd.store_i32(to.as_mut_ptr().cast(), line);
                }
            }
            to_rest[..rest.len()].copy_from_slice(rest);
            to_rest[rest.len()..].fill(0);
        }
    }
}

impl Kernel for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.inverse.len(), self.offset.len());
        let narrow = self.rows.columns() < PANEL;
        if self.inverse.len() == 1 {
            if narrow { self.rows::<S, true, 1>(simd) } else { self.rows::<S, true, 4>(simd) }
        } else {
            assert!(self.inverse.len() >= padded(self.rows.columns()));
            if narrow { self.rows::<S, false, 1>(simd) } else { self.rows::<S, false, 4>(simd) }
        }
    }
}

impl Quantize<'_> {
    /// Quantises all rows; with one factor and offset if `ONE`, else with one per column. V is the
    /// number of vectors for which values are checked side by side: 1 if rows have less than four.
    #[inline(always)]
    fn rows<S: Simd, const ONE: bool, const V: usize>(self, simd: S) {
        let Quantize { rows, inverse, offset, mut bytes, non_finite, out_of_range, range } = self;
        let columns = rows.columns();
        for (r, non_finite) in non_finite[..rows.rows()].iter_mut().enumerate() {
            let row = rows.row(r);
            let bytes = bytes.row(r);
            if r == 0 {
                for line in row.chunks(LANES).take(AHEAD / LANES) {
                    simd.prefetch(line.as_ptr());
                }
            }
            // x times 0 is NaN if x is not finite.
            let mut finite = [simd.splat(0.0); V];
            let (mut least, mut most) = ([simd.splat(0.0); V], [simd.splat(0.0); V]);
            let mut column = 0;
            while V == 4 && column + PANEL <= columns {
                let mut q = [simd.splat(0.0); 4];
                for (v, q) in q.iter_mut().enumerate() {
                    let at = column + v * LANES;
                    let x = &row[at..at + LANES];
                    simd.prefetch(x.as_ptr().wrapping_add(AHEAD));
                    // SAFETY: `x` has 16 entries.
                    let x = unsafe { simd.load(x.as_ptr()) };
                    finite[v] = simd.mul_add(x, simd.splat(0.0), finite[v]);
                    *q = quantize::<S, ONE>(simd, x, inverse, offset, at);
                    (least[v], most[v]) = (simd.at_most(*q, least[v]), simd.at_least(*q, most[v]));
                }
                let out = &mut bytes[column..column + PANEL];
                // SAFETY: `out` has 64 entries.
                unsafe { simd.store_bytes4(out.as_mut_ptr(), q) }
                column += PANEL;
            }
            while column < columns {
                let rest = &row[column..];
                let out = &mut bytes[column..column + LANES];
                // SAFETY: 16 columns are left, or as many as are read; `out` has 16 entries.
                unsafe {
                    let x = if rest.len() >= LANES {
                        simd.load(rest.as_ptr())
                    } else {
                        simd.load_partial(rest.as_ptr(), rest.len())
                    };
                    finite[0] = simd.mul_add(x, simd.splat(0.0), finite[0]);
                    let q = quantize::<S, ONE>(simd, x, inverse, offset, column);
                    simd.store_bytes(out.as_mut_ptr(), simd.to_bytes(q));
                    // Values past the columns are arbitrary.
                    let q = simd.keep(lanes_within(columns, column), q);
                    (least[0], most[0]) = (simd.at_most(q, least[0]), simd.at_least(q, most[0]));
                }
                column += LANES;
            }
            // Padding is multiplied with zero weights, but must be zero so that groups of zeros are
            // recognised.
            bytes[columns..].fill(0);
            let mut sum = finite[0];
            for finite in &finite[1..] {
                sum = simd.add(sum, *finite);
            }
            *non_finite |= simd.nonzero(sum) != 0;
            if let Some(out_of_range) = out_of_range {
                let (below, above) = (simd.splat(range.0), simd.splat(range.1));
                let mut outside = 0;
                for (least, most) in least.into_iter().zip(most) {
                    outside |= simd.not_at_most(below, least) | simd.not_at_most(most, above);
                }
                if outside != 0 && !*non_finite {
                    out_of_range[r].store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The values of sixteen columns before rounding: `x inverse + offset`.
#[inline(always)]
fn quantize<S: Simd, const ONE: bool>(
    simd: S,
    x: S::F32,
    inverse: &[f32],
    offset: &[f32],
    column: usize,
) -> S::F32 {
    let (inverse, offset) = if ONE {
        (simd.splat(inverse[0]), simd.splat(offset[0]))
    } else {
        let (inverse, offset) = (&inverse[column..column + LANES], &offset[column..column + LANES]);
        // SAFETY: both have 16 entries.
        unsafe { (simd.load(inverse.as_ptr()), simd.load(offset.as_ptr())) }
    };
    simd.add(simd.mul(x, inverse), offset)
}

/// Converts uint8 rows to f32: to dense rows, lists of non-zeros, or both.
pub(crate) struct FromBytes<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) dense: Option<DenseRowsMut<'a>>,
    pub(crate) lists: Option<SparseRowsMut<'a>>,
}

impl Kernel for FromBytes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for r in 0..self.rows {
            let row = &self.data[r * self.stride..r * self.stride + self.columns];
            let mut lists = self.lists.as_mut().map(|lists| lists.end(r));
            let mut column = 0;
            while column < row.len() {
                let rest = &row[column..];
                let v = if rest.len() >= LANES {
                    // SAFETY: 16 bytes are left.
                    unsafe { simd.load_u8(rest.as_ptr()) }
                } else {
                    let mut bytes = [0u8; LANES];
                    bytes[..rest.len()].copy_from_slice(rest);
                    // SAFETY: `bytes` has 16 entries.
                    unsafe { simd.load_u8(bytes.as_ptr()) }
                };
                if let Some(dense) = &mut self.dense {
                    let out = &mut dense.row(r)[column..];
                    if out.len() >= LANES {
                        // SAFETY: 16 columns are left.
                        unsafe { simd.store(out.as_mut_ptr(), v) }
                    } else {
                        // SAFETY: `len < 16` columns are left.
                        unsafe { simd.store_partial(out.as_mut_ptr(), out.len(), v) }
                    }
                }
                if let Some((index, value, len)) = &mut lists {
                    // SAFETY: as in `Scan`.
                    **len += unsafe { append(simd, index.add(**len), value.add(**len), column, v) };
                }
                column += LANES;
            }
        }
    }
}

/// Stores the non-zeros of a vector and returns their number.
///
/// # Safety
/// `index` and `value` must be valid for writing 16 entries.
#[inline(always)]
unsafe fn append<S: Simd>(
    simd: S,
    index: *mut u32,
    value: *mut f32,
    column: usize,
    v: S::F32,
) -> usize {
    let mask = simd.nonzero(v);
    // SAFETY: the caller's promise.
    unsafe {
        simd.compress_index(index, mask, column as u32);
        simd.compress(value, mask, v);
    }
    mask.count_ones() as usize
}
