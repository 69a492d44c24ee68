"""Conversion of PyTorch modules: equality with the modules, and refusals by name."""

from __future__ import annotations

import copy
import logging
import re
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate.frameworks.errors import UnsupportedModelError
from lrgate.frameworks.torch_reader import _source_line, from_torch

torch = pytest.importorskip("torch", reason="from_torch needs PyTorch")
nn = torch.nn

pytestmark = pytest.mark.frameworks


@pytest.fixture(autouse=True)
def _quiet_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch.export writes thousands of records, which pytest would keep.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)
    torch.manual_seed(0)


def outputs(module: Any, x: Any) -> Any:
    with torch.no_grad():
        result = copy.deepcopy(module).eval()(x)
    leaves = torch.utils._pytree.tree_leaves(result)
    return next(v for v in leaves if isinstance(v, torch.Tensor)).double().reshape(len(x), -1)


def check(module: Any, x: Any = None, **options: Any) -> lrgate.Network:
    """Convert, and compare outputs on new rows."""
    net = from_torch(module, x, **options)
    if x is None:
        x = torch.zeros(2, net.input_size)
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    rows = torch.randn(7, *np.atleast_2d(x).shape[1:]).to(dtype)
    expected = outputs(module, rows).numpy()
    tolerance = 1e-5 if dtype in (torch.float32, torch.float64) else 0.03
    got = net.forward(rows.float().reshape(7, -1).numpy())
    scale = np.abs(expected).max() + 1e-3
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * scale)
    return net


def trained(module: Any) -> Any:
    """A module whose batch norms have statistics of their own."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
            part.weight.data.normal_()
            part.bias.data.normal_()
    return module


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(8, 3)
        self.first = nn.Linear(4, 8)

    def forward(self, x: Any) -> Any:
        return self.second(torch.relu(self.first(x)))


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)])

    def forward(self, x: Any) -> Any:
        for layer in self.layers[:-1]:
            x = nn.functional.relu(layer(x), inplace=True)
        return self.layers[-1](x)


class Conditions(Functional):
    def forward(self, x: Any, mask: Any = None, *, scale: float = 1.0) -> Any:
        if x.dim() == 1:
            x = x[None]
        assert x.shape[1] == 4
        if mask is not None:
            x = x * mask
        return super().forward(x) * scale


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.last(torch.relu(self.inner(torch.relu(self.inner(x)))))


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 1)

    def forward(self, x: Any) -> Any:
        x = x.view(x.size(0), -1)
        x = (x - 0.5) / 2.0
        x = self.first(x.contiguous()).clamp(min=0)
        return self.last(x.unsqueeze(1).squeeze(1)).squeeze(-1)


class Outputs(Functional):
    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Any) -> Any:
        return self.form(super().forward(x))


class Pieces(nn.Module):
    """Slices, joins, a column of ones, and matrices written out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.bias = nn.Parameter(torch.randn(8))
        self.last = nn.Linear(8, 3)
        self.register_buffer("order", torch.tensor([3, 2, 1, 0]))

    def forward(self, x: Any) -> Any:
        a, b = x[:, :2], x[:, self.order]
        b, _ = b.split([3, 1], dim=1)
        ones = torch.ones(x.size(0), 1)
        joined = torch.cat([b, a * 2 - 1, ones], dim=1)
        z = torch.addmm(self.bias, joined, self.weight)
        z = torch.where(z <= 0, torch.zeros_like(z), z)
        return torch.stack(self.last(z).unbind(1), dim=1)


