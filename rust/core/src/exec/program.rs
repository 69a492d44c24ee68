//! Programs: the plan for one batch size, compiled once.
//!
//! For each layer a program holds the product that computes it and the steps that turn its outputs
//! into the next layer's input. A layer that is computed by its factors is two layers here. Only two
//! decisions are left to a pass, because they depend on its rows: the form of the first layer's
//! input, and whether threads share a layer's units.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::read::{Marks, Read, quantize};
use crate::error::{Error, Extent, Result, Subject};
use crate::interrupt;
use crate::kernels::activation::FinishRows;
use crate::kernels::epilogue::{Fused, LEAST_BYTE, Output, Quantized};
use crate::kernels::margin::is_close;
use crate::kernels::scan::{HIDDEN_RANGE, Scan, ScanBytes};
use crate::layout::PANEL;
use crate::model::{Activation, InputMap, LeastMargin};
use crate::path::{
    Context, GateScratch, LayerPath, PackedForms, Path, Phase, QuantizedLayer, Watch,
};
use crate::plan::{BatchPlan, LayerPlan, Precision, Strategy};
use crate::rows::Rows;
use crate::signal::{Buffer, DenseRowsMut, Form, Signal};
use crate::simd::{Isa, LANES};

/// Rows of a full tile: enough that a layer's weights are rarely reread from L3, and few enough
/// that the tile's activations stay in L2.
pub(crate) const TILE: usize = 64;

/// Rows of a full tile if all layers are int8: activations take a quarter of the memory.
const BYTE_TILE: usize = 128;

/// Rows of a full tile if the weights do not fit L3, so that reading them dominates the time; or if
/// the activations are few.
pub(super) const WIDE_TILE: usize = 256;

/// Bytes of a tile's activations up to which [`WIDE_TILE`] is used, so that the steps around a tile
/// take a small part of the time: with those of the next layer they fit a small L1.
const NARROW_SIGNALS: usize = 16 << 10;

/// Bytes of weights, in the precisions of the layers, that take a few microseconds to read.
const SHORT: usize = 1 << 19;

/// Most weights of a network whose rows are computed in lanes: sixteen rows read all of them.
const MOST_IN_LANES: usize = 1 << 15;

/// Widest signal of such a network: sixteen rows of it take 32 KiB.
const WIDEST_IN_LANES: usize = 512;

/// Bytes of f32 weights above which [`WIDE_TILE`] is used.
const WIDE_FROM: usize = 16 << 20;

/// Nanoseconds that sharing a layer's units costs: its inputs and outputs pass between the caches of
/// cores.
const SHARING: u64 = 1000;

/// The parts that programs are compiled from: a network without a plan.
pub(crate) struct Parts<'a> {
    pub(crate) isa: Isa,
    pub(crate) layers: &'a [PackedForms],
    /// The input map, if it is applied to rows as they are read.
    pub(crate) map_on_read: Option<&'a Arc<InputMap>>,
    /// Rows with a smaller margin are recomputed, unless the plan is exact.
    pub(crate) least_margin: Option<LeastMargin>,
}

/// The forms in which layers' inputs are produced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// The forms that the layers read.
    AsRead,
    /// The same, and always dense rows, for observers.
    WithRows,
}

/// The rows of a call from which int8 gates multiply dense rows instead of lists, where the CPU has AMX
/// tiles.
const DENSE_ESTIMATES_FROM: usize = 8;

/// The compiled plan for one batch size, for calls of any number of rows.
pub(crate) struct Programs {
    program: Program,
    /// For calls of at least [`DENSE_ESTIMATES_FROM`] rows, if the paths differ.
    dense_estimates: Option<Program>,
}

impl Programs {
    /// Compiles a plan.
    ///
    /// # Errors
    /// See [`Program::compile`].
    pub(crate) fn compile(parts: &Parts<'_>, plan: &BatchPlan) -> Result<Programs> {
        let program = Program::compile(parts, plan, Inputs::AsRead, 1)?;
        let mut paths = program.layers.iter().map(|layer| &layer.path);
        let differs = parts.isa.has_tiles() && paths.any(LayerPath::may_estimate_dense);
        let compile = || Program::compile(parts, plan, Inputs::AsRead, DENSE_ESTIMATES_FROM);
        Ok(Programs { program, dense_estimates: differs.then(compile).transpose()? })
    }

    /// The program for a call with `rows` rows.
    pub(crate) fn of(&self, rows: usize) -> &Program {
        let dense_estimates = self.dense_estimates.as_ref();
        dense_estimates.filter(|_| rows >= DENSE_ESTIMATES_FROM).unwrap_or(&self.program)
    }

