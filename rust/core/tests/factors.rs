//! Layers that are computed by their factors. The f32 kernels are compared with the oracle in
//! `oracle.rs`, `exact.rs` and `values.rs`, with all strategies.

mod common;

use std::time::Duration;

use common::{LowRank, Model, Random, bits, run};
use lrgate::{
    Activation, BatchPlan, Factor, Isa, Layer, LayerPlan, Network, Plan, Precision, Quantization,
    Rows, Strategy,
};

const WIDTHS: [usize; 4] = [70, 90, 50, 4];

fn factor(skip: bool, gate: bool) -> Strategy {
    Strategy::Factor { skip, gate }
}

/// The quantisation of a layer's sums, with the same offset for all or one per sum.
fn of_sums(rank: usize, each: bool) -> Quantization {
    let scale = (0..rank).map(|k| 0.013 + 0.001 * (k % 5) as f32).collect();
    let offset =
        if each { (0..rank).map(|k| 118.0 + (k % 9) as f32).collect() } else { vec![120.0] };
    Quantization::new(scale, offset)
}

fn inputs() -> Vec<Quantization> {
    [1.0 / 255.0, 0.03, 0.03].map(|scale| Quantization::new(vec![scale], vec![0.0])).to_vec()
}

/// A network in int8. The first two layers have factors.
fn quantized(model: &Model, isa: Isa, each: bool) -> Network {
    let factors = model.factors.iter().map(|low| {
        let low = low.as_ref()?;
        Some(low.factors(Some(of_sums(low.rank, each))))
    });
    Network::with_isa(model.layers.clone(), None, isa)
        .and_then(|network| network.with_factors(factors.collect()))
        .and_then(|network| network.with_quantization(inputs().into_iter().map(Some).collect()))
        .unwrap()
}

fn model() -> Model {
    let mut model = Model::relu(31, &WIDTHS);
    model.gates = vec![None; 3];
    model.factors[2] = None;
    model
}

fn under(network: &Network, strategies: [Strategy; 3], precision: Precision) -> Network {
    let plan = |strategy| LayerPlan { strategy, precision };
    let batch_plan = BatchPlan::new(1, strategies.map(plan).to_vec());
    network.with_plan(Plan::new(vec![batch_plan]).unwrap()).unwrap()
}

/// The bytes of a matrix's weights, with one step per unit.
struct Bytes {
    weights: Vec<Vec<i64>>,
    step: Vec<f64>,
    bias: Vec<f32>,
}

