//! Where a network's time goes, step by step, beside what each step must read and compute.
//!
//! A forward pass tells its observer of each step that is done ([`Step`]); here a clock is read each
//! time, so that every step meets the caches as they are in use. Where one kernel does two things, they
//! are one phase, but for the epilogue of skip (bias, activation, the form that the next layer reads):
//! it is timed apart, by the same kernel on rows whose inputs are all zero, and subtracted.
//!
//! What a phase must do is counted on the same rows: weights once per tile, as far as any of its rows
//! needs them, what belongs to a row once per row, and products of what is not zero.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::clock::{clock_overhead, median};
use super::sample::check_sample;
use crate::error::Result;
use crate::exec::Buffer;
use crate::exec::Observer;
use crate::interrupt;
use crate::network::Network;
use crate::path::{self, Crew, GateScratch, PackedGate, Step};
use crate::plan::{ClassPlan, LayerPlan, Precision, Strategy};
use crate::rows::{Data, Rows};
use crate::signal::{ByteLists, DenseRows, DenseRowsMut, Input, ListedBytes, Lists, Needs, Span};

/// A part of the work for one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The caller's rows become dense rows of f32.
    Convert,
    /// The layer's non-zero inputs are listed, where the kernel before did not.
    Scan,
    /// Both in one kernel.
    ConvertScan,
    /// Inputs become bytes, where the kernel before did not.
    Quantize,
    /// Rows that are not finite are looked for.
    Check,
    /// Gate: the low-rank sums.
    Estimate,
    /// Gate: scores from them, and the list of live units, in one kernel.
    ScoreThreshold,
    /// Gate: outputs that may not be computed are made zero.
    Clear,
    /// Gate: dot products of live units, bias and activation.
    Dots,
    /// Dense: products, bias and activation, in one kernel.
    MultiplyEpilogue,
    /// Skip: products and their sums, without the epilogue.
    Multiply,
    /// Skip: bias, activation, and the form that the next layer reads.
    Epilogue,
    /// An activation that is not fused.
    Activation,
}

impl Phase {
    /// All of them, in the order in which they run.
    pub const ALL: [Phase; 13] = [
        Phase::Convert,
        Phase::ConvertScan,
        Phase::Quantize,
        Phase::Scan,
        Phase::Check,
        Phase::Estimate,
        Phase::ScoreThreshold,
        Phase::Clear,
        Phase::Dots,
        Phase::MultiplyEpilogue,
        Phase::Multiply,
        Phase::Epilogue,
        Phase::Activation,
    ];

    /// Its name: two joined by `+` are one kernel.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Convert => "convert",
            Phase::Scan => "scan",
            Phase::ConvertScan => "convert+scan",
            Phase::Quantize => "quantize",
            Phase::Check => "check",
            Phase::Estimate => "estimate",
            Phase::ScoreThreshold => "score+threshold",
            Phase::Clear => "clear",
            Phase::Dots => "dots+epilogue",
            Phase::MultiplyEpilogue => "multiply+epilogue",
            Phase::Multiply => "multiply",
            Phase::Epilogue => "epilogue",
            Phase::Activation => "activation",
        }
    }
}

/// One phase's time and work; all per row, averages over the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseProfile {
    /// The layer that it works for.
    pub layer: usize,
    /// Which part of the work.
    pub phase: Phase,
    /// What is multiplied, if anything is.
    pub precision: Precision,
    /// Median seconds, on one thread.
    pub seconds: f64,
    /// Bytes of weights to be read at least: once per tile of rows.
    pub weight_bytes: f64,
    /// Bytes of inputs to be read and of outputs to be written.
    pub row_bytes: f64,
    /// Operations to be done at least, a multiply-add being two.
    pub operations: f64,
}

/// Where a network's time goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Phases {
    /// The phases that run, by layer.
    pub phases: Vec<PhaseProfile>,
    /// Median seconds per row of whole calls of [`Network::forward`], on one thread.
    pub seconds: f64,
    /// Bytes of the weights that any of the rows needs.
    pub weight_bytes: f64,
}

