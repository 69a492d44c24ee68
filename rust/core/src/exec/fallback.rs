//! Whole calls. Rows with a value outside the range of some int8 layer, and rows whose margin is too
//! small, are recomputed without gates and factors: in f32, or in int8 and those that are marked again
//! in f32.

use super::program::{Program, WIDE_TILE};
use super::schedule::{one_row, run_marking_all};
use crate::error::Result;
use crate::interrupt;
use crate::memory;
use crate::rows::{Data, Rows};

/// Limits of the rows that are recomputed together: this many rows and this many bytes, but at
/// least one tile.
const GATHERED: usize = 4096;
const GATHERED_BYTES: usize = 4 << 20;

/// Number of rows up to which rows of small networks are recomputed one by one.
const FEW: usize = 6;

/// Runs all rows of a call on up to `threads` threads.
pub(crate) fn run(
    program: &Program,
    rows: Rows<'_>,
    out: &mut [f32],
    threads: Option<usize>,
) -> Result<()> {
    let marked = run_marking_all(program, rows, out, threads)?;
    recompute(program, rows, &marked, out, threads)
}

/// Runs a call on one row if that takes a few microseconds at most. Returns whether `out` has the
/// result; if not, the call needs [`run`].
pub(crate) fn run_short(program: &Program, row: Rows<'_>, out: &mut [f32]) -> bool {
    row.rows == 1 && program.is_short && one_row(program, row, out)
}

/// Recomputes the rows `marked` of a call by the program's fallback, and those that it marks by its own.
pub(super) fn recompute(
    program: &Program,
    rows: Rows<'_>,
    marked: &[usize],
    out: &mut [f32],
    threads: Option<usize>,
) -> Result<()> {
    let Some(program) = program.fallback.as_deref().filter(|_| !marked.is_empty()) else {
        return Ok(());
    };
    program.pack(true);
    // Sparse rows get the bits of dense ones, however many are recomputed.
    let is_sparse = matches!(rows.data, Data::Csr { .. });
    if program.is_short && marked.len() <= FEW && !is_sparse {
        // A few rows of a small network take less time one by one than gathered.
        let mut again = Vec::new();
        for row in marked {
            let out = &mut out[row * program.outputs()..][..program.outputs()];
            if !one_row(program, rows.slice(*row, 1), out) {
                again.push(*row);
            }
        }
        return recompute(program, rows, &again, out, threads);
    }
    let (columns, outputs) = (rows.columns, program.outputs());
    let most =
        (GATHERED_BYTES / (4 * columns.max(outputs))).clamp(WIDE_TILE, GATHERED).min(marked.len());
    let mut data = memory::filled(0.0, most * columns);
    let mut results = memory::filled(0.0, most * outputs);
    for gathered in marked.chunks(most) {
        let (n, results) = (gathered.len(), &mut results[..gathered.len() * outputs]);
        for (r, row) in gathered.iter().zip(data.chunks_exact_mut(columns)) {
            rows.copy_row(*r, row);
        }
        let data = Data::F32 { data: &data, stride: columns };
        let rows = Rows { rows: n, columns, data };
        interrupt::check()?;
        let again = run_marking_all(program, rows, results, threads)?;
        recompute(program, rows, &again, results, threads)?;
        for (r, result) in gathered.iter().zip(results.chunks_exact(outputs)) {
            out[r * outputs..][..outputs].copy_from_slice(result);
        }
    }
    Ok(())
}
