//! Messages of the core's errors in the terms of the Python package: its arguments, and shapes as
//! tuples.

use lrgate::{Axis, Csr, Error, Extent, Index, Missing, Subject};

/// The message of an error.
pub(crate) fn message(error: &Error) -> String {
    match error {
        Error::NoLayers => "layers must have at least one layer, got 0".to_owned(),
        Error::Width { layer, axis, got } => {
            let axis = match axis {
                Axis::Units => "rows",
                Axis::Inputs => "columns",
            };
            format!("layers[{layer}]: weight must have from 1 to 2147483647 {axis}, got {got}")
        }
        Error::Chain { layer, expected, got } => format!(
            "layers[{layer}]: weight must have {expected} columns, the units of layers[{}], got \
             {got}",
            layer - 1
        ),
        Error::Shape { subject, expected, got } => {
            let (name, expected, got) = (name(*subject), shape(*expected), shape(*got));
            format!("{name} must have shape {expected}, got {got}")
        }
        Error::NotFinite { subject, index, value } => {
            let index = match index {
                Index::Entry(i) => i.to_string(),
                Index::Cell(row, column) => format!("({row}, {column})"),
            };
            format!("{} must be finite, got {value} at index {index}", name(*subject))
        }
        Error::Range { subject, expected, got } => {
            format!("{} must be {expected}, got {got}", name(*subject))
        }
        Error::Overflow { subject, layer, part, value } => format!(
            "{} must be small enough that layers[{layer}].{part} times it is finite, got a product \
             of {value}",
            name(*subject)
        ),
        Error::GateNotAllowed { layer, .. } | Error::Rank { layer, .. } => {
            error.to_string().replacen(&format!("layer {layer}:"), &format!("layers[{layer}]:"), 1)
        }
        Error::Plan { layer, missing } => {
            let message = match missing {
                Missing::Gate => "'dense' or 'skip', since the layer has no gate, got 'gate'",
                Missing::Quantization => "'f32', since the layer is not quantised, got 'int8'",
                Missing::GateRange => {
                    "no gate in int8, since the layer's gate has no range, got 'gate'"
                }
                Missing::Factors => "'dense' or 'skip', since the layer has no factors",
                Missing::NestedGate => {
                    "'factor' or 'skip-factor', since the layer's factors have no gate"
                }
                Missing::FactorsQuantization => {
                    "'f32' for factors, since those of the layer have no quantization, got 'int8'"
                }
            };
            format!("strategies[{layer}]: {message}")
        }
        Error::Threads { variable, got } => {
            let name = variable.unwrap_or("num_threads");
            format!("{name} must be an integer of at least 1, got {got}")
        }
        Error::Csr(csr) => format!("x is not a valid CSR matrix: {}", sparse(*csr)),
        _ => error.to_string(),
    }
}

/// The name that users know.
fn name(subject: Subject) -> String {
    match subject {
        Subject::Weight(layer) => format!("layers[{layer}].weight"),
        Subject::OwnWeight => "weight".to_owned(),
        Subject::OwnSlopes => "slope".to_owned(),
        Subject::Bias(layer) => format!("layers[{layer}].bias"),
        Subject::Activation { layer, activation, parameter } => {
            format!("layers[{layer}]: {parameter} of {activation}")
        }
        Subject::Inputs(layer) => format!("inputs of layers[{layer}]"),
        Subject::Gate { layer, part } => format!("gates[{layer}].{part}"),
        Subject::AllFactors => "factors".to_owned(),
        Subject::Factors { layer, part } => format!("factors[{layer}].{part}"),
        Subject::Quantizations => "quantization".to_owned(),
        Subject::QuantizationScale(layer) => format!("quantization[{layer}].scale"),
        Subject::QuantizationOffset(layer) => format!("quantization[{layer}].offset"),
        Subject::InputScale => "input_scale".to_owned(),
        Subject::InputShift => "input_shift".to_owned(),
        Subject::LeastMargin => "least_margin".to_owned(),
        Subject::Int8Margin => "int8_margin".to_owned(),
        Subject::LayerPlans => "strategies".to_owned(),
        Subject::BatchSizes => "batch_sizes".to_owned(),
        Subject::BatchSize => "batch_size".to_owned(),
        Subject::Rows => "x".to_owned(),
        Subject::RowCount => "rows of x".to_owned(),
        Subject::Output => "out".to_owned(),
        _ => subject.to_string(),
    }
}

/// A shape as `NumPy` prints it.
fn shape(extent: Extent) -> String {
    match extent {
        Extent::Values(n) => format!("{n} values"),
        Extent::List(n) => format!("({n},)"),
        Extent::One => "()".to_owned(),
        Extent::OneOrList(n) => format!("() or ({n},)"),
        Extent::Matrix(rows, columns) => format!("({rows}, {columns})"),
        Extent::RowsOf(columns) => format!("(n, {columns})"),
        Extent::Strided(rows, columns, stride) => {
            format!("({rows}, {columns}) with {stride} values from row to row")
        }
    }
}

/// The defect of a sparse matrix, with the names of `SciPy`'s arrays.
fn sparse(csr: Csr) -> String {
    match csr {
        Csr::NoStarts => "indptr is empty".to_owned(),
        Csr::NegativeStart(start) => format!("indptr[0] must be at least 0, got {start}"),
        Csr::Descending { row, start, end } => {
            format!("indptr must not descend, got {start} then {end} at {row}")
        }
        Csr::FewColumns { least, got } => {
            format!("indices must have at least {least} entries, got {got}")
        }
        Csr::FewValues { least, got } => {
            format!("data must have at least {least} entries, got {got}")
        }
        Csr::Column { columns, got } => {
            format!("indices must be from 0 to {}, got {got}", columns.saturating_sub(1))
        }
    }
}
