//! Dot products of chosen units: the second half of a gated layer. Units that are off are never
//! read.
//!
//! The live units of a row are processed four at a time, which share the loads of the row, while
//! the weights of the next four are prefetched. Weights are therefore read once per row; rows of a
//! batch that share live units find them in the near caches. Processing unit by unit, with all rows
//! that need the unit, would read the weights once per tile. This was tried and is slower: a gate
//! pays off only if few rows need the same unit.
//!
//! Cache lines of weights that are multiplied only with zeros are not read: a row lists its
//! non-zero *blocks* (vectors of sixteen inputs with at least one non-zero), and a dot product
//! visits only these. On sparse rows a gate therefore saves both units and inputs, without
//! gathering.
//!
//! A dot product has two chains, one over the even blocks and one over the odd blocks. A block of
//! zeros adds nothing to either, so listing the blocks does not change any bit.

use super::arithmetic::{Arithmetic, Floats};
use super::epilogue::{Output, SelectedEpilogue};
use crate::layout::UnitRows;
use crate::signal::{DenseRows, RowRange, SparseRows};
use crate::simd::{Kernel, LANES, Simd};

/// Computes the live units of every row. The output must be cleared before the call.
pub(crate) struct LiveUnits<'a, A: Arithmetic> {
    pub(crate) rows: DenseRows<'a, A::Word>,
    pub(crate) weights: &'a UnitRows<A::Word>,
    pub(crate) output: Output<'a>,
    /// The live units of each row, in ascending order.
    pub(crate) live: &'a [u32],
    pub(crate) row_ranges: &'a [RowRange],
    /// Scratch for the blocks of a row: one entry per whole vector of a row.
    pub(crate) blocks: &'a mut [u32],
}

/// If more than this share of blocks is non-zero, the whole row is used; visiting blocks one by one
/// costs slightly more.
const BLOCKS_UP_TO: f32 = 0.8;

/// Indices of a row's non-zero blocks: even and odd.
type Blocks<'a> = [&'a [u32]; 2];

/// Lists the non-zero blocks of a row, or returns `None` if there are too many.
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

impl<'a, A: Arithmetic> Kernel for LiveUnits<'a, A>
where
    Output<'a>: SelectedEpilogue<A>,
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        assert_eq!(self.rows.columns(), self.weights.inputs());
        for r in 0..self.rows.rows() {
            let x = self.rows.row(r);
            let blocks = list_blocks::<S, A>(simd, x, self.blocks);
            let RowRange { start, len } = self.row_ranges[r];
            let live = &self.live[start..start + len];
            let (fours, _) = live.as_chunks::<4>();
            let mut following = fours.iter().skip(1);
            for units in live.chunks(LANES) {
                let mut sums = [A::Sum::default(); LANES];
                let (fours, rest) = units.as_chunks::<4>();
                for (sums, four) in sums.chunks_exact_mut(4).zip(fours) {
                    let w = four_units(self.weights, four);
                    let next = following.next().map_or(w, |next| four_units(self.weights, next));
                    let dots = match blocks {
                        None => row_dots::<S, A, 4>(simd, x, w, next),
                        Some(blocks) => block_dots::<S, A, 4>(simd, x, w, next, blocks),
                    };
                    sums.copy_from_slice(&dots);
                }
                for (sum, &unit) in sums[4 * fours.len()..].iter_mut().zip(rest) {
                    let w = [self.weights.unit(unit as usize)];
                    [*sum] = match blocks {
                        None => row_dots::<S, A, 1>(simd, x, w, w),
                        Some(blocks) => block_dots::<S, A, 1>(simd, x, w, w, blocks),
                    };
                }
                self.output.store_selected(simd, r, units, &sums);
            }
        }
    }
}

/// Computes the live units of rows that exist only as lists (CSR input).
pub(crate) struct LiveUnitsOfLists<'a> {
    pub(crate) lists: SparseRows<'a>,
    pub(crate) weights: &'a UnitRows,
    pub(crate) output: Output<'a>,
    /// The live units of each row, in ascending order.
    pub(crate) live: &'a [u32],
    pub(crate) row_ranges: &'a [RowRange],
}

