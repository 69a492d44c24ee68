//! Finds the non-zero entries of rows that come from outside.

use super::emit::lanes_within;
use super::{ByteRowsMut, DenseRows, DenseRowsMut, ListsMut, fill_fours, padded};
use crate::simd::{Kernel, LANES, Simd};

/// Lists the non-zeros of dense f32 rows. NaN counts as non-zero.
pub(crate) struct Scan<'a> {
    pub(crate) rows: DenseRows<'a>,
    pub(crate) lists: ListsMut<'a>,
}

impl Kernel for Scan<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for r in 0..self.rows.rows() {
            let row = self.rows.row(r);
            let mut column = 0;
            while column < row.len() {
                let rest = &row[column..];
                let v = if rest.len() >= LANES {
                    // SAFETY: 16 entries are left.
                    unsafe { simd.load(rest.as_ptr()) }
                } else {
                    // SAFETY: `len < 16` entries are left.
                    unsafe { simd.load_partial(rest.as_ptr(), rest.len()) }
                };
                append(simd, &mut self.lists, r, column, v);
                column += LANES;
            }
        }
    }
}

/// Lists the bytes of rows of bytes that are not zero, as [`super::ByteLists`] has them.
pub(crate) struct ScanBytes<'a> {
    /// With their padding up to whole vectors of words.
    pub(crate) rows: DenseRows<'a, u32>,
    pub(crate) columns: usize,
    pub(crate) lists: ListsMut<'a, u8>,
}

impl Kernel for ScanBytes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        assert!(self.columns.next_multiple_of(LANES) <= 4 * self.rows.columns());
        for r in 0..self.rows.rows() {
            let bytes = self.rows.row(r).as_ptr().cast::<u8>();
            for column in (0..self.columns).step_by(LANES) {
                // SAFETY: the row has its columns rounded up to vectors. A row appends at most
                // `column` entries before this vector, and its region has room for its columns
                // rounded up to vectors and 16 more.
                unsafe {
                    let v = simd.load_bytes(bytes.add(column));
                    let mask = simd.nonzero_i32(v) & lanes_within(self.columns, column);
                    let (index, value, len) = self.lists.end(r);
                    simd.compress_index(index, mask, column as u32);
                    simd.compress_bytes(value, mask, v);
                    *len += mask.count_ones() as usize;
                }
            }
        }
        let spans = &mut self.lists.spans[..self.rows.rows()];
        fill_fours(self.lists.index, self.lists.value, spans);
    }
}

/// Makes bytes of f32 rows: `x inverse + offset`, rounded, per column. Tells which rows hold a value
/// that is not finite.
pub(crate) struct Quantize<'a> {
    pub(crate) rows: DenseRows<'a>,
    /// One for all columns, or one each, padded to whole vectors.
    pub(crate) inverse: &'a [f32],
    pub(crate) offset: &'a [f32],
    pub(crate) bytes: ByteRowsMut<'a>,
    /// Set for a row that is not finite; never cleared.
    pub(crate) invalid: &'a mut [bool],
}

impl Kernel for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let columns = self.rows.columns();
        let constant = self.inverse.len() == 1;
        assert!(constant || self.inverse.len() >= padded(columns));
        assert_eq!(self.inverse.len(), self.offset.len());
        for r in 0..self.rows.rows() {
            let row = self.rows.row(r);
            let bytes = self.bytes.row(r);
            // x - x is NaN where x is not finite.
            let mut finite = simd.splat(0.0);
            for column in (0..columns).step_by(LANES) {
                let rest = &row[column..];
                let out = &mut bytes[column..column + LANES];
                let at = if constant { 0 } else { column };
                // SAFETY: 16 columns are left, or as many as are read; the factors are one, or are
                // padded to whole vectors; `out` has 16 entries.
                unsafe {
                    let x = if rest.len() >= LANES {
                        simd.load(rest.as_ptr())
                    } else {
                        simd.load_partial(rest.as_ptr(), rest.len())
                    };
                    let (inverse, offset) = if constant {
                        (simd.splat(self.inverse[0]), simd.splat(self.offset[0]))
                    } else {
                        (
                            simd.load(self.inverse[at..].as_ptr()),
                            simd.load(self.offset[at..].as_ptr()),
                        )
                    };
                    finite = simd.add(finite, simd.add(x, simd.mul(x, simd.splat(-1.0))));
                    let q = simd.to_bytes(simd.add(simd.mul(x, inverse), offset));
                    simd.store_bytes(out.as_mut_ptr(), q);
                }
            }
            // What is read past the columns is multiplied with zero weights; but a group of zeros
            // is to be one.
            bytes[columns..].fill(0);
            self.invalid[r] |= simd.nonzero(finite) != 0;
        }
    }
}

/// Converts uint8 rows to f32, into dense rows, lists of non-zeros, or both.
pub(crate) struct FromBytes<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) dense: Option<DenseRowsMut<'a>>,
    pub(crate) lists: Option<ListsMut<'a>>,
}

impl Kernel for FromBytes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for r in 0..self.rows {
            let row = &self.data[r * self.stride..r * self.stride + self.columns];
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
                if let Some(lists) = &mut self.lists {
                    append(simd, lists, r, column, v);
                }
                column += LANES;
            }
        }
    }
}

#[inline(always)]
fn append<S: Simd>(simd: S, lists: &mut ListsMut<'_>, row: usize, column: usize, v: S::F32) {
    let mask = simd.nonzero(v);
    let (index, value, len) = lists.end(row);
    // SAFETY: a row appends at most `column` entries before this vector, and its region has room
    // for its columns rounded up to vectors and 16 more.
    unsafe {
        simd.compress_index(index, mask, column as u32);
        simd.compress(value, mask, v);
    }
    *len += mask.count_ones() as usize;
}
