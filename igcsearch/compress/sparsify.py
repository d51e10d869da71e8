"""Structured sparsification: a penalty that empties the blocks between groups while a network trains. Floor 6.

Zhang et al. (UAI 2021). Beside the loss, each weight of a layer shrinks by lambda times what its kernel costs: 1 where its channels
part at the layer's first level, 1/2 at the second, ... up to the level behind the one that the layer has reached (levels.py). A
layer's level is the deepest that keeps all but a `threshold` of its criterion. Period by period, orders, levels and lambda follow.

Lambda. After each period in which the network comes too slowly to its budget, lambda grows by a step; where it is there, it falls
by one. If it grew after each of n periods of T steps, a weight would shrink by `delta * lr * T * n (n + 1) / 2`, and as much more
as momentum makes of it (10 times, by default). The paper, from random weights, has 90 epochs of 781 steps at learning rate 0.1 and
delta 2e-6: 0.64. Here the default step is such that trainings of any length can shrink a weight by `SHRINKAGE`, a ninth of that:
in 3 epochs of 157 steps on a trained ResNet-20, the paper's 0.64 emptied half of the network in the first, where its validation
accuracy was 67 %; what it took by then was 0.03.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..spec import Budget
from ..spec.graph import GraphArchitecture
from ..training.callback import Callback
from ..wording import percent
from . import levels
from .channels import channels_of
from .configuration import Table
from .criterion import Matrix, norms
from .levels import Leveled, Nested, Places

THRESHOLD = 0.1  # as published
PERIODS = 60  # at least, where they have LEAST_STEPS
LEAST_STEPS = 20  # of a period
WARM_UP = 0.1  # of the periods, without a penalty
SHRINKAGE = 0.07  # of a weight, at most, by all steps of a training, without momentum


def periods(epochs: int, steps: int) -> tuple[int, int, int]:
    """Of a training of so many epochs and steps an epoch: steps of a period, periods, and how many of them warm up."""
    period = min(steps, max(LEAST_STEPS, epochs * steps // PERIODS))
    number = max(1, epochs * steps // period)
    return period, number, round(WARM_UP * number)


def default_delta(epochs: int, steps: int, lr: float) -> float:
    """The step of lambda for a training of that length at that learning rate."""
    period, number, warm = periods(epochs, steps)
    rising = number - warm
    return SHRINKAGE / (lr * period * rising * (rising + 1) / 2)


class Sparsify(Callback):
    """Adds the penalty to the gradients of some layers; see the module.

    The record has the budget, the step of lambda (delta) and the steps of a period; now: lambda, the groups of each layer by its
    level, and the sparsity (share of parameters or multiply-adds gone); and of each period so far its last step, lambda from
    there on, the sparsity, the mean share of the criterion that is kept at the levels, and the threshold that would meet the
    budget (null: none).

    Args:
        graph: what is trained.
        names: of the layers.
        budget: on parameters, multiply-adds or both: where the penalty stops growing.
        epochs, lr: of the recipe, which has a constant learning rate and no weight decay.
        threshold: share of a layer's criterion that its level may lose.
        delta: step of lambda; None: `default_delta`.
        criterion: l1 or l2, the norm of a kernel.
        gathers: each layer has an order of its own for its input, as published; else they share those of their tensors.
        seed: of the first orders.
        asked: JSON data that stands for the budget in the identity; a training that goes on keeps the budget that it began with.
        say: is given a line after each epoch.

    Raises:
        UsageError: a threshold or step outside its range, or a budget without a limit on cost.
    """

    name: ClassVar[str] = "sparsify"

    def __init__(
        self,
        graph: GraphArchitecture,
        names: Sequence[str],
        budget: Budget,
        *,
        epochs: int,
        lr: float,
        threshold: float = THRESHOLD,
        delta: float | None = None,
        criterion: str = "l1",
        gathers: bool = False,
        seed: int = 0,
        asked: Any = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        super().__init__()
        levels.check_threshold(threshold)
        if delta is not None:
            levels.check_delta(delta)
        if budget.params is None and budget.macs is None:
            raise UsageError("sparsification needs a limit on parameters or multiply-adds; give one")
        self.graph, self.names, self.budget = graph, tuple(names), budget
        self._asked = budget.to_dict() if asked is None else asked
        self.epochs, self.lr, self.threshold, self.delta = epochs, lr, threshold, delta
        self.criterion, self.gathers, self.seed, self.say = criterion, gathers, seed, say
        self._channels = channels_of(graph)
        self._penalties: list[tuple[nn.Parameter, Tensor]] | None = None  # None: to be made of the state
        self._resumed = False

    @property
    def targets(self) -> dict[str, float]:
        """The share of parameters and of multiply-adds that is to go, of those that are limited."""
        limits = {"params": self.budget.params, "macs": self.budget.macs}
        return {name: 1 - most / getattr(self.graph, name) for name, most in limits.items() if most is not None}

    def identity(self) -> Any:
        """What a training that goes on has in common."""
        return {
            **{"layers": list(self.names), "budget": self._asked, "threshold": self.threshold},
            **{"delta": self.delta, "criterion": self.criterion, "gathers": self.gathers, "seed": self.seed},
        }

    def start(self, network: nn.Module, average: nn.Module | None, steps: int) -> None:
        """Take the layers' weights, and divide the training into periods."""
        parameters = dict(network.named_parameters())
        self._weights = {name: parameters[f"{name}.weight"] for name in self.names}
        self._penalties, self._resumed = None, False
        self._period, self._number, self._warm = periods(self.epochs, steps)
        self._steps = steps
        place = next(iter(parameters.values())).device
        self._stored = torch.from_numpy(self._channels.same()).to(place)
        inputs = {name: weight.shape[1] for name, weight in self._weights.items() if self.gathers}
        self._reads = {name: torch.arange(count, device=place) for name, count in inputs.items()}
        delta = default_delta(self.epochs, steps, self.lr) if self.delta is None else self.delta
        self.record = {"budget": self.budget.to_dict(), "delta": delta, "period": self._period, "lambda": 0.0}
        self.record |= {"levels": {}, "sparsity": {}, "periods": []}

    def before_forward(self, now: int) -> None:
        """Before the first step: orders, levels, and the penalty."""
        if self._penalties is not None:
            return
        layers = self._layers()
        if self._resumed:
            self._penalise(layers, levels.standing(self._channels, layers, self.places))
            return
        self._measure(layers, levels.nested(self._channels, layers, seed=self.seed))
        if not self._warm and self._lacking()[1] > 0:
            self.record["lambda"] = self.record["delta"]

    @torch.no_grad()
    def before_optimizer(self, now: int) -> None:
        """Add lambda sign(W) R to the gradients."""
        strength = self.record["lambda"]
        for weight, cost in self._penalties or () if strength else ():
            assert weight.grad is not None
            weight.grad.addcmul_(weight.sign(), cost, value=strength)

    def after_step(self, now: int) -> None:
        """At the end of a period: orders, levels, lambda."""
        number, within = divmod(now + 1, self._period)
        if within or number > self._number:
            return
        layers, before = self._layers(), dict(self.record["sparsity"])
        tables = self._measure(layers, levels.nested(self._channels, layers, seed=self.seed, begin=self.places))
        self._adapt(number, before)
        lost = [option.lost for t in tables for option in t.options if option.groups == self.record["levels"][t.name]]
        found = levels.bisected(self.graph, tables, self.budget)
        self.record["periods"].append(
            {
                **{"step": now + 1, "lambda": self.record["lambda"], **self.record["sparsity"]},
                **{"kept": 1 - float(np.mean(lost)), "threshold": None if found is None else found[0]},
            }
        )

    def after_epoch(self, epoch: int) -> None:
        """Say how far it is."""
        gone = ", ".join(
            f"{percent(self.record['sparsity'][name])} of {percent(target)} {name} gone"
            for name, target in self.targets.items()
        )
        self.say(f"sparsified: {gone} at threshold {self.threshold:g}, lambda {self.record['lambda']:.3g}")

    def state_tensors(self) -> dict[str, Tensor]:
        """The order of all channels, and of those that layers read."""
        return {"stored": self._stored, **{f"reads.{name}": order for name, order in self._reads.items()}}

    def restore(self, record: dict[str, Any], epoch: int) -> None:
        """As at the end of that epoch."""
        super().restore(record, epoch)
        self.budget = Budget.from_dict(record["budget"])
        self._penalties, self._resumed = None, True

    @property
    def places(self) -> Places:
        """Where all channels stand."""
        return Places(self._stored.cpu().numpy(), {name: order.cpu().numpy() for name, order in self._reads.items()})

    def _layers(self) -> list[Leveled]:
        state = {f"{name}.weight": weight for name, weight in self._weights.items()}
        return leveled(self.graph, norms(state, self.names, self.criterion), gathers=self.gathers)

    def _measure(self, layers: Sequence[Leveled], found: Nested) -> list[Table]:
        """Take on an order, with the levels in it."""
        with torch.no_grad():
            self._stored.copy_(torch.from_numpy(found.places.stored))
            for name, order in found.places.reads.items():
                self._reads[name].copy_(torch.from_numpy(order))
        tables = levels.tables(self.graph, layers, found)
        picked = {}
        for table in tables:
            kept = [1 - option.lost for option in table.options]
            picked[table.name] = table.options[levels.deepest(kept, self.threshold)].groups
        cost = levels.cost_at(self.graph, picked)
        self.record["levels"] = picked
        self.record["sparsity"] = {name: 1 - getattr(cost, name) / getattr(self.graph, name) for name in self.targets}
        self._penalise(layers, found)
        return tables

    def _penalise(self, layers: Sequence[Leveled], found: Nested) -> None:
        """What each kernel costs, up to the level behind the one that its layer has."""
        self._penalties = []
        for layer in layers:
            counts = layer.counts
            splits = min(counts.index(self.record["levels"][layer.name]) + 1, len(counts) - 1)
            cost = levels.apart(found.rows[layer.name], found.columns[layer.name], counts, splits)
            weight = self._weights[layer.name]
            if splits:
                self._penalties.append((weight, torch.from_numpy(cost)[:, :, None, None].to(weight)))

    def _lacking(self) -> tuple[str, float]:
        """What is further away from its target, and how far."""
        every = {name: target - self.record["sparsity"][name] for name, target in self.targets.items()}
        name = max(every, key=lambda name: every[name])
        return name, every[name]

    def _adapt(self, number: int, before: Mapping[str, float]) -> None:
        """Lambda behind a period (from 1): more where the network comes too slowly to its budget, less where it is there."""
        delta, now = self.record["delta"], self.record["lambda"]
        name, lacking = self._lacking()
        if number <= self._warm:
            now = delta if number == self._warm and lacking > 0 else 0.0
        elif lacking <= 0:
            now = max(0.0, now - delta)
        elif self.record["sparsity"][name] - before[name] < lacking / max(1, self._number - number):
            now += delta
        self.record["lambda"] = now


def leveled(graph: GraphArchitecture, found: Mapping[str, Matrix], *, gathers: bool = False) -> list[Leveled]:
    """Layers with these criteria, by their names; all with an order of their own for their input, or none."""
    return [Leveled(name, graph.node(name).reads[0], matrix, gather=gathers) for name, matrix in found.items()]
