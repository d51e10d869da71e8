"""What learning costs: time of whole trainings with learned shuffles and group counts over that with interleaves.

    python -m benchmarks.overhead [--json FILE --data digits --epochs 10 --repeat 3]

The networks are those of `benchmarks.shuffles`. Every repetition trains each of them once, one after the other, on one thread, by
the plain path (one group convolution a factor) and by the fused one. Printed are medians over repetitions of the ratio to the
training with interleaves of the same repetition, and of the time that the network which comes out takes for a batch of images by
its plan for inference, over that of the one with interleaves.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch

from igcsearch.machine import thread_settings
from igcsearch.nn import Network, build
from igcsearch.spec import Architecture
from igcsearch.spec.grouping import opened_groups
from igcsearch.spec.learning import WAYS
from igcsearch.training import DataSpec, ImageData, default_recipe, load_data
from igcsearch.training.batches import Batches
from igcsearch.training.device import repeatable
from igcsearch.training.step import Stepper

from .facts import check_output, save
from .shuffles import FAMILIES, base, with_shuffles

_BATCH, _RUNS = 64, 30


def networks(family: str, data: ImageData) -> dict[str, tuple[Architecture, dict[str, Any]]]:
    """By name: the network, and entries of its recipe."""
    plain = base(family, data.problem())
    found: dict[str, tuple[Architecture, dict[str, Any]]] = {"interleave": (plain, {})}
    for way in WAYS:
        found[way] = (with_shuffles(plain, way, 0), {"shuffle_way": way})
    found["group counts"] = (opened_groups(plain), {"max_params": plain.params})
    return found


def training_seconds(
    architecture: Architecture, data: ImageData, epochs: int, execution: str, entries: dict[str, Any]
) -> tuple[float, Architecture]:
    """Seconds of all steps of a training, the switch to the hard network included, and that network."""
    recipe = default_recipe(data, epochs=epochs, **entries)
    place = torch.device("cpu")
    with repeatable(place, 1), Batches({"train": data.train}, place, 1) as batches:
        stepper = Stepper(architecture, data, recipe, place)
        begin = time.perf_counter()
        for epoch in range(1, epochs + 1):
            if stepper.soft and epoch > stepper.soft_epochs:
                stepper.harden()
            assert isinstance(stepper.network, Network)
            stepper.network.set_execution(execution)
            stepper.train_epoch(batches.training("train", recipe.batch_size, recipe.seed, epoch), epoch)
        return time.perf_counter() - begin, stepper.architecture


def inference_seconds(architecture: Architecture, images: torch.Tensor) -> float:
    """Median seconds of a batch by the network's plan, not measured but fused wherever it can be."""
    network = build(architecture, 0).eval().optimize_for_inference(images, measure=False)
    times = []
    with torch.inference_mode():
        for _ in range(_RUNS):
            begin = time.perf_counter()
            network(images)
            times.append(time.perf_counter() - begin)
    return statistics.median(times[_RUNS // 5 :])


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    check_output(parser, given.json)
    os.environ.update(thread_settings(1))
    torch.set_num_threads(1)
    data = load_data(DataSpec(given.data, root=given.data_root))
    rows: list[dict[str, Any]] = []
    problem = data.problem()
    images = torch.randn(_BATCH, problem.in_channels, problem.image_size, problem.image_size)
    for repetition in range(given.repeat):
        for family in FAMILIES:
            for execution in ("plain", "auto"):
                for name, (architecture, entries) in networks(family, data).items():
                    seconds, found = training_seconds(architecture, data, given.epochs, execution, entries)
                    row = {"family": family, "execution": execution, "learned": name, "seconds": seconds}
                    row |= {"repetition": repetition, "params": found.params, "macs": found.macs}
                    if execution == "auto":
                        row["inference_seconds"] = inference_seconds(found, images)
                    rows.append(row)
        print(f"[{repetition + 1}/{given.repeat}] repetitions", flush=True)
    print("\n| network | learned | training, plain path | fused path | inference |")
    print("|---|---|---|---|---|")
    for family in FAMILIES:
        for name in networks(family, data):
            if name != "interleave":
                cells = [
                    _ratio(rows, family, execution, name, what)
                    for execution, what in (("plain", "seconds"), ("auto", "seconds"), ("auto", "inference_seconds"))
                ]
                shown = [f"{cell:.2f}" for cell in cells]
                if name == "group counts":
                    shown[-1] = "-"  # a network of other group counts
                print(f"| {family} | {name} | {' | '.join(shown)} |")
    save(given.json, rows)


def _ratio(rows: list[dict[str, Any]], family: str, execution: str, name: str, what: str) -> float:
    """Median over repetitions of the time over that with interleaves."""
    kept = [row for row in rows if (row["family"], row["execution"]) == (family, execution)]
    plain = {row["repetition"]: row[what] for row in kept if row["learned"] == "interleave"}
    return statistics.median(row[what] / plain[row["repetition"]] for row in kept if row["learned"] == name)


if __name__ == "__main__":
    main()
