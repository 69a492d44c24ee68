//! Dot products of chosen units: the gate's second half. A unit that is off is never read.
//!
//! Two shapes, of four dot products each. Few rows: a row's live units, sharing each load of the row.
//! Many rows: pairs of a unit and a row, unit by unit, so that the weights are read once; four of the
//! same unit share each load of its weights.
//!
//! A cache line of weights that only zeros would multiply need not be read either: with few rows, a row
//! lists its *blocks*, the vectors of sixteen inputs of which one or more is not zero, and a dot
//! product visits these alone. So a gate on sparse rows saves twice, by units and by inputs, without
//! gathering. With many rows, sharing loads saves more.
//!
//! A dot product is two chains, one over the even blocks and one over the odd ones. A block of zeros
//! adds nothing to its chain, so a row's bits depend neither on the shape nor on the other rows.

use super::arithmetic::{Arithmetic, Floats};
use super::emit::{Finish, Output};
use super::{DenseRows, Lists, Span, UnitRows};
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
    /// Scratch for a row's blocks: as many entries as a row has whole vectors.
    pub(crate) blocks: &'a mut [u32],
}

/// Rows of which more than this share of blocks is not all zero are taken whole: a block at a time
/// costs a little more than a run through all of them.
const BLOCKS_UP_TO: f32 = 0.8;

/// From this many rows on, units are taken one by one with the rows that need them.
const BY_UNIT_FROM: usize = 8;

/// The blocks of a row: the even ones, the odd ones.
type Blocks<'a> = [&'a [u32]; 2];

/// Lists the blocks of a row, unless too many of them are not zero.
#[inline(always)]
fn list_blocks<'a, S: Simd, A: Arithmetic>(
    simd: S,
    x: &[A::Word],
    blocks: &'a mut [u32],
) -> Option<Blocks<'a>> {
    let whole = x.len() / LANES;
    let (even, odd) = blocks[..whole].split_at_mut(whole.div_ceil(2));
    let mut lens = [0; 2];
    for block in 0..whole {
        // SAFETY: the block is within the row.
        let v = unsafe { A::load(simd, x.as_ptr().add(block * LANES)) };
        let (list, len) =
            (if block % 2 == 0 { &mut *even } else { &mut *odd }, &mut lens[block % 2]);
        list[*len] = block as u32;
        *len += usize::from(A::nonzero(simd, v) != 0);
    }
    let listed = (lens[0] + lens[1]) as f32 <= BLOCKS_UP_TO * whole as f32;
    listed.then_some([&even[..lens[0]], &odd[..lens[1]]])
}

impl<'a, A: Arithmetic> LiveUnits<'a, A>
where
    Output<'a>: Finish<A>,
{
    #[inline(always)]
    fn by_row<S: Simd>(&mut self, simd: S) {
        for r in 0..self.rows.rows() {
            let x = self.rows.row(r);
            let blocks = list_blocks::<S, A>(simd, x, self.blocks);
            let Span { start, len } = self.spans[r];
            let live = &self.live[start..start + len];
            let (fours, rest) = live.as_chunks::<4>();
            for (at, four) in fours.iter().enumerate() {
                let w = four_units(self.weights, four);
                let next = fours.get(at + 1).map_or(w, |next| four_units(self.weights, next));
                let sums = match blocks {
                    None => row_dots::<S, A, 4>(simd, x, w, next),
                    Some(blocks) => block_dots::<S, A, 4>(simd, w, x, blocks, next),
                };
                self.output.put([r; 4], four.map(|unit| unit as usize), sums);
            }
            for &unit in rest {
                let w = [self.weights.unit(unit as usize)];
                let sums = match blocks {
                    None => row_dots::<S, A, 1>(simd, x, w, w),
                    Some(blocks) => block_dots::<S, A, 1>(simd, w, x, blocks, w),
                };
                self.output.put([r], [unit as usize], sums);
            }
        }
    }

    #[inline(always)]
    fn by_unit<S: Simd>(&mut self, simd: S) {
        self.transpose();
        let mut unit = 0;
        let pairs = self.unit_starts[self.weights.outputs()] as usize;
        for at in (0..pairs).step_by(4) {
            // The last four may be filled up with copies of its first pair.
            let count = (pairs - at).min(4);
            let (mut units, mut rows) = ([0; 4], [0; 4]);
            for j in 0..4 {
                if j < count {
                    let pair = at + j;
                    while self.unit_starts[unit + 1] as usize <= pair {
                        unit += 1;
                    }
                    (units[j], rows[j]) = (unit, self.unit_rows[pair] as usize);
                } else {
                    (units[j], rows[j]) = (units[0], rows[0]);
                }
            }
            let mut x: [&[A::Word]; 4] = [&[]; 4];
            let mut w: [&[A::Word]; 4] = [&[]; 4];
            for j in 0..4 {
                x[j] = self.rows.row(rows[j]);
                w[j] = self.weights.unit(units[j]);
            }
            let sums = if count == 4 && units[0] == units[3] {
                unit_dots::<S, A>(simd, w[0], x)
            } else {
                pair_dots::<S, A>(simd, w, x)
            };
            if count == 4 {
                self.output.put(rows, units, sums);
                continue;
            }
            for j in 0..count {
                self.output.put([rows[j]], [units[j]], [sums[j]]);
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
                Finish::<Floats>::put(&mut self.output, [r], [unit], [products.sum()]);
            }
        }
    }
}

