//! The steps of the work on a tile.

use crate::signal::Span;

/// A part of the work on a tile that is done.
#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    /// The caller's rows have become dense rows of f32.
    Converted,
    /// Rows' non-zeros are listed.
    Scanned,
    /// Both at once.
    ConvertedAndScanned,
    /// Rows have become bytes.
    Quantized,
    /// Rows that are not finite are marked.
    Checked,
    /// The gate's low-rank sums are known.
    Estimated,
    /// Its scores are compared with their thresholds; the live units of every row.
    Chosen(&'a [u32], &'a [Span]),
    /// Outputs that will not be computed are zero.
    Cleared,
    /// Products are summed, and sums are outputs.
    Multiplied,
    /// An activation that is not fused is applied.
    Finished,
}
