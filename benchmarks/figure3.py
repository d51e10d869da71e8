"""IGCV2's figure 3 on other images: networks of equal weights with few or many pointwise factors, accuracy against their number L.

    python -m benchmarks.figure3 --out DIR [--json FILE --data fashion-mnist --data-root DIR --train-images 10k --image-size 28]
                                 [--factors 1,2,3,8 --epochs 8 --seeds 3 --workers 2 --picture FILE.svg]

The networks are `igcsearch.blocks.references.igcv2.figure_3` for the images at hand, in the reading that keeps K in all stages, so
that they are of equal size with few classes too (--complementary: the other one); all of the first seed are trained first.
Printed: for each L the weights of a block, its non-sparsity Q / (S C^2), paths a pair, cost, test accuracy and the paper's
(CIFAR-100); drawn: both curves, each on its own axis.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

from igcsearch.blocks.references.igcv2 import FIGURE_3, figure_3
from igcsearch.conditions import paths
from igcsearch.machine import thread_settings
from igcsearch.training import DataSpec, TrainResult, default_recipe

from . import trainings
from .facts import save
from .ranges import Range, ranges
from .trainings import data_of, trained


def run(spec: DataSpec, factors: int, complementary: bool, seed: int, epochs: int, folder: Path) -> dict[str, Any]:
    """One training, or its row if it is there already."""
    data = data_of(spec)
    architecture = figure_3(factors, data.problem(), complementary=complementary)
    recipe = default_recipe(data, epochs=epochs, seed=seed)

    def about(result: TrainResult) -> dict[str, Any]:
        return {"factors": factors, "complementary": complementary, "hash": result.architecture.hash}

    return trained(architecture, data, recipe, folder, f"l{factors}-{seed}", about)


def main() -> None:
    """Train what is missing, print the table, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trainings.add_arguments(parser, epochs=8, seeds=3, workers=2)
    parser.add_argument("--factors", default="1,2,3,8")
    parser.add_argument("--complementary", action="store_true", help="the other reading: K grows in the later stages")
    parser.add_argument("--picture", type=Path)
    given, folder, spec = trainings.prepared(parser)
    os.environ.update(thread_settings(1))
    counts = [int(count) for count in given.factors.split(",")]
    reading = given.complementary
    tasks = [(spec, count, reading, seed, given.epochs, folder) for seed in range(given.seeds) for count in counts]
    rows = []
    for number, row in trainings.run_all(run, tasks, given.workers):
        rows.append(row)
        what = f"L = {row['factors']} seed {row['seed']}"
        print(f"{number} {what}  {row['test_accuracy']:.4f}  {row['seconds']:.0f} s", flush=True)
    print(
        "\n| L | K | C | weights a block | Q / (S C^2) | paths a pair | params | MACs | test % | paper, CIFAR-100 % |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    ours, papers = [], []
    for count in counts:
        branch_width, width, weights, accuracy = FIGURE_3[count]
        of = paths(dict(figure_3(count).blocks())["stage1.block1"].steps)
        found = [row for row in rows if row["factors"] == count]
        values = [row["test_accuracy"] for row in found]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = statistics.mean(values)
        print(
            f"| {count} | {branch_width} | {width} | {weights:,} | {weights / (9 * width**2):.4f} | {of.smallest} to "
            f"{of.largest} | {found[0]['params']:,} | {found[0]['macs']:,} | {100 * mean:.2f} ± {100 * spread:.2f} | "
            f"{100 * accuracy:.2f} |"
        )
        ours.append(Range(count, mean, spread))
        papers.append(Range(count, accuracy, 0.0))
    if given.picture:
        images = f"{rows[0]['data']}, {rows[0]['train_images']:,} images, {given.epochs} epochs"
        given.picture.write_text(
            ranges([("the paper: CIFAR-100", papers), (images, ours)], "L, pointwise factors", "test accuracy, %")
        )
    save(given.json, sorted(rows, key=lambda row: (row["factors"], row["seed"])))


if __name__ == "__main__":
    main()
