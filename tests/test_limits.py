"""Calls at the limits: out of memory, small stacks, signals, writes by other threads."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import _core

SETUP = """
import os, resource, signal, sys, threading, time
import numpy as np
import lrgate

rng = np.random.default_rng(0)
# A process that is started in the background may be set to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def network(*widths, **options):
    layers = [
        (rng.standard_normal((b, a), np.float32) / np.sqrt(a), np.zeros(b))
        for a, b in zip(widths, widths[1:])
    ]
    return lrgate.Network.from_layers(layers, **options)


def limit(more):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits and /proc")


def run(code: str, timeout: float = 120) -> str:
    """Run code in a new process, assert that it succeeds, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout


def small(**options: Any) -> lrgate.Network:
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(8, 6)), np.zeros(8)), (rng.normal(size=(3, 8)), np.zeros(3))]
    return lrgate.Network.from_layers(layers, **options)


@pytest.mark.parametrize("method", ["__call__", "forward", "predict", "predict_proba"])
def test_an_output_that_fits_no_memory_is_a_memory_error(method: str) -> None:
    net = small(classes=["a", "b", "c"])
    rows = np.broadcast_to(np.zeros((1, 6), np.float32), (10**13, 6))
    with pytest.raises(MemoryError):
        getattr(net, method)(rows)


def test_a_regressor_and_inner_values_that_fit_no_memory() -> None:
    rows = np.broadcast_to(np.zeros((1, 6), np.float32), (10**13, 6))
    with pytest.raises(MemoryError):
        small(task="regression").predict(rows)
    with pytest.raises(MemoryError):
        small().layer_inputs(rows)
    with pytest.raises(MemoryError):
        _core.peaks([2**46], 0.001)


@linux
def test_layers_that_fit_no_memory_are_a_memory_error() -> None:
    out = run("""
        weight = np.zeros((6000, 6000), np.float32)
        for share in (0.5, 1.1, 1.6, 2.2):
            limit(int(share * weight.nbytes))
            try:
                lrgate.Network.from_layers([(weight, np.zeros(6000))])(np.zeros((1, 6000)))
                print("done")
            except MemoryError:
                print("MemoryError")
    """)
    assert "MemoryError" in out.split()


@linux
def test_rows_that_fit_no_memory_are_a_memory_error() -> None:
    out = run("""
        import scipy.sparse
        net = network(50, 20, 4, classes=list("abcd"))
        rows = scipy.sparse.csr_array((20_000_000, 50), dtype=np.float32)
        limit(100 << 20)
        for call in (net, net.predict, net.predict_proba, net.layer_inputs):
            try:
                call(rows)
                print("done")
            except MemoryError:
                print("MemoryError")
    """)
    assert out.split() == ["MemoryError"] * 4


@linux
@pytest.mark.parametrize("size", [64, 128])
def test_threads_with_small_stacks(size: int) -> None:
    out = run(f"""
        import scipy.sparse
        net = network(1100, 130, 70, 5, classes=list("abcde"))
        x = np.maximum(rng.standard_normal((300, 1100), np.float32), 0)
        gate = lrgate.estimators.whitened(net.layers[0], x, max_rank=8).gate(8)
        gated = net.with_gates({{0: gate}})
        int8 = gated.quantize(x)
        names = ["dense"] * 3, ["skip"] * 3, ["gate", "skip", "dense"]
        nets = [gated.with_strategies(n) for n in names]
        nets += [int8.with_strategies(n, "int8") for n in names]
        expected = [[np.asarray(n(x[:k])) for k in (1, 300)] for n in nets]
        sparse = scipy.sparse.csr_array(x)
        failed = []

        def work():
            try:
                for n, both in zip(nets, expected):
                    for k, y in zip((1, 300), both):
                        assert np.array_equal(n(x[:k]), y)
                        n.predict(x[:k]), n.predict_proba(x[:k]), n(x[:k].astype(np.uint8))
                    n(sparse), n.layer_inputs(x[:9]), n.engine.count(x[:9], 9)
                nets[0].tune(x[:64], (1, 64), seconds=0.01)
                nets[2].profile(x[:9], seconds=0.01)
            except BaseException as error:
                failed.append(error)

        threading.stack_size({size} * 1024)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        print(failed)
    """)
    assert out.strip() == "[]"


@linux
@pytest.mark.parametrize(
    "call",
    [
        "net(x)",
        "net.forward(x, num_threads=2)",
        "net.tune(x[:500], (1, 64), seconds=20)",
        "net.profile(x[:64], seconds=20)",
        "net.phases(x[:64], seconds=20)",
        "net.layer_inputs(x)",
        "lrgate.Network.from_layers([(weight, None)])",
        "lrgate.estimators.whitened(net.layers[1], ones)",
        "wide.__dask_tokenize__()",
        "lrgate.inputs.narrowed(doubles)",
    ],
)
def test_ctrl_c_ends_long_calls(call: str) -> None:
    """The main thread computes for at most half a second more."""
    out = run(f"""
        if "weight" in {call!r}:
            weight = np.zeros((8000, 8000), np.float32)
        if "wide" in {call!r}:
            wide = network(8000, 4000)
        doubles = np.broadcast_to(np.ones((1, 500)), (200_000, 500))
        ones = np.ones((2, 1500), np.float32)
        net = network(500, 1500, 1500, 10)
        x = np.broadcast_to(rng.standard_normal((1, 500), np.float32), (400_000, 500))
        if "layer_inputs" in {call!r}:
            x = x[:40_000]
        net(x[:1])
        sent = []

        def interrupt():
            time.sleep(0.3)
            clock = time.pthread_getcpuclockid(threading.main_thread().ident)
            sent.append(time.clock_gettime(clock))
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        try:
            while True:
                {call}
        except KeyboardInterrupt:
            print(time.thread_time() - sent[0])
    """)
    assert float(out) < 0.5


@linux
def test_ctrl_c_does_not_wait_for_lapack() -> None:
    out = run("""
        from lrgate.estimators.waiting import waited

        begun, end = threading.Event(), threading.Event()
        threading.stack_size(64 << 10)

        def call(array):
            begun.set()
            end.wait()
            return array

        def interrupt():
            begun.wait()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        large = np.zeros(1 << 20)
        try:
            waited(call, large)
        except KeyboardInterrupt:
            print("interrupted")
        end.set()
        print(waited(call, large) is large, threading.stack_size())
        try:
            waited(np.linalg.inv, np.zeros((1024, 1024)))
        except np.linalg.LinAlgError:
            print("error")
    """)
    assert out.split() == ["interrupted", "True", "65536", "error"]


@linux
def test_a_csr_matrix_that_is_written_to_meanwhile() -> None:
    out = run("""
        import scipy.sparse
        net = network(40, 30, 3)
        rows = scipy.sparse.random(3000, 40, 0.2, "csr", dtype=np.float32, random_state=0)
        stop = threading.Event()
        index, starts = rows.indices.copy(), rows.indptr.copy()

        def write():
            at = np.random.default_rng(1)
            while not stop.is_set():
                i = at.integers(len(index))
                rows.indices[i] = 2**30
                rows.indices[i] = index[i]
                i = at.integers(len(starts))
                rows.indptr[i] = 2**30
                rows.indptr[i] = starts[i]

        thread = threading.Thread(target=write)
        thread.start()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            try:
                net(rows)
            except ValueError:
                pass
        stop.set()
        thread.join()
        print("alive")
    """)
    assert out.strip() == "alive"


def test_misaligned_rows_are_copied() -> None:
    net = small()
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    rows = buffer[1:].view(np.float32).reshape(5, 6)
    rows[:] = x
    assert not rows.flags.aligned
    np.testing.assert_array_equal(net(rows), net(x))


@linux
def test_workers_end() -> None:
    def workers() -> int:
        import os
        from pathlib import Path

        names = [
            Path(f"/proc/self/task/{t}/comm").read_text() for t in os.listdir("/proc/self/task")
        ]
        return sum(name.startswith("lrgate-") for name in names)

    rng = np.random.default_rng(0)
    net = lrgate.Network.from_layers([(rng.normal(size=(500, 300)), np.zeros(500))])
    x = rng.normal(size=(20_000, 300)).astype(np.float32)
    net.forward(x, num_threads=8)
    assert workers() >= 1
    end = time.monotonic() + 30
    while workers() and time.monotonic() < end:
        time.sleep(0.2)
    assert workers() == 0
    assert np.array_equal(net.forward(x, num_threads=8), net.forward(x, num_threads=1))
    assert threading.active_count() >= 1


@pytest.mark.parametrize("name", ["LRGATE_NUM_THREADS", "LRGATE_ISA"])
def test_an_empty_variable_counts_as_not_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    done = subprocess.run([sys.executable, "-c", "import lrgate"], check=False)
    assert done.returncode == 0


# A search with short measurements, and the peak of its memory above that at its start, in bytes.
SEARCH = """
import lrgate.planner.clock as clock
import lrgate.planner.problem as problem
import lrgate.planner.reporting as reporting

