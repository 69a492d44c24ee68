//! dense: every multiplication.

use super::PackedLayer;
use crate::kernels::DenseRows;
use crate::kernels::dense::RowsTimesPanels;
use crate::kernels::emit::Output;
use crate::simd::Isa;

pub(super) fn run(isa: Isa, layer: &PackedLayer, rows: DenseRows<'_>, mut output: Output<'_>) {
    isa.run(RowsTimesPanels { rows, panels: layer.panels(), emit: &mut output });
}
