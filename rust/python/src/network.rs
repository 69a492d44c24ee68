//! `Network`: the hot path. `lrgate.Network` derives from it and adds nothing to these calls.

use lrgate::Activation;
use numpy::{
    PyArray1, PyArray2, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;

use crate::engine::Engine;
use crate::errors::{check_threads, to_py};
use crate::rows::{PyRows, shape_text};

/// A trained network that answers calls.
#[pyclass(frozen, subclass, module = "lrgate._core")]
pub(crate) struct Network {
    core: lrgate::Network,
    engine: Py<Engine>,
    /// Whether predictions are labels.
    classifies: bool,
    /// Labels by class index; None where they are 0, 1, ...
    classes: Option<Py<PyUntypedArray>>,
    last: Activation,
}

#[pymethods]
impl Network {
    #[new]
    #[pyo3(signature = (engine, classifies, classes))]
    fn new(
        py: Python<'_>,
        engine: &Bound<'_, Engine>,
        classifies: bool,
        classes: Option<Bound<'_, PyUntypedArray>>,
    ) -> PyResult<Self> {
        let network = engine.get().network.clone();
        let outputs = network.output_size();
        let expected = if outputs == 1 { 2 } else { outputs };
        if let Some(classes) = &classes
            && classes.shape() != [expected]
        {
            return Err(PyValueError::new_err(format!(
                "classes must have shape ({expected},), got {}",
                shape_text(classes.shape())
            )));
        }
        let last = network.layers().last().map_or(Activation::Identity, lrgate::Layer::activation);
        let engine = engine.clone().unbind();
        py.detach(|| network.pack());
        Ok(Network { core: network, engine, classifies, classes: classes.map(Bound::unbind), last })
    }

    /// The network without labels: everything that is not on the hot path.
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

    #[pyo3(signature = (x, /, *, num_threads=None))]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        num_threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let threads = num_threads.map(check_threads).transpose()?;
        let x = PyRows::new(x, self.core.input_size())?;
        if !self.classifies {
            return self.new_output(py, &x, threads);
        }
        let outputs = self.core.output_size();
        let raw = self.compute(py, &x, threads)?;
        let labels: Vec<i64> = raw.chunks_exact(outputs).map(|row| self.class_of(row)).collect();
        let labels = PyArray1::from_vec(py, labels).into_any();
        let labels = match &self.classes {
            None => labels,
            Some(classes) => classes.bind(py).call_method1(intern!(py, "take"), (labels,))?,
        };
        if x.single { labels.get_item(0) } else { Ok(labels) }
    }

    #[pyo3(signature = (x, /, *, num_threads=None))]
    fn predict_proba<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        num_threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if !self.classifies {
            let message = "predict_proba needs a network with task 'classification'";
            return Err(PyValueError::new_err(message));
        }
        let threads = num_threads.map(check_threads).transpose()?;
        let x = PyRows::new(x, self.core.input_size())?;
        let outputs = self.core.output_size();
        let mut raw = self.compute(py, &x, threads)?;
        let width = if outputs == 1 { 2 } else { outputs };
        if outputs == 1 {
            raw = raw.into_iter().flat_map(|z| self.two_classes(z)).collect();
        } else if !matches!(self.last, Activation::Softmax | Activation::Sigmoid) {
            raw.chunks_exact_mut(outputs).for_each(lrgate::softmax);
        }
        let flat = PyArray1::from_vec(py, raw);
        if x.single { Ok(flat.into_any()) } else { Ok(flat.reshape([x.len(), width])?.into_any()) }
    }
}

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
            let out = PyArray1::<f32>::zeros(py, [outputs], false);
            self.fill(py, x, &out, threads)?;
            Ok(out.into_any())
        } else {
            let out = PyArray2::<f32>::zeros(py, [x.len(), outputs], false);
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
        // SAFETY: the array is new and contiguous, and nobody else knows it.
        let values = unsafe { std::slice::from_raw_parts_mut(out.data(), len) };
        let rows = x.rows()?;
        py.detach(|| self.core.forward(rows, values, threads)).map_err(to_py)
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
        let shape: Vec<usize> = if x.single { vec![outputs] } else { vec![x.len(), outputs] };
        if array.shape() != shape {
            return Err(PyValueError::new_err(format!(
                "out must have shape {}, got {}",
                shape_text(&shape),
                shape_text(array.shape())
            )));
        }
        let Ok(array) = out.cast::<PyArrayDyn<f32>>() else {
            let message = format!("out must have dtype float32, got {}", array.dtype());
            return Err(PyTypeError::new_err(message));
        };
        let flags = array.getattr(intern!(py, "flags"))?;
        for flag in [intern!(py, "c_contiguous"), intern!(py, "writeable"), intern!(py, "aligned")]
        {
            if !flags.getattr(flag)?.extract::<bool>()? {
                let message = format!("out must be {}", flag.to_str()?.replace('_', "-"));
                return Err(PyValueError::new_err(message));
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
        // SAFETY: contiguous, aligned and writeable, as checked, and apart from x.
        let values = unsafe { std::slice::from_raw_parts_mut(array.data(), len) };
        let rows = x.rows()?;
        py.detach(|| self.core.forward(rows, values, threads)).map_err(to_py)
    }

    /// Computes into a vector.
    fn compute(
        &self,
        py: Python<'_>,
        x: &PyRows<'_>,
        threads: Option<usize>,
    ) -> PyResult<Vec<f32>> {
        let mut out = vec![0.0; x.len() * self.core.output_size()];
        let rows = x.rows()?;
        py.detach(|| self.core.forward(rows, &mut out, threads)).map_err(to_py)?;
        Ok(out)
    }

    /// Index of the class of a row of raw outputs: the first largest, or the first NaN, as
    /// `numpy.argmax`; for one output, whether it is positive (a sigmoid's: above a half).
    fn class_of(&self, row: &[f32]) -> i64 {
        if let [z] = *row {
            let boundary = if self.last == Activation::Sigmoid { 0.5 } else { 0.0 };
            return i64::from(z > boundary);
        }
        let mut best = 0;
        for (i, z) in row.iter().enumerate() {
            if z.is_nan() {
                return i as i64;
            }
            if *z > row[best] {
                best = i;
            }
        }
        best as i64
    }

    /// Probabilities of the two classes of a network with one output.
    fn two_classes(&self, z: f32) -> [f32; 2] {
        let p = if self.last == Activation::Sigmoid { z } else { 1.0 / (1.0 + (-z).exp()) };
        [1.0 - p, p]
    }
}
