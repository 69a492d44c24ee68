//! Activations compared with f64 over the whole range of f32: every value is within a few units in
//! the last place.

mod common;

use common::{bits, none};
use lrgate::{Activation, Isa, Layer, Network, Plan, Rows, Strategy};

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

/// An activation, its function in f64, and its largest error in units in the last place.
type Case = (Activation, fn(f64) -> f64, f64);

fn cases() -> Vec<Case> {
    let elu = |alpha| Activation::Elu { alpha };
    vec![
        (Activation::Sigmoid, |z| 1.0 / (1.0 + (-z).exp()), 4.0),
        (Activation::Tanh, f64::tanh, 6.0),
        (Activation::Silu, |z| z / (1.0 + (-z).exp()), 5.0),
        (Activation::Mish, |z| z * z.exp().ln_1p().tanh(), 7.0),
        (Activation::Softplus, |z| z.max(0.0) + (-z.abs()).exp().ln_1p(), 5.0),
        (Activation::Exp, f64::exp, 3.0),
        (elu(1.0), |z| if z > 0.0 { z } else { z.exp_m1() }, 3.0),
        (elu(-0.25), |z| if z > 0.0 { z } else { -0.25 * z.exp_m1() }, 3.0),
        (Activation::Selu, selu, 4.0),
        (Activation::HardSigmoid, |z| (z / 6.0 + 0.5).clamp(0.0, 1.0), 3.0),
        (Activation::HardSwish, |z| z * (z / 6.0 + 0.5).clamp(0.0, 1.0), 4.0),
        (Activation::HardTanh { lower: -1.0, upper: 1.0 }, |z| z.clamp(-1.0, 1.0), 0.0),
        (Activation::SquaredRelu, |z| z.max(0.0) * z.max(0.0), 1.0),
        (Activation::Prelu { slope: [0.25].into() }, |z| if z > 0.0 { z } else { 0.25 * z }, 1.0),
    ]
}

fn selu(z: f64) -> f64 {
    let (scale, alpha) = (1.050_700_987_355_480_5, 1.673_263_242_354_377_2);
    scale * if z > 0.0 { z } else { alpha * z.exp_m1() }
}

#[test]
fn values_are_near_the_exact_ones() {
    let values = values();
    let mut failures = Vec::new();
    for isa in Isa::available() {
        for (activation, exact, most) in cases() {
            let (mut worst, mut at) = (0.0_f64, 0.0);
            let got = activated(isa, activation.clone(), &values);
            for (x, y) in values.iter().zip(got) {
                let exact = exact(f64::from(*x));
                let largest = f64::from(f32::MAX);
                let overflows = exact > largest && y == f32::INFINITY;
                let error = if overflows { 0.0 } else { ulps(y, exact) };
                if !(error <= worst) {
                    (worst, at) = (error, *x);
                }
            }
            if !(worst <= most) {
                failures.push(format!("{} {activation:?}({at}): {worst} units", isa.name()));
            }
        }
        // The share cancels where z is far below 0, so the error is relative to z.
        let inner = |z: f64| (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z.powi(3));
        let exact_tanh = |z: f64| z / (1.0 + (-2.0 * inner(z)).exp());
        let gelus: [(_, &dyn Fn(f64) -> f64); 2] =
            [(Activation::Gelu, &exact_gelu), (Activation::GeluTanh, &exact_tanh)];
        for (activation, exact) in gelus {
            let got = activated(isa, activation.clone(), &values);
            for (x, y) in values.iter().zip(got) {
                let exact = exact(f64::from(*x));
                if !((f64::from(y) - exact).abs() <= 3e-7 * f64::from(x.abs()).max(1e-30)) {
                    failures.push(format!("{} {activation:?}({x}) {y} {exact}", isa.name()));
                }
            }
        }
    }
    none(&failures);
}

/// Every instruction set gives the same bits.
#[test]
fn bits_are_the_same_on_all_instruction_sets() {
    let values = values();
    let others = [Activation::Gelu, Activation::GeluTanh];
    let by_value = cases().into_iter().map(|case| case.0).chain(others);
    let whole_row = [Activation::Softmax, Activation::LogSoftmax];
    for activation in by_value.chain(whole_row) {
        let expected = bits(&activated(Isa::best(), activation.clone(), &values));
        for isa in Isa::available() {
            let got = bits(&activated(isa, activation.clone(), &values));
            assert!(got == expected, "{} {activation:?}", isa.name());
        }
    }
}

