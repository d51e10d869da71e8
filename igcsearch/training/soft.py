"""`SoftPhase`: the epochs of a training in which shuffles are learned, and what is recorded of them.

`step` calls it around each step while it lasts; at its end `Stepper.harden` goes on with an ordinary network.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from igcsearch.nn.learned import LearnedShuffles
from igcsearch.nn.network import Network
from igcsearch.nn.sides import READ, WARM_UP
from igcsearch.spec.permutations import Order
from igcsearch.training.recipe import Recipe

_ASSIGNMENTS = 40  # in the whole soft phase
_DIGITS = "0123456789abcdef"
_MOST_SHARES = 4096  # of one gap, that are kept for pictures
_MOST_SNAPSHOTS = 6  # of the branches, over the soft phase


class SoftPhase:
    """The shuffles of a network and of its moving average while they are learned.

    Args:
        network, average: built alike; their open factors are replaced in place.
        recipe: of the training.
        steps: an epoch.
        keep_weights: see `LearnedShuffles`.
    """

    def __init__(
        self, network: Network, average: Network | None, recipe: Recipe, steps: int, *, keep_weights: bool
    ) -> None:
        rule = recipe.learning
        self.epochs = rule.soft_epochs(recipe.epochs)
        self._kept = {round(i * self.epochs / (_MOST_SNAPSHOTS - 1)) for i in range(_MOST_SNAPSHOTS)}
        self.record: dict[str, Any] = {"way": rule.way, "soft_epochs": self.epochs, "snapshots": [], "gaps": {}}
        self._total = self.epochs * steps
        self._read_at = math.ceil(READ * self._total)
        self._every = max(1, self._total // _ASSIGNMENTS)
        self.shuffles = LearnedShuffles(network, rule, seed=recipe.seed, keep_weights=keep_weights)
        self._both = [self.shuffles]
        if average is not None:
            self._both.append(LearnedShuffles(average, rule, seed=recipe.seed, keep_weights=keep_weights))
        for gap in self.shuffles.gaps:
            layer = self.shuffles.layers[gap.block, gap.reader]
            self.record["gaps"][gap.name] = {"of": "rows" if gap.of_rows else "columns", "groups": layer.groups}

    def start(self) -> None:
        """Once the network is where it will be trained: the optimizer of what moves the masks."""
        parameters = self.shuffles.parameters()
        self._optimizer = torch.optim.Adam(parameters, lr=self.shuffles.rule.rate) if parameters else None
        if self._optimizer is not None:  # its state is there from the start, so that checkpoints always hold it
            for parameter in parameters:
                zero = torch.zeros_like(parameter)
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": zero,
                    "exp_avg_sq": zero.clone(),
                }
        self._note(0)

    def excluded(self) -> set[int]:
        """Parameters, by `id`, that are learned here and not by the training's own optimizer."""
        return {id(parameter) for parameter in self.shuffles.parameters()}

    def before(self, now: int) -> None:
        """Before the forward pass of a step (from 0)."""
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
        for shuffles in self._both:
            shuffles.advance(now / self._total, now)

    def add_gradients(self) -> None:
        """After the backward pass."""
        self.shuffles.add_penalty_gradients()

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

    def end_epoch(self, epoch: int, steps: int) -> None:
        """After the last step of an epoch (from 1), before it is evaluated."""
        for shuffles in self._both:
            shuffles.advance(epoch * steps / self._total, epoch * steps)
        self._note(epoch)

    def seek(self, epoch: int, steps: int) -> None:
        """To where the schedules are after an epoch, as a training that goes on from a checkpoint."""
        for parameter in self.shuffles.parameters():
            assert self._optimizer is not None
            self._optimizer.state[parameter]["step"].fill_(epoch * steps)
        for shuffles in self._both:
            shuffles.advance(epoch * steps / self._total, epoch * steps)

    def orders(self) -> dict[str, Order]:
        """What is learned so far."""
        return self.shuffles.orders()

    def state_tensors(self) -> dict[str, Tensor]:
        """The optimizer's state by names in a checkpoint; writing into the tensors changes it."""
        if self._optimizer is None:
            return {}
        return {
            f"shuffle.{index}.{name}": value
            for index, parameter in enumerate(self.shuffles.parameters())
            for name, value in self._optimizer.state[parameter].items()
            if name != "step"  # which the epoch says
        }

    def _note(self, epoch: int) -> None:
        """Keep the branch of each channel, and its shares where they are soft, for the record: of some epochs, not of all."""
        if epoch not in self._kept:
            return
        self.record["snapshots"].append(epoch)
        shares = self.shuffles.shares()
        for gap in self.shuffles.gaps:
            record, layer = self.record["gaps"][gap.name], self.shuffles.layers[gap.block, gap.reader]
            side = layer.rows if gap.of_rows else layer.columns
            record.setdefault("history", []).append(side.hard().tolist())
            if side.has_shares and shares[gap.name].size <= _MOST_SHARES:
                levels = (shares[gap.name] * 15 + 0.5).astype(int).clip(0, 15)
                record.setdefault("shares", []).append(["".join(_DIGITS[i] for i in row) for row in levels])
