//! lrgate's errors as Python's.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// `ValueError`, or `RuntimeError` where the system refused something.
pub(crate) fn to_py(error: lrgate::Error) -> PyErr {
    match error {
        lrgate::Error::Pool(_) => PyRuntimeError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

/// A number of threads, at least 1.
pub(crate) fn check_threads(threads: i64) -> PyResult<usize> {
    usize::try_from(threads).ok().filter(|n| *n > 0).ok_or_else(|| {
        let message = format!("num_threads must be an integer of at least 1, got {threads}");
        PyValueError::new_err(message)
    })
}
