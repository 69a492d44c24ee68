//! The gate strategy: units whose low-rank sign estimate is not positive are not computed (Davis
//! and Arel 2013, arXiv 1312.4461).
//!
//! ```text
//! t = x u                         # rank sums per row; dense, or only of the non-zero inputs
//! live = units with t v + c > 0   # compressed into a list in registers
//! y[unit] = activation(x . w[unit] + b[unit]) for unit in live, else 0
//! ```
//!
//! If t of a row holds NaN or an infinity, the row has no estimate: all its units are computed, so
//! that NaN in a row reaches the output.

use std::iter;
use std::sync::Arc;

use super::contract::{Context, Path};
use super::packed::PackedLayer;
use super::phase::{Phase, Seen, Watch, Work};
use super::quantize::{quantize, reference, step, word};
use super::quantized::{ByteWeights, QuantizedLayer, Source};
use super::scratch::{GateScratch, LiveLists};
use super::weights::Weights;
use crate::error::{Error, Result, Subject};
use crate::kernels::arithmetic::Floats;
use crate::kernels::dense::{RowsTimesPanels, bytes_times_panels};
use crate::kernels::epilogue::{ByteSums, GateStep, Live, LiveBytes, Output, Sums};
use crate::kernels::scan::Quantize;
use crate::kernels::sparse::SparseTimesPanels;
use crate::layout::{Panels, padded};
use crate::memory::{self, Aligned, zeros};
use crate::model::{Gate, InputMap, Layer, Quantization};
use crate::signal::{
    ByteRowsMut, DenseRows, Form, RowRange, Signal, SparseRows, byte_stride, list_stride,
};
use crate::simd::Isa;

/// A layer that computes only the units that its gate lets through.
pub(crate) struct Gated<W, G> {
    pub(super) weights: Arc<W>,
    pub(super) gate: Arc<G>,
    /// Whether the gate reads lists of the input's non-zeros.
    pub(super) lists: bool,
}

impl<W, G> Clone for Gated<W, G> {
    fn clone(&self) -> Self {
        Gated { weights: self.weights.clone(), gate: self.gate.clone(), lists: self.lists }
    }
}

/// The gate of a layer with weights `W`.
pub(crate) trait Estimate<W: Weights>: Send + Sync + 'static {
    /// Packs the weights that are not packed yet, for lists or for dense rows.
    fn pack(&self, isa: Isa, lists: bool, in_pairs: bool);
    /// Rank of its factors.
    fn rank(&self) -> usize;
    /// Whether the input has the low-rank sums already.
    const NESTED: bool = false;
    /// Number of units that are scored.
    fn scored(&self) -> usize;
    /// Whether scores are sums of bytes.
    fn scores_bytes(&self) -> bool;
    /// Computes the low-rank sums of every row, from lists if the input has any.
    fn estimate(&self, isa: Isa, input: Signal<'_>, scratch: &mut GateScratch);
    /// Lists the live units of every row from the low-rank sums.
    fn choose(&self, isa: Isa, rows: usize, scratch: &mut GateScratch);
}

