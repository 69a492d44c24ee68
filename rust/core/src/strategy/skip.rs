//! skip: inputs that are zero are not multiplied. Exact.

use super::PackedLayer;
use crate::kernels::Lists;
use crate::kernels::emit::Output;
use crate::kernels::sparse::SparseTimesPanels;
use crate::simd::Isa;

pub(super) fn run(isa: Isa, layer: &PackedLayer, lists: Lists<'_>, mut output: Output<'_>) {
    isa.run(SparseTimesPanels { lists, panels: layer.panels(), emit: &mut output });
}
