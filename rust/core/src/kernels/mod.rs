//! The inner loops, each written once and generic over the instruction set.
//!
//! | file | loop | used by |
//! |---|---|---|
//! | `scan.rs` | rows in, lists of their non-zero entries out | skip, gate (first layer) |
//! | `sparse.rs` | lists of non-zeros times packed panels | skip, gate's estimate |
//! | `bytes.rs` | lists of non-zero bytes times byte panels | int8 skip, int8 gate's estimate |
//! | `pairs.rs` | lists of what is not zero in pairs of rows times panels | the same, in batches |
//! | `dense.rs` | dense rows times packed panels | dense, gate's estimate and scores |
//! | `dot.rs` | chosen units' weight rows times dense rows | gate |
//! | `arithmetic.rs` | what a multiply-add is: of f32, or of bytes four to a word | all |
//! | `activation.rs` | exponentials of finished rows | sigmoid, tanh, gelu, softmax |
//! | `peak.rs` | loads, and multiply-adds in L1: what a machine can do at best | profiles |
//! | `emit.rs` | what happens to sixteen finished sums: bias, activation, store, list, threshold | all |
//!
//! Inside a kernel no vector operation may stand in a closure: a closure is compiled as a function of
//! its own, without the instruction set's features, and its operations would not be inlined.
//!
//! Weights come in three layouts. [`Panels`] are columns of the layer, 64 at a time, input by input:
//! one input's weights to 64 units are four consecutive vectors, so a zero input is skipped by not
//! touching them, and a panel stays in L2 while a tile of rows passes over it; of bytes, four inputs
//! are one. [`BytePanels`] are the same for int8 with every input apart. [`UnitRows`] are the layer's
//! weight rows, one per unit: a unit that the gate turns off is never touched.

pub(crate) mod activation;
pub(crate) mod arithmetic;
pub(crate) mod bytes;
pub(crate) mod dense;
pub(crate) mod dot;
pub(crate) mod emit;
pub(crate) mod pairs;
pub(crate) mod peak;
pub(crate) mod scan;
pub(crate) mod sparse;

use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

use crate::memory;
pub(crate) use crate::memory::{Aligned, zeros};
use crate::simd::{Isa, Kernel, LANES, Simd};

/// An empty buffer with room for `len` weights.
fn room_for_weights<T>(len: usize) -> Aligned<T> {
    let room = memory::aligned_room(len);
    prefer_huge_pages(room.as_ptr(), len);
    room
}

