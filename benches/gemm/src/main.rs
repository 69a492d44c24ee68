//! lrgate's dense kernel beside GEMM crates, one thread, 784 x 1000, by number of rows:
//! `cargo run --release --manifest-path benches/gemm/Cargo.toml` (docs/architecture.md).
//!
//! All take turns in every round, on other rows each call. Before they are timed, their answers are
//! compared with a sum in f64. `LRGATE_ISA` sets lrgate's instruction set, not the others'.

use std::time::Instant;

use lrgate::{Activation, Layer, Network, Rows};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

const INPUTS: usize = 784;
const OUTPUTS: usize = 1000;
const SAMPLE: usize = 2048;
const ROUNDS: usize = 15;
const CALLS: usize = 10;

/// Multiplies some rows into an output.
type Contestant<'a> = (&'static str, Box<dyn FnMut(&[f32], &mut [f32]) + 'a>);

fn main() {
    // rten-gemm asks the global pool for its size.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("no pool before");
    let x = numbers(1, SAMPLE * INPUTS);
    let by_input = numbers(2, INPUTS * OUTPUTS);
    let by_unit = (0..OUTPUTS * INPUTS).map(|i| by_input[i % INPUTS * OUTPUTS + i / INPUTS]);
    let layer = Layer::new(by_unit.collect(), vec![0.0; OUTPUTS], INPUTS, Activation::Identity);
    let network = Network::new(vec![layer], None).expect("a well-formed layer");
    println!("lrgate's instruction set: {}; GFLOP/s, median (quartiles)", network.isa().name());
    for rows in [8, 64, 256] {
        let mut contestants = contestants(&network, &by_input, rows);
        let mut out = vec![0.0; rows * OUTPUTS];
        for (name, run) in &mut contestants {
            run(&x[..rows * INPUTS], &mut out);
            check(name, &x, &by_input, &out);
        }
        let mut rates = vec![Vec::new(); contestants.len()];
        for round in 0..ROUNDS {
            for ((_, run), rates) in contestants.iter_mut().zip(&mut rates) {
                let start = Instant::now();
                for call in 0..CALLS {
                    let first = (round * CALLS + call) * rows % (SAMPLE - rows + 1);
                    run(&x[first * INPUTS..(first + rows) * INPUTS], &mut out);
                }
                let operations = 2.0 * (CALLS * rows * INPUTS * OUTPUTS) as f64;
                rates.push(operations * 1e-9 / start.elapsed().as_secs_f64());
            }
        }
        for ((name, _), rates) in contestants.iter().zip(&mut rates) {
            rates.sort_by(f64::total_cmp);
            let at = |share: usize| rates[ROUNDS * share / 4];
            println!("{rows:>4} rows  {name:<22} {:4.0} ({:.0} to {:.0})", at(2), at(1), at(3));
        }
    }
}

fn contestants<'a>(network: &'a Network, weight: &'a [f32], rows: usize) -> Vec<Contestant<'a>> {
    let executor = GemmExecutor::<f32>::new();
    let packed = executor.prepack_b(NdTensorView::from_data([INPUTS, OUTPUTS], weight));
    vec![
        (
            "lrgate",
            Box::new(|x, out| {
                let x = Rows::f32(x, x.len() / INPUTS, INPUTS, INPUTS).expect("whole rows");
                network.forward(x, out, Some(1)).expect("matching widths");
            }),
        ),
        (
            "rten-gemm, prepacked",
            Box::new(move |x, out| {
                let x = GemmInputA::Unpacked(NdTensorView::from_data([rows, INPUTS], x));
                let options = GemmOptions::default();
                executor.gemm(out, x, GemmInputB::Packed(&packed), options).expect("matching sizes");
            }),
        ),
        (
            "gemmkit",
            Box::new(move |x, out| {
                let x = gemmkit::MatRef::from_row_major(x, rows, INPUTS);
                let w = gemmkit::MatRef::from_row_major(weight, INPUTS, OUTPUTS);
                let out = gemmkit::MatMut::from_row_major(out, rows, OUTPUTS);
                gemmkit::gemm(1.0, x, w, 0.0, out, gemmkit::Parallelism::Serial);
            }),
        ),
        (
            "gemm",
            Box::new(move |x, out| {
                let (k, n) = (INPUTS as isize, OUTPUTS as isize);
                let (to, x, w) = (out.as_mut_ptr(), x.as_ptr(), weight.as_ptr());
                // SAFETY: rows x INPUTS, INPUTS x OUTPUTS and rows x OUTPUTS, row by row.
                unsafe {
                    gemm::gemm(
                        rows, OUTPUTS, INPUTS, to, 1, n, false, x, 1, k, w, 1, n, 0.0, 1.0, false,
                        false, false, gemm::Parallelism::None,
                    );
                }
            }),
        ),
    ]
}

/// Compares some outputs with sums in f64.
fn check(name: &str, x: &[f32], weight: &[f32], out: &[f32]) {
    for (i, y) in out.iter().enumerate().step_by(97) {
        let (row, unit) = (i / OUTPUTS, i % OUTPUTS);
        let term = |k: usize| f64::from(x[row * INPUTS + k]) * f64::from(weight[k * OUTPUTS + unit]);
        let exact: f64 = (0..INPUTS).map(term).sum();
        let bound: f64 = (0..INPUTS).map(|k| term(k).abs()).sum::<f64>() * 784.0 * 6e-8;
        assert!((f64::from(*y) - exact).abs() <= bound, "{name}: {y} for {exact} at {row}, {unit}");
    }
}

/// Reproducible numbers from -1 to 1.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}
