//! A network: its layers with their packed forms, and its plan.
//!
//! Everything is checked here, once, so that the engine need not. A [`Network`] never changes: the
//! methods that change something return a new one that shares the weights.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Gate, InputMap, Layer, Quantization};
use crate::path::{self, PackedGate, PackedLayer, Parts, QuantizedGate, QuantizedLayer};
use crate::plan::{ClassPlan, Plan, Precision, Strategy};
use crate::simd::Isa;

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
            layer.check_widths(i)?;
            largest.push(path::largest_of_rows(i, layer, isa)?);
            layer.check_values(i)?;
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
        self.check_plan(&plan)?;
        let network = Network { plan: Arc::new(plan), ..self.clone() };
        network.pack();
        Ok(network)
    }

    /// Whether the plan fits the layers and what they have.
    fn check_plan(&self, plan: &Plan) -> Result<()> {
        for class in plan.classes() {
            if class.layers.len() != self.layers.len() {
                return Err(Error::Shape {
                    name: "strategies".to_owned(),
                    expected: format!("({},)", self.layers.len()),
                    got: format!("({},)", class.layers.len()),
                });
            }
            for (i, plan) in class.layers.iter().enumerate() {
                if plan.strategy == Strategy::Gate && self.layers[i].gate.is_none() {
                    return Err(Error::Plan {
                        layer: i,
                        expected: "'dense' or 'skip', since the layer has no gate".to_owned(),
                        got: "'gate'".to_owned(),
                    });
                }
                let layer = &self.layers[i];
                if plan.precision == Precision::Int8 && layer.int8.is_none() {
                    return Err(Error::Plan {
                        layer: i,
                        expected: "'f32', since the layer is not quantised".to_owned(),
                        got: "'int8'".to_owned(),
                    });
                }
                let gated = plan.strategy == Strategy::Gate;
                if gated && plan.precision == Precision::Int8 && layer.int8_gate.is_none() {
                    return Err(Error::Plan {
                        layer: i,
                        expected: "no gate in int8, since the layer's gate has no range".to_owned(),
                        got: "'gate'".to_owned(),
                    });
                }
            }
        }
        Ok(())
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
