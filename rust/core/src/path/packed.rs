//! A layer with its packed f32 weights.

use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result, Subject};
use crate::kernels::epilogue::Output;
use crate::kernels::largest::LargestOfRows;
use crate::layout::{Panels, UnitRows, padded};
use crate::memory::{Aligned, packed, zeros};
use crate::model::{InputMap, Layer};
use crate::simd::Isa;

/// The largest magnitude of the weights in each row of a layer's matrix. Returns an error if a
/// weight is not finite. Both are found in one pass, because large weights are read from memory.
pub(crate) fn largest_of_rows(index: usize, layer: &Layer, isa: Isa) -> Result<Vec<f32>> {
    let (matrix, width, columns) = (layer.matrix(), layer.width(), layer.columns());
    let (largest, finite) = isa.run_floats(LargestOfRows { matrix, width, columns });
    if !finite {
        layer.check_weights(index)?;
    }
    Ok(largest)
}

/// A layer with its weights packed in f32 for the strategies in use.
pub(crate) struct PackedLayer {
    pub(super) layer: Layer,
    /// The map that is folded into the packed weights and bias. Only the first layer of a network
    /// has one.
    pub(super) map: Option<Arc<InputMap>>,
    /// The input map, folded or not. Byte weights always fold it.
    pub(super) input_map: Option<Arc<InputMap>>,
    /// Zero-padded to whole vectors, with the folded map's shift in it.
    bias: Aligned<f32>,
    /// The largest magnitude of each unit's weights.
    pub(super) largest: Vec<f32>,
    panels: OnceLock<Panels>,
    unit_rows: OnceLock<UnitRows>,
}

impl PackedLayer {
    /// Folds the map if `fold`, and refuses a map that makes weights or biases overflow. `largest`
    /// has the largest magnitude of each row of the matrix.
    pub(crate) fn new(
        index: usize,
        layer: Layer,
        largest: &[f32],
        input_map: Option<Arc<InputMap>>,
        fold: bool,
    ) -> Result<Self> {
        let map = input_map.clone().filter(|_| fold);
        let overflow =
            |subject, value| Error::Overflow { subject, layer: index, part: "weight", value };
        let mut bias = zeros(padded(layer.outputs()));
        bias[..layer.outputs()].copy_from_slice(&layer.bias);
        let units = 0..layer.outputs();
        let largest: Vec<_> = units.map(|unit| largest[layer.row_number(unit)]).collect();
        if let Some(map) = &map {
            let shifts: Vec<f64> = (0..layer.inputs).map(|i| map.shift(i).into()).collect();
            let shifted = shifts.iter().any(|shift| *shift != 0.0);
            let scales: Vec<f32> = (0..layer.inputs).map(|i| map.scale(i)).collect();
            let steepest = scales.iter().fold(0.0, |most: f32, scale| most.max(scale.abs()));
            let mut scratch = Vec::new();
            for (o, largest) in largest.iter().enumerate() {
                let row = layer.weights_of(o, &mut scratch);
                if !(largest * steepest).is_finite() {
                    let mut folded = row.iter().zip(&scales).map(|(w, scale)| w * scale);
                    if let Some(bad) = folded.find(|weight| !weight.is_finite()) {
                        return Err(overflow(Subject::InputScale, bad));
                    }
                }
                if shifted {
                    let terms = row.iter().zip(&shifts).map(|(w, shift)| f64::from(*w) * shift);
                    bias[o] = terms.fold(f64::from(layer.bias[o]), |sum, term| sum + term) as f32;
                }
                if !bias[o].is_finite() {
                    return Err(overflow(Subject::InputShift, bias[o]));
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

    /// The weights for dense rows.
    pub(crate) fn panels(&self) -> &Panels {
        packed(&self.panels, || {
            let (layer, scales) = (&self.layer, self.scales_of_columns());
            let (matrix, width) = (layer.matrix(), layer.width());
            let scale = |i: usize| scales.as_ref().map_or(1.0, |scales| scales[i]);
            let weight = |i, o| matrix[layer.row_number(o) * width + i] * scale(i);
            match layer.columns() {
                None => Panels::pack(layer.inputs, layer.outputs(), weight),
                Some(selected) => Panels::pack_selected(width, selected, layer.outputs(), weight),
            }
        })
    }

    pub(super) fn unit_rows(&self) -> &UnitRows {
        packed(&self.unit_rows, || {
            let (layer, map) = (&self.layer, self.map.as_deref());
            UnitRows::pack(layer.inputs, layer.inputs, layer.outputs(), |unit, row| {
                layer.select_inputs(layer.whole_row(unit), row);
                if let Some(map) = map {
                    for (i, weight) in row.iter_mut().enumerate() {
                        *weight *= map.scale(i);
                    }
                }
            })
        })
    }

    /// Bytes of the weights in all layouts packed so far.
    pub(crate) fn bytes(&self) -> usize {
        let own = (self.layer.matrix().len() + self.layer.bias.len() + self.bias.len()) * 4;
        let panels = self.panels.get().map_or(0, Panels::bytes);
        own + panels + self.unit_rows.get().map_or(0, UnitRows::bytes)
    }

    /// An output with this layer's bias. The caller sets the buffers.
    pub(crate) fn output(&self) -> Output<'_> {
        let (bias, scale, activation) = (&*self.bias, &[][..], self.layer.activation.fused());
        Output { scale, bias, activation, dense: None, lists: None, bytes: None }
    }
}
