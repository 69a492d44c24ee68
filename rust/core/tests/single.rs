//! Rows through dense layers in one kernel, single rows and rows in lanes: the bits do not depend on
//! the rows that a call has.

mod common;

use common::{Model, Random, bits, none, run};
use lrgate::{
    Activation, BatchPlan, InputMap, Isa, LayerPlan, Network, Plan, Precision, Quantization, Rows,
    Strategy,
};

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Int8];

/// A network with dense layers in both precisions under the plan of one of them.
fn dense(model: &Model, isa: Isa, precision: Precision) -> Network {
    let layers = model.layers.len();
    let steps = |i: usize| Quantization::new(vec![0.05], vec![if i == 0 { 128.0 } else { 0.0 }]);
    let plan = vec![LayerPlan { strategy: Strategy::Dense, precision }; layers];
    let network = Network::with_isa(model.layers.clone(), model.map.clone(), isa).unwrap();
    let network = network.with_quantization((0..layers).map(|i| Some(steps(i))).collect()).unwrap();
    network.with_plan(Plan::new(vec![BatchPlan::new(1, plan)]).unwrap()).unwrap()
}

/// Whether [`Network::forward_short`] computed this row, and its outputs.
fn short(network: &Network, row: &[f32]) -> (bool, Vec<f32>) {
    let mut out = vec![-12345.0; network.output_size()];
    let row = Rows::f32(row, 1, row.len(), row.len()).unwrap();
    (network.forward_short(row, &mut out), out)
}

#[test]
fn a_row_alone_has_the_bits_of_a_row_in_a_batch() {
    let mut failures = Vec::new();
    let hidden = [
        Activation::Relu,
        Activation::ClippedRelu { upper: 0.9 },
        Activation::LeakyRelu { slope: 0.2 },
        Activation::Identity,
    ];
    let last = [Activation::Identity, Activation::Softmax, Activation::Sigmoid];
    let widths: [&[usize]; 7] = [
        &[1, 1],
        &[4, 8, 2],
        &[5, 50, 50, 50, 5],
        &[17, 64, 65, 6],
        &[64, 130, 1],
        &[3, 200, 16, 48, 33, 7],
        &[129, 15, 250, 10],
    ];
    for (case, widths) in widths.into_iter().enumerate() {
        for activation in &hidden {
            let last = last[case % last.len()].clone();
            let model = Model::random(case as u64, widths, activation.clone(), last);
            let (n, columns) = (9, widths[0]);
            let mut data = Random(case as u64 + 5).rows(n, columns);
            data[0] = f32::NAN;
            data[columns] = f32::INFINITY;
            data[2 * columns] = 1e6; // recomputed in f32 after int8
            for isa in Isa::available() {
                for precision in PRECISIONS {
                    let network = dense(&model, isa, precision);
                    let what = format!("{widths:?} {activation:?} {} {precision:?}", isa.name());
                    let rows = Rows::f32(&data, n, columns, columns).unwrap();
                    let batch = run(&network, rows, Some(1));
                    let again = network.recomputed(rows).unwrap();
                    let outputs = network.output_size();
                    for (r, row) in data.chunks_exact(columns).enumerate() {
                        let expected = bits(&batch[r * outputs..][..outputs]);
                        let rows = Rows::f32(row, 1, columns, columns).unwrap();
                        for threads in [None, Some(1), Some(3)] {
                            if bits(&run(&network, rows, threads)) != expected {
                                failures.push(format!("{what} row {r}, {threads:?} threads"));
                            }
                        }
                        let (done, out) = short(&network, row);
                        if done == again[r] || done && bits(&out) != expected {
                            failures.push(format!("{what} row {r}, short: {done}"));
                        }
                    }
                }
            }
        }
    }
    none(&failures);
}

