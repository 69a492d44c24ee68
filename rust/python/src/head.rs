//! `Head`: labels and probabilities of outputs, for code that has outputs instead of rows.

use lrgate::{Task, memory};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::guarded;

/// Converts a network's outputs to labels and probabilities.
#[pyclass(frozen, module = "lrgate._core")]
pub(crate) struct Head {
    pub(crate) head: lrgate::Head,
}

#[pymethods]
impl Head {
    /// Labels of outputs (n, k): class indices (n,), or 0 and 1 (n, k) for several labels.
    fn labels<'py>(
        &self,
        py: Python<'py>,
        outputs: PyReadonlyArray2<'py, f32>,
    ) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let labels = PyArray1::from_vec(py, self.head.labels(&values(&outputs)));
            if self.head.task() == Task::Multilabel {
                return Ok(labels.reshape(outputs.as_array().dim())?.into_any());
            }
            Ok(labels.into_any())
        })
    }

    /// Probabilities (n, classes) of outputs (n, k).
    fn probabilities<'py>(
        &self,
        py: Python<'py>,
        outputs: PyReadonlyArray2<'py, f32>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        guarded(|| {
            let found = PyArray1::from_vec(py, self.head.probabilities(values(&outputs)));
            found.reshape([outputs.as_array().nrows(), self.head.probability_count()])
        })
    }

    /// The head of outputs that are this head's probabilities.
    fn of_probabilities(&self) -> Head {
        Head { head: self.head.of_probabilities() }
    }
}

fn values(outputs: &PyReadonlyArray2<'_, f32>) -> Vec<f32> {
    memory::collected(outputs.as_array().iter().copied())
}

/// The task with this name.
pub(crate) fn task_by_name(name: &str) -> PyResult<Task> {
    match name {
        "regression" => Ok(Task::Regression),
        "classification" => Ok(Task::Classification),
        "multilabel" => Ok(Task::Multilabel),
        _ => Err(PyValueError::new_err(format!(
            "task must be 'classification', 'regression' or 'multilabel', got {name:?}"
        ))),
    }
}
