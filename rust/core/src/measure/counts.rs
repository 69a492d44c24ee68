//! Counts the work of each layer: zeros, computed units, and the outputs that gates drop.

use std::time::Duration;

use super::clock::time_layers;
use super::sample::check_sample;
use crate::error::{Result, Subject};
use crate::exec::{self, Inputs, LayerProgram, Observer, Program};
use crate::kernels::epilogue::to_byte;
use crate::memory;
use crate::network::Network;
use crate::path::{Context, GateScratch, Path, Unwatched, Watch};
use crate::plan::{LayerPlan, Precision, Strategy};
use crate::rows::Rows;
use crate::signal::{DenseRows, DenseRowsMut, Parts, Signal};

/// Counts of one layer, summed over rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerCounts {
    /// Non-zero inputs.
    pub inputs: u64,
    /// Non-zero outputs.
    pub outputs: u64,
    /// Units computed.
    pub computed: u64,
    /// Gated layers: units whose output without the gate is not zero.
    pub active: u64,
    /// Gated layers: those of the active units that were computed.
    pub kept: u64,
    /// Gated layers: sum of the squared outputs without the gate.
    pub energy: f64,
    /// Gated layers: sum of the squared outputs that were dropped.
    pub lost: f64,
}

/// The profile of one layer, over the rows of a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerProfile {
    /// The strategy that computed it.
    pub strategy: Strategy,
    /// The number format.
    pub precision: Precision,
    /// Rank of the gate or the factors, if they were used.
    pub rank: Option<usize>,
    /// Share of inputs that were not zero.
    pub density_in: f64,
    /// Share of outputs that were not zero.
    pub density_out: f64,
    /// Share of units that were computed.
    pub computed_share: f64,
    /// Gated layers: share of the active units that were computed.
    pub recall: Option<f64>,
    /// Gated layers: squares of the positive outputs dropped, divided by the squares of all
    /// positive outputs.
    pub lost_energy: Option<f64>,
    /// Median time per row, in seconds, on one thread.
    pub seconds: f64,
    /// Multiply-adds performed per row, on average.
    pub multiply_adds: f64,
    /// Multiply-adds of the dense layer per row.
    pub dense_multiply_adds: f64,
}

/// Counts the inputs and outputs of each layer, and compares gated layers with their dense outputs.
struct Count<'a> {
    network: &'a Network,
    program: &'a Program,
    /// Counts of each layer of the program.
    counts: Vec<LayerCounts>,
    /// Input of the running layer, dense.
    input: Vec<f32>,
}

