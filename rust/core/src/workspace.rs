//! Scratch memory of a forward pass: one per thread, grown to the largest network seen, so that a
//! call allocates nothing once a thread has run that network.

use std::cell::RefCell;

use crate::kernels::{
    Aligned, DenseRows, DenseRowsMut, Lists, ListsMut, Span, list_stride, padded, zeros,
};
use crate::simd::LANES;
use crate::strategy::Needs;

/// Everything a tile needs between its rows coming in and going out.
pub(crate) struct Workspace {
    /// The activations before and after a layer, by turns.
    pub(crate) buffers: [Buffer; 2],
    pub(crate) gate: GateScratch,
}

/// The activations between two layers: dense rows, lists of non-zeros, or both.
pub(crate) struct Buffer {
    dense: Aligned<f32>,
    index: Aligned<u32>,
    value: Aligned<f32>,
    spans: Vec<Span>,
}

/// What a gate needs between its estimate and its dot products.
pub(crate) struct GateScratch {
    /// x u, rows by rank.
    pub(crate) low_rank: Aligned<f32>,
    /// Live units, per row.
    pub(crate) live: Aligned<u32>,
    pub(crate) live_spans: Vec<Span>,
    pub(crate) unit_starts: Vec<u32>,
    pub(crate) unit_rows: Vec<u32>,
    /// Vectors of a row that are not all zero, per row.
    pub(crate) blocks: Vec<u32>,
    pub(crate) block_counts: Vec<u32>,
}

impl Default for GateScratch {
    fn default() -> GateScratch {
        GateScratch {
            low_rank: Aligned::new(64),
            live: Aligned::new(64),
            live_spans: Vec::new(),
            unit_starts: Vec::new(),
            unit_rows: Vec::new(),
            blocks: Vec::new(),
            block_counts: Vec::new(),
        }
    }
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::new(Workspace::new());
}

impl Workspace {
    fn new() -> Workspace {
        Workspace { buffers: [Buffer::new(), Buffer::new()], gate: GateScratch::default() }
    }

    /// Calls `f` with this thread's workspace.
    pub(crate) fn with<R>(f: impl FnOnce(&mut Workspace) -> R) -> R {
        WORKSPACE.with_borrow_mut(f)
    }
}

impl GateScratch {
    /// Makes room for a gate of this rank on a layer of these widths and `rows` rows.
    pub(crate) fn reserve(&mut self, rows: usize, rank: usize, inputs: usize, units: usize) {
        grow(&mut self.low_rank, rows * padded(rank));
        grow(&mut self.live, rows * list_stride(units));
        grow_vec(&mut self.live_spans, rows);
        grow_vec(&mut self.unit_starts, units + 1);
        grow_vec(&mut self.unit_rows, rows * units);
        grow_vec(&mut self.blocks, rows * (inputs / LANES));
        grow_vec(&mut self.block_counts, rows);
    }
}

fn grow_vec<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// Replaces the buffer by a longer one where it is too short. What it held is not needed.
fn grow<T: Copy + Default>(buffer: &mut Aligned<T>, len: usize) {
    if buffer.len() < len {
        *buffer = zeros(len);
    }
}

impl Buffer {
    fn new() -> Buffer {
        Buffer {
            dense: Aligned::new(64),
            index: Aligned::new(64),
            value: Aligned::new(64),
            spans: Vec::new(),
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

    /// Room for dense rows and empty lists of `rows` rows, whichever are needed.
    pub(crate) fn write(
        &mut self,
        rows: usize,
        columns: usize,
        needs: Needs,
    ) -> (Option<DenseRowsMut<'_>>, Option<ListsMut<'_>>) {
        if needs.dense {
            grow(&mut self.dense, rows * padded(columns));
        }
        if needs.lists {
            self.reserve_lists(rows, columns);
        }
        let Buffer { dense, index, value, spans } = self;
        (
            needs.dense.then(|| DenseRowsMut::new(dense, rows, columns, padded(columns))),
            needs.lists.then(|| ListsMut::new(index, value, spans, rows, columns)),
        )
    }

    fn reserve_lists(&mut self, rows: usize, columns: usize) {
        grow(&mut self.index, rows * list_stride(columns));
        grow(&mut self.value, rows * list_stride(columns));
        grow_vec(&mut self.spans, rows);
    }

    /// Reads the dense rows while lists are written: for activations that are not fused.
    pub(crate) fn rescan(&mut self, rows: usize, columns: usize) -> (DenseRows<'_>, ListsMut<'_>) {
        self.reserve_lists(rows, columns);
        let Buffer { dense, index, value, spans } = self;
        (
            DenseRows::new(dense, rows, columns, padded(columns)),
            ListsMut::new(index, value, spans, rows, columns),
        )
    }

    /// Spans only, for rows whose entries stand elsewhere (CSR).
    pub(crate) fn spans(&mut self, rows: usize) -> &mut [Span] {
        grow_vec(&mut self.spans, rows);
        &mut self.spans[..rows]
    }
}
