"""Networks inside PyTorch models, and networks as PyTorch modules."""

from __future__ import annotations

import copy
import gc
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import Activation, Network

torch = pytest.importorskip("torch", reason="needs PyTorch")
nn = torch.nn

pytestmark = pytest.mark.frameworks


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network(*sizes: int, activation: Any = "relu", last: Any = "identity", **more: Any) -> Network:
    layers = [
        (weights(m, n, seed=i) / np.float32(np.sqrt(n)), weights(m, seed=100 + i))
        for i, (n, m) in enumerate(pairwise(sizes))
    ]
    names = [activation] * (len(layers) - 1) + [last]
    return Network.from_layers(layers, names, **more)


ACTIVATIONS = [
    "relu",
    ("clipped_relu", 6.0),
    ("clipped_relu", 2.5),
    ("thresholded_relu", 0.25),
    ("leaky_relu", 0.1),
    "tanh",
    "sigmoid",
    "gelu",
    "gelu_tanh",
    ("elu", 0.7),
    "selu",
    "silu",
    "softplus",
    "mish",
    "exp",
    ("hard_tanh", -0.5, 2.0),
    "hard_sigmoid",
    "hard_swish",
    ("prelu", np.linspace(-0.5, 0.5, 16, dtype=np.float32)),
    "squared_relu",
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_to_torch_has_the_outputs_of_the_dense_network(activation: Any) -> None:
    net = network(8, 16, 5, activation=activation, last="log_softmax")
    module = net.to_torch()
    x = weights(20, 8, seed=5) * 3
    expected = net(x)
    np.testing.assert_allclose(module(torch.from_numpy(x)), expected, rtol=2e-5, atol=2e-5)
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())


def test_to_torch_applies_the_input_map_and_leaves_out_units() -> None:
    scale, shift = np.linspace(0.5, 2, 8), np.linspace(-50, 50, 8)
    net = network(8, 16, 12, 5, input_scale=scale, input_shift=shift)
    net = net.with_units({0: [7, 3, 5, 1], 1: range(11, -1, -1)})
    module = net.to_torch()
    assert [tuple(m.weight.shape) for m in module if isinstance(m, nn.Linear)] == [
        (4, 8),
        (12, 4),
        (5, 12),
    ]
    x = weights(20, 8)
    got = module(torch.from_numpy(x))
    np.testing.assert_allclose(got, net.dense()(x), rtol=1e-4, atol=1e-3)


def test_to_torch_does_not_share_memory_with_the_network() -> None:
    net = network(4, 3, 2)
    before = net.layers[0].weight.copy()
    module = net.to_torch()
    with torch.no_grad():
        module[0].weight.zero_()
    np.testing.assert_array_equal(net.layers[0].weight, before)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_a_network_survives_the_way_to_torch_and_back(activation: Any) -> None:
    net = network(8, 16, 5, activation=activation, input_scale=np.linspace(0.5, 2, 8))
    back = lrgate.from_torch(net.to_torch())
    assert [layer.activation for layer in back.layers] == [
        Activation.parse(activation),
        Activation("identity"),
    ]
    for one, two in zip(net.layers, back.layers, strict=True):
        np.testing.assert_array_equal(one.weight, two.weight)
        np.testing.assert_array_equal(one.bias, two.bias)
    np.testing.assert_array_equal(net.input_scale, back.input_scale)


@pytest.fixture
def accelerated() -> Any:
    from lrgate.torch import Accelerated

    return Accelerated(network(8, 16, 5))


def test_the_module_has_the_outputs_of_the_network(accelerated: Any) -> None:
    x = weights(6, 8)
    t = torch.from_numpy(x)
    expected = accelerated.network(x)
    np.testing.assert_array_equal(accelerated(t), expected)
    np.testing.assert_array_equal(accelerated(t[0]), expected[0])
    np.testing.assert_array_equal(accelerated(t.reshape(2, 3, 8)), expected.reshape(2, 3, 5))
    np.testing.assert_array_equal(accelerated(t.t().contiguous().t()), expected)
    assert accelerated(t[:0]).shape == (0, 5)
    assert accelerated(t).is_contiguous()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "uint8", "int64"])
