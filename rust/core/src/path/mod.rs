//! Paths: how each strategy, in each precision, packs a layer and runs it on a tile of rows.
//!
//! A layer's weights are packed in the layouts its plan needs, once, and shared by every network
//! made from it.

mod contract;
mod dense;
mod gate;
mod packed;
mod phase;
mod quantize;
mod quantized;
mod scratch;
mod skip;
mod table;
mod weights;

pub(crate) use contract::{Context, Path};
pub(crate) use gate::PackedGate;
pub(crate) use packed::{PackedLayer, largest_of_rows};
pub use phase::Phase;
pub(crate) use phase::{Seen, Unwatched, Watch, Work};
pub(crate) use quantized::{QuantizedLayer, ToBytes};
pub(crate) use scratch::GateScratch;
pub(crate) use table::{LayerPath, PackedForms};
