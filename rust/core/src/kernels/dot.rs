//! Dot products of chosen units: the gate's second half. A unit that is off is never read.
//!
//! A row's live units are taken four at a time, sharing each load of the row, while the weights of the
//! next four are asked for. So weights are read once per row, from the near caches where rows of a
//! batch agree on their units. Unit by unit, with the rows that need it, they would be read once, but
//! few rows need one unit where a gate pays: it was tried, and is slower.
//!
//! A cache line of weights that only zeros would multiply need not be read either: a row lists its
//! *blocks*, the vectors of sixteen inputs of which one or more is not zero, and a dot product visits
//! these alone. So a gate on sparse rows saves twice, by units and by inputs, without gathering.
//!
//! A dot product is two chains, one over the even blocks and one over the odd ones, which a block of
//! zeros adds nothing to. So whether blocks are listed does not change a bit.

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
    /// Scratch for a row's blocks: as many entries as a row has whole vectors.
    pub(crate) blocks: &'a mut [u32],
}

/// Rows of which more than this share of blocks is not all zero are taken whole: a block at a time
/// costs a little more than a run through all of them.
const BLOCKS_UP_TO: f32 = 0.8;

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
}

impl<'a, A: Arithmetic> Kernel for LiveUnits<'a, A>
where
    Output<'a>: Finish<A>,
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        assert_eq!(self.rows.columns(), self.weights.inputs());
        self.by_row(simd);
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
