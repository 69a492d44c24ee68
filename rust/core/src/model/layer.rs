//! Fully connected layers, whose weights stay where their owner has them.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::activation::Activation;
use super::check::check_finite;
use crate::error::{Axis, Error, Extent, Index, Result, Subject};

/// Weights in memory of whatever owner keeps them, and keeps them as they are: a `Vec<f32>`, a mapped file,
/// another language's array.
pub type Weights = Arc<dyn AsRef<[f32]> + Send + Sync>;

/// One fully connected layer: `activation(x weight^T + bias)`. Its weights are not copied when it is cloned.
#[derive(Clone)]
pub struct Layer {
    /// `(height, width)`, of which the layer's weight is some rows and columns.
    matrix: Weights,
    height: usize,
    width: usize,
    rows: Picked,
    columns: Picked,
    pub(crate) bias: Vec<f32>,
    pub(crate) inputs: usize,
    pub(crate) activation: Activation,
}

/// Rows or columns of a matrix, in order; `None` is all of them.
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
    /// A layer from its weight, `(outputs, inputs)` row by row, and bias, `(outputs,)`.
    ///
    /// Lengths and values are checked by [`Network::new`].
    pub fn new(weight: Vec<f32>, bias: Vec<f32>, inputs: usize, activation: Activation) -> Layer {
        Layer::of_shared(Arc::new(weight), bias, inputs, activation)
    }

    /// [`Layer::new`] with weights that stay where they are.
    pub fn of_shared(
        weight: Weights,
        bias: Vec<f32>,
        inputs: usize,
        activation: Activation,
    ) -> Layer {
        let (height, width, rows, columns) = (bias.len(), inputs, None, None);
        Layer { matrix: weight, height, width, rows, columns, bias, inputs, activation }
    }

    /// The layer with these units alone, for these inputs alone, both in the order of the lists; `None` is all of
    /// them. Weights stay where they are: they are put in order as they are packed. Those that are not picked must
    /// be finite, too; biases of other units are dropped.
    ///
    /// # Errors
    /// A number that is not below the number of units or of inputs, or is there twice; a weight of another length.
    pub fn pick(mut self, units: Option<&[u32]>, inputs: Option<&[u32]>) -> Result<Layer> {
        self.check_shape(Subject::OwnWeight)?;
        self.rows = picked(self.rows, units, self.bias.len(), Subject::PickedUnits)?;
        self.columns = picked(self.columns, inputs, self.inputs, Subject::PickedInputs)?;
        if let Some(units) = units {
            self.bias = units.iter().map(|unit| self.bias[*unit as usize]).collect();
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
    /// `(outputs, inputs)`, row by row; a copy where units or inputs are picked.
    pub fn weight(&self) -> Cow<'_, [f32]> {
        if self.rows.is_none() && self.columns.is_none() {
            return self.matrix().into();
        }
        let mut room = Vec::new();
        let units = 0..self.outputs();
        units.flat_map(|unit| self.weights_of(unit, &mut room).to_vec()).collect()
    }
    /// Where the weights are.
    pub(crate) fn matrix(&self) -> &[f32] {
        (*self.matrix).as_ref()
    }
    /// Width of its rows.
    pub(crate) fn width(&self) -> usize {
        self.width
    }
    /// The number of its row that is a unit's.
    pub(crate) fn row_number(&self, unit: usize) -> usize {
        self.rows.as_deref().map_or(unit, |rows| rows[unit] as usize)
    }
    /// A unit's row of the matrix, whole and as it stands.
    pub(crate) fn whole_row(&self, unit: usize) -> &[f32] {
        &self.matrix()[self.row_number(unit) * self.width..][..self.width]
    }
    /// Which of its columns the inputs are, unless they are all as they stand.
    pub(crate) fn columns(&self) -> Option<&[u32]> {
        self.columns.as_deref()
    }
    /// A unit's weights, brought to `room` where they do not stand side by side.
    pub(crate) fn weights_of<'a>(&'a self, unit: usize, room: &'a mut Vec<f32>) -> &'a [f32] {
        let row = self.whole_row(unit);
        if self.columns.is_none() {
            return row;
        }
        room.resize(self.inputs, 0.0);
        self.put_in_order(row, room);
        room
    }
    /// Copies what belongs to the inputs, in their order, of what belongs to a row's columns.
    pub(crate) fn put_in_order<T: Copy>(&self, row: &[T], to: &mut [T]) {
        let Some(columns) = self.columns() else { return to.copy_from_slice(&row[..self.inputs]) };
        assert!(row.len() >= self.width && to.len() == columns.len());
        for (to, column) in to.iter_mut().zip(columns) {
            // SAFETY: `pick` alone sets columns, each below the width, which the row has.
            *to = unsafe { *row.get_unchecked(*column as usize) };
        }
    }
    /// `(outputs,)`.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }
    /// What follows the affine map.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Whether there are as many weights as there should be.
    fn check_shape(&self, subject: Subject) -> Result<()> {
        let (got, height, width) = (self.matrix().len(), self.height, self.width);
        if Some(got) == height.checked_mul(width) {
            return Ok(());
        }
        let (expected, got) = (Extent::Matrix(height, width), Extent::Values(got));
        Err(Error::Shape { subject, expected, got })
    }

    /// Checks widths and the number of weights; of values, see [`Layer::check_values`] and the weights'.
    pub(crate) fn check_widths(&self, layer: usize) -> Result<()> {
        let most = i32::MAX as usize;
        for (axis, got) in [(Axis::Units, self.outputs()), (Axis::Inputs, self.inputs)] {
            if got == 0 || got > most {
                return Err(Error::Width { layer, axis, got });
            }
        }
        self.check_shape(Subject::Weight(layer))
    }

    /// Refuses weights that are not finite. Packing looks at all of them anyway: this finds the first.
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

/// What is picked of what is picked already, `len` in number.
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
