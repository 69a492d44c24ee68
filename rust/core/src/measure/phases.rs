//! Measures where a network's time goes, and counts the bytes and operations of each step.
//!
//! A forward pass notifies its observer of each finished step ([`Watch`]). Here the observer reads
//! a clock, so every step runs with the caches as they are in use. If one kernel does two things,
//! they are one phase. The exception is the epilogue of skip (bias, activation, and writing the
//! form that the next layer reads): it is timed separately, by the same kernel on rows whose inputs
//! are all zero, and subtracted.
//!
//! The work of a phase is counted on the same rows: weights once per tile, as far as any of its
//! rows needs them; data of a row once per row; and only the products of non-zeros.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::clock::{clock_overhead, median};
use super::sample::check_sample;
use crate::error::{Result, Subject};
use crate::exec::{self, Factor, LayerProgram, Observer, Place, Program};
use crate::interrupt;
use crate::network::Network;
use crate::path::{Context, GateScratch, LayerPath, Path, Phase, Seen, Unwatched, Watch, Work};
use crate::plan::Precision;
use crate::rows::{Data, Rows};
use crate::signal::{
    Buffer, DenseRows, Parts, RowRange, Signal, SparseByteRows, SparseBytes, SparseRows,
};
use crate::simd::Isa;

/// Time and work of one phase, per row, averaged over the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseProfile {
    /// Index of the layer.
    pub layer: usize,
    /// The factor of the layer, if it is computed by its factors.
    pub factor: Option<Factor>,
    /// The part of the work.
    pub phase: Phase,
    /// The numbers that are multiplied, if there are products.
    pub precision: Precision,
    /// Median seconds, on one thread.
    pub seconds: f64,
    /// Bytes of weights that must be read, once per tile of rows.
    pub weight_bytes: f64,
    /// Bytes of inputs read and of outputs written.
    pub row_bytes: f64,
    /// Operations that must be performed; a multiply-add is two operations.
    pub operations: f64,
}

/// The phases of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Phases {
    /// The phases that run, layer by layer, and factor by factor.
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

/// Accumulates the time of each phase.
struct PhaseClock {
    last: Instant,
    /// The layer that runs, or whose input is being made.
    layer: usize,
    next: usize,
    overhead: f64,
    nanoseconds: Vec<[f64; COUNT]>,
}

impl Watch for PhaseClock {
    #[inline]
    fn step(&mut self, phase: Phase) {
        let now = Instant::now();
        let layer = if phase.makes_input() { self.next } else { self.layer };
        let time = (now - self.last).as_nanos() as f64 - self.overhead;
        self.nanoseconds[layer][index(phase)] += time;
        self.last = Instant::now();
    }
}

impl Observer for PhaseClock {
    #[inline]
    fn before(&mut self, layer: usize, _input: Signal<'_>) {
        (self.layer, self.next) = (layer, layer + 1);
        self.last = Instant::now();
    }
}

/// Counts the work of each phase.
struct Traffic<'a> {
    program: &'a Program,
    /// Bytes per value of the caller's rows.
    source: f64,
    work: Vec<[Work; COUNT]>,
    layer: usize,
    /// Phases that made the next layer's input.
    reading: Vec<Phase>,
    /// The layer's non-zero inputs, row by row.
    nonzero: Vec<Vec<u32>>,
    /// Number of tiles so far. `inputs` has, per layer and input, the last tile that used it;
    /// `lines` has the same for each cache line of a unit's weights.
    tile: u32,
    inputs: Vec<Vec<u32>>,
    lines: Vec<Vec<u32>>,
}

