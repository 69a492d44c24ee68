//! dense: every multiplication.

use super::packed::PackedLayer;
use super::quantized::QuantizedLayer;
use super::run::Crew;
use crate::interrupt;
use crate::kernels::arithmetic::{Arithmetic, Bytes, Floats};
use crate::kernels::dense::RowsTimesPanels;
use crate::kernels::emit::{Emit, Output};
use crate::layout::{PANEL, Panels};
use crate::signal::DenseRows;

pub(super) fn run(crew: Crew<'_>, layer: &PackedLayer, rows: DenseRows<'_>, output: Output<'_>) {
    times::<Floats>(crew, rows, layer.panels(), output);
}

pub(super) fn run_int8(
    crew: Crew<'_>,
    layer: &QuantizedLayer,
    rows: DenseRows<'_, u32>,
    output: Output<'_>,
) {
    times::<Bytes>(crew, rows, layer.weights.panels(), output);
}

/// Multiplies rows with all panels, which the crew shares.
fn times<A: Arithmetic>(
    Crew { isa, team }: Crew<'_>,
    rows: DenseRows<'_, A::Word>,
    panels: &Panels<A::Word>,
    mut output: Output<'_>,
) where
    for<'a> Output<'a>: Emit<A>,
{
    if team.threads() == 1 || !output.can_be_shared() {
        // What a call has computed until it is interrupted is not used.
        let long = interrupt::is_long(panels.inputs() * PANEL * panels.count(), rows.rows());
        let step = if long { 1 } else { panels.count() };
        for first in (0..panels.count()).step_by(step) {
            if long && interrupt::requested() {
                return;
            }
            let (which, emit) = (first..first + step, &mut output);
            A::run_on(isa, RowsTimesPanels::<A, _> { rows, panels, which, emit });
        }
        return;
    }
    let output = SharedOutput(output);
    team.run(panels.count(), |p| {
        // SAFETY: a panel's units are its own, and every panel is one part.
        let emit = &mut unsafe { output.again() };
        A::run_on(isa, RowsTimesPanels::<A, _> { rows, panels, which: p..p + 1, emit });
    });
}

/// An output that several threads write, each other columns.
struct SharedOutput<'a>(Output<'a>);

// SAFETY: it can only be used through `again`, whose caller promises that columns are told apart.
unsafe impl Sync for SharedOutput<'_> {}

impl SharedOutput<'_> {
    /// # Safety
    /// As [`Output::again`].
    unsafe fn again(&self) -> Output<'_> {
        // SAFETY: the caller's promise.
        unsafe { self.0.again() }
    }
}
