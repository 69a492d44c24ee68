//! `Engine`: a core network behind Python's conversions, for everything that is not on the hot
//! path.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use lrgate::{
    Activation, BatchPlan, Error, Factor, Factors, Gate, InputMap, Layer, LayerCounts, LayerPlan,
    LeastMargin, NestedGate, Network, PhaseProfile, Plan, Precision, Quantization, Strategy,
    Weights, memory,
};
use numpy::ndarray::{ArrayView1, ArrayView2};
use numpy::{
    PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{guarded, to_py, without_gil};
use crate::head::{Head, task_by_name};
use crate::messages::message;
use crate::rows::PyRows;

type LayerArgs<'py> = (
    PyReadonlyArray2<'py, f32>,
    PyReadonlyArray1<'py, f32>,
    String,
    Vec<PyReadonlyArray1<'py, f32>>,
);
type KeptUnits<'py> = Option<PyReadonlyArray1<'py, i32>>;
type GateArgs<'py> = (
    PyReadonlyArray2<'py, f32>,
    PyReadonlyArray2<'py, f32>,
    PyReadonlyArray1<'py, f32>,
    Option<PyReadonlyArray2<'py, f32>>,
);
type QuantizationArgs<'py> = (PyReadonlyArray1<'py, f32>, PyReadonlyArray1<'py, f32>);
type FactorsArgs<'py> = (
    PyReadonlyArray2<'py, f32>,
    PyReadonlyArray2<'py, f32>,
    PyReadonlyArray1<'py, f32>,
    Option<QuantizationArgs<'py>>,
    Option<(PyReadonlyArray2<'py, f32>, PyReadonlyArray1<'py, f32>)>,
);
type BatchPlanArgs = (usize, Vec<String>, Vec<String>);

/// A network with its weights and its plan. It is immutable; methods return new engines.
#[pyclass(frozen, module = "lrgate._core")]
pub(crate) struct Engine {
    pub(crate) network: Network,
}

#[pymethods]
impl Engine {
    /// Builds a network from (weight (out, in), bias (out,), activation, parameters) per layer. A
    /// parameter is an array of one value, or of one for each unit.
    ///
    /// Read-only C-contiguous weights are used in place, so nobody may write to them afterwards.
    /// Other weights are copied. `kept_units` has the kept units of each layer in their order, or
    /// None; weights contain all units.
    #[new]
    #[pyo3(signature = (layers, *, kept_units=None, input_scale=None, input_shift=None))]
    fn new(
        py: Python<'_>,
        layers: Vec<LayerArgs<'_>>,
        kept_units: Option<Vec<KeptUnits<'_>>>,
        input_scale: Option<PyReadonlyArray1<'_, f32>>,
        input_shift: Option<PyReadonlyArray1<'_, f32>>,
    ) -> PyResult<Self> {
        let (layers, map) = guarded(|| Self::parts(layers, kept_units, input_scale, input_shift))?;
        Ok(Engine { network: without_gil(py, || Network::new(layers, map))? })
    }

    /// The same network with a gate (u (in, rank), v (rank, out), bias (out,), range (2, rank) or
    /// None) or None per layer.
    fn with_gates(&self, py: Python<'_>, gates: Vec<Option<GateArgs<'_>>>) -> PyResult<Self> {
        let gates = guarded(|| {
            let gates = gates.into_iter();
            let gates = gates.map(|gate| {
                gate.map(|(u, v, bias, range)| {
                    let rank = u.as_array().ncols();
                    let bias = bias.as_array().to_vec();
                    let gate = Gate::new(to_vec(u.as_array()), to_vec(v.as_array()), bias, rank);
                    let columns = range.as_ref().map(|range| range.as_array());
                    let pair = |column: ArrayView1<'_, f32>| [column[0], column[1]];
                    let range = columns.filter(|range| range.nrows() == 2);
                    gate.with_range(range.map_or_else(Vec::new, |range| {
                        range.columns().into_iter().map(pair).collect()
                    }))
                })
            });
            Ok(gates.collect::<Vec<_>>())
        })?;
        let network = without_gil(py, || self.network.with_gates(gates))?;
        Ok(Engine { network })
    }