impl Traffic<'_> {
    fn add(&mut self, layer: usize, phase: Phase, more: Work) {
        let work = &mut self.work[layer][index(phase)];
        work.weight_bytes += more.weight_bytes;
        work.row_bytes += more.row_bytes;
        work.operations += more.operations;
    }

    fn layer(&self, layer: usize) -> &LayerProgram {
        &self.program.layers[layer]
    }

    /// Bytes per weight and per input.
    fn width(&self, layer: usize) -> f64 {
        if self.layer(layer).input.is_bytes() { 1.0 } else { 4.0 }
    }

    /// Adds the work of making this layer's input.
    fn read(&mut self, n: f64, list: f64) {
        let layer = self.layer(self.layer);
        let (values, input) = (n * layer.inputs as f64, layer.input);
        let source = if self.layer == 0 { self.source } else { 4.0 };
        for phase in std::mem::take(&mut self.reading) {
            let row_bytes = match phase {
                Phase::Convert => (source + 4.0) * values,
                Phase::Scan => self.width(self.layer) * values + list,
                Phase::ConvertScan => (source + if input.rows { 4.0 } else { 0.0 }) * values + list,
                Phase::Quantize => (source + 1.0) * values,
                _ => 4.0 * values,
            };
            let work = Work { weight_bytes: 0.0, row_bytes, operations: values };
            self.add(self.layer, phase, work);
        }
    }

    /// Adds the work of writing the next layer's input or the network's output: `written` bytes.
    fn write(&mut self, layer: usize, n: f64, written: f64) {
        let (phase, work) = self.layer(layer).path.epilogue(n, written);
        self.add(layer, phase, work);
    }

    /// Adds the dot products of live units: the 64-byte lines of their weights that the rows need,
    /// and the products.
    fn dots(&mut self, live: &[u32], row_ranges: &[RowRange]) {
        let layer = self.layer;
        let line = 64 / self.width(layer) as usize;
        let per_unit = self.layer(layer).inputs.div_ceil(line);
        let (mut lines, mut of_rows, mut products) = (0_usize, 0_usize, 0_usize);
        for (row, row_range) in self.nonzero.iter().zip(row_ranges) {
            let mut blocks: Vec<usize> = row.iter().map(|i| *i as usize / line).collect();
            blocks.dedup();
            of_rows += blocks.len();
            products += row_range.len * row.len();
            for unit in &live[row_range.start..row_range.start + row_range.len] {
                for block in &blocks {
                    let seen = &mut self.lines[layer][*unit as usize * per_unit + block];
                    lines += usize::from(*seen != self.tile);
                    *seen = self.tile;
                }
            }
        }
        let (weight_bytes, of_rows) = (64.0 * lines as f64, 64.0 * of_rows as f64);
        let chosen: usize = row_ranges.iter().map(|row_range| row_range.len).sum();
        let row_bytes = of_rows + 4.0 * chosen as f64;
        let operations = 2.0 * products as f64;
        self.add(layer, Phase::Dots, Work { weight_bytes, row_bytes, operations });
    }

    /// Bytes of the weights that any of the rows needed.
    fn weight_bytes(&self) -> f64 {
        let counted = |all: &[u32]| all.iter().filter(|tile| **tile > 0).count() as f64;
        let layers = self.program.layers.iter().zip(&self.inputs).zip(&self.lines);
        let bytes = layers.map(|((layer, inputs), lines)| {
            layer.path.weight_bytes(counted(inputs), counted(lines))
        });
        bytes.sum()
    }
}

/// Bytes that a product writes per output: of rows or, with bytes, of lists.
fn out_width(layer: &LayerProgram) -> f64 {
    match layer.alone.product.writes() {
        form if form.is_bytes() => 1.0,
        form if form.rows => 4.0,
        _ => 0.0,
    }
}