const COUNT: usize = Phase::ALL.len();

fn index(phase: Phase) -> usize {
    Phase::ALL.iter().position(|other| *other == phase).unwrap_or(0)
}

/// Which phase a step ends.
fn phase_of(step: Step<'_>, strategy: Strategy) -> Phase {
    match step {
        Step::Converted => Phase::Convert,
        Step::Scanned => Phase::Scan,
        Step::ConvertedAndScanned => Phase::ConvertScan,
        Step::Quantized => Phase::Quantize,
        Step::Checked => Phase::Check,
        Step::Estimated => Phase::Estimate,
        Step::Chosen(..) => Phase::ScoreThreshold,
        Step::Cleared => Phase::Clear,
        Step::Multiplied => match strategy {
            Strategy::Dense => Phase::MultiplyEpilogue,
            Strategy::Skip => Phase::Multiply,
            Strategy::Gate => Phase::Dots,
        },
        Step::Finished => Phase::Activation,
    }
}

/// Whether a phase makes a layer's input, before the layer itself runs.
fn is_reading(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Convert | Phase::Scan | Phase::ConvertScan | Phase::Quantize | Phase::Check
    )
}

/// Adds up the time of each phase.
struct PhaseClock<'a> {
    class: &'a ClassPlan,
    last: Instant,
    /// The layer that runs, and the one whose input is made.
    layer: usize,
    next: usize,
    overhead: f64,
    nanoseconds: Vec<[f64; COUNT]>,
}

impl Observer for PhaseClock<'_> {
    #[inline]
    fn before(&mut self, layer: usize, _input: Input<'_>) {
        (self.layer, self.next) = (layer, layer + 1);
        self.last = Instant::now();
    }
    #[inline]
    fn after(&mut self, _layer: usize, _rows: usize, _computed: usize) {}
    #[inline]
    fn step(&mut self, step: Step<'_>) {
        let now = Instant::now();
        let phase = phase_of(step, self.class.layers[self.layer].strategy);
        let layer = if is_reading(phase) { self.next } else { self.layer };
        let time = (now - self.last).as_nanos() as f64 - self.overhead;
        self.nanoseconds[layer][index(phase)] += time;
        self.last = Instant::now();
    }
}

/// What a phase must do, over all rows.
#[derive(Clone, Copy, Default)]
struct Work {
    weight_bytes: f64,
    row_bytes: f64,
    operations: f64,
}

/// Counts the work of each phase.
struct Traffic<'a> {
    network: &'a Network,
    class: &'a ClassPlan,
    /// Bytes of one of the caller's values.
    source: f64,
    work: Vec<[Work; COUNT]>,
    layer: usize,
    /// Phases that made the input of the layer to come.
    reading: Vec<Phase>,
    /// The layer's non-zero inputs, row by row.
    nonzero: Vec<Vec<u32>>,
    /// Tiles so far, and for each layer the last tile in which an input counted, and a line of
    /// weights of a unit.
    tile: u32,
    inputs: Vec<Vec<u32>>,
    lines: Vec<Vec<u32>>,
}

