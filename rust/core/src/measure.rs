//! Measuring a network on real rows: what each layer does and how long it takes, and which strategy
//! is the fastest for it here.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::forward::{Observer, TILE};
use crate::interrupt;
use crate::kernels::emit::to_byte;
use crate::memory;
use crate::model::Gate;
use crate::network::Network;
use crate::path::{self, Crew, GateScratch};
use crate::plan::{ClassPlan, LayerPlan, Plan, Precision, Strategy};
use crate::rows::{OwnedRows, Rows};
use crate::signal::{DenseRows, DenseRowsMut, Input};

/// The largest batch that [`Network::tune`] measures: its rows must fit memory.
const LARGEST_BATCH: usize = 1 << 20;

/// What one layer did on some rows: sums over them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerCounts {
    /// Inputs that were not zero.
    pub inputs: u64,
    /// Outputs that were not zero.
    pub outputs: u64,
    /// Units computed.
    pub computed: u64,
    /// Gate: units whose dense output is not zero.
    pub active: u64,
    /// Gate: those of them that were computed.
    pub kept: u64,
    /// Gate: squares of the dense outputs.
    pub energy: f64,
    /// Gate: squares of the outputs dropped.
    pub lost: f64,
}

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

/// Counts what each layer sees and yields, and compares gated layers with their dense selves.
struct Count<'a> {
    network: &'a Network,
    class: &'a ClassPlan,
    counts: Vec<LayerCounts>,
    /// The input of the layer that is running, dense.
    input: Vec<f32>,
}

