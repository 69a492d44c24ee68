//! int8 layers: weights as signed bytes with a step per unit, for inputs that are bytes.
//!
//! Byte q of input i represents `(q - offset) scale`. The weight times that scale (and times the
//! scale of the network's input map) is rounded to a multiple of the unit's step, which is the
//! largest such product divided by 127. A unit's pre-activation is its sum of products of bytes,
//! times its step, plus a bias into which offsets and shifts are folded.

use std::sync::{Arc, OnceLock};
use std::{iter, slice};

use super::packed::PackedLayer;
use super::quantize::{ByFactor, ByTerms, InputTerms, step};
use crate::error::{Error, Result, Subject};
use crate::kernels::arithmetic::Bytes;
use crate::kernels::bytes::BytesTimesPanels;
use crate::kernels::epilogue::{Epilogue, Output};
use crate::kernels::pairs::PairsTimesPanels;
use crate::layout::{BytePanels, Panels, UnitRows, padded};
use crate::memory::{self, Aligned, packed, prefer_huge_pages, zeros};
use crate::model::Quantization;
use crate::signal::SparseBytes;
use crate::simd::Isa;

/// A layer with its weights as bytes, four inputs per word.
pub(crate) struct QuantizedLayer {
    pub(super) layer: Arc<PackedLayer>,
    pub(crate) input: Quantization,
    /// Quantises the layer's inputs.
    to_bytes: ToBytes,
    /// 1 / scale of each input, zero-padded to whole vectors.
    inverses: Aligned<f32>,
    /// The step of each unit, zero-padded to whole vectors.
    scale: Aligned<f32>,
    bias: Aligned<f32>,
    pub(super) weights: ByteWeights,
}

impl QuantizedLayer {
    /// Quantises a checked layer for inputs with a checked quantisation.
    ///
    /// # Errors
    /// Scales and offsets with which steps or biases overflow.
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
                // The magnitudes of products have the order of the weights' magnitudes, rounded or
                // not.
                let largest = layer.largest.iter().map(|weight| f64::from(*weight) * factor);
                for (o, largest) in largest.enumerate() {
                    set(o, step(iter::once(largest)), 0.0)?;
                }
                let steps = scale[..outputs].to_vec();
                Source::Layer(LayerBytes { layer: layer.clone(), factor, steps, isa })
            }
            InputTerms::Each(terms) => {
                let columns = inputs.div_ceil(4);
                let mut scratch = memory::with_capacity(inputs);
                let mut words = memory::filled(0, outputs * columns);
                prefer_huge_pages(words.as_ptr(), words.len());
                for (o, words) in words.chunks_exact_mut(columns).enumerate() {
                    let weights = layer.layer.weights_of(o, &mut scratch);
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

    /// Adds `shift(unit)` to the pre-activations. Returns a bias that is no longer finite, if any.
    pub(super) fn shift(&mut self, shift: impl Fn(usize) -> f32) -> Option<f32> {
        let outputs = self.layer.layer.outputs();
        for (unit, bias) in self.bias[..outputs].iter_mut().enumerate() {
            *bias += shift(unit);
        }
        self.bias.iter().copied().find(|bias| !bias.is_finite())
    }

    /// Factors that convert the previous layer's outputs to this layer's bytes.
    pub(crate) fn inverses(&self) -> &[f32] {
        &self.inverses
    }

    /// Converts rows of this layer's inputs to bytes.
    pub(crate) fn to_bytes(&self) -> &ToBytes {
        &self.to_bytes
    }

    /// The byte that represents 0. It is the same for all inputs, except in a network's first layer
    /// and in the second factor of a layer, for which it is that of the first input.
    pub(crate) fn offset(&self) -> f32 {
        self.to_bytes.offset[0]
    }

    /// The weights for dense rows.
    pub(crate) fn panels(&self) -> &Panels<u32> {
        self.weights.panels()
    }

    /// An output with the layer's scale and bias. The caller sets the buffers.
    pub(super) fn output(&self) -> Output<'_> {
        Output { scale: &self.scale, bias: &self.bias, ..self.layer.output() }
    }

    pub(super) fn bytes(&self) -> usize {
        (self.inverses.len() + self.scale.len() + self.bias.len()) * 4 + self.weights.bytes()
    }
}

