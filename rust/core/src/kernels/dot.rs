//! Dot products of chosen units: the gate's second half. A unit that is off is never read.
//!
//! Two shapes. Few rows: a row's live units four at a time, sharing each load of the row. Many rows:
//! a unit's rows, its weights staying in L1 while the rows pass.
//!
//! A cache line of weights that only zeros would multiply need not be read either: a row with zeros
//! lists its *blocks*, the vectors of sixteen inputs of which one or more is not zero, and a dot
//! product visits these alone. So a gate on sparse rows saves twice, by units and by inputs, without
//! gathering.
//!
//! Whether a row of f32 has its blocks listed depends on that row alone, and a dot product is two
//! chains in turn over them, or over all, in both shapes; so its bits do not depend on the other rows.
//! Sums of bytes are exact in any order.

use super::arithmetic::{Arithmetic, Floats};
use super::emit::{Finish, Output};
use super::{DenseRows, Lists, Span, UnitRows, padded};
use crate::simd::{Kernel, LANES, Simd};

/// Computes the live units of every row. The output must be cleared before.
pub(crate) struct LiveUnits<'a, A: Arithmetic> {
    pub(crate) rows: DenseRows<'a, A::Word>,
    pub(crate) weights: &'a UnitRows<A::Word>,
    pub(crate) output: Output<'a>,
    /// For each row its live units, ascending.
    pub(crate) live: &'a [u32],
    pub(crate) spans: &'a [Span],
    /// Scratch for the unit-by-unit shape: `outputs + 1` and one entry per live pair.
    pub(crate) unit_starts: &'a mut [u32],
    pub(crate) unit_rows: &'a mut [u32],
    /// Scratch for the rows' blocks: per row as many entries as a row has whole vectors.
    pub(crate) blocks: &'a mut [u32],
    pub(crate) block_counts: &'a mut [u32],
}

/// Rows of which more than this share of blocks is not all zero are taken whole: a block at a time
/// costs a little more than a run through all of them.
const BLOCKS_UP_TO: f32 = 0.8;

/// The count of a row that is taken whole.
const NOT_LISTED: u32 = u32::MAX;

/// From this many rows on, units are taken one by one with the rows that need them.
const BY_UNIT_FROM: usize = 8;

