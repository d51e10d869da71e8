"""Compression of a trained network by permuted groups, beside uniform channel pruning at equal multiply-adds, fine-tuned alike.

    python -m benchmarks.compression --out DIR --data cifar10.npz --source benchmarks/resnet20.py:resnet20 --weights FILE
                                     --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 [--json FILE --shares 75,50,35 --epochs 5]
                                     [--methods permute,channels,inner --seeds 1 --workers 2 --lr X --match --latency-only]

Methods, each to at most so many percent of the source's multiply-adds, criterion L2:

- permute: what `igcsearch compress --max-macs S% --importance lost` does;
- sensitivity: the same with `--importance sensitivity`;
- gathers: the same with `--importance sensitivity --gathers all`;
- sparsify, sparsify-gathers: `--method sparsify`, and the same with `--gathers all`;
- cci: `--method cci --m 4` (nonzero multiply-adds);
- channels: by Torch-Pruning the same share of the channels of all layers but the classifier, of least group magnitude (channels.py,
  which says how it is installed);
- inner: the same, but for channels within blocks alone: those that shortcuts carry all stay.

Whole channels come in coarse steps; with --match ours get as its budget what `channels` came to.

Fine-tuning is that of `igcsearch compress`, one thread each, a checkpoint an epoch; what is finished is kept in DIR, a row and an
entry a run. Latencies are measured at the end, and again whenever the command is repeated: all networks and the source take turns
in one process, one image, one thread, norms folded, median. On a busy machine they say nothing: repeat the command with
--latency-only, which trains nothing, and --patience SECONDS, which waits for a quiet one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from igcsearch.cli.limits import limit
from igcsearch.compress.cci import stored_bytes
from igcsearch.compress.permute import Permuted
from igcsearch.compress.source import Source, normalised, read_source
from igcsearch.entries import load, write_entry
from igcsearch.errors import UsageError
from igcsearch.machine import keep_freed_memory, thread_settings
from igcsearch.nn import measure
from igcsearch.nn.graph import GraphNetwork
from igcsearch.publish.facts import entry_metrics, mean_and_std
from igcsearch.publish.methods import METHODS, Compression, Outcome
from igcsearch.publish.tuning import FineTuning, accuracy, calibration, fine_tune, recalibrated
from igcsearch.spec import Budget
from igcsearch.training import DataSpec, ImageData
from igcsearch.training.checkpoint import state_digest
from igcsearch.training.distillation import Distillation
from igcsearch.wording import percent

from . import trainings
from .channels import Weighted, pruned, torch_pruning
from .facts import save
from .timing import undisturbed
from .trainings import data_of, kept

#: By our names: a method of the command, and its options.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "permute": ("permute", {}),
    "sensitivity": ("permute", {"importance": "sensitivity"}),
    "gathers": ("permute", {"importance": "sensitivity", "gathers": None}),
    "sparsify": ("sparsify", {}),
    "sparsify-gathers": ("sparsify", {"gathers": None}),
    "cci": ("cci", {}),
}
NAMES = (*OURS, "channels", "inner")
DISTILLED = "+distill"  # behind a name: fine-tuned with the dense network as teacher
DENSE = "dense"  # of rows: the source itself


@dataclass(frozen=True)
class Work:
    """What all runs have in common: the options as they were given."""

    spec: DataSpec
    folder: Path
    source: str
    weights: str
    mean: str | None
    std: str | None
    epochs: int
    lr: float | None
    match: bool

    def given(self) -> tuple[Source, ImageData]:
        """The network, and the images normalised as it wants them."""
        return _given(self)

    def tuning(self, seed: int, method: str = "") -> FineTuning:
        """How every run goes on training."""
        teacher = None
        if method.endswith(DISTILLED):
            source, images = self.given()
            teacher = partial(Distillation, source.graph, source.state, images.mean, images.std)
        return FineTuning(seed, {"lr": self.lr}, "cpu", 1, teacher)

    def path(self, method: str, share: float, seed: int) -> Path:
        """The file of a row: its name tells runs apart."""
        source, images = self.given()
        of: list[Any] = [images.fingerprint, images.image_size, images.mean, images.std]
        of += [source.graph.hash, state_digest(source.state)]
        if method != DENSE:
            recipe = self.tuning(seed).recipe(images, self.epochs).to_dict()
            of += [method, share, seed, self.epochs, self.match, len(images.train), recipe]
        name = method if method == DENSE else f"{method}-{share:g}-{seed}"
        return self.folder / f"{name}-{hashlib.sha256(json.dumps(of).encode()).hexdigest()[:8]}.json"


@lru_cache(maxsize=1)
def _given(work: Work) -> tuple[Source, ImageData]:
    data = data_of(work.spec)
    source = read_source(
        work.source,
        weights=work.weights,
        image_size=data.image_size,
        in_channels=data.in_channels,
        num_classes=data.num_classes,
    )
    mean, std = (None if text is None else tuple(map(float, text.split(","))) for text in (work.mean, work.std))
    return source, normalised(data, source, mean, std)


def compressed(work: Work, method: str, share: float, seed: int, partly: Path) -> Outcome:
    """What a method makes, not fine-tuned yet but where training is part of the method."""
    source, images = work.given()
    most = math.floor(limit(f"{share:g}%").of(source.graph.macs))
    whole, name = Weighted(source.graph, source.state), method.removesuffix(DISTILLED)
    if name not in OURS:
        found, ratio = pruned(whole, most, inner=name == "inner")
        state = recalibrated(found.graph, found.state, calibration(images))
        made = Permuted(found.graph, state, 1.0, 0, 0.0, [], name, [])
        return Outcome(made, "l2", work.epochs, more={"channels_pruned": ratio})
    if work.match:
        most = pruned(whole, most)[0].graph.macs
    way, options = OURS[name]
    return METHODS[way](
        Compression(source, images, Budget(macs=most), partly, work.tuning(seed, method), work.epochs, **options)
    )


def run(work: Work, method: str, share: float, seed: int) -> dict[str, Any]:
    """One row, or the one that is there already; the fine-tuned network is an entry beside it."""
    path = work.path(method, share, seed)
    return kept(
        path, lambda: _dense(work) if method == DENSE else _run(work, method, share, seed, path.with_suffix(""))
    )


def _dense(work: Work) -> dict[str, Any]:
    source, images = work.given()
    right = accuracy(source.graph, source.state, images, work.tuning(0))
    cost = {"params": source.graph.params, "macs": source.graph.macs}
    return {"method": DENSE, "share": 100.0, **cost, "accuracy_before": right, "test_images": len(images.test)}


def _run(work: Work, method: str, share: float, seed: int, folder: Path) -> dict[str, Any]:
    keep_freed_memory()
    source, images = work.given()
    begin, tuning, partly = time.perf_counter(), work.tuning(seed, method), folder.with_name(folder.name + ".partial")
    outcome = compressed(work, method, share, seed, partly)
    seconds, found = time.perf_counter() - begin, outcome.found
    graph, state = found.architecture, found.state
    before = kept(partly.with_suffix(".pruned"), lambda: {"accuracy": accuracy(graph, state, images, tuning)})
    recipe, validation, trained, after = tuning.recipe(images, work.epochs), None, 0.0, before["accuracy"]
    if outcome.trained is not None or outcome.epochs:
        if outcome.trained is not None:
            made, result = outcome.trained
            state = made.state
        else:
            result = fine_tune(graph, state, images, outcome.epochs, tuning, partly / "checkpoint.safetensors")
            state = result.state_dict
        validation, trained = result.validation_accuracy, result.seconds
        after = accuracy(graph, state, images, tuning)
    row = {
        "method": method,
        "share": share,
        "seed": seed,
        "matched": work.match,
        "params": graph.params,
        "macs": graph.macs,
        "macs_share": graph.nonzero_macs / source.graph.macs,
        "bytes": stored_bytes(state),
        "kept": found.kept,
        "gathers": found.gathers,
        "groups": {row["layer"]: row.get("sparsity") or row["groups"] for row in found.layers},
        "accuracy_pruned": before["accuracy"],
        "accuracy_finetuned": after,
        "validation_accuracy": validation,
        "data": images.name,
        "train_images": len(images.train),
        "epochs": work.epochs,
        "lr": recipe.lr,
        "batch_size": recipe.batch_size,
        "seconds": trained,
        "seconds_pruning": seconds,
        "entry": folder.name,
    }
    of = {"seed": seed, "validation_accuracy": validation, "test_accuracy": after, "seconds": trained}
    metrics = entry_metrics(graph, images, recipe, [of], provenance={"command": "benchmarks.compression", **row})
    write_entry(folder, graph, state, metrics, overwrite=True)
    shutil.rmtree(partly, ignore_errors=True)
    partly.with_suffix(".pruned").unlink(missing_ok=True)
    return row


def latencies(work: Work, names: list[str], seconds: float, patience: float) -> tuple[dict[str, float], float | None]:
    """Median milliseconds of the source (under DENSE) and of the entries, which take turns; and what else kept cores busy."""
    torch.set_num_threads(1)
    source, _ = work.given()
    dense = GraphNetwork(source.graph)
    dense.load_state_dict(source.state)
    calls = {}
    for name, network in {DENSE: dense.eval(), **{name: load(work.folder / name) for name in names}}.items():
        fast, image = measure.optimized(network), measure.example_images(network, 1)
        calls[name] = lambda fast=fast, image=image: fast(image)
    with torch.inference_mode():
        given = argparse.Namespace(device="cpu", seconds=seconds, patience=patience, cold=False)
        return undisturbed(calls, given)


def main() -> None:
    """Train what is missing, measure latencies, print the table, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trainings.add_arguments(parser, epochs=5, seeds=1, workers=2)
    parser.add_argument("--source", required=True, help="as of igcsearch compress")
    parser.add_argument("--weights", default="pretrained", help="as of igcsearch compress")
    parser.add_argument("--mean", help="as of igcsearch compress")
    parser.add_argument("--std", help="as of igcsearch compress")
    parser.add_argument("--shares", default="75,50,35", help="percent of the multiply-adds")
    parser.add_argument("--methods", default="permute,channels,inner")
    parser.add_argument("--lr", type=float, help="of fine-tuning; default: as of igcsearch compress")
    parser.add_argument("--match", action="store_true", help="groups to the multiply-adds that channels came to")
    parser.add_argument(
        "--latency-only", action="store_true", help="of the networks that are there; nothing is trained"
    )
    parser.add_argument("--seconds", type=float, default=30, help="for the turns of all networks")
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait for a quiet machine before them")
    given, folder, spec = trainings.prepared(parser)
    os.environ.update(thread_settings(1))
    work = Work(
        *(spec, folder, given.source, given.weights, given.mean, given.std, given.epochs, given.lr, given.match)
    )
    methods, shares = given.methods.split(","), [float(share) for share in given.shares.split(",")]
    try:
        if unknown := [method for method in methods if method.removesuffix(DISTILLED) not in NAMES]:
            raise UsageError(f"unknown method {unknown[0]!r}; known: {', '.join(NAMES)}, and each with {DISTILLED}")
        if not given.latency_only and (
            given.match or {"channels", "inner"} & {method.removesuffix(DISTILLED) for method in methods}
        ):
            torch_pruning()
        for share in shares:
            limit(f"{share:g}%")
        work.given()
    except UsageError as error:
        parser.error(str(error))
    tasks: list[tuple[Any, ...]] = [(work, DENSE, 100.0, 0)]
    tasks += [(work, method, share, seed) for seed in range(given.seeds) for share in shares for method in methods]
    if given.latency_only:
        tasks = [task for task in tasks if work.path(*task[1:]).exists()]
    found = {}
    for number, row in trainings.run_all(run, tasks, given.workers):
        found[row["method"], row["share"], row.get("seed", 0)] = row
        right = row["accuracy_before"] if row["method"] == DENSE else row["accuracy_finetuned"]
        said = f"{row['method']} {row['share']:g} % seed {row.get('seed', 0)}: {percent(right)}"
        print(f"{number} {said}  {row.get('seconds', 0.0):.0f} s", flush=True)
    rows = [found[task[1:]] for task in tasks]
    before = found.get((DENSE, 100.0, 0), {}).get("accuracy_before")
    runs = [row for row in rows if row["method"] != DENSE]
    times, busy = latencies(work, [row["entry"] for row in runs], given.seconds, given.patience)
    for row in runs:
        row |= {"accuracy_before": before, "latency_ms": times[row["entry"]], "latency_ms_before": times[DENSE]}
    _print_table(runs, found.get((DENSE, 100.0, 0)), times[DENSE])
    save(given.json, rows, {"latency_cores_busy_elsewhere": busy})
    if busy:
        print(f"\nwhile latencies were measured, other work kept {busy:.2f} cores busy")