impl Bytes {
    /// `weight(unit, input)` times the scale of the input. An input's byte of 0 is `offset`.
    fn new(
        bias: &[f32],
        input: &Quantization,
        inputs: usize,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Bytes {
        let mut found = Bytes { weights: Vec::new(), step: Vec::new(), bias: Vec::new() };
        for (o, bias) in bias.iter().enumerate() {
            let products: Vec<f64> =
                (0..inputs).map(|i| f64::from(weight(o, i)) * f64::from(input.scale(i))).collect();
            let largest = products.iter().fold(0.0, |largest: f64, w| largest.max(w.abs()));
            let step = f64::from((largest / 127.0) as f32);
            let bytes: Vec<f64> = products.iter().map(|w| (w / step).round_ties_even()).collect();
            // Every eighth input adds to the same sum.
            let mut sums = [0.0; 8];
            for i in 0..inputs {
                sums[i % 8] -= products[i] * f64::from(input.offset(i));
            }
            for i in 0..inputs {
                sums[i % 8] -= (bytes[i] * step - products[i]) * f64::from(input.offset(i));
            }
            found.weights.push(bytes.into_iter().map(|w| w as i64).collect());
            found.step.push(step);
            found.bias.push((f64::from(*bias) + sums.iter().sum::<f64>()) as f32);
        }
        found
    }

    fn sum(&self, o: usize, bytes: &[u8]) -> i64 {
        self.weights[o].iter().zip(bytes).map(|(w, x)| w * i64::from(*x)).sum()
    }

    /// With the next layer's factors in the steps and biases, so that outputs become its bytes.
    fn folded(mut self, next: &Quantization) -> Bytes {
        for (o, (step, bias)) in self.step.iter_mut().zip(&mut self.bias).enumerate() {
            let factor = f64::from(1.0 / next.scale(o));
            *step *= factor;
            *bias = (f64::from(*bias) * factor + f64::from(next.offset(o))) as f32;
        }
        self
    }

    fn outputs(&self, bytes: &[u8]) -> Vec<f32> {
        let z = |o: usize| self.sum(o, bytes) as f32 * self.step[o] as f32 + self.bias[o];
        (0..self.bias.len()).map(z).collect()
    }
}

/// Values rounded to bytes; `None` if one is out of range, which starts with `least`.
fn rounded(values: &[f32], least: f32) -> Option<Vec<u8>> {
    let inside = values.iter().all(|q| (least..=254.5).contains(q));
    inside.then(|| values.iter().map(|q| q.round_ties_even() as u8).collect())
}

/// The outputs of a row in plain integers; `None` for a row out of range.
fn reference(model: &Model, row: &[f32], gated: bool) -> Option<Vec<f32>> {
    let inputs = inputs();
    let mut x: Vec<u8> =
        row.iter().map(|x| (x * (1.0 / inputs[0].scale(0))).round_ties_even() as u8).collect();
    for (i, layer) in model.layers.iter().enumerate() {
        let (d, h) = (layer.inputs(), layer.outputs());
        let next = inputs.get(i + 1);
        let fold = |bytes: Bytes| match next {
            Some(next) => bytes.folded(next),
            None => bytes,
        };
        let z = match &model.factors[i] {
            None => {
                let weight = layer.weight();
                fold(Bytes::new(layer.bias(), &inputs[i], d, |o, i| weight[o * d + i])).outputs(&x)
            }
            Some(LowRank { u, v, bias, rank, gate }) => {
                let zeros = vec![0.0; *rank];
                let first = Bytes::new(&zeros, &inputs[i], d, |k, i| u[i * rank + k]);
                let sums = of_sums(*rank, false);
                let t = rounded(&first.folded(&sums).outputs(&x), -0.5)?;
                let mut z = fold(Bytes::new(bias, &sums, *rank, |o, k| v[k * h + o])).outputs(&t);
                if let Some(gate) = gate.as_ref().filter(|_| gated) {
                    let scores = Bytes::new(&gate.bias, &sums, gate.rank, |o, k| gate.v[k * h + o]);
                    for (o, z) in z.iter_mut().enumerate() {
                        let at = |k: usize| f64::from(sums.offset(k)) * f64::from(sums.scale(k));
                        let lows = (0..gate.rank).map(|k| -at(k) * f64::from(gate.v[k * h + o]));
                        let least = -(f64::from(gate.bias[o]) + lows.sum::<f64>());
                        let step = if scores.step[o] > 0.0 { scores.step[o] } else { 1.0 };
                        if scores.step[o] > 0.0
                            && scores.sum(o, &t) as f64 <= (least / step).floor()
                        {
                            *z = 0.0;
                        }
                    }
                }
                z
            }
        };
        if next.is_none() {
            return Some(z);
        }
        // Conversion to bytes is the relu.
        x = rounded(&z, f32::MIN)?;
    }
    unreachable!("the last layer has no next")
}

/// Both products, skip and the nested gate, on every instruction set, against plain integers.
#[test]
fn int8_is_as_documented() {
    let model = model();
    let n = 300;
    let data = Random(32).rows(n, WIDTHS[0]);
    for isa in Isa::available() {
        let network = quantized(&model, isa, false);
        let strategies = [Strategy::Skip, Strategy::Skip, Strategy::Dense];
        let exact = under(&network, strategies, Precision::F32);
        for (skip, gate) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut out_of_range = 0;
            let rows = data.chunks_exact(WIDTHS[0]).map(|row| {
                reference(&model, row, gate).unwrap_or_else(|| {
                    out_of_range += 1;
                    run(&exact, Rows::f32(row, 1, WIDTHS[0], WIDTHS[0]).unwrap(), Some(1))
                })
            });
            let expected: Vec<f32> = rows.flatten().collect();
            assert!(out_of_range > 0 && out_of_range < n / 2, "{out_of_range} of {n}");
            let strategy = factor(skip, gate);
            let int8 = under(&network, [strategy, strategy, Strategy::Dense], Precision::Int8);
            for count in [1, 2, 3, 7, 64, 65, 129, n] {
                let rows = Rows::f32(&data, count, WIDTHS[0], WIDTHS[0]).unwrap();
                for threads in [1, 3] {
                    let got = run(&int8, rows, Some(threads));
                    let (name, isa) = (strategy.name(), isa.name());
                    assert!(
                        bits(&got) == bits(&expected[..got.len()]),
                        "{name}, {isa}, {count} rows, {threads} threads"
                    );
                }
            }
            let marks = int8.recomputed(Rows::f32(&data, n, WIDTHS[0], WIDTHS[0]).unwrap());
            assert_eq!(marks.unwrap().iter().filter(|mark| **mark).count(), out_of_range);
        }
    }
}

