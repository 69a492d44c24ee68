//! int8 layers, compared bit by bit with the documented arithmetic in plain integers.

mod common;

use std::ops::RangeInclusive;

use common::{Model, Random, bits, none};
use lrgate::{
    Activation, BatchPlan, Gate, InputMap, Isa, Layer, LayerPlan, Network, Plan, Precision,
    Quantization, Rows, Strategy,
};

/// The bytes of a layer, and the terms that convert sums to outputs.
struct Reference {
    /// (outputs, inputs)
    weights: Vec<i64>,
    inputs: usize,
    scale: Vec<f32>,
    bias: Vec<f32>,
}

impl Reference {
    fn new(layer: &Layer, map: Option<&InputMap>, input: &Quantization) -> Self {
        let inputs = layer.inputs();
        let (mut weights, mut scale, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        for (o, row) in layer.weight().chunks_exact(inputs).enumerate() {
            // Every eighth input adds to the same sum.
            let mut sums = [0.0; 8];
            let mut products = Vec::new();
            for (i, w) in row.iter().enumerate() {
                let (factor, shift) =
                    map.map_or((1.0, 0.0), |map| (map.scale(i).into(), map.shift(i).into()));
                let product: f64 = f64::from(*w) * factor * f64::from(input.scale(i));
                sums[i % 8] += f64::from(*w) * shift;
                sums[i % 8] -= product * f64::from(input.offset(i));
                products.push(product);
            }
            let largest = products.iter().fold(0.0, |largest: f64, w| largest.max(w.abs()));
            let step = f64::from((largest / 127.0) as f32);
            let step = if step > 0.0 { step } else { 1.0 };
            // The smallest steps are not exactly the largest weight divided by 127.
            let byte = |w: &f64| (w / step).round_ties_even().clamp(-127.0, 127.0);
            let rounded: Vec<f64> = products.iter().map(byte).collect();
            // The byte that represents 0, or the middle byte, must not be affected by the rounding
            // of weights.
            for (i, (w, product)) in rounded.iter().zip(&products).enumerate() {
                let offset = input.offset(i);
                let byte = if (0.0..=255.0).contains(&offset) { f64::from(offset) } else { 128.0 };
                sums[i % 8] -= (w * step - product) * byte;
            }
            let sum = f64::from(layer.bias()[o]) + sums.iter().sum::<f64>();
            weights.extend(rounded.iter().map(|w| *w as i64));
            scale.push(step as f32);
            bias.push(sum as f32);
        }
        Reference { weights, inputs, scale, bias }
    }

    /// The layer with the next layer's factors in its scale and bias.
    fn folded(mut self, next: &Quantization) -> Reference {
        for (o, (scale, bias)) in self.scale.iter_mut().zip(&mut self.bias).enumerate() {
            let factor = f64::from(1.0 / next.scale(o));
            *scale = (f64::from(*scale) * factor) as f32;
            *bias = (f64::from(*bias) * factor + f64::from(next.offset(o))) as f32;
        }
        self
    }

    fn pre_activations(&self, row: &[u8]) -> Vec<f32> {
        let dot = |w: &[i64]| w.iter().zip(row).map(|(w, x)| w * i64::from(*x)).sum::<i64>();
        let sums = self.weights.chunks_exact(self.inputs).map(dot);
        sums.enumerate().map(|(o, sum)| sum as f32 * self.scale[o] + self.bias[o]).collect()
    }
}

fn activate(activation: &Activation, o: usize, z: f32) -> f32 {
    match activation {
        Activation::Relu => z.max(0.0),
        Activation::ClippedRelu { upper } => z.max(0.0).min(*upper),
        Activation::ThresholdedRelu { threshold } if z <= *threshold => 0.0,
        Activation::SquaredRelu => z.max(0.0) * z.max(0.0),
        Activation::LeakyRelu { slope } if z <= 0.0 => z * slope,
        Activation::Prelu { slope } if z <= 0.0 => z * slope[o],
        Activation::HardTanh { lower, upper } => z.max(*lower).min(*upper),
        Activation::HardSwish => {
            let z = z.max(-3.0);
            z * ((z + 3.0).min(6.0) * (1.0 / 6.0))
        }
        Activation::Tanh => z.tanh(),
        _ => z,
    }
}

/// Whether a layer's pre-activations are the next layer's inputs: conversion to bytes is the relu.
fn folds(activation: &Activation, next: &Quantization) -> bool {
    match activation {
        Activation::Identity => true,
        Activation::Relu => next.offset(0) == 0.0,
        _ => false,
    }
}

fn byte(x: f32, scale: f32, offset: f32) -> u8 {
    (x * (1.0 / scale) + offset).round_ties_even().clamp(0.0, 255.0) as u8
}

/// Whether a value is representable as a byte: within `range` before rounding.
fn has_byte(x: f32, scale: f32, offset: f32, range: RangeInclusive<f32>) -> bool {
    range.contains(&(x * (1.0 / scale) + offset))
}

/// The network's outputs with the units of each layer that `live` lets through; `None` for a row
/// with a value outside the range of the bytes, which is computed in f32.
fn reference(
    model: &Model,
    quantization: &[Quantization],
    row: &[f32],
    live: impl Fn(usize, &[u8], usize) -> bool,
) -> Option<Vec<f32>> {
    let first = &quantization[0];
    let inside =
        |(i, x): (usize, &f32)| has_byte(*x, first.scale(i), first.offset(i), -1.0..=256.0);
    if !row.iter().enumerate().all(inside) {
        return None;
    }
    let mut x: Vec<u8> =
        row.iter().enumerate().map(|(i, x)| byte(*x, first.scale(i), first.offset(i))).collect();
    for (i, layer) in model.layers.iter().enumerate() {
        let map = model.map.as_ref().filter(|_| i == 0);
        let bytes = Reference::new(layer, map, &quantization[i]);
        if let Some(next) = quantization.get(i + 1)
            && folds(layer.activation(), next)
        {
            let least = if *layer.activation() == Activation::Relu { f32::MIN } else { -0.5 };
            let q = bytes.folded(next).pre_activations(&x);
            let zero = next.offset(0);
            let q = q.into_iter().enumerate().map(|(o, q)| if live(i, &x, o) { q } else { zero });
            let q: Vec<f32> = q.collect();
            if !q.iter().all(|q| (least..=254.5).contains(q)) {
                return None;
            }
            x = q.iter().map(|q| q.round_ties_even().clamp(0.0, 255.0) as u8).collect();
            continue;
        }
        let z = bytes.pre_activations(&x);
        let y: Vec<f32> = z
            .into_iter()
            .enumerate()
            .map(|(o, z)| if live(i, &x, o) { activate(layer.activation(), o, z) } else { 0.0 })
            .collect();
        match quantization.get(i + 1) {
            None => return Some(y),
            Some(next) => {
                let inside = |(o, y): (usize, &f32)| {
                    has_byte(*y, next.scale(o), next.offset(o), -0.5..=254.5)
                };
                if !y.iter().enumerate().all(inside) {
                    return None;
                }
                let byte = |(o, y): (usize, &f32)| byte(*y, next.scale(o), next.offset(o));
                x = y.iter().enumerate().map(byte).collect();
            }
        }
    }
    unreachable!("a network has a last layer")
}

fn quantized(model: &Model, isa: Isa, quantization: &[Quantization]) -> Network {
    Network::with_isa(model.layers.clone(), model.map.clone(), isa)
        .and_then(|network| network.with_gates(model.gates.clone()))
        .and_then(|network| {
            network.with_quantization(quantization.iter().cloned().map(Some).collect())
        })
        .unwrap()
}

fn under(network: &Network, strategies: &[Strategy]) -> Network {
    let plan = |&strategy| LayerPlan { strategy, precision: Precision::Int8 };
    let batch_plan = BatchPlan::new(1, strategies.iter().map(plan).collect());
    network.with_plan(Plan::new(vec![batch_plan]).unwrap()).unwrap()
}

/// All units are computed.
fn all(_layer: usize, _bytes: &[u8], _unit: usize) -> bool {
    true
}

/// [`reference`] of every row, in f32 if a value is out of range, and the number of such rows.
fn documented(
    model: &Model,
    quantization: &[Quantization],
    network: &Network,
    data: &[f32],
    live: impl Fn(usize, &[u8], usize) -> bool + Copy,
    fallback: impl Fn(usize) -> Strategy,
) -> (Vec<f32>, usize) {
    let (mut out_of_range, inputs) = (0, network.input_size());
    let strategies: Vec<_> = (0..model.layers.len()).map(fallback).collect();
    let float = network.with_plan(Plan::from_strategies(&strategies)).unwrap();
    let mut out = Vec::new();
    for row in data.chunks_exact(inputs) {
        out.extend(reference(model, quantization, row, live).unwrap_or_else(|| {
            out_of_range += 1;
            run(&float, Rows::f32(row, 1, inputs, inputs).unwrap(), 1)
        }));
    }
    (out, out_of_range)
}

fn plain(scale: f32, offset: f32) -> Quantization {
    Quantization::new(vec![scale], vec![offset])
}

fn run(network: &Network, rows: Rows<'_>, threads: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows.len() * network.output_size()];
    network.forward(rows, &mut out, Some(threads)).unwrap();
    out
}

/// Dense and skip, on every instruction set, for all widths, activations and numbers of rows.
#[test]
fn every_bit_is_as_documented() {
    let mut failures = Vec::new();
    let hidden = [
        Activation::Relu,
        Activation::ClippedRelu { upper: 0.7 },
        Activation::ThresholdedRelu { threshold: -0.1 },
        Activation::LeakyRelu { slope: 0.1 },
    ];
    for (case, widths) in [
        [1, 1, 1],
        [3, 5, 2],
        [17, 64, 3],
        [64, 65, 17],
        [129, 125, 10],
        [784, 250, 10],
        [12, 20, 3],
    ]
    .into_iter()
    .enumerate()
    {
        let activation = hidden[case % hidden.len()].clone();
        let model = Model {
            gates: vec![None, None],
            ..Model::random(case as u64, &widths, activation, Activation::Identity)
        };
        let quantization = [plain(0.01, 3.25), plain(0.02, if case % 2 == 0 { 0.0 } else { 40.0 })];
        let n = 67;
        let data = Random(case as u64 + 9).rows(n, widths[0]);
        for isa in Isa::available() {
            let network = quantized(&model, isa, &quantization);
            for strategy in [Strategy::Dense, Strategy::Skip] {
                let (expected, out_of_range) =
                    documented(&model, &quantization, &network, &data, all, |_| strategy);
                assert!(out_of_range < n, "some rows are computed in bytes");
                let network = under(&network, &[strategy; 2]);
                for count in [1, 2, 5, 6, 7, 64, n] {
                    let rows = Rows::f32(&data, count, widths[0], widths[0]).unwrap();
                    for threads in [1, 3] {
                        let got = run(&network, rows, threads);
                        if bits(&got) != bits(&expected[..got.len()]) {
                            failures.push(format!(
                                "{widths:?} {} {} {count} rows",
                                isa.name(),
                                strategy.name()
                            ));
                        }
                    }
                }
            }
        }
    }
    none(&failures);
}

/// Weights at and near rounding boundaries, tiny, huge and zero weights are quantised as
/// documented. One input at a time is one, so that the byte of every weight is visible.
#[test]
fn weights_are_rounded_as_documented() {
    type Kind = fn(usize, &mut Random) -> f32;
    let kinds: [Kind; 8] = [
        |i, _| [127.0, -0.5, 1.5, -2.5, 63.5, -126.5][i % 6],
        |i, _| [-127.0, 0.5, 2.5, 3.5][i % 4] * (1.0 + (i % 7) as f32 * f32::EPSILON),
        |i, _| (i % 128) as f32 + 0.499_9 + (i % 5) as f32 * 5e-5,
        |i, _| f32::from_bits(i as u32 % 129),
        |_, random| random.value() * 1e-37,
        |_, random| random.value() * 1e35,
        |_, _| -0.0,
        |_, random| random.value(),
    ];
    let mut failures = Vec::new();
    for inputs in [1, 3, 4, 9, 63, 64, 65, 200] {
        let mut random = Random(inputs as u64);
        let weight = kinds
            .iter()
            .flat_map(|kind| (0..inputs).map(|i| kind(i, &mut random)).collect::<Vec<_>>());
        let bias = vec![0.0; kinds.len()];
        let layer = Layer::new(weight.collect(), bias, inputs, Activation::Identity);
        // The last input has a different scale.
        let apart = (0..inputs).map(|i| if i + 1 < inputs { 1.0 } else { 0.5 }).collect();
        let map = |scale| Some(InputMap::new(vec![scale], vec![0.0]));
        for (map, quantization) in [
            (None, plain(1.0, 0.0)),
            (None, plain(0.037, 0.0)),
            (None, plain(1.0, 7.0)),
            (None, Quantization::new(apart, vec![0.0; inputs])),
            (map(-0.5), plain(1.0, 0.0)),
            (map(1e-30), plain(1.0, 0.0)),
            (map(0.0), plain(1.0, 0.0)),
        ] {
            let model =
                Model { layers: vec![layer.clone()], gates: vec![None], factors: vec![None], map };
            let rows = (0..inputs).flat_map(|one| {
                let quantization = &quantization;
                (0..inputs).map(move |i| if i == one { quantization.scale(i) } else { 0.0 })
            });
            let data: Vec<f32> = rows.collect();
            let quantization = [quantization];
            for isa in Isa::available() {
                let network = quantized(&model, isa, &quantization);
                let (expected, out_of_range) =
                    documented(&model, &quantization, &network, &data, all, |_| Strategy::Dense);
                assert_eq!(out_of_range, 0);
                for strategy in [Strategy::Dense, Strategy::Skip] {
                    let network = under(&network, &[strategy]);
                    let got = run(&network, Rows::f32(&data, inputs, inputs, inputs).unwrap(), 1);
                    if bits(&got) != bits(&expected) {
                        let what = (inputs, &quantization, isa.name(), strategy.name());
                        failures.push(format!("{what:?}"));
                    }
                }
            }
        }
    }
    none(&failures);
}

/// Rows with non-zeros in runs, as in images, or single, or alternating. Whatever the form of their
/// lists, a row has the same bits as alone, in skip and in gates, and as documented.
#[test]
fn runs_and_single_values() {
    let (columns, n) = (203, 71);
    let mut model = Model::relu(21, &[columns, 150, 70, 5]);
    for gate in model.gates.iter_mut().flatten() {
        *gate = gate.clone().with_range(vec![[-3.0, 3.0]; gate.rank()]);
    }
    let quantization = [plain(1.0 / 255.0, 0.0), plain(0.01, 0.0), plain(0.01, 17.0)];
    let mut random = Random(22);
    let runs = |random: &mut Random| {
        let mut row = vec![0.0; columns];
        for _ in 0..6 {
            let start = random.bits() as usize % (columns - 9);
            row[start..start + 9].iter_mut().for_each(|x| *x = random.value().abs() + 0.01);
        }
        row
    };
    let single = |random: &mut Random| {
        let mut row = vec![0.0; columns];
        (0..columns).step_by(16).for_each(|i| row[i] = random.value().abs() + 0.01);
        row
    };
    let kinds: [Vec<f32>; 3] = [
        (0..n).flat_map(|_| runs(&mut random)).collect(),
        (0..n).flat_map(|_| single(&mut random)).collect(),
        (0..n)
            .flat_map(|r| if r % 2 == 0 { runs(&mut random) } else { single(&mut random) })
            .collect(),
    ];
    for (kind, data) in kinds.iter().enumerate() {
        for isa in Isa::available() {
            let network = quantized(&model, isa, &quantization);
            let (expected, out_of_range) =
                documented(&model, &quantization, &network, data, all, |_| Strategy::Skip);
            assert!(out_of_range < n / 2, "{out_of_range} rows");
            for strategy in [Strategy::Skip, Strategy::Gate] {
                let network = under(&network, &[strategy, strategy, Strategy::Skip]);
                let alone: Vec<f32> = data
                    .chunks_exact(columns)
                    .flat_map(|row| run(&network, Rows::f32(row, 1, columns, columns).unwrap(), 1))
                    .collect();
                let what = format!("{kind} {} {}", isa.name(), strategy.name());
                if strategy == Strategy::Skip {
                    assert_eq!(bits(&alone), bits(&expected), "{what}");
                }
                for count in [2, 3, 4, 5, 64, 65, n] {
                    let rows = Rows::f32(data, count, columns, columns).unwrap();
                    let got = run(&network, rows, 1);
                    assert_eq!(bits(&got), bits(&alone[..got.len()]), "{what} {count} rows");
                }
            }
        }
    }
}

/// The largest bytes everywhere: pairs of products do not fit 16 bits and must not be truncated.
#[test]
fn nothing_saturates() {
    for inputs in [2, 4, 64, 1000, 65_536] {
        for sign in [1.0, -1.0] {
            let layer =
                Layer::new(vec![sign; inputs * 17], vec![0.0; 17], inputs, Activation::Identity);
            let data = vec![255.0; 7 * inputs];
            let expected = sign * (255 * 127 * inputs as i64) as f32 * (1.0 / 127.0_f64) as f32;
            for isa in Isa::available() {
                let network = Network::with_isa(vec![layer.clone()], None, isa)
                    .and_then(|network| network.with_quantization(vec![Some(plain(1.0, 0.0))]))
                    .unwrap();
                for strategy in [Strategy::Dense, Strategy::Skip] {
                    let network = under(&network, &[strategy]);
                    let got = run(&network, Rows::f32(&data, 7, inputs, inputs).unwrap(), 1);
                    assert!(got.iter().all(|y| *y == expected), "{} {got:?}", isa.name());
                }
            }
        }
    }
}

/// The last columns of the widest layer: lists store their indices in sixteen bits.
#[test]
fn the_widest_layer() {
    let (inputs, outputs) = (65_536, 2);
    let columns = [0, 1, 32_767, 65_471, 65_472, 65_535];
    let mut weight = vec![0.0; outputs * inputs];
    let mut data = vec![0.0; 3 * inputs];
    for (k, column) in columns.into_iter().enumerate() {
        weight[column] = (k + 1) as f32;
        weight[inputs + column] = 127.0;
        data[(k % 3) * inputs + column] = (k + 3) as f32;
    }
    weight[7] = 127.0;
    let layer = Layer::new(weight, vec![0.0; outputs], inputs, Activation::Identity);
    // Products of column k in row k mod 3: (k + 1) (k + 3), and 127 (k + 3).
    let expected = [3.0 + 24.0, 127.0 * 9.0, 8.0 + 35.0, 127.0 * 11.0, 15.0 + 48.0, 127.0 * 13.0];
    for isa in Isa::available() {
        let network = Network::with_isa(vec![layer.clone()], None, isa)
            .and_then(|network| network.with_quantization(vec![Some(plain(1.0, 0.0))]))
            .unwrap();
        for strategy in [Strategy::Dense, Strategy::Skip] {
            let network = under(&network, &[strategy]);
            for count in [1, 3] {
                let rows = Rows::f32(&data, count, inputs, inputs).unwrap();
                let got = run(&network, rows, 1);
                assert_eq!(got, expected[..2 * count], "{}", isa.name());
            }
        }
    }
}

/// Alternating signs, so that a lost carry between neighbouring bytes would show.
#[test]
fn signs_stay_with_their_bytes() {
    let inputs = 67;
    let mut random = Random(4);
    let signs = |random: &mut Random| if random.value() > 0.0 { 1.0 } else { -1.0 };
    let weight: Vec<f32> = (0..inputs * 33).map(|_| signs(&mut random)).collect();
    let data: Vec<f32> =
        (0..inputs * 9).map(|_| if random.value() > 0.0 { 255.0 } else { 1.0 }).collect();
    let model = Model {
        layers: vec![Layer::new(weight, vec![0.0; 33], inputs, Activation::Identity)],
        gates: vec![None],
        factors: vec![None],
        map: None,
    };
    let expected: Vec<f32> = data
        .chunks_exact(inputs)
        .flat_map(|row| reference(&model, &[plain(1.0, 0.0)], row, all).unwrap())
        .collect();
    for isa in Isa::available() {
        let network = under(&quantized(&model, isa, &[plain(1.0, 0.0)]), &[Strategy::Dense]);
        let got = run(&network, Rows::f32(&data, 9, inputs, inputs).unwrap(), 1);
        assert_eq!(bits(&got), bits(&expected), "{}", isa.name());
    }
}

/// A gate whose scores are far from their thresholds lets the same units through as in f32,
/// computes them as dense does, and gives the same bits everywhere.
#[test]
fn gates() {
    let mut failures = Vec::new();
    for (inputs, units) in [(5, 7), (64, 65), (130, 200)] {
        let mut model = Model::relu(11, &[inputs, units, 3]);
        // Unit o is on if input o mod inputs is on: rank `inputs`, one factor each.
        let rank = inputs.min(units);
        let u = (0..inputs * rank).map(|at| if at / rank == at % rank { 1.0 } else { 0.0 });
        let v =
            (0..rank * units).map(|at| if at / units == (at % units) % rank { 1.0 } else { 0.0 });
        let gate = Gate::new(u.collect(), v.collect(), vec![-0.5; units], rank)
            .with_range(vec![[0.0, 1.0]; rank]);
        model.gates[0] = Some(gate);
        let data: Vec<f32> = Random(12)
            .values(70 * inputs)
            .into_iter()
            .map(|x| if x > 0.3 { 0.8 + 0.2 * x } else { 0.0 })
            .collect();
        let quantization = [plain(1.0 / 255.0, 0.0), plain(0.01, 0.0)];
        let live = |layer: usize, x: &[u8], unit: usize| layer == 1 || x[unit % rank] > 127;
        for isa in Isa::available() {
            let network = quantized(&model, isa, &quantization);
            let (expected, out_of_range) =
                documented(&model, &quantization, &network, &data, live, |i| {
                    if i == 0 { Strategy::Skip } else { Strategy::Dense }
                });
            assert!(out_of_range < 35, "{out_of_range} of 70 rows");
            let network = under(&network, &[Strategy::Gate, Strategy::Dense]);
            for count in [1, 2, 3, 8, 64, 70] {
                let rows = Rows::f32(&data, count, inputs, inputs).unwrap();
                for threads in [1, 3] {
                    let got = run(&network, rows, threads);
                    if bits(&got) != bits(&expected[..got.len()]) {
                        failures.push(format!("{inputs}-{units} {} {count} rows", isa.name()));
                    }
                }
                let profile = network.count(rows, count).unwrap()[0];
                let on = data[..count * inputs]
                    .chunks_exact(inputs)
                    .map(|x| (0..units).filter(|o| x[o % rank] > 0.5).count() as u64)
                    .sum::<u64>();
                assert_eq!(profile.computed, on, "{}", isa.name());
            }
        }
    }
    none(&failures);
}

/// Few rows, whose dense layers are shared unit by unit, before and after layers of every kind.
#[test]
fn threads_that_share_units_do_not_change_bits() {
    use Strategy::{Dense, Skip};
    let quantization = [plain(0.01, 3.25), plain(0.05, 0.0), plain(0.1, 2.0)];
    let data = Random(4).values(30 * 500);
    for hidden in [Activation::Relu, Activation::Tanh] {
        let model = Model::random(8, &[500, 3000, 1010, 10], hidden, Activation::Identity);
        let network = quantized(&model, Isa::best(), &quantization);
        for strategies in [[Dense, Dense, Dense], [Dense, Skip, Dense]] {
            let network = under(&network, &strategies);
            for n in [4, 7, 30] {
                let rows = Rows::f32(&data[..n * 500], n, 500, 500).unwrap();
                common::workers_do_not_change_bits(&network, rows);
            }
        }
    }
}

/// Random gates: the same bits on every instruction set, thread count and number of rows.
#[test]
fn gated_networks_have_the_same_bits_everywhere() {
    let mut model = Model::relu(13, &[100, 150, 90, 7]);
    for gate in model.gates.iter_mut().flatten() {
        *gate = gate.clone().with_range(vec![[-3.0, 3.0]; gate.rank()]);
    }
    let quantization = [plain(0.005, 0.0), plain(0.01, 0.0), plain(0.01, 0.0)];
    let data = Random(14).rows(130, 100);
    let mut first: Option<Vec<u32>> = None;
    for isa in Isa::available() {
        let network = quantized(&model, isa, &quantization);
        let network = under(&network, &[Strategy::Gate, Strategy::Gate, Strategy::Skip]);
        for count in [130, 129, 64, 17, 15, 9, 8, 7, 1] {
            for threads in if count > 64 { 1..=3 } else { 1..=1 } {
                let rows = Rows::f32(&data, count, 100, 100).unwrap();
                let got = bits(&run(&network, rows, threads));
                let all = first.get_or_insert_with(|| got.clone());
                assert_eq!(got, all[..got.len()], "{} {count} rows", isa.name());
            }
        }
    }
}

/// uint8, f32 and CSR rows of the same values, with a map that is folded and one that is not.
#[test]
fn all_kinds_of_rows_agree() {
    let n = 20;
    let mut random = Random(15);
    let bytes: Vec<u8> = (0..n * 30)
        .map(|_| if random.value() > 0.0 { (random.bits() % 256) as u8 } else { 0 })
        .collect();
    let floats: Vec<f32> = bytes.iter().copied().map(f32::from).collect();
    let (mut starts, mut index, mut value) = (vec![0], Vec::new(), Vec::new());
    for row in floats.chunks_exact(30) {
        for (i, x) in row.iter().enumerate().filter(|(_, x)| **x != 0.0) {
            index.push(i as i32);
            value.push(*x);
        }
        starts.push(index.len() as i32);
    }
    let per_input = Quantization::new(vec![1.5; 30], (0..30).map(|i| i as f32).collect());
    for (map, input) in [
        (None, plain(1.0, 0.0)),
        (Some(InputMap::new(vec![1.0 / 255.0], vec![0.1])), plain(1.0, 0.0)),
        (Some(InputMap::new(vec![0.1], vec![-100.0])), plain(2.0, 10.0)),
        (Some(InputMap::new(vec![0.1; 30], vec![0.5; 30])), per_input),
    ] {
        let mut model = Model { map, ..Model::relu(16, &[30, 40, 5]) };
        for gate in model.gates.iter_mut().flatten() {
            *gate = gate.clone().with_range(vec![[-3.0, 3.0]; gate.rank()]);
        }
        let quantization = [input, plain(0.05, 0.0)];
        for isa in Isa::available() {
            let network = quantized(&model, isa, &quantization);
            for strategy in [Strategy::Dense, Strategy::Skip] {
                let (expected, _) =
                    documented(&model, &quantization, &network, &floats, all, |_| strategy);
                let network = under(&network, &[strategy; 2]);
                for rows in [
                    Rows::u8(&bytes, n, 30, 30).unwrap(),
                    Rows::f32(&floats, n, 30, 30).unwrap(),
                    Rows::csr(&starts, &index, &value, 30).unwrap(),
                ] {
                    assert_eq!(bits(&run(&network, rows, 1)), bits(&expected), "{}", isa.name());
                }
            }
            let network = under(&network, &[Strategy::Gate, Strategy::Dense]);
            for count in [n, 7] {
                let first =
                    run(&network, Rows::u8(&bytes[..count * 30], count, 30, 30).unwrap(), 1);
                for rows in [
                    Rows::f32(&floats[..count * 30], count, 30, 30).unwrap(),
                    Rows::csr(&starts[..=count], &index, &value, 30).unwrap(),
                ] {
                    assert_eq!(bits(&run(&network, rows, 1)), bits(&first), "{}", isa.name());
                }
            }
        }
    }
}

/// Layers of both precisions in one network: the outputs are close to the f32 network's.
#[test]
fn precisions_mix() {
    for hidden in [Activation::Relu, Activation::Tanh, Activation::Gelu] {
        let model = Model {
            gates: vec![None; 3],
            ..Model::random(17, &[40, 60, 50, 6], hidden.clone(), Activation::Softmax)
        };
        let quantization =
            [plain(1.0 / 255.0, 0.0), plain(4.0 / 255.0, 64.0), plain(4.0 / 255.0, 64.0)];
        let data = Random(18).rows(30, 40);
        let rows = Rows::f32(&data, 30, 40, 40).unwrap();
        for isa in Isa::available() {
            let network = quantized(&model, isa, &quantization);
            let of = |precisions: [Precision; 3], strategy| {
                let plan = |precision| LayerPlan { strategy, precision };
                let batch_plan = BatchPlan::new(1, precisions.map(plan).to_vec());
                let plan = Plan::new(vec![batch_plan]).unwrap();
                run(&network.with_plan(plan).unwrap(), rows, 1)
            };
            let float = of([Precision::F32; 3], Strategy::Dense);
            for mask in 0..8 {
                let precision = |i| {
                    if mask & (1 << i) == 0 { Precision::F32 } else { Precision::Int8 }
                };
                for strategy in [Strategy::Dense, Strategy::Skip] {
                    let got = of([precision(0), precision(1), precision(2)], strategy);
                    let far =
                        got.iter().zip(&float).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(far < 0.05, "{} {mask} {hidden:?}: {far}", isa.name());
                    assert!(mask == 0 || far > 0.0, "bytes cannot be exact here");
                }
            }
        }
    }
}

/// Row 4 of rows with four outputs each is NaN; the others are unchanged.
fn only_row_4_is_nan(got: &[f32], before: &[f32], what: &str) {
    for (r, (got, was)) in got.chunks(4).zip(before.chunks(4)).enumerate() {
        if r == 4 {
            assert!(got.iter().all(|y| y.is_nan()), "{what}");
        } else {
            assert_eq!(bits(got), bits(was), "{what}");
        }
    }
}

/// A row with a value that is not finite gives NaN. The other rows are the same as without it.
#[test]
fn nan_stays_in_its_row() {
    let mut model = Model::relu(19, &[20, 30, 4]);
    model.gates = vec![
        model.gates[0].clone().map(|gate| {
            let rank = gate.rank();
            gate.with_range(vec![[-2.0, 2.0]; rank])
        }),
        None,
    ];
    let quantization = [plain(0.01, 0.0), plain(0.02, 0.0)];
    let clean = Random(20).rows(9, 20);
    for isa in Isa::available() {
        let network = quantized(&model, isa, &quantization);
        for strategy in common::PLAIN {
            let last = if strategy == Strategy::Gate { Strategy::Skip } else { strategy };
            let network = under(&network, &[strategy, last]);
            let before = run(&network, Rows::f32(&clean, 9, 20, 20).unwrap(), 1);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for column in [0, 15, 16, 19] {
                    let mut data = clean.clone();
                    data[4 * 20 + column] = bad;
                    let got = run(&network, Rows::f32(&data, 9, 20, 20).unwrap(), 1);
                    only_row_4_is_nan(&got, &before, isa.name());
                }
            }
        }
    }
}