#[test]
fn calls_on_one_row_of_a_small_network_are_short() {
    let isa = Isa::best();
    let small = Model::relu(1, &[20, 30, 4]);
    let large = Model::relu(2, &[700, 800, 4]);
    let row = Random(3).rows(1, 20);
    for precision in PRECISIONS {
        assert!(short(&dense(&small, isa, precision), &row).0);
        // Takes more than a few microseconds.
        let long = Random(4).rows(1, 700);
        assert!(!short(&dense(&large, isa, precision), &long).0);
    }
    let network = dense(&small, isa, Precision::Int8);
    let mut out = vec![0.0; 4];
    let two = Random(5).rows(2, 20);
    assert!(!network.forward_short(Rows::f32(&two, 2, 20, 20).unwrap(), &mut out));
    // Wrong widths are left to `forward`, which refuses them.
    let one = Rows::f32(&two, 1, 19, 19).unwrap();
    assert!(!network.forward_short(one, &mut out));
    assert!(!network.forward_short(Rows::f32(&two, 1, 20, 20).unwrap(), &mut out[..3]));
    // Rows of bytes and other strategies need several kernels, but are short too.
    let bytes = [3; 20];
    assert!(network.forward_short(Rows::u8(&bytes, 1, 20, 20).unwrap(), &mut out));
    let floats: Vec<f32> = bytes.into_iter().map(f32::from).collect();
    assert_eq!(bits(&run(&network, Rows::f32(&floats, 1, 20, 20).unwrap(), None)), bits(&out));
    let skip = network.with_plan(Plan::uniform(Strategy::Skip, 2)).unwrap();
    let (done, out) = short(&skip, &row);
    assert!(done);
    assert_eq!(bits(&run(&skip, Rows::f32(&row, 1, 20, 20).unwrap(), Some(1))), bits(&out));
    // An input map that is not folded into the weights is applied as rows are read.
    let map = Some(InputMap::new(vec![0.5], vec![1e3]));
    let mapped = Model { map, ..Model::relu(6, &[20, 30, 4]) };
    let network = dense(&mapped, isa, Precision::F32);
    let rows = Rows::f32(&row, 1, 20, 20).unwrap();
    let batch = run(&network, Rows::f32(&[&row[..], &row].concat(), 2, 20, 20).unwrap(), None);
    assert_eq!(bits(&run(&network, rows, None)), bits(&batch[..4]));
}

#[test]
fn rows_in_lanes_have_the_bits_of_single_rows() {
    let widths: [&[usize]; 11] = [
        &[1, 1],
        &[4, 8, 2],
        &[16, 16, 16],
        &[17, 33, 1],
        &[5, 50, 50, 5],
        &[33, 7, 70, 18],
        &[3, 1, 2, 9],
        &[40, 120, 2],
        &[6, 8, 3],
        &[2, 5, 4],
        &[30, 20, 7],
    ];
    let hidden = [Activation::Relu, Activation::LeakyRelu { slope: 0.2 }, Activation::Tanh];
    let last = [Activation::Softmax, Activation::Identity, Activation::Sigmoid];
    let mut failures = Vec::new();
    for (case, widths) in widths.into_iter().enumerate() {
        for activation in &hidden {
            let last = last[case % last.len()].clone();
            let model = Model::random(case as u64, widths, activation.clone(), last);
            let (columns, n) = (widths[0], 150);
            let mut data = Random(case as u64 + 9).rows(n, columns + 3);
            data[0] = f32::NAN;
            data[columns + 3] = f32::NEG_INFINITY;
            data[18 * (columns + 3)] = -0.0;
            for isa in Isa::available() {
                let network = dense(&model, isa, Precision::F32);
                // Rows that touch, rows with a gap, rows that overlap, and one row again and again.
                for stride in [columns, columns + 3, 1, 0] {
                    let alone = |r: usize| {
                        let row = &data[r * stride..][..columns];
                        let row = Rows::f32(row, 1, columns, columns).unwrap();
                        bits(&run(&network, row, Some(1)))
                    };
                    let expected: Vec<_> = (0..n).map(alone).collect();
                    // Narrow networks take 64 rows at a time.
                    for rows in [2, 7, 15, 16, 17, 31, 32, 63, 64, 65, 81, 128, n] {
                        // With values after the last row, and without.
                        for end in [data.len(), (rows - 1) * stride + columns] {
                            let of = Rows::f32(&data[..end], rows, columns, stride).unwrap();
                            if bits(&run(&network, of, Some(1))) != expected[..rows].concat() {
                                let isa = isa.name();
                                let case = format!("{widths:?} {activation:?} {isa}");
                                failures.push(format!("{case} {rows} {stride} {end}"));
                            }
                        }
                    }
                }
            }
        }
    }
    none(&failures);
}

#[test]
fn rows_in_lanes_of_many_threads_have_the_bits_of_single_rows() {
    let model = Model::random(5, &[30, 120, 3], Activation::Relu, Activation::Identity);
    let n = 5000;
    let data = Random(6).rows(n, 30);
    for isa in Isa::available() {
        let network = dense(&model, isa, Precision::F32);
        let rows = |n| Rows::f32(&data[..n * 30], n, 30, 30).unwrap();
        let alone = (0..n).flat_map(|r| {
            let row = Rows::f32(&data[r * 30..][..30], 1, 30, 30).unwrap();
            bits(&run(&network, row, Some(1)))
        });
        let expected: Vec<_> = alone.collect();
        for threads in [1, 2, 3] {
            for rows_of_call in [n, n - 7] {
                let got = bits(&run(&network, rows(rows_of_call), Some(threads)));
                assert!(got == expected[..rows_of_call * 3], "{} {threads}", isa.name());
            }
        }
    }
}
