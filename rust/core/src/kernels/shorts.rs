//! Dense rows of bytes times packed panels, with AVX2 alone.
//!
//! ```text
//! for block of rows:
//!     list the words of each row that have a byte of 128 or more
//!     for panel:                          # 64 units
//!         for group of four rows:
//!             for row:  sums = high bits of the words listed x weights
//!             for vector of the panel:
//!                 for word:  sums += lower bits x weights
//!             epilogue(sums)
//! ```
//!
//! The instruction that multiplies bytes sums two products in 16 bits. That saturates for bytes of 128
//! or more, but neither for their lower seven bits nor for their high bit, which is rarely set: windows
//! hold the largest values, and most are much smaller. Where it is set often, as in inputs around an
//! offset of 128, even and odd bytes are multiplied with 16 bits each. Sums are exact either way, so
//! they equal those of other instruction sets.

use std::array::from_fn;
use std::cell::Cell;
use std::ops::Range;

use super::arithmetic::Bytes;
use super::epilogue::Epilogue;
use crate::layout::{PANEL, Panels};
use crate::memory::{Aligned, zeros};
use crate::signal::DenseRows;
use crate::simd::shorts::Shorts;
use crate::simd::{LANES, Simd};

/// The least number of words of a single row with which this takes less time than vectors of bytes.
pub(crate) const LEAST_WORDS: usize = 24;

/// Rows of a group.
const GROUP: usize = Shorts::ROWS;

/// The most rows of a block.
const BLOCK: usize = 16 * GROUP;

/// The most entries of the lists of a block of more than one group. Few of them are written.
const LISTED: usize = 1 << 16;

/// The share of words with high bits up to which these are multiplied on their own.
const MOST_HIGH: f32 = 0.4;

thread_local! {
    /// The lists of a block. The buffer is reused by the thread's next pass.
    static LISTS: Cell<Aligned<u16>> = Cell::new(Aligned::new(64));
}

/// Multiplies each dense row with panels, as `RowsTimesPanels` does.
pub(crate) struct RowsTimesShorts<'a, E> {
    pub(crate) shorts: Shorts,
    pub(crate) rows: DenseRows<'a, u32>,
    pub(crate) panels: &'a Panels<u32>,
    /// Range of panel numbers.
    pub(crate) which: Range<usize>,
    pub(crate) epilogue: &'a mut E,
}

/// Sums of a group of rows by a panel.
type Sums = [u32; GROUP * PANEL];

impl<E: Epilogue<Bytes>> RowsTimesShorts<'_, E> {
    #[inline(always)]
    pub(crate) fn run<S: Simd>(mut self, simd: S) {
        let (n, words) = (self.rows.rows(), self.rows.columns());
        assert_eq!(words, self.panels.inputs());
        let size = (LISTED / words.max(1) / GROUP * GROUP).clamp(GROUP, BLOCK).min(n.max(1));
        let mut lists = LISTS.replace(Aligned::new(64));
        if lists.len() < size * words {
            lists = zeros(size * words);
        }
        let mut sums = [0; GROUP * PANEL];
        for start in (0..n).step_by(size) {
            let end = n.min(start + size);
            let mut counts = [0; BLOCK];
            for (row, count) in (start..end).zip(&mut counts) {
                let list = &mut lists[(row - start) * words..][..words];
                *count = self.shorts.list(self.rows.row(row), list);
            }
            for p in self.which.clone() {
                for row in (start..end).step_by(GROUP) {
                    let lists = Lists {
                        words: &lists[(row - start) * words..],
                        counts: &counts[row - start..],
                    };
                    match end - row {
                        1 => self.times::<S, 1>(simd, row, &lists, p, &mut sums),
                        2 => self.times::<S, 2>(simd, row, &lists, p, &mut sums),
                        3 => self.times::<S, 3>(simd, row, &lists, p, &mut sums),
                        _ => self.times::<S, GROUP>(simd, row, &lists, p, &mut sums),
                    }
                }
            }
        }
        LISTS.set(lists);
    }

    /// R rows from `row` on times panel `p`.
    #[inline(always)]
    fn times<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        row: usize,
        lists: &Lists<'_>,
        p: usize,
        sums: &mut Sums,
    ) {
        let (first, vectors, weights) = self.panels.panel(p);
        let (words, width) = (self.rows.columns(), vectors * LANES);
        assert_eq!(weights.len(), words * width);
        let x: [&[u32]; R] = from_fn(|r| self.rows.row(row + r));
        let count = lists.counts[..R].iter().sum::<usize>();
        let high = match count as f32 / (R * words) as f32 {
            ..=0.0 => High::None,
            ..=MOST_HIGH => High::Some,
            _ => High::Many,
        };
        if high == High::Some {
            for (r, x) in x.iter().enumerate() {
                let list = &lists.words[r * words..][..lists.counts[r]];
                let (w, sums) = (weights.as_ptr(), sums[r * width..].as_mut_ptr());
                // SAFETY: every word has `width` weights, and lists have words of the row.
                unsafe {
                    match vectors {
                        4 => self.shorts.multiply_high::<4>(x, list, w, width, sums),
                        3 => self.shorts.multiply_high::<3>(x, list, w, width, sums),
                        2 => self.shorts.multiply_high::<2>(x, list, w, width, sums),
                        _ => self.shorts.multiply_high::<1>(x, list, w, width, sums),
                    }
                }
            }
        }
        let mut v = 0;
        while v < vectors {
            let (w, sums) = (weights[v * LANES..].as_ptr(), sums[v * LANES..].as_mut_ptr());
            // SAFETY: every word has `width` weights, and every row as many sums.
            v += unsafe {
                match vectors - v {
                    4.. if R == 1 => self.vectors::<R, 4>(high, &x, w, width, sums),
                    2.. if R <= 2 => self.vectors::<R, 2>(high, &x, w, width, sums),
                    _ => self.vectors::<R, 1>(high, &x, w, width, sums),
                }
            };
        }
        let (rows, sums) = (row..row + R, &sums[..R * width]);
        match vectors {
            4 => self.epilogue.store_rows::<S, 4>(simd, rows, first, sums),
            3 => self.epilogue.store_rows::<S, 3>(simd, rows, first, sums),
            2 => self.epilogue.store_rows::<S, 2>(simd, rows, first, sums),
            _ => self.epilogue.store_rows::<S, 1>(simd, rows, first, sums),
        }
    }

    /// R rows times V vectors, and returns V. The sums have the products of some high bits.
    ///
    /// # Safety
    /// As [`Shorts::add_low`].
    #[inline(always)]
    unsafe fn vectors<const R: usize, const V: usize>(
        &self,
        high: High,
        x: &[&[u32]; R],
        w: *const u32,
        width: usize,
        sums: *mut u32,
    ) -> usize {
        let words = self.rows.columns();
        // SAFETY: the caller's promise.
        unsafe {
            if high == High::Many {
                self.shorts.multiply::<R, V>(x, words, w, width, sums);
            } else {
                let add = high == High::Some;
                self.shorts.add_low::<R, V>(add, x, words, w, width, sums);
            }
        }
        V
    }
}

/// How many words of a group of rows have high bits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum High {
    None,
    /// Few, which are multiplied on their own.
    Some,
    Many,
}

/// The words with high bits of some rows.
struct Lists<'a> {
    /// As many entries for each row as it has words.
    words: &'a [u16],
    /// Entries that are used, by row.
    counts: &'a [usize],
}
