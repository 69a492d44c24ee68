//! Dense rows times packed panels: dense layers, and the gate's estimate and scores.
//!
//! ```text
//! for panel:                          # 64 units
//!     for block of 512 inputs:        # 128 KiB of weights: stays in L2 while the rows pass
//!         for group of rows:          # as many as the instruction set's registers hold
//!             for vectors of the panel:   # all four, or fewer at a time (`Simd::whole_panel`)
//!                 sums = 0, or the sums of the previous block
//!                 for i in block:
//!                     w = panel[i]
//!                     for row in group: sums[row] += x[row][i] * w
//!                 epilogue(sums), or keep them for the next block
//! ```
//!
//! Each sum is one chain over the inputs in order, whatever the group and the block, so a row has
//! the same bits in any batch. With prepacked weights this is as fast as the best GEMM crates
//! (docs/architecture.md has the figures), so lrgate does not need one of them.
//!
//! The weights of a layer that may not be in L2 are prefetched: while the rows pass through a block,
//! they fetch the block that follows, each group of rows a part of it.

use std::cell::Cell;
use std::hint::black_box;
use std::ops::Range;

use super::arithmetic::{Arithmetic, Bytes};
use super::epilogue::Epilogue;
#[cfg(target_arch = "x86_64")]
use super::{shorts, tiles};
use crate::layout::{PANEL, Panels};
use crate::memory::{Aligned, zeros};
use crate::signal::DenseRows;
use crate::simd::{Isa, Kernel, LANES, Simd};

/// Multiplies each dense row with panels.
pub(crate) struct RowsTimesPanels<'a, A: Arithmetic, E> {
    pub(crate) rows: DenseRows<'a, A::Word>,
    pub(crate) panels: &'a Panels<A::Word>,
    /// Range of panel numbers.
    pub(crate) which: Range<usize>,
    pub(crate) epilogue: &'a mut E,
}

/// Inputs per block.
const BLOCK: usize = 512;

/// Bytes of a layer's weights from which on a tile prefetches the weights that follow: less stays
/// in L2 between calls.
const PREFETCH_FROM: usize = 768 << 10;

/// Inputs between prefetches.
const STEP: usize = 8;

/// Inputs between the weights that are multiplied and those that are prefetched into L1.
const NEAR: usize = 8;

/// Inputs per turn of a tile's loop where a tile has few sums: the loop's own instructions take time.
const UNROLL: usize = 4;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Number of rows whose sums are kept between blocks: 64 KiB, which stays in L2.
const KEPT: usize = 256;

thread_local! {
    /// The kept sums, which would take much of a small stack. The buffer is reused by the thread's
    /// next pass.
    static KEPT_SUMS: Cell<Aligned<u32>> = Cell::new(Aligned::new(64));
}

impl<A: Arithmetic, E: Epilogue<A>> Kernel for RowsTimesPanels<'_, A, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.rows.columns(), self.panels.inputs());
        let Self { rows, panels, which, epilogue } = self;
        let end = which.end;
        for p in which {
            let (first, vectors, weights) = panels.panel(p);
            assert_eq!(weights.len(), rows.columns() * vectors * LANES);
            let prefetch = panels.bytes() >= PREFETCH_FROM;
            let next = if prefetch && p + 1 < end { panels.panel(p + 1).2 } else { &[] };
            blocks(simd, rows, Panel { weights, vectors, first, prefetch, next }, epilogue);
        }
    }
}

/// Multiplies each dense row of bytes with panels: with tiles, if the instruction set has them and
/// there are enough rows.
pub(crate) fn bytes_times_panels<E: Epilogue<Bytes>>(
    isa: Isa,
    rows: DenseRows<'_, u32>,
    panels: &Panels<u32>,
    which: Range<usize>,
    epilogue: &mut E,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some((simd, amx)) = isa.with_tiles()
        && tiles::are_faster(rows.rows(), panels, &which)
    {
        return simd.run(tiles::RowsTimesTiles { amx, rows, panels, which, epilogue });
    }
    isa.run(ByteRowsTimesPanels { rows, panels, which, epilogue });
}

/// Multiplies each dense row of bytes with panels.
pub(crate) struct ByteRowsTimesPanels<'a, E> {
    pub(crate) rows: DenseRows<'a, u32>,
    pub(crate) panels: &'a Panels<u32>,
    /// Range of panel numbers.
    pub(crate) which: Range<usize>,
    pub(crate) epilogue: &'a mut E,
}

