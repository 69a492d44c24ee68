//! Rows as f32, uint8 or CSR, with and without gaps, give the same answer.

mod common;

use common::{Bounded, Model, ROWS, Random, WIDTHS, bits, differences, none, run};
use lrgate::{InputMap, Isa, Rows, Strategy};

/// Bytes of which about half are zero, as in images.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..count).map(|_| (random.bits() % 512).saturating_sub(256) as u8).collect()
}

/// A CSR matrix of these rows: columns descend, and every value is split into repeated entries.
struct Csr {
    starts: Vec<i32>,
    index: Vec<i32>,
    value: Vec<f32>,
}

impl Csr {
    fn messy(data: &[f32], columns: usize) -> Csr {
        // Entries before the first row's start do not belong to the matrix.
        let mut csr = Csr { starts: vec![2], index: vec![-1, -1], value: vec![f32::NAN; 2] };
        for row in data.chunks_exact(columns) {
            for (i, x) in row.iter().enumerate().rev().filter(|(_, x)| **x != 0.0) {
                csr.index.extend([i as i32; 2]);
                csr.value.extend([x * 0.25, x * 0.75]);
            }
            csr.starts.push(csr.index.len() as i32);
        }
        csr.index.push(0); // nor do entries after the last row's end
        csr.value.push(f32::NAN);
        csr
    }

    fn rows(&self, columns: usize) -> Rows<'_> {
        Rows::csr(&self.starts, &self.index, &self.value, columns).unwrap()
    }
}

fn oracle(model: &Model, strategies: &[Strategy], data: &[f32]) -> Vec<Vec<Bounded>> {
    let rows = data.chunks_exact(model.inputs());
    rows.map(|row| model.oracle(strategies, row).pop().unwrap_or_default()).collect()
}

#[test]
fn all_kinds_of_rows_agree() {
    let mut failures = Vec::new();
    for (i, columns) in WIDTHS.into_iter().enumerate() {
        let map = (i % 2 == 1).then(|| InputMap::new(vec![1.0 / 255.0], vec![-0.25]));
        let model = Model { map, ..Model::relu(i as u64, &[columns, 40, 33, 6]) };
        let bytes = bytes(9, 129 * columns);
        let floats: Vec<f32> = bytes.iter().map(|b| f32::from(*b)).collect();
        // Every row starts three values after the end of the previous one. The gaps must not be
        // read.
        let stride = columns + 3;
        let gaps = |row: &[f32]| [row, &[f32::NAN; 3]].concat();
        let strided: Vec<f32> = floats.chunks_exact(columns).flat_map(gaps).collect();
        let gaps = |row: &[u8]| [row, &[255; 3]].concat();
        let strided_bytes: Vec<u8> = bytes.chunks_exact(columns).flat_map(gaps).collect();
        for strategy in Strategy::ALL {
            let strategies = model.uniform(strategy);
            let expected = oracle(&model, &strategies, &floats);
            for isa in Isa::available() {
                let network = model.network(isa, &strategies);
                for n in ROWS {
                    let csr = Csr::messy(&floats[..n * columns], columns);
                    let plain = Rows::f32(&floats, n, columns, columns).unwrap();
                    let kinds = [
                        ("f32", plain),
                        ("strided f32", Rows::f32(&strided, n, columns, stride).unwrap()),
                        ("u8", Rows::u8(&bytes, n, columns, columns).unwrap()),
                        ("strided u8", Rows::u8(&strided_bytes, n, columns, stride).unwrap()),
                        ("csr", csr.rows(columns)),
                    ];
                    let reference = bits(&run(&network, plain, None));
                    for (kind, rows) in kinds {
                        assert_eq!((rows.len(), rows.columns()), (n, columns));
                        assert_eq!(rows.is_empty(), n == 0);
                        let what = format!(
                            "{kind}, {columns} columns, {} {}",
                            strategy.name(),
                            isa.name()
                        );
                        let got = run(&network, rows, None);
                        failures.extend(differences(&what, &expected[..n], &got));
                        // The same numbers in the same order give equal results, not only close
                        // ones.
                        if kind != "csr" && bits(&got) != reference {
                            failures.push(format!("{what}: other bits than f32"));
                        }
                    }
                }
            }
        }
    }
    none(&failures);
}

/// Rows may overlap: windows over a signal, and one row repeated.
#[test]
fn rows_may_overlap() {
    let model = Model::relu(1, &[17, 30, 4]);
    let signal = Random(2).values(17 + 69);
    for strategy in Strategy::ALL {
        for isa in Isa::available() {
            let network = model.network(isa, &model.uniform(strategy));
            for stride in [0, 1] {
                let rows = Rows::f32(&signal, 70, 17, stride).unwrap();
                let copy: Vec<f32> =
                    (0..70).flat_map(|r| &signal[r * stride..][..17]).copied().collect();
                let copied = Rows::f32(&copy, 70, 17, 17).unwrap();
                let [a, b] = [rows, copied].map(|rows| bits(&run(&network, rows, None)));
                assert!(a == b, "{} {} stride {stride}", strategy.name(), isa.name());
            }
        }
    }
}

#[test]
fn layer_inputs_are_each_layers_values() {
    let scale = Random(3).values(31);
    let map = InputMap::new(scale.clone(), vec![0.5]);
    let model = Model { map: Some(map), ..Model::relu(4, &[31, 66, 40, 5]) };
    let data: Vec<f32> = bytes(5, 130 * 31).iter().map(|b| f32::from(*b)).collect();
    let csr = Csr::messy(&data, 31);
    let mut failures = Vec::new();
    for strategy in Strategy::ALL {
        let strategies = model.uniform(strategy);
        for isa in Isa::available() {
            let network = model.network(isa, &strategies);
            for rows in [Rows::f32(&data, 130, 31, 31).unwrap(), csr.rows(31)] {
                let inputs = network.layer_inputs(rows).unwrap();
                assert_eq!(
                    inputs.iter().map(Vec::len).collect::<Vec<_>>(),
                    [31, 66, 40].map(|d| d * 130)
                );
                for (r, row) in data.chunks_exact(31).enumerate() {
                    let layers = model.oracle(&strategies, row);
                    for (i, (expected, width)) in layers.iter().zip([66, 40]).enumerate() {
                        let got = &inputs[i + 1][r * width..][..width];
                        let what = format!("input {} {} {}", i + 1, strategy.name(), isa.name());
                        failures.extend(differences(&what, std::slice::from_ref(expected), got));
                    }
                    for (i, x) in row.iter().enumerate() {
                        let expected = x * scale[i] + 0.5;
                        assert!((inputs[0][r * 31 + i] - expected).abs() <= 1e-5 * x.abs() + 1e-6);
                    }
                }
            }
        }
    }
    none(&failures);
}
