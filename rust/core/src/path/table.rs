//! The table of paths. Only this file knows which strategies and precisions exist.

use std::sync::Arc;

use super::contract::{Context, Path};
use super::dense::Dense;
use super::factor::{PackedFactors, PackedNestedGate, QuantizedFactors, QuantizedNestedGate};
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
    NestedF32(Gated<PackedLayer, PackedNestedGate>),
    NestedInt8(Gated<QuantizedLayer, QuantizedNestedGate>),
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
            LayerPath::NestedF32($path) => $call,
            LayerPath::NestedInt8($path) => $call,
        }
    };
}

impl LayerPath {
    /// The path of layer `index` under a plan; two paths, one after the other, for its factors. With
    /// `dense_estimates`, an int8 gate multiplies dense rows instead of lists, unless it is large.
    ///
    /// # Errors
    /// [`Error::Plan`] if the layer does not have a part that the plan needs.
    pub(crate) fn of(
        index: usize,
        plan: LayerPlan,
        forms: &PackedForms,
        dense_estimates: bool,
    ) -> Result<Vec<LayerPath>> {
        let LayerPlan { strategy, precision } = plan;
        let layer = || forms.layer.clone();
        Ok(match (strategy, precision) {
            (Strategy::Dense, Precision::F32) => vec![dense_f32(layer())],
            (Strategy::Skip, Precision::F32) => vec![skip_f32(layer())],
            (Strategy::Gate, Precision::F32) => {
                let (weights, gate) = (layer(), forms.gate(index)?);
                vec![LayerPath::GateF32(Gated { weights, gate, lists: true })]
            }
            (Strategy::Factor { skip, gate }, Precision::F32) => {
                let PackedFactors { first, second, .. } = forms.factors(index)?;
                let (first, weights) = (first.clone(), second.clone());
                let first = if skip { skip_f32(first) } else { dense_f32(first) };
                let second = if gate {
                    let gate = forms.nested_gate(index)?;
                    LayerPath::NestedF32(Gated { weights, gate, lists: false })
                } else {
                    dense_f32(weights)
                };
                vec![first, second]
            }
            (Strategy::Dense, Precision::Int8) => vec![dense_int8(forms.int8(index)?)],
            (Strategy::Skip, Precision::Int8) => vec![skip_int8(forms.int8(index)?)],
            (Strategy::Gate, Precision::Int8) => {
                forms.gate(index)?;
                let (weights, gate) = (forms.int8(index)?, forms.int8_gate(index)?);
                let lists = !(dense_estimates && gate.is_small());
                vec![LayerPath::GateInt8(Gated { weights, gate, lists })]
            }
            (Strategy::Factor { skip, gate }, Precision::Int8) => {
                let factors = forms.int8_factors(index)?;
                let (first, weights) = (factors.first.clone(), factors.second.clone());
                let first = if skip { skip_int8(first) } else { dense_int8(first) };
                let missing = Error::Plan { layer: index, missing: Missing::NestedGate };
                let second = if gate {
                    let gate = factors.gate.clone().ok_or(missing)?;
                    LayerPath::NestedInt8(Gated { weights, gate, lists: false })
                } else {
                    dense_int8(weights)
                };
                vec![first, second]
            }
        })
    }

    /// Whether the path may be another one with dense estimates.
    pub(crate) fn may_estimate_dense(&self) -> bool {
        matches!(self, LayerPath::GateInt8(Gated { gate, .. }) if gate.is_small())
    }

    /// The layer in f32.
    fn packed(&self) -> &Arc<PackedLayer> {
        match self {
            LayerPath::DenseF32(path) => &path.0,
            LayerPath::SkipF32(path) => &path.0,
            LayerPath::GateF32(path) => &path.weights,
            LayerPath::NestedF32(path) => &path.weights,
            LayerPath::DenseInt8(path) => &path.0.layer,
            LayerPath::SkipInt8(path) => &path.0.layer,
            LayerPath::GateInt8(path) => &path.weights.layer,
            LayerPath::NestedInt8(path) => &path.weights.layer,
        }
    }

    /// The dense f32 path of the same layer.
    pub(crate) fn dense(&self) -> LayerPath {
        dense_f32(self.packed().clone())
    }

    /// The layer in int8, for a path in int8.
    pub(crate) fn quantized(&self) -> Option<&Arc<QuantizedLayer>> {
        match self {
            LayerPath::DenseInt8(path) => Some(&path.0),
            LayerPath::SkipInt8(path) => Some(&path.0),
            LayerPath::GateInt8(path) => Some(&path.weights),
            LayerPath::NestedInt8(path) => Some(&path.weights),
            LayerPath::DenseF32(_)
            | LayerPath::SkipF32(_)
            | LayerPath::GateF32(_)
            | LayerPath::NestedF32(_) => None,
        }
    }
}

