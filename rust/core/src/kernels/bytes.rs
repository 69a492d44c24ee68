//! Lists of non-zero bytes times byte panels: int8 skip, and the int8 gate's estimate.
//!
//! ```text
//! for panel:                          # 64 units
//!     for row:
//!         sums = 0                    # four vectors of i32
//!         for a, b, c, d in list of row, four at a time:
//!             lines = panel[a], panel[b], panel[c], panel[d]      # 64 bytes each
//!             sums += dot_bytes(interleave(lines), (x[a], x[b], x[c], x[d]))
//!         epilogue(sums)
//! ```
//!
//! In batches, two panels are processed together if their sums fit the registers: indices and
//! inputs are loaded half as often, and each list is traversed half as often.
//!
//! A multiply-add of bytes takes four inputs. With fixed groups of four inputs, as in a dense
//! layer, a group must be read if any of its inputs is non-zero: at a density of 0.13 that is two
//! thirds of all lines. This kernel forms groups from whichever inputs are non-zero in a row, and
//! interleaves their weights, one line per input, in registers: eight shuffles for 64 units. Only
//! lines with a non-zero input are read. Integer sums do not depend on the order.

use super::epilogue::Epilogue;
use super::prefetch::{prefetch_part, touch_most};
use crate::kernels::arithmetic::Bytes;
use crate::layout::{BytePanels, PANEL, padded};
use crate::signal::SparseByteRows;
use crate::simd::{Kernel, LANES, Simd};

/// Multiplies each row's list with the panels.
pub(crate) struct BytesTimesPanels<'a, E> {
    pub(crate) lists: SparseByteRows<'a>,
    pub(crate) panels: &'a BytePanels,
    pub(crate) epilogue: &'a mut E,
}

/// Prefetch distance of the weights, in groups of four entries.
const PREFETCH: usize = 8;

impl<E: Epilogue<Bytes>> Kernel for BytesTimesPanels<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.lists.columns, self.panels.inputs());
        let Self { lists, panels, epilogue } = self;
        let rows = lists.row_ranges.len();
        let ahead = touch_most(lists.row_ranges, lists.columns);
        let mut p = 0;
        while p < panels.count() {
            let first = p * PANEL;
            if S::TWO_PANELS && rows > 1 && first + 2 * PANEL <= padded(panels.outputs()) {
                let (both, next) = (panels.lines_from(p, 2), panels.lines_from(p + 2, 2));
                let (a, b) = both.split_at(both.len() / 2);
                for row in 0..rows {
                    if ahead {
                        prefetch_part(simd, next, row, rows);
                    }
                    let (index, value) = lists.row(row);
                    let sums = two_panels(simd, index, value, [a, b]);
                    epilogue.store(simd, row, first, sums[0]);
                    epilogue.store(simd, row, first + PANEL, sums[1]);
                }
                p += 2;
                continue;
            }
            let (panel, next) = (panels.lines_from(p, 1), panels.lines_from(p + 1, 1));
            let vectors = (panels.outputs() - first).div_ceil(LANES).min(4);
            for row in 0..rows {
                if ahead {
                    prefetch_part(simd, next, row, rows);
                }
                let (index, value) = lists.row(row);
                // The first row of a tile finds the panel cold.
                let sums = if row == 0 {
                    one_panel::<S, true>(simd, index, value, panel, next)
                } else {
                    one_panel::<S, false>(simd, index, value, panel, next)
                };
                let [a, b, c, _] = sums;
                match vectors {
                    4 => epilogue.store(simd, row, first, sums),
                    3 => epilogue.store(simd, row, first, [a, b, c]),
                    2 => epilogue.store(simd, row, first, [a, b]),
                    _ => epilogue.store(simd, row, first, [a]),
                }
            }
            p += 1;
        }
    }
}

