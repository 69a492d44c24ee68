//! Phases of a profile, and the peak rates that bound them.

mod common;

use std::time::Duration;

use common::{Model, Random};
use lrgate::{
    Activation, BatchPlan, Isa, LayerPlan, Network, Peaks, Phase, Phases, Plan, Precision,
    Quantization, Rows, Strategy,
};

const SHORT: Duration = Duration::from_millis(2);

fn phases(strategy: Strategy, isa: Isa, batch: usize) -> Phases {
    let model = Model::relu(1, &[40, 50, 30, 4]);
    let network = model.network(isa, &model.uniform(strategy));
    let data = Random(2).rows(70, 40);
    network.phases(Rows::f32(&data, 70, 40, 40).unwrap(), batch, SHORT).unwrap()
}

fn names(phases: &Phases, layer: usize) -> Vec<&'static str> {
    phases.phases.iter().filter(|p| p.layer == layer).map(|p| p.phase.name()).collect()
}

#[test]
fn every_strategy_has_its_phases() {
    for isa in Isa::available() {
        for batch in [1, 7, 70] {
            let dense = phases(Strategy::Dense, isa, batch);
            assert_eq!(names(&dense, 0), ["multiply+epilogue"]);
            let skip = phases(Strategy::Skip, isa, batch);
            assert_eq!(names(&skip, 0), ["scan", "multiply", "epilogue"]);
            assert_eq!(names(&skip, 1), ["multiply", "epilogue"]);
            let gate = phases(Strategy::Gate, isa, batch);
            let all = ["scan", "estimate", "score+threshold", "clear", "dots+epilogue"];
            assert_eq!(names(&gate, 0), all);
            assert_eq!(names(&gate, 1), all[1..]);
            for found in [&dense, &skip, &gate] {
                assert!(found.seconds > 0.0 && found.weight_bytes > 0.0);
                for phase in &found.phases {
                    assert!(phase.seconds >= 0.0 && phase.seconds.is_finite());
                    assert!(phase.row_bytes > 0.0, "{phase:?}");
                }
            }
        }
    }
}

/// With AMX, int8 gates multiply dense rows from eight rows on, so that nothing lists their non-zeros.
#[test]
fn int8_gates_list_no_inputs_in_tiles() {
    let mut model = Model::relu(1, &[40, 50, 30, 4]);
    for gate in model.gates.iter_mut().flatten() {
        *gate = gate.clone().with_range(vec![[-3.0, 3.0]; gate.rank()]);
    }
    let quantization = vec![Some(Quantization::new(vec![0.01], vec![0.0])); 3];
    let data = Random(2).rows(70, 40);
    let rows = Rows::f32(&data, 70, 40, 40).unwrap();
    for isa in Isa::available() {
        let layers = [Strategy::Gate, Strategy::Gate, Strategy::Dense]
            .map(|strategy| LayerPlan { strategy, precision: Precision::Int8 });
        let network = Network::with_isa(model.layers.clone(), None, isa)
            .and_then(|network| network.with_gates(model.gates.clone()))
            .and_then(|network| network.with_quantization(quantization.clone()))
            .and_then(|network| {
                network.with_plan(Plan::new(vec![BatchPlan::new(1, layers.to_vec())]).unwrap())
            })
            .unwrap();
        for batch in [1, 7, 8, 70] {
            let found = network.phases(rows, batch, SHORT).unwrap();
            let listed = names(&found, 0).contains(&"scan");
            assert_eq!(listed, batch < 8 || isa.name() != "avx512amx", "{} {batch}", isa.name());
            for layer in [0, 1] {
                let of_layer = found.phases.iter().filter(|phase| phase.layer == layer);
                let estimate = of_layer.clone().find(|phase| phase.phase == Phase::Estimate);
                let most = (2 * [40, 50][layer] * network.gate(layer).unwrap().rank()) as f64;
                let estimate = estimate.unwrap().operations;
                assert!(if listed { estimate < most } else { estimate == most }, "{estimate}");
            }
        }
    }
}

