//! Activations between layers: dense rows or lists of what is not zero, of f32 or of bytes.
//!
//! Kernels read and write these; what writes a list promises what its type says of it.

mod buffer;
mod form;
mod grow;
mod lists;
mod rows;

pub(crate) use buffer::Buffer;
pub(crate) use form::{Form, Parts, Signal};
pub(crate) use grow::{grow, grow_vec};
pub(crate) use lists::{
    ByteLists, ListedBytes, Lists, ListsMut, PairLists, Span, fill_fours, list_stride,
};
pub(crate) use rows::{ByteRowsMut, DenseRows, DenseRowsMut, byte_stride};
