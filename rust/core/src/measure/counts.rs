//! What each layer does: zeros, units computed, and what gates lose.

use std::time::Duration;

use super::clock::time_layers;
use super::sample::check_sample;
use crate::error::{Result, Subject};
use crate::exec::{self, Inputs, Observer, Program};
use crate::kernels::emit::to_byte;
use crate::memory;
use crate::network::Network;
use crate::path::{Context, GateScratch, LayerPath, Path, Unwatched, Watch};
use crate::plan::{LayerPlan, Precision, Strategy};
use crate::rows::Rows;
use crate::signal::{DenseRows, DenseRowsMut, Parts, Signal};

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
    program: &'a Program,
    counts: Vec<LayerCounts>,
    /// The input of the layer that is running, dense.
    input: Vec<f32>,
}

impl Count<'_> {
    /// Takes layer `layer`'s output, once it is known.
    fn take_output(&mut self, layer: usize, output: &[f32]) {
        self.counts[layer].outputs += output.iter().filter(|y| **y != 0.0).count() as u64;
        if self.program.layers[layer].path.rank().is_none() {
            return;
        }
        let mut dense = self.dense_output(layer, output.len());
        // What the next layer's bytes cannot tell from zero is not lost.
        if let Some(next) = self.program.layers.get(layer + 1)
            && next.input.is_bytes()
            && let Some(quantization) = self.network.quantization(layer + 1)
        {
            for (o, y) in dense.iter_mut().enumerate() {
                let i = o % next.inputs;
                let (scale, offset) = (quantization.scale(i), quantization.offset(0));
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

    /// What layer `layer` would yield without its gate.
    fn dense_output(&self, layer: usize, len: usize) -> Vec<f32> {
        let path = self.network.layers[layer].dense();
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
        check_sample(Subject::RowCount, rows.rows)?;
        check_sample(Subject::BatchSize, batch)?;
        let (program, plan) = (self.program_for(batch), self.plan().for_rows(batch));
        let counts = self.count(rows, batch)?;
        let seconds = time_layers(program, rows, batch, time, 3)?;
        let measured = plan.layers.iter().zip(&counts).zip(seconds);
        let layers = program.layers.iter().zip(measured);
        let profile = layers.map(|(layer, ((plan, counts), seconds))| {
            layer_profile(&layer.path, *plan, counts, rows.rows, seconds)
        });
        Ok(profile.collect())
    }

    /// Runs the network over `rows` under the plan for `batch` rows a call, and counts what each
    /// layer does. Layers that are gated are computed in full too, from the same inputs.
    ///
    /// # Errors
    /// Rows of another width than the network's, no rows, or a `batch` of 0.
    pub fn count(&self, rows: Rows<'_>, batch: usize) -> Result<Vec<LayerCounts>> {
        check_sample(Subject::RowCount, rows.rows)?;
        check_sample(Subject::BatchSize, batch)?;
        self.check_width(rows)?;
        let program = &self.compiled(self.plan().for_rows(batch), Inputs::WithRows)?;
        let counts = vec![LayerCounts::default(); self.layers.len()];
        let mut count = Count { network: self, program, counts, input: Vec::new() };
        exec::observe(program, rows, &mut count)?;
        Ok(count.counts)
    }

    /// Median seconds per row of each layer under the plan for `batch` rows a call, on one thread,
    /// over passes repeated for at least `time`.
    ///
    /// # Errors
    /// As [`Network::profile`].
    pub fn layer_seconds(&self, rows: Rows<'_>, batch: usize, time: Duration) -> Result<Vec<f64>> {
        self.check_width(rows)?;
        check_sample(Subject::RowCount, rows.rows)?;
        check_sample(Subject::BatchSize, batch)?;
        time_layers(self.program_for(batch), rows, batch, time, 1)
    }
}

/// A layer's profile, from sums over `rows` rows.
fn layer_profile(
    path: &LayerPath,
    plan: LayerPlan,
    counts: &LayerCounts,
    rows: usize,
    seconds: f64,
) -> LayerProfile {
    let (layer, rank) = (path.layer(), path.rank());
    let (n, d, h) = (rows as f64, layer.inputs() as f64, layer.outputs() as f64);
    let density_in = counts.inputs as f64 / (n * d);
    let computed_share = counts.computed as f64 / (n * h);
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
        multiply_adds: path.multiply_adds(density_in, computed_share),
        dense_multiply_adds: d * h,
    }
}
