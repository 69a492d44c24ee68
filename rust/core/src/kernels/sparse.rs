//! Lists of non-zeros times packed panels: the skip kernel, and the gate's estimate on sparse rows.
//!
//! ```text
//! for panel:                      # 64 units; stays in cache while the tile's rows pass
//!     for row:
//!         sums = 0                # registers
//!         for (i, x) in list of row:
//!             sums += x * panel[i]    # four vectors; what x = 0 would touch is never read
//!         emit(sums)
//! ```
//!
//! Entries go to [`chains`] independent sets of accumulators in turn, so that the latency of a
//! multiply-add does not bound the loop. The order of a row's additions depends on its own list
//! alone: a row has the same bits in any batch.

use super::arithmetic::Arithmetic;
use super::emit::Emit;
use super::{Lists, Panels};
use crate::simd::{Kernel, LANES, Simd};

/// Multiplies each row's list with the panels.
pub(crate) struct SparseTimesPanels<'a, A: Arithmetic, E> {
    pub(crate) lists: Lists<'a, A::Word>,
    pub(crate) panels: &'a Panels<A::Word>,
    pub(crate) emit: &'a mut E,
}

/// How many entries ahead weights are asked for: enough to hide L3 at four lines an entry.
const PREFETCH: usize = 12;

impl<A: Arithmetic, E: Emit<A>> Kernel for SparseTimesPanels<'_, A, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.lists.columns, self.panels.inputs());
        let Self { lists, panels, emit } = self;
        for p in 0..panels.count() {
            let (first, vectors, panel) = panels.panel(p);
            let next = if p + 1 < panels.count() { panels.panel(p + 1).2 } else { panel };
            let panel = Panel { weights: panel, next: next.as_ptr(), first };
            match vectors {
                4 => rows::<S, A, E, 4, 2>(simd, lists, panel, emit),
                3 => rows::<S, A, E, 3, 2>(simd, lists, panel, emit),
                2 => rows::<S, A, E, 2, 4>(simd, lists, panel, emit),
                _ => rows::<S, A, E, 1, 4>(simd, lists, panel, emit),
            }
        }
    }
}

/// A panel, and where the next one starts.
#[derive(Clone, Copy)]
struct Panel<'a, W> {
    weights: &'a [W],
    next: *const W,
    /// The panel's first unit.
    first: usize,
}

#[inline(always)]
fn rows<S: Simd, A: Arithmetic, E: Emit<A>, const V: usize, const CHAINS: usize>(
    simd: S,
    lists: Lists<'_, A::Word>,
    panel: Panel<'_, A::Word>,
    emit: &mut E,
) {
    assert_eq!(panel.weights.len(), lists.columns * V * LANES);
    // A tile's first row finds the panel cold.
    for row in 0..lists.spans.len() {
        let (index, value) = lists.row(row);
        let sums = if row == 0 {
            one_row::<S, A, V, CHAINS, true>(simd, index, value, panel)
        } else {
            one_row::<S, A, V, CHAINS, false>(simd, index, value, panel)
        };
        for (v, sum) in sums.into_iter().enumerate() {
            emit.emit(simd, row, panel.first + v * LANES, sum);
        }
    }
}

#[inline(always)]
fn one_row<S: Simd, A: Arithmetic, const V: usize, const CHAINS: usize, const COLD: bool>(
    simd: S,
    index: &[u32],
    value: &[A::Word],
    panel: Panel<'_, A::Word>,
) -> [A::Vector<S>; V] {
    let zero = A::splat(simd, A::Word::default());
    let mut sums = [[zero; V]; CHAINS];
    let (panel, next) = (panel.weights.as_ptr(), panel.next);
    let whole = index.len() / CHAINS * CHAINS;
    // SAFETY: every index is below the panel's inputs (the invariant of `Lists`), so each load is
    // inside the panel; `at` stays below `index.len() == value.len()`.
    unsafe {
        let mut at = 0;
        while at < whole {
            for (chain, sums) in sums.iter_mut().enumerate() {
                if COLD {
                    // Past the list's end, the next panel is asked for.
                    let ahead = at + chain + PREFETCH;
                    let over = ahead >= index.len();
                    let (panel, ahead) =
                        if over { (next, ahead - index.len()) } else { (panel, ahead) };
                    let entry = *index.get_unchecked(ahead.min(index.len() - 1)) as usize;
                    let weights = panel.wrapping_add(entry * V * LANES);
                    for v in 0..V {
                        simd.prefetch(weights.wrapping_add(v * LANES));
                    }
                }
                let weights = panel.add(*index.get_unchecked(at + chain) as usize * V * LANES);
                let x = A::splat(simd, *value.get_unchecked(at + chain));
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = A::mul_add(simd, x, A::load(simd, weights.add(v * LANES)), *sum);
                }
            }
            at += CHAINS;
        }
        for at in whole..index.len() {
            let weights = panel.add(*index.get_unchecked(at) as usize * V * LANES);
            let x = A::splat(simd, *value.get_unchecked(at));
            for (v, sum) in sums[0].iter_mut().enumerate() {
                *sum = A::mul_add(simd, x, A::load(simd, weights.add(v * LANES)), *sum);
            }
        }
    }
    let mut total = sums[0];
    for other in &sums[1..] {
        for (sum, other) in total.iter_mut().zip(other) {
            *sum = A::add(simd, *sum, *other);
        }
    }
    total
}