/// A row with an input more than one step outside the range of the bytes is computed in f32 with
/// every strategy. An input less far outside is clamped to 0 or 255. Other rows are the same as
/// without it.
#[test]
fn inputs_out_of_range() {
    let mut model = Model::relu(21, &[20, 30, 4]);
    model.gates = vec![
        model.gates[0].clone().map(|gate| {
            let rank = gate.rank();
            gate.with_range(vec![[-2.0, 2.0]; rank])
        }),
        None,
    ];
    let quantization = [plain(0.01, 0.0), plain(0.02, 0.0)];
    let clean = Random(22).rows(9, 20);
    for isa in Isa::available() {
        let network = quantized(&model, isa, &quantization);
        for strategy in common::PLAIN {
            let gated = strategy == Strategy::Gate;
            let last = if gated { Strategy::Skip } else { strategy };
            let int8 = under(&network, &[strategy, last]);
            let first = if gated { Strategy::Skip } else { strategy };
            let float = network.with_plan(Plan::from_strategies(&[first, last])).unwrap();
            let before = run(&int8, Rows::f32(&clean, 9, 20, 20).unwrap(), 1);
            for (value, far) in [
                (2.558, false),
                (2.57, true),
                (-0.009, false),
                (-0.011, true),
                (1e30, true),
                (f32::MIN, true),
            ] {
                for column in [0, 15, 16, 19] {
                    let mut data = clean.clone();
                    data[4 * 20 + column] = value;
                    let mut row = data[80..100].to_vec();
                    if !far {
                        row[column] = if value > 0.0 { 2.55 } else { 0.0 };
                    }
                    let row = Rows::f32(&row, 1, 20, 20).unwrap();
                    let alone = run(if far { &float } else { &int8 }, row, 1);
                    let mut expected = before.clone();
                    expected[16..20].copy_from_slice(&alone);
                    for threads in [1, 2] {
                        let got = run(&int8, Rows::f32(&data, 9, 20, 20).unwrap(), threads);
                        let what = format!("{} {} {value}", isa.name(), strategy.name());
                        assert_eq!(bits(&got), bits(&expected), "{what}");
                    }
                }
            }
        }
    }
}

