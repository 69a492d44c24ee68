//! Asking for weights before they are read.

use crate::signal::Span;
use crate::simd::Simd;

/// Rows from which on a tile asks for its next panel bit by bit; fewer need too little of it.
const PREFETCH_FROM: usize = 32;

/// Bytes of weights up to which they are asked for: half of a small L2.
const PREFETCH_UP_TO: usize = 512 << 10;

/// Asks for part `part` of `parts` of the weights that come next, so that they are in L2 when they do: what
/// lists touch of them no hardware foresees. For lists that touch most lines: see [`touch_most`].
#[inline(always)]
pub(super) fn prefetch_part<S: Simd, W>(simd: S, next: &[W], part: usize, parts: usize) {
    if parts >= PREFETCH_FROM && size_of_val(next) <= PREFETCH_UP_TO {
        let lines = (size_of_val(next) / 64).div_ceil(parts);
        for line in part * lines..(part + 1) * lines {
            simd.prefetch_l2(next.as_ptr().wrapping_byte_add(64 * line));
        }
    }
}

/// Whether the lists of a tile, all together, have an entry for each of `columns` columns: a panel is then
/// read for the most part.
pub(super) fn touch_most(spans: &[Span], columns: usize) -> bool {
    spans.iter().map(|span| span.len).sum::<usize>() >= columns
}
