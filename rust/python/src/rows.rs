//! Input rows from Python objects, in place if possible.
//!
//! | x | conversion |
//! |---|---|
//! | float32, contiguous rows | used in place |
//! | uint8, contiguous rows | used in place |
//! | other real dtypes, other strides, other byte orders | one copy, converted to float32; values that do not fit are refused |
//! | scipy.sparse | CSR with float32 data, which is used in place; its indices are copied |
//! | anything else | passed to `lrgate.inputs.real_array`, which converts or refuses it |

use std::ffi::c_int;

use numpy::npyffi::NPY_TYPES;
use numpy::{
    PyArray1, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray,
    PyUntypedArrayMethods, dtype,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;

use lrgate::memory;

use crate::errors::{guarded, to_py};

/// Rows that stay alive while they are borrowed.
pub(crate) struct PyRows<'py> {
    kind: Kind<'py>,
    rows: usize,
    columns: usize,
    /// Whether x was a single row without a batch axis.
    pub(crate) single: bool,
}

enum Kind<'py> {
    F32 {
        array: Bound<'py, PyUntypedArray>,
        stride: usize,
    },
    U8 {
        array: Bound<'py, PyUntypedArray>,
        stride: usize,
    },
    Csr {
        /// A copy, so that the checked indices are the ones that are used, even if another thread
        /// writes to the matrix.
        starts: Vec<i32>,
        index: Vec<i32>,
        value: Bound<'py, PyArray1<f32>>,
    },
}

impl<'py> PyRows<'py> {
    /// Rows of width `width` from `x`.
    pub(crate) fn new(x: &Bound<'py, PyAny>, width: usize) -> PyResult<Self> {
        if let Ok(array) = x.cast_exact::<PyUntypedArray>()
            && is_real(array)
        {
            return Self::from_array(array, width);
        }
        if x.hasattr(intern!(x.py(), "tocsr"))? {
            return guarded(|| Self::from_sparse(x, width));
        }
        let inputs = x.py().import(intern!(x.py(), "lrgate.inputs"))?;
        let array = inputs.call_method1(intern!(x.py(), "real_array"), (x,))?;
        Self::from_array(array.cast::<PyUntypedArray>()?, width)
    }

    fn from_array(array: &Bound<'py, PyUntypedArray>, width: usize) -> PyResult<Self> {
        let shape = array.shape();
        let (rows, columns, single) = match *shape {
            [d] => (1, d, true),
            [n, d] => (n, d, false),
            _ => return Err(wrong_shape(shape, width)),
        };
        if columns != width {
            return Err(wrong_shape(shape, width));
        }
        let py = array.py();
        let kind = array.dtype();
        // The type number is sufficient, because a byte has no byte order. Comparing dtypes takes
        // as long as reading a row.
        if kind.num() == NPY_TYPES::NPY_UBYTE as c_int {
            if let Some(stride) = in_place(array, columns, 1) {
                let kind = Kind::U8 { array: array.clone(), stride };
                return Ok(PyRows { kind, rows, columns, single });
            }
        } else if kind.is_equiv_to(&dtype::<f32>(py))
            && let Some(stride) = in_place(array, columns, 4)
        {
            let kind = Kind::F32 { array: array.clone(), stride };
            return Ok(PyRows { kind, rows, columns, single });
        }
        // Contiguous arrays may be misaligned. Then they are copied too.
        let array = narrowed(array, array)?.cast_into::<PyUntypedArray>()?;
        Ok(PyRows { kind: Kind::F32 { array, stride: columns }, rows, columns, single })
    }

