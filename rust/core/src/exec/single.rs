//! Single rows through dense layers, in one kernel.
//!
//! A layer of a small network takes less time than the steps around it: choosing the path, the form
//! of its input and the function for the instruction set. If all layers of a program are dense and
//! of one precision, one kernel takes a row from the first layer to the last. It computes the same
//! sums in the same order as other calls, so the results have the same bits.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use super::program::{LayerProgram, Op, Program, Single, Target};
use crate::kernels::activation::FinishRows;
use crate::kernels::arithmetic::{Arithmetic, Bytes, Floats};
use crate::kernels::dense::{ByteRowsTimesPanels, RowsTimesPanels};
use crate::kernels::epilogue::{Epilogue, Output, Quantized};
use crate::kernels::margin::is_close;
use crate::kernels::scan::{INPUT_RANGE, Quantize};
use crate::layout::Panels;
use crate::memory::Aligned;
use crate::path::Path;
use crate::plan::Precision;
use crate::rows::{Data, Rows};
use crate::signal::{ByteRowsMut, DenseRows, DenseRowsMut, grow};
use crate::simd::{Kernel, Simd};

/// The end of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    /// A value of the input is not finite, which bytes cannot represent.
    NotFinite,
    /// A value is outside the range of the bytes, or the margin is too small.
    Recompute,
}

thread_local! {
    /// The signals before and after a layer.
    static SCRATCH: RefCell<Aligned<u32>> = RefCell::new(Aligned::new(64));
}

/// Computes a row of a call. Returns whether `out` has the result; if not, the row must be
/// recomputed. `None`, and nothing is computed, if the row has to be
/// converted first.
pub(super) fn run(
    single: Single,
    program: &Program,
    row: Rows<'_>,
    out: &mut [f32],
) -> Option<bool> {
    let Data::F32 { data, .. } = row.data else { return None };
    let (isa, layers, x) = (program.isa, &*program.layers, &data[..row.columns]);
    let end = SCRATCH.with_borrow_mut(|scratch| {
        grow(scratch, 2 * single.words);
        let (scratch, out) = (scratch.split_at_mut(single.words), &mut *out);
        let pass = Pass { layers, x, scratch, out };
        match single.precision {
            Precision::F32 => isa.run_floats(FloatLayers(pass)),
            Precision::Int8 => isa.run(ByteLayers(pass)),
        }
    });
    match end {
        End::Done => {
            for op in &layers[layers.len() - 1].alone.after {
                match op {
                    Op::MarkClose(least) if is_close(*least, out) => return Some(false),
                    Op::ActivateOut(activation) => {
                        let (columns, data) = (out.len(), &mut *out);
                        isa.run_floats(FinishRows { activation, data, columns, stride: columns });
                    }
                    _ => {}
                }
            }
        }
        End::NotFinite => out.fill(f32::NAN),
        End::Recompute => {}
    }
    Some(end != End::Recompute)
}

/// A row times the weights of a layer.
#[inline(always)]
fn product<S: Simd, E: Epilogue<Floats>>(simd: S, x: &[f32], panels: &Panels, epilogue: &mut E) {
    let rows = DenseRows::new(x, 1, panels.inputs(), 0);
    RowsTimesPanels::<Floats, _> { rows, panels, which: panels.all(), epilogue }.run(simd);
}

/// A row of bytes times the weights of a layer.
#[inline(always)]
fn byte_product<S: Simd, E: Epilogue<Bytes>>(
    simd: S,
    x: &[u32],
    panels: &Panels<u32>,
    epilogue: &mut E,
) {
    let rows = DenseRows::new(x, 1, panels.inputs(), 0);
    ByteRowsTimesPanels { rows, panels, which: panels.all(), epilogue }.run(simd);
}

/// A row, the layers that it passes through, and the memory that they need.
struct Pass<'a> {
    layers: &'a [LayerProgram],
    x: &'a [f32],
    /// The signals before and after a layer.
    scratch: (&'a mut [u32], &'a mut [u32]),
    out: &'a mut [f32],
}

/// f32 layers.
struct FloatLayers<'a>(Pass<'a>);

impl Kernel for FloatLayers<'_> {
    type Output = End;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> End {
        let Pass { layers, x, scratch: (first, second), out } = self.0;
        let (mut before, mut after) = (Floats::words(first), Floats::words(second));
        for (i, layer) in layers.iter().enumerate() {
            let Some(weights) = layer.path.dense_f32() else { unreachable!("checked before") };
            let x = if i == 0 { x } else { &*before };
            let is_last = i + 1 == layers.len();
            let y = if is_last { &mut *out } else { &mut *after };
            let mut output = layer.path.output();
            output.activation = layer.alone.product.activation;
            output.dense = Some(DenseRowsMut::new(y, 1, layer.outputs, layer.outputs));
            product(simd, x, weights.panels(), &mut output);
            std::mem::swap(&mut before, &mut after);
        }
        End::Done
    }
}

/// int8 layers.
struct ByteLayers<'a>(Pass<'a>);

impl Kernel for ByteLayers<'_> {
    type Output = End;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> End {
        let Pass { layers, x, scratch: (mut before, mut after), out } = self.0;
        let (mut non_finite, marks) = ([false], [AtomicBool::new(false)]);
        for (i, layer) in layers.iter().enumerate() {
            let Some(weights) = layer.path.dense_int8() else { unreachable!("checked before") };
            if i == 0 {
                let to_bytes = weights.to_bytes();
                Quantize {
                    rows: DenseRows::new(x, 1, layer.inputs, 0),
                    inverse: &to_bytes.inverse,
                    offset: &to_bytes.offset,
                    bytes: ByteRowsMut::new(before, 1, layer.inputs),
                    non_finite: &mut non_finite,
                    out_of_range: Some(&marks),
                    range: INPUT_RANGE,
                }
                .run(simd);
                if non_finite[0] {
                    return End::NotFinite;
                }
            }
            let mut output = layer.path.output();
            output.activation = layer.alone.product.activation;
            if let Target::Bytes { next, offset, least, folded, .. } = &layer.alone.product.target {
                let rows = Some(ByteRowsMut::new(after, 1, layer.outputs));
                let (inverse, offset, least) = (next.inverses(), *offset, *least);
                let inverse = folded.is_none().then_some(inverse);
                if let Some(folded) = folded {
                    folded.apply(&mut output);
                }
                let out_of_range = &marks[..];
                let lists = None;
                let bytes = Quantized { rows, lists, inverse, offset, least, out_of_range };
                let mut output = Output { dense: None, lists: None, bytes: Some(bytes), ..output };
                byte_product(simd, before, weights.panels(), &mut output);
                std::mem::swap(&mut before, &mut after);
            } else {
                let dense = Some(DenseRowsMut::new(out, 1, layer.outputs, layer.outputs));
                let mut output = Output { dense, lists: None, bytes: None, ..output };
                byte_product(simd, before, weights.panels(), &mut output);
            }
        }
        if marks[0].load(Ordering::Relaxed) { End::Recompute } else { End::Done }
    }
}
