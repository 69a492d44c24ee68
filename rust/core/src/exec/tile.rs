//! One forward pass: rows in, tile by tile, layer by layer, rows out.
//!
//! A tile belongs to one thread from its first layer to its last; or, where a call is one tile, a team of
//! threads shares the units of its dense layers. The pool is entered once, and again for rows that are
//! computed anew. Every kernel adds up a row in an order that depends on that row alone, so its bits depend
//! neither on the other rows, nor on where tiles begin, nor on the threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::workspace::{Buffer, Workspace};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::kernels::activation::FinishRows;
use crate::kernels::pairs;
use crate::kernels::scan::{CopyBytes, FromBytes, HIDDEN_RANGE, INPUT_RANGE, Quantize, Scan};
use crate::layout::PANEL;
use crate::memory;
use crate::model::{InputMap, Layer};
use crate::network::Network;
use crate::path::{self, Crew, QuantizedLayer, Step, ToBytes};
use crate::plan::{ClassPlan, Precision, Strategy};
use crate::pool::{self, Team};
use crate::rows::{Data, Rows};
use crate::signal::{ByteRowsMut, DenseRows, DenseRowsMut, Input, Lists, Needs, Span};

/// Rows of a full tile: enough to read a layer's weights from L3 rarely, few enough that the tile's
/// activations stay in L2.
pub(crate) const TILE: usize = 64;

/// The same where all layers are int8: activations take a quarter of the room.
const BYTE_TILE: usize = 128;

/// Rows of a full tile where the weights do not stay in L3, so that reading them is what costs.
const WIDE_TILE: usize = 256;

/// Bytes of f32 weights above which tiles are wide.
const WIDE_FROM: usize = 16 << 20;

/// Rows of the smallest tile that threads share work in.
const LEAST_TILE: usize = 4;

/// Nanoseconds of a layer's work from which on threads share its units: many times what it takes them to find
/// it.
const LEAST_SHARED: u64 = 2000;

/// Rows that are computed anew at a time: at most so many, in at most so many bytes; but always a tile.
const GATHERED: usize = 4096;
const GATHERED_BYTES: usize = 4 << 20;

/// Rows of a tile on which the form of its lists is decided.
const SAMPLE: usize = 4;

