"""The command ``lrgate``: a demo, profile and benchmark of networks, what a bug report needs."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate._core import VERSION
from lrgate.bench import compare, demo
from lrgate.bench.engines import ENGINES
from lrgate.network import Network
from lrgate.runtime import config, show_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        The exit code: 0, or 2 after an error, which is one line on stderr.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing is left to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return _fail(f"{where}{error.strerror or error}")
    except (RuntimeError, TypeError, ValueError) as error:
        return _fail(str(error))
    except MemoryError:
        return _fail("not enough memory")
    return 0


def _fail(message: str) -> int:
    print(f"lrgate: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lrgate",
        description="Runs trained ReLU networks on CPUs without computing what will be zero.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    text = "compare the strategies on 1,000 MNIST digits: error and time"
    command = commands.add_parser("demo", help=text, description=_sentence(text))
    command.add_argument(
        "--network",
        metavar="FILE",
        help="another network that takes MNIST's pixels, in place of the one that is shipped",
    )
    _add_measuring(command, seconds=10.0)
    command.set_defaults(run=_demo)

    text = "show what each layer of a network does and how long it takes"
    command = commands.add_parser("profile", help=text, description=_sentence(text))
    command.add_argument("file", metavar="FILE", help="the network, .npz or .safetensors")
    command.add_argument(
        "--rows", metavar="FILE.npy", help="input rows (n, d); by default the network's own probe"
    )
    command.add_argument(
        "--batch-size", type=_count, metavar="N", help="rows a call; all by default"
    )
    command.add_argument(
        "--phases",
        action="store_true",
        help="show each layer's phases: time, bytes, operations, and the bound that they set",
    )
    _add_measuring(command, seconds=1.0)
    command.set_defaults(run=_profile)

    text = "compare a network in lrgate with every other engine that is installed"
    command = commands.add_parser(
        "bench",
        help=text,
        description=f"{_sentence(text)} It is optimised first, as lrgate.optimize does.",
        epilog=f"Engines: {', '.join(engine.name for engine in ENGINES)}.",
    )
    command.add_argument("file", metavar="FILE", help="the network, .npz or .safetensors")
    command.add_argument(
        "--rows", metavar="FILE.npy", help="real rows (n, d); by default the network's own probe"
    )
    command.add_argument(
        "--labels", metavar="FILE.npy", help="their labels (n,), or values (n, k) of a regressor"
    )
    command.add_argument(
        "--calibration",
        metavar="FILE.npy",
        help="other rows to optimise on; by default one half of --rows, tested on the other",
    )
    command.add_argument(
        "--batch-sizes", type=_counts, default=[1, 64, 1024], metavar="N,N", help="rows a call"
    )
    command.add_argument("--threads", type=_count, default=1, metavar="N")
    command.add_argument(
        "--engines",
        type=_names,
        metavar="NAME,NAME",
        help="engines to compare with, or beginnings of their names; all by default",
    )
    command.add_argument(
        "--no-optimize", action="store_true", help="run the network as it is in its file"
    )
    _add_measuring(command, seconds=5.0, each=" each batch size")
    command.set_defaults(run=_bench)

    text = "print version, build, instruction set and threads"
    command = commands.add_parser("config", help=text, description=_sentence(text))
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_config)

    text = "print the version"
    command = commands.add_parser("version", help=text, description=_sentence(text))
    command.set_defaults(run=_version)
    return parser


def _add_measuring(command: argparse.ArgumentParser, seconds: float, each: str = "") -> None:
    command.add_argument(
        "--seconds",
        type=_seconds,
        default=seconds,
        help=f"about how long to measure{each} (default: %(default)g)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 3600, got {text!r}")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return value


def _counts(text: str) -> list[int]:
    counts = [_count(part) for part in text.split(",")]
    if len(set(counts)) != len(counts):
        raise argparse.ArgumentTypeError(f"must be distinct, got {text!r}")
    return counts


def _names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be names with commas between, got {text!r}")
    return names


def _demo(arguments: argparse.Namespace) -> None:
    if not arguments.json and sys.stderr.isatty():
        print(f"measuring for about {arguments.seconds:g} seconds ...", file=sys.stderr)
    result = demo.run(arguments.network, arguments.seconds)
    _print(result.to_dict() if arguments.json else result)


def _profile(arguments: argparse.Namespace) -> None:
    net = Network.load(arguments.file)
    rows = _rows(net, arguments)
    profile = net.phases if arguments.phases else net.profile
    result = profile(rows, batch_size=arguments.batch_size, seconds=arguments.seconds)
    _print(result.to_dict() if arguments.json else result)


def _bench(arguments: argparse.Namespace) -> None:
    net = Network.load(arguments.file)
    rows = _rows(net, arguments)
    labels = None if arguments.labels is None else _read_rows(arguments.labels)
    calibration = None
    if arguments.calibration is not None:
        calibration = np.array(_read_rows(arguments.calibration)), None
    result = compare.run(
        os.path.basename(arguments.file),
        net,
        np.array(rows),
        None if labels is None else np.array(labels),
        calibration=calibration,
        batch_sizes=arguments.batch_sizes,
        seconds=arguments.seconds,
        threads=arguments.threads,
        engines=arguments.engines,
        optimized=not arguments.no_optimize,
        progress=not arguments.json and sys.stderr.isatty(),
    )
    _print(result.to_dict() if arguments.json else result)


def _rows(net: Network, arguments: argparse.Namespace) -> npt.NDArray[Any]:
    if arguments.rows is not None:
        return _read_rows(arguments.rows)
    if net.probe is None:
        raise ValueError(f"{arguments.file}: the network has no probe rows, so --rows is needed")
    return net.probe.x


def _read_rows(path: str) -> npt.NDArray[Any]:
    try:
        # Looks at the header, takes no memory and never unpickles.
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError):
        # NumPy's own message advises unpickling.
        raise ValueError(f"{path}: expected a .npy file of numbers, whole and unpickled") from None
    if not isinstance(rows, np.ndarray):
        raise ValueError(f"{path}: expected a .npy file of numbers, got an archive")
    return rows


def _config(arguments: argparse.Namespace) -> None:
    if arguments.json:
        _print(config())
    else:
        show_config()


def _version(arguments: argparse.Namespace) -> None:
    print(VERSION)


def _print(result: object) -> None:
    print(json.dumps(result, indent=2) if isinstance(result, dict) else result)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
