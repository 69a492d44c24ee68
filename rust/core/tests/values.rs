//! Values at and beyond the limits of f32: NaN, infinities, denormals, negative zero, and layers
//! with all units off or on.

mod common;

use std::ptr;
use std::sync::Arc;

use common::{Model, Random, WIDTHS, bits, differences, forward, none};
use lrgate::{
    Activation, BatchPlan, Gate, InputMap, Isa, Layer, LayerPlan, Network, Plan, Precision,
    Quantization, Rows, Strategy, Weights,
};

const ROWS: [usize; 5] = [1, 3, 8, 64, 65];

fn each(model: &Model, mut test: impl FnMut(&Network, &str)) {
    for strategy in Strategy::ALL {
        for isa in Isa::available() {
            let network = model.network(isa, &model.uniform(strategy));
            test(&network, &format!("{} {}", strategy.name(), isa.name()));
        }
    }
}

/// Every output of a row with NaN is NaN (all weights are non-zero), and no bit of another row
/// changes.
#[test]
fn nan_stays_in_its_row() {
    let activations = [
        Activation::Relu,
        Activation::ClippedRelu { upper: 1.0 },
        Activation::ThresholdedRelu { threshold: 0.5 },
        Activation::SquaredRelu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Prelu { slope: [0.1, 0.2].into() },
        Activation::HardTanh { lower: -1.0, upper: 1.0 },
        Activation::HardSigmoid,
        Activation::HardSwish,
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::Mish,
        Activation::Softplus,
        Activation::Exp,
        Activation::Elu { alpha: 0.5 },
        Activation::Selu,
        Activation::Softmax,
        Activation::LogSoftmax,
    ];
    let mut failures = Vec::new();
    for hidden in activations {
        for last in [Activation::Identity, Activation::Softmax, Activation::Relu] {
            let what_hidden = format!("{hidden:?} {last:?}");
            let model = Model::random(1, &[33, 80, 17, 5], hidden.clone(), last);
            each(&model, |network, what| {
                for n in ROWS {
                    let clean = Random(2).rows(n, 33);
                    let expected = forward(network, &clean, n);
                    for (row, column) in [(0, 32), (n / 2, 0), (n - 1, 16)] {
                        let mut data = clean.clone();
                        data[row * 33 + column] = f32::NAN;
                        let got = forward(network, &data, n);
                        for r in 0..n {
                            let [a, b] = [&expected, &got].map(|y| &y[r * 5..][..5]);
                            let good = if r == row {
                                b.iter().all(|y| y.is_nan())
                            } else {
                                bits(a) == bits(b)
                            };
                            if !good {
                                failures.push(format!(
                                    "{what} {what_hidden} row {r} of {n}, NaN in {row}: {b:?}"
                                ));
                            }
                        }
                    }
                }
            });
        }
    }
    none(&failures);
}

/// A gate that lets nothing through must not hide NaN or an infinity.
#[test]
fn nan_and_infinity_pass_a_closed_gate() {
    for (inputs, units) in [(1, 1), (17, 65), (80, 16)] {
        let mut model = Model::relu(3, &[inputs, units, 2]);
        let bias = vec![-1.0; units];
        model.gates[0] = Some(Gate::new(vec![1.0; inputs], vec![0.0; units], bias, 1));
        for isa in Isa::available() {
            let network = model.network(isa, &model.uniform(Strategy::Gate));
            for n in ROWS {
                let mut data = Random(4).values(n * inputs);
                let closed = forward(&network, &data, n);
                let bias = model.layers[1].bias();
                assert!(closed.chunks_exact(2).all(|y| y == bias), "{}: {closed:?}", isa.name());
                data[(n - 1) * inputs] = f32::NAN;
                let got = forward(&network, &data, n);
                assert!(got[n * 2 - 2..].iter().all(|y| y.is_nan()), "{} {got:?}", isa.name());
                assert_eq!(bits(&got[..n * 2 - 2]), bits(&closed[..n * 2 - 2]));
            }
        }
    }
}

