//! Every kernel of every instruction set of this machine compared with the float64 oracle, for
//! widths and row counts around the edges of vectors, panels and tiles.

mod common;

use common::{Model, ROWS, Random, WIDTHS, differences, forward, none};
use lrgate::{Activation, InputMap, Isa, Strategy};

fn all_activations() -> Vec<Activation> {
    vec![
        Activation::Identity,
        Activation::Relu,
        Activation::ClippedRelu { upper: 0.75 },
        Activation::ThresholdedRelu { threshold: 0.25 },
        Activation::ThresholdedRelu { threshold: -0.25 },
        Activation::SquaredRelu,
        Activation::LeakyRelu { slope: 0.125 },
        Activation::LeakyRelu { slope: -1.5 },
        Activation::Prelu { slope: [0.25].into() },
        Activation::Prelu { slope: [0.25, 0.5].into() },
        Activation::HardTanh { lower: -0.25, upper: 0.5 },
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
        Activation::Elu { alpha: 1.0 },
        Activation::Elu { alpha: -0.5 },
        Activation::Selu,
        Activation::Softmax,
        Activation::LogSoftmax,
    ]
}

/// Compares a model's outputs for several row counts, under each strategy and instruction set.
fn check(what: &str, model: &Model, row_counts: &[usize], failures: &mut Vec<String>) {
    let most = row_counts.iter().copied().max().unwrap_or(0);
    let data = Random(99).rows(most, model.inputs());
    for strategy in Strategy::ALL {
        let strategies = model.uniform(strategy);
        let rows = data.chunks_exact(model.inputs());
        let oracle: Vec<_> =
            rows.map(|row| model.oracle(&strategies, row).pop().unwrap_or_default()).collect();
        for isa in Isa::available() {
            let network = model.network(isa, &strategies);
            assert_eq!(network.isa(), isa);
            for &n in row_counts {
                let got = forward(&network, &data[..n * model.inputs()], n);
                let what = format!("{what}, {}, {}, {n} rows", strategy.name(), isa.name());
                failures.extend(differences(&what, &oracle[..n], &got));
            }
        }
    }
}

#[test]
fn networks_at_the_edges_of_tiles() {
    let mut failures = Vec::new();
    for (i, &inputs) in WIDTHS.iter().enumerate() {
        // Every width is once the width of an input, a first hidden, a second hidden and an output
        // layer.
        let [first, second, last] = [3, 7, 9].map(|shift| WIDTHS[(i + shift) % WIDTHS.len()]);
        let widths = [inputs, first, second, last];
        check(&format!("{widths:?}"), &Model::relu(i as u64, &widths), &ROWS, &mut failures);
    }
    none(&failures);
}

#[test]
fn single_layers_of_all_widths() {
    let mut failures = Vec::new();
    for inputs in WIDTHS {
        for outputs in WIDTHS {
            let model = Model::relu(7, &[inputs, outputs]);
            check(&format!("{inputs}-{outputs}"), &model, &[1, 4, 66], &mut failures);
        }
    }
    none(&failures);
}

#[test]
fn gated_layers_of_all_widths() {
    let mut failures = Vec::new();
    for inputs in WIDTHS {
        for hidden in WIDTHS {
            let model = Model::relu(8, &[inputs, hidden, 3]);
            check(&format!("{inputs}-{hidden}-3"), &model, &[1, 7, 8, 66], &mut failures);
        }
    }
    none(&failures);
}

#[test]
fn every_activation() {
    let mut failures = Vec::new();
    for hidden in all_activations() {
        for last in all_activations() {
            let what = format!("{hidden:?} {last:?}");
            let model = Model::random(3, &[33, 70, 17], hidden.clone(), last);
            check(&what, &model, &[1, 9], &mut failures);
        }
    }
    none(&failures);
}

#[test]
fn input_maps() {
    let mut failures = Vec::new();
    let mut random = Random(4);
    let maps = [
        InputMap::new(vec![1.0 / 255.0], vec![0.0]),
        InputMap::new(vec![0.5], vec![-3.0]),
        InputMap::new(vec![0.0], vec![1.0]),
        InputMap::new(random.values(65), random.values(65)),
        InputMap::new(vec![-2.0], random.values(65)),
        InputMap::new(random.values(65), vec![0.25]),
    ];
    for (i, map) in maps.into_iter().enumerate() {
        let model = Model { map: Some(map), ..Model::relu(5, &[65, 80, 9]) };
        check(&format!("map {i}"), &model, &[1, 9, 65], &mut failures);
    }
    none(&failures);
}

/// Mixed strategies: each layer's output must reach the next layer in the form that it reads.
#[test]
fn every_mix_of_strategies() {
    let model = Model::relu(6, &[31, 66, 48, 20, 5]);
    let data = Random(5).rows(70, 31);
    let mut failures = Vec::new();
    let plain = (0..3_usize.pow(3) * 2).map(|mix| {
        let digit = |place| Strategy::ALL[mix / 3_usize.pow(place) % 3];
        [digit(0), digit(1), digit(2), Strategy::ALL[mix / 27]]
    });
    // Factors beside and between all others.
    let pairs = Strategy::ALL.into_iter().flat_map(|a| Strategy::ALL.map(|b| (a, b)));
    let factored = pairs.map(|(a, b)| [a, b, a, model.possible(3, b)]);
    for strategies in plain.chain(factored) {
        let rows = data.chunks_exact(31);
        let oracle: Vec<_> =
            rows.map(|row| model.oracle(&strategies, row).pop().unwrap_or_default()).collect();
        for isa in Isa::available() {
            let network = model.network(isa, &strategies);
            for n in [1, 7, 8, 70] {
                let what = format!("{strategies:?}, {}, {n} rows", isa.name());
                let got = forward(&network, &data[..n * 31], n);
                failures.extend(differences(&what, &oracle[..n], &got));
            }
        }
    }
    none(&failures);
}

/// The bound must not be so wide that every result passes.
#[test]
fn the_bound_is_tight_enough_to_catch_a_lost_input() {
    let model = Model::relu(1, &[129, 80, 10]);
    let mut row = Random(2).values(129);
    let dense = model.uniform(Strategy::Dense);
    let oracle = model.oracle(&dense, &row).pop().unwrap();
    assert!(oracle.iter().all(|y| y.error < 1e-3), "{oracle:?}");
    row[128] += 0.1;
    let got = forward(&model.network(Isa::best(), &dense), &row, 1);
    assert!(!differences("changed", &[oracle], &got).is_empty());
}
