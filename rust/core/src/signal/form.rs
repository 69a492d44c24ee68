//! The forms that a layer's input may have.

use super::lists::{ListedBytes, Lists};
use super::rows::DenseRows;
use crate::plan::Precision;

/// The form of a signal: its numbers, and whether it has rows of all of them, lists of those that are not
/// zero, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) precision: Precision,
    pub(crate) rows: bool,
    pub(crate) lists: bool,
}

impl Form {
    /// Rows alone.
    pub(crate) const fn rows(precision: Precision) -> Form {
        Form { precision, rows: true, lists: false }
    }

    /// Lists alone.
    pub(crate) const fn lists(precision: Precision) -> Form {
        Form { precision, rows: false, lists: true }
    }

    /// Rows and lists.
    pub(crate) const fn both(precision: Precision) -> Form {
        Form { precision, rows: true, lists: true }
    }

    /// Whether it is of bytes.
    pub(crate) fn is_bytes(self) -> bool {
        self.precision == Precision::Int8
    }
}

/// Rows, lists of what is not zero in them, or both.
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
    Floats(Parts<DenseRows<'a>, Lists<'a>>),
    /// Four bytes to a word.
    Bytes(Parts<DenseRows<'a, u32>, ListedBytes<'a>>),
}

impl Signal<'_> {
    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        match self {
            Signal::Floats(Parts::Rows(rows) | Parts::Both(rows, _)) => rows.rows(),
            Signal::Floats(Parts::Lists(lists)) => lists.spans.len(),
            Signal::Bytes(Parts::Rows(rows) | Parts::Both(rows, _)) => rows.rows(),
            Signal::Bytes(Parts::Lists(ListedBytes::Bytes(lists))) => lists.spans.len(),
            Signal::Bytes(Parts::Lists(ListedBytes::Pairs(lists))) => lists.spans.len(),
        }
    }
}
