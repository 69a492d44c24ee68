//! The layouts of packed weights.
//!
//! There are three layouts. [`Panels`] are columns of the layer, 64 at a time, input by input. The
//! weights of one input to 64 units are four consecutive vectors, so a zero input is skipped
//! without touching its weights, and a panel stays in L2 while the rows of a tile pass. With bytes,
//! an entry has four inputs. [`BytePanels`] are panels of int8 weights in which every input has its
//! own line. [`UnitRows`] are the layer's weight rows, one per unit: the weights of a unit that the
//! gate turns off are never touched.

mod byte_panels;
mod panels;
mod size;
mod unit_rows;

pub(crate) use byte_panels::BytePanels;
pub(crate) use panels::Panels;
pub(crate) use size::{PANEL, padded};
pub(crate) use unit_rows::UnitRows;