/// Rows that are out of range are gathered from all tiles and all threads of a call, and may be
/// more than are recomputed together. Each gives the same result as alone.
#[test]
fn many_inputs_out_of_range() {
    let mut most_workers = 0;
    for (strategy, inputs, n, stride) in [
        (Strategy::Dense, 20, 13_000, 20),
        (Strategy::Gate, 20, 14_000, 27),
        (Strategy::Skip, 3000, 900, 3001),
    ] {
        let mut model = Model::relu(21, &[inputs, 300, 4]);
        for gate in model.gates.iter_mut().flatten() {
            *gate = gate.clone().with_range(vec![[-2.0, 2.0]; gate.rank()]);
        }
        let mut data = Random(22).rows(n, stride);
        for rows in data.chunks_exact_mut(3 * stride) {
            rows[7] = 5.0;
            rows[stride + inputs - 1] = -3.0;
        }
        for isa in Isa::available() {
            let network = quantized(&model, isa, &[plain(0.01, 0.0), plain(0.02, 0.0)]);
            let int8 = under(&network, &[strategy, Strategy::Dense]);
            let alone = |row: &[f32]| run(&int8, Rows::f32(row, 1, inputs, inputs).unwrap(), 1);
            let expected: Vec<f32> =
                data.chunks_exact(stride).flat_map(|r| alone(&r[..inputs])).collect();
            let rows = Rows::f32(&data, n, inputs, stride).unwrap();
            for threads in [1, 2, 3] {
                let got = run(&int8, rows, threads);
                let what = format!("{} {} {threads} threads", isa.name(), strategy.name());
                assert!(bits(&got) == bits(&expected), "{what}");
                most_workers = most_workers.max(common::workers());
            }
        }
    }
    assert!(most_workers >= 2, "there were at most {most_workers} workers");
}

