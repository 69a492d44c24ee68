//! Buffers that grow.

use crate::memory::{self, Aligned, zeros};

pub(crate) fn grow_vec<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        memory::reserve(buffer, len - buffer.len());
        buffer.resize(len, T::default());
    }
}

/// Replaces the buffer by a longer one where it is too short. What it held is not needed.
pub(crate) fn grow<T: Copy + Default>(buffer: &mut Aligned<T>, len: usize) {
    if buffer.len() < len {
        *buffer = zeros(len);
    }
}
