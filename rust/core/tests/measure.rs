//! Plans, profiles and tuning, compared with brute-force counts.

mod common;

use std::time::Duration;

use common::{Model, Random, bits, differences, forward, none, run};
use lrgate::{BatchPlan, Gate, InputMap, Isa, Network, Plan, Rows, Strategy};

fn factor(skip: bool, gate: bool) -> Strategy {
    Strategy::Factor { skip, gate }
}

const SHORT: Duration = Duration::from_millis(2);

fn plan(sizes: &[usize]) -> Plan {
    let layers = Plan::uniform(Strategy::Dense, 1).batch_plans()[0].layers.clone();
    let batch_plan = |&rows| BatchPlan::new(rows, layers.clone());
    Plan::new(sizes.iter().map(batch_plan).collect()).unwrap()
}

#[test]
fn the_nearest_class_on_a_log_scale_is_used() {
    let plan = plan(&[1024, 1, 64]);
    assert_eq!(
        plan.batch_plans().iter().map(|batch_plan| batch_plan.rows).collect::<Vec<_>>(),
        [1, 64, 1024]
    );
    for rows in 0..3000 {
        let distance = |size: usize| ((rows.max(1) as f64).ln() - (size as f64).ln()).abs();
        let nearest = [1, 64, 1024]
            .into_iter()
            .min_by(|a, b| (distance(*a) - 1e-12 * (1024 - a) as f64).total_cmp(&distance(*b)))
            .unwrap();
        assert_eq!(plan.for_rows(rows).rows, nearest, "{rows} rows");
    }
    assert_eq!(plan.for_rows(8).rows, 1); // equally near to 1 and 64: the smaller
    assert_eq!(plan.for_rows(256).rows, 64);
    assert_eq!(plan.for_rows(257).rows, 1024);
    assert_eq!(plan.for_rows(usize::MAX).rows, 1024);
    assert_eq!(self::plan(&[7]).for_rows(0).rows, 7);
}

#[test]
fn gates_change_the_plan_of_their_layer_only() {
    let model = Model::relu(1, &[8, 9, 10, 3]);
    let network = model.network(Isa::best(), &[Strategy::Skip, Strategy::Gate, Strategy::Skip]);
    let of = |network: &Network| {
        let batch_plan = &network.plan().batch_plans()[0];
        batch_plan.layers.iter().map(|layer| layer.strategy.name()).collect::<Vec<_>>()
    };
    assert_eq!(of(&network), ["skip", "gate", "skip"]);
    let fewer = network.with_gates(vec![None, None, None]).unwrap();
    assert_eq!(of(&fewer), ["skip", "dense", "skip"]);
    assert!(fewer.gate(1).is_none() && network.gate(1).is_some() && network.gate(99).is_none());
    let more = fewer.with_gates(model.gates.clone()).unwrap();
    assert_eq!(of(&more), ["gate", "gate", "skip"]);
}