impl<W: Weights, G: Estimate<W>> Path for Gated<W, G> {
    fn layer(&self) -> &Layer {
        self.weights.layer()
    }
    fn reads(&self) -> Form {
        if self.lists { Form::both(W::PRECISION) } else { Form::rows(W::PRECISION) }
    }
    fn output(&self) -> Output<'_> {
        self.weights.output()
    }
    fn pack(&self, isa: Isa, in_pairs: bool) {
        self.weights.unit_rows();
        self.gate.pack(isa, self.lists, in_pairs);
    }

    #[inline]
    fn run(
        &self,
        Context { isa, .. }: Context<'_>,
        input: Signal<'_>,
        mut output: Output<'_>,
        scratch: &mut GateScratch,
        watch: &mut impl Watch,
    ) -> usize {
        let (n, layer) = (input.len(), self.layer());
        scratch.reserve(n, self.gate.rank(), self.weights.words(), layer.outputs());
        self.gate.estimate(isa, input, scratch);
        watch.step(Phase::Estimate);
        self.gate.choose(isa, n, scratch);
        watch.chosen(&scratch.live, &scratch.live_ranges[..n]);
        watch.step(Phase::ScoreThreshold);
        output.clear(n);
        watch.step(Phase::Clear);
        let GateScratch { live, live_ranges, blocks, .. } = scratch;
        let (row_ranges, blocks) = (&live_ranges[..n], &mut blocks[..]);
        self.weights.times_units(isa, input, output, LiveLists { live, row_ranges, blocks });
        row_ranges.iter().map(|row_range| row_range.len).sum()
    }

    fn lists_bytes(&self) -> bool {
        true
    }
    fn listed_units(&self) -> usize {
        if self.lists { self.gate.rank() } else { 0 }
    }
    fn rank(&self) -> Option<usize> {
        Some(self.gate.rank())
    }
    fn scores_bytes(&self) -> bool {
        self.gate.scores_bytes()
    }
    fn scored(&self) -> usize {
        self.gate.scored()
    }
    fn score_bytes(&self) -> f64 {
        let width = if self.gate.scores_bytes() { 1.0 } else { 4.0 };
        self.gate.scored() as f64 * (self.gate.rank() as f64 * width + 4.0)
    }
    fn phase(&self) -> Phase {
        Phase::Dots
    }

    fn product(&self, seen: Seen) -> (Phase, Work) {
        let (rank, width) = (self.gate.rank() as f64, W::BYTES as f64);
        if G::NESTED {
            let row_bytes = seen.rows * rank * width;
            return (Phase::Estimate, Work { row_bytes, ..Work::default() });
        }
        let (inputs, row_bytes, entries) = if self.lists {
            (seen.inputs, seen.list_bytes, seen.entries)
        } else {
            let d = self.layer().inputs() as f64;
            (d, seen.rows * d * width, seen.rows * d)
        };
        let (weight_bytes, operations) = (inputs * rank * width, 2.0 * entries * rank);
        (Phase::Estimate, Work { weight_bytes, row_bytes, operations })
    }

    fn epilogue(&self, _rows: f64, written: f64) -> (Phase, Work) {
        (Phase::Dots, Work { row_bytes: written, ..Work::default() })
    }

    fn weight_bytes(&self, inputs: f64, lines: f64) -> f64 {
        let inputs = if self.lists { inputs } else { self.layer().inputs() as f64 };
        let rank = if G::NESTED { 0.0 } else { self.gate.rank() as f64 };
        inputs * rank * W::BYTES as f64 + self.score_bytes() + 64.0 * lines
    }

    fn multiply_adds(&self, density: f64, computed: f64) -> f64 {
        let (d, h) = (self.layer().inputs() as f64, self.layer().outputs() as f64);
        let rank = self.gate.rank() as f64;
        let inputs = match (G::NESTED, self.lists) {
            (true, _) => 0.0,
            (_, true) => d * density,
            (_, false) => d,
        };
        rank * inputs + rank * h + computed * d * h
    }
}

/// A gate with its factors packed.
pub(crate) struct PackedGate {
    gate: Gate,
    u: Panels,
    choice: Choice,
    /// For a gate with a range: scores are sums of bytes, which takes a quarter of the memory.
    bytes: Option<ByteGate>,
}

/// Quantises an f32 gate's sums `x u`, with factors and offsets per sum padded to whole vectors,
/// and computes scores from them.
struct ByteGate {
    inverse: Vec<f32>,
    offset: Vec<f32>,
    scores: Arc<Scores>,
}

/// Rows with at most this share of non-zeros use the sparse kernel for t. The sparse kernel takes
/// about twice as long per product as the dense one.
const SPARSE_ESTIMATE_UP_TO: f64 = 0.5;

