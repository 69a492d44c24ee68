//! Reads the first layer's input from the caller's rows.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::kernels::pairs;
use crate::kernels::scan::{
    CopyBytes, CountBytes, FromBytes, INPUT_RANGE, Quantize, Scan, ScanBytes, ScanPairs,
};
use crate::layout::PANEL;
use crate::model::InputMap;
use crate::path::{LayerPath, Path, Phase, QuantizedLayer, ToBytes, Watch};
use crate::plan::Precision;
use crate::rows::{Data, Rows};
use crate::signal::{self, Buffer, ByteRowsMut, DenseRows, Form, RowRange, Signal, SparseRows};
use crate::simd::Isa;

/// Rows of a tile that are counted to choose the form of its lists.
const SAMPLE: usize = 4;

/// Marks of rows, set while they are quantised.
pub(super) struct Marks<'a> {
    /// Set for rows with a value that is not finite.
    pub(super) non_finite: &'a mut [bool],
    /// Set for rows with a value outside `range`.
    pub(super) out_of_range: &'a [AtomicBool],
    /// Range of a value before it is rounded.
    pub(super) range: (f32, f32),
}

/// Turns the caller's rows into the first layer's input.
pub(super) struct Read {
    isa: Isa,
    form: Form,
    /// Quantises the rows, if the form is of bytes.
    int8: Option<Arc<QuantizedLayer>>,
    /// Applied to f32 rows, unless it is folded into the weights.
    map: Option<Arc<InputMap>>,
    /// Number of panels that lists are multiplied with.
    panels: usize,
}

impl Read {
    pub(super) fn new(
        isa: Isa,
        map_on_read: Option<&Arc<InputMap>>,
        path: &LayerPath,
        form: Form,
        int8: Option<Arc<QuantizedLayer>>,
    ) -> Read {
        let int8 = int8.filter(|_| form.is_bytes());
        let map = map_on_read.filter(|_| !form.is_bytes()).cloned();
        Read { isa, form, int8, map, panels: path.listed_units().div_ceil(PANEL) }
    }

    /// Whether rows are mapped as they are read.
    pub(super) fn maps(&self) -> bool {
        self.map.is_some()
    }

    /// The form of the input that is made from these rows.
    pub(super) fn form(&self, rows: Rows<'_>) -> Form {
        match rows.data {
            _ if self.form.is_bytes() => self.form,
            _ if self.map.is_some() => Form { rows: true, ..self.form },
            Data::F32 { .. } => Form { rows: true, ..self.form },
            Data::U8 { .. } => self.form,
            Data::Csr { .. } => Form::lists(Precision::F32),
        }
    }