/// Skip computes less than dense, and a gate's counts match their definition.
#[test]
fn profiles_count_right() {
    let (n, widths) = (75, [20, 50, 30, 4]);
    let mut model = Model::relu(2, &widths);
    // Scores have few bits and are far from 0 unless they equal 0.
    let mut random = Random(3);
    for (gate, pair) in model.gates.iter_mut().zip(widths.windows(2)).take(2) {
        let bias = random.values(pair[1]).iter().map(|b| b.signum()).collect();
        *gate = Some(Gate::new(vec![0.0; pair[0]], vec![0.0; pair[1]], bias, 1));
    }
    let data = random.rows(n, 20);
    let rows = Rows::f32(&data, n, 20, 20).unwrap();
    for isa in Isa::available() {
        for strategy in common::PLAIN {
            let network = model.network(isa, &model.uniform(strategy));
            for batch in [1, 8, 74, 75, 1000] {
                let profile = network.profile(rows, batch, Duration::ZERO).unwrap();
                let mut inputs = network.layer_inputs(rows).unwrap();
                inputs.push(run(&network, rows, None));
                for (i, layer) in profile.iter().enumerate() {
                    let nonzero = |v: &[f32]| v.iter().filter(|x| **x != 0.0).count() as f64;
                    let share = |v: &[f32]| nonzero(v) / v.len() as f64;
                    let (d, h) = (widths[i] as f64, widths[i + 1] as f64);
                    let what = format!("layer {i}, {} {}, {batch}", strategy.name(), isa.name());
                    assert_eq!(layer.density_in, share(&inputs[i]), "{what}");
                    assert_eq!(layer.density_out, share(&inputs[i + 1]), "{what}");
                    assert_eq!(layer.dense_multiply_adds, d * h);
                    assert!(layer.seconds >= 0.0 && layer.seconds < 1.0);
                    let gate = model.gates[i].as_ref().filter(|_| strategy == Strategy::Gate);
                    assert_eq!(layer.rank, gate.map(Gate::rank));
                    assert_eq!(layer.strategy, model.uniform(strategy)[i]);
                    let work = match (layer.strategy, gate) {
                        (Strategy::Skip, _) => layer.density_in * d * h,
                        (_, Some(_)) => d * layer.density_in + h + layer.computed_share * d * h,
                        _ => d * h,
                    };
                    assert!((layer.multiply_adds - work).abs() < 1e-6, "{what}");
                    let Some(gate) = gate else {
                        assert_eq!(layer.computed_share, 1.0);
                        assert_eq!((layer.recall, layer.lost_energy), (None, None));
                        continue;
                    };
                    // Brute force in f64: the units that are on, and the layer's outputs for its
                    // own input.
                    let on: Vec<bool> = gate.bias().iter().map(|b| *b > 0.0).collect();
                    let (mut kept, mut positive, mut lost, mut energy) = (0.0, 0.0, 0.0, 0.0);
                    for x in inputs[i].chunks_exact(widths[i]) {
                        let weights = model.layers[i].weight();
                        for (o, w) in weights.chunks_exact(widths[i]).enumerate() {
                            let products =
                                x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                            let z = products.sum::<f64>() + f64::from(model.layers[i].bias()[o]);
                            if z > 0.0 {
                                positive += 1.0;
                                energy += z * z;
                                kept += f64::from(u8::from(on[o]));
                                lost += if on[o] { 0.0 } else { z * z };
                            }
                        }
                    }
                    let alive = on.iter().filter(|on| **on).count() as f64 / h;
                    assert!((layer.computed_share - alive).abs() < 1e-12, "{what}");
                    assert!((layer.recall.unwrap() - kept / positive).abs() < 1e-3, "{what}");
                    assert!((layer.lost_energy.unwrap() - lost / energy).abs() < 1e-4, "{what}");
                    assert!(lost > 0.0 && kept > 0.0);
                }
            }
        }
    }
}