class InPlace(nn.Module):
    """The activation in place changes a value that is used again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        z = self.first(x)
        view = z.view(-1, 2, 4)
        view.relu_()
        z += 1
        return self.last(z)


class Autocast(Functional):
    def forward(self, x: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.first(x)
            with torch.autocast("cpu", enabled=False):
                hidden = torch.relu(hidden.float())
            return self.second(hidden).float()


class NoGrad(Functional):
    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            hidden = torch.relu(self.first(x))
        return self.second(hidden)


def sequential(*activations: Any) -> Any:
    parts: list[Any] = [nn.Linear(4, 8)]
    for activation in activations:
        parts += [activation, nn.Linear(8, 8)]
    return nn.Sequential(*parts)


MODULES: dict[str, Any] = {
    "sequential": lambda: nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU6(), nn.Linear(8, 3)
    ),
    "functional, in another order": Functional,
    "module list": Loop,
    "conditions and options": Conditions,
    "a layer twice": Twice,
    "in place": InPlace,
    "no_grad": NoGrad,
    "pieces": Pieces,
    "batch norm": lambda: trained(
        nn.Sequential(
            nn.BatchNorm1d(4),
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(8, 8, bias=False),
            nn.Tanh(),
            nn.AlphaDropout(),
            nn.Linear(8, 2),
        )
    ),
    "weight norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)),
        nn.ReLU(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3)),
    ),
    "dict": lambda: Outputs(lambda z: {"logits": z, "loss": None}),
    "tuple": lambda: Outputs(lambda z: (z,)),
    "compiled": lambda: torch.compile(Functional(), backend="eager"),
    "compiled part": lambda: nn.Sequential(
        torch.compile(nn.Linear(4, 8), backend="eager"), nn.ReLU()
    ),
    "data parallel": lambda: nn.DataParallel(Functional()),
    "clamps": lambda: sequential(nn.Hardtanh(0, 6), nn.ReLU(), nn.Threshold(0.1, 0.0)),
    "linear in a row": lambda: nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 9), nn.Identity()),
    "softmax": lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)),
    "double": lambda: Functional().double(),
    "half": lambda: Functional().half(),
    "bfloat16": lambda: Functional().bfloat16(),
    "frozen": lambda: Functional().requires_grad_(False),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_equal(name: str) -> None:
    module = MODULES[name]()
    check(module, torch.randn(2, 4) if name == "pieces" else None)


@pytest.mark.filterwarnings("ignore")
def test_older_weight_norm() -> None:
    module = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2))
    module(torch.zeros(2, 4))
    net = from_torch(module)
    x = torch.randn(5, 4)
    np.testing.assert_allclose(net(x), module(x).detach(), rtol=1e-5, atol=1e-6)


# In groups, as each export takes a quarter of a second.
ACTIVATIONS = [
    [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.Hardtanh(), nn.PReLU(), nn.RReLU()],
    [nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish()],
    [nn.ELU(), nn.ELU(0.5), nn.SELU(), nn.CELU(2.0), nn.Softplus(), nn.Softplus(beta=2.0)],
    [nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(-2.0, 1.0), nn.LogSigmoid(), nn.PReLU(8)],
    [nn.Hardtanh(20.0, 30.0), nn.Threshold(0.5, 0.0), nn.Hardtanh(-1000.0, 1000.0)],
]


@pytest.mark.parametrize("group", ACTIVATIONS, ids=range(5))
def test_activations_equal(group: list[Any]) -> None:
    for activation in group:
        if isinstance(activation, nn.PReLU):
            activation.weight.data.uniform_(-0.5, 0.5)
    module = sequential(*group)
    for part in module[::2]:
        # Each activation gets values of several signs and sizes.
        part.weight.data.mul_(3.0)
    net = check(module)
    assert len(net.layers) == len(group) + 1


SPELLED = [
    lambda z: torch.clamp(z, 0, 6),
    lambda z: z.clamp_min(0.0),
    lambda z: torch.maximum(z, torch.tensor(0.0)),
    lambda z: z * (z > 0),
    lambda z: z.abs().add(z).div(2),
    lambda z: torch.where(z > 0, z, 0.1 * z),
    lambda z: z.masked_fill(z < 0, 0.0),
    lambda z: 1 / (1 + torch.exp(-z)),
    lambda z: 0.5 * z * (1 + torch.erf(z / 2**0.5)),
    lambda z: torch.rsub(z.relu(), 1.0),
]


@pytest.mark.parametrize("first", [0, 5])
def test_spelled_out_activations(first: int) -> None:
    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4 if i == 0 else 8, 8) for i in range(5))
            self.last = nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            for layer, function in zip(self.layers, SPELLED[first : first + 5], strict=True):
                x = function(3.0 * layer(x))
            return self.last(x)

    assert len(check(Spelled()).layers) == 6


def test_axes_of_rows_and_examples() -> None:
    check(Views(), np.zeros((1, 2, 3)))
    check(Views(), torch.zeros(5, 6, dtype=torch.float64))
    check(Functional(), np.zeros(4))
    check(Functional(), [[0, 1, 2, 3]])
    net = check(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.zeros(2, 3, 4))
    assert net.input_size == 12


def test_sizes_in_shapes() -> None:
    check(Outputs(lambda z: z.reshape(z.numel() // 3, 3)), torch.zeros(2, 4))
    check(Outputs(lambda z: z[: z.shape[0]].view(z.shape[0] * 2 // 2, -1)), torch.zeros(2, 4))
    check(
        Outputs(lambda z: z[:].expand(z.size(0), 3) * torch.ones(z.shape[0], 1)), torch.zeros(2, 4)
    )


def test_labels_and_tasks() -> None:
    net = from_torch(Outputs(lambda z: z.argmax(dim=1)))
    module = Outputs(lambda z: z.argmax(dim=1, keepdim=True))
    x = torch.randn(50, 4)
    assert net.task == "classification"
    assert net.output_size == 3
    net = from_torch(module, classes=["a", "b", "c"])
    assert net.predict(x).tolist() == ["abc"[i] for i in module(x).reshape(-1)]
    net = from_torch(Outputs(torch.sigmoid))
    assert net.task == "multilabel"
    assert from_torch(Functional(), task="classification").task == "classification"


class TwoProbabilities(nn.Module):
    """The probabilities of two classes, from one sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Any) -> Any:
        p = torch.sigmoid(self.linear(x))
        return torch.cat([1 - p, p], dim=1)


