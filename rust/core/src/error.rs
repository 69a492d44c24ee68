//! The error type of the crate: one flat enum, whose messages name the expected and the given
//! value.
//!
//! Variants hold the data that a binding needs to phrase the message in the terms of its language.

use std::fmt;

/// An error of the lrgate core.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A network needs at least one layer.
    #[error("a network must have at least one layer, got 0")]
    NoLayers,
    /// A layer's width is zero or does not fit the engine's 31-bit indices.
    #[error("layer {layer} must have from 1 to 2147483647 {axis}, got {got}")]
    Width {
        /// Index of the layer.
        layer: usize,
        /// Whether the inputs or the units are at fault.
        axis: Axis,
        /// The width given.
        got: usize,
    },
    /// The input width of a layer differs from the number of units of the layer before it.
    #[error("layer {layer} must have {expected} inputs, the units of the layer before, got {got}")]
    Chain {
        /// Index of the layer whose input width is wrong.
        layer: usize,
        /// Units of the layer before it.
        expected: usize,
        /// Its inputs.
        got: usize,
    },
    /// A container has the wrong number of values.
    #[error("{subject} must have {expected}, got {got}")]
    Shape {
        /// The container.
        subject: Subject,
        /// The number of values expected.
        expected: Extent,
        /// The number of values given.
        got: Extent,
    },
    /// A value is NaN or infinite.
    #[error("{subject} must be finite, got {value} at {index}")]
    NotFinite {
        /// The container of the value.
        subject: Subject,
        /// Position of the value.
        index: Index,
        /// The value found.
        value: f32,
    },
    /// A value is out of its range.
    #[error("{subject} must be {expected}, got {got}")]
    Range {
        /// The name of the value.
        subject: Subject,
        /// The range expected.
        expected: String,
        /// The value given.
        got: String,
    },
    /// A factor or shift for which numbers of a layer overflow.
    #[error(
        "{subject} must be small enough that the {part} of layer {layer} times it is finite, got a \
         product of {value}"
    )]
    Overflow {
        /// The factor or shift.
        subject: Subject,
        /// Index of the layer.
        layer: usize,
        /// Which of its parts: `weight`, `gate` or `factors`.
        part: &'static str,
        /// The product that is not finite.
        value: f32,
    },
    /// The layer cannot have a gate.
    #[error(
        "layer {layer}: a gate needs a hidden layer with relu, clipped_relu, thresholded_relu or \
         squared_relu, got {got}"
    )]
    GateNotAllowed {
        /// Index of the layer.
        layer: usize,
        /// A short description of the layer.
        got: &'static str,
    },
    /// The rank of a gate or of factors is out of range.
    #[error("layer {layer}: rank of the {part} must be from 1 to {max}, got {got}")]
    Rank {
        /// Index of the layer.
        layer: usize,
        /// `gate`, `factors` or `nested gate`.
        part: &'static str,
        /// The smaller of the numbers of inputs and units; for a nested gate, the rank of the
        /// factors.
        max: usize,
        /// The rank given.
        got: usize,
    },
    /// A plan needs a part that a layer does not have.
    #[error("the plan of layer {layer} needs {missing}, which the layer does not have")]
    Plan {
        /// Index of the layer.
        layer: usize,
        /// The missing part.
        missing: Missing,
    },
    /// `LRGATE_ISA` names an instruction set that is unknown or that this machine does not have.
    #[error("LRGATE_ISA must be one of {available} on this machine, got {got:?}")]
    Isa {
        /// Names of the available instruction sets, comma-separated.
        available: String,
        /// The value given.
        got: String,
    },
    /// A number of threads is below 1 or is not a number.
    #[error("{} must be an integer of at least 1, got {got}", variable.unwrap_or("threads"))]
    Threads {
        /// The environment variable that holds it, if it comes from one.
        variable: Option<&'static str>,
        /// The value given.
        got: String,
    },
    /// A sparse matrix is malformed.
    #[error("rows are not a valid CSR matrix: {0}")]
    Csr(Csr),
    /// The caller's check ended the call: see [`crate::interrupt::with_check`].
    #[error("the call was interrupted")]
    Interrupted,
}

/// Result with lrgate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A width of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Rows of the weight.
    Units,
    /// Columns of the weight.
    Inputs,
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Axis::Units => "units",
            Axis::Inputs => "inputs",
        })
    }
}