impl Watch for Traffic<'_> {
    fn step(&mut self, phase: Phase) {
        if phase.makes_input() {
            self.reading.push(phase);
        }
        let layer = self.layer(self.layer);
        let outputs = self.nonzero.len() as f64 * layer.outputs as f64;
        match phase {
            Phase::Clear => {
                let form = layer.alone.product.writes();
                if form.rows || !form.is_bytes() {
                    let row_bytes = outputs * out_width(layer);
                    self.add(self.layer, phase, Work { row_bytes, ..Work::default() });
                }
            }
            Phase::Activation => {
                let (row_bytes, operations) = (8.0 * outputs, outputs);
                self.add(self.layer, phase, Work { weight_bytes: 0.0, row_bytes, operations });
            }
            Phase::Margin => {
                let (row_bytes, operations) = (4.0 * outputs, 4.0 * outputs);
                self.add(self.layer, phase, Work { weight_bytes: 0.0, row_bytes, operations });
            }
            _ => {}
        }
    }

    fn chosen(&mut self, live: &[u32], row_ranges: &[RowRange]) {
        let (path, n) = (&self.layer(self.layer).path, self.nonzero.len() as f64);
        let rank = path.rank().unwrap_or(0) as f64;
        let chosen: usize = row_ranges.iter().map(|row_range| row_range.len).sum();
        let width = if path.scores_bytes() { 1.0 } else { 4.0 };
        let work = Work {
            weight_bytes: path.score_bytes(),
            row_bytes: n * rank * width + 4.0 * chosen as f64,
            operations: 2.0 * n * rank * path.scored() as f64,
        };
        self.add(self.layer, Phase::ScoreThreshold, work);
        self.dots(live, row_ranges);
    }
}

impl Observer for Traffic<'_> {
    fn before(&mut self, layer: usize, input: Signal<'_>) {
        let columns = self.layer(layer).inputs;
        self.nonzero = (0..input.len()).map(|r| nonzero(input, r, columns)).collect();
        let n = input.len() as f64;
        let entries = self.nonzero.iter().map(Vec::len).sum::<usize>() as f64;
        if layer == 0 {
            self.tile += 1;
        } else {
            let before = self.layer(layer - 1);
            let form = before.alone.product.writes();
            // A gate writes the outputs it computes; the others were cleared.
            let gated = before.path.rank().is_some();
            let values = if gated { entries } else { n * before.outputs as f64 };
            let lists = if form.lists && !form.is_bytes() { 8.0 * entries } else { 0.0 };
            let written = out_width(before) * values + lists;
            self.write(layer - 1, n, written);
        }
        self.layer = layer;
        // A list entry is a column (2 bytes in lists of bytes, else 4) and a value.
        let byte_lists = if let Signal::Bytes(parts) = input { parts.lists() } else { None };
        let list_bytes = match byte_lists {
            Some(SparseBytes::Pairs(lists)) => {
                6.0 * lists.row_ranges.iter().map(|row_range| row_range.len).sum::<usize>() as f64
            }
            Some(SparseBytes::Bytes(_)) => 3.0 * entries,
            None => 8.0 * entries,
        };
        self.read(n, list_bytes);
        let mut inputs = 0.0;
        for i in self.nonzero.iter().flatten() {
            let seen = &mut self.inputs[layer][*i as usize];
            inputs += f64::from(u8::from(*seen != self.tile));
            *seen = self.tile;
        }
        let has_rows = !matches!(input, Signal::Floats(Parts::Lists(_)));
        let seen = Seen { rows: n, entries, inputs, list_bytes, has_rows };
        let (phase, work) = self.layer(layer).path.product(seen);
        self.add(layer, phase, work);
    }

    fn output(&mut self, rows: DenseRows<'_>) {
        let last = self.work.len() - 1;
        let n = rows.rows() as f64;
        self.write(last, n, 4.0 * n * rows.columns() as f64);
    }
}

