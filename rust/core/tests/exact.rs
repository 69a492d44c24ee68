//! Properties that must hold bit by bit: the result of a row depends neither on the other rows nor
//! on the threads, and the units that a gate computes equal the dense layer's.

mod common;

use std::time::Duration;

use common::{Model, ROWS, Random, bits, forward, none, run};
use lrgate::{Activation, Gate, Isa, Layer, Plan, Rows, Strategy};

#[test]
fn a_row_does_not_depend_on_the_others() {
    let model = Model::relu(1, &[65, 129, 80, 17]);
    let mut failures = Vec::new();
    for n in ROWS.into_iter().filter(|n| *n > 0) {
        let base = Random(n as u64).rows(n, 65);
        let mut others = vec![Random(2).values(n * 65), vec![0.0; n * 65], vec![f32::NAN; n * 65]];
        others.push(Random(3).rows(n, 65).iter().map(|x| x * 1e30).collect());
        for strategy in common::KINDS {
            for isa in Isa::available() {
                let network = model.network(isa, &model.uniform(strategy));
                let expected = forward(&network, &base, n);
                for (i, other) in others.iter().enumerate() {
                    for kept in [0, n / 2, n - 1] {
                        let mut data = other.clone();
                        data[kept * 65..][..65].copy_from_slice(&base[kept * 65..][..65]);
                        let got = forward(&network, &data, n);
                        let [a, b] = [&expected, &got].map(|y| bits(&y[kept * 17..][..17]));
                        if a != b {
                            let (strategy, isa) = (strategy.name(), isa.name());
                            failures
                                .push(format!("{strategy} {isa} row {kept} of {n}, others {i}"));
                        }
                    }
                }
            }
        }
    }
    none(&failures);
}

/// Enough rows to enter the pool, and a last tile that is not full.
#[test]
fn threads_do_not_change_bits() {
    let model = Model::relu(2, &[200, 500, 300, 10]);
    let n = 1990;
    let data = Random(3).rows(n, 200);
    let rows = Rows::f32(&data, n, 200, 200).unwrap();
    for strategy in common::KINDS {
        for isa in Isa::available() {
            let network = model.network(isa, &model.uniform(strategy));
            let one = bits(&run(&network, rows, Some(1)));
            for threads in 2..=4 {
                let more = bits(&run(&network, rows, Some(threads)));
                assert!(one == more, "{} {} {threads} threads", strategy.name(), isa.name());
            }
            lrgate::pool::set_thread_override(Some(3)).unwrap();
            assert!(one == bits(&run(&network, rows, None)));
            lrgate::pool::set_thread_override(None).unwrap();
        }
    }
    #[cfg(target_os = "linux")]
    assert!(common::pool_threads() >= 3, "the pool was never entered");
}

/// Few rows, whose dense layers are shared unit by unit, before and after layers of every kind.
#[test]
fn threads_that_share_units_do_not_change_bits() {
    use Strategy::{Dense, Gate, Skip};
    let (inputs, n) = (500, 7);
    let dense = Random(5).values(n * inputs);
    let starts: Vec<i32> = (0..=n).map(|row| (row * inputs) as i32).collect();
    let index: Vec<i32> = (0..n * inputs).map(|at| (at % inputs) as i32).collect();
    for hidden in [Activation::Relu, Activation::Tanh] {
        let model =
            Model::random(9, &[inputs, 3000, 1010, 10], hidden.clone(), Activation::Identity);
        for strategies in [[Dense, Dense, Dense], [Dense, Skip, Dense], [Dense, Gate, Skip]] {
            if strategies.contains(&Gate) && hidden != Activation::Relu {
                continue;
            }
            let network = model.network(Isa::best(), &strategies);
            for n in [1, 2, n] {
                let f32 = Rows::f32(&dense[..n * inputs], n, inputs, inputs).unwrap();
                let len = n * inputs;
                let csr = Rows::csr(&starts[..=n], &index[..len], &dense[..len], inputs);
                common::workers_do_not_change_bits(&network, f32);
                // A first layer skips on CSR with any strategy, so another layer must be shared.
                if strategies[1] == Dense {
                    common::workers_do_not_change_bits(&network, csr.unwrap());
                }
            }
        }
    }
}

