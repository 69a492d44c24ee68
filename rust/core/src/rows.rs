//! Input rows as callers pass them: f32, uint8 or CSR, used in place.

use crate::error::{Csr, Error, Extent, Result, Subject};
use crate::memory;

/// A batch of input rows, borrowed.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names)] // a number of rows, as everywhere
pub struct Rows<'a> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) data: Data<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Data<'a> {
    F32 { data: &'a [f32], stride: usize },
    U8 { data: &'a [u8], stride: usize },
    Csr { starts: &'a [i32], index: &'a [u32], value: &'a [f32] },
}

impl<'a> Rows<'a> {
    /// f32 rows of `columns` values; consecutive rows start `stride` values apart.
    ///
    /// # Errors
    /// `data` is too short.
    pub fn f32(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Result<Self> {
        check_length(data.len(), rows, columns, stride)?;
        Ok(Rows { rows, columns, data: Data::F32 { data, stride } })
    }

    /// uint8 rows of `columns` values; consecutive rows start `stride` values apart.
    ///
    /// # Errors
    /// `data` is too short.
    pub fn u8(data: &'a [u8], rows: usize, columns: usize, stride: usize) -> Result<Self> {
        check_length(data.len(), rows, columns, stride)?;
        Ok(Rows { rows, columns, data: Data::U8 { data, stride } })
    }

    /// Compressed sparse rows, as in scipy: row i holds `value[starts[i]..starts[i + 1]]` in the
    /// columns `index[starts[i]..starts[i + 1]]`. Columns may be in any order; repeated columns add
    /// up.
    ///
    /// # Errors
    /// `starts` that is empty, descends or exceeds the arrays, or a column that is negative or not
    /// below `columns`.
    pub fn csr(
        starts: &'a [i32],
        index: &'a [i32],
        value: &'a [f32],
        columns: usize,
    ) -> Result<Self> {
        let wrong = |csr: Csr| Err(Error::Csr(csr));
        let Some((&first, _)) = starts.split_first() else {
            return wrong(Csr::NoStarts);
        };
        if first < 0 {
            return wrong(Csr::NegativeStart(first));
        }
        if let Some(row) = starts.windows(2).position(|pair| pair[0] > pair[1]) {
            return wrong(Csr::Descending { row, start: starts[row], end: starts[row + 1] });
        }
        let end = starts[starts.len() - 1] as usize;
        if index.len() < end {
            return wrong(Csr::FewColumns { least: end, got: index.len() });
        }
        if value.len() < end {
            return wrong(Csr::FewValues { least: end, got: value.len() });
        }
        // Read as u32, a negative column is large, so one comparison checks both bounds.
        let used = &index[first as usize..end];
        let largest = used.iter().fold(0, |largest, &i| largest.max(i as u32));
        if !used.is_empty() && largest as usize >= columns {
            let i = used.iter().position(|&i| i as u32 as usize >= columns).unwrap_or(0);
            return wrong(Csr::Column { columns, got: used[i] });
        }
        // SAFETY: i32 and u32 have the same layout.
        let index =
            unsafe { std::slice::from_raw_parts(index.as_ptr().cast::<u32>(), index.len()) };
        Ok(Rows { rows: starts.len() - 1, columns, data: Data::Csr { starts, index, value } })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Number of values per row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Copies row `row` to `dst` as dense f32.
    pub(crate) fn copy_row(&self, row: usize, dst: &mut [f32]) {
        match self.data {
            Data::F32 { data, stride } => {
                dst.copy_from_slice(&data[row * stride..row * stride + self.columns]);
            }
            Data::U8 { data, stride } => {
                let src = &data[row * stride..row * stride + self.columns];
                dst.iter_mut().zip(src).for_each(|(dst, src)| *dst = f32::from(*src));
            }
            Data::Csr { starts, index, value } => {
                dst.fill(0.0);
                let row_range = starts[row] as usize..starts[row + 1] as usize;
                for (i, x) in index[row_range.clone()].iter().zip(&value[row_range]) {
                    dst[*i as usize] += x;
                }
            }
        }
    }

    /// The rows in batches of `batch`; the last one may be shorter.
    pub(crate) fn batches(self, batch: usize) -> impl Iterator<Item = Rows<'a>> {
        (0..self.rows)
            .step_by(batch)
            .map(move |first| self.slice(first, batch.min(self.rows - first)))
    }

    /// The rows repeated until there are at least `count`.
    pub(crate) fn repeated(&self, count: usize) -> OwnedRows {
        let copies = count.div_ceil(self.rows);
        let columns = self.columns;
        let data = match self.data {
            Data::F32 { data, stride } => {
                OwnedData::F32(copy_rows(data, self.rows, columns, stride, copies))
            }
            Data::U8 { data, stride } => {
                OwnedData::U8(copy_rows(data, self.rows, columns, stride, copies))
            }
            Data::Csr { starts, index, value } => {
                let used = starts[0] as usize..starts[self.rows] as usize;
                let mut all = vec![0];
                for _ in 0..copies {
                    let base = all[all.len() - 1];
                    all.extend(starts[1..].iter().map(|start| base + start - starts[0]));
                }
                let (index, value) =
                    (index[used.clone()].repeat(copies), value[used].repeat(copies));
                OwnedData::Csr { starts: all, index, value }
            }
        };
        OwnedRows { rows: self.rows * copies, columns, data }
    }

    /// Rows `first..first + count`.
    pub(crate) fn slice(&self, first: usize, count: usize) -> Rows<'a> {
        let data = match self.data {
            Data::F32 { data, stride } => {
                Data::F32 { data: &data[(first * stride).min(data.len())..], stride }
            }
            Data::U8 { data, stride } => {
                Data::U8 { data: &data[(first * stride).min(data.len())..], stride }
            }
            Data::Csr { starts, index, value } => {
                Data::Csr { starts: &starts[first..=first + count], index, value }
            }
        };
        Rows { rows: count, data, ..*self }
    }
}

/// Input rows, owned and without gaps.
pub(crate) struct OwnedRows {
    rows: usize,
    columns: usize,
    data: OwnedData,
}

enum OwnedData {
    F32(Vec<f32>),
    U8(Vec<u8>),
    Csr { starts: Vec<i32>, index: Vec<u32>, value: Vec<f32> },
}

impl OwnedRows {
    pub(crate) fn rows(&self) -> Rows<'_> {
        let data = match &self.data {
            OwnedData::F32(data) => Data::F32 { data, stride: self.columns },
            OwnedData::U8(data) => Data::U8 { data, stride: self.columns },
            OwnedData::Csr { starts, index, value } => Data::Csr { starts, index, value },
        };
        Rows { rows: self.rows, columns: self.columns, data }
    }
}

/// The rows without gaps, `copies` times.
fn copy_rows<T: Copy>(
    data: &[T],
    rows: usize,
    columns: usize,
    stride: usize,
    copies: usize,
) -> Vec<T> {
    let mut all = memory::with_capacity(rows.saturating_mul(columns).saturating_mul(copies));
    for r in (0..copies).flat_map(|_| 0..rows) {
        all.extend_from_slice(&data[r * stride..r * stride + columns]);
    }
    all
}

fn check_length(len: usize, rows: usize, columns: usize, stride: usize) -> Result<()> {
    let needed = match rows {
        0 => Some(0),
        _ => stride.checked_mul(rows - 1).and_then(|start| start.checked_add(columns)),
    };
    if needed.is_some_and(|needed| needed <= len) {
        return Ok(());
    }
    Err(Error::Shape {
        subject: Subject::Rows,
        expected: Extent::Strided(rows, columns, stride),
        got: Extent::Values(len),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same rows in each form: (0, 0, 2), (3, 0, 4), (0, 0, 0).
    fn check(rows: Rows<'_>) {
        let row = |rows: &Rows<'_>, r| {
            let mut dst = [7.0; 3];
            rows.copy_row(r, &mut dst);
            dst
        };
        assert_eq!((rows.len(), rows.columns()), (3, 3));
        assert_eq!(row(&rows, 0), [0.0, 0.0, 2.0]);
        assert_eq!(row(&rows, 1), [3.0, 0.0, 4.0]);
        let rest = rows.slice(1, 2);
        assert_eq!((rest.len(), row(&rest, 0)), (2, [3.0, 0.0, 4.0]));
        let batches: Vec<_> = rows.batches(2).map(|batch| (batch.len(), row(&batch, 0))).collect();
        assert_eq!(batches, [(2, [0.0, 0.0, 2.0]), (1, [0.0; 3])]);
        let owned = rest.repeated(5);
        let repeated = owned.rows();
        assert_eq!(repeated.len(), 6);
        for r in 0..6 {
            assert_eq!(row(&repeated, r), if r % 2 == 0 { [3.0, 0.0, 4.0] } else { [0.0; 3] });
        }
    }

    #[test]
    fn rows_of_every_form_are_cut_and_repeated_alike() {
        let f32 = [0.0, 0.0, 2.0, 9.0, 3.0, 0.0, 4.0, 9.0, 0.0, 0.0, 0.0];
        check(Rows::f32(&f32, 3, 3, 4).unwrap());
        check(Rows::u8(&[0, 0, 2, 3, 0, 4, 0, 0, 0], 3, 3, 3).unwrap());
        // Columns in any order, one of them twice, and an entry before the first row.
        let (starts, index, value) = ([1, 2, 5, 5], [0, 2, 2, 0, 2], [8.0, 2.0, 1.0, 3.0, 3.0]);
        check(Rows::csr(&starts, &index, &value, 3).unwrap());
    }
}