class Largest(nn.Module):
    """The index of the largest value."""

    def forward(self, x: Any) -> Any:
        return x.argmax(1)


def test_probabilities_of_two_classes() -> None:
    module = TwoProbabilities()
    net = from_torch(module)
    x = torch.randn(9, 4)
    assert net.output_size == 1
    np.testing.assert_allclose(net.predict_proba(x), module(x).detach(), atol=1e-6)


def test_label_of_two_probabilities() -> None:
    module = nn.Sequential(TwoProbabilities(), Largest())
    net = from_torch(module)
    x = torch.randn(50, 4)
    assert net.output_size == 1
    assert net.task == "classification"
    assert net.predict(x).tolist() == module(x).tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool])
def test_programs_of_whole_numbers(dtype: Any) -> None:
    program = whole_program(lambda x: x.float() / 255, dtype)
    net = from_torch(program)
    x = torch.randint(0, 2 if dtype is torch.bool else 128, (9, 4)).to(dtype)
    expected = program.module()(x).detach()
    np.testing.assert_allclose(net(x.float().numpy()), expected, rtol=1e-5, atol=1e-6)


def test_whole_numbers_may_become_wider() -> None:
    from_torch(whole_program(lambda x: x.to(torch.int32).flip(1) * 0.5, torch.uint8))


