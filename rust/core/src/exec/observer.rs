//! What may look on while a pass runs.

use crate::path::{Unwatched, Watch};
use crate::signal::{DenseRows, Signal};

/// Looks at every layer while a pass runs. The engine's own observer sees nothing and costs nothing.
pub(crate) trait Observer: Watch {
    /// A layer is about to run.
    #[inline(always)]
    fn before(&mut self, _layer: usize, _input: Signal<'_>) {}
    /// It has run, computing `computed` units over all rows of the tile.
    #[inline(always)]
    fn after(&mut self, _layer: usize, _rows: usize, _computed: usize) {}
    /// The last layer's output.
    fn output(&mut self, _rows: DenseRows<'_>) {}
}

impl Observer for Unwatched {}
