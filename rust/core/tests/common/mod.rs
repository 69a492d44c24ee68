//! Shared by the integration tests: random models, and the float64 oracle that every kernel is
//! compared with.
//!
//! The oracle gives each output as a value and a bound on the error of a float32 computation of it,
//! for any order of its sums. With unit roundoff u = 2^-24 and `gamma_n = n u / (1 - n u)`, a sum
//! of d products and a bias has `|error| <= gamma_(d+4) (|x| |w| + |b|)` (Higham, Accuracy and
//! Stability of Numerical Algorithms, section 3.1; 4 for the bias, the folded input map and the
//! rounding of its sum), plus half a denormal for each product that underflows. The bound of a
//! layer's input is propagated through `|w|` and the activation's Lipschitz constant into the bound
//! of its output.
#![allow(dead_code, reason = "each test binary uses a part")]

use lrgate::{
    Activation, Factors, Gate, InputMap, Isa, Layer, NestedGate, Network, Plan, Quantization, Rows,
    Strategy,
};

/// Widths and row counts around the edges of vectors, panels and tiles.
pub(crate) const WIDTHS: [usize; 10] = [1, 15, 16, 17, 63, 64, 65, 79, 80, 129];
pub(crate) const ROWS: [usize; 13] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 63, 64, 65, 129];

/// The strategies that need no factors.
pub(crate) const PLAIN: [Strategy; 3] = [Strategy::Dense, Strategy::Skip, Strategy::Gate];

/// A strategy of each kind, for tests that take long.
pub(crate) const KINDS: [Strategy; 5] = [
    Strategy::Dense,
    Strategy::Skip,
    Strategy::Gate,
    Strategy::Factor { skip: false, gate: false },
    Strategy::Factor { skip: true, gate: true },
];

const ROUNDOFF: f64 = 1.0 / (1 << 24) as f64;
const DENORMAL: f64 = f64::from_bits((1023 - 149) << 52);

/// Random numbers without a dependency (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub(crate) fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }

    /// Rows with zeros: about half of the values, most vectors of every third row, and the whole of
    /// every seventh row.
    pub(crate) fn rows(&mut self, rows: usize, columns: usize) -> Vec<f32> {
        let mut all = self.values(rows * columns);
        all.iter_mut().filter(|x| **x < 0.0).for_each(|x| *x = 0.0);
        for row in all.chunks_exact_mut(columns).step_by(3) {
            for vector in row.chunks_mut(16) {
                if !self.bits().is_multiple_of(4) {
                    vector.fill(0.0);
                }
            }
        }
        for row in all.chunks_exact_mut(columns).step_by(7) {
            row.fill(0.0);
        }
        all
    }
}

/// A network as data, from which both the engine and the oracle are built.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) layers: Vec<Layer>,
    pub(crate) gates: Vec<Option<Gate>>,
    pub(crate) factors: Vec<Option<LowRank>>,
    pub(crate) map: Option<InputMap>,
}

/// Factors as data, with a nested gate where one is allowed.
#[derive(Clone)]
pub(crate) struct LowRank {
    /// (inputs, rank)
    pub(crate) u: Vec<f32>,
    /// (rank, outputs)
    pub(crate) v: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) rank: usize,
    pub(crate) gate: Option<LowRankGate>,
}

/// A nested gate as data.
#[derive(Clone)]
pub(crate) struct LowRankGate {
    /// (rank, outputs)
    pub(crate) v: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) rank: usize,
}

impl LowRank {
    /// Random factors, whose sums and outputs are of the size of the inputs.
    pub(crate) fn random(random: &mut Random, d: usize, h: usize, gated: bool) -> Self {
        let rank = (d.min(h) / 2).max(1);
        let mut scaled = |count: usize, width: usize| {
            let scale = 2.0 / (width as f32).sqrt();
            random.values(count).iter().map(|w| w * scale).collect::<Vec<_>>()
        };
        let (u, v) = (scaled(d * rank, d), scaled(rank * h, rank));
        let bias = random.values(h);
        let gate = gated.then(|| {
            let rank = (rank / 2).max(1);
            let (mut v, mut bias) = (v[..rank * h].to_vec(), random.values(h));
            always_on(&mut v, &mut bias);
            LowRankGate { v, bias, rank }
        });
        LowRank { u, v, bias, rank, gate }
    }

