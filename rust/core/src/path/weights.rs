//! The weights of a layer in one precision, and the differences between precisions.

use std::ops::Range;

use super::packed::PackedLayer;
use super::quantized::QuantizedLayer;
use super::scratch::LiveLists;
use crate::kernels::arithmetic::{Bytes, Floats};
use crate::kernels::dense::{RowsTimesPanels, bytes_times_panels};
use crate::kernels::dot::{LiveUnits, LiveUnitsOfLists};
use crate::kernels::epilogue::Output;
use crate::kernels::sparse::SparseTimesPanels;
use crate::layout::{Panels, UnitRows, padded};
use crate::model::Layer;
use crate::plan::Precision;
use crate::signal::{DenseRows, Parts, Signal};
use crate::simd::Isa;

/// The weights of a layer in one precision, packed in the layouts that are needed.
pub(crate) trait Weights: Send + Sync + 'static {
    /// The precision of inputs and weights.
    const PRECISION: Precision;
    /// Bytes per input and per weight.
    const BYTES: usize;
    /// Multiply-adds per nanosecond of a dense layer at best, with vectors and with AMX tiles.
    const PER_NANOSECOND: (u64, u64);
    /// Number of rows below which a call takes no less time, because reading the weights limits it.
    const LEAST_ROWS: u64;
    /// 32 bits of rows and weights.
    type Word: Copy + Default + Send + Sync;

    /// The layer itself.
    fn layer(&self) -> &Layer;
    /// Number of words of a unit's row.
    fn words(&self) -> usize;
    /// An output with the layer's scale and bias. The caller sets the activation and the buffers.
    fn output(&self) -> Output<'_>;
    /// The weights for dense rows.
    fn panels(&self) -> &Panels<Self::Word>;
    /// The weights unit by unit.
    fn unit_rows(&self) -> &UnitRows<Self::Word>;
    /// Packs the weights that lists are multiplied with. With `in_pairs`, lists of pairs of rows
    /// too.
    fn pack_for_lists(&self, isa: Isa, in_pairs: bool);
    /// The input's dense rows, if it has any in this precision.
    fn rows(input: Signal<'_>) -> Option<DenseRows<'_, Self::Word>>;
    /// Multiplies rows with the panels in the range `which`.
    fn times_rows(
        &self,
        isa: Isa,
        rows: DenseRows<'_, Self::Word>,
        which: Range<usize>,
        output: &mut Output<'_>,
    );
    /// Multiplies the input's lists.
    fn times_lists(&self, isa: Isa, input: Signal<'_>, output: Output<'_>);
    /// Computes the live units of each row.
    fn times_units(&self, isa: Isa, input: Signal<'_>, output: Output<'_>, live: LiveLists<'_>);
}

impl Weights for PackedLayer {
    const PRECISION: Precision = Precision::F32;
    const BYTES: usize = 4;
    const PER_NANOSECOND: (u64, u64) = (100, 100);
    const LEAST_ROWS: u64 = 4;
    type Word = f32;

    fn layer(&self) -> &Layer {
        &self.layer
    }
    fn words(&self) -> usize {
        self.layer.inputs()
    }
    fn output(&self) -> Output<'_> {
        PackedLayer::output(self)
    }
    fn panels(&self) -> &Panels {
        PackedLayer::panels(self)
    }
    fn unit_rows(&self) -> &UnitRows {
        PackedLayer::unit_rows(self)
    }
    fn pack_for_lists(&self, _isa: Isa, _in_pairs: bool) {
        self.panels();
    }
    #[inline]
    fn rows(input: Signal<'_>) -> Option<DenseRows<'_>> {
        if let Signal::Floats(parts) = input { parts.rows() } else { None }
    }
    #[inline]
    fn times_rows(
        &self,
        isa: Isa,
        rows: DenseRows<'_, f32>,
        which: Range<usize>,
        output: &mut Output<'_>,
    ) {
        let panels = self.panels();
        isa.run_floats(RowsTimesPanels::<Floats, _> { rows, panels, which, epilogue: output });
    }
    #[inline]
    fn times_lists(&self, isa: Isa, input: Signal<'_>, mut output: Output<'_>) {
        let Signal::Floats(parts) = input else { unreachable!("an f32 layer reads f32") };
        let Some(lists) = parts.lists() else { unreachable!("skip reads lists") };
        isa.run_floats(SparseTimesPanels { lists, panels: self.panels(), epilogue: &mut output });
    }
    #[inline]
    fn times_units(&self, isa: Isa, input: Signal<'_>, output: Output<'_>, live: LiveLists<'_>) {
        let (weights, LiveLists { live, row_ranges, blocks }) = (self.unit_rows(), live);
        let Signal::Floats(parts) = input else { unreachable!("an f32 layer reads f32") };
        match parts {
            Parts::Rows(rows) | Parts::Both(rows, _) => {
                isa.run_floats(LiveUnits::<Floats> {
                    rows,
                    weights,
                    output,
                    live,
                    row_ranges,
                    blocks,
                });
            }
            // CSR input.
            Parts::Lists(lists) => {
                isa.run_floats(LiveUnitsOfLists { lists, weights, output, live, row_ranges });
            }
        }
    }
}

impl Weights for QuantizedLayer {
    const PRECISION: Precision = Precision::Int8;
    const BYTES: usize = 1;
    const PER_NANOSECOND: (u64, u64) = (200, 1200);
    const LEAST_ROWS: u64 = 2;
    type Word = u32;

    fn layer(&self) -> &Layer {
        &self.layer.layer
    }
    fn words(&self) -> usize {
        padded(self.layer.layer.inputs().div_ceil(4))
    }
    fn output(&self) -> Output<'_> {
        QuantizedLayer::output(self)
    }
    fn panels(&self) -> &Panels<u32> {
        QuantizedLayer::panels(self)
    }
    fn unit_rows(&self) -> &UnitRows<u32> {
        self.weights.unit_rows()
    }
    fn pack_for_lists(&self, isa: Isa, in_pairs: bool) {
        self.weights.pack_for_lists(isa, in_pairs);
    }
    #[inline]
    fn rows(input: Signal<'_>) -> Option<DenseRows<'_, u32>> {
        if let Signal::Bytes(parts) = input { parts.rows() } else { None }
    }
    #[inline]
    fn times_rows(
        &self,
        isa: Isa,
        rows: DenseRows<'_, u32>,
        which: Range<usize>,
        output: &mut Output<'_>,
    ) {
        bytes_times_panels(isa, rows, self.panels(), which, output);
    }
    #[inline]
    fn times_lists(&self, isa: Isa, input: Signal<'_>, mut output: Output<'_>) {
        let Signal::Bytes(parts) = input else { unreachable!("an int8 layer reads bytes") };
        let Some(lists) = parts.lists() else { unreachable!("skip reads lists") };
        self.weights.times(isa, lists, &mut output);
    }
    #[inline]
    fn times_units(&self, isa: Isa, input: Signal<'_>, output: Output<'_>, live: LiveLists<'_>) {
        let (weights, LiveLists { live, row_ranges, blocks }) = (self.unit_rows(), live);
        let Some(rows) = Self::rows(input) else { unreachable!("a gate of bytes reads rows") };
        let rows = rows.padded();
        isa.run(LiveUnits::<Bytes> { rows, weights, output, live, row_ranges, blocks });
    }
}
