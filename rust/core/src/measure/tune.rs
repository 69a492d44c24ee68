//! Plans by measurement: the fastest strategy for each layer and batch size on this machine.

use std::time::{Duration, Instant};

use super::clock::{median, time_layers};
use super::sample::check_sample;
use crate::error::{Error, Result, Subject};
use crate::exec::TILE;
use crate::interrupt;
use crate::memory;
use crate::model::Layer;
use crate::network::Network;
use crate::plan::{BatchPlan, LayerPlan, Plan, Strategy};
use crate::rows::{OwnedRows, Rows};

/// The largest batch that [`Network::tune`] measures, because its rows must fit in memory.
const LARGEST_BATCH: usize = 1 << 20;

impl Network {
    /// Measures the fastest strategy for each layer and batch size on this machine and these rows,
    /// and returns the network with that plan. A gate or factors are used if the layer has them and
    /// they are faster. Each batch size takes about `time`; calls use `threads` threads.
    ///
    /// Layer times under each uniform plan propose a mix. Whole passes then decide between the mix,
    /// its neighbours that differ in one layer, and dense, in interleaved measurements. If nothing
    /// is faster than dense, the plan is dense. Gates and factors are not exact, so a plan with more
    /// of them must be at least 2 % faster than one with fewer.
    ///
    /// # Errors
    /// Rows of another width than the network's, no rows, 0 threads, or batch sizes that
    /// [`Plan::new`] refuses.
    pub fn tune(
        &self,
        rows: Rows<'_>,
        batch_sizes: &[usize],
        time: Duration,
        threads: usize,
    ) -> Result<Network> {
        self.check_width(rows)?;
        check_sample(Subject::RowCount, rows.rows)?;
        let batch_plan = |&rows| BatchPlan { rows, ..self.plan().for_rows(rows).clone() };
        let mut batch_plans = batch_sizes.iter().map(batch_plan).collect::<Vec<_>>();
        // Refuses invalid batch sizes before any measurement.
        Plan::new(batch_plans.clone())?;
        if let Some(size) = batch_sizes.iter().find(|size| **size > LARGEST_BATCH) {
            return Err(Error::Range {
                subject: Subject::BatchSizes,
                expected: format!("at most {LARGEST_BATCH} to be measured"),
                got: size.to_string(),
            });
        }
        for batch_plan in &mut batch_plans {
            let layers = batch_plan.layers.iter().enumerate();
            let options = layers.map(|(i, plan)| self.options(i, *plan, |_| true)).collect();
            let sample = Sample::new(self, rows, batch_plan.rows, time, threads)?;
            let present = batch_plan.clone();
            let tuning = Tuning { network: self, sample: sample.view(), options, present };
            batch_plan.set_layers(tuning.careful()?);
        }
        self.with_plan(Plan::new(batch_plans)?)
    }

    /// Measures the plan's batch sizes again, within about `time` in total, for a plan that was
    /// made on another machine. Gates and factors that no batch size uses stay off. A batch size
    /// that cannot be measured within its share of the time keeps its plan.
    ///
    /// # Errors
    /// Rows of another width than the network's, or no rows.
    pub fn retune(&self, rows: Rows<'_>, time: Duration) -> Result<Network> {
        self.check_width(rows)?;
        check_sample(Subject::RowCount, rows.rows)?;
        let mut batch_plans = self.plan().batch_plans().to_vec();
        let used = |i: usize, strategy: Strategy| {
            let of_layer = self.plan().batch_plans().iter().map(|plan| plan.layers[i].strategy);
            of_layer.map(Strategy::without_skip).any(|used| used == strategy.without_skip())
        };
        let share = time / batch_plans.len() as u32;
        let begin = Instant::now();
        for batch_plan in &mut batch_plans {
            if begin.elapsed() > time {
                break;
            }
            let batch = batch_plan.rows.min(TILE);
            let sample = Sample::new(self, rows, batch, share, 1)?;
            let present = batch_plan.clone();
            let layers = batch_plan.layers.iter().enumerate();
            let options = layers.map(|(i, plan)| self.options(i, *plan, |s| used(i, s))).collect();
            let tuning = Tuning { network: self, sample: sample.view(), options, present };
            if let Some(layers) = tuning.quick()? {
                batch_plan.set_layers(layers);
            }
        }
        self.with_plan(Plan::new(batch_plans)?)
    }

    /// The strategies that layer `i` can run in the precision of `plan`: those that are exact, and
    /// the others that are `allowed`.
    fn options(
        &self,
        i: usize,
        plan: LayerPlan,
        allowed: impl Fn(Strategy) -> bool,
    ) -> Vec<Strategy> {
        let can =
            |strategy: &Strategy| self.layers[i].can(LayerPlan { strategy: *strategy, ..plan });
        let tried = |strategy: &Strategy| strategy.is_exact() || allowed(*strategy);
        Strategy::ALL.into_iter().filter(|strategy| tried(strategy) && can(strategy)).collect()
    }

    /// A lower estimate of the time per row if every layer is dense.
    fn dense_row_time(&self) -> Duration {
        let products = self.layers().map(Layer::multiply_adds);
        Duration::from_nanos(products.sum::<usize>() as u64 / 100)
    }
}

