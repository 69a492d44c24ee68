//! The model as data: activations, layers, gates, quantisations and the map from raw inputs.
//!
//! Nothing here knows a kernel, an instruction set or a layout of weights. Each type checks itself,
//! once, when a network is made of it, so that the engine need not.

mod activation;
mod check;
mod gate;
mod input_map;
mod layer;
mod quantization;

pub use activation::Activation;
pub use gate::Gate;
pub use input_map::InputMap;
pub use layer::{Layer, Weights};
pub use quantization::Quantization;
