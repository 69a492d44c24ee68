//! The model as data: layers, activations, gates, and the affine map from raw inputs.
//!
//! Everything is checked here, once, so that the engine need not. A [`Network`] never changes: the
//! methods that change something return a new one that shares the weights.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernels::LargestOfRows;
use crate::kernels::emit::Fused;
use crate::plan::{ClassPlan, Plan, Precision, Strategy};
use crate::simd::Isa;
use crate::strategy::{PackedGate, PackedLayer, Parts, QuantizedGate, QuantizedLayer};

/// What a layer applies to `x W^T + b`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// z.
    Identity,
    /// max(0, z).
    Relu,
    /// min(max(0, z), upper); `upper` 6 is torch's `ReLU6`.
    ClippedRelu {
        /// The largest output, above 0.
        upper: f32,
    },
    /// z where z > threshold, else 0; torch's `Threshold(threshold, 0)`.
    ThresholdedRelu {
        /// Outputs at or below it are 0.
        threshold: f32,
    },
    /// z where z > 0, else slope z.
    LeakyRelu {
        /// Factor of negative values.
        slope: f32,
    },
    /// tanh z.
    Tanh,
    /// 1 / (1 + exp(-z)).
    Sigmoid,
    /// z times the normal distribution function of z (the exact form, with erf).
    Gelu,
    /// exp(z) over the sum of exp(z) of the row.
    Softmax,
}

impl Activation {
    /// Whether negative pre-activations become exact zeros, so that a gate makes sense.
    pub fn has_hard_zero(self) -> bool {
        matches!(
            self,
            Activation::Relu | Activation::ClippedRelu { .. } | Activation::ThresholdedRelu { .. }
        )
    }

    /// Its name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Identity => "identity",
            Activation::Relu => "relu",
            Activation::ClippedRelu { .. } => "clipped_relu",
            Activation::ThresholdedRelu { .. } => "thresholded_relu",
            Activation::LeakyRelu { .. } => "leaky_relu",
            Activation::Tanh => "tanh",
            Activation::Sigmoid => "sigmoid",
            Activation::Gelu => "gelu",
            Activation::Softmax => "softmax",
        }
    }

    /// The part done in registers; the rest is [`crate::kernels::activation`].
    pub(crate) fn fused(self) -> Fused {
        match self {
            Activation::Relu => Fused::Relu,
            Activation::ClippedRelu { upper } => Fused::Clipped { upper },
            Activation::ThresholdedRelu { threshold } => Fused::Thresholded { threshold },
            Activation::LeakyRelu { slope } => Fused::Leaky { slope },
            _ => Fused::Identity,
        }
    }

    /// Whether rows are to be finished once their sums are.
    pub(crate) fn needs_finish(self) -> bool {
        use Activation::{Gelu, Sigmoid, Softmax, Tanh};
        matches!(self, Tanh | Sigmoid | Gelu | Softmax)
    }

    fn check(self, layer: usize) -> Result<()> {
        let (name, value, good, expected) = match self {
            Activation::ClippedRelu { upper } => {
                ("upper", upper, upper > 0.0 && upper.is_finite(), "finite and above 0")
            }
            Activation::ThresholdedRelu { threshold } => {
                ("threshold", threshold, threshold.is_finite(), "finite")
            }
            Activation::LeakyRelu { slope } => ("slope", slope, slope.is_finite(), "finite"),
            _ => return Ok(()),
        };
        if good {
            return Ok(());
        }
        Err(Error::Parameter {
            name: format!("layers[{layer}]: {name} of {}", self.name()),
            expected: expected.to_owned(),
            got: value.to_string(),
        })
    }
}

/// Replaces a row by its softmax.
pub fn softmax(row: &mut [f32]) {
    crate::kernels::activation::softmax(row);
}

/// Weights in memory of whatever owner keeps them, and keeps them as they are: a `Vec<f32>`, a mapped file,
/// another language's array.
pub type Weights = Arc<dyn AsRef<[f32]> + Send + Sync>;

/// One fully connected layer: `activation(x weight^T + bias)`. Its weights are not copied when it is cloned.
#[derive(Clone)]
pub struct Layer {
    /// `(height, width)`, of which the layer's weight is some rows and columns.
    matrix: Weights,
    height: usize,
    width: usize,
    rows: Picked,
    columns: Picked,
    pub(crate) bias: Vec<f32>,
    pub(crate) inputs: usize,
    pub(crate) activation: Activation,
}