#[test]
fn threads_share_a_network() {
    let model = Model::relu(3, &[64, 80, 10]);
    let network = model.network(Isa::best(), &model.uniform(Strategy::Gate));
    let data = Random(4).rows(129, 64);
    let expected = bits(&forward(&network, &data, 129));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert!(expected == bits(&forward(&network, &data, 129)));
                }
            });
        }
    });
}

/// A gate that lets a known half of the units through: those equal the dense units, the others are
/// zero.
#[test]
fn the_gate_computes_what_it_lets_through_and_nothing_else() {
    let mut failures = Vec::new();
    for (inputs, units) in [(1, 1), (17, 15), (64, 65), (80, 129)] {
        let mut model = Model::relu(5, &[inputs, units, 1]);
        // The score is the bias alone. All units of the layer are active, so a zero means that the
        // unit is off.
        let layer = &model.layers[0];
        let weight = layer.weight().iter().map(|w| w.abs()).collect();
        let bias = layer.bias().iter().map(|b| b.abs() + 0.5).collect();
        model.layers[0] = Layer::new(weight, bias, inputs, layer.activation().clone());
        let score = |o: usize| if o.is_multiple_of(3) { -0.0 } else { 1e-30 };
        let bias = (0..units).map(score).collect();
        model.gates[0] = Some(Gate::new(vec![0.0; inputs], vec![0.0; units], bias, 1));
        let data = Random(6).rows(129, inputs);
        for isa in Isa::available() {
            for n in ROWS.into_iter().filter(|n| *n > 0) {
                let rows = Rows::f32(&data[..n * inputs], n, inputs, inputs).unwrap();
                let hidden = |strategy| {
                    let network = model.network(isa, &[strategy, Strategy::Dense]);
                    network.layer_inputs(rows).unwrap().pop().unwrap()
                };
                let (dense, gated) = (hidden(Strategy::Dense), hidden(Strategy::Gate));
                for (at, (a, b)) in dense.iter().zip(&gated).enumerate() {
                    let off = (at % units).is_multiple_of(3);
                    let close = (a - b).abs() <= 1e-5 * a.abs();
                    if (off && *b != 0.0) || (!off && !close) || *a == 0.0 {
                        failures.push(format!("{inputs}-{units} {} {n} rows: {a} {b}", isa.name()));
                    }
                }
                let network = model.network(isa, &[Strategy::Gate, Strategy::Dense]);
                let share = network.profile(rows, n, Duration::ZERO).unwrap()[0].computed_share;
                let on = (0..units).filter(|o| !o.is_multiple_of(3)).count();
                assert!((share - on as f64 / units as f64).abs() < 1e-12, "{share}");
            }
        }
    }
    none(&failures);
}

/// The batch plan is chosen by the number of rows; it is not always the first one.
#[test]
fn each_batch_size_runs_its_own_plan() {
    let model = Model::relu(7, &[16, 40, 4]);
    let network = model.network(Isa::best(), &model.uniform(Strategy::Dense));
    let batch_plan = |rows, strategy| {
        let plan = Plan::from_strategies(&model.uniform(strategy));
        lrgate::BatchPlan { rows, ..plan.batch_plans()[0].clone() }
    };
    let plan =
        Plan::new(vec![batch_plan(64, Strategy::Dense), batch_plan(1, Strategy::Gate)]).unwrap();
    let both = network.with_plan(plan).unwrap();
    let gate = model.network(Isa::best(), &model.uniform(Strategy::Gate));
    let data = Random(8).values(64 * 16);
    let same = |a, b, n: usize| {
        bits(&forward(a, &data[..n * 16], n)) == bits(&forward(b, &data[..n * 16], n))
    };
    for n in [1, 2, 8] {
        assert!(same(&both, &gate, n) && !same(&both, &network, n), "{n} rows");
    }
    for n in [9, 10, 64] {
        assert!(same(&both, &network, n) && !same(&both, &gate, n), "{n} rows");
    }
}
