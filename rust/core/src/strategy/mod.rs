//! The strategies: how each prepares a layer and runs it on a tile of rows.
//!
//! A layer's weights are packed in the layouts its plan needs, once, and shared by every network
//! made from it.

mod dense;
mod gate;
mod skip;

use std::sync::{Arc, OnceLock};

pub(crate) use gate::PackedGate;

use crate::error::{Error, Result};
use crate::kernels::emit::Output;
use crate::kernels::{Aligned, DenseRows, Lists, Panels, UnitRows, padded, zeros};
use crate::network::{InputMap, Layer};
use crate::plan::Strategy;
use crate::simd::Isa;
use crate::workspace::GateScratch;

/// A layer's input: dense rows, lists of their non-zeros, or both.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) rows: usize,
    pub(crate) dense: Option<DenseRows<'a>>,
    pub(crate) lists: Option<Lists<'a>>,
}

/// What a strategy reads.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    pub(crate) dense: bool,
    pub(crate) lists: bool,
}

impl Strategy {
    /// What this strategy reads of its layer's input.
    pub(crate) fn needs(self) -> Needs {
        match self {
            Strategy::Dense => Needs { dense: true, lists: false },
            Strategy::Skip => Needs { dense: false, lists: true },
            Strategy::Gate => Needs { dense: true, lists: true },
        }
    }
}

/// A layer with its weights packed for the strategies in use.
pub(crate) struct PackedLayer {
    layer: Layer,
    /// Folded into the packed weights and bias: only the first layer of a network has it.
    map: Option<Arc<InputMap>>,
    /// Padded to whole vectors, with the map's shift in it.
    bias: Aligned<f32>,
    panels: OnceLock<Panels>,
    unit_rows: OnceLock<UnitRows>,
}

impl PackedLayer {
    /// Folds the map; refuses one that makes weights or biases overflow.
    pub(crate) fn new(index: usize, layer: Layer, map: Option<Arc<InputMap>>) -> Result<Self> {
        let mut bias = zeros(padded(layer.outputs()));
        bias[..layer.outputs()].copy_from_slice(&layer.bias);
        if let Some(map) = &map {
            for (o, row) in layer.weight.chunks_exact(layer.inputs).enumerate() {
                let mut sum = f64::from(layer.bias[o]);
                for (i, w) in row.iter().enumerate() {
                    sum += f64::from(*w) * f64::from(map.shift(i));
                    let folded = w * map.scale(i);
                    if !folded.is_finite() {
                        return Err(not_finite(index, "weight", "input_scale", folded));
                    }
                }
                bias[o] = sum as f32;
                if !bias[o].is_finite() {
                    return Err(not_finite(index, "weight", "input_shift", bias[o]));
                }
            }
        }
        let (panels, unit_rows) = (OnceLock::new(), OnceLock::new());
        Ok(PackedLayer { layer, map, bias, panels, unit_rows })
    }

    pub(crate) fn layer(&self) -> &Layer {
        &self.layer
    }

    /// The weight that multiplies raw input `i` into unit `o`.
    fn weight(&self, i: usize, o: usize) -> f32 {
        let w = self.layer.weight[o * self.layer.inputs + i];
        self.map.as_ref().map_or(w, |map| w * map.scale(i))
    }

    fn panels(&self) -> &Panels {
        self.panels.get_or_init(|| {
            Panels::pack(self.layer.inputs, self.layer.outputs(), |i, o| self.weight(i, o))
        })
    }

    fn unit_rows(&self) -> &UnitRows {
        self.unit_rows.get_or_init(|| {
            UnitRows::pack(self.layer.inputs, self.layer.outputs(), |i, o| self.weight(i, o))
        })
    }

    /// Packs what `strategy` needs.
    pub(crate) fn pack_for(&self, strategy: Strategy) {
        match strategy {
            Strategy::Dense | Strategy::Skip => _ = self.panels(),
            Strategy::Gate => _ = self.unit_rows(),
        }
    }

    /// Bytes of the weights in all layouts.
    pub(crate) fn bytes(&self) -> usize {
        let own = (self.layer.weight.len() + self.layer.bias.len() + self.bias.len()) * 4;
        let panels = self.panels.get().map_or(0, Panels::bytes);
        own + panels + self.unit_rows.get().map_or(0, UnitRows::bytes)
    }

    /// An output with this layer's bias, to be completed with where it goes.
    pub(crate) fn output(&self) -> Output<'_> {
        let activation = self.layer.activation.fused();
        Output { bias: &self.bias, activation, dense: None, lists: None }
    }
}

fn not_finite(layer: usize, parameter: &str, by: &str, value: f32) -> Error {
    Error::Parameter {
        name: by.to_owned(),
        expected: format!("small enough that layers[{layer}].{parameter} times it is finite"),
        got: format!("a product of {value}"),
    }
}

/// Runs one layer on a tile. Returns how many units were computed, over all rows.
pub(crate) fn run(
    strategy: Strategy,
    isa: Isa,
    layer: &PackedLayer,
    gate: Option<&PackedGate>,
    input: Input<'_>,
    output: Output<'_>,
    scratch: &mut GateScratch,
) -> usize {
    let all = input.rows * layer.layer.outputs();
    match (strategy, input.dense, input.lists, gate) {
        (Strategy::Gate, dense, Some(lists), Some(gate)) => {
            return gate.run(isa, layer, dense, lists, output, scratch);
        }
        (Strategy::Dense, Some(rows), ..) | (_, Some(rows), None, _) => {
            dense::run(isa, layer, rows, output);
        }
        // Rows that come as CSR have no dense form: a dense layer skips them, which is exact.
        (_, _, Some(lists), _) => skip::run(isa, layer, lists, output),
        (_, None, None, _) => unreachable!("a layer's input is dense rows, lists, or both"),
    }
    all
}