/// Asks for huge pages for as many values from `start` on, if they are many; best before they are written
/// to: to be given memory page by page takes longer than to quantise and pack weights into it.
pub(crate) fn prefer_huge_pages<T>(start: *const T, len: usize) {
    #[cfg(target_os = "linux")]
    {
        /// Their size where pages are of 4 KiB; elsewhere the advice does no harm.
        const HUGE: usize = 2 << 20;
        let first = (start as usize).next_multiple_of(HUGE);
        let end = start as usize + len * size_of::<T>();
        if let Some(bytes) = end.checked_sub(first).filter(|bytes| *bytes >= HUGE) {
            // SAFETY: this advice changes the contents of no memory, whatever memory it is of. If the system
            // has no such pages, or gives none, nothing is lost.
            unsafe { libc::madvise(first as *mut _, bytes - bytes % HUGE, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, len);
}

/// `n` rounded up to whole vectors.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// Units in a full panel: four vectors, eight AVX2 registers.
pub(crate) const PANEL: usize = 4 * LANES;

/// Inputs that are packed at a time: a unit's weights to them are few cache lines, which all of them are read
/// from before the next unit's are.
const BLOCK: usize = 64;

/// A weight matrix as panels of 64 units: `[panel][input][64]`. The last panel is as many vectors
/// wide as it needs; the padding is zero.
pub(crate) struct Panels<W = f32> {
    data: Aligned<W>,
    inputs: usize,
    outputs: usize,
}

impl<W: Copy + Default> Panels<W> {
    /// Packs the matrix whose entry from input `i` to unit `o` is `weight(i, o)`; of bytes, four
    /// inputs are one.
    pub(crate) fn pack(inputs: usize, outputs: usize, weight: impl Fn(usize, usize) -> W) -> Self {
        let mut data = room_for_weights(inputs * padded(outputs));
        for first in (0..outputs).step_by(PANEL) {
            let (start, used) = (data.len(), (outputs - first).min(PANEL));
            data.resize(start + inputs * padded(used), W::default());
            Self::pack_panel(inputs, used, &mut data[start..], |i, o| weight(i, first + o));
        }
        Panels { data, inputs, outputs }
    }

    /// The same of a matrix that stands input by input.
    pub(crate) fn pack_by_input(
        inputs: usize,
        outputs: usize,
        weight: impl Fn(usize, usize) -> W,
    ) -> Self {
        let mut data = room_for_weights(inputs * padded(outputs));
        for first in (0..outputs).step_by(PANEL) {
            let (start, used) = (data.len(), (outputs - first).min(PANEL));
            data.resize(start + inputs * padded(used), W::default());
            let lines = data[start..].chunks_exact_mut(padded(used));
            for (input, line) in lines.enumerate() {
                for (o, w) in line[..used].iter_mut().enumerate() {
                    *w = weight(input, first + o);
                }
            }
        }
        Panels { data, inputs, outputs }
    }

    /// The same of a matrix of `columns` inputs, for those of them that `order` lists, in that order: lines are put in
    /// it, not weights.
    pub(crate) fn pack_in_order(
        columns: usize,
        order: &[u32],
        outputs: usize,
        weight: impl Fn(usize, usize) -> W,
    ) -> Self {
        let mut data = room_for_weights(order.len() * padded(outputs));
        let mut lines = memory::filled(W::default(), columns * padded(outputs).min(PANEL));
        for first in (0..outputs).step_by(PANEL) {
            let used = (outputs - first).min(PANEL);
            let width = padded(used);
            let lines = &mut lines[..columns * width];
            if used < width {
                lines.fill(W::default());
            }
            Self::pack_panel(columns, used, lines, |i, o| weight(i, first + o));
            for input in order {
                data.extend_from_slice(&lines[*input as usize * width..][..width]);
            }
        }
        Panels { data, inputs: order.len(), outputs }
    }

    /// The same of a matrix of which `fill(o, _)` writes all of unit `o`; units are asked for once, in order.
    pub(crate) fn pack_units(
        inputs: usize,
        outputs: usize,
        mut fill: impl FnMut(usize, &mut [W]),
    ) -> Self {
        let mut data = room_for_weights(inputs * padded(outputs));
        let mut units = memory::filled(W::default(), PANEL.min(outputs) * inputs);
        for first in (0..outputs).step_by(PANEL) {
            let (start, used) = (data.len(), (outputs - first).min(PANEL));
            for (o, unit) in units.chunks_exact_mut(inputs).take(used).enumerate() {
                fill(first + o, unit);
            }
            data.resize(start + inputs * padded(used), W::default());
            Self::pack_panel(inputs, used, &mut data[start..], |i, o| units[o * inputs + i]);
        }
        Panels { data, inputs, outputs }
    }

    fn pack_panel(inputs: usize, units: usize, data: &mut [W], weight: impl Fn(usize, usize) -> W) {
        let width = padded(units);
        for block in (0..inputs).step_by(BLOCK) {
            for o in 0..units {
                for i in block..inputs.min(block + BLOCK) {
                    data[i * width + o] = weight(i, o);
                }
            }
        }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * size_of::<W>()
    }

    /// Number of panels.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// The numbers of all panels.
    pub(crate) fn all(&self) -> Range<usize> {
        0..self.count()
    }

    /// Panel `p`: its first unit, how many vectors wide it is, and its weights.
    #[inline(always)]
    pub(crate) fn panel(&self, p: usize) -> (usize, usize, &[W]) {
        let first = p * PANEL;
        let width = (padded(self.outputs) - first).min(PANEL);
        let panel = &self.data[first * self.inputs..(first + width) * self.inputs];
        (first, width / LANES, panel)
    }
}

/// A matrix of signed bytes as panels of 64 units: `[panel][input][64]`, an input's weights to 64 units
/// being one cache line. The bytes of a line stand so that [`Simd::interleave`] brings them in order.
pub(crate) struct BytePanels {
    /// Four bytes each.
    data: Aligned<u32>,
    inputs: usize,
    outputs: usize,
}

impl BytePanels {
    /// Packs a matrix of which `fill(o, _)` writes all of unit `o`, `columns` words of the bytes of four inputs each;
    /// units are asked for once, in order. If there is an `order`, it tells which of these inputs the matrix has, and
    /// in which order: then lines are put in it.
    pub(crate) fn pack(
        isa: Isa,
        (inputs, outputs): (usize, usize),
        columns: usize,
        order: Option<&[u32]>,
        mut fill: impl FnMut(usize, &mut [u32]),
    ) -> Self {
        assert_eq!(inputs, order.map_or(inputs, <[u32]>::len));
        let len = outputs.div_ceil(PANEL) * inputs * LANES;
        let mut data = room_for_weights(len);
        let mut words = memory::filled(0, PANEL.min(outputs) * columns);
        let mut reordering = order.map(|order| (order, zeros(4 * columns * LANES)));
        for first in (0..outputs).step_by(PANEL) {
            let units = first..outputs.min(first + PANEL);
            let words = &mut words[..units.len() * columns];
            for (unit, words) in units.zip(words.chunks_exact_mut(columns)) {
                fill(unit, words);
            }
            let start = data.len();
            match &mut reordering {
                None => {
                    data.resize(start + inputs * LANES, 0);
                    isa.run(PackBytes { words, columns, lines: &mut data[start..] });
                }
                Some((order, lines)) => {
                    if words.len() < PANEL * columns {
                        lines.fill(0); // fewer units
                    }
                    isa.run(PackBytes { words, columns, lines });
                    for input in *order {
                        data.extend_from_slice(&lines[*input as usize * LANES..][..LANES]);
                    }
                }
            }
        }
        assert_eq!(data.len(), len);
        BytePanels { data, inputs, outputs }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * size_of::<u32>()
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// The lines of up to `count` panels from `p` on, sixteen words each; none past the last.
    #[inline(always)]
    pub(crate) fn from(&self, p: usize, count: usize) -> &[u32] {
        let at = |p: usize| (p * self.inputs * LANES).min(self.data.len());
        &self.data[at(p)..at(p + count)]
    }
}

/// Packs the words of up to 64 units, `columns` each, as the lines of a panel.
struct PackBytes<'a> {
    words: &'a [u32],
    columns: usize,
    lines: &'a mut [u32],
}

impl Kernel for PackBytes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        const WORDS: usize = BLOCK / 4;
        /// How many blocks ahead words are asked for: no hardware follows so many units at once.
        const PREFETCH: usize = 2;
        let PackBytes { words, columns, lines } = self;
        for (block, lines) in lines.chunks_mut(BLOCK * LANES).enumerate() {
            for (four, units) in words.chunks(4 * columns).enumerate() {
                let mut rows = [[0; WORDS]; 4];
                for (row, unit) in rows.iter_mut().zip(units.chunks_exact(columns)) {
                    let unit = &unit[block * WORDS..];
                    simd.prefetch_l2(unit.as_ptr().wrapping_add(PREFETCH * WORDS));
                    match unit.first_chunk() {
                        Some(unit) => *row = *unit,
                        None => row[..unit.len()].copy_from_slice(unit),
                    }
                }
                // Byte 16 L + 4 k + j of a line belongs to unit 16 k + 4 L + j.
                let word = 4 * (four % 4) + four / 4;
                let by_input = transposed(&rows);
                let by_input = by_input.as_flattened();
                for (line, &units) in lines.chunks_exact_mut(LANES).zip(by_input) {
                    line[word] = units;
                }
            }
        }
    }
}

/// The largest magnitude in each row of a matrix, of these columns if they are given, and whether all values are
/// finite, whatever their columns.
pub(crate) struct LargestOfRows<'a> {
    pub(crate) matrix: &'a [f32],
    pub(crate) width: usize,
    pub(crate) columns: Option<&'a [u32]>,
}

