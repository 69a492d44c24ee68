"""Threads that share a network, the number of threads, and forks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

import lrgate
from oracle import gated, make, rows

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

SECONDS = 30
"""Seconds after which a child process counts as hanging."""


@pytest.fixture(scope="module")
def net() -> lrgate.Network:
    """A network that is wide enough for 1,024 rows to be divided among threads."""
    return make([300, 500, 400, 10])


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return rows(1024, 300)


@pytest.fixture(autouse=True)
def same_number_after() -> Iterator[None]:
    before = lrgate.get_num_threads()
    yield
    lrgate.set_num_threads(before)


def test_threads_share_a_network() -> None:
    plans = gated(make([40, 60, 50, 7]))
    nets = [plans, plans.dense(), plans.with_strategies(["skip"] * 3)]
    batches = [rows(n, 40, seed=n) for n in (1, 2, 7, 64, 65, 200)]
    work = [(net, x) for net in nets for x in batches] * 20
    expected = [net.forward(x, num_threads=1) for net, x in work]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = pool.map(lambda job: job[0].forward(job[1], num_threads=2), work, timeout=SECONDS)
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
def test_the_result_does_not_depend_on_the_number(
    net: lrgate.Network, x: np.ndarray, strategy: str
) -> None:
    net = gated(net).with_strategies([strategy, strategy, "dense"])
    one = net.forward(x, num_threads=1)
    for threads in (2, 3, 4, 17):
        np.testing.assert_array_equal(net.forward(x, num_threads=threads), one)
        with lrgate.thread_limit(threads):
            np.testing.assert_array_equal(net(x), one)
            np.testing.assert_array_equal(net.predict(x), net.predict(x, num_threads=1))


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_one_thread_starts_none_and_two_start_one() -> None:
    code = """
import os, time, numpy as np, lrgate
layers = [(np.ones((500, 300)), np.zeros(500)), (np.ones((400, 500)), np.zeros(400))]
net = lrgate.Network.from_layers(layers)
def workers():
    tasks = os.listdir("/proc/self/task")
    return sum(open(f"/proc/self/task/{t}/comm").read().startswith("lrgate-") for t in tasks)
x = np.ones((1024, 300), np.float32)
net.forward(x, num_threads=1); a = workers()
net.forward(x[:1], num_threads=2); b = workers()
net.forward(x, num_threads=2)
until = time.monotonic() + 10
while workers() == 0 and time.monotonic() < until:  # it has its name once it runs
    time.sleep(0.01)
net.forward(x, num_threads=2); c = workers()
print(a, b, c)
"""
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS
    )
    assert child.stdout.split() == ["0", "0", "1"], child.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process in /proc")
def test_a_call_does_without_threads_that_the_system_refuses() -> None:
    code = """
