//! Lists of non-zeros times packed panels: the skip kernel, and the gate's estimate on sparse rows.
//!
//! ```text
//! for panel:                      # 64 units; stays in cache while the tile's rows pass
//!     for row:
//!         sums = 0                # registers
//!         for (i, x) in list of row:
//!             sums += x * panel[i]    # four vectors; weights of zero inputs are never read
//!         epilogue(sums)
//! ```
//!
//! Entries are added in turn to [`chains`] independent sets of accumulators, so that the latency of
//! a multiply-add does not limit the loop. The order of a row's additions depends only on its own
//! list, so a row has the same bits in any batch.

use super::arithmetic::Floats;
use super::epilogue::Epilogue;
use crate::layout::Panels;
use crate::signal::SparseRows;
use crate::simd::{Kernel, LANES, Simd};

/// Multiplies each row's list with the panels.
pub(crate) struct SparseTimesPanels<'a, E> {
    pub(crate) lists: SparseRows<'a>,
    pub(crate) panels: &'a Panels,
    pub(crate) epilogue: &'a mut E,
}

/// Prefetch distance in entries: enough to hide the latency of L3 at four lines per entry.
const PREFETCH: usize = 12;

impl<E: Epilogue<Floats>> Kernel for SparseTimesPanels<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.lists.columns, self.panels.inputs());
        let Self { lists, panels, epilogue } = self;
        for p in 0..panels.count() {
            let (first, vectors, panel) = panels.panel(p);
            let next = if p + 1 < panels.count() { panels.panel(p + 1).2 } else { panel };
            let panel = Panel { weights: panel, next: next.as_ptr(), first };
            match vectors {
                4 => rows::<S, E, 4, 2>(simd, lists, panel, epilogue),
                3 => rows::<S, E, 3, 2>(simd, lists, panel, epilogue),
                2 => rows::<S, E, 2, 4>(simd, lists, panel, epilogue),
                _ => rows::<S, E, 1, 4>(simd, lists, panel, epilogue),
            }
        }
    }
}

/// A panel and the start of the next one.
#[derive(Clone, Copy)]
struct Panel<'a> {
    weights: &'a [f32],
    next: *const f32,
    /// The panel's first unit.
    first: usize,
}

#[inline(always)]
fn rows<S: Simd, E: Epilogue<Floats>, const V: usize, const CHAINS: usize>(
    simd: S,
    lists: SparseRows<'_>,
    panel: Panel<'_>,
    epilogue: &mut E,
) {
    assert_eq!(panel.weights.len(), lists.columns * V * LANES);
    // The first row of a tile finds the panel cold.
    for row in 0..lists.row_ranges.len() {
        let (index, value) = lists.row(row);
        let sums = if row == 0 {
            one_row::<S, V, CHAINS, true>(simd, index, value, panel)
        } else {
            one_row::<S, V, CHAINS, false>(simd, index, value, panel)
        };
        epilogue.store(simd, row, panel.first, sums);
    }
}

#[inline(always)]
fn one_row<S: Simd, const V: usize, const CHAINS: usize, const COLD: bool>(
    simd: S,
    index: &[u32],
    value: &[f32],
    panel: Panel<'_>,
) -> [S::F32; V] {
    let zero = simd.splat(0.0);
    let mut sums = [[zero; V]; CHAINS];
    let (panel, next) = (panel.weights.as_ptr(), panel.next);
    let whole = index.len() / CHAINS * CHAINS;
    // SAFETY: every index is below the panel's inputs (the invariant of `SparseRows`), so each load
    // is inside the panel; `at` stays below `index.len() == value.len()`.
    unsafe {
        let mut at = 0;
        while at < whole {
            for (chain, sums) in sums.iter_mut().enumerate() {
                if COLD {
                    // Past the end of the list, the next panel is prefetched.
                    let ahead = at + chain + PREFETCH;
                    let (panel, ahead) = if ahead < index.len() {
                        (panel, ahead)
                    } else {
                        (next, (ahead - index.len()).min(index.len() - 1))
                    };
                    let entry = *index.get_unchecked(ahead) as usize;
                    let weights = panel.wrapping_add(entry * V * LANES);
                    for v in 0..V {
                        simd.prefetch(weights.wrapping_add(v * LANES));
                    }
                }
                let weights = panel.add(*index.get_unchecked(at + chain) as usize * V * LANES);
                let x = simd.splat(*value.get_unchecked(at + chain));
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.mul_add(x, simd.load(weights.add(v * LANES)), *sum);
                }
            }
            at += CHAINS;
        }
        for at in whole..index.len() {
            let weights = panel.add(*index.get_unchecked(at) as usize * V * LANES);
            let x = simd.splat(*value.get_unchecked(at));
            for (v, sum) in sums[0].iter_mut().enumerate() {
                *sum = simd.mul_add(x, simd.load(weights.add(v * LANES)), *sum);
            }
        }
    }
    let mut total = sums[0];
    for other in &sums[1..] {
        for (sum, other) in total.iter_mut().zip(other) {
            *sum = simd.add(*sum, *other);
        }
    }
    total
}