def test_the_dtype_of_the_result(accelerated: Any, dtype: str) -> None:
    t = torch.from_numpy(np.arange(16).reshape(2, 8)).to(getattr(torch, dtype))
    result = accelerated(t)
    assert result.dtype == (t.dtype if t.is_floating_point() else torch.float32)
    expected = torch.from_numpy(accelerated.network(t.float().numpy())).to(result.dtype)
    assert torch.equal(result, expected)


@pytest.mark.filterwarnings("ignore")
def test_traces_are_refused(accelerated: Any) -> None:
    with pytest.raises(RuntimeError, match="cannot be traced"):
        torch.jit.trace(accelerated, torch.zeros(2, 8))


def test_gradients_are_refused_but_not_needed(accelerated: Any) -> None:
    t = torch.from_numpy(weights(2, 8)).requires_grad_()
    with pytest.raises(RuntimeError, match="computes no gradients: call the model under"):
        accelerated(t)
    with torch.no_grad():
        assert not accelerated(t).requires_grad
    with torch.inference_mode():
        accelerated(t)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m: m(weights(2, 8)), TypeError, "x must be a tensor, got ndarray"),
        (lambda m: m(torch.zeros(2, 7)), ValueError, r"must have shape \(..., 8\), got \(2, 7\)"),
        (lambda m: m(torch.tensor(1.0)), ValueError, r"must have shape \(..., 8\), got \(\)"),
        (lambda m: m(torch.zeros(2, 8, device="meta")), ValueError, "must be on the CPU"),
        (lambda m: m(torch.zeros(2, 8).to_sparse()), ValueError, "must be a dense tensor"),
        (lambda m: type(m)(m), TypeError, "network must be a Network, got Accelerated"),
        (lambda m: type(m)(m.network, num_threads=0), ValueError, "num_threads"),
    ],
)
def test_wrong_calls(accelerated: Any, call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call(accelerated)


def test_the_module_stays_on_the_cpu(accelerated: Any) -> None:
    class Device:
        device = torch.device("cuda")

    with pytest.raises(RuntimeError, match="runs on the CPU: the module cannot move to cuda"):
        accelerated._apply(lambda t: Device())
    assert accelerated.to("cpu") is accelerated
    assert accelerated.half() is accelerated


def test_copies_and_pickles_run_by_themselves(accelerated: Any) -> None:
    t = torch.from_numpy(weights(3, 8))
    expected = accelerated(t)
    model = nn.Sequential(accelerated, nn.Linear(5, 2))
    assert list(accelerated.state_dict()) == []
    assert list(model.state_dict()) == ["1.weight", "1.bias"]
    copied = copy.deepcopy(accelerated)
    loaded = pickle.loads(pickle.dumps(accelerated))  # noqa: S301 (made right here)
    del accelerated
    gc.collect()
    for other in (copied, loaded):
        assert torch.equal(other(t), expected)
        assert torch.equal(torch.ops.lrgate.forward(t, other._handle, 5), expected)


def test_the_operator_passes_the_checks_of_torch() -> None:
    from lrgate.torch import Accelerated

    accelerated = Accelerated(network(8, 16, 5))
    operator = torch.ops.lrgate.forward.default
    results = torch.library.opcheck(operator, (torch.zeros(3, 8), accelerated._handle, 5))
    assert set(results.values()) == {"SUCCESS"}
    handle = accelerated._handle
    del accelerated
    gc.collect()
    with pytest.raises(RuntimeError, match="is not alive in this process"):
        operator(torch.zeros(3, 8), handle, 5)


def test_export_and_compile(accelerated: Any) -> None:
    model = nn.Sequential(accelerated, nn.Softmax(-1))
    t = torch.from_numpy(weights(7, 8))
    expected = model(t)
    dynamic = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(model, (t[:2],), dynamic_shapes=dynamic)
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert targets[0] == "lrgate.forward.default"
    torch.testing.assert_close(program.module()(t), expected)
    with torch.no_grad():
        # The eager backend traces as all others do, and needs no compiler.
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(t), expected)


