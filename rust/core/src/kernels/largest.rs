//! Finds the largest magnitudes of a layer's weights before they are packed.

use crate::memory;
use crate::simd::{Kernel, Simd};

/// The largest magnitude in each row of a matrix, in the given columns or in all of them, and
/// whether all values in all columns are finite.
pub(crate) struct LargestOfRows<'a> {
    pub(crate) matrix: &'a [f32],
    pub(crate) width: usize,
    pub(crate) columns: Option<&'a [u32]>,
}

impl Kernel for LargestOfRows<'_> {
    type Output = (Vec<f32>, bool);
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> (Vec<f32>, bool) {
        // The bits of magnitudes have the order of the magnitudes, with infinity and NaN last.
        const MAGNITUDE: u32 = u32::MAX >> 1;
        let mask = if self.columns.is_some() { 0 } else { MAGNITUDE };
        let mut masks = memory::filled(mask, self.width);
        for column in self.columns.unwrap_or_default() {
            masks[*column as usize] = MAGNITUDE;
        }
        let mut largest = memory::with_capacity(self.matrix.len() / self.width);
        let mut of_all = 0;
        for row in self.matrix.chunks_exact(self.width) {
            let mut most = 0;
            for (value, mask) in row.iter().zip(&masks) {
                let bits = value.to_bits() & MAGNITUDE;
                most = most.max(bits & mask);
                of_all = of_all.max(bits);
            }
            largest.push(f32::from_bits(most));
        }
        (largest, f32::from_bits(of_all).is_finite())
    }
}
