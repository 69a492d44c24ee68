//! Quantisation of a layer's inputs.

use super::check::check_finite;
use super::layer::Layer;
use crate::error::{Error, Extent, Index, Result, Subject};

/// Quantisation of a layer's inputs to bytes: `x / scale + offset`, rounded to nearest and clamped
/// to 0 to 255. A byte q represents `(q - offset) scale`; if the offset is 0, byte 0 represents 0.
///
/// For a network's first layer x is the raw input, before the network's
/// [`InputMap`](crate::InputMap).
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    scale: Vec<f32>,
    offset: Vec<f32>,
}

impl Quantization {
    /// One scale for all inputs or one per input; one offset for all or, for a network's first
    /// layer and for sums of factors, one per input. Checked by
    /// [`Network::with_quantization`](crate::Network::with_quantization).
    pub fn new(scale: Vec<f32>, offset: Vec<f32>) -> Quantization {
        Quantization { scale, offset }
    }
    /// `scale[i]`, or the single scale of all inputs.
    pub fn scale(&self, i: usize) -> f32 {
        if self.scale.len() == 1 { self.scale[0] } else { self.scale[i] }
    }
    /// `offset[i]`, or the single offset of all inputs.
    pub fn offset(&self, i: usize) -> f32 {
        if self.offset.len() == 1 { self.offset[0] } else { self.offset[i] }
    }
    /// One scale, or one per input.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scale
    }
    /// One offset, or one per input.
    pub(crate) fn offsets(&self) -> &[f32] {
        &self.offset
    }

    /// Whether uint8 rows are their own quantisation.
    pub(crate) fn is_identity(&self) -> bool {
        self.scale == [1.0] && self.offset == [0.0]
    }

    pub(crate) fn check(&self, layer: usize, of: &Layer) -> Result<()> {
        let inputs = of.inputs();
        if inputs > MOST_INT8_INPUTS {
            return Err(Error::Range {
                subject: Subject::Inputs(layer),
                expected: format!("at most {MOST_INT8_INPUTS} in int8"),
                got: inputs.to_string(),
            });
        }
        let subjects = (Subject::QuantizationScale(layer), Subject::QuantizationOffset(layer));
        // A kernel adds one offset to all outputs of a layer.
        self.check_values(subjects, inputs, layer == 0)
    }

    /// Checks the values and their number for this many inputs. `each` says whether there may be an
    /// offset for each of them.
    pub(super) fn check_values(
        &self,
        (scale, offset): (Subject, Subject),
        inputs: usize,
        each: bool,
    ) -> Result<()> {
        for (subject, values, each) in [(scale, &self.scale, true), (offset, &self.offset, each)] {
            if values.len() != 1 && !(each && values.len() == inputs) {
                let expected = if each { Extent::OneOrList(inputs) } else { Extent::One };
                return Err(Error::Shape { subject, expected, got: Extent::List(values.len()) });
            }
            check_finite(values, subject, Index::Entry)?;
        }
        match self.scale.iter().find(|scale| !(**scale > 0.0 && (1.0 / **scale).is_finite())) {
            None => Ok(()),
            Some(bad) => Err(Error::Range {
                subject: scale,
                expected: "above 0".to_owned(),
                got: bad.to_string(),
            }),
        }
    }
}

/// The sum of this many products of 255 and 127 fits an i32.
const MOST_INT8_INPUTS: usize = 65_536;
