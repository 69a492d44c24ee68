//! Measurements of a network on real rows: the work and the time of each layer, the fastest
//! strategies on this machine, and the limits of the machine.

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