    /// Reads a tile, without a copy where possible.
    pub(super) fn run<'a>(
        &self,
        rows: Rows<'a>,
        buffer: &'a mut Buffer,
        spare: &mut Buffer,
        marks: (&mut [bool], &[AtomicBool]),
        watch: &mut impl Watch,
    ) -> Signal<'a> {
        let (Rows { rows: n, columns, data }, form) = (rows, self.form);
        if let Some(int8) = &self.int8 {
            self.bytes(int8, rows, buffer, spare, marks);
            watch.step(Phase::Quantize);
            if form.lists {
                self.list_bytes(buffer, n, columns);
                watch.step(Phase::Scan);
            }
            return buffer.signal(n, columns, form);
        }
        if let Some(map) = &self.map {
            return self.mapped(rows, map, buffer, watch);
        }
        match data {
            Data::F32 { data, stride } => {
                let rows = DenseRows::new(data, n, columns, stride);
                if !form.lists {
                    return Signal::Floats(signal::Parts::Rows(rows));
                }
                let (_, lists) = buffer.write_floats(n, columns, Form::lists(Precision::F32));
                if let Some(lists) = lists {
                    self.isa.run_floats(Scan { rows, lists });
                }
                watch.step(Phase::Scan);
                Signal::Floats(signal::Parts::Both(rows, buffer.lists(n, columns)))
            }
            Data::U8 { data, stride } => {
                let (dense, lists) = buffer.write_floats(n, columns, form);
                self.isa.run_floats(FromBytes { data, stride, rows: n, columns, dense, lists });
                watch.step(if form.lists { Phase::ConvertScan } else { Phase::Convert });
                buffer.signal(n, columns, form)
            }
            Data::Csr { starts, index, value } => {
                let row_ranges = buffer.row_ranges(n);
                for (row_range, pair) in row_ranges.iter_mut().zip(starts.windows(2)) {
                    let start = pair[0] as usize;
                    *row_range = RowRange { start, len: pair[1] as usize - start };
                }
                Signal::Floats(signal::Parts::Lists(SparseRows {
                    columns,
                    index,
                    value,
                    row_ranges,
                }))
            }
        }
    }

    /// Writes the rows as bytes.
    fn bytes(
        &self,
        int8: &QuantizedLayer,
        rows: Rows<'_>,
        buffer: &mut Buffer,
        spare: &mut Buffer,
        (non_finite, out_of_range): (&mut [bool], &[AtomicBool]),
    ) {
        let Rows { rows: n, columns, data } = rows;
        let (Some(bytes), _) = buffer.write_bytes(n, columns, Form::rows(Precision::Int8)) else {
            unreachable!("rows were asked for")
        };
        let marks = Marks { non_finite, out_of_range, range: INPUT_RANGE };
        match data {
            Data::U8 { data, stride } if int8.input.is_identity() => {
                self.isa.run_floats(CopyBytes { data, stride, rows: n, columns, bytes });
            }
            Data::F32 { data, stride } => {
                let rows = DenseRows::new(data, n, columns, stride);
                quantize(self.isa, rows, bytes, int8.to_bytes(), marks);
            }
            _ => {
                let (dense, _) = spare.write_floats(n, columns, Form::rows(Precision::F32));
                if let Some(mut dense) = dense {
                    (0..n).for_each(|r| rows.copy_row(r, dense.row(r)));
                }
                quantize(self.isa, spare.dense(n, columns), bytes, int8.to_bytes(), marks);
            }
        }
    }

    /// Lists the non-zero bytes in the form that makes the first layer faster.
    fn list_bytes(&self, buffer: &mut Buffer, n: usize, columns: usize) {
        let in_pairs = self.isa.dot_products() && n > 1 && {
            let sample = n.min(SAMPLE);
            let rows = buffer.padded_bytes(sample, columns);
            let (bytes, words) = self.isa.run(CountBytes { rows });
            pairs::pay(columns, self.panels, sample, bytes, words)
        };
        if in_pairs {
            let (rows, lists) = buffer.list_pairs(n, columns);
            self.isa.run(ScanPairs { rows, lists });
        } else {
            let (rows, lists) = buffer.list_bytes(n, columns);
            self.isa.run_lister(ScanBytes { rows, columns, lists });
        }
    }

    /// Applies a map that is not folded into the weights.
    fn mapped<'a>(
        &self,
        rows: Rows<'a>,
        map: &InputMap,
        buffer: &'a mut Buffer,
        watch: &mut impl Watch,
    ) -> Signal<'a> {
        let (n, columns) = (rows.rows, rows.columns);
        let (dense, _) = buffer.write_floats(n, columns, Form::rows(Precision::F32));
        if let Some(mut dense) = dense {
            for r in 0..n {
                let dst = dense.row(r);
                rows.copy_row(r, dst);
                for (i, x) in dst.iter_mut().enumerate() {
                    *x = *x * map.scale(i) + map.shift(i);
                }
            }
        }
        watch.step(Phase::Convert);
        if self.form.lists {
            let (rows, lists) = buffer.list_dense(n, columns);
            self.isa.run_floats(Scan { rows, lists });
            watch.step(Phase::Scan);
        }
        buffer.signal(n, columns, Form { rows: true, ..self.form })
    }
}

/// Quantises dense rows.
pub(super) fn quantize(
    isa: Isa,
    rows: DenseRows<'_>,
    bytes: ByteRowsMut<'_>,
    ToBytes { inverse, offset }: &ToBytes,
    Marks { non_finite, out_of_range, range }: Marks<'_>,
) {
    let out_of_range = Some(out_of_range);
    isa.run_floats(Quantize { rows, inverse, offset, bytes, non_finite, out_of_range, range });
}