impl<E: Epilogue<Bytes>> Kernel for ByteRowsTimesPanels<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { rows, panels, which, epilogue } = self;
        #[cfg(target_arch = "x86_64")]
        if S::SHORTS && (rows.rows() > 1 || panels.inputs() >= shorts::LEAST_WORDS) {
            let Some(shorts) = simd.shorts() else { unreachable!("SHORTS") };
            return shorts::RowsTimesShorts { shorts, rows, panels, which, epilogue }.run(simd);
        }
        RowsTimesPanels::<Bytes, _> { rows, panels, which, epilogue }.run(simd);
    }
}

struct Panel<'a, W> {
    weights: &'a [W],
    /// Vectors per input.
    vectors: usize,
    /// The panel's first unit.
    first: usize,
    /// Whether to prefetch weights.
    prefetch: bool,
    /// The weights of the panel after it, if they are to be prefetched.
    next: &'a [W],
}

/// One panel and all rows.
#[inline(always)]
fn blocks<S: Simd, A: Arithmetic, E: Epilogue<A>>(
    simd: S,
    rows: DenseRows<'_, A::Word>,
    panel: Panel<'_, A::Word>,
    epilogue: &mut E,
) {
    let (n, inputs) = (rows.rows(), rows.columns());
    if inputs <= 2 * BLOCK || n <= 6 {
        let ahead = panel.next;
        let block = Block { rows, panel, inputs: (0, inputs), first: 0, last: true, ahead };
        return groups(simd, &block, n, &mut [], epilogue);
    }
    let mut sums = KEPT_SUMS.replace(Aligned::new(64));
    if sums.len() < KEPT * PANEL {
        sums = zeros(KEPT * PANEL);
    }
    let kept = A::words(&mut sums);
    let width = panel.vectors * LANES;
    let mut block = Block { rows, panel, inputs: (0, 0), first: 0, last: false, ahead: &[] };
    for start in (0..n).step_by(KEPT) {
        for from in (0..inputs).step_by(BLOCK) {
            let to = inputs.min(from + BLOCK);
            (block.inputs, block.first, block.last) = ((from, to), start, to == inputs);
            let (next, size) = (block.panel.next, BLOCK * width);
            block.ahead = match &block.panel.weights[to * width..] {
                [] => &next[..next.len().min(size)],
                rest if block.panel.prefetch => &rest[..rest.len().min(size)],
                _ => &[],
            };
            groups(simd, &block, n.min(start + KEPT), kept, epilogue);
        }
    }
    KEPT_SUMS.set(sums);
}

/// A range of inputs of one panel, and the rows that it is multiplied with.
struct Block<'a, W> {
    rows: DenseRows<'a, W>,
    panel: Panel<'a, W>,
    inputs: (usize, usize),
    /// Index of the first row, relative to the kept sums.
    first: usize,
    /// Whether this is the last block, which completes the sums.
    last: bool,
    /// The weights that follow, which are prefetched.
    ahead: &'a [W],
}

impl<'a, W> Block<'a, W> {
    /// The part of the weights that follow to prefetch during the group of rows from `row` on, one of
    /// the whole groups.
    #[inline(always)]
    fn ahead(&self, row: usize, group: usize) -> &'a [W] {
        let rows = self.rows.rows().min(self.first + KEPT) - self.first;
        let lines = size_of_val(self.ahead).div_ceil(LINE).div_ceil(rows / group);
        let size = lines * LINE / size_of::<W>();
        let start = ((row - self.first) / group * size).min(self.ahead.len());
        &self.ahead[start..self.ahead.len().min(start + size)]
    }
}

/// The rows of a block up to `end`.
#[inline(always)]
fn groups<S: Simd, A: Arithmetic, E: Epilogue<A>>(
    simd: S,
    block: &Block<'_, A::Word>,
    end: usize,
    kept: &mut [A::Word],
    epilogue: &mut E,
) {
    let rest = (end - block.first) % S::GROUP;
    let (start, whole) = (block.first, end - rest);
    if start < whole {
        let rows = (start, whole);
        // With few groups, those wait for their own weights most of the time.
        let ahead = !block.ahead.is_empty() && whole - start >= 2 * S::GROUP;
        match S::GROUP {
            6 if ahead => simd.run(Groups::<A, E, 6, true> { block, rows, kept, epilogue }),
            6 => simd.run(Groups::<A, E, 6, false> { block, rows, kept, epilogue }),
            _ if ahead => simd.run(Groups::<A, E, 2, true> { block, rows, kept, epilogue }),
            _ => simd.run(Groups::<A, E, 2, false> { block, rows, kept, epilogue }),
        }
    }
    let rows = (whole, end);
    match rest {
        5 if S::GROUP > 5 => simd.run(Groups::<A, E, 5, false> { block, rows, kept, epilogue }),
        4 if S::GROUP > 4 => simd.run(Groups::<A, E, 4, false> { block, rows, kept, epilogue }),
        3 if S::GROUP > 3 => simd.run(Groups::<A, E, 3, false> { block, rows, kept, epilogue }),
        2 if S::GROUP > 2 => simd.run(Groups::<A, E, 2, false> { block, rows, kept, epilogue }),
        // Inlined here: a single row of a small layer takes little longer than a function call.
        1 => group::<S, A, E, 1, false>(simd, block, rows, kept, epilogue),
        _ => {}
    }
}

