//! Whole calls: the number of threads, and how the work is divided among them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::program::{LayerProgram, Program};
use super::tile::run_marking;
use super::{lanes, single};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::path::{Path, Unwatched};
use crate::pool::{self, Team};
use crate::rows::Rows;
use crate::signal::Form;

/// Rows of the smallest tile when threads share the rows.
const LEAST_TILE: usize = 4;

/// How a call's work is divided; `gain` is a lower estimate of the time that this saves.
enum Schedule {
    /// One tile, on the calling thread.
    Alone,
    /// One tile; threads share the units of its dense layers.
    Units { threads: usize, gain: Duration },
    /// Threads share the tiles.
    Rows { threads: usize, gain: Duration },
}

/// Runs all rows of a call on up to `threads` threads. Returns the rows that must be recomputed, in
/// order.
pub(super) fn run_marking_all(
    program: &Program,
    rows: Rows<'_>,
    out: &mut [f32],
    threads: Option<usize>,
) -> Result<Vec<usize>> {
    if rows.rows == 0 {
        return Ok(Vec::new());
    }
    let threads = threads.map_or_else(pool::num_threads, Ok)?;
    match schedule(program, rows, threads) {
        Schedule::Alone => one_tile(program, rows, out, &pool::ALONE),
        Schedule::Units { threads, gain } => {
            one_tile(program, rows, out, &Team::new(threads, gain))
        }
        Schedule::Rows { threads, gain } => {
            many_tiles(program, rows, out, &Team::new(threads, gain))
        }
    }
}

/// Runs a call on one row on this thread. Returns whether `out` has the result; if not, the row must
/// be recomputed.
pub(super) fn one_row(program: &Program, row: Rows<'_>, out: &mut [f32]) -> bool {
    let in_one_kernel = program.single.and_then(|single| single::run(single, program, row, out));
    in_one_kernel
        .unwrap_or_else(|| run_marking(program, row, out, &pool::ALONE, &mut Unwatched).is_empty())
}

/// Runs a call that is one tile. Returns the rows that must be recomputed.
fn one_tile(program: &Program, rows: Rows<'_>, out: &mut [f32], team: &Team) -> Result<Vec<usize>> {
    let marked_rows = if rows.rows == 1 && team.threads() == 1 {
        if one_row(program, rows, out) { Vec::new() } else { vec![0] }
    } else {
        run_tile(program, rows, out, team)
    };
    if interrupt::is_long(program.weights, rows.rows) {
        interrupt::check()?;
    }
    Ok(marked_rows)
}

/// Runs a tile. Returns the rows that must be recomputed.
fn run_tile(program: &Program, rows: Rows<'_>, out: &mut [f32], team: &Team) -> Vec<usize> {
    // No row that is computed in lanes has to be recomputed.
    let done = lanes::run(program, rows, out);
    if done == rows.rows {
        return Vec::new();
    }
    let (rows, out) = (rows.slice(done, rows.rows - done), &mut out[done * program.outputs()..]);
    let mut marked = run_marking(program, rows, out, team, &mut Unwatched);
    for row in &mut marked {
        *row += done;
    }
    marked
}

/// Runs a call tile by tile. Returns the rows that must be recomputed, in order.
fn many_tiles(
    program: &Program,
    rows: Rows<'_>,
    out: &mut [f32],
    team: &Team,
) -> Result<Vec<usize>> {
    // Rows are divided among the threads that joined.
    let (tile, tiles) = tiles(program, rows.rows, team.threads());
    let long = interrupt::is_long(program.weights, rows.rows);
    let marked_rows = Mutex::new(Vec::new());
    let parts =
        OutTiles { start: out.as_mut_ptr(), len: out.len(), tile: tile * program.outputs() };
    let caller = thread::current().id();
    let interrupted = AtomicBool::new(false);
    team.run(tiles, |i| {
        if interrupted.load(Ordering::Relaxed) {
            return;
        }
        let stop = || thread::current().id() == caller && interrupt::requested();
        if stop() {
            interrupted.store(true, Ordering::Relaxed);
            return;
        }
        let first = i * tile;
        let count = tile.min(rows.rows - first);
        // SAFETY: a team gets every tile number once, so no two tiles overlap.
        let out = unsafe { parts.tile(i) };
        let rows = rows.slice(first, count);
        let marked = run_tile(program, rows, out, &pool::ALONE);
        if long && stop() {
            interrupted.store(true, Ordering::Relaxed);
            return;
        }
        if !marked.is_empty() {
            let mut all = marked_rows.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(marked.iter().map(|row| first + row));
        }
    });
    if interrupted.into_inner() {
        return Err(Error::Interrupted);
    }
    let mut marked_rows = marked_rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    marked_rows.sort_unstable();
    Ok(marked_rows)
}