class Towers(nn.Module):  # type: ignore[misc]
    """Two towers behind embeddings, one of them in one Sequential with its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(50, 32)
        self.user = nn.Sequential(
            nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 16)
        )
        self.item = nn.Sequential(
            nn.Embedding(50, 32),
            nn.Flatten(),
            nn.BatchNorm1d(32),
            nn.Linear(32, 128),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(128, 16),
        )
        self.residual = nn.Linear(16, 16)

    def forward(self, user: Any, item: Any) -> Any:
        a, b = self.user(self.users(user)), self.item(item)
        return (a * (b + self.residual(b))).sum(-1)


@pytest.fixture(scope="module")
def replaced() -> Any:
    from lrgate.torch import accelerate

    torch.manual_seed(0)
    model = Towers()
    model.item[2].running_mean.normal_()
    generator = torch.Generator().manual_seed(1)
    calls = [
        tuple(torch.randint(0, 50, (64,), generator=generator) for _ in range(2)) for _ in range(8)
    ]
    fast, report = accelerate(model, calls, seconds=0.05, batch_sizes=(64,))
    return model, fast, report, calls


def test_chains_inside_a_model_are_found(replaced: Any) -> None:
    model, _, report, _ = replaced
    assert [part.name for part in report] == ["model.user", "model.item[1:7]"]
    assert [part.rows for part in report] == [512, 512]
    assert model.training
    assert not any("Accelerated" in type(m).__name__ for m in model.modules())
    for part in report:
        assert str(part).startswith(f"{part.name}: ")
        assert part.speed_up.low > 0


def test_the_model_with_networks_has_nearly_the_same_outputs(replaced: Any) -> None:
    model, fast, report, calls = replaced
    assert not fast.training
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(*calls[0])
        got = fast(*calls[0])
    # Each part may differ by a thousandth of the variance.
    assert float((got - expected).std()) < 0.15 * float(expected.std())
    kept = [part for part in report if part.network is None]
    assert all(part.reason == "it is not faster" for part in kept)


def test_few_rows_give_dense_networks() -> None:
    from lrgate.torch import accelerate

    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 64)).eval()
    x = torch.from_numpy(weights(9, 64))
    fast, (part,) = accelerate(model, x, seconds=0.05)
    assert part.name == "model"
    if part.network is not None:
        assert part.reason == "not optimised: it got 9 rows, and 50 are needed"
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


def test_models_without_chains_are_returned_as_they_are() -> None:
    from lrgate.torch import accelerate

    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    x = torch.from_numpy(weights(4, 5, 16).reshape(4, 5, 16))
    fast, report = accelerate(model, x)
    assert report == []
    with torch.no_grad():
        torch.testing.assert_close(fast(x), copy.deepcopy(model).eval()(x))


def test_wrong_arguments_of_accelerate() -> None:
    from lrgate.torch import accelerate

    model = nn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got Network"):
        accelerate(network(3, 2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at least one call, got an empty list"):
        accelerate(model, [])


class Nosy(nn.Module):  # type: ignore[misc]
    """Reads the weights of a part."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))

    def forward(self, x: Any) -> Any:
        return x + self.body(x)[:, :64] * self.body[0].weight.sum()


class Asking(Nosy):
    """Has other outputs if a part is of another type."""

    def forward(self, x: Any) -> Any:
        return self.body(x).sin() * (2.0 if isinstance(self.body, nn.Sequential) else 1.0)


class Sliced(nn.Module):  # type: ignore[misc]
    """Calls a piece of a Sequential, and returns a value between its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 3)
        )

    def forward(self, x: Any) -> Any:
        hidden = self.body[:4](x)
        return torch.cat([self.body[4](hidden), hidden], 1).sin()


class Features(Sliced):
    """Takes a feature of each layer."""

    def forward(self, x: Any) -> Any:
        features = []
        for part in self.body:
            x = part(x)
            features.append(x.mean(1))
        return torch.stack(features, 1)


class Tied(nn.Module):  # type: ignore[misc]
    """Calls a module of a Sequential, whose first module is an embedding, by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Embedding(5, 64), nn.Linear(64, 512))
        self.body = nn.Sequential(
            self.embedding[0], self.embedding[1], nn.ReLU(), nn.Linear(512, 64)
        )

    def forward(self, x: Any) -> Any:
        rows = x.sum(1).long() % 5
        return self.body(rows) + self.body[2](self.body[1](self.body[0](rows)))[:, :64]


@pytest.fixture
def always_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrgate.torch import replacing

    class Twice:
        median = 2.0

    monkeypatch.setattr(replacing._Part, "speed_up", lambda *_: Twice())