    /// The factors, with a quantisation of their sums.
    pub(crate) fn factors(&self, quantization: Option<Quantization>) -> Factors {
        let (u, v, bias) = (self.u.clone(), self.v.clone(), self.bias.clone());
        let mut factors = Factors::new(u, v, bias, self.rank);
        if let Some(quantization) = quantization {
            factors = factors.with_quantization(quantization);
        }
        match &self.gate {
            None => factors,
            Some(LowRankGate { v, bias, rank }) => {
                factors.with_gate(NestedGate::new(v.clone(), bias.clone(), *rank))
            }
        }
    }
}

/// Makes the scores of the last eighth of the units positive for every row.
fn always_on(v: &mut [f32], bias: &mut [f32]) {
    let h = bias.len();
    bias[h - h / 8..].fill(1.0);
    for o in h - h / 8..h {
        v.iter_mut().skip(o).step_by(h).for_each(|v| *v = 0.0);
    }
}

impl Model {
    /// Random layers of these widths, with `hidden` on all but the last, with factors, and with
    /// gates where they are allowed. A prelu with several slopes gets random ones.
    pub(crate) fn random(
        seed: u64,
        widths: &[usize],
        hidden: Activation,
        last: Activation,
    ) -> Self {
        let mut random = Random(seed);
        let count = widths.len() - 1;
        let layer = |i: usize, random: &mut Random| {
            let (d, h) = (widths[i], widths[i + 1]);
            let scale = 2.0 / (d as f32).sqrt();
            let weight = random.values(d * h).iter().map(|w| w * scale).collect();
            let bias = random.values(h);
            let activation = match if i + 1 == count { &last } else { &hidden } {
                Activation::Prelu { slope } if slope.len() > 1 => {
                    Activation::Prelu { slope: random.values(h).into() }
                }
                other => other.clone(),
            };
            Layer::new(weight, bias, d, activation)
        };
        let layers: Vec<_> = (0..count).map(|i| layer(i, &mut random)).collect();
        let gate = |i: usize| {
            let (d, h) = (widths[i], widths[i + 1]);
            let rank = (d.min(h) / 3).max(1);
            let [u, mut v] = [d * rank, rank * h].map(|n| random.values(n));
            let mut bias = random.values(h);
            always_on(&mut v, &mut bias);
            let allowed = i + 1 < count && hidden.has_hard_zero();
            allowed.then(|| Gate::new(u, v, bias, rank))
        };
        let gates: Vec<_> = (0..count).map(gate).collect();
        let mut random = Random(!seed);
        let factors = widths.windows(2).zip(&gates).map(|(pair, gate)| {
            Some(LowRank::random(&mut random, pair[0], pair[1], gate.is_some()))
        });
        let factors = factors.collect();
        Model { layers, gates, factors, map: None }
    }

    /// A relu network.
    pub(crate) fn relu(seed: u64, widths: &[usize]) -> Self {
        Model::random(seed, widths, Activation::Relu, Activation::Identity)
    }

    pub(crate) fn inputs(&self) -> usize {
        self.layers[0].inputs()
    }

    /// `strategy` in every layer; without the gate or dense if a layer lacks a part for it.
    pub(crate) fn uniform(&self, strategy: Strategy) -> Vec<Strategy> {
        (0..self.layers.len()).map(|i| self.possible(i, strategy)).collect()
    }

    /// `strategy`, or the nearest that layer `i` can run.
    pub(crate) fn possible(&self, i: usize, strategy: Strategy) -> Strategy {
        match (strategy, &self.factors[i]) {
            (Strategy::Factor { skip, gate }, Some(factors)) => {
                Strategy::Factor { skip, gate: gate && factors.gate.is_some() }
            }
            (Strategy::Factor { .. }, None) => Strategy::Dense,
            (Strategy::Gate, _) if self.gates[i].is_none() => Strategy::Dense,
            _ => strategy,
        }
    }

