//! Activations: the functions that layers apply to their sums.

use crate::error::{Error, Result, Subject};

/// The function that a layer applies to `x W^T + b`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// z.
    Identity,
    /// max(0, z).
    Relu,
    /// min(max(0, z), upper); `upper` 6 is torch's `ReLU6`.
    ClippedRelu {
        /// The largest output, above 0.
        upper: f32,
    },
    /// z where z > threshold, else 0; torch's `Threshold(threshold, 0)`.
    ThresholdedRelu {
        /// Inputs at or below it give 0.
        threshold: f32,
    },
    /// z where z > 0, else slope z.
    LeakyRelu {
        /// Factor of negative values.
        slope: f32,
    },
    /// tanh z.
    Tanh,
    /// 1 / (1 + exp(-z)).
    Sigmoid,
    /// z times the normal distribution function of z (the exact form, with erf).
    Gelu,
    /// exp(z) divided by the sum of exp(z) over the row.
    Softmax,
}

impl Activation {
    /// Whether negative pre-activations become exact zeros, which a gate relies on.
    pub fn has_hard_zero(self) -> bool {
        matches!(
            self,
            Activation::Relu | Activation::ClippedRelu { .. } | Activation::ThresholdedRelu { .. }
        )
    }

    /// All names.
    pub const NAMES: [&'static str; 9] = [
        "identity",
        "relu",
        "clipped_relu",
        "thresholded_relu",
        "leaky_relu",
        "tanh",
        "sigmoid",
        "gelu",
        "softmax",
    ];

    /// Name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Identity => "identity",
            Activation::Relu => "relu",
            Activation::ClippedRelu { .. } => "clipped_relu",
            Activation::ThresholdedRelu { .. } => "thresholded_relu",
            Activation::LeakyRelu { .. } => "leaky_relu",
            Activation::Tanh => "tanh",
            Activation::Sigmoid => "sigmoid",
            Activation::Gelu => "gelu",
            Activation::Softmax => "softmax",
        }
    }

    /// The activation with this name, and the parameter that it takes, if any.
    pub fn by_name(name: &str, parameter: Option<f32>) -> Option<Activation> {
        Some(match (name, parameter) {
            ("identity", None) => Activation::Identity,
            ("relu", None) => Activation::Relu,
            ("clipped_relu", Some(upper)) => Activation::ClippedRelu { upper },
            ("thresholded_relu", Some(threshold)) => Activation::ThresholdedRelu { threshold },
            ("leaky_relu", Some(slope)) => Activation::LeakyRelu { slope },
            ("tanh", None) => Activation::Tanh,
            ("sigmoid", None) => Activation::Sigmoid,
            ("gelu", None) => Activation::Gelu,
            ("softmax", None) => Activation::Softmax,
            _ => return None,
        })
    }

    pub(crate) fn check(self, layer: usize) -> Result<()> {
        let (parameter, value, good, expected) = match self {
            Activation::ClippedRelu { upper } => {
                ("upper", upper, upper > 0.0 && upper.is_finite(), "finite and above 0")
            }
            Activation::ThresholdedRelu { threshold } => {
                ("threshold", threshold, threshold.is_finite(), "finite")
            }
            Activation::LeakyRelu { slope } => ("slope", slope, slope.is_finite(), "finite"),
            _ => return Ok(()),
        };
        if good {
            return Ok(());
        }
        let activation = self.name();
        Err(Error::Range {
            subject: Subject::Activation { layer, activation, parameter },
            expected: expected.to_owned(),
            got: value.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in Activation::NAMES {
            let found = [None, Some(0.5)].map(|parameter| Activation::by_name(name, parameter));
            let ([Some(activation), None] | [None, Some(activation)]) = found else {
                panic!("{name} must take a parameter or none: {found:?}");
            };
            assert_eq!(activation.name(), name);
        }
        assert_eq!(Activation::by_name("dense", None), None);
    }
}
