//! Panels of bytes in which every input has its own line.

use super::size::{BLOCK, PANEL};
use crate::interrupt;
use crate::memory::{self, Aligned, with_weight_capacity, zeros};
use crate::simd::{Isa, Kernel, LANES, Simd};

/// A matrix of signed bytes as panels of 64 units: `[panel][input][64]`. The weights of one input
/// to 64 units are one cache line. The bytes of a line are permuted so that [`Simd::interleave`]
/// puts them in order.
pub(crate) struct BytePanels {
    /// Four bytes per word.
    data: Aligned<u32>,
    inputs: usize,
    outputs: usize,
}

impl BytePanels {
    /// Packs a matrix. `fill(o, words)` writes unit `o` as `columns` words of four inputs each; it
    /// is called once per unit, in order. `selected` lists the inputs that the matrix has, in their
    /// order; then lines are permuted after packing.
    pub(crate) fn pack(
        isa: Isa,
        (inputs, outputs): (usize, usize),
        columns: usize,
        selected: Option<&[u32]>,
        mut fill: impl FnMut(usize, &mut [u32]),
    ) -> Self {
        assert_eq!(inputs, selected.map_or(inputs, <[u32]>::len));
        let len = outputs.div_ceil(PANEL) * inputs * LANES;
        let mut data = with_weight_capacity(len);
        let mut words = memory::filled(0, PANEL.min(outputs) * columns);
        let mut reordering = selected.map(|selected| (selected, zeros(4 * columns * LANES)));
        for first in (0..outputs).step_by(PANEL) {
            interrupt::check_or_unwind();
            let units = first..outputs.min(first + PANEL);
            let words = &mut words[..units.len() * columns];
            for (unit, words) in units.zip(words.chunks_exact_mut(columns)) {
                fill(unit, words);
            }
            let start = data.len();
            match &mut reordering {
                None => {
                    data.resize(start + inputs * LANES, 0);
                    isa.run(PackBytes { words, columns, lines: &mut data[start..] });
                }
                Some((selected, lines)) => {
                    if words.len() < PANEL * columns {
                        lines.fill(0); // the last panel may have fewer units
                    }
                    isa.run(PackBytes { words, columns, lines });
                    for input in *selected {
                        data.extend_from_slice(&lines[*input as usize * LANES..][..LANES]);
                    }
                }
            }
        }
        assert_eq!(data.len(), len);
        BytePanels { data, inputs, outputs }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * size_of::<u32>()
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// The lines of up to `count` panels from panel `p` on, sixteen words each.
    #[inline(always)]
    pub(crate) fn lines_from(&self, p: usize, count: usize) -> &[u32] {
        let at = |p: usize| (p * self.inputs * LANES).min(self.data.len());
        &self.data[at(p)..at(p + count)]
    }
}

/// Packs up to 64 units of `columns` words each as the lines of a panel.
struct PackBytes<'a> {
    words: &'a [u32],
    columns: usize,
    lines: &'a mut [u32],
}

impl Kernel for PackBytes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        const WORDS: usize = BLOCK / 4;
        /// Prefetch distance in blocks: hardware prefetchers cannot follow so many units at once.
        const PREFETCH: usize = 2;
        let PackBytes { words, columns, lines } = self;
        for (block, lines) in lines.chunks_mut(BLOCK * LANES).enumerate() {
            for (four, units) in words.chunks(4 * columns).enumerate() {
                let mut rows = [[0; WORDS]; 4];
                for (row, unit) in rows.iter_mut().zip(units.chunks_exact(columns)) {
                    let unit = &unit[block * WORDS..];
                    simd.prefetch_l2(unit.as_ptr().wrapping_add(PREFETCH * WORDS));
                    match unit.first_chunk() {
                        Some(unit) => *row = *unit,
                        None => row[..unit.len()].copy_from_slice(unit),
                    }
                }
                // Byte 16 L + 4 k + j of a line belongs to unit 16 k + 4 L + j.
                let word = 4 * (four % 4) + four / 4;
                let by_input = transposed(&rows);
                let by_input = by_input.as_flattened();
                for (line, &units) in lines.chunks_exact_mut(LANES).zip(by_input) {
                    line[word] = units;
                }
            }
        }
    }
}

