//! The dense strategy: every product is computed.

use std::sync::Arc;

use super::contract::{Context, Path};
use super::phase::{Phase, Seen, Watch, Work};
use super::scratch::GateScratch;
use super::weights::Weights;
use crate::interrupt;
use crate::kernels::epilogue::Output;
use crate::layout::PANEL;
use crate::model::Layer;
use crate::signal::{DenseRows, Form, Signal};
use crate::simd::Isa;

/// Parts of a shared layer per thread: few, because taking one costs a cache miss, and enough for
/// threads that join late.
const PARTS: usize = 4;

/// A layer that computes every product.
pub(crate) struct Dense<W>(pub(super) Arc<W>);

impl<W> Clone for Dense<W> {
    fn clone(&self) -> Self {
        Dense(self.0.clone())
    }
}

impl<W: Weights> Path for Dense<W> {
    fn layer(&self) -> &Layer {
        self.0.layer()
    }
    fn reads(&self) -> Form {
        Form::rows(W::PRECISION)
    }
    fn output(&self) -> Output<'_> {
        self.0.output()
    }
    fn pack(&self, _isa: Isa, _in_pairs: bool) {
        self.0.panels();
    }

    /// Rows that come only as lists have no dense form. They are multiplied as in skip, which is
    /// exact.
    #[inline]
    fn run(
        &self,
        context: Context<'_>,
        input: Signal<'_>,
        output: Output<'_>,
        _scratch: &mut GateScratch,
        _watch: &mut impl Watch,
    ) -> usize {
        let units = self.layer().outputs();
        match W::rows(input) {
            Some(rows) => times(context, rows, &*self.0, output),
            None => self.0.times_lists(context.isa, input, output),
        }
        input.len() * units
    }

    fn can_share(&self, input: Form) -> bool {
        input.rows
    }

    /// Assumes 100 (f32), 200 (int8) or 1,200 (int8 in AMX tiles) multiply-adds per nanosecond, and at
    /// least the time to read the weights at 100 bytes per nanosecond.
    fn least_time(&self, isa: Isa, input: Form, rows: usize) -> u64 {
        let products = self.layer().multiply_adds() as u64;
        if input.rows {
            let (vectors, tiles) = W::PER_NANOSECOND;
            let rate = if isa.has_tiles() { tiles } else { vectors };
            let reading = products.saturating_mul(W::LEAST_ROWS) / vectors;
            reading.max(products.saturating_mul(rows as u64) / rate)
        } else {
            products.saturating_mul(rows as u64) / 10 / 100
        }
    }

    fn phase(&self) -> Phase {
        Phase::MultiplyEpilogue
    }

    fn product(&self, seen: Seen) -> (Phase, Work) {
        let (d, h) = (self.layer().inputs() as f64, self.layer().outputs() as f64);
        let width = W::BYTES as f64;
        let (inputs, row_bytes, entries) = if seen.has_rows {
            (d, seen.rows * d * width, seen.rows * d)
        } else {
            (seen.inputs, seen.list_bytes, seen.entries)
        };
        let (weight_bytes, operations) = (inputs * h * width, 2.0 * entries * h);
        (Phase::MultiplyEpilogue, Work { weight_bytes, row_bytes, operations })
    }

    fn epilogue(&self, rows: f64, written: f64) -> (Phase, Work) {
        (Phase::MultiplyEpilogue, epilogue::<W>(self.layer(), rows, written))
    }

    fn weight_bytes(&self, _inputs: f64, _lines: f64) -> f64 {
        let (d, h) = (self.layer().inputs() as f64, self.layer().outputs() as f64);
        d * h * W::BYTES as f64
    }

    fn multiply_adds(&self, _density: f64, _computed: f64) -> f64 {
        self.layer().multiply_adds() as f64
    }
}

/// Bias and activation, and with bytes the step of each output.
pub(super) fn epilogue<W: Weights>(layer: &Layer, rows: f64, written: f64) -> Work {
    let h = layer.outputs() as f64;
    let constants = if W::BYTES == 1 { 8.0 } else { 4.0 };
    Work { weight_bytes: constants * h, row_bytes: written, operations: 2.0 * rows * h }
}

/// Multiplies rows with all panels, which the team shares.
fn times<W: Weights>(
    Context { isa, team }: Context<'_>,
    rows: DenseRows<'_, W::Word>,
    weights: &W,
    mut output: Output<'_>,
) {
    let (inputs, count) = (weights.panels().inputs(), weights.panels().count());
    if team.threads() == 1 || !output.can_be_shared() {
        // The result of an interrupted call is discarded.
        let long = interrupt::is_long(inputs * PANEL * count, rows.rows());
        let step = if long { 1 } else { count };
        for first in (0..count).step_by(step) {
            if long && interrupt::requested() {
                return;
            }
            weights.times_rows(isa, rows, first..first + step, &mut output);
        }
        return;
    }
    let output = SharedOutput(output);
    let size = (count / (PARTS * team.threads())).max(1);
    team.run(count.div_ceil(size), |part| {
        let first = part * size;
        // SAFETY: the units of a panel belong to no other panel, and every panel to one part.
        let output = &mut unsafe { output.alias() };
        weights.times_rows(isa, rows, first..count.min(first + size), output);
    });
}

/// An output that several threads write to, each to its own columns.
struct SharedOutput<'a>(Output<'a>);

// SAFETY: it can only be used through `alias`, whose caller promises that handles write to
// different columns.
unsafe impl Sync for SharedOutput<'_> {}

impl SharedOutput<'_> {
    /// # Safety
    /// As [`Output::alias`].
    unsafe fn alias(&self) -> Output<'_> {
        // SAFETY: the caller's promise.
        unsafe { self.0.alias() }
    }
}
