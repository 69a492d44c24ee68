//! The map from raw inputs to those of the first layer.

use super::check::check_finite;
use crate::error::{Error, Extent, Index, Result, Subject};

/// The map from raw inputs to the first layer's inputs: `x scale + shift`, with one pair per input.
///
/// It is folded into the first layer's packed weights and bias. It is then free at run time, and
/// raw zeros are skipped even if `shift` is not zero. If a shift exceeds 16 (raw values far from
/// zero relative to their spread, such as years), folding would lose digits to cancellation; then
/// rows are mapped as they are read.
#[derive(Clone, Debug)]
pub struct InputMap {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

impl InputMap {
    /// A map from `scale` and `shift`, each of length 1 or the input width. Checked by
    /// [`Network::new`](crate::Network::new).
    pub fn new(scale: Vec<f32>, shift: Vec<f32>) -> InputMap {
        InputMap { scale, shift }
    }
    /// `scale[i]`, or the single scale of all inputs.
    pub fn scale(&self, i: usize) -> f32 {
        if self.scale.len() == 1 { self.scale[0] } else { self.scale[i] }
    }
    /// `shift[i]`, or the single shift of all inputs.
    pub fn shift(&self, i: usize) -> f32 {
        if self.shift.len() == 1 { self.shift[0] } else { self.shift[i] }
    }

    /// Whether folding keeps the digits. Folded terms exceed the scaled inputs by a factor of up to
    /// about the largest shift.
    pub(crate) fn can_be_folded(&self) -> bool {
        self.shift.iter().all(|shift| shift.abs() <= LARGEST_FOLDED_SHIFT)
    }

    pub(crate) fn check(&self, inputs: usize) -> Result<()> {
        let (scale, shift) = (Subject::InputScale, Subject::InputShift);
        for (subject, values) in [(scale, &self.scale), (shift, &self.shift)] {
            if values.len() != 1 && values.len() != inputs {
                let (expected, got) = (Extent::OneOrList(inputs), Extent::List(values.len()));
                return Err(Error::Shape { subject, expected, got });
            }
            check_finite(values, subject, Index::Entry)?;
        }
        Ok(())
    }
}

/// Folding may lose up to this factor of precision, four bits.
const LARGEST_FOLDED_SHIFT: f32 = 16.0;