/// The weights of four units.
#[inline(always)]
fn four_units<'a, W: Copy + Default>(weights: &'a UnitRows<W>, units: &[u32; 4]) -> [&'a [W]; 4] {
    units.map(|unit| weights.unit(unit as usize))
}

/// The dot products of one padded weight row with four rows.
#[inline(always)]
fn unit_dots<S: Simd, A: Arithmetic>(simd: S, w: &[A::Word], rows: [&[A::Word]; 4]) -> [A::Sum; 4] {
    let inputs = rows[0].len();
    assert!(rows.iter().all(|x| x.len() == inputs));
    assert!(w.len() >= inputs);
    let whole = inputs / LANES;
    let mut chains = [[A::splat(simd, A::Word::default()); 4]; 2];
    // SAFETY: whole blocks are within `inputs`, and the tail reads what is left.
    unsafe {
        for pair in 0..whole / 2 {
            for (half, chain) in chains.iter_mut().enumerate() {
                let at = (2 * pair + half) * LANES;
                let b = A::load(simd, w.as_ptr().add(at));
                for j in 0..4 {
                    let a = A::load(simd, rows[j].as_ptr().add(at));
                    chain[j] = A::mul_add(simd, a, b, chain[j]);
                }
            }
        }
        if whole % 2 == 1 {
            let at = (whole - 1) * LANES;
            let b = A::load(simd, w.as_ptr().add(at));
            for j in 0..4 {
                let a = A::load(simd, rows[j].as_ptr().add(at));
                chains[0][j] = A::mul_add(simd, a, b, chains[0][j]);
            }
        }
        let (at, rest) = (whole * LANES, inputs % LANES);
        if rest > 0 {
            let b = A::load_partial(simd, w.as_ptr().add(at), rest);
            for j in 0..4 {
                let a = A::load_partial(simd, rows[j].as_ptr().add(at), rest);
                chains[1][j] = A::mul_add(simd, a, b, chains[1][j]);
            }
        }
    }
    total::<S, A, 4>(simd, chains)
}

/// The dot products of a row with N padded weight rows. `next` is what comes next: its lines are asked
/// for on the way.
#[inline(always)]
fn row_dots<S: Simd, A: Arithmetic, const N: usize>(
    simd: S,
    x: &[A::Word],
    weights: [&[A::Word]; N],
    next: [&[A::Word]; N],
) -> [A::Sum; N] {
    let inputs = x.len();
    assert!(weights.iter().chain(&next).all(|w| w.len() >= inputs));
    let whole = inputs / LANES;
    let mut chains = [[A::splat(simd, A::Word::default()); N]; 2];
    // SAFETY: whole blocks are within `inputs`, and the tail reads what is left.
    unsafe {
        for pair in 0..whole / 2 {
            for (half, chain) in chains.iter_mut().enumerate() {
                let at = (2 * pair + half) * LANES;
                let a = A::load(simd, x.as_ptr().add(at));
                for j in 0..N {
                    if N > 1 {
                        simd.prefetch(next[j].as_ptr().add(at));
                    }
                    let b = A::load(simd, weights[j].as_ptr().add(at));
                    chain[j] = A::mul_add(simd, a, b, chain[j]);
                }
            }
        }
        if whole % 2 == 1 {
            let at = (whole - 1) * LANES;
            let a = A::load(simd, x.as_ptr().add(at));
            for j in 0..N {
                let b = A::load(simd, weights[j].as_ptr().add(at));
                chains[0][j] = A::mul_add(simd, a, b, chains[0][j]);
            }
        }
        let (at, rest) = (whole * LANES, inputs % LANES);
        if rest > 0 {
            let a = A::load_partial(simd, x.as_ptr().add(at), rest);
            for j in 0..N {
                let b = A::load_partial(simd, weights[j].as_ptr().add(at), rest);
                chains[1][j] = A::mul_add(simd, a, b, chains[1][j]);
            }
        }
    }
    total::<S, A, N>(simd, chains)
}

