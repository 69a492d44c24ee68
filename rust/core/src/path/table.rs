//! The table of paths. Only this file knows which strategies and precisions exist.

use std::sync::Arc;

use super::contract::{Context, Path};
use super::dense::Dense;
use super::gate::{Gated, PackedGate, QuantizedGate};
use super::packed::PackedLayer;
use super::phase::{Phase, Seen, Watch, Work};
use super::quantized::QuantizedLayer;
use super::scratch::GateScratch;
use super::skip::Skip;
use crate::error::{Error, Missing, Result};
use crate::kernels::epilogue::Output;
use crate::model::Layer;
use crate::plan::{LayerPlan, Precision, Strategy};
use crate::signal::{Form, Signal};
use crate::simd::Isa;

/// One of the paths. An enum instead of a trait object, so that the calls for each layer are
/// inlined.
#[derive(Clone)]
pub(crate) enum LayerPath {
    DenseF32(Dense<PackedLayer>),
    SkipF32(Skip<PackedLayer>),
    GateF32(Gated<PackedLayer, PackedGate>),
    DenseInt8(Dense<QuantizedLayer>),
    SkipInt8(Skip<QuantizedLayer>),
    GateInt8(Gated<QuantizedLayer, QuantizedGate>),
}

/// Calls a method of the path, whichever it is.
macro_rules! each {
    ($this:expr, $path:ident => $call:expr) => {
        match $this {
            LayerPath::DenseF32($path) => $call,
            LayerPath::SkipF32($path) => $call,
            LayerPath::GateF32($path) => $call,
            LayerPath::DenseInt8($path) => $call,
            LayerPath::SkipInt8($path) => $call,
            LayerPath::GateInt8($path) => $call,
        }
    };
}

impl LayerPath {
    /// The path of layer `index` under a plan.
    ///
    /// # Errors
    /// [`Error::Plan`] if the layer does not have a part that the plan needs.
    pub(crate) fn new(index: usize, plan: LayerPlan, forms: &PackedForms) -> Result<LayerPath> {
        let LayerPlan { strategy, precision } = plan;
        let layer = || forms.layer.clone();
        Ok(match (strategy, precision) {
            (Strategy::Dense, Precision::F32) => LayerPath::DenseF32(Dense(layer())),
            (Strategy::Skip, Precision::F32) => LayerPath::SkipF32(Skip(layer())),
            (Strategy::Gate, Precision::F32) => {
                LayerPath::GateF32(Gated { weights: layer(), gate: forms.gate(index)? })
            }
            (Strategy::Dense, Precision::Int8) => LayerPath::DenseInt8(Dense(forms.int8(index)?)),
            (Strategy::Skip, Precision::Int8) => LayerPath::SkipInt8(Skip(forms.int8(index)?)),
            (Strategy::Gate, Precision::Int8) => {
                forms.gate(index)?;
                let (weights, gate) = (forms.int8(index)?, forms.int8_gate(index)?);
                LayerPath::GateInt8(Gated { weights, gate })
            }
        })
    }
}

impl LayerPath {
    /// The weights of a dense f32 layer.
    #[inline]
    pub(crate) fn dense_f32(&self) -> Option<&PackedLayer> {
        if let LayerPath::DenseF32(Dense(weights)) = self { Some(weights) } else { None }
    }

    /// The weights of a dense int8 layer.
    #[inline]
    pub(crate) fn dense_int8(&self) -> Option<&QuantizedLayer> {
        if let LayerPath::DenseInt8(Dense(weights)) = self { Some(weights) } else { None }
    }
}