impl Kernel for LargestOfRows<'_> {
    type Output = (Vec<f32>, bool);
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> (Vec<f32>, bool) {
        // Bits of magnitudes are ordered as they are, infinity and NaN last.
        const MAGNITUDE: u32 = u32::MAX >> 1;
        let mask = if self.columns.is_some() { 0 } else { MAGNITUDE };
        let mut masks = memory::filled(mask, self.width);
        for column in self.columns.unwrap_or_default() {
            masks[*column as usize] = MAGNITUDE;
        }
        let mut largest = memory::room(self.matrix.len() / self.width);
        let mut of_all = 0;
        for row in self.matrix.chunks_exact(self.width) {
            let mut most = 0;
            for (value, mask) in row.iter().zip(&masks) {
                let bits = value.to_bits() & MAGNITUDE;
                most = most.max(bits & mask);
                of_all = of_all.max(bits);
            }
            largest.push(f32::from_bits(most));
        }
        (largest, f32::from_bits(of_all).is_finite())
    }
}

/// The bytes of four inputs to a word, for four units, as those of four units to a word, for each of the
/// four inputs.
#[inline(always)]
fn transposed<const N: usize>(units: &[[u32; N]; 4]) -> [[u32; 4]; N] {
    const EVEN: u32 = 0x00ff_00ff;
    const LOW: u32 = 0x0000_ffff;
    let mut inputs = [[0; 4]; N];
    for n in 0..N {
        let [a, b, c, d] = [0, 1, 2, 3].map(|unit| units[unit][n].to_le());
        let even = [(a & EVEN) | ((b & EVEN) << 8), (c & EVEN) | ((d & EVEN) << 8)];
        let odd = [((a >> 8) & EVEN) | (b & !EVEN), ((c >> 8) & EVEN) | (d & !EVEN)];
        inputs[n] = [
            (even[0] & LOW) | (even[1] << 16),
            (odd[0] & LOW) | (odd[1] << 16),
            (even[0] >> 16) | (even[1] & !LOW),
            (odd[0] >> 16) | (odd[1] & !LOW),
        ]
        .map(u32::from_le);
    }
    inputs
}

