//! Scratch memory of a forward pass: one per thread, grown to the largest network seen, so that a
//! call allocates nothing once a thread has run that network, unless rows are computed anew.

use std::cell::RefCell;
use std::sync::atomic::AtomicBool;

use crate::kernels::activation::FinishRows;
use crate::kernels::emit::{Fused, LEAST_BYTE, Output, Quantized};
use crate::kernels::scan::{CountBytes, ScanBytes, ScanPairs};
use crate::layout::padded;
use crate::memory::Aligned;
use crate::model::Activation;
use crate::path::{GateScratch, QuantizedLayer};
use crate::signal::{
    ByteLists, ByteRowsMut, DenseRows, DenseRowsMut, Input, ListedBytes, Lists, ListsMut, Needs,
    PairLists, Span, byte_stride, fill_fours, grow, grow_vec, list_stride,
};

/// Everything a tile needs between its rows coming in and going out.
pub(crate) struct Workspace {
    /// The activations before and after a layer, by turns.
    pub(crate) buffers: [Buffer; 2],
    pub(crate) gate: GateScratch,
    /// Rows that hold a value that is not finite, which bytes cannot tell.
    pub(crate) invalid: Vec<bool>,
    /// Rows with a value, of the input or of a hidden layer, that has no byte.
    pub(crate) out_of_range: Vec<AtomicBool>,
}

/// The activations between two layers: dense rows, lists of non-zeros, or both, or the same as bytes.
pub(crate) struct Buffer {
    dense: Aligned<f32>,
    index: Aligned<u32>,
    value: Aligned<f32>,
    spans: Vec<Span>,
    bytes: Aligned<u32>,
    byte_index: Aligned<u16>,
    byte_values: Aligned<u8>,
    words: Aligned<u32>,
    /// Whether the lists of bytes are in pairs.
    in_pairs: bool,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::new(Workspace::new());
}

impl Workspace {
    fn new() -> Workspace {
        Workspace {
            buffers: [Buffer::new(), Buffer::new()],
            gate: GateScratch::default(),
            invalid: Vec::new(),
            out_of_range: Vec::new(),
        }
    }

    /// Calls `f` with this thread's workspace.
    pub(crate) fn with<R>(f: impl FnOnce(&mut Workspace) -> R) -> R {
        WORKSPACE.with_borrow_mut(f)
    }
}

impl Buffer {
    pub(crate) fn new() -> Buffer {
        Buffer {
            dense: Aligned::new(64),
            index: Aligned::new(64),
            value: Aligned::new(64),
            spans: Vec::new(),
            bytes: Aligned::new(64),
            byte_index: Aligned::new(64),
            byte_values: Aligned::new(64),
            words: Aligned::new(64),
            in_pairs: false,
        }
    }

