//! Measuring a network on real rows: what each layer does and how long it takes, and which strategy
//! is the fastest for it here.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::forward::{Observer, append_dense};
use crate::kernels::DenseRows;
use crate::network::Network;
use crate::plan::{ClassPlan, LayerPlan, Plan, Precision, Strategy};
use crate::rows::Rows;
use crate::strategy::{self, Input};
use crate::workspace::GateScratch;

/// The largest batch that [`Network::tune`] measures: its rows must fit memory.
const LARGEST_BATCH: usize = 1 << 20;

/// What one layer did on the rows of a profile.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerProfile {
    /// How it was computed.
    pub strategy: Strategy,
    /// In which number format.
    pub precision: Precision,
    /// Rank of its gate, where the gate was used.
    pub rank: Option<usize>,
    /// Share of its inputs that were not zero.
    pub density_in: f64,
    /// Share of its outputs that were not zero.
    pub density_out: f64,
    /// Share of its units that were computed.
    pub computed_share: f64,
    /// Gate: share of the truly positive units that were computed.
    pub recall: Option<f64>,
    /// Gate: squares of the positive outputs dropped, over the squares of all positive outputs.
    pub lost_energy: Option<f64>,
    /// Median time per row, in seconds, on one thread.
    pub seconds: f64,
    /// Multiply-adds done per row, an average.
    pub multiply_adds: f64,
    /// Multiply-adds of the dense layer per row.
    pub dense_multiply_adds: f64,
}

/// Sums over rows, of one layer.
#[derive(Clone, Default)]
struct Counts {
    inputs: usize,
    outputs: usize,
    computed: usize,
    positive: usize,
    kept: usize,
    energy: f64,
    lost: f64,
}

/// Counts what each layer sees and yields, and compares gated layers with their dense selves.
struct Count<'a> {
    network: &'a Network,
    class: &'a ClassPlan,
    counts: Vec<Counts>,
    /// The input of the layer that is running, dense.
    input: Vec<f32>,
}

impl Count<'_> {
    /// Takes layer `layer`'s output, once it is known.
    fn take_output(&mut self, layer: usize, output: &[f32]) {
        self.counts[layer].outputs += output.iter().filter(|y| **y != 0.0).count();
        if self.class.layers[layer].strategy != Strategy::Gate {
            return;
        }
        let packed = &self.network.layers[layer].packed;
        let (inputs, outputs) = (packed.layer().inputs(), packed.layer().outputs());
        let n = output.len() / outputs;
        let mut dense = vec![0.0; output.len()];
        let rows = DenseRows::new(&self.input, n, inputs, inputs);
        let mut to = packed.output();
        to.dense = Some(crate::kernels::DenseRowsMut::new(&mut dense, n, outputs, outputs));
        let input = Input { rows: n, dense: Some(rows), lists: None };
        let isa = self.network.isa;
        strategy::run(Strategy::Dense, isa, packed, None, input, to, &mut GateScratch::default());
        let counts = &mut self.counts[layer];
        for (&y, &gated) in dense.iter().zip(output).filter(|(y, _)| **y != 0.0) {
            let square = f64::from(y) * f64::from(y);
            counts.positive += 1;
            counts.energy += square;
            if gated == 0.0 {
                counts.lost += square;
            } else {
                counts.kept += 1;
            }
        }
    }
}

impl Observer for Count<'_> {
    const DENSE_INPUTS: bool = true;

    fn before(&mut self, layer: usize, input: Input<'_>) {
        let mut rows = Vec::new();
        append_dense(&mut rows, input);
        if layer > 0 {
            self.take_output(layer - 1, &rows);
        }
        self.counts[layer].inputs += rows.iter().filter(|x| **x != 0.0).count();
        self.input = rows;
    }

    fn after(&mut self, layer: usize, _rows: usize, computed: usize) {
        self.counts[layer].computed += computed;
    }

    fn output(&mut self, rows: DenseRows<'_>) {
        let all: Vec<f32> = (0..rows.rows()).flat_map(|r| rows.row(r)).copied().collect();
        self.take_output(self.counts.len() - 1, &all);
    }
}

/// Adds up the time of each layer.
struct Clock {
    start: Instant,
    nanoseconds: Vec<f64>,
}

impl Observer for Clock {
    #[inline]
    fn before(&mut self, _layer: usize, _input: Input<'_>) {
        self.start = Instant::now();
    }
    #[inline]
    fn after(&mut self, layer: usize, _rows: usize, _computed: usize) {
        self.nanoseconds[layer] += self.start.elapsed().as_nanos() as f64;
    }
}