@pytest.mark.usefixtures("always_faster")
@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        (Nosy, ["does not run with a network in its place (TypeError"]),
        (Asking, ["the model's outputs are not the same with a network in its place"]),
        (Sliced, []),
        (Features, []),
        (Tied, []),
    ],
)
def test_parts_that_the_model_uses_in_another_way_stay(model: Any, reasons: list[str]) -> None:
    from lrgate.torch import accelerate

    torch.manual_seed(0)
    module = model().eval()
    x = torch.from_numpy(weights(9, 64))
    fast, report = accelerate(module, x)
    assert [part.network for part in report] == [None] * len(reasons)
    for part, reason in zip(report, reasons, strict=True):
        assert reason in part.reason
    with torch.no_grad():
        assert torch.equal(fast(x), module(x))


@pytest.mark.usefixtures("always_faster")
def test_only_parts_that_change_the_model_stay() -> None:
    from lrgate.torch import accelerate

    class Both(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Asking(), nn.Sequential(*Nosy().body)

        def forward(self, x: Any) -> Any:
            return self.first(x) + self.second(x)

    module = Both().eval()
    x = torch.from_numpy(weights(9, 64))
    fast, (first, second) = accelerate(module, x)
    assert (first.name, second.name) == ("model.first.body", "model.second")
    assert first.network is None
    assert second.network is not None
    with torch.no_grad():
        torch.testing.assert_close(fast(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("always_faster")
def test_outputs_near_zero_do_not_keep_a_part() -> None:
    """The score of one call is a difference that is exactly zero."""

    class Difference(nn.Module):
        def __init__(self, zero_at: Any) -> None:
            super().__init__()
            self.tower = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
            with torch.inference_mode():
                self.start = self.tower(zero_at).clone()

        def forward(self, x: Any) -> Any:
            return (self.tower(x) - self.start) * x.norm(dim=1, keepdim=True)

    torch.manual_seed(0)
    calls = list(torch.randn(60, 1, 64))
    model = Difference(calls[7])
    assert not model(calls[7]).any()
    _, report = lrgate.torch.accelerate(model, calls, batch_sizes=[1], seconds=0.05)
    assert [part.name for part in report] == ["model.tower"]
    assert "not the same" not in report[0].reason


def test_all_calls_are_compared() -> None:
    from lrgate.torch import accelerate

    class Asked(Asking):
        def forward(self, x: Any) -> Any:
            return super().forward(x) if len(x) == 3 else self.body(x).sin()

    x = torch.from_numpy(weights(9, 64))
    _, (part,) = accelerate(Asked(), x)
    assert part.network is not None
    _, (part,) = accelerate(Asked(), [x, x[:3]])
    assert "outputs are not the same" in part.reason


@pytest.mark.usefixtures("always_faster")
def test_arguments_that_the_model_changes_are_not_changed() -> None:
    from lrgate.torch import accelerate

    class Body(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.ReLU(inplace=True), *Nosy().body)

        def forward(self, x: Any) -> Any:
            return self.body(x.add_(1)).sin()

    x = torch.from_numpy(weights(9, 64))
    before = x.clone()
    accelerate(Body(), x)
    assert torch.equal(x, before)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.usefixtures("always_faster")
def test_a_model_with_weights_that_hooks_compute() -> None:
    from lrgate.torch import accelerate

    module = nn.Sequential(
        nn.utils.weight_norm(nn.Linear(64, 512)), nn.ReLU(), nn.Linear(512, 64)
    ).eval()
    x = torch.from_numpy(weights(9, 64))
    expected = module(x)
    fast, (part,) = accelerate(module, x)
    assert part.network is not None
    with torch.no_grad():
        torch.testing.assert_close(fast(x), expected.detach(), rtol=1e-4, atol=1e-4)


def test_no_more_rows_are_recorded_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrgate.torch import replacing

    monkeypatch.setattr(replacing, "_MOST_ROWS", 20)
    model = Towers().eval()
    calls = [((torch.zeros(8, dtype=torch.long),) * 2, {}) for _ in range(5)]
    inputs, callers = replacing._recorded(model, calls)
    assert len(inputs[model.user]) == 3
    assert callers[model.user[0]] == {model.user}
    assert callers[model.user] == {model}
    # Neither contains a Linear, nor is it beside one.
    assert model.users not in inputs
