//! Dense rows of bytes times packed panels, with AVX2 alone.
//!
//! ```text
//! for block of rows:
//!     split each row into small bytes and a list of the rest
//!     for panel:                          # 64 units
//!         for group of four rows:
//!             for row:  sums = words of its list x weights
//!             for vector of the panel:
//!                 for two words:  sums += small bytes x weights
//!             epilogue(sums)
//! ```
//!
//! The instruction that multiplies bytes sums two products in 16 bits. If four bytes sum to 256 or less,
//! the sum of their products fits 16 bits, so that two words need one conversion to 32 bits. Most words
//! are that small: windows hold the largest values, and most are much smaller.
//!
//! Bytes around an offset of 128, as of signed inputs, are not. There, 128 is subtracted from the bytes
//! and added to the weights: the sum of w x is that of (w + 128) (x - 128), less 128 times the sum of
//! x - 128, plus 128 times the sum of w. The weights are then 0 to 255, so that four bytes fit if the
//! positive ones sum to 128 or less, and the negative ones to -128 or more. Where two words often do
//! not, each is converted on its own. Where single words often do not, even and odd bytes are multiplied with
//! 16 bits each, or for one row the lower seven bits of bytes and then their high bits. Sums are exact
//! in any case, so they equal those of other instruction sets.

use std::array::from_fn;
use std::cell::Cell;
use std::ops::Range;

use super::arithmetic::Bytes;
use super::epilogue::Epilogue;
use crate::layout::{PANEL, Panels};
use crate::memory::{Aligned, zeros};
use crate::signal::DenseRows;
use crate::simd::shorts::{Rest, Shorts};
use crate::simd::{LANES, Simd};

/// The least number of words of a single row with which this takes less time than vectors of bytes.
pub(crate) const LEAST_WORDS: usize = 24;

/// Rows of a group.
const GROUP: usize = Shorts::ROWS;

/// The most rows of a block.
const BLOCK: usize = 16 * GROUP;

/// The most words of a block of more than one group, so that the split rows stay in L2.
const WORDS: usize = 1 << 15;

/// The length of a row's list, in percent of its words, with which signed bytes take less time.
const LONG_UNSIGNED: usize = 30;

/// The words that are moved to a row's list because they do not fit in pairs, in percent, with which
/// converting each word takes less time.
const LONG_JOINED: usize = 15;

/// The length of lists, in percent of words, with which whole words take less time than signed bytes.
const LONG_SIGNED: usize = 45;

thread_local! {
    /// Buffers of split rows, which the thread's next pass reuses.
    static BUFFERS: Cell<(Aligned<u32>, Aligned<Rest>)> =
        Cell::new((Aligned::new(64), Aligned::new(64)));
}

/// Multiplies each dense row with panels, as `RowsTimesPanels` does.
pub(crate) struct RowsTimesShorts<'a, E> {
    pub(crate) shorts: Shorts,
    pub(crate) rows: DenseRows<'a, u32>,
    pub(crate) panels: &'a Panels<u32>,
    /// Range of panel numbers.
    pub(crate) which: Range<usize>,
    pub(crate) epilogue: &'a mut E,
}

/// Sums of a group of rows by a panel.
type Sums = [u32; GROUP * PANEL];

