//! int8: a layer's weights as signed bytes with a step per unit, for inputs that are bytes.
//!
//! A byte q of input i stands for `(q - offset) scale`. What multiplies it is the weight times that
//! scale (and that of the network's input map), rounded to a multiple of the unit's step, which is a
//! 127th of the largest. So a unit's sum of products of bytes, times its step, plus a bias into which
//! offsets and shifts are folded, is its pre-activation.

use std::sync::{Arc, OnceLock};
use std::{iter, slice};

use super::packed::{PackedLayer, packed};
use super::quantize::{ByFactor, ByTerms, InputTerms, step};
use crate::error::{Error, Result, Subject};
use crate::kernels::arithmetic::Bytes;
use crate::kernels::bytes::BytesTimesPanels;
use crate::kernels::emit::{Emit, Output};
use crate::kernels::pairs::PairsTimesPanels;
use crate::layout::{BytePanels, Panels, UnitRows, padded};
use crate::memory::{self, Aligned, prefer_huge_pages, zeros};
use crate::model::Quantization;
use crate::signal::ListedBytes;
use crate::simd::Isa;

/// A layer with its weights packed as bytes, four inputs to a word.
pub(crate) struct QuantizedLayer {
    pub(super) layer: Arc<PackedLayer>,
    pub(crate) input: Quantization,
    /// What makes bytes of its inputs.
    to_bytes: ToBytes,
    /// One over the scale of each input, zero-padded to whole vectors.
    inverses: Aligned<f32>,
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
        layer: &Arc<PackedLayer>,
        input: &Quantization,
        isa: Isa,
    ) -> Result<Self> {
        let (inputs, outputs) = (layer.layer.inputs(), layer.layer.outputs());
        let (mut scale, mut bias) = (zeros(padded(outputs)), zeros(padded(outputs)));
        let mut set = |o: usize, step: f64, sum: f64| {
            scale[o] = step as f32;
            bias[o] = (f64::from(layer.layer.bias[o]) + sum) as f32;
            let (by_scale, by_offset) =
                (Subject::QuantizationScale(index), Subject::QuantizationOffset(index));
            for (subject, value) in [(by_scale, scale[o]), (by_offset, bias[o])] {
                if !value.is_finite() {
                    let (layer, part) = (index, "weight");
                    return Err(Error::Overflow { subject, layer, part, value });
                }
            }
            Ok(())
        };
        let source = match InputTerms::new(layer, input) {
            InputTerms::Factor(factor) => {
                // Products' magnitudes are ordered as weights' are, rounded or not.
                let largest = layer.largest.iter().map(|weight| f64::from(*weight) * factor);
                for (o, largest) in largest.enumerate() {
                    set(o, step(iter::once(largest)), 0.0)?;
                }
                let steps = scale[..outputs].to_vec();
                Source::Layer(LayerBytes { layer: layer.clone(), factor, steps, isa })
            }
            InputTerms::Each(terms) => {
                let columns = inputs.div_ceil(4);
                let mut room = memory::room(inputs);
                let mut words = memory::filled(0, outputs * columns);
                prefer_huge_pages(words.as_ptr(), words.len());
                for (o, words) in words.chunks_exact_mut(columns).enumerate() {
                    let weights = layer.layer.weights_of(o, &mut room);
                    let (step, sum) = isa.run_floats(ByTerms { weights, terms: &terms, words });
                    set(o, step, sum)?;
                }
                Source::Words(words)
            }
        };
        let weights = ByteWeights::new(inputs, outputs, source);
        let mut inverses = zeros(padded(inputs));
        for (i, inverse) in inverses[..inputs].iter_mut().enumerate() {
            *inverse = 1.0 / input.scale(i);
        }
        let (input, to_bytes) = (input.clone(), ToBytes::new(input));
        Ok(QuantizedLayer { layer: layer.clone(), input, to_bytes, inverses, scale, bias, weights })
    }

    /// What the outputs of the layer before are multiplied with to become bytes.
    pub(crate) fn inverses(&self) -> &[f32] {
        &self.inverses
    }

    /// What makes bytes of rows of its inputs.
    pub(crate) fn to_bytes(&self) -> &ToBytes {
        &self.to_bytes
    }

    /// The byte that stands for 0, the same for all inputs of a layer that is not the first.
    pub(crate) fn offset(&self) -> f32 {
        self.to_bytes.offset[0]
    }

    /// An output with what makes outputs of sums, to be completed with where it goes.
    pub(super) fn output(&self) -> Output<'_> {
        Output { scale: &self.scale, bias: &self.bias, ..self.layer.output() }
    }

    pub(super) fn bytes(&self) -> usize {
        (self.inverses.len() + self.scale.len() + self.bias.len()) * 4 + self.weights.bytes()
    }
}

/// A [`Quantization`] as kernels want it: `x inverse + offset`, rounded, is the byte of x.
pub(crate) struct ToBytes {
    /// `1 / scale`: one for all inputs, or one each, padded to whole vectors.
    pub(crate) inverse: Vec<f32>,
    /// As many.
    pub(crate) offset: Vec<f32>,
}