impl<'a, A: Arithmetic> LiveUnits<'a, A>
where
    Output<'a>: Finish<A>,
{
    /// Whether blocks are looked at. Many rows of bytes gain nothing by it, since four of them share
    /// each load of the weights; where sums are rounded, both shapes must add in one order.
    #[inline(always)]
    fn skips_blocks(&self) -> bool {
        A::ROUNDS || self.rows.rows() < BY_UNIT_FROM
    }

    /// Lists the blocks of every row that has enough zero ones.
    #[inline(always)]
    fn list_blocks<S: Simd>(&mut self, simd: S) {
        if !self.skips_blocks() {
            return;
        }
        let whole = self.rows.columns() / LANES;
        for r in 0..self.rows.rows() {
            let x = self.rows.row(r);
            let blocks = &mut self.blocks[r * whole..][..whole];
            let mut len = 0;
            for block in 0..whole {
                // SAFETY: the block is within the row.
                let v = unsafe { A::load(simd, x.as_ptr().add(block * LANES)) };
                blocks[len] = block as u32;
                len += usize::from(A::nonzero(simd, v) != 0);
            }
            let listed = len as f32 <= BLOCKS_UP_TO * whole as f32;
            self.block_counts[r] = if listed { len as u32 } else { NOT_LISTED };
        }
    }

    /// The blocks of row `r`, where they are listed.
    #[inline(always)]
    fn blocks(&self, r: usize) -> Option<&[u32]> {
        if !self.skips_blocks() {
            return None;
        }
        let (whole, count) = (self.rows.columns() / LANES, self.block_counts[r]);
        (count != NOT_LISTED).then(|| &self.blocks[r * whole..][..count as usize])
    }

    #[inline(always)]
    fn by_row<S: Simd>(&mut self, simd: S) {
        for r in 0..self.rows.rows() {
            let x = self.rows.row(r);
            let Span { start, len } = self.spans[r];
            let live = &self.live[start..start + len];
            let whole = live.len() / 4 * 4;
            for (at, four) in live[..whole].chunks_exact(4).enumerate() {
                let w = self.four(four);
                let next = &live[(at + 1) * 4..];
                let next = if next.len() < 4 { w } else { self.four(&next[..4]) };
                let sums = match self.blocks(r) {
                    None => dots::<S, A, 4, 1>(simd, w, [x], next).map(|[sum]| sum),
                    Some(blocks) => block_dots::<S, A, 4>(simd, w, x, blocks, next),
                };
                for (unit, sum) in four.iter().zip(sums) {
                    self.output.put_one(r, *unit as usize, sum);
                }
            }
            for &unit in &live[whole..] {
                let sum = self.one(simd, r, unit as usize);
                self.output.put_one(r, unit as usize, sum);
            }
        }
    }

    /// The weights of four units.
    #[inline(always)]
    fn four(&self, units: &[u32]) -> [&'a [A::Word]; 4] {
        let mut w: [&[A::Word]; 4] = [&[]; 4];
        for (w, unit) in w.iter_mut().zip(units) {
            *w = self.weights.unit(*unit as usize);
        }
        w
    }

    /// One dot product.
    #[inline(always)]
    fn one<S: Simd>(&self, simd: S, r: usize, unit: usize) -> A::Sum {
        let (x, w) = (self.rows.row(r), self.weights.unit(unit));
        match self.blocks(r) {
            None => dots::<S, A, 1, 1>(simd, [w], [x], [w])[0][0],
            Some(blocks) => block_dots::<S, A, 1>(simd, [w], x, blocks, [w])[0],
        }
    }

    #[inline(always)]
    fn by_unit<S: Simd>(&mut self, simd: S) {
        self.transpose();
        for unit in 0..self.weights.outputs() {
            let (start, end) =
                (self.unit_starts[unit] as usize, self.unit_starts[unit + 1] as usize);
            let w = self.weights.unit(unit);
            // Rows that share the loads of weights wait here until they are four.
            let (mut waiting, mut count) = ([0; 4], 0);
            for at in start..end {
                let row = self.unit_rows[at] as usize;
                if let Some(blocks) = self.blocks(row) {
                    let [sum] = block_dots::<S, A, 1>(simd, [w], self.rows.row(row), blocks, [w]);
                    self.output.put_one(row, unit, sum);
                    continue;
                }
                waiting[count] = row;
                count += 1;
                if count == 4 {
                    count = 0;
                    let mut x: [&[A::Word]; 4] = [&[]; 4];
                    for (x, row) in x.iter_mut().zip(waiting) {
                        *x = self.rows.row(row);
                    }
                    let [sums] = dots::<S, A, 1, 4>(simd, [w], x, [w]);
                    for (row, sum) in waiting.into_iter().zip(sums) {
                        self.output.put_one(row, unit, sum);
                    }
                }
            }
            for row in waiting.into_iter().take(count) {
                let sum = self.one(simd, row, unit);
                self.output.put_one(row, unit, sum);
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

impl<'a, A: Arithmetic> Kernel for LiveUnits<'a, A>
where
    Output<'a>: Finish<A>,
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        assert_eq!(self.rows.columns(), self.weights.inputs());
        assert_eq!(self.unit_starts.len(), self.weights.outputs() + 1);
        self.list_blocks(simd);
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
    pub(crate) output: Output<'a>,
    /// For each row its live units, ascending.
    pub(crate) live: &'a [u32],
    pub(crate) spans: &'a [Span],
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
                Finish::<Floats>::put_one(&mut self.output, r, unit, products.sum());
            }
        }
    }
}

/// The U x R dot products of padded weight rows with rows. `next` is what comes next: its lines are
/// asked for on the way.
#[inline(always)]
fn dots<S: Simd, A: Arithmetic, const U: usize, const R: usize>(
    simd: S,
    weights: [&[A::Word]; U],
    rows: [&[A::Word]; R],
    next: [&[A::Word]; U],
) -> [[A::Sum; R]; U] {
    let inputs = rows[0].len();
    assert!(rows.iter().all(|x| x.len() == inputs));
    assert!(weights.iter().all(|w| w.len() == padded(inputs)));
    let mut even = [[A::splat(simd, A::Word::default()); R]; U];
    let mut odd = [[A::splat(simd, A::Word::default()); R]; U];
    let mut at = 0;
    // SAFETY: `at + 16` stays within `inputs` for whole vectors and the tail reads what is left of
    // the rows; weight rows are padded to whole vectors.
    unsafe {
        while at + 2 * LANES <= inputs {
            if U > 1 {
                for next in &next {
                    simd.prefetch(next.as_ptr().wrapping_add(at));
                    simd.prefetch(next.as_ptr().wrapping_add(at + LANES));
                }
            }
            add::<S, A, U, R>(simd, &weights, &rows, at, &mut even);
            add::<S, A, U, R>(simd, &weights, &rows, at + LANES, &mut odd);
            at += 2 * LANES;
        }
        if at + LANES <= inputs {
            add::<S, A, U, R>(simd, &weights, &rows, at, &mut even);
            at += LANES;
        }
        if at < inputs {
            for (r, x) in rows.iter().enumerate() {
                let x = A::load_partial(simd, x.as_ptr().add(at), inputs - at);
                for (u, w) in weights.iter().enumerate() {
                    odd[u][r] = A::mul_add(simd, x, A::load(simd, w.as_ptr().add(at)), odd[u][r]);
                }
            }
        }
    }
    let mut sums = [[A::Sum::default(); R]; U];
    if U == 4 && R == 1 {
        let all = add_pairs::<S, A, 4>(simd, even.as_flattened(), odd.as_flattened());
        for (sums, sum) in sums.iter_mut().zip(A::sum4(simd, all)) {
            sums[0] = sum;
        }
        return sums;
    }
    if U == 1 && R == 4 {
        let all = add_pairs::<S, A, 4>(simd, even.as_flattened(), odd.as_flattened());
        sums[0].copy_from_slice(&A::sum4(simd, all));
        return sums;
    }
    for u in 0..U {
        for r in 0..R {
            sums[u][r] = A::sum(simd, A::add(simd, even[u][r], odd[u][r]));
        }
    }
    sums
}