impl Path for LayerPath {
    fn layer(&self) -> &Layer {
        each!(self, path => path.layer())
    }
    fn reads(&self) -> Form {
        each!(self, path => path.reads())
    }
    fn output(&self) -> Output<'_> {
        each!(self, path => path.output())
    }
    fn pack(&self, isa: Isa, in_pairs: bool) {
        each!(self, path => path.pack(isa, in_pairs));
    }
    #[inline]
    fn run(
        &self,
        context: Context<'_>,
        input: Signal<'_>,
        output: Output<'_>,
        scratch: &mut GateScratch,
        watch: &mut impl Watch,
    ) -> usize {
        each!(self, path => path.run(context, input, output, scratch, watch))
    }
    fn can_share(&self, input: Form) -> bool {
        each!(self, path => path.can_share(input))
    }
    fn least_time(&self, input: Form, rows: usize) -> u64 {
        each!(self, path => path.least_time(input, rows))
    }
    fn lists_bytes(&self) -> bool {
        each!(self, path => path.lists_bytes())
    }
    fn listed_units(&self) -> usize {
        each!(self, path => path.listed_units())
    }
    fn rank(&self) -> Option<usize> {
        each!(self, path => path.rank())
    }
    fn scores_bytes(&self) -> bool {
        each!(self, path => path.scores_bytes())
    }
    fn scored(&self) -> usize {
        each!(self, path => path.scored())
    }
    fn score_bytes(&self) -> f64 {
        each!(self, path => path.score_bytes())
    }
    fn phase(&self) -> Phase {
        each!(self, path => path.phase())
    }
    fn product(&self, seen: Seen) -> (Phase, Work) {
        each!(self, path => path.product(seen))
    }
    fn epilogue(&self, rows: f64, written: f64) -> (Phase, Work) {
        each!(self, path => path.epilogue(rows, written))
    }
    fn weight_bytes(&self, inputs: f64, lines: f64) -> f64 {
        each!(self, path => path.weight_bytes(inputs, lines))
    }
    fn multiply_adds(&self, density: f64, computed: f64) -> f64 {
        each!(self, path => path.multiply_adds(density, computed))
    }
}

/// A layer with its gate and their int8 forms, as far as it has them.
#[derive(Clone)]
pub(crate) struct PackedForms {
    pub(crate) layer: Arc<PackedLayer>,
    pub(crate) gate: Option<Arc<PackedGate>>,
    pub(crate) int8: Option<Arc<QuantizedLayer>>,
    int8_gate: Option<Arc<QuantizedGate>>,
}

impl PackedForms {
    /// A layer without a gate or int8 forms.
    pub(crate) fn new(layer: Arc<PackedLayer>) -> PackedForms {
        PackedForms { layer, gate: None, int8: None, int8_gate: None }
    }

    /// Sets or removes the gate.
    pub(crate) fn set_gate(&mut self, gate: Option<PackedGate>) {
        self.gate = gate.map(Arc::new);
        self.quantize_gate();
    }

    /// Sets or removes the int8 form of the layer.
    pub(crate) fn set_int8(&mut self, int8: Option<QuantizedLayer>) {
        self.int8 = int8.map(Arc::new);
        self.quantize_gate();
    }

    /// Makes the int8 form of the gate if all its parts are there.
    fn quantize_gate(&mut self) {
        self.int8_gate = match (&self.gate, &self.int8) {
            (Some(gate), Some(int8)) => {
                QuantizedGate::new(gate, &self.layer, &int8.input).map(Arc::new)
            }
            _ => None,
        };
    }

    /// Whether the layer has all parts that a plan needs.
    pub(crate) fn can(&self, plan: LayerPlan) -> bool {
        LayerPath::new(0, plan, self).is_ok()
    }

    /// The dense f32 path of the layer.
    pub(crate) fn dense(&self) -> LayerPath {
        LayerPath::DenseF32(Dense(self.layer.clone()))
    }

    fn gate(&self, layer: usize) -> Result<Arc<PackedGate>> {
        self.gate.clone().ok_or(Error::Plan { layer, missing: Missing::Gate })
    }

    fn int8(&self, layer: usize) -> Result<Arc<QuantizedLayer>> {
        self.int8.clone().ok_or(Error::Plan { layer, missing: Missing::Quantization })
    }

    fn int8_gate(&self, layer: usize) -> Result<Arc<QuantizedGate>> {
        self.int8_gate.clone().ok_or(Error::Plan { layer, missing: Missing::GateRange })
    }

    /// Bytes of the weights in all layouts packed so far.
    pub(crate) fn bytes(&self) -> usize {
        self.layer.bytes()
            + self.gate.as_deref().map_or(0, PackedGate::bytes)
            + self.int8.as_deref().map_or(0, QuantizedLayer::bytes)
            + self.int8_gate.as_deref().map_or(0, QuantizedGate::bytes)
    }
}