/// The columns of a row that are not zero, in ascending order.
fn nonzero(input: Signal<'_>, row: usize, inputs: usize) -> Vec<u32> {
    let columns = |flags: &mut dyn Iterator<Item = bool>| {
        flags.enumerate().filter(|(_, on)| *on).map(|(i, _)| i as u32).collect()
    };
    match input {
        Signal::Floats(Parts::Lists(lists) | Parts::Both(_, lists)) => {
            let mut all = lists.row(row).0.to_vec();
            all.sort_unstable();
            all.dedup();
            all
        }
        Signal::Floats(Parts::Rows(rows)) => columns(&mut rows.row(row).iter().map(|x| *x != 0.0)),
        Signal::Bytes(Parts::Rows(rows) | Parts::Both(rows, _)) => {
            let bytes = rows.row(row).iter().flat_map(|word| word.to_ne_bytes());
            columns(&mut bytes.map(|byte| byte != 0).take(inputs))
        }
        Signal::Bytes(Parts::Lists(SparseBytes::Bytes(lists))) => {
            let (index, value) = lists.row(row);
            let entries = index.iter().zip(value).filter(|(_, byte)| **byte != 0);
            entries.map(|(i, _)| u32::from(*i)).collect()
        }
        Signal::Bytes(Parts::Lists(SparseBytes::Pairs(lists))) => {
            let words = lists.columns_of(row / 2 * 2).iter().zip(lists.words_of(row));
            let bytes = words.flat_map(|(i, word)| {
                word.to_ne_bytes().into_iter().zip(4 * i..).filter(|(byte, _)| *byte != 0)
            });
            bytes.map(|(_, i)| i).filter(|i| (*i as usize) < inputs).collect()
        }
    }
}