/// uint8 and CSR rows have the outputs of the same rows in f32.
#[test]
fn rows_of_all_kinds() {
    let model = model();
    let n = 67;
    let bytes: Vec<u8> = Random(33).rows(n, WIDTHS[0]).iter().map(|x| (x * 255.0) as u8).collect();
    let data: Vec<f32> = bytes.iter().map(|x| f32::from(*x)).collect();
    let (mut starts, mut index, mut value) = (vec![0], Vec::new(), Vec::new());
    for row in data.chunks_exact(WIDTHS[0]) {
        for (i, x) in row.iter().enumerate().filter(|(_, x)| **x != 0.0) {
            index.push(i as i32);
            value.push(*x);
        }
        starts.push(index.len() as i32);
    }
    let float = Rows::f32(&data, n, WIDTHS[0], WIDTHS[0]).unwrap();
    let others = [
        Rows::u8(&bytes, n, WIDTHS[0], WIDTHS[0]).unwrap(),
        Rows::csr(&starts, &index, &value, WIDTHS[0]).unwrap(),
    ];
    let scaled = inputs().into_iter().enumerate().map(|(i, q)| {
        let scale = if i == 0 { 1.0 } else { 255.0 * q.scale(0) };
        Some(Quantization::new(vec![scale], vec![0.0]))
    });
    let scaled: Vec<_> = scaled.collect();
    for isa in Isa::available() {
        let network = quantized(&model, isa, true).with_quantization(scaled.clone()).unwrap();
        for strategy in [factor(false, false), factor(true, false), factor(true, true)] {
            for precision in [Precision::F32, Precision::Int8] {
                let network = under(&network, [strategy, strategy, Strategy::Dense], precision);
                let expected = run(&network, float, Some(1));
                for rows in others {
                    let got = run(&network, rows, Some(1));
                    for (a, b) in got.iter().zip(&expected) {
                        // Dense multiplies lists as skip does, in another order of sums.
                        assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{}", strategy.name());
                    }
                }
            }
        }
    }
}