/// A [`Quantization`] in the form that kernels use: `x inverse + offset`, rounded, is the byte of
/// x.
pub(crate) struct ToBytes {
    /// `1 / scale`: one for all inputs, or one per input, padded to whole vectors.
    pub(crate) inverse: Vec<f32>,
    /// As many offsets.
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

/// A matrix of signed bytes, packed in the layouts that are needed.
pub(crate) struct ByteWeights {
    source: Source,
    inputs: usize,
    outputs: usize,
    panels: OnceLock<Panels<u32>>,
    byte_panels: OnceLock<BytePanels>,
    unit_rows: OnceLock<UnitRows<u32>>,
}

/// The source that bytes are packed from.
pub(super) enum Source {
    /// (outputs, words), row by row; a word has the bytes of four inputs.
    Words(Vec<u32>),
    /// A layer's weights, quantised again for every layout that is packed. There is usually one, so
    /// this avoids storing an intermediate copy.
    Layer(LayerBytes),
}

/// A layer's weights as bytes: weights times a factor, divided by the step of their unit.
pub(super) struct LayerBytes {
    layer: Arc<PackedLayer>,
    factor: f64,
    steps: Vec<f32>,
    isa: Isa,
}

impl LayerBytes {
    /// Quantises the weights of a unit.
    fn quantize(&self, unit: usize, weights: &[f32], words: &mut [u32]) {
        let (factor, layer) = (self.factor, &self.layer.layer);
        let step = f64::from(self.steps[unit]);
        let next = if unit + 1 < layer.outputs() { layer.whole_row(unit + 1) } else { &[] };
        self.isa.run_floats(ByFactor { weights, factor, step, words, next });
    }

    /// Quantises all weights of a unit. If inputs are permuted, the whole row is quantised into
    /// `scratch` and then permuted, because bytes take fewer cache lines than weights.
    fn fill(&self, unit: usize, words: &mut [u32], scratch: &mut Vec<u32>) {
        let layer = &self.layer.layer;
        if layer.columns().is_none() {
            return self.quantize(unit, layer.whole_row(unit), words);
        }
        scratch.resize(layer.width().div_ceil(4), 0);
        self.quantize(unit, layer.whole_row(unit), scratch);
        words.fill(0);
        let (row, bytes) = (scratch.as_ptr().cast::<u8>(), words.as_mut_ptr().cast::<u8>());
        // SAFETY: a word has four bytes, and any bytes are valid.
        let (row, bytes) = unsafe {
            let row = slice::from_raw_parts(row, 4 * scratch.len());
            (row, slice::from_raw_parts_mut(bytes, 4 * words.len()))
        };
        layer.select_inputs(row, &mut bytes[..layer.inputs()]);
    }
}

impl ByteWeights {
    pub(super) fn new(inputs: usize, outputs: usize, source: Source) -> Self {
        let (panels, byte_panels, unit_rows) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        ByteWeights { source, inputs, outputs, panels, byte_panels, unit_rows }
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Number of words per unit.
    fn columns(&self) -> usize {
        self.inputs.div_ceil(4)
    }

    /// A function that writes the words of a unit.
    fn fill(&self) -> impl FnMut(usize, &mut [u32]) {
        let mut scratch = Vec::new();
        move |unit, words| match &self.source {
            Source::Words(all) => words.copy_from_slice(&all[unit * words.len()..][..words.len()]),
            Source::Layer(bytes) => bytes.fill(unit, words, &mut scratch),
        }
    }

    pub(super) fn panels(&self) -> &Panels<u32> {
        packed(&self.panels, || Panels::pack_units(self.columns(), self.outputs, self.fill()))
    }

    pub(super) fn byte_panels(&self, isa: Isa) -> &BytePanels {
        let shape = (self.inputs, self.outputs);
        packed(&self.byte_panels, || match &self.source {
            Source::Layer(bytes) => {
                // Lines are permuted after packing, not the weights of each unit.
                let layer = &bytes.layer.layer;
                let (columns, selected) = (layer.width().div_ceil(4), layer.columns());
                BytePanels::pack(isa, shape, columns, selected, |unit, words| {
                    bytes.quantize(unit, layer.whole_row(unit), words);
                })
            }
            Source::Words(_) => BytePanels::pack(isa, shape, self.columns(), None, self.fill()),
        })
    }

    pub(super) fn unit_rows(&self) -> &UnitRows<u32> {
        // Padding counts as inputs, so that dot products have whole vectors.
        packed(&self.unit_rows, || {
            let columns = self.columns();
            UnitRows::pack(padded(columns), columns, self.outputs, self.fill())
        })
    }

    /// Packs the weights that lists are multiplied with. With `in_pairs`, lists of pairs of rows
    /// too.
    pub(super) fn pack_for_lists(&self, isa: Isa, in_pairs: bool) {
        self.byte_panels(isa);
        if in_pairs {
            self.panels();
        }
    }

    /// Multiplies the lists with the packed weights.
    pub(super) fn times<E: Epilogue<Bytes>>(
        &self,
        isa: Isa,
        lists: SparseBytes<'_>,
        epilogue: &mut E,
    ) {
        match lists {
            SparseBytes::Bytes(lists) => {
                isa.run(BytesTimesPanels { lists, panels: self.byte_panels(isa), epilogue });
            }
            SparseBytes::Pairs(lists) => {
                isa.run(PairsTimesPanels { lists, panels: self.panels(), epilogue });
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
