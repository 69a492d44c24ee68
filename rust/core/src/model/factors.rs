//! Factors: a layer as the product of two narrow ones.

use super::activation::Activation;
use super::check::check_finite;
use super::layer::Layer;
use super::quantization::Quantization;
use crate::error::{Error, Extent, Index, Result, Subject};
use crate::memory;

/// A low-rank form of a layer: `activation(x u v + bias)` stands for `activation(x weight^T +
/// bias)`.
#[derive(Clone, Debug)]
pub struct Factors {
    u: Vec<f32>,
    v: Vec<f32>,
    bias: Vec<f32>,
    rank: usize,
    pub(crate) quantization: Option<Quantization>,
    pub(crate) gate: Option<NestedGate>,
}

/// A gate whose low-rank sums are the first `rank` of the sums `h = x u` of a layer's factors: a
/// unit is computed if `h[..rank] v + bias > 0`.
#[derive(Clone, Debug)]
pub struct NestedGate {
    pub(crate) v: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) rank: usize,
}

impl NestedGate {
    /// A gate from `v` (rank, outputs), row by row, and `bias` (outputs,), which has the
    /// thresholds. Checked by [`Network::with_factors`](crate::Network::with_factors).
    pub fn new(v: Vec<f32>, bias: Vec<f32>, rank: usize) -> NestedGate {
        NestedGate { v, bias, rank }
    }
}

impl Factors {
    /// Factors from `u` (inputs, rank), `v` (rank, outputs) and `bias` (outputs,), the matrices row
    /// by row. Checked by [`Network::with_factors`](crate::Network::with_factors).
    pub fn new(u: Vec<f32>, v: Vec<f32>, bias: Vec<f32>, rank: usize) -> Factors {
        Factors { u, v, bias, rank, quantization: None, gate: None }
    }

    /// The factors with a quantisation of the sums `x u`, which they need to run in int8: one scale
    /// and offset for all sums, or one per sum.
    #[must_use]
    pub fn with_quantization(self, quantization: Quantization) -> Factors {
        Factors { quantization: Some(quantization), ..self }
    }

    /// The factors with a gate.
    #[must_use]
    pub fn with_gate(self, gate: NestedGate) -> Factors {
        Factors { gate: Some(gate), ..self }
    }

    /// The two layers whose composition stands for `of`.
    pub(crate) fn layers(&self, of: &Layer) -> [Layer; 2] {
        let (inputs, outputs, rank) = (of.inputs(), of.outputs(), self.rank);
        let first = Layer::new(
            transposed(&self.u, inputs, rank),
            memory::filled(0.0, rank),
            inputs,
            Activation::Identity,
        );
        let (v, bias) = (transposed(&self.v, rank, outputs), self.bias.clone());
        [first, Layer::new(v, bias, rank, of.activation().clone())]
    }

    pub(crate) fn check(&self, layer: usize, of: &Layer, last: bool) -> Result<()> {
        let (inputs, outputs, rank) = (of.inputs(), of.outputs(), self.rank);
        let max = inputs.min(outputs);
        if rank == 0 || rank > max {
            return Err(Error::Rank { layer, part: "factors", max, got: rank });
        }
        let subject = |part| Subject::Factors { layer, part };
        check_matrix(&self.u, inputs, rank, subject("u"))?;
        check_matrix(&self.v, rank, outputs, subject("v"))?;
        check_list(&self.bias, outputs, subject("bias"))?;
        if let Some(gate) = &self.gate {
            if last || !of.activation().has_hard_zero() {
                let got = if last { "the last layer" } else { of.activation().name() };
                return Err(Error::GateNotAllowed { layer, got });
            }
            if gate.rank == 0 || gate.rank > rank {
                let (part, got) = ("nested gate", gate.rank);
                return Err(Error::Rank { layer, part, max: rank, got });
            }
            check_matrix(&gate.v, gate.rank, outputs, subject("gate.v"))?;
            check_list(&gate.bias, outputs, subject("gate.bias"))?;
        }
        match &self.quantization {
            None => Ok(()),
            Some(quantization) => {
                let (scale, offset) =
                    (subject("quantization.scale"), subject("quantization.offset"));
                quantization.check_values((scale, offset), rank, true)
            }
        }
    }
}

fn check_matrix(values: &[f32], rows: usize, columns: usize, subject: Subject) -> Result<()> {
    if Some(values.len()) != rows.checked_mul(columns) {
        let (expected, got) = (Extent::Matrix(rows, columns), Extent::Values(values.len()));
        return Err(Error::Shape { subject, expected, got });
    }
    check_finite(values, subject, |i| Index::Cell(i / columns, i % columns))
}

fn check_list(values: &[f32], len: usize, subject: Subject) -> Result<()> {
    if values.len() != len {
        let (expected, got) = (Extent::List(len), Extent::List(values.len()));
        return Err(Error::Shape { subject, expected, got });
    }
    check_finite(values, subject, Index::Entry)
}

/// The transpose of a matrix `(rows, columns)`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut all = memory::with_capacity(rows * columns);
    for column in 0..columns {
        all.extend((0..rows).map(|row| values[row * columns + column]));
    }
    all
}
