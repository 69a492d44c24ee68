//! Lists of the non-zero entries of rows.

use crate::layout::PANEL;
use crate::simd::LANES;

/// The range of one row's entries in a [`SparseRows`].
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct RowRange {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// The non-zero entries of a tile's rows, as columns and values, similar to CSR.
///
/// Invariant: every range lies in both slices, and every index is below `columns`. Only `scan.rs`
/// and `epilogue.rs`, which list columns that they visit, and CSR matrices with checked indices
/// make these lists.
#[derive(Clone, Copy)]
pub(crate) struct SparseRows<'a> {
    pub(crate) columns: usize,
    pub(crate) index: &'a [u32],
    pub(crate) value: &'a [f32],
    pub(crate) row_ranges: &'a [RowRange],
}

impl<'a> SparseRows<'a> {
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> (&'a [u32], &'a [f32]) {
        let RowRange { start, len } = self.row_ranges[row];
        (&self.index[start..start + len], &self.value[start..start + len])
    }
}

/// The non-zero bytes of a tile's rows, as columns and values. The length of each row is filled up
/// to a multiple of four with zeros of column 0.
///
/// Invariant: every range lies in both slices and has a multiple of four entries, and every index
/// is below `columns`. Only `scan.rs` and `epilogue.rs` make these lists.
#[derive(Clone, Copy)]
pub(crate) struct SparseByteRows<'a> {
    pub(crate) columns: usize,
    /// int8 layers have at most 65,536 inputs.
    pub(crate) index: &'a [u16],
    pub(crate) value: &'a [u8],
    pub(crate) row_ranges: &'a [RowRange],
}

impl<'a> SparseByteRows<'a> {
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> (&'a [u16], &'a [u8]) {
        let RowRange { start, len } = self.row_ranges[row];
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
pub(crate) struct SparsePairs<'a> {
    /// Number of words per row.
    pub(crate) columns: usize,
    pub(crate) index: &'a [u32],
    pub(crate) value: &'a [u32],
    pub(crate) row_ranges: &'a [RowRange],
}

impl<'a> SparsePairs<'a> {
    /// The columns of the pair that begins with `row`.
    #[inline(always)]
    pub(crate) fn columns_of(&self, row: usize) -> &'a [u32] {
        let RowRange { start, len } = self.row_ranges[row];
        &self.index[start..start + len]
    }

    /// The words of one row.
    #[inline(always)]
    pub(crate) fn words_of(&self, row: usize) -> &'a [u32] {
        let RowRange { start, len } = self.row_ranges[row];
        &self.value[start..start + len]
    }
}

/// The non-zeros of byte rows, in one of two forms.
#[derive(Clone, Copy)]
pub(crate) enum SparseBytes<'a> {
    Bytes(SparseByteRows<'a>),
    Pairs(SparsePairs<'a>),
}

/// Lists that are being written, with one region of `stride` entries per row.
///
/// A region has one more vector than its columns need, because compressed vectors are stored whole.
pub(crate) struct SparseRowsMut<'a, W = f32, I = u32> {
    pub(crate) index: &'a mut [I],
    pub(crate) value: &'a mut [W],
    pub(crate) row_ranges: &'a mut [RowRange],
    stride: usize,
    columns: usize,
}

impl<'a, W, I> SparseRowsMut<'a, W, I> {
    /// Starts an empty list for each of `rows` rows of `columns` entries.
    pub(crate) fn new(
        index: &'a mut [I],
        value: &'a mut [W],
        row_ranges: &'a mut [RowRange],
        rows: usize,
        columns: usize,
    ) -> Self {
        let stride = list_stride(columns);
        assert!(rows * stride <= index.len() && rows * stride <= value.len());
        for (row, row_range) in row_ranges[..rows].iter_mut().enumerate() {
            *row_range = RowRange { start: row * stride, len: 0 };
        }
        SparseRowsMut { index, value, row_ranges, stride, columns }
    }

    /// Pointers to the end of the row's list, and its length. The caller of the raw pointers must
    /// check that the row's region has enough entries left.
    #[inline(always)]
    pub(crate) fn end(&mut self, row: usize) -> (*mut I, *mut W, &mut usize) {
        let row_range = &mut self.row_ranges[row];
        debug_assert!(row_range.len + LANES <= self.stride);
        let end = row_range.start + row_range.len;
        (self.index[end..].as_mut_ptr(), self.value[end..].as_mut_ptr(), &mut row_range.len)
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }
}

/// Fills lists of bytes up to multiples of four entries, as [`SparseByteRows`] requires.
pub(crate) fn fill_fours(index: &mut [u16], value: &mut [u8], row_ranges: &mut [RowRange]) {
    for row_range in row_ranges {
        let end = row_range.start + row_range.len;
        row_range.len = row_range.len.next_multiple_of(4);
        index[end..row_range.start + row_range.len].fill(0);
        value[end..row_range.start + row_range.len].fill(0);
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
        let mut row_ranges = [0, 1, 4, 6].map(|len| RowRange { start: 0, len });
        for (row, row_range) in row_ranges.iter_mut().enumerate() {
            row_range.start = [0, 0, 4, 12][row];
        }
        fill_fours(&mut index, &mut value, &mut row_ranges);
        assert_eq!(row_ranges.map(|row_range| row_range.len), [0, 4, 4, 8]);
        assert_eq!(index[..8], [9, 0, 0, 0, 9, 9, 9, 9]);
        assert_eq!(value[..8], [8, 0, 0, 0, 8, 8, 8, 8]);
        assert_eq!(index[12..], [9, 9, 9, 9, 9, 9, 0, 0, 9, 9, 9, 9]);
    }

    #[test]
    fn each_row_has_a_region_of_its_own() {
        let stride = list_stride(65);
        assert_eq!(stride, 128 + 16);
        let (mut index, mut value) = (vec![0_u32; 3 * stride], vec![0.0_f32; 3 * stride]);
        let mut row_ranges = [RowRange { start: 7, len: 7 }; 4];
        let lists = SparseRowsMut::new(&mut index, &mut value, &mut row_ranges, 3, 65);
        assert_eq!(lists.columns(), 65);
        let starts: Vec<_> = lists.row_ranges[..3]
            .iter()
            .map(|row_range| (row_range.start, row_range.len))
            .collect();
        assert_eq!(starts, [(0, 0), (stride, 0), (2 * stride, 0)]);
    }
}
