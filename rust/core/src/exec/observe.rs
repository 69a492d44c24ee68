//! Passes on the calling thread alone, for measurements.

use super::fallback;
use super::observer::Observer;
use super::program::Program;
use super::tile::run_marking;
use crate::error::Result;
use crate::interrupt;
use crate::memory;
use crate::path::Unwatched;
use crate::pool;
use crate::rows::Rows;
use crate::signal::DenseRows;

/// Runs all rows tile by tile on this thread and reports to an observer.
pub(crate) fn observe<O: Observer>(
    program: &Program,
    rows: Rows<'_>,
    observer: &mut O,
) -> Result<()> {
    let outputs = program.outputs();
    let mut out = memory::filled(0.0, program.tile.min(rows.rows) * outputs);
    for rows in rows.batches(program.tile) {
        run_tile(program, rows, &mut out[..rows.rows * outputs], observer)?;
    }
    Ok(())
}

/// Runs one tile on this thread.
pub(crate) fn run_tile<O: Observer>(
    program: &Program,
    rows: Rows<'_>,
    out: &mut [f32],
    observer: &mut O,
) -> Result<()> {
    if rows.rows > 0 {
        let marked = run_marking(program, rows, out, &pool::ALONE, observer);
        interrupt::check()?;
        fallback::recompute(program, rows, &marked, out, Some(1))?;
        let outputs = program.outputs();
        observer.output(DenseRows::new(out, rows.rows, outputs, outputs));
    }
    Ok(())
}

/// For each row, whether it is recomputed.
pub(crate) fn recomputed(program: &Program, rows: Rows<'_>) -> Result<Vec<bool>> {
    let (tile, outputs) = (program.tile, program.outputs());
    let mut out = memory::filled(0.0, tile.min(rows.rows) * outputs);
    let mut marks = memory::filled(false, rows.rows);
    for (rows, marks) in rows.batches(tile).zip(marks.chunks_mut(tile)) {
        interrupt::check()?;
        let out = &mut out[..rows.rows * outputs];
        for row in run_marking(program, rows, out, &pool::ALONE, &mut Unwatched) {
            marks[row] = true;
        }
    }
    Ok(marks)
}
