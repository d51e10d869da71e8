"""Group counts learned by gates against searched ones: at equal cost, for equal training time.

    python -m benchmarks.groupings --out DIR [--json FILE --data fashion-mnist --data-root DIR --train-images 10k --image-size 14]
                                   [--budgets 0.25,0.6 --tries 8 --epochs 12 --seeds 3 --workers 2 --picture FILE.svg]

One network (IGCV2 and IGCV3 blocks, 24 to 48 channels) whose widths and depths stay; for each budget of parameters, a place between
its cheapest group counts (0) and dense 1x1 factors (1):

- searched: each try draws group counts at random that fill the budget (0.93 of it and more) and trains the network;
- learned: each try learns them, with another seed, in a training of as many epochs under that budget;
- balanced: the cheapest group counts, which spend less.

Printed: accuracies of the tries; the test accuracy of the best by validation after one, two, ... tries (mean over orders in which
they could have come) against the training time; and both bests trained anew with other seeds.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from igcsearch.blocks import igcv2, igcv3, network, stage
from igcsearch.machine import thread_settings
from igcsearch.spec import Architecture, Budget, Problem
from igcsearch.spec.grouping import Choice, Option, opened_groups, questions, with_groups
from igcsearch.spec.rounding import least_cost, most_cost, rounded
from igcsearch.training import DataSpec, TrainResult, default_recipe

from . import trainings
from .curves import Curve, curves
from .facts import save
from .trainings import data_of, trained

ARMS = ("searched", "learned")
FILLED = 0.93  # of the budget, at least, by what is drawn


def base(problem: Problem) -> Architecture:
    """The network whose group counts are open: strict products and bottlenecks, the shape kept wherever they are learned."""
    strict: dict[str, Any] = {
        "residual": True,
        "branch_widths": (6, 8),
        "transition": {"branch_widths": (4, 6), "residual": False},
    }
    stages = [
        stage(igcv2, 24, 24, 2, residual=True, branch_widths=(4, 6)),
        stage(igcv2, 24, 48, 3, stride=2, **strict),
        stage(igcv3, 48, 48, 2, stride=2, residual=True, expansion=2, groups=(4, 4)),
    ]
    return opened_groups(network(problem, 24, stages))


def budget_of(architecture: Architecture, place: float) -> int:
    """Parameters between those of the cheapest group counts (0) and of dense 1x1 factors (1)."""
    least, most = least_cost(architecture).params, most_cost(architecture).params
    return int(least + place * (most - least))


def drawn(architecture: Architecture, limit: int, seed: int) -> dict[str, Choice]:
    """Group counts at random that use a budget of parameters, at least FILLED of it: each block's cost drawn from those that it can
    have, all blocks again until their sum fits.
    """
    rng = random.Random(seed)
    options = {
        q.name: sorted(q.options(np.full(q.shape, 0.5)), key=lambda option: option.cost)
        for q in questions(architecture)[0]
    }
    by_cost = {name: [list(same) for _, same in groupby(each, key=_params)] for name, each in options.items()}
    fixed = architecture.params - sum(q.block.params for q in questions(architecture)[0])
    while True:
        found = {name: rng.choice(rng.choice(costs)) for name, costs in by_cost.items()}
        if FILLED * limit <= fixed + sum(option.cost.params for option in found.values()) <= limit:
            return {name: option.choice for name, option in found.items()}


def _params(option: Option) -> int:
    return option.cost.params


def run(spec: DataSpec, arm: str, limit: int, number: int, epochs: int, folder: Path) -> dict[str, Any]:
    """One try of an arm, or its row if it is there already."""
    data = data_of(spec)
    architecture = base(data.problem())
    given: dict[str, Any] = {}
    if arm == "learned":
        given["max_params"] = limit
    elif arm == "searched":
        architecture = with_groups(architecture, drawn(architecture, limit, number))
    else:
        even = {q.name: np.full(q.shape, 0.5) for q in questions(architecture)[0]}
        architecture = with_groups(
            architecture, rounded(architecture, even, Budget(params=least_cost(architecture).params))
        )
    recipe = default_recipe(data, epochs=epochs, seed=number, **given)
    about = {"arm": arm, "budget": limit, "try": number}
    return trained(architecture, data, recipe, folder, f"{arm}-{limit}-{number}", lambda r: about | _found(r))


def again(spec: DataSpec, row: dict[str, Any], seed: int, epochs: int, folder: Path) -> dict[str, Any]:
    """The network of a row trained anew."""
    data = data_of(spec)
    recipe = default_recipe(data, epochs=epochs, seed=seed)
    about = {"arm": f"{row['arm']}, trained anew", "budget": row["budget"], "try": row["try"]}
    architecture = Architecture.from_dict(row["architecture"])
    name = f"again-{row['arm']}-{row['budget']}-{row['try']}-{seed}"
    return trained(architecture, data, recipe, folder, name, lambda r: about | _found(r))


def best_after(rows: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """For each number of tries (seconds, test accuracy of the best by validation), the mean over all sets of that many."""
    ranked = sorted(rows, key=lambda row: row["validation_accuracy"])
    seconds, n = statistics.mean(row["seconds"] for row in rows), len(rows)
    found = []
    for k in range(1, n + 1):
        chances = [math.comb(i, k - 1) / math.comb(n, k) for i in range(n)]  # that the i-th from below is the best of k
        found.append((k * seconds, sum(c * row["test_accuracy"] for c, row in zip(chances, ranked, strict=True))))
    return found


def _found(result: TrainResult) -> dict[str, Any]:
    blocks = {name: [factor.groups for factor in block.factors] for name, block in result.architecture.blocks()}
    row = {"hash": result.architecture.hash, "groups": blocks, "architecture": result.architecture.to_dict()}
    if result.learned is not None:
        row |= {name: result.learned[name] for name in ("soft_accuracy", "difference", "expected_params")}
    return row


def _percent(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"


def main() -> None:
    """Train what is missing, print the tables, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trainings.add_arguments(parser, tries=8, epochs=12, seeds=3, workers=2)
    parser.add_argument("--budgets", default="0.25,0.6")
    parser.add_argument("--picture", type=Path)
    given, folder, spec = trainings.prepared(parser)
    os.environ.update(thread_settings(1))
    architecture = base(data_of(spec).problem())
    limits = [budget_of(architecture, float(place)) for place in given.budgets.split(",")]
    arms = [("balanced", 0, 1), *((arm, limit, given.tries) for limit in limits for arm in ARMS)]
    tasks = [(spec, arm, limit, t, given.epochs, folder) for arm, limit, tries in arms for t in range(tries)]
    rows = []
    for number, row in trainings.run_all(run, tasks, given.workers):
        rows.append(row)
        where = f"{row['arm']:9s} {row['budget']:6d} try {row['try']}"
        print(
            f"{number} {where}  {row['params']} params  {row['test_accuracy']:.4f}  {row['seconds']:.1f} s", flush=True
        )
    groups = {(arm, limit): [r for r in rows if (r["arm"], r["budget"]) == (arm, limit)] for arm, limit, _ in arms}
    bests = [max(group, key=lambda row: row["validation_accuracy"]) for group in groups.values()]
    more = [(spec, row, 100 + seed, given.epochs, folder) for row in bests for seed in range(given.seeds)]
    anew = []
    for number, row in trainings.run_all(again, more, given.workers):
        anew.append(row)
        where = f"{row['arm']} {row['budget']} seed {row['seed']}"
        print(f"{number} {where}  {row['test_accuracy']:.4f}  {row['seconds']:.1f} s", flush=True)
    columns = ("budget", "group counts", "mean params", "tries: test %", "seconds a try", "best by validation: test %")
    print(f"\n| {' | '.join(columns)} | trained anew: test % |")
    print("|---|---|---|---|---|---|---|")
    lines = []
    for (arm, limit), group in groups.items():
        best = max(group, key=lambda row: row["validation_accuracy"])
        retrained = [r["test_accuracy"] for r in anew if (r["arm"], r["budget"]) == (f"{arm}, trained anew", limit)]
        params = f"{statistics.mean(r['params'] for r in group):,.0f}"
        seconds = statistics.median(r["seconds"] for r in group)
        print(
            f"| {limit or '-'} | {arm} | {params} | {_percent([r['test_accuracy'] for r in group])} | {seconds:.0f} | "
            f"{100 * best['test_accuracy']:.2f} ({best['params']:,}) | {_percent(retrained)} |"
        )
        if arm in ARMS:
            points = best_after(group)
            lines.append(Curve(f"{arm}, {limit:,} params", points))
            print(f"  best after each try: {' '.join(f'{100 * accuracy:.2f}' for _, accuracy in points)}")
    if given.picture:
        given.picture.write_text(curves(lines, "training, s", "test accuracy of the best by validation, %"))
    save(given.json, sorted(rows + anew, key=lambda row: (row["arm"], row["budget"], row["try"], row["seed"])))


if __name__ == "__main__":
    main()