impl Traffic<'_> {
    fn add(&mut self, layer: usize, phase: Phase, weight_bytes: f64, row_bytes: f64, ops: f64) {
        let work = &mut self.work[layer][index(phase)];
        work.weight_bytes += weight_bytes;
        work.row_bytes += row_bytes;
        work.operations += ops;
    }

    /// Bytes of a weight and of an input.
    fn width(&self, layer: usize) -> f64 {
        if self.class.layers[layer].precision == Precision::Int8 { 1.0 } else { 4.0 }
    }

    fn shape(&self, layer: usize) -> (f64, f64) {
        let layer = self.network.layers[layer].packed.layer();
        (layer.inputs() as f64, layer.outputs() as f64)
    }

    /// What made this layer's input.
    fn read(&mut self, n: f64, list: f64) {
        let (d, _) = self.shape(self.layer);
        let source = if self.layer == 0 { self.source } else { 4.0 };
        let needs = self.class.layers[self.layer].needs();
        let values = n * d;
        for phase in std::mem::take(&mut self.reading) {
            let bytes = match phase {
                Phase::Convert => (source + 4.0) * values,
                Phase::Scan => self.width(self.layer) * values + list,
                Phase::ConvertScan => {
                    (source + if needs.dense { 4.0 } else { 0.0 }) * values + list
                }
                Phase::Quantize => (source + 1.0) * values,
                _ => 4.0 * values,
            };
            self.add(self.layer, phase, 0.0, bytes, values);
        }
    }

    /// What wrote the input of the layer to come, or the network's output: `written` bytes and, of
    /// dense and skip, bias and activation of each output.
    fn write(&mut self, layer: usize, n: f64, written: f64) {
        let (_, h) = self.shape(layer);
        let plan = self.class.layers[layer];
        let constants = if plan.precision == Precision::Int8 { 8.0 } else { 4.0 } * h;
        match plan.strategy {
            Strategy::Dense => {
                self.add(layer, Phase::MultiplyEpilogue, constants, written, 2.0 * n * h);
            }
            Strategy::Skip => self.add(layer, Phase::Epilogue, constants, written, 2.0 * n * h),
            Strategy::Gate => self.add(layer, Phase::Dots, 0.0, written, 0.0),
        }
    }

    /// Lines of 64 bytes of the live units' weights that the rows need, and products.
    fn dots(&mut self, live: &[u32], spans: &[Span]) {
        let layer = self.layer;
        let line = 64 / self.width(layer) as usize;
        let per_unit = self.network.layers[layer].packed.layer().inputs().div_ceil(line);
        let (mut lines, mut of_rows, mut products) = (0_usize, 0_usize, 0_usize);
        for (row, span) in self.nonzero.iter().zip(spans) {
            let mut blocks: Vec<usize> = row.iter().map(|i| *i as usize / line).collect();
            blocks.dedup();
            of_rows += blocks.len();
            products += span.len * row.len();
            for unit in &live[span.start..span.start + span.len] {
                for block in &blocks {
                    let seen = &mut self.lines[layer][*unit as usize * per_unit + block];
                    lines += usize::from(*seen != self.tile);
                    *seen = self.tile;
                }
            }
        }
        let (lines, of_rows) = (64.0 * lines as f64, 64.0 * of_rows as f64);
        let chosen: usize = spans.iter().map(|span| span.len).sum();
        let of_rows = of_rows + 4.0 * chosen as f64;
        self.add(layer, Phase::Dots, lines, of_rows, 2.0 * products as f64);
    }

    /// Weights that any of the rows needed.
    fn weight_bytes(&self) -> f64 {
        let layer = |i: usize| {
            let ((d, h), width) = (self.shape(i), self.width(i));
            let used = self.inputs[i].iter().filter(|tile| **tile > 0).count() as f64;
            let lines = self.lines[i].iter().filter(|tile| **tile > 0).count() as f64;
            match self.class.layers[i].strategy {
                Strategy::Dense => d * h * width,
                Strategy::Skip => used * h * width,
                Strategy::Gate => {
                    let (rank, scores) = self.gate(i);
                    used * rank * width + scores + 64.0 * lines
                }
            }
        };
        (0..self.inputs.len()).map(layer).sum()
    }

    /// A gate's rank, and the bytes of its second factor and thresholds.
    fn gate(&self, layer: usize) -> (f64, f64) {
        let Some(gate) = self.network.layers[layer].gate.as_deref() else { return (0.0, 0.0) };
        let (rank, scored) = (gate.gate().rank() as f64, gate.scored() as f64);
        let width = if gate.scores_bytes() { 1.0 } else { 4.0 };
        (rank, scored * (rank * width + 4.0))
    }

    fn out_width(&self, layer: usize) -> f64 {
        let finish = self.network.layers[layer].packed.layer().activation().needs_finish();
        match self.class.layers.get(layer + 1) {
            Some(next) if !finish => {
                let needs = next.needs();
                f64::from(u8::from(needs.int8())) + 4.0 * f64::from(u8::from(needs.dense))
            }
            _ => 4.0,
        }
    }
}