    /// The factors of all layers, without quantisations.
    pub(crate) fn all_factors(&self) -> Vec<Option<Factors>> {
        self.factors.iter().map(|each| Some(each.as_ref()?.factors(None))).collect()
    }

    pub(crate) fn network(&self, isa: Isa, strategies: &[Strategy]) -> Network {
        Network::with_isa(self.layers.clone(), self.map.clone(), isa)
            .and_then(|network| network.with_gates(self.gates.clone()))
            .and_then(|network| network.with_factors(self.all_factors()))
            .and_then(|network| network.with_plan(Plan::from_strategies(strategies)))
            .unwrap()
    }

    /// The oracle on one row: every layer's outputs.
    pub(crate) fn oracle(&self, strategies: &[Strategy], row: &[f32]) -> Vec<Vec<Bounded>> {
        let (mut input, mut outputs) = (self.input(row), Vec::new());
        for (i, layer) in self.layers.iter().enumerate() {
            let h = layer.outputs();
            let sums = |u: &[f32], rank: usize| -> Vec<_> {
                (0..rank).map(|k| sum(&input, |i| u[i * rank + k], 0.0)).collect()
            };
            let times_v = |t: &[Bounded], v: &[f32], bias: &[f32]| -> Vec<_> {
                (0..h).map(|o| sum(t, |k| v[k * h + o], bias[o])).collect()
            };
            let keep = |y: &mut Vec<Bounded>, scores: &[Bounded]| {
                for (y, score) in y.iter_mut().zip(scores) {
                    *y = y.kept_where_positive(score.value, score.error);
                }
            };
            let y = match (strategies[i], &self.gates[i], &self.factors[i]) {
                (Strategy::Factor { gate, .. }, _, Some(factors)) => {
                    let t = sums(&factors.u, factors.rank);
                    let z = times_v(&t, &factors.v, &factors.bias);
                    let mut y = activate(layer.activation(), &z);
                    if let Some(nested) = factors.gate.as_ref().filter(|_| gate) {
                        keep(&mut y, &times_v(&t[..nested.rank], &nested.v, &nested.bias));
                    }
                    y
                }
                (strategy, gate, _) => {
                    let weights = layer.weight();
                    let units = weights.chunks_exact(layer.inputs()).zip(layer.bias());
                    let z: Vec<_> = units.map(|(w, b)| sum(&input, |i| w[i], *b)).collect();
                    let mut y = activate(layer.activation(), &z);
                    if let Some(gate) = gate.as_ref().filter(|_| strategy == Strategy::Gate) {
                        let t = sums(gate.u(), gate.rank());
                        keep(&mut y, &times_v(&t, gate.v(), gate.bias()));
                    }
                    y
                }
            };
            outputs.push(y.clone());
            input = y;
        }
        outputs
    }

    fn input(&self, row: &[f32]) -> Vec<Bounded> {
        let value = |(i, &x): (usize, &f32)| {
            let (scale, shift) = self.map.as_ref().map_or((1.0, 0.0), |m| (m.scale(i), m.shift(i)));
            let (scaled, shift) = (f64::from(x) * f64::from(scale), f64::from(shift));
            Bounded { value: scaled + shift, size: scaled.abs() + shift.abs(), error: 0.0 }
        };
        row.iter().enumerate().map(value).collect()
    }
}

/// A value, the sum of the magnitudes of its terms, and a bound on its float32 error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounded {
    pub(crate) value: f64,
    size: f64,
    pub(crate) error: f64,
}

impl Bounded {
    fn new(value: f64, error: f64) -> Self {
        Bounded { value, size: value.abs() + error, error }
    }

    /// Whether `got` is within the bound.
    pub(crate) fn allows(&self, got: f32) -> bool {
        (f64::from(got) - self.value).abs() <= self.error
    }