def _print_table(runs: list[dict[str, Any]], dense: dict[str, Any] | None, dense_ms: float) -> None:
    print(
        "\n| method | at most % | MACs | % | params | bytes | test %: pruned | fine-tuned | latency ms | of dense | training s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    if dense is not None:
        right = f"{100 * dense['accuracy_before']:.2f}"
        print(
            f"| dense | 100 | {dense['macs']:,} | 100 | {dense['params']:,} | - | {right} | - | {dense_ms:.3f} | 1 | - |"
        )
    for method, share in dict.fromkeys((row["method"], row["share"]) for row in runs):
        these = [row for row in runs if (row["method"], row["share"]) == (method, share)]
        mean, pruned_mean, ms, seconds = (
            mean_and_std([row[key] for row in these])[0] or 0.0
            for key in ("accuracy_finetuned", "accuracy_pruned", "latency_ms", "seconds")
        )
        spread = mean_and_std([row["accuracy_finetuned"] for row in these])[1]
        said = f"{100 * mean:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")
        print(
            f"| {method} | {share:g} | {these[0]['macs']:,} | {100 * these[0]['macs_share']:.1f} | {these[0]['params']:,} | "
            f"{these[0].get('bytes') or 4 * these[0]['params']:,} | "
            f"{100 * pruned_mean:.2f} | {said} | {ms:.3f} | {ms / dense_ms:.2f} | {seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