/// A weight matrix as one zero-padded row per unit: `[unit][input]`.
pub(crate) struct UnitRows<W = f32> {
    data: Aligned<W>,
    inputs: usize,
}

impl<W: Copy + Default> UnitRows<W> {
    /// Packs the matrix of which `fill(o, _)` writes the first `filled` inputs of unit `o`; the others are zero. Of
    /// bytes, four inputs are one.
    pub(crate) fn pack(
        inputs: usize,
        filled: usize,
        outputs: usize,
        mut fill: impl FnMut(usize, &mut [W]),
    ) -> Self {
        let stride = padded(inputs);
        let mut data = room_for_weights(outputs * stride);
        for unit in 0..outputs {
            let start = data.len();
            data.resize(start + stride, W::default());
            fill(unit, &mut data[start..][..filled]);
        }
        UnitRows { data, inputs }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * size_of::<W>()
    }

    /// The padded weights of one unit.
    #[inline(always)]
    pub(crate) fn unit(&self, unit: usize) -> &[W] {
        let stride = padded(self.inputs);
        &self.data[unit * stride..(unit + 1) * stride]
    }
}

/// Where one row's entries stand in a [`Lists`].
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// The non-zero entries of a tile's rows, as columns and values.
///
/// Invariant: every span lies in both slices and every index is below `columns`. Lists are only
/// made by `scan.rs` and `emit.rs`, which number columns they visit, and from CSR matrices whose
/// indices were checked.
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

/// The non-zero bytes of a tile's rows, as columns and values, filled up to whole fours with zeros of
/// column 0.
///
/// Invariant: every span lies in both slices and is a multiple of four long, and every index is below
/// `columns`. Only made by `scan.rs` and `emit.rs`.
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

/// The words of four bytes that are not all zero in one or the other of two neighbouring rows, as
/// columns and both rows' words. The last of an odd number of rows is listed by itself.
///
/// Invariant: every span lies in both slices; the spans of a pair are equally long; every index is
/// below `columns`. A pair's columns stand where its first row's do. Only made by `scan.rs`.
#[derive(Clone, Copy)]
pub(crate) struct PairLists<'a> {
    /// Of words.
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

/// What is not zero in rows of bytes, in one of two forms.
#[derive(Clone, Copy)]
pub(crate) enum ListedBytes<'a> {
    Bytes(ByteLists<'a>),
    Pairs(PairLists<'a>),
}

/// Dense rows at a constant distance: of f32, or of bytes four to a word.
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

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [W] {
        &self.data[row * self.stride..row * self.stride + self.columns]
    }
}

