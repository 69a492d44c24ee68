//! skip: inputs that are zero are not multiplied. Exact.

use super::packed::PackedLayer;
use super::quantized::QuantizedLayer;
use crate::kernels::emit::Output;
use crate::kernels::sparse::SparseTimesPanels;
use crate::signal::{ListedBytes, Lists};
use crate::simd::Isa;

pub(super) fn run(isa: Isa, layer: &PackedLayer, lists: Lists<'_>, mut output: Output<'_>) {
    let (panels, emit) = (layer.panels(), &mut output);
    isa.run_floats(SparseTimesPanels { lists, panels, emit });
}

pub(super) fn run_int8(
    isa: Isa,
    layer: &QuantizedLayer,
    lists: ListedBytes<'_>,
    mut output: Output<'_>,
) {
    layer.weights.times(isa, lists, &mut output);
}
