//! Sizes that layouts are rounded up to.

use crate::simd::LANES;

/// `n` rounded up to whole vectors.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// Units in a full panel: four vectors, eight AVX2 registers.
pub(crate) const PANEL: usize = 4 * LANES;

/// Inputs that are packed together: the weights of a unit to them are a few cache lines, which are
/// read completely before those of the next unit.
pub(crate) const BLOCK: usize = 64;
