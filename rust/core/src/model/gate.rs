//! Gates: low-rank estimates of the units of a layer that are on.

use super::check::check_finite;
use super::layer::Layer;
use crate::error::{Error, Extent, Index, Result, Subject};

/// The sign estimate of one layer (Davis and Arel 2013, arXiv 1312.4461): a unit is computed if `x
/// u v + bias > 0`.
#[derive(Clone, Debug)]
pub struct Gate {
    pub(crate) u: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) rank: usize,
    /// The smallest and the largest of each of the sums `x u` on calibration rows; empty if
    /// unknown.
    pub(crate) range: Vec<[f32; 2]>,
}

impl Gate {
    /// A gate from `u` (inputs, rank), `v` (rank, outputs) and `bias` (outputs,), the matrices row
    /// by row. Thresholds are folded into `bias`. The values are checked by
    /// [`Network::with_gates`](crate::Network::with_gates).
    pub fn new(u: Vec<f32>, v: Vec<f32>, bias: Vec<f32>, rank: usize) -> Gate {
        Gate { u, v, bias, rank, range: Vec::new() }
    }

    /// The gate with the smallest and the largest value of each of the `rank` sums `x u` on
    /// calibration rows. Scores are then computed from these sums quantised to bytes, which is
    /// several times faster and changes a score by about one hundredth of its spread. An int8 layer
    /// needs the range. Sums outside the range are clamped.
    #[must_use]
    pub fn with_range(self, range: Vec<[f32; 2]>) -> Gate {
        Gate { range, ..self }
    }

    /// `(rank,)` pairs of the smallest and the largest of each of the sums `x u`; empty if unknown.
    pub fn range(&self) -> &[[f32; 2]] {
        &self.range
    }

    /// `(inputs, rank)`, row by row.
    pub fn u(&self) -> &[f32] {
        &self.u
    }
    /// `(rank, outputs)`, row by row.
    pub fn v(&self) -> &[f32] {
        &self.v
    }
    /// `(outputs,)`.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }
    /// Inner width of the factors.
    pub fn rank(&self) -> usize {
        self.rank
    }

    pub(crate) fn check(&self, layer: usize, of: &Layer, last: bool) -> Result<()> {
        if last || !of.activation.has_hard_zero() {
            let got = if last { "the last layer" } else { of.activation.name() };
            return Err(Error::GateNotAllowed { layer, got });
        }
        let (inputs, outputs, rank) = (of.inputs(), of.outputs(), self.rank);
        let max = inputs.min(outputs);
        if rank == 0 || rank > max {
            return Err(Error::Rank { layer, part: "gate", max, got: rank });
        }
        let factors = [("u", &self.u, inputs, rank), ("v", &self.v, rank, outputs)];
        for (part, values, rows, columns) in factors {
            let subject = Subject::Gate { layer, part };
            if values.len() != rows * columns {
                let expected = Extent::Matrix(rows, columns);
                return Err(Error::Shape { subject, expected, got: Extent::Values(values.len()) });
            }
            check_finite(values, subject, |i| Index::Cell(i / columns, i % columns))?;
        }
        let subject = Subject::Gate { layer, part: "bias" };
        if self.bias.len() != outputs {
            let (expected, got) = (Extent::List(outputs), Extent::List(self.bias.len()));
            return Err(Error::Shape { subject, expected, got });
        }
        check_finite(&self.bias, subject, Index::Entry)?;
        let subject = Subject::Gate { layer, part: "range" };
        if !self.range.is_empty() && self.range.len() != rank {
            let (expected, got) = (Extent::Matrix(2, rank), Extent::Matrix(2, self.range.len()));
            return Err(Error::Shape { subject, expected, got });
        }
        check_finite(self.range.as_flattened(), subject, |i| Index::Cell(i % 2, i / 2))
    }
}
