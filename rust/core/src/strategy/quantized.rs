//! int8: a layer's weights as signed bytes with a step per unit, for inputs that are bytes.
//!
//! A byte q of input i stands for `(q - offset) scale`. What multiplies it is the weight times that
//! scale (and that of the network's input map), rounded to a multiple of the unit's step, which is a
//! 127th of the largest. So a unit's sum of products of bytes, times its step, plus a bias into which
//! offsets and shifts are folded, is its pre-activation.

use std::sync::OnceLock;

use super::PackedLayer;
use crate::error::Result;
use crate::kernels::arithmetic::Bytes;
use crate::kernels::bytes::BytesTimesPanels;
use crate::kernels::emit::Emit;
use crate::kernels::pairs::PairsTimesPanels;
use crate::kernels::{Aligned, BytePanels, ListedBytes, Panels, UnitRows, padded, zeros};
use crate::network::Quantization;
use crate::simd::{Isa, Kernel, Simd};

/// A layer with its weights packed as bytes, four inputs to a word.
pub(crate) struct QuantizedLayer {
    pub(crate) input: Quantization,
    /// A unit's step; zero-padded to whole vectors.
    scale: Aligned<f32>,
    bias: Aligned<f32>,
    pub(super) weights: ByteWeights,
}

impl QuantizedLayer {
    /// Quantises a checked layer for inputs of a checked quantisation.
    ///
    /// Refuses scales and offsets that make steps or biases overflow.
    pub(crate) fn new(
        index: usize,
        layer: &PackedLayer,
        input: &Quantization,
        isa: Isa,
    ) -> Result<Self> {
        let (inputs, outputs) = (layer.layer.inputs(), layer.layer.outputs());
        let columns = inputs.div_ceil(4);
        let (mut scale, mut bias) = (zeros(padded(outputs)), zeros(padded(outputs)));
        let mut words = Vec::with_capacity(outputs * columns + SUMS / 4);
        let terms = InputTerms::new(layer, input);
        let mut scratch = vec![[0.0; SUMS]; terms.0.len()];
        for (o, weights) in layer.layer.weight().chunks_exact(inputs).enumerate() {
            let row =
                QuantizeRow { weights, terms: &terms, scratch: &mut scratch, words: &mut words };
            let (step, sum) = isa.run(row);
            words.truncate((o + 1) * columns);
            scale[o] = step as f32;
            bias[o] = (f64::from(layer.layer.bias[o]) + sum) as f32;
            for (by, value) in [("scale", scale[o]), ("offset", bias[o])] {
                if !value.is_finite() {
                    let by = format!("quantization[{index}].{by}");
                    return Err(super::not_finite(index, "weight", &by, value));
                }
            }
        }
        let weights = ByteWeights::new(inputs, words);
        Ok(QuantizedLayer { input: input.clone(), scale, bias, weights })
    }

    pub(super) fn scale(&self) -> &[f32] {
        &self.scale
    }

    pub(super) fn bias(&self) -> &[f32] {
        &self.bias
    }

    pub(super) fn bytes(&self) -> usize {
        (self.scale.len() + self.bias.len()) * 4 + self.weights.bytes()
    }
}

/// Inputs whose sums are kept apart, so that they need not wait for each other: a multiple of 4.
const SUMS: usize = 8;

/// What stands between a layer's weights and the bytes of its inputs, for [`SUMS`] inputs after [`SUMS`]
/// inputs. For those past the last all is 0.
struct InputTerms(Vec<Terms>);

#[derive(Clone, Copy, Default)]
struct Terms {
    /// Of the input map and of the quantisation.
    factors: [[f64; SUMS]; 2],
    /// Of the input map.
    shift: [f64; SUMS],
    offset: [f64; SUMS],
    reference: [f64; SUMS],
}

impl InputTerms {
    fn new(layer: &PackedLayer, input: &Quantization) -> InputTerms {
        let (inputs, map) = (layer.layer.inputs(), layer.input_map.as_deref());
        let mut terms = vec![Terms::default(); inputs.div_ceil(SUMS)];
        for i in 0..inputs {
            let (term, j) = (&mut terms[i / SUMS], i % SUMS);
            term.factors[0][j] = map.map_or(1.0, |map| f64::from(map.scale(i)));
            term.factors[1][j] = f64::from(input.scale(i));
            term.shift[j] = map.map_or(0.0, |map| f64::from(map.shift(i)));
            term.offset[j] = f64::from(input.offset(i));
            term.reference[j] = reference(input.offset(i));
        }
        InputTerms(terms)
    }
}

/// Makes bytes of a unit's weights. Plain loops, which the compiler makes vectors of; on no instruction set
/// do they give other bits.
struct QuantizeRow<'a> {
    weights: &'a [f32],
    terms: &'a InputTerms,
    /// For the weight times factors: as long as `terms`.
    scratch: &'a mut [[f64; SUMS]],
    /// Gets the bytes appended, with some of padding.
    words: &'a mut Vec<u32>,
}