/// Rows or columns of a matrix, in order; `None` is all of them.
type Picked = Option<Arc<[u32]>>;

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("weight", &self.weight())
            .field("bias", &self.bias)
            .field("inputs", &self.inputs)
            .field("activation", &self.activation)
            .finish_non_exhaustive()
    }
}

impl Layer {
    /// A layer from its weight, `(outputs, inputs)` row by row, and bias, `(outputs,)`.
    ///
    /// Lengths and values are checked by [`Network::new`].
    pub fn new(weight: Vec<f32>, bias: Vec<f32>, inputs: usize, activation: Activation) -> Layer {
        Layer::of_shared(Arc::new(weight), bias, inputs, activation)
    }

    /// [`Layer::new`] with weights that stay where they are.
    pub fn of_shared(
        weight: Weights,
        bias: Vec<f32>,
        inputs: usize,
        activation: Activation,
    ) -> Layer {
        let (height, width, rows, columns) = (bias.len(), inputs, None, None);
        Layer { matrix: weight, height, width, rows, columns, bias, inputs, activation }
    }

    /// The layer with these units alone, for these inputs alone, both in the order of the lists; `None` is all of
    /// them. Weights stay where they are: they are put in order as they are packed. Those that are not picked must
    /// be finite, too; biases of other units are dropped.
    ///
    /// # Errors
    /// A number that is not below the number of units or of inputs, or is there twice; a weight of another length.
    pub fn pick(mut self, units: Option<&[u32]>, inputs: Option<&[u32]>) -> Result<Layer> {
        self.check_shape(|| "weight".to_owned())?;
        self.rows = picked(self.rows, units, self.bias.len(), "units")?;
        self.columns = picked(self.columns, inputs, self.inputs, "inputs")?;
        if let Some(units) = units {
            self.bias = units.iter().map(|unit| self.bias[*unit as usize]).collect();
        }
        self.inputs = inputs.map_or(self.inputs, <[u32]>::len);
        Ok(self)
    }

    /// Width of a row going in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
    /// Number of units.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }
    /// `(outputs, inputs)`, row by row; a copy where units or inputs are picked.
    pub fn weight(&self) -> Cow<'_, [f32]> {
        if self.rows.is_none() && self.columns.is_none() {
            return self.matrix().into();
        }
        let mut room = Vec::new();
        let units = 0..self.outputs();
        units.flat_map(|unit| self.weights_of(unit, &mut room).to_vec()).collect()
    }
    /// Where the weights are.
    pub(crate) fn matrix(&self) -> &[f32] {
        (*self.matrix).as_ref()
    }
    /// Width of its rows.
    pub(crate) fn width(&self) -> usize {
        self.width
    }
    /// The number of its row that is a unit's.
    pub(crate) fn row_number(&self, unit: usize) -> usize {
        self.rows.as_deref().map_or(unit, |rows| rows[unit] as usize)
    }
    /// A unit's row of the matrix, whole and as it stands.
    pub(crate) fn whole_row(&self, unit: usize) -> &[f32] {
        &self.matrix()[self.row_number(unit) * self.width..][..self.width]
    }
    /// Which of its columns the inputs are, unless they are all as they stand.
    pub(crate) fn columns(&self) -> Option<&[u32]> {
        self.columns.as_deref()
    }
    /// A unit's weights, brought to `room` where they do not stand side by side.
    pub(crate) fn weights_of<'a>(&'a self, unit: usize, room: &'a mut Vec<f32>) -> &'a [f32] {
        let row = self.whole_row(unit);
        if self.columns.is_none() {
            return row;
        }
        room.resize(self.inputs, 0.0);
        self.put_in_order(row, room);
        room
    }
    /// Copies what belongs to the inputs, in their order, of what belongs to a row's columns.
    pub(crate) fn put_in_order<T: Copy>(&self, row: &[T], to: &mut [T]) {
        let Some(columns) = self.columns() else { return to.copy_from_slice(&row[..self.inputs]) };
        assert!(row.len() >= self.width && to.len() == columns.len());
        for (to, column) in to.iter_mut().zip(columns) {
            // SAFETY: `pick` alone sets columns, each below the width, which the row has.
            *to = unsafe { *row.get_unchecked(*column as usize) };
        }
    }
    /// `(outputs,)`.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }
    /// What follows the affine map.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Whether there are as many weights as there should be.
    fn check_shape(&self, name: impl Fn() -> String) -> Result<()> {
        let (got, height, width) = (self.matrix().len(), self.height, self.width);
        if Some(got) == height.checked_mul(width) {
            return Ok(());
        }
        Err(Error::Shape {
            name: name(),
            expected: format!("({height}, {width})"),
            got: format!("{got} values"),
        })
    }

    /// Checks the layer; tells the largest magnitude of weights in each row of the matrix.
    fn check(&self, layer: usize, isa: Isa) -> Result<Vec<f32>> {
        let most = i32::MAX as usize;
        for (axis, got) in [("rows", self.outputs()), ("columns", self.inputs)] {
            if got == 0 || got > most {
                return Err(Error::Width { layer, name: "weight", axis, got });
            }
        }
        let name = || format!("layers[{layer}].weight");
        self.check_shape(name)?;
        let (matrix, width, columns) = (self.matrix(), self.width, self.columns());
        // In one pass, since weights may be many and are read from memory.
        let (largest, finite) = isa.run_floats(LargestOfRows { matrix, width, columns });
        if !finite {
            check_finite(matrix, name, |i| format!("({}, {})", i / width, i % width))?;
        }
        check_finite(&self.bias, || format!("layers[{layer}].bias"), |i| i.to_string())?;
        self.activation.check(layer)?;
        Ok(largest)
    }
}

