//! Activations: the functions that layers apply to their sums.
//!
//! A new activation is a variant, an entry in [`Activation::parts`] and [`Activation::by_name`],
//! and a formula in `kernels/activation.rs`.

use std::sync::Arc;

use crate::error::{Error, Extent, Result, Subject};

/// The function that a layer applies to `x W^T + b`.
#[derive(Clone, Debug, PartialEq)]
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
    /// max(0, z) squared.
    SquaredRelu,
    /// z where z > 0, else slope z.
    LeakyRelu {
        /// Factor of negative values.
        slope: f32,
    },
    /// z where z > 0, else slope z, with a slope for each unit or one for all.
    Prelu {
        /// Factors of negative values: one, or as many as the layer has units.
        slope: Arc<[f32]>,
    },
    /// min(max(lower, z), upper).
    HardTanh {
        /// The smallest output.
        lower: f32,
        /// The largest output, above `lower`.
        upper: f32,
    },
    /// min(max(0, z / 6 + 1 / 2), 1).
    HardSigmoid,
    /// z times its hard sigmoid.
    HardSwish,
    /// tanh z.
    Tanh,
    /// 1 / (1 + exp(-z)).
    Sigmoid,
    /// z times the normal distribution function of z (the exact form, with erf).
    Gelu,
    /// z / 2 times 1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3)), an approximation of gelu.
    GeluTanh,
    /// z times its sigmoid.
    Silu,
    /// z times the tanh of its softplus.
    Mish,
    /// log(1 + exp(z)).
    Softplus,
    /// exp(z).
    Exp,
    /// z where z > 0, else alpha (exp(z) - 1).
    Elu {
        /// Minus the limit of the outputs.
        alpha: f32,
    },
    /// 1.0507 z where z > 0, else 1.7581 (exp(z) - 1).
    Selu,
    /// exp(z) divided by the sum of exp(z) over the row.
    Softmax,
    /// The logarithm of the softmax.
    LogSoftmax,
}

/// The values that a parameter may have.
#[derive(Clone, Copy)]
enum Allowed {
    Finite,
    /// Finite and above a limit.
    Above(f32),
}

/// A parameter: its name and values, which are several only if each unit has its own.
type Parameter<'a> = (&'static str, &'a [f32], Allowed);

/// The properties of an activation that do not depend on its formula.
struct Parts<'a> {
    name: &'static str,
    has_hard_zero: bool,
    parameters: Vec<Parameter<'a>>,
}

