//! Batches of very small networks: sixteen rows, or some groups of sixteen, pass through all layers,
//! one row in each lane of a vector.
//!
//! A layer of few units does not fill vectors that have a lane per unit. Rows do, whatever the
//! widths are. The sums and their order are those of other calls, so the results have the same
//! bits.

use std::cell::RefCell;

use super::program::{LayerProgram, Op, Program};
use crate::kernels::activation::FinishRows;
use crate::kernels::lanes::{LanesLayer, ToLanes, ToRows};
use crate::memory::Aligned;
use crate::path::Path;
use crate::rows::{Data, Rows};
use crate::signal::grow;
use crate::simd::{Kernel, LANES, Simd};

/// Several groups of sixteen rows pass through a layer together if their signals have at most this
/// many values. A layer is then looked up once for all of them, and their sums overlap.
const TOGETHER: usize = 1024;

thread_local! {
    /// The signals before and after a layer.
    static SCRATCH: RefCell<Aligned<f32>> = RefCell::new(Aligned::new(64));
}

/// Computes the first rows of a call, and returns their number: none unless they are f32. The last
/// rows, fewer than sixteen, are left out if they take less time with a lane per unit.
pub(super) fn run(program: &Program, rows: Rows<'_>, out: &mut [f32]) -> usize {
    let (Some(lanes), Data::F32 { data, stride }) = (program.lanes, rows.data) else { return 0 };
    let rest = rows.rows % LANES;
    let count = if rest < lanes.least_rows { rows.rows - rest } else { rows.rows };
    if count == 0 {
        return 0;
    }
    let size = lanes.widest.next_multiple_of(LANES) * LANES;
    let together = (TOGETHER / size).clamp(1, count.div_ceil(LANES));
    let (inputs, columns) = (rows.columns, program.outputs());
    let out = &mut out[..count * columns];
    SCRATCH.with_borrow_mut(|scratch| {
        grow(scratch, 2 * size * together);
        let (before, after) = scratch[..2 * size * together].split_at_mut(size * together);
        let (layers, out) = (&*program.layers, &mut *out);
        let call =
            Call { layers, data, stride, inputs, outputs: columns, size, before, after, out };
        program.isa.run_floats(call);
    });
    for op in &program.layers[program.layers.len() - 1].alone.after {
        if let Op::ActivateOut(activation) = op {
            let (data, stride) = (&mut *out, columns);
            program.isa.run_floats(FinishRows { activation, data, columns, stride });
        }
    }
    count
}

/// All layers of a network and rows.
struct Call<'a> {
    layers: &'a [LayerProgram],
    /// Rows of `inputs` values, `stride` apart.
    data: &'a [f32],
    stride: usize,
    inputs: usize,
    outputs: usize,
    /// Values of a signal of sixteen rows. `before` and `after` have room for several.
    size: usize,
    before: &'a mut [f32],
    after: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Call<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { layers, data, stride, inputs, outputs, size, mut before, mut after, out } = self;
        let count = out.len() / outputs;
        let block = before.len() / size * LANES;
        for begin in (0..count).step_by(block) {
            let groups = || (begin..count.min(begin + block)).step_by(LANES).enumerate();
            for (k, first) in groups() {
                let (data, rows) = (&data[first * stride..], LANES.min(count - first));
                let (x, scratch) = (&mut before[k * size..][..size], &mut after[..size]);
                ToLanes { data, rows, columns: inputs, stride, scratch }.run(simd, x);
            }
            for layer in layers {
                let Some(weights) = layer.path.dense_f32() else { unreachable!("checked before") };
                let activation = layer.alone.product.activation;
                let (panels, bias) = (weights.panels(), layer.path.output().bias);
                let layer = LanesLayer { panels, bias, activation };
                for (k, _) in groups() {
                    layer.run(simd, &before[k * size..][..size], &mut after[k * size..][..size]);
                }
                std::mem::swap(&mut before, &mut after);
            }
            for (k, first) in groups() {
                let (y, scratch) = (&before[k * size..][..size], &mut after[..size]);
                ToRows { y, columns: outputs, scratch }.run(simd, &mut out[first * outputs..]);
            }
        }
    }
}