/// What is picked of what is picked already, `len` in number.
fn picked(old: Picked, new: Option<&[u32]>, len: usize, name: &str) -> Result<Picked> {
    let Some(new) = new else { return Ok(old) };
    let refused = |expected: String, got: String| {
        Err(Error::Parameter { name: name.to_owned(), expected, got })
    };
    if let Some(bad) = new.iter().find(|i| **i as usize >= len) {
        return refused(format!("below {len}"), bad.to_string());
    }
    let mut sorted = new.to_vec();
    sorted.sort_unstable();
    let next = sorted.iter().skip(1);
    if let Some((twice, _)) = sorted.iter().zip(next).find(|(a, b)| a == b) {
        return refused("distinct".to_owned(), format!("{twice} twice"));
    }
    Ok(Some(match old {
        None => new.into(),
        Some(old) => new.iter().map(|i| old[*i as usize]).collect(),
    }))
}

fn check_finite(
    values: &[f32],
    name: impl Fn() -> String,
    index: impl Fn(usize) -> String,
) -> Result<()> {
    // By whole blocks, since a loop that may end anywhere is no vector loop.
    const BLOCK: usize = 256;
    let is_bad = |block: &[f32]| block.iter().fold(false, |bad, value| bad | !value.is_finite());
    let Some(block) = values.chunks(BLOCK).position(is_bad) else { return Ok(()) };
    let bad = values.iter().enumerate().skip(block * BLOCK).find(|(_, value)| !value.is_finite());
    let (i, value) = bad.expect("its block has one");
    Err(Error::NotFinite { name: name(), index: index(i), value: *value })
}

/// The sign estimate of one layer (Davis and Arel 2013, arXiv 1312.4461): a unit is computed where
/// `x u v + bias > 0`.
#[derive(Clone, Debug)]
pub struct Gate {
    pub(crate) u: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) rank: usize,
    /// The least and the greatest of each of `x u`, on calibration rows; empty where not known.
    pub(crate) range: Vec<[f32; 2]>,
}

impl Gate {
    /// A gate from `u` (inputs, rank), `v` (rank, outputs), both row by row, and `bias` (outputs,),
    /// into which thresholds are folded. Checked by [`Network::with_gates`].
    pub fn new(u: Vec<f32>, v: Vec<f32>, bias: Vec<f32>, rank: usize) -> Gate {
        Gate { u, v, bias, rank, range: Vec::new() }
    }

    /// The gate with the least and the greatest value of each of the `rank` sums `x u` on
    /// calibration rows. With it, scores are computed from bytes of these sums, which is several times
    /// faster and moves a score by about a hundredth of its spread; an int8 layer needs it. Sums
    /// beyond are taken as its ends.
    #[must_use]
    pub fn with_range(self, range: Vec<[f32; 2]>) -> Gate {
        Gate { range, ..self }
    }