/// The object that an error is about. The numbers are indices of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// A layer's weight.
    Weight(usize),
    /// The weight of a layer that is not in a network yet.
    OwnWeight,
    /// The slopes of a layer that is not in a network yet.
    OwnSlopes,
    /// Indices of the units picked from a layer.
    PickedUnits,
    /// Indices of the inputs picked from a layer.
    PickedInputs,
    /// A layer's bias.
    Bias(usize),
    /// A parameter of a layer's activation.
    Activation {
        /// Index of the layer.
        layer: usize,
        /// The activation's name.
        activation: &'static str,
        /// The parameter's name.
        parameter: &'static str,
    },
    /// The number of a layer's inputs.
    Inputs(usize),
    /// The gates of all layers.
    Gates,
    /// A part of a layer's gate.
    Gate {
        /// Index of the layer.
        layer: usize,
        /// `u`, `v`, `bias` or `range`.
        part: &'static str,
    },
    /// The factors of all layers.
    AllFactors,
    /// A part of a layer's factors.
    Factors {
        /// Index of the layer.
        layer: usize,
        /// `u`, `v`, `bias`, or a part of the quantisation or of the nested gate.
        part: &'static str,
    },
    /// The quantisations of all layers.
    Quantizations,
    /// The scale of a layer's quantisation.
    QuantizationScale(usize),
    /// The offset of a layer's quantisation.
    QuantizationOffset(usize),
    /// The scale of the input map.
    InputScale,
    /// The shift of the input map.
    InputShift,
    /// The least margin of rows that are not recomputed.
    LeastMargin,
    /// The least margin of rows recomputed in int8 that are not recomputed in f32.
    Int8Margin,
    /// The plans of all layers.
    LayerPlans,
    /// The batch sizes of a plan.
    BatchSizes,
    /// The number of rows of a call.
    BatchSize,
    /// Input rows.
    Rows,
    /// The number of input rows.
    RowCount,
    /// The output buffer.
    Output,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Weight(layer) => write!(f, "the weight of layer {layer}"),
            Subject::OwnWeight => write!(f, "the weight"),
            Subject::OwnSlopes => write!(f, "the slopes"),
            Subject::PickedUnits => write!(f, "units"),
            Subject::PickedInputs => write!(f, "inputs"),
            Subject::Bias(layer) => write!(f, "the bias of layer {layer}"),
            Subject::Activation { layer, activation, parameter } => {
                write!(f, "{parameter} of {activation} of layer {layer}")
            }
            Subject::Inputs(layer) => write!(f, "the inputs of layer {layer}"),
            Subject::Gates => write!(f, "gates"),
            Subject::Gate { layer, part } => write!(f, "{part} of the gate of layer {layer}"),
            Subject::AllFactors => write!(f, "factors"),
            Subject::Factors { layer, part } => {
                write!(f, "{part} of the factors of layer {layer}")
            }
            Subject::Quantizations => write!(f, "quantizations"),
            Subject::QuantizationScale(layer) => {
                write!(f, "the scale of the quantization of layer {layer}")
            }
            Subject::QuantizationOffset(layer) => {
                write!(f, "the offset of the quantization of layer {layer}")
            }
            Subject::InputScale => write!(f, "the scale of the input map"),
            Subject::InputShift => write!(f, "the shift of the input map"),
            Subject::LeastMargin => write!(f, "the least margin"),
            Subject::Int8Margin => write!(f, "the int8 margin"),
            Subject::LayerPlans => write!(f, "the layers of the plan"),
            Subject::BatchSizes => write!(f, "the batch sizes of the plan"),
            Subject::BatchSize => write!(f, "the batch size"),
            Subject::Rows => write!(f, "rows"),
            Subject::RowCount => write!(f, "the number of rows"),
            Subject::Output => write!(f, "the output"),
        }
    }
}

/// A number of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// This many values in one buffer.
    Values(usize),
    /// A list of this many entries.
    List(usize),
    /// One entry for all.
    One,
    /// One entry for all, or a list of this many entries.
    OneOrList(usize),
    /// Rows and columns.
    Matrix(usize, usize),
    /// Any number of rows of this many values.
    RowsOf(usize),
    /// Rows, columns, and the distance between the starts of consecutive rows.
    Strided(usize, usize, usize),
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extent::Values(n) => write!(f, "{n} values"),
            Extent::List(n) => write!(f, "{n} entries"),
            Extent::One => write!(f, "1 entry"),
            Extent::OneOrList(n) => write!(f, "1 or {n} entries"),
            Extent::Matrix(rows, columns) => write!(f, "{rows} x {columns} values"),
            Extent::RowsOf(columns) => write!(f, "{columns} columns"),
            Extent::Strided(rows, columns, stride) => {
                write!(f, "{rows} x {columns} values with {stride} from row to row")
            }
        }
    }
}

/// Position of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Index {
    /// Entry of a list.
    Entry(usize),
    /// Row and column.
    Cell(usize, usize),
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Index::Entry(i) => write!(f, "entry {i}"),
            Index::Cell(row, column) => write!(f, "row {row}, column {column}"),
        }
    }
}

/// A part that a layer does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A gate.
    Gate,
    /// A quantisation.
    Quantization,
    /// The range of the gate, which its int8 form needs.
    GateRange,
    /// Factors.
    Factors,
    /// The gate of the factors.
    NestedGate,
    /// The quantisation of the factors' sums, which their int8 form needs.
    FactorsQuantization,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Missing::Gate => "a gate",
            Missing::Quantization => "a quantization",
            Missing::GateRange => "a gate with a range",
            Missing::Factors => "factors",
            Missing::NestedGate => "factors with a gate",
            Missing::FactorsQuantization => "factors with a quantization",
        })
    }
}

/// The way in which a sparse matrix is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Csr {
    /// `starts` is empty.
    NoStarts,
    /// The first start is negative.
    NegativeStart(i32),
    /// A row ends before it starts.
    Descending {
        /// Index of the row.
        row: usize,
        /// Its start.
        start: i32,
        /// Its end.
        end: i32,
    },
    /// There are fewer columns than entries.
    FewColumns {
        /// Number of entries.
        least: usize,
        /// Number of columns given.
        got: usize,
    },
    /// There are fewer values than entries.
    FewValues {
        /// Number of entries.
        least: usize,
        /// Number of values given.
        got: usize,
    },
    /// A column index is out of range.
    Column {
        /// Number of columns of a row.
        columns: usize,
        /// The index given.
        got: i32,
    },
}

impl fmt::Display for Csr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Csr::NoStarts => write!(f, "there are no starts"),
            Csr::NegativeStart(start) => {
                write!(f, "the first start must be at least 0, got {start}")
            }
            Csr::Descending { row, start, end } => {
                write!(f, "starts must not descend, got {start} then {end} at {row}")
            }
            Csr::FewColumns { least, got } => {
                write!(f, "there must be at least {least} columns, got {got}")
            }
            Csr::FewValues { least, got } => {
                write!(f, "there must be at least {least} values, got {got}")
            }
            Csr::Column { columns, got } => {
                write!(f, "columns must be below {columns}, got {got}")
            }
        }
    }
}
