//! The margin of a row's label.

use super::activation::Activation;
use crate::error::{Error, Result, Subject};

/// The distance of a row's label from another one, in outputs before a last sigmoid, softmax or
/// log-softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Margin {
    /// The largest output minus the second largest: one class of several.
    TopTwo,
    /// The absolute value of the output nearest to 0: two classes, or a yes or no for each output.
    Boundary,
}

/// Rows with a margin below `least` are recomputed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastMargin {
    margin: Margin,
    least: f32,
}

impl LeastMargin {
    /// Checked by [`Network::with_least_margin`](crate::Network::with_least_margin).
    pub fn new(margin: Margin, least: f32) -> LeastMargin {
        LeastMargin { margin, least }
    }
    /// Which margin.
    pub fn margin(self) -> Margin {
        self.margin
    }
    /// The least margin of a row that is not recomputed.
    pub fn least(self) -> f32 {
        self.least
    }

    /// Checks it for a network with `outputs` outputs and this last activation.
    pub(crate) fn check(self, outputs: usize, last: &Activation) -> Result<()> {
        let of = |expected: &str, got: String| {
            let (subject, expected) = (Subject::LeastMargin, expected.to_owned());
            Err(Error::Range { subject, expected, got })
        };
        if !(self.least >= 0.0 && self.least.is_finite()) {
            return of("finite and at least 0", self.least.to_string());
        }
        if self.margin == Margin::TopTwo && outputs < 2 {
            return of("of a network with 2 outputs or more", format!("{outputs} output"));
        }
        match last {
            Activation::Identity
            | Activation::Sigmoid
            | Activation::Softmax
            | Activation::LogSoftmax => Ok(()),
            other => of(
                "of a network whose last activation is identity, sigmoid, softmax or log_softmax",
                other.name().to_owned(),
            ),
        }
    }
}
