//! The strategies: how each prepares a layer and runs it on a tile of rows.
//!
//! A layer's weights are packed in the layouts its plan needs, once, and shared by every network
//! made from it.

mod dense;
mod gate;
mod quantized;
mod skip;

use std::sync::{Arc, OnceLock};

pub(crate) use gate::{PackedGate, QuantizedGate};
pub(crate) use quantized::QuantizedLayer;

use crate::error::{Error, Result};
use crate::kernels::emit::Output;
use crate::kernels::{
    Aligned, DenseRows, ListedBytes, Lists, Panels, Span, UnitRows, padded, zeros,
};
use crate::network::{InputMap, Layer};
use crate::plan::{LayerPlan, Precision, Strategy};
use crate::pool::{self, Team};
use crate::simd::Isa;
use crate::workspace::GateScratch;

/// A layer's input: dense rows, lists of their non-zeros, or both; or the same of bytes, four to a
/// word.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) rows: usize,
    pub(crate) dense: Option<DenseRows<'a>>,
    pub(crate) lists: Option<Lists<'a>>,
    pub(crate) bytes: Option<DenseRows<'a, u32>>,
    pub(crate) byte_lists: Option<ListedBytes<'a>>,
}

/// What a layer reads.
#[derive(Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)] // any of them may go with any other
pub(crate) struct Needs {
    pub(crate) dense: bool,
    pub(crate) lists: bool,
    pub(crate) bytes: bool,
    pub(crate) byte_lists: bool,
}

impl Needs {
    /// Whether it is bytes in one form or both.
    pub(crate) fn int8(self) -> bool {
        self.bytes || self.byte_lists
    }

    /// What a kernel writes where lists of bytes are made afterwards, from rows of bytes.
    pub(crate) fn before_scan(self) -> Needs {
        Needs { bytes: self.int8(), byte_lists: false, ..self }
    }
}

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

/// A part of the work on a tile that is done.
#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    /// The caller's rows have become dense rows of f32.
    Converted,
    /// Rows' non-zeros are listed.
    Scanned,
    /// Both at once.
    ConvertedAndScanned,
    /// Rows have become bytes.
    Quantized,
    /// Rows that are not finite are marked.
    Checked,
    /// The gate's low-rank sums are known.
    Estimated,
    /// Its scores are compared with their thresholds; the live units of every row.
    Chosen(&'a [u32], &'a [Span]),
    /// Outputs that will not be computed are zero.
    Cleared,
    /// Products are summed, and sums are outputs.
    Multiplied,
    /// An activation that is not fused is applied.
    Finished,
}

/// A layer with its weights packed for the strategies in use.
pub(crate) struct PackedLayer {
    layer: Layer,
    /// Folded into the packed weights and bias: only the first layer of a network has it.
    map: Option<Arc<InputMap>>,
    /// The same, folded or not: weights of bytes always fold it.
    input_map: Option<Arc<InputMap>>,
    /// Padded to whole vectors, with the map's shift in it.
    bias: Aligned<f32>,
    /// The largest magnitude of each unit's weights.
    largest: Vec<f32>,
    panels: OnceLock<Panels>,
    unit_rows: OnceLock<UnitRows>,
}