    /// The value itself if `x > 0`, zero if `x <= 0`, and both if x is uncertain by `error`.
    fn kept_where_positive(self, x: f64, error: f64) -> Self {
        if x > error {
            self
        } else if x <= -error {
            Bounded::new(0.0, 0.0)
        } else {
            Bounded::new(self.value, self.value.abs() + self.error)
        }
    }
}

fn sum(input: &[Bounded], weight: impl Fn(usize) -> f32, bias: f32) -> Bounded {
    let (mut value, mut size, mut error) = (f64::from(bias), f64::from(bias.abs()), 0.0);
    for (i, x) in input.iter().enumerate() {
        let w = f64::from(weight(i));
        value += x.value * w;
        size += x.size * w.abs();
        error += x.error * w.abs();
    }
    let steps = (input.len() + 4) as f64;
    let gamma = steps * ROUNDOFF / (1.0 - steps * ROUNDOFF);
    Bounded { value, size, error: error + gamma * size + steps * DENORMAL }
}

fn activate(activation: &Activation, z: &[Bounded]) -> Vec<Bounded> {
    let largest = z.iter().map(|z| z.value).fold(f64::NEG_INFINITY, f64::max);
    let widest = z.iter().map(|z| z.error).fold(0.0, f64::max);
    let total: f64 = z.iter().map(|z| (z.value - largest).exp()).sum();
    let count = z.len() as f64;
    let one = |(o, z): (usize, &Bounded)| {
        let Bounded { value: x, error, .. } = *z;
        // Functions are assumed to be within `units` in the last place.
        let near = |y: f64, steepest: f64, units: f64| {
            Bounded::new(y, steepest * error + units * ROUNDOFF * y.abs() + DENORMAL)
        };
        let ulps = |y: f64| near(y, 1.0, 4.0);
        let leaky = |slope: f32| {
            let slope = f64::from(slope);
            near(if x > 0.0 { x } else { slope * x }, slope.abs().max(1.0), 1.0)
        };
        match activation {
            Activation::Identity => Bounded::new(x, error),
            Activation::Relu => Bounded::new(x.max(0.0), error),
            Activation::ClippedRelu { upper } => {
                Bounded::new(x.max(0.0).min(f64::from(*upper)), error)
            }
            Activation::HardTanh { lower, upper } => {
                Bounded::new(x.max(f64::from(*lower)).min(f64::from(*upper)), error)
            }
            Activation::ThresholdedRelu { threshold } => {
                Bounded::new(x, error).kept_where_positive(x - f64::from(*threshold), error)
            }
            Activation::SquaredRelu => {
                let y = x.max(0.0);
                near(y * y, 2.0 * y + error, 2.0)
            }
            Activation::LeakyRelu { slope } => leaky(*slope),
            Activation::Prelu { slope } => leaky(slope[o % slope.len()]),
            Activation::HardSigmoid => near((x / 6.0 + 0.5).clamp(0.0, 1.0), 0.2, 4.0),
            Activation::HardSwish => near(x * (x / 6.0 + 0.5).clamp(0.0, 1.0), 1.5, 6.0),
            Activation::Tanh => ulps(x.tanh()),
            Activation::Sigmoid => ulps(1.0 / (1.0 + (-x).exp())),
            // The bounds of silu to exp are those of `activations.rs`.
            Activation::Silu => near(x / (1.0 + (-x).exp()), 1.1, 8.0),
            Activation::Mish => near(x * x.exp().ln_1p().tanh(), 1.09, 12.0),
            Activation::Softplus => near(x.max(0.0) + (-x.abs()).exp().ln_1p(), 1.0, 8.0),
            Activation::Exp => near(x.exp(), x.exp() * error.exp(), 4.0),
            Activation::Elu { alpha } => {
                let alpha = f64::from(*alpha);
                near(if x > 0.0 { x } else { alpha * x.exp_m1() }, alpha.abs().max(1.0), 8.0)
            }
            Activation::Selu => {
                let y = if x > 0.0 { x } else { 1.673_263_242_354_377_2 * x.exp_m1() };
                near(1.050_700_987_355_480_5 * y, 1.7581, 8.0)
            }
            Activation::Gelu => {
                // The slope is at most 1.13. 1 + erf cancels, so roundoff is relative to x.
                let y = 0.5 * x * (1.0 + libm::erf(x / 2.0_f64.sqrt()));
                Bounded::new(y, 1.13 * error + 8.0 * ROUNDOFF * x.abs() + DENORMAL)
            }
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                let y = 0.5 * x * (1.0 + inner.tanh());
                Bounded::new(y, 1.13 * error + 8.0 * ROUNDOFF * x.abs() + DENORMAL)
            }
            Activation::Softmax => {
                // A logit off by e, and the rounding of its distance to the largest, change the
                // probability by a factor of at most exp(2 (e + ...)); the k sums and a division
                // follow.
                let y = (x - largest).exp() / total;
                let distance = 2.0 * (widest + 2.0 * ROUNDOFF * (largest - x + widest));
                let relative = distance.exp_m1() + (count + 12.0) * ROUNDOFF;
                Bounded::new(y, y * relative + 4.0 * DENORMAL)
            }
            Activation::LogSoftmax => {
                let y = x - largest - total.ln();
                let rounding = (count + 12.0) * ROUNDOFF * y.abs() + 1e-15;
                Bounded::new(y, 2.0 * widest + error + rounding + DENORMAL)
            }
            other => panic!("the oracle does not know {other:?}"),
        }
    };
    z.iter().enumerate().map(one).collect()
}