    /// Packs the weights that are not packed yet, for calls of `least` to `most` rows.
    pub(crate) fn pack(&self, least: usize, most: usize) {
        let Some(dense_estimates) = &self.dense_estimates else {
            return self.program.pack(most > 1);
        };
        if least < DENSE_ESTIMATES_FROM {
            self.program.pack(most > 1);
        }
        if most >= DENSE_ESTIMATES_FROM {
            dense_estimates.pack(true);
        }
    }
}

/// The compiled plan for one batch size and calls of one size.
pub(crate) struct Program {
    pub(crate) isa: Isa,
    pub(super) read: Read,
    /// Whether rows that are not finite must be marked, because the bytes of a later layer cannot
    /// represent them.
    pub(super) check: bool,
    /// In the order of computation: two of them for a layer that is computed by its factors.
    pub(crate) layers: Vec<LayerProgram>,
    /// Rows of a full tile.
    pub(crate) tile: usize,
    /// Total weights of all layers.
    pub(super) weights: usize,
    /// The program that recomputes rows outside the range of an int8 layer, and close rows. An f32
    /// program without gates and factors marks no row, and has none.
    pub(super) fallback: Option<Box<Program>>,
    /// How single rows are computed, if the layers can share a kernel.
    pub(super) single: Option<Single>,
    /// How batches are computed with a row per lane, if that takes less time.
    pub(super) lanes: Option<InLanes>,
    /// Whether a single row takes a few microseconds at most, whatever its values are.
    pub(super) is_short: bool,
}

/// One of a layer's two factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    /// The first: inputs by rank.
    U,
    /// The second: rank by outputs.
    V,
}

impl Factor {
    /// Name of the factor.
    pub fn name(self) -> &'static str {
        match self {
            Factor::U => "u",
            Factor::V => "v",
        }
    }
}

/// The compiled plan of one layer, or of a factor of one.
pub(crate) struct LayerProgram {
    /// Index of the network's layer.
    pub(crate) layer: usize,
    /// The factor, unless it is a whole layer.
    pub(crate) factor: Option<Factor>,
    pub(crate) path: LayerPath,
    /// Form of the layer's input.
    pub(crate) input: Form,
    /// Form of the next layer's input, if there is a next layer.
    pub(super) next: Option<Form>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// The work on one thread.
    pub(crate) alone: Ops,
    /// The work if threads share the layer's units, where it differs.
    shared: Option<Ops>,
}

/// How groups of sixteen rows pass through dense f32 layers, one row in each lane of a vector.
#[derive(Clone, Copy)]
pub(super) struct InLanes {
    /// The widest signal.
    pub(super) widest: usize,
    /// The least number of rows of which sixteen lanes take less time than lanes of units.
    pub(super) least_rows: usize,
}

/// How single rows pass through dense layers of one precision in one kernel.
#[derive(Clone, Copy)]
pub(super) struct Single {
    pub(super) precision: Precision,
    /// Words of the widest signal, padded to whole panels.
    pub(super) words: usize,
}

/// The work of a layer.
pub(crate) struct Ops {
    pub(crate) product: Product,
    /// Steps that turn the product's outputs into the next layer's input.
    pub(super) after: Vec<Op>,
}

/// A product with its bias and activation. Its outputs are written in the form that the next layer
/// reads, as far as the kernel can do it.
pub(crate) struct Product {
    pub(super) activation: Fused,
    pub(super) target: Target,
}

/// The destination of a product's outputs.
pub(super) enum Target {
    /// The network's output.
    Out,
    /// A buffer, as f32.
    Floats(Form),
    /// A buffer, as bytes of the next layer.
    Bytes { form: Form, next: Arc<QuantizedLayer>, offset: f32, least: f32, folded: Option<Folded> },
}

/// Scale and bias of an int8 layer whose outputs become bytes without an activation in between,
/// with the factors and the offset of those bytes.
pub(super) struct Folded {
    /// Zero-padded to whole vectors, as is the bias.
    pub(super) scale: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl Folded {
    fn new(output: &Output<'_>, next: &QuantizedLayer) -> Folded {
        let (inverses, offset) = (next.inverses(), f64::from(next.offset()));
        let folded = |values: &[f32], add: f64| {
            let of = |(value, inverse): (&f32, &f32)| {
                (f64::from(*value) * f64::from(*inverse) + add) as f32
            };
            values.iter().zip(inverses).map(of).collect()
        };
        Folded { scale: folded(output.scale, 0.0), bias: folded(output.bias, offset) }
    }

    /// The output with this scale and bias.
    #[inline]
    pub(super) fn apply<'a>(&'a self, output: &mut Output<'a>) {
        (output.scale, output.bias) = (&self.scale, &self.bias);
    }
}

