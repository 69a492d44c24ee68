//! The Python module `lrgate._core`: conversions and errors. Every algorithm is in the crate
//! `lrgate`.

mod engine;
mod errors;
mod head;
mod messages;
mod network;
mod rows;

use pyo3::prelude::*;

/// The compiled half of lrgate.
#[pymodule(name = "_core")]
mod core_module {
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::head::Head;
    #[pymodule_export]
    use crate::network::Network;

    use lrgate::{Activation, Isa, Peaks, Precision, Strategy, pool};
    use pyo3::prelude::*;
    use pyo3::types::PyTuple;

    use crate::engine::duration;
    use crate::errors::{check_threads, to_py, without_gil};

    /// Version of the crate.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");

    /// Build profile: release or debug.
    #[pymodule_export]
    const BUILD_PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

    /// Name of the instruction set in use.
    #[pyfunction]
    fn isa() -> PyResult<&'static str> {
        Ok(Isa::detect().map_err(to_py)?.name())
    }

    /// Names of the instruction sets of this machine, best first.
    #[pyfunction]
    fn available_isas() -> Vec<&'static str> {
        Isa::available().into_iter().map(Isa::name).collect()
    }

    /// The highest rates of one core with the instruction set in use, measured for about `seconds`:
    /// bytes loaded per second from buffers of `sizes` bytes, and operations per second on f32, on
    /// bytes, and on bytes in AMX tiles, if there are any.
    #[pyfunction]
    fn peaks(
        py: Python<'_>,
        sizes: Vec<usize>,
        seconds: f64,
    ) -> PyResult<(Vec<f64>, f64, f64, Option<f64>)> {
        let (isa, time) = (Isa::detect().map_err(to_py)?, duration(seconds)?);
        let peaks = without_gil(py, || Peaks::measure(isa, &sizes, time))?;
        let Peaks { bandwidth, f32_operations, int8_operations, tile_operations } = peaks;
        Ok((bandwidth, f32_operations, int8_operations, tile_operations))
    }

    /// Number of threads that a call from this thread may use.
    #[pyfunction]
    fn get_num_threads() -> PyResult<usize> {
        pool::num_threads().map_err(to_py)
    }

    /// Sets the number of threads of the process.
    #[pyfunction]
    fn set_num_threads(num_threads: &Bound<'_, PyAny>) -> PyResult<()> {
        pool::set_num_threads(check_threads(num_threads)?).map_err(to_py)
    }

    /// Sets the number of threads of this thread and returns the previous one; None follows the
    /// process.
    #[pyfunction]
    #[pyo3(signature = (num_threads))]
    fn set_thread_override(num_threads: Option<&Bound<'_, PyAny>>) -> PyResult<Option<usize>> {
        let threads = num_threads.map(check_threads).transpose()?;
        pool::set_thread_override(threads).map_err(to_py)
    }

    /// Adds the names of activations, precisions and strategies, and reports a wrong `LRGATE_ISA` or
    /// `LRGATE_NUM_THREADS` at import, not at the first call.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("ACTIVATIONS", PyTuple::new(py, Activation::NAMES)?)?;
        module.add("PRECISIONS", PyTuple::new(py, Precision::ALL.map(Precision::name))?)?;
        module.add("STRATEGIES", PyTuple::new(py, Strategy::ALL.map(Strategy::name))?)?;
        Isa::detect().map_err(to_py)?;
        pool::num_threads().map_err(to_py)?;
        Ok(())
    }
}