/// An estimate that overflows carries no information: all units of such a row are computed.
#[test]
fn a_gate_that_overflows_computes_everything() {
    let mut model = Model::relu(11, &[3, 20, 2]);
    model.map = Some(InputMap::new(vec![1e10], vec![0.0]));
    model.gates[0] = Some(Gate::new(vec![1e30; 3], vec![0.0; 20], vec![-1.0; 20], 1));
    let dense = model.uniform(Strategy::Dense);
    let mut failures = Vec::new();
    for isa in Isa::available() {
        for n in ROWS {
            let data: Vec<f32> = Random(12).values(n * 3);
            let oracle: Vec<_> =
                data.chunks_exact(3).map(|row| model.oracle(&dense, row).pop().unwrap()).collect();
            let got = forward(&model.network(isa, &model.uniform(Strategy::Gate)), &data, n);
            failures.extend(differences(isa.name(), &oracle, &got));
        }
    }
    none(&failures);
}

/// `relu(inf)` is inf, `relu(-inf)` is 0, and inf times a zero weight is NaN, as IEEE 754 says.
#[test]
fn infinities_follow_ieee() {
    let weight = vec![1.0, -1.0, -1.0, 1.0, 0.0, 2.0];
    let hidden = Layer::new(weight, vec![0.5, 0.25, 0.0], 2, Activation::Relu);
    let last = Layer::new(vec![1.0; 3], vec![0.0], 3, Activation::Identity);
    let gate = Gate::new(vec![1.0, 1.0], vec![0.0; 3], vec![1.0; 3], 1);
    let model = Model {
        layers: vec![hidden, last],
        gates: vec![Some(gate), None],
        factors: vec![None; 2],
        map: None,
    };
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for (row, expected) in [
        ([1.0, inf], [0.0, inf, inf]),
        ([1.0, -inf], [inf, 0.0, 0.0]),
        ([inf, 1.0], [inf, 0.0, nan]),
        ([inf, inf], [nan, nan, nan]),
    ] {
        each(&model, |network, what| {
            for n in ROWS {
                let data = row.repeat(n);
                let rows = Rows::f32(&data, n, 2, 2).unwrap();
                let got = network.layer_inputs(rows).unwrap().pop().unwrap();
                assert!(same(&got, &expected.repeat(n)), "{what} {row:?}: {got:?}");
            }
        });
    }
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
}

/// Rows with infinities give the same results with skip and gate as with dense.
#[test]
fn strategies_agree_on_infinities() {
    let mut failures = Vec::new();
    for width in WIDTHS {
        let mut model = Model::relu(6, &[width, 40, 3]);
        model.gates[0] = Some(Gate::new(vec![1.0; width], vec![0.0; 40], vec![1.0; 40], 1));
        for isa in Isa::available() {
            for infinity in [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN] {
                for n in ROWS {
                    let mut data = Random(7).rows(n, width);
                    data[n * width - 1] = infinity;
                    data[0] = infinity;
                    let hidden = |strategy| {
                        let network = model.network(isa, &model.uniform(strategy));
                        let rows = Rows::f32(&data, n, width, width).unwrap();
                        network.layer_inputs(rows).unwrap().pop().unwrap()
                    };
                    let dense = hidden(Strategy::Dense);
                    for strategy in [Strategy::Skip, Strategy::Gate] {
                        let got = hidden(strategy);
                        let close = |(a, b): (&f32, &f32)| {
                            a == b
                                || (a.is_nan() && b.is_nan())
                                || (a - b).abs() <= 1e-4 * (1.0 + a.abs())
                        };
                        if !dense.iter().zip(&got).all(close) {
                            let name = strategy.name();
                            failures.push(format!("{name} {} {width} {n} {infinity}", isa.name()));
                        }
                    }
                }
            }
        }
    }
    none(&failures);
}

