"""What compression gives: fine-tuned, measured before and after, and written as an entry. Floor 7."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..compress.cci import Sparsified, stored_bytes
from ..compress.latency import Clock
from ..compress.permute import Permuted
from ..compress.source import Source
from ..entries import write_entry
from ..training import ImageData, TrainResult
from ..wording import percent
from .facts import entry_metrics, measured_cost, versions
from .methods import Outcome
from .tuning import FineTuning, accuracy, fine_tune

RECORD = "compression.json"  # in the entry's folder: what `finish` returns


def finish(
    given: Source,
    outcome: Outcome,
    images: ImageData | None,
    folder: Path,
    tuning: FineTuning,
    *,
    overwrite: bool,
    origin: Mapping[str, Any],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Fine-tune, measure, write the entry and its compression.json; interrupted, the same call goes on from the last whole epoch.

    Args:
        images: normalised as the network wants them; None: nothing is measured but cost and time.
        folder: of the entry; the checkpoint is beside it, in FOLDER.partial (`partial_folder`).
        outcome: what a method gave, and the epochs that are left.
        origin: source, method, budget, command_line: for the record.
        say: is given a line for each epoch.

    Returns:
        The record: what compression.json holds, `report.compression_page` shows and `igcsearch compress --json` prints.

    Raises:
        UsageError: training diverged, or a folder that cannot be written.
    """
    found, epochs = outcome.found, outcome.epochs
    curve: list[dict[str, Any]] = []
    state, run = found.state, {"seed": tuning.seed, "validation_accuracy": None, "test_accuracy": None, "seconds": 0.0}
    before = pruned = tuned = recipe = None
    result: TrainResult | None = None
    if images is not None:
        before = accuracy(given.graph, given.state, images, tuning)
        pruned = accuracy(found.architecture, state, images, tuning)
        say(f"test accuracy {percent(before)} dense, {percent(pruned)} pruned")
        recipe = tuning.recipe(images, epochs)
    if images is not None and outcome.trained is not None:
        found, result = outcome.trained
        state, recipe = found.state, result.recipe
    elif images is not None and epochs:
        name = f"checkpoint-{found.architecture.hash}.safetensors"
        result = fine_tune(found.architecture, state, images, epochs, tuning, partial_folder(folder) / name, say)
        state = result.state_dict
    if images is not None and result is not None:
        curve = result.curve
        tuned = accuracy(found.architecture, state, images, tuning)
        run["validation_accuracy"] = result.validation_accuracy
    run["seconds"] = outcome.trained_before[1] + (0.0 if result is None else result.seconds)
    all_epochs = outcome.trained_before[0] + len(curve)
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    clock = Clock(given.graph, given.state)
    layers, latency = _timed(clock, found, state)
    cost = measured_cost(found.architecture, latency)
    record = {
        "params": found.architecture.params,
        "macs": found.architecture.macs,
        "params_before": given.graph.params,
        "macs_before": given.graph.macs,
        "nonzero_macs": found.architecture.nonzero_macs,
        "bytes": stored_bytes(state),
        "bytes_before": stored_bytes(given.state),
        "kept": found.kept,
        "gathers": found.gathers,
        "tradeoff": found.tradeoff,
        "accuracy_before": before,
        "accuracy_pruned": pruned,
        "accuracy_finetuned": tuned,
        "latency_ms": latency["median_ms"],
        "latency_ms_before": clock.dense_ms,
        "max_rel_diff_masked_vs_converted": found.difference,
    }
    more = dict(outcome.more)
    if more.get("sparsified"):  # a row for each period is in compression.json alone
        more["sparsified"] = {key: value for key, value in more["sparsified"].items() if key != "periods"}
    size = found.architecture.image_size
    input_size = [found.architecture.in_channels, size, size]
    provenance = {
        "command": "compress",
        **origin,
        "criterion": outcome.criterion,
        "configuration": found.configuration,
        **record,
        **more,
        "groups": {row["layer"]: row["groups"] for row in found.layers},
    }
    if images is not None and recipe is not None:
        run["test_accuracy"] = pruned if tuned is None else tuned
        metrics = entry_metrics(found.architecture, images, recipe, [run], provenance=provenance, cost=cost)
        metrics["epochs"] = all_epochs
        if result is None:
            metrics["recipe"] = outcome.more.get("sparsified", {}).get("recipe", {})
    else:
        metrics = {"family": found.architecture.family, "input_size": input_size}
        metrics |= {"mean": given.mean, "std": given.std, **cost, "provenance": provenance}
    record = {
        "name": folder.absolute().name,
        **record,
        **origin,
        "criterion": outcome.criterion,
        "configuration": found.configuration,
        "data": None if images is None else images.name,
        "epochs": all_epochs,
        "seed": tuning.seed,
        "input_size": input_size,
        "latency": cost["latency"],
        "versions": versions(),
        "curve": curve,
        "steps": outcome.steps,
        **outcome.more,
        "layers": layers,
    }
    files = {RECORD: json.dumps(record, indent=1, ensure_ascii=False) + "\n"}
    write_entry(folder, found.architecture, state, metrics, overwrite=overwrite, more=files)
    shutil.rmtree(partial_folder(folder), ignore_errors=True)
    return {**record, "path": str(folder)}


def partial_folder(folder: Path) -> Path:
    """Where an interrupted compression goes on from; gone when the entry is written."""
    return folder.with_name(folder.name + ".partial")


def _timed(
    clock: Clock, found: Permuted | Sparsified, state: Mapping[str, Tensor]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The layers with their milliseconds before and now, and the network's latency, in turn with the dense one's."""
    latency = clock.latency(found.architecture, state)
    before, now = clock.layers(found.architecture, state)
    layers = [{**row, "ms_before": before[row["layer"]], "ms": now[row["layer"]]} for row in found.layers]
    return layers, latency