impl Network {
    /// Runs the network on `rows` in calls of `batch` rows on one thread, and measures the time of
    /// each phase and counts its reads and operations. Times are medians of passes repeated for
    /// about `time`.
    ///
    /// Phases that make a layer's input belong to that layer. The sum of all phases is less than
    /// the time of a call, because the steps between them (choosing the plan, finding the thread's
    /// scratch memory) are in no phase.
    ///
    /// # Errors
    /// Rows of another width than the network's, no rows, or a `batch` of 0.
    pub fn phases(&self, rows: Rows<'_>, batch: usize, time: Duration) -> Result<Phases> {
        self.check_width(rows)?;
        check_sample(Subject::RowCount, rows.rows)?;
        check_sample(Subject::BatchSize, batch)?;
        self.pack();
        let program = self.program_for(batch.min(rows.rows));
        let (work, weight_bytes) = work(program, rows, batch)?;
        let (mut times, seconds) = self.phase_seconds(program, rows, batch, time)?;
        for (layer, times) in program.layers.iter().zip(&mut times) {
            if layer.path.phase() == Phase::Multiply {
                let n = batch.min(rows.rows).min(program.tile);
                let fused = times[index(Phase::Multiply)];
                let epilogue = epilogue_seconds(program.isa, layer, n).min(fused);
                times[index(Phase::Epilogue)] = epilogue;
                times[index(Phase::Multiply)] = fused - epilogue;
            }
        }
        let n = rows.rows as f64;
        let mut phases = Vec::new();
        for (layer, (work, times)) in program.layers.iter().zip(work.iter().zip(&times)) {
            for (at, phase) in Phase::ALL.into_iter().enumerate() {
                let Work { weight_bytes, row_bytes, operations } = work[at];
                if weight_bytes + row_bytes + operations > 0.0 {
                    phases.push(PhaseProfile {
                        layer: layer.layer,
                        factor: layer.factor,
                        phase,
                        precision: multiplied(&layer.path, phase),
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

    /// Median seconds per row of the phases of each layer of the program, and of whole calls; the two are interleaved.
    fn phase_seconds(
        &self,
        program: &Program,
        rows: Rows<'_>,
        batch: usize,
        time: Duration,
    ) -> Result<(Vec<[f64; COUNT]>, f64)> {
        let (overhead, layers) = (clock_overhead(), program.layers.len());
        let outputs = self.output_size();
        let mut out = vec![0.0; batch.min(rows.rows) * outputs];
        let mut phases: Vec<[Vec<f64>; COUNT]> = vec![Default::default(); layers];
        let mut calls = Vec::new();
        let begin = Instant::now();
        // The first pass is a warm-up.
        for pass in 0.. {
            interrupt::check()?;
            let mut clock = PhaseClock {
                last: begin,
                layer: 0,
                next: 0,
                overhead,
                nanoseconds: vec![[0.0; COUNT]; layers],
            };
            for tile in tiles(program, rows, batch) {
                clock.next = 0;
                clock.last = Instant::now();
                let out = &mut out[..tile.rows * outputs];
                exec::run_tile(program, tile, out, &mut clock)?;
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
}

/// The number format of a phase's operations.
fn multiplied(path: &LayerPath, phase: Phase) -> Precision {
    match phase {
        Phase::ScoreThreshold if path.scores_bytes() => Precision::Int8,
        Phase::Estimate
        | Phase::ScoreThreshold
        | Phase::Dots
        | Phase::MultiplyEpilogue
        | Phase::Multiply => path.reads().precision,
        _ => Precision::F32,
    }
}

/// The work of each layer's phases over all rows, and the bytes of the weights in use.
fn work(program: &Program, rows: Rows<'_>, batch: usize) -> Result<(Vec<[Work; COUNT]>, f64)> {
    let layers = program.layers.iter();
    let inputs = layers.clone().map(|layer| vec![0; layer.inputs]).collect();
    let lines = layers.clone().map(|layer| match layer.path.rank() {
        Some(_) => vec![0; layer.outputs * layer.inputs.div_ceil(16)],
        None => Vec::new(),
    });
    let source = match rows.data {
        Data::F32 { .. } => 4.0,
        Data::U8 { .. } => 1.0,
        Data::Csr { value, .. } => 8.0 * value.len() as f64 / (rows.rows * rows.columns) as f64,
    };
    let mut traffic = Traffic {
        program,
        source,
        work: vec![[Work::default(); COUNT]; layers.len()],
        layer: 0,
        reading: Vec::new(),
        nonzero: Vec::new(),
        tile: 0,
        inputs,
        lines: lines.collect(),
    };
    let outputs = program.outputs();
    let mut out = vec![0.0; program.tile.min(rows.rows) * outputs];
    for tile in tiles(program, rows, batch) {
        let out = &mut out[..tile.rows * outputs];
        exec::run_tile(program, tile, out, &mut traffic)?;
    }
    let weight_bytes = traffic.weight_bytes();
    Ok((traffic.work, weight_bytes))
}

/// The tiles of the rows in calls of `batch` rows.
fn tiles<'a>(
    program: &Program,
    rows: Rows<'a>,
    batch: usize,
) -> impl Iterator<Item = Rows<'a>> + use<'a> {
    let tile = program.tile;
    rows.batches(batch).flat_map(move |call| call.batches(tile))
}

/// Seconds per row of a skip layer's epilogue: the median time of its product on `n` rows whose
/// inputs are all zero.
fn epilogue_seconds(isa: Isa, layer: &LayerProgram, n: usize) -> f64 {
    let (columns, row_ranges) = (layer.inputs, vec![RowRange::default(); n]);
    let input = if layer.input.is_bytes() {
        let lists = SparseByteRows { columns, index: &[], value: &[], row_ranges: &row_ranges };
        Signal::Bytes(Parts::Lists(SparseBytes::Bytes(lists)))
    } else {
        Signal::Floats(Parts::Lists(SparseRows {
            columns,
            index: &[],
            value: &[],
            row_ranges: &row_ranges,
        }))
    };
    let (mut buffer, mut scratch) = (Buffer::new(), GateScratch::default());
    let mut out = vec![0.0; n * layer.outputs];
    let recompute: Vec<_> = (0..n).map(|_| AtomicBool::new(false)).collect();
    let place = &mut Place { buffer: &mut buffer, out: &mut out, recompute: &recompute };
    let (product, context) = (&layer.alone.product, Context::alone(isa));
    let mut run = |repeats: usize| {
        let start = Instant::now();
        for _ in 0..repeats {
            product.run(&layer.path, context, input, place, &mut scratch, &mut Unwatched);
        }
        start.elapsed().as_secs_f64() / (repeats * n) as f64
    };
    let repeats = (20e-6 / (run(1) * n as f64).max(1e-9)).clamp(1.0, 1000.0) as usize;
    let mut times: Vec<_> = (0..21).map(|_| run(repeats)).collect();
    median(&mut times)
}
