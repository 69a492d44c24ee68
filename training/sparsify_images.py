"""Make a trained image network sparse by `lrgate.torch.sparsify`, and measure the gain.

    python training/train.py --preset paper --data-dir data/mnist --out-dir training/runs/paper
    python training/export.py --checkpoint training/runs/paper/best.pt --data-dir data/mnist \\
        --out training/runs/paper.npz
    python training/sparsify_images.py --network training/runs/paper.npz --data-dir data/mnist \\
        --shift 1 --out training/results/sparsify/mnist-paper.json

The network trains on its own training rows. Its validation rows, which the seed and the number of
its own training give, choose the strength and check the budget; test rows are used at the end. With
`--speed` both networks are optimised on the validation rows, and measured beside other engines that
know ReLU without thresholds. Nothing else should run on the machine meanwhile. Writes one JSON
with errors, densities, multiply-adds and times before and after.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import data
import speed
from loop import shift_randomly

if TYPE_CHECKING:
    import lrgate

BATCH_SIZES = (1, 256)


def measured(
    net: lrgate.Network, data_set: data.DataSet, options: argparse.Namespace
) -> tuple[lrgate.Network, dict[str, Any]]:
    """The sparse network, and the figures of the run."""
    import lrgate.torch

    options.seed = _seed(net, options.seed)
    split = data.split(len(data_set.x_train), options.validation, options.seed)
    x, y = data_set.x_train[split.train], data_set.y_train[split.train]
    x_val, y_val = data_set.x_train[split.validation], data_set.y_train[split.validation]
    sparse, report = lrgate.torch.sparsify(
        net,
        x,
        y if options.labels else None,
        x_val=x_val,
        y_val=y_val if options.labels else None,
        max_error_increase=options.max_error_increase,
        confidence=options.confidence,
        relufy=options.relufy,
        augment=partial(shift_randomly, limit=options.shift) if options.shift else None,
        epochs=options.epochs,
        checkpoint=options.checkpoint,
        num_threads=options.threads,
        seed=options.seed,
    )
    print(report)
    figures: dict[str, Any] = {
        "network": Path(options.network).name,
        "data": data_set.name,
        "training": net.metadata.get("command"),
        "options": {
            name: getattr(options, name)
            for name in (
                "labels",
                "max_error_increase",
                "confidence",
                "shift",
                "relufy",
                "epochs",
                "threads",
                "seed",
                "validation",
            )
        },
        "before": _on_test_rows(net, data_set),
        "after": _on_test_rows(sparse, data_set),
        "report": report.to_dict(),
    }
    if options.speed:
        test = data_set.x_test, data_set.y_test
        figures["speed"] = _speed(net, sparse, (x_val, y_val), test, options)
    return sparse, figures


def _seed(net: lrgate.Network, given: int | None) -> int:
    """The seed of the network's training: another one would give other validation rows."""
    known = net.metadata.get("seed")
    if known is None:
        return 1 if given is None else given
    if given not in (None, known):
        raise ValueError(f"--seed is {given}, but the network was trained with seed {known}")
    return int(known)


def _on_test_rows(net: lrgate.Network, data_set: data.DataSet) -> dict[str, Any]:
    """Error, densities and the multiply-adds that skip leaves per row."""
    from lrgate.torch.sparsity.costs import sparsity_of

    found = sparsity_of(net.dense(), data_set.x_test)
    return {
        "test_error": float(np.mean(net.predict(data_set.x_test) != data_set.y_test)),
        "units": [int(count) for count in found.units],
        "densities": [round(density, 5) for density in found.densities],
        "multiply_adds": round(found.work, 1),
    }


def _speed(
    net: lrgate.Network,
    sparse: lrgate.Network,
    calibration: tuple[data.U8Array, data.U8Array],
    test: tuple[data.U8Array, data.U8Array],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Both networks after `optimize`, and networks that peers can run, on one thread.

    They take turns on test rows. Peers run the network before, and one of the sparse network's
    weights without thresholds (`relu`): its error is another one, but not its time in a peer.
    """
    from lrgate.measure import process
    from lrgate.measure.machine import fingerprint

    with tempfile.TemporaryDirectory() as folder:
        networks = []
        for label, each in (
            ("before", net),
            ("after", sparse),
            ("relu", _without_thresholds(sparse)),
        ):
            path = Path(folder) / f"{label}.npz"
            each.save(path)
            networks.append(speed.Measured(label, path, dense=label != "after"))
        engines = tuple(options.engines)
        found: dict[str, Any] = process.fresh(
            *(speed.measure, networks, calibration, test, BATCH_SIZES, engines, options.seconds),
            threads=1,
        )
    return {"machine": dict(fingerprint()), **found}


def _without_thresholds(net: lrgate.Network) -> lrgate.Network:
    """The network with relu in place of all hidden activations."""
    import lrgate

    return lrgate.Network.from_layers(
        [(layer.weight, layer.bias) for layer in net.layers],
        task="classification",
        input_scale=net.input_scale,
        input_shift=net.input_shift,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make a trained image network sparse.")
    add = parser.add_argument
    add("--network", type=Path, required=True, help="a network file that export.py wrote")
    add("--data-dir", type=Path, required=True, help="the data the network was trained on")
    add("--out", type=Path, required=True, help="the JSON file to write")
    add("--save", type=Path, help="the .npz file for the sparse network (default: none)")
    add(
        "--validation",
        type=int,
        default=10_000,
        help="validation rows of the network's training (default: %(default)s)",
    )
    add("--seed", type=int, help="seed of the network's training and of this run, if unknown")
    add("--max-error-increase", type=float, default=0.001, help="the budget")
    add("--confidence", type=float, default=0.95, help="of the budget's bound")
    add("--shift", type=int, default=0, help="most pixels by which images move in training")
    add("--relufy", action="store_true", help="move other activations to ReLU first")
    add("--epochs", type=int, default=60, help="most passes over the training rows")
    add("--threads", type=int, default=1, help="threads of the training")
    add("--checkpoint", type=Path, help="file from which an interrupted run goes on")
    add(
        "--labels",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether labels are used (default: yes)",
    )
    add("--speed", action="store_true", help="optimise both networks, and measure their times")
    add(
        "--engines",
        nargs="*",
        default=speed.PEERS,
        metavar="NAME",
        help="beginnings of the names of engines to measure beside them",
    )
    add(
        "--seconds",
        type=float,
        default=1.0,
        help="of each network and engine, for each number of rows (default: %(default)s)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        import lrgate
        from lrgate.files.atomic import replacing

        data_set = data.load(options.data_dir)
        net = lrgate.load(options.network)
        sparse, figures = measured(net, data_set, options)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(options.out) as file:
            file.write(f"{json.dumps(figures, indent=1)}\n".encode())
        if options.save:
            sparse.save(options.save)
    except (data.DataError, OSError, ValueError, ImportError) as error:
        print(f"sparsify_images.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
