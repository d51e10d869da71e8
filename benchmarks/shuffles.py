"""Do learned shuffles help? The same networks with shuffles learned (each way), interleaved, random and none, over many seeds.

    python -m benchmarks.shuffles --out DIR [--json FILE --data digits --seeds 20 --epochs 20 --workers 2]
    python -m benchmarks.shuffles --out DIR --data fashion-mnist --data-root DIR --train-images 10k --image-size 14 --seeds 5

Two networks: strict (IGCV2, two 1x1 factors) and loose (IGCV3, four groups), of the same widths, depths and groups in every row.
Random ones stand where learned ones are learned, others by each seed; "none" leaves out every permutation, also those that the
condition needs. One recipe, the same number of epochs for all; learned ones are soft for the first 30 %. A training that is in
DIR already is not repeated. Printed: test accuracy (mean and standard deviation over seeds), the difference to interleave in
pairs of one seed with its 95 % interval, the smallest difference that so many seeds show with 80 % power, and time.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from igcsearch.blocks import igcv2, igcv3, network, stage
from igcsearch.machine import thread_settings
from igcsearch.spec import Architecture, Factor, Problem, Shuffle
from igcsearch.spec.learning import WAYS, gaps, hardened, opened
from igcsearch.training import DataSpec, TrainResult, default_recipe

from . import trainings
from .facts import save
from .trainings import data_of, trained

FAMILIES = ("strict", "loose")
SHUFFLES = ("interleave", *WAYS, "random", "none")


def base(family: str, problem: Problem) -> Architecture:
    """The network with interleaves: three stages, 24 to 48 channels, a shortcut wherever the shape stays."""
    stages = []
    for before, after, stride in ((24, 24, 1), (24, 48, 2), (48, 48, 2)):
        if family == "strict":
            inside: dict[str, Any] = {"branch_widths": (4, 6) if after == 24 else (6, 8)}
            across: dict[str, Any] = {"branch_widths": (4, 6)} if before == 24 else {"branch_widths": (6, 8)}
            stages.append(
                stage(
                    igcv2,
                    before,
                    after,
                    2,
                    stride=stride,
                    residual=True,
                    transition={**across, "residual": False},
                    **inside,
                )
            )
        else:
            stages.append(stage(igcv3, before, after, 2, stride=stride, residual=True, expansion=2, groups=(4, 4)))
    return network(problem, 24, stages)


def with_shuffles(architecture: Architecture, kind: str, seed: int) -> Architecture:
    """The same network with other shuffles; `seed` draws random ones."""
    if kind == "interleave":
        return architecture
    asked = opened(architecture)
    if kind in WAYS:
        return asked
    if kind == "random":
        rng, blocks = np.random.default_rng(seed), dict(asked.blocks())
        return hardened(
            asked, {gap.name: rng.permutation(_width(blocks[gap.block].steps[gap.step])) for gap in gaps(asked)[0]}
        )
    stem, *others = (block for _, block in architecture.blocks())
    return architecture.with_blocks(
        [stem, *(replace(block, steps=tuple(map(_unshuffled, block.steps))) for block in others)]
    )


def _width(step: Any) -> int:
    assert isinstance(step, Factor)
    return step.out_channels


def _unshuffled(step: Any) -> Any:
    return replace(step, shuffle=Shuffle("identity")) if isinstance(step, Factor) else step


def run(spec: DataSpec, family: str, kind: str, seed: int, epochs: int, folder: Path) -> dict[str, Any]:
    """One training, or its row if it is there already."""
    data = data_of(spec)
    architecture = with_shuffles(base(family, data.problem()), kind, seed)
    given = {"shuffle_way": kind} if kind in WAYS else {}
    recipe = default_recipe(data, epochs=epochs, seed=seed, **given)

    def about(result: TrainResult) -> dict[str, Any]:
        reports = [block.report for _, block in result.architecture.blocks()]
        row = {"family": family, "shuffle": kind, "levels": [report["complementary"] for report in reports]}
        row["paths"] = [report["paths"] for report in reports]
        if result.learned is not None:
            names = ("soft_epochs", "soft_accuracy", "hard_accuracy", "difference", "softness")
            row |= {name: result.learned[name] for name in names}
        return row

    return trained(architecture, data, recipe, folder, f"{family}-{kind}-{seed}", about)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each family and shuffle: mean, deviation, paired difference to interleave with its interval, what would have shown."""
    from scipy import stats

    found = []
    for family in FAMILIES:
        by_kind = {
            kind: {r["seed"]: r for r in rows if (r["family"], r["shuffle"]) == (family, kind)} for kind in SHUFFLES
        }
        plain = by_kind["interleave"]
        for kind, group in by_kind.items():
            if not group:
                continue
            values = [r["test_accuracy"] for r in group.values()]
            line: dict[str, Any] = {
                "family": family,
                "shuffle": kind,
                "seeds": len(values),
                "mean": statistics.mean(values),
            }
            line["std"] = statistics.stdev(values) if len(values) > 1 else None
            line["seconds"] = statistics.median(r["seconds"] for r in group.values())
            both = [seed for seed in group if seed in plain]
            if kind != "interleave" and len(both) > 1:
                differences = [group[seed]["test_accuracy"] - plain[seed]["test_accuracy"] for seed in both]
                free, spread = len(both) - 1, statistics.stdev(differences) / math.sqrt(len(both))
                line["difference"] = statistics.mean(differences)
                line["half_interval"] = float(stats.t.ppf(0.975, free)) * spread
                line["smallest_shown"] = float(stats.t.ppf(0.975, free) + stats.t.ppf(0.8, free)) * spread
                line["time"] = statistics.median(group[seed]["seconds"] / plain[seed]["seconds"] for seed in both)
            found.append(line)
    return found


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def main() -> None:
    """Train what is missing, print the table, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trainings.add_arguments(parser, seeds=20, epochs=20, workers=2)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--shuffles", default=",".join(SHUFFLES))
    given, folder, spec = trainings.prepared(parser)
    for name, known in (("families", FAMILIES), ("shuffles", SHUFFLES)):
        if unknown := [each for each in getattr(given, name).split(",") if each not in known]:
            parser.error(f"--{name} {unknown[0]}: known are {', '.join(known)}")
    os.environ.update(thread_settings(1))
    tasks = [
        (spec, family, kind, seed, given.epochs, folder)
        for seed in range(given.seeds)
        for family in given.families.split(",")
        for kind in given.shuffles.split(",")
    ]
    rows: list[dict[str, Any]] = []
    for number, row in trainings.run_all(run, tasks, given.workers):
        rows.append(row)
        name = f"{row['family']:7s}{row['shuffle']:11s} seed {row['seed']:2d}"
        print(f"{number} {name}  {row['test_accuracy']:.4f}  {row['seconds']:.1f} s", flush=True)
    rows.sort(key=lambda row: (row["family"], row["shuffle"], row["seed"]))
    print("\n| network | shuffles | seeds | test accuracy % | difference to interleave | smallest shown | time |")
    print("|---|---|---|---|---|---|---|")
    table = summary(rows)
    for line in table:
        difference = (
            "-" if "difference" not in line else f"{_points(line['difference'])} ± {_points(line['half_interval'])}"
        )
        spread = f"{_points(line['mean'])} ± {_points(line['std'])}"
        shown, factor = _points(line.get("smallest_shown")), f"{line.get('time', 1.0):.2f}"
        print(
            f"| {line['family']} | {line['shuffle']} | {line['seeds']} | {spread} | {difference} | {shown} | {factor} |"
        )
    save(given.json, rows, {"summary": table})


if __name__ == "__main__":
    main()
