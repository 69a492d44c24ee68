//! Dot products of chosen units: the gate's second half. A unit that is off is never read.
//!
//! Two shapes share one loop. Few rows: a row's live units four at a time, sharing each load of the
//! row. Many rows: a unit's rows four at a time, sharing each load of the unit's weights, which stay
//! in L1 while the rows pass. A dot product is the same two chains over the inputs in both, so its
//! bits do not depend on the shape.

use super::emit::Fused;
use super::{DenseRows, DenseRowsMut, Lists, ListsMut, Span, UnitRows, padded};
use crate::simd::{Kernel, LANES, Simd};

/// Computes the live units of every row. Dense outputs must be zero before.
pub(crate) struct LiveUnits<'a> {
    pub(crate) rows: DenseRows<'a>,
    pub(crate) weights: &'a UnitRows,
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Fused,
    /// For each row its live units, ascending.
    pub(crate) live: &'a [u32],
    pub(crate) spans: &'a [Span],
    pub(crate) dense: Option<DenseRowsMut<'a>>,
    pub(crate) lists: Option<ListsMut<'a>>,
    /// Scratch for the unit-by-unit shape: `outputs + 1` and one entry per live pair.
    pub(crate) unit_starts: &'a mut [u32],
    pub(crate) unit_rows: &'a mut [u32],
}

/// From this many rows on, units are taken one by one with the rows that need them.
const BY_UNIT_FROM: usize = 8;

impl LiveUnits<'_> {
    #[inline(always)]
    fn put(&mut self, row: usize, unit: usize, sum: f32) {
        let y = self.activation.apply_one(sum + self.bias[unit]);
        if let Some(dense) = &mut self.dense {
            dense.row(row)[unit] = y;
        }
        if let Some(lists) = &mut self.lists
            && y != 0.0
        {
            lists.push(row, unit, y);
        }
    }

    #[inline(always)]
    fn by_row<S: Simd>(&mut self, simd: S) {
        for r in 0..self.rows.rows() {
            let x = self.rows.row(r);
            let Span { start, len } = self.spans[r];
            let mut units = self.live[start..start + len].chunks_exact(4);
            for four in units.by_ref() {
                let mut w: [&[f32]; 4] = [&[]; 4];
                for (w, unit) in w.iter_mut().zip(four) {
                    *w = self.weights.unit(*unit as usize);
                }
                let sums = dots::<S, 4, 1>(simd, w, [x]);
                for (unit, [sum]) in four.iter().zip(sums) {
                    self.put(r, *unit as usize, sum);
                }
            }
            for &unit in units.remainder() {
                let [[sum]] = dots::<S, 1, 1>(simd, [self.weights.unit(unit as usize)], [x]);
                self.put(r, unit as usize, sum);
            }
        }
    }

    #[inline(always)]
    fn by_unit<S: Simd>(&mut self, simd: S) {
        self.transpose();
        for unit in 0..self.weights.outputs() {
            let (start, end) =
                (self.unit_starts[unit] as usize, self.unit_starts[unit + 1] as usize);
            let w = self.weights.unit(unit);
            let mut at = start;
            while at + 4 <= end {
                let mut x: [&[f32]; 4] = [&[]; 4];
                for (x, row) in x.iter_mut().zip(&self.unit_rows[at..]) {
                    *x = self.rows.row(*row as usize);
                }
                let [sums] = dots::<S, 1, 4>(simd, [w], x);
                for (i, sum) in sums.into_iter().enumerate() {
                    self.put(self.unit_rows[at + i] as usize, unit, sum);
                }
                at += 4;
            }
            while at < end {
                let row = self.unit_rows[at] as usize;
                let [[sum]] = dots::<S, 1, 1>(simd, [w], [self.rows.row(row)]);
                self.put(row, unit, sum);
                at += 1;
            }
        }
    }

    /// Turns the rows' lists of units into the units' lists of rows (a counting sort).
    #[inline(always)]
    fn transpose(&mut self) {
        let starts = &mut *self.unit_starts;
        starts.fill(0);
        for span in self.spans {
            for &unit in &self.live[span.start..span.start + span.len] {
                starts[unit as usize] += 1;
            }
        }
        let mut before = 0;
        for start in starts.iter_mut() {
            before += *start;
            *start = before;
        }
        // Now starts[u] is where unit u ends; filling backwards moves it to where it starts.
        for (row, span) in self.spans.iter().enumerate().rev() {
            for &unit in &self.live[span.start..span.start + span.len] {
                let at = &mut starts[unit as usize];
                *at -= 1;
                self.unit_rows[*at as usize] = row as u32;
            }
        }
    }
}

