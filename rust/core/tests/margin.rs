//! Rows with a small margin are recomputed without gates and factors.

mod common;

use std::time::Duration;

use common::{Model, Random, bits, none, run};
use lrgate::{
    Activation, BatchPlan, Isa, Layer, LayerPlan, LeastMargin, Margin, Network, Plan, Precision,
    Quantization, Rows, Strategy,
};

const F32: Precision = Precision::F32;
const INT8: Precision = Precision::Int8;
const FACTOR: Strategy = Strategy::Factor { skip: false, gate: false };

/// The network of a model, with all its parts, under a plan that is the same in all layers where
/// the layer has the parts.
fn network(model: &Model, isa: Isa, strategy: Strategy, precision: Precision) -> Network {
    let layers = model.layers.len();
    let steps = |i: usize| Quantization::new(vec![0.05], vec![if i == 0 { 128.0 } else { 0.0 }]);
    let network = model.network(isa, &vec![Strategy::Dense; layers]);
    let network = network.with_quantization((0..layers).map(|i| Some(steps(i))).collect()).unwrap();
    let factors = model.factors.iter().map(|low| {
        let low = low.as_ref()?;
        let (scale, offset) = (vec![0.05; low.rank], vec![128.0; low.rank]);
        Some(low.factors((precision == INT8).then(|| Quantization::new(scale, offset))))
    });
    let network = match strategy {
        Strategy::Factor { .. } => network.with_factors(factors.collect()).unwrap(),
        _ => network,
    };
    let layer = |strategy| LayerPlan { strategy, precision };
    let layers = model.uniform(strategy).into_iter().map(layer).collect();
    network.with_plan(Plan::new(vec![BatchPlan::new(1, layers)]).unwrap()).unwrap()
}

/// The same model, whose gates can be in int8.
fn with_ranges(mut model: Model) -> Model {
    for gate in model.gates.iter_mut().flatten() {
        *gate = gate.clone().with_range(vec![[-3.0, 3.0]; gate.rank()]);
    }
    model
}

/// The network that recomputes rows of a network under a plan: f32, without gates and factors.
fn recomputing(model: &Model, isa: Isa, strategy: Strategy) -> Network {
    let exact = |strategy| match strategy {
        Strategy::Dense => Strategy::Dense,
        _ => Strategy::Skip,
    };
    let strategies: Vec<_> = model.uniform(strategy).into_iter().map(exact).collect();
    model.network(isa, &strategies)
}

/// The same model with another last activation.
fn ending_in(model: &Model, last: Activation) -> Model {
    let mut model = model.clone();
    let layer = model.layers.pop().unwrap();
    let (weight, bias) = (layer.weight().to_vec(), layer.bias().to_vec());
    model.layers.push(Layer::new(weight, bias, layer.inputs(), last));
    model
}

fn margin_of(margin: Margin, outputs: &[f32]) -> f32 {
    let mut values: Vec<f32> = outputs.to_vec();
    match margin {
        Margin::TopTwo => {
            values.sort_by(|a, b| b.total_cmp(a));
            values[0] - values[1]
        }
        Margin::Boundary => values.iter().fold(f32::INFINITY, |least, x| least.min(x.abs())),
    }
}