impl Observer for Traffic<'_> {
    fn before(&mut self, layer: usize, input: Input<'_>) {
        let inputs = self.network.layers[layer].packed.layer().inputs();
        self.nonzero = (0..input.rows).map(|r| nonzero(input, r, inputs)).collect();
        let n = input.rows as f64;
        let entries = self.nonzero.iter().map(Vec::len).sum::<usize>() as f64;
        if layer == 0 {
            self.tile += 1;
        } else {
            let (_, h) = self.shape(layer - 1);
            let finish = self.network.layers[layer - 1].packed.layer().activation().needs_finish();
            let listed = self.class.layers[layer].needs().lists && !finish;
            let gated = self.class.layers[layer - 1].strategy == Strategy::Gate;
            // A gate writes what it computes; the rest was cleared.
            let dense = self.out_width(layer - 1) * if gated { entries } else { n * h };
            let lists = if listed { 8.0 * entries } else { 0.0 };
            self.write(layer - 1, n, dense + lists);
        }
        self.layer = layer;
        // A column, of two bytes in lists of bytes, else of four, and a value.
        let list = match input.byte_lists {
            Some(ListedBytes::Pairs(lists)) => {
                6.0 * lists.spans.iter().map(|span| span.len).sum::<usize>() as f64
            }
            Some(ListedBytes::Bytes(_)) => 3.0 * entries,
            None => 8.0 * entries,
        };
        self.read(n, list);
        let mut used = 0.0;
        for i in self.nonzero.iter().flatten() {
            let seen = &mut self.inputs[layer][*i as usize];
            used += f64::from(u8::from(*seen != self.tile));
            *seen = self.tile;
        }
        let ((d, h), width) = (self.shape(layer), self.width(layer));
        match self.class.layers[layer].strategy {
            Strategy::Dense => {
                // Rows that come as lists are skipped through.
                let (read, list, entries) = match (input.dense, input.bytes) {
                    (None, None) => (used, list, entries),
                    _ => (d, n * d * width, n * d),
                };
                let phase = Phase::MultiplyEpilogue;
                self.add(layer, phase, read * h * width, list, 2.0 * entries * h);
            }
            Strategy::Skip => {
                self.add(layer, Phase::Multiply, used * h * width, list, 2.0 * entries * h);
            }
            Strategy::Gate => {
                let (rank, _) = self.gate(layer);
                let weights = used * rank * width;
                self.add(layer, Phase::Estimate, weights, list, 2.0 * entries * rank);
            }
        }
    }

    fn after(&mut self, _layer: usize, _rows: usize, _computed: usize) {}

    fn step(&mut self, step: Step<'_>) {
        let (layer, n) = (self.layer, self.nonzero.len() as f64);
        let phase = phase_of(step, self.class.layers[layer].strategy);
        if is_reading(phase) {
            self.reading.push(phase);
        }
        let (_, h) = self.shape(layer);
        match step {
            Step::Chosen(live, spans) => {
                let (rank, scores) = self.gate(layer);
                let chosen: usize = spans.iter().map(|span| span.len).sum();
                let scored =
                    self.network.layers[layer].gate.as_deref().map_or(0, PackedGate::scored);
                let operations = 2.0 * n * rank * scored as f64;
                let width = if self.gate_scores_bytes(layer) { 1.0 } else { 4.0 };
                let bytes = n * rank * width + 4.0 * chosen as f64;
                self.add(layer, Phase::ScoreThreshold, scores, bytes, operations);
                self.dots(live, spans);
            }
            Step::Cleared => {
                let alone = |next: &LayerPlan| next.needs().byte_lists && !next.needs().bytes;
                let lists_alone = self.class.layers.get(layer + 1).is_some_and(alone)
                    && self.network.lists_bytes(self.class, layer);
                if !lists_alone {
                    let bytes = n * h * self.out_width(layer);
                    self.add(layer, Phase::Clear, 0.0, bytes, 0.0);
                }
            }
            Step::Finished => self.add(layer, Phase::Activation, 0.0, 8.0 * n * h, n * h),
            _ => {}
        }
    }

    fn output(&mut self, rows: DenseRows<'_>) {
        let last = self.work.len() - 1;
        let n = rows.rows() as f64;
        let (_, h) = self.shape(last);
        self.write(last, n, 4.0 * n * h);
    }
}

