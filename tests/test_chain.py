"""The chain of affine maps and activations that readers of other frameworks share."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrgate.frameworks import assembly
from lrgate.frameworks.assembly import assembled
from lrgate.frameworks.building import built, refusal, verified
from lrgate.frameworks.chain import BATCH, MAX_ELEMENTS, Chain, Labels
from lrgate.frameworks.errors import Refused, UnsupportedModelError
from lrgate.frameworks.recognition import recognised
from lrgate.model.activation import Activation

erf = np.vectorize(math.erf, otypes=[np.float64])


class Arrays:
    """The operations of a chain on real rows, as an oracle."""

    def __init__(self, x: np.ndarray) -> None:
        self.input = x

    def reshape(self, x: np.ndarray, shape: list[int]) -> np.ndarray:
        return x.reshape([len(x) if n == BATCH else n for n in shape])

    def moved(self, x: np.ndarray, operation: Callable[[Any, int], Any]) -> np.ndarray:
        return operation(x, len(x))

    def linear(self, x: np.ndarray, weight: np.ndarray, bias: Any = 0.0) -> np.ndarray:
        return x @ weight.T + bias

    def total(self, x: np.ndarray, axes: list[int], keep: bool, mean: bool = False) -> Any:
        return (np.mean if mean else np.sum)(x, tuple(axes), keepdims=keep)

    def concatenate(self, values: list[np.ndarray], axis: int) -> np.ndarray:
        shape = next(v.shape for v in values if len(v) == len(self.input))
        whole = [v if len(v) == shape[0] else np.repeat(v, shape[0], 0) for v in values]
        return np.concatenate(whole, axis)

    def activation(self, x: np.ndarray, activation: Activation) -> np.ndarray:
        return activation.apply(x)

    add = staticmethod(np.add)
    subtract = staticmethod(np.subtract)
    multiply = staticmethod(np.multiply)
    divide = staticmethod(np.divide)
    negate = staticmethod(np.negative)
    matmul = staticmethod(np.matmul)

    @staticmethod
    def apply(function: Callable[..., Any], *values: Any) -> Any:
        return function(*values)


def agree(program: Callable[[Any], Any], shape: tuple[int, ...], rows: int = 5) -> Any:
    """Run a program on a chain and on arrays; return the network."""
    rng = np.random.default_rng(0)
    net = built(program(Chain(shape)))
    x = rng.standard_normal((rows, *shape)).astype(np.float32)
    expected = program(Arrays(x.astype(np.float64))).reshape(rows, -1)
    got = net(x.reshape(rows, -1))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5 * max(1, np.abs(expected).max()))
    return net


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_the_scaler_stays_apart_from_the_first_weights() -> None:
    mean, deviation = np.arange(6.0) * 100, np.arange(1.0, 7.0)

    def program(c: Any) -> Any:
        z = c.divide(c.subtract(c.input, mean), deviation)
        return c.linear(c.activation(c.linear(z, weights(4, 6)), Activation("relu")), weights(2, 4))

    net = agree(program, (6,))
    np.testing.assert_array_equal(net.input_scale, (1 / deviation).astype(np.float32))
    np.testing.assert_array_equal(net.input_shift, (-mean / deviation).astype(np.float32))
    np.testing.assert_array_equal(net.layers[0].weight, weights(4, 6).astype(np.float32))


def test_a_scale_of_all_inputs_is_one_number() -> None:
    net = agree(lambda c: c.linear(c.divide(c.input, np.array(255.0)), weights(3, 4)), (4,))
    assert net.input_scale.shape == ()
    assert net.input_shift is None


def test_chosen_columns_keep_their_scale() -> None:
    def program(c: Any) -> Any:
        chosen = c.moved(c.input, lambda a, n: a[:, [4, 1]])
        return c.linear(c.multiply(chosen, np.array([2.0, 3.0])), weights(3, 2))

    net = agree(program, (5,))
    assert net.input_scale.tolist() == [1, 3, 1, 1, 2]
    assert not net.layers[0].weight[:, [0, 2, 3]].any()


def test_repeated_columns_are_folded_into_the_weights() -> None:
    def program(c: Any) -> Any:
        twice = c.moved(c.input, lambda a, n: a[:, [0, 1, 0]])
        return c.linear(c.add(twice, np.array([1.0, 2.0, 3.0])), weights(3, 3))

    assert agree(program, (2,)).layers[0].weight.shape == (3, 2)


def test_parts_with_their_own_scale_become_one_input_map() -> None:
    def program(c: Any) -> Any:
        left = c.multiply(c.moved(c.input, lambda a, n: a[:, 2:]), np.array(2.0))
        right = c.subtract(c.moved(c.input, lambda a, n: a[:, :2]), np.array([1.0, 5.0]))
        return c.linear(c.concatenate([left, right], 1), weights(3, 4))

    net = agree(program, (4,))
    assert net.input_scale.tolist() == [1, 1, 2, 2]
    assert net.input_shift.tolist() == [-1, -5, 0, 0]


def test_a_matrix_is_neither_copied_nor_converted() -> None:
    weight = weights(4, 6).astype(np.float32)
    chain = Chain((6,))
    layers = assembled(chain.linear(chain.input, weight)).layers
    assert np.shares_memory(layers[0][0], weight)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        # A bottleneck stays; an expansion goes.
        ([100, 5, 100], [(5, 100), (100, 5)]),
        ([5, 100, 5], [(5, 5)]),
        ([1000, 500, 1], [(1, 1000)]),
        # The last three make one matrix, which a greedy choice from the left does not find.
        ([10, 1, 10, 10, 1], [(1, 10)]),
        ([100, 4, 90, 3], [(3, 100)]),
        ([100, 2, 90, 80], [(2, 100), (80, 2)]),
    ],
)
def test_matrices_are_multiplied_where_that_is_less_work(
    sizes: list[int], expected: list[tuple[int, int]]
) -> None:
    def program(c: Any) -> Any:
        x = c.input
        for i, (n, m) in enumerate(pairwise(sizes)):
            x = c.linear(x, weights(m, n, seed=i) / math.sqrt(n), weights(m))
        return x

    net = agree(program, (sizes[0],))
    assert [layer.weight.shape for layer in net.layers] == expected


SPELLED = {
    "relu": lambda c, x: c.apply(np.maximum, x, np.array(0.0)),
    "relu6": lambda c, x: c.apply(np.minimum, c.apply(np.maximum, x, np.array(0.0)), np.array(6.0)),
    "relu of relu": lambda c, x: c.activation(
        c.activation(x, Activation("relu")), Activation("relu")
    ),
    "clip below only": lambda c, x: c.apply(lambda z: np.clip(z, 0, None), x),
    "leaky as max": lambda c, x: c.apply(np.maximum, x, c.multiply(x, np.array(0.1))),
    "leaky as where": lambda c, x: c.apply(
        np.where, c.apply(np.greater, x, np.array(0.0)), x, c.multiply(x, np.array(0.25))
    ),
    "threshold": lambda c, x: c.apply(
        np.where, c.apply(np.less_equal, x, np.array(0.5)), np.array(0.0), x
    ),
    "gelu": lambda c, x: c.multiply(
        c.multiply(
            x,
            c.add(c.apply(erf, c.divide(x, np.array(math.sqrt(2), np.float32))), np.array(1.0)),
        ),
        np.array(0.5),
    ),
    "gelu, half first": lambda c, x: c.multiply(
        c.multiply(x, np.array(0.5)),
        c.add(c.apply(erf, c.multiply(x, np.array(0.70710677, np.float32))), np.array(1.0)),
    ),
    "sigmoid as tanh": lambda c, x: c.add(
        c.multiply(c.activation(c.multiply(x, np.array(0.5)), Activation("tanh")), np.array(0.5)),
        np.array(0.5),
    ),
    "relu with offset behind": lambda c, x: c.subtract(
        c.multiply(c.activation(x, Activation("relu")), weights(7)), weights(7, seed=5)
    ),
}


@pytest.mark.parametrize("name", SPELLED)
def test_spelled_out_activations_become_one_layer(name: str) -> None:
    def program(c: Any) -> Any:
        x = c.linear(c.input, weights(7, 5), weights(7, seed=1))
        return c.linear(SPELLED[name](c, x), weights(3, 7, seed=2), weights(3, seed=3))

    net = agree(program, (5,), rows=200)
    assert len(net.layers) == 2


def test_an_activation_after_another_takes_a_layer_of_its_own() -> None:
    def program(c: Any) -> Any:
        x = c.activation(c.linear(c.input, weights(4, 3)), Activation("relu"))
        return c.linear(c.activation(x, Activation("tanh")), weights(2, 4))

    net = agree(program, (3,))
    assert [layer.activation.name for layer in net.layers] == ["relu", "tanh", "identity"]


@pytest.mark.parametrize(
    "function", [np.sin, np.square, np.sign, np.exp2, lambda z: np.maximum(z, 0) ** 3, np.round]
)
def test_other_functions_are_refused(function: Callable[[Any], Any]) -> None:
    chain = Chain((3,))
    x = chain.linear(chain.input, weights(4, 3))
    chain.where = "node7"
    rows = chain.apply(function, x)
    with pytest.raises(Refused, match="function that ends at node7 is none of"):
        built(rows)


def test_recognition_needs_equality_on_far_and_near_values() -> None:
    at = (lambda z: z - 3.21,)
    assert recognised(lambda z: np.maximum(z, 0) + 1e-3 * (np.abs(z) > 40), 2) is None
    assert recognised(lambda z: np.maximum(z, 0) * (1 + 1e-4), 2) is not None  # a scale
    assert recognised(lambda z: np.where(z > 3.21, z, np.maximum(z, 0)), 2, at) is not None
    assert recognised(lambda z: np.where(abs(z - 3.21) < 1e-3, 0, z), 2, at) is None


def clamped(low: float | None, high: float | None) -> Callable[[Any, Any], Any]:
    limits = [np.array(limit) for limit in (low, high) if limit is not None]
    return lambda c, x: c.apply(lambda z, *_: np.clip(z, low, high), x, *limits)


def rectified(c: Any, x: Any) -> Any:
    return c.activation(x, Activation("relu"))


def equal_or_refused(function: Callable[[Any, Any], Any]) -> bool:
    """Whether the function makes a network, which must agree on rows of any size."""

    def program(c: Any) -> Any:
        x = c.linear(c.input, weights(7, 5), weights(7, seed=1))
        return c.linear(function(c, x), weights(3, 7, seed=2), weights(3, seed=3))

    try:
        net = built(program(Chain((5,))))
    except Refused as error:
        assert re.search(
            "none of lrgate's activations|too many functions|makes a number of NaN", str(error)
        )
        return False
    for size in (1e-4, 1.0, 100.0, 2000.0, 1e6):
        x = (size * np.random.default_rng(1).standard_normal((100, 5))).astype(np.float32)
        with np.errstate(all="ignore"):
            expected = program(Arrays(x.astype(np.float64)))
        np.testing.assert_allclose(net(x), expected, 1e-4, 5e-5 * np.abs(expected).max())
    return True


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1, None), (None, 5), (0, 200), (-1000, 1000), (20, 30), (0, 150), (0, 1e-6), (None, 0)],
)
def test_clamps_of_any_size(low: float | None, high: float | None) -> None:
    assert equal_or_refused(clamped(low, high))


@pytest.mark.parametrize(
    ("function", "fits"),
    [
        (lambda c, x: clamped(None, 150)(c, rectified(c, x)), True),
        (lambda c, x: clamped(None, 1)(c, c.divide(rectified(c, x), np.array(255.0))), True),
        (lambda c, x: clamped(None, 3)(c, c.multiply(rectified(c, x), np.array(0.01))), True),
        (lambda c, x: c.apply(np.maximum, x, np.arange(-1.0, 6.0)), True),
        (lambda c, x: c.apply(np.minimum, rectified(c, x), np.arange(150.0, 157.0)), True),
        (lambda c, x: c.apply(np.where, c.apply(np.less_equal, x, np.array(1.0)), 1.0, x), True),
        (
            lambda c, x: c.apply(
                lambda z, k: np.where(z > k, k, np.logaddexp(0, z)), x, np.array(200.0)
            ),
            False,
        ),
        (
            lambda c, x: c.apply(
                np.where,
                c.apply(
                    np.less,
                    c.apply(np.abs, c.subtract(c.multiply(x, np.array(3.0)), np.array(1.0))),
                    np.array(0.01),
                ),
                np.array(0.0),
                x,
            ),
            False,
        ),
    ],
)
def test_constants_behind_scales_and_far_from_zero(
    function: Callable[[Any, Any], Any], fits: bool
) -> None:
    assert equal_or_refused(function) is fits


@pytest.mark.parametrize(
    "function",
    [
        lambda c, x: rectified(c, c.apply(np.nan_to_num, x)),
        lambda c, x: rectified(c, c.apply(lambda z: np.where(z == z, z, 0.0), x)),
        lambda c, x: c.apply(lambda z, k: np.where(z > k, z, 0.0), x, np.array(0.0)),
        lambda c, x: c.apply(lambda z: np.clip(z, 0.0, 1e30), x),
    ],
)
def test_functions_that_change_nan_or_infinity_are_refused(
    function: Callable[[Any, Any], Any],
) -> None:
    assert not equal_or_refused(function)


def test_a_function_that_changes_nan_is_refused_with_the_way_out() -> None:
    def program(function: Callable[[Any], Any]) -> Any:
        chain = Chain((3,))
        chain.where = "node7"
        x = chain.linear(chain.input, weights(4, 3))
        return chain.apply(lambda z, _: function(z), x, np.array(0.0))

    expected = (
        "the function that ends at node7 is relu except that it makes a number of NaN: write it as "
        "relu(z) or torch.clamp(z, min=0)"
    )
    assert refused(lambda _: program(lambda z: np.where(z > 0, z, 0.0))) == expected
    assert "is sigmoid except" in refused(
        lambda _: program(lambda z: np.nan_to_num(1 / (1 + np.exp(-z))))
    )


def test_functions_of_many_parts_are_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return recognised(*arguments)

    monkeypatch.setattr(assembly, "recognised", counted)

    def clipped(c: Chain, pairs: int) -> Any:
        x = c.linear(c.input, weights(7, 5))
        for i in range(pairs):
            x = c.apply(np.minimum, c.apply(np.maximum, x, weights(7, seed=i) - i), weights(7) + i)
        return x

    def sigmoids(c: Chain, first: Callable[..., Any] | None = None) -> Any:
        x = c.linear(c.input, weights(7, 5))
        x = x if first is None else c.apply(first, x)
        for _ in range(12):
            x = c.activation(x, Activation("sigmoid"))
        return x

    assert "has too many parts" in refused(lambda _: clipped(Chain((5,)), 8))
    assert count <= 17
    # Then functions are taken by their names, and refused without one.
    assert {a.name for a in assembled(sigmoids(Chain((5,)))).activations} == {"sigmoid"}
    assert count <= 17 + 50
    assert "too many functions" in refused(lambda _: sigmoids(Chain((5,)), np.sin))
    assert count <= 17 + 100
    # Functions that the first comparison names are not limited.
    chain = Chain((5,))
    x = chain.linear(chain.input, weights(5, 5))
    for _ in range(20):
        x = chain.linear(chain.multiply(x, chain.apply(_sigmoid, x)), weights(5, 5))
    assert [layer.activation.name for layer in built(x).layers] == ["silu"] * 20 + ["identity"]


def _sigmoid(z: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-z))


@pytest.mark.parametrize("name", ["relu6", "silu"])
def test_units_with_scale_zero(name: str) -> None:
    def function(c: Any, x: Any) -> Any:
        x = c.add(c.multiply(x, np.array([1.0, 2, 0, 3, -1, 0, 1])), weights(7))
        if name == "relu6":
            return clamped(0, 6)(c, x)
        return c.multiply(x, c.activation(x, Activation("sigmoid")))

    assert equal_or_refused(function)


def test_repeated_outputs_of_a_large_stage_are_refused() -> None:
    chain = Chain((2,))
    x = chain.linear(chain.input, weights(2**15, 2).astype(np.float32))
    with pytest.raises(Refused, match="too large"):
        built(chain.add(chain.activation(x, Activation("relu")), np.ones(2**15)))


PIECES = st.tuples(
    st.sampled_from(["max", "min", "clip", "where", "abs", "scale", "shift", "relu", "combine"]),
    st.floats(-3.0, 4.0),
    st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(PIECES, min_size=1, max_size=5))
def test_random_functions_are_equal_or_refused(pieces: list[tuple[str, float, bool]]) -> None:
    def function(c: Any, x: Any) -> Any:
        first = x
        for kind, exponent, negative in pieces:
            k = np.array((-1.0 if negative else 1.0) * 10.0**exponent)
            if kind in ("max", "min"):
                x = c.apply(np.maximum if kind == "max" else np.minimum, x, k)
            elif kind == "clip":
                x = clamped(*sorted((0.0 if negative else -1.0, abs(float(k)))))(c, x)
            elif kind == "where":
                x = c.apply(np.where, c.apply(np.greater, x, k), x, np.array(0.0))
            elif kind == "abs":
                x = c.apply(np.abs, x)
            elif kind in ("scale", "shift"):
                x = (c.multiply if kind == "scale" else c.add)(x, k)
            elif kind == "relu":
                x = rectified(c, x)
            else:
                x = c.add(x, first)
        return x

    equal_or_refused(function)


def refused(program: Callable[[Chain], Any], shape: tuple[int, ...] = (6,), **kw: Any) -> str:
    with pytest.raises(Refused) as error:
        built(program(Chain(shape, **kw)))
    return str(error.value)


def hidden(c: Chain) -> Any:
    c.where = "relu1"
    return c.activation(c.linear(c.input, weights(6, 6)), Activation("relu"))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (lambda c: c.add(hidden(c), c.input), "branches and residual connections"),
        (lambda c: c.multiply(c.linear(c.input, weights(6, 6)), hidden(c)), "combines"),
        (lambda c: c.multiply(c.input, c.linear(c.input, weights(6, 6))), "two different"),
        (lambda c: c.matmul(c.input, hidden(c)), "two values that depend on the input"),
        (lambda c: c.reshape(c.input, [-1, 12]), "mixes different rows"),
        (lambda c: c.reshape(c.input, [2, -1]), "mixes different rows|does not fit"),
        (lambda c: c.reshape(c.input, [6, BATCH]), "mixes different rows"),
        (lambda c: c.moved(c.input, lambda a, n: a.T), "mixes different rows"),
        (lambda c: c.moved(c.input, lambda a, n: a[::-1]), "mixes different rows"),
        (lambda c: c.moved(c.input, lambda a, n: a[:1]), "mixes different rows"),
        (lambda c: c.moved(c.input, lambda a, n: np.roll(a, 1, 0)), "mixes different rows"),
        (lambda c: c.moved(c.input, lambda a, n: a[:20]), "mixes different rows"),
        (lambda c: c.moved(c.input, lambda a, n: np.roll(a, 6, 0)), "mixes different rows"),
        (lambda c: c.total(c.input, [0], True), "adds up different rows"),
        (lambda c: c.softmax(c.input, 0), "over different rows"),
        (lambda c: c.concatenate([c.input, c.input], 0), "joins different rows"),
        (lambda c: c.add(c.input, weights(3, 6)), "differs between rows"),
        (lambda c: c.add(c.input, weights(1, 1, 6)), "moves the batch axis"),
        (lambda c: c.divide(c.input, np.zeros(6)), "divides by zero"),
        (lambda c: c.multiply(c.input, np.array(BATCH)), "number of rows"),
        (lambda c: c.multiply(c.input, np.array([3 * BATCH])), "number of rows"),
        (lambda c: c.largest(c.linear(c.input, weights(1, 6)), 1), "the largest of one value"),
        (lambda c: c.largest(c.input, None), "compares different rows"),
        (lambda c: c.linear(c.input, weights(3, 5)), "does not fit"),
        (lambda c: c.input, "no matrix"),
        (lambda c: c.activation(c.input, Activation("relu")), "no matrix"),
        (lambda c: c.add(c.input, np.array(["a"])), "not supported"),
    ],
)
def test_refusals(program: Callable[[Chain], Any], message: str) -> None:
    assert re.search(message, refused(program))


def test_parts_of_a_row_times_one_matrix_are_refused() -> None:
    assert "5 parts of each row" in refused(lambda c: c.linear(c.input, weights(3, 4)), (5, 4))


def test_sizes_are_checked_before_anything_is_made() -> None:
    assert "are not supported" in refused(lambda c: c.expand(c.input, [BATCH, 2**40, 6]))
    with pytest.raises(Refused, match="input of shape"):
        Chain((2**40,))
    chain = Chain((2**14 + 1,))
    with pytest.raises(Refused, match=r"too large|not supported"):
        built(chain.add(chain.total(chain.input, [1], True), chain.input))
    assert MAX_ELEMENTS >= 2**28


def test_shapes_with_the_number_of_rows() -> None:
    def program(c: Any) -> Any:
        x = c.reshape(c.input, [BATCH, 6])
        x = c.linear(x, weights(4, 6))
        return c.reshape(x, [BATCH, 2, 2])

    agree(program, (2, 3))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_number_of_rows(batch: int) -> None:
    chain = Chain((2, 3), batch)
    rows = chain.linear(chain.reshape(chain.input, [batch, 6]), weights(4, 6))
    assert built(rows).output_size == 4
    with pytest.raises(Refused, match="mixes"):
        chain.reshape(chain.input, [2 * batch, 3])


def test_one_row_without_a_batch_axis() -> None:
    chain = Chain((6,), None)
    rows = chain.matmul(weights(4, 6), chain.input)
    rows = chain.add(weights(4), rows)
    net = built(rows)
    x = weights(3, 6).astype(np.float32)
    np.testing.assert_allclose(net(x), x @ weights(4, 6).T + weights(4), rtol=1e-4, atol=1e-5)


def test_probabilities_of_two_classes_from_one() -> None:
    chain = Chain((3,))
    p = chain.activation(chain.linear(chain.input, weights(1, 3)), Activation("sigmoid"))
    both = chain.concatenate([chain.subtract(np.array(1.0), p), p], 1)
    net = built(Labels(both, "classification", np.array(["no", "yes"])))
    assert net.output_size == 1
    assert net.classes is not None
    assert net.classes.tolist() == ["no", "yes"]
    other = chain.concatenate([p, chain.subtract(np.array(1.0), p)], 1)
    assert built(other).output_size == 2


def test_verification_finds_a_wrong_weight_and_accepts_rounding() -> None:
    rng = np.random.default_rng(1)
    sizes = [300, 200, 100, 10]
    pairs = [
        ((rng.standard_normal((m, n)) / math.sqrt(n)).astype(np.float32), rng.standard_normal(m))
        for n, m in pairwise(sizes)
    ]

    def reference(x: np.ndarray, bad: float = 0.0) -> np.ndarray:
        z = x.astype(np.float32)
        for i, (weight, bias) in enumerate(pairs):
            weight = weight.copy()
            weight[0, 0] += bad
            z = z @ weight.T + bias.astype(np.float32)
            z = np.maximum(z, 0) if i < 2 else z
        return z

    chain = Chain((300,))
    rows: Any = chain.input
    for i, (weight, bias) in enumerate(pairs):
        rows = chain.linear(rows, weight, bias)
        rows = chain.activation(rows, Activation("relu")) if i < 2 else rows
    net = built(rows)
    assert verified(net, reference, source="torch", name="m") is net
    with pytest.raises(UnsupportedModelError, match=r"^m: the network's outputs differ") as error:
        verified(net, lambda x: reference(x, 0.01), source="torch", name="m")
    assert error.value.source == "torch"
    with pytest.raises(UnsupportedModelError, match="differ"):
        verified(net, lambda x: reference(x)[:, :3], source="torch", name="m")
    with pytest.raises(UnsupportedModelError, match="differ"):
        verified(net, lambda x: reference(x) * np.nan, source="torch", name="m")


def test_words_of_a_refusal_and_its_pickle() -> None:
    error = refusal(
        Refused("lrgate runs fully connected networks"),
        source="onnx",
        name="model.onnx",
        node="/conv1/Conv",
        op="Conv",
        place=(3, 41),
        matrices=2,
    )
    assert str(error) == (
        'model.onnx: node "/conv1/Conv" (Conv, 3 of 41) is not supported: lrgate runs fully '
        "connected networks (2 matrices were read before it)"
    )
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert isinstance(again, ValueError)
    assert (str(again), again.node, again.op, again.reason, again.source) == (
        str(error),
        "/conv1/Conv",
        "Conv",
        "lrgate runs fully connected networks",
        "onnx",
    )


STEPS = st.sampled_from(
    [
        "linear",
        "relu",
        "leaky",
        "tanh",
        "scale",
        "shift",
        "offset-left",
        "permute",
        "reshape",
        "concatenate",
        "double",
        "negate",
        "sum-self",
    ]
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, min_size=1, max_size=12), seed=st.integers(0, 2**16))
def test_random_programs(steps: list[str], seed: int) -> None:
    def program(c: Any) -> Any:
        rng = np.random.default_rng(seed)
        x = c.linear(c.input, rng.standard_normal((4, 6)), rng.standard_normal(4))
        size = 4
        for step in steps:
            if step == "linear":
                new = int(rng.integers(1, 9))
                x = c.linear(x, rng.standard_normal((new, size)) / math.sqrt(size))
                size = new
            elif step == "relu":
                x = c.activation(x, Activation("relu"))
            elif step == "leaky":
                x = c.activation(x, Activation("leaky_relu", 0.1))
            elif step == "tanh":
                x = c.activation(x, Activation("tanh"))
            elif step == "scale":
                x = c.multiply(x, rng.standard_normal(size))
            elif step == "shift":
                x = c.add(x, rng.standard_normal((1, size)))
            elif step == "offset-left":
                x = c.subtract(rng.standard_normal(size), x)
            elif step == "permute":
                order = rng.permutation(size)
                x = c.moved(x, lambda a, n, order=order: a[:, order])
            elif step == "reshape":
                x = c.reshape(c.reshape(x, [BATCH, 1, size]), [BATCH, size])
            elif step == "concatenate":
                x = c.concatenate([x, rng.standard_normal((1, 2)), c.negate(x)], -1)
                size = 2 * size + 2
            elif step == "double":
                x = c.moved(x, lambda a, n: np.repeat(a, 2, 1))
                size *= 2
            elif step == "negate":
                x = c.negate(x)
            else:
                x = c.add(x, c.moved(x, lambda a, n: a[:, ::-1]))
        return c.linear(x, rng.standard_normal((2, size)) / size)

    agree(program, (6,))


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_probabilities_of_two_classes_stay_two_outputs_of_other_tasks(task: str) -> None:
    chain = Chain((3,))
    p = chain.activation(chain.linear(chain.input, weights(1, 3)), Activation("sigmoid"))
    both = chain.concatenate([chain.subtract(np.array(1.0), p), p], 1)
    for value, wanted in ((both, task), (Labels(both, task), None)):
        net = built(value, task=wanted)
        assert (net.output_size, net.task) == (2, task)
    assert built(both).output_size == built(both, task="classification").output_size == 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e39])
def test_weights_must_be_finite(wrong: float) -> None:
    chain = Chain((3,))
    rows = chain.activation(chain.linear(chain.input, weights(4, 3)), Activation("relu"))
    with pytest.raises(Refused, match=r"^layers\[1\].bias must be finite, got NaN or"):
        built(chain.linear(rows, weights(2, 4), np.array([0.0, wrong])))
    with pytest.raises(Refused, match=r"^layers\[1\].weight must be finite"):
        built(chain.linear(rows, np.full((2, 4), wrong)))