/// The padding of a layer's last word is not an input, although its byte may differ from 0.
#[test]
fn padding_is_no_input() {
    let model =
        Model::random(3, &[18, 33, 6], Activation::LeakyRelu { slope: 0.1 }, Activation::Identity);
    let model = Model { gates: vec![None, None], ..model };
    let quantization = [(0.01, 3.0), (0.02, 40.0)]
        .map(|(scale, offset)| Some(Quantization::new(vec![scale], vec![offset])));
    let data = Random(4).rows(40, 18);
    let rows = Rows::f32(&data, 40, 18, 18).unwrap();
    for strategy in [Strategy::Dense, Strategy::Skip] {
        let layers = vec![LayerPlan { strategy, precision: Precision::Int8 }; 2];
        let batch_plan = BatchPlan::new(1, layers);
        let network = Network::with_isa(model.layers.clone(), None, Isa::best())
            .and_then(|network| network.with_quantization(quantization.to_vec()))
            .and_then(|network| network.with_plan(Plan::new(vec![batch_plan]).unwrap()))
            .unwrap();
        for batch in [1, 2, 40] {
            let found = network.phases(rows, batch, SHORT).unwrap();
            for (layer, products) in [(0, 18.0 * 33.0), (1, 33.0 * 6.0)] {
                let phases = found.phases.iter().filter(|p| p.layer == layer);
                let multiply =
                    phases.filter(|p| matches!(p.phase, Phase::Multiply | Phase::MultiplyEpilogue));
                let operations: f64 = multiply.map(|p| p.operations).sum();
                // Two operations per product; for the whole layer with its epilogue, two more per
                // output.
                assert!(operations > 0.0 && operations <= 2.0 * products + 66.0);
            }
        }
    }
}

/// In batches, rows with non-zeros in runs are listed as pairs if a multiply-add of bytes is one
/// instruction. Single values, and single rows, are listed byte by byte.
#[test]
fn runs_are_taken_in_pairs() {
    let (columns, n) = (160, 40);
    let model = Model { gates: vec![None], ..Model::relu(5, &[columns, 700]) };
    let layer = LayerPlan { strategy: Strategy::Skip, precision: Precision::Int8 };
    let plan = Plan::new(vec![BatchPlan::new(1, vec![layer])]).unwrap();
    let runs: Vec<u8> = (0..n * columns).map(|i| u8::from(i / 8 % 5 == 0) * 9).collect();
    let single: Vec<u8> = (0..n * columns).map(|i| u8::from(i % 8 == 3) * 9).collect();
    for isa in Isa::available() {
        let network = Network::with_isa(model.layers.clone(), None, isa)
            .and_then(|network| {
                let plain = Quantization::new(vec![1.0], vec![0.0]);
                network.with_quantization(vec![Some(plain)])
            })
            .and_then(|network| network.with_plan(plan.clone()))
            .unwrap();
        let scanned = |data: &[u8], batch: usize| {
            let rows = Rows::u8(data, n, columns, columns).unwrap();
            let found = network.phases(rows, batch, SHORT).unwrap();
            found.phases.iter().find(|p| p.phase == Phase::Scan).unwrap().row_bytes
        };
        // A row and its list: three bytes per entry, or, for each row of a pair, six per four
        // columns.
        let (row, bytes) = (160.0, 160.0 + 3.0 * 32.0);
        let pairs = ["avx512amx", "avx512vnni", "avxvnni"].contains(&isa.name());
        assert_eq!(scanned(&runs, 1), bytes, "{}", isa.name());
        for batch in [2, 5, n] {
            let expected = if pairs { row + 6.0 * 8.0 } else { bytes };
            assert_eq!(scanned(&runs, batch), expected, "{} {batch}", isa.name());
            assert_eq!(scanned(&single, batch), row + 3.0 * 20.0, "{}", isa.name());
        }
    }
}