    /// The same network with factors (u (in, rank), v (rank, out), bias (out,), quantization or
    /// None, gate (v (k, out), bias (out,)) or None) or None per layer. A quantization is (scale,
    /// offset) of the sums `x u`.
    fn with_factors(
        &self,
        py: Python<'_>,
        factors: Vec<Option<FactorsArgs<'_>>>,
    ) -> PyResult<Self> {
        let of = |(u, v, bias, sums, gate): FactorsArgs<'_>| {
            let (u, v, rank) = (to_vec(u.as_array()), to_vec(v.as_array()), u.as_array().ncols());
            let mut factors = Factors::new(u, v, bias.as_array().to_vec(), rank);
            if let Some(sums) = sums {
                factors = factors.with_quantization(quantization(sums));
            }
            if let Some((v, bias)) = gate {
                let (rank, bias) = (v.as_array().nrows(), bias.as_array().to_vec());
                factors = factors.with_gate(NestedGate::new(to_vec(v.as_array()), bias, rank));
            }
            factors
        };
        let factors = factors.into_iter().map(|layer| layer.map(of));
        let factors = guarded(|| Ok(factors.collect::<Vec<_>>()))?;
        Ok(Engine { network: without_gil(py, || self.network.with_factors(factors))? })
    }

    /// The same network with int8 forms: (scale, offset) of a layer's inputs, or None, per layer.
    fn with_quantization(
        &self,
        py: Python<'_>,
        layers: Vec<Option<QuantizationArgs<'_>>>,
    ) -> PyResult<Self> {
        let layers = layers.into_iter().map(|layer| layer.map(quantization));
        let layers = guarded(|| Ok(layers.collect::<Vec<_>>()))?;
        let network = without_gil(py, || self.network.with_quantization(layers))?;
        Ok(Engine { network })
    }

    /// The same network, which recomputes rows with a smaller margin in float32; 0 recomputes none.
    /// The margin is that of the labels of `task`, before a last sigmoid, softmax or log-softmax.
    fn with_least_margin(&self, py: Python<'_>, task: &str, least: f32) -> PyResult<Self> {
        let margin = self.network.head(task_by_name(task)?).margin();
        let Some(margin) = margin else {
            let message = "least_margin must be 0 for regression, whose rows have no labels";
            return Err(PyValueError::new_err(message));
        };
        let least = LeastMargin::new(margin, least);
        let network = without_gil(py, || self.network.with_least_margin(Some(least)))?;
        Ok(Engine { network })
    }

    /// The least margin of rows that are not recomputed; 0 if none is.
    #[getter]
    fn least_margin(&self) -> f32 {
        self.network.least_margin().map_or(0.0, LeastMargin::least)
    }

    /// The same network under a plan: (rows, strategies, precisions) per batch size, and its margins:
    /// the least margin or None for the network's, and the int8 margin or None.
    #[pyo3(signature = (batch_plans, margins=None))]
    fn with_plan(
        &self,
        py: Python<'_>,
        batch_plans: Vec<BatchPlanArgs>,
        margins: Option<Vec<(Option<f32>, Option<f32>)>>,
    ) -> PyResult<Self> {
        let mut batch_plans =
            batch_plans.into_iter().map(batch_plan).collect::<PyResult<Vec<_>>>()?;
        if let Some(margins) = margins {
            if margins.len() != batch_plans.len() {
                let (expected, got) = (batch_plans.len(), margins.len());
                let message = format!("margins must have {expected} entries, got {got}");
                return Err(PyValueError::new_err(message));
            }
            for (batch_plan, margins) in batch_plans.iter_mut().zip(margins) {
                (batch_plan.least_margin, batch_plan.int8_margin) = margins;
            }
        }
        let plan = Plan::new(batch_plans).map_err(to_py)?;
        Ok(Engine { network: without_gil(py, || self.network.with_plan(plan))? })
    }

    /// The plan: (rows, strategies, precisions) per batch size.
    fn plan(&self) -> Vec<(usize, Vec<&'static str>, Vec<&'static str>)> {
        let args = |batch_plan: &BatchPlan| {
            let strategies = batch_plan.layers.iter().map(|layer| layer.strategy.name()).collect();
            let precisions = batch_plan.layers.iter().map(|layer| layer.precision.name()).collect();
            (batch_plan.rows, strategies, precisions)
        };
        self.network.plan().batch_plans().iter().map(args).collect()
    }

    /// The margins of each batch plan: the least margin, None for the network's, and the int8 margin.
    fn margins(&self) -> Vec<(Option<f32>, Option<f32>)> {
        let batch_plans = self.network.plan().batch_plans().iter();
        batch_plans.map(|batch_plan| (batch_plan.least_margin, batch_plan.int8_margin)).collect()
    }

    /// The batch size of the plan that a call with this many rows uses.
    fn batch_size_for(&self, rows: usize) -> usize {
        self.network.plan().for_rows(rows).rows
    }

    /// Conversion of the outputs for this task.
    fn head(&self, task: &str) -> PyResult<Head> {
        Ok(Head { head: self.network.head(task_by_name(task)?) })
    }

    /// Measures the fastest plan on these rows, in about `seconds` per batch size.
    #[pyo3(signature = (x, batch_sizes, seconds, num_threads=1))]
    fn tune(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        batch_sizes: Vec<usize>,
        seconds: f64,
        num_threads: usize,
    ) -> PyResult<Self> {
        let x = PyRows::new(x, self.network.input_size())?;
        let rows = x.rows()?;
        let time = duration(seconds)?;
        let tune = || self.network.tune(rows, &batch_sizes, time, num_threads);
        Ok(Engine { network: without_gil(py, tune)? })
    }

    /// Measures the plan's batch sizes again, within about `seconds` in total.
    fn retune(&self, py: Python<'_>, x: &Bound<'_, PyAny>, seconds: f64) -> PyResult<Self> {
        let x = PyRows::new(x, self.network.input_size())?;
        let rows = x.rows()?;
        let time = duration(seconds)?;
        Ok(Engine { network: without_gil(py, || self.network.retune(rows, time))? })
    }

    /// Counts of each layer on these rows under the plan for calls of `batch_size` rows, summed
    /// over rows.
    fn count<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        batch_size: usize,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let x = PyRows::new(x, self.network.input_size())?;
        let rows = x.rows()?;
        let counts = without_gil(py, || self.network.count(rows, batch_size))?;
        let layer = |counts: LayerCounts| {
            let dict = PyDict::new(py);
            dict.set_item("inputs", counts.inputs)?;
            dict.set_item("outputs", counts.outputs)?;
            dict.set_item("computed", counts.computed)?;
            dict.set_item("active", counts.active)?;
            dict.set_item("kept", counts.kept)?;
            dict.set_item("energy", counts.energy)?;
            dict.set_item("lost", counts.lost)?;
            Ok(dict)
        };
        counts.into_iter().map(layer).collect()
    }

    /// Seconds per row of each layer on one thread, in calls of `batch_size` rows.
    fn layer_seconds(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        batch_size: usize,
        seconds: f64,
    ) -> PyResult<Vec<f64>> {
        let x = PyRows::new(x, self.network.input_size())?;
        let rows = x.rows()?;
        let time = duration(seconds)?;
        without_gil(py, || self.network.layer_seconds(rows, batch_size, time))
    }

    /// The profile of each layer on these rows, in calls of `batch_size` rows, as one dict per
    /// layer.
    fn profile<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        batch_size: usize,
        seconds: f64,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let x = PyRows::new(x, self.network.input_size())?;
        let rows = x.rows()?;
        let time = duration(seconds)?;
        let profile = without_gil(py, || self.network.profile(rows, batch_size, time))?;
        profile
            .into_iter()
            .map(|layer| {
                let dict = PyDict::new(py);
                dict.set_item("strategy", layer.strategy.name())?;
                dict.set_item("precision", layer.precision.name())?;
                dict.set_item("rank", layer.rank)?;
                dict.set_item("density_in", layer.density_in)?;
                dict.set_item("density_out", layer.density_out)?;
                dict.set_item("computed_share", layer.computed_share)?;
                dict.set_item("recall", layer.recall)?;
                dict.set_item("lost_energy", layer.lost_energy)?;
                dict.set_item("seconds_per_row", layer.seconds)?;
                dict.set_item("multiply_adds", layer.multiply_adds)?;
                dict.set_item("dense_multiply_adds", layer.dense_multiply_adds)?;
                Ok(dict)
            })
            .collect()
    }

    /// The time of calls of `batch_size` rows by phase: phases as dicts, seconds per row of a whole
    /// call, bytes of weights in use.
    fn phases<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        batch_size: usize,
        seconds: f64,
    ) -> PyResult<(Vec<Bound<'py, PyDict>>, f64, f64)> {
        let x = PyRows::new(x, self.network.input_size())?;
        let rows = x.rows()?;
        let time = duration(seconds)?;
        let found = without_gil(py, || self.network.phases(rows, batch_size, time))?;
        let phase = |phase: PhaseProfile| {
            let dict = PyDict::new(py);
            dict.set_item("layer", phase.layer)?;
            dict.set_item("factor", phase.factor.map(Factor::name))?;
            dict.set_item("phase", phase.phase.name())?;
            dict.set_item("precision", phase.precision.name())?;
            dict.set_item("seconds_per_row", phase.seconds)?;
            dict.set_item("weight_bytes_per_row", phase.weight_bytes)?;
            dict.set_item("row_bytes_per_row", phase.row_bytes)?;
            dict.set_item("operations_per_row", phase.operations)?;
            Ok(dict)
        };
        let phases = found.phases.into_iter().map(phase).collect::<PyResult<_>>()?;
        Ok((phases, found.seconds, found.weight_bytes))
    }

    /// Every layer's input on these rows, float32 (n, in) each.
    fn layer_inputs<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Vec<Bound<'py, PyArray2<f32>>>> {
        let x = PyRows::new(x, self.network.input_size())?;
        let rows = x.rows()?;
        let inputs = without_gil(py, || self.network.layer_inputs(rows))?;
        to_arrays(py, inputs, x.len(), self.network.layers())
    }

    /// As `layer_inputs`, without the first layer. Sparse rows are not made dense.
    fn hidden_inputs<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Vec<Bound<'py, PyArray2<f32>>>> {
        let x = PyRows::new(x, self.network.input_size())?;
        let rows = x.rows()?;
        let inputs = without_gil(py, || self.network.hidden_inputs(rows))?;
        to_arrays(py, inputs, x.len(), self.network.layers().skip(1))
    }

    /// Whether a call on these rows recomputes each of them, because one of its values
    /// is outside the range of an int8 layer or because its margin is too small: bool (n,).
    fn recomputed<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let x = PyRows::new(x, self.network.input_size())?;
        let rows = x.rows()?;
        let marks = without_gil(py, || self.network.recomputed(rows))?;
        guarded(|| Ok(PyArray1::from_vec(py, marks)))
    }

    /// Width of an input row.
    #[getter]
    fn input_size(&self) -> usize {
        self.network.input_size()
    }

    /// Width of an output row.
    #[getter]
    fn output_size(&self) -> usize {
        self.network.output_size()
    }

    /// Bytes of weights held, in all layouts packed so far.
    #[getter]
    fn nbytes(&self) -> usize {
        self.network.nbytes()
    }
}