/// Denormals are neither flushed to zero nor skipped.
#[test]
fn denormals_survive() {
    let tiny = 1e-40_f32;
    for width in [1, 16, 17, 80] {
        let mut weight = vec![0.0; width * width];
        (0..width).for_each(|i| weight[i * width + i] = 2.0);
        let identity = |activation| Layer::new(weight.clone(), vec![0.0; width], width, activation);
        let layers = vec![identity(Activation::Relu), identity(Activation::Identity)];
        let gate = Gate::new(vec![1.0; width], vec![0.0; width], vec![tiny; width], 1);
        let model =
            Model { layers, gates: vec![Some(gate), None], factors: vec![None; 2], map: None };
        each(&model, |network, what| {
            for n in [1, 9] {
                let data = vec![tiny; n * width];
                let got = forward(network, &data, n);
                assert!(got.iter().all(|y| *y == 4.0 * tiny), "{what} {width}: {got:?}");
            }
        });
    }
}

#[test]
fn negative_zero_is_zero() {
    let model = Model::relu(8, &[65, 33, 7]);
    each(&model, |network, what| {
        for n in ROWS {
            let [plus, minus] = [0.0, -0.0].map(|x| forward(network, &vec![x; n * 65], n));
            assert_eq!(plus, minus, "{what}");
            assert!(plus.iter().any(|y| *y != 0.0));
        }
    });
}

/// With all hidden units off, the outputs equal the last bias. With all on, they equal the
/// oracle's.
#[test]
fn all_units_dead_and_all_alive() {
    let mut failures = Vec::new();
    for width in WIDTHS {
        for (bias, alive) in [(-1e4, false), (1e4, true)] {
            let mut model = Model::relu(9, &[width, width, 4]);
            // All strategies have the same outputs.
            model.factors = vec![None; 2];
            let weight = model.layers[0].weight().to_vec();
            model.layers[0] = Layer::new(weight, vec![bias; width], width, Activation::Relu);
            model.gates[0] =
                Some(Gate::new(vec![0.0; width], vec![0.0; width], vec![bias; width], 1));
            let strategies = model.uniform(Strategy::Gate);
            let data = Random(10).values(65 * width);
            let rows = data.chunks_exact(width);
            let oracle: Vec<_> =
                rows.map(|row| model.oracle(&strategies, row).pop().unwrap()).collect();
            each(&model, |network, what| {
                for n in ROWS {
                    let got = forward(network, &data[..n * width], n);
                    failures.extend(differences(what, &oracle[..n], &got));
                    let silent = got.chunks_exact(4).all(|y| y == model.layers[1].bias());
                    if silent == alive {
                        failures.push(format!("{what} {width}: alive {alive}, {got:?}"));
                    }
                }
            });
        }
    }
    none(&failures);
}

#[test]
fn weights_stay_where_they_are() {
    let model = Model::relu(9, &[70, 90, 3]);
    let shared = |layer: &Layer| -> Weights { Arc::new(layer.weight().to_vec()) };
    let weights: Vec<_> = model.layers.iter().map(shared).collect();
    let layers = model.layers.iter().zip(&weights).map(|(layer, weight)| {
        let bias = layer.bias().to_vec();
        Layer::from_shared(weight.clone(), bias, layer.inputs(), layer.activation().clone())
    });
    let layers: Vec<_> = layers.collect();
    let kept = some(90, 61);
    let picked = vec![
        layers[0].clone().pick(Some(&kept), None).unwrap(),
        layers[1].clone().pick(None, Some(&kept)).unwrap(),
    ];
    let network = Network::new(layers, None).unwrap();
    network.pack();
    for (layer, weight) in network.layers().zip(&weights) {
        assert!(ptr::eq(&raw const *layer.weight(), (**weight).as_ref()));
    }
    let debug = format!("{:?}", network.layers().next().unwrap());
    assert!(debug.starts_with("Layer { weight: ["), "{debug}");
    drop((network, model));
    // Also with picked units.
    let network = Network::new(picked, None).unwrap();
    assert!(network.nbytes() >= 4 * (70 + 3) * 90, "weights that are not picked are kept");
    network.pack();
    assert!(weights.iter().all(|weight| Arc::strong_count(weight) == 2));
    drop(network);
    assert!(weights.iter().all(|weight| Arc::strong_count(weight) == 1));
}

