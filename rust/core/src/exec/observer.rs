//! The interface through which measurements follow a forward pass.

use crate::path::{Unwatched, Watch};
use crate::signal::{DenseRows, Signal};

/// Is notified of every layer of a program in a pass. [`Unwatched`] does nothing and costs nothing.
pub(crate) trait Observer: Watch {
    /// Layer `_layer` is about to run on `_input`.
    #[inline(always)]
    fn before(&mut self, _layer: usize, _input: Signal<'_>) {}
    /// The layer has run; `_computed` is the number of units computed, summed over the rows of the
    /// tile.
    #[inline(always)]
    fn after(&mut self, _layer: usize, _rows: usize, _computed: usize) {}
    /// The last layer's output.
    fn output(&mut self, _rows: DenseRows<'_>) {}
}

impl Observer for Unwatched {}
