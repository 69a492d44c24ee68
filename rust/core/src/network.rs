//! A network: its layers with their packed forms, and its plan.
//!
//! All checks are made here, once, so that the engine needs none. A [`Network`] never changes:
//! methods that change something return a new network that shares the weights.

use std::sync::Arc;

use crate::error::{Error, Extent, Result, Subject};
use crate::exec::{self, Inputs, Parts, Program, Programs};
use crate::head::{Head, Task};
use crate::interrupt;
use crate::model::{Factors, Gate, InputMap, Layer, LeastMargin, Quantization};
use crate::path::{self, PackedFactors, PackedForms, PackedGate, PackedLayer, QuantizedLayer};
use crate::plan::{BatchPlan, LayerPlan, Plan, Precision, Strategy};
use crate::rows::Rows;
use crate::simd::Isa;

/// The plan of a gated int8 layer.
const GATE_INT8: LayerPlan = LayerPlan { strategy: Strategy::Gate, precision: Precision::Int8 };

/// A trained and checked network with its plan. It is immutable and cheap to clone; weights are
/// packed as they are needed.
#[derive(Clone)]
pub struct Network {
    pub(crate) layers: Vec<PackedForms>,
    pub(crate) input_map: Option<Arc<InputMap>>,
    /// The input map, if it is applied to rows as they are read instead of folded into weights.
    pub(crate) map_on_read: Option<Arc<InputMap>>,
    plan: Arc<Plan>,
    /// One for each batch size of the plan.
    programs: Arc<[Programs]>,
    least_margin: Option<LeastMargin>,
    pub(crate) isa: Isa,
}

impl Network {
    /// Checks the layers and builds a network whose plan is dense everywhere.
    ///
    /// Its weights are packed by [`Network::pack`], by [`Network::with_plan`], or by the first
    /// call.
    ///
    /// # Errors
    /// A layer that is malformed or does not fit the layer before it, a malformed `input_map`, or
    /// an `LRGATE_ISA` that this machine does not have.
    pub fn new(layers: Vec<Layer>, input_map: Option<InputMap>) -> Result<Network> {
        Network::with_isa(layers, input_map, Isa::detect()?)
    }