/// The memory that a product writes to.
pub(crate) struct Place<'a> {
    pub(crate) buffer: &'a mut Buffer,
    pub(crate) out: &'a mut [f32],
    /// Set for rows with an output outside the range of the bytes, or with too small a margin.
    pub(crate) recompute: &'a [AtomicBool],
}

/// A step between a product and the next layer.
pub(super) enum Op {
    /// Marks rows of the network's output whose margin is smaller.
    MarkClose(LeastMargin),
    /// Applies an activation that is not fused.
    Activate(Activation),
    /// Applies such an activation to the network's output.
    ActivateOut(Activation),
    /// Lists the non-zeros of dense rows.
    List,
    /// Quantises dense rows to bytes.
    Quantize(Arc<QuantizedLayer>),
    /// Lists the non-zero bytes.
    ListBytes,
}

impl Program {
    /// Compiles a plan for calls of `rows` rows.
    ///
    /// # Errors
    /// A plan for another number of layers, or one that needs a part that a layer does not have.
    pub(crate) fn compile(
        parts: &Parts<'_>,
        plan: &BatchPlan,
        inputs: Inputs,
        rows: usize,
    ) -> Result<Program> {
        if plan.layers.len() != parts.layers.len() {
            return Err(Error::Shape {
                subject: Subject::LayerPlans,
                expected: Extent::List(parts.layers.len()),
                got: Extent::List(plan.layers.len()),
            });
        }
        let dense_estimates = parts.isa.has_tiles() && rows >= DENSE_ESTIMATES_FROM;
        let mut paths = Vec::new();
        let mut places = Vec::new();
        for (i, (forms, plan)) in parts.layers.iter().zip(&plan.layers).enumerate() {
            let of_layer = LayerPath::of(i, *plan, forms, dense_estimates)?;
            match of_layer.len() {
                1 => places.push((i, None)),
                _ => places.extend([(i, Some(Factor::U)), (i, Some(Factor::V))]),
            }
            paths.extend(of_layer);
        }
        let forms = paths.iter().map(|path| match inputs {
            Inputs::AsRead => path.reads(),
            Inputs::WithRows => Form { rows: true, ..path.reads() },
        });
        let forms: Vec<Form> = forms.collect();
        let int8: Vec<_> = paths.iter().map(|path| path.quantized().cloned()).collect();
        let read = Read::new(parts.isa, parts.map_on_read, &paths[0], forms[0], int8[0].clone());
        let some_bytes = forms.iter().any(|form| form.is_bytes());
        let all_bytes = forms.iter().all(|form| form.is_bytes());
        let weights = paths.iter().map(|path| path.layer().inputs() * path.layer().outputs()).sum();
        let bytes = if all_bytes { 1 } else { size_of::<f32>() };
        let widest = paths.iter().map(|path| path.layer().inputs().max(path.layer().outputs()));
        let widest = widest.max().unwrap_or(0).next_multiple_of(64 / bytes) * bytes;
        let tile = if weights * size_of::<f32>() > WIDE_FROM || NARROW_SIGNALS / widest >= WIDE_TILE
        {
            WIDE_TILE
        } else if all_bytes {
            BYTE_TILE
        } else {
            TILE
        };
        let layer = |(i, path): (usize, LayerPath)| {
            let next = forms.get(i + 1).copied();
            LayerProgram::new(places[i], path, forms[i], next, int8.get(i + 1).cloned().flatten())
        };
        let mut layers: Vec<_> = paths.into_iter().enumerate().map(layer).collect();
        let is_exact = !some_bytes && plan.layers.iter().all(|layer| layer.strategy.is_exact());
        let least_margin = parts.least_margin.filter(|_| !is_exact);
        if let (Some(least), Some(last)) = (least_margin, layers.last_mut()) {
            last.alone.after.insert(0, Op::MarkClose(least));
        }
        let single = Single::new(&read, &layers, weights);
        let lanes = single.and_then(|single| InLanes::new(single, &layers));
        let bytes = |layer: &LayerProgram| match layer.path.reads().precision {
            Precision::F32 => layer.weights() * size_of::<f32>(),
            Precision::Int8 => layer.weights(),
        };
        let is_short = layers.iter().map(bytes).sum::<usize>() <= SHORT;
        let fallback = if some_bytes || least_margin.is_some() {
            let (plan, least_margin) = fallback(plan, least_margin);
            let parts = Parts { least_margin, ..*parts };
            Some(Box::new(Program::compile(&parts, &plan, Inputs::AsRead, rows)?))
        } else {
            None
        };
        let check = some_bytes && !forms[0].is_bytes();
        Ok(Program {
            isa: parts.isa,
            read,
            check,
            layers,
            tile,
            weights,
            fallback,
            single,
            lanes,
            is_short,
        })
    }

