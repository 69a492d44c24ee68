"""What lrgate is compared with: each engine a user might run the same network in.

An engine stores a network in its own form, and loads that file as a function from float32 rows to
raw outputs. So what is timed, what is started in a fresh process and whose size is told are the
same file and the same code. An engine has a small grid of settings; who compares takes the fastest.

Engines know relu networks alone. The input's scale and shift are in the first layer's weights.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.network import Network
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "ENGINES",
    "LRGATE",
    "Engine",
    "NumpyForward",
    "blas",
    "by_name",
    "folded",
    "make",
    "selected",
    "versions",
]

Forward = Callable[[Float32Array], Float32Array]
Settings = Mapping[str, Any]
Layers = Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]


@dataclass(frozen=True)
class Engine:
    """One way to run a relu network.

    Attributes
    ----------
    name : str
    package : str
        The distribution whose version counts.
    precision : {"f32", "bf16", "int8"}
        Of the products.
    modules : tuple of str
        What is imported before `load`.
    store : callable (net, calibration rows, folder, settings) -> Path
        Writes the network's file, unless the folder has it.
    load : callable (path, rows a call, threads, settings) -> callable
        The result maps float32 (rows, d) to raw outputs, float32 (rows, k); it may overwrite them
        in its next call.
    grid : tuple of dict
        Settings to choose from. Those with ``spinning`` are for more than one thread.
    batch_dependent : bool
        Whether a row's result depends, beyond rounding, on the other rows of its call.
    """

    name: str
    package: str
    precision: str
    modules: tuple[str, ...]
    store: Callable[[Network, Float32Array, Path, Settings], Path]
    load: Callable[[Path, int, int, Settings], Any]
    grid: tuple[Settings, ...] = ({},)
    batch_dependent: bool = False

    def settings(self, threads: int) -> list[Settings]:
        """The settings to try on `threads` threads."""
        if threads > 1:
            return list(self.grid)
        alone = [each for each in self.grid if not each.get("spinning")]
        return [{k: v for k, v in each.items() if k != "spinning"} for each in alone]

    def version(self) -> str:
        """The version installed.

        Raises
        ------
        ImportError
            If it is not.
        """
        return importlib.metadata.version(self.package)


def folded(net: Network) -> list[tuple[Float64Array, Float64Array]]:
    """Weight (out, in) and bias of each layer, the input's scale and shift in the first.

    Raises
    ------
    ValueError
        For a network that is not relu on all layers but the last, and identity there.
    """
    names = [layer.activation.name for layer in net.layers]
    if names != ["relu"] * (len(names) - 1) + ["identity"]:
        raise ValueError(
            "the network must have relu on all layers but the last, and identity there, "
            f"got {', '.join(names)}"
        )
    layers = [
        (layer.weight.astype(np.float64), layer.bias.astype(np.float64)) for layer in net.layers
    ]
    weight, bias = layers[0]
    if net.input_shift is not None:
        bias = bias + weight @ np.broadcast_to(net.input_shift.astype(np.float64), weight.shape[1])
    if net.input_scale is not None:
        weight = weight * net.input_scale
    layers[0] = (weight, bias)
    return layers


def make(
    engine: Engine,
    net: Network,
    calibration: Float32Array,
    threads: int = 1,
    settings: Settings | None = None,
    *,
    rows: int = 1,
) -> Forward:
    """A network in an engine: float32 (rows, d) to raw outputs (rows, k).

    Parameters
    ----------
    engine : Engine
    net : Network
        Of relu layers, the last linear; gates, plan and precision do not count.
    calibration : float32 array (n, d)
        Real rows that int8 engines fit scales to.
    threads : int
    settings : mapping, optional
        Of the engine's grid; its first by default.
    rows : int
        Rows of each call, for engines that compile for them.

    Raises
    ------
    ImportError
        If the engine is not installed.
    ValueError
        For another network.
    """
    settings = engine.grid[0] if settings is None else settings
    with tempfile.TemporaryDirectory() as folder:
        path = engine.store(net, calibration, Path(folder), settings)
        forward: Forward = engine.load(path, rows, threads, settings)
        # Some engines read their file as it is needed.
        forward(np.zeros((rows, net.input_size), np.float32))
        return forward


def by_name(name: str) -> Engine:
    """The engine of that name, lrgate among them."""
    return next(engine for engine in (*ENGINES, LRGATE) if engine.name == name)


def selected(names: Sequence[str] | None) -> tuple[Engine, ...]:
    """The engines whose names begin with one of `names`, whatever the case; all by default.

    Raises
    ------
    ValueError
        If a name begins none.
    """
    if names is None:
        return ENGINES
    for name in names:
        if not any(engine.name.lower().startswith(name.lower()) for engine in ENGINES):
            known = ", ".join(engine.name for engine in ENGINES)
            raise ValueError(f"engines must be names, or beginnings, of {known}; got {name!r}")
    begins = tuple(name.lower() for name in names)
    return tuple(engine for engine in ENGINES if engine.name.lower().startswith(begins))


def versions() -> dict[str, str]:
    """Versions of the engines' packages that are installed."""
    found = {}
    for package in dict.fromkeys(engine.package for engine in ENGINES):
        with contextlib.suppress(ImportError):
            found[package] = importlib.metadata.version(package)
    return found


