//! The forward pass: a call's rows are processed tile by tile and layer by layer.
//!
//! A plan is compiled once into a [`Program`]. One thread takes a tile from the first layer to the
//! last. If a call is a single tile, a team of threads shares the units of its dense layers
//! instead. A call enters the pool once, and again for rows that are recomputed. The order in which
//! a kernel adds up a row depends on that row alone, so the bits of a result depend neither on the
//! other rows, nor on the borders of tiles, nor on the number of threads.

mod fallback;
mod lanes;
mod observe;
mod observer;
mod program;
mod read;
mod schedule;
mod single;
mod tile;
mod workspace;

pub(crate) use fallback::run;
pub(crate) use fallback::run_short;
pub(crate) use observe::{observe, recomputed, run_tile};
pub(crate) use observer::Observer;
pub use program::Factor;
pub(crate) use program::{Inputs, LayerProgram, Parts, Place, Program, Programs, TILE};