/// Looks at every layer while a pass runs. The engine's own observer sees nothing and costs nothing.
pub(crate) trait Observer {
    /// Whether every layer's input must exist as dense rows.
    const DENSE_INPUTS: bool = false;
    /// A layer is about to run.
    fn before(&mut self, layer: usize, input: Input<'_>);
    /// It has run, computing `computed` units over all rows of the tile.
    fn after(&mut self, layer: usize, rows: usize, computed: usize);
    /// A step of a layer's work, or of reading the rows before the first, is done.
    #[inline(always)]
    fn step(&mut self, _step: Step<'_>) {}
    /// The last layer's output.
    fn output(&mut self, _rows: DenseRows<'_>) {}
}

/// Sees nothing.
pub(crate) struct NoObserver;

impl Observer for NoObserver {
    #[inline(always)]
    fn before(&mut self, _layer: usize, _input: Input<'_>) {}
    #[inline(always)]
    fn after(&mut self, _layer: usize, _rows: usize, _computed: usize) {}
}

impl Network {
    /// Runs the network: `rows` in, raw outputs of the last layer into `out`, row by row.
    ///
    /// `threads` is the most threads to use, `None` for [`pool::num_threads`]. The result does not
    /// depend on it.
    ///
    /// # Errors
    /// Rows of another width than the network's, an `out` of another length than rows times
    /// [`Network::output_size`], or 0 threads.
    pub fn forward(&self, rows: Rows<'_>, out: &mut [f32], threads: Option<usize>) -> Result<()> {
        self.check_width(rows)?;
        let outputs = self.output_size();
        if Some(out.len()) != rows.rows.checked_mul(outputs) {
            return Err(Error::Shape {
                name: "out".to_owned(),
                expected: format!("({}, {outputs})", rows.rows),
                got: format!("{} values", out.len()),
            });
        }
        if threads == Some(0) {
            return Err(Error::Threads { name: "num_threads", got: "0".to_owned() });
        }
        self.run_class(self.plan.for_rows(rows.rows), rows, out, threads)
    }

    /// Runs all rows of a call under a plan.
    fn run_class(
        &self,
        class: &ClassPlan,
        rows: Rows<'_>,
        out: &mut [f32],
        threads: Option<usize>,
    ) -> Result<()> {
        if rows.rows == 0 {
            return Ok(());
        }
        let outputs = self.output_size();
        let one_tile = |out: &mut [f32], team: &Team| {
            self.run_marking(class, rows, out, team, &mut NoObserver)
        };
        let mut threads_used = threads.map_or_else(pool::num_threads, Ok)?;
        let mut serial_time = Duration::ZERO;
        if threads_used > 1 {
            serial_time = self.least_time(class, rows, 1);
            if !pool::worth_sharing(serial_time) {
                threads_used = 1;
            }
        }
        let whole = self.tile(class);
        let long = interrupt::is_long(self.weights(), rows.rows);
        if threads_used == 1 && rows.rows <= whole {
            let beyond = one_tile(out, &pool::ALONE);
            if long {
                interrupt::check()?;
            }
            return self.run_beyond(class, rows, &beyond, out, threads);
        }
        let shares = |threads: usize| {
            let share = rows.rows.div_ceil(threads).next_multiple_of(LEAST_TILE);
            let tile = if threads == 1 { whole } else { whole.min(share) };
            (tile, rows.rows.div_ceil(tile))
        };
        let (tile, tiles) = shares(threads_used);
        let by_rows = threads_used.min(tiles);
        let rows_of_one = (tile * tiles.div_ceil(by_rows)).min(rows.rows);
        let time_by_rows = self.least_time(class, rows.slice(0, rows_of_one), 1);
        if rows.rows <= whole {
            // One tile, whose dense layers threads share unit by unit, if that is better than row by row.
            let by_units = self.threads_for_units(class, rows, threads_used);
            let time_by_units = self.least_time(class, rows, by_units);
            if time_by_units <= time_by_rows {
                let team = Team::new(by_units, serial_time.saturating_sub(time_by_units));
                let beyond = one_tile(out, &team);
                drop(team);
                if long {
                    interrupt::check()?;
                }
                return self.run_beyond(class, rows, &beyond, out, threads);
            }
        }
        let team = Team::new(by_rows, serial_time.saturating_sub(time_by_rows));
        // Cut for the threads that there are.
        let (tile, tiles) = shares(team.threads());
        let beyond = Mutex::new(Vec::new());
        let parts = OutTiles { start: out.as_mut_ptr(), len: out.len(), tile: tile * outputs };
        let caller = thread::current().id();
        let interrupted = AtomicBool::new(false);
        team.run(tiles, |i| {
            if interrupted.load(Ordering::Relaxed) {
                return;
            }
            let stop = || thread::current().id() == caller && interrupt::requested();
            if stop() {
                interrupted.store(true, Ordering::Relaxed);
                return;
            }
            let first = i * tile;
            let count = tile.min(rows.rows - first);
            // SAFETY: a team is given every tile number once, so no two tiles overlap.
            let out = unsafe { parts.tile(i) };
            let (rows, team) = (rows.slice(first, count), &pool::ALONE);
            let marked = self.run_marking(class, rows, out, team, &mut NoObserver);
            if long && stop() {
                interrupted.store(true, Ordering::Relaxed);
                return;
            }
            if !marked.is_empty() {
                let mut beyond = beyond.lock().unwrap_or_else(PoisonError::into_inner);
                beyond.extend(marked.iter().map(|row| first + row));
            }
        });
        drop(team);
        if interrupted.into_inner() {
            return Err(Error::Interrupted);
        }
        let mut beyond = beyond.into_inner().unwrap_or_else(PoisonError::into_inner);
        beyond.sort_unstable();
        self.run_beyond(class, rows, &beyond, out, threads)
    }

    /// Rows of a full tile of this network under a plan.
    pub(crate) fn tile(&self, class: &ClassPlan) -> usize {
        if self.weights() * size_of::<f32>() > WIDE_FROM {
            WIDE_TILE
        } else if class.layers.iter().all(|layer| layer.precision == Precision::Int8) {
            BYTE_TILE
        } else {
            TILE
        }
    }

    fn weights(&self) -> usize {
        self.layers().map(|layer| layer.inputs() * layer.outputs()).sum()
    }

    /// A lower estimate of what rows take on one thread, or where threads share units.
    fn least_time(&self, class: &ClassPlan, rows: Rows<'_>, threads: usize) -> Duration {
        let mut total = 0_u64;
        for i in 0..self.layers.len() {
            let mut time = self.least_layer_time(class, i, rows);
            if threads > 1 && self.can_share(class, i, rows) {
                let panels = self.panels(i) as u64;
                time = time.saturating_mul(panels.div_ceil(threads as u64)) / panels;
            }
            total = total.saturating_add(time);
        }
        Duration::from_nanos(total)
    }

    /// A lower estimate of what layer `i` takes on one thread, in nanoseconds. A dense one takes 100
    /// multiply-adds a nanosecond in f32 and 200 in int8, but no more than 100 bytes of its weights, which few
    /// rows wait for; others one for ten weights, 100 of them a nanosecond.
    fn least_layer_time(&self, class: &ClassPlan, i: usize, rows: Rows<'_>) -> u64 {
        let layer = self.layers[i].packed.layer();
        let (weights, n) = ((layer.inputs() * layer.outputs()) as u64, rows.rows as u64);
        match (self.is_dense(class, i, rows), class.layers[i].precision) {
            (true, Precision::F32) => weights.saturating_mul(n.max(4)) / 100,
            (true, Precision::Int8) => weights.saturating_mul(n.max(2)) / 200,
            (false, _) => weights.saturating_mul(n) / 10 / 100,
        }
    }

    /// Panels of layer `i`, the parts in which threads share its units.
    fn panels(&self, i: usize) -> usize {
        self.layers[i].packed.layer().outputs().div_ceil(PANEL)
    }

    /// Whether layer `i` computes every product: of its plan, but a first layer skips zeros where rows come as
    /// CSR and no dense rows are made of them.
    fn is_dense(&self, class: &ClassPlan, i: usize, rows: Rows<'_>) -> bool {
        let csr = matches!(rows.data, Data::Csr { .. }) && self.map_on_read.is_none();
        let skips = i == 0 && csr && class.layers[0].precision == Precision::F32;
        class.layers[i].strategy == Strategy::Dense && !skips
    }

    /// Whether threads share the units of layer `i`: of dense layers with work enough.
    fn can_share(&self, class: &ClassPlan, i: usize, rows: Rows<'_>) -> bool {
        self.is_dense(class, i, rows)
            && self.least_layer_time(class, i, rows) >= LEAST_SHARED
            && self.panels(i) > 1
    }

    /// Of up to `threads` threads, the fewest that share the units of every layer as fast as all would.
    fn threads_for_units(&self, class: &ClassPlan, rows: Rows<'_>, threads: usize) -> usize {
        let shared = (0..self.layers.len()).filter(|i| self.can_share(class, *i, rows));
        let fewest = |panels: usize| panels.div_ceil(panels.div_ceil(threads));
        shared.map(|i| fewest(self.panels(i))).max().unwrap_or(1)
    }

    /// A lower estimate of what a row takes where every layer is dense.
    pub(crate) fn dense_row_time(&self) -> Duration {
        Duration::from_nanos(self.weights() as u64 / 100)
    }

    /// Runs one tile on this thread.
    pub(crate) fn run_tile<O: Observer>(
        &self,
        class: &ClassPlan,
        rows: Rows<'_>,
        out: &mut [f32],
        observer: &mut O,
    ) -> Result<()> {
        if rows.rows > 0 {
            let beyond = self.run_marking(class, rows, out, &pool::ALONE, observer);
            interrupt::check()?;
            self.run_beyond(class, rows, &beyond, out, Some(1))?;
            let outputs = self.output_size();
            observer.output(DenseRows::new(out, rows.rows, outputs, outputs));
        }
        Ok(())
    }

    /// Runs one tile but for the rows that it returns, which are to be computed anew; so the observer is not
    /// told the output.
    fn run_marking<O: Observer>(
        &self,
        class: &ClassPlan,
        rows: Rows<'_>,
        out: &mut [f32],
        team: &Team,
        observer: &mut O,
    ) -> Vec<usize> {
        Workspace::with(|workspace| {
            self.run_layers(class, rows, out, workspace, team, observer);
            let marks = workspace.out_of_range[..rows.rows].iter().zip(&workspace.invalid);
            // A row that is not finite has its result.
            let marked =
                |(mark, invalid): (&AtomicBool, &bool)| mark.load(Ordering::Relaxed) && !invalid;
            let marked = marks.enumerate().filter(|(_, marks)| marked(*marks));
            marked.map(|(row, _)| row).collect()
        })
    }

    fn run_layers<O: Observer>(
        &self,
        class: &ClassPlan,
        rows: Rows<'_>,
        out: &mut [f32],
        workspace: &mut Workspace,
        team: &Team,
        observer: &mut O,
    ) {
        let n = rows.rows;
        let last = self.layers.len() - 1;
        let Workspace { buffers: [first, second], gate: scratch, invalid, out_of_range } =
            workspace;
        let (mut from, mut to) = (first, second);
        invalid.clear();
        invalid.resize(n, false);
        out_of_range.clear();
        out_of_range.resize_with(n, || AtomicBool::new(false));
        let out_of_range = &**out_of_range;
        let mut needs = Self::needs::<O>(class, 0);
        let marks = Marks { invalid, out_of_range, range: INPUT_RANGE };
        let mut input = self.read(class, rows, needs, from, to, marks, observer);
        if !needs.int8() && class.layers.iter().any(|layer| layer.precision == Precision::Int8) {
            mark_invalid(input, invalid);
            observer.step(Step::Checked);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let weights = layer.packed.layer().inputs() * layer.packed.layer().outputs();
            if interrupt::is_long(weights, n) && interrupt::requested() {
                return; // nothing of it is used
            }
            let plan = class.layers[i];
            let activation = layer.packed.layer().activation();
            let outputs = layer.packed.layer().outputs();
            observer.before(i, input);
            let mut output = layer.parts().output(plan.precision);
            let finish = activation.needs_finish();
            let shared = team.threads() > 1 && self.can_share(class, i, rows);
            let crew = Crew { isa: self.isa, team: if shared { team } else { &pool::ALONE } };
            let (mut scan, mut whole) = (false, finish);
            if i < last {
                needs = Self::needs::<O>(class, i + 1);
                scan = needs.byte_lists && !self.lists_bytes(class, i);
                // Lists are in order: threads that share units write rows alone.
                whole |= needs.lists && shared;
                if whole {
                    to.write_whole(n, outputs, &mut output);
                } else {
                    let written = if scan { needs.before_scan() } else { needs };
                    let next = self.layers[i + 1].int8.as_deref().map(|next| (next, out_of_range));
                    to.write(n, outputs, written, next, &mut output);
                }
            } else {
                output.dense = Some(DenseRowsMut::new(out, n, outputs, outputs));
            }
            let step = &mut |step: Step<'_>| observer.step(step);
            let parts = layer.parts();
            let computed = path::run(plan, crew, parts, input, output, scratch, step);
            observer.step(Step::Multiplied);
            if i == last {
                if finish {
                    let (columns, stride) = (outputs, outputs);
                    self.isa.run_floats(FinishRows { activation, data: out, columns, stride });
                    observer.step(Step::Finished);
                }
                observer.after(i, n, computed);
                break;
            }
            if finish {
                self.isa.run_floats(to.finish_rows(n, outputs, activation));
                observer.step(Step::Finished);
            }
            if whole {
                if needs.lists {
                    let (rows, lists) = to.rescan(n, outputs);
                    self.isa.run_floats(Scan { rows, lists });
                    observer.step(Step::Scanned);
                }
                if let Some(next) = self.int8(i + 1).filter(|_| needs.int8()) {
                    let (rows, bytes) = to.requantize(n, outputs);
                    let marks = Marks { invalid, out_of_range, range: HIDDEN_RANGE };
                    self.quantize(rows, bytes, next.to_bytes(), marks);
                    observer.step(Step::Quantized);
                }
            }
            if scan {
                self.isa.run_lister(to.scan_bytes(n, outputs));
                observer.step(Step::Scanned);
            } else if needs.byte_lists {
                to.fill_fours(n);
            }
            observer.after(i, n, computed);
            std::mem::swap(&mut from, &mut to);
            input = from.input(n, outputs, needs);
        }
        for (row, _) in invalid.iter().enumerate().filter(|(_, invalid)| **invalid) {
            let outputs = self.output_size();
            out[row * outputs..(row + 1) * outputs].fill(f32::NAN);
        }
    }

    /// Whether layer `i` lists its bytes itself for the next: gates do, which finish chosen units, but
    /// not where a unit that is off has another byte than 0.
    pub(crate) fn lists_bytes(&self, class: &ClassPlan, i: usize) -> bool {
        class.layers[i].strategy == Strategy::Gate
            && !self.layers[i].packed.layer().activation().needs_finish()
            && self.int8(i + 1).is_some_and(|next| next.offset() == 0.0)
    }

    fn int8(&self, layer: usize) -> Option<&QuantizedLayer> {
        self.layers.get(layer)?.int8.as_deref()
    }

    fn needs<O: Observer>(class: &ClassPlan, layer: usize) -> Needs {
        let needs = class.layers[layer].needs();
        Needs {
            dense: needs.dense || (O::DENSE_INPUTS && !needs.int8()),
            bytes: needs.bytes || (O::DENSE_INPUTS && needs.int8()),
            ..needs
        }
    }

    /// The first layer's input from the caller's rows, in place where it can be.
    #[allow(clippy::too_many_arguments)] // what a tile is read into
    fn read<'a, O: Observer>(
        &self,
        class: &ClassPlan,
        rows: Rows<'a>,
        needs: Needs,
        buffer: &'a mut Buffer,
        spare: &mut Buffer,
        marks: Marks<'_>,
        observer: &mut O,
    ) -> Input<'a> {
        let Rows { rows: n, columns, data } = rows;
        if let Some(first) = self.int8(0).filter(|_| needs.int8()) {
            self.read_bytes(rows, first, buffer, spare, marks);
            observer.step(Step::Quantized);
            if needs.byte_lists {
                self.list_bytes(class, buffer, n, columns);
                observer.step(Step::Scanned);
            }
            return buffer.input(n, columns, needs);
        }
        if let Some(map) = &self.map_on_read {
            return self.read_mapped(rows, map, needs, buffer, observer);
        }
        match data {
            Data::F32 { data, stride } => {
                let dense = DenseRows::new(data, n, columns, stride);
                if needs.lists {
                    let lists = buffer.write_lists(n, columns);
                    self.isa.run_floats(Scan { rows: dense, lists });
                    observer.step(Step::Scanned);
                }
                let lists = needs.lists.then(|| buffer.lists(n, columns));
                Input { rows: n, dense: Some(dense), lists, bytes: None, byte_lists: None }
            }
            Data::U8 { data, stride } => {
                let (dense, lists) = buffer.write_floats(n, columns, needs);
                self.isa.run_floats(FromBytes { data, stride, rows: n, columns, dense, lists });
                observer.step(if needs.lists {
                    Step::ConvertedAndScanned
                } else {
                    Step::Converted
                });
                buffer.input(n, columns, needs)
            }
            Data::Csr { starts, index, value } => {
                let spans = buffer.spans(n);
                for (span, pair) in spans.iter_mut().zip(starts.windows(2)) {
                    let start = pair[0] as usize;
                    *span = Span { start, len: pair[1] as usize - start };
                }
                let lists = Lists { columns, index, value, spans };
                Input { rows: n, dense: None, lists: Some(lists), bytes: None, byte_lists: None }
            }
        }
    }

    /// Lists what is not zero in the caller's rows as bytes, in the form that costs the first layer
    /// less.
    fn list_bytes(&self, class: &ClassPlan, buffer: &mut Buffer, n: usize, columns: usize) {
        let units = match (class.layers[0].strategy, &self.layers[0].gate) {
            (Strategy::Gate, Some(gate)) => gate.gate().rank(),
            _ => self.layers[0].packed.layer().outputs(),
        };
        let in_pairs = self.isa.dot_products() && n > 1 && {
            let sample = n.min(SAMPLE);
            let (bytes, words) = self.isa.run(buffer.count_bytes(sample, columns));
            pairs::pay(columns, units.div_ceil(PANEL), sample, bytes, words)
        };
        if in_pairs {
            self.isa.run(buffer.scan_pairs(n, columns));
        } else {
            self.isa.run_lister(buffer.scan_bytes(n, columns));
        }
    }

    /// The caller's rows as bytes.
    fn read_bytes(
        &self,
        rows: Rows<'_>,
        layer: &QuantizedLayer,
        buffer: &mut Buffer,
        spare: &mut Buffer,
        marks: Marks<'_>,
    ) {
        let Rows { rows: n, columns, data } = rows;
        let bytes = buffer.write_bytes(n, columns);
        match data {
            Data::U8 { data, stride } if layer.input.is_identity() => {
                self.isa.run_floats(CopyBytes { data, stride, rows: n, columns, bytes });
            }
            Data::F32 { data, stride } => {
                let rows = DenseRows::new(data, n, columns, stride);
                self.quantize(rows, bytes, layer.to_bytes(), marks);
            }
            _ => {
                let needs = Needs { dense: true, ..Needs::default() };
                if let (Some(mut dense), _) = spare.write_floats(n, columns, needs) {
                    (0..n).for_each(|r| rows.copy_row(r, dense.row(r)));
                }
                self.quantize(spare.dense(n, columns), bytes, layer.to_bytes(), marks);
            }
        }
    }

    fn quantize(
        &self,
        rows: DenseRows<'_>,
        bytes: ByteRowsMut<'_>,
        ToBytes { inverse, offset }: &ToBytes,
        Marks { invalid, out_of_range, range }: Marks<'_>,
    ) {
        let out_of_range = Some(out_of_range);
        self.isa.run_floats(Quantize {
            rows,
            inverse,
            offset,
            bytes,
            invalid,
            out_of_range,
            range,
        });
    }

    /// Recomputes the rows `beyond` of a call, those with a value that has no byte in some int8 layer: in f32
    /// and without gates, under which no row is marked.
    fn run_beyond(
        &self,
        class: &ClassPlan,
        rows: Rows<'_>,
        beyond: &[usize],
        out: &mut [f32],
        threads: Option<usize>,
    ) -> Result<()> {
        if beyond.is_empty() {
            return Ok(());
        }
        let mut class = class.clone();
        for layer in &mut class.layers {
            layer.precision = Precision::F32;
            if layer.strategy == Strategy::Gate {
                // Few rows wait for weights: where inputs are zeros, for fewer; else for as many.
                layer.strategy = Strategy::Skip;
            }
        }
        self.pack_for(&class, true);
        let (columns, outputs) = (rows.columns, self.output_size());
        let most = (GATHERED_BYTES / (4 * columns.max(outputs)))
            .clamp(WIDE_TILE, GATHERED)
            .min(beyond.len());
        let mut data = memory::filled(0.0, most * columns);
        let mut results = memory::filled(0.0, most * outputs);
        for beyond in beyond.chunks(most) {
            let (n, results) = (beyond.len(), &mut results[..beyond.len() * outputs]);
            for (r, row) in beyond.iter().zip(data.chunks_exact_mut(columns)) {
                rows.copy_row(*r, row);
            }
            let data = Data::F32 { data: &data, stride: columns };
            interrupt::check()?;
            self.run_class(&class, Rows { rows: n, columns, data }, results, threads)?;
            for (r, result) in beyond.iter().zip(results.chunks_exact(outputs)) {
                out[r * outputs..][..outputs].copy_from_slice(result);
            }
        }
        Ok(())
    }

    /// The first layer's input where the map is not folded into the weights.
    fn read_mapped<'a, O: Observer>(
        &self,
        rows: Rows<'a>,
        map: &InputMap,
        needs: Needs,
        buffer: &'a mut Buffer,
        observer: &mut O,
    ) -> Input<'a> {
        let (n, columns) = (rows.rows, rows.columns);
        let needs = Needs { dense: true, ..needs };
        let (dense, _) = buffer.write_floats(n, columns, Needs { lists: false, ..needs });
        if let Some(mut dense) = dense {
            for r in 0..n {
                let to = dense.row(r);
                rows.copy_row(r, to);
                for (i, x) in to.iter_mut().enumerate() {
                    *x = *x * map.scale(i) + map.shift(i);
                }
            }
        }
        observer.step(Step::Converted);
        if needs.lists {
            let (rows, lists) = buffer.rescan(n, columns);
            self.isa.run_floats(Scan { rows, lists });
            observer.step(Step::Scanned);
        }
        buffer.input(n, columns, needs)
    }

