//! int8: a layer's weights as signed bytes with a step per unit, for inputs that are bytes.
//!
//! A byte q of input i stands for `(q - offset) scale`. What multiplies it is the weight times that
//! scale (and that of the network's input map), rounded to a multiple of the unit's step, which is a
//! 127th of the largest. So a unit's sum of products of bytes, times its step, plus a bias into which
//! offsets and shifts are folded, is its pre-activation.

use std::sync::{Arc, OnceLock};
use std::{iter, slice};

use super::PackedLayer;
use crate::error::Result;
use crate::kernels::arithmetic::Bytes;
use crate::kernels::bytes::BytesTimesPanels;
use crate::kernels::emit::Emit;
use crate::kernels::pairs::PairsTimesPanels;
use crate::kernels::{
    Aligned, BytePanels, ListedBytes, Panels, UnitRows, padded, prefer_huge_pages, zeros,
};
use crate::memory;
use crate::network::Quantization;
use crate::simd::{Isa, Kernel, LANES, Simd};

/// A layer with its weights packed as bytes, four inputs to a word.
pub(crate) struct QuantizedLayer {
    pub(crate) input: Quantization,
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
            for (by, value) in [("scale", scale[o]), ("offset", bias[o])] {
                if !value.is_finite() {
                    let by = format!("quantization[{index}].{by}");
                    return Err(super::not_finite(index, "weight", &by, value));
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
        Ok(QuantizedLayer { input: input.clone(), inverses, scale, bias, weights })
    }

    /// What the outputs of the layer before are multiplied with to become bytes.
    pub(crate) fn inverses(&self) -> &[f32] {
        &self.inverses
    }

    pub(super) fn scale(&self) -> &[f32] {
        &self.scale
    }

    pub(super) fn bias(&self) -> &[f32] {
        &self.bias
    }

    pub(super) fn bytes(&self) -> usize {
        (self.inverses.len() + self.scale.len() + self.bias.len()) * 4 + self.weights.bytes()
    }
}

/// Inputs whose sums are kept apart, so that they need not wait for each other: a multiple of 4.
const SUMS: usize = 8;

/// What stands between a layer's weights and the bytes of its inputs.
enum InputTerms {
    /// One factor of all weights: bytes of 0 stand for 0, and no input is shifted.
    Factor(f64),
    /// For [`SUMS`] inputs after [`SUMS`] inputs. For those past the last all is 0.
    Each(Vec<Terms>),
}

#[derive(Clone, Copy, Default)]
struct Terms {
    /// Of the input map times that of the quantisation: in f64 it is not rounded.
    factor: [f64; SUMS],
    /// Of the input map.
    shift: [f64; SUMS],
    offset: [f64; SUMS],
    reference: [f64; SUMS],
}

impl InputTerms {
    fn new(layer: &PackedLayer, input: &Quantization) -> InputTerms {
        let (inputs, map) = (layer.layer.inputs(), layer.input_map.as_deref());
        let factor = |i| map.map_or(1.0, |map| f64::from(map.scale(i))) * f64::from(input.scale(i));
        let shift = |i| map.map_or(0.0, |map| f64::from(map.shift(i)));
        let plain = |i| factor(i) == factor(0) && shift(i) == 0.0 && input.offset(i) == 0.0;
        if (0..inputs).all(plain) {
            return InputTerms::Factor(factor(0));
        }
        let mut terms = memory::filled(Terms::default(), inputs.div_ceil(SUMS));
        for i in 0..inputs {
            let (term, j) = (&mut terms[i / SUMS], i % SUMS);
            term.factor[j] = factor(i);
            term.shift[j] = shift(i);
            term.offset[j] = f64::from(input.offset(i));
            term.reference[j] = reference(input.offset(i));
        }
        InputTerms::Each(terms)
    }
}

/// Makes bytes of a unit's weights. Plain loops, each over one thing, which the compiler makes vectors of; on
/// no instruction set do they give other bits.
struct ByTerms<'a> {
    weights: &'a [f32],
    terms: &'a [Terms],
    /// Where the bytes go, four to a word.
    words: &'a mut [u32],
}

impl Kernel for ByTerms<'_> {
    /// The unit's step, and what the meaning of the bytes adds to its bias.
    type Output = (f64, f64);
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> (f64, f64) {
        by_terms(self.weights, self.terms, self.words)
    }
}

