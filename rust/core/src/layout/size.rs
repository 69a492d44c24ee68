//! Sizes that layouts are rounded up to.

use crate::simd::LANES;

/// `n` rounded up to whole vectors.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// Units in a full panel: four vectors, eight AVX2 registers.
pub(crate) const PANEL: usize = 4 * LANES;

/// Inputs that are packed at a time: a unit's weights to them are few cache lines, which all of them are read
/// from before the next unit's are.
pub(crate) const BLOCK: usize = 64;