/// The dot products of four padded weight rows with a row each.
#[inline(always)]
fn pair_dots<S: Simd, A: Arithmetic>(
    simd: S,
    weights: [&[A::Word]; 4],
    rows: [&[A::Word]; 4],
) -> [A::Sum; 4] {
    let inputs = rows[0].len();
    assert!(rows.iter().all(|x| x.len() == inputs));
    assert!(weights.iter().all(|w| w.len() >= inputs));
    let whole = inputs / LANES;
    let mut chains = [[A::splat(simd, A::Word::default()); 4]; 2];
    // SAFETY: whole blocks are within `inputs`, and the tail reads what is left.
    unsafe {
        for pair in 0..whole / 2 {
            for (half, chain) in chains.iter_mut().enumerate() {
                let at = (2 * pair + half) * LANES;
                for j in 0..4 {
                    let a = A::load(simd, rows[j].as_ptr().add(at));
                    let b = A::load(simd, weights[j].as_ptr().add(at));
                    chain[j] = A::mul_add(simd, a, b, chain[j]);
                }
            }
        }
        if whole % 2 == 1 {
            let at = (whole - 1) * LANES;
            for j in 0..4 {
                let a = A::load(simd, rows[j].as_ptr().add(at));
                let b = A::load(simd, weights[j].as_ptr().add(at));
                chains[0][j] = A::mul_add(simd, a, b, chains[0][j]);
            }
        }
        let (at, rest) = (whole * LANES, inputs % LANES);
        if rest > 0 {
            for j in 0..4 {
                let a = A::load_partial(simd, rows[j].as_ptr().add(at), rest);
                let b = A::load_partial(simd, weights[j].as_ptr().add(at), rest);
                chains[1][j] = A::mul_add(simd, a, b, chains[1][j]);
            }
        }
    }
    total::<S, A, 4>(simd, chains)
}

/// The dot products of padded weight rows with the blocks of a row, and with what the row has after
/// its last whole block. `next` is what comes next: its lines are asked for on the way.
#[inline(always)]
fn block_dots<S: Simd, A: Arithmetic, const N: usize>(
    simd: S,
    weights: [&[A::Word]; N],
    x: &[A::Word],
    blocks: Blocks<'_>,
    next: [&[A::Word]; N],
) -> [A::Sum; N] {
    let inputs = x.len();
    assert!(weights.iter().chain(&next).all(|w| w.len() >= inputs));
    let mut chains = [[A::splat(simd, A::Word::default()); N]; 2];
    let pairs = blocks[0].len().min(blocks[1].len());
    // SAFETY: `list_blocks` listed blocks of this row, so each is within it, and within the weight
    // rows, which are no shorter; the tail reads what is left of the row.
    unsafe {
        for i in 0..pairs {
            for (chain, blocks) in chains.iter_mut().zip(blocks) {
                let at = *blocks.get_unchecked(i) as usize * LANES;
                let a = A::load(simd, x.as_ptr().add(at));
                for j in 0..N {
                    if N > 1 {
                        simd.prefetch(next[j].as_ptr().add(at));
                    }
                    let b = A::load(simd, weights[j].as_ptr().add(at));
                    chain[j] = A::mul_add(simd, a, b, chain[j]);
                }
            }
        }
        for (chain, blocks) in chains.iter_mut().zip(blocks) {
            for block in &blocks[pairs..] {
                let at = *block as usize * LANES;
                let a = A::load(simd, x.as_ptr().add(at));
                for j in 0..N {
                    let b = A::load(simd, weights[j].as_ptr().add(at));
                    chain[j] = A::mul_add(simd, a, b, chain[j]);
                }
            }
        }
        let (at, rest) = (inputs / LANES * LANES, inputs % LANES);
        if rest > 0 {
            let a = A::load_partial(simd, x.as_ptr().add(at), rest);
            for j in 0..N {
                let b = A::load_partial(simd, weights[j].as_ptr().add(at), rest);
                chains[1][j] = A::mul_add(simd, a, b, chains[1][j]);
            }
        }
    }
    total::<S, A, N>(simd, chains)
}

/// Adds up the two chains of each dot product.
#[inline(always)]
fn total<S: Simd, A: Arithmetic, const N: usize>(
    simd: S,
    [even, odd]: [[A::Vector<S>; N]; 2],
) -> [A::Sum; N] {
    let mut sums = [A::Sum::default(); N];
    if N == 4 {
        let mut all = [A::splat(simd, A::Word::default()); 4];
        for (j, all) in all.iter_mut().enumerate() {
            *all = A::add(simd, even[j], odd[j]);
        }
        sums.copy_from_slice(&A::sum4(simd, all));
        return sums;
    }
    for j in 0..N {
        sums[j] = A::sum(simd, A::add(simd, even[j], odd[j]));
    }
    sums
}
