//! What each layer does: zeros, units computed, and what gates lose.

use std::time::Duration;

use super::sample::check_sample;
use crate::error::Result;
use crate::exec::Observer;
use crate::kernels::emit::to_byte;
use crate::memory;
use crate::model::Gate;
use crate::network::Network;
use crate::path::{self, Crew, GateScratch};
use crate::plan::{ClassPlan, LayerPlan, Precision, Strategy};
use crate::rows::Rows;
use crate::signal::{DenseRows, DenseRowsMut, Input};

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
}
