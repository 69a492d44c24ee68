//! Calls for counting instructions: `lrgate-counts` lists the cases, and `lrgate-counts NAME` runs one.
//!
//! `benches/counts.py` runs it under callgrind, which counts only inside [`counted`]: forward
//! passes over 64 rows, one row per call or all in one call, with AVX2 (callgrind does not support
//! AVX-512), on fixed weights and rows. A call before that touches memory and grows buffers.

use std::process::ExitCode;

use lrgate::{
    Activation, BatchPlan, Factors, Gate, Isa, Layer, LayerPlan, Network, Plan, Precision,
    Quantization, Result, Rows, Strategy,
};

/// A network and the calls on it.
#[derive(Clone, Copy)]
struct Case {
    strategy: Strategy,
    precision: Precision,
    rows: usize,
    widths: &'static [usize],
}

/// Widths around a hidden layer. The last layer has no gate and no factors.
const LAYER: &[usize] = &[400, 300, 16];
const NETWORK: &[usize] = &[784, 500, 300, 10];
const RANK: usize = 24;
/// Rows of a case, in one call or in one call per row.
const ROWS: usize = 64;

fn cases() -> Vec<(String, Case)> {
    let mut all = Vec::new();
    for (widths, what) in [(LAYER, "layer"), (NETWORK, "network")] {
        for precision in Precision::ALL {
            // A nested gate runs the kernels of the others.
            let nested =
                |strategy: &Strategy| matches!(strategy, Strategy::Factor { gate: true, .. });
            for strategy in Strategy::ALL.into_iter().filter(|strategy| !nested(strategy)) {
                for rows in [1, ROWS] {
                    // One strategy is enough for whole networks: gates if they are possible.
                    if widths == LAYER || strategy == Strategy::Gate {
                        let name =
                            format!("{what}-{}-{}-{rows}", precision.name(), strategy.name());
                        all.push((name, Case { strategy, precision, rows, widths }));
                    }
                }
            }
        }
    }
    all
}

fn main() -> ExitCode {
    let Ok(isa) = Isa::by_name("avx2") else {
        eprintln!("this machine has no AVX2");
        return ExitCode::from(3);
    };
    let cases = cases();
    let Some(wanted) = std::env::args().nth(1) else {
        for (name, _) in &cases {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    let Some((_, case)) = cases.iter().find(|(name, _)| *name == wanted) else {
        eprintln!("no case is named {wanted:?}");
        return ExitCode::from(2);
    };
    if let Err(error) = case.run(isa) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

impl Case {
    fn run(self, isa: Isa) -> Result<()> {
        let network = self.network(isa)?;
        let (data, columns) = (self.data(), network.input_size());
        let calls: Vec<_> = data
            .chunks_exact(self.rows * columns)
            .map(|rows| Rows::f32(rows, self.rows, columns, columns))
            .collect::<Result<_>>()?;
        let mut out = vec![1.0; self.rows * network.output_size()];
        network.forward(calls[0], &mut out, Some(1))?;
        counted(&network, &calls, &mut out)?;
        let rows = Rows::f32(&data, ROWS, columns, columns)?;
        assert!(!network.recomputed(rows)?.contains(&true), "a row that is computed twice");
        // The case must do as its name says: compute some units, but not all, and have non-zero
        // outputs.
        for (i, layer) in network.count(rows, self.rows)?.into_iter().enumerate() {
            let all = (ROWS * self.widths[i + 1]) as u64;
            println!("layer {i}: {} of {all} computed, {} not zero", layer.computed, layer.outputs);
            if self.strategy == Strategy::Gate && i + 2 < self.widths.len() {
                assert!(40 * layer.computed > all && 2 * layer.computed < all, "an idle gate");
            }
            assert!(layer.outputs > 0, "an idle layer");
        }
        Ok(())
    }

    fn network(self, isa: Isa) -> Result<Network> {
        let mut random = Random(1);
        let last = self.widths.len() - 2;
        let int8 = self.precision == Precision::Int8;
        let (mut layers, mut gates, mut factors) = (Vec::new(), Vec::new(), Vec::new());
        for (i, pair) in self.widths.windows(2).enumerate() {
            let (d, h) = (pair[0], pair[1]);
            let gated = i < last && self.strategy == Strategy::Gate;
            let factored = i < last && matches!(self.strategy, Strategy::Factor { .. });
            // The squares of a row sum to about d / 15 in every layer, so that pre-activations,
            // low-rank sums and scores have a deviation of about 1. A tenth of the gated units is
            // live, and half of these are on; in other layers a sixth is on.
            let into = (45.0 / d as f32).sqrt();
            let bias = vec![if gated { 0.0 } else { -1.0 }; h];
            let activation = if i == last { Activation::Identity } else { Activation::Relu };
            layers.push(Layer::new(random.values(d * h, into), bias, d, activation));
            let u = random.values(d * RANK, into);
            let v = random.values(RANK * h, (3.0 / RANK as f32).sqrt());
            let gate = Gate::new(u, v, vec![-1.28; h], RANK);
            let low_rank = Factors::new(gate.u().to_vec(), gate.v().to_vec(), vec![-1.0; h], RANK);
            let low_rank =
                low_rank.with_quantization(Quantization::new(vec![1.0 / 16.0], vec![128.0]));
            factors.push(factored.then_some(low_rank));
            let gate = if int8 { gate.with_range(vec![[-4.0, 4.0]; RANK]) } else { gate };
            gates.push(gated.then_some(gate));
        }
        let plan = |i: usize| {
            let strategy = match self.strategy {
                Strategy::Gate | Strategy::Factor { .. } if i == last => Strategy::Skip,
                strategy => strategy,
            };
            LayerPlan { strategy, precision: self.precision }
        };
        let layers_plan = (0..=last).map(plan).collect();
        let network = Network::with_isa(layers, None, isa)?.with_gates(gates)?;
        let network = network.with_factors(factors)?;
        let network = if int8 {
            // No row is out of range: it would be counted twice, the second time in f32.
            let scale = |i| if i == 0 { 1.0 / 64.0 } else { 1.0 / 32.0 };
            let bytes = |i| Some(Quantization::new(vec![scale(i)], vec![0.0]));
            network.with_quantization((0..=last).map(bytes).collect())?
        } else {
            network
        };
        network.with_plan(Plan::new(vec![BatchPlan::new(1, layers_plan)])?)
    }

    /// Rows of which a fifth of the values, in runs as in images, is non-zero.
    fn data(self) -> Vec<f32> {
        let mut random = Random(2);
        let mut data = vec![0.0; ROWS * self.widths[0]];
        for run in data.chunks_mut(10) {
            if random.bits().is_multiple_of(5) {
                run.fill_with(|| random.value().abs());
            }
        }
        data
    }
}

/// The calls that are counted, in a function of their own.
#[inline(never)]
fn counted(network: &Network, calls: &[Rows<'_>], out: &mut [f32]) -> Result<()> {
    calls.iter().try_for_each(|rows| network.forward(*rows, out, Some(1)))
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| scale * self.value()).collect()
    }
}
