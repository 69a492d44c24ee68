//! lrgate's errors as Python's.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// lrgate's errors are of values.
#[allow(clippy::needless_pass_by_value)] // for map_err
pub(crate) fn to_py(error: lrgate::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A number of threads, at least 1, from any integer.
pub(crate) fn check_threads(threads: &Bound<'_, PyAny>) -> PyResult<usize> {
    let refusal = || format!("num_threads must be an integer of at least 1, got {threads}");
    match threads.extract::<i64>() {
        Ok(n) if n > 0 => Ok(n as usize),
        Err(error) if error.is_instance_of::<PyTypeError>(threads.py()) => {
            Err(PyTypeError::new_err(refusal()))
        }
        _ => Err(PyValueError::new_err(refusal())),
    }
}