impl PackedGate {
    /// Packs a checked gate, and folds the layer's input map into it.
    pub(crate) fn new(index: usize, gate: Gate, layer: &PackedLayer) -> Result<PackedGate> {
        let (inputs, outputs, rank) = (layer.layer.inputs(), layer.layer.outputs(), gate.rank);
        let scale = |i| layer.map.as_ref().map_or(1.0, |map| map.scale(i));
        let u = Panels::pack_by_input(inputs, rank, |i, k| gate.u[i * rank + k] * scale(i));
        let mut bias = gate.bias.clone();
        if let Some(map) = &layer.map {
            let mut sums: Vec<f64> = gate.bias.iter().copied().map(f64::from).collect();
            for k in 0..rank {
                let shifted = |i| f64::from(gate.u[i * rank + k]) * f64::from(map.shift(i));
                let t: f64 = (0..inputs).map(shifted).sum();
                for (sum, v) in sums.iter_mut().zip(&gate.v[k * outputs..]) {
                    *sum += t * f64::from(*v);
                }
            }
            for (bias, sum) in bias.iter_mut().zip(sums) {
                *bias = sum as f32;
            }
        }
        let overflow = bias.iter().copied().find(|b| !b.is_finite());
        if let Some(value) = overflow {
            let (subject, layer, part) = (Subject::InputShift, index, "gate");
            return Err(Error::Overflow { subject, layer, part, value });
        }
        let choice = Choice::new(&gate.v, &bias, rank);
        let mut packed = PackedGate { gate, u, choice, bytes: None };
        packed.bytes = ByteGate::new(&packed, layer);
        Ok(packed)
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn bytes(&self) -> usize {
        let own = self.gate.u.len() + self.gate.v.len() + self.gate.bias.len();
        own * 4
            + self.u.bytes()
            + self.choice.bytes()
            + self.bytes.as_ref().map_or(0, |bytes| bytes.scores.bytes())
    }
}

impl Estimate<PackedLayer> for PackedGate {
    fn pack(&self, _isa: Isa, _lists: bool, _in_pairs: bool) {}
    fn rank(&self) -> usize {
        self.gate.rank
    }
    fn scored(&self) -> usize {
        self.choice.scored
    }
    fn scores_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    /// t = x u, dense or sparse, whichever is faster for a row. CSR input has no dense rows.
    fn estimate(&self, isa: Isa, input: Signal<'_>, scratch: &mut GateScratch) {
        let Signal::Floats(parts) = input else { unreachable!("an f32 gate reads f32") };
        let (rows, Some(lists)) = (parts.rows(), parts.lists()) else {
            unreachable!("a gate reads lists")
        };
        let low_rank = &mut scratch.low_rank;
        let stride = padded(self.gate.rank);
        let limit = SPARSE_ESTIMATE_UP_TO * lists.columns as f64;
        for (r, row_range) in lists.row_ranges.iter().enumerate() {
            let data = &mut low_rank[r * stride..];
            let epilogue = &mut GateStep::LowRank(Sums { data, stride });
            match rows {
                Some(rows) if row_range.len as f64 > limit => {
                    let rows = DenseRows::new(rows.row(r), 1, rows.columns(), rows.columns());
                    let (panels, which) = (&self.u, self.u.all());
                    isa.run_floats(RowsTimesPanels::<Floats, _> { rows, panels, which, epilogue });
                }
                _ => {
                    let lists = SparseRows { row_ranges: &lists.row_ranges[r..=r], ..lists };
                    let panels = &self.u;
                    isa.run_floats(SparseTimesPanels { lists, panels, epilogue });
                }
            }
        }
    }

    fn choose(&self, isa: Isa, n: usize, scratch: &mut GateScratch) {
        match &self.bytes {
            Some(bytes) => bytes.choose(isa, n, scratch),
            None => self.choice.choose(isa, n, scratch),
        }
    }
}

/// Scores in f32, from the sums `t = x u`.
pub(super) struct Choice {
    v: Panels,
    /// Zero-padded to whole vectors.
    bias: Aligned<f32>,
    rank: usize,
    outputs: usize,
    /// Units from this index on are live for every row (`v` has only zeros for them and the bias is
    /// positive). They are not scored.
    pub(super) scored: usize,
}

impl Choice {
    /// Packs `v` (rank, outputs) and `bias` (outputs,).
    pub(super) fn new(v: &[f32], bias: &[f32], rank: usize) -> Choice {
        let outputs = bias.len();
        let always = |o: &usize| bias[*o] > 0.0 && (0..rank).all(|k| v[k * outputs + *o] == 0.0);
        let scored = outputs - (1..outputs).rev().take_while(always).count();
        let mut padded_bias = zeros(padded(outputs));
        padded_bias[..outputs].copy_from_slice(bias);
        let v = Panels::pack_by_input(rank, scored, |k, o| v[k * outputs + o]);
        Choice { v, bias: padded_bias, rank, outputs, scored }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bias.len() * 4 + self.v.bytes()
    }