# --- NumPy and scikit-learn ----------------------------------------------------------------------


class NumpyForward:
    """A relu network in NumPy alone: ``maximum(x W + b, 0)`` into arrays that are kept.

    Parameters
    ----------
    layers : sequence of (weight, bias)
        weight (out, in), bias (out,).
    transposed : bool
        Whether W is a transposed view of weight, or a copy in the order (in, out): which is faster
        depends on the BLAS and on the number of rows.
    """

    def __init__(self, layers: Layers, transposed: bool = False) -> None:
        pairs = [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers]
        self._layers = [
            (weight.T if transposed else np.ascontiguousarray(weight.T), bias)
            for weight, bias in pairs
        ]
        self._outputs: dict[int, list[Float32Array]] = {}

    def __call__(self, x: Float32Array) -> Float32Array:
        """Raw outputs (n, k) for x (n, d); overwritten by the next call with as many rows."""
        outputs = self._outputs.get(len(x))
        if outputs is None:
            outputs = [np.empty((len(x), len(bias)), np.float32) for _, bias in self._layers]
            self._outputs[len(x)] = outputs
        for (weight, bias), output in zip(self._layers, outputs, strict=True):
            np.matmul(x, weight, out=output)
            output += bias
            if output is not outputs[-1]:
                np.maximum(output, 0, out=output)
            x = output
        return x


