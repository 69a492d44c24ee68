//! Scratch memory of gates.

use crate::layout::padded;
use crate::memory::Aligned;
use crate::signal::{RowRange, byte_stride, grow, grow_vec, list_stride};
use crate::simd::LANES;

/// Buffers that a gate uses between its estimate and its dot products.
pub(crate) struct GateScratch {
    /// x u: rows by rank.
    pub(crate) low_rank: Aligned<f32>,
    /// x u as bytes.
    pub(crate) low_rank_bytes: Aligned<u32>,
    /// Live units of each row.
    pub(crate) live: Aligned<u32>,
    pub(crate) live_ranges: Vec<RowRange>,
    /// Rows whose estimate is not finite.
    pub(crate) non_finite: Vec<bool>,
    /// Indices of a row's non-zero vectors.
    pub(crate) blocks: Vec<u32>,
}

impl Default for GateScratch {
    fn default() -> GateScratch {
        GateScratch {
            low_rank: Aligned::new(64),
            low_rank_bytes: Aligned::new(64),
            live: Aligned::new(64),
            live_ranges: Vec::new(),
            non_finite: Vec::new(),
            blocks: Vec::new(),
        }
    }
}

impl GateScratch {
    /// Grows the buffers for `rows` rows, a gate of this rank, and a layer of these widths.
    pub(crate) fn reserve(&mut self, rows: usize, rank: usize, inputs: usize, units: usize) {
        grow(&mut self.low_rank, rows * padded(rank));
        grow(&mut self.low_rank_bytes, rows * byte_stride(rank));
        grow(&mut self.live, rows * list_stride(units));
        grow_vec(&mut self.live_ranges, rows);
        grow_vec(&mut self.non_finite, rows);
        grow_vec(&mut self.blocks, inputs / LANES);
    }
}

/// The live units of every row, and scratch for the indices of a row's non-zero blocks.
pub(crate) struct LiveLists<'a> {
    pub(crate) live: &'a [u32],
    pub(crate) row_ranges: &'a [RowRange],
    pub(crate) blocks: &'a mut [u32],
}
