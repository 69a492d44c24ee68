//! The factor strategy: the product of a layer's factors stands for its weights.
//!
//! ```text
//! h = x u                         # a layer without activation, dense or skip
//! y = activation(h v + b)         # a layer, dense or with a nested gate
//! ```
//!
//! Both are layers of their own with paths of their own, so a program has two entries for such a
//! layer. The sums of a nested gate are the first entries of h, which nothing has to compute.

use std::sync::Arc;

use super::gate::{Choice, Estimate, Scores};
use super::packed::{PackedLayer, largest_of_rows};
use super::quantized::QuantizedLayer;
use super::scratch::GateScratch;
use crate::error::{Error, Result, Subject};
use crate::layout::padded;
use crate::model::{Factors, NestedGate, Quantization};
use crate::signal::{Signal, byte_stride};
use crate::simd::Isa;

/// The factors of a layer as two packed layers.
pub(crate) struct PackedFactors {
    /// The quantisation of h.
    quantization: Option<Quantization>,
    pub(super) first: Arc<PackedLayer>,
    pub(super) second: Arc<PackedLayer>,
    pub(super) gate: Option<Arc<PackedNestedGate>>,
}

impl PackedFactors {
    /// Packs checked factors of a layer, whose input map is folded into the first of them.
    pub(crate) fn new(
        index: usize,
        factors: Factors,
        layer: &PackedLayer,
        isa: Isa,
    ) -> Result<PackedFactors> {
        let [first, second] = factors.layers(&layer.layer);
        let packed = |layer, map, fold| {
            let largest = largest_of_rows(index, &layer, isa)?;
            Ok(Arc::new(PackedLayer::new(index, layer, &largest, map, fold)?))
        };
        let first = packed(first, layer.input_map.clone(), layer.map.is_some());
        let (first, second) = (first.map_err(of_factors)?, packed(second, None, false)?);
        let Factors { quantization, gate, .. } = factors;
        let gate = gate.map(|gate| Arc::new(PackedNestedGate::new(gate)));
        Ok(PackedFactors { quantization, first, second, gate })
    }

    /// Bytes of the weights in all layouts packed so far.
    pub(super) fn bytes(&self) -> usize {
        let gate = self.gate.as_deref().map_or(0, PackedNestedGate::bytes);
        self.first.bytes() + self.second.bytes() + gate
    }
}

/// The int8 form of factors.
pub(crate) struct QuantizedFactors {
    pub(super) first: Arc<QuantizedLayer>,
    pub(super) second: Arc<QuantizedLayer>,
    pub(super) gate: Option<Arc<QuantizedNestedGate>>,
}

impl QuantizedFactors {
    /// Quantises factors of a layer whose inputs have a checked quantisation; `None` for factors
    /// without a quantisation of their sums.
    pub(super) fn new(
        index: usize,
        packed: &PackedFactors,
        input: &Quantization,
        isa: Isa,
    ) -> Result<Option<QuantizedFactors>> {
        let Some(sums) = &packed.quantization else { return Ok(None) };
        let mut first =
            QuantizedLayer::new(index, &packed.first, input, isa).map_err(of_factors)?;
        let second = QuantizedLayer::new(index, &packed.second, sums, isa).map_err(of_sums)?;
        // Outputs become bytes with the offset of the first of them, so the others are shifted.
        let shift = |k| (sums.offset(k) - sums.offset(0)) * sums.scale(k);
        if let Some(value) = first.shift(shift) {
            let subject = Subject::Factors { layer: index, part: "quantization.offset" };
            return Err(Error::Overflow { subject, layer: index, part: "factors", value });
        }
        let gate = packed.gate.as_deref();
        let gate = gate.map(|gate| Arc::new(QuantizedNestedGate::new(gate, sums)));
        Ok(Some(QuantizedFactors { first: Arc::new(first), second: Arc::new(second), gate }))
    }

    pub(super) fn bytes(&self) -> usize {
        let gate = self.gate.as_deref().map_or(0, |gate| gate.scores.bytes());
        self.first.bytes() + self.second.bytes() + gate
    }
}

