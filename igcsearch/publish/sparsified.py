"""From a dense network to group convolutions by structured sparsification: trained with the penalty, then cut. Floor 7."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..compress import levels
from ..compress.channels import channels_of
from ..compress.configuration import Table, configured
from ..compress.criterion import criteria, norms
from ..compress.latency import Clock
from ..compress.levels import Places
from ..compress.orders import Grouped, Orders
from ..compress.permute import Permuted, inside
from ..compress.sparsify import THRESHOLD, Sparsify, leveled
from ..spec import Budget
from ..spec.graph import GraphArchitecture
from ..training import ImageData
from .tuning import FineTuning, calibration, fine_tune

FILLED = 0.99  # of a limit on cost, at least, where some levels come there
WARM_UP = 0.1  # of the epochs, in which the learning rate rises: at most one

#: The tables with the harm of their options, measured on a network with these weights.
Measure = Callable[[Sequence[Table], Mapping[str, Tensor]], Sequence[Table]]


def sparsify(
    graph: GraphArchitecture,
    state: Mapping[str, Tensor],
    images: ImageData | None,
    budget: Budget,
    epochs: int,
    tuning: FineTuning,
    checkpoint: Path,
    *,
    layers: Sequence[str],
    criterion: str = "l1",
    threshold: float = THRESHOLD,
    delta: float | None = None,
    gathers: int | None = 0,
    seed: int = 0,
    clock: Clock | None = None,
    measure: Measure | None = None,
    limits: Any = None,
    say: Callable[[str], None] = lambda line: None,
) -> Permuted:
    """Train with the penalty of `compress.sparsify`, then give layers the levels that lose least inside the budget.

    Interrupted, the same call goes on from the last whole epoch.

    Args:
        state: weights to begin with.
        images: to train on; None with 0 epochs alone.
        budget: where it limits latency alone, the penalty has that share of the multiply-adds as its goal.
        epochs: with the penalty; 0: orders and levels for the network as it is.
        tuning: of the training; the learning rate is constant behind a short rise, and there is no weight decay.
        checkpoint: file; its folder is made.
        layers: names of those that are given groups (`permute.chosen_layers`).
        criterion: l1, l2 or taylor; what training goes by is a norm.
        threshold: share of its criterion that a layer's level may lose while it trains.
        delta: step of lambda; None: by the length of the training.
        gathers, clock: as `permute` takes them. Where all layers may have gathers, they have them while it trains too.
        seed: of the search for orders.
        measure: where the harm of levels is to be minimised, not what is lost.
        limits: JSON data of the budget as it was asked for, by which a checkpoint is known again: a share of the latency, say, is
            another number each time it is measured. None: the budget itself.
        say: is given a line for each epoch.

    Returns:
        The network, not fine-tuned. Its `sparsified` has of the training `Sparsify`'s record, the number of epochs, seconds,
        validation accuracy and recipe, and of the end the one threshold for all layers that meets the budget (null: none does),
        with the cost that it gives.

    Raises:
        UsageError: a budget that no levels meet (before anything is trained; says the smallest), a threshold outside (0, 1), a
            training that diverged.
    """
    levels.check_threshold(threshold)
    if delta is not None:
        levels.check_delta(delta)
    channels, own = channels_of(graph), gathers is None

    def found_of(weights: Mapping[str, Tensor], kind: str, begin: Places | None) -> tuple[list[Table], levels.Nested]:
        batches = calibration(images) if images is not None and kind == "taylor" else ()
        worth = criteria(graph, weights, kind, batches)
        each = leveled(graph, {name: worth[name] for name in layers}, gathers=own)
        order = levels.nested(channels, each, seed=seed, begin=begin)
        return levels.tables(graph, each, order), order

    record: dict[str, Any] = {"epochs": epochs}
    begin: Places | None = None
    if epochs:
        assert images is not None
        goal = _goal(graph, budget, clock)
        if not checkpoint.exists():
            _check_reach(graph, state, layers, budget, clock, say)
        constant = {"schedule": "constant", "weight_decay": 0.0, "warmup_epochs": min(1.0, WARM_UP * epochs)}
        tuning = replace(tuning, entries={**tuning.entries, **constant})
        recipe = tuning.recipe(images, epochs)
        norm = "l2" if criterion == "l2" else "l1"
        callback = Sparsify(
            *(graph, layers, goal),
            epochs=epochs,
            lr=recipe.lr,
            threshold=threshold,
            delta=delta,
            criterion=norm,
            gathers=own,
            seed=seed,
            asked=limits,
            say=say,
        )
        result = fine_tune(graph, dict(state), images, epochs, tuning, checkpoint, say, [callback])
        state, begin = result.state_dict, callback.places
        record |= {**callback.record, "seconds": result.seconds, "validation_accuracy": result.validation_accuracy}
        record["recipe"] = result.recipe.to_dict()
    tables, order = found_of(state, criterion, begin)
    cut = levels.bisected(graph, tables, budget)
    record["threshold"], record["at_threshold"] = (None, None) if cut is None else (cut[0], cut[1]._asdict())
    found: Sequence[Table] = tables if measure is None else measure(tables, state)

    def orders_of(chosen: Sequence[Grouped]) -> Orders:
        return levels.placed(channels, chosen, order.places)

    made = inside(
        graph,
        state,
        found,
        budget,
        gathers=gathers,
        seed=seed,
        clock=clock,
        harmful=measure is not None,
        filled=FILLED,
        begin=orders_of,
        say=say,
    )
    return replace(made, sparsified=record)


def _check_reach(
    graph: GraphArchitecture,
    state: Mapping[str, Tensor],
    layers: Sequence[str],
    budget: Budget,
    clock: Clock | None,
    say: Callable[[str], None],
) -> None:
    """Raise UsageError for a budget that no levels meet."""
    channels, each = channels_of(graph), leveled(graph, norms(state, layers, "l1"))
    found = levels.tables(graph, each, levels.standing(channels, each, Places(channels.same())))
    times = None if clock is None or budget.latency_ms is None else clock.times(found, say)
    configured(graph, found, budget, times)


def _goal(graph: GraphArchitecture, budget: Budget, clock: Clock | None) -> Budget:
    """The budget on cost that training goes for."""
    if budget.params is not None or budget.macs is not None or budget.latency_ms is None or clock is None:
        return replace(budget, latency_ms=None)
    return Budget(macs=max(1, int(graph.macs * min(1.0, budget.latency_ms / clock.dense_ms))))