#[test]
fn log_softmax_is_near_the_exact_one() {
    for isa in Isa::available() {
        for n in [1, 2, 15, 16, 17, 100, 1000] {
            for spread in [0.0, 1e-3, 0.9, 30.0, 1e30] {
                let values: Vec<f32> =
                    (0..n).map(|i| ((i * 37 % 101) as f32 - 45.0) * spread).collect();
                let most = values.iter().copied().fold(f32::MIN, f32::max);
                let top = values.iter().position(|z| *z == most).unwrap();
                let power = |z: &f32| (f64::from(*z) - f64::from(most)).exp();
                let all: f64 = values.iter().map(power).sum();
                let others = values.iter().enumerate().filter(|(i, _)| *i != top);
                let terms: Vec<_> =
                    others.map(|(_, z)| (power(z), f64::from(most) - f64::from(*z))).collect();
                let rest: f64 = terms.iter().map(|term| term.0).sum();
                // Distances are rounded before the exponential.
                let distance: f64 = terms.iter().map(|term| term.0 * term.1).sum();
                let distance = if rest > 0.0 { distance / rest } else { 0.0 };
                assert!((all - 1.0 - rest).abs() < 1e-9);
                let got = activated(isa, Activation::LogSoftmax, &values);
                for (z, y) in values.iter().zip(got) {
                    let exact = f64::from(*z) - f64::from(most) - rest.ln_1p();
                    // A sum of n / 16 terms in each lane.
                    let allowed = 8.0 + n as f64 / 16.0 + distance;
                    assert!(ulps(y, exact) < allowed, "{} of {n}: {y} {exact}", isa.name());
                }
            }
        }
    }
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
    // Finite inputs give infinite sums only if products overflow.
    let inf = f32::INFINITY;
    let limits = [
        (Activation::Sigmoid, 1.0, 0.0),
        (Activation::Tanh, 1.0, -1.0),
        (Activation::Gelu, inf, 0.0),
        (Activation::GeluTanh, inf, 0.0),
        (Activation::Silu, inf, 0.0),
        (Activation::Mish, inf, 0.0),
        (Activation::Softplus, inf, 0.0),
        (Activation::Exp, inf, 0.0),
        (Activation::Elu { alpha: 2.0 }, inf, -2.0),
        (Activation::Selu, inf, -1.758_099_3),
        (Activation::HardTanh { lower: -0.5, upper: 0.25 }, 0.25, -0.5),
        (Activation::HardSigmoid, 1.0, 0.0),
        (Activation::HardSwish, inf, 0.0),
        (Activation::SquaredRelu, inf, 0.0),
        (Activation::Prelu { slope: [0.5, 0.25].into() }, inf, -inf),
    ];
    for isa in Isa::available() {
        for (activation, high, low) in &limits {
            let run = |x: f32| {
                let layer = Layer::new(vec![f32::MAX, 1.0], vec![0.0; 2], 1, activation.clone());
                let network = Network::with_isa(vec![layer], None, isa).unwrap();
                let mut out = [0.0; 2];
                network.forward(Rows::f32(&[x], 1, 1, 1).unwrap(), &mut out, Some(1)).unwrap();
                out[0]
            };
            assert_eq!((run(2.0), run(-2.0)), (*high, *low), "{} {activation:?}", isa.name());
            assert!(run(f32::NAN).is_nan(), "{} {activation:?}", isa.name());
            for x in [f32::MAX, f32::MIN, 0.0, -0.0, f32::MIN_POSITIVE, 1e-45] {
                let [y, _] = activated(isa, activation.clone(), &[x, x])[..] else {
                    panic!("two units")
                };
                assert!(!y.is_nan(), "{} {activation:?}({x})", isa.name());
            }
        }
        assert_eq!(activated(isa, Activation::Tanh, &[0.0, -0.0]), [0.0, 0.0]);
        // Values that a direct formula turns into NaN or infinity.
        assert_eq!(activated(isa, Activation::Softplus, &[100.0, -200.0]), [100.0, 0.0]);
        assert_eq!(activated(isa, Activation::Silu, &[-200.0, f32::MIN]), [0.0, 0.0]);
        assert_eq!(activated(isa, Activation::Mish, &[-200.0, f32::MAX]), [0.0, f32::MAX]);
        assert_eq!(activated(isa, Activation::LogSoftmax, &[3e38, -3e38]), [0.0, -inf]);
    }
}