def test_network_of_an_accelerated_module() -> None:
    from lrgate.torch import Accelerated

    net = from_torch(Functional())
    module = Accelerated(net)
    assert from_torch(module) is net
    named = from_torch(module, task="classification", classes=["a", "b", "c"])
    assert named.task == "classification"
    assert set(named.predict(np.zeros((3, 4), np.float32))) <= {"a", "b", "c"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite(bad: float) -> None:
    module = Functional()
    module.first.weight.data[2, 1] = bad
    with pytest.raises(
        UnsupportedModelError, match=r"Functional: .*'first\.weight' has NaN or inf"
    ):
        from_torch(module)


@pytest.mark.parametrize(
    "example", [(torch.zeros(1, 4),), {"x": torch.zeros(1, 4)}, torch.zeros(1, 4), "unknown"]
)
def test_example_input_array(example: Any) -> None:
    module = Functional()
    module.example_input_array = example
    assert from_torch(module).input_size == 4


def test_module_is_unchanged() -> None:
    module = trained(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    module[1].eval()
    calls: list[int] = []
    module[3].register_forward_hook(lambda *_: calls.append(1))
    module(torch.randn(3, 4)).sum().backward()
    calls.clear()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    grads = [p.grad.clone() for p in module.parameters()]
    modes = [part.training for part in module.modules()]
    state = torch.random.get_rng_state()
    from_torch(module)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(before[n], v) for n, v in module.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(grads, module.parameters(), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    calls.clear()
    module(torch.randn(3, 4))
    assert calls == [1]


# Exported programs


def exported(module: Any, *, dynamic: bool = True, rows: int = 2) -> Any:
    shapes = ({0: torch.export.Dim.AUTO},) if dynamic else None
    return torch.export.export(
        module.eval(), (torch.zeros(rows, 4),), dynamic_shapes=shapes, strict=False
    )


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_exported_programs(rows: int) -> None:
    module = Functional()
    x = torch.randn(6, 4)
    for program in (exported(module, dynamic=rows > 1, rows=rows), exported(module, dynamic=False)):
        net = from_torch(program)
        np.testing.assert_allclose(net(x), module(x).detach(), rtol=1e-5, atol=1e-6)


def test_files_of_programs(tmp_path: Path) -> None:
    module, path = Functional(), tmp_path / "model.pt2"
    program, x = exported(module), torch.randn(6, 4)
    torch.export.save(program, path)
    loaded = from_torch(path)
    upper = path.rename(tmp_path / "MODEL.PT2")
    for net in (loaded, lrgate.load(upper), from_torch(program.run_decompositions())):
        np.testing.assert_allclose(net(x), module(x).detach(), rtol=1e-5, atol=1e-6)


def test_networks_of_programs_with_bounds_take_any_number_of_rows() -> None:
    module = Functional()
    rows = ({0: torch.export.Dim("rows", min=2, max=4)},)
    net = from_torch(torch.export.export(module, (torch.zeros(2, 4),), dynamic_shapes=rows))
    for count in (1, 3, 50):
        x = torch.randn(count, 4)
        np.testing.assert_allclose(net(x), module(x).detach(), rtol=1e-5, atol=1e-6)


def test_modules_may_change_their_input_in_place() -> None:
    class InPlaceOfInput(Functional):
        def forward(self, x: Any) -> Any:
            return super().forward(x.mul_(2.0))

    module, x = InPlaceOfInput(), torch.randn(6, 4)
    net = from_torch(module)
    np.testing.assert_allclose(net(x), module(x.clone()).detach(), rtol=1e-5, atol=1e-6)


def test_autocast_within_a_module() -> None:
    module, x = Autocast(), torch.randn(6, 4)
    net = from_torch(module)
    assert np.array_equal(net.layers[0].weight, module.first.weight.detach())
    np.testing.assert_allclose(net(x), module(x).detach(), rtol=0.05, atol=0.05)


def test_program_of_one_row_without_axis() -> None:
    module = Functional()
    program = torch.export.export(module.eval(), (torch.zeros(4),), strict=False)
    x = torch.randn(6, 4)
    np.testing.assert_allclose(from_torch(program)(x), module(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "form",
    [
        lambda z: z.squeeze(0),
        lambda z: z.flatten(),
        lambda z: z[0],
        lambda z: z.softmax(1)[0],
        lambda z: z.argmax(),
        lambda z: z.argmax(1),
    ],
    ids=range(6),
)
def test_programs_of_one_row(form: Any) -> None:
    module = trained(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.PReLU(8)))
    module = nn.Sequential(module, nn.Linear(8, 3)).eval()

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Any) -> Any:
            return form(self.module(x))

    net = from_torch(torch.export.export(One().eval(), (torch.zeros(1, 4),), strict=False))
    x = torch.randn(6, 4)
    expected = torch.stack([form(module(row[None])) for row in x]).detach().numpy()
    if expected.dtype == np.int64:
        assert net.predict(x).tolist() == expected.ravel().tolist()
    else:
        np.testing.assert_allclose(net(x), expected, rtol=1e-5, atol=1e-6)


def rewritten(source: Path, target: Path, change: Any) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            for result, content in change(name, old.read(name)):
                new.writestr(result, content)
    return target


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/lrgate-must-not-exist"),))


def test_hostile_files_run_nothing(tmp_path: Path) -> None:
    good = tmp_path / "good.pt2"
    torch.export.save(exported(Functional()), good)

    def changed(old: bytes, new: bytes) -> Any:
        return lambda name, content: [(name, content.replace(old, new))]

    def pickled(name: str, content: bytes) -> Any:
        import pickle

        return [(name, pickle.dumps(Evil()) if name.endswith("model.pt") else content)]

    attacks = {
        "pickled": changed(b'"use_pickle": false', b'"use_pickle": true'),
        "shape expression": changed(b"positive=True", b"positive=exec(s1)"),
        "does not know": changed(b"torch.ops.aten.relu.default", b"torch.hub.load"),
        "model.so": lambda n, c: [(n, c), ("good/data/aotinductor/model.so", b"")][
            : 2 if n.endswith("byteorder") else 1
        ],
        "arguments are in": changed(b"builtins.tuple", b"collections.defaultdict"),
        "cannot load it": pickled,
    }
    for text, change in attacks.items():
        path = rewritten(good, tmp_path / "bad.pt2", change)
        with pytest.raises(UnsupportedModelError, match=text):
            from_torch(path)
    (tmp_path / "no.pt2").write_bytes(b"no archive")
    with pytest.raises(UnsupportedModelError, match=r"no file of torch\.export\.save"):
        from_torch(tmp_path / "no.pt2")
    with pytest.raises(FileNotFoundError):
        from_torch(tmp_path / "missing.pt2")
    assert not Path("/tmp/lrgate-must-not-exist").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_parsers_read_differently(tmp_path: Path) -> None:
    good = tmp_path / "good.pt2"
    torch.export.save(exported(Functional()), good)
    flag = tmp_path / "flag"

    def twice(name: str, content: bytes) -> Any:
        if not name.endswith("models/model.json"):
            return [(name, content)]
        code = f"positive=bool(open('{flag}','w').write('x'))"
        return [(name, content.replace(b"positive=True", code.encode())), (name, content)]

    def in_other_case(name: str, content: bytes) -> Any:
        return [
            (n.replace("model.json", "MODEL.json", i), c)
            for i, (n, c) in enumerate(twice(name, content))
        ]

    for change in (twice, in_other_case):
        bad = rewritten(good, tmp_path / "bad.pt2", change)
        with pytest.raises(UnsupportedModelError, match="two members of the same name"):
            from_torch(bad)
    assert not flag.exists()


def test_compressed_archives_are_not_unpacked(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pt2", tmp_path / "bad.pt2"
    torch.export.save(exported(Functional()), good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + b" " * 10_000_000 * name.endswith("model.json"))
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedModelError, match="compressed"):
            from_torch(bad)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    content = good.read_bytes()
    size = next(i.file_size for i in zipfile.ZipFile(good).infolist() if "model.json" in i.filename)
    long = content.replace(size.to_bytes(4, "little"), (2**30).to_bytes(4, "little"))
    bad.write_bytes(long)
    with pytest.raises(UnsupportedModelError, match="longer than the file"):
        from_torch(bad)


def test_source_lines_without_text() -> None:
    frames = (
        '  File "/a/torch/x.py", line 1, in f\n    g()\n  File "/a/user.py", line 7, in forward\n'
    )

    def node(end: str) -> Any:
        return SimpleNamespace(meta={"stack_trace": frames + end})

    assert _source_line(node('  File "<eval>", line 2, in h\n')) == " (user.py, line 7)"
    assert _source_line(node("    y = f(x)\n")) == ' ("y = f(x)" in user.py, line 7)'


# Refusals


class Residual(Functional):
    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:
        h = torch.relu(self.first(x))
        return self.second(h + torch.relu(self.middle(h)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.q(x) * self.k(x)


class Ensemble(nn.Module):
    """Several members in one tensor, as in TabM."""

    def __init__(self) -> None:
        super().__init__()
        self.r = nn.Parameter(torch.randn(3, 4))
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.linear(x.unsqueeze(1).expand(-1, 3, -1) * self.r)


class TwoInputs(Functional):
    def forward(self, x: Any, y: Any) -> Any:  # type: ignore[override]
        return super().forward(x) + y


class Counter(Functional):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return super().forward(x) * self.calls


class Ensembles(Functional):
    def forward(self, x: Any) -> Any:
        return super().forward(x) - x.mean()


class Hidden(Functional):
    """The function of the hidden values is not known as an activation."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.second(self.function(self.first(x)))


class Whole(Functional):
    """Rows of whole numbers, converted in the module."""

    def __init__(self, convert: Any) -> None:
        super().__init__()
        self.convert = convert

    def forward(self, x: Any) -> Any:
        return super().forward(self.convert(x))


def whole_program(convert: Any, dtype: Any) -> Any:
    return torch.export.export(
        Whole(convert).eval(),
        (torch.zeros(2, 4, dtype=dtype),),
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
        strict=False,
    )


def conv() -> Any:
    return nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(4, 2))


def quantized() -> Any:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)


REFUSALS: dict[str, tuple[Any, Any, str]] = {
    "batch statistics": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False)),
        None,
        r'node "1" \(BatchNorm1d, aten.batch_norm.default, 2 of 2\).*batch\'s own statistics '
        r"\(track_running_stats=False.*1 matrix was read before it",
    ),
    "traced": (
        lambda: torch.jit.trace(Functional(), torch.zeros(2, 4)),
        None,
        "scripted or traced.*dynamo=False",
    ),
    "scripted part": (
        lambda: nn.Sequential(torch.jit.trace(Functional(), torch.zeros(2, 4))),
        None,
        "part '0' is scripted",
    ),
    "quantized": (quantized, None, r"part '0' \(Linear\) is quantized: pass the float module"),
    "celu": (lambda: sequential(nn.CELU(-0.5)), None, "celu with alpha=-0.5 is not supported"),
    "label of two": (
        lambda: Outputs(lambda z: z.argmax(1).bool()),
        None,
        "changes labels: pass the module without it",
    ),
    "one label": (lambda: Outputs(lambda z: z[:, :1].argmax(1)), None, "largest of one value"),
    "where": (
        lambda: Hidden(lambda h: torch.where(h > 0, h, 0.0)),
        None,
        "is relu except that it makes a number of NaN: write it as relu",
    ),
    "state dict": (lambda: Functional().state_dict(), None, "state_dict does not say the order"),
    "pickled": (lambda: "model.pth", None, "may run any code when it is loaded"),
    "lazy": (lambda: nn.LazyLinear(3), None, "'weight' has no shape yet: call the module once"),
    "meta": (lambda: nn.Linear(4, 3, device="meta"), None, "on the device meta"),
    "complex": (lambda: nn.Linear(4, 3, dtype=torch.complex64), None, "complex numbers"),
    "several inputs": (TwoInputs, None, r"2 inputs \(x, y\)"),
    "several outputs": (
        lambda: Outputs(lambda z: (z, z.relu())),
        None,
        "returns 2 tensors; pass a module that returns one",
    ),
    "residual": (
        Residual,
        None,
        r"aten.add.Tensor.*branches and residual connections are not supported"
        r".*h \+ torch.relu\(self.middle\(h\)\).*test_from_torch.py",
    ),
    "conv": (conv, torch.zeros(2, 4), r'"1" \(Conv1d, aten.conv1d.default, 2 of 4\).*convolution'),
    "conv without rows": (conv, None, "convolution"),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)),
        torch.zeros(2, 1),
        r"part '0' \(Embedding\) looks rows up",
    ),
    "product": (Attention, None, "combines two different functions of the input"),
    "ensemble": (Ensemble, torch.zeros(2, 4), "multiplies 3 parts of each row"),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1)),
        None,
        'node "1" .LayerNorm.*norm of that row',
    ),
    "recurrent": (lambda: nn.GRU(4, 4), torch.zeros(2, 4), "GRU|recurrent|tensors"),
    "other rows": (Ensembles, None, "adds up different rows"),
    "counter": (Counter, None, "buffer 'calls', which each call changes"),
    "unknown size": (
        lambda: nn.Flatten(),
        None,
        "shape of its input cannot be found out: pass x",
    ),
    "training program": (
        lambda: torch.export.export(
            nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train(), (torch.zeros(2, 4),)
        ),
        None,
        "training mode",
    ),
    "no layer": (lambda: nn.ReLU(), torch.zeros(2, 4), "no matrix before it|activation"),
    "random": (lambda: Outputs(lambda z: z + torch.rand(3)), None, "random numbers"),
    "several rows": (lambda: Outputs(lambda z: z / z.size(0)), None, "number of rows"),
    "number of rows in a factor": (
        lambda: Outputs(lambda z: z * (1.0 / z.shape[0])),
        None,
        "computes with the number of rows",
    ),
    "a multiple of the number of rows": (
        lambda: Outputs(lambda z: z / (2 * z.shape[0])),
        None,
        r"aten.div.Tensor.*computes with the number of rows",
    ),
    "root of the number of rows": (
        lambda: Outputs(lambda z: z * z.shape[0] ** 0.5),
        None,
        "computes with the number of rows",
    ),
    "least number of rows": (
        lambda: Outputs(lambda z: z * torch.sym_min(z.shape[0], 5)),
        None,
        "computes with the number of rows",
    ),
    "filled with the number of rows": (
        lambda: Outputs(lambda z: z + torch.full_like(z, z.shape[0])),
        None,
        "computes with the number of rows",
    ),
    "first rows": (lambda: Outputs(lambda z: z[:20]), None, "depends on the number of rows"),
    "few rows": (
        lambda: Outputs(lambda z: z if z.shape[0] < 20 else 2 * z),
        None,
        "condition rows < 20",
    ),
    "even rows": (
        lambda: Outputs(lambda z: z if z.shape[0] % 2 == 0 else 2 * z),
        None,
        "depends on the number of rows",
    ),
    "two rows": (
        lambda: Outputs(lambda z: z if z.shape[0] == 2 else 2 * z),
        None,
        "depends on the number of rows",
    ),
    "rolled rows": (lambda: Outputs(lambda z: z.roll(6, 0)), None, "mixes or drops rows"),
    "rolled": (lambda: Outputs(lambda z: z.roll(18)), None, "mixes or drops rows"),
    "flipped rows": (lambda: Outputs(lambda z: z.flip(0)), None, "mixes or drops rows"),
    "later rows": (lambda: Outputs(lambda z: z[1:]), None, "depends on the number of rows"),
    "program of few rows": (
        lambda: torch.export.export(
            Outputs(lambda z: z[:20]).eval(),
            (torch.zeros(2, 4),),
            dynamic_shapes=({0: torch.export.Dim("rows", max=19)},),
            strict=False,
        ),
        None,
        "aten.slice.Tensor.*mixes or drops rows",
    ),
    "sum of truth values": (
        lambda: Hidden(lambda h: h * ((h > 0) + (h > 0))),
        None,
        "computes with whole numbers or truth values",
    ),
    "product of truth values": (
        lambda: Hidden(lambda h: h * ((h > 0) * (h < 1))),
        None,
        "computes with whole numbers or truth values",
    ),
    "count of truth values": (
        lambda: Hidden(lambda h: h * (h > 0).sum(1, keepdim=True)),
        None,
        "computes with whole numbers or truth values",
    ),
    "bytes that wrap": (
        lambda: whole_program(lambda x: (x * 2).float(), torch.uint8),
        None,
        "computes with whole numbers or truth values",
    ),
    "comparison of bytes": (
        lambda: whole_program(lambda x: (x > 3).float(), torch.uint8),
        None,
        "computes with whole numbers or truth values",
    ),
    "narrower numbers": (
        lambda: whole_program(lambda x: x.to(torch.int8).float(), torch.uint8),
        None,
        "rounds to whole numbers",
    ),
    "NaN": (lambda: Hidden(lambda h: h.nan_to_num().relu()), None, "nan_to_num.*treats NaN"),
    "constant": (lambda: Outputs(lambda z: torch.ones(3)), None, "does not depend on its input"),
    "function": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Softshrink()),
        None,
        "none of lrgate's activations",
    ),
    "data-dependent": (
        lambda: Outputs(lambda z: z if z.sum() > 0 else -z),
        None,
        "torch.export cannot export it",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    make, x, text = REFUSALS[name]
    with pytest.raises(UnsupportedModelError, match=re.compile(text, re.DOTALL)) as caught:
        from_torch(make(), x)
    assert caught.value.source == "torch"
    assert caught.value.reason in str(caught.value)


def test_refuses_other_kinds() -> None:
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module"):
        from_torch(3)
    with pytest.raises(ValueError, match="at least one row"):
        from_torch(Functional(), np.zeros((0, 4)))
    with pytest.raises(ValueError, match="task"):
        from_torch(Functional(), task="ranking")


def test_verification_finds_answers_for_one_row_that_differ() -> None:
    class Special(Functional):
        def forward(self, x: Any) -> Any:
            z = super().forward(x)
            return z + 1 if x.shape[0] == 1 else z

    with pytest.raises(UnsupportedModelError, match="outputs differ"):
        from_torch(Special())


# Other packages


def test_lightning_module() -> None:
    lightning = pytest.importorskip("lightning", reason="needs Lightning")

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Functional()
            self.example_input_array = torch.zeros(1, 4)

        def forward(self, x: Any) -> Any:
            return self.net(x)

        def training_step(self, batch: Any) -> Any:
            return self(batch).sum()

    check(Model())


@pytest.mark.filterwarnings("ignore")
def test_skorch_net() -> None:
    skorch = pytest.importorskip("skorch", reason="needs skorch")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 4)).astype(np.float32), rng.integers(0, 3, 40)
    model = skorch.NeuralNetClassifier(
        Functional, criterion=nn.CrossEntropyLoss, max_epochs=1, verbose=0
    ).fit(x, y)
    net = from_torch(model, task="classification")
    assert net.predict(x).tolist() == model.predict(x).tolist()
    np.testing.assert_allclose(net(x), model.forward(x), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "SAC", "TD3", "PPO continuous"])
def test_stable_baselines3(algorithm: str) -> None:
    sb3 = pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3")
    gym = pytest.importorskip("gymnasium", reason="needs Gymnasium")
    discrete = algorithm in ("PPO", "A2C", "DQN")

    class Env(gym.Env):  # type: ignore[misc]
        observation_space = gym.spaces.Box(-3, 3, (5,), np.float32)
        action_space = (
            gym.spaces.Discrete(3) if discrete else gym.spaces.Box(-2, 2, (2,), np.float32)
        )

    model = getattr(sb3, algorithm.split()[0])("MlpPolicy", Env(), device="cpu")
    x = np.random.default_rng(0).uniform(-3, 3, (60, 5)).astype(np.float32)
    actions = model.predict(x, deterministic=True)[0]
    for source in (model, model.policy) if algorithm == "PPO" else (model,):
        net = from_torch(source)
        if discrete:
            assert net.predict(x).tolist() == actions.tolist()
            continue
        found = net(x)
        if model.policy.squash_output:
            found = model.policy.unscale_action(found)
        np.testing.assert_allclose(np.clip(found, -2, 2), actions, rtol=1e-5, atol=1e-5)