    /// `(rank,)` pairs of the least and the greatest of each of `x u`; empty where not known.
    pub fn range(&self) -> &[[f32; 2]] {
        &self.range
    }

    /// `(inputs, rank)`, row by row.
    pub fn u(&self) -> &[f32] {
        &self.u
    }
    /// `(rank, outputs)`, row by row.
    pub fn v(&self) -> &[f32] {
        &self.v
    }
    /// `(outputs,)`.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }
    /// Inner width of the factors.
    pub fn rank(&self) -> usize {
        self.rank
    }

    fn check(&self, index: usize, layer: &Layer, last: bool) -> Result<()> {
        if last || !layer.activation.has_hard_zero() {
            return Err(Error::GateNotAllowed {
                layer: index,
                expected: "a hidden layer with relu, clipped_relu or thresholded_relu",
                got: if last {
                    "the last layer".to_owned()
                } else {
                    layer.activation.name().to_owned()
                },
            });
        }
        let (inputs, outputs, rank) = (layer.inputs(), layer.outputs(), self.rank);
        let max = inputs.min(outputs);
        if rank == 0 || rank > max {
            return Err(Error::Rank { layer: index, max, got: rank });
        }
        for (part, values, rows, columns) in
            [("u", &self.u, inputs, rank), ("v", &self.v, rank, outputs)]
        {
            if values.len() != rows * columns {
                return Err(Error::Shape {
                    name: format!("gates[{index}].{part}"),
                    expected: format!("({rows}, {columns})"),
                    got: format!("{} values", values.len()),
                });
            }
            check_finite(
                values,
                || format!("gates[{index}].{part}"),
                |i| format!("({}, {})", i / columns, i % columns),
            )?;
        }
        if self.bias.len() != outputs {
            return Err(Error::Shape {
                name: format!("gates[{index}].bias"),
                expected: format!("({outputs},)"),
                got: format!("({},)", self.bias.len()),
            });
        }
        check_finite(&self.bias, || format!("gates[{index}].bias"), |i| i.to_string())?;
        if !self.range.is_empty() && self.range.len() != rank {
            return Err(Error::Shape {
                name: format!("gates[{index}].range"),
                expected: format!("(2, {rank})"),
                got: format!("(2, {})", self.range.len()),
            });
        }
        let range = self.range.as_flattened();
        check_finite(
            range,
            || format!("gates[{index}].range"),
            |i| format!("({}, {})", i % 2, i / 2),
        )
    }
}

/// How a layer's inputs become bytes: `x / scale + offset`, rounded to nearest and brought within 0
/// to 255. So a byte q stands for `(q - offset) scale`; 0 stands for 0 where the offset is 0.
///
/// For a network's first layer x is the raw input, before the network's [`InputMap`].
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    scale: Vec<f32>,
    offset: Vec<f32>,
    /// `1 / scale` and `offset` as kernels want them: of one value, or padded to whole vectors.
    inverse: Vec<f32>,
    padded_offset: Vec<f32>,
}

impl Quantization {
    /// One scale for all inputs or one each; one offset for all or, for a network's first layer, one each.
    /// Checked by [`Network::with_quantization`].
    pub fn new(scale: Vec<f32>, offset: Vec<f32>) -> Quantization {
        let count = scale.len().max(offset.len());
        let spread = |values: &[f32]| {
            let mut all = if values.len() == 1 { vec![values[0]; count] } else { values.to_vec() };
            if count != 1 {
                all.resize(crate::kernels::padded(count), 0.0);
            }
            all
        };
        let inverses: Vec<_> = scale.iter().map(|scale| 1.0 / scale).collect();
        let (inverse, padded_offset) = (spread(&inverses), spread(&offset));
        Quantization { scale, offset, inverse, padded_offset }
    }
    /// `scale[i]`, or the one scale of all inputs.
    pub fn scale(&self, i: usize) -> f32 {
        if self.scale.len() == 1 { self.scale[0] } else { self.scale[i] }
    }
    /// `offset[i]`, or the one offset of all inputs.
    pub fn offset(&self, i: usize) -> f32 {
        if self.offset.len() == 1 { self.offset[0] } else { self.offset[i] }
    }
    pub(crate) fn inverse(&self) -> &[f32] {
        &self.inverse
    }
    pub(crate) fn padded_offset(&self) -> &[f32] {
        &self.padded_offset
    }