/// Hidden layers may have a scale per input, and rows with an output outside the range of the bytes
/// are computed in f32, for all strategies, precisions of the previous layer, activations and
/// numbers of threads.
#[test]
fn hidden_layers_have_scales_and_ranges() {
    let (widths, n) = ([20, 130, 70, 4], 150);
    let mut failures = Vec::new();
    for (case, activation) in [
        Activation::Relu,
        Activation::ClippedRelu { upper: 3.0 },
        Activation::LeakyRelu { slope: 0.3 },
        Activation::Tanh,
        Activation::SquaredRelu,
        Activation::Prelu { slope: [0.3, 0.2].into() },
        Activation::HardSwish,
    ]
    .into_iter()
    .enumerate()
    {
        let last = Activation::Identity;
        let mut model = Model::random(31 + case as u64, &widths, activation.clone(), last);
        for gate in model.gates.iter_mut().flatten() {
            *gate = gate.clone().with_range(vec![[-2.0, 2.0]; gate.rank()]);
        }
        let data = Random(33).rows(n, widths[0]);
        let signed = matches!(
            activation,
            Activation::LeakyRelu { .. }
                | Activation::Prelu { .. }
                | Activation::HardSwish
                | Activation::Tanh
        );
        let offset = if signed { 128.0 } else { 0.0 };
        let isa = Isa::best();
        let float = Network::with_isa(model.layers.clone(), None, isa).unwrap();
        let inputs = float.layer_inputs(Rows::f32(&data, n, 20, 20).unwrap()).unwrap();
        // Ranges that contain most rows, but not all.
        let ranges = |layer: usize| {
            let width = model.layers[layer].inputs();
            let most = |i: usize| {
                let mut all: Vec<f32> =
                    inputs[layer].chunks_exact(width).map(|row| row[i].abs()).collect();
                all.sort_by(f32::total_cmp);
                all[n - 1 - usize::from(i % 50 == 3)]
            };
            let scale = |i| (most(i) * 1.02).max(1e-3) / if signed { 127.0 } else { 255.0 };
            Quantization::new((0..width).map(scale).collect(), vec![offset])
        };
        let quantization = [plain(0.02, 128.0), ranges(1), ranges(2)];
        for isa in Isa::available() {
            let network = quantized(&model, isa, &quantization);
            for strategy in [Strategy::Dense, Strategy::Skip] {
                let (expected, out_of_range) =
                    documented(&model, &quantization, &network, &data, all, |_| strategy);
                assert!((1..n / 2).contains(&out_of_range), "{activation:?}: {out_of_range} rows");
                let int8 = under(&network, &[strategy; 3]);
                if activation == Activation::Tanh {
                    // Not bit by bit the reference: recomputed rows are compared with rows computed
                    // alone.
                    let float = network.with_plan(Plan::uniform(strategy, 3)).unwrap();
                    let rows = Rows::f32(&data, n, 20, 20).unwrap();
                    let (got, float) = (run(&int8, rows, 2), run(&float, rows, 2));
                    for (r, mark) in int8.recomputed(rows).unwrap().into_iter().enumerate() {
                        let row = r * 4..r * 4 + 4;
                        if mark && bits(&got[row.clone()]) != bits(&float[row]) {
                            failures.push(format!("{activation:?} {} row {r}", isa.name()));
                        }
                    }
                    continue;
                }
                for threads in [1, 2] {
                    for count in [1, 9, 64, n] {
                        let rows = Rows::f32(&data, count, 20, 20).unwrap();
                        if bits(&run(&int8, rows, threads)) != bits(&expected[..count * 4]) {
                            failures.push(format!("{activation:?} {} {count}", isa.name()));
                        }
                    }
                }
                let rows = Rows::f32(&data, n, 20, 20).unwrap();
                let marks = int8.recomputed(rows).unwrap();
                assert_eq!(marks.iter().filter(|mark| **mark).count(), out_of_range);
            }
            far_row(&network, &activation, &data[20..40]);
        }
    }
    none(&failures);
}

