//! Dense rows times packed panels: dense layers, and the gate's estimate and scores.
//!
//! ```text
//! for panel:                          # 64 units
//!     for block of 512 inputs:        # 128 KiB of weights: stays in L2 while the rows pass
//!         for group of rows:          # as many as the instruction set's registers hold
//!             for vectors of the panel:   # all four, or one by one (`Simd::whole_panel`)
//!                 sums = 0, or what the block before left
//!                 for i in block:
//!                     w = panel[i]
//!                     for row in group: sums[row] += x[row][i] * w
//!                 emit(sums), or leave them to the next block
//! ```
//!
//! Each sum is one chain over the inputs in order, whatever the group and the block, so a row has
//! the same bits in any batch. On prepacked weights this runs as fast as the best GEMM crates
//! (docs/architecture.md has the figures), which is why lrgate needs none.

use std::cell::Cell;
use std::ops::Range;

use super::arithmetic::Arithmetic;
use super::emit::Emit;
use crate::layout::{PANEL, Panels};
use crate::memory::{Aligned, zeros};
use crate::signal::DenseRows;
use crate::simd::{Kernel, LANES, Simd};

/// Multiplies each dense row with panels.
pub(crate) struct RowsTimesPanels<'a, A: Arithmetic, E> {
    pub(crate) rows: DenseRows<'a, A::Word>,
    pub(crate) panels: &'a Panels<A::Word>,
    /// Numbers of the panels.
    pub(crate) which: Range<usize>,
    pub(crate) emit: &'a mut E,
}

/// Inputs per block.
const BLOCK: usize = 512;

/// Rows whose sums are kept between blocks: 64 KiB, which stays in L2.
const KEPT: usize = 256;

thread_local! {
    /// The sums, which would be much of a small stack; kept for the thread's next pass.
    static KEPT_SUMS: Cell<Aligned<u32>> = Cell::new(Aligned::new(64));
}

impl<A: Arithmetic, E: Emit<A>> Kernel for RowsTimesPanels<'_, A, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.rows.columns(), self.panels.inputs());
        let Self { rows, panels, which, emit } = self;
        for p in which {
            let (first, vectors, panel) = panels.panel(p);
            match vectors {
                4 => blocks::<S, A, E, 4>(simd, rows, panel, first, emit),
                3 => blocks::<S, A, E, 3>(simd, rows, panel, first, emit),
                2 => blocks::<S, A, E, 2>(simd, rows, panel, first, emit),
                _ => blocks::<S, A, E, 1>(simd, rows, panel, first, emit),
            }
        }
    }
}

/// One panel and all rows.
#[inline(always)]
fn blocks<S: Simd, A: Arithmetic, E: Emit<A>, const V: usize>(
    simd: S,
    rows: DenseRows<'_, A::Word>,
    panel: &[A::Word],
    first: usize,
    emit: &mut E,
) {
    let inputs = rows.columns();
    assert_eq!(panel.len(), inputs * V * LANES);
    if inputs <= 2 * BLOCK || rows.rows() <= 6 {
        let mut kept = [];
        let part = Part { panel, first, inputs: (0, inputs), rows: (0, rows.rows()), last: true };
        groups::<S, A, E, V>(simd, rows, part, &mut kept, emit);
        return;
    }
    let mut sums = KEPT_SUMS.replace(Aligned::new(64));
    if sums.len() < KEPT * PANEL {
        sums = zeros(KEPT * PANEL);
    }
    let kept = A::words(&mut sums);
    for start in (0..rows.rows()).step_by(KEPT) {
        let end = rows.rows().min(start + KEPT);
        for from in (0..inputs).step_by(BLOCK) {
            let to = inputs.min(from + BLOCK);
            let last = to == inputs;
            let part = Part { panel, first, inputs: (from, to), rows: (start, end), last };
            groups::<S, A, E, V>(simd, rows, part, kept, emit);
        }
    }
    KEPT_SUMS.set(sums);
}

/// A range of inputs and rows of one panel.
#[derive(Clone, Copy)]
struct Part<'a, W> {
    panel: &'a [W],
    /// The panel's first unit.
    first: usize,
    inputs: (usize, usize),
    rows: (usize, usize),
    /// Whether the sums are complete after it.
    last: bool,
}