impl Traffic<'_> {
    fn gate_scores_bytes(&self, layer: usize) -> bool {
        self.network.layers[layer].gate.as_deref().is_some_and(PackedGate::scores_bytes)
    }
}

/// Columns of a row that are not zero, ascending.
fn nonzero(input: Input<'_>, row: usize, inputs: usize) -> Vec<u32> {
    let columns = |flags: &mut dyn Iterator<Item = bool>| {
        flags.enumerate().filter(|(_, on)| *on).map(|(i, _)| i as u32).collect()
    };
    match (input.bytes, input.byte_lists) {
        (None, Some(ListedBytes::Bytes(lists))) => {
            let (index, value) = lists.row(row);
            let entries = index.iter().zip(value).filter(|(_, byte)| **byte != 0);
            return entries.map(|(i, _)| u32::from(*i)).collect();
        }
        (None, Some(ListedBytes::Pairs(lists))) => {
            let words = lists.columns_of(row / 2 * 2).iter().zip(lists.words_of(row));
            let bytes = words.flat_map(|(i, word)| {
                word.to_ne_bytes().into_iter().zip(4 * i..).filter(|(byte, _)| *byte != 0)
            });
            return bytes.map(|(_, i)| i).filter(|i| (*i as usize) < inputs).collect();
        }
        _ => {}
    }
    match (input.lists, input.dense, input.bytes) {
        (Some(lists), ..) => {
            let mut all = lists.row(row).0.to_vec();
            all.sort_unstable();
            all.dedup();
            all
        }
        (None, Some(rows), _) => columns(&mut rows.row(row).iter().map(|x| *x != 0.0)),
        (None, None, Some(rows)) => {
            let bytes = rows.row(row).iter().flat_map(|word| word.to_ne_bytes());
            columns(&mut bytes.map(|byte| byte != 0).take(inputs))
        }
        (None, None, None) => Vec::new(),
    }
}

impl Network {
    /// Runs the network over `rows`, `batch` rows a call on one thread, and tells how long each phase
    /// takes, and what it must read and compute: times as medians of passes repeated for about `time`.
    ///
    /// Phases that make a layer's input count to that layer. Their sum is less than a call by what
    /// stands between them: choosing the plan, finding this thread's memory.
    ///
    /// # Errors
    /// Rows of another width than the network's, no rows, or a `batch` of 0.
    pub fn phases(&self, rows: Rows<'_>, batch: usize, time: Duration) -> Result<Phases> {
        self.check_width(rows)?;
        check_sample("x", rows.rows)?;
        check_sample("batch_size", batch)?;
        self.pack();
        let class = self.plan.for_rows(batch.min(rows.rows));
        let (work, weight_bytes) = self.work(class, rows, batch)?;
        let (mut times, seconds) = self.phase_seconds(class, rows, batch, time)?;
        for (i, times) in times.iter_mut().enumerate() {
            if class.layers[i].strategy == Strategy::Skip {
                let n = batch.min(rows.rows).min(self.tile(class));
                let fused = times[index(Phase::Multiply)];
                let epilogue = self.epilogue_seconds(class, i, n).min(fused);
                times[index(Phase::Epilogue)] = epilogue;
                times[index(Phase::Multiply)] = fused - epilogue;
            }
        }
        let n = rows.rows as f64;
        let mut phases = Vec::new();
        for (layer, (work, times)) in work.iter().zip(&times).enumerate() {
            for (at, phase) in Phase::ALL.into_iter().enumerate() {
                let Work { weight_bytes, row_bytes, operations } = work[at];
                if weight_bytes + row_bytes + operations > 0.0 {
                    phases.push(PhaseProfile {
                        layer,
                        phase,
                        precision: self.multiplies(class, layer, phase),
                        seconds: times[at],
                        weight_bytes: weight_bytes / n,
                        row_bytes: row_bytes / n,
                        operations: operations / n,
                    });
                }
            }
        }
        Ok(Phases { phases, seconds, weight_bytes })
    }

