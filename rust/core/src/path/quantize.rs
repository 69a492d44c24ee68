//! How weights become signed bytes.

use super::packed::PackedLayer;
use crate::memory;
use crate::model::Quantization;
use crate::simd::{Kernel, LANES, Simd};

/// Inputs whose sums are kept apart, so that they need not wait for each other: a multiple of 4.
const SUMS: usize = 8;

/// What stands between a layer's weights and the bytes of its inputs.
pub(super) enum InputTerms {
    /// One factor of all weights: bytes of 0 stand for 0, and no input is shifted.
    Factor(f64),
    /// For [`SUMS`] inputs after [`SUMS`] inputs. For those past the last all is 0.
    Each(Vec<Terms>),
}

#[derive(Clone, Copy, Default)]
pub(super) struct Terms {
    /// Of the input map times that of the quantisation: in f64 it is not rounded.
    factor: [f64; SUMS],
    /// Of the input map.
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

/// Makes bytes of a unit's weights. Plain loops, each over one thing, which the compiler makes vectors of; on
/// no instruction set do they give other bits.
pub(super) struct ByTerms<'a> {
    pub(super) weights: &'a [f32],
    pub(super) terms: &'a [Terms],
    /// Where the bytes go, four to a word.
    pub(super) words: &'a mut [u32],
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
pub(super) struct ByFactor<'a> {
    pub(super) weights: &'a [f32],
    pub(super) factor: f64,
    pub(super) step: f64,
    pub(super) words: &'a mut [u32],
    /// The weights that come next, which are asked for: where units have an order, no hardware knows them.
    pub(super) next: &'a [f32],
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
