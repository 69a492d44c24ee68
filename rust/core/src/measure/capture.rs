//! Captures the inputs of layers as the engine computes them.

use crate::error::Result;
use crate::exec::{self, Factor, Inputs, LayerProgram, Observer, Program};
use crate::memory;
use crate::model::{InputMap, Layer};
use crate::network::Network;
use crate::path::{LayerPath, Path, Watch};
use crate::rows::Rows;
use crate::signal::{Parts, Signal};

impl Network {
    /// Every layer's input on these rows under the plan for their number: `(rows, inputs)` values
    /// per layer, row by row. The first layer's input is `x scale + shift`.
    ///
    /// # Errors
    /// Rows of another width than the network's.
    pub fn layer_inputs(&self, rows: Rows<'_>) -> Result<Vec<Vec<f32>>> {
        let mut inputs = self.captured(rows, 0)?;
        if let Some(map) = &self.input_map
            && self.map_on_read.is_none()
        {
            for row in inputs[0].chunks_exact_mut(self.input_size()) {
                for (i, x) in row.iter_mut().enumerate() {
                    *x = *x * map.scale(i) + map.shift(i);
                }
            }
        }
        Ok(inputs)
    }

    /// As [`Network::layer_inputs`], without the first layer.
    ///
    /// # Errors
    /// Rows of another width than the network's.
    pub fn hidden_inputs(&self, rows: Rows<'_>) -> Result<Vec<Vec<f32>>> {
        let mut inputs = self.captured(rows, 1)?;
        inputs.remove(0);
        Ok(inputs)
    }

    /// Every layer's input; empty for layers before `first`.
    fn captured(&self, rows: Rows<'_>, first: usize) -> Result<Vec<Vec<f32>>> {
        self.check_width(rows)?;
        let width = |(i, layer): (usize, &Layer)| if i < first { 0 } else { layer.inputs() };
        let inputs = self.layers().enumerate().map(width);
        let inputs =
            inputs.map(|width| memory::with_capacity(rows.rows.saturating_mul(width))).collect();
        let program = self.compiled(rows.rows, Inputs::WithRows)?;
        let mut capture = Capture { network: self, program: &program, first, inputs };
        exec::observe(&program, rows, &mut capture)?;
        Ok(capture.inputs)
    }

    /// For each row, whether a call on these rows recomputes it: because a value of its
    /// input or of a hidden layer is outside the range of an int8 layer of the plan, or because its
    /// margin is below the least one.
    ///
    /// # Errors
    /// Rows of another width than the network's.
    pub fn recomputed(&self, rows: Rows<'_>) -> Result<Vec<bool>> {
        self.check_width(rows)?;
        exec::recomputed(self.program_for(rows.rows), rows)
    }
}

/// Stores every layer's input.
struct Capture<'a> {
    network: &'a Network,
    program: &'a Program,
    /// The first layer whose input is stored.
    first: usize,
    inputs: Vec<Vec<f32>>,
}

impl Watch for Capture<'_> {}

impl Observer for Capture<'_> {
    fn before(&mut self, at: usize, input: Signal<'_>) {
        let LayerProgram { layer, factor, path, .. } = &self.program.layers[at];
        if *layer >= self.first && *factor != Some(Factor::V) {
            self.network.append_dense(&mut self.inputs[*layer], at, path, input);
        }
    }
}

impl Network {
    /// Appends the rows of the input of layer `at` of a program to `out` as dense f32: lists are
    /// expanded if there are no dense rows, and bytes are dequantised.
    pub(super) fn append_dense(
        &self,
        out: &mut Vec<f32>,
        at: usize,
        path: &LayerPath,
        input: Signal<'_>,
    ) {
        for r in 0..input.len() {
            match input {
                Signal::Floats(Parts::Rows(rows) | Parts::Both(rows, _)) => {
                    out.extend_from_slice(rows.row(r));
                }
                Signal::Floats(Parts::Lists(lists)) => {
                    let start = out.len();
                    out.resize(start + lists.columns, 0.0);
                    let (index, value) = lists.row(r);
                    for (i, x) in index.iter().zip(value) {
                        out[start + *i as usize] += x;
                    }
                }
                Signal::Bytes(parts) => {
                    let Some(rows) = parts.rows() else { unreachable!("rows were asked for") };
                    let map = self.map_on_read.as_deref().filter(|_| at == 0);
                    append_bytes(out, path, map, rows.row(r));
                }
            }
        }
    }
}

/// Appends a row of bytes as f32. Bytes represent raw inputs; if the input map is not folded, f32
/// layers read mapped inputs.
fn append_bytes(out: &mut Vec<f32>, path: &LayerPath, map: Option<&InputMap>, row: &[u32]) {
    let Some(int8) = path.quantized() else { return };
    let bytes = row.iter().flat_map(|word| word.to_ne_bytes()).take(path.layer().inputs());
    out.extend(bytes.enumerate().map(|(i, byte)| {
        let x = (f32::from(byte) - int8.input.offset(i)) * int8.input.scale(i);
        map.map_or(x, |map| x * map.scale(i) + map.shift(i))
    }));
}
