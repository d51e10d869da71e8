"""From a dense network to group convolutions in one step or several, fine-tuned in between; what is done stays on disk. Floor 7."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ..compress.convert import expanded
from ..compress.permute import Permuted
from ..compress.source import Source
from ..spec import Architecture, Budget
from ..spec.graph import GraphArchitecture
from ..training import ImageData
from ..training.checkpoint import state_digest
from .kept import Kept
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
        kept = Kept(partial, f"step-{number}", identity)
        if (read := _read(kept)) is None:
            _write(kept, read := prune(given.graph, state, budget))
        found = read
        cost = {"params": found.architecture.params, "macs": found.architecture.macs, "kept": found.kept}
        done.append({"budget": budget.to_dict(), **cost})
        if number == len(budgets):
            break
        assert images is not None
        say(f"step {number} of {len(budgets)}: {cost['params']:,} parameters, {cost['macs']:,} MACs; fine-tuning")
        checkpoint = kept.path.with_suffix(".checkpoint.safetensors")
        result = fine_tune(found.architecture, found.state, images, epochs[number - 1], tuning, checkpoint, say)
        done[-1] |= {"epochs": result.epochs, "validation_accuracy": result.validation_accuracy}
        done[-1]["seconds"] = result.seconds
        state = expanded(given.graph, found.architecture, result.state_dict)
    return found, done


def _write(kept: Kept, found: Permuted) -> None:
    facts = {
        field.name: getattr(found, field.name) for field in fields(found) if field.name not in ("architecture", "state")
    }
    kept.write(found.state, [found.architecture.to_dict(), facts])


def _read(kept: Kept) -> Permuted | None:
    """The kept result of the same step; None where there is none, or one of another version."""
    if (read := kept.read()) is None:
        return None
    state, said = read
    try:
        architecture = Architecture.from_dict(said[0])
        assert isinstance(architecture, GraphArchitecture)
        return Permuted(architecture, state, **said[1])
    except (TypeError, ValueError, LookupError):
        return None
