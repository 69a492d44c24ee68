//! The model as data: activations, layers, gates, factors, quantisations, least margins
//! and the map from raw inputs.
//!
//! Nothing here depends on kernels, instruction sets or layouts of weights. Each type has its own
//! checks, which run once when a network is made from it, so that the engine needs none.

mod activation;
mod check;
mod factors;
mod gate;
mod input_map;
mod layer;
mod margin;
mod quantization;

pub use activation::Activation;
pub use factors::{Factors, NestedGate};
pub use gate::Gate;
pub use input_map::InputMap;
pub use layer::{Layer, Weights};
pub use margin::{LeastMargin, Margin};
pub use quantization::Quantization;