    /// Whether bytes of uint8 rows are the rows themselves.
    pub(crate) fn is_identity(&self) -> bool {
        self.scale == [1.0] && self.offset == [0.0]
    }

    fn check(&self, index: usize, layer: &Layer) -> Result<()> {
        let inputs = layer.inputs();
        if inputs > MOST_INT8_INPUTS {
            return Err(Error::Parameter {
                name: format!("inputs of layers[{index}]"),
                expected: format!("at most {MOST_INT8_INPUTS} in int8"),
                got: inputs.to_string(),
            });
        }
        for (name, values) in [("scale", &self.scale), ("offset", &self.offset)] {
            let name = format!("quantization[{index}].{name}");
            // A kernel adds one offset to all outputs of a layer.
            let each = index == 0 || name.ends_with("scale");
            if values.len() != 1 && !(each && values.len() == inputs) {
                let expected = if each { format!("() or ({inputs},)") } else { "()".to_owned() };
                return Err(Error::Shape { name, expected, got: format!("({},)", values.len()) });
            }
            check_finite(values, || name.clone(), |i| i.to_string())?;
        }
        match self.scale.iter().find(|scale| !(**scale > 0.0 && (1.0 / **scale).is_finite())) {
            None => Ok(()),
            Some(scale) => Err(Error::Parameter {
                name: format!("quantization[{index}].scale"),
                expected: "above 0".to_owned(),
                got: scale.to_string(),
            }),
        }
    }
}

/// 255 times 127 times as many fits an i32.
const MOST_INT8_INPUTS: usize = 65_536;

/// The map from raw inputs to what the first layer sees: `x scale + shift`, one pair per input.
///
/// It is folded into the first layer's packed weights and bias, so it costs nothing at run time and
/// a raw zero stays a zero that is skipped, even where `shift` is not zero. Where a shift is above 16
/// (raw values far from zero for their spread, such as years), folding would lose digits to
/// cancellation: then rows are mapped as they are read.
#[derive(Clone, Debug)]
pub struct InputMap {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

impl InputMap {
    /// A map from `scale` and `shift`, each of length 1 or the input width. Checked by
    /// [`Network::new`].
    pub fn new(scale: Vec<f32>, shift: Vec<f32>) -> InputMap {
        InputMap { scale, shift }
    }
    /// `scale[i]`, or the one scale of all inputs.
    pub fn scale(&self, i: usize) -> f32 {
        if self.scale.len() == 1 { self.scale[0] } else { self.scale[i] }
    }
    /// `shift[i]`, or the one shift of all inputs.
    pub fn shift(&self, i: usize) -> f32 {
        if self.shift.len() == 1 { self.shift[0] } else { self.shift[i] }
    }

    /// Whether folding keeps the digits: the folded terms are up to about the largest shift larger
    /// than the scaled inputs.
    fn can_be_folded(&self) -> bool {
        self.shift.iter().all(|shift| shift.abs() <= LARGEST_FOLDED_SHIFT)
    }

    fn check(&self, inputs: usize) -> Result<()> {
        for (name, values) in [("input_scale", &self.scale), ("input_shift", &self.shift)] {
            if values.len() != 1 && values.len() != inputs {
                return Err(Error::Shape {
                    name: name.to_owned(),
                    expected: format!("() or ({inputs},)"),
                    got: format!("({},)", values.len()),
                });
            }
            check_finite(values, || name.to_owned(), |i| i.to_string())?;
        }
        Ok(())
    }
}

/// Folding loses up to this factor of precision, four bits.
const LARGEST_FOLDED_SHIFT: f32 = 16.0;

/// A trained network, checked, with its plan, and its weights as far as they are packed. Cheap to clone; what
/// it computes never changes.
#[derive(Clone)]
pub struct Network {
    pub(crate) layers: Vec<NetworkLayer>,
    pub(crate) input_map: Option<Arc<InputMap>>,
    /// The map, where it is applied to rows as they are read instead of folded.
    pub(crate) map_on_read: Option<Arc<InputMap>>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) isa: Isa,
}