impl Kernel for LiveUnitsOfLists<'_> {
    type Output = ();
    /// Scalar code: such rows have a few dozen entries, and a gather per lane is not faster.
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        assert_eq!(self.lists.columns, self.weights.inputs());
        for (r, row_range) in self.row_ranges.iter().enumerate() {
            let (index, value) = self.lists.row(r);
            for units in self.live[row_range.start..row_range.start + row_range.len].chunks(LANES) {
                let mut sums = [0.0; LANES];
                for (sum, &unit) in sums.iter_mut().zip(units) {
                    let w = self.weights.unit(unit as usize);
                    *sum = index.iter().zip(value).map(|(i, x)| w[*i as usize] * x).sum();
                }
                SelectedEpilogue::<Floats>::store_selected(&mut self.output, simd, r, units, &sums);
            }
        }
    }
}

/// The weights of four units.
#[inline(always)]
fn four_units<'a, W: Copy + Default>(weights: &'a UnitRows<W>, units: &[u32; 4]) -> [&'a [W]; 4] {
    units.map(|unit| weights.unit(unit as usize))
}

/// The dot products of a row with N padded weight rows. The lines of `next`, the following units,
/// are prefetched meanwhile.
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
    // SAFETY: whole blocks are within the row, and the weight rows are at least as long.
    unsafe {
        for pair in 0..whole / 2 {
            for (half, chain) in chains.iter_mut().enumerate() {
                add_block::<S, A, N>(simd, x, weights, next, 2 * pair + half, chain);
            }
        }
        if whole % 2 == 1 {
            add_block::<S, A, N>(simd, x, weights, weights, whole - 1, &mut chains[0]);
        }
    }
    total::<S, A, N>(simd, x, weights, chains)
}

/// The same over the row's listed blocks and the entries after its last whole block.
#[inline(always)]
fn block_dots<S: Simd, A: Arithmetic, const N: usize>(
    simd: S,
    x: &[A::Word],
    weights: [&[A::Word]; N],
    next: [&[A::Word]; N],
    blocks: Blocks<'_>,
) -> [A::Sum; N] {
    assert!(weights.iter().chain(&next).all(|w| w.len() >= x.len()));
    let mut chains = [[A::splat(simd, A::Word::default()); N]; 2];
    let pairs = blocks[0].len().min(blocks[1].len());
    // SAFETY: `list_blocks` listed blocks of this row, so each is within it, and the weight rows
    // are at least as long.
    unsafe {
        for i in 0..pairs {
            for (chain, blocks) in chains.iter_mut().zip(blocks) {
                let block = *blocks.get_unchecked(i) as usize;
                add_block::<S, A, N>(simd, x, weights, next, block, chain);
            }
        }
        for (chain, blocks) in chains.iter_mut().zip(blocks) {
            for &block in &blocks[pairs..] {
                add_block::<S, A, N>(simd, x, weights, next, block as usize, chain);
            }
        }
    }
    total::<S, A, N>(simd, x, weights, chains)
}

/// Adds the products of one block to one chain of each dot product.
///
/// # Safety
/// The block must be within the row, the weights and the weights to prefetch.
#[inline(always)]
unsafe fn add_block<S: Simd, A: Arithmetic, const N: usize>(
    simd: S,
    x: &[A::Word],
    weights: [&[A::Word]; N],
    next: [&[A::Word]; N],
    block: usize,
    chain: &mut [A::Vector<S>; N],
) {
    let at = block * LANES;
    // SAFETY: the caller's promise.
    unsafe {
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

/// Adds the entries after the row's last whole block to the odd chain, and then the two chains of
/// each dot product.
#[inline(always)]
fn total<S: Simd, A: Arithmetic, const N: usize>(
    simd: S,
    x: &[A::Word],
    weights: [&[A::Word]; N],
    [even, mut odd]: [[A::Vector<S>; N]; 2],
) -> [A::Sum; N] {
    let (at, rest) = (x.len() / LANES * LANES, x.len() % LANES);
    if rest > 0 {
        assert!(weights.iter().all(|w| w.len() >= x.len()));
        // SAFETY: the row has `rest` more words, and the weight rows are at least as long.
        unsafe {
            let a = A::load_partial(simd, x.as_ptr().add(at), rest);
            for j in 0..N {
                let b = A::load_partial(simd, weights[j].as_ptr().add(at), rest);
                odd[j] = A::mul_add(simd, a, b, odd[j]);
            }
        }
    }
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