impl ToBytes {
    fn new(input: &Quantization) -> ToBytes {
        let (scale, offset) = (input.scales(), input.offsets());
        let count = scale.len().max(offset.len());
        let spread = |values: &[f32]| {
            let mut all = if values.len() == 1 { vec![values[0]; count] } else { values.to_vec() };
            if count != 1 {
                all.resize(padded(count), 0.0);
            }
            all
        };
        let inverse: Vec<_> = scale.iter().map(|scale| 1.0 / scale).collect();
        ToBytes { inverse: spread(&inverse), offset: spread(offset) }
    }
}

/// A matrix of signed bytes, packed as it is needed.
pub(crate) struct ByteWeights {
    source: Source,
    inputs: usize,
    outputs: usize,
    panels: OnceLock<Panels<u32>>,
    byte_panels: OnceLock<BytePanels>,
    unit_rows: OnceLock<UnitRows<u32>>,
}

/// What bytes are packed from.
pub(super) enum Source {
    /// (outputs, words) row by row, the bytes of four inputs each.
    Words(Vec<u32>),
    /// A layer's weights, of which bytes are made for each packing: that is mostly one, and words of bytes would
    /// have to be written to memory and read from it as well.
    Layer(LayerBytes),
}

/// A layer's weights as bytes: times a factor, in steps of units.
pub(super) struct LayerBytes {
    layer: Arc<PackedLayer>,
    factor: f64,
    steps: Vec<f32>,
    isa: Isa,
}

impl LayerBytes {
    /// Makes bytes of weights of a unit.
    fn quantize(&self, unit: usize, weights: &[f32], words: &mut [u32]) {
        let (factor, layer) = (self.factor, &self.layer.layer);
        let step = f64::from(self.steps[unit]);
        let next = if unit + 1 < layer.outputs() { layer.whole_row(unit + 1) } else { &[] };
        self.isa.run_floats(ByFactor { weights, factor, step, words, next });
    }

    /// Makes bytes of all weights of a unit. Where inputs have an order, bytes of the whole row are made in `room`
    /// and then put in order: they are fewer cache lines than weights.
    fn fill(&self, unit: usize, words: &mut [u32], room: &mut Vec<u32>) {
        let layer = &self.layer.layer;
        if layer.columns().is_none() {
            return self.quantize(unit, layer.whole_row(unit), words);
        }
        room.resize(layer.width().div_ceil(4), 0);
        self.quantize(unit, layer.whole_row(unit), room);
        words.fill(0);
        let (row, bytes) = (room.as_ptr().cast::<u8>(), words.as_mut_ptr().cast::<u8>());
        // SAFETY: words are four bytes each, of whatever values.
        let (row, bytes) = unsafe {
            let row = slice::from_raw_parts(row, 4 * room.len());
            (row, slice::from_raw_parts_mut(bytes, 4 * words.len()))
        };
        layer.put_in_order(row, &mut bytes[..layer.inputs()]);
    }
}

impl ByteWeights {
    pub(super) fn new(inputs: usize, outputs: usize, source: Source) -> Self {
        let (panels, byte_panels, unit_rows) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        ByteWeights { source, inputs, outputs, panels, byte_panels, unit_rows }
    }

    /// Words of a unit.
    fn columns(&self) -> usize {
        self.inputs.div_ceil(4)
    }

    /// What writes the words of a unit.
    fn fill(&self) -> impl FnMut(usize, &mut [u32]) {
        let mut room = Vec::new();
        move |unit, words| match &self.source {
            Source::Words(all) => words.copy_from_slice(&all[unit * words.len()..][..words.len()]),
            Source::Layer(bytes) => bytes.fill(unit, words, &mut room),
        }
    }

    pub(super) fn panels(&self) -> &Panels<u32> {
        packed(&self.panels, || Panels::pack_units(self.columns(), self.outputs, self.fill()))
    }

    pub(super) fn byte_panels(&self, isa: Isa) -> &BytePanels {
        let shape = (self.inputs, self.outputs);
        packed(&self.byte_panels, || match &self.source {
            Source::Layer(bytes) => {
                // Lines are put in the order of inputs, not each unit's weights.
                let layer = &bytes.layer.layer;
                let (columns, order) = (layer.width().div_ceil(4), layer.columns());
                BytePanels::pack(isa, shape, columns, order, |unit, words| {
                    bytes.quantize(unit, layer.whole_row(unit), words);
                })
            }
            Source::Words(_) => BytePanels::pack(isa, shape, self.columns(), None, self.fill()),
        })
    }

    pub(super) fn unit_rows(&self) -> &UnitRows<u32> {
        // Padding counts as inputs, so that dot products are of whole vectors.
        packed(&self.unit_rows, || {
            let columns = self.columns();
            UnitRows::pack(padded(columns), columns, self.outputs, self.fill())
        })
    }

    /// Packs what lists are multiplied with, those of pairs too if `in_pairs`.
    pub(super) fn pack_for_lists(&self, isa: Isa, in_pairs: bool) {
        self.byte_panels(isa);
        if in_pairs {
            self.panels();
        }
    }

    /// Multiplies what is listed.
    pub(super) fn times<E: Emit<Bytes>>(&self, isa: Isa, lists: ListedBytes<'_>, emit: &mut E) {
        match lists {
            ListedBytes::Bytes(lists) => {
                isa.run(BytesTimesPanels { lists, panels: self.byte_panels(isa), emit });
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
        let words = if let Source::Words(words) = &self.source { words.len() * 4 } else { 0 };
        words + panels + byte_panels + unit_rows
    }
}