/// Products match the counts, and weights are read once per tile of 64 rows.
#[test]
fn work_is_that_of_the_rows() {
    let model = Model::relu(1, &[40, 50, 30, 4]);
    let data = Random(2).rows(70, 40);
    let rows = Rows::f32(&data, 70, 40, 40).unwrap();
    let skip = model.network(Isa::best(), &model.uniform(Strategy::Skip));
    let counts = skip.count(rows, 70).unwrap();
    for batch in [1, 70] {
        let found = skip.phases(rows, batch, SHORT).unwrap();
        for (layer, width) in [50.0, 30.0, 4.0].into_iter().enumerate() {
            let multiply = found
                .phases
                .iter()
                .find(|p| p.layer == layer && p.phase == Phase::Multiply)
                .unwrap();
            let products = counts[layer].inputs as f64 * width;
            assert!((multiply.operations * 70.0 - 2.0 * products).abs() < 1e-6);
            let weights = multiply.weight_bytes * 70.0;
            assert!(if batch == 1 { weights == 4.0 * products } else { weights < 4.0 * products });
        }
    }
    let dense = phases(Strategy::Dense, Isa::best(), 70);
    // Two tiles; the bias is read with each.
    assert!((dense.phases[0].weight_bytes * 70.0 - 2.0 * 41.0 * 50.0 * 4.0).abs() < 1e-6);
    assert_eq!(dense.weight_bytes, 4.0 * (40.0 * 50.0 + 50.0 * 30.0 + 30.0 * 4.0));
}

#[test]
fn bytes_are_quantized_and_scanned_apart() {
    let model = Model { gates: vec![None; 3], ..Model::relu(1, &[40, 50, 30, 4]) };
    let network = model
        .network(Isa::best(), &model.uniform(Strategy::Skip))
        .with_quantization(vec![Some(Quantization::new(vec![0.01], vec![0.0])); 3])
        .unwrap();
    let data = Random(2).rows(70, 40);
    let rows = Rows::f32(&data, 70, 40, 40).unwrap();
    let found = network.phases(rows, 70, SHORT).unwrap();
    assert_eq!(names(&found, 0), ["quantize", "scan", "multiply", "epilogue"]);
    assert_eq!(names(&found, 1), ["scan", "multiply", "epilogue"]);
    let multiply = found.phases.iter().find(|p| p.phase == Phase::Multiply).unwrap();
    assert_eq!(multiply.precision, Precision::Int8);
    assert!(multiply.weight_bytes <= 2.0 * 40.0 * 50.0 / 70.0);
}

#[test]
fn peaks_are_those_of_a_machine() {
    for isa in Isa::available() {
        let peaks = Peaks::measure(isa, &[1 << 14, 1 << 24], SHORT).unwrap();
        assert_eq!(peaks.bandwidth.len(), 2);
        assert_eq!(peaks.tile_operations.is_some(), isa.name() == "avx512amx");
        let tiles = peaks.tile_operations.unwrap_or(peaks.int8_operations);
        let operations = [peaks.f32_operations, peaks.int8_operations, tiles];
        for rate in [&peaks.bandwidth[..], &operations].concat() {
            assert!(rate > 1e7 && rate < 1e15, "{peaks:?}");
        }
    }
    let none = Peaks::measure(Isa::best(), &[], Duration::ZERO).unwrap();
    assert!(none.bandwidth.is_empty());
}

#[test]
fn what_cannot_be_profiled_is_refused() {
    let model = Model::relu(1, &[4, 5, 3]);
    let network = model.network(Isa::best(), &model.uniform(Strategy::Dense));
    let data = [0.0; 8];
    let rows = |n, d| Rows::f32(&data, n, d, d).unwrap();
    assert!(network.phases(rows(2, 3), 1, SHORT).is_err());
    assert!(network.phases(rows(0, 4), 1, SHORT).is_err());
    assert!(network.phases(rows(2, 4), 0, SHORT).is_err());
    assert!(network.phases(rows(2, 4), 9, SHORT).is_ok());
}