/// A row one hundred times as large as the others: an f32 first layer has outputs outside the range
/// of the second layer's bytes.
fn far_row(network: &Network, activation: &Activation, row: &[f32]) {
    let far: Vec<f32> = row.iter().map(|x| x * 100.0).collect();
    let mut strategies = vec![[Strategy::Dense; 3], [Strategy::Skip; 3]];
    if activation.has_hard_zero() {
        strategies.push([Strategy::Gate, Strategy::Skip, Strategy::Dense]);
    }
    for strategies in strategies {
        let batch_plan = |first| {
            let plan = |(i, &strategy)| {
                let precision = if i == 0 { first } else { Precision::Int8 };
                LayerPlan { strategy, precision }
            };
            let layers = strategies.iter().enumerate().map(plan).collect();
            BatchPlan::new(1, layers)
        };
        for first in [Precision::F32, Precision::Int8] {
            let int8 = network.with_plan(Plan::new(vec![batch_plan(first)]).unwrap()).unwrap();
            let rows = Rows::f32(&far, 1, 20, 20).unwrap();
            let fallback = network
                .with_plan(Plan::from_strategies(&strategies.map(|s| match s {
                    Strategy::Gate => Strategy::Skip,
                    s => s,
                })))
                .unwrap();
            if *activation == Activation::Tanh && first == Precision::F32 {
                continue; // saturated values have bytes
            }
            let marks = int8.recomputed(rows).unwrap();
            if strategies[0] == Strategy::Gate && first == Precision::F32 && !marks[0] {
                continue; // no live unit is out of range
            }
            assert_eq!(marks, [true], "{activation:?} {strategies:?} {first:?}");
            assert_eq!(bits(&run(&int8, rows, 1)), bits(&run(&fallback, rows, 1)));
        }
    }
}