/// The dot products of padded weight rows with the blocks of a row, and with what the row has after
/// its last whole block. `next` is what comes next: its lines are asked for on the way.
#[inline(always)]
fn block_dots<S: Simd, A: Arithmetic, const U: usize>(
    simd: S,
    weights: [&[A::Word]; U],
    x: &[A::Word],
    blocks: &[u32],
    next: [&[A::Word]; U],
) -> [A::Sum; U] {
    let inputs = x.len();
    assert!(weights.iter().chain(&next).all(|w| w.len() == padded(inputs)));
    let whole = inputs / LANES * LANES;
    let mut even = [A::splat(simd, A::Word::default()); U];
    let mut odd = [A::splat(simd, A::Word::default()); U];
    let pairs = blocks.len() / 2;
    // SAFETY: `list_blocks` listed blocks of this row, so each is within it, and within the weight
    // rows, which are padded to whole vectors; the tail reads what is left of the row.
    unsafe {
        for pair in 0..pairs {
            let first = *blocks.get_unchecked(2 * pair) as usize * LANES;
            let second = *blocks.get_unchecked(2 * pair + 1) as usize * LANES;
            let (a, b) =
                (A::load(simd, x.as_ptr().add(first)), A::load(simd, x.as_ptr().add(second)));
            for u in 0..U {
                if U > 1 {
                    simd.prefetch(next[u].as_ptr().add(first));
                    simd.prefetch(next[u].as_ptr().add(second));
                }
                even[u] =
                    A::mul_add(simd, a, A::load(simd, weights[u].as_ptr().add(first)), even[u]);
                odd[u] =
                    A::mul_add(simd, b, A::load(simd, weights[u].as_ptr().add(second)), odd[u]);
            }
        }
        for block in &blocks[2 * pairs..] {
            let at = *block as usize * LANES;
            let a = A::load(simd, x.as_ptr().add(at));
            for u in 0..U {
                even[u] = A::mul_add(simd, a, A::load(simd, weights[u].as_ptr().add(at)), even[u]);
            }
        }
        if whole < inputs {
            let a = A::load_partial(simd, x.as_ptr().add(whole), inputs - whole);
            for u in 0..U {
                odd[u] = A::mul_add(simd, a, A::load(simd, weights[u].as_ptr().add(whole)), odd[u]);
            }
        }
    }
    let mut sums = [A::Sum::default(); U];
    if U == 4 {
        let all = add_pairs::<S, A, 4>(simd, &even, &odd);
        sums.copy_from_slice(&A::sum4(simd, all));
        return sums;
    }
    for u in 0..U {
        sums[u] = A::sum(simd, A::add(simd, even[u], odd[u]));
    }
    sums
}

/// The sums of two slices of N vectors.
#[inline(always)]
fn add_pairs<S: Simd, A: Arithmetic, const N: usize>(
    simd: S,
    even: &[A::Vector<S>],
    odd: &[A::Vector<S>],
) -> [A::Vector<S>; N] {
    let mut all = [A::splat(simd, A::Word::default()); N];
    for (i, all) in all.iter_mut().enumerate() {
        *all = A::add(simd, even[i], odd[i]);
    }
    all
}

/// One vector of every dot product.
///
/// # Safety
/// `at + 16` must be within every weight row and row.
#[inline(always)]
unsafe fn add<S: Simd, A: Arithmetic, const U: usize, const R: usize>(
    simd: S,
    weights: &[&[A::Word]; U],
    rows: &[&[A::Word]; R],
    at: usize,
    sums: &mut [[A::Vector<S>; R]; U],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut x = [A::splat(simd, A::Word::default()); R];
        for (x, row) in x.iter_mut().zip(rows) {
            *x = A::load(simd, row.as_ptr().add(at));
        }
        for (sums, w) in sums.iter_mut().zip(weights) {
            let w = A::load(simd, w.as_ptr().add(at));
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = A::mul_add(simd, x, w, *sum);
            }
        }
    }
}