impl Count<'_> {
    /// Takes layer `layer`'s output, once it is known.
    fn take_output(&mut self, layer: usize, output: &[f32]) {
        self.counts[layer].outputs += output.iter().filter(|y| **y != 0.0).count() as u64;
        if self.class.layers[layer].strategy != Strategy::Gate {
            return;
        }
        let parts = self.network.layers[layer].parts();
        let (inputs, outputs) = (parts.layer.layer().inputs(), parts.layer.layer().outputs());
        let n = output.len() / outputs;
        let mut dense = memory::filled(0.0, output.len());
        let rows = DenseRows::new(&self.input, n, inputs, inputs);
        let mut to = parts.output(Precision::F32);
        to.dense = Some(DenseRowsMut::new(&mut dense, n, outputs, outputs));
        let input =
            Input { rows: n, dense: Some(rows), lists: None, bytes: None, byte_lists: None };
        let plan = LayerPlan { strategy: Strategy::Dense, precision: Precision::F32 };
        let crew = Crew::alone(self.network.isa);
        path::run(plan, crew, parts, input, to, &mut GateScratch::default(), &mut |_| ());
        // What the next layer's bytes cannot tell from zero is not lost.
        if let Some(next) = self.network.quantization(layer + 1)
            && self.class.layers[layer + 1].precision == Precision::Int8
        {
            for (o, y) in dense.iter_mut().enumerate() {
                let (scale, offset) = (next.scale(o % outputs), next.offset(0));
                let byte = to_byte(*y * (1.0 / scale) + offset);
                *y = (f32::from(byte) - offset) * scale;
            }
        }
        let counts = &mut self.counts[layer];
        for (&y, &gated) in dense.iter().zip(output).filter(|(y, _)| **y != 0.0) {
            let square = f64::from(y) * f64::from(y);
            counts.active += 1;
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
        self.network.append_dense(&mut rows, layer, input);
        if layer > 0 {
            self.take_output(layer - 1, &rows);
        }
        self.counts[layer].inputs += rows.iter().filter(|x| **x != 0.0).count() as u64;
        self.input = rows;
    }

    fn after(&mut self, layer: usize, _rows: usize, computed: usize) {
        self.counts[layer].computed += computed as u64;
    }

    fn output(&mut self, rows: DenseRows<'_>) {
        let mut all: Vec<f32> = memory::room(rows.rows() * rows.columns());
        (0..rows.rows()).for_each(|r| all.extend_from_slice(rows.row(r)));
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
pub(crate) fn clock_overhead() -> f64 {
    let mut times: Vec<u128> = (0..101)
        .map(|_| {
            let start = Instant::now();
            start.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2] as f64
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
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
        let counts = self.count(rows, batch)?;
        let seconds = self.time_layers(class, rows, batch, time, 3)?;
        Ok((0..self.layers.len())
            .map(|i| self.layer_profile(i, class.layers[i], &counts[i], rows.rows, seconds[i]))
            .collect())
    }

    /// Runs the network over `rows` under the plan for `batch` rows a call, and counts what each
    /// layer does. Layers that are gated are computed in full too, from the same inputs.
    ///
    /// # Errors
    /// Rows of another width than the network's, no rows, or a `batch` of 0.
    pub fn count(&self, rows: Rows<'_>, batch: usize) -> Result<Vec<LayerCounts>> {
        check_sample("x", rows.rows)?;
        check_sample("batch_size", batch)?;
        let class = self.plan.for_rows(batch);
        let counts = vec![LayerCounts::default(); self.layers.len()];
        let mut count = Count { network: self, class, counts, input: Vec::new() };
        self.observe(class, rows, &mut count)?;
        Ok(count.counts)
    }

    /// Median seconds per row of each layer under the plan for `batch` rows a call, on one thread,
    /// over passes repeated for at least `time`.
    ///
    /// # Errors
    /// As [`Network::profile`].
    pub fn layer_seconds(&self, rows: Rows<'_>, batch: usize, time: Duration) -> Result<Vec<f64>> {
        self.check_width(rows)?;
        check_sample("x", rows.rows)?;
        check_sample("batch_size", batch)?;
        self.time_layers(self.plan.for_rows(batch), rows, batch, time, 1)
    }

    fn layer_profile(
        &self,
        i: usize,
        plan: LayerPlan,
        counts: &LayerCounts,
        rows: usize,
        seconds: f64,
    ) -> LayerProfile {
        let layer = self.layers[i].packed.layer();
        let (n, d, h) = (rows as f64, layer.inputs() as f64, layer.outputs() as f64);
        let density_in = counts.inputs as f64 / (n * d);
        let computed_share = counts.computed as f64 / (n * h);
        let rank = self.gate(i).map(Gate::rank);
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
            recall: rank.map(|_| ratio(counts.kept as f64, counts.active as f64, 1.0)),
            lost_energy: rank.map(|_| ratio(counts.lost, counts.energy, 0.0)),
            seconds,
            multiply_adds,
            dense_multiply_adds: d * h,
        }
    }

    /// Median seconds per row of each layer, over passes repeated for `time`.
    fn time_layers(
        &self,
        class: &ClassPlan,
        rows: Rows<'_>,
        batch: usize,
        time: Duration,
        least_passes: usize,
    ) -> Result<Vec<f64>> {
        let overhead = clock_overhead();
        let layers = self.layers.len();
        let mut passes: Vec<Vec<f64>> = vec![Vec::new(); layers];
        let begin = Instant::now();
        // The first pass warms up.
        for pass in 0.. {
            let mut tiles = 0;
            let mut clock = Clock { start: begin, nanoseconds: vec![0.0; layers] };
            for rows in rows.batches(batch) {
                tiles += rows.rows.div_ceil(self.tile(class));
                self.observe(class, rows, &mut clock)?;
            }
            if pass > 0 {
                for (times, t) in passes.iter_mut().zip(&clock.nanoseconds) {
                    times.push((t - tiles as f64 * overhead).max(0.0));
                }
            }
            if pass >= least_passes && begin.elapsed() > time {
                break;
            }
        }
        let per_row = 1e-9 / rows.rows as f64;
        Ok(passes.iter_mut().map(|times| median(times) * per_row).collect())
    }

    /// Measures which strategy is the fastest for each layer and batch class on this machine and
    /// these rows, and returns the network with that plan. Gates are used where a layer has one and
    /// it is faster. `time` is about what each class takes; calls use `threads` threads.
    ///
    /// Layer times under each uniform plan propose a mix; then whole passes decide: the mix, its
    /// neighbours that differ in one layer, and dense, measured by turns. Where nothing is faster
    /// than dense, the plan is dense. A gate, which is not exact, must gain 2 % over doing without.
    ///
    /// # Errors
    /// Rows of another width, no rows, 0 threads, or batch sizes that [`Plan::new`] refuses.
    pub fn tune(
        &self,
        rows: Rows<'_>,
        batch_sizes: &[usize],
        time: Duration,
        threads: usize,
    ) -> Result<Network> {
        self.check_width(rows)?;
        check_sample("x", rows.rows)?;
        let class = |&rows| ClassPlan { rows, layers: self.plan.for_rows(rows).layers.clone() };
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
            let gates = (0..self.layers.len()).map(|i| self.can_gate(i, class.layers[i])).collect();
            let sample = Sample::new(self, rows, class.rows, time, threads)?;
            let precisions = precisions(&class.layers);
            let tuning = Tuning { network: self, sample: sample.view(), gates, precisions };
            class.layers = tuning.careful()?;
        }
        self.with_plan(Plan::new(classes)?)
    }

    /// Measures the plan's classes again, within about `time` in all: for a plan that was made on
    /// another machine. Gates stay off where no class of the plan has them on. A class that cannot
    /// be measured within its share of the time keeps its plan.
    ///
    /// # Errors
    /// Rows of another width, or no rows.
    pub fn retune(&self, rows: Rows<'_>, time: Duration) -> Result<Network> {
        self.check_width(rows)?;
        check_sample("x", rows.rows)?;
        let mut classes = self.plan.classes().to_vec();
        let used = |i: usize| {
            self.plan.classes().iter().any(|class| class.layers[i].strategy == Strategy::Gate)
        };
        let gates: Vec<_> = (0..self.layers.len()).map(used).collect();
        let share = time / classes.len() as u32;
        let begin = Instant::now();
        for class in &mut classes {
            if begin.elapsed() > time {
                break;
            }
            let batch = class.rows.min(TILE);
            let sample = Sample::new(self, rows, batch, share, 1)?;
            let precisions = precisions(&class.layers);
            let can = |(i, used): (usize, &bool)| *used && self.can_gate(i, class.layers[i]);
            let gates = gates.iter().enumerate().map(can).collect();
            let tuning = Tuning { network: self, sample: sample.view(), gates, precisions };
            if let Some(layers) = tuning.quick(&class.layers)? {
                class.layers = layers;
            }
        }
        self.with_plan(Plan::new(classes)?)
    }
}