    /// Packs the weights that are not packed yet. `batches` says whether calls may have more than
    /// one row.
    pub(super) fn pack(&self, batches: bool) {
        for (i, layer) in self.layers.iter().enumerate() {
            layer.path.pack(self.isa, i == 0 && batches && self.isa.dot_products());
        }
    }

    /// The form of each layer's input in a call on these rows.
    pub(super) fn forms(&self, rows: Rows<'_>) -> impl Iterator<Item = (&LayerProgram, Form)> {
        let first = std::iter::once(self.read.form(rows));
        let others = self.layers.iter().skip(1).map(|layer| layer.input);
        self.layers.iter().zip(first.chain(others))
    }

    /// Number of the network's layers.
    pub(crate) fn network_layers(&self) -> usize {
        self.layers[self.layers.len() - 1].layer + 1
    }

    /// Width of an output row.
    pub(crate) fn outputs(&self) -> usize {
        self.layers[self.layers.len() - 1].outputs
    }
}

/// The plan for rows that are recomputed, without gates and factors, and its least margin. It is in
/// f32, unless rows are first recomputed at the precisions of the plan.
fn fallback(plan: &BatchPlan, least: Option<LeastMargin>) -> (BatchPlan, Option<LeastMargin>) {
    let least = least.zip(plan.int8_margin);
    let layers = plan.layers.iter().map(|layer| LayerPlan {
        strategy: match layer.strategy {
            // Skip in f32 reads fewer weights where inputs are zero, and otherwise as many as dense.
            Strategy::Factor { skip: false, .. } if least.is_some() => Strategy::Dense,
            strategy if strategy.is_exact() => strategy,
            _ => Strategy::Skip,
        },
        precision: if least.is_some() { layer.precision } else { Precision::F32 },
    });
    let least = least.map(|(least, int8_margin)| LeastMargin::new(least.margin(), int8_margin));
    (BatchPlan::new(plan.rows, layers.collect()), least.filter(|least| least.least() > 0.0))
}

impl Single {
    /// `None` if the layers of a program with this many weights cannot share a kernel.
    fn new(read: &Read, layers: &[LayerProgram], weights: usize) -> Option<Single> {
        let (last, hidden) = layers.split_last()?;
        let precision = layers[0].input.precision;
        let dense = |layer: &LayerProgram| match precision {
            Precision::F32 => layer.path.dense_f32().is_some(),
            Precision::Int8 => layer.path.dense_int8().is_some(),
        };
        let fused = hidden.iter().all(|layer| layer.alone.after.is_empty())
            && last.alone.after.iter().all(Op::ends);
        if !layers.iter().all(dense) || !fused || read.maps() || interrupt::is_long(weights, 1) {
            return None;
        }
        let widest = layers.iter().map(|layer| layer.inputs.max(layer.outputs)).max()?;
        Some(Single { precision, words: widest.next_multiple_of(PANEL) })
    }
}