/// A layer and its gate, with their packed forms.
#[derive(Clone)]
pub(crate) struct NetworkLayer {
    pub(crate) packed: Arc<PackedLayer>,
    pub(crate) gate: Option<Arc<PackedGate>>,
    pub(crate) int8: Option<Arc<QuantizedLayer>>,
    pub(crate) int8_gate: Option<Arc<QuantizedGate>>,
}

impl NetworkLayer {
    pub(crate) fn parts(&self) -> Parts<'_> {
        Parts {
            layer: &self.packed,
            gate: self.gate.as_deref(),
            int8: self.int8.as_deref(),
            int8_gate: self.int8_gate.as_deref(),
        }
    }

    /// Makes the gate's bytes where there is all that they need.
    fn quantize_gate(&mut self) {
        self.int8_gate = match (&self.gate, &self.int8) {
            (Some(gate), Some(int8)) => {
                QuantizedGate::new(gate, &self.packed, &int8.input).map(Arc::new)
            }
            _ => None,
        };
    }
}

impl Network {
    /// Checks the layers and builds a network whose plan is dense everywhere.
    ///
    /// Its weights are packed by [`Network::pack`], by [`Network::with_plan`], or by the first call.
    ///
    /// # Errors
    /// Any layer that is malformed or does not fit the one before it, a malformed `input_map`, or
    /// an `LRGATE_ISA` that this machine lacks.
    pub fn new(layers: Vec<Layer>, input_map: Option<InputMap>) -> Result<Network> {
        Network::with_isa(layers, input_map, Isa::detect()?)
    }