/// Groups of R rows, which prefetch the weights that follow if AHEAD. Each R is a separate function,
/// because compile time grows faster than linearly with the size of a function.
struct Groups<'a, A: Arithmetic, E, const R: usize, const AHEAD: bool> {
    // Passed by reference, to pass few words.
    block: &'a Block<'a, A::Word>,
    rows: (usize, usize),
    kept: &'a mut [A::Word],
    epilogue: &'a mut E,
}

impl<A: Arithmetic, E: Epilogue<A>, const R: usize, const AHEAD: bool> Kernel
    for Groups<'_, A, E, R, AHEAD>
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        group::<S, A, E, R, AHEAD>(simd, self.block, self.rows, self.kept, self.epilogue);
    }
}

#[inline(always)]
fn group<S: Simd, A: Arithmetic, E: Epilogue<A>, const R: usize, const AHEAD: bool>(
    simd: S,
    block: &Block<'_, A::Word>,
    (start, end): (usize, usize),
    kept: &mut [A::Word],
    epilogue: &mut E,
) {
    for row in (start..end).step_by(R) {
        let vectors = block.panel.vectors;
        if S::whole_panel(R) {
            match vectors {
                4 => tile::<S, A, E, 4, R, AHEAD>(simd, block, row, 0, kept, epilogue),
                3 => tile::<S, A, E, 3, R, AHEAD>(simd, block, row, 0, kept, epilogue),
                2 => tile::<S, A, E, 2, R, AHEAD>(simd, block, row, 0, kept, epilogue),
                _ => tile::<S, A, E, 1, R, AHEAD>(simd, block, row, 0, kept, epilogue),
            }
        } else if R == 2 && S::GROUP > 2 {
            // The sums of two rows by one vector would be too few to hide the latency of additions.
            for at in (0..vectors - vectors % 2).step_by(2) {
                tile::<S, A, E, 2, R, AHEAD>(simd, block, row, at, kept, epilogue);
            }
            if vectors % 2 == 1 {
                tile::<S, A, E, 1, R, AHEAD>(simd, block, row, vectors - 1, kept, epilogue);
            }
        } else {
            for at in 0..vectors {
                tile::<S, A, E, 1, R, AHEAD>(simd, block, row, at, kept, epilogue);
            }
        }
    }
}

