//! The activations between two layers.

use super::form::{Form, Parts, Signal};
use super::grow::{grow, grow_vec};
use super::rows::{ByteRowsMut, DenseRows, DenseRowsMut, byte_stride, float_stride};
use super::sparse::{
    RowRange, SparseByteRows, SparseBytes, SparsePairs, SparseRows, SparseRowsMut, fill_fours,
    list_stride,
};
use crate::memory::Aligned;

/// The activations between two layers: dense rows, lists of non-zeros, or both, in f32 or bytes.
///
/// The contents must be read in the form, and with the numbers of rows and columns, in which they
/// were written.
pub(crate) struct Buffer {
    dense: Aligned<f32>,
    index: Aligned<u32>,
    value: Aligned<f32>,
    row_ranges: Vec<RowRange>,
    bytes: Aligned<u32>,
    byte_index: Aligned<u16>,
    byte_values: Aligned<u8>,
    words: Aligned<u32>,
    /// Whether the lists of bytes are lists of pairs.
    in_pairs: bool,
}

impl Buffer {
    pub(crate) fn new() -> Buffer {
        Buffer {
            dense: Aligned::new(64),
            index: Aligned::new(64),
            value: Aligned::new(64),
            row_ranges: Vec::new(),
            bytes: Aligned::new(64),
            byte_index: Aligned::new(64),
            byte_values: Aligned::new(64),
            words: Aligned::new(64),
            in_pairs: false,
        }
    }