    /// [`Network::new`] on a given instruction set.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn with_isa(layers: Vec<Layer>, input_map: Option<InputMap>, isa: Isa) -> Result<Network> {
        if layers.is_empty() {
            return Err(Error::NoLayers);
        }
        let mut largest = Vec::new();
        for (i, layer) in layers.iter().enumerate() {
            largest.push(layer.check(i, isa)?);
            if i > 0 && layers[i - 1].outputs() != layer.inputs() {
                return Err(Error::Chain {
                    layer: i,
                    previous: i - 1,
                    expected: layers[i - 1].outputs(),
                    got: layer.inputs(),
                });
            }
        }
        if let Some(map) = &input_map {
            map.check(layers[0].inputs())?;
        }
        let input_map = input_map.map(Arc::new);
        let map_on_read = input_map.clone().filter(|map| !map.can_be_folded());
        let plan = Plan::uniform(Strategy::Dense, layers.len());
        let layers = layers.into_iter().zip(largest).enumerate().map(|(i, (layer, largest))| {
            let map = input_map.clone().filter(|_| i == 0);
            let packed = PackedLayer::new(i, layer, &largest, map, map_on_read.is_none())?;
            let packed = Arc::new(packed);
            Ok(NetworkLayer { packed, gate: None, int8: None, int8_gate: None })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        Ok(Network { layers, input_map, map_on_read, plan: Arc::new(plan), isa })
    }

    /// The same network with `gates[i]` on layer i (`None` takes a gate away). Layers that get a
    /// gate run it in every batch class; layers that lose theirs run dense where they ran it.
    ///
    /// # Errors
    /// A number of gates other than the number of layers, a gate on a layer that cannot have one,
    /// a rank outside 1..=min(inputs, outputs), wrong lengths, values that are not finite.
    pub fn with_gates(&self, gates: Vec<Option<Gate>>) -> Result<Network> {
        if gates.len() != self.layers.len() {
            return Err(Error::Shape {
                name: "gates".to_owned(),
                expected: format!("({},)", self.layers.len()),
                got: format!("({},)", gates.len()),
            });
        }
        let last = self.layers.len() - 1;
        let mut network = self.clone();
        let mut plan = Plan::clone(&self.plan);
        for (i, gate) in gates.into_iter().enumerate() {
            let layer = &mut network.layers[i];
            layer.gate = match gate {
                None => None,
                Some(gate) => {
                    gate.check(i, layer.packed.layer(), i == last)?;
                    Some(Arc::new(PackedGate::new(i, gate, &layer.packed)?))
                }
            };
            layer.quantize_gate();
            plan.gate_changed(i, layer.gate.is_some());
            if layer.gate.is_some() && layer.int8_gate.is_none() {
                plan.set_precision(i, Precision::F32);
            }
        }
        network.plan = Arc::new(plan);
        Ok(network)
    }

    /// The same network with int8 forms of layers: `quantization[i]` says how layer i's inputs become
    /// bytes, `None` takes a layer's form away. Layers that get one run it in every batch class, with
    /// the strategy they have, but for gates without a range.
    ///
    /// # Errors
    /// A number of entries other than the number of layers; a scale that is not above 0, values that
    /// are not finite or make a product with a weight overflow; a number of scales that is neither 1 nor that of the
    /// layer's inputs, or of offsets, of which only the first layer may have more than one; a layer of more than
    /// 65,536 inputs, whose sums might not fit 32 bits.
    pub fn with_quantization(&self, quantization: Vec<Option<Quantization>>) -> Result<Network> {
        if quantization.len() != self.layers.len() {
            return Err(Error::Shape {
                name: "quantization".to_owned(),
                expected: format!("({},)", self.layers.len()),
                got: format!("({},)", quantization.len()),
            });
        }
        let mut network = self.clone();
        let mut plan = Plan::clone(&self.plan);
        for (i, quantization) in quantization.into_iter().enumerate() {
            let layer = &mut network.layers[i];
            layer.int8 = match quantization {
                None => None,
                Some(quantization) => {
                    quantization.check(i, layer.packed.layer())?;
                    let int8 = QuantizedLayer::new(i, &layer.packed, &quantization, self.isa)?;
                    Some(Arc::new(int8))
                }
            };
            layer.quantize_gate();
            let possible =
                layer.int8.is_some() && (layer.gate.is_none() || layer.int8_gate.is_some());
            plan.set_precision(i, if possible { Precision::Int8 } else { Precision::F32 });
        }
        network.plan = Arc::new(plan);
        Ok(network)
    }

    /// How layer `i`'s inputs become bytes, if it has an int8 form.
    pub fn quantization(&self, i: usize) -> Option<&Quantization> {
        Some(&self.layers.get(i)?.int8.as_deref()?.input)
    }

    /// The same network under another plan.
    ///
    /// # Errors
    /// A plan of another number of layers, or one that gates a layer without a gate.
    pub fn with_plan(&self, plan: Plan) -> Result<Network> {
        plan.check(self)?;
        let network = Network { plan: Arc::new(plan), ..self.clone() };
        network.pack();
        Ok(network)
    }

    /// Packs what the plan needs and is not packed yet, so that no call pays for it: else the first call
    /// does.
    ///
    /// [`Network::with_plan`] does so too. Whatever else makes a network leaves it, since another plan may
    /// follow.
    pub fn pack(&self) {
        let classes = self.plan.classes();
        for (at, class) in classes.iter().enumerate() {
            self.pack_for(class, classes.get(at + 1).is_none_or(|next| next.rows > 2));
        }
    }

    /// The same for one batch class; `batches` if its calls may be of more rows than one.
    pub(crate) fn pack_for(&self, class: &ClassPlan, batches: bool) {
        for (i, (layer, plan)) in self.layers.iter().zip(&class.layers).enumerate() {
            let in_pairs = i == 0 && batches && self.isa.dot_products();
            layer.parts().pack_for(self.isa, *plan, in_pairs);
        }
    }

    /// The layers, in order.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &Layer> {
        self.layers.iter().map(|layer| layer.packed.layer())
    }

    /// The gate of layer `i`, if it has one.
    pub fn gate(&self, i: usize) -> Option<&Gate> {
        self.layers.get(i)?.gate.as_deref().map(PackedGate::gate)
    }

    /// The map from raw inputs to the first layer's.
    pub fn input_map(&self) -> Option<&InputMap> {
        self.input_map.as_deref()
    }

    /// The plan in use.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Width of an input row.
    pub fn input_size(&self) -> usize {
        self.layers[0].packed.layer().inputs()
    }

    /// Width of an output row.
    pub fn output_size(&self) -> usize {
        self.layers[self.layers.len() - 1].packed.layer().outputs()
    }

    /// Bytes of weights held, in all layouts packed so far.
    pub fn nbytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.parts().bytes()).sum()
    }
}