    /// The kind of numbers of a phase's operations.
    fn multiplies(&self, class: &ClassPlan, layer: usize, phase: Phase) -> Precision {
        let gate = self.layers[layer].gate.as_deref();
        match phase {
            Phase::ScoreThreshold if gate.is_some_and(PackedGate::scores_bytes) => Precision::Int8,
            Phase::Estimate
            | Phase::ScoreThreshold
            | Phase::Dots
            | Phase::MultiplyEpilogue
            | Phase::Multiply => class.layers[layer].precision,
            _ => Precision::F32,
        }
    }

    /// The work of each layer's phases over all rows, and the bytes of the weights in use.
    fn work(
        &self,
        class: &ClassPlan,
        rows: Rows<'_>,
        batch: usize,
    ) -> Result<(Vec<[Work; COUNT]>, f64)> {
        let layers = self.layers.len();
        let inputs = self.layers().map(|layer| vec![0; layer.inputs()]).collect();
        let lines = self.layers().zip(&class.layers).map(|(layer, plan)| match plan.strategy {
            Strategy::Gate => vec![0; layer.outputs() * layer.inputs().div_ceil(16)],
            _ => Vec::new(),
        });
        let source = match rows.data {
            Data::F32 { .. } => 4.0,
            Data::U8 { .. } => 1.0,
            Data::Csr { value, .. } => 8.0 * value.len() as f64 / (rows.rows * rows.columns) as f64,
        };
        let mut traffic = Traffic {
            network: self,
            class,
            source,
            work: vec![[Work::default(); COUNT]; layers],
            layer: 0,
            reading: Vec::new(),
            nonzero: Vec::new(),
            tile: 0,
            inputs,
            lines: lines.collect(),
        };
        let mut out = vec![0.0; self.tile(class).min(rows.rows) * self.output_size()];
        for tile in self.tiles(class, rows, batch) {
            let out = &mut out[..tile.rows * self.output_size()];
            self.run_tile(class, tile, out, &mut traffic)?;
        }
        let weight_bytes = traffic.weight_bytes();
        Ok((traffic.work, weight_bytes))
    }

