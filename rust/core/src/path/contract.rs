//! What every path answers.

use super::phase::{Phase, Seen, Watch, Work};
use super::scratch::GateScratch;
use crate::kernels::emit::Output;
use crate::model::Layer;
use crate::pool::{self, Team};
use crate::signal::{Form, Signal};
use crate::simd::Isa;

/// Who runs a layer.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) isa: Isa,
    /// The threads that share the units of a layer that can be shared.
    pub(crate) team: &'a Team,
}

impl Context<'_> {
    /// The calling thread.
    pub(crate) fn alone(isa: Isa) -> Self {
        Context { isa, team: &pool::ALONE }
    }
}

/// How a packed layer computes a tile of rows: a strategy in a precision.
pub(crate) trait Path {
    /// The layer.
    fn layer(&self) -> &Layer;
    /// The form of input that it reads.
    fn reads(&self) -> Form;
    /// What makes outputs of sums, to be completed with the activation and where they go.
    fn output(&self) -> Output<'_>;
    /// Packs the weights that it needs, for inputs that come in pairs too if `in_pairs`.
    fn pack(&self, isa: Isa, in_pairs: bool);
    /// Computes a tile; returns how many units were computed, over all rows.
    fn run(
        &self,
        context: Context<'_>,
        input: Signal<'_>,
        output: Output<'_>,
        scratch: &mut GateScratch,
        watch: &mut impl Watch,
    ) -> usize;
    /// Whether threads can share its units, where its input has this form.
    fn can_share(&self, _input: Form) -> bool {
        false
    }
    /// A lower estimate of what `rows` rows take on one thread, in nanoseconds, where they have this form.
    /// What is not dense is taken to do one of ten products, 100 of them a nanosecond.
    fn least_time(&self, _input: Form, rows: usize) -> u64 {
        let weights = (self.layer().inputs() * self.layer().outputs()) as u64;
        weights.saturating_mul(rows as u64) / 10 / 100
    }
    /// Whether it can list its outputs as bytes itself, where a unit that it does not compute is byte 0.
    fn lists_bytes(&self) -> bool {
        false
    }
    /// Units that lists of the input are multiplied with.
    fn listed_units(&self) -> usize {
        self.layer().outputs()
    }
    /// Rank of its gate, if it has one.
    fn rank(&self) -> Option<usize> {
        None
    }
    /// Whether its gate's scores are sums of bytes.
    fn scores_bytes(&self) -> bool {
        false
    }
    /// Units that its gate scores.
    fn scored(&self) -> usize {
        0
    }
    /// Bytes of what they are computed from, but for the low-rank sums.
    fn score_bytes(&self) -> f64 {
        0.0
    }
    /// The phase that ends with the outputs.
    fn phase(&self) -> Phase;
    /// The first product of a tile: its phase and its work.
    fn product(&self, seen: Seen) -> (Phase, Work);
    /// Making outputs of a tile's sums: its phase and its work, where `written` bytes are written.
    fn epilogue(&self, rows: f64, written: f64) -> (Phase, Work);
    /// Bytes of weights in use, of which `inputs` inputs and, of a gate, `lines` lines of 64 bytes are.
    fn weight_bytes(&self, inputs: f64, lines: f64) -> f64;
    /// Multiply-adds of a row, of which `density` inputs are not zero and `computed` units are computed.
    fn multiply_adds(&self, density: f64, computed: f64) -> f64;
}
