//! The formulas of activations: which of them kernels apply in registers, and those of finished
//! rows.
//!
//! These are plain loops over sixteen values at a time, which the compiler vectorises. No operation
//! is fused, so results are the same on every instruction set. The error of most comes from `exp`,
//! which is within 2 units in the last place, and from the steps after it. `rust/core/tests/activations.rs`
//! checks a bound for each against f64.

use super::epilogue::Fused;
use crate::model::Activation;
use crate::simd::{Kernel, LANES, Simd};

/// Smaller values have an exponential of 0.
const LEAST: f32 = -150.0;

impl Activation {
    /// The activation as kernels apply it in registers. [`FinishRows`] applies those that are rare or
    /// take more than a few instructions, because every one of these is compiled into every kernel.
    fn in_registers(&self) -> Option<Fused> {
        Some(match self {
            Activation::Identity => Fused::Identity,
            Activation::Relu => Fused::Relu,
            Activation::ClippedRelu { upper } => Fused::Clamped { lower: 0.0, upper: *upper },
            Activation::ThresholdedRelu { threshold } => {
                Fused::Thresholded { threshold: *threshold }
            }
            Activation::SquaredRelu => Fused::Squared,
            Activation::LeakyRelu { slope } => Fused::Leaky { slope: *slope },
            Activation::Prelu { slope } => match **slope {
                [slope] => Fused::Leaky { slope },
                _ => return None,
            },
            Activation::HardTanh { lower, upper } => {
                Fused::Clamped { lower: *lower, upper: *upper }
            }
            _ => return None,
        })
    }

    /// The part that kernels apply in registers; [`FinishRows`] applies the rest.
    pub(crate) fn fused(&self) -> Fused {
        self.in_registers().unwrap_or(Fused::Identity)
    }

    /// Whether the activation needs [`FinishRows`].
    pub(crate) fn needs_finish(&self) -> bool {
        self.in_registers().is_none()
    }
}

/// Applies an activation to rows of `columns` values that start `stride` values apart.
pub(crate) struct FinishRows<'a> {
    pub(crate) activation: &'a Activation,
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
fn finish_row(activation: &Activation, row: &mut [f32]) {
    match activation {
        Activation::Tanh => map(row, tanh),
        Activation::Sigmoid => map(row, sigmoid),
        Activation::Gelu => map(row, gelu),
        Activation::GeluTanh => map(row, gelu_tanh),
        Activation::Silu => map(row, silu),
        Activation::Mish => map(row, mish),
        Activation::Softplus => map(row, softplus),
        Activation::Exp => map(row, exp),
        Activation::Elu { alpha } => map(row, |z| elu(z, 1.0, *alpha)),
        Activation::Selu => map(row, |z| elu(z, SELU_SCALE, SELU_SCALE_ALPHA)),
        Activation::HardSigmoid => map(row, hard_sigmoid),
        Activation::HardSwish => map(row, hard_swish),
        Activation::Prelu { slope } => prelu(row, slope),
        Activation::Softmax => softmax(row),
        Activation::LogSoftmax => log_softmax(row),
        _ => {}
    }
}

