//! Panels: columns of a layer, 64 units at a time, input by input.

use std::ops::Range;
use std::sync::OnceLock;

use super::size::{BLOCK, PANEL, padded};
use crate::interrupt;
use crate::memory::{self, Aligned, packed, with_weight_capacity};
use crate::simd::LANES;

/// A weight matrix as panels of 64 units: `[panel][input][64]`. The last panel has only as many
/// vectors per input as it needs; padding is zero.
pub(crate) struct Panels<W = f32> {
    data: Aligned<W>,
    inputs: usize,
    outputs: usize,
    /// Of [`Panels::sums_of_bytes`].
    sums: OnceLock<Vec<u32>>,
}

impl<W: Copy + Default> Panels<W> {
    fn new(data: Aligned<W>, inputs: usize, outputs: usize) -> Self {
        Panels { data, inputs, outputs, sums: OnceLock::new() }
    }

    /// Packs the matrix whose entry from input `i` to unit `o` is `weight(i, o)`. With bytes, an
    /// entry has four inputs.
    pub(crate) fn pack(inputs: usize, outputs: usize, weight: impl Fn(usize, usize) -> W) -> Self {
        let mut data = with_weight_capacity(inputs * padded(outputs));
        for first in (0..outputs).step_by(PANEL) {
            interrupt::check_or_unwind();
            let (start, used) = (data.len(), (outputs - first).min(PANEL));
            data.resize(start + inputs * padded(used), W::default());
            Self::pack_panel(inputs, used, &mut data[start..], |i, o| weight(i, first + o));
        }
        Panels::new(data, inputs, outputs)
    }

    /// As [`Panels::pack`], for a matrix stored input by input.
    pub(crate) fn pack_by_input(
        inputs: usize,
        outputs: usize,
        weight: impl Fn(usize, usize) -> W,
    ) -> Self {
        let mut data = with_weight_capacity(inputs * padded(outputs));
        for first in (0..outputs).step_by(PANEL) {
            interrupt::check_or_unwind();
            let (start, used) = (data.len(), (outputs - first).min(PANEL));
            data.resize(start + inputs * padded(used), W::default());
            let lines = data[start..].chunks_exact_mut(padded(used));
            for (input, line) in lines.enumerate() {
                for (o, w) in line[..used].iter_mut().enumerate() {
                    *w = weight(input, first + o);
                }
            }
        }
        Panels::new(data, inputs, outputs)
    }

    /// As [`Panels::pack`], for a matrix of `columns` inputs of which `selected` lists the inputs
    /// used, in their order. Lines are permuted after packing, not single weights.
    pub(crate) fn pack_selected(
        columns: usize,
        selected: &[u32],
        outputs: usize,
        weight: impl Fn(usize, usize) -> W,
    ) -> Self {
        let mut data = with_weight_capacity(selected.len() * padded(outputs));
        let mut lines = memory::filled(W::default(), columns * padded(outputs).min(PANEL));
        for first in (0..outputs).step_by(PANEL) {
            interrupt::check_or_unwind();
            let used = (outputs - first).min(PANEL);
            let width = padded(used);
            let lines = &mut lines[..columns * width];
            if used < width {
                lines.fill(W::default());
            }
            Self::pack_panel(columns, used, lines, |i, o| weight(i, first + o));
            for input in selected {
                data.extend_from_slice(&lines[*input as usize * width..][..width]);
            }
        }
        Panels::new(data, selected.len(), outputs)
    }

    /// As [`Panels::pack`]; `fill(o, row)` writes unit `o`. It is called once per unit, in order.
    pub(crate) fn pack_units(
        inputs: usize,
        outputs: usize,
        mut fill: impl FnMut(usize, &mut [W]),
    ) -> Self {
        let mut data = with_weight_capacity(inputs * padded(outputs));
        let mut units = memory::filled(W::default(), PANEL.min(outputs) * inputs);
        for first in (0..outputs).step_by(PANEL) {
            interrupt::check_or_unwind();
            let (start, used) = (data.len(), (outputs - first).min(PANEL));
            for (o, unit) in units.chunks_exact_mut(inputs).take(used).enumerate() {
                fill(first + o, unit);
            }
            data.resize(start + inputs * padded(used), W::default());
            Self::pack_panel(inputs, used, &mut data[start..], |i, o| units[o * inputs + i]);
        }
        Panels::new(data, inputs, outputs)
    }