/// With an offset for each sum, the bytes of all sums may use their whole range.
#[test]
fn sums_have_offsets_of_their_own() {
    let (d, h, rank, n) = (30, 40, 6, 50);
    let mut random = Random(34);
    let mut low = LowRank::random(&mut random, d, h, false);
    (low.rank, low.v) = (rank, low.v[..rank * h].to_vec());
    // Sum k is around 20 k.
    low.u = (0..d * rank).map(|i| 0.2 * random.value() + (i % rank) as f32).collect();
    low.v.iter_mut().for_each(|v| *v *= 0.05);
    let data: Vec<f32> = random.values(n * d).iter().map(|x| 0.7 + 0.03 * x).collect();
    let rows = Rows::f32(&data, n, d, d).unwrap();
    let layer = Layer::new(random.values(d * h), random.values(h), d, Activation::Identity);
    let offset = (0..rank).map(|k| 128.0 - 21.0 * k as f32 / 0.03).collect::<Vec<_>>();
    for isa in Isa::available() {
        let sums = Quantization::new(vec![0.03], offset.clone());
        let network = Network::with_isa(vec![layer.clone()], None, isa)
            .and_then(|network| network.with_factors(vec![Some(low.factors(Some(sums)))]))
            .unwrap();
        let float = run(&network, rows, Some(1));
        let input = Quantization::new(vec![1.0 / 255.0], vec![0.0]);
        let int8 = network.with_quantization(vec![Some(input)]).unwrap();
        assert_eq!(int8.plan().batch_plans()[0].layers[0].precision, Precision::Int8);
        assert!(int8.recomputed(rows).unwrap().iter().all(|mark| !mark));
        let got = run(&int8, rows, Some(1));
        let far = got.iter().zip(&float).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far > 0.0 && far < 0.06, "{}: {far}", isa.name());
    }
}