impl DenseRows<'_, u32> {
    /// The rows with their padding up to whole vectors, which any words may be in.
    pub(crate) fn padded(self) -> Self {
        DenseRows::new(self.data, self.rows, padded(self.columns), self.stride)
    }
}

/// Rows to write, at a constant distance.
pub(crate) struct RowsMut<'a, T> {
    data: *mut T,
    rows: usize,
    stride: usize,
    columns: usize,
    memory: PhantomData<&'a mut [T]>,
}

/// Dense f32 rows to write.
pub(crate) type DenseRowsMut<'a> = RowsMut<'a, f32>;

/// Rows of bytes to write, padded to whole vectors of 64: what the rows of an int8 layer's input are.
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
        // Any four bytes are a word, and a byte needs no alignment.
        let (data, stride) = (words.as_mut_ptr().cast(), 4 * stride);
        RowsMut { data, rows, stride, columns: stride, memory: PhantomData }
    }
}

impl<T> RowsMut<'_, T> {
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        self.part(row, 0, self.columns)
    }

    /// Up to `count` entries of a row from `column` on: fewer where the row ends.
    #[inline(always)]
    pub(crate) fn part(&mut self, row: usize, column: usize, count: usize) -> &mut [T] {
        assert!(row < self.rows && column <= self.columns);
        let count = count.min(self.columns - column);
        // SAFETY: rows of `columns` entries stand `stride` apart in memory that is borrowed for as long as
        // `self` is; of other parts, which other threads may have, it does not make references.
        unsafe { slice::from_raw_parts_mut(self.data.add(row * self.stride + column), count) }
    }

    /// The same rows once more.
    ///
    /// # Safety
    /// While a part of one is in use, no entry of it may be used through the other.
    pub(crate) unsafe fn again(&self) -> Self {
        RowsMut { ..*self }
    }
}

/// Words that a row of `columns` bytes takes, padded to whole vectors.
pub(crate) fn byte_stride(columns: usize) -> usize {
    padded(columns.div_ceil(4))
}

/// Lists being written, one region of `stride` entries per row.
///
/// A region has room for its columns and as much more as is stored at once: what is compressed is stored
/// whole.
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

    /// Room left in the row's region must be checked by the caller of the raw pointers.
    #[inline(always)]
    fn end(&mut self, row: usize) -> (*mut I, *mut W, &mut usize) {
        let span = &mut self.spans[row];
        debug_assert!(span.len + LANES <= self.stride);
        let end = span.start + span.len;
        (self.index[end..].as_mut_ptr(), self.value[end..].as_mut_ptr(), &mut span.len)
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }
}

/// Rows from which on a tile asks for its next panel bit by bit; fewer need too little of it.
const PREFETCH_FROM: usize = 32;

/// Bytes of weights up to which they are asked for: half of a small L2.
const PREFETCH_UP_TO: usize = 512 << 10;

/// Asks for part `part` of `parts` of the weights that come next, so that they are in L2 when they do: what
/// lists touch of them no hardware foresees. For lists that touch most lines: see [`touch_most`].
#[inline(always)]
fn prefetch_part<S: Simd, W>(simd: S, next: &[W], part: usize, parts: usize) {
    if parts >= PREFETCH_FROM && size_of_val(next) <= PREFETCH_UP_TO {
        let lines = (size_of_val(next) / 64).div_ceil(parts);
        for line in part * lines..(part + 1) * lines {
            simd.prefetch_l2(next.as_ptr().wrapping_byte_add(64 * line));
        }
    }
}

/// Whether the lists of a tile, all together, have an entry for each of `columns` columns: a panel is then
/// read for the most part.
fn touch_most(spans: &[Span], columns: usize) -> bool {
    spans.iter().map(|span| span.len).sum::<usize>() >= columns
}

/// Fills lists of bytes up to whole fours, as [`ByteLists`] has them.
pub(crate) fn fill_fours(index: &mut [u16], value: &mut [u8], spans: &mut [Span]) {
    for span in spans {
        let end = span.start + span.len;
        span.len = span.len.next_multiple_of(4);
        index[end..span.start + span.len].fill(0);
        value[end..span.start + span.len].fill(0);
    }
}

/// Entries a list region needs for `columns` columns.
pub(crate) fn list_stride(columns: usize) -> usize {
    columns.next_multiple_of(PANEL) + LANES
}
