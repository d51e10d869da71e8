"""N:M sparsity beside group convolution and unstructured sparsity: kept magnitude, and accuracy at equal density.

    python -m benchmarks.nm kept [--json FILE] [--no-orders]
    python -m benchmarks.nm train --out DIR [--json FILE --data fashion-mnist --data-root DIR --train-images 10k]
                                  [--epochs 6 --seeds 3 --workers 1 --methods longer,unstructured,gradual,groups]

kept: the share of the summed magnitude that each scheme keeps of 512 x 512 random matrices, densities 1/2 to 1/16.
Group convolutions without permutation; the last column is 2:M behind the search for an order of the columns.
train: a small network (small.py), trained dense once a seed; then at density 1/2 and 1/4
compressed and trained as long again: as it is ("longer"), unstructured (largest magnitudes of each layer, one mask), N:M (2:4, 1:4)
in each way of training, group convolutions (2, 4 groups) with learned orders of channels. First convolution and classifier stay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from igcsearch.compress.channels import channels_of
from igcsearch.compress.convert import converted
from igcsearch.compress.criterion import criteria
from igcsearch.compress.orders import Grouped, settle
from igcsearch.compress.source import Source
from igcsearch.compress.sparse_masks import chosen_lines, kept_shares
from igcsearch.compress.trace import trace
from igcsearch.machine import thread_settings
from igcsearch.permutations.lines import kept_of_lines, solve_lines
from igcsearch.publish.cci import cci
from igcsearch.publish.tuning import FineTuning, accuracy, fine_tune
from igcsearch.spec.graph import GraphArchitecture
from igcsearch.spec.sparsity import Sparsity
from igcsearch.training import DataSpec, ImageData, default_recipe, train
from igcsearch.training.callback import Callback

from . import trainings
from .facts import check_output, save
from .small import small_network
from .trainings import data_of

DENSITIES = (2, 4, 8, 16)  # one in so many stays
KEPT = (1, 2, 4)  # N
METHODS = ("longer", "unstructured", "gradual", "groups", "one-shot", "straight-through")


# ---------------------------------------------------------------- kept magnitude
def matrices(size: int = 512, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """The random magnitudes of the fact sheet's table, by their names."""
    rng = np.random.default_rng(seed)
    return {
        "abs-normal": np.abs(rng.standard_normal((size, size))),
        "3x3 kernel norms": np.sqrt((rng.standard_normal((size, size, 9)) ** 2).sum(axis=2)),
        "lognormal": rng.lognormal(size=(size, size)),
    }