    /// Lists the live units of every row from its sums.
    pub(super) fn choose(&self, isa: Isa, n: usize, scratch: &mut GateScratch) {
        let GateScratch { low_rank, live, live_ranges, .. } = scratch;
        let (rank, outputs) = (self.rank, self.outputs);
        let row_ranges = start_ranges(live_ranges, n, outputs);
        let rows = DenseRows::new(low_rank, n, rank, padded(rank));
        let choice = Live { bias: &self.bias, units: self.scored, index: live, row_ranges };
        let epilogue = &mut GateStep::Choice(choice);
        let (panels, which) = (&self.v, self.v.all());
        isa.run_floats(RowsTimesPanels::<Floats, _> { rows, panels, which, epilogue });
        add_always(live, row_ranges, self.scored, outputs);
        for (row, row_range) in row_ranges.iter_mut().enumerate() {
            if !rows.row(row).iter().all(|t| t.is_finite()) {
                all_live(live, row_range, outputs);
            }
        }
    }
}

impl ByteGate {
    /// `None` for a gate without a range.
    fn new(packed: &PackedGate, layer: &PackedLayer) -> Option<ByteGate> {
        let (gate, rank) = (&packed.gate, packed.gate.rank);
        if gate.range.len() != rank {
            return None;
        }
        let low = gate.range.iter().map(|range| f64::from(range[0]));
        let steps = gate.range.iter().map(|[low, high]| {
            let step = (f64::from(*high) - f64::from(*low)) / 255.0;
            if step > 0.0 { step } else { 1.0 }
        });
        let bytes = low.zip(steps).collect();
        let scores = Arc::new(Scores::new(&gate.v, &gate.bias, packed.choice.scored, bytes));
        let (mut inverse, mut offset) = (vec![0.0; padded(rank)], vec![0.0; padded(rank)]);
        for k in 0..rank {
            // The kernel's sums do not contain the folded map's shift.
            let shifted = |map: &Arc<InputMap>| {
                let inputs = 0..layer.layer.inputs();
                inputs.map(|i| f64::from(gate.u[i * rank + k]) * f64::from(map.shift(i))).sum()
            };
            let shift: f64 = layer.map.as_ref().map_or(0.0, shifted);
            let (low, step) = scores.sums[k];
            inverse[k] = (1.0 / step) as f32;
            offset[k] = ((shift - low) / step) as f32;
        }
        Some(ByteGate { inverse, offset, scores })
    }