#[test]
fn close_rows_have_the_bits_of_f32_and_the_others_those_of_the_plan() {
    let mut failures = Vec::new();
    let cases: [(&[usize], Activation, Margin); 6] = [
        (&[7, 12, 2], Activation::Identity, Margin::TopTwo),
        (&[20, 30, 9], Activation::Softmax, Margin::TopTwo),
        (&[20, 30, 25, 5], Activation::LogSoftmax, Margin::TopTwo),
        (&[17, 40, 1], Activation::Sigmoid, Margin::Boundary),
        (&[33, 20, 3], Activation::Sigmoid, Margin::Boundary),
        (&[700, 300, 10], Activation::Identity, Margin::TopTwo),
    ];
    let plans = [
        (Strategy::Dense, INT8),
        (Strategy::Skip, INT8),
        (Strategy::Gate, F32),
        (FACTOR, F32),
        (Strategy::Dense, F32),
    ];
    for (case, (widths, last, margin)) in cases.into_iter().enumerate() {
        let logits = Model::random(case as u64, widths, Activation::Relu, Activation::Identity);
        let model = ending_in(&logits, last);
        let (n, columns) = (60, widths[0]);
        let mut data = Random(case as u64 + 3).rows(n, columns);
        data[0] = f32::NAN;
        data[columns] = 1e6; // out of range
        let rows = Rows::f32(&data, n, columns, columns).unwrap();
        for isa in Isa::available() {
            for (strategy, precision) in plans {
                let what = format!("{widths:?} {} {strategy:?} {precision:?}", isa.name());
                let plain = network(&model, isa, strategy, precision);
                let exact = recomputing(&model, isa, strategy);
                let raw = run(&network(&logits, isa, strategy, precision), rows, Some(1));
                let outputs = plain.output_size();
                let margins: Vec<f32> =
                    raw.chunks_exact(outputs).map(|row| margin_of(margin, row)).collect();
                let mut sorted = margins.clone();
                sorted.sort_by(f32::total_cmp);
                let least = sorted[n / 4];
                let closer =
                    plain.with_least_margin(Some(LeastMargin::new(margin, least))).unwrap();
                assert_eq!(closer.least_margin().unwrap().least(), least);
                let is_exact = strategy == Strategy::Dense && precision == F32;
                let (of_plan, of_exact) = (run(&plain, rows, Some(1)), run(&exact, rows, Some(1)));
                let beyond = plain.recomputed(rows).unwrap();
                let marks = closer.recomputed(rows).unwrap();
                for r in 1..n {
                    let again = beyond[r] || !is_exact && margins[r] < least;
                    if marks[r] != again {
                        failures.push(format!("{what}: row {r} is marked: {}", marks[r]));
                    }
                }
                let marked = marks.iter().filter(|mark| **mark).count();
                assert!(is_exact || (1..n / 2).contains(&marked), "{marked} rows");
                for threads in [1, 3] {
                    let got = run(&closer, rows, Some(threads));
                    for r in 0..n {
                        let of = |all: &[f32]| bits(&all[r * outputs..][..outputs]);
                        let again = marks[r] && !of_plan[r * outputs].is_nan();
                        let expected = if again { of(&of_exact) } else { of(&of_plan) };
                        if of(&got) != expected {
                            failures.push(format!("{what}: row {r}, {threads} threads"));
                        }
                        let one = &data[r * columns..][..columns];
                        let one = Rows::f32(one, 1, columns, columns).unwrap();
                        if threads == 1 && bits(&run(&closer, one, Some(1))) != expected {
                            failures.push(format!("{what}: row {r} alone"));
                        }
                    }
                }
                let none = closer.with_least_margin(None).unwrap();
                assert_eq!(bits(&run(&none, rows, Some(1))), bits(&of_plan));
            }
        }
    }
    none(&failures);
}

#[test]
fn close_rows_are_recomputed_in_int8_and_then_in_f32() {
    let mut failures = Vec::new();
    for widths in [&[20, 30, 9][..], &[700, 300, 10]] {
        let model = with_ranges(Model::relu(2, widths));
        let (n, columns, outputs) = (300, widths[0], widths[2]);
        let mut data = Random(3).rows(n, columns);
        data[0] = f32::NAN;
        data[columns] = 1e6; // out of range
        let rows = Rows::f32(&data, n, columns, columns).unwrap();
        let margins = |all: &[f32]| -> Vec<f32> {
            all.chunks_exact(outputs).map(|row| margin_of(Margin::TopTwo, row)).collect()
        };
        for isa in Isa::available() {
            for strategy in [Strategy::Gate, FACTOR] {
                // Without the factors the layers are dense, and so are they in f32.
                let exact = if strategy == FACTOR { Strategy::Dense } else { strategy };
                let f32 = run(&recomputing(&model, isa, exact), rows, Some(1));
                let int8 = network(&model, isa, Strategy::Dense, INT8);
                let (beyond, of_int8) = (int8.recomputed(rows).unwrap(), run(&int8, rows, Some(1)));
                let raw = network(&model, isa, strategy, INT8);
                let (gone, of_raw) = (raw.recomputed(rows).unwrap(), run(&raw, rows, Some(1)));
                let quantile = |values: &[f32], part: usize| {
                    let mut sorted = values.to_vec();
                    sorted.sort_by(f32::total_cmp);
                    sorted[n / part]
                };
                let (first, second) = (margins(&of_raw), margins(&of_int8));
                let (least, again) = (quantile(&first, 3), quantile(&second, 4));
                let mut plan = raw.plan().batch_plans()[0].clone();
                plan.int8_margin = Some(again);
                let closer = raw.with_least_margin(Some(LeastMargin::new(Margin::TopTwo, least)));
                let closer = closer.unwrap().with_plan(Plan::new(vec![plan]).unwrap()).unwrap();
                let marks = closer.recomputed(rows).unwrap();
                let mut kinds = [0; 3];
                for threads in [1, 3] {
                    let got = run(&closer, rows, Some(threads));
                    for r in 1..n {
                        let marked = gone[r] || first[r] < least;
                        if marks[r] != marked {
                            failures.push(format!("{widths:?} {strategy:?}: mark of row {r}"));
                        }
                        let (kind, expected) = match (marked, beyond[r] || second[r] < again) {
                            (false, _) => (0, &of_raw),
                            (true, false) => (1, &of_int8),
                            (true, true) => (2, &f32),
                        };
                        kinds[kind] += 1;
                        let of = |all: &[f32]| bits(&all[r * outputs..][..outputs]);
                        let one = Rows::f32(&data[r * columns..][..columns], 1, columns, columns);
                        let alone = run(&closer, one.unwrap(), Some(1));
                        if of(&got) != of(expected) || bits(&alone) != of(expected) {
                            let isa = isa.name();
                            failures.push(format!("{widths:?} {isa} {strategy:?}: row {r}"));
                        }
                    }
                    assert!(got[..outputs].iter().all(|value| value.is_nan()));
                }
                assert!(kinds.iter().all(|count| *count > 10), "{kinds:?}");
            }
        }
    }
    none(&failures);
}