impl PackedLayer {
    /// Folds the map where `fold`; refuses one that makes weights or biases overflow. `largest` magnitudes are those
    /// of the matrix's rows.
    pub(crate) fn new(
        index: usize,
        layer: Layer,
        largest: &[f32],
        input_map: Option<Arc<InputMap>>,
        fold: bool,
    ) -> Result<Self> {
        let map = input_map.clone().filter(|_| fold);
        let mut bias = zeros(padded(layer.outputs()));
        bias[..layer.outputs()].copy_from_slice(&layer.bias);
        let units = 0..layer.outputs();
        let largest: Vec<_> = units.map(|unit| largest[layer.row_number(unit)]).collect();
        if let Some(map) = &map {
            let shifts: Vec<f64> = (0..layer.inputs).map(|i| map.shift(i).into()).collect();
            let shifted = shifts.iter().any(|shift| *shift != 0.0);
            let scales: Vec<f32> = (0..layer.inputs).map(|i| map.scale(i)).collect();
            let steepest = scales.iter().fold(0.0, |most: f32, scale| most.max(scale.abs()));
            let mut room = Vec::new();
            for (o, largest) in largest.iter().enumerate() {
                let row = layer.weights_of(o, &mut room);
                if !(largest * steepest).is_finite() {
                    let mut folded = row.iter().zip(&scales).map(|(w, scale)| w * scale);
                    if let Some(bad) = folded.find(|weight| !weight.is_finite()) {
                        return Err(not_finite(index, "weight", "input_scale", bad));
                    }
                }
                if shifted {
                    let terms = row.iter().zip(&shifts).map(|(w, shift)| f64::from(*w) * shift);
                    bias[o] = terms.fold(f64::from(layer.bias[o]), |sum, term| sum + term) as f32;
                }
                if !bias[o].is_finite() {
                    return Err(not_finite(index, "weight", "input_shift", bias[o]));
                }
            }
        }
        let (panels, unit_rows) = (OnceLock::new(), OnceLock::new());
        Ok(PackedLayer { layer, map, input_map, bias, largest, panels, unit_rows })
    }

    pub(crate) fn layer(&self) -> &Layer {
        &self.layer
    }

    /// The folded map's scale for each column of the matrix.
    fn scales_of_columns(&self) -> Option<Vec<f32>> {
        let map = self.map.as_deref()?;
        let all = || (0..self.layer.inputs).map(|input| map.scale(input));
        let Some(columns) = self.layer.columns() else { return Some(all().collect()) };
        let mut scales = vec![1.0; self.layer.width()];
        for (column, scale) in columns.iter().zip(all()) {
            scales[*column as usize] = scale;
        }
        Some(scales)
    }

    fn panels(&self) -> &Panels {
        packed(&self.panels, || {
            let (layer, scales) = (&self.layer, self.scales_of_columns());
            let (matrix, width) = (layer.matrix(), layer.width());
            let scale = |i: usize| scales.as_ref().map_or(1.0, |scales| scales[i]);
            let weight = |i, o| matrix[layer.row_number(o) * width + i] * scale(i);
            match layer.columns() {
                None => Panels::pack(layer.inputs, layer.outputs(), weight),
                Some(order) => Panels::pack_in_order(width, order, layer.outputs(), weight),
            }
        })
    }

    fn unit_rows(&self) -> &UnitRows {
        packed(&self.unit_rows, || {
            let (layer, map) = (&self.layer, self.map.as_deref());
            UnitRows::pack(layer.inputs, layer.inputs, layer.outputs(), |unit, row| {
                layer.put_in_order(layer.whole_row(unit), row);
                if let Some(map) = map {
                    for (i, weight) in row.iter_mut().enumerate() {
                        *weight *= map.scale(i);
                    }
                }
            })
        })
    }

    /// Bytes of the weights in all layouts.
    pub(crate) fn bytes(&self) -> usize {
        let own = (self.layer.matrix().len() + self.layer.bias.len() + self.bias.len()) * 4;
        let panels = self.panels.get().map_or(0, Panels::bytes);
        own + panels + self.unit_rows.get().map_or(0, UnitRows::bytes)
    }

    /// An output with this layer's bias, to be completed with where it goes.
    pub(crate) fn output(&self) -> Output<'_> {
        let activation = self.layer.activation.fused();
        let (bias, scale) = (&*self.bias, &[][..]);
        Output { scale, bias, activation, dense: None, lists: None, bytes: None }
    }
}

/// What `cell` holds, made by `pack` where it is empty. It is made outside the cell's lock, twice if two
/// threads are at it: a process that forks meanwhile leaves no lock behind in the child.
fn packed<T>(cell: &OnceLock<T>, pack: impl FnOnce() -> T) -> &T {
    if let Some(packed) = cell.get() {
        return packed;
    }
    let made = pack();
    cell.get_or_init(|| made)
}

fn not_finite(layer: usize, parameter: &str, by: &str, value: f32) -> Error {
    Error::Parameter {
        name: by.to_owned(),
        expected: format!("small enough that layers[{layer}].{parameter} times it is finite"),
        got: format!("a product of {value}"),
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