/// The network's outputs on f32 rows without gaps.
pub(crate) fn forward(network: &Network, data: &[f32], rows: usize) -> Vec<f32> {
    let columns = network.input_size();
    run(network, Rows::f32(data, rows, columns, columns).unwrap(), Some(1))
}

/// The network's outputs on any rows.
pub(crate) fn run(network: &Network, rows: Rows<'_>, threads: Option<usize>) -> Vec<f32> {
    // A value that no kernel writes: where it remains, nothing was computed.
    let mut out = vec![-12345.0; rows.len() * network.output_size()];
    network.forward(rows, &mut out, threads).unwrap();
    out
}

/// Two, three and twenty threads give the bits of one, whenever the workers join.
pub(crate) fn workers_do_not_change_bits(network: &Network, rows: Rows<'_>) {
    let one = bits(&run(network, rows, Some(1)));
    for threads in [2, 3, 20] {
        let before = lrgate::pool::parts_shared();
        let start = std::time::Instant::now();
        // Repeated until a worker has taken part.
        for call in 0.. {
            let more = bits(&run(network, rows, Some(threads)));
            assert!(one == more, "{} {threads} threads, call {call}", network.isa().name());
            if call > 8 && lrgate::pool::parts_shared() > before {
                break;
            }
            assert!(start.elapsed().as_secs() < 60, "no worker takes part");
        }
    }
}

/// Number of living workers of the pool.
#[cfg(target_os = "linux")]
pub(crate) fn pool_threads() -> usize {
    let names = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name.starts_with("lrgate-")).count()
}

/// Differences of `got` from the oracle's last layer, as text.
pub(crate) fn differences(what: &str, oracle: &[Vec<Bounded>], got: &[f32]) -> Vec<String> {
    let expected: Vec<_> = oracle.iter().flatten().collect();
    if expected.len() != got.len() {
        return vec![format!("{what}: {} outputs, expected {}", got.len(), expected.len())];
    }
    let wrong = expected.iter().zip(got).enumerate().filter(|(_, (e, y))| !e.allows(**y));
    let text = |(i, (e, y)): (usize, (&&Bounded, &f32))| {
        format!("{what}: output {i} is {y}, expected {} within {:.2e}", e.value, e.error)
    };
    wrong.map(text).collect()
}

/// Fails with the first of the collected failures.
pub(crate) fn none(failures: &[String]) {
    let first = failures.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} failures, the first:\n{first}", failures.len());
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
