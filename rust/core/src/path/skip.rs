//! The skip strategy: products with zero inputs are skipped. Exact.

use std::sync::Arc;

use super::contract::{Context, Path};
use super::dense;
use super::phase::{Phase, Seen, Watch, Work};
use super::scratch::GateScratch;
use super::weights::Weights;
use crate::kernels::epilogue::Output;
use crate::model::Layer;
use crate::signal::{Form, Signal};
use crate::simd::Isa;

/// A layer that multiplies only the listed inputs.
pub(crate) struct Skip<W>(pub(super) Arc<W>);

impl<W> Clone for Skip<W> {
    fn clone(&self) -> Self {
        Skip(self.0.clone())
    }
}

impl<W: Weights> Path for Skip<W> {
    fn layer(&self) -> &Layer {
        self.0.layer()
    }
    fn reads(&self) -> Form {
        Form::lists(W::PRECISION)
    }
    fn output(&self) -> Output<'_> {
        self.0.output()
    }
    fn pack(&self, isa: Isa, in_pairs: bool) {
        self.0.pack_for_lists(isa, in_pairs);
    }

    #[inline]
    fn run(
        &self,
        context: Context<'_>,
        input: Signal<'_>,
        output: Output<'_>,
        _scratch: &mut GateScratch,
        _watch: &mut impl Watch,
    ) -> usize {
        self.0.times_lists(context.isa, input, output);
        input.len() * self.layer().outputs()
    }

    fn phase(&self) -> Phase {
        Phase::Multiply
    }

    fn product(&self, seen: Seen) -> (Phase, Work) {
        let (h, width) = (self.layer().outputs() as f64, W::BYTES as f64);
        let (weight_bytes, operations) = (seen.inputs * h * width, 2.0 * seen.entries * h);
        (Phase::Multiply, Work { weight_bytes, row_bytes: seen.list_bytes, operations })
    }

    fn epilogue(&self, rows: f64, written: f64) -> (Phase, Work) {
        (Phase::Epilogue, dense::epilogue::<W>(self.layer(), rows, written))
    }

    fn weight_bytes(&self, inputs: f64, _lines: f64) -> f64 {
        inputs * self.layer().outputs() as f64 * W::BYTES as f64
    }

    fn multiply_adds(&self, density: f64, _computed: f64) -> f64 {
        density * self.layer().inputs() as f64 * self.layer().outputs() as f64
    }
}
