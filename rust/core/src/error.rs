//! Every way lrgate can refuse: one flat enum, each message naming what was expected and what came.
//!
//! Errors hold what a binding needs to say the same in the words of its language.

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
        /// Which of the widths.
        axis: Axis,
        /// The width given.
        got: usize,
    },
    /// Two neighbouring layers do not fit.
    #[error("layer {layer} must have {expected} inputs, the units of the layer before, got {got}")]
    Chain {
        /// Index of the layer whose input width is wrong.
        layer: usize,
        /// Units of the layer before it.
        expected: usize,
        /// Its inputs.
        got: usize,
    },
    /// Values that are too many or too few.
    #[error("{subject} must have {expected}, got {got}")]
    Shape {
        /// What has them.
        subject: Subject,
        /// How many there must be.
        expected: Extent,
        /// How many there are.
        got: Extent,
    },
    /// NaN or an infinity.
    #[error("{subject} must be finite, got {value} at {index}")]
    NotFinite {
        /// What holds it.
        subject: Subject,
        /// Where.
        index: Index,
        /// The value found.
        value: f32,
    },
    /// A value that is out of its range.
    #[error("{subject} must be {expected}, got {got}")]
    Range {
        /// What has the value.
        subject: Subject,
        /// What it must be.
        expected: String,
        /// The value given.
        got: String,
    },
    /// A factor or shift with which numbers of a layer are not finite.
    #[error(
        "{subject} must be small enough that the {part} of layer {layer} times it is finite, got a \
         product of {value}"
    )]
    Overflow {
        /// The factor or shift.
        subject: Subject,
        /// Index of the layer.
        layer: usize,
        /// Which of its parts: `weight` or `gate`.
        part: &'static str,
        /// What comes of it.
        value: f32,
    },
    /// This layer cannot have a gate.
    #[error(
        "layer {layer}: a gate needs a hidden layer with relu, clipped_relu or thresholded_relu, \
         got {got}"
    )]
    GateNotAllowed {
        /// Index of the layer.
        layer: usize,
        /// What the layer is.
        got: &'static str,
    },
    /// A gate's rank is out of range.
    #[error("layer {layer}: rank of the gate must be from 1 to {max}, got {got}")]
    Rank {
        /// Index of the layer.
        layer: usize,
        /// The fewer of inputs and units.
        max: usize,
        /// The rank given.
        got: usize,
    },
    /// A plan asks for what a layer does not have.
    #[error("the plan of layer {layer} needs {missing}, which the layer does not have")]
    Plan {
        /// Index of the layer.
        layer: usize,
        /// What it needs.
        missing: Missing,
    },
    /// `LRGATE_ISA` names an instruction set that is unknown or missing here.
    #[error("LRGATE_ISA must be one of {available} on this machine, got {got:?}")]
    Isa {
        /// Names that would work, comma-separated.
        available: String,
        /// The value given.
        got: String,
    },
    /// A number of threads is below 1 or not a number.
    #[error("{} must be an integer of at least 1, got {got}", variable.unwrap_or("threads"))]
    Threads {
        /// The environment variable, if it comes from one.
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

/// What an error is about. Numbers are those of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// A layer's weight.
    Weight(usize),
    /// The weight of a layer that is not in a network yet.
    OwnWeight,
    /// The units that are picked of a layer.
    PickedUnits,
    /// The inputs that are picked of a layer.
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
    /// The plans of all layers.
    LayerPlans,
    /// The numbers of rows that plans are for.
    BatchSizes,
    /// The number of rows of a call.
    BatchSize,
    /// Input rows.
    Rows,
    /// How many there are.
    RowCount,
    /// Where outputs go.
    Output,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Weight(layer) => write!(f, "the weight of layer {layer}"),
            Subject::OwnWeight => write!(f, "the weight"),
            Subject::PickedUnits => write!(f, "units"),
            Subject::PickedInputs => write!(f, "inputs"),
            Subject::Bias(layer) => write!(f, "the bias of layer {layer}"),
            Subject::Activation { layer, activation, parameter } => {
                write!(f, "{parameter} of {activation} of layer {layer}")
            }
            Subject::Inputs(layer) => write!(f, "the inputs of layer {layer}"),
            Subject::Gates => write!(f, "gates"),
            Subject::Gate { layer, part } => write!(f, "{part} of the gate of layer {layer}"),
            Subject::Quantizations => write!(f, "quantizations"),
            Subject::QuantizationScale(layer) => {
                write!(f, "the scale of the quantization of layer {layer}")
            }
            Subject::QuantizationOffset(layer) => {
                write!(f, "the offset of the quantization of layer {layer}")
            }
            Subject::InputScale => write!(f, "the scale of the input map"),
            Subject::InputShift => write!(f, "the shift of the input map"),
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
    /// As many, in one piece of memory.
    Values(usize),
    /// A list of as many.
    List(usize),
    /// One for all.
    One,
    /// One for all, or a list of as many.
    OneOrList(usize),
    /// Rows and columns.
    Matrix(usize, usize),
    /// Any number of rows of as many.
    RowsOf(usize),
    /// Rows and columns, and the distance of rows.
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

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Index {
    /// In a list.
    Entry(usize),
    /// A row and a column.
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

/// What a layer does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A gate.
    Gate,
    /// A quantisation.
    Quantization,
    /// The range of its gate, without which that has no int8 form.
    GateRange,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Missing::Gate => "a gate",
            Missing::Quantization => "a quantization",
            Missing::GateRange => "a gate with a range",
        })
    }
}

/// What is wrong with a sparse matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Csr {
    /// There are no starts.
    NoStarts,
    /// The first row starts before the arrays.
    NegativeStart(i32),
    /// A row ends before it starts.
    Descending {
        /// Its number.
        row: usize,
        /// Where it starts.
        start: i32,
        /// Where it ends.
        end: i32,
    },
    /// Fewer columns than entries.
    FewColumns {
        /// Entries.
        least: usize,
        /// Columns.
        got: usize,
    },
    /// Fewer values than entries.
    FewValues {
        /// Entries.
        least: usize,
        /// Values.
        got: usize,
    },
    /// A column that rows do not have.
    Column {
        /// Columns of a row.
        columns: usize,
        /// The column.
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
