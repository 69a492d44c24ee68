//! `Network`: the hot path. `lrgate.Network` derives from it and adds nothing to these calls.

// Docstrings for Python, in its own format.
#![allow(clippy::doc_markdown)]

use std::ffi::c_int;

use lrgate::{Head, Task, memory};
use numpy::npyffi::{
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, PY_ARRAY_API, npy_intp,
};
use numpy::{
    PyArray1, PyArray2, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray,
    PyUntypedArrayMethods, dtype,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PySlice;

use crate::engine::Engine;
use crate::errors::{check_threads, guarded, without_gil};
use crate::head::task_by_name;
use crate::rows::{PyRows, shape_text};

/// A trained network that answers calls.
#[pyclass(frozen, subclass, module = "lrgate._core")]
pub(crate) struct Network {
    core: lrgate::Network,
    engine: Py<Engine>,
    head: Head,
    /// Labels by class index; None if they are 0, 1, ...
    classes: Option<Py<PyUntypedArray>>,
}

#[pymethods]
impl Network {
    #[new]
    #[pyo3(signature = (engine, task, classes))]
    fn new(
        py: Python<'_>,
        engine: &Bound<'_, Engine>,
        task: &str,
        classes: Option<Bound<'_, PyUntypedArray>>,
    ) -> PyResult<Self> {
        let task = task_by_name(task)?;
        let network = engine.get().network.clone();
        let head = network.head(task);
        let expected = head.probability_count();
        if task != Task::Classification && classes.is_some() {
            return Err(PyValueError::new_err("classes need the task 'classification'"));
        }
        if let Some(classes) = &classes
            && classes.shape() != [expected]
        {
            return Err(PyValueError::new_err(format!(
                "classes must have shape ({expected},), got {}",
                shape_text(classes.shape())
            )));
        }
        let engine = engine.clone().unbind();
        without_gil(py, || {
            network.pack();
            Ok(())
        })?;
        Ok(Network { core: network, engine, head, classes: classes.map(Bound::unbind) })
    }

    /// The network without labels, for everything that is not on the hot path.
    #[getter]
    fn engine(&self, py: Python<'_>) -> Py<Engine> {
        self.engine.clone_ref(py)
    }

    /// Raw outputs of the last layer: float32 (n, k) for x (n, d), (k,) for x (d,).
    ///
    /// The same as :meth:`forward` without options.
    #[pyo3(signature = (x, /))]
    fn __call__<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let x = PyRows::new(x, self.core.input_size())?;
        self.new_output(py, &x, None)
    }

    /// Raw outputs of the last layer.
    ///
    /// Parameters
    /// ----------
    /// x : array-like or scipy.sparse of shape (n, d), or (d,) for one row
    /// out : float32 array of shape (n, k), or (k,) for one row, optional
    ///     Buffer for the outputs: C-contiguous, aligned and writeable. It may overlap `x`.
    /// num_threads : int, optional
    ///     Largest number of threads to use; by default that of :func:`lrgate.get_num_threads`.
    ///
    /// Returns
    /// -------
    /// float32 array of shape (n, k), or (k,) for one row
    ///     `out`, if it is given.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     If `x` does not hold real numbers, or `out` is not a float32 array.
    /// ValueError
    ///     If a shape does not fit, or `num_threads` is below 1.
    /// MemoryError
    ///     If there is no memory for the outputs or the weights.
    ///
    /// Examples
    /// --------
    /// >>> import lrgate, numpy
    /// >>> net, x, y = lrgate.examples.mnist()
    /// >>> out = numpy.empty((1000, 10), numpy.float32)
    /// >>> net.forward(x, out=out) is out
    /// True
    /// >>> net.forward(x[0]).shape
    /// (10,)
    #[pyo3(signature = (x, /, *, out=None, num_threads=None))]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
        num_threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let threads = num_threads.map(check_threads).transpose()?;
        let x = PyRows::new(x, self.core.input_size())?;
        match out {
            None => self.new_output(py, &x, threads),
            Some(out) => {
                self.fill_given(py, &x, out, threads)?;
                Ok(out.clone())
            }
        }
    }

    /// Class labels, 0 or 1 for each label of a multilabel network, or the values of a regressor.
    ///
    /// Parameters
    /// ----------
    /// x : array-like or scipy.sparse of shape (n, d), or (d,) for one row
    /// num_threads : int, optional
    ///     Largest number of threads to use; by default that of :func:`lrgate.get_num_threads`.
    /// nan_label : label, optional
    ///     Label of rows with NaN outputs. Without it, such rows raise ValueError. A regressor
    ///     returns NaN for them.
    ///
    /// Returns
    /// -------
    /// array
    ///     Labels (n,) of ``classes``; int64 (n, k) for a multilabel network; float32 (n, k) for a
    ///     regressor, (n,) if it has one output. For one row the result has no batch axis.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     If `x` does not hold real numbers.
    /// ValueError
    ///     If the shape of `x` does not fit, or outputs of a classifier are NaN and there is no
    ///     `nan_label`, or a regressor gets one.
    /// MemoryError
    ///     If there is no memory for the outputs or the weights.
    ///
    /// Examples
    /// --------
    /// >>> import lrgate
    /// >>> net, x, y = lrgate.examples.mnist()
    /// >>> net.predict(x[:3]).tolist()
    /// [7, 2, 1]
    /// >>> net.predict(x[0])
    /// np.int64(7)
    #[pyo3(signature = (x, /, *, num_threads=None, nan_label=None))]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        num_threads: Option<&Bound<'py, PyAny>>,
        nan_label: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let threads = num_threads.map(check_threads).transpose()?;
        let x = PyRows::new(x, self.core.input_size())?;
        if self.head.task() == Task::Regression {
            if nan_label.is_some() {
                let message = "nan_label needs a network with labels: a regressor gives NaN";
                return Err(PyValueError::new_err(message));
            }
            let values = self.new_output(py, &x, threads)?;
            if self.core.output_size() > 1 {
                return Ok(values);
            }
            let index = if x.single { 0_i32.into_pyobject(py)?.into_any() } else { column(py)? };
            return values.get_item(index);
        }
        let raw = self.compute(py, &x, threads)?;
        let labels = guarded(|| Ok(PyArray1::from_vec(py, self.head.labels(&raw)).into_any()))?;
        let labels = match &self.classes {
            Some(classes) => classes.bind(py).call_method1(intern!(py, "take"), (labels,))?,
            None if self.head.task() == Task::Multilabel => {
                labels.call_method1(intern!(py, "reshape"), (x.len(), self.core.output_size()))?
            }
            None => labels,
        };
        let labels = guarded(|| self.marked(py, labels, &raw, nan_label))?;
        if x.single { labels.get_item(0) } else { Ok(labels) }
    }

    /// Probabilities of the classes, or of each label of a multilabel network.
    ///
    /// Parameters
    /// ----------
    /// x : array-like or scipy.sparse of shape (n, d), or (d,) for one row
    /// num_threads : int, optional
    ///     Largest number of threads to use; by default that of :func:`lrgate.get_num_threads`.
    ///
    /// Returns
    /// -------
    /// float32 array of shape (n, k), or (k,) for one row
    ///     Outputs of a last softmax or sigmoid, and exp of those of log_softmax. Otherwise the
    ///     softmax of the raw outputs, or their sigmoid for a multilabel network or one output. A
    ///     classifier with one output has two columns. NaN in rows whose outputs are NaN.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     If `x` does not hold real numbers.
    /// ValueError
    ///     If the shape of `x` does not fit, or the network is a regressor.
    /// MemoryError
    ///     If there is no memory for the outputs or the weights.
    ///
    /// Examples
    /// --------
    /// >>> import lrgate
    /// >>> net, x, y = lrgate.examples.mnist()
    /// >>> probabilities = net.predict_proba(x[:3])
    /// >>> probabilities.shape, probabilities.argmax(axis=1).tolist()
    /// ((3, 10), [7, 2, 1])
    #[pyo3(signature = (x, /, *, num_threads=None))]
    fn predict_proba<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        num_threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if self.head.task() == Task::Regression {
            let message =
                "predict_proba needs a network with task 'classification' or 'multilabel'";
            return Err(PyValueError::new_err(message));
        }
        let threads = num_threads.map(check_threads).transpose()?;
        let x = PyRows::new(x, self.core.input_size())?;
        let raw = self.compute(py, &x, threads)?;
        guarded(|| {
            let width = self.head.probability_count();
            let flat = PyArray1::from_vec(py, self.head.probabilities(raw));
            if x.single {
                return Ok(flat.into_any());
            }
            Ok(flat.reshape([x.len(), width])?.into_any())
        })
    }
}

