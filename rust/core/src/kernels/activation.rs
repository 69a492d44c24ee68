//! Activations that take an exponential: sigmoid, tanh, gelu and softmax of finished rows.
//!
//! These are plain loops over sixteen values at a time, which the compiler vectorises. No operation
//! is fused, so results are the same on every instruction set. The error comes from `exp`, which is
//! within 2 units in the last place, and from the steps after it. `rust/core/tests/activations.rs`
//! checks a bound for each against f64.

use super::epilogue::Fused;
use crate::model::Activation;
use crate::simd::{Kernel, LANES, Simd};

impl Activation {
    /// The part that kernels apply in registers; [`FinishRows`] applies the rest.
    pub(crate) fn fused(self) -> Fused {
        match self {
            Activation::Relu => Fused::Relu,
            Activation::ClippedRelu { upper } => Fused::Clipped { upper },
            Activation::ThresholdedRelu { threshold } => Fused::Thresholded { threshold },
            Activation::LeakyRelu { slope } => Fused::Leaky { slope },
            _ => Fused::Identity,
        }
    }

    /// Whether the activation needs [`FinishRows`]: no kernel applies it.
    pub(crate) fn needs_finish(self) -> bool {
        self.fused() == Fused::Identity && self != Activation::Identity
    }
}

/// Applies an activation to rows of `columns` values that start `stride` values apart.
pub(crate) struct FinishRows<'a> {
    pub(crate) activation: Activation,
    pub(crate) data: &'a mut [f32],
    pub(crate) columns: usize,
    pub(crate) stride: usize,
}

impl Kernel for FinishRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        for row in self.data.chunks_mut(self.stride) {
            finish_row(self.activation, &mut row[..self.columns]);
        }
    }
}

/// Applies an activation to one row.
#[inline(always)]
pub(crate) fn finish_row(activation: Activation, row: &mut [f32]) {
    match activation {
        Activation::Tanh => map(row, tanh),
        Activation::Sigmoid => map(row, sigmoid),
        Activation::Gelu => map(row, gelu),
        Activation::Softmax => softmax(row),
        _ => {}
    }
}

type Lanes = [f32; LANES];

/// Applies `f` to sixteen values at a time.
#[inline(always)]
fn map(row: &mut [f32], f: impl Fn(Lanes) -> Lanes) {
    let (vectors, rest) = row.as_chunks_mut::<LANES>();
    for v in vectors {
        *v = f(*v);
    }
    if !rest.is_empty() {
        let mut v = [0.0; LANES];
        v[..rest.len()].copy_from_slice(rest);
        rest.copy_from_slice(&f(v)[..rest.len()]);
    }
}

/// Adding this rounds to the nearest integer, which ends up in the lowest bits.
const ROUND: f32 = 1.5 * (1 << 23) as f32;

/// ln 2 in two parts: the first has few digits, so that its products with integers are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `exp(x) - 1` and `2^n` in two factors, for `x = n ln 2 + r` with the r nearest to 0: `2^n (p +
/// 1)` is `exp(x)`.
///
/// p is the Taylor series of `exp(r) - 1` to the seventh power; the next term is below 6e-9.
#[inline(always)]
fn parts(x: Lanes) -> (Lanes, Lanes, Lanes) {
    let (mut p, mut first, mut second) = (x, x, x);
    for i in 0..LANES {
        // Beyond these limits the exponential is 0 or infinite. NaN stays NaN.
        let x = if x[i] < -104.0 { -104.0 } else { x[i] };
        let x = if x > 89.0 { 89.0 } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
        let mut sum = 1.0 / 5040.0;
        sum = sum * r + 1.0 / 720.0;
        sum = sum * r + 1.0 / 120.0;
        sum = sum * r + 1.0 / 24.0;
        sum = sum * r + 1.0 / 6.0;
        sum = sum * r + 0.5;
        p[i] = sum * (r * r) + r;
        // 2^n may overflow or lose digits in f32; its square roots do not.
        let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let half = n >> 1;
        first[i] = f32::from_bits((half.wrapping_add(127) as u32) << 23);
        second[i] = f32::from_bits((n.wrapping_sub(half).wrapping_add(127) as u32) << 23);
    }
    (p, first, second)
}

#[inline(always)]
fn exp(x: Lanes) -> Lanes {
    let (mut y, first, second) = parts(x);
    for i in 0..LANES {
        y[i] = (y[i] + 1.0) * first[i] * second[i];
    }
    y
}

/// `1 / (1 + exp(-z))`. For negative values `exp(z) / (1 + exp(z))` keeps the digits.
#[inline(always)]
fn sigmoid(z: Lanes) -> Lanes {
    let mut y = z;
    for y in &mut y {
        *y = -y.abs();
    }
    y = exp(y);
    for i in 0..LANES {
        let numerator = if z[i] < 0.0 { y[i] } else { 1.0 };
        y[i] = numerator / (1.0 + y[i]);
    }
    y
}

/// `-m / (2 + m)` with `m = exp(-2 |z|) - 1`, and z's sign.
#[inline(always)]
fn tanh(z: Lanes) -> Lanes {
    let mut x = z;
    for x in &mut x {
        *x = -2.0 * x.abs();
    }
    let (p, first, second) = parts(x);
    for i in 0..LANES {
        let scale = first[i] * second[i];
        let m = p[i] * scale + (scale - 1.0);
        x[i] = (-m / (2.0 + m)).copysign(z[i]);
    }
    x
}

/// z times the normal distribution function of z.
///
/// The complementary error function is a polynomial of `1 / (1 + p x)` times `exp(-x^2)`
/// (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26), within 1.5e-7.
#[inline(always)]
fn gelu(z: Lanes) -> Lanes {
    let (mut t, mut exponent) = (z, z);
    for i in 0..LANES {
        let x = z[i].abs() * std::f32::consts::FRAC_1_SQRT_2;
        t[i] = 1.0 / (1.0 + 0.327_591_1 * x);
        exponent[i] = -(x * x);
    }
    let power = exp(exponent);
    for i in 0..LANES {
        let mut sum = 1.061_405_4;
        sum = sum * t[i] - 1.453_152;
        sum = sum * t[i] + 1.421_413_7;
        sum = sum * t[i] - 0.284_496_74;
        sum = sum * t[i] + 0.254_829_6;
        let tail = 0.5 * (sum * t[i]) * power[i];
        let share = if z[i] < 0.0 { tail } else { 1.0 - tail };
        // Avoids `-inf` times 0.
        t[i] = if z[i] == f32::NEG_INFINITY { -0.0 } else { z[i] * share };
    }
    t
}

/// Replaces a row by its softmax: `exp(z)` divided by the sum. NaN or positive infinity in a row
/// makes the whole row NaN.
#[inline(always)]
pub(crate) fn softmax(row: &mut [f32]) {
    let mut most = [f32::NEG_INFINITY; LANES];
    for part in row.chunks(LANES) {
        for (most, z) in most.iter_mut().zip(part) {
            *most = if *z > *most { *z } else { *most };
        }
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    for part in row.chunks_mut(LANES) {
        let mut v = [f32::NEG_INFINITY; LANES];
        v[..part.len()].copy_from_slice(part);
        for v in &mut v {
            *v -= most;
        }
        let y = exp(v);
        for i in 0..LANES {
            // Lanes past the row's end are 0.
            sums[i] += if i < part.len() { y[i] } else { 0.0 };
        }
        part.copy_from_slice(&y[..part.len()]);
    }
    let sum: f32 = sums.into_iter().sum();
    for y in row {
        *y /= sum;
    }
}