    /// Every layer's input on these rows, as the plan for their number computes it: for layer i,
    /// `rows * inputs` values. The first is `x scale + shift`.
    ///
    /// # Errors
    /// Rows of another width than the network's.
    pub fn layer_inputs(&self, rows: Rows<'_>) -> Result<Vec<Vec<f32>>> {
        let mut inputs = self.captured(rows, 0)?;
        if let Some(map) = &self.input_map
            && self.map_on_read.is_none()
        {
            for row in inputs[0].chunks_exact_mut(self.input_size()) {
                for (i, x) in row.iter_mut().enumerate() {
                    *x = *x * map.scale(i) + map.shift(i);
                }
            }
        }
        Ok(inputs)
    }

    /// The same of the layers after the first.
    ///
    /// # Errors
    /// Rows of another width than the network's.
    pub fn hidden_inputs(&self, rows: Rows<'_>) -> Result<Vec<Vec<f32>>> {
        let mut inputs = self.captured(rows, 1)?;
        inputs.remove(0);
        Ok(inputs)
    }

    /// Every layer's input, of layers before `first` nothing.
    fn captured(&self, rows: Rows<'_>, first: usize) -> Result<Vec<Vec<f32>>> {
        self.check_width(rows)?;
        let width = |(i, layer): (usize, &Layer)| if i < first { 0 } else { layer.inputs() };
        let inputs = self.layers().enumerate().map(width);
        let inputs = inputs.map(|width| memory::room(rows.rows.saturating_mul(width))).collect();
        let mut capture = Capture { network: self, first, inputs };
        self.observe(self.plan.for_rows(rows.rows), rows, &mut capture)?;
        Ok(capture.inputs)
    }

