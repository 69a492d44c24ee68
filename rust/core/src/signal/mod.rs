//! Activations between layers: dense rows or lists of non-zeros, in f32 or bytes.
//!
//! Kernels read and write them. A kernel that writes a list guarantees the invariant of its type.

mod buffer;
mod form;
mod grow;
mod rows;
mod sparse;

pub(crate) use buffer::Buffer;
pub(crate) use form::{Form, Parts, Signal};
pub(crate) use grow::{grow, grow_vec};
pub(crate) use rows::{ByteRowsMut, DenseRows, DenseRowsMut, byte_stride};
pub(crate) use sparse::{
    RowRange, SparseByteRows, SparseBytes, SparsePairs, SparseRows, SparseRowsMut, fill_fours,
    list_stride,
};
