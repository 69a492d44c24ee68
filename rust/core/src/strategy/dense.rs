//! dense: every multiplication.

use super::PackedLayer;
use crate::kernels::DenseRows;
use crate::kernels::arithmetic::{Bytes, Floats};
use crate::kernels::dense::RowsTimesPanels;
use crate::kernels::emit::Output;
use crate::simd::Isa;
use crate::strategy::QuantizedLayer;

pub(super) fn run(isa: Isa, layer: &PackedLayer, rows: DenseRows<'_>, mut output: Output<'_>) {
    let (panels, emit) = (layer.panels(), &mut output);
    isa.run(RowsTimesPanels::<Floats, _> { rows, panels, emit });
}

pub(super) fn run_int8(
    isa: Isa,
    layer: &QuantizedLayer,
    rows: DenseRows<'_, u32>,
    mut output: Output<'_>,
) {
    let (panels, emit) = (layer.weights.panels(), &mut output);
    isa.run(RowsTimesPanels::<Bytes, _> { rows, panels, emit });
}