/// The index `[:, 0]`.
fn column(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    Ok((PySlice::full(py), 0).into_pyobject(py)?.into_any())
}

/// Largest number of rows that a message lists.
const NAMED: usize = 5;

impl Network {
    /// Computes into a new array.
    fn new_output<'py>(
        &self,
        py: Python<'py>,
        x: &PyRows<'py>,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let outputs = self.core.output_size();
        if x.single {
            let out: Bound<'py, PyArray1<f32>> = zeros(py, [outputs])?;
            self.fill(py, x, &out, threads)?;
            Ok(out.into_any())
        } else {
            let out: Bound<'py, PyArray2<f32>> = zeros(py, [x.len(), outputs])?;
            self.fill(py, x, &out, threads)?;
            Ok(out.into_any())
        }
    }

    /// Computes into a new array of the right size.
    fn fill<'py, D: numpy::ndarray::Dimension>(
        &self,
        py: Python<'py>,
        x: &PyRows<'py>,
        out: &Bound<'py, numpy::PyArray<f32, D>>,
        threads: Option<usize>,
    ) -> PyResult<()> {
        let len = out.len();
        // SAFETY: the array is new and contiguous, and no other code has a reference to it.
        let values = unsafe { std::slice::from_raw_parts_mut(out.data(), len) };
        self.forward_into(py, x, values, threads)
    }

    /// Computes into these values. Short calls keep the GIL: to release it and take it again would
    /// take as long as they do.
    fn forward_into(
        &self,
        py: Python<'_>,
        x: &PyRows<'_>,
        values: &mut [f32],
        threads: Option<usize>,
    ) -> PyResult<()> {
        let rows = x.rows()?;
        if x.len() == 1 && guarded(|| Ok(self.core.forward_short(rows, values)))? {
            return Ok(());
        }
        without_gil(py, || self.core.forward(rows, values, threads))
    }

    /// Computes into the caller's array.
    fn fill_given<'py>(
        &self,
        py: Python<'py>,
        x: &PyRows<'py>,
        out: &Bound<'py, PyAny>,
        threads: Option<usize>,
    ) -> PyResult<()> {
        let outputs = self.core.output_size();
        let Ok(array) = out.cast::<PyUntypedArray>() else {
            let kind = out.get_type();
            let message = format!("out must be a NumPy array, got {}", kind.name()?);
            return Err(PyTypeError::new_err(message));
        };
        let both = [x.len(), outputs];
        let shape = if x.single { &both[1..] } else { &both[..] };
        if array.shape() != shape {
            return Err(PyValueError::new_err(format!(
                "out must have shape {}, got {}",
                shape_text(shape),
                shape_text(array.shape())
            )));
        }
        let Ok(array) = out.cast::<PyArrayDyn<f32>>() else {
            let message = format!("out must have dtype float32, got {}", array.dtype());
            return Err(PyTypeError::new_err(message));
        };
        // SAFETY: the array is alive.
        let flags = unsafe { (*array.as_array_ptr()).fields.flags };
        let needed = [
            (NPY_ARRAY_C_CONTIGUOUS, "c-contiguous"),
            (NPY_ARRAY_WRITEABLE, "writeable"),
            (NPY_ARRAY_ALIGNED, "aligned"),
        ];
        for (flag, name) in needed {
            if flags & flag == 0 {
                return Err(PyValueError::new_err(format!("out must be {name}")));
            }
        }
        let start = array.data() as usize;
        let len = array.len();
        if x.overlaps(start, start + len * size_of::<f32>()) {
            let copy = self.compute(py, x, threads)?;
            // SAFETY: contiguous, aligned and writeable, as checked.
            unsafe { std::slice::from_raw_parts_mut(array.data(), len) }.copy_from_slice(&copy);
            return Ok(());
        }
        // SAFETY: contiguous, aligned and writeable, as checked, and not overlapping x.
        let values = unsafe { std::slice::from_raw_parts_mut(array.data(), len) };
        self.forward_into(py, x, values, threads)
    }

    /// Computes into a vector.
    fn compute(
        &self,
        py: Python<'_>,
        x: &PyRows<'_>,
        threads: Option<usize>,
    ) -> PyResult<Vec<f32>> {
        let len = x.len().saturating_mul(self.core.output_size());
        if x.len() == 1 {
            let mut out = guarded(|| Ok(memory::filled(0.0, len)))?;
            self.forward_into(py, x, &mut out, threads)?;
            return Ok(out);
        }
        let rows = x.rows()?;
        without_gil(py, || {
            let mut out = memory::filled(0.0, len);
            self.core.forward(rows, &mut out, threads)?;
            Ok(out)
        })
    }

    /// The labels, with `nan_label` in rows with NaN outputs. Without a `nan_label` such rows are
    /// refused.
    fn marked<'py>(
        &self,
        py: Python<'py>,
        labels: Bound<'py, PyAny>,
        raw: &[f32],
        nan_label: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let rows = raw.chunks_exact(self.core.output_size());
        let mut bad = rows.enumerate().filter(|(_, row)| row.iter().any(|z| z.is_nan()));
        let Some((first, _)) = bad.next() else { return Ok(labels) };
        let refusal = |first: usize, rest: &mut dyn Iterator<Item = usize>| {
            let mut all = vec![first];
            all.extend(rest.take(NAMED - 1));
            let more = rest.count();
            let all: Vec<_> = all.iter().map(ToString::to_string).collect();
            let [rows, have, their] = match all.len() + more {
                1 => ["row", "has", "its"],
                _ => ["rows", "have", "their"],
            };
            let all = all.join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!(
                "{rows} {all}{more} of x {have} NaN outputs and therefore no label: fill or remove \
                 missing values, or pass nan_label= as {their} label"
            )
        };
        let Some(nan_label) = nan_label else {
            return Err(PyValueError::new_err(refusal(first, &mut bad.map(|(row, _)| row))));
        };
        let mut mask = memory::filled(false, raw.len() / self.core.output_size());
        mask[first] = true;
        bad.for_each(|(row, _)| mask[row] = true);
        let inputs = py.import(intern!(py, "lrgate.inputs"))?;
        let mask = PyArray1::from_vec(py, mask);
        inputs.call_method1(intern!(py, "with_nan_label"), (labels, mask, nan_label))
    }
}

/// A new array of zeros, or NumPy's `MemoryError`.
fn zeros<const N: usize, D: numpy::ndarray::Dimension>(
    py: Python<'_>,
    shape: [usize; N],
) -> PyResult<Bound<'_, numpy::PyArray<f32, D>>> {
    let mut dims = shape.map(|n| n as npy_intp);
    let kind = dtype::<f32>(py).into_dtype_ptr();
    // SAFETY: `dims` has N entries, and the function takes over the reference to the type.
    let array = unsafe {
        let made = PY_ARRAY_API.PyArray_Zeros(py, N as c_int, dims.as_mut_ptr(), kind, 0);
        Bound::from_owned_ptr_or_err(py, made)?
    };
    Ok(array.cast_into()?)
}