impl Engine {
    /// The layers and the input map of a network.
    fn parts(
        layers: Vec<LayerArgs<'_>>,
        kept_units: Option<Vec<KeptUnits<'_>>>,
        input_scale: Option<PyReadonlyArray1<'_, f32>>,
        input_shift: Option<PyReadonlyArray1<'_, f32>>,
    ) -> PyResult<(Vec<Layer>, Option<InputMap>)> {
        let kept = match kept_units {
            None => vec![None; layers.len()],
            Some(kept) => kept.iter().enumerate().map(units).collect::<PyResult<_>>()?,
        };
        if kept.len() != layers.len() {
            let message =
                format!("kept_units must have {} entries, got {}", layers.len(), kept.len());
            return Err(PyValueError::new_err(message));
        }
        let mut made = Vec::with_capacity(layers.len());
        let mut before = None;
        for (i, (array, bias, activation, parameters)) in layers.into_iter().enumerate() {
            let activation = activation_by_name(&activation, &parameters)?;
            if !array.is_aligned() {
                let message = format!("layers[{i}].weight must be aligned, as f32 is");
                return Err(PyValueError::new_err(message));
            }
            let (rows, columns) = (array.shape()[0], array.shape()[1]);
            let bias = memory::collected(bias.as_array().iter().copied());
            if rows != bias.len() {
                return Err(PyValueError::new_err(format!(
                    "layers[{i}].bias must have shape ({rows},), got ({},)",
                    bias.len()
                )));
            }
            if let Some(expected) = before.filter(|units| *units != columns) {
                let error = Error::Chain { layer: i, expected, got: columns };
                return Err(to_py(error));
            }
            before = Some(rows);
            let inputs = i.checked_sub(1).and_then(|before| kept[before].as_deref());
            let layer = Layer::from_shared(shared(&array)?, bias, columns, activation);
            // The inputs are kept units of the previous layer, which were checked there.
            made.push(layer.pick(kept[i].as_deref(), inputs).map_err(|error| {
                PyValueError::new_err(format!("kept_units[{i}]: {}", message(&error)))
            })?);
        }
        let map = match (input_scale, input_shift) {
            (None, None) => None,
            (scale, shift) => {
                let or = |values: Option<PyReadonlyArray1<'_, f32>>, default| {
                    values.map_or_else(|| vec![default], |values| values.as_array().to_vec())
                };
                Some(InputMap::new(or(scale, 1.0), or(shift, 0.0)))
            }
        };
        Ok((made, map))
    }
}

