//! One forward pass: rows in, tile by tile, layer by layer, rows out.
//!
//! A plan is compiled once, to a [`Program`]. A tile belongs to one thread from its first layer to its last;
//! or, where a call is one tile, a team of threads shares the units of its dense layers. The pool is entered
//! once, and again for rows that are recomputed. Every kernel adds up a row in an order that depends on that
//! row alone, so its bits depend neither on the other rows, nor on where tiles begin, nor on the threads.

mod fallback;
mod observe;
mod observer;
mod program;
mod read;
mod schedule;
mod tile;
mod workspace;

pub(crate) use fallback::run;
pub(crate) use observe::{observe, out_of_range, run_tile};
pub(crate) use observer::Observer;
pub(crate) use program::{Inputs, LayerProgram, Parts, Place, Program, TILE};
