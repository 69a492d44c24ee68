//! The steps of the work on a tile, and what each must read and compute.

use crate::signal::Span;

/// A part of the work for one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The caller's rows become dense rows of f32.
    Convert,
    /// The layer's non-zero inputs are listed, where the kernel before did not.
    Scan,
    /// Both in one kernel.
    ConvertScan,
    /// Inputs become bytes, where the kernel before did not.
    Quantize,
    /// Rows that are not finite are looked for.
    Check,
    /// Gate: the low-rank sums.
    Estimate,
    /// Gate: scores from them, and the list of live units, in one kernel.
    ScoreThreshold,
    /// Gate: outputs that may not be computed are made zero.
    Clear,
    /// Gate: dot products of live units, bias and activation.
    Dots,
    /// Dense: products, bias and activation, in one kernel.
    MultiplyEpilogue,
    /// Skip: products and their sums, without the epilogue.
    Multiply,
    /// Skip: bias, activation, and the form that the next layer reads.
    Epilogue,
    /// An activation that is not fused.
    Activation,
}

impl Phase {
    /// All of them, in the order in which they run.
    pub const ALL: [Phase; 13] = [
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
        Phase::Activation,
    ];

    /// Its name: two joined by `+` are one kernel.
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
            Phase::Activation => "activation",
        }
    }

    /// Whether it makes a layer's input, before the layer itself runs.
    pub(crate) fn makes_input(self) -> bool {
        matches!(
            self,
            Phase::Convert | Phase::Scan | Phase::ConvertScan | Phase::Quantize | Phase::Check
        )
    }
}

/// Is called as the steps of a layer are done.
pub(crate) trait Watch {
    /// A step is done.
    #[inline(always)]
    fn step(&mut self, _phase: Phase) {}
    /// A gate has chosen the live units of every row; before its step.
    #[inline(always)]
    fn chosen(&mut self, _live: &[u32], _spans: &[Span]) {}
}

/// Sees nothing, and costs nothing.
pub(crate) struct Unwatched;

impl Watch for Unwatched {}

/// What a phase must do.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work {
    pub(crate) weight_bytes: f64,
    pub(crate) row_bytes: f64,
    pub(crate) operations: f64,
}

/// What a layer reads of a tile's rows.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    /// Rows of the tile.
    pub(crate) rows: f64,
    /// Entries of the rows that are not zero.
    pub(crate) entries: f64,
    /// Inputs that are not zero in some row.
    pub(crate) inputs: f64,
    /// Bytes of the rows' lists.
    pub(crate) list_bytes: f64,
    /// Whether the input has rows, not lists alone.
    pub(crate) has_rows: bool,
}
