//! Lists of pairs of byte rows times panels: int8 skip and the int8 gate's estimate, in batches.
//!
//! ```text
//! for panel:                          # 64 units
//!     for pair of rows:
//!         sums = 0                    # two rows by four vectors of i32
//!         for (i, words) in list of pair:
//!             w = panel[i]            # four inputs by 64 units
//!             for row of pair: sums[row] += dot_bytes(w, words[row])
//!         epilogue(sums)
//! ```
//!
//! If non-zeros come in runs, as in images, whole words of four inputs are cheaper than
//! interleaving single inputs (`bytes.rs`): there are no shuffles, and both rows share the load of
//! a line and of its index. The form is chosen per tile by counting non-zeros in some of its rows
//! (`exec/read.rs`). Integer sums do not depend on the order, so the choice does not change
//! results.

use super::arithmetic::Bytes;
use super::dense::add_input;
use super::epilogue::Epilogue;
use super::prefetch::{prefetch_part, touch_most};
use crate::layout::Panels;
use crate::signal::SparsePairs;
use crate::simd::{Kernel, LANES, Simd};

/// Multiplies each pair's list with the panels.
pub(crate) struct PairsTimesPanels<'a, E> {
    pub(crate) lists: SparsePairs<'a>,
    pub(crate) panels: &'a Panels<u32>,
    pub(crate) epilogue: &'a mut E,
}

/// Whether pairs are the faster form for rows of `columns` bytes that are multiplied with `panels`
/// panels. `rows` sampled rows have `bytes` non-zero bytes, and their pairs have `words` non-zero
/// words.
///
/// The estimate uses cycles measured on Zen 5 with AVX-512: scanning 64 columns takes 20 for bytes
/// and 5 for pairs; a panel takes 5 per four bytes, or 4 per word of two rows.
pub(crate) fn pay(columns: usize, panels: usize, rows: usize, bytes: usize, words: usize) -> bool {
    let scan = rows * columns.div_ceil(64);
    let as_bytes = 20 * scan + panels * 5 * bytes / 4;
    let as_pairs = 5 * scan + panels * 4 * words;
    as_pairs < as_bytes
}

impl<E: Epilogue<Bytes>> Kernel for PairsTimesPanels<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Other instruction sets use single bytes and do not compile this kernel.
        assert!(S::DOT_PRODUCTS);
        assert_eq!(self.lists.columns, self.panels.inputs());
        let Self { lists, panels, epilogue } = self;
        // `row_ranges` counts both rows of a pair.
        let ahead = touch_most(lists.row_ranges, 2 * lists.columns);
        for p in 0..panels.count() {
            let (first, vectors, weights) = panels.panel(p);
            let next = if ahead && p + 1 < panels.count() { panels.panel(p + 1).2 } else { &[] };
            let panel = Panel { weights, next, first };
            match vectors {
                4 => pairs::<S, E, 4>(simd, lists, panel, epilogue),
                3 => pairs::<S, E, 3>(simd, lists, panel, epilogue),
                2 => pairs::<S, E, 2>(simd, lists, panel, epilogue),
                _ => pairs::<S, E, 1>(simd, lists, panel, epilogue),
            }
        }
    }
}

/// A panel and the next one.
#[derive(Clone, Copy)]
struct Panel<'a> {
    weights: &'a [u32],
    next: &'a [u32],
    /// The panel's first unit.
    first: usize,
}

#[inline(always)]
fn pairs<S: Simd, E: Epilogue<Bytes>, const V: usize>(
    simd: S,
    lists: SparsePairs<'_>,
    panel: Panel<'_>,
    epilogue: &mut E,
) {
    assert_eq!(panel.weights.len(), lists.columns * V * LANES);
    let n = lists.row_ranges.len();
    for row in (0..n / 2 * 2).step_by(2) {
        prefetch_part(simd, panel.next, row / 2, n / 2);
        group::<S, E, V, 2>(simd, lists, row, panel, epilogue);
    }
    if n % 2 == 1 {
        group::<S, E, V, 1>(simd, lists, n - 1, panel, epilogue);
    }
}

/// R rows that share a list, times a panel of P vectors per input.
#[inline(always)]
fn group<S: Simd, E: Epilogue<Bytes>, const P: usize, const R: usize>(
    simd: S,
    lists: SparsePairs<'_>,
    row: usize,
    panel: Panel<'_>,
    epilogue: &mut E,
) {
    if S::whole_panel(R) {
        tile::<S, E, P, P, R>(simd, lists, row, panel, 0, epilogue);
    } else {
        for at in 0..P {
            tile::<S, E, P, 1, R>(simd, lists, row, panel, at, epilogue);
        }
    }
}

/// R rows times the V vectors from `at` on of a panel of P vectors per input.
#[inline(always)]
fn tile<S: Simd, E: Epilogue<Bytes>, const P: usize, const V: usize, const R: usize>(
    simd: S,
    lists: SparsePairs<'_>,
    row: usize,
    panel: Panel<'_>,
    at: usize,
    epilogue: &mut E,
) {
    let index = lists.columns_of(row);
    let mut words: [&[u32]; R] = [&[]; R];
    for (r, words) in words.iter_mut().enumerate() {
        *words = &lists.words_of(row + r)[..index.len()];
    }
    let mut sums = [[simd.splat_i32(0); V]; R];
    let weights = panel.weights[at * LANES..].as_ptr();
    for (entry, column) in index.iter().enumerate() {
        // SAFETY: every index is below the panel's inputs (the invariant of `SparsePairs`), each of
        // which has P vectors, and every row has as many words as there are indices.
        unsafe {
            let weights = weights.add(*column as usize * P * LANES);
            add_input::<S, Bytes, V, R>(simd, &words, entry, weights, &mut sums);
        }
    }
    // Not a loop: arrays indexed by a variable are not kept in registers.
    let unit = panel.first + at * LANES;
    epilogue.store(simd, row, unit, sums[0]);
    if R == 2 {
        epilogue.store(simd, row + 1, unit, sums[R - 1]);
    }
}