    fn choose(&self, isa: Isa, n: usize, scratch: &mut GateScratch) {
        let GateScratch { low_rank, low_rank_bytes, non_finite, .. } = scratch;
        let (rank, outputs) = (self.scores.rank(), self.scores.outputs);
        let rows = DenseRows::new(low_rank, n, rank, padded(rank));
        let bytes = ByteRowsMut::new(low_rank_bytes, n, rank);
        non_finite[..n].fill(false);
        let (inverse, offset) = (&self.inverse, &self.offset);
        let out_of_range = None;
        let range = (f32::NEG_INFINITY, f32::INFINITY);
        isa.run_floats(Quantize { rows, inverse, offset, bytes, non_finite, out_of_range, range });
        self.scores.choose(isa, n, scratch);
        let GateScratch { live, live_ranges, non_finite, .. } = scratch;
        for (row_range, _) in
            live_ranges[..n].iter_mut().zip(non_finite).filter(|(_, non_finite)| **non_finite)
        {
            all_live(live, row_range, outputs);
        }
    }
}

/// Makes all units of a row live.
fn all_live(live: &mut [u32], row_range: &mut RowRange, outputs: usize) {
    row_range.len = outputs;
    for (unit, slot) in live[row_range.start..].iter_mut().take(outputs).enumerate() {
        *slot = unit as u32;
    }
}

/// Scores from bytes: `t = x u`, quantised to eight bits over its range on calibration rows, is
/// multiplied with `v` as signed bytes with a step per unit. The sum is compared with one integer
/// threshold per unit, into which all other terms are folded.
pub(super) struct Scores {
    v: Panels<u32>,
    /// i32: a unit is live if its sum is above its threshold.
    threshold: Aligned<u32>,
    /// For each sum, a value and a step: byte b represents `low + b step`.
    sums: Vec<(f64, f64)>,
    outputs: usize,
    pub(super) scored: usize,
}

impl Scores {
    /// Quantises `v` (rank, outputs) for `sums`. Units from `scored` on are not scored.
    pub(super) fn new(v: &[f32], bias: &[f32], scored: usize, sums: Vec<(f64, f64)>) -> Scores {
        let (rank, outputs) = (sums.len(), bias.len());
        let v_of = |k: usize, o: usize| f64::from(v[k * outputs + o]) * sums[k].1;
        let (mut largest, mut lows) = (vec![0.0_f64; outputs], vec![0.0; outputs]);
        for (k, row) in v.chunks_exact(outputs).enumerate() {
            for (o, v) in row.iter().enumerate() {
                largest[o] = largest[o].max(v_of(k, o).abs());
                lows[o] += sums[k].0 * f64::from(*v);
            }
        }
        let v_steps: Vec<f64> = largest.into_iter().map(|v| step(iter::once(v))).collect();
        // The threshold of units that are not scored is never exceeded.
        let mut threshold = zeros(padded(outputs));
        threshold[scored..].fill(i32::MAX as u32);
        for (o, threshold) in threshold.iter_mut().enumerate().take(scored) {
            let least = -(f64::from(bias[o]) + lows[o]) / v_steps[o];
            // The sum is an integer, so it is above `least` exactly if it is above the floor of
            // `least`. The cast from float saturates.
            *threshold = least.floor() as i32 as u32;
        }
        let v = Panels::pack_by_input(rank.div_ceil(4), scored, |group, o| {
            word(|j| 4 * group + j, rank, |k| quantize(v_of(k, o), v_steps[o]))
        });
        Scores { v, threshold, sums, outputs, scored }
    }

    pub(super) fn rank(&self) -> usize {
        self.sums.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.threshold.len() * 4 + self.v.bytes()
    }

