//! Measuring a network on real rows: what each layer does and how long it takes, which strategy is the
//! fastest for it here, and what bounds it.

mod capture;
mod clock;
mod counts;
mod peaks;
mod phases;
mod sample;
mod tune;

pub use counts::{LayerCounts, LayerProfile};
pub use peaks::Peaks;
pub use phases::{PhaseProfile, Phases};