    /// For each row, whether a call on these rows recomputes it in f32: it has a value, in the input or in a
    /// hidden layer, that has no byte in an int8 layer of the plan.
    ///
    /// # Errors
    /// Rows of another width than the network's.
    pub fn out_of_range(&self, rows: Rows<'_>) -> Result<Vec<bool>> {
        self.check_width(rows)?;
        let class = self.plan.for_rows(rows.rows);
        let tile = self.tile(class);
        let mut out = memory::filled(0.0, tile.min(rows.rows) * self.output_size());
        let mut marks = memory::filled(false, rows.rows);
        for (rows, marks) in rows.batches(tile).zip(marks.chunks_mut(tile)) {
            interrupt::check()?;
            let out = &mut out[..rows.rows * self.output_size()];
            for row in self.run_marking(class, rows, out, &pool::ALONE, &mut NoObserver) {
                marks[row] = true;
            }
        }
        Ok(marks)
    }

    /// Runs all tiles on this thread under an observer.
    pub(crate) fn observe<O: Observer>(
        &self,
        class: &ClassPlan,
        rows: Rows<'_>,
        observer: &mut O,
    ) -> Result<()> {
        self.check_width(rows)?;
        let tile = self.tile(class);
        let mut out = memory::filled(0.0, tile.min(rows.rows) * self.output_size());
        for rows in rows.batches(tile) {
            let out = &mut out[..rows.rows * self.output_size()];
            self.run_tile(class, rows, out, observer)?;
        }
        Ok(())
    }

