//! Fully connected layers. Their weights stay in their owner's memory.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::activation::Activation;
use super::check::check_finite;
use crate::error::{Axis, Error, Extent, Index, Result, Subject};

/// Shared immutable weights, owned by a `Vec<f32>`, a memory map, or another language's array.
pub type Weights = Arc<dyn AsRef<[f32]> + Send + Sync>;

/// A fully connected layer: `activation(x weight^T + bias)`. Cloning does not copy its weights.
#[derive(Clone)]
pub struct Layer {
    /// `(height, width)`. The layer's weight consists of some of its rows and columns.
    matrix: Weights,
    height: usize,
    width: usize,
    rows: Picked,
    columns: Picked,
    pub(crate) bias: Vec<f32>,
    pub(crate) inputs: usize,
    pub(crate) activation: Activation,
}

/// Rows or columns of a matrix, in order. `None` stands for all.
type Picked = Option<Arc<[u32]>>;

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("weight", &self.weight())
            .field("bias", &self.bias)
            .field("inputs", &self.inputs)
            .field("activation", &self.activation)
            .finish_non_exhaustive()
    }
}

impl Layer {
    /// A layer from its weight `(outputs, inputs)`, row by row, and bias `(outputs,)`.
    ///
    /// Lengths and values are checked by [`Network::new`](crate::Network::new).
    pub fn new(weight: Vec<f32>, bias: Vec<f32>, inputs: usize, activation: Activation) -> Layer {
        Layer::from_shared(Arc::new(weight), bias, inputs, activation)
    }

    /// [`Layer::new`] with shared weights, which are not copied.
    pub fn from_shared(
        weight: Weights,
        bias: Vec<f32>,
        inputs: usize,
        activation: Activation,
    ) -> Layer {
        let (height, width, rows, columns) = (bias.len(), inputs, None, None);
        Layer { matrix: weight, height, width, rows, columns, bias, inputs, activation }
    }

    /// The layer with only these units and only these inputs, both in the order given; `None` keeps
    /// all. Weights are not copied here: packing applies the order. Weights that are not picked
    /// must also be finite. Biases and slopes of other units are dropped.
    ///
    /// # Errors
    /// An index that is out of range or appears twice, or weights or slopes of the wrong length.
    pub fn pick(mut self, units: Option<&[u32]>, inputs: Option<&[u32]>) -> Result<Layer> {
        self.check_shape(Subject::OwnWeight)?;
        self.activation.check_units(self.bias.len(), Subject::OwnSlopes)?;
        self.rows = picked(self.rows, units, self.bias.len(), Subject::PickedUnits)?;
        self.columns = picked(self.columns, inputs, self.inputs, Subject::PickedInputs)?;
        if let Some(units) = units {
            self.bias = units.iter().map(|unit| self.bias[*unit as usize]).collect();
            self.activation = self.activation.of_units(units);
        }
        self.inputs = inputs.map_or(self.inputs, <[u32]>::len);
        Ok(self)
    }