/// Rows of a tile and number of tiles, if `threads` threads share them.
fn tiles(program: &Program, rows: usize, threads: usize) -> (usize, usize) {
    let share = rows.div_ceil(threads).next_multiple_of(LEAST_TILE);
    let tile = if threads == 1 { program.tile } else { program.tile.min(share) };
    (tile, rows.div_ceil(tile))
}

/// Chooses the fastest schedule on up to `threads` threads.
fn schedule(program: &Program, rows: Rows<'_>, threads: usize) -> Schedule {
    let (n, one_tile) = (rows.rows, rows.rows <= program.tile);
    let serial_time = if threads > 1 { least_time(program, rows, 1) } else { Duration::ZERO };
    if !pool::worth_sharing(serial_time) {
        let alone = Schedule::Rows { threads: 1, gain: Duration::ZERO };
        return if one_tile { Schedule::Alone } else { alone };
    }
    let (tile, tiles) = tiles(program, n, threads);
    let by_rows = threads.min(tiles);
    let rows_of_one = (tile * tiles.div_ceil(by_rows)).min(n);
    let time_by_rows = least_time(program, rows.slice(0, rows_of_one), 1);
    if one_tile {
        let by_units = threads_for_units(program, rows, threads);
        let time_by_units = least_time(program, rows, by_units);
        if time_by_units <= time_by_rows {
            let gain = serial_time.saturating_sub(time_by_units);
            return Schedule::Units { threads: by_units, gain };
        }
    }
    if one_tile && by_rows == 1 {
        return Schedule::Alone;
    }
    Schedule::Rows { threads: by_rows, gain: serial_time.saturating_sub(time_by_rows) }
}

/// A lower estimate of the time that `rows` take. With more than one thread, units are shared.
fn least_time(program: &Program, rows: Rows<'_>, threads: usize) -> Duration {
    let (isa, mut total) = (program.isa, 0_u64);
    for (layer, form) in program.forms(rows) {
        let mut time = layer.path.least_time(isa, form, rows.rows);
        if layer.can_share(isa, form, rows.rows, threads) {
            time = layer.shared_time(isa, form, rows.rows, threads);
        }
        total = total.saturating_add(time);
    }
    Duration::from_nanos(total)
}

/// The smallest number of threads, at most `threads`, that shares every layer's units as fast as
/// all of them would.
fn threads_for_units(program: &Program, rows: Rows<'_>, threads: usize) -> usize {
    let shared = |(layer, form): &(&LayerProgram, Form)| {
        layer.can_share(program.isa, *form, rows.rows, threads)
    };
    let shared = program.forms(rows).filter(shared);
    let fewest = |panels: usize| panels.div_ceil(panels.div_ceil(threads));
    shared.map(|(layer, _)| fewest(layer.panels())).max().unwrap_or(1)
}

/// The output, divided into tiles for several threads.
struct OutTiles {
    start: *mut f32,
    len: usize,
    tile: usize,
}

// SAFETY: tiles do not overlap, and each is used by one thread (the promise of `OutTiles::tile`).
unsafe impl Sync for OutTiles {}

impl OutTiles {
    /// # Safety
    /// Each tile may be taken only once while the output is borrowed.
    #[allow(clippy::mut_from_ref)]
    unsafe fn tile(&self, tile: usize) -> &mut [f32] {
        let start = tile * self.tile;
        let len = self.tile.min(self.len - start);
        // SAFETY: start + len <= self.len, and the caller promises that nobody else has this tile.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