    /// The rows as calls of `batch` rows cut them into tiles.
    fn tiles<'a>(
        &self,
        class: &ClassPlan,
        rows: Rows<'a>,
        batch: usize,
    ) -> impl Iterator<Item = Rows<'a>> {
        let tile = self.tile(class);
        rows.batches(batch).flat_map(move |call| call.batches(tile))
    }

    /// Median seconds per row of each layer's phases, and of whole calls, by turns.
    fn phase_seconds(
        &self,
        class: &ClassPlan,
        rows: Rows<'_>,
        batch: usize,
        time: Duration,
    ) -> Result<(Vec<[f64; COUNT]>, f64)> {
        let (overhead, layers) = (clock_overhead(), self.layers.len());
        let outputs = self.output_size();
        let mut out = vec![0.0; batch.min(rows.rows) * outputs];
        let mut phases: Vec<[Vec<f64>; COUNT]> = vec![Default::default(); layers];
        let mut calls = Vec::new();
        let begin = Instant::now();
        // The first pass warms up.
        for pass in 0.. {
            interrupt::check()?;
            let mut clock = PhaseClock {
                class,
                last: begin,
                layer: 0,
                next: 0,
                overhead,
                nanoseconds: vec![[0.0; COUNT]; layers],
            };
            for tile in self.tiles(class, rows, batch) {
                clock.next = 0;
                clock.last = Instant::now();
                let out = &mut out[..tile.rows * outputs];
                self.run_tile(class, tile, out, &mut clock)?;
            }
            let mut call = 0.0;
            for rows in rows.batches(batch) {
                let start = Instant::now();
                self.forward(rows, &mut out[..rows.rows * outputs], Some(1))?;
                call += start.elapsed().as_nanos() as f64 - overhead;
            }
            if pass > 0 {
                calls.push(call);
                for (phases, times) in phases.iter_mut().zip(&clock.nanoseconds) {
                    phases.iter_mut().zip(times).for_each(|(all, time)| all.push(*time));
                }
            }
            if pass >= 3 && begin.elapsed() > time {
                break;
            }
        }
        let per_row = 1e-9 / rows.rows as f64;
        let median = |times: &mut Vec<f64>| median(times).max(0.0) * per_row;
        let phases = phases.iter_mut().map(|phases| phases.each_mut().map(median));
        Ok((phases.collect(), median(&mut calls)))
    }

    /// Seconds per row of a skip layer's epilogue: the median of runs of its kernel on `n` rows whose
    /// inputs are all zero.
    fn epilogue_seconds(&self, class: &ClassPlan, i: usize, n: usize) -> f64 {
        let (parts, plan) = (self.layers[i].parts(), class.layers[i]);
        let layer = parts.layer.layer();
        let (columns, outputs) = (layer.inputs(), layer.outputs());
        let spans = vec![Span::default(); n];
        let words = vec![0; n * columns.div_ceil(4)];
        let input = Input {
            rows: n,
            dense: None,
            lists: Some(Lists { columns, index: &[], value: &[], spans: &spans }),
            bytes: Some(DenseRows::new(&words, n, columns.div_ceil(4), columns.div_ceil(4))),
            byte_lists: Some(ListedBytes::Bytes(ByteLists {
                columns,
                index: &[],
                value: &[],
                spans: &spans,
            })),
        };
        let needs = match class.layers.get(i + 1) {
            Some(next) if !layer.activation().needs_finish() => next.needs().before_scan(),
            _ => Needs { dense: true, ..Needs::default() },
        };
        let crew = Crew::alone(self.isa);
        let (mut buffer, mut scratch) = (Buffer::new(), GateScratch::default());
        let mut last = vec![0.0; n * outputs];
        let marks: Vec<_> = (0..n).map(|_| AtomicBool::new(false)).collect();
        let mut run = |repeats: usize| {
            let start = Instant::now();
            for _ in 0..repeats {
                let mut output = parts.output(plan.precision);
                if i + 1 < self.layers.len() {
                    let next = self.layers[i + 1].int8.as_deref().map(|next| (next, &*marks));
                    buffer.write(n, outputs, needs, next, &mut output);
                } else {
                    output.dense = Some(DenseRowsMut::new(&mut last, n, outputs, outputs));
                }
                path::run(plan, crew, parts, input, output, &mut scratch, &mut |_| ());
            }
            start.elapsed().as_secs_f64() / (repeats * n) as f64
        };
        let repeats = (20e-6 / (run(1) * n as f64).max(1e-9)).clamp(1.0, 1000.0) as usize;
        let mut times: Vec<_> = (0..21).map(|_| run(repeats)).collect();
        median(&mut times)
    }
}