    fn pack_panel(inputs: usize, units: usize, data: &mut [W], weight: impl Fn(usize, usize) -> W) {
        let width = padded(units);
        for block in (0..inputs).step_by(BLOCK) {
            for o in 0..units {
                for i in block..inputs.min(block + BLOCK) {
                    data[i * width + o] = weight(i, o);
                }
            }
        }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    #[inline(always)]
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * size_of::<W>()
    }

    /// Number of panels.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// The range of all panel numbers.
    pub(crate) fn all(&self) -> Range<usize> {
        0..self.count()
    }

    /// Panel `p`: its first unit, its number of vectors per input, and its weights.
    #[inline(always)]
    pub(crate) fn panel(&self, p: usize) -> (usize, usize, &[W]) {
        let first = p * PANEL;
        let width = (padded(self.outputs) - first).min(PANEL);
        let panel = &self.data[first * self.inputs..(first + width) * self.inputs];
        (first, width / LANES, panel)
    }
}

impl Panels<u32> {
    /// The sum of the signed bytes of each unit and of padding, as an i32. Computed by the first call.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(crate) fn sums_of_bytes(&self) -> &[u32] {
        packed::<Vec<u32>>(&self.sums, || {
            let mut sums = memory::filled(0_u32, padded(self.outputs));
            for p in self.all() {
                let (first, vectors, weights) = self.panel(p);
                for line in weights.chunks_exact(vectors * LANES) {
                    for (sum, word) in sums[first..].iter_mut().zip(line) {
                        let bytes = word.to_ne_bytes().map(|byte| i32::from(byte as i8));
                        *sum = sum.wrapping_add(bytes.iter().sum::<i32>() as u32);
                    }
                }
            }
            sums
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [(usize, usize); 6] = [(1, 1), (3, 15), (63, 16), (64, 64), (65, 65), (130, 200)];

    /// A number that encodes its position.
    fn weight(input: usize, unit: usize) -> u32 {
        (1000 * input + unit + 1) as u32
    }

    /// Checks every entry, and that all padding is zero.
    #[track_caller]
    fn check(panels: &Panels<u32>, inputs: usize, outputs: usize, at: impl Fn(usize) -> usize) {
        assert_eq!((panels.inputs(), panels.count()), (inputs, outputs.div_ceil(64)));
        assert_eq!(panels.bytes(), 4 * inputs * outputs.next_multiple_of(16));
        for p in panels.all() {
            let (first, vectors, panel) = panels.panel(p);
            assert_eq!(first, 64 * p);
            assert_eq!(vectors, (outputs - first).div_ceil(16).min(4));
            assert_eq!(panel.len(), inputs * 16 * vectors);
            for (i, line) in panel.chunks_exact(16 * vectors).enumerate() {
                for (o, w) in line.iter().enumerate() {
                    let unit = first + o;
                    let expected = if unit < outputs { weight(at(i), unit) } else { 0 };
                    assert_eq!(*w, expected, "input {i}, unit {unit} of {inputs} x {outputs}");
                }
            }
        }
    }

    #[test]
    fn all_ways_to_pack_agree() {
        for (inputs, outputs) in SHAPES {
            check(&Panels::pack(inputs, outputs, weight), inputs, outputs, |i| i);
            check(&Panels::pack_by_input(inputs, outputs, weight), inputs, outputs, |i| i);
            let mut asked = 0..;
            let units = Panels::pack_units(inputs, outputs, |unit, weights| {
                assert_eq!(Some(unit), asked.next(), "units are asked for once, in order");
                weights.iter_mut().enumerate().for_each(|(i, w)| *w = weight(i, unit));
            });
            check(&units, inputs, outputs, |i| i);
        }
    }

    #[test]
    fn inputs_can_be_picked_in_any_order() {
        for (columns, outputs) in SHAPES {
            let selected: Vec<u32> = (0..columns as u32).rev().step_by(2).collect();
            let panels = Panels::pack_selected(columns, &selected, outputs, weight);
            check(&panels, selected.len(), outputs, |i| selected[i] as usize);
        }
    }
}