/// Values of layers' inputs as arrays (rows, in).
fn to_arrays<'py, 'a>(
    py: Python<'py>,
    inputs: Vec<Vec<f32>>,
    rows: usize,
    layers: impl Iterator<Item = &'a Layer>,
) -> PyResult<Vec<Bound<'py, PyArray2<f32>>>> {
    let array = |(values, layer): (Vec<f32>, &Layer)| {
        guarded(|| PyArray1::from_vec(py, values).reshape([rows, layer.inputs()]))
    };
    inputs.into_iter().zip(layers).map(array).collect()
}

/// The values of an array that nobody writes to.
struct ArrayValues {
    start: *const f32,
    len: usize,
    /// Keeps the memory of the values alive.
    _array: Py<PyArray2<f32>>,
}

// SAFETY: the values are only read, and nobody writes to them: see `shared`.
unsafe impl Send for ArrayValues {}
// SAFETY: as above.
unsafe impl Sync for ArrayValues {}

impl AsRef<[f32]> for ArrayValues {
    fn as_ref(&self) -> &[f32] {
        // SAFETY: `shared` took both from a contiguous array, which is alive and not written to.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

/// An array's values in C order: in place if it is C-contiguous and read-only, otherwise copied.
/// The creator of the array guarantees that nobody writes to it. Models own the memory of their
/// arrays and make them permanently read-only.
fn shared(array: &PyReadonlyArray2<'_, f32>) -> PyResult<Weights> {
    let py = array.py();
    let flags = array.getattr(intern!(py, "flags"))?;
    let read_only = !flags.getattr(intern!(py, "writeable"))?.is_truthy()?;
    // The slice of a Fortran-contiguous array has columns.
    Ok(match array.as_slice() {
        Ok(values) if read_only && array.is_c_contiguous() => Arc::new(ArrayValues {
            start: values.as_ptr(),
            len: values.len(),
            _array: (**array).clone().unbind(),
        }),
        _ => Arc::new(to_vec(array.as_array())),
    })
}

/// The kept units of a layer, as the core expects them.
fn units((layer, kept): (usize, &KeptUnits<'_>)) -> PyResult<Option<Vec<u32>>> {
    let Some(kept) = kept else { return Ok(None) };
    let unit = |i: &i32| {
        let message = || format!("kept_units[{layer}] must name units from 0 on, got {i}");
        u32::try_from(*i).map_err(|_| PyValueError::new_err(message()))
    };
    kept.as_array().iter().map(unit).collect::<PyResult<_>>().map(Some)
}

fn quantization((scale, offset): QuantizationArgs<'_>) -> Quantization {
    let values =
        |array: PyReadonlyArray1<'_, f32>| memory::collected(array.as_array().iter().copied());
    Quantization::new(values(scale), values(offset))
}

fn to_vec(matrix: ArrayView2<'_, f32>) -> Vec<f32> {
    matrix.as_slice().map_or_else(|| memory::collected(matrix.iter().copied()), memory::copied)
}

pub(crate) fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("seconds must be at least 0, got {seconds}")))
}