#[inline(always)]
fn by_terms(weights: &[f32], terms: &[Terms], words: &mut [u32]) -> (f64, f64) {
    let (mut sums, mut largest) = ([0.0; SUMS], [0.0_f64; SUMS]);
    let (eights, rest) = weights.as_chunks::<SUMS>();
    let last = filled_up(rest);
    let eights = eights.iter().chain((!rest.is_empty()).then_some(&last));
    for (weights, term) in eights.clone().zip(terms) {
        let w = widened(weights);
        let products = times(w, term.factor);
        let (shifts, offsets) = (times(w, term.shift), times(products, term.offset));
        for j in 0..SUMS {
            sums[j] = sums[j] + shifts[j] - offsets[j];
        }
        for j in 0..SUMS {
            let magnitude = products[j].abs();
            largest[j] = if magnitude > largest[j] { magnitude } else { largest[j] };
        }
    }
    let step = step(largest.into_iter());
    // Weights are rounded; but not for the byte that stands for 0, or is in the middle.
    for ((weights, term), words) in eights.zip(terms).zip(words.chunks_mut(SUMS / 4)) {
        let products = times(widened(weights), term.factor);
        let mut bytes = [0; SUMS];
        for j in 0..SUMS {
            bytes[j] = quantize(products[j], step);
        }
        let mut rounding = [0.0; SUMS];
        for j in 0..SUMS {
            rounding[j] = f64::from(bytes[j]) * step - products[j];
        }
        let references = times(rounding, term.reference);
        for j in 0..SUMS {
            sums[j] -= references[j];
        }
        put(words, &bytes);
    }
    (step, sums.into_iter().sum())
}

#[inline(always)]
fn widened(weights: &[f32; SUMS]) -> [f64; SUMS] {
    let mut all = [0.0; SUMS];
    for j in 0..SUMS {
        all[j] = f64::from(weights[j]);
    }
    all
}

#[inline(always)]
fn times(a: [f64; SUMS], b: [f64; SUMS]) -> [f64; SUMS] {
    let mut products = [0.0; SUMS];
    for j in 0..SUMS {
        products[j] = a[j] * b[j];
    }
    products
}

/// Weights that are quantised at a time, where one factor stands before all.
const WEIGHTS: usize = 64;

/// What [`ByTerms`] does where all factors are the same, shifts and offsets are 0, and the step is known: the same
/// bytes, in much less time.
struct ByFactor<'a> {
    weights: &'a [f32],
    factor: f64,
    step: f64,
    words: &'a mut [u32],
    /// The weights that come next, which are asked for: where units have an order, no hardware knows them.
    next: &'a [f32],
}

impl Kernel for ByFactor<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ByFactor { weights, factor, step, words, next } = self;
        let (blocks, rest) = weights.as_chunks::<WEIGHTS>();
        let (to, last_to) = words.split_at_mut(blocks.len() * WEIGHTS / 4);
        let to = to.as_chunks_mut::<{ WEIGHTS / 4 }>().0;
        for (i, (block, to)) in blocks.iter().zip(to).enumerate() {
            for line in (0..WEIGHTS).step_by(LANES) {
                simd.prefetch_l2(next.as_ptr().wrapping_add(i * WEIGHTS + line));
            }
            put(to, &quantized(block, factor, step));
        }
        if !rest.is_empty() {
            put(last_to, &quantized(&filled_up(rest), factor, step));
        }
    }
}

/// Bytes of weights times a factor: those of [`quantize`].
#[inline(always)]
fn quantized(weights: &[f32; WEIGHTS], factor: f64, step: f64) -> [i8; WEIGHTS] {
    /// As in [`quantize`], of f32.
    const ROUND: f32 = 1.5 * (1 << 23) as f32;
    // In f32 a quotient of up to 127 is off by less than 1/60,000, by two roundings; only that near the middle
    // of two integers may another one be the nearest. It is up to 127 where the step is a normal number.
    const SURE: f32 = 0.5 - 1e-4;
    let ratio = (factor / step) as f32;
    let mut bytes = [0; WEIGHTS];
    let mut unsure = !ratio.is_normal() || step < f64::from(f32::MIN_POSITIVE);
    for j in 0..WEIGHTS {
        let quotient = weights[j] * ratio;
        let shifted = quotient + ROUND;
        unsure |= (quotient - (shifted - ROUND)).abs() > SURE;
        bytes[j] = shifted.to_bits() as i8;
    }
    if unsure {
        for j in 0..WEIGHTS {
            bytes[j] = quantize(f64::from(weights[j]) * factor, step);
        }
    }
    bytes
}

/// Fewer than `N` weights, and zeros.
#[inline(always)]
fn filled_up<const N: usize>(weights: &[f32]) -> [f32; N] {
    let mut all = [0.0; N];
    all[..weights.len()].copy_from_slice(weights);
    all
}

/// Writes bytes as words of four, as many as there is room for.
#[inline(always)]
fn put<const N: usize>(words: &mut [u32], bytes: &[i8; N]) {
    for (word, four) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(four.map(|byte| byte as u8));
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
        super::packed(&self.panels, || {
            Panels::pack_units(self.columns(), self.outputs, self.fill())
        })
    }

    pub(super) fn byte_panels(&self, isa: Isa) -> &BytePanels {
        let shape = (self.inputs, self.outputs);
        super::packed(&self.byte_panels, || match &self.source {
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
        super::packed(&self.unit_rows, || {
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