    /// Lists the live units of every row from its bytes of `x u`.
    pub(super) fn choose(&self, isa: Isa, n: usize, scratch: &mut GateScratch) {
        let GateScratch { low_rank_bytes, live, live_ranges, .. } = scratch;
        let rank = self.rank();
        let rows = DenseRows::new(low_rank_bytes, n, rank.div_ceil(4), byte_stride(rank));
        let row_ranges = start_ranges(live_ranges, n, self.outputs);
        let epilogue = &mut LiveBytes { threshold: &self.threshold, index: live, row_ranges };
        bytes_times_panels(isa, rows, &self.v, self.v.all(), epilogue);
        add_always(live, row_ranges, self.scored, self.outputs);
    }
}

/// Starts empty lists of live units for `n` rows.
fn start_ranges(row_ranges: &mut [RowRange], n: usize, outputs: usize) -> &mut [RowRange] {
    let stride = list_stride(outputs);
    for (row, row_range) in row_ranges[..n].iter_mut().enumerate() {
        *row_range = RowRange { start: row * stride, len: 0 };
    }
    &mut row_ranges[..n]
}

/// Appends the units from `scored` on to every list.
fn add_always(live: &mut [u32], row_ranges: &mut [RowRange], scored: usize, outputs: usize) {
    for row_range in row_ranges {
        let always = &mut live[row_range.start + row_range.len..][..outputs - scored];
        for (slot, unit) in always.iter_mut().zip(scored..) {
            *slot = unit as u32;
        }
        row_range.len += always.len();
    }
}

/// Bytes of the largest `u` that is multiplied with all inputs. With 40 to 60 inputs per row other than
/// zero, tiles are slower at 1 MB and as fast at 320 KB.
const MOST_DENSE: usize = 1 << 18;

/// The gate of an int8 layer: both factors are bytes.
pub(crate) struct QuantizedGate {
    u: ByteWeights,
    /// `sum scale + bias`, rounded, is the byte of a sum of `x u`.
    scale: Aligned<f32>,
    bias: Aligned<f32>,
    /// Shared with the f32 gate that it is made from.
    scores: Arc<Scores>,
}

impl QuantizedGate {
    /// Quantises a checked gate of a layer whose inputs are bytes; `None` for a gate without a
    /// range.
    pub(crate) fn new(
        packed: &PackedGate,
        layer: &PackedLayer,
        input: &Quantization,
    ) -> Option<Self> {
        let scores = packed.bytes.as_ref()?.scores.clone();
        let gate = &packed.gate;
        let (inputs, rank) = (layer.layer.inputs(), gate.rank);
        // x = (byte - offset) step. With an input map, u is multiplied with x scale + shift.
        let map = layer.input_map.as_deref();
        let factor = |i: usize| map.map_or(1.0, |map| f64::from(map.scale(i)));
        let shift = |i: usize| map.map_or(0.0, |map| f64::from(map.shift(i)));
        let u_of = |i: usize, k: usize| {
            f64::from(gate.u[i * rank + k]) * factor(i) * f64::from(input.scale(i))
        };
        let u_steps: Vec<f64> = (0..rank).map(|k| step((0..inputs).map(|i| u_of(i, k)))).collect();
        let (mut scale, mut bias) = (zeros(padded(rank)), zeros(padded(rank)));
        for k in 0..rank {
            let constant: f64 = (0..inputs)
                .map(|i| {
                    let u = f64::from(gate.u[i * rank + k]);
                    let product = u_of(i, k);
                    let rounded = f64::from(quantize(product, u_steps[k])) * u_steps[k];
                    u * shift(i)
                        - product * f64::from(input.offset(i))
                        - (rounded - product) * reference(input.offset(i))
                })
                .sum();
            let (low, step) = scores.sums[k];
            scale[k] = (u_steps[k] / step) as f32;
            bias[k] = ((constant - low) / step) as f32;
        }
        let words = (0..rank).flat_map(|k| (0..inputs.div_ceil(4)).map(move |group| (k, group)));
        let words = words.map(|(k, group)| {
            word(|j| 4 * group + j, inputs, |i| quantize(u_of(i, k), u_steps[k]))
        });
        let mut all = memory::with_capacity(rank * inputs.div_ceil(4));
        all.extend(words);
        let u = ByteWeights::new(inputs, rank, Source::Words(all));
        Some(QuantizedGate { u, scale, bias, scores })
    }

    /// Whether `u` has few enough bytes that AMX tiles multiply all inputs faster than vectors multiply
    /// the non-zero ones of sparse rows.
    pub(super) fn is_small(&self) -> bool {
        self.u.inputs() * self.rank() <= MOST_DENSE
    }

    /// Bytes of weights, without the scores, which the f32 gate counts.
    pub(crate) fn bytes(&self) -> usize {
        (self.scale.len() + self.bias.len()) * 4 + self.u.bytes()
    }
}

impl Estimate<QuantizedLayer> for QuantizedGate {
    fn pack(&self, isa: Isa, lists: bool, in_pairs: bool) {
        if lists {
            self.u.pack_for_lists(isa, in_pairs);
        } else {
            self.u.panels();
        }
    }
    fn rank(&self) -> usize {
        self.scores.rank()
    }
    fn scored(&self) -> usize {
        self.scores.scored
    }
    fn scores_bytes(&self) -> bool {
        true
    }

    fn estimate(&self, isa: Isa, input: Signal<'_>, scratch: &mut GateScratch) {
        let Signal::Bytes(parts) = input else { unreachable!("an int8 gate reads bytes") };
        let bytes = ByteRowsMut::new(&mut scratch.low_rank_bytes, input.len(), self.rank());
        let mut sums = ByteSums { scale: &self.scale, bias: &self.bias, rows: bytes };
        match (parts.lists(), parts.rows()) {
            (Some(lists), _) => self.u.times(isa, lists, &mut sums),
            (None, Some(rows)) => {
                let panels = self.u.panels();
                bytes_times_panels(isa, rows, panels, panels.all(), &mut sums);
            }
            (None, None) => unreachable!("an input has rows or lists"),
        }
    }

    fn choose(&self, isa: Isa, n: usize, scratch: &mut GateScratch) {
        self.scores.choose(isa, n, scratch);
    }
}