    /// [`Network::new`] with a given instruction set.
    ///
    /// # Errors
    /// See [`Network::new`].
    pub fn with_isa(layers: Vec<Layer>, input_map: Option<InputMap>, isa: Isa) -> Result<Network> {
        if layers.is_empty() {
            return Err(Error::NoLayers);
        }
        let mut largest = Vec::new();
        for (i, layer) in layers.iter().enumerate() {
            interrupt::check()?;
            layer.check_widths(i)?;
            largest.push(path::largest_of_rows(i, layer, isa)?);
            layer.check_values(i)?;
            if i > 0 && layers[i - 1].outputs() != layer.inputs() {
                let (expected, got) = (layers[i - 1].outputs(), layer.inputs());
                return Err(Error::Chain { layer: i, expected, got });
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
            Ok(PackedForms::new(Arc::new(packed)))
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let (first, programs) = (Arc::new(plan.clone()), Arc::new([]));
        let least_margin = None;
        Network { layers, input_map, map_on_read, plan: first, programs, least_margin, isa }
            .planned(plan)
    }

    /// The same network with `gates[i]` on layer i; `None` removes a gate. Layers that get a gate
    /// use it at every batch size; layers that lose their gate run dense where they used it.
    ///
    /// # Errors
    /// A number of gates other than the number of layers, a gate on a layer that cannot have one, a
    /// rank outside 1..=min(inputs, outputs), wrong lengths, or values that are not finite.
    pub fn with_gates(&self, gates: Vec<Option<Gate>>) -> Result<Network> {
        self.check_one_per_layer(Subject::Gates, gates.len())?;
        let last = self.layers.len() - 1;
        let mut network = self.clone();
        let mut plan = Plan::clone(&self.plan);
        for (i, gate) in gates.into_iter().enumerate() {
            let layer = &mut network.layers[i];
            let gate = match gate {
                None => None,
                Some(gate) => {
                    gate.check(i, layer.layer.layer(), i == last)?;
                    Some(PackedGate::new(i, gate, &layer.layer)?)
                }
            };
            layer.set_gate(gate);
            plan.gate_changed(i, layer.gate.is_some());
            if layer.gate.is_some() {
                set_precision(&mut plan, i, layer, |plan| plan.precision == Precision::Int8);
            }
        }
        network.planned(plan)
    }

    /// The same network with `factors[i]` for layer i; `None` removes factors. Layers that get
    /// factors use them at every batch size, with their gate if they have one; layers that lose
    /// their factors run dense where they used them.
    ///
    /// # Errors
    /// - A number of factors other than the number of layers.
    /// - A rank outside 1..=min(inputs, outputs), or of a nested gate outside 1..=rank.
    /// - Wrong lengths, values that are not finite, or products that overflow.
    /// - A nested gate on a layer that cannot have a gate.
    /// - A quantisation that [`Network::with_quantization`] would refuse for the first layer.
    pub fn with_factors(&self, factors: Vec<Option<Factors>>) -> Result<Network> {
        self.check_one_per_layer(Subject::AllFactors, factors.len())?;
        let last = self.layers.len() - 1;
        let mut network = self.clone();
        let mut plan = Plan::clone(&self.plan);
        for (i, factors) in factors.into_iter().enumerate() {
            let layer = &mut network.layers[i];
            let packed = match factors {
                None => None,
                Some(factors) => {
                    factors.check(i, layer.layer.layer(), i == last)?;
                    Some(PackedFactors::new(i, factors, &layer.layer, self.isa)?)
                }
            };
            layer.set_factors(i, packed, self.isa)?;
            let strategy = layer.factor_strategy();
            plan.factors_changed(i, strategy);
            if strategy.is_some() {
                set_precision(&mut plan, i, layer, |plan| plan.precision == Precision::Int8);
            }
        }
        network.planned(plan)
    }

    /// The same network with int8 forms: `quantization[i]` quantises the inputs of layer i, and
    /// `None` removes the int8 form of the layer. Layers that get an int8 form use it at every
    /// batch size with the strategy they have, except for gated layers whose gate has no range, and
    /// for layers that use factors without a quantisation.
    ///
    /// # Errors
    /// - A number of entries other than the number of layers.
    /// - A scale that is not above 0, values that are not finite, or a product with a weight that
    ///   overflows.
    /// - A number of scales that is neither 1 nor the number of the layer's inputs, or such a
    ///   number of offsets; only the first layer may have more than one offset.
    /// - A layer of more than 65,536 inputs, whose sums might not fit 32 bits.
    pub fn with_quantization(&self, quantization: Vec<Option<Quantization>>) -> Result<Network> {
        self.check_one_per_layer(Subject::Quantizations, quantization.len())?;
        let mut network = self.clone();
        let mut plan = Plan::clone(&self.plan);
        for (i, quantization) in quantization.into_iter().enumerate() {
            let layer = &mut network.layers[i];
            let int8 = match quantization {
                None => None,
                Some(quantization) => {
                    quantization.check(i, layer.layer.layer())?;
                    Some(QuantizedLayer::new(i, &layer.layer, &quantization, self.isa)?)
                }
            };
            layer.set_int8(i, int8, self.isa)?;
            let wanted = layer.gate.is_none() || layer.can(GATE_INT8);
            set_precision(&mut plan, i, layer, |_| wanted);
        }
        network.planned(plan)
    }

    /// The quantisation of layer `i`'s inputs, if the layer has an int8 form.
    pub fn quantization(&self, i: usize) -> Option<&Quantization> {
        Some(&self.layers.get(i)?.int8.as_deref()?.input)
    }

    /// The same network, which recomputes rows with a smaller margin in f32 without gates and factors,
    /// at the batch sizes where the plan has int8, gates or factors. `None` recomputes no such row.
    /// Margins of single batch sizes are gone.
    ///
    /// # Errors
    /// A least margin that is negative or not finite, [`Margin::TopTwo`](crate::Margin::TopTwo) of one
    /// output, or a last activation other than identity, sigmoid, softmax and log-softmax.
    pub fn with_least_margin(&self, least_margin: Option<LeastMargin>) -> Result<Network> {
        if let Some(least) = &least_margin {
            let last = self.layers[self.layers.len() - 1].layer.layer();
            least.check(last.outputs(), last.activation())?;
        }
        let least_margin = least_margin.filter(|least| least.least() > 0.0);
        let plan = Plan::clone(&self.plan).without_margins();
        Network { least_margin, ..self.clone() }.planned(plan)
    }

    /// The least margin of rows that are not recomputed, if there is one.
    pub fn least_margin(&self) -> Option<LeastMargin> {
        self.least_margin
    }

    /// The same network with another plan.
    ///
    /// # Errors
    /// A plan for another number of layers, one that needs a gate or an int8 form that a layer does
    /// not have, a least margin that is not from 0 to the network's, or an int8 margin that is negative
    /// or not finite.
    pub fn with_plan(&self, mut plan: Plan) -> Result<Network> {
        let most = self.least_margin.map_or(0.0, LeastMargin::least);
        if let Some(least) = plan.least_margins().find(|least| !(0.0..=most).contains(*least)) {
            return Err(Error::Range {
                subject: Subject::LeastMargin,
                expected: format!("from 0 to the network's, {most}, at every batch size"),
                got: least.to_string(),
            });
        }
        if let Some(wrong) = plan.int8_margins().find(|own| !(0.0..f32::INFINITY).contains(*own)) {
            return Err(Error::Range {
                subject: Subject::Int8Margin,
                expected: "finite and at least 0".to_owned(),
                got: wrong.to_string(),
            });
        }
        plan.drop_idle_margins(most);
        let network = self.clone().planned(plan)?;
        network.pack();
        Ok(network)
    }

    fn check_one_per_layer(&self, subject: Subject, got: usize) -> Result<()> {
        let expected = self.layers.len();
        if got == expected {
            return Ok(());
        }
        let (expected, got) = (Extent::List(expected), Extent::List(got));
        Err(Error::Shape { subject, expected, got })
    }

    /// The same network with another plan, compiled. Weights are not packed.
    fn planned(mut self, plan: Plan) -> Result<Network> {
        let batch_plans = plan.batch_plans().iter();
        let compiled = |batch_plan| Programs::compile(&self.parts(batch_plan), batch_plan);
        let programs = batch_plans.map(compiled);
        self.programs = programs.collect::<Result<_>>()?;
        self.plan = Arc::new(plan);
        Ok(self)
    }

    /// Compiles the plan for calls of `rows` rows.
    pub(crate) fn compiled(&self, rows: usize, inputs: Inputs) -> Result<Program> {
        let batch_plan = self.plan.for_rows(rows);
        Program::compile(&self.parts(batch_plan), batch_plan, inputs, rows)
    }

    /// The parts of programs for one batch size.
    fn parts(&self, batch_plan: &BatchPlan) -> Parts<'_> {
        let own = |least: LeastMargin| match batch_plan.least_margin {
            Some(own) => LeastMargin::new(least.margin(), own),
            None => least,
        };
        Parts {
            isa: self.isa,
            layers: &self.layers,
            map_on_read: self.map_on_read.as_ref(),
            least_margin: self.least_margin.map(own).filter(|least| least.least() > 0.0),
        }
    }

    /// The program for a call with `rows` rows.
    pub(crate) fn program_for(&self, rows: usize) -> &Program {
        self.programs[self.plan.index_for(rows)].of(rows)
    }

    /// Packs the weights that the plan needs and that are not packed yet, so that no call has to.
    /// Otherwise the first call packs them.
    ///
    /// [`Network::with_plan`] packs too. Other methods that return a network do not, because
    /// another plan may follow.
    pub fn pack(&self) {
        let mut least = 1;
        for (at, programs) in self.programs.iter().enumerate() {
            let most = self.plan.most_rows(at);
            programs.pack(least, most);
            least = most.saturating_add(1);
        }
    }

    /// The layers, in order.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &Layer> {
        self.layers.iter().map(|layer| layer.layer.layer())
    }