/// Replaces values by their exponentials.
pub(crate) fn exponential(values: &mut [f32]) {
    map(values, exp);
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
        let x = if x[i] < LEAST { LEAST } else { x[i] };
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

/// z times a share that is `on(e)` where z > 0 and else `e off(e)`, for `e = exp(-|x|)`.
///
/// For negative z the factors of e are multiplied one after another, so that a product that is a
/// normal number keeps its digits where e has lost them.
#[inline(always)]
fn shared(z: Lanes, x: Lanes, on: impl Fn(f32) -> f32, off: impl Fn(f32) -> f32) -> Lanes {
    let (mut y, mut exponent) = (z, x);
    for exponent in &mut exponent {
        *exponent = -exponent.abs();
    }
    let (p, first, second) = parts(exponent);
    for i in 0..LANES {
        let part = (p[i] + 1.0) * first[i];
        let e = part * second[i];
        // Avoids `-inf` times 0.
        let negative = if z[i] < LEAST { LEAST } else { z[i] };
        let negative = negative * part * off(e) * second[i];
        y[i] = if z[i] < 0.0 { negative } else { z[i] * on(e) };
    }
    y
}

/// z times its sigmoid.
#[inline(always)]
fn silu(z: Lanes) -> Lanes {
    shared(z, z, |e| 1.0 / (1.0 + e), |e| 1.0 / (1.0 + e))
}

/// z times the sigmoid of `2 sqrt(2 / pi) (z + 0.044715 z^3)`.
#[inline(always)]
fn gelu_tanh(z: Lanes) -> Lanes {
    let mut x = z;
    for x in &mut x {
        *x *= 1.595_769_2 + 0.071_354_814 * (*x * *x);
    }
    shared(z, x, |e| 1.0 / (1.0 + e), |e| 1.0 / (1.0 + e))
}

/// z times `tanh(log(1 + w))`, for `w = exp(z)`: `w (w + 2) / (w (w + 2) + 2)`.
#[inline(always)]
fn mish(z: Lanes) -> Lanes {
    let on = |e: f32| (1.0 + 2.0 * e) / (1.0 + 2.0 * e + 2.0 * e * e);
    shared(z, z, on, |e| (e + 2.0) / (e * (e + 2.0) + 2.0))
}

/// `log(1 + exp(z))`: the positive part of z plus `log(1 + e)`, for `e = exp(-|z|)`.
///
/// `log(1 + e)` is the series of twice the inverse tanh of `s = e / (2 + e)`, at most 1/3, to the
/// fifteenth power; the next term is below 1e-9 of it.
#[inline(always)]
fn softplus(z: Lanes) -> Lanes {
    let mut y = z;
    for y in &mut y {
        *y = -y.abs();
    }
    y = exp(y);
    for i in 0..LANES {
        let double = 2.0 * y[i] / (2.0 + y[i]);
        let square = 0.25 * (double * double);
        let mut sum = 1.0 / 15.0;
        sum = sum * square + 1.0 / 13.0;
        sum = sum * square + 1.0 / 11.0;
        sum = sum * square + 1.0 / 9.0;
        sum = sum * square + 1.0 / 7.0;
        sum = sum * square + 1.0 / 5.0;
        sum = sum * square + 1.0 / 3.0;
        let log = double * (sum * square) + double;
        y[i] = if z[i] < 0.0 { log } else { z[i] + log };
    }
    y
}

/// The constants of selu: its scale, and the scale times its alpha.
const SELU_SCALE: f32 = 1.050_701;
const SELU_SCALE_ALPHA: f32 = 1.758_099_3;

/// `scale z` where z > 0, else `alpha (exp(z) - 1)`.
#[inline(always)]
fn elu(z: Lanes, scale: f32, alpha: f32) -> Lanes {
    let mut x = z;
    for x in &mut x {
        *x = if *x > 0.0 { 0.0 } else { *x };
    }
    let (p, first, second) = parts(x);
    for i in 0..LANES {
        let power = first[i] * second[i];
        let m = p[i] * power + (power - 1.0);
        x[i] = if z[i] > 0.0 { scale * z[i] } else { alpha * m };
    }
    x
}

/// `min(max(0, z + 3), 6) / 6`, whose relative error is small near -3 too.
#[inline(always)]
fn hard_sigmoid(mut z: Lanes) -> Lanes {
    for z in &mut z {
        let shifted = *z + 3.0;
        let positive = if shifted < 0.0 { 0.0 } else { shifted };
        *z = if positive > 6.0 { 6.0 } else { positive } * (1.0 / 6.0);
    }
    z
}

/// z times its hard sigmoid.
#[inline(always)]
fn hard_swish(mut z: Lanes) -> Lanes {
    for z in &mut z {
        // Avoids `-inf` times 0.
        *z = if *z < -3.0 { -3.0 } else { *z };
    }
    let mut y = hard_sigmoid(z);
    for i in 0..LANES {
        y[i] *= z[i];
    }
    y
}

/// z where z > 0, else its unit's slope times z.
#[inline(always)]
fn prelu(row: &mut [f32], slope: &[f32]) {
    for (z, slope) in row.iter_mut().zip(slope) {
        let scaled = *z * slope;
        *z = if *z > 0.0 { *z } else { scaled };
    }
}

/// Replaces a row by the logarithm of its softmax: `z - most - log(1 + rest)`, where `rest` is the
/// sum of `exp(z - most)` of all but one of the largest values. As in [`softmax`], NaN or positive
/// infinity makes the whole row NaN, and so does a row of nothing but negative infinity.
#[inline(always)]
fn log_softmax(row: &mut [f32]) {
    let most = largest(row);
    let (mut sums, mut tops) = ([0.0; LANES], [0.0_f32; LANES]);
    for part in row.chunks_mut(LANES) {
        let mut v = [f32::NEG_INFINITY; LANES];
        v[..part.len()].copy_from_slice(part);
        for v in &mut v {
            *v -= most;
        }
        let y = exp(v);
        for i in 0..LANES {
            let inside = i < part.len();
            // Lanes past the row's end are 0.
            sums[i] += if inside && v[i] != 0.0 { y[i] } else { 0.0 };
            tops[i] += if inside && v[i] == 0.0 { 1.0 } else { 0.0 };
        }
        part.copy_from_slice(&v[..part.len()]);
    }
    let rest: f32 = sums.into_iter().sum();
    let tops: f32 = tops.into_iter().sum();
    let log = ln_1p(f64::from(rest) + f64::from(tops - 1.0)) as f32;
    for y in row {
        *y -= log;
    }
}

/// `log(1 + x)` for x from 0 on, within 1e-8. It uses no library function, so the bits are the same
/// everywhere.
fn ln_1p(x: f64) -> f64 {
    let whole = 1.0 + x;
    let exponent = (whole.to_bits() >> 52) as i32 - 1023;
    let power = f64::from_bits(((1023 - i64::from(exponent)) << 52) as u64);
    let part = if exponent == 0 { x } else { whole * power - 1.0 };
    let s = part / (2.0 + part);
    let series = |sum: f64, n: i32| sum * (s * s) + 1.0 / f64::from(n);
    let sum = [17, 15, 13, 11, 9, 7, 5, 3, 1].into_iter().fold(0.0, series);
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * s * sum
}

/// The largest value of a row, ignoring NaN.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    for part in row.chunks(LANES) {
        for (most, z) in most.iter_mut().zip(part) {
            *most = if *z > *most { *z } else { *most };
        }
    }
    most.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces a row by its softmax: `exp(z)` divided by the sum. NaN or positive infinity in a row
/// makes the whole row NaN.
#[inline(always)]
pub(crate) fn softmax(row: &mut [f32]) {
    let most = largest(row);
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