impl Network {
    /// Whether layer `i` could run a gate in the precision that `plan` has.
    fn can_gate(&self, i: usize, plan: LayerPlan) -> bool {
        match plan.precision {
            Precision::F32 => self.layers[i].gate.is_some(),
            Precision::Int8 => self.layers[i].int8_gate.is_some(),
        }
    }
}

/// The rows that a class is tuned on.
struct Sample<'a> {
    rows: Rows<'a>,
    repeated: Option<OwnedRows>,
    batch: usize,
    time: Duration,
    threads: usize,
}

/// A [`Sample`] whose rows are at least one batch.
#[derive(Clone, Copy)]
struct SampleView<'a> {
    rows: Rows<'a>,
    batch: usize,
    time: Duration,
    threads: usize,
}

impl<'a> Sample<'a> {
    /// A sample for calls of `batch` rows, or of fewer where such calls take too long to be repeated
    /// within `time`: large calls are made of tiles, so that a part is as good as the whole.
    fn new(
        network: &Network,
        rows: Rows<'a>,
        batch: usize,
        time: Duration,
        threads: usize,
    ) -> Result<Self> {
        if threads == 0 {
            return Err(Error::Threads { name: "num_threads", got: "0".to_owned() });
        }
        let dense = network.dense_row_time();
        let most = (time.as_secs_f64() / 20.0 / dense.as_secs_f64().max(1e-9)) as usize;
        let batch = batch.min(most.max(4 * TILE * threads));
        let repeated = (rows.rows < batch).then(|| rows.repeated(batch));
        Ok(Sample { rows, repeated, batch, time, threads })
    }