    /// The dense rows written before.
    pub(crate) fn dense(&self, rows: usize, columns: usize) -> DenseRows<'_> {
        DenseRows::new(&self.dense, rows, columns, padded(columns))
    }

    /// The lists written before.
    pub(crate) fn lists(&self, rows: usize, columns: usize) -> Lists<'_> {
        Lists { columns, index: &self.index, value: &self.value, spans: &self.spans[..rows] }
    }

    /// What was written before, as far as it is needed.
    pub(crate) fn input(&self, rows: usize, columns: usize, needs: Needs) -> Input<'_> {
        Input {
            rows,
            dense: needs.dense.then(|| self.dense(rows, columns)),
            lists: needs.lists.then(|| self.lists(rows, columns)),
            bytes: needs.bytes.then(|| self.bytes(rows, columns)),
            byte_lists: needs.byte_lists.then(|| {
                if self.in_pairs {
                    ListedBytes::Pairs(self.pair_lists(rows, columns))
                } else {
                    ListedBytes::Bytes(self.byte_lists(rows, columns))
                }
            }),
        }
    }

    /// Room for what the next layer needs of `rows` rows, as far as kernels emit it: dense rows, empty
    /// lists, rows of bytes for the next layer, if it is given with the marks of rows that are out of its range.
    pub(crate) fn write<'a>(
        &'a mut self,
        rows: usize,
        columns: usize,
        needs: Needs,
        next: Option<(&'a QuantizedLayer, &'a [AtomicBool])>,
        output: &mut Output<'a>,
    ) {
        if let Some((next, out_of_range)) = next.filter(|_| needs.int8()) {
            self.reserve_bytes(rows, columns, needs);
            let offset = next.offset();
            // What is negative is byte 0 then.
            let fuse = offset == 0.0 && output.activation == Fused::Relu;
            let Buffer { spans, bytes, byte_index, byte_values, .. } = self;
            output.bytes = Some(Quantized {
                rows: needs.bytes.then(|| ByteRowsMut::new(bytes, rows, columns)),
                lists: needs
                    .byte_lists
                    .then(|| ListsMut::new(byte_index, byte_values, spans, rows, columns)),
                inverse: next.inverses(),
                offset,
                least: if fuse || output.activation.is_not_negative() {
                    f32::NEG_INFINITY
                } else {
                    LEAST_BYTE
                },
                out_of_range,
            });
            if fuse {
                output.activation = Fused::Identity;
            }
            return;
        }
        (output.dense, output.lists) = self.write_floats(rows, columns, needs);
    }

    fn reserve_bytes(&mut self, rows: usize, columns: usize, needs: Needs) {
        if needs.bytes {
            grow(&mut self.bytes, rows * byte_stride(columns));
        }
        if needs.byte_lists {
            self.in_pairs = false;
            grow(&mut self.byte_index, rows * list_stride(columns));
            grow(&mut self.byte_values, rows * list_stride(columns));
            grow_vec(&mut self.spans, rows);
        }
    }

    /// Room for dense rows alone: for an activation that is not fused, or threads that share units.
    pub(crate) fn write_whole<'a>(
        &'a mut self,
        rows: usize,
        columns: usize,
        output: &mut Output<'a>,
    ) {
        self.write(rows, columns, Needs { dense: true, ..Needs::default() }, None, output);
    }

    /// What applies an activation that is not fused to rows written before.
    pub(crate) fn finish_rows(
        &mut self,
        rows: usize,
        columns: usize,
        activation: Activation,
    ) -> FinishRows<'_> {
        let stride = padded(columns);
        FinishRows { activation, data: &mut self.dense[..rows * stride], columns, stride }
    }

    /// Room for dense rows and empty lists of `rows` rows, whichever are needed.
    pub(crate) fn write_floats(
        &mut self,
        rows: usize,
        columns: usize,
        needs: Needs,
    ) -> (Option<DenseRowsMut<'_>>, Option<ListsMut<'_>>) {
        self.reserve(rows, columns, needs);
        let Buffer { dense, index, value, spans, .. } = self;
        (
            needs.dense.then(|| DenseRowsMut::new(dense, rows, columns, padded(columns))),
            needs.lists.then(|| ListsMut::new(index, value, spans, rows, columns)),
        )
    }

    /// Room for empty lists of `rows` rows.
    pub(crate) fn write_lists(&mut self, rows: usize, columns: usize) -> ListsMut<'_> {
        self.reserve_lists(rows, columns);
        ListsMut::new(&mut self.index, &mut self.value, &mut self.spans, rows, columns)
    }

    fn reserve(&mut self, rows: usize, columns: usize, needs: Needs) {
        if needs.dense {
            grow(&mut self.dense, rows * padded(columns));
        }
        if needs.lists {
            self.reserve_lists(rows, columns);
        }
    }

    /// Reads the dense rows while rows of bytes are written: for activations that are not fused.
    pub(crate) fn requantize(
        &mut self,
        rows: usize,
        columns: usize,
    ) -> (DenseRows<'_>, ByteRowsMut<'_>) {
        grow(&mut self.bytes, rows * byte_stride(columns));
        (
            DenseRows::new(&self.dense, rows, columns, padded(columns)),
            ByteRowsMut::new(&mut self.bytes, rows, columns),
        )
    }

    fn reserve_lists(&mut self, rows: usize, columns: usize) {
        grow(&mut self.index, rows * list_stride(columns));
        grow(&mut self.value, rows * list_stride(columns));
        grow_vec(&mut self.spans, rows);
    }

    /// Reads the dense rows while lists are written: after activations that are not fused, and shared units.
    pub(crate) fn rescan(&mut self, rows: usize, columns: usize) -> (DenseRows<'_>, ListsMut<'_>) {
        self.reserve_lists(rows, columns);
        let Buffer { dense, index, value, spans, .. } = self;
        (
            DenseRows::new(dense, rows, columns, padded(columns)),
            ListsMut::new(index, value, spans, rows, columns),
        )
    }

    /// Room for `rows` rows of `columns` bytes.
    pub(crate) fn write_bytes(&mut self, rows: usize, columns: usize) -> ByteRowsMut<'_> {
        grow(&mut self.bytes, rows * byte_stride(columns));
        ByteRowsMut::new(&mut self.bytes, rows, columns)
    }

    /// The rows of bytes written before, as words.
    pub(crate) fn bytes(&self, rows: usize, columns: usize) -> DenseRows<'_, u32> {
        DenseRows::new(&self.bytes, rows, columns.div_ceil(4), byte_stride(columns))
    }

    /// Completes the lists of bytes that a kernel emitted.
    pub(crate) fn fill_fours(&mut self, rows: usize) {
        fill_fours(&mut self.byte_index, &mut self.byte_values, &mut self.spans[..rows]);
    }

    /// Reads the rows of bytes while lists of those that are not zero are written.
    pub(crate) fn scan_bytes(&mut self, rows: usize, columns: usize) -> ScanBytes<'_> {
        self.reserve_bytes(rows, columns, Needs { byte_lists: true, ..Needs::default() });
        let Buffer { bytes, byte_index, byte_values, spans, .. } = self;
        let stride = byte_stride(columns);
        ScanBytes {
            rows: DenseRows::new(bytes, rows, stride, stride),
            columns,
            lists: ListsMut::new(byte_index, byte_values, spans, rows, columns),
        }
    }

    /// Reads the first `rows` rows of bytes, to count what lists of them would hold.
    pub(crate) fn count_bytes(&self, rows: usize, columns: usize) -> CountBytes<'_> {
        let stride = byte_stride(columns);
        CountBytes { rows: DenseRows::new(&self.bytes, rows, stride, stride) }
    }

    /// Reads the rows of bytes while their pairs are listed.
    pub(crate) fn scan_pairs(&mut self, rows: usize, columns: usize) -> ScanPairs<'_> {
        self.in_pairs = true;
        let stride = byte_stride(columns);
        let columns = columns.div_ceil(4);
        grow(&mut self.index, rows * list_stride(columns));
        grow(&mut self.words, rows * list_stride(columns));
        grow_vec(&mut self.spans, rows);
        let Buffer { bytes, index, words, spans, .. } = self;
        ScanPairs {
            rows: DenseRows::new(bytes, rows, stride, stride),
            lists: ListsMut::new(index, words, spans, rows, columns),
        }
    }

    /// The lists of pairs written before.
    fn pair_lists(&self, rows: usize, columns: usize) -> PairLists<'_> {
        let (index, value, spans) = (&self.index, &self.words, &self.spans[..rows]);
        PairLists { columns: columns.div_ceil(4), index, value, spans }
    }

    /// The lists of bytes written before.
    pub(crate) fn byte_lists(&self, rows: usize, columns: usize) -> ByteLists<'_> {
        let (index, value, spans) = (&self.byte_index, &self.byte_values, &self.spans[..rows]);
        ByteLists { columns, index, value, spans }
    }

    /// Spans only, for rows whose entries stand elsewhere (CSR).
    pub(crate) fn spans(&mut self, rows: usize) -> &mut [Span] {
        grow_vec(&mut self.spans, rows);
        &mut self.spans[..rows]
    }
}
