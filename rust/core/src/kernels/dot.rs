//! Dot products of chosen units: the second half of a gated layer. Units that are off are never
//! read.
//!
//! The live units of a row are processed four at a time, which share the loads of the row. In single
//! rows, and with weights that do not stay in L2, the weights of the next four are prefetched
//! meanwhile. Weights are therefore read once per row; rows of a batch that share live units find
//! them in the near caches. Processing unit by unit, with all rows that need the unit, would read the
//! weights once per tile. This was tried and is slower: a gate pays off only if few rows need the same
//! unit.
//!
//! Cache lines of weights that are multiplied only with zeros are not read: a row lists its
//! non-zero *blocks* (vectors of sixteen words with at least one non-zero), and a dot product
//! visits only these. On sparse rows a gate therefore saves both units and inputs, without
//! gathering.
//!
//! A dot product adds up the blocks in turn, in one chain, since those of four units overlap. A block of zeros adds nothing, so listing the blocks does not change any bit.

use std::array::from_fn;

use super::STAYS_IN_L2;
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

/// Lists the non-zero blocks of a row, or returns `None` if there are too many.
#[inline(always)]
fn list_blocks<'a, S: Simd, A: Arithmetic>(
    simd: S,
    x: &[A::Word],
    blocks: &'a mut [u32],
) -> Option<&'a [u32]> {
    let whole = x.len() / LANES;
    let (blocks, mut len) = (&mut blocks[..whole], 0);
    for block in 0..whole {
        // SAFETY: the block is within the row.
        let v = unsafe { A::load(simd, x.as_ptr().add(block * LANES)) };
        blocks[len] = block as u32;
        len += usize::from(A::nonzero(simd, v) != 0);
    }
    (len as f32 <= BLOCKS_UP_TO * whole as f32).then_some(&blocks[..len])
}

impl<'a, A: Arithmetic> Kernel for LiveUnits<'a, A>
where
    Output<'a>: SelectedEpilogue<A>,
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        assert_eq!(self.rows.columns(), self.weights.inputs());
        let ahead = self.rows.rows() == 1 || self.weights.bytes() > STAYS_IN_L2;
        for r in 0..self.rows.rows() {
            let x = self.rows.row(r);
            let blocks = list_blocks::<S, A>(simd, x, self.blocks);
            let RowRange { start, len } = self.row_ranges[r];
            let live = &self.live[start..start + len];
            let mut following = live.chunks(4).skip(1);
            for units in live.chunks(LANES) {
                let mut sums = [A::Sum::default(); LANES];
                for (sums, four) in sums.as_chunks_mut::<4>().0.iter_mut().zip(units.chunks(4)) {
                    let w = four_units(self.weights, four);
                    let next = following.next().filter(|_| ahead);
                    let next = next.map(|next| four_units(self.weights, next));
                    *sums = match blocks {
                        None => row_dots::<S, A>(simd, x, w, next),
                        Some(blocks) => block_dots::<S, A>(simd, x, w, next, blocks),
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

/// The padded weight rows of four units.
type Four<'a, W> = [&'a [W]; 4];

/// The weights of up to four units. The last one stands for those that are missing, whose sums are not
/// used.
#[inline(always)]
fn four_units<'a, W: Copy + Default>(weights: &'a UnitRows<W>, units: &[u32]) -> Four<'a, W> {
    from_fn(|j| weights.unit(units[j.min(units.len() - 1)] as usize))
}

/// The dot products of a row with four units. The lines of `next`, the following units, are
/// prefetched meanwhile.
#[inline(always)]
fn row_dots<S: Simd, A: Arithmetic>(
    simd: S,
    x: &[A::Word],
    weights: Four<'_, A::Word>,
    next: Option<Four<'_, A::Word>>,
) -> [A::Sum; 4] {
    let inputs = x.len();
    assert!(weights.iter().chain(next.iter().flatten()).all(|w| w.len() >= inputs));
    let mut sums = [A::splat(simd, A::Word::default()); 4];
    for block in 0..inputs / LANES {
        // SAFETY: whole blocks are within the row, and the weight rows are at least as long.
        unsafe { add_block::<S, A>(simd, x, weights, next, block, &mut sums) }
    }
    total::<S, A>(simd, x, weights, sums)
}

/// The same over the row's listed blocks and the entries after its last whole block.
#[inline(always)]
fn block_dots<S: Simd, A: Arithmetic>(
    simd: S,
    x: &[A::Word],
    weights: Four<'_, A::Word>,
    next: Option<Four<'_, A::Word>>,
    blocks: &[u32],
) -> [A::Sum; 4] {
    assert!(weights.iter().chain(next.iter().flatten()).all(|w| w.len() >= x.len()));
    let mut sums = [A::splat(simd, A::Word::default()); 4];
    for &block in blocks {
        // SAFETY: `list_blocks` listed blocks of this row, so each is within it, and the weight rows
        // are at least as long.
        unsafe { add_block::<S, A>(simd, x, weights, next, block as usize, &mut sums) }
    }
    total::<S, A>(simd, x, weights, sums)
}

/// Adds the products of one block to each dot product.
///
/// # Safety
/// The block must be within the row, the weights and the weights to prefetch.
#[inline(always)]
unsafe fn add_block<S: Simd, A: Arithmetic>(
    simd: S,
    x: &[A::Word],
    weights: Four<'_, A::Word>,
    next: Option<Four<'_, A::Word>>,
    block: usize,
    sums: &mut [A::Vector<S>; 4],
) {
    let at = block * LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let a = A::load(simd, x.as_ptr().add(at));
        for j in 0..4 {
            if let Some(next) = next {
                simd.prefetch(next[j].as_ptr().add(at));
            }
            let b = A::load(simd, weights[j].as_ptr().add(at));
            sums[j] = A::mul_add(simd, a, b, sums[j]);
        }
    }
}

/// Adds the entries after the row's last whole block, and then the lanes of each dot product.
#[inline(always)]
fn total<S: Simd, A: Arithmetic>(
    simd: S,
    x: &[A::Word],
    weights: Four<'_, A::Word>,
    mut sums: [A::Vector<S>; 4],
) -> [A::Sum; 4] {
    let (at, rest) = (x.len() / LANES * LANES, x.len() % LANES);
    if rest > 0 {
        assert!(weights.iter().all(|w| w.len() >= x.len()));
        // SAFETY: the row has `rest` more words, and the weight rows are at least as long.
        unsafe {
            let a = A::load_partial(simd, x.as_ptr().add(at), rest);
            for j in 0..4 {
                let b = A::load_partial(simd, weights[j].as_ptr().add(at), rest);
                sums[j] = A::mul_add(simd, a, b, sums[j]);
            }
        }
    }
    A::sum4(simd, sums)
}