    fn view(&self) -> SampleView<'_> {
        let rows = self.repeated.as_ref().map_or(self.rows, OwnedRows::rows);
        SampleView { rows, batch: self.batch, time: self.time, threads: self.threads }
    }
}

/// The choice of a class's strategies.
struct Tuning<'a> {
    network: &'a Network,
    sample: SampleView<'a>,
    /// Whether a layer's gate may be used.
    gates: Vec<bool>,
    /// Each layer's, which stays.
    precisions: Vec<Precision>,
}

impl Tuning<'_> {
    /// The mix of the fastest layers, its neighbours, and dense, each in whole calls.
    fn careful(&self) -> Result<Vec<LayerPlan>> {
        let mix = self.mix(self.sample.time / 10, 3)?;
        let mut candidates = vec![vec![Strategy::Dense; mix.len()]];
        if mix != candidates[0] {
            candidates.push(mix.clone());
        }
        for i in 0..mix.len() {
            for strategy in self.options(i).filter(|s| *s != mix[i]) {
                let mut neighbour = mix.clone();
                neighbour[i] = strategy;
                candidates.push(neighbour);
            }
        }
        let times = self.call_seconds(&candidates, 3)?;
        Ok(self.layer_plans(&candidates[fastest(&candidates, &times)]))
    }

    /// The mix of the fastest layers, the plan as it is, and dense; `None` where time is too short.
    fn quick(&self, plan: &[LayerPlan]) -> Result<Option<Vec<LayerPlan>>> {
        let dense = vec![Strategy::Dense; plan.len()];
        let begin = Instant::now();
        // What follows makes calls of about so many rows; a batch takes a third of the time a row.
        let (batch, turn) = (self.sample.batch, turn(self.sample.batch));
        let rows = 6 * batch.max(QUICK_ROWS) + 3 * turn * batch;
        let calls = (if batch < 8 { rows } else { rows / 3 }) as u32;
        // By the least that it can take first, so that nothing is packed in vain; then one row by the
        // clock, twice, since the first call may pack weights.
        if self.network.dense_row_time() * calls > self.sample.time {
            return Ok(None);
        }
        let network = self.under(&dense)?;
        let mut out = memory::filled(0.0, network.output_size());
        let mut row = Duration::ZERO;
        for _ in 0..2 {
            let start = Instant::now();
            network.forward(self.sample.rows.slice(0, 1), &mut out, Some(1))?;
            row = start.elapsed();
        }
        if row * calls > self.sample.time {
            return Ok(None);
        }
        let mix = self.mix(Duration::ZERO, 1)?;
        let mut candidates = vec![dense, plan.iter().map(|layer| layer.strategy).collect()];
        if !candidates.contains(&mix) {
            candidates.push(mix);
        }
        let left = self.sample.time.saturating_sub(begin.elapsed());
        let sample = SampleView { time: left, ..self.sample };
        let (gates, precisions) = (self.gates.clone(), self.precisions.clone());
        let tuning = Tuning { network: self.network, sample, gates, precisions };
        let times = tuning.call_seconds(&candidates, 1)?;
        Ok(Some(self.layer_plans(&candidates[fastest(&candidates, &times)])))
    }

    fn layer_plans(&self, strategies: &[Strategy]) -> Vec<LayerPlan> {
        let plan = |(&strategy, &precision)| LayerPlan { strategy, precision };
        strategies.iter().zip(&self.precisions).map(plan).collect()
    }

    /// The network with these strategies in every class.
    fn under(&self, strategies: &[Strategy]) -> Result<Network> {
        let class = ClassPlan { rows: 1, layers: self.layer_plans(strategies) };
        self.network.with_plan(Plan::new(vec![class])?)
    }

    fn options(&self, i: usize) -> impl Iterator<Item = Strategy> {
        let gate = self.gates[i].then_some(Strategy::Gate);
        [Some(Strategy::Dense), Some(Strategy::Skip), gate].into_iter().flatten()
    }

    /// Each layer's fastest strategy, from passes under each uniform plan.
    fn mix(&self, time: Duration, passes: usize) -> Result<Vec<Strategy>> {
        let SampleView { rows, batch, .. } = self.sample;
        let rows =
            rows.slice(0, rows.rows.min(batch.max(if passes > 1 { 64 } else { QUICK_ROWS })));
        let mut best = vec![(f64::INFINITY, Strategy::Dense); self.network.layers.len()];
        for strategy in Strategy::ALL {
            let fallback = |i| self.options(i).find(|s| *s == strategy).unwrap_or(Strategy::Skip);
            let strategies: Vec<_> = (0..best.len()).map(fallback).collect();
            let network = self.under(&strategies)?;
            let class = &network.plan.classes()[0];
            let seconds = network.time_layers(class, rows, batch, time, passes)?;
            for ((best, seconds), strategy) in best.iter_mut().zip(seconds).zip(strategies) {
                if seconds < best.0 {
                    *best = (seconds, strategy);
                }
            }
        }
        Ok(best.into_iter().map(|(_, strategy)| strategy).collect())
    }

    /// Median seconds per call under each candidate, measured by turns for about the sample's time
    /// and at least `rounds` rounds, with other rows each call where there are enough.
    fn call_seconds(&self, candidates: &[Vec<Strategy>], rounds: usize) -> Result<Vec<f64>> {
        let SampleView { rows, batch, time, threads } = self.sample;
        let networks = candidates
            .iter()
            .map(|strategies| self.under(strategies))
            .collect::<Result<Vec<_>>>()?;
        let mut out = memory::filled(0.0, batch.saturating_mul(self.network.output_size()));
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); networks.len()];
        let starts = rows.rows - batch + 1;
        let begin = Instant::now();
        let mut call = 0_usize;
        // A turn is a few calls for short ones, so that the caches are as a loop of calls leaves
        // them; its first call meets them as the last network left them.
        let turn = turn(batch);
        for round in 1.. {
            for (network, times) in networks.iter().zip(&mut times) {
                for i in 0..turn {
                    let first = (call * batch) % starts;
                    call += 1;
                    interrupt::check()?;
                    let start = Instant::now();
                    network.forward(rows.slice(first, batch), &mut out, Some(threads))?;
                    if i > 0 {
                        times.push(start.elapsed().as_secs_f64());
                    }
                }
            }
            if round >= rounds && begin.elapsed() > time {
                break;
            }
        }
        Ok(times.iter_mut().map(|times| median(times)).collect())
    }
}

