//! Buffers that grow.

use crate::memory::{self, Aligned, zeros};

pub(crate) fn grow_vec<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        memory::reserve(buffer, len - buffer.len());
        buffer.resize(len, T::default());
    }
}

/// Replaces the buffer by a longer one if it is shorter than `len`. The contents are not kept.
pub(crate) fn grow<T: Copy + Default>(buffer: &mut Aligned<T>, len: usize) {
    if buffer.len() < len {
        *buffer = zeros(len);
    }
}