    /// The gate of layer `i`, if it has one.
    pub fn gate(&self, i: usize) -> Option<&Gate> {
        self.layers.get(i)?.gate.as_deref().map(PackedGate::gate)
    }

    /// The map from raw inputs to the first layer's inputs.
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
        self.layers[0].layer.layer().inputs()
    }

    /// Width of an output row.
    pub fn output_size(&self) -> usize {
        self.layers[self.layers.len() - 1].layer.layer().outputs()
    }

    /// The head that converts this network's outputs for `task`.
    pub fn head(&self, task: Task) -> Head {
        let last = self.layers[self.layers.len() - 1].layer.layer();
        Head::new(task, last.outputs(), last.activation())
    }

    /// Bytes of weights held, in all layouts packed so far.
    pub fn nbytes(&self) -> usize {
        self.layers.iter().map(PackedForms::bytes).sum()
    }

    /// Runs the network on `rows` and writes the raw outputs of the last layer to `out`, row by
    /// row: `(rows, output_size)`.
    ///
    /// `threads` is the largest number of threads to use; `None` stands for
    /// [`crate::pool::num_threads`]. The result does not depend on it.
    ///
    /// # Errors
    /// Rows of another width than [`Network::input_size`], an `out` of another length than rows
    /// times [`Network::output_size`], 0 threads, or [`Error::Interrupted`].
    pub fn forward(&self, rows: Rows<'_>, out: &mut [f32], threads: Option<usize>) -> Result<()> {
        self.check_width(rows)?;
        let outputs = self.output_size();
        if Some(out.len()) != rows.rows.checked_mul(outputs) {
            return Err(Error::Shape {
                subject: Subject::Output,
                expected: Extent::Matrix(rows.rows, outputs),
                got: Extent::Values(out.len()),
            });
        }
        if threads == Some(0) {
            return Err(Error::Threads { variable: None, got: "0".to_owned() });
        }
        exec::run(self.program_for(rows.rows), rows, out, threads)
    }

    /// As [`Network::forward`] for one row, if that takes a few microseconds: the network has at most
    /// 512 KiB of weights, and the row is not recomputed. Returns whether `out` has the result. If not,
    /// its contents are unspecified, and the call needs [`Network::forward`].
    ///
    /// It runs on this thread, takes no lock, and does not call the check of
    /// [`interrupt::with_check`](crate::interrupt::with_check).
    pub fn forward_short(&self, row: Rows<'_>, out: &mut [f32]) -> bool {
        row.columns == self.input_size()
            && out.len() == self.output_size()
            && exec::run_short(self.program_for(1), row, out)
    }

    pub(crate) fn check_width(&self, rows: Rows<'_>) -> Result<()> {
        let width = self.input_size();
        if rows.columns == width {
            return Ok(());
        }
        Err(Error::Shape {
            subject: Subject::Rows,
            expected: Extent::RowsOf(width),
            got: Extent::Matrix(rows.rows, rows.columns),
        })
    }
}

/// Makes layer `i` of a plan int8 at the batch sizes where this is wanted and the layer can run its
/// strategy in int8, and f32 at the others.
fn set_precision(
    plan: &mut Plan,
    i: usize,
    layer: &PackedForms,
    wanted: impl Fn(&LayerPlan) -> bool,
) {
    plan.change_layer(i, |plan| {
        let int8 = LayerPlan { precision: Precision::Int8, ..*plan };
        let possible = wanted(plan) && layer.can(int8);
        plan.precision = if possible { Precision::Int8 } else { Precision::F32 };
    });
}