    pub(crate) fn check_width(&self, rows: Rows<'_>) -> Result<()> {
        let width = self.input_size();
        if rows.columns == width {
            return Ok(());
        }
        Err(Error::Shape {
            name: "x".to_owned(),
            expected: format!("(n, {width})"),
            got: format!("({}, {})", rows.rows, rows.columns),
        })
    }
}

/// What is told of rows as they become bytes.
struct Marks<'a> {
    /// Set where a value is not finite.
    invalid: &'a mut [bool],
    /// Set where a value has no byte.
    out_of_range: &'a [AtomicBool],
    /// What a value must be within before it is rounded.
    range: (f32, f32),
}

/// Marks rows with a value that is not finite, which bytes of later layers could not tell.
fn mark_invalid(input: Input<'_>, invalid: &mut [bool]) {
    for (r, invalid) in invalid.iter_mut().enumerate() {
        *invalid |= match (input.dense, input.lists) {
            (Some(rows), _) => rows.row(r).iter().any(|x| !x.is_finite()),
            (None, Some(lists)) => lists.row(r).1.iter().any(|x| !x.is_finite()),
            (None, None) => false,
        };
    }
}

/// The output, to be handed out tile by tile to several threads.
struct OutTiles {
    start: *mut f32,
    len: usize,
    tile: usize,
}

