//! Dense rows times packed panels: dense layers on few rows, and the gate's estimate and scores.
//!
//! ```text
//! for panel:
//!     for group of rows:          # 4 with 32 vector registers, 1 with 16
//!         sums = 0                # rows x 4 vectors, in registers
//!         for i in inputs:
//!             w = panel[i]        # four vectors
//!             for row in group: sums[row] += x[row][i] * w
//!         emit(sums)
//! ```
//!
//! Each sum is one chain over the inputs in order, whatever the group's size, so a row has the same
//! bits in any group.

use super::emit::Emit;
use super::{DenseRows, Panels};
use crate::simd::{Kernel, LANES, Simd};

/// Multiplies each dense row with the panels.
pub(crate) struct RowsTimesPanels<'a, E> {
    pub(crate) rows: DenseRows<'a>,
    pub(crate) panels: &'a Panels,
    pub(crate) emit: &'a mut E,
}

impl<E: Emit> Kernel for RowsTimesPanels<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.rows.columns(), self.panels.inputs());
        let Self { rows, panels, emit } = self;
        for p in 0..panels.count() {
            let (first, vectors, panel) = panels.panel(p);
            match vectors {
                4 => groups::<S, E, 4>(simd, rows, panel, first, emit),
                3 => groups::<S, E, 3>(simd, rows, panel, first, emit),
                2 => groups::<S, E, 2>(simd, rows, panel, first, emit),
                _ => groups::<S, E, 1>(simd, rows, panel, first, emit),
            }
        }
    }
}

#[inline(always)]
fn groups<S: Simd, E: Emit, const V: usize>(
    simd: S,
    rows: DenseRows<'_>,
    panel: &[f32],
    first: usize,
    emit: &mut E,
) {
    let mut row = 0;
    if S::WIDE_REGISTER_FILE {
        while row + 6 <= rows.rows() {
            group::<S, E, V, 6>(simd, rows, row, panel, first, emit);
            row += 6;
        }
        while row + 3 <= rows.rows() {
            group::<S, E, V, 3>(simd, rows, row, panel, first, emit);
            row += 3;
        }
    }
    while row < rows.rows() {
        group::<S, E, V, 1>(simd, rows, row, panel, first, emit);
        row += 1;
    }
}

#[inline(always)]
fn group<S: Simd, E: Emit, const V: usize, const R: usize>(
    simd: S,
    rows: DenseRows<'_>,
    row: usize,
    panel: &[f32],
    first: usize,
    emit: &mut E,
) {
    let inputs = rows.columns();
    assert_eq!(panel.len(), inputs * V * LANES);
    let mut x: [&[f32]; R] = [&[]; R];
    for (r, x) in x.iter_mut().enumerate() {
        *x = rows.row(row + r);
    }
    let mut sums = [[simd.splat(0.0); V]; R];
    let mut weights = panel.as_ptr();
    for i in 0..inputs {
        // SAFETY: input `i` of the panel is V whole vectors, and every row has `inputs` entries.
        unsafe {
            let mut w = [simd.splat(0.0); V];
            for (v, w) in w.iter_mut().enumerate() {
                *w = simd.load(weights.add(v * LANES));
            }
            for (sums, x) in sums.iter_mut().zip(&x) {
                let x = simd.splat(*x.get_unchecked(i));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = simd.mul_add(x, w, *sum);
                }
            }
            weights = weights.add(V * LANES);
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            emit.emit(simd, row + r, first + v * LANES, sum);
        }
    }
}
