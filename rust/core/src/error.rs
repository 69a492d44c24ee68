//! Every way lrgate can refuse: one flat enum, each message naming what was expected and what came.

/// An error of the lrgate core.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A network needs at least one layer.
    #[error("layers must have at least one layer, got 0")]
    NoLayers,
    /// A layer's width is zero or does not fit the engine's 31-bit indices.
    #[error("layers[{layer}]: {name} must have from 1 to 2147483647 {axis}, got {got}")]
    Width {
        /// Index of the layer.
        layer: usize,
        /// Argument name, such as `weight`.
        name: &'static str,
        /// `rows` or `columns`.
        axis: &'static str,
        /// The width given.
        got: usize,
    },
    /// Two neighbouring layers do not fit.
    #[error(
        "layers[{layer}]: weight must have {expected} columns, the units of layers[{previous}], \
         got {got}"
    )]
    Chain {
        /// Index of the layer whose input width is wrong.
        layer: usize,
        /// Index of the layer before it.
        previous: usize,
        /// Units of the layer before it.
        expected: usize,
        /// Columns given.
        got: usize,
    },
    /// An array's length does not match the layer.
    #[error("{name} must have shape {expected}, got {got}")]
    Shape {
        /// Argument name.
        name: String,
        /// Expected shape, as text.
        expected: String,
        /// The shape given, as text.
        got: String,
    },
    /// A parameter holds NaN or an infinity.
    #[error("{name} must be finite, got {value} at index {index}")]
    NotFinite {
        /// Argument name.
        name: String,
        /// Position, as text.
        index: String,
        /// The value found.
        value: f32,
    },
    /// An activation's parameter is out of its range.
    #[error("{name} must be {expected}, got {got}")]
    Parameter {
        /// Argument name.
        name: String,
        /// What it must be.
        expected: String,
        /// The value given.
        got: String,
    },
    /// This layer cannot have a gate.
    #[error("layers[{layer}]: a gate needs {expected}, got {got}")]
    GateNotAllowed {
        /// Index of the layer.
        layer: usize,
        /// What a gate needs.
        expected: &'static str,
        /// What the layer is.
        got: String,
    },
    /// A gate's rank is out of range.
    #[error("layers[{layer}]: rank of the gate must be from 1 to {max}, got {got}")]
    Rank {
        /// Index of the layer.
        layer: usize,
        /// min(in, out).
        max: usize,
        /// The rank given.
        got: usize,
    },
    /// A plan asks for what the network does not have.
    #[error("strategies[{layer}]: {expected}, got {got}")]
    Plan {
        /// Index of the layer.
        layer: usize,
        /// What was expected.
        expected: String,
        /// What was given.
        got: String,
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
    #[error("{name} must be an integer of at least 1, got {got}")]
    Threads {
        /// Argument or environment variable.
        name: &'static str,
        /// The value given.
        got: String,
    },
    /// A sparse matrix is malformed.
    #[error("x is not a valid CSR matrix: {0}")]
    Csr(String),
    /// The caller's check ended the call: see [`crate::interrupt::with_check`].
    #[error("the call was interrupted")]
    Interrupted,
}

/// Result with lrgate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