impl<E: Epilogue<Bytes>> RowsTimesShorts<'_, E> {
    #[inline(always)]
    pub(crate) fn run<S: Simd>(mut self, simd: S) {
        let (n, words) = (self.rows.rows(), self.rows.columns());
        assert_eq!(words, self.panels.inputs());
        let size = (WORDS / words.max(1) / GROUP * GROUP).clamp(GROUP, BLOCK).min(n.max(1));
        let (small, rest) = BUFFERS.replace((Aligned::new(64), Aligned::new(64)));
        let (lengths, totals) = ([None; BLOCK], [0; BLOCK]);
        let joined = [false; BLOCK];
        let mut split =
            Split { signed: false, first: 0, words, small, rest, lengths, totals, joined };
        let mut sums = [0; GROUP * PANEL];
        for start in (0..n).step_by(size) {
            let end = n.min(start + size);
            split.fill(self.shorts, self.rows, start..end);
            for p in self.which.clone() {
                for row in (start..end).step_by(GROUP) {
                    match end - row {
                        1 => self.group::<S, 1>(simd, row, &split, p, &mut sums),
                        2 => self.group::<S, 2>(simd, row, &split, p, &mut sums),
                        3 => self.group::<S, 3>(simd, row, &split, p, &mut sums),
                        _ => self.group::<S, GROUP>(simd, row, &split, p, &mut sums),
                    }
                }
            }
        }
        BUFFERS.set((split.small, split.rest));
    }

    /// R rows from `row` on times panel `p`.
    #[inline(always)]
    fn group<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        row: usize,
        split: &Split,
        p: usize,
        sums: &mut Sums,
    ) {
        let (first, vectors, weights) = self.panels.panel(p);
        let (words, width) = (self.rows.columns(), vectors * LANES);
        assert_eq!(weights.len(), words * width);
        let whole = split.is_whole::<R>(row);
        let how = if whole {
            How::Whole
        } else if split.signed {
            let totals = &self.panels.sums_of_bytes()[first..][..width];
            for (r, sums) in sums.chunks_exact_mut(width).take(R).enumerate() {
                let of_row = split.totals[row + r - split.first] as u32;
                for (sum, total) in sums.iter_mut().zip(totals) {
                    *sum = total.wrapping_sub(of_row) << 7;
                }
            }
            self.add_rest::<true, R>(row, split, weights, width, sums);
            How::Signed {
                joined: split.joined[row - split.first..][..R].iter().all(|joined| *joined),
            }
        } else {
            let add = split.rest::<R>(row).any(|rest| !rest.is_empty());
            if add {
                sums[..R * width].fill(0);
                self.add_rest::<false, R>(row, split, weights, width, sums);
            }
            How::Unsigned { add }
        };
        let x: [&[u32]; R] =
            from_fn(|r| if whole { self.rows.row(row + r) } else { split.row(row + r) });
        let mut v = 0;
        while v < vectors {
            let (w, sums) = (weights[v * LANES..].as_ptr(), sums[v * LANES..].as_mut_ptr());
            // SAFETY: every word has `width` weights, and every row as many sums.
            v += unsafe {
                match vectors - v {
                    4.. if R == 1 => self.vectors::<R, 4>(how, &x, w, width, sums),
                    2.. if R == 1 => self.vectors::<R, 2>(how, &x, w, width, sums),
                    _ => self.vectors::<R, 1>(how, &x, w, width, sums),
                }
            };
        }
        let (rows, sums) = (row..row + R, &sums[..R * width]);
        match vectors {
            4 => self.epilogue.store_rows::<S, 4>(simd, rows, first, sums),
            3 => self.epilogue.store_rows::<S, 3>(simd, rows, first, sums),
            2 => self.epilogue.store_rows::<S, 2>(simd, rows, first, sums),
            _ => self.epilogue.store_rows::<S, 1>(simd, rows, first, sums),
        }
    }

    /// Adds the products of the lists of R rows from `row` on, with the weights of a panel of `width`
    /// units, to the sums.
    #[inline(always)]
    fn add_rest<const SIGNED: bool, const R: usize>(
        &self,
        row: usize,
        split: &Split,
        weights: &[u32],
        width: usize,
        sums: &mut Sums,
    ) {
        for (rest, sums) in split.rest::<R>(row).zip(sums.chunks_exact_mut(width)) {
            let (shorts, w, sums) = (self.shorts, weights.as_ptr(), sums.as_mut_ptr());
            // SAFETY: every word has `width` weights, and lists have words of the row.
            unsafe {
                match width / LANES {
                    _ if rest.is_empty() => {}
                    4 => shorts.add_rest::<SIGNED, 4>(rest, w, width, sums),
                    3 => shorts.add_rest::<SIGNED, 3>(rest, w, width, sums),
                    2 => shorts.add_rest::<SIGNED, 2>(rest, w, width, sums),
                    _ => shorts.add_rest::<SIGNED, 1>(rest, w, width, sums),
                }
            }
        }
    }

    /// R rows times V vectors, and returns V.
    ///
    /// # Safety
    /// As [`Shorts::add_small`].
    #[inline(always)]
    unsafe fn vectors<const R: usize, const V: usize>(
        &self,
        how: How,
        x: &[&[u32]; R],
        w: *const u32,
        width: usize,
        sums: *mut u32,
    ) -> usize {
        let (shorts, words) = (self.shorts, self.rows.columns());
        // SAFETY: the caller's promise.
        unsafe {
            match how {
                How::Whole => shorts.multiply::<R, V>(x, words, w, width, sums),
                How::Signed { joined: true } => {
                    shorts.add_small::<true, true, R, V>(true, x, words, w, width, sums);
                }
                How::Signed { joined: false } => {
                    shorts.add_small::<true, false, R, V>(true, x, words, w, width, sums);
                }
                How::Unsigned { add } => {
                    shorts.add_small::<false, true, R, V>(add, x, words, w, width, sums);
                }
            }
        }
        V
    }
}