    fn from_sparse(x: &Bound<'py, PyAny>, width: usize) -> PyResult<Self> {
        let py = x.py();
        let shape: Vec<usize> = x.getattr(intern!(py, "shape"))?.extract()?;
        let &[rows, columns] = shape.as_slice() else {
            let got = shape_text(&shape);
            let message = format!("a sparse x must have shape (n, {width}), got {got}");
            return Err(PyValueError::new_err(message));
        };
        if columns != width {
            return Err(wrong_shape(&shape, width));
        }
        let csr = x.call_method0(intern!(py, "tocsr"))?;
        let part = |name: &str| {
            let refusal =
                |end: String| format!("x is not a valid CSR matrix: {name} must be {end}");
            let array = csr.getattr(name)?;
            let Ok(plain) = array.cast::<PyUntypedArray>() else {
                let got = array.get_type().name()?;
                return Err(PyTypeError::new_err(refusal(format!("an array, got {got}"))));
            };
            if plain.ndim() != 1 {
                let got = shape_text(plain.shape());
                return Err(PyValueError::new_err(refusal(format!("1-D, got shape {got}"))));
            }
            Ok(array)
        };
        let data = part("data")?;
        let kind = data.cast::<PyUntypedArray>()?.dtype();
        if !matches!(kind.kind(), b'b' | b'i' | b'u' | b'f') {
            let message = format!("x must be a matrix of real numbers, got dtype {kind}");
            return Err(PyTypeError::new_err(message));
        }
        let numpy = py.import(intern!(py, "numpy"))?;
        let convert = |array: Bound<'py, PyAny>, to: &str| {
            numpy.call_method1(intern!(py, "require"), (array, to, "CA"))
        };
        let integers = |name: &str| {
            let array = part(name)?;
            if let Ok(array) = array.cast::<PyArray1<i32>>()
                && array.is_c_contiguous()
                && array.is_aligned()
            {
                return copied(array);
            }
            let narrow = convert(array.clone(), "int32")?;
            // Wider integers that overflow would refer to other columns.
            if !numpy.call_method1(intern!(py, "array_equal"), (&array, &narrow))?.extract()? {
                let message = format!("x is not a valid CSR matrix: {name} must fit 32 bits");
                return Err(PyValueError::new_err(message));
            }
            copied(&narrow.cast_into::<PyArray1<i32>>()?)
        };
        let starts = integers("indptr")?;
        if starts.len() != rows + 1 {
            let (expected, got) = (rows + 1, starts.len());
            let message = format!("indptr must have {expected} entries, got {got}");
            return Err(PyValueError::new_err(format!("x is not a valid CSR matrix: {message}")));
        }
        let kind = Kind::Csr {
            starts,
            index: integers("indices")?,
            value: narrowed(data.cast()?, &csr)?.cast_into::<PyArray1<f32>>()?,
        };
        Ok(PyRows { kind, rows, columns, single: false })
    }

    /// The rows, borrowed.
    pub(crate) fn rows(&self) -> PyResult<lrgate::Rows<'_>> {
        let PyRows { rows, columns, .. } = *self;
        match &self.kind {
            Kind::F32 { array, stride } => {
                // SAFETY: `in_place` checked that the array is aligned, that its rows are
                // contiguous, and that they are `stride` values apart.
                let data = unsafe { slice::<f32>(array, rows, columns, *stride) };
                lrgate::Rows::f32(data, rows, columns, *stride)
            }
            Kind::U8 { array, stride } => {
                // SAFETY: as above.
                let data = unsafe { slice::<u8>(array, rows, columns, *stride) };
                lrgate::Rows::u8(data, rows, columns, *stride)
            }
            Kind::Csr { starts, index, value } => {
                // SAFETY: `self` keeps the array alive. If another thread writes to it meanwhile,
                // the values are arbitrary, as with dense rows.
                let value = unsafe { value.as_slice()? };
                lrgate::Rows::csr(starts, index, value, columns)
            }
        }
        .map_err(to_py)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Whether any memory that is read is in this range of addresses, to detect an overlapping
    /// output.
    pub(crate) fn overlaps(&self, start: usize, end: usize) -> bool {
        let meets = |array: &Bound<'py, PyUntypedArray>, bytes: usize| {
            let first = data_address(array);
            first < end && start < first + bytes
        };
        let values = |stride: usize| self.rows.saturating_sub(1) * stride + self.columns;
        match &self.kind {
            Kind::F32 { array, stride } => meets(array, 4 * values(*stride)),
            Kind::U8 { array, stride } => meets(array, values(*stride)),
            Kind::Csr { value, .. } => meets(value.as_untyped(), 4 * value.len()),
        }
    }
}

