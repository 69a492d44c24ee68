//! Weight rows, one per unit.

use super::size::{PANEL, padded};
use crate::interrupt;
use crate::memory::{Aligned, with_weight_capacity};

/// A weight matrix as one zero-padded row per unit: `[unit][input]`.
pub(crate) struct UnitRows<W = f32> {
    data: Aligned<W>,
    inputs: usize,
}

impl<W: Copy + Default> UnitRows<W> {
    /// Packs a matrix. `fill(o, row)` writes the first `filled` inputs of unit `o`; the other
    /// inputs are zero. With bytes, an entry has four inputs.
    pub(crate) fn pack(
        inputs: usize,
        filled: usize,
        outputs: usize,
        mut fill: impl FnMut(usize, &mut [W]),
    ) -> Self {
        let stride = padded(inputs);
        let mut data = with_weight_capacity(outputs * stride);
        for unit in 0..outputs {
            if unit % PANEL == 0 {
                interrupt::check_or_unwind();
            }
            let start = data.len();
            data.resize(start + stride, W::default());
            fill(unit, &mut data[start..][..filled]);
        }
        UnitRows { data, inputs }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * size_of::<W>()
    }

    /// The padded weights of one unit.
    #[inline(always)]
    pub(crate) fn unit(&self, unit: usize) -> &[W] {
        let stride = padded(self.inputs);
        &self.data[unit * stride..(unit + 1) * stride]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_with_zeros() {
        for (inputs, filled) in [(1, 1), (16, 16), (17, 17), (32, 20)] {
            let rows = UnitRows::pack(inputs, filled, 3, |unit, row| {
                assert_eq!(row.len(), filled);
                row.fill(unit as u32 + 1);
            });
            assert_eq!((rows.inputs(), rows.bytes()), (inputs, 3 * 4 * padded(inputs)));
            for unit in 0..3 {
                let (own, padding) = rows.unit(unit).split_at(filled);
                assert!(own.iter().all(|w| *w == unit as u32 + 1));
                assert_eq!(own.len() + padding.len(), padded(inputs));
                assert!(padding.iter().all(|w| *w == 0));
            }
        }
    }
}