/// One row times two panels; `index` and `value` have whole groups of four.
#[inline(always)]
fn two_panels<S: Simd>(
    simd: S,
    index: &[u16],
    value: &[u8],
    panels: [&[u32]; 2],
) -> [[S::I32; 4]; 2] {
    assert_eq!(value.len(), index.len());
    let mut sums = [[simd.splat_i32(0); 4]; 2];
    let list = List { index: index.as_ptr(), value: value.as_ptr(), panels };
    for four in 0..index.len() / 4 {
        // SAFETY: every index is below the panels' inputs (the invariant of `SparseByteRows`), so
        // each load reads one of their lines; groups of four are within both slices.
        unsafe { add_four(simd, list, four, &mut sums) }
    }
    sums
}

/// One row times one panel; `index` and `value` have whole groups of four.
#[inline(always)]
fn one_panel<S: Simd, const COLD: bool>(
    simd: S,
    index: &[u16],
    value: &[u8],
    panel: &[u32],
    next: &[u32],
) -> [S::I32; 4] {
    assert_eq!(value.len(), index.len());
    let mut sums = [[[simd.splat_i32(0); 4]]; 2];
    let fours = index.len() / 4;
    let list = List { index: index.as_ptr(), value: value.as_ptr(), panels: [panel] };
    // SAFETY: every index is below the panel's inputs (the invariant of `SparseByteRows`), so each
    // load reads one of its lines; groups of four are within both slices. Any address may be
    // prefetched.
    unsafe {
        let mut four = 0;
        while four + 2 <= fours {
            for (chain, sums) in sums.iter_mut().enumerate() {
                if COLD {
                    // Past the end of the list, the next panel is prefetched.
                    let ahead = four + chain + PREFETCH;
                    let (lines, ahead) = if ahead < fours {
                        (panel.as_ptr(), ahead)
                    } else {
                        (next.as_ptr(), (ahead - fours).min(fours - 1))
                    };
                    for j in 0..4 {
                        let entry = *index.get_unchecked(4 * ahead + j) as usize;
                        simd.prefetch(lines.wrapping_add(entry * LANES));
                    }
                }
                add_four(simd, list, four + chain, sums);
            }
            four += 2;
        }
        if four < fours {
            add_four(simd, list, four, &mut sums[0]);
        }
    }
    let [[mut total], [odd]] = sums;
    for (sum, odd) in total.iter_mut().zip(odd) {
        *sum = simd.add_i32(*sum, odd);
    }
    total
}

/// A row's list and the panels it is multiplied with.
#[derive(Clone, Copy)]
struct List<'a, const P: usize> {
    index: *const u16,
    value: *const u8,
    panels: [&'a [u32]; P],
}

/// Adds the products of four entries.
///
/// # Safety
/// The list must have a group `four`, and its indices must be lines of the panels.
#[inline(always)]
unsafe fn add_four<S: Simd, const P: usize>(
    simd: S,
    list: List<'_, P>,
    four: usize,
    sums: &mut [[S::I32; 4]; P],
) {
    // SAFETY: the caller's promise.
    unsafe {
        // One load for four indices.
        let columns = list.index.add(4 * four).cast::<u64>().read_unaligned();
        let mut at = [0; 4];
        for (j, at) in at.iter_mut().enumerate() {
            let shift = if cfg!(target_endian = "little") { 16 * j } else { 48 - 16 * j };
            *at = ((columns >> shift) & 0xffff) as usize * LANES;
        }
        let x = simd.splat_i32(list.value.add(4 * four).cast::<i32>().read_unaligned());
        for (sums, panel) in sums.iter_mut().zip(list.panels) {
            let mut lines = [simd.splat_i32(0); 4];
            for (line, at) in lines.iter_mut().zip(at) {
                *line = simd.load_i32(panel.as_ptr().add(at));
            }
            for (sum, w) in sums.iter_mut().zip(simd.interleave(lines)) {
                *sum = simd.dot_bytes(*sum, x, w);
            }
        }
    }
}