/// Bytes cannot represent NaN. NaN must reach the output even if only a later layer is int8.
#[test]
fn nan_passes_f32_layers_before_int8_ones() {
    let model = Model { gates: vec![None, None], ..Model::relu(21, &[20, 30, 4]) };
    let clean = Random(22).rows(9, 20);
    for isa in Isa::available() {
        let network = quantized(&model, isa, &[plain(0.01, 0.0), plain(0.02, 0.0)]);
        for strategy in [Strategy::Dense, Strategy::Skip] {
            let plan = |precision| LayerPlan { strategy, precision };
            let layers = vec![plan(Precision::F32), plan(Precision::Int8)];
            let plan = Plan::new(vec![BatchPlan::new(1, layers)]).unwrap();
            let network = network.with_plan(plan).unwrap();
            let before = run(&network, Rows::f32(&clean, 9, 20, 20).unwrap(), 1);
            let mut data = clean.clone();
            data[4 * 20 + 3] = f32::NAN;
            let got = run(&network, Rows::f32(&data, 9, 20, 20).unwrap(), 1);
            only_row_4_is_nan(&got, &before, isa.name());
        }
    }
}

/// A finite row whose sums overflow in an f32 layer, to infinity or NaN, gets the outputs of the
/// f32 plan.
#[test]
fn sums_that_overflow_before_an_int8_layer() {
    for units in [1, 16, 40, 64, 70] {
        let mut model = Model { gates: vec![None, None], ..Model::relu(24, &[2, units, 4]) };
        let mut weight = Random(25).rows(units, 2);
        weight[2 * (units - 1)..].copy_from_slice(&[3e38, -3e38]);
        let bias = vec![0.0; units];
        model.layers[0] = Layer::new(weight, bias, 2, Activation::Relu);
        let mut data = Random(26).rows(9, 2);
        data[8..10].copy_from_slice(&[10.0, 10.0]);
        data.iter_mut().enumerate().filter(|(i, _)| i / 2 != 4).for_each(|(_, x)| *x *= 1e-38);
        for isa in Isa::available() {
            let network = quantized(&model, isa, &[plain(1.0, 0.0), plain(1.0, 0.0)]);
            for strategy in [Strategy::Dense, Strategy::Skip] {
                let plan = |precision| LayerPlan { strategy, precision };
                let layers = vec![plan(Precision::F32), plan(Precision::Int8)];
                let plan = Plan::new(vec![BatchPlan::new(1, layers)]).unwrap();
                let int8 = network.with_plan(plan).unwrap();
                let float = network.with_plan(Plan::from_strategies(&[strategy; 2])).unwrap();
                let rows = Rows::f32(&data, 9, 2, 2).unwrap();
                let (got, expected) = (run(&int8, rows, 1), run(&float, rows, 1));
                let what = format!("{} {strategy:?} {units}", isa.name());
                assert_eq!(bits(&got[16..20]), bits(&expected[16..20]), "{what}");
                for (i, row) in got.chunks_exact(4).enumerate() {
                    assert_eq!(row.iter().any(|y| !y.is_finite()), i == 4, "{what}, row {i}");
                }
            }
        }
    }
}