    /// The activations that were written.
    pub(crate) fn signal(&self, rows: usize, columns: usize, form: Form) -> Signal<'_> {
        if form.is_bytes() {
            let lists = || {
                if self.in_pairs {
                    SparseBytes::Pairs(self.pair_lists(rows, columns))
                } else {
                    SparseBytes::Bytes(self.byte_lists(rows, columns))
                }
            };
            Signal::Bytes(Parts::of(form, || self.bytes(rows, columns), lists))
        } else {
            let dense = || self.dense(rows, columns);
            Signal::Floats(Parts::of(form, dense, || self.lists(rows, columns)))
        }
    }

    /// The dense rows that were written.
    pub(crate) fn dense(&self, rows: usize, columns: usize) -> DenseRows<'_> {
        DenseRows::new(&self.dense, rows, columns, float_stride(columns))
    }

    /// The lists that were written.
    pub(crate) fn lists(&self, rows: usize, columns: usize) -> SparseRows<'_> {
        SparseRows {
            columns,
            index: &self.index,
            value: &self.value,
            row_ranges: &self.row_ranges[..rows],
        }
    }

    /// The byte rows that were written, as words.
    fn bytes(&self, rows: usize, columns: usize) -> DenseRows<'_, u32> {
        DenseRows::new(&self.bytes, rows, columns.div_ceil(4), byte_stride(columns))
    }

    /// The byte rows that were written, with their padding to whole vectors.
    pub(crate) fn padded_bytes(&self, rows: usize, columns: usize) -> DenseRows<'_, u32> {
        let stride = byte_stride(columns);
        DenseRows::new(&self.bytes, rows, stride, stride)
    }

    /// The lists of pairs that were written.
    fn pair_lists(&self, rows: usize, columns: usize) -> SparsePairs<'_> {
        let (index, value, row_ranges) = (&self.index, &self.words, &self.row_ranges[..rows]);
        SparsePairs { columns: columns.div_ceil(4), index, value, row_ranges }
    }

    /// The lists of bytes that were written.
    fn byte_lists(&self, rows: usize, columns: usize) -> SparseByteRows<'_> {
        let (index, value, row_ranges) =
            (&self.byte_index, &self.byte_values, &self.row_ranges[..rows]);
        SparseByteRows { columns, index, value, row_ranges }
    }

    /// Memory for dense rows and empty lists of `rows` rows, as far as `form` has them.
    pub(crate) fn write_floats(
        &mut self,
        rows: usize,
        columns: usize,
        form: Form,
    ) -> (Option<DenseRowsMut<'_>>, Option<SparseRowsMut<'_>>) {
        if form.rows {
            grow(&mut self.dense, rows * float_stride(columns));
        }
        if form.lists {
            self.reserve_lists(rows, columns);
        }
        let Buffer { dense, index, value, row_ranges, .. } = self;
        (
            form.rows.then(|| DenseRowsMut::new(dense, rows, columns, float_stride(columns))),
            form.lists.then(|| SparseRowsMut::new(index, value, row_ranges, rows, columns)),
        )
    }

    /// Memory for byte rows and empty lists of bytes, as far as `form` has them.
    pub(crate) fn write_bytes(
        &mut self,
        rows: usize,
        columns: usize,
        form: Form,
    ) -> (Option<ByteRowsMut<'_>>, Option<SparseRowsMut<'_, u8, u16>>) {
        if form.rows {
            grow(&mut self.bytes, rows * byte_stride(columns));
        }
        if form.lists {
            self.reserve_byte_lists(rows, columns);
        }
        let Buffer { row_ranges, bytes, byte_index, byte_values, .. } = self;
        (
            form.rows.then(|| ByteRowsMut::new(bytes, rows, columns)),
            form.lists
                .then(|| SparseRowsMut::new(byte_index, byte_values, row_ranges, rows, columns)),
        )
    }

    /// Completes the lists of bytes that a kernel wrote.
    pub(crate) fn fill_fours(&mut self, rows: usize) {
        fill_fours(&mut self.byte_index, &mut self.byte_values, &mut self.row_ranges[..rows]);
    }

    /// The dense rows that were written, for changes in place, and their stride.
    pub(crate) fn dense_mut(&mut self, rows: usize, columns: usize) -> (&mut [f32], usize) {
        let stride = float_stride(columns);
        (&mut self.dense[..rows * stride], stride)
    }

    /// The dense rows that were written, and memory for lists of their non-zeros.
    pub(crate) fn list_dense(
        &mut self,
        rows: usize,
        columns: usize,
    ) -> (DenseRows<'_>, SparseRowsMut<'_>) {
        self.reserve_lists(rows, columns);
        let Buffer { dense, index, value, row_ranges, .. } = self;
        (
            DenseRows::new(dense, rows, columns, float_stride(columns)),
            SparseRowsMut::new(index, value, row_ranges, rows, columns),
        )
    }

    /// The dense rows that were written, and memory for their bytes.
    pub(crate) fn quantize_dense(
        &mut self,
        rows: usize,
        columns: usize,
    ) -> (DenseRows<'_>, ByteRowsMut<'_>) {
        grow(&mut self.bytes, rows * byte_stride(columns));
        (
            DenseRows::new(&self.dense, rows, columns, float_stride(columns)),
            ByteRowsMut::new(&mut self.bytes, rows, columns),
        )
    }

    /// The byte rows that were written, and memory for lists of their non-zeros.
    pub(crate) fn list_bytes(
        &mut self,
        rows: usize,
        columns: usize,
    ) -> (DenseRows<'_, u32>, SparseRowsMut<'_, u8, u16>) {
        self.reserve_byte_lists(rows, columns);
        let Buffer { bytes, byte_index, byte_values, row_ranges, .. } = self;
        let stride = byte_stride(columns);
        (
            DenseRows::new(bytes, rows, stride, stride),
            SparseRowsMut::new(byte_index, byte_values, row_ranges, rows, columns),
        )
    }

    /// The byte rows that were written, and memory for lists of pairs of them.
    pub(crate) fn list_pairs(
        &mut self,
        rows: usize,
        columns: usize,
    ) -> (DenseRows<'_, u32>, SparseRowsMut<'_, u32>) {
        self.in_pairs = true;
        let stride = byte_stride(columns);
        let columns = columns.div_ceil(4);
        grow(&mut self.index, rows * list_stride(columns));
        grow(&mut self.words, rows * list_stride(columns));
        grow_vec(&mut self.row_ranges, rows);
        let Buffer { bytes, index, words, row_ranges, .. } = self;
        (
            DenseRows::new(bytes, rows, stride, stride),
            SparseRowsMut::new(index, words, row_ranges, rows, columns),
        )
    }

    /// Row ranges only, for rows whose entries are in other memory (CSR).
    pub(crate) fn row_ranges(&mut self, rows: usize) -> &mut [RowRange] {
        grow_vec(&mut self.row_ranges, rows);
        &mut self.row_ranges[..rows]
    }

    fn reserve_lists(&mut self, rows: usize, columns: usize) {
        grow(&mut self.index, rows * list_stride(columns));
        grow(&mut self.value, rows * list_stride(columns));
        grow_vec(&mut self.row_ranges, rows);
    }

    fn reserve_byte_lists(&mut self, rows: usize, columns: usize) {
        self.in_pairs = false;
        grow(&mut self.byte_index, rows * list_stride(columns));
        grow(&mut self.byte_values, rows * list_stride(columns));
        grow_vec(&mut self.row_ranges, rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Precision;

    #[test]
    fn signals_have_the_form_that_was_written() {
        let mut buffer = Buffer::new();
        for (rows, lists) in [(true, false), (false, true), (true, true)] {
            let form = Form { precision: Precision::F32, rows, lists };
            let (dense, listed) = buffer.write_floats(3, 5, form);
            assert_eq!((dense.is_some(), listed.is_some()), (rows, lists));
            let signal = buffer.signal(3, 5, form);
            assert_eq!(signal.len(), 3);
            let Signal::Floats(parts) = signal else { panic!("bytes") };
            assert_eq!((parts.rows().is_some(), parts.lists().is_some()), (rows, lists));
            let form = Form { precision: Precision::Int8, ..form };
            let (bytes, listed) = buffer.write_bytes(3, 5, form);
            assert_eq!((bytes.is_some(), listed.is_some()), (rows, lists));
            let signal = buffer.signal(3, 5, form);
            assert_eq!(signal.len(), 3);
            let Signal::Bytes(parts) = signal else { panic!("floats") };
            assert_eq!((parts.rows().is_some(), parts.lists().is_some()), (rows, lists));
        }
    }

    #[test]
    fn lists_of_bytes_are_pairs_until_bytes_are_listed() {
        let (mut buffer, form) = (Buffer::new(), Form::both(Precision::Int8));
        let _ = buffer.write_bytes(4, 6, form);
        let _ = buffer.list_pairs(4, 6);
        let pairs = |buffer: &Buffer| {
            let Signal::Bytes(parts) = buffer.signal(4, 6, form) else { panic!("floats") };
            matches!(parts.lists(), Some(SparseBytes::Pairs(_)))
        };
        assert!(pairs(&buffer));
        let _ = buffer.list_bytes(4, 6);
        assert!(!pairs(&buffer));
    }
}