impl Activation {
    fn parts(&self) -> Parts<'_> {
        use Allowed::{Above, Finite};
        use std::slice::from_ref;
        let (name, parameters) = match self {
            Activation::Identity => ("identity", vec![]),
            Activation::Relu => ("relu", vec![]),
            Activation::ClippedRelu { upper } => {
                ("clipped_relu", vec![("upper", from_ref(upper), Above(0.0))])
            }
            Activation::ThresholdedRelu { threshold } => {
                ("thresholded_relu", vec![("threshold", from_ref(threshold), Finite)])
            }
            Activation::SquaredRelu => ("squared_relu", vec![]),
            Activation::LeakyRelu { slope } => {
                ("leaky_relu", vec![("slope", from_ref(slope), Finite)])
            }
            Activation::Prelu { slope } => ("prelu", vec![("slope", &slope[..], Finite)]),
            Activation::HardTanh { lower, upper } => {
                let lowest = ("lower", from_ref(lower), Finite);
                ("hard_tanh", vec![lowest, ("upper", from_ref(upper), Above(*lower))])
            }
            Activation::HardSigmoid => ("hard_sigmoid", vec![]),
            Activation::HardSwish => ("hard_swish", vec![]),
            Activation::Tanh => ("tanh", vec![]),
            Activation::Sigmoid => ("sigmoid", vec![]),
            Activation::Gelu => ("gelu", vec![]),
            Activation::GeluTanh => ("gelu_tanh", vec![]),
            Activation::Silu => ("silu", vec![]),
            Activation::Mish => ("mish", vec![]),
            Activation::Softplus => ("softplus", vec![]),
            Activation::Exp => ("exp", vec![]),
            Activation::Elu { alpha } => ("elu", vec![("alpha", from_ref(alpha), Finite)]),
            Activation::Selu => ("selu", vec![]),
            Activation::Softmax => ("softmax", vec![]),
            Activation::LogSoftmax => ("log_softmax", vec![]),
        };
        let has_hard_zero = matches!(
            self,
            Activation::Relu
                | Activation::ClippedRelu { .. }
                | Activation::ThresholdedRelu { .. }
                | Activation::SquaredRelu
        );
        Parts { name, has_hard_zero, parameters }
    }

    /// The activation with this name and the values of its parameters, in order.
    pub fn by_name(name: &str, parameters: &[&[f32]]) -> Option<Activation> {
        Some(match (name, parameters) {
            ("identity", []) => Activation::Identity,
            ("relu", []) => Activation::Relu,
            ("clipped_relu", [[upper]]) => Activation::ClippedRelu { upper: *upper },
            ("thresholded_relu", [[threshold]]) => {
                Activation::ThresholdedRelu { threshold: *threshold }
            }
            ("squared_relu", []) => Activation::SquaredRelu,
            ("leaky_relu", [[slope]]) => Activation::LeakyRelu { slope: *slope },
            ("prelu", [slope]) => Activation::Prelu { slope: (*slope).into() },
            ("hard_tanh", [[lower], [upper]]) => {
                Activation::HardTanh { lower: *lower, upper: *upper }
            }
            ("hard_sigmoid", []) => Activation::HardSigmoid,
            ("hard_swish", []) => Activation::HardSwish,
            ("tanh", []) => Activation::Tanh,
            ("sigmoid", []) => Activation::Sigmoid,
            ("gelu", []) => Activation::Gelu,
            ("gelu_tanh", []) => Activation::GeluTanh,
            ("silu", []) => Activation::Silu,
            ("mish", []) => Activation::Mish,
            ("softplus", []) => Activation::Softplus,
            ("exp", []) => Activation::Exp,
            ("elu", [[alpha]]) => Activation::Elu { alpha: *alpha },
            ("selu", []) => Activation::Selu,
            ("softmax", []) => Activation::Softmax,
            ("log_softmax", []) => Activation::LogSoftmax,
            _ => return None,
        })
    }

    /// Whether negative pre-activations become exact zeros, which a gate relies on.
    pub fn has_hard_zero(&self) -> bool {
        self.parts().has_hard_zero
    }

    /// Name in files and messages.
    pub fn name(&self) -> &'static str {
        self.parts().name
    }

    /// The activation of some of a layer's units, in the order given.
    pub(super) fn of_units(self, units: &[u32]) -> Activation {
        match self {
            Activation::Prelu { slope } if slope.len() != 1 => {
                Activation::Prelu { slope: units.iter().map(|u| slope[*u as usize]).collect() }
            }
            other => other,
        }
    }

    /// Checks that a parameter has one value, or one for each of the layer's `units`.
    pub(super) fn check_units(&self, units: usize, subject: Subject) -> Result<()> {
        let Activation::Prelu { slope } = self else { return Ok(()) };
        if slope.len() == 1 || slope.len() == units {
            return Ok(());
        }
        let (expected, got) = (Extent::Values(units), Extent::Values(slope.len()));
        Err(Error::Shape { subject, expected, got })
    }

    /// Checks the values of the parameters.
    pub(super) fn check(&self, layer: usize) -> Result<()> {
        let Parts { name: activation, parameters, .. } = self.parts();
        for (parameter, values, allowed) in parameters {
            let least = if let Allowed::Above(least) = allowed { least } else { f32::NEG_INFINITY };
            let Some(bad) = values.iter().find(|v| !v.is_finite() || **v <= least) else {
                continue;
            };
            let expected = match allowed {
                Allowed::Finite => "finite".to_owned(),
                Allowed::Above(least) => format!("finite and above {least}"),
            };
            return Err(Error::Range {
                subject: Subject::Activation { layer, activation, parameter },
                expected,
                got: bad.to_string(),
            });
        }
        Ok(())
    }
}
