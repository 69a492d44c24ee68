//! The forms that a layer's input can have.

use super::rows::DenseRows;
use super::sparse::{SparseBytes, SparseRows};
use crate::plan::Precision;

/// The form of a signal: its number format, and whether it has dense rows, lists of non-zeros, or
/// both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) precision: Precision,
    pub(crate) rows: bool,
    pub(crate) lists: bool,
}

impl Form {
    /// Dense rows only.
    pub(crate) const fn rows(precision: Precision) -> Form {
        Form { precision, rows: true, lists: false }
    }

    /// Lists only.
    pub(crate) const fn lists(precision: Precision) -> Form {
        Form { precision, rows: false, lists: true }
    }

    /// Dense rows and lists.
    pub(crate) const fn both(precision: Precision) -> Form {
        Form { precision, rows: true, lists: true }
    }

    /// Whether the numbers are bytes.
    pub(crate) fn is_bytes(self) -> bool {
        self.precision == Precision::Int8
    }
}

/// Dense rows, lists of their non-zeros, or both.
#[derive(Clone, Copy)]
pub(crate) enum Parts<R, L> {
    Rows(R),
    Lists(L),
    Both(R, L),
}

impl<R, L> Parts<R, L> {
    /// The parts that `form` has.
    pub(super) fn of(form: Form, rows: impl FnOnce() -> R, lists: impl FnOnce() -> L) -> Self {
        match (form.rows, form.lists) {
            (true, true) => Parts::Both(rows(), lists()),
            (false, true) => Parts::Lists(lists()),
            (_, false) => Parts::Rows(rows()),
        }
    }

    pub(crate) fn rows(self) -> Option<R> {
        match self {
            Parts::Rows(rows) | Parts::Both(rows, _) => Some(rows),
            Parts::Lists(_) => None,
        }
    }

    pub(crate) fn lists(self) -> Option<L> {
        match self {
            Parts::Lists(lists) | Parts::Both(_, lists) => Some(lists),
            Parts::Rows(_) => None,
        }
    }
}

/// A layer's input, in one of its forms.
#[derive(Clone, Copy)]
pub(crate) enum Signal<'a> {
    Floats(Parts<DenseRows<'a>, SparseRows<'a>>),
    /// Four bytes per word.
    Bytes(Parts<DenseRows<'a, u32>, SparseBytes<'a>>),
}

impl Signal<'_> {
    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        match self {
            Signal::Floats(Parts::Rows(rows) | Parts::Both(rows, _)) => rows.rows(),
            Signal::Floats(Parts::Lists(lists)) => lists.row_ranges.len(),
            Signal::Bytes(Parts::Rows(rows) | Parts::Both(rows, _)) => rows.rows(),
            Signal::Bytes(Parts::Lists(SparseBytes::Bytes(lists))) => lists.row_ranges.len(),
            Signal::Bytes(Parts::Lists(SparseBytes::Pairs(lists))) => lists.row_ranges.len(),
        }
    }
}
