//! Lists of the non-zero entries of rows.

use crate::layout::PANEL;
use crate::simd::LANES;

/// The range of one row's entries in a [`Lists`].
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// The non-zero entries of a tile's rows, as columns and values, similar to CSR.
///
/// Invariant: every range lies in both slices, and every index is below `columns`. Only `scan.rs`
/// and `epilogue.rs`, which list columns that they visit, and CSR matrices with checked indices make
/// these lists.
#[derive(Clone, Copy)]
pub(crate) struct Lists<'a> {
    pub(crate) columns: usize,
    pub(crate) index: &'a [u32],
    pub(crate) value: &'a [f32],
    pub(crate) spans: &'a [Span],
}

impl<'a> Lists<'a> {
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> (&'a [u32], &'a [f32]) {
        let Span { start, len } = self.spans[row];
        (&self.index[start..start + len], &self.value[start..start + len])
    }
}

/// The non-zero bytes of a tile's rows, as columns and values. The length of each row is filled up
/// to a multiple of four with zeros of column 0.
///
/// Invariant: every range lies in both slices and has a multiple of four entries, and every index
/// is below `columns`. Only `scan.rs` and `epilogue.rs` make these lists.
#[derive(Clone, Copy)]
pub(crate) struct ByteLists<'a> {
    pub(crate) columns: usize,
    /// int8 layers have at most 65,536 inputs.
    pub(crate) index: &'a [u16],
    pub(crate) value: &'a [u8],
    pub(crate) spans: &'a [Span],
}

impl<'a> ByteLists<'a> {
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> (&'a [u16], &'a [u8]) {
        let Span { start, len } = self.spans[row];
        (&self.index[start..start + len], &self.value[start..start + len])
    }
}

/// The words of four bytes that are non-zero in at least one of two consecutive rows, as columns
/// and the words of both rows. The last of an odd number of rows is listed alone.
///
/// Invariant: every range lies in both slices; the ranges of a pair are equally long; every index
/// is below `columns`. The columns of a pair are in the range of its first row. Only `scan.rs`
/// makes these lists.
#[derive(Clone, Copy)]
pub(crate) struct PairLists<'a> {
    /// Number of words per row.
    pub(crate) columns: usize,
    pub(crate) index: &'a [u32],
    pub(crate) value: &'a [u32],
    pub(crate) spans: &'a [Span],
}

impl<'a> PairLists<'a> {
    /// The columns of the pair that begins with `row`.
    #[inline(always)]
    pub(crate) fn columns_of(&self, row: usize) -> &'a [u32] {
        let Span { start, len } = self.spans[row];
        &self.index[start..start + len]
    }

    /// The words of one row.
    #[inline(always)]
    pub(crate) fn words_of(&self, row: usize) -> &'a [u32] {
        let Span { start, len } = self.spans[row];
        &self.value[start..start + len]
    }
}

/// The non-zeros of byte rows, in one of two forms.
#[derive(Clone, Copy)]
pub(crate) enum ListedBytes<'a> {
    Bytes(ByteLists<'a>),
    Pairs(PairLists<'a>),
}

/// Lists that are being written, with one region of `stride` entries per row.
///
/// A region has one more vector than its columns need, because compressed vectors are stored whole.
pub(crate) struct ListsMut<'a, W = f32, I = u32> {
    pub(crate) index: &'a mut [I],
    pub(crate) value: &'a mut [W],
    pub(crate) spans: &'a mut [Span],
    stride: usize,
    columns: usize,
}

impl<'a, W, I> ListsMut<'a, W, I> {
    /// Starts an empty list for each of `rows` rows of `columns` entries.
    pub(crate) fn new(
        index: &'a mut [I],
        value: &'a mut [W],
        spans: &'a mut [Span],
        rows: usize,
        columns: usize,
    ) -> Self {
        let stride = list_stride(columns);
        assert!(rows * stride <= index.len() && rows * stride <= value.len());
        for (row, span) in spans[..rows].iter_mut().enumerate() {
            *span = Span { start: row * stride, len: 0 };
        }
        ListsMut { index, value, spans, stride, columns }
    }

    /// Pointers to the end of the row's list, and its length. The caller of the raw pointers must
    /// check that the row's region has enough entries left.
    #[inline(always)]
    pub(crate) fn end(&mut self, row: usize) -> (*mut I, *mut W, &mut usize) {
        let span = &mut self.spans[row];
        debug_assert!(span.len + LANES <= self.stride);
        let end = span.start + span.len;
        (self.index[end..].as_mut_ptr(), self.value[end..].as_mut_ptr(), &mut span.len)
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }
}

/// Fills lists of bytes up to multiples of four entries, as [`ByteLists`] requires.
pub(crate) fn fill_fours(index: &mut [u16], value: &mut [u8], spans: &mut [Span]) {
    for span in spans {
        let end = span.start + span.len;
        span.len = span.len.next_multiple_of(4);
        index[end..span.start + span.len].fill(0);
        value[end..span.start + span.len].fill(0);
    }
}

/// Entries per list region for `columns` columns.
pub(crate) fn list_stride(columns: usize) -> usize {
    columns.next_multiple_of(PANEL) + LANES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fours_are_filled_up_with_zeros_of_column_0() {
        let (mut index, mut value) = ([9; 24], [8; 24]);
        let mut spans = [0, 1, 4, 6].map(|len| Span { start: 0, len });
        for (row, span) in spans.iter_mut().enumerate() {
            span.start = [0, 0, 4, 12][row];
        }
        fill_fours(&mut index, &mut value, &mut spans);
        assert_eq!(spans.map(|span| span.len), [0, 4, 4, 8]);
        assert_eq!(index[..8], [9, 0, 0, 0, 9, 9, 9, 9]);
        assert_eq!(value[..8], [8, 0, 0, 0, 8, 8, 8, 8]);
        assert_eq!(index[12..], [9, 9, 9, 9, 9, 9, 0, 0, 9, 9, 9, 9]);
    }

    #[test]
    fn each_row_has_a_region_of_its_own() {
        let stride = list_stride(65);
        assert_eq!(stride, 128 + 16);
        let (mut index, mut value) = (vec![0_u32; 3 * stride], vec![0.0_f32; 3 * stride]);
        let mut spans = [Span { start: 7, len: 7 }; 4];
        let lists = ListsMut::new(&mut index, &mut value, &mut spans, 3, 65);
        assert_eq!(lists.columns(), 65);
        let starts: Vec<_> = lists.spans[..3].iter().map(|span| (span.start, span.len)).collect();
        assert_eq!(starts, [(0, 0), (stride, 0), (2 * stride, 0)]);
    }
}
