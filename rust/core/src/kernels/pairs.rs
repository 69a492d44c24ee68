//! Lists of pairs of rows of bytes times panels: int8 skip and the int8 gate's estimate, in batches.
//!
//! ```text
//! for panel:                          # 64 units
//!     for pair of rows:
//!         sums = 0                    # two rows by four vectors of i32
//!         for (i, words) in list of pair:
//!             w = panel[i]            # four inputs by 64 units
//!             for row of pair: sums[row] += dot_bytes(w, words[row])
//!         emit(sums)
//! ```
//!
//! Where what is not zero comes in runs, as in images, whole words of four inputs cost less than
//! bringing single inputs together (`bytes.rs`): no shuffles, and a line's load and its index serve both
//! rows. Which of the two a tile takes is decided by counting on some of its rows, in `forward.rs`.
//! Sums of integers do not depend on their order, so nothing else depends on it.

use super::arithmetic::Bytes;
use super::dense::add_input;
use super::emit::Emit;
use super::prefetch::{prefetch_part, touch_most};
use crate::layout::Panels;
use crate::signal::PairLists;
use crate::simd::{Kernel, LANES, Simd};

/// Multiplies each pair's list with the panels.
pub(crate) struct PairsTimesPanels<'a, E> {
    pub(crate) lists: PairLists<'a>,
    pub(crate) panels: &'a Panels<u32>,
    pub(crate) emit: &'a mut E,
}

/// Whether pairs are the cheaper form for rows of `columns` bytes that go through `panels` panels, where
/// `rows` of them have that many bytes that are not zero, and pairs of them that many words.
///
/// By the cycles that either takes (Zen 5, AVX-512): scanning, of 64 columns, 20 for bytes and 5 for
/// pairs; then, of a panel, 5 for four bytes and 4 for a word of two rows.
pub(crate) fn pay(columns: usize, panels: usize, rows: usize, bytes: usize, words: usize) -> bool {
    let scan = rows * columns.div_ceil(64);
    let as_bytes = 20 * scan + panels * 5 * bytes / 4;
    let as_pairs = 5 * scan + panels * 4 * words;
    as_pairs < as_bytes
}

impl<E: Emit<Bytes>> Kernel for PairsTimesPanels<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Others take bytes one by one, and need not compile this.
        assert!(S::DOT_PRODUCTS);
        assert_eq!(self.lists.columns, self.panels.inputs());
        let Self { lists, panels, emit } = self;
        // Both rows of a pair are counted.
        let ahead = touch_most(lists.spans, 2 * lists.columns);
        for p in 0..panels.count() {
            let (first, vectors, weights) = panels.panel(p);
            let next = if ahead && p + 1 < panels.count() { panels.panel(p + 1).2 } else { &[] };
            let panel = Panel { weights, next, first };
            match vectors {
                4 => pairs::<S, E, 4>(simd, lists, panel, emit),
                3 => pairs::<S, E, 3>(simd, lists, panel, emit),
                2 => pairs::<S, E, 2>(simd, lists, panel, emit),
                _ => pairs::<S, E, 1>(simd, lists, panel, emit),
            }
        }
    }
}

/// A panel, and the one that comes next.
#[derive(Clone, Copy)]
struct Panel<'a> {
    weights: &'a [u32],
    next: &'a [u32],
    /// The panel's first unit.
    first: usize,
}

#[inline(always)]
fn pairs<S: Simd, E: Emit<Bytes>, const V: usize>(
    simd: S,
    lists: PairLists<'_>,
    panel: Panel<'_>,
    emit: &mut E,
) {
    assert_eq!(panel.weights.len(), lists.columns * V * LANES);
    let n = lists.spans.len();
    for row in (0..n / 2 * 2).step_by(2) {
        prefetch_part(simd, panel.next, row / 2, n / 2);
        group::<S, E, V, 2>(simd, lists, row, panel, emit);
    }
    if n % 2 == 1 {
        group::<S, E, V, 1>(simd, lists, n - 1, panel, emit);
    }
}

/// R rows that are listed together, times a panel that is P vectors wide.
#[inline(always)]
fn group<S: Simd, E: Emit<Bytes>, const P: usize, const R: usize>(
    simd: S,
    lists: PairLists<'_>,
    row: usize,
    panel: Panel<'_>,
    emit: &mut E,
) {
    if S::whole_panel(R) {
        tile::<S, E, P, P, R>(simd, lists, row, panel, 0, emit);
    } else {
        for at in 0..P {
            tile::<S, E, P, 1, R>(simd, lists, row, panel, at, emit);
        }
    }
}

/// R rows times the V vectors from `at` on of a panel that is P vectors wide.
#[inline(always)]
fn tile<S: Simd, E: Emit<Bytes>, const P: usize, const V: usize, const R: usize>(
    simd: S,
    lists: PairLists<'_>,
    row: usize,
    panel: Panel<'_>,
    at: usize,
    emit: &mut E,
) {
    let index = lists.columns_of(row);
    let mut words: [&[u32]; R] = [&[]; R];
    for (r, words) in words.iter_mut().enumerate() {
        *words = &lists.words_of(row + r)[..index.len()];
    }
    let mut sums = [[simd.splat_i32(0); V]; R];
    let weights = panel.weights[at * LANES..].as_ptr();
    for (entry, column) in index.iter().enumerate() {
        // SAFETY: every index is below the panel's inputs (the invariant of `PairLists`), of P vectors each,
        // and every row has as many words as there are indices.
        unsafe {
            let weights = weights.add(*column as usize * P * LANES);
            add_input::<S, Bytes, V, R>(simd, &words, entry, weights, &mut sums);
        }
    }
    // Not in a loop: what is indexed by a variable is not kept in registers.
    let unit = panel.first + at * LANES;
    emit.emit(simd, row, unit, sums[0]);
    if R == 2 {
        emit.emit(simd, row + 1, unit, sums[R - 1]);
    }
}