impl Kernel for LiveUnits<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        assert_eq!(self.rows.columns(), self.weights.inputs());
        assert_eq!(self.unit_starts.len(), self.weights.outputs() + 1);
        if self.rows.rows() < BY_UNIT_FROM {
            self.by_row(simd);
        } else {
            self.by_unit(simd);
        }
    }
}

/// Computes the live units of rows that exist as lists only (CSR input).
pub(crate) struct LiveUnitsOfLists<'a> {
    pub(crate) lists: Lists<'a>,
    pub(crate) weights: &'a UnitRows,
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Fused,
    /// For each row its live units, ascending.
    pub(crate) live: &'a [u32],
    pub(crate) spans: &'a [Span],
    pub(crate) dense: Option<DenseRowsMut<'a>>,
    pub(crate) out: Option<ListsMut<'a>>,
}

impl Kernel for LiveUnitsOfLists<'_> {
    type Output = ();
    /// Scalar: such rows have a few dozen entries, and a gather per lane is no faster.
    #[inline(always)]
    fn run<S: Simd>(mut self, _simd: S) {
        assert_eq!(self.lists.columns, self.weights.inputs());
        for (r, span) in self.spans.iter().enumerate() {
            let (index, value) = self.lists.row(r);
            for &unit in &self.live[span.start..span.start + span.len] {
                let unit = unit as usize;
                let w = self.weights.unit(unit);
                let products = index.iter().zip(value).map(|(i, x)| w[*i as usize] * x);
                let y = self.activation.apply_one(products.sum::<f32>() + self.bias[unit]);
                if let Some(dense) = &mut self.dense {
                    dense.row(r)[unit] = y;
                }
                if let Some(out) = &mut self.out
                    && y != 0.0
                {
                    out.push(r, unit, y);
                }
            }
        }
    }
}

/// The U x R dot products of padded weight rows with rows.
#[inline(always)]
fn dots<S: Simd, const U: usize, const R: usize>(
    simd: S,
    weights: [&[f32]; U],
    rows: [&[f32]; R],
) -> [[f32; R]; U] {
    let inputs = rows[0].len();
    assert!(rows.iter().all(|x| x.len() == inputs));
    assert!(weights.iter().all(|w| w.len() == padded(inputs)));
    let mut even = [[simd.splat(0.0); R]; U];
    let mut odd = [[simd.splat(0.0); R]; U];
    let mut at = 0;
    // SAFETY: `at + 16` stays within `inputs` for whole vectors and the tail reads what is left of
    // the rows; weight rows are padded to whole vectors.
    unsafe {
        while at + 2 * LANES <= inputs {
            add::<S, U, R>(simd, &weights, &rows, at, &mut even);
            add::<S, U, R>(simd, &weights, &rows, at + LANES, &mut odd);
            at += 2 * LANES;
        }
        if at + LANES <= inputs {
            add::<S, U, R>(simd, &weights, &rows, at, &mut even);
            at += LANES;
        }
        if at < inputs {
            for (r, x) in rows.iter().enumerate() {
                let x = simd.load_partial(x.as_ptr().add(at), inputs - at);
                for (u, w) in weights.iter().enumerate() {
                    odd[u][r] = simd.mul_add(x, simd.load(w.as_ptr().add(at)), odd[u][r]);
                }
            }
        }
    }
    let mut sums = [[0.0; R]; U];
    for u in 0..U {
        for r in 0..R {
            sums[u][r] = simd.sum(simd.add(even[u][r], odd[u][r]));
        }
    }
    sums
}

/// One vector of every dot product.
///
/// # Safety
/// `at + 16` must be within every weight row and row.
#[inline(always)]
unsafe fn add<S: Simd, const U: usize, const R: usize>(
    simd: S,
    weights: &[&[f32]; U],
    rows: &[&[f32]; R],
    at: usize,
    sums: &mut [[S::F32; R]; U],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut x = [simd.splat(0.0); R];
        for (x, row) in x.iter_mut().zip(rows) {
            *x = simd.load(row.as_ptr().add(at));
        }
        for (sums, w) in sums.iter_mut().zip(weights) {
            let w = simd.load(w.as_ptr().add(at));
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = simd.mul_add(x, w, *sum);
            }
        }
    }
}