/// Calls of a candidate before the next one's.
fn turn(batch: usize) -> usize {
    if batch < TILE { 4 * (8 / batch).max(1) } else { 2 }
}

/// Rows that a quick measure of layers takes at least.
const QUICK_ROWS: usize = 16;

/// The fastest candidate, or one with fewer gates that is nearly as fast.
fn fastest(candidates: &[Vec<Strategy>], times: &[f64]) -> usize {
    let gates = |i: usize| candidates[i].iter().filter(|s| **s == Strategy::Gate).count();
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    (0..times.len())
        .filter(|i| times[*i] <= least * GATE_MUST_GAIN)
        .min_by(|a, b| gates(*a).cmp(&gates(*b)).then(times[*a].total_cmp(&times[*b])))
        .unwrap_or(0)
}

/// What is not exact must be this much faster than what is.
const GATE_MUST_GAIN: f64 = 1.02;

fn precisions(layers: &[LayerPlan]) -> Vec<Precision> {
    layers.iter().map(|layer| layer.precision).collect()
}

pub(crate) fn check_sample(name: &str, got: usize) -> Result<()> {
    if got > 0 {
        return Ok(());
    }
    Err(Error::Parameter {
        name: if name == "x" { "rows of x".to_owned() } else { name.to_owned() },
        expected: "at least 1".to_owned(),
        got: got.to_string(),
    })
}