def kept_row(matrix: NDArray[np.float64], density: int) -> dict[str, float]:
    """What each scheme keeps where one weight in `density` stays: "groups", "1:M", "2:M", "4:M", "unstructured"."""
    blocks = matrix.reshape(density, matrix.shape[0] // density, density, matrix.shape[1] // density)
    found = {"groups": float(np.einsum("gigj->", blocks) / matrix.sum())}
    scores = torch.from_numpy(matrix)[:, :, None, None]
    for n in KEPT:
        found[f"{n}:M"] = kept_shares(scores, n * density)[n - 1]
    largest = np.sort(matrix, axis=None)[-matrix.size // density :]
    return {**found, "unstructured": float(largest.sum() / matrix.sum())}


def kept_rows(orders: bool = True) -> list[dict[str, Any]]:
    """A row for each matrix and density; where wanted with "2:M, ordered" and the seconds that its search took."""
    rows: list[dict[str, Any]] = []
    for name, matrix in matrices().items():
        for density in DENSITIES:
            row: dict[str, Any] = {"matrix": name, "density": 1 / density, **kept_row(matrix, density)}
            if orders:
                begin = time.perf_counter()
                order = solve_lines(matrix, 2, 2 * density)
                row |= {"2:M, ordered": kept_of_lines(matrix, 2, 2 * density, order)}
                row["seconds"] = time.perf_counter() - begin
            rows.append(row)
    return rows


# ---------------------------------------------------------------- accuracy
class OneMask(Callback):
    """Unstructured: of each layer the largest magnitudes stay, one in `density`; the rest is 0 from the start."""

    name = "one-mask"

    def __init__(self, names: list[str], density: int) -> None:
        super().__init__()
        self._names, self._density = names, density

    def identity(self) -> Any:
        """Layers and density."""
        return [self._names, self._density]

    @torch.no_grad()
    def start(self, network: nn.Module, average: nn.Module | None, steps: int) -> None:
        """Choose the masks."""
        self._pairs: list[tuple[Tensor, Tensor]] = []
        for name in self._names:
            weight = network.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            mask = torch.zeros_like(weight)
            mask.view(-1)[weight.abs().flatten().argsort(descending=True)[: weight.numel() // self._density]] = 1
            self._pairs.append((weight.detach(), mask))
            if average is not None:
                follows = average.get_submodule(name).weight
                assert isinstance(follows, Tensor)
                self._pairs.append((follows.detach(), mask))
        self.after_step(0)

    @torch.no_grad()
    def after_step(self, now: int) -> None:
        """Keep zeros."""
        for weight, mask in self._pairs:
            weight.mul_(mask)


@cache
def dense(spec: DataSpec, seed: int, epochs: int, folder: Path) -> tuple[Source, dict[str, Any]]:
    """The network trained dense, and its row; trained once, its weights are in the folder."""
    data = data_of(spec)
    graph = trace(small_network(data.in_channels, data.num_classes), data.image_size, data.in_channels).architecture
    recipe = default_recipe(data, epochs, seed)
    digest = _digest(data, recipe.to_dict(), graph.hash)
    weights = folder / f"dense-{seed}-{digest}.safetensors"

    def make() -> dict[str, Any]:
        checkpoint = weights.with_suffix(".checkpoint")
        result = train(graph, data, recipe, device="cpu", threads=1, checkpoint=checkpoint)
        save_file(result.state_dict, weights)
        checkpoint.unlink()
        return _row("dense", 1, seed, epochs, data, graph, graph, result.state_dict, result.seconds)

    row = trainings.kept(weights.with_suffix(".json"), make)
    return Source("small", graph, load_file(weights), data.mean, data.std), row


def run(spec: DataSpec, method: str, density: int, seed: int, epochs: int, folder: Path) -> dict[str, Any]:
    """One row, trained now if it is not there."""
    given, row = dense(spec, seed, epochs, folder)
    if method == "dense":
        return row
    data, tuning = data_of(spec), FineTuning(seed, {}, "cpu", 1)
    digest = _digest(data, tuning.recipe(data, epochs).to_dict(), given.graph.hash)
    path = folder / f"{method}-{density}-{seed}-{digest}.json"
    return trainings.kept(path, lambda: _compressed(given, data, method, density, seed, epochs, path, tuning))


def _compressed(
    given: Source, data: ImageData, method: str, density: int, seed: int, epochs: int, path: Path, tuning: FineTuning
) -> dict[str, Any]:
    graph, state = given.graph, given.state
    sparsity = Sparsity(max(1, 4 // density), 4)
    names, _ = chosen_lines(graph, sparsity)
    about = (method, density, seed, epochs, data, graph)
    checkpoint = path.with_suffix(".safetensors")
    if method == "longer":
        result = fine_tune(graph, state, data, epochs, tuning, checkpoint)
        checkpoint.unlink()
        return _row(*about, graph, result.state_dict, result.seconds)
    if method == "unstructured":
        result = fine_tune(graph, state, data, epochs, tuning, checkpoint, callbacks=[OneMask(names, density)])
        checkpoint.unlink()
        kept = sum(
            float((values := state[f"{name}.weight"].abs().flatten().sort(descending=True).values).cumsum(0)[
                len(values) // density - 1
            ] / values.sum())
            for name in names
        ) / len(names)  # fmt: skip
        nonzero = sum(int((tensor != 0).sum()) for name, tensor in result.state_dict.items() if name.endswith("weight"))
        row = _row(*about, graph, result.state_dict, result.seconds)
        return row | {"kept": kept, "nonzero_weights": nonzero}
    if method == "groups":
        worth = criteria(graph, state, "l2")
        layers = [
            Grouped(name, graph.node(name).reads[0], worth[name], density, 1 / worth[name].sum()) for name in names
        ]
        channels = channels_of(graph)
        orders = settle(channels, layers, seed=seed)
        made, weights = converted(graph, state, channels, layers, orders)
        result = fine_tune(made, weights, data, epochs, tuning, checkpoint)
        checkpoint.unlink()
        row = _row(*about, made, result.state_dict, result.seconds)
        return row | {"kept": sum(orders.kept[name] for name in names) / len(names)}
    partly = path.with_suffix(".partial")
    found = cci(given, data, m=4, n=sparsity.n, way=method, epochs=epochs, tuning=tuning, partial_folder=partly)
    assert found.training is not None
    for file in partly.iterdir():
        file.unlink()
    partly.rmdir()
    row = _row(*about, found.made.architecture, found.made.state, found.training.seconds)
    pruned = accuracy(found.pruned.architecture, found.pruned.state, data, tuning)
    figures = {"bytes": found.made.bytes, "difference": found.made.difference, "pruned_accuracy": pruned}
    return row | {"kept": found.pruned.kept, **figures}


def _row(
    method: str,
    density: int,
    seed: int,
    epochs: int,
    data: ImageData,
    graph: GraphArchitecture,
    made: GraphArchitecture,
    state: dict[str, Tensor],
    seconds: float,
) -> dict[str, Any]:
    return {
        "method": method,
        "density": 1 / density,
        "seed": seed,
        "epochs": epochs,
        "data": data.name,
        "train_images": len(data.train),
        "params": made.params,
        "macs": made.macs,
        "nonzero_macs": made.nonzero_macs,
        "test_accuracy": accuracy(made, state, data, FineTuning(seed, {}, "cpu", 1)),
        "seconds": seconds,
    }


def _digest(data: ImageData, recipe: dict[str, Any], architecture: str) -> str:
    of = json.dumps([data.fingerprint, len(data.train), data.image_size, recipe, architecture])
    return hashlib.sha256(of.encode()).hexdigest()[:8]


def main() -> None:
    """Print the wanted table, save its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    of_kept = parts.add_parser("kept")
    of_kept.add_argument("--json", metavar="FILE")
    of_kept.add_argument("--no-orders", action="store_true")
    of_train = parts.add_parser("train")
    trainings.add_arguments(of_train, epochs=6, seeds=3, workers=1)
    of_train.add_argument("--methods", default=",".join(METHODS))
    given = parser.parse_args()
    check_output(parser, given.json)
    os.environ.update(thread_settings(1))
    if given.what == "kept":
        rows = kept_rows(not given.no_orders)
        columns = [key for key in rows[0] if key not in ("matrix", "density", "seconds")]
        print(f"| matrix | density | {' | '.join(columns)} | search, s |\n|{'---|' * (len(columns) + 3)}")
        for row in rows:
            figures = " | ".join(f"{row[key]:.3f}" for key in columns)
            print(f"| {row['matrix']} | 1/{1 / row['density']:.0f} | {figures} | {row.get('seconds', 0):.1f} |")
        save(given.json, rows)
        return
    given, folder, spec = trainings.prepared(parser)
    methods = ["dense", *given.methods.split(",")]
    tasks = [
        (spec, method, density, seed, given.epochs, folder)
        for seed in range(given.seeds)
        for method in methods
        for density in ((1,) if method in ("dense", "longer") else (2, 4))
    ]
    rows = []
    for number, row in trainings.run_all(run, tasks, given.workers):
        rows.append(row)
        what = f"{row['method']} {row['density']:g} seed {row['seed']}"
        print(f"{number} {what}  {row['test_accuracy']:.4f}  {row['seconds']:.0f} s", flush=True)
    print("\n| method | density | params | nonzero MACs | kept | test % |\n|---|---|---|---|---|---|")
    for method, density in dict.fromkeys((row["method"], row["density"]) for row in rows):
        found = [row for row in rows if (row["method"], row["density"]) == (method, density)]
        values = [row["test_accuracy"] for row in found]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        kept = f"{statistics.mean(row['kept'] for row in found):.3f}" if "kept" in found[0] else "1"
        cost = f"{found[0]['params']:,} | {found[0]['nonzero_macs']:,}"
        print(
            f"| {method} | {density:g} | {cost} | {kept} | {100 * statistics.mean(values):.2f} ± {100 * spread:.2f} |"
        )
    save(given.json, sorted(rows, key=lambda row: (row["method"], row["density"], row["seed"])))


if __name__ == "__main__":
    main()
