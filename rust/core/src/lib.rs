//! # lrgate
//!
//! Runs trained ReLU networks on CPUs without computing what will be zero.
mod error;
mod forward;
mod kernels;
mod measure;
mod network;
mod plan;
pub mod pool;
mod rows;
mod simd;
mod strategy;
mod workspace;

pub use error::{Error, Result};
pub use measure::LayerProfile;
pub use network::{Activation, Gate, InputMap, Layer, Network};
pub use plan::{ClassPlan, LayerPlan, Plan, Precision, Strategy};
pub use rows::Rows;
pub use simd::Isa;