/// An error of the first factor in the terms of the whole layer.
fn of_factors(error: Error) -> Error {
    match error {
        Error::Overflow { subject, layer, value, .. } => {
            Error::Overflow { subject, layer, part: "factors", value }
        }
        other => other,
    }
}

/// An error of the second factor in the terms of the whole layer.
fn of_sums(error: Error) -> Error {
    match of_factors(error) {
        Error::Overflow { subject, layer, part, value } => {
            let scale = matches!(subject, Subject::QuantizationScale(_));
            let name = if scale { "quantization.scale" } else { "quantization.offset" };
            Error::Overflow { subject: Subject::Factors { layer, part: name }, layer, part, value }
        }
        other => other,
    }
}

/// A nested gate in f32.
pub(crate) struct PackedNestedGate {
    gate: NestedGate,
    choice: Choice,
}

impl PackedNestedGate {
    fn new(gate: NestedGate) -> PackedNestedGate {
        let choice = Choice::new(&gate.v, &gate.bias, gate.rank);
        PackedNestedGate { gate, choice }
    }

    fn bytes(&self) -> usize {
        (self.gate.v.len() + self.gate.bias.len()) * 4 + self.choice.bytes()
    }
}

impl Estimate<PackedLayer> for PackedNestedGate {
    const NESTED: bool = true;

    fn pack(&self, _isa: Isa, _lists: bool, _in_pairs: bool) {}
    fn rank(&self) -> usize {
        self.gate.rank
    }
    fn scored(&self) -> usize {
        self.choice.scored
    }
    fn scores_bytes(&self) -> bool {
        false
    }

    fn estimate(&self, _isa: Isa, input: Signal<'_>, scratch: &mut GateScratch) {
        let Signal::Floats(parts) = input else { unreachable!("an f32 gate reads f32") };
        let Some(rows) = parts.rows() else { unreachable!("a nested gate reads rows") };
        let (rank, stride) = (self.rank(), padded(self.rank()));
        for (r, sums) in scratch.low_rank.chunks_exact_mut(stride).take(rows.rows()).enumerate() {
            sums[..rank].copy_from_slice(&rows.row(r)[..rank]);
        }
    }

    fn choose(&self, isa: Isa, rows: usize, scratch: &mut GateScratch) {
        self.choice.choose(isa, rows, scratch);
    }
}

/// A nested gate in int8: the bytes of h are those of the gate's sums.
pub(crate) struct QuantizedNestedGate {
    scores: Scores,
}

impl QuantizedNestedGate {
    fn new(packed: &PackedNestedGate, sums: &Quantization) -> QuantizedNestedGate {
        let (gate, scored) = (&packed.gate, packed.choice.scored);
        let byte = |k| {
            let (scale, offset) = (f64::from(sums.scale(k)), f64::from(sums.offset(k)));
            (-offset * scale, scale)
        };
        let bytes = (0..gate.rank).map(byte).collect();
        QuantizedNestedGate { scores: Scores::new(&gate.v, &gate.bias, scored, bytes) }
    }
}

impl Estimate<QuantizedLayer> for QuantizedNestedGate {
    const NESTED: bool = true;

    fn pack(&self, _isa: Isa, _lists: bool, _in_pairs: bool) {}
    fn rank(&self) -> usize {
        self.scores.rank()
    }
    fn scored(&self) -> usize {
        self.scores.scored
    }
    fn scores_bytes(&self) -> bool {
        true
    }

    fn estimate(&self, _isa: Isa, input: Signal<'_>, scratch: &mut GateScratch) {
        let Signal::Bytes(parts) = input else { unreachable!("an int8 gate reads bytes") };
        let Some(rows) = parts.rows() else { unreachable!("a nested gate reads rows") };
        let (words, stride) = (self.rank().div_ceil(4), byte_stride(self.rank()));
        let all = scratch.low_rank_bytes.chunks_exact_mut(stride);
        for (r, sums) in all.take(rows.rows()).enumerate() {
            sums[..words].copy_from_slice(&rows.row(r)[..words]);
        }
    }

    fn choose(&self, isa: Isa, rows: usize, scratch: &mut GateScratch) {
        self.scores.choose(isa, rows, scratch);
    }
}
