//! The table of paths: the one place that knows which strategies and precisions there are.

use std::sync::Arc;

use super::dense::Dense;
use super::gate::{Gated, PackedGate, QuantizedGate};
use super::packed::PackedLayer;
use super::phase::{Phase, Seen, Watch, Work};
use super::quantized::QuantizedLayer;
use super::scratch::GateScratch;
use super::skip::Skip;
use crate::error::{Error, Result};
use crate::kernels::emit::Output;
use crate::model::Layer;
use crate::plan::{LayerPlan, Precision, Strategy};
use crate::pool::{self, Team};
use crate::signal::{Form, Signal};
use crate::simd::Isa;

/// Who runs a layer.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) isa: Isa,
    /// The threads that share the units of a layer that can be shared.
    pub(crate) team: &'a Team,
}

impl Context<'_> {
    /// The calling thread.
    pub(crate) fn alone(isa: Isa) -> Self {
        Context { isa, team: &pool::ALONE }
    }
}

/// How a packed layer computes a tile of rows: a strategy in a precision.
pub(crate) trait Path {
    /// The layer.
    fn layer(&self) -> &Layer;
    /// The form of input that it reads.
    fn reads(&self) -> Form;
    /// What makes outputs of sums, to be completed with the activation and where they go.
    fn output(&self) -> Output<'_>;
    /// Packs the weights that it needs, for inputs that come in pairs too if `in_pairs`.
    fn pack(&self, isa: Isa, in_pairs: bool);
    /// Computes a tile; returns how many units were computed, over all rows.
    fn run(
        &self,
        context: Context<'_>,
        input: Signal<'_>,
        output: Output<'_>,
        scratch: &mut GateScratch,
        watch: &mut impl Watch,
    ) -> usize;
    /// Whether threads can share its units, where its input has this form.
    fn can_share(&self, _input: Form) -> bool {
        false
    }
    /// A lower estimate of what `rows` rows take on one thread, in nanoseconds, where they have this form.
    /// What is not dense is taken to do one of ten products, 100 of them a nanosecond.
    fn least_time(&self, _input: Form, rows: usize) -> u64 {
        let weights = (self.layer().inputs() * self.layer().outputs()) as u64;
        weights.saturating_mul(rows as u64) / 10 / 100
    }
    /// Whether it can list its outputs as bytes itself, where a unit that it does not compute is byte 0.
    fn lists_bytes(&self) -> bool {
        false
    }
    /// Units that lists of the input are multiplied with.
    fn listed_units(&self) -> usize {
        self.layer().outputs()
    }
    /// Rank of its gate, if it has one.
    fn rank(&self) -> Option<usize> {
        None
    }
    /// Whether its gate's scores are sums of bytes.
    fn scores_bytes(&self) -> bool {
        false
    }
    /// Units that its gate scores.
    fn scored(&self) -> usize {
        0
    }
    /// Bytes of what they are computed from, but for the low-rank sums.
    fn score_bytes(&self) -> f64 {
        0.0
    }
    /// The phase that ends with the outputs.
    fn phase(&self) -> Phase;
    /// The first product of a tile: its phase and its work.
    fn product(&self, seen: Seen) -> (Phase, Work);
    /// Making outputs of a tile's sums: its phase and its work, where `written` bytes are written.
    fn epilogue(&self, rows: f64, written: f64) -> (Phase, Work);
    /// Bytes of weights in use, of which `inputs` inputs and, of a gate, `lines` lines of 64 bytes are.
    fn weight_bytes(&self, inputs: f64, lines: f64) -> f64;
    /// Multiply-adds of a row, of which `density` inputs are not zero and `computed` units are computed.
    fn multiply_adds(&self, density: f64, computed: f64) -> f64;
}

/// Each of the paths. Not a trait object, so that what is called for each layer of each call is inlined.
#[derive(Clone)]
pub(crate) enum LayerPath {
    DenseF32(Dense<PackedLayer>),
    SkipF32(Skip<PackedLayer>),
    GateF32(Gated<PackedLayer, PackedGate>),
    DenseInt8(Dense<QuantizedLayer>),
    SkipInt8(Skip<QuantizedLayer>),
    GateInt8(Gated<QuantizedLayer, QuantizedGate>),
}

/// Calls a method of whichever path it is.
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
    /// The path of layer `index` under a plan, if the layer has what that needs.
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

/// A layer, its gate and their forms of bytes, as far as it has them.
#[derive(Clone)]
pub(crate) struct PackedForms {
    pub(crate) layer: Arc<PackedLayer>,
    pub(crate) gate: Option<Arc<PackedGate>>,
    pub(crate) int8: Option<Arc<QuantizedLayer>>,
    int8_gate: Option<Arc<QuantizedGate>>,
}

impl PackedForms {
    /// A layer without a gate or bytes.
    pub(crate) fn new(layer: Arc<PackedLayer>) -> PackedForms {
        PackedForms { layer, gate: None, int8: None, int8_gate: None }
    }

    /// With this gate, or none.
    pub(crate) fn set_gate(&mut self, gate: Option<PackedGate>) {
        self.gate = gate.map(Arc::new);
        self.quantize_gate();
    }

    /// With these weights as bytes, or none.
    pub(crate) fn set_int8(&mut self, int8: Option<QuantizedLayer>) {
        self.int8 = int8.map(Arc::new);
        self.quantize_gate();
    }

    /// Makes the gate's bytes where there is all that they need.
    fn quantize_gate(&mut self) {
        self.int8_gate = match (&self.gate, &self.int8) {
            (Some(gate), Some(int8)) => {
                QuantizedGate::new(gate, &self.layer, &int8.input).map(Arc::new)
            }
            _ => None,
        };
    }

    /// Whether the layer has what a plan needs.
    pub(crate) fn can(&self, plan: LayerPlan) -> bool {
        LayerPath::new(0, plan, self).is_ok()
    }

    /// The layer in f32 without skipping.
    pub(crate) fn dense(&self) -> LayerPath {
        LayerPath::DenseF32(Dense(self.layer.clone()))
    }

    fn gate(&self, layer: usize) -> Result<Arc<PackedGate>> {
        self.gate.clone().ok_or_else(|| Error::Plan {
            layer,
            expected: "'dense' or 'skip', since the layer has no gate".to_owned(),
            got: "'gate'".to_owned(),
        })
    }

    fn int8(&self, layer: usize) -> Result<Arc<QuantizedLayer>> {
        self.int8.clone().ok_or_else(|| Error::Plan {
            layer,
            expected: "'f32', since the layer is not quantised".to_owned(),
            got: "'int8'".to_owned(),
        })
    }

    fn int8_gate(&self, layer: usize) -> Result<Arc<QuantizedGate>> {
        self.int8_gate.clone().ok_or_else(|| Error::Plan {
            layer,
            expected: "no gate in int8, since the layer's gate has no range".to_owned(),
            got: "'gate'".to_owned(),
        })
    }

    /// Bytes of the weights in all layouts packed so far.
    pub(crate) fn bytes(&self) -> usize {
        self.layer.bytes()
            + self.gate.as_deref().map_or(0, PackedGate::bytes)
            + self.int8.as_deref().map_or(0, QuantizedLayer::bytes)
            + self.int8_gate.as_deref().map_or(0, QuantizedGate::bytes)
    }
}
