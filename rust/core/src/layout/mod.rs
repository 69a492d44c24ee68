//! How weights lie in memory, and how they are packed so.
//!
//! Weights come in three layouts. [`Panels`] are columns of the layer, 64 at a time, input by input:
//! one input's weights to 64 units are four consecutive vectors, so a zero input is skipped by not
//! touching them, and a panel stays in L2 while a tile of rows passes over it; of bytes, four inputs
//! are one. [`BytePanels`] are the same for int8 with every input apart. [`UnitRows`] are the layer's
//! weight rows, one per unit: a unit that the gate turns off is never touched.

mod byte_panels;
mod panels;
mod size;
mod unit_rows;

pub(crate) use byte_panels::BytePanels;
pub(crate) use panels::Panels;
pub(crate) use size::{PANEL, padded};
pub(crate) use unit_rows::UnitRows;