impl Kernel for QuantizeRow<'_> {
    /// The unit's step, and what the meaning of the bytes adds to its bias.
    type Output = (f64, f64);
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> (f64, f64) {
        let QuantizeRow { weights, terms, scratch, words } = self;
        let (mut sums, mut largest) = ([0.0; SUMS], [0.0_f64; SUMS]);
        let (eights, rest) = weights.as_chunks::<SUMS>();
        let mut last = [0.0; SUMS];
        last[..rest.len()].copy_from_slice(rest);
        let eights = eights.iter().chain((!rest.is_empty()).then_some(&last));
        for ((weights, term), products) in eights.zip(&terms.0).zip(&mut *scratch) {
            for j in 0..SUMS {
                let w = f64::from(weights[j]);
                let product = w * term.factors[0][j] * term.factors[1][j];
                sums[j] += w * term.shift[j];
                sums[j] -= product * term.offset[j];
                largest[j] = if product.abs() > largest[j] { product.abs() } else { largest[j] };
                products[j] = product;
            }
        }
        let step = step(largest.into_iter());
        // Weights are rounded; but not for the byte that stands for 0, or is in the middle.
        for (products, term) in scratch.iter().zip(&terms.0) {
            let mut bytes = [0; SUMS];
            for j in 0..SUMS {
                bytes[j] = quantize(products[j], step);
                let rounding = f64::from(bytes[j]) * step - products[j];
                sums[j] -= rounding * term.reference[j];
            }
            let fours = bytes.as_chunks::<4>().0;
            words.extend(fours.iter().map(|four| u32::from_ne_bytes(four.map(|byte| byte as u8))));
        }
        (step, sums.into_iter().sum())
    }
}

/// A matrix of signed bytes, packed as it is needed.
pub(crate) struct ByteWeights {
    /// (outputs, words) row by row, the bytes of four inputs each.
    words: Vec<u32>,
    columns: usize,
    inputs: usize,
    panels: OnceLock<Panels<u32>>,
    byte_panels: OnceLock<BytePanels>,
    unit_rows: OnceLock<UnitRows<u32>>,
}

impl ByteWeights {
    /// `words` are (outputs, words), the bytes of four inputs each.
    pub(super) fn new(inputs: usize, words: Vec<u32>) -> Self {
        let (panels, byte_panels, unit_rows) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let columns = inputs.div_ceil(4);
        ByteWeights { words, columns, inputs, panels, byte_panels, unit_rows }
    }

    fn outputs(&self) -> usize {
        self.words.len() / self.columns
    }

    pub(super) fn panels(&self) -> &Panels<u32> {
        super::packed(&self.panels, || {
            Panels::pack(self.columns, self.outputs(), |g, o| self.words[o * self.columns + g])
        })
    }

    pub(super) fn byte_panels(&self) -> &BytePanels {
        super::packed(&self.byte_panels, || {
            BytePanels::pack(self.inputs, self.outputs(), |i, o| {
                self.words[o * self.columns + i / 4].to_ne_bytes()[i % 4] as i8
            })
        })
    }

    pub(super) fn unit_rows(&self) -> &UnitRows<u32> {
        // Padding counts as inputs, so that dot products are of whole vectors.
        super::packed(&self.unit_rows, || {
            UnitRows::pack(padded(self.columns), self.outputs(), |g, o| {
                if g < self.columns { self.words[o * self.columns + g] } else { 0 }
            })
        })
    }

    /// Packs what lists are multiplied with, those of pairs too if `in_pairs`.
    pub(super) fn pack_for_lists(&self, in_pairs: bool) {
        self.byte_panels();
        if in_pairs {
            self.panels();
        }
    }

    /// Multiplies what is listed.
    pub(super) fn times<E: Emit<Bytes>>(&self, isa: Isa, lists: ListedBytes<'_>, emit: &mut E) {
        match lists {
            ListedBytes::Bytes(lists) => {
                isa.run(BytesTimesPanels { lists, panels: self.byte_panels(), emit });
            }
            ListedBytes::Pairs(lists) => {
                isa.run(PairsTimesPanels { lists, panels: self.panels(), emit });
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let panels = self.panels.get().map_or(0, Panels::bytes);
        let byte_panels = self.byte_panels.get().map_or(0, BytePanels::bytes);
        let unit_rows = self.unit_rows.get().map_or(0, UnitRows::bytes);
        self.words.len() * 4 + panels + byte_panels + unit_rows
    }
}

/// The step of which these values are multiples up to 127; 1 where they are all zero.
pub(super) fn step(values: impl Iterator<Item = f64>) -> f64 {
    let largest = values.fold(0.0, |largest: f64, v| largest.max(v.abs()));
    // As f32, which is what sums are multiplied with.
    let step = f64::from((largest / 127.0) as f32);
    if step > 0.0 { step } else { 1.0 }
}

/// The byte that stands for 0, where there is one; else the middle one.
pub(super) fn reference(offset: f32) -> f64 {
    if (0.0..=255.0).contains(&offset) { f64::from(offset) } else { 128.0 }
}

/// A value as a signed byte: `value / step`, rounded to the nearest integer, of two equally near the even
/// one, from -127 to 127.
#[inline(always)]
pub(super) fn quantize(value: f64, step: f64) -> i8 {
    // The sum has the integer in its lowest bits, rounded as sums are. Where rounding is no instruction
    // of the target's baseline it is a call, ten times as slow.
    const ROUND: f64 = 1.5 * (1_u64 << 52) as f64;
    let scaled = (value / step).clamp(-127.0, 127.0);
    (scaled + ROUND).to_bits() as i8
}

/// Four signed bytes as a word; those past `len` are zero.
pub(super) fn word(at: impl Fn(usize) -> usize, len: usize, value: impl Fn(usize) -> i8) -> u32 {
    let byte = |j| if at(j) < len { value(at(j)) as u8 } else { 0 };
    u32::from_ne_bytes([byte(0), byte(1), byte(2), byte(3)])
}
