"""From a dense network to group convolutions in one step or several, fine-tuned in between; what is done stays on disk. Floor 7."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..compress.convert import expanded
from ..compress.permute import Permuted
from ..compress.source import Source
from ..errors import UsageError
from ..files import atomic_write
from ..spec import Architecture, Budget
from ..spec.graph import GraphArchitecture
from ..spec.serialise import canonical
from ..training import ImageData
from ..training.checkpoint import state_digest
from .tuning import FineTuning, fine_tune

#: Gives a dense network's layers groups, inside a budget.
Prune = Callable[[GraphArchitecture, Mapping[str, Tensor], Budget], Permuted]


def falling(graph: GraphArchitecture, last: Budget, steps: int, dense_ms: float | None = None) -> list[Budget]:
    """Budgets of so many steps, each the same share of the one before, from what the network has to the last.

    Args:
        dense_ms: of the network, where the last budget limits latency.
    """
    found = []
    for step in range(1, steps):
        part = step / steps

        def between(whole: float, limit: float | None, part: float = part) -> float | None:
            return None if limit is None else max(limit, whole ** (1 - part) * limit**part)

        params, macs = between(graph.params, last.params), between(graph.macs, last.macs)
        latency = None if dense_ms is None else between(dense_ms, last.latency_ms)
        found.append(Budget(None if params is None else int(params), None if macs is None else int(macs), latency))
    return [*found, last]


def pruned(
    given: Source,
    prune: Prune,
    budgets: Sequence[Budget],
    epochs: Sequence[int],
    images: ImageData | None,
    partial: Path,
    tuning: FineTuning,
    *,
    how: Sequence[Any],
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Permuted, list[dict[str, Any]]]:
    """The network inside the last of the budgets, and what the steps were.

    After each step but the last it is fine-tuned; the next begins from the dense network with those weights, zeros outside the
    groups, so group counts and orders are chosen anew.

    Args:
        prune: one step.
        epochs: of fine-tuning after each step but the last.
        partial: folder that keeps the result of each step and the checkpoints; the same call goes on from there.
        how: JSON data of everything that the result depends on beside the network.

    Returns:
        The last step's result, not fine-tuned; and for each step its budget, cost, kept share and validation accuracy.
    """
    state: Mapping[str, Tensor] = given.state
    done: list[dict[str, Any]] = []
    if len(budgets) > 1 and not partial.exists():
        prune(given.graph, state, budgets[-1])  # one out of reach is an error before anything is trained
    for number, budget in enumerate(budgets, 1):
        identity = [given.graph.hash, state_digest(state), list(how), number, len(budgets)]
        key = hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]
        path = partial / f"step-{number}.safetensors"
        if (kept := _read(path, key)) is None:
            _write(path, key, kept := prune(given.graph, state, budget))
        found = kept
        cost = {"params": found.architecture.params, "macs": found.architecture.macs, "kept": found.kept}
        done.append({"budget": budget.to_dict(), **cost})
        if number == len(budgets):
            break
        assert images is not None
        say(f"step {number} of {len(budgets)}: {cost['params']:,} parameters, {cost['macs']:,} MACs; fine-tuning")
        checkpoint = partial / f"step-{number}-checkpoint.safetensors"
        result = fine_tune(found.architecture, found.state, images, epochs[number - 1], tuning, checkpoint, say)
        done[-1] |= {"epochs": result.epochs, "validation_accuracy": result.validation_accuracy}
        state = expanded(given.graph, found.architecture, result.state_dict)
    return found, done


def _write(path: Path, key: str, found: Permuted) -> None:
    facts = {
        field.name: getattr(found, field.name) for field in fields(found) if field.name not in ("architecture", "state")
    }
    data = {"key": key, "architecture": json.dumps(found.architecture.to_dict()), "facts": json.dumps(facts)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, save({name: tensor.contiguous() for name, tensor in found.state.items()}, data))
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be written: {error.strerror}; choose another --out") from None


def _read(path: Path, key: str) -> Permuted | None:
    """The kept result of the same step; None where there is none, or one of another network, budget or way."""
    try:
        with safe_open(path, "pt") as held:
            data = held.metadata() or {}
            if data.get("key") != key:
                return None
            state = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - no mapping
        architecture = Architecture.from_dict(json.loads(data["architecture"]))
        assert isinstance(architecture, GraphArchitecture)
        return Permuted(architecture, state, **json.loads(data["facts"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):  # the last three: of another version
        return None