    /// Width of a row going in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
    /// Number of units.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }
    /// `(outputs, inputs)`, row by row. A copy if units or inputs are picked.
    pub fn weight(&self) -> Cow<'_, [f32]> {
        if self.rows.is_none() && self.columns.is_none() {
            return self.matrix().into();
        }
        let mut scratch = Vec::new();
        let units = 0..self.outputs();
        units.flat_map(|unit| self.weights_of(unit, &mut scratch).to_vec()).collect()
    }
    /// The whole matrix.
    pub(crate) fn matrix(&self) -> &[f32] {
        (*self.matrix).as_ref()
    }
    /// Width of a row of the matrix.
    pub(crate) fn width(&self) -> usize {
        self.width
    }
    /// The row of the matrix that belongs to a unit.
    pub(crate) fn row_number(&self, unit: usize) -> usize {
        self.rows.as_deref().map_or(unit, |rows| rows[unit] as usize)
    }
    /// A unit's whole row of the matrix.
    pub(crate) fn whole_row(&self, unit: usize) -> &[f32] {
        &self.matrix()[self.row_number(unit) * self.width..][..self.width]
    }
    /// The columns of the matrix that the inputs use; `None` if they are all columns in order.
    pub(crate) fn columns(&self) -> Option<&[u32]> {
        self.columns.as_deref()
    }
    /// A unit's weights, gathered in `scratch` if they are not contiguous.
    pub(crate) fn weights_of<'a>(&'a self, unit: usize, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        let row = self.whole_row(unit);
        if self.columns.is_none() {
            return row;
        }
        scratch.resize(self.inputs, 0.0);
        self.select_inputs(row, scratch);
        scratch
    }
    /// Copies the entries of `row`, one per column of the matrix, that belong to the inputs, in the
    /// order of the inputs.
    pub(crate) fn select_inputs<T: Copy>(&self, row: &[T], dst: &mut [T]) {
        let Some(columns) = self.columns() else { return dst.copy_from_slice(&row[..self.inputs]) };
        assert!(row.len() >= self.width && dst.len() == columns.len());
        for (dst, column) in dst.iter_mut().zip(columns) {
            // SAFETY: `pick` alone sets columns, each below the width, which the row has.
            *dst = unsafe { *row.get_unchecked(*column as usize) };
        }
    }
    /// `(outputs,)`.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }
    /// The activation.
    pub fn activation(&self) -> &Activation {
        &self.activation
    }

    /// Checks the number of weights.
    fn check_shape(&self, subject: Subject) -> Result<()> {
        let (got, height, width) = (self.matrix().len(), self.height, self.width);
        if Some(got) == height.checked_mul(width) {
            return Ok(());
        }
        let (expected, got) = (Extent::Matrix(height, width), Extent::Values(got));
        Err(Error::Shape { subject, expected, got })
    }

    /// Checks the widths and the number of weights. [`Layer::check_values`] and
    /// [`Layer::check_weights`] check values.
    pub(crate) fn check_widths(&self, layer: usize) -> Result<()> {
        let most = i32::MAX as usize;
        for (axis, got) in [(Axis::Units, self.outputs()), (Axis::Inputs, self.inputs)] {
            if got == 0 || got > most {
                return Err(Error::Width { layer, axis, got });
            }
        }
        self.check_shape(Subject::Weight(layer))?;
        let (activation, parameter) = (self.activation.name(), "slope");
        let subject = Subject::Activation { layer, activation, parameter };
        self.activation.check_units(self.outputs(), subject)
    }

    /// Refuses weights that are not finite. Packing reads all weights anyway; this finds the first
    /// such weight.
    pub(crate) fn check_weights(&self, layer: usize) -> Result<()> {
        let width = self.width;
        let index = |i| Index::Cell(i / width, i % width);
        check_finite(self.matrix(), Subject::Weight(layer), index)
    }

    /// Checks the bias and the activation.
    pub(crate) fn check_values(&self, layer: usize) -> Result<()> {
        check_finite(&self.bias, Subject::Bias(layer), Index::Entry)?;
        self.activation.check(layer)
    }
}

/// Composes a new pick with an earlier one, of `len` entries.
fn picked(old: Picked, new: Option<&[u32]>, len: usize, subject: Subject) -> Result<Picked> {
    let Some(new) = new else { return Ok(old) };
    let refused = |expected: String, got: String| Err(Error::Range { subject, expected, got });
    if let Some(bad) = new.iter().find(|i| **i as usize >= len) {
        return refused(format!("below {len}"), bad.to_string());
    }
    let mut sorted = new.to_vec();
    sorted.sort_unstable();
    let next = sorted.iter().skip(1);
    if let Some((twice, _)) = sorted.iter().zip(next).find(|(a, b)| a == b) {
        return refused("distinct".to_owned(), format!("{twice} twice"));
    }
    Ok(Some(match old {
        None => new.into(),
        Some(old) => new.iter().map(|i| old[*i as usize]).collect(),
    }))
}