/// The stride of the rows in values, if the array can be used in place: it is aligned, its rows are
/// contiguous, and their distance is a non-negative multiple of the size of a value.
fn in_place(array: &Bound<'_, PyUntypedArray>, columns: usize, size: usize) -> Option<usize> {
    if !data_address(array).is_multiple_of(size) {
        return None;
    }
    let strides = array.strides();
    let (row, value) = match *strides {
        [value] => (0, value),
        [row, value] => (row, value),
        _ => return None,
    };
    if columns > 1 && value != size as isize {
        return None;
    }
    if array.shape().len() == 1 || array.shape()[0] <= 1 {
        return Some(columns);
    }
    let row = usize::try_from(row).ok()?;
    row.is_multiple_of(size).then_some(row / size)
}

/// Whether an array holds bool, integers or real floats.
fn is_real(array: &Bound<'_, PyUntypedArray>) -> bool {
    matches!(array.dtype().kind(), b'b' | b'i' | b'u' | b'f')
}

/// `values` as float32, contiguous and aligned. They are the values of `x`: finite ones that do not
/// fit are an error.
fn narrowed<'py>(
    values: &Bound<'py, PyUntypedArray>,
    x: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, kind) = (values.py(), values.dtype());
    if kind.kind() != b'f' || kind.itemsize() <= size_of::<f32>() {
        let numpy = py.import(intern!(py, "numpy"))?;
        return numpy.call_method1(intern!(py, "require"), (values, "float32", "CA"));
    }
    let inputs = py.import(intern!(py, "lrgate.inputs"))?;
    let narrow = inputs.call_method1(intern!(py, "narrowed"), (values,))?;
    if has_infinity(&narrow)? {
        inputs.call_method1(intern!(py, "check_narrowed"), (x, &narrow))?;
    }
    Ok(narrow)
}

/// Whether a contiguous float32 array has an infinite value.
fn has_infinity(array: &Bound<'_, PyAny>) -> PyResult<bool> {
    let array = array.cast::<PyArrayDyn<f32>>()?;
    // SAFETY: the array is new, and no other code has a reference to it.
    let values = unsafe { array.as_slice()? };
    // In whole blocks, because the compiler does not vectorise a loop that may end anywhere.
    let bad = |block: &[f32]| block.iter().fold(false, |bad, value| bad | value.is_infinite());
    Ok(values.chunks(256).any(bad))
}

/// A copy of the values.
fn copied(array: &Bound<'_, PyArray1<i32>>) -> PyResult<Vec<i32>> {
    // SAFETY: if another thread writes a value meanwhile, the copy has the old or the new value.
    Ok(memory::copied(unsafe { array.as_slice()? }))
}

fn data_address(array: &Bound<'_, PyUntypedArray>) -> usize {
    // SAFETY: the pointer belongs to a live array object.
    unsafe { (*array.as_array_ptr()).fields.data as usize }
}

/// The array's memory from the first value of its first row to the last value of its last row.
///
/// # Safety
/// `in_place` returned `stride` for an array of this shape and of `T`'s dtype.
unsafe fn slice<'a, T>(
    array: &'a Bound<'_, PyUntypedArray>,
    rows: usize,
    columns: usize,
    stride: usize,
) -> &'a [T] {
    if rows == 0 || columns == 0 {
        return &[];
    }
    let data = data_address(array) as *const T;
    // SAFETY: the caller's promise: all these values belong to the array, which `array` keeps
    // alive.
    unsafe { std::slice::from_raw_parts(data, (rows - 1) * stride + columns) }
}

fn wrong_shape(got: &[usize], width: usize) -> PyErr {
    let expected = if got.len() == 1 {
        format!("({width},)")
    } else if got.len() == 2 {
        format!("(n, {width})")
    } else {
        format!("(n, {width}) or ({width},)")
    };
    PyValueError::new_err(format!("x must have shape {expected}, got {}", shape_text(got)))
}

/// A shape as Python prints a tuple.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    if let [one] = shape {
        return format!("({one},)");
    }
    let all: Vec<_> = shape.iter().map(ToString::to_string).collect();
    format!("({})", all.join(", "))
}