/// R rows times the panel's V vectors from `at` on, with R V sums in registers.
#[inline(always)]
fn tile<S, A, E, const V: usize, const R: usize, const AHEAD: bool>(
    simd: S,
    block: &Block<'_, A::Word>,
    row: usize,
    at: usize,
    kept: &mut [A::Word],
    epilogue: &mut E,
) where
    S: Simd,
    A: Arithmetic,
    E: Epilogue<A>,
{
    let (from, to) = block.inputs;
    // A constant if all vectors of the panel are used.
    let stride = LANES * if S::whole_panel(R) { V } else { block.panel.vectors };
    let weights = &block.panel.weights[from * stride..to * stride];
    let mut x: [&[A::Word]; R] = [&[]; R];
    for (r, x) in x.iter_mut().enumerate() {
        *x = &block.rows.row(row + r)[from..to];
    }
    let mut sums = [[A::splat(simd, A::Word::default()); V]; R];
    if from > 0 {
        let kept = &kept[(row - block.first) * PANEL..][..R * PANEL];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `kept` has R rows of four vectors.
                *sum = unsafe { A::load(simd, kept.as_ptr().add(r * PANEL + (at + v) * LANES)) };
            }
        }
    }
    let mut weights = weights[at * LANES..].as_ptr();
    // With few sums, the latency of the additions limits the speed. If the order does not affect
    // the result, each sum is split into as many as fit the registers.
    let parts = match R * V {
        _ if !A::EXACT => 1,
        1 => 4,
        2..=4 if S::TWO_PANELS => 4,
        2..=3 => 2,
        5..=8 if S::TWO_PANELS => 2,
        _ => 1,
    };
    let whole = if parts > 1 { (to - from) / parts * parts } else { 0 };
    // SAFETY: as below.
    sums = unsafe {
        match parts {
            4 => add_in_parts::<S, A, V, R, 4>(simd, &x, whole, weights, stride, sums),
            2 => add_in_parts::<S, A, V, R, 2>(simd, &x, whole, weights, stride, sums),
            _ => sums,
        }
    };
    weights = weights.wrapping_add(whole * stride);
    let (mut i, inputs) = (whole, to - from);
    // Some lines of an input are read, and others not, which hardware predicts too late.
    let near = |weights: *const A::Word| {
        for v in 0..if S::whole_panel(R) { 0 } else { V } {
            simd.prefetch(weights.wrapping_add(NEAR * stride + v * LANES));
        }
    };
    if AHEAD && at == 0 {
        let ahead = block.ahead(row, R);
        let mut left = size_of_val(ahead).div_ceil(LINE);
        let lines = left.div_ceil(((inputs - i) / STEP).max(1));
        let mut line = ahead.as_ptr();
        while i + STEP <= inputs {
            let some = lines.min(left);
            left -= some;
            for _ in 0..some {
                simd.prefetch_l2(line);
                line = line.wrapping_byte_add(LINE);
            }
            for _ in 0..STEP {
                near(weights);
                // SAFETY: as below.
                unsafe { add_input::<S, A, V, R>(simd, &x, i, weights, &mut sums) }
                weights = weights.wrapping_add(stride);
                i += 1;
            }
        }
    }
    if !S::whole_panel(R) && i + UNROLL <= inputs {
        // Hides that the rows are a constant distance apart. Their addresses would be computed from each
        // other, and what they hold read ahead, into more registers than there are.
        x = black_box(x);
        while i + UNROLL <= inputs {
            for _ in 0..UNROLL {
                near(weights);
                // SAFETY: as below.
                unsafe { add_input::<S, A, V, R>(simd, &x, i, weights, &mut sums) }
                weights = weights.wrapping_add(stride);
                i += 1;
            }
        }
    }
    for i in i..inputs {
        near(weights);
        // SAFETY: input `i` of the block has `stride` weights, of which V vectors from `at` on are
        // read, and every row has `inputs` entries.
        unsafe { add_input::<S, A, V, R>(simd, &x, i, weights, &mut sums) }
        weights = weights.wrapping_add(stride);
    }
    if block.last {
        for (r, sums) in sums.into_iter().enumerate() {
            epilogue.store(simd, row + r, block.panel.first + at * LANES, sums);
        }
    } else {
        let kept = &mut kept[(row - block.first) * PANEL..][..R * PANEL];
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                // SAFETY: `kept` has R rows of four vectors.
                unsafe { A::store(simd, kept.as_mut_ptr().add(r * PANEL + (at + v) * LANES), sum) }
            }
        }
    }
}

/// Adds the products of the first `inputs` inputs, a multiple of P, to R V sums. Each sum is split
/// into P parts, which take turns.
///
/// # Safety
/// As [`add_input`], for all these inputs, whose weights are `stride` apart.
#[inline(always)]
unsafe fn add_in_parts<S: Simd, A: Arithmetic, const V: usize, const R: usize, const P: usize>(
    simd: S,
    x: &[&[A::Word]; R],
    inputs: usize,
    mut weights: *const A::Word,
    stride: usize,
    mut sums: [[A::Vector<S>; V]; R],
) -> [[A::Vector<S>; V]; R] {
    let mut parts = [[[A::splat(simd, A::Word::default()); V]; R]; P];
    let mut i = 0;
    while i < inputs {
        for part in &mut parts {
            // SAFETY: the caller's promise.
            unsafe { add_input::<S, A, V, R>(simd, x, i, weights, part) }
            weights = weights.wrapping_add(stride);
            i += 1;
        }
    }
    for part in parts {
        for (sums, part) in sums.iter_mut().zip(part) {
            for (sum, part) in sums.iter_mut().zip(part) {
                *sum = A::add(simd, *sum, part);
            }
        }
    }
    sums
}

/// Adds the products of one input to R V sums.
///
/// # Safety
/// Every row must have entry `i`, and V vectors must be readable at `weights`.
#[inline(always)]
pub(super) unsafe fn add_input<S: Simd, A: Arithmetic, const V: usize, const R: usize>(
    simd: S,
    x: &[&[A::Word]; R],
    i: usize,
    weights: *const A::Word,
    sums: &mut [[A::Vector<S>; V]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut w = [A::splat(simd, A::Word::default()); V];
        for (v, w) in w.iter_mut().enumerate() {
            *w = A::load(simd, weights.add(v * LANES));
        }
        for (sums, x) in sums.iter_mut().zip(x) {
            let x = A::splat(simd, *x.get_unchecked(i));
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = A::mul_add(simd, x, w, *sum);
            }
        }
    }
}
