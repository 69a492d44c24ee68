//! The forms that a layer's input may have.

use super::lists::{ListedBytes, Lists};
use super::rows::DenseRows;

/// A layer's input: dense rows, lists of their non-zeros, or both; or the same of bytes, four to a
/// word.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) rows: usize,
    pub(crate) dense: Option<DenseRows<'a>>,
    pub(crate) lists: Option<Lists<'a>>,
    pub(crate) bytes: Option<DenseRows<'a, u32>>,
    pub(crate) byte_lists: Option<ListedBytes<'a>>,
}

/// What a layer reads.
#[derive(Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)] // any of them may go with any other
pub(crate) struct Needs {
    pub(crate) dense: bool,
    pub(crate) lists: bool,
    pub(crate) bytes: bool,
    pub(crate) byte_lists: bool,
}

impl Needs {
    /// Whether it is bytes in one form or both.
    pub(crate) fn int8(self) -> bool {
        self.bytes || self.byte_lists
    }

    /// What a kernel writes where lists of bytes are made afterwards, from rows of bytes.
    pub(crate) fn before_scan(self) -> Needs {
        Needs { bytes: self.int8(), byte_lists: false, ..self }
    }
}