/// A row that is not finite has NaN outputs in int8, and follows IEEE in f32. Others do not change.
#[test]
fn nan_stays_in_its_row() {
    let model = model();
    let clean = Random(35).rows(9, WIDTHS[0]);
    for isa in Isa::available() {
        let network = quantized(&model, isa, true);
        for strategy in Strategy::ALL.into_iter().filter(|s| matches!(s, Strategy::Factor { .. })) {
            for precision in [Precision::F32, Precision::Int8] {
                let network = under(&network, [strategy, strategy, Strategy::Dense], precision);
                let of = |data: &[f32]| {
                    run(&network, Rows::f32(data, 9, WIDTHS[0], WIDTHS[0]).unwrap(), Some(1))
                };
                let before = of(&clean);
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut data = clean.clone();
                    data[4 * WIDTHS[0] + 17] = bad;
                    let got = of(&data);
                    for (r, (got, was)) in got.chunks(4).zip(before.chunks(4)).enumerate() {
                        if r == 4 {
                            assert!(got.iter().all(|y| y.is_nan()), "{}", strategy.name());
                        } else {
                            assert_eq!(bits(got), bits(was), "{}", strategy.name());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn factors_change_the_plan_of_their_layer_only() {
    let model = model();
    let of = |network: &Network| {
        let batch_plan = &network.plan().batch_plans()[0];
        let layers = batch_plan.layers.iter();
        layers.map(|layer| (layer.strategy.name(), layer.precision.name())).collect::<Vec<_>>()
    };
    let network = quantized(&model, Isa::best(), true);
    let int8 = [("factor-gate", "int8"), ("factor-gate", "int8"), ("dense", "int8")];
    assert_eq!(of(&network), int8);
    let bytes = network.nbytes();
    let mut factors = model.all_factors();
    factors[0] = None;
    let fewer = network.with_factors(factors).unwrap();
    // The second layer's new factors have no quantisation.
    assert_eq!(of(&fewer), [("dense", "int8"), ("factor-gate", "f32"), ("dense", "int8")]);
    assert!(fewer.nbytes() < bytes);
    let again = fewer.with_quantization(inputs().into_iter().map(Some).collect()).unwrap();
    assert_eq!(of(&again), of(&fewer), "layers stay f32 where they cannot run in int8");
    let none = network.with_factors(vec![None; 3]).unwrap();
    assert_eq!(of(&none), [("dense", "int8"); 3]);
}

/// A profile has one entry for both factors.
#[test]
fn profiles_sum_up_factors() {
    let model = model();
    let n = 75;
    let data = Random(36).rows(n, WIDTHS[0]);
    let rows = Rows::f32(&data, n, WIDTHS[0], WIDTHS[0]).unwrap();
    let network = quantized(&model, Isa::best(), true);
    for (strategy, precision) in Strategy::ALL
        .into_iter()
        .filter(|s| matches!(s, Strategy::Factor { .. }))
        .flat_map(|s| Precision::ALL.map(|precision| (s, precision)))
    {
        let network = under(&network, [strategy, strategy, Strategy::Dense], precision);
        let profile = network.profile(rows, 8, Duration::ZERO).unwrap();
        assert_eq!(profile.len(), 3);
        let inputs = network.layer_inputs(rows).unwrap();
        assert_eq!(inputs.iter().map(Vec::len).collect::<Vec<_>>(), [70, 90, 50].map(|d| d * n));
        assert_eq!(network.layer_seconds(rows, 8, Duration::ZERO).unwrap().len(), 3);
        for (i, layer) in profile.iter().enumerate().take(2) {
            let low = model.factors[i].as_ref().unwrap();
            let Strategy::Factor { skip, gate } = strategy else { unreachable!() };
            let nested = low.gate.as_ref().filter(|_| gate);
            let (d, r, h) = (WIDTHS[i] as f64, low.rank as f64, WIDTHS[i + 1] as f64);
            let share =
                inputs[i].iter().filter(|x| **x != 0.0).count() as f64 / inputs[i].len() as f64;
            assert_eq!((layer.density_in, layer.rank), (share, Some(low.rank)));
            assert_eq!((layer.strategy, layer.dense_multiply_adds), (strategy, d * h));
            let first = if skip { d * r * layer.density_in } else { d * r };
            let second = nested
                .map_or(r * h, |nested| nested.rank as f64 * h + layer.computed_share * r * h);
            assert!((layer.multiply_adds - first - second).abs() < 1e-6, "{}", strategy.name());
            assert_eq!(layer.computed_share < 1.0, gate);
            assert_eq!((layer.recall.is_some(), layer.lost_energy.is_some()), (gate, gate));
            if let (Some(recall), Some(lost)) = (layer.recall, layer.lost_energy) {
                assert!(recall > 0.1 && recall < 1.0 && lost > 0.0 && lost < 0.9);
            }
        }
        let counts = network.count(rows, 8).unwrap();
        assert_eq!(counts.len(), 3);
        assert_eq!(counts[0].inputs as f64 / (n * WIDTHS[0]) as f64, profile[0].density_in);
    }
}

/// Phases name the factor that they belong to.
#[test]
fn phases_name_factors() {
    let model = model();
    let data = Random(37).rows(40, WIDTHS[0]);
    let rows = Rows::f32(&data, 40, WIDTHS[0], WIDTHS[0]).unwrap();
    let time = Duration::from_millis(2);
    for isa in Isa::available() {
        let network = quantized(&model, isa, true);
        let strategies = [factor(true, true), factor(false, false), Strategy::Dense];
        let network = under(&network, strategies, Precision::Int8);
        let found = network.phases(rows, 8, time).unwrap();
        let names: Vec<_> = found
            .phases
            .iter()
            .map(|phase| (phase.layer, phase.factor.map(Factor::name), phase.phase.name()))
            .collect();
        let expected = [
            (0, Some("u"), "quantize"),
            (0, Some("u"), "scan"),
            (0, Some("u"), "multiply"),
            (0, Some("u"), "epilogue"),
            (0, Some("v"), "estimate"),
            (0, Some("v"), "score+threshold"),
            (0, Some("v"), "clear"),
            (0, Some("v"), "dots+epilogue"),
            (1, Some("u"), "multiply+epilogue"),
            (1, Some("v"), "multiply+epilogue"),
            (2, None, "multiply+epilogue"),
        ];
        assert_eq!(names, expected);
        let (d, r) = (WIDTHS[1] as f64, model.factors[1].as_ref().unwrap().rank as f64);
        let first = &found.phases[8];
        assert!((first.operations - 2.0 * d * r - 2.0 * r).abs() < 1e-6);
    }
}
