"""`SoftPhase`: the epochs of a training in which shuffles and group counts are learned, and what is recorded of them.

`step` calls it around each step while it lasts; at its end `Stepper.harden` goes on with an ordinary network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from igcsearch.errors import UsageError
from igcsearch.nn.grouping import LearnedGroups
from igcsearch.nn.learned import LearnedShuffles
from igcsearch.nn.network import StagedNetwork
from igcsearch.nn.sides import READ, WARM_UP
from igcsearch.spec.grouping import Choice, Digits, learns_groups
from igcsearch.spec.permutations import Order
from igcsearch.training.recipe import Recipe

_ASSIGNMENTS = 40  # in the whole soft phase
_DIGITS = "0123456789abcdef"
_MOST_SHARES = 4096  # of one gap, that are kept for pictures
_MOST_SNAPSHOTS = 6  # of the branches, over the soft phase


@dataclass(frozen=True)
class Learned:
    """What a soft phase has found: the permutation of each gap, and the group counts of each block, by their names."""

    orders: Mapping[str, Order] = field(default_factory=dict)
    groups: Mapping[str, Choice] = field(default_factory=dict)


def recorded(record: Mapping[str, Any]) -> Learned | None:
    """What a record says that a network goes on with; None while it is soft."""
    orders = {name: np.asarray(gap["order"]) for name, gap in record["gaps"].items() if "order" in gap}
    groups = {name: tuple(block["choice"]) for name, block in record.get("groups", {}).items() if "choice" in block}
    return Learned(orders, groups) if orders or groups else None


class SoftPhase:
    """The shuffles and group counts of a network and of its moving average while they are learned.

    Args:
        network, average: built alike; their open factors are replaced in place.
        recipe: of the training.
        steps: an epoch.
        keep_weights: see `LearnedShuffles`.
    """

    def __init__(
        self, network: StagedNetwork, average: StagedNetwork | None, recipe: Recipe, steps: int, *, keep_weights: bool
    ) -> None:
        rule = recipe.learning
        if keep_weights and learns_groups(network.architecture):
            raise UsageError(
                "group counts are learned from fresh weights, which all branches have; leave the initial weights out"
            )
        self.epochs = rule.soft_epochs(recipe.epochs)
        self._kept = {round(i * self.epochs / (_MOST_SNAPSHOTS - 1)) for i in range(_MOST_SNAPSHOTS)}
        self.record: dict[str, Any] = {"way": rule.way, "soft_epochs": self.epochs, "snapshots": [], "gaps": {}}
        self._total = self.epochs * steps
        self._read_at = math.ceil(READ * self._total)
        self._every = max(1, self._total // _ASSIGNMENTS)
        self.shuffles = LearnedShuffles(network, rule, seed=recipe.seed, keep_weights=keep_weights)
        self.groups = LearnedGroups(network, recipe.grouping, seed=recipe.seed)
        self._both = [(self.shuffles, self.groups)]
        if average is not None:
            shuffles = LearnedShuffles(average, rule, seed=recipe.seed, keep_weights=keep_weights)
            self._both.append((shuffles, LearnedGroups(average, recipe.grouping, seed=recipe.seed)))
        for question in self.groups.questions:
            digits = isinstance(question, Digits)
            radices = list(question.radices) if digits else [list(each) for each in question.radices]
            about: dict[str, Any] = {"of": "digits" if digits else "gates", "radices": radices, "history": []}
            self.record.setdefault("groups", {})[question.name] = about
        for gap in self.shuffles.gaps:
            layer = self.shuffles.layers[gap.block, gap.reader]
            self.record["gaps"][gap.name] = {"of": "rows" if gap.of_rows else "columns", "groups": layer.groups}

    def start(self) -> None:
        """Once the network is where it will be trained: the optimizer of what moves the masks."""
        parts = ((self.shuffles.parameters(), self.shuffles.rule.rate), (self.groups.parameters(), self.groups.rule.lr))
        groups = [{"params": parameters, "lr": rate} for parameters, rate in parts if parameters]
        self._optimizer = torch.optim.Adam(groups) if groups else None
        if self._optimizer is not None:  # its state is there from the start, so that checkpoints always hold it
            for parameter in self._parameters():
                zero = torch.zeros_like(parameter)
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": zero,
                    "exp_avg_sq": zero.clone(),
                }
        self._note(0)

    def excluded(self) -> set[int]:
        """Parameters, by `id`, that are learned here and not by the training's own optimizer."""
        return {id(parameter) for parameter in self._parameters()}

    def before(self, now: int) -> None:
        """Before the forward pass of a step (from 0)."""
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
        self._advance(now)

    def add_gradients(self) -> None:
        """After the backward pass."""
        self.shuffles.add_penalty_gradients()
        self.groups.add_penalty_gradients()

    def after(self, now: int) -> None:
        """After the optimizer's step on the weights."""
        if self._optimizer is not None:
            self._optimizer.step()
            self.shuffles.settle()
        if (now + 1) % self._every == 0 and now + 1 > WARM_UP * self._total:
            self.shuffles.assign(thorough=now + 1 - self._every <= WARM_UP * self._total)  # the first
        if now + 1 == self._read_at:
            softness = [1 - float(shares.max(axis=0).mean()) for shares in self.shuffles.shares().values()]
            self.record["softness"] = max(softness, default=0.0)
            self.shuffles.close()
            if self.groups.questions:
                params, macs = (cost.item() for cost in self.groups.expected())
                self.record |= {"expected_params": params, "expected_macs": macs}
            self.groups.close()

    def end_epoch(self, epoch: int, steps: int) -> None:
        """After the last step of an epoch (from 1), before it is evaluated."""
        self._advance(epoch * steps)
        self._note(epoch)

    def seek(self, epoch: int, steps: int) -> None:
        """To where the schedules are after an epoch, as a training that goes on from a checkpoint."""
        for parameter in self._parameters():
            assert self._optimizer is not None
            self._optimizer.state[parameter]["step"].fill_(epoch * steps)
        self._advance(epoch * steps)

    def learned(self) -> Learned:
        """What is learned so far."""
        return Learned(self.shuffles.orders(), self.groups.choices())

    def harden(self, tensors: Mapping[str, Tensor], learned: Learned) -> dict[str, Tensor]:
        """Tensors of the soft network by state dict names, as those of the network with what was learned."""
        return self.groups.harden(self.shuffles.harden(tensors, learned.orders), learned.groups)

    def note(self, learned: Learned) -> None:
        """Record what the network goes on with."""
        for name, order in learned.orders.items():
            self.record["gaps"][name]["order"] = [int(i) for i in order]
        for question in self.groups.questions:
            choice = learned.groups[question.name]
            widths = list(question.widths(choice))
            if isinstance(question, Digits):  # a factor without a digit is left out
                widths = [width for width in widths if width > 1]
            self.record["groups"][question.name] |= {"choice": [int(i) for i in choice], "branch_widths": widths}

    def state_tensors(self) -> dict[str, Tensor]:
        """The optimizer's state by names in a checkpoint; writing into the tensors changes it."""
        if self._optimizer is None:
            return {}
        return {
            f"{what}.{index}.{name}": value
            for what, parameters in (("shuffle", self.shuffles.parameters()), ("groups", self.groups.parameters()))
            for index, parameter in enumerate(parameters)
            for name, value in self._optimizer.state[parameter].items()
            if name != "step"  # which the epoch says
        }

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.shuffles.parameters(), *self.groups.parameters()]

    def _advance(self, step: int) -> None:
        for shuffles, groups in self._both:
            shuffles.advance(step / self._total, step)
            groups.advance(step / self._total)

    def _note(self, epoch: int) -> None:
        """Keep the branch of each channel, and its shares where they are soft, for the record: of some epochs, not of all."""
        if epoch not in self._kept:
            return
        self.record["snapshots"].append(epoch)
        shares = self.shuffles.shares()
        for name, values_DL in self.groups.values().items():
            self.record["groups"][name]["history"].append(np.round(values_DL, 3).tolist())
        for gap in self.shuffles.gaps:
            record, layer = self.record["gaps"][gap.name], self.shuffles.layers[gap.block, gap.reader]
            side = layer.rows if gap.of_rows else layer.columns
            record.setdefault("history", []).append(side.hard().tolist())
            if side.has_shares and shares[gap.name].size <= _MOST_SHARES:
                levels = (shares[gap.name] * 15 + 0.5).astype(int).clip(0, 15)
                record.setdefault("shares", []).append(["".join(_DIGITS[i] for i in row) for row in levels])
