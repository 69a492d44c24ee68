//! Quantisation of weights to signed bytes.

use super::packed::PackedLayer;
use crate::memory;
use crate::model::Quantization;
use crate::simd::{Kernel, LANES, Simd};

/// Number of independent sums, which hide the latency of additions: a multiple of 4.
const SUMS: usize = 8;

/// The terms that relate a layer's weights to the bytes of its inputs.
pub(super) enum InputTerms {
    /// One factor for all weights: byte 0 represents 0, and no input is shifted.
    Factor(f64),
    /// Terms in groups of [`SUMS`] inputs. Terms past the last input are 0.
    Each(Vec<Terms>),
}

#[derive(Clone, Copy, Default)]
pub(super) struct Terms {
    /// The scale of the input map times the scale of the quantisation; exact in f64.
    factor: [f64; SUMS],
    /// The shift of the input map.
    shift: [f64; SUMS],
    offset: [f64; SUMS],
    reference: [f64; SUMS],
}

impl InputTerms {
    pub(super) fn new(layer: &PackedLayer, input: &Quantization) -> InputTerms {
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

/// Quantises the weights of a unit. Written as plain loops with one operation each, which the
/// compiler vectorises. The bits are the same on every instruction set.
pub(super) struct ByTerms<'a> {
    pub(super) weights: &'a [f32],
    pub(super) terms: &'a [Terms],
    /// The destination, four bytes per word.
    pub(super) words: &'a mut [u32],
}

impl Kernel for ByTerms<'_> {
    /// The unit's step, and the term of its bias that follows from the meaning of the input bytes.
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
    // Weights are rounded, but the byte that represents 0 (or the middle byte) must not be affected
    // by the rounding: its effect is moved to the bias.
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
        write_words(words, &bytes);
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

/// Weights that are quantised together if all have the same factor.
const WEIGHTS: usize = 64;

/// [`ByTerms`] for the case that all factors are the same, shifts and offsets are 0, and the step
/// is known. It gives the same bytes in much less time.
pub(super) struct ByFactor<'a> {
    pub(super) weights: &'a [f32],
    pub(super) factor: f64,
    pub(super) step: f64,
    pub(super) words: &'a mut [u32],
    /// The next weights, which are prefetched: hardware prefetchers cannot predict them if units
    /// are permuted.
    pub(super) next: &'a [f32],
}

impl Kernel for ByFactor<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ByFactor { weights, factor, step, words, next } = self;
        let (blocks, rest) = weights.as_chunks::<WEIGHTS>();
        let (dst, last_dst) = words.split_at_mut(blocks.len() * WEIGHTS / 4);
        let dst = dst.as_chunks_mut::<{ WEIGHTS / 4 }>().0;
        for (i, (block, dst)) in blocks.iter().zip(dst).enumerate() {
            for line in (0..WEIGHTS).step_by(LANES) {
                simd.prefetch_l2(next.as_ptr().wrapping_add(i * WEIGHTS + line));
            }
            write_words(dst, &quantized(block, factor, step));
        }
        if !rest.is_empty() {
            write_words(last_dst, &quantized(&filled_up(rest), factor, step));
        }
    }
}

/// Quantises weights times a factor, with the same result as [`quantize`].
#[inline(always)]
fn quantized(weights: &[f32; WEIGHTS], factor: f64, step: f64) -> [i8; WEIGHTS] {
    /// As in [`quantize`], for f32.
    const ROUND: f32 = 1.5 * (1 << 23) as f32;
    // In f32, two roundings change a quotient of up to 127 by less than 1/60,000, so only quotients
    // close to a rounding boundary may round differently; these are recomputed in f64. Quotients
    // are at most 127 if the step is a normal number.
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

/// Fewer than `N` weights, filled up with zeros.
#[inline(always)]
fn filled_up<const N: usize>(weights: &[f32]) -> [f32; N] {
    let mut all = [0.0; N];
    all[..weights.len()].copy_from_slice(weights);
    all
}

/// Writes bytes as words of four, up to the length of `words`.
#[inline(always)]
fn write_words<const N: usize>(words: &mut [u32], bytes: &[i8; N]) {
    for (word, four) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(four.map(|byte| byte as u8));
    }
}

/// The step with which the largest magnitude becomes 127; 1 if all values are zero.
pub(super) fn step(values: impl Iterator<Item = f64>) -> f64 {
    let largest = values.fold(0.0, |largest: f64, v| largest.max(v.abs()));
    // Rounded to f32, because sums are multiplied with the f32 value.
    let step = f64::from((largest / 127.0) as f32);
    if step > 0.0 { step } else { 1.0 }
}

/// The byte that represents 0 if there is one, otherwise the middle byte.
pub(super) fn reference(offset: f32) -> f64 {
    if (0.0..=255.0).contains(&offset) { f64::from(offset) } else { 128.0 }
}

/// A value as a signed byte: `value / step`, rounded to nearest (ties to even) and clamped to -127
/// to 127.
#[inline(always)]
pub(super) fn quantize(value: f64, step: f64) -> i8 {
    // Adding ROUND leaves the rounded integer in the lowest bits. On targets whose baseline has no
    // rounding instruction, `round_ties_even` is a function call and ten times slower.
    const ROUND: f64 = 1.5 * (1_u64 << 52) as f64;
    let scaled = (value / step).clamp(-127.0, 127.0);
    (scaled + ROUND).to_bits() as i8
}

/// Four signed bytes as a word. Bytes past `len` are zero.
pub(super) fn word(at: impl Fn(usize) -> usize, len: usize, value: impl Fn(usize) -> i8) -> u32 {
    let byte = |j| if at(j) < len { value(at(j)) as u8 } else { 0 };
    u32::from_ne_bytes([byte(0), byte(1), byte(2), byte(3)])
}