/// A gate without a range cannot run in int8, so measurements do not try it there.
#[test]
fn a_gate_without_a_range_is_not_tried_in_int8() {
    let model = Model::relu(23, &[20, 30, 4]);
    let network = quantized(&model, Isa::available()[0], &[plain(0.01, 0.0), plain(0.02, 0.0)]);
    let int8 = under(&network, &[Strategy::Skip; 2]);
    let layers = vec![
        LayerPlan { strategy: Strategy::Gate, precision: Precision::F32 },
        LayerPlan { strategy: Strategy::Skip, precision: Precision::Int8 },
    ];
    let f32 = BatchPlan::new(1, layers);
    let other = BatchPlan { rows: 64, ..int8.plan().batch_plans()[0].clone() };
    let mixed = int8.with_plan(Plan::new(vec![f32, other]).unwrap()).unwrap();
    let data = Random(24).rows(9, 20);
    let rows = Rows::f32(&data, 9, 20, 20).unwrap();
    let time = std::time::Duration::from_millis(1);
    for network in [
        int8.tune(rows, &[1], std::time::Duration::ZERO, 1).unwrap(),
        mixed.retune(rows, 100 * time).unwrap(),
    ] {
        for batch_plan in network.plan().batch_plans() {
            assert!(batch_plan.layers.iter().all(|layer| {
                layer.precision == Precision::F32 || layer.strategy != Strategy::Gate
            }));
        }
    }
}

