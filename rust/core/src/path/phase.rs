//! The steps of the work on a tile, and the least reads and operations of each.

use crate::signal::RowRange;

/// A part of the work for one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The caller's rows are converted to dense f32 rows.
    Convert,
    /// The non-zero inputs of the layer are listed, unless the previous kernel did it.
    Scan,
    /// Conversion and listing in one kernel.
    ConvertScan,
    /// Inputs are quantised, unless the previous kernel did it.
    Quantize,
    /// Rows are checked for values that are not finite.
    Check,
    /// Gate: the low-rank sums.
    Estimate,
    /// Gate: the scores and the list of live units, in one kernel.
    ScoreThreshold,
    /// Gate: outputs are set to zero before the live units are written.
    Clear,
    /// Gate: dot products of live units, bias and activation.
    Dots,
    /// Dense: products, bias and activation, in one kernel.
    MultiplyEpilogue,
    /// Skip: products and their sums, without the epilogue.
    Multiply,
    /// Skip: bias, activation, and the form that the next layer reads.
    Epilogue,
    /// Rows of the network's output with too small a margin are marked.
    Margin,
    /// An activation that is not fused.
    Activation,
}

impl Phase {
    /// All phases, in the order in which they run.
    pub const ALL: [Phase; 14] = [
        Phase::Convert,
        Phase::ConvertScan,
        Phase::Quantize,
        Phase::Scan,
        Phase::Check,
        Phase::Estimate,
        Phase::ScoreThreshold,
        Phase::Clear,
        Phase::Dots,
        Phase::MultiplyEpilogue,
        Phase::Multiply,
        Phase::Epilogue,
        Phase::Margin,
        Phase::Activation,
    ];

    /// Name of the phase. A `+` joins two steps of one kernel.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Convert => "convert",
            Phase::Scan => "scan",
            Phase::ConvertScan => "convert+scan",
            Phase::Quantize => "quantize",
            Phase::Check => "check",
            Phase::Estimate => "estimate",
            Phase::ScoreThreshold => "score+threshold",
            Phase::Clear => "clear",
            Phase::Dots => "dots+epilogue",
            Phase::MultiplyEpilogue => "multiply+epilogue",
            Phase::Multiply => "multiply",
            Phase::Epilogue => "epilogue",
            Phase::Margin => "margin",
            Phase::Activation => "activation",
        }
    }

    /// Whether the phase makes a layer's input, before the layer itself runs.
    pub(crate) fn makes_input(self) -> bool {
        matches!(
            self,
            Phase::Convert | Phase::Scan | Phase::ConvertScan | Phase::Quantize | Phase::Check
        )
    }
}

/// Is notified of the steps of a layer.
pub(crate) trait Watch {
    /// A step has finished.
    #[inline(always)]
    fn step(&mut self, _phase: Phase) {}
    /// A gate has chosen the live units of every row. Called before its step finishes.
    #[inline(always)]
    fn chosen(&mut self, _live: &[u32], _row_ranges: &[RowRange]) {}
}

/// Ignores all steps at no cost.
pub(crate) struct Unwatched;

impl Watch for Unwatched {}

/// The least work of a phase.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work {
    pub(crate) weight_bytes: f64,
    pub(crate) row_bytes: f64,
    pub(crate) operations: f64,
}

/// The input of a layer on the rows of a tile, in numbers.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    /// Number of rows.
    pub(crate) rows: f64,
    /// Number of non-zero entries.
    pub(crate) entries: f64,
    /// Inputs that are non-zero in at least one row.
    pub(crate) inputs: f64,
    /// Bytes of the rows' lists.
    pub(crate) list_bytes: f64,
    /// Whether the input has dense rows, not only lists.
    pub(crate) has_rows: bool,
}