/// How a group of rows is multiplied.
#[derive(Clone, Copy)]
enum How {
    Whole,
    /// As small signed bytes, which are added to the sums; two words at a time if `joined`.
    Signed {
        joined: bool,
    },
    /// As small bytes, which are added to the sums if `add`.
    Unsigned {
        add: bool,
    },
}

/// The rows of a block, split into small bytes and lists of the rest.
struct Split {
    /// Whether small bytes are signed.
    signed: bool,
    /// The first row.
    first: usize,
    words: usize,
    /// (rows, words)
    small: Aligned<u32>,
    /// Lists, each with room for [`Split::room`] entries.
    rest: Aligned<Rest>,
    /// Lengths of the lists. None if a row is not split, since its list would be long.
    lengths: [Option<u32>; BLOCK],
    /// Sums of signed bytes, by row.
    totals: [i32; BLOCK],
    /// Whether the products of two words of signed bytes fit 16 bits, by row.
    joined: [bool; BLOCK],
}

impl Split {
    /// Entries of a list: for each word one half of it, words that are moved, and what writing needs.
    fn room(&self) -> usize {
        self.words + self.words * LONG_JOINED / 100 + Shorts::MORE
    }

    /// Splits rows. Some of them decide whether all become signed bytes.
    #[inline(always)]
    fn fill(&mut self, shorts: Shorts, rows: DenseRows<'_, u32>, which: Range<usize>) {
        self.first = which.start;
        let (words, room) = (self.words, self.room());
        if self.small.len() < which.len() * words {
            self.small = zeros(which.len() * words);
        }
        if self.rest.len() < which.len() * room {
            self.rest = zeros(which.len() * room);
        }
        let step = which.len().div_ceil(GROUP);
        let (mut sampled, mut long) = (0, 0);
        for i in (0..which.len()).step_by(step) {
            self.split(shorts, rows, i);
            (sampled, long) = (sampled + 1, long + usize::from(self.lengths[i].is_none()));
        }
        self.signed = 2 * long > sampled;
        for i in 0..which.len() {
            if self.signed {
                self.center(shorts, rows, i);
            } else if !i.is_multiple_of(step) {
                self.split(shorts, rows, i);
            }
        }
    }

    /// Splits row `i` of the block.
    #[inline(always)]
    fn split(&mut self, shorts: Shorts, rows: DenseRows<'_, u32>, i: usize) {
        let row = rows.row(self.first + i);
        let most = self.words * LONG_UNSIGNED / 100;
        let (small, rest) = self.parts(i);
        self.lengths[i] = shorts.split(row, small, rest, most).map(|length| length as u32);
    }

    /// Splits row `i` of the block into signed bytes. If words of the first row are not joined, no others
    /// are moved for it.
    #[inline(always)]
    fn center(&mut self, shorts: Shorts, rows: DenseRows<'_, u32>, i: usize) {
        let row = rows.row(self.first + i);
        let join = i == 0 || self.joined[0];
        let most = if join { self.words * LONG_JOINED / 100 } else { 0 };
        let (small, rest) = self.parts(i);
        let centered = shorts.center(row, small, rest, most);
        self.lengths[i] = Some(centered.length as u32);
        (self.totals[i], self.joined[i]) = (centered.sum, centered.joined);
    }

    /// The small bytes and the list of row `i` of the block.
    fn parts(&mut self, i: usize) -> (&mut [u32], &mut [Rest]) {
        let (words, room) = (self.words, self.room());
        (&mut self.small[i * words..][..words], &mut self.rest[i * room..][..room])
    }

    /// Whether R rows from `row` on are multiplied whole.
    #[inline(always)]
    fn is_whole<const R: usize>(&self, row: usize) -> bool {
        let lengths = &self.lengths[row - self.first..][..R];
        lengths.iter().copied().sum::<Option<u32>>().is_none_or(|length| {
            self.signed && length as usize > R * self.words * LONG_SIGNED / 100
        })
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &[u32] {
        &self.small[(row - self.first) * self.words..][..self.words]
    }

    /// The lists of R rows from `row` on, which are split.
    #[inline(always)]
    fn rest<const R: usize>(&self, row: usize) -> impl Iterator<Item = &[Rest]> {
        (row - self.first..row - self.first + R)
            .map(|i| &self.rest[i * self.room()..][..self.lengths[i].unwrap_or(0) as usize])
    }
}