/// The rows for tuning one batch size.
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
    /// A sample for calls of `batch` rows, or of fewer rows if such calls take too long to be
    /// repeated within `time`. Large calls are divided into tiles, so fewer rows are
    /// representative.
    fn new(
        network: &Network,
        rows: Rows<'a>,
        batch: usize,
        time: Duration,
        threads: usize,
    ) -> Result<Self> {
        if threads == 0 {
            return Err(Error::Threads { variable: None, got: "0".to_owned() });
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

/// Chooses the strategies for one batch size.
struct Tuning<'a> {
    network: &'a Network,
    sample: SampleView<'a>,
    /// The strategies of each layer to choose from.
    options: Vec<Vec<Strategy>>,
    /// The plan so far, whose precisions do not change.
    present: BatchPlan,
}

impl Tuning<'_> {
    /// The fastest of the mix, its neighbours, and dense, measured in whole calls.
    fn careful(&self) -> Result<Vec<LayerPlan>> {
        let mix = self.mix(self.sample.time / 10, 3)?;
        let mut candidates = vec![vec![Strategy::Dense; mix.len()]];
        if mix != candidates[0] {
            candidates.push(mix.clone());
        }
        for i in 0..mix.len() {
            for strategy in self.options[i].iter().filter(|s| **s != mix[i]) {
                let mut neighbour = mix.clone();
                neighbour[i] = *strategy;
                candidates.push(neighbour);
            }
        }
        let times = self.call_seconds(&candidates, 3)?;
        Ok(self.layer_plans(&candidates[fastest(&candidates, &times)]))
    }

    /// The fastest of the mix, the present plan, and dense; `None` if the time is too short.
    fn quick(&self) -> Result<Option<Vec<LayerPlan>>> {
        let plan = &self.present.layers;
        let dense = vec![Strategy::Dense; plan.len()];
        let begin = Instant::now();
        // Approximate number of rows of the calls below; in a batch, a row takes a third of the
        // time.
        let (batch, turn) = (self.sample.batch, turn(self.sample.batch));
        let rows = 6 * batch.max(QUICK_ROWS) + 3 * turn * batch;
        let calls = (if batch < 8 { rows } else { rows / 3 }) as u32;
        // The lower estimate comes first, so that nothing is packed in vain. Then one row is timed,
        // twice, because the first call may pack weights.
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
        let (options, present) = (self.options.clone(), self.present.clone());
        let tuning = Tuning { network: self.network, sample, options, present };
        let times = tuning.call_seconds(&candidates, 1)?;
        Ok(Some(self.layer_plans(&candidates[fastest(&candidates, &times)])))
    }

    fn layer_plans(&self, strategies: &[Strategy]) -> Vec<LayerPlan> {
        let plan = |(&strategy, layer): (_, &LayerPlan)| LayerPlan { strategy, ..*layer };
        strategies.iter().zip(&self.present.layers).map(plan).collect()
    }

    /// The network with these strategies at every batch size.
    fn under(&self, strategies: &[Strategy]) -> Result<Network> {
        let mut batch_plan = BatchPlan { rows: 1, ..self.present.clone() };
        batch_plan.set_layers(self.layer_plans(strategies));
        self.network.with_plan(Plan::new(vec![batch_plan])?)
    }

    /// The fastest strategy of each layer, from passes under each uniform plan.
    fn mix(&self, time: Duration, passes: usize) -> Result<Vec<Strategy>> {
        let SampleView { rows, batch, .. } = self.sample;
        let rows =
            rows.slice(0, rows.rows.min(batch.max(if passes > 1 { 64 } else { QUICK_ROWS })));
        let mut best = vec![(f64::INFINITY, Strategy::Dense); self.network.layers.len()];
        for strategy in Strategy::ALL {
            if !self.options.iter().any(|options| options.contains(&strategy)) {
                continue;
            }
            let or_skip = |options: &Vec<Strategy>| {
                if options.contains(&strategy) { strategy } else { Strategy::Skip }
            };
            let strategies: Vec<_> = self.options.iter().map(or_skip).collect();
            let network = self.under(&strategies)?;
            let seconds = time_layers(network.program_for(batch), rows, batch, time, passes)?;
            for ((best, seconds), strategy) in best.iter_mut().zip(seconds).zip(strategies) {
                if seconds < best.0 {
                    *best = (seconds, strategy);
                }
            }
        }
        Ok(best.into_iter().map(|(_, strategy)| strategy).collect())
    }

    /// Median seconds per call of each candidate. Candidates are interleaved for about the sample's
    /// time and at least `rounds` rounds; calls use different rows if there are enough.
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
        // Short calls are timed a few at a time, so that the caches are in the state of a loop of
        // calls; the first of them meets the caches as the previous candidate left them.
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

/// Consecutive calls of one candidate.
fn turn(batch: usize) -> usize {
    if batch < TILE { 4 * (8 / batch).max(1) } else { 2 }
}

/// Least number of rows in a quick measurement of layers.
const QUICK_ROWS: usize = 16;

/// The fastest candidate, or one with fewer inexact layers that is nearly as fast.
fn fastest(candidates: &[Vec<Strategy>], times: &[f64]) -> usize {
    let inexact = |i: usize| candidates[i].iter().filter(|s| !s.is_exact()).count();
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    (0..times.len())
        .filter(|i| times[*i] <= least * INEXACT_MUST_GAIN)
        .min_by(|a, b| inexact(*a).cmp(&inexact(*b)).then(times[*a].total_cmp(&times[*b])))
        .unwrap_or(0)
}

/// An inexact candidate must be faster than an exact one by this factor.
const INEXACT_MUST_GAIN: f64 = 1.02;