#[inline(always)]
fn groups<S: Simd, A: Arithmetic, E: Emit<A>, const V: usize>(
    simd: S,
    rows: DenseRows<'_, A::Word>,
    part: Part<'_, A::Word>,
    kept: &mut [A::Word],
    emit: &mut E,
) {
    let (mut row, end) = part.rows;
    while row < end {
        let count = (end - row).min(S::GROUP);
        match count {
            6 => group::<S, A, E, V, 6>(simd, rows, row, part, kept, emit),
            5 => group::<S, A, E, V, 5>(simd, rows, row, part, kept, emit),
            4 => group::<S, A, E, V, 4>(simd, rows, row, part, kept, emit),
            3 => group::<S, A, E, V, 3>(simd, rows, row, part, kept, emit),
            2 => group::<S, A, E, V, 2>(simd, rows, row, part, kept, emit),
            _ => group::<S, A, E, V, 1>(simd, rows, row, part, kept, emit),
        }
        row += count;
    }
}

/// R rows times a panel that is P vectors wide.
#[inline(always)]
fn group<S: Simd, A: Arithmetic, E: Emit<A>, const P: usize, const R: usize>(
    simd: S,
    rows: DenseRows<'_, A::Word>,
    row: usize,
    part: Part<'_, A::Word>,
    kept: &mut [A::Word],
    emit: &mut E,
) {
    if R > S::GROUP {
        // Never called; told here, so that nothing is compiled for it.
    } else if S::whole_panel(R) {
        tile::<S, A, E, P, P, R>(simd, rows, row, 0, part, kept, emit);
    } else {
        for at in 0..P {
            tile::<S, A, E, P, 1, R>(simd, rows, row, at, part, kept, emit);
        }
    }
}

/// R rows times the V vectors from `at` on of a panel that is P vectors wide: R V sums in registers.
#[inline(always)]
fn tile<S: Simd, A: Arithmetic, E: Emit<A>, const P: usize, const V: usize, const R: usize>(
    simd: S,
    rows: DenseRows<'_, A::Word>,
    row: usize,
    at: usize,
    part: Part<'_, A::Word>,
    kept: &mut [A::Word],
    emit: &mut E,
) {
    let (from, to) = part.inputs;
    let weights = &part.panel[from * P * LANES..to * P * LANES];
    let mut x: [&[A::Word]; R] = [&[]; R];
    for (r, x) in x.iter_mut().enumerate() {
        *x = &rows.row(row + r)[from..to];
    }
    let mut sums = [[A::splat(simd, A::Word::default()); V]; R];
    if from > 0 {
        let kept = &kept[(row - part.rows.0) * PANEL..][..R * PANEL];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: R rows of four vectors.
                *sum = unsafe { A::load(simd, kept.as_ptr().add(r * PANEL + (at + v) * LANES)) };
            }
        }
    }
    let mut weights = weights[at * LANES..].as_ptr();
    let mut i = 0;
    // Few sums wait for themselves; where their order does not matter, they are made of several.
    if A::EXACT && R * V <= 2 {
        let mut parts = [[[A::splat(simd, A::Word::default()); V]; R]; 4];
        while i + 4 <= to - from {
            for part in &mut parts {
                // SAFETY: as below.
                unsafe { add_input::<S, A, V, R>(simd, &x, i, weights, part) }
                weights = weights.wrapping_add(P * LANES);
                i += 1;
            }
        }
        for part in parts {
            for (sums, part) in sums.iter_mut().zip(part) {
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum = A::add(simd, *sum, part);
                }
            }
        }
    }
    for i in i..to - from {
        // SAFETY: input `i` of the block is P whole vectors, of which V from `at` on are read, and
        // every row has `to - from` entries.
        unsafe { add_input::<S, A, V, R>(simd, &x, i, weights, &mut sums) }
        weights = weights.wrapping_add(P * LANES);
    }
    if part.last {
        for (r, sums) in sums.into_iter().enumerate() {
            emit.emit(simd, row + r, part.first + at * LANES, sums);
        }
    } else {
        let kept = &mut kept[(row - part.rows.0) * PANEL..][..R * PANEL];
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                // SAFETY: R rows of four vectors.
                unsafe { A::store(simd, kept.as_mut_ptr().add(r * PANEL + (at + v) * LANES), sum) }
            }
        }
    }
}

/// Adds the products of one input to R V sums.
///
/// # Safety
/// Every row must have entry `i`, and V vectors must be readable at `weights`.
#[inline(always)]
pub(super) unsafe fn add_input<S: Simd, A: Arithmetic, const V: usize, const R: usize>(
    simd: S,
    x: &[&[A::Word]; R],
    i: usize,
    weights: *const A::Word,
    sums: &mut [[A::Vector<S>; V]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut w = [A::splat(simd, A::Word::default()); V];
        for (v, w) in w.iter_mut().enumerate() {
            *w = A::load(simd, weights.add(v * LANES));
        }
        for (sums, x) in sums.iter_mut().zip(x) {
            let x = A::splat(simd, *x.get_unchecked(i));
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = A::mul_add(simd, x, w, *sum);
            }
        }
    }
}
