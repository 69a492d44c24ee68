//! The interface of all paths.

use super::phase::{Phase, Seen, Watch, Work};
use super::scratch::GateScratch;
use crate::kernels::epilogue::Output;
use crate::model::Layer;
use crate::pool::{self, Team};
use crate::signal::{Form, Signal};
use crate::simd::Isa;

/// The instruction set and the threads that run a layer.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) isa: Isa,
    /// The threads that share the units of a layer, if it can be shared.
    pub(crate) team: &'a Team,
}

impl Context<'_> {
    /// A context with the calling thread only.
    pub(crate) fn alone(isa: Isa) -> Self {
        Context { isa, team: &pool::ALONE }
    }
}

/// A strategy in a precision: computes a packed layer on a tile of rows.
pub(crate) trait Path {
    /// The layer.
    fn layer(&self) -> &Layer;
    /// The form of input that the path reads.
    fn reads(&self) -> Form;
    /// An output with the layer's scale and bias. The caller sets the activation and the buffers.
    fn output(&self) -> Output<'_>;
    /// Packs the weights that the path needs. `in_pairs` says whether the input may come as lists
    /// of pairs of rows.
    fn pack(&self, isa: Isa, in_pairs: bool);
    /// Computes a tile. Returns the number of units computed, summed over the rows.
    fn run(
        &self,
        context: Context<'_>,
        input: Signal<'_>,
        output: Output<'_>,
        scratch: &mut GateScratch,
        watch: &mut impl Watch,
    ) -> usize;
    /// Whether threads can share the layer's units for input of this form.
    fn can_share(&self, _input: Form) -> bool {
        false
    }
    /// A lower estimate of the nanoseconds that `rows` rows of this form take on one thread. Skip
    /// and gate are assumed to do a tenth of the products, at 100 per nanosecond.
    fn least_time(&self, _isa: Isa, _input: Form, rows: usize) -> u64 {
        let products = self.layer().multiply_adds() as u64;
        products.saturating_mul(rows as u64) / 10 / 100
    }
    /// Whether the path can list its outputs as bytes, given that a unit it does not compute is
    /// byte 0.
    fn lists_bytes(&self) -> bool {
        false
    }
    /// Number of units that lists of the input are multiplied with.
    fn listed_units(&self) -> usize {
        self.layer().outputs()
    }
    /// Rank of the gate, if there is one.
    fn rank(&self) -> Option<usize> {
        None
    }
    /// Whether the gate's scores are sums of bytes.
    fn scores_bytes(&self) -> bool {
        false
    }
    /// Number of units that the gate scores.
    fn scored(&self) -> usize {
        0
    }
    /// Bytes of the gate's score weights and thresholds, without the low-rank sums.
    fn score_bytes(&self) -> f64 {
        0.0
    }
    /// The phase that ends with the outputs.
    fn phase(&self) -> Phase;
    /// Phase and work of the first product of a tile.
    fn product(&self, seen: Seen) -> (Phase, Work);
    /// Phase and work of making outputs from a tile's sums; `written` bytes are written.
    fn epilogue(&self, rows: f64, written: f64) -> (Phase, Work);
    /// Bytes of the weights in use if `inputs` inputs and, for a gate, `lines` 64-byte lines of
    /// unit rows are used.
    fn weight_bytes(&self, inputs: f64, lines: f64) -> f64;
    /// Multiply-adds per row if a share `density` of the inputs is non-zero and a share `computed`
    /// of the units is computed.
    fn multiply_adds(&self, density: f64, computed: f64) -> f64;
}