impl Count<'_> {
    /// Counts layer `layer`'s output once it is known.
    fn take_output(&mut self, layer: usize, output: &[f32]) {
        self.counts[layer].outputs += output.iter().filter(|y| **y != 0.0).count() as u64;
        if self.program.layers[layer].path.rank().is_none() {
            return;
        }
        let mut dense = self.dense_output(layer, output.len());
        // Outputs that the next layer's bytes round to zero are not lost.
        if let Some(next) = self.program.layers.get(layer + 1)
            && let Some(int8) = next.path.quantized()
        {
            for (o, y) in dense.iter_mut().enumerate() {
                let i = o % next.inputs;
                let (scale, offset) = (int8.input.scale(i), int8.input.offset(i));
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

    /// The output that layer `layer` would have without its gate.
    fn dense_output(&self, layer: usize, len: usize) -> Vec<f32> {
        let path = self.program.layers[layer].path.dense();
        let (inputs, outputs) = (path.layer().inputs(), path.layer().outputs());
        let n = len / outputs;
        let mut dense = memory::filled(0.0, len);
        let mut to = path.output();
        to.dense = Some(DenseRowsMut::new(&mut dense, n, outputs, outputs));
        let rows = DenseRows::new(&self.input, n, inputs, inputs);
        let input = Signal::Floats(Parts::Rows(rows));
        let context = Context::alone(self.program.isa);
        path.run(context, input, to, &mut GateScratch::default(), &mut Unwatched);
        dense
    }
}

impl Watch for Count<'_> {}

impl Observer for Count<'_> {
    fn before(&mut self, layer: usize, input: Signal<'_>) {
        let mut rows = Vec::new();
        self.network.append_dense(&mut rows, layer, &self.program.layers[layer].path, input);
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
        let mut all: Vec<f32> = memory::with_capacity(rows.rows() * rows.columns());
        (0..rows.rows()).for_each(|r| all.extend_from_slice(rows.row(r)));
        self.take_output(self.counts.len() - 1, &all);
    }
}

impl Network {
    /// Runs the network on `rows` in calls of `batch` rows and profiles each layer. Counts come
    /// from one pass; times are medians of passes repeated for at least `time`.
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
        check_sample(Subject::RowCount, rows.rows)?;
        check_sample(Subject::BatchSize, batch)?;
        let batch = batch.min(rows.rows);
        let (program, plan) = (self.program_for(batch), self.plan().for_rows(batch));
        let counts = self.program_counts(rows, batch)?;
        let seconds = time_layers(program, rows, batch, time, 3)?;
        let all: Vec<_> = program.layers.iter().zip(counts).collect();
        let of_layers = all.chunk_by(|(a, _), (b, _)| a.layer == b.layer);
        let profile = of_layers
            .zip(&plan.layers)
            .zip(seconds)
            .map(|((layers, plan), seconds)| layer_profile(layers, *plan, rows.rows, seconds));
        Ok(profile.collect())
    }

    /// Counts the work of each layer on `rows` under the plan for calls of `batch` rows. Gated
    /// layers are also computed in full, from the same inputs.
    ///
    /// # Errors
    /// Rows of another width than the network's, no rows, or a `batch` of 0.
    pub fn count(&self, rows: Rows<'_>, batch: usize) -> Result<Vec<LayerCounts>> {
        check_sample(Subject::RowCount, rows.rows)?;
        check_sample(Subject::BatchSize, batch)?;
        self.check_width(rows)?;
        let batch = batch.min(rows.rows);
        let counts = self.program_counts(rows, batch)?;
        let layers = self.program_for(batch).layers.iter();
        let all: Vec<_> = layers.zip(counts).collect();
        Ok(all.chunk_by(|(a, _), (b, _)| a.layer == b.layer).map(of_layer).collect())
    }

    /// The counts of each layer of the program.
    fn program_counts(&self, rows: Rows<'_>, batch: usize) -> Result<Vec<LayerCounts>> {
        let program = &self.compiled(batch, Inputs::WithRows)?;
        let counts = vec![LayerCounts::default(); program.layers.len()];
        let mut count = Count { network: self, program, counts, input: Vec::new() };
        exec::observe(program, rows, &mut count)?;
        Ok(count.counts)
    }

    /// Median seconds per row of each layer on one thread, under the plan for calls of `batch`
    /// rows, over passes repeated for at least `time`.
    ///
    /// # Errors
    /// See [`Network::profile`].
    pub fn layer_seconds(&self, rows: Rows<'_>, batch: usize, time: Duration) -> Result<Vec<f64>> {
        self.check_width(rows)?;
        check_sample(Subject::RowCount, rows.rows)?;
        check_sample(Subject::BatchSize, batch)?;
        let batch = batch.min(rows.rows);
        time_layers(self.program_for(batch), rows, batch, time, 1)
    }
}

/// The counts of a layer, which is one layer of the program or two: its factors.
fn of_layer(layers: &[(&LayerProgram, LayerCounts)]) -> LayerCounts {
    let ((_, first), (_, last)) = (&layers[0], &layers[layers.len() - 1]);
    LayerCounts { inputs: first.inputs, ..*last }
}

/// A layer's profile from sums over `rows` rows.
fn layer_profile(
    layers: &[(&LayerProgram, LayerCounts)],
    plan: LayerPlan,
    rows: usize,
    seconds: f64,
) -> LayerProfile {
    let (counts, n) = (of_layer(layers), rows as f64);
    let (first, last) = (&layers[0].0, &layers[layers.len() - 1].0);
    let (d, h) = (first.inputs as f64, last.outputs as f64);
    let gate = last.path.rank();
    let ratio = |part: f64, whole: f64, empty| if whole > 0.0 { part / whole } else { empty };
    let multiply_adds = layers.iter().map(|(layer, counts)| {
        let density = counts.inputs as f64 / (n * layer.inputs as f64);
        layer.path.multiply_adds(density, counts.computed as f64 / (n * layer.outputs as f64))
    });
    LayerProfile {
        strategy: plan.strategy,
        precision: plan.precision,
        rank: if first.factor.is_some() { Some(first.outputs) } else { gate },
        density_in: counts.inputs as f64 / (n * d),
        density_out: counts.outputs as f64 / (n * h),
        computed_share: counts.computed as f64 / (n * h),
        recall: gate.map(|_| ratio(counts.kept as f64, counts.active as f64, 1.0)),
        lost_energy: gate.map(|_| ratio(counts.lost, counts.energy, 0.0)),
        seconds,
        multiply_adds: multiply_adds.sum(),
        dense_multiply_adds: d * h,
    }
}