impl InLanes {
    /// `None` if vectors with a lane per unit take less time, or if rows may have to be recomputed.
    /// The costs are hundredths of cycles, fitted to times of eleven networks from 4-8-2 to
    /// 128-128-10 with AVX-512. In lanes: a multiply-add, the transposition of four columns of
    /// sixteen rows, and the start of a layer. With a lane per unit: the start of a call, a
    /// multiply-add of sixteen units, and the start of a group of rows.
    fn new(single: Single, layers: &[LayerProgram]) -> Option<InLanes> {
        let sum = |cost: &dyn Fn(&LayerProgram) -> usize| layers.iter().map(cost).sum::<usize>();
        let marks = |op: &Op| matches!(op, Op::MarkClose(_));
        let widest = layers.iter().map(|layer| layer.inputs.max(layer.outputs)).max()?;
        if single.precision != Precision::F32
            || widest > WIDEST_IN_LANES
            || sum(&LayerProgram::weights) > MOST_IN_LANES
            || layers[layers.len() - 1].alone.after.iter().any(marks)
        {
            return None;
        }
        let vectors = |width: usize| width.div_ceil(LANES);
        let ends = [layers[0].inputs, layers[layers.len() - 1].outputs];
        let fours = ends.map(|width| width.div_ceil(4)).iter().sum::<usize>();
        let rows_in_lanes =
            70 * sum(&|layer| layer.inputs * layer.outputs) + 620 * fours + 2_730 * layers.len();
        let row = 60 * sum(&|layer| layer.inputs * vectors(layer.outputs));
        let group = 6_400 * sum(&|layer| layer.outputs.div_ceil(PANEL));
        let units_in_lanes = |rows: usize| 18_700 + rows * row + rows.div_ceil(6) * group;
        Some(InLanes {
            widest,
            least_rows: (2..=LANES).find(|&rows| units_in_lanes(rows) > rows_in_lanes)?,
        })
    }
}

impl LayerProgram {
    fn new(
        (layer, factor): (usize, Option<Factor>),
        path: LayerPath,
        input: Form,
        next: Option<Form>,
        next_int8: Option<Arc<QuantizedLayer>>,
    ) -> LayerProgram {
        let (inputs, outputs) = (path.layer().inputs(), path.layer().outputs());
        let activation = path.layer().activation().clone();
        let activation = &activation;
        let alone = Ops::new(&path, activation, next, next_int8.clone(), false);
        // Lists must be in ascending order, so threads that share units write only rows.
        let lists = next.is_some_and(|next| next.lists && !next.is_bytes());
        let shared = lists.then(|| Ops::new(&path, activation, next, next_int8, true));
        LayerProgram { layer, factor, path, input, next, inputs, outputs, alone, shared }
    }

    /// Number of weights.
    pub(super) fn weights(&self) -> usize {
        self.inputs * self.outputs
    }

    /// Number of parts into which threads divide the layer's units.
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Whether `threads` threads share the units: this must be possible and save time.
    pub(super) fn can_share(&self, isa: Isa, input: Form, rows: usize, threads: usize) -> bool {
        threads > 1
            && self.path.can_share(input)
            && self.shared_time(isa, input, rows, threads) < self.path.least_time(isa, input, rows)
    }

    /// A lower estimate of the time in nanoseconds if `threads` threads share the units.
    pub(super) fn shared_time(&self, isa: Isa, input: Form, rows: usize, threads: usize) -> u64 {
        let panels = self.panels() as u64;
        let most = panels.div_ceil(threads as u64);
        self.path.least_time(isa, input, rows).saturating_mul(most) / panels + SHARING
    }

    /// The layer's work, with or without shared units.
    pub(super) fn ops(&self, shared: bool) -> &Ops {
        self.shared.as_ref().filter(|_| shared).unwrap_or(&self.alone)
    }
}

impl Ops {
    fn new(
        path: &LayerPath,
        activation: &Activation,
        next: Option<Form>,
        next_int8: Option<Arc<QuantizedLayer>>,
        shared: bool,
    ) -> Ops {
        let fused = activation.fused();
        let is_apart = activation.needs_finish();
        let Some(next) = next else {
            let after = is_apart.then(|| Op::ActivateOut(activation.clone())).into_iter().collect();
            return Ops { product: Product { activation: fused, target: Target::Out }, after };
        };
        let mut after = Vec::new();
        if is_apart {
            after.push(Op::Activate(activation.clone()));
        }
        let Some(int8) = next_int8.filter(|_| next.is_bytes()) else {
            let whole = is_apart || (next.lists && shared);
            let written = if whole { Form::rows(Precision::F32) } else { next };
            if whole && next.lists {
                after.push(Op::List);
            }
            let target = Target::Floats(written);
            return Ops { product: Product { activation: fused, target }, after };
        };
        // Paths that finish chosen units also list them, unless a unit that is off has a byte other
        // than 0.
        let listed = path.lists_bytes() && !is_apart && int8.offset() == 0.0;
        let product = if is_apart {
            after.push(Op::Quantize(int8));
            Product { activation: fused, target: Target::Floats(Form::rows(Precision::F32)) }
        } else {
            let form = if next.lists && !listed { Form::rows(Precision::Int8) } else { next };
            Product::to_bytes(path, fused, form, int8)
        };
        if next.lists && !listed {
            after.push(Op::ListBytes);
        }
        Ops { product, after }
    }
}

