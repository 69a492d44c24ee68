//! Runs trained `ReLU` networks on CPUs and skips computations whose result is known to be zero.
//!
//! Each layer of a [`Network`] runs dense, skips inputs that are zero, computes only the units that
//! a low-rank sign estimate lets through (a [`Gate`]; Davis and Arel 2013, arXiv 1312.4461), or
//! computes the product of two low-rank [`Factors`] instead. A [`Plan`] chooses one of them per
//! layer and batch size, and [`Network::tune`] measures the fastest choice.
//!
//! ```
//! use lrgate::{Activation, Layer, Network, Plan, Rows, Strategy};
//!
//! // Two inputs, two hidden units, one output.
//! let hidden = Layer::new(vec![1.0, -1.0, 2.0, 0.5], vec![0.0, -1.0], 2, Activation::Relu);
//! let last = Layer::new(vec![1.0, 1.0], vec![0.5], 2, Activation::Identity);
//! let network = Network::new(vec![hidden, last], None)?;
//! let network = network.with_plan(Plan::uniform(Strategy::Skip, 2))?;
//!
//! let mut out = [0.0];
//! network.forward(Rows::f32(&[3.0, 1.0], 1, 2, 2)?, &mut out, None)?;
//! assert_eq!(out, [8.0]); // relu(3 - 1) + relu(6 + 0.5 - 1) + 0.5
//! # Ok::<(), lrgate::Error>(())
//! ```
//!
//! The instruction set (AVX-512, AVX2 with FMA, or portable) is chosen once at run time; the
//! environment variable `LRGATE_ISA` forces one. The design is described in `docs/architecture.md`
//! of the repository.

mod error;
mod exec;
mod head;
pub mod interrupt;
mod kernels;
mod layout;
mod measure;
pub mod memory;
mod model;
mod network;
mod path;
mod plan;
pub mod pool;
mod rows;
mod signal;
mod simd;

pub use error::{Axis, Csr, Error, Extent, Index, Missing, Result, Subject};
pub use exec::Factor;
pub use head::{Head, Task};
pub use measure::{LayerCounts, LayerProfile, Peaks, PhaseProfile, Phases};
pub use model::{
    Activation, Factors, Gate, InputMap, Layer, LeastMargin, Margin, NestedGate, Quantization,
    Weights,
};
pub use network::Network;
pub use path::Phase;
pub use plan::{BatchPlan, LayerPlan, Plan, Precision, Strategy};
pub use rows::Rows;
pub use simd::Isa;
