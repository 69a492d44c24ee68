//! Paths: each strategy in each precision packs a layer and computes it on a tile of rows.
//!
//! The weights of a layer are packed once, in the layouts that its plan needs, and shared by all
//! networks made from it.

mod contract;
mod dense;
mod factor;
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
pub(crate) use factor::PackedFactors;
pub(crate) use gate::PackedGate;
pub(crate) use packed::{PackedLayer, largest_of_rows};
pub use phase::Phase;
pub(crate) use phase::{Seen, Unwatched, Watch, Work};
pub(crate) use quantized::{QuantizedLayer, ToBytes};
pub(crate) use scratch::GateScratch;
pub(crate) use table::{LayerPath, PackedForms};
