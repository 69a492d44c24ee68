//! Dense rows of bytes times packed panels, with products of AMX tiles.
//!
//! ```text
//! for block of rows:                  # all of them, if the weights may not stay in L2
//!     for panel:                      # 64 units
//!         for group of rows:          # 32; the last ones 16, some of them for the second time
//!             for half of the panel:  # 32 units
//!                 sums = 0            # up to 2 x 2 tiles
//!                 for 64 inputs:
//!                     sums += 2 tiles of rows x 2 tiles of weights
//!             epilogue(sums)
//! ```
//!
//! Four inputs of sixteen units are a line of a panel and of a tile, so tiles are loaded from the
//! panels that vectors use. Rows of bytes end with whole lines, whose padding may hold any bytes. So
//! the weights of a panel's last inputs are copied if they are fewer than 64, with zeros after them.
//! Sums that are computed again are not stored. Sums are exact, so they equal those of vectors.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::{ptr, slice};

use super::STAYS_IN_L2;
use super::arithmetic::Bytes;
use super::epilogue::Epilogue;
use crate::layout::{PANEL, Panels, padded};
use crate::signal::DenseRows;
use crate::simd::amx::{Amx, Products, TILE, Tiles};
use crate::simd::{Kernel, LANES, Simd};

/// The least product of rows, words of a row and vectors of units with which tiles take less time than
/// vectors. Measured on layers of 16 to 256 inputs and units.
const LEAST_WORK: usize = 1000;

/// Whether tiles take less time than vectors. With few rows reading the weights takes most of it.
pub(crate) fn are_faster(rows: usize, panels: &Panels<u32>, which: &Range<usize>) -> bool {
    let vectors = (which.len() * PANEL).min(padded(panels.outputs())) / LANES;
    rows >= if panels.bytes() <= STAYS_IN_L2 { 3 } else { 8 }
        && rows * panels.inputs() * vectors >= LEAST_WORK
}

/// Rows whose bytes stay in L1 while panels pass.
const BLOCK: usize = 2 * TILE;

/// Rows of two tiles.
const GROUP: usize = 2 * TILE;

/// Words of a row of a tile: 64 inputs.
const WORDS: usize = 16;

/// Multiplies each dense row with panels, as `RowsTimesPanels` does.
pub(crate) struct RowsTimesTiles<'a, E> {
    pub(crate) amx: Amx,
    pub(crate) rows: DenseRows<'a, u32>,
    pub(crate) panels: &'a Panels<u32>,
    /// Range of panel numbers.
    pub(crate) which: Range<usize>,
    pub(crate) epilogue: &'a mut E,
}

/// Memory that is aligned to cache lines.
#[repr(align(64))]
struct Lines<T>(T);

impl<E: Epilogue<Bytes>> Kernel for RowsTimesTiles<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.rows.columns(), self.panels.inputs());
        let Self { amx, rows, panels, which, epilogue } = self;
        let (rows, words, n) = (rows.padded(), panels.inputs(), rows.rows());
        if n == 0 {
            return;
        }
        let (tiles, rest) = (&amx.tiles(n.min(TILE)), words % WORDS);
        let size = if panels.bytes() <= STAYS_IN_L2 { BLOCK } else { n };
        let (mut sums, mut last) = (Lines(MaybeUninit::uninit()), Lines([0; WORDS * PANEL]));
        let (sums, last) = (&mut sums.0, &mut last.0);
        let mut padded = 0; // width of the panel whose padding `last` has
        for from in (0..n).step_by(size) {
            for p in which.clone() {
                let (first, vectors, weights) = panels.panel(p);
                let width = vectors * LANES;
                assert_eq!(weights.len(), words * width);
                let (weights, few) = weights.split_at((words - rest) * width);
                let last = (rest > 0).then(|| {
                    let last = &mut last[..WORDS * width];
                    last[..few.len()].copy_from_slice(few);
                    if padded != width {
                        last[few.len()..].fill(0);
                        padded = width;
                    }
                    &*last
                });
                let block = Block { tiles, rows, which: from..n.min(from + size), weights, last };
                match vectors {
                    4 => block.times::<S, E, 4>(simd, first, sums, epilogue),
                    3 => block.times::<S, E, 3>(simd, first, sums, epilogue),
                    2 => block.times::<S, E, 2>(simd, first, sums, epilogue),
                    _ => block.times::<S, E, 1>(simd, first, sums, epilogue),
                }
            }
        }
    }
}

/// Sums of a group of rows by a panel.
type Sums = MaybeUninit<[u32; GROUP * PANEL]>;

/// Some of the rows, and the weights of a panel that they are multiplied with.
struct Block<'a> {
    tiles: &'a Tiles,
    /// All rows, with their padding.
    rows: DenseRows<'a, u32>,
    which: Range<usize>,
    weights: &'a [u32],
    /// The weights of the last inputs, if they are fewer than 64.
    last: Option<&'a [u32]>,
}

impl Block<'_> {
    /// The rows times the panel's V vectors; the panel's first unit is `first`.
    #[inline(always)]
    fn times<S: Simd, E: Epilogue<Bytes>, const V: usize>(
        &self,
        simd: S,
        first: usize,
        sums: &mut Sums,
        epilogue: &mut E,
    ) {
        let Range { start: mut row, end } = self.which;
        while row < end {
            // The rows of a group before `row` have their results, and are not stored again.
            let (start, next) = if row + GROUP <= end {
                self.product::<V, 2>(row, sums);
                (row, row + GROUP)
            } else {
                let start = row.min(self.rows.rows().saturating_sub(TILE));
                self.product::<V, 1>(start, sums);
                (start, end.min(start + TILE))
            };
            // SAFETY: the product wrote V vectors for each row from `start` up to `next`.
            let sums = unsafe {
                let sums = sums.as_ptr().cast::<u32>().add((row - start) * V * LANES);
                slice::from_raw_parts(sums, (next - row) * V * LANES)
            };
            epilogue.store_rows::<S, V>(simd, row..next, first, sums);
            row = next;
        }
    }

    /// R tiles of rows, from `row` on, times V vectors.
    #[inline(always)]
    fn product<const V: usize, const R: usize>(&self, row: usize, sums: &mut Sums) {
        let ((x, stride), n) = (self.rows.starting_at(row), self.rows.rows().min(TILE) * R);
        let steps = self.weights.len() / (WORDS * V * LANES);
        let words = WORDS * (steps + usize::from(self.last.is_some()));
        assert!((n - 1) * stride + words <= x.len());
        for v in (0..V).step_by(2) {
            let at = v * LANES;
            let products = Products {
                rows: x.as_ptr(),
                row_stride: 4 * stride,
                weights: self.weights.as_ptr().wrapping_add(at),
                weight_stride: 4 * V * LANES,
                steps,
                last: self.last.map_or(ptr::null(), |last| last.as_ptr().wrapping_add(at)),
                sums: sums.as_mut_ptr().cast::<u32>().wrapping_add(at),
                sum_stride: 4 * V * LANES,
            };
            // SAFETY: there are R times as many rows as the tiles are configured for, 16 if there are
            // 32; words have V vectors of weights, and rows V of sums.
            unsafe {
                if v + 1 < V {
                    self.tiles.multiply::<R, 2>(&products);
                } else {
                    self.tiles.multiply::<R, 1>(&products);
                }
            }
        }
    }
}