impl Product {
    /// A product whose outputs become bytes of the next layer.
    fn to_bytes(
        path: &LayerPath,
        activation: Fused,
        form: Form,
        next: Arc<QuantizedLayer>,
    ) -> Product {
        let offset = next.offset();
        // Conversion to bytes then turns negative values into 0.
        let is_clamp = offset == 0.0 && activation == Fused::Relu;
        let least =
            if is_clamp || activation.is_not_negative() { f32::NEG_INFINITY } else { LEAST_BYTE };
        let activation = if is_clamp { Fused::Identity } else { activation };
        // Sums of floats have no scale.
        let folds = path.reads().is_bytes() && activation == Fused::Identity;
        let folded = folds.then(|| Folded::new(&path.output(), &next));
        Product { activation, target: Target::Bytes { form, next, offset, least, folded } }
    }

    /// The form in which outputs are written.
    pub(crate) fn writes(&self) -> Form {
        match &self.target {
            Target::Out => Form::rows(Precision::F32),
            Target::Floats(form) | Target::Bytes { form, .. } => *form,
        }
    }

    /// Computes a tile. Returns the number of units computed, summed over the rows.
    #[inline]
    pub(crate) fn run(
        &self,
        path: &LayerPath,
        context: Context<'_>,
        input: Signal<'_>,
        place: &mut Place<'_>,
        scratch: &mut GateScratch,
        watch: &mut impl Watch,
    ) -> usize {
        let (n, columns) = (input.len(), path.layer().outputs());
        let mut output = path.output();
        output.activation = self.activation;
        match &self.target {
            Target::Out => output.dense = Some(DenseRowsMut::new(place.out, n, columns, columns)),
            Target::Floats(form) => {
                (output.dense, output.lists) = place.buffer.write_floats(n, columns, *form);
            }
            Target::Bytes { form, next, offset, least, folded } => {
                let (rows, lists) = place.buffer.write_bytes(n, columns, *form);
                let (inverse, offset, least) = (next.inverses(), *offset, *least);
                let inverse = folded.is_none().then_some(inverse);
                if let Some(folded) = folded {
                    folded.apply(&mut output);
                }
                let out_of_range = place.recompute;
                output.bytes =
                    Some(Quantized { rows, lists, inverse, offset, least, out_of_range });
            }
        }
        let computed = path.run(context, input, output, scratch, watch);
        if matches!(&self.target, Target::Bytes { form, .. } if form.lists) {
            place.buffer.fill_fours(n);
        }
        computed
    }
}

impl Op {
    /// Whether the step works on the network's output.
    fn ends(&self) -> bool {
        matches!(self, Op::MarkClose(_) | Op::ActivateOut(_))
    }

    pub(super) fn phase(&self) -> Phase {
        match self {
            Op::MarkClose(_) => Phase::Margin,
            Op::Activate(_) | Op::ActivateOut(_) => Phase::Activation,
            Op::List | Op::ListBytes => Phase::Scan,
            Op::Quantize(_) => Phase::Quantize,
        }
    }

    /// Runs the step on the product's output: `n` rows of `columns` outputs.
    pub(super) fn run(
        &self,
        isa: Isa,
        (n, columns): (usize, usize),
        Place { buffer, out, recompute }: &mut Place<'_>,
        non_finite: &mut [bool],
    ) {
        match self {
            Op::MarkClose(least) => {
                for (outputs, mark) in out.chunks_exact(columns).zip(*recompute) {
                    if is_close(*least, outputs) {
                        mark.store(true, Ordering::Relaxed);
                    }
                }
            }
            Op::Activate(activation) => {
                let (data, stride) = buffer.dense_mut(n, columns);
                isa.run_floats(FinishRows { activation, data, columns, stride });
            }
            Op::ActivateOut(activation) => {
                let stride = columns;
                isa.run_floats(FinishRows { activation, data: out, columns, stride });
            }
            Op::List => {
                let (rows, lists) = buffer.list_dense(n, columns);
                isa.run_floats(Scan { rows, lists });
            }
            Op::Quantize(next) => {
                let (rows, bytes) = buffer.quantize_dense(n, columns);
                let marks = Marks { non_finite, out_of_range: recompute, range: HIDDEN_RANGE };
                quantize(isa, rows, bytes, next.to_bytes(), marks);
            }
            Op::ListBytes => {
                let (rows, lists) = buffer.list_bytes(n, columns);
                isa.run_lister(ScanBytes { rows, columns, lists });
            }
        }
    }
}
