//! gate: units whose low-rank sign estimate is not positive are not computed (Davis and Arel 2013,
//! arXiv 1312.4461).
//!
//! ```text
//! t = x u                         # rank sums a row; skips zero inputs where that is cheaper
//! live = units with t v + c > 0   # compressed into a list in registers
//! y[unit] = activation(x . w[unit] + b[unit]) for unit in live, else 0
//! ```
//!
//! A row whose t holds NaN or an infinity has no estimate: all its units are computed, so that a
//! NaN in a row comes out as NaN.

use super::PackedLayer;
use crate::error::Result;
use crate::kernels::dense::RowsTimesPanels;
use crate::kernels::dot::{LiveUnits, LiveUnitsOfLists};
use crate::kernels::emit::{Live, Output, Sums};
use crate::kernels::sparse::SparseTimesPanels;
use crate::kernels::{Aligned, DenseRows, Lists, Panels, Span, list_stride, padded, zeros};
use crate::network::Gate;
use crate::simd::Isa;
use crate::workspace::GateScratch;

/// A gate with its factors packed.
pub(crate) struct PackedGate {
    gate: Gate,
    u: Panels,
    v: Panels,
    /// Padded to whole vectors.
    bias: Aligned<f32>,
    /// Units from here on are live whatever the row (`v` has only zeros for them and the bias is
    /// positive): they are not scored.
    scored: usize,
}

/// Rows with at most this share of non-zeros use the sparse kernel for t. The sparse kernel takes
/// about twice as long per multiplication as the dense one.
const SPARSE_ESTIMATE_UP_TO: f64 = 0.5;

impl PackedGate {
    /// Packs a checked gate, folding the layer's input map into it.
    pub(crate) fn new(index: usize, gate: Gate, layer: &PackedLayer) -> Result<PackedGate> {
        let (inputs, outputs, rank) = (layer.layer.inputs(), layer.layer.outputs(), gate.rank);
        let scale = |i| layer.map.as_ref().map_or(1.0, |map| map.scale(i));
        let u = Panels::pack(inputs, rank, |i, k| gate.u[i * rank + k] * scale(i));
        let always =
            |o: &usize| gate.bias[*o] > 0.0 && (0..rank).all(|k| gate.v[k * outputs + *o] == 0.0);
        let scored = outputs - (1..outputs).rev().take_while(always).count();
        let v = Panels::pack(rank, scored, |k, o| gate.v[k * outputs + o]);
        let mut bias = zeros(padded(outputs));
        bias[..outputs].copy_from_slice(&gate.bias);
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
        match overflow {
            Some(value) => Err(super::not_finite(index, "gate", "input_shift", value)),
            None => Ok(PackedGate { gate, u, v, bias, scored }),
        }
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn bytes(&self) -> usize {
        let own = self.gate.u.len() + self.gate.v.len() + self.gate.bias.len() + self.bias.len();
        own * 4 + self.u.bytes() + self.v.bytes()
    }

    /// Runs the layer; returns the number of units computed. `rows` is missing for CSR input.
    pub(super) fn run(
        &self,
        isa: Isa,
        layer: &PackedLayer,
        rows: Option<DenseRows<'_>>,
        lists: Lists<'_>,
        mut output: Output<'_>,
        scratch: &mut GateScratch,
    ) -> usize {
        let n = lists.spans.len();
        scratch.reserve(n, self.gate.rank, layer.layer.inputs(), self.gate.bias.len());
        let GateScratch {
            low_rank,
            live,
            live_spans,
            unit_starts,
            unit_rows,
            blocks,
            block_counts,
        } = scratch;
        let live_spans = &mut live_spans[..n];
        let outputs = self.gate.bias.len();
        self.estimate(isa, rows, lists, low_rank);
        self.choose(isa, n, low_rank, live, live_spans);

        let computed = live_spans.iter().map(|span| span.len).sum();
        if let Some(dense) = &mut output.dense {
            (0..n).for_each(|row| dense.row(row).fill(0.0));
        }
        let Output { bias, activation, dense, lists: out_lists } = output;
        let weights = layer.unit_rows();
        match rows {
            Some(rows) => isa.run(LiveUnits {
                rows,
                weights,
                bias,
                activation,
                live,
                spans: live_spans,
                dense,
                lists: out_lists,
                unit_starts: &mut unit_starts[..=outputs],
                unit_rows,
                blocks,
                block_counts,
            }),
            None => isa.run(LiveUnitsOfLists {
                lists,
                weights,
                bias,
                activation,
                live,
                spans: live_spans,
                dense,
                out: out_lists,
            }),
        }
        computed
    }

    /// t = x u for every row.
    fn estimate(
        &self,
        isa: Isa,
        rows: Option<DenseRows<'_>>,
        lists: Lists<'_>,
        low_rank: &mut [f32],
    ) {
        let stride = padded(self.gate.rank);
        let limit = SPARSE_ESTIMATE_UP_TO * lists.columns as f64;
        for (r, span) in lists.spans.iter().enumerate() {
            let mut sums = Sums { data: &mut low_rank[r * stride..], stride };
            match rows {
                Some(rows) if span.len as f64 > limit => {
                    let rows = DenseRows::new(rows.row(r), 1, rows.columns(), rows.columns());
                    isa.run(RowsTimesPanels { rows, panels: &self.u, emit: &mut sums });
                }
                _ => {
                    let lists = Lists { spans: &lists.spans[r..=r], ..lists };
                    isa.run(SparseTimesPanels { lists, panels: &self.u, emit: &mut sums });
                }
            }
        }
    }

    /// The live units of every row.
    fn choose(&self, isa: Isa, n: usize, low_rank: &[f32], live: &mut [u32], spans: &mut [Span]) {
        let (rank, outputs) = (self.gate.rank, self.gate.bias.len());
        let rows = DenseRows::new(low_rank, n, rank, padded(rank));
        let stride = list_stride(outputs);
        for (row, span) in spans.iter_mut().enumerate() {
            *span = Span { start: row * stride, len: 0 };
        }
        let mut emit = Live { bias: &self.bias, units: self.scored, index: live, spans };
        isa.run(RowsTimesPanels { rows, panels: &self.v, emit: &mut emit });
        for (row, span) in spans.iter_mut().enumerate() {
            let always = &mut live[span.start + span.len..][..outputs - self.scored];
            for (slot, unit) in always.iter_mut().zip(self.scored..) {
                *slot = unit as u32;
            }
            span.len += always.len();
            if !rows.row(row).iter().all(|t| t.is_finite()) {
                span.len = outputs;
                for (unit, slot) in live[span.start..].iter_mut().take(outputs).enumerate() {
                    *slot = unit as u32;
                }
            }
        }
    }
}