def blas() -> str:
    """NumPy's BLAS, with the kernels it has chosen where threadpoolctl is there to tell."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown: threadpoolctl is not installed"
    found = [pool for pool in threadpool_info() if pool.get("user_api") == "blas"]
    # SciPy may have one of its own; wheels of both call its file after SciPy.
    found.sort(key=lambda pool: "numpy" not in pool.get("filepath", ""))
    return ", ".join(
        " ".join(
            str(pool[key]) for key in ("internal_api", "version", "architecture") if key in pool
        )
        for pool in found[:1]
    )


def _store_npz(net: Network, calibration: Float32Array, folder: Path, settings: Settings) -> Path:
    path = folder / "arrays.npz"
    if not path.exists():
        arrays = {
            f"{name}{i}": array.astype(np.float32)
            for i, pair in enumerate(folded(net))
            for name, array in zip(("weight", "bias"), pair, strict=True)
        }
        np.savez(path, allow_pickle=False, **arrays)
    return path


def _load_npz(path: Path) -> list[tuple[Float32Array, Float32Array]]:
    with np.load(path, allow_pickle=False) as file:
        return [(file[f"weight{i}"], file[f"bias{i}"]) for i in range(len(file.files) // 2)]


def _load_numpy(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    return NumpyForward(_load_npz(path), transposed=settings["weights"] == "F")


def _load_sklearn(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    from sklearn.neural_network import MLPRegressor

    # The regressor, for a classifier too: its outputs are the raw ones, with nothing on top.
    layers = _load_npz(path)
    model = MLPRegressor([len(bias) for _, bias in layers[:-1]])
    model.coefs_ = [weight.T for weight, _ in layers]
    model.intercepts_ = [bias for _, bias in layers]
    model.n_layers_ = len(layers) + 1
    model.n_outputs_ = len(layers[-1][1])
    model.n_features_in_ = layers[0][0].shape[1]
    model.out_activation_ = "identity"
    if settings["checks"]:
        return lambda x: model.predict(x).reshape(len(x), -1)
    return lambda x: model._forward_pass_fast(x, check_input=False)


# --- PyTorch -------------------------------------------------------------------------------------


def _module(layers: Layers, dtype: Any) -> Any:
    import torch

    parts: list[Any] = []
    for weight, bias in layers:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
            linear.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
        parts += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1]).eval().requires_grad_(False).to(dtype)


def _store_torch(net: Network, calibration: Float32Array, folder: Path, settings: Settings) -> Path:
    import torch

    path = folder / f"state-{settings['dtype']}.pt"
    if not path.exists():
        module = _module(folded(net), getattr(torch, settings["dtype"]))
        torch.save(module.state_dict(), path)
    return path


def _load_torch(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import torch

    _torch_threads(threads)
    state = torch.load(path, weights_only=True)
    parts: list[Any] = []
    for name in [name for name in state if name.endswith("weight")]:
        outputs, inputs = state[name].shape
        parts += [torch.nn.Linear(inputs, outputs, device="meta"), torch.nn.ReLU()]
    module = torch.nn.Sequential(*parts[:-1]).eval()
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)
    if "mode" in settings:
        module = _compiled(module, threads, settings["mode"])
    return _torch_call(module, state["0.weight"].dtype)


def _compiled(module: Any, threads: int, mode: str) -> Any:
    import torch
    import torch._dynamo
    import torch._inductor.config as inductor
    import torch._inductor.select_algorithm as algorithms

    inductor.freezing = True
    inductor.cpp.threads = threads
    inductor.compile_threads = 1  # no processes that stay
    # One shape each, but for as many networks and numbers of rows as there are.
    torch._dynamo.config.recompile_limit = 1000
    algorithms.PRINT_AUTOTUNE = False
    return torch.compile(module, mode=mode, dynamic=False)


def _store_torchscript(
    net: Network, calibration: Float32Array, folder: Path, settings: Settings
) -> Path:
    import torch

    path = folder / "script.pt"
    if not path.exists():
        module = _module(folded(net), torch.float32)
        example = torch.from_numpy(np.zeros((2, net.input_size), np.float32))
        torch.jit.save(torch.jit.freeze(torch.jit.trace(module, example)), path)
    return path


def _load_torchscript(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import torch

    _torch_threads(threads)
    module = torch.jit.load(path).eval()
    if settings["optimized"]:
        module = torch.jit.optimize_for_inference(module)
    return _torch_call(module, torch.float32)


def _torch_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # told before
        torch.set_num_interop_threads(1)


def _torch_call(module: Any, dtype: Any) -> Forward:
    import torch

    from_numpy, inference_mode = torch.from_numpy, torch.inference_mode
    if dtype == torch.float32:

        def call(x: Float32Array) -> Any:
            with inference_mode():
                return module(from_numpy(x)).numpy()

        return call

    def narrow(x: Float32Array) -> Any:
        with inference_mode():
            return module(from_numpy(x).to(dtype)).float().numpy()

    return narrow


# --- ONNX Runtime and OpenVINO -------------------------------------------------------------------


def onnx_model(net: Network, *, gemm: bool = True) -> Any:
    """A relu network as an ONNX model: Gemm, or MatMul and Add."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []
    name = "x"
    layers = folded(net)
    for i, (weight, bias) in enumerate(layers):
        weight = weight.astype(np.float32)
        constants.append(numpy_helper.from_array(bias.astype(np.float32), f"bias{i}"))
        if gemm:
            constants.append(numpy_helper.from_array(weight, f"weight{i}"))
            inputs = [name, f"weight{i}", f"bias{i}"]
            nodes.append(helper.make_node("Gemm", inputs, [f"z{i}"], name=f"Gemm{i}", transB=1))
        else:
            columns = np.ascontiguousarray(weight.T)
            constants.append(numpy_helper.from_array(columns, f"weight{i}"))
            inputs = [name, f"weight{i}"]
            nodes.append(helper.make_node("MatMul", inputs, [f"m{i}"], name=f"MatMul{i}"))
            nodes.append(helper.make_node("Add", [f"m{i}", f"bias{i}"], [f"z{i}"]))
        name = f"z{i}"
        if i < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [name], [f"a{i}"]))
            name = f"a{i}"
    graph = helper.make_graph(
        nodes,
        "relu_network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", net.input_size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", net.output_size])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def _store_onnx(net: Network, calibration: Float32Array, folder: Path, settings: Settings) -> Path:
    import onnx

    path = folder / f"{settings['graph']}.onnx"
    if not path.exists():
        onnx.save(onnx_model(net, gemm=settings["graph"] == "Gemm"), path)
    return path


def _store_dynamic(
    net: Network, calibration: Float32Array, folder: Path, settings: Settings
) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = folder / "dynamic.onnx"
    if not path.exists():
        source = _store_onnx(net, calibration, folder, {"graph": "MatMul"})
        quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)
    return path