/// Transposes words of four inputs for each of four units into words of four units for each of the
/// four inputs.
#[inline(always)]
fn transposed<const N: usize>(units: &[[u32; N]; 4]) -> [[u32; 4]; N] {
    const EVEN: u32 = 0x00ff_00ff;
    const LOW: u32 = 0x0000_ffff;
    let mut inputs = [[0; 4]; N];
    for n in 0..N {
        let [a, b, c, d] = [0, 1, 2, 3].map(|unit| units[unit][n].to_le());
        let even = [(a & EVEN) | ((b & EVEN) << 8), (c & EVEN) | ((d & EVEN) << 8)];
        let odd = [((a >> 8) & EVEN) | (b & !EVEN), ((c >> 8) & EVEN) | (d & !EVEN)];
        inputs[n] = [
            (even[0] & LOW) | (even[1] << 16),
            (odd[0] & LOW) | (odd[1] << 16),
            (even[0] >> 16) | (even[1] & !LOW),
            (odd[0] >> 16) | (odd[1] & !LOW),
        ]
        .map(u32::from_le);
    }
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(input: usize, unit: usize) -> u8 {
        (7 * input + 31 * unit + 1) as u8
    }

    #[test]
    fn transposing_brings_units_together() {
        let unit = |u: u8| [[u, u + 1, u + 2, u + 3], [u + 4, u + 5, u + 6, u + 7]];
        let units = [0, 20, 40, 60].map(|u| unit(u).map(u32::from_ne_bytes));
        let inputs = transposed(&units);
        for (i, input) in inputs.as_flattened().iter().enumerate() {
            let i = i as u8;
            assert_eq!(input.to_ne_bytes(), [i, 20 + i, 40 + i, 60 + i]);
        }
    }

    /// Checks every byte of every line, with all inputs or with some of them in an order.
    #[track_caller]
    fn check(isa: Isa, columns: usize, outputs: usize, selected: Option<&[u32]>) {
        let inputs = selected.map_or(columns, <[u32]>::len);
        let fill = |unit: usize, words: &mut [u32]| {
            for (word, to) in words.iter_mut().enumerate() {
                let at = [0, 1, 2, 3].map(|j| 4 * word + j);
                let bytes = at.map(|i| if i < columns { byte(i, unit) } else { 0 });
                *to = u32::from_ne_bytes(bytes);
            }
        };
        let panels = BytePanels::pack(isa, (inputs, outputs), columns.div_ceil(4), selected, fill);
        assert_eq!((panels.inputs(), panels.outputs()), (inputs, outputs));
        for p in 0..panels.count() {
            for (i, line) in panels.lines_from(p, 1).chunks_exact(LANES).enumerate() {
                let input = selected.map_or(i, |selected| selected[i] as usize);
                for (at, got) in line.iter().flat_map(|word| word.to_ne_bytes()).enumerate() {
                    // Byte 16 L + 4 k + j belongs to unit 16 k + 4 L + j.
                    let unit = 64 * p + 16 * (at / 4 % 4) + 4 * (at / 16) + at % 4;
                    let expected = if unit < outputs { byte(input, unit) } else { 0 };
                    assert_eq!(got, expected, "{} input {i}, unit {unit}", isa.name());
                }
            }
        }
        assert!(panels.lines_from(panels.count(), 0).is_empty());
    }

    #[test]
    fn lines_are_in_the_order_of_interleaving() {
        for isa in Isa::available() {
            for (columns, outputs) in [(1, 1), (5, 63), (64, 64), (67, 65), (130, 140)] {
                check(isa, columns, outputs, None);
                let selected: Vec<u32> = (0..columns as u32).rev().step_by(3).collect();
                check(isa, columns, outputs, Some(&selected));
            }
        }
    }
}