/// `count` of the numbers below `n`, permuted.
fn some(n: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 29 + 11) % n) as u32).collect()
}

/// A layer whose weights and bias are a copy of the picked ones.
fn copied(layer: &Layer, units: Option<&[u32]>, inputs: Option<&[u32]>) -> Layer {
    let all = |n: usize| (0..n as u32).collect::<Vec<_>>();
    let units = units.map_or_else(|| all(layer.outputs()), <[u32]>::to_vec);
    let inputs = inputs.map_or_else(|| all(layer.inputs()), <[u32]>::to_vec);
    let (weight, width) = (layer.weight(), layer.inputs());
    let of = |unit: &u32| -> Vec<f32> {
        inputs.iter().map(|input| weight[*unit as usize * width + *input as usize]).collect()
    };
    let bias = units.iter().map(|unit| layer.bias()[*unit as usize]).collect();
    Layer::new(units.iter().flat_map(of).collect(), bias, inputs.len(), layer.activation().clone())
}

/// In f32 and in int8; int8 weights are made with one factor, and with terms per input.
#[test]
fn picked_units_are_those_of_a_copy() {
    let full = Model::relu(12, &[70, 90, 77, 5]);
    for (raw, first, second) in [(70, 90, 77), (70, 66, 41), (33, 66, 77), (1, 1, 1)] {
        let inputs = (raw < 70).then(|| some(70, raw));
        let kept = [inputs, Some(some(90, first)), Some(some(77, second)), None];
        let pick = |(i, layer): (usize, &Layer)| {
            let (inputs, units) = (kept[i].as_deref(), kept[i + 1].as_deref());
            // Values that are not picked are much larger and must have no effect.
            let mut weight = layer.weight().to_vec();
            for (at, weight) in weight.iter_mut().enumerate() {
                let input = (at % layer.inputs()) as u32;
                if inputs.is_some_and(|inputs| !inputs.contains(&input)) {
                    *weight *= 1e38;
                }
            }
            let bias = layer.bias().to_vec();
            let layer = &Layer::new(weight, bias, layer.inputs(), layer.activation().clone());
            let picked = layer.clone().pick(units, inputs).unwrap();
            let copy = copied(layer, units, inputs);
            assert_eq!((picked.outputs(), picked.inputs()), (copy.outputs(), copy.inputs()));
            assert_eq!(picked.weight(), copy.weight());
            [picked, copy]
        };
        let layers: Vec<_> = full.layers.iter().enumerate().map(pick).collect();
        let gate = |gate: Gate| {
            let range = vec![[-9.0, 9.0]; gate.rank()];
            gate.with_range(range)
        };
        let gates = Model::relu(13, &[raw, first, second, 5]).gates.into_iter();
        let gates: Vec<_> = gates.map(|each| each.map(gate)).collect();
        let data = Random(14).rows(67, raw);
        // One scale and shift for all inputs, or one per input.
        for (each, shift) in [(false, 0.0), (false, 0.25), (true, 0.25)] {
            let per_input = |value: f32| {
                let step = if each { 0.125 } else { 0.0 };
                let count = if each { raw } else { 1 };
                (0..count).map(|i| value * (1.0 + step * (i % 5) as f32)).collect::<Vec<_>>()
            };
            let offset = 12.0 * shift;
            let raw_bytes = Quantization::new(per_input(0.01), per_input(offset));
            let hidden = |scale| Some(Quantization::new(vec![scale], vec![offset]));
            let quantization = vec![Some(raw_bytes), hidden(0.03), hidden(0.04)];
            let [picked, copy] = [0, 1].map(|which| Model {
                layers: layers.iter().map(|pair| pair[which].clone()).collect(),
                gates: gates.clone(),
                factors: vec![None; 3],
                map: Some(InputMap::new(per_input(0.5), per_input(shift))),
            });
            for isa in Isa::available() {
                let networks = [&picked, &copy].map(|model| {
                    Network::with_isa(model.layers.clone(), model.map.clone(), isa)
                        .and_then(|network| network.with_gates(model.gates.clone()))
                        .and_then(|network| network.with_quantization(quantization.clone()))
                        .unwrap()
                });
                for strategy in common::PLAIN {
                    for precision in [Precision::F32, Precision::Int8] {
                        let plan = |strategy| LayerPlan { strategy, precision };
                        let layers = picked.uniform(strategy).into_iter().map(plan).collect();
                        let plan = Plan::new(vec![BatchPlan::new(1, layers)]).unwrap();
                        let [got, expected] = networks.each_ref().map(|network| {
                            let network = network.with_plan(plan.clone()).unwrap();
                            [1, 67].map(|n| bits(&forward(&network, &data[..n * raw], n)))
                        });
                        let what = (raw, first, each, shift, isa.name(), strategy.name());
                        assert_eq!(got, expected, "{what:?} {}", precision.name());
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_picked_twice_is_picked_of_the_first() {
    let layer = &Model::relu(15, &[40, 30]).layers[0];
    let (units, inputs) = (some(30, 20), some(40, 33));
    let once = layer.clone().pick(Some(&units), None).unwrap();
    assert_eq!((once.outputs(), once.inputs()), (20, 40));
    let twice = once.pick(Some(&[7, 19, 0]), Some(&inputs)).unwrap();
    let [first, second, third] = [7, 19, 0].map(|unit: usize| units[unit]);
    let copy = copied(layer, Some(&[first, second, third]), Some(&inputs));
    assert_eq!((twice.weight(), twice.bias()), (copy.weight(), copy.bias()));
}

#[test]
fn what_is_not_there_cannot_be_picked() {
    let layer = &Model::relu(16, &[4, 3]).layers[0];
    let refused = |units: Option<&[u32]>, inputs: Option<&[u32]>| {
        layer.clone().pick(units, inputs).unwrap_err().to_string()
    };
    assert_eq!(refused(Some(&[0, 3]), None), "units must be below 3, got 3");
    assert_eq!(refused(None, Some(&[4])), "inputs must be below 4, got 4");
    assert_eq!(refused(Some(&[1, 2, 1]), None), "units must be distinct, got 1 twice");
    // Sizes that do not fit in memory, without weights.
    let wide = Layer::new(vec![], vec![], usize::MAX, Activation::Relu);
    let wide = wide.pick(None, Some(&[7])).unwrap();
    assert_eq!((wide.outputs(), wide.inputs(), wide.weight().len()), (0, 1, 0));
    let short = Layer::new(vec![1.0; 5], vec![0.0; 2], 3, Activation::Relu);
    let error = short.pick(Some(&[1]), None).unwrap_err().to_string();
    assert_eq!(error, "the weight must have 2 x 3 values, got 5 values");
    let none = layer.clone().pick(Some(&[]), None).unwrap();
    let error = Network::new(vec![none], None).err().unwrap().to_string();
    assert_eq!(error, "layer 0 must have from 1 to 2147483647 units, got 0");
    // Also for weights that are not used.
    let mut weight = layer.weight().to_vec();
    weight[2 * 4 + 1] = f32::NAN;
    let spoilt = Layer::new(weight, layer.bias().to_vec(), 4, layer.activation().clone());
    let spoilt = spoilt.pick(Some(&[1, 0]), Some(&[3, 2])).unwrap();
    let error = Network::new(vec![spoilt], None).err().unwrap().to_string();
    assert_eq!(error, "the weight of layer 0 must be finite, got NaN at row 2, column 1");
}