problem.LARGE = 10**6
clock._PLAN_SECONDS = clock._RACE_SECONDS = reporting._LAST_RACE_SECONDS = 0.02
clock._LAYER_SECONDS = 0.001


def kilobytes(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def grown(width, rows, **options):
    # In MB, with the size of the weights and of the rows.
    net = network(width, width, width, 10, task="classification")
    x = np.random.default_rng(1).standard_normal((rows, width), np.float32)
    open("/proc/self/clear_refs", "w").write("5")  # resets the peak
    start = kilobytes("VmRSS")
    lrgate.optimize(net, x, batch_sizes=(1, 64), progress=False, **options)
    weights = sum(layer.weight.nbytes for layer in net.layers)
    return (kilobytes("VmHWM") - start) * 1024 / 1e6, weights / 1e6, x.nbytes / 1e6
"""


@linux
def test_a_search_without_gates_packs_no_weights_again() -> None:
    code = """
    growth, weights, rows = grown(2000, 500, max_error_increase=0)
    assert growth < 1.5 * weights + 3 * rows + 8, (growth, weights, rows)
    """
    run(SEARCH + textwrap.dedent(code), timeout=600)


@linux
def test_a_search_takes_three_times_the_weights_and_rows() -> None:
    # Chunks of 8 and 16 MiB and the buffer of BLAS do not grow with the network.
    code = """
    growth, weights, rows = grown(1500, 1000, max_error_increase=0.01, ranks=(16, 128))
    assert growth < 3 * (weights + rows) + 64, (growth, weights, rows)
    """
    run(SEARCH + textwrap.dedent(code), timeout=600)
