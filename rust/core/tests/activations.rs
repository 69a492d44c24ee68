//! Activations that take an exponential, compared with f64: every value is within a few units in
//! the last place.

mod common;

use common::none;
use lrgate::{Activation, Isa, Layer, Network, Rows};

/// Applies the activation to every value, with a layer of one unit per value.
fn activated(isa: Isa, activation: Activation, values: &[f32]) -> Vec<f32> {
    let n = values.len();
    let layer = Layer::new(vec![0.0; n], values.to_vec(), 1, activation);
    let network = Network::with_isa(vec![layer], None, isa).unwrap();
    let mut out = vec![0.0; n];
    network.forward(Rows::f32(&[0.0], 1, 1, 1).unwrap(), &mut out, Some(1)).unwrap();
    out
}

/// Values of all magnitudes and both signs, dense between -20 and 20.
fn values() -> Vec<f32> {
    let near = (-40_000..=40_000).map(|i| i as f32 * 5e-4);
    let far = (-1490..=1270).flat_map(|i| {
        let magnitude = 2f64.powf(f64::from(i) / 10.0) as f32;
        [magnitude, -magnitude]
    });
    near.chain(far).collect()
}

/// The error in units in the last place of the exact value; for denormals, of the smallest normal
/// number.
fn ulps(got: f32, exact: f64) -> f64 {
    let unit = exact.abs().max(f64::from(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON) / 2.0;
    (f64::from(got) - exact).abs() / unit
}

/// The normal distribution function of z times z, from the series of the error function or its
/// continued fraction.
fn exact_gelu(z: f64) -> f64 {
    let x = z.abs() / 2f64.sqrt();
    let tail = if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        1.0 - 2.0 / std::f64::consts::PI.sqrt() * sum
    } else {
        let fraction = (1..60).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
        (-x * x).exp() / fraction / std::f64::consts::PI.sqrt()
    };
    z * if z < 0.0 { tail / 2.0 } else { 1.0 - tail / 2.0 }
}

#[test]
fn values_are_near_the_exact_ones() {
    let values = values();
    let mut failures = Vec::new();
    for isa in Isa::available() {
        for (activation, most) in [(Activation::Sigmoid, 4.0), (Activation::Tanh, 6.0)] {
            let got = activated(isa, activation, &values);
            for (x, y) in values.iter().zip(got) {
                let z = f64::from(*x);
                let exact = match activation {
                    Activation::Tanh => z.tanh(),
                    _ if z < 0.0 => z.exp() / (1.0 + z.exp()),
                    _ => 1.0 / (1.0 + (-z).exp()),
                };
                if ulps(y, exact) > most {
                    failures.push(format!("{} {activation:?}({x}) {y} {exact}", isa.name()));
                }
            }
        }
        let got = activated(isa, Activation::Gelu, &values);
        for (x, y) in values.iter().zip(got) {
            let exact = exact_gelu(f64::from(*x));
            if (f64::from(y) - exact).abs() > 3e-7 * f64::from(x.abs()).max(1e-30) {
                failures.push(format!("{} gelu({x}) {y} {exact}", isa.name()));
            }
        }
    }
    none(&failures);
}

#[test]
fn softmax_is_near_the_exact_one() {
    for isa in Isa::available() {
        for n in [1, 2, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..n).map(|i| (i * 37 % 101) as f32 * 0.9 - 45.0).collect();
            let most = values.iter().copied().fold(f32::MIN, f32::max);
            let powers: Vec<f64> = values.iter().map(|z| f64::from(z - most).exp()).collect();
            let sum: f64 = powers.iter().sum();
            for (y, power) in activated(isa, Activation::Softmax, &values).iter().zip(powers) {
                assert!(ulps(*y, power / sum) < 16.0, "{} of {n}: {y}", isa.name());
            }
        }
    }
}

/// Limits, signed zeros, and NaN.
#[test]
fn special_values() {
    let special = [f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN];
    // Finite inputs give infinite sums only if products overflow.
    for isa in Isa::available() {
        let run = |activation, x: f32| {
            let layer = Layer::new(vec![f32::MAX, 1.0], vec![0.0; 2], 1, activation);
            let network = Network::with_isa(vec![layer], None, isa).unwrap();
            let mut out = [0.0; 2];
            network.forward(Rows::f32(&[x], 1, 1, 1).unwrap(), &mut out, Some(1)).unwrap();
            out[0]
        };
        assert_eq!(run(Activation::Sigmoid, 2.0), 1.0);
        assert_eq!(run(Activation::Sigmoid, -2.0), 0.0);
        assert_eq!(run(Activation::Tanh, 2.0), 1.0);
        assert_eq!(run(Activation::Tanh, -2.0), -1.0);
        assert_eq!(run(Activation::Gelu, 2.0), f32::INFINITY);
        assert_eq!(run(Activation::Gelu, -2.0), 0.0);
        assert_eq!(activated(isa, Activation::Tanh, &special[2..4]), [0.0, 0.0]);
        for activation in [Activation::Sigmoid, Activation::Tanh, Activation::Gelu] {
            assert!(run(activation, f32::NAN).is_nan());
        }
    }
}