fn dense_f32(layer: Arc<PackedLayer>) -> LayerPath {
    LayerPath::DenseF32(Dense(layer))
}

fn skip_f32(layer: Arc<PackedLayer>) -> LayerPath {
    LayerPath::SkipF32(Skip(layer))
}

fn dense_int8(layer: Arc<QuantizedLayer>) -> LayerPath {
    LayerPath::DenseInt8(Dense(layer))
}

fn skip_int8(layer: Arc<QuantizedLayer>) -> LayerPath {
    LayerPath::SkipInt8(Skip(layer))
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
    fn least_time(&self, isa: Isa, input: Form, rows: usize) -> u64 {
        each!(self, path => path.least_time(isa, input, rows))
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

/// A layer with its gate, its factors and their int8 forms, as far as it has them.
#[derive(Clone)]
pub(crate) struct PackedForms {
    pub(crate) layer: Arc<PackedLayer>,
    pub(crate) gate: Option<Arc<PackedGate>>,
    pub(crate) int8: Option<Arc<QuantizedLayer>>,
    int8_gate: Option<Arc<QuantizedGate>>,
    factors: Option<Arc<PackedFactors>>,
    int8_factors: Option<Arc<QuantizedFactors>>,
}

impl PackedForms {
    /// A layer without a gate, factors or int8 forms.
    pub(crate) fn new(layer: Arc<PackedLayer>) -> PackedForms {
        let (gate, int8, int8_gate) = (None, None, None);
        PackedForms { layer, gate, int8, int8_gate, factors: None, int8_factors: None }
    }

    /// Sets or removes the gate.
    pub(crate) fn set_gate(&mut self, gate: Option<PackedGate>) {
        self.gate = gate.map(Arc::new);
        self.quantize_gate();
    }

    /// Sets or removes the factors of layer `index`.
    ///
    /// # Errors
    /// Factors whose int8 form overflows.
    pub(crate) fn set_factors(
        &mut self,
        index: usize,
        factors: Option<PackedFactors>,
        isa: Isa,
    ) -> Result<()> {
        self.factors = factors.map(Arc::new);
        self.quantize_factors(index, isa)
    }

    /// Sets or removes the int8 form of layer `index`.
    ///
    /// # Errors
    /// Factors whose int8 form overflows.
    pub(crate) fn set_int8(
        &mut self,
        index: usize,
        int8: Option<QuantizedLayer>,
        isa: Isa,
    ) -> Result<()> {
        self.int8 = int8.map(Arc::new);
        self.quantize_gate();
        self.quantize_factors(index, isa)
    }

    /// Makes the int8 form of the factors if all its parts are there.
    fn quantize_factors(&mut self, index: usize, isa: Isa) -> Result<()> {
        self.int8_factors = match (&self.factors, &self.int8) {
            (Some(factors), Some(int8)) => {
                QuantizedFactors::new(index, factors, &int8.input, isa)?.map(Arc::new)
            }
            _ => None,
        };
        Ok(())
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
        LayerPath::of(0, plan, self, false).is_ok()
    }

    /// The fastest strategy of the factors to assume, if the layer has any.
    pub(crate) fn factor_strategy(&self) -> Option<Strategy> {
        let factors = self.factors.as_deref()?;
        Some(Strategy::Factor { skip: false, gate: factors.gate.is_some() })
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

    fn factors(&self, layer: usize) -> Result<&PackedFactors> {
        self.factors.as_deref().ok_or(Error::Plan { layer, missing: Missing::Factors })
    }

    fn nested_gate(&self, layer: usize) -> Result<Arc<PackedNestedGate>> {
        let gate = self.factors(layer)?.gate.clone();
        gate.ok_or(Error::Plan { layer, missing: Missing::NestedGate })
    }

    fn int8_factors(&self, layer: usize) -> Result<&QuantizedFactors> {
        self.factors(layer)?;
        self.int8(layer)?;
        let missing = Missing::FactorsQuantization;
        self.int8_factors.as_deref().ok_or(Error::Plan { layer, missing })
    }

    /// Bytes of the weights in all layouts packed so far.
    pub(crate) fn bytes(&self) -> usize {
        self.layer.bytes()
            + self.gate.as_deref().map_or(0, PackedGate::bytes)
            + self.int8.as_deref().map_or(0, QuantizedLayer::bytes)
            + self.int8_gate.as_deref().map_or(0, QuantizedGate::bytes)
            + self.factors.as_deref().map_or(0, PackedFactors::bytes)
            + self.int8_factors.as_deref().map_or(0, QuantizedFactors::bytes)
    }
}
