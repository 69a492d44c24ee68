//! One place that knows how each strategy and precision runs.

use super::gate::{PackedGate, QuantizedGate};
use super::packed::PackedLayer;
use super::quantized::QuantizedLayer;
use super::scratch::GateScratch;
use super::step::Step;
use super::{dense, skip};
use crate::kernels::emit::Output;
use crate::plan::{LayerPlan, Precision, Strategy};
use crate::pool::{self, Team};
use crate::signal::{Input, Needs};
use crate::simd::Isa;

impl LayerPlan {
    /// What a layer reads of its input under this plan.
    pub(crate) fn needs(self) -> Needs {
        let (rows, lists) = match self.strategy {
            Strategy::Dense => (true, false),
            Strategy::Skip => (false, true),
            Strategy::Gate => (true, true),
        };
        match self.precision {
            Precision::F32 => Needs { dense: rows, lists, bytes: false, byte_lists: false },
            Precision::Int8 => Needs { dense: false, lists: false, bytes: rows, byte_lists: lists },
        }
    }
}

/// A layer, its gate and their forms of bytes, as far as it has them.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) layer: &'a PackedLayer,
    pub(crate) gate: Option<&'a PackedGate>,
    pub(crate) int8: Option<&'a QuantizedLayer>,
    pub(crate) int8_gate: Option<&'a QuantizedGate>,
}

impl<'a> Parts<'a> {
    /// Packs what a plan needs, where inputs may come in pairs and where not.
    pub(crate) fn pack_for(self, isa: Isa, plan: LayerPlan, in_pairs: bool) {
        match (plan.precision, self.int8, plan.strategy) {
            (Precision::Int8, Some(int8), Strategy::Gate) => {
                int8.weights.unit_rows();
                if let Some(gate) = self.int8_gate {
                    gate.pack(isa, in_pairs);
                }
            }
            (Precision::Int8, Some(int8), Strategy::Skip) => {
                int8.weights.pack_for_lists(isa, in_pairs);
            }
            (Precision::Int8, Some(int8), Strategy::Dense) => _ = int8.weights.panels(),
            (_, _, Strategy::Gate) => _ = self.layer.unit_rows(),
            _ => _ = self.layer.panels(),
        }
    }

    /// Bytes of the weights in all layouts.
    pub(crate) fn bytes(self) -> usize {
        self.layer.bytes()
            + self.gate.map_or(0, PackedGate::bytes)
            + self.int8.map_or(0, QuantizedLayer::bytes)
            + self.int8_gate.map_or(0, QuantizedGate::bytes)
    }

    /// An output with what makes outputs of sums, to be completed with where they go.
    pub(crate) fn output(self, precision: Precision) -> Output<'a> {
        let output = self.layer.output();
        match (precision, self.int8) {
            (Precision::Int8, Some(int8)) => {
                Output { scale: int8.scale(), bias: int8.bias(), ..output }
            }
            _ => output,
        }
    }
}

/// Who runs a layer.
#[derive(Clone, Copy)]
pub(crate) struct Crew<'a> {
    pub(crate) isa: Isa,
    /// The threads that share the units of a dense layer.
    pub(crate) team: &'a Team,
}

impl Crew<'_> {
    /// The calling thread.
    pub(crate) fn alone(isa: Isa) -> Self {
        Crew { isa, team: &pool::ALONE }
    }
}

/// Runs one layer on a tile, telling `step` of a gate's steps. Returns how many units were computed,
/// over all rows.
pub(crate) fn run(
    plan: LayerPlan,
    crew: Crew<'_>,
    parts: Parts<'_>,
    input: Input<'_>,
    output: Output<'_>,
    scratch: &mut GateScratch,
    step: &mut impl FnMut(Step<'_>),
) -> usize {
    match plan.precision {
        Precision::F32 => run_f32(plan.strategy, crew, parts, input, output, scratch, step),
        Precision::Int8 => run_int8(plan.strategy, crew, parts, input, output, scratch, step),
    }
}

fn run_f32(
    strategy: Strategy,
    crew: Crew<'_>,
    parts: Parts<'_>,
    input: Input<'_>,
    output: Output<'_>,
    scratch: &mut GateScratch,
    step: &mut impl FnMut(Step<'_>),
) -> usize {
    let layer = parts.layer;
    match (strategy, input.dense, input.lists, parts.gate) {
        (Strategy::Gate, dense, Some(lists), Some(gate)) => {
            return gate.run(crew.isa, layer, dense, lists, output, scratch, step);
        }
        (Strategy::Dense, Some(rows), ..) | (_, Some(rows), None, _) => {
            dense::run(crew, layer, rows, output);
        }
        // Rows that come as CSR have no dense form: a dense layer skips them, which is exact.
        (_, _, Some(lists), _) => skip::run(crew.isa, layer, lists, output),
        (_, None, None, _) => unreachable!("an f32 layer's input is dense rows, lists, or both"),
    }
    input.rows * layer.layer.outputs()
}

fn run_int8(
    strategy: Strategy,
    crew: Crew<'_>,
    parts: Parts<'_>,
    input: Input<'_>,
    output: Output<'_>,
    scratch: &mut GateScratch,
    step: &mut impl FnMut(Step<'_>),
) -> usize {
    let Some(layer) = parts.int8 else { unreachable!("an int8 layer is quantised") };
    match (strategy, input.bytes, input.byte_lists, parts.int8_gate) {
        (Strategy::Gate, Some(rows), Some(lists), Some(gate)) => {
            return gate.run(crew.isa, layer, rows, lists, output, scratch, step);
        }
        (Strategy::Skip, _, Some(lists), _) => skip::run_int8(crew.isa, layer, lists, output),
        (_, Some(rows), ..) => dense::run_int8(crew, layer, rows, output),
        _ => unreachable!("an int8 layer's input is what its plan needs"),
    }
    input.rows * parts.layer.layer.outputs()
}
