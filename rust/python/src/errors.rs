//! Conversion of lrgate's errors to Python exceptions, and the boundary between the core and
//! Python, which no panic crosses.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use lrgate::interrupt;
use lrgate::memory::OutOfMemory;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::messages::message;

/// lrgate's errors become `ValueError`.
#[allow(clippy::needless_pass_by_value)] // for map_err
pub(crate) fn to_py(error: lrgate::Error) -> PyErr {
    PyValueError::new_err(message(&error))
}

/// Calls `f`. A panic becomes a `MemoryError`, or a `RuntimeError` that asks for a report.
pub(crate) fn guarded<R>(f: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| Err(of_panic(&*payload)))
}

fn of_panic(payload: &(dyn Any + Send)) -> PyErr {
    if payload.is::<OutOfMemory>() {
        return PyMemoryError::new_err("lrgate: not enough memory");
    }
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    PyRuntimeError::new_err(format!(
        "internal error of lrgate, please report it at https://github.com/lrgate/lrgate/issues: {text}"
    ))
}

/// Interval at which a long call checks for signals.
const LOOK: Duration = Duration::from_millis(50);

/// Calls the core without the GIL. Ctrl-C ends the call soon, and a panic becomes an exception.
pub(crate) fn without_gil<R: Send>(
    py: Python<'_>,
    f: impl FnOnce() -> lrgate::Result<R> + Send,
) -> PyResult<R> {
    guarded(|| {
        py.detach(|| {
            let (last, raised) = (Cell::new(None::<Instant>), RefCell::new(None));
            let check = || {
                if raised.borrow().is_some() {
                    return true;
                }
                let now = Instant::now();
                let first = last.get().unwrap_or(now);
                if last.get().is_none() || now - first < LOOK {
                    last.set(Some(first));
                    return false;
                }
                last.set(Some(now));
                #[allow(clippy::redundant_closure_for_method_calls)] // fixes one lifetime
                match Python::attach(|py| py.check_signals()) {
                    Ok(()) => false,
                    Err(error) => {
                        *raised.borrow_mut() = Some(error);
                        true
                    }
                }
            };
            let call = AssertUnwindSafe(|| interrupt::with_check(&check, f));
            let result = catch_unwind(call);
            match (raised.take(), result) {
                (Some(error), _) => Err(error),
                (None, Ok(result)) => result.map_err(to_py),
                (None, Err(payload)) => resume_unwind(payload),
            }
        })
    })
}

/// A number of threads, at least 1, from any integer except bool.
pub(crate) fn check_threads(threads: &Bound<'_, PyAny>) -> PyResult<usize> {
    let refusal = || {
        let got = threads.repr().map_or_else(|_| "an object".to_owned(), |text| text.to_string());
        format!("num_threads must be an integer of at least 1, got {got}")
    };
    if threads.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(refusal()));
    }
    match threads.extract::<i64>() {
        Ok(n) if n > 0 => Ok(n as usize),
        Err(error) if error.is_instance_of::<PyTypeError>(threads.py()) => {
            Err(PyTypeError::new_err(refusal()))
        }
        _ => Err(PyValueError::new_err(refusal())),
    }
}