#[test]
fn refusals() {
    let network = Network::with_isa(
        vec![
            Layer::new(vec![1.0; 6], vec![0.0; 3], 2, Activation::Relu),
            Layer::new(vec![1.0; 3], vec![0.0], 3, Activation::Identity),
        ],
        None,
        Isa::best(),
    )
    .unwrap();
    let refused = |first: Quantization, second: Quantization, message: &str| {
        let error = network.with_quantization(vec![Some(first), Some(second)]).err().unwrap();
        assert_eq!(error.to_string(), message);
    };
    let good = || plain(1.0, 0.0);
    refused(
        plain(0.0, 0.0),
        good(),
        "the scale of the quantization of layer 0 must be above 0, got 0",
    );
    refused(
        good(),
        plain(-1.0, 0.0),
        "the scale of the quantization of layer 1 must be above 0, got -1",
    );
    let error = network.with_quantization(vec![None]).err().unwrap();
    assert_eq!(error.to_string(), "quantizations must have 2 entries, got 1 entries");
    for bad in [
        Quantization::new(vec![f32::NAN], vec![0.0]),
        Quantization::new(vec![1.0], vec![f32::INFINITY]),
        Quantization::new(vec![1.0; 3], vec![0.0]),
        Quantization::new(vec![], vec![0.0]),
        Quantization::new(vec![1e-45], vec![0.0]),
        Quantization::new(vec![1.0], vec![3e38]),
        Quantization::new(vec![1.0], vec![-3e38]),
    ] {
        assert!(network.with_quantization(vec![Some(bad), None]).is_err());
    }
    let heavy = Layer::new(vec![0.0, -1e3], vec![0.0], 2, Activation::Identity);
    let heavy = Network::with_isa(vec![heavy], None, Isa::best()).unwrap();
    // With one factor, and with terms per input.
    for offset in [0.0, 1.0] {
        let error = heavy.with_quantization(vec![Some(plain(3e38, offset))]).err().unwrap();
        assert_eq!(
            error.to_string(),
            "the scale of the quantization of layer 0 must be small enough that the weight of layer \
             0 times it is finite, got a product of inf"
        );
    }
    let second = |scales, offsets| {
        let quantization = Quantization::new(vec![1.0; scales], vec![0.0; offsets]);
        network.with_quantization(vec![None, Some(quantization)])
    };
    assert!(second(3, 1).is_ok(), "hidden layers may have a scale for each input");
    assert!(second(2, 1).is_err());
    assert!(second(1, 3).is_err(), "offsets of inputs are for the first layer");
    let half = network.with_quantization(vec![Some(good()), None]).unwrap();
    let precisions: Vec<_> =
        half.plan().batch_plans()[0].layers.iter().map(|layer| layer.precision.name()).collect();
    assert_eq!(precisions, ["int8", "f32"]);
    assert!(half.quantization(0).is_some() && half.quantization(1).is_none());
    let plan = |strategy, precision| LayerPlan { strategy, precision };
    let wrong = BatchPlan::new(1, vec![plan(Strategy::Dense, Precision::Int8); 2]);
    let error = half.with_plan(Plan::new(vec![wrong]).unwrap()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "the plan of layer 1 needs a quantization, which the layer does not have"
    );
}