import os, resource, numpy as np, lrgate
layers = [(np.ones((500, 300)), np.zeros(500)), (np.ones((400, 500)), np.zeros(400))]
net = lrgate.Network.from_layers(layers)
x = np.random.default_rng(0).random((1024, 300), np.float32)
one = net.forward(x, num_threads=1)
more = np.zeros_like(one)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# No room for a thread's stack.
resource.setrlimit(resource.RLIMIT_AS, (size + 2**20, -1))
net.forward(x, out=more, num_threads=8)
print(len(os.listdir("/proc/self/task")), np.array_equal(one, more))
"""
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert child.stdout.split() == ["1", "True"], child.stderr


def test_the_context_manager_nests_and_restores() -> None:
    lrgate.set_num_threads(5)
    with lrgate.thread_limit(2):
        assert lrgate.get_num_threads() == 2
        with lrgate.thread_limit(3):
            assert lrgate.get_num_threads() == 3
            lrgate.set_num_threads(7)  # the process setting, which this thread overrides
            assert lrgate.get_num_threads() == 3
        assert lrgate.get_num_threads() == 2
        with pytest.raises(KeyError), lrgate.thread_limit(4):
            raise KeyError
        assert lrgate.get_num_threads() == 2
    assert lrgate.get_num_threads() == 7


def test_the_context_manager_has_a_name_of_its_own() -> None:
    assert not hasattr(lrgate, "num_threads")
    before = lrgate.get_num_threads()
    lrgate.thread_limit(before + 1)  # no block
    assert lrgate.get_num_threads() == before


def test_the_context_manager_is_of_its_thread() -> None:
    lrgate.set_num_threads(5)

    def three() -> tuple[int, int]:
        before = lrgate.get_num_threads()
        with lrgate.thread_limit(3):
            return before, lrgate.get_num_threads()

    with concurrent.futures.ThreadPoolExecutor(1) as pool, lrgate.thread_limit(2):
        assert pool.submit(three).result(SECONDS) == (5, 3)
        assert lrgate.get_num_threads() == 2


@pytest.mark.parametrize("number", [0, -1, -(2**63)])
def test_numbers_below_1_are_refused(net: lrgate.Network, number: int) -> None:
    message = f"^num_threads must be an integer of at least 1, got {number}$"
    before = lrgate.get_num_threads()
    x = np.zeros(300, np.float32)
    for call in (net.forward, net.predict, make([300, 3], classes=[1, 2, 3]).predict_proba):
        with pytest.raises(ValueError, match=message):
            call(x, num_threads=number)
    with pytest.raises(ValueError, match=message):
        lrgate.set_num_threads(number)
    with pytest.raises(ValueError, match=message), lrgate.thread_limit(number):
        pass
    assert lrgate.get_num_threads() == before


@pytest.mark.parametrize("number", [1.0, "2", [1], True, False, np.True_])
def test_other_types_are_refused_by_name(net: lrgate.Network, number: object) -> None:
    x = np.zeros(300, np.float32)
    message = re.escape(f"num_threads must be an integer of at least 1, got {number!r}")
    with pytest.raises(TypeError, match=message):
        net.forward(x, num_threads=number)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="num_threads"):
        lrgate.set_num_threads(number)  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "expected"), [("1", "1"), ("3", "3"), (" 2 ", "2")])
def test_lrgate_num_threads(value: str, expected: str) -> None:
    child = _import_with(value)
    assert child.stdout.split() == [expected], child.stderr


@pytest.mark.parametrize("value", ["0", "-1", "two", " ", "1.5"])
def test_a_bad_lrgate_num_threads_is_refused_at_import(value: str) -> None:
    child = _import_with(value)
    message = f'ValueError: LRGATE_NUM_THREADS must be an integer of at least 1, got "{value}"'
    assert child.returncode != 0
    assert message in child.stderr


def _import_with(value: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import lrgate; print(lrgate.get_num_threads())"],
        env={**os.environ, "LRGATE_NUM_THREADS": value},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


# --- fork ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_fork_warnings() -> Iterator[None]:
    """Silence the warning of Python 3.12 about forks in a process with threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def answers_in_a_fork(net: lrgate.Network, x: np.ndarray, expected: np.ndarray) -> None:
    """Fork, compute in the child on two threads, and fail if it hangs or differs."""
    with no_fork_warnings():
        child = os.fork()
    if child == 0:
        code = 2
        try:
            same = all(
                np.array_equal(net.forward(x, num_threads=threads), expected)
                for threads in (2, 1, 3)
            )
            code = 0 if same else 1
        finally:
            os._exit(code)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@forks
def test_fork_after_a_parallel_call(net: lrgate.Network, x: np.ndarray) -> None:
    expected = net.forward(x, num_threads=2)
    for _ in range(3):
        answers_in_a_fork(net, x, expected)
        np.testing.assert_array_equal(net.forward(x, num_threads=2), expected)


@forks
def test_fork_while_another_thread_computes(net: lrgate.Network, x: np.ndarray) -> None:
    expected = net.forward(x, num_threads=2)
    stop = threading.Event()

    def compute() -> int:
        calls = 0
        while not stop.is_set():
            net.forward(x, num_threads=2 + calls % 2)
            calls += 1
        return calls

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(compute) for _ in range(2)]
        try:
            for _ in range(8):
                answers_in_a_fork(net, x, expected)
        finally:
            stop.set()
        assert all(job.result(SECONDS) > 0 for job in busy)


_shared: dict[str, lrgate.Network] = {}


def _outputs_of_shared(x: np.ndarray) -> np.ndarray:
    return _shared["net"].forward(x, num_threads=2)


@forks
def test_forked_pool_workers_inherit_a_network(net: lrgate.Network, x: np.ndarray) -> None:
    expected = net.forward(x, num_threads=2)
    _shared["net"] = net
    with no_fork_warnings(), multiprocessing.get_context("fork").Pool(2) as pool:
        results = [pool.apply_async(_outputs_of_shared, (x,)) for _ in range(4)]
        for result in results:
            np.testing.assert_array_equal(result.get(SECONDS), expected)
