//! Dense rows of f32, and rows of bytes packed four to a word.

use std::marker::PhantomData;
use std::slice;

use crate::layout::padded;
use crate::simd::LANES;

/// Dense rows at a constant stride: f32, or bytes packed four to a word.
///
/// Invariant, checked by [`DenseRows::new`]: `columns` words are readable at each row's start.
#[derive(Clone, Copy)]
pub(crate) struct DenseRows<'a, W = f32> {
    data: &'a [W],
    stride: usize,
    rows: usize,
    columns: usize,
}

impl<'a, W> DenseRows<'a, W> {
    pub(crate) fn new(data: &'a [W], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(rows == 0 || (rows - 1) * stride + columns <= data.len());
        DenseRows { data, stride, rows, columns }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The words from the start of a row on, and those between the starts of rows.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn starting_at(&self, row: usize) -> (&'a [W], usize) {
        (&self.data[row * self.stride..], self.stride)
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [W] {
        &self.data[row * self.stride..row * self.stride + self.columns]
    }
}

impl DenseRows<'_, u32> {
    /// The rows with their padding to whole vectors. The padding may hold any words.
    pub(crate) fn padded(self) -> Self {
        DenseRows::new(self.data, self.rows, padded(self.columns), self.stride)
    }
}

/// Writable rows at a constant stride.
pub(crate) struct RowsMut<'a, T> {
    data: *mut T,
    rows: usize,
    stride: usize,
    columns: usize,
    memory: PhantomData<&'a mut [T]>,
}

/// Writable dense f32 rows.
pub(crate) type DenseRowsMut<'a> = RowsMut<'a, f32>;

/// Writable byte rows, padded to whole vectors of 64: the input rows of an int8 layer.
pub(crate) type ByteRowsMut<'a> = RowsMut<'a, u8>;

impl<'a> DenseRowsMut<'a> {
    pub(crate) fn new(data: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(columns <= stride || rows <= 1);
        assert!(rows == 0 || (rows - 1) * stride + columns <= data.len());
        RowsMut { data: data.as_mut_ptr(), rows, stride, columns, memory: PhantomData }
    }
}

impl<'a> ByteRowsMut<'a> {
    /// Rows of `columns` bytes and their padding.
    pub(crate) fn new(words: &'a mut [u32], rows: usize, columns: usize) -> Self {
        let stride = byte_stride(columns);
        assert!(rows * stride <= words.len());
        // Any four bytes are a valid word, and a byte needs no alignment.
        let (data, stride) = (words.as_mut_ptr().cast(), 4 * stride);
        RowsMut { data, rows, stride, columns: stride, memory: PhantomData }
    }
}

impl<T> RowsMut<'_, T> {
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        self.part(row, 0, self.columns)
    }

    /// Up to `count` entries of a row from `column` on; fewer if the row ends.
    #[inline(always)]
    pub(crate) fn part(&mut self, row: usize, column: usize, count: usize) -> &mut [T] {
        assert!(row < self.rows && column <= self.columns);
        let count = count.min(self.columns - column);
        // SAFETY: rows of `columns` entries are `stride` apart in memory that is borrowed as long
        // as `self`. The reference covers only this part; other threads may have other parts.
        unsafe { slice::from_raw_parts_mut(self.data.add(row * self.stride + column), count) }
    }

    /// A second handle to the same rows.
    ///
    /// # Safety
    /// While a part from one handle is in use, none of its entries may be used through the other.
    pub(crate) unsafe fn alias(&self) -> Self {
        RowsMut { ..*self }
    }
}

/// Numbers from one row of `columns` f32 to the next: whole vectors, and one more where rows would start
/// at the same offset in their pages, or in every second one. The rows of a group are read together, and
/// lines at the same offset compete for the same places in L1.
pub(crate) fn float_stride(columns: usize) -> usize {
    let stride = padded(columns);
    if stride.is_multiple_of(512) { stride + LANES } else { stride }
}

/// Words per row of `columns` bytes, padded to whole vectors.
pub(crate) fn byte_stride(columns: usize) -> usize {
    padded(columns.div_ceil(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_a_stride_apart() {
        let data: Vec<f32> = (0_u8..11).map(f32::from).collect();
        let rows = DenseRows::new(&data, 3, 3, 4);
        assert_eq!((rows.rows(), rows.columns()), (3, 3));
        assert_eq!([rows.row(0), rows.row(2)], [[0.0, 1.0, 2.0], [8.0, 9.0, 10.0]]);
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn rows_must_fit_their_memory() {
        let _ = DenseRows::new(&[0.0; 10], 3, 3, 4);
    }

    #[test]
    fn parts_end_with_the_row() {
        let mut data = [0.0; 11];
        let mut rows = DenseRowsMut::new(&mut data, 3, 3, 4);
        rows.part(1, 2, 16).fill(1.0);
        assert_eq!(rows.part(2, 3, 16), [0.0; 0]);
        rows.row(2).fill(2.0);
        assert_eq!(data, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn rows_of_floats_do_not_start_at_one_offset_in_their_pages() {
        assert_eq!([1, 496, 497, 512, 528].map(float_stride), [16, 496, 528, 528, 528]);
        assert_eq!(float_stride(1024), 1040);
    }

    #[test]
    fn rows_of_bytes_are_padded_to_lines() {
        assert_eq!([1, 64, 65].map(byte_stride), [16, 16, 32]);
        let mut words = [0; 32];
        let mut rows = ByteRowsMut::new(&mut words, 2, 5);
        assert_eq!(rows.row(1).len(), 64);
        rows.row(1)[..5].fill(1);
        let rows = DenseRows::new(&words, 2, 2, 16);
        assert_eq!(rows.row(1), [0x0101_0101, u32::from_ne_bytes([1, 0, 0, 0])]);
        assert_eq!(rows.padded().row(1).len(), 16);
    }
}
