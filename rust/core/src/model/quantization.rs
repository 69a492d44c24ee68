//! How a layer's inputs become bytes.

use super::check::check_finite;
use super::layer::Layer;
use crate::error::{Error, Result};

/// How a layer's inputs become bytes: `x / scale + offset`, rounded to nearest and brought within 0
/// to 255. So a byte q stands for `(q - offset) scale`; 0 stands for 0 where the offset is 0.
///
/// For a network's first layer x is the raw input, before the network's [`InputMap`].
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    scale: Vec<f32>,
    offset: Vec<f32>,
}

impl Quantization {
    /// One scale for all inputs or one each; one offset for all or, for a network's first layer, one each.
    /// Checked by [`Network::with_quantization`].
    pub fn new(scale: Vec<f32>, offset: Vec<f32>) -> Quantization {
        Quantization { scale, offset }
    }
    /// `scale[i]`, or the one scale of all inputs.
    pub fn scale(&self, i: usize) -> f32 {
        if self.scale.len() == 1 { self.scale[0] } else { self.scale[i] }
    }
    /// `offset[i]`, or the one offset of all inputs.
    pub fn offset(&self, i: usize) -> f32 {
        if self.offset.len() == 1 { self.offset[0] } else { self.offset[i] }
    }
    /// One scale, or one for each input.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scale
    }
    /// One offset, or one for each input.
    pub(crate) fn offsets(&self) -> &[f32] {
        &self.offset
    }

    /// Whether bytes of uint8 rows are the rows themselves.
    pub(crate) fn is_identity(&self) -> bool {
        self.scale == [1.0] && self.offset == [0.0]
    }

    pub(crate) fn check(&self, index: usize, layer: &Layer) -> Result<()> {
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