/// What reading the clock twice takes, in nanoseconds: part of every measured layer time.
fn clock_overhead() -> f64 {
    let mut times: Vec<u128> = (0..101)
        .map(|_| {
            let start = Instant::now();
            start.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2] as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Network {
    /// Runs the network over `rows`, `batch` rows a call, and tells what each layer did and how long
    /// it took: counts from one pass, times as medians of passes repeated for at least `time`.
    ///
    /// # Errors
    /// Rows of another width than the network's, no rows, or a `batch` of 0.
    pub fn profile(
        &self,
        rows: Rows<'_>,
        batch: usize,
        time: Duration,
    ) -> Result<Vec<LayerProfile>> {
        self.check_width(rows)?;
        check_sample("x", rows.rows)?;
        check_sample("batch_size", batch)?;
        let class = self.plan.for_rows(batch);
        let counts = vec![Counts::default(); self.layers.len()];
        let mut count = Count { network: self, class, counts, input: Vec::new() };
        for rows in rows.batches(batch) {
            self.observe(class, rows, &mut count)?;
        }
        let seconds = self.layer_seconds(class, rows, batch, time)?;
        Ok((0..self.layers.len())
            .map(|i| {
                self.layer_profile(i, class.layers[i], &count.counts[i], rows.rows, seconds[i])
            })
            .collect())
    }

    fn layer_profile(
        &self,
        i: usize,
        plan: LayerPlan,
        counts: &Counts,
        rows: usize,
        seconds: f64,
    ) -> LayerProfile {
        let layer = self.layers[i].packed.layer();
        let (n, d, h) = (rows as f64, layer.inputs() as f64, layer.outputs() as f64);
        let density_in = counts.inputs as f64 / (n * d);
        let computed_share = counts.computed as f64 / (n * h);
        let rank = self.gate(i).map(crate::network::Gate::rank);
        let rank = rank.filter(|_| plan.strategy == Strategy::Gate);
        let multiply_adds = match (plan.strategy, rank) {
            (Strategy::Dense, _) => d * h,
            (Strategy::Gate, Some(k)) => k as f64 * (d * density_in + h) + computed_share * d * h,
            _ => density_in * d * h,
        };
        let ratio = |part: f64, whole: f64, empty| if whole > 0.0 { part / whole } else { empty };
        LayerProfile {
            strategy: plan.strategy,
            precision: plan.precision,
            rank,
            density_in,
            density_out: counts.outputs as f64 / (n * h),
            computed_share,
            recall: rank.map(|_| ratio(counts.kept as f64, counts.positive as f64, 1.0)),
            lost_energy: rank.map(|_| ratio(counts.lost, counts.energy, 0.0)),
            seconds,
            multiply_adds,
            dense_multiply_adds: d * h,
        }
    }

    /// Median seconds per row of each layer.
    fn layer_seconds(
        &self,
        class: &ClassPlan,
        rows: Rows<'_>,
        batch: usize,
        time: Duration,
    ) -> Result<Vec<f64>> {
        let overhead = clock_overhead();
        let layers = self.layers.len();
        let mut passes: Vec<Vec<f64>> = vec![Vec::new(); layers];
        let begin = Instant::now();
        // One pass to warm up, then at least three.
        for pass in 0.. {
            let mut tiles = 0;
            let mut clock = Clock { start: begin, nanoseconds: vec![0.0; layers] };
            for rows in rows.batches(batch) {
                tiles += rows.rows.div_ceil(self.tile());
                self.observe(class, rows, &mut clock)?;
            }
            if pass > 0 {
                for (times, t) in passes.iter_mut().zip(&clock.nanoseconds) {
                    times.push((t - tiles as f64 * overhead).max(0.0));
                }
            }
            if pass >= 3 && begin.elapsed() > time {
                break;
            }
        }
        let per_row = 1e-9 / rows.rows as f64;
        Ok(passes.iter_mut().map(|times| median(times) * per_row).collect())
    }

    /// Measures which strategy is the fastest for each layer and batch class on this machine and
    /// these rows, on one thread, and returns the network with that plan. Gates are used where a
    /// layer has one and it is faster. `time` is about what each class takes.
    ///
    /// Layer times under each uniform plan propose a mix; then whole passes decide: the mix, its
    /// neighbours that differ in one layer, and dense, measured by turns. Where nothing is faster
    /// than dense, the plan is dense.
    ///
    /// # Errors
    /// Rows of another width, no rows, or batch sizes that [`Plan::new`] refuses.
    pub fn tune(&self, rows: Rows<'_>, batch_sizes: &[usize], time: Duration) -> Result<Network> {
        self.check_width(rows)?;
        check_sample("x", rows.rows)?;
        let dense = LayerPlan { strategy: Strategy::Dense, precision: Precision::F32 };
        let class = |&rows| ClassPlan { rows, layers: vec![dense; self.layers.len()] };
        let mut classes = batch_sizes.iter().map(class).collect::<Vec<_>>();
        // Refuses bad batch sizes before the work.
        Plan::new(classes.clone())?;
        if let Some(size) = batch_sizes.iter().find(|size| **size > LARGEST_BATCH) {
            return Err(Error::Parameter {
                name: "batch_sizes".to_owned(),
                expected: format!("at most {LARGEST_BATCH} to be measured"),
                got: size.to_string(),
            });
        }
        for class in &mut classes {
            class.layers = self.tune_class(rows, class.rows, time)?;
        }
        self.with_plan(Plan::new(classes)?)
    }

    fn tune_class(&self, rows: Rows<'_>, batch: usize, time: Duration) -> Result<Vec<LayerPlan>> {
        let repeated;
        let rows = if rows.rows < batch {
            repeated = rows.repeated(batch);
            repeated.rows()
        } else {
            rows
        };
        let options = |i: usize| {
            let gate = self.layers[i].gate.is_some().then_some(Strategy::Gate);
            [Some(Strategy::Dense), Some(Strategy::Skip), gate].into_iter().flatten()
        };
        let sample = rows.slice(0, rows.rows.min(batch.max(64)));
        let mut best = vec![(f64::INFINITY, Strategy::Dense); self.layers.len()];
        for strategy in Strategy::ALL {
            let fallback = |i| options(i).find(|s| *s == strategy).unwrap_or(Strategy::Skip);
            let strategies: Vec<_> = (0..best.len()).map(fallback).collect();
            let network = self.with_plan(Plan::from_strategies(&strategies))?;
            let class = &network.plan.classes()[0];
            let seconds = network.layer_seconds(class, sample, batch, time / 10)?;
            for ((best, seconds), strategy) in best.iter_mut().zip(seconds).zip(strategies) {
                if seconds < best.0 {
                    *best = (seconds, strategy);
                }
            }
        }
        let mix: Vec<_> = best.iter().map(|best| best.1).collect();
        let mut candidates = vec![vec![Strategy::Dense; mix.len()]];
        if mix != candidates[0] {
            candidates.push(mix.clone());
        }
        for i in 0..mix.len() {
            for strategy in options(i).filter(|s| *s != mix[i]) {
                let mut neighbour = mix.clone();
                neighbour[i] = strategy;
                candidates.push(neighbour);
            }
        }
        let networks = candidates
            .iter()
            .map(|strategies| self.with_plan(Plan::from_strategies(strategies)))
            .collect::<Result<Vec<_>>>()?;
        let times = call_seconds(&networks, rows, batch, time)?;
        let fastest = (0..times.len()).min_by(|a, b| times[*a].total_cmp(&times[*b]));
        let strategies = &candidates[fastest.unwrap_or(0)];
        let plan = |&strategy| LayerPlan { strategy, precision: Precision::F32 };
        Ok(strategies.iter().map(plan).collect())
    }
}

/// Median seconds per call of each network on `batch` rows, measured by turns for about `time`, with
/// other rows each call where there are more than one batch of them.
fn call_seconds(
    networks: &[Network],
    rows: Rows<'_>,
    batch: usize,
    time: Duration,
) -> Result<Vec<f64>> {
    let mut out = vec![0.0; batch * networks[0].output_size()];
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); networks.len()];
    let starts = rows.rows - batch + 1;
    let begin = Instant::now();
    let mut call = 0_usize;
    // A turn is a few calls for short ones, so that the caches are as a loop of calls leaves them.
    let turn = 4 * (8 / batch).max(1);
    for round in 0.. {
        for (network, times) in networks.iter().zip(&mut times) {
            for i in 0..turn {
                let first = (call * batch) % starts;
                call += 1;
                let start = Instant::now();
                network.forward(rows.slice(first, batch), &mut out, Some(1))?;
                // The first call of a turn meets the caches as the last network left them.
                if i > 0 {
                    times.push(start.elapsed().as_secs_f64());
                }
            }
        }
        if round >= 2 && begin.elapsed() > time {
            break;
        }
    }
    Ok(times.iter_mut().map(|times| median(times)).collect())
}

fn check_sample(name: &str, got: usize) -> Result<()> {
    if got > 0 {
        return Ok(());
    }
    Err(Error::Parameter {
        name: if name == "x" { "rows of x".to_owned() } else { name.to_owned() },
        expected: "at least 1".to_owned(),
        got: got.to_string(),
    })
}
