//! One forward pass: rows in, tile by tile, layer by layer, rows out.

mod tile;
mod workspace;

pub(crate) use tile::{Observer, TILE};
pub(crate) use workspace::Buffer;