/// Negative infinity is a class that is impossible, unless all are. NaN and positive infinity
/// spread.
#[test]
fn log_softmax_of_infinities() {
    let inf = f32::INFINITY;
    let run = |isa, weight: [f32; 3], x: f32| {
        let layer = Layer::new(weight.to_vec(), vec![0.0; 3], 1, Activation::LogSoftmax);
        let network = Network::with_isa(vec![layer], None, isa).unwrap();
        let mut out = [0.0; 3];
        network.forward(Rows::f32(&[x], 1, 1, 1).unwrap(), &mut out, Some(1)).unwrap();
        out
    };
    for isa in Isa::available() {
        let two = -(2.0_f32.ln());
        assert_eq!(run(isa, [f32::MIN, 0.0, 0.0], 2.0), [-inf, two, two]);
        for row in [run(isa, [f32::MIN; 3], 2.0), run(isa, [f32::MAX, 0.0, 1.0], 2.0)] {
            assert!(row.iter().all(|y| y.is_nan()), "{row:?}");
        }
        assert!(run(isa, [0.0, 1.0, 2.0], f32::NAN).iter().all(|y| y.is_nan()));
    }
}

/// A slope of each unit follows its unit: under any order, and whatever the strategy.
#[test]
fn slopes_belong_to_units() {
    let (units, kept) = (70, [69_u32, 3, 40, 0, 68]);
    let slope: Vec<f32> = (0..units).map(|o| o as f32 / 64.0).collect();
    let activation = Activation::Prelu { slope: slope.clone().into() };
    let layer = Layer::new(vec![-1.0; units], vec![0.0; units], 1, activation);
    let picked = layer.clone().pick(Some(&kept), None).unwrap();
    let last = |inputs| {
        let identity = |i: usize| f32::from(u8::from(i.is_multiple_of(inputs + 1)));
        let weight = (0..inputs * inputs).map(identity).collect();
        Layer::new(weight, vec![0.0; inputs], inputs, Activation::Identity)
    };
    let all: Vec<u32> = (0..units as u32).collect();
    for isa in Isa::available() {
        for (layer, order) in [(&layer, &all[..]), (&picked, &kept[..])] {
            let layers = vec![layer.clone(), last(order.len())];
            let network = Network::with_isa(layers, None, isa).unwrap();
            let expected: Vec<f32> = order.iter().map(|o| -2.0 * slope[*o as usize]).collect();
            for strategy in [Strategy::Dense, Strategy::Skip] {
                let network = network.with_plan(Plan::uniform(strategy, 2)).unwrap();
                let mut out = vec![0.0; order.len()];
                network.forward(Rows::f32(&[2.0], 1, 1, 1).unwrap(), &mut out, Some(1)).unwrap();
                assert_eq!(out, expected, "{} {strategy:?}", isa.name());
            }
        }
    }
}

#[test]
fn parameters_are_checked() {
    let network = |activation| {
        let layer = Layer::new(vec![1.0; 3], vec![0.0; 3], 1, activation);
        Network::new(vec![layer], None).map(|_| ()).map_err(|error| error.to_string())
    };
    let hard_tanh = |lower, upper| Activation::HardTanh { lower, upper };
    let prelu = |slope: &[f32]| Activation::Prelu { slope: slope.into() };
    for good in [prelu(&[0.1]), prelu(&[0.1, 0.2, -1.0]), hard_tanh(-1.0, 2.0)] {
        assert_eq!(network(good), Ok(()));
    }
    for (bad, expected) in [
        (hard_tanh(1.0, 1.0), "upper of hard_tanh of layer 0 must be finite and above 1, got 1"),
        (hard_tanh(f32::NAN, 1.0), "lower of hard_tanh of layer 0 must be finite, got NaN"),
        (
            Activation::Elu { alpha: f32::INFINITY },
            "alpha of elu of layer 0 must be finite, got inf",
        ),
        (prelu(&[0.0, f32::NAN, 0.0]), "slope of prelu of layer 0 must be finite, got NaN"),
        (prelu(&[0.0; 2]), "slope of prelu of layer 0 must have 3 values, got 2 values"),
        (prelu(&[]), "slope of prelu of layer 0 must have 3 values, got 0 values"),
    ] {
        assert_eq!(network(bad), Err(expected.to_owned()));
    }
    let wrong = Layer::new(vec![1.0; 3], vec![0.0; 3], 1, prelu(&[0.0; 2]));
    let error = wrong.pick(Some(&[0, 1]), None).unwrap_err();
    assert_eq!(error.to_string(), "the slopes must have 3 values, got 2 values");
}

#[test]
fn names_lead_to_activations() {
    let all = cases().into_iter().map(|case| case.0);
    for activation in all {
        let values: &[&[f32]] = match &activation {
            Activation::Prelu { slope } => &[slope],
            Activation::Elu { alpha } => &[&[*alpha]],
            Activation::HardTanh { lower, upper } => &[&[*lower], &[*upper]],
            _ => &[],
        };
        let found = Activation::by_name(activation.name(), values);
        assert_eq!(found.as_ref(), Some(&activation));
        assert_eq!(Activation::by_name(activation.name(), &[&[1.0], &[1.0], &[1.0]]), None);
    }
    assert_eq!(Activation::by_name("swish", &[]), None);
}