fn batch_plan((rows, strategies, precisions): BatchPlanArgs) -> PyResult<BatchPlan> {
    if strategies.len() != precisions.len() {
        return Err(PyValueError::new_err(format!(
            "precisions must have {} entries, got {}",
            strategies.len(),
            precisions.len()
        )));
    }
    let layers = strategies
        .iter()
        .zip(&precisions)
        .enumerate()
        .map(|(i, (strategy, precision))| {
            let strategy = Strategy::by_name(strategy).ok_or_else(|| {
                let known = Strategy::ALL.map(Strategy::name).join(", ");
                let message = format!("strategies[{i}] must be one of {known}, got {strategy:?}");
                PyValueError::new_err(message)
            })?;
            let precision = Precision::by_name(precision).ok_or_else(|| {
                let known = Precision::ALL.map(Precision::name).join(", ");
                let message = format!("precisions[{i}] must be one of {known}, got {precision:?}");
                PyValueError::new_err(message)
            })?;
            Ok(LayerPlan { strategy, precision })
        })
        .collect::<PyResult<_>>()?;
    Ok(BatchPlan::new(rows, layers))
}

fn activation_by_name(
    name: &str,
    parameters: &[PyReadonlyArray1<'_, f32>],
) -> PyResult<Activation> {
    let values = parameters.iter().map(|array| array.as_array().to_vec());
    let values: Vec<Vec<f32>> = values.collect();
    let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    Activation::by_name(name, &slices).ok_or_else(|| {
        let message = format!("activation {name:?} with parameters {values:?} is unknown");
        PyValueError::new_err(message)
    })
}
