//! Prefetching of weights.

use crate::signal::RowRange;
use crate::simd::Simd;

/// Least number of rows in a tile that prefetches its next panel, a part with each row. With fewer
/// rows the parts would be too large.
const PREFETCH_FROM: usize = 32;

/// Largest panel, in bytes, that is prefetched: half of a small L2.
const PREFETCH_UP_TO: usize = 512 << 10;

/// Prefetches part `part` of `parts` of the next weights into L2. Lists access weights in an order
/// that hardware prefetchers cannot predict. Use it for lists that touch most lines: see
/// [`touch_most`].
#[inline(always)]
pub(super) fn prefetch_part<S: Simd, W>(simd: S, next: &[W], part: usize, parts: usize) {
    if parts >= PREFETCH_FROM && size_of_val(next) <= PREFETCH_UP_TO {
        let lines = (size_of_val(next) / 64).div_ceil(parts);
        for line in part * lines..(part + 1) * lines {
            simd.prefetch_l2(next.as_ptr().wrapping_byte_add(64 * line));
        }
    }
}

/// Whether the lists of a tile together have at least `columns` entries, so that most of a panel is
/// read.
pub(super) fn touch_most(row_ranges: &[RowRange], columns: usize) -> bool {
    row_ranges.iter().map(|row_range| row_range.len).sum::<usize>() >= columns
}