def _store_qdq(net: Network, calibration: Float32Array, folder: Path, settings: Settings) -> Path:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.calls = iter([{"x": calibration}])

        def get_next(self) -> dict[str, Float32Array] | None:
            return next(self.calls, None)

    path = folder / f"qdq-{settings['graph']}-{settings['first']}.onnx"
    if not path.exists():
        quantize_static(
            _store_onnx(net, calibration, folder, settings),
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[f"{settings['graph']}0"] if settings["first"] == "f32" else [],
        )
    return path


def _load_onnxruntime(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    entries = {
        "session.disable_prepacking": "0" if settings.get("prepacking", True) else "1",
        "session.intra_op.allow_spinning": "1" if settings.get("spinning") else "0",
        # Threads that spin within a call, but not into the next engine's turn.
        "session.force_spinning_stop": "1",
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    run, outputs = session.run, [session.get_outputs()[0].name]
    return lambda x: run(outputs, {"x": x})[0]


def _store_openvino(
    net: Network, calibration: Float32Array, folder: Path, settings: Settings
) -> Path:
    import openvino

    int8 = settings["precision"] == "int8"
    path = folder / f"openvino-{'int8' if int8 else 'f32'}-{settings.get('first')}.xml"
    if not path.exists():
        if int8:
            chosen = {"graph": "Gemm", "first": settings["first"]}
            source = _store_qdq(net, calibration, folder, chosen)
        else:
            source = _store_onnx(net, calibration, folder, {"graph": "Gemm"})
        openvino.save_model(openvino.Core().read_model(source), path, compress_to_fp16=False)
    return path


def _load_openvino(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    if settings["shape"] == "static":
        model.reshape([rows, model.input(0).partial_shape[1].get_length()])
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Of what is not int8.
        "INFERENCE_PRECISION_HINT": settings.get("rest", settings["precision"]),
    }
    request = core.compile_model(model, "CPU", config).create_infer_request()
    tensor, set_input, infer = openvino.Tensor, request.set_input_tensor, request.infer
    output = request.get_output_tensor

    def shared(x: Float32Array) -> Any:
        set_input(tensor(x, shared_memory=True))
        infer(share_outputs=True)
        return output().data

    if settings["input"] == "shared":
        return shared
    copied, result = request.get_input_tensor().data, output().data

    def call(x: Float32Array) -> Any:
        copied[:] = x
        infer(share_outputs=True)
        return result

    return call


# --- JAX -----------------------------------------------------------------------------------------


def _load_jax(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import jax
    import jax.numpy as jnp

    layers = [(jnp.asarray(weight.T), jnp.asarray(bias)) for weight, bias in _load_npz(path)]

    def forward(parameters: Any, x: Any) -> Any:
        for weight, bias in parameters[:-1]:
            x = jnp.maximum(x @ weight + bias, 0)
        weight, bias = parameters[-1]
        return x @ weight + bias

    if settings["weights"] == "constants":
        constant = jax.jit(lambda x: forward(layers, x))
        return lambda x: np.asarray(constant(x))
    general = jax.jit(forward)
    return lambda x: np.asarray(general(layers, x))


# --- lrgate, for its start -----------------------------------------------------------------------


def _store_lrgate(
    net: Network, calibration: Float32Array, folder: Path, settings: Settings
) -> Path:
    path = folder / f"{settings['file']}.safetensors"  # uncompressed, so that it loads faster
    net.save(path)
    return path


def _load_lrgate(path: Path, rows: int, threads: int, settings: Settings) -> Network:
    return Network.load(path)


# --- the registry --------------------------------------------------------------------------------


def _grid(**values: Sequence[Any]) -> tuple[Settings, ...]:
    """Every combination."""
    return tuple(
        dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())
    )


_SPINNING: Final = (False, True)
_GRAPHS: Final = ("Gemm", "MatMul")
# The precision of the first layer of int8 engines that fit scales to rows: inputs may need more.
_FIRST: Final = ("int8", "f32")
_OPENVINO_INT8: Final = (
    {"first": "int8", "rest": "f32"},
    {"first": "f32", "rest": "f32"},
    {"first": "f32", "rest": "bf16"},
)
_MODES: Final = ("default", "max-autotune-no-cudagraphs")
_TORCH: Final = ("torch",)
_ORT: Final = ("onnxruntime",)
_OPENVINO: Final = ("openvino",)

ENGINES: Final = (
    Engine("NumPy", "numpy", "f32", ("numpy",), _store_npz, _load_numpy, _grid(weights=("C", "F"))),
    Engine(
        "scikit-learn",
        "scikit-learn",
        "f32",
        ("sklearn.neural_network",),
        _store_npz,
        _load_sklearn,
        _grid(checks=(True, False)),
    ),
    Engine(
        "PyTorch eager",
        "torch",
        "f32",
        _TORCH,
        _store_torch,
        _load_torch,
        _grid(dtype=["float32"]),
    ),
    Engine(
        "PyTorch script",
        "torch",
        "f32",
        _TORCH,
        _store_torchscript,
        _load_torchscript,
        _grid(optimized=(False, True)),
    ),
    Engine(
        "PyTorch compile",
        "torch",
        "f32",
        _TORCH,
        _store_torch,
        _load_torch,
        _grid(dtype=["float32"], mode=_MODES),
    ),
    Engine(
        "PyTorch bf16",
        "torch",
        "bf16",
        _TORCH,
        _store_torch,
        _load_torch,
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "mode": _MODES[1]}),
    ),
    Engine(
        "ORT f32",
        "onnxruntime",
        "f32",
        _ORT,
        _store_onnx,
        _load_onnxruntime,
        _grid(graph=_GRAPHS, prepacking=(True, False), spinning=_SPINNING),
    ),
    Engine(
        "ORT int8 dynamic",
        "onnxruntime",
        "int8",
        _ORT,
        _store_dynamic,
        _load_onnxruntime,
        _grid(prepacking=(True, False), spinning=_SPINNING),
        batch_dependent=True,
    ),
    Engine(
        "ORT int8 QDQ",
        "onnxruntime",
        "int8",
        _ORT,
        _store_qdq,
        _load_onnxruntime,
        _grid(graph=_GRAPHS, first=_FIRST, prepacking=(True, False), spinning=_SPINNING),
    ),
    *(
        Engine(
            f"OpenVINO {precision}",
            "openvino",
            precision,
            _OPENVINO,
            _store_openvino,
            _load_openvino,
            tuple(
                {"precision": precision, "shape": shape, "input": how} | rest
                for shape, how in (("static", "shared"), ("static", "copied"), ("any", "shared"))
                for rest in (_OPENVINO_INT8 if precision == "int8" else ({},))
            ),
        )
        for precision in ("f32", "bf16", "int8")
    ),
    Engine(
        "JAX",
        "jax",
        "f32",
        ("jax", "jax.numpy"),
        _store_npz,
        _load_jax,
        _grid(weights=("constants", "arguments")),
    ),
)
"""Every engine, whether it is installed or not."""

LRGATE: Final = Engine("lrgate", "lrgate", "int8", ("lrgate",), _store_lrgate, _load_lrgate)
"""lrgate's own, as far as its start is compared."""