/// CSR rows have the same profile as the dense rows that they represent.
#[test]
fn profiles_of_sparse_rows() {
    let model = Model::relu(4, &[6, 12, 3]);
    let csr = Rows::csr(&[0, 2, 2, 3], &[1, 5, 0], &[0.5, -1.0, 2.0], 6).unwrap();
    let dense =
        [0.0, 0.5, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let dense = Rows::f32(&dense, 3, 6, 6).unwrap();
    for strategy in Strategy::ALL {
        let network = model.network(Isa::best(), &model.uniform(strategy));
        let [a, b] = [csr, dense].map(|rows| network.profile(rows, 2, Duration::ZERO).unwrap());
        for (a, b) in a.iter().zip(&b) {
            assert_eq!((a.density_in, a.density_out), (b.density_in, b.density_out));
            assert_eq!((a.computed_share, a.recall), (b.computed_share, b.recall));
        }
        assert_eq!(a[0].density_in, 3.0 / 18.0);
    }
}

/// Tuning chooses among exact strategies here, so the answers stay within the bound.
#[test]
fn tuning_keeps_the_answers() {
    let map = InputMap::new(vec![0.5], vec![0.25]);
    let model = Model { map: Some(map), ..Model::relu(5, &[40, 90, 60, 5]) };
    let n = 70;
    let data = Random(6).rows(n, 40);
    let rows = Rows::f32(&data, n, 40, 40).unwrap();
    let dense = model.uniform(Strategy::Dense);
    let oracle: Vec<_> =
        data.chunks_exact(40).map(|row| model.oracle(&dense, row).pop().unwrap()).collect();
    let mut failures = Vec::new();
    for isa in Isa::available() {
        let network = model.network(isa, &dense).with_gates(vec![None, None, None]).unwrap();
        let network = network.with_factors(vec![None, None, None]).unwrap();
        let before = bits(&forward(&network, &data, n));
        // 200 is more than the number of rows.
        let tuned = network.tune(rows, &[64, 1, 200], SHORT, 1).unwrap();
        let sizes: Vec<_> =
            tuned.plan().batch_plans().iter().map(|batch_plan| batch_plan.rows).collect();
        assert_eq!(sizes, [1, 64, 200]);
        for batch_plan in tuned.plan().batch_plans() {
            assert!(batch_plan.layers.iter().all(|layer| layer.strategy.is_exact()));
        }
        for count in [1, 8, 64, 70] {
            let got = forward(&tuned, &data[..count * 40], count);
            failures.extend(differences(isa.name(), &oracle[..count], &got));
        }
        assert_eq!(before, bits(&forward(&network, &data, n)), "the network itself changed");
    }
    none(&failures);
}

#[test]
fn tuning_may_use_gates_and_takes_all_kinds_of_rows() {
    let model = Model::relu(7, &[10, 20, 3]);
    let network = model.network(Isa::best(), &model.uniform(Strategy::Gate));
    let bytes: Vec<u8> = (0..50).collect();
    for rows in [
        Rows::u8(&bytes, 5, 10, 10).unwrap(),
        Rows::csr(&[1, 2, 2], &[3, 4], &[1.0, 2.0], 10).unwrap(),
        Rows::csr(&[0, 0], &[], &[], 10).unwrap(),
    ] {
        let tuned = network.tune(rows, &[1, 9], Duration::ZERO, 1).unwrap();
        assert_eq!(tuned.plan().batch_plans().len(), 2);
        assert!(tuned.gate(0).is_some());
    }
}

#[test]
fn a_network_tells_what_it_is() {
    let model = Model::relu(8, &[10, 20, 3]);
    let dense = Network::with_isa(model.layers.clone(), None, Isa::best()).unwrap();
    assert_eq!((dense.input_size(), dense.output_size()), (10, 3));
    assert_eq!(dense.layers().map(lrgate::Layer::outputs).collect::<Vec<_>>(), [20, 3]);
    assert_eq!(dense.layers().next().unwrap().weight(), model.layers[0].weight());
    assert!(dense.input_map().is_none());
    let weights = (10 * 20 + 20 * 3) * 4;
    let unpacked = dense.nbytes();
    dense.pack();
    assert!(dense.nbytes() >= unpacked + weights, "the packed form counts as well");
    let before = dense.nbytes();
    let gated = dense.with_gates(model.gates.clone()).unwrap();
    assert!(gated.nbytes() > before, "so does the gate");
    let before = gated.nbytes();
    gated.pack();
    assert!(gated.nbytes() >= before + 10 * 20 * 4, "and the layout that it needs");
    let before = gated.nbytes();
    gated.forward(Rows::f32(&[1.0; 10], 1, 10, 10).unwrap(), &mut [0.0; 3], Some(1)).unwrap();
    assert_eq!(gated.nbytes(), before, "no call packs after it");
}

/// A plan is measured again for each batch size; gates and factors that no batch size uses stay off.
#[test]
fn retuning_keeps_batch_sizes_gates_and_factors() {
    let model = Model::relu(9, &[40, 90, 60, 5]);
    let network = model.network(Isa::best(), &model.uniform(Strategy::Dense));
    let data = Random(10).rows(8, 40);
    let rows = Rows::f32(&data, 8, 40, 40).unwrap();
    for (first, second, allowed) in [
        (Strategy::Skip, Strategy::Dense, [false, false]),
        (Strategy::Gate, Strategy::Skip, [true, false]),
        (Strategy::Gate, Strategy::Gate, [true, true]),
        (Strategy::Dense, factor(true, false), [false, true]),
        (factor(false, true), Strategy::Dense, [true, false]),
    ] {
        let plan = Plan::from_strategies(&[first, second, Strategy::Dense]);
        let layers = plan.batch_plans()[0].layers.clone();
        let batch_plan = |rows| BatchPlan::new(rows, layers.clone());
        let planned =
            network.with_plan(Plan::new(vec![batch_plan(1), batch_plan(1024)]).unwrap()).unwrap();
        for time in [Duration::from_secs(1), Duration::from_millis(20), Duration::ZERO] {
            let again = planned.retune(rows, time).unwrap();
            let batch_plans = again.plan().batch_plans();
            assert_eq!(
                batch_plans.iter().map(|batch_plan| batch_plan.rows).collect::<Vec<_>>(),
                [1, 1024]
            );
            for batch_plan in batch_plans {
                let planned = [first, second];
                for ((layer, allowed), used) in batch_plan.layers.iter().zip(allowed).zip(planned) {
                    let same = match (layer.strategy, used) {
                        // Whether the first factor skips is measured again.
                        (Strategy::Factor { gate, .. }, Strategy::Factor { gate: used, .. }) => {
                            gate == used
                        }
                        (strategy, used) => strategy == used,
                    };
                    assert!(layer.strategy.is_exact() || (allowed && same), "{layer:?}");
                }
            }
            if time.is_zero() {
                assert_eq!(again.plan(), planned.plan(), "there was no time to measure");
            }
        }
    }
}