// SAFETY: tiles do not overlap, and each is used by one thread (the promise of `OutTiles::tile`).
unsafe impl Sync for OutTiles {}

impl OutTiles {
    /// # Safety
    /// A tile may be taken once while the output is borrowed.
    #[allow(clippy::mut_from_ref)]
    unsafe fn tile(&self, tile: usize) -> &mut [f32] {
        let start = tile * self.tile;
        let len = self.tile.min(self.len - start);
        // SAFETY: start + len <= self.len, and the caller promises that nobody else has this tile.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// Keeps every layer's input.
struct Capture<'a> {
    network: &'a Network,
    /// The first layer that is kept.
    first: usize,
    inputs: Vec<Vec<f32>>,
}

impl Observer for Capture<'_> {
    const DENSE_INPUTS: bool = true;
    fn before(&mut self, layer: usize, input: Input<'_>) {
        if layer >= self.first {
            self.network.append_dense(&mut self.inputs[layer], layer, input);
        }
    }
    fn after(&mut self, _layer: usize, _rows: usize, _computed: usize) {}
}

impl Network {
    /// Appends the rows of layer `layer`'s input to `out`: lists are spread where there are no dense
    /// rows, and bytes are what they stand for.
    pub(crate) fn append_dense(&self, out: &mut Vec<f32>, layer: usize, input: Input<'_>) {
        for r in 0..input.rows {
            match (input.dense, input.lists, input.bytes) {
                (Some(rows), ..) => out.extend_from_slice(rows.row(r)),
                (None, Some(lists), _) => {
                    let start = out.len();
                    out.resize(start + lists.columns, 0.0);
                    let (index, value) = lists.row(r);
                    for (i, x) in index.iter().zip(value) {
                        out[start + *i as usize] += x;
                    }
                }
                (None, None, Some(rows)) => self.append_bytes(out, layer, rows.row(r)),
                (None, None, None) => {}
            }
        }
    }

    fn append_bytes(&self, out: &mut Vec<f32>, layer: usize, row: &[u32]) {
        let Some(quantization) = self.quantization(layer) else { return };
        // Bytes stand for raw inputs; where the map is not folded, f32 layers see mapped ones.
        let map = self.map_on_read.as_ref().filter(|_| layer == 0);
        let columns = self.layers[layer].packed.layer().inputs();
        let bytes = row.iter().flat_map(|word| word.to_ne_bytes()).take(columns);
        out.extend(bytes.enumerate().map(|(i, byte)| {
            let x = (f32::from(byte) - quantization.offset(i)) * quantization.scale(i);
            map.map_or(x, |map| x * map.scale(i) + map.shift(i))
        }));
    }
}