#[test]
fn int8_margins_belong_to_the_outputs_of_a_plan() {
    let model = with_ranges(Model::relu(4, &[12, 20, 3]));
    let gated = network(&model, Isa::best(), Strategy::Gate, INT8);
    let gated = gated.with_least_margin(Some(LeastMargin::new(Margin::TopTwo, 0.5))).unwrap();
    let with = |int8_margin| {
        let mut plan = gated.plan().batch_plans()[0].clone();
        plan.int8_margin = int8_margin;
        gated.with_plan(Plan::new(vec![plan]).unwrap())
    };
    let own = |network: &Network| network.plan().batch_plans()[0].int8_margin;
    let network = with(Some(0.25)).unwrap();
    assert_eq!((own(&network), own(&with(None).unwrap())), (Some(0.25), None));
    assert_eq!(own(&network.with_least_margin(network.least_margin()).unwrap()), None);
    assert_eq!(own(&network.with_gates(vec![None, None]).unwrap()), None);
    // They say how rows are recomputed, whichever layers have gates.
    let mut layers = network.plan().batch_plans()[0].layers.clone();
    let data = Random(8).rows(64, 12);
    let rows = Rows::f32(&data, 64, 12, 12).unwrap();
    let tuned = network.tune(rows, &[1, 64], Duration::from_millis(1), 1).unwrap();
    for batch_plan in tuned.plan().batch_plans() {
        let gates = batch_plan.layers.iter().any(|layer| layer.strategy == Strategy::Gate);
        assert_eq!(batch_plan.int8_margin, Some(0.25).filter(|_| gates));
    }
    // Without gates and factors, or without int8, they have no effect.
    layers[0].strategy = Strategy::Skip;
    let plan = |layers| BatchPlan { int8_margin: Some(0.25), ..BatchPlan::new(1, layers) };
    let skip = gated.with_plan(Plan::new(vec![plan(layers.clone())]).unwrap()).unwrap();
    layers[0].strategy = Strategy::Gate;
    for layer in &mut layers {
        layer.precision = F32;
    }
    let f32 = gated.with_plan(Plan::new(vec![plan(layers)]).unwrap()).unwrap();
    assert_eq!((own(&skip), own(&f32)), (None, None));
    for wrong in [-0.1, f32::NAN, f32::INFINITY] {
        let message = with(Some(wrong)).err().unwrap().to_string();
        let expected = "the int8 margin must be finite and at least 0, got ";
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn a_least_margin_outlasts_other_changes() {
    let model = Model::relu(4, &[12, 20, 3]);
    let isa = Isa::best();
    let least = LeastMargin::new(Margin::TopTwo, 1e9);
    let int8 = network(&model, isa, Strategy::Dense, INT8).with_least_margin(Some(least)).unwrap();
    let data = Random(8).rows(6, 12);
    let rows = Rows::f32(&data, 6, 12, 12).unwrap();
    assert_eq!(int8.recomputed(rows).unwrap(), [true; 6]);
    let skip = int8.with_plan(Plan::uniform(Strategy::Skip, 2)).unwrap();
    assert_eq!(
        (skip.least_margin(), skip.recomputed(rows).unwrap()),
        (Some(least), vec![false; 6])
    );
    let again = skip.with_plan(int8.plan().clone()).unwrap();
    assert_eq!(again.recomputed(rows).unwrap(), [true; 6]);
    // A margin of 0 is none.
    let zero = int8.with_least_margin(Some(LeastMargin::new(Margin::TopTwo, 0.0))).unwrap();
    assert_eq!((zero.least_margin(), zero.recomputed(rows).unwrap()), (None, vec![false; 6]));
}

#[test]
fn a_batch_size_can_have_a_smaller_least_margin() {
    Isa::available().into_iter().for_each(own_least_margins);
}

fn own_least_margins(isa: Isa) {
    let model = Model::relu(4, &[12, 20, 3]);
    let n = 40;
    let gated = network(&model, isa, Strategy::Gate, F32);
    let data = Random(8).rows(n, 12);
    let rows = |n: usize| Rows::f32(&data[..n * 12], n, 12, 12).unwrap();
    let least = |least| Some(LeastMargin::new(Margin::TopTwo, least));
    let plan = |strategy, rows, least_margin| BatchPlan {
        rows,
        least_margin,
        ..network(&model, isa, strategy, INT8).plan().batch_plans()[0].clone()
    };
    let gates = gated.plan().batch_plans()[0].clone();
    let of = |own| Plan::new(vec![gates.clone(), plan(Strategy::Dense, 32, own)]).unwrap();
    let usual = gated.with_least_margin(least(0.5)).unwrap();
    let own = |network: &Network| network.plan().batch_plans()[1].least_margin;
    for (margin, expected) in [(Some(0.2), 0.2), (Some(0.0), 0.0), (Some(0.5), 0.5), (None, 0.5)] {
        let network = usual.with_plan(of(margin)).unwrap();
        assert_eq!(own(&network), margin.filter(|own| *own != 0.5));
        let uniform = gated.with_least_margin(least(expected)).unwrap();
        let uniform = uniform.with_plan(of(None)).unwrap();
        assert_eq!(network.recomputed(rows(n)).unwrap(), uniform.recomputed(rows(n)).unwrap());
        assert_eq!(bits(&run(&network, rows(n), Some(1))), bits(&run(&uniform, rows(n), Some(1))));
        assert_eq!(network.recomputed(rows(1)).unwrap(), usual.recomputed(rows(1)).unwrap());
    }
    let close = |least: f32| {
        let network = gated.with_least_margin(Some(LeastMargin::new(Margin::TopTwo, least)));
        let network = network.unwrap().with_plan(of(None)).unwrap();
        network.recomputed(rows(n)).unwrap().into_iter().filter(|mark| *mark).count()
    };
    assert!(close(0.0) < close(0.2) && close(0.2) < close(0.5) && close(0.5) < n);

    // It belongs to the outputs of this plan.
    let network = usual.with_plan(of(Some(0.2))).unwrap();
    let time = Duration::from_millis(1);
    for tuned in [network.tune(rows(n), &[32, 64], time, 1), network.retune(rows(n), time)] {
        for batch_plan in tuned.unwrap().plan().batch_plans().iter().filter(|plan| plan.rows > 1) {
            let gates = batch_plan.layers.iter().any(|layer| layer.strategy == Strategy::Gate);
            assert_eq!(batch_plan.least_margin, Some(0.2).filter(|_| !gates));
        }
    }
    assert_eq!(own(&network.with_gates(vec![None, None]).unwrap()), None);
    assert_eq!(own(&network.with_factors(vec![None, None]).unwrap()), None);
    assert_eq!(own(&network.with_quantization(vec![None, None]).unwrap()), None);
    let other = network.with_least_margin(least(0.7)).unwrap();
    assert_eq!((own(&other), other.least_margin()), (None, least(0.7)));

    for wrong in [0.6, -0.1, f32::NAN, f32::INFINITY] {
        let message = usual.with_plan(of(Some(wrong))).err().unwrap().to_string();
        let expected =
            "the least margin must be from 0 to the network's, 0.5, at every batch size, got ";
        assert!(message.starts_with(expected), "{message}");
    }
    assert!(gated.with_plan(of(Some(0.1))).is_err());
    assert_eq!(own(&gated.with_plan(of(Some(0.0))).unwrap()), None);
}

#[test]
fn margins_that_make_no_sense_are_refused() {
    let of = |widths: &[usize], last: Activation, margin: Margin, least: f32| {
        let model = Model::random(5, widths, Activation::Relu, last);
        let network = Network::with_isa(model.layers, None, Isa::best()).unwrap();
        network.with_least_margin(Some(LeastMargin::new(margin, least))).err().unwrap().to_string()
    };
    let identity = Activation::Identity;
    for least in [-0.5, f32::NAN, f32::INFINITY] {
        let message = of(&[3, 4, 2], identity.clone(), Margin::TopTwo, least);
        assert!(message.starts_with("the least margin must be finite and at least 0, got"));
    }
    assert_eq!(
        of(&[3, 4, 1], identity, Margin::TopTwo, 1.0),
        "the least margin must be of a network with 2 outputs or more, got 1 output"
    );
    assert_eq!(
        of(&[3, 4, 2], Activation::Tanh, Margin::Boundary, 1.0),
        "the least margin must be of a network whose last activation is identity, sigmoid, softmax \
         or log_softmax, got tanh"
    );
}
