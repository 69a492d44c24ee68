//! skip: inputs that are zero are not multiplied; of bytes, groups of four that are all zero. Exact.

use super::PackedLayer;
use crate::kernels::Lists;
use crate::kernels::arithmetic::{Bytes, Floats};
use crate::kernels::emit::Output;
use crate::kernels::sparse::SparseTimesPanels;
use crate::simd::Isa;
use crate::strategy::QuantizedLayer;

pub(super) fn run(isa: Isa, layer: &PackedLayer, lists: Lists<'_>, mut output: Output<'_>) {
    let (panels, emit) = (layer.panels(), &mut output);
    isa.run(SparseTimesPanels::<Floats, _> { lists, panels, emit });
}

pub(super) fn run_int8(
    isa: Isa,
    layer: &QuantizedLayer,
    lists: Lists<'_, u32>,
    mut output: Output<'_>,
) {
    let (panels, emit) = (layer.panels(), &mut output);
    isa.run(SparseTimesPanels::<Bytes, _> { lists, panels, emit });
}
