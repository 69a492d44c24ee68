//! The strategies: how each prepares a layer and runs it on a tile of rows.
//!
//! A layer's weights are packed in the layouts its plan needs, once, and shared by every network
//! made from it.

mod dense;
mod gate;
mod packed;
mod quantize;
mod quantized;
mod run;
mod scratch;
mod skip;
mod step;

pub(crate) use gate::{PackedGate, QuantizedGate};
pub(crate) use packed::{PackedLayer, largest_of_rows};
pub(crate) use quantized::{QuantizedLayer, ToBytes};
pub(crate) use run::{Crew, Parts, run};
pub(crate) use scratch::GateScratch;
pub(crate) use step::Step;
