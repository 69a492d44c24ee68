//! Finds the non-zero entries of rows that come from outside.

use super::{DenseRows, DenseRowsMut, ListsMut};
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
