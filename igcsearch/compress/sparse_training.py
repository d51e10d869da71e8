"""Training under N:M sparsity: whichever masks there are, the network computes with them, and in the end they are N:M. Floor 6.

The optimizer works on dense weights, which are state of the callback. Outside its steps the network, and its moving average, which
is evaluated and kept, hold them with zeros. Gradients are those of the masked weights and go to all of them ("straight through").

Ways:
- one-shot: the masks of the start, for good.
- gradual: what stays of every M falls from M to N over the first epochs, evenly, at the beginning of each; masks are chosen anew
  then, so what was out may come back.
- straight-through: N:M from the first step; masks are chosen anew every few steps, and what is out decays by `decay` times itself
  beside its gradient (SR-STE: Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, 2021).

The last part of the epochs trains with masks that stay; what is out is then 0 and gets no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, near
from ..nn.graph import GraphNetwork
from ..nn.sparse import strongest
from ..spec.sparsity import Sparsity
from ..training.callback import Callback
from ..training.checkpoint import state_digest

WAYS = ("gradual", "one-shot", "straight-through")
DECAY = 2e-4  # Zhou et al.
SETTLED = 1 / 3  # of the epochs, the last ones: masks stay
_FOLLOWS = 0.9  # of a running mean of gradients


@dataclass
class _Layer:
    """A layer in training: its sparsity and groups, weights as they are trained, mask, |gradient| where that counts."""

    sparsity: Sparsity
    groups: int
    weight: Tensor
    dense: Tensor
    mask: Tensor
    slope: Tensor | None
    average: Tensor | None = None
    average_dense: Tensor | None = None

    def choose(self, kept: int) -> None:
        """The mask that keeps so many of every M."""
        scores = self.dense.abs() if self.slope is None else self.dense.abs() * self.slope
        self.mask.copy_(strongest(scores, Sparsity(kept, self.sparsity.m, self.sparsity.axis), self.groups))

    def show(self) -> None:
        """Put the masked weights into the network and the average."""
        self.weight.detach().copy_(self.dense).mul_(self.mask)
        if self.average is not None and self.average_dense is not None:
            self.average.copy_(self.average_dense).mul_(self.mask)


class SparseTraining(Callback):
    """Keeps layers of a graph at N:M while it trains; `masks` are those of the end.

    Args:
        sparsities: of the layers, by name.
        epochs: of the whole training.
        way: one of WAYS.
        decay: of weights that are out, for straight-through.
        every: steps between two choices of masks, for straight-through.
        slopes: |dloss/dw| of each layer's weights. Weights are then chosen by |w dloss/dw| instead of |w|, with a running mean over
            the steps that begins with these.

    Raises:
        UsageError: an unknown way, a decay below 0, no steps between choices.
    """

    name = "sparse"

    def __init__(
        self,
        sparsities: Mapping[str, Sparsity],
        epochs: int,
        way: str = "gradual",
        *,
        decay: float = DECAY,
        every: int = 1,
        slopes: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        if way not in WAYS:
            raise UsageError(f"unknown way {way!r} to sparsity{near(way, WAYS)}; known: {', '.join(WAYS)}")
        if not 0 <= decay < 1:
            raise UsageError(
                f"decay {decay:g} of weights that are out must be at least 0 and below 1; {DECAY:g} is usual"
            )
        if every < 1:
            raise UsageError(f"masks chosen every {every} steps: at least 1 is needed")
        self.sparsities, self.way, self.decay, self.every = dict(sparsities), way, decay, every
        last = epochs - math.floor(epochs * SETTLED) + 1
        #: The epoch (from 1) from whose beginning on masks stay.
        self.settled_from = {"one-shot": 1, "gradual": min(last, max(epochs, 1)), "straight-through": last}[way]
        self._slopes = None if slopes is None else {name: slopes[name].detach().abs() for name in sparsities}
        self._layers: dict[str, _Layer] = {}
        self._steps = 1

    def identity(self) -> Any:
        """Layers and way."""
        layers = {name: [each.n, each.m, each.axis] for name, each in self.sparsities.items()}
        slopes = None if self._slopes is None else state_digest(self._slopes)
        return [layers, self.way, self.settled_from, self.decay, self.every, slopes]

    def kept_in(self, sparsity: Sparsity, epoch: int) -> int:
        """How many of every M stay in an epoch (from 1)."""
        if self.way != "gradual" or epoch >= self.settled_from:
            return sparsity.n
        return sparsity.m - math.floor((sparsity.m - sparsity.n) * epoch / self.settled_from + 0.5)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Of each layer, bool, of its weight's shape, on the CPU: True where a weight stays."""
        return {name: layer.mask.to("cpu", copy=True) for name, layer in self._layers.items()}

    def start(self, network: nn.Module, average: nn.Module | None, steps: int) -> None:
        """Take the layers' weights, and choose the first masks."""
        if not isinstance(network, GraphNetwork):
            raise UsageError("N:M sparsity is trained in graphs; compress makes one of any network")
        self._steps = steps
        for name, sparsity in self.sparsities.items():
            conv = network.layer(name)
            if not isinstance(conv, nn.Conv2d):
                raise UsageError(f"{name!r} is no convolution with weights of its own that could be made sparse")
            weight = conv.weight
            slope = None if self._slopes is None else self._slopes[name].to(weight, copy=True)
            layer = _Layer(
                sparsity, conv.groups, weight, weight.detach().clone(), torch.ones_like(weight, dtype=torch.bool), slope
            )
            if average is not None:
                assert isinstance(average, GraphNetwork)
                conv = average.layer(name)
                assert isinstance(conv, nn.Conv2d)
                layer.average, layer.average_dense = conv.weight.detach(), conv.weight.detach().clone()
            self._layers[name] = layer
        self._choose(1)

    @torch.no_grad()
    def before_forward(self, now: int) -> None:
        """At the beginning of an epoch: other masks, where they still change."""
        epoch, step = now // self._steps + 1, now % self._steps
        if self.way == "gradual" and step == 0 and 1 < epoch <= self.settled_from:
            self._choose(epoch)

    @torch.no_grad()
    def before_optimizer(self, now: int) -> None:
        """Give the optimizer, and the moving average behind it, dense weights."""
        settled = self._settled(now)
        for layer in self._layers.values():
            slope = layer.weight.grad
            if slope is not None:
                if layer.slope is not None and not settled:
                    layer.slope.lerp_(slope.abs(), 1 - _FOLLOWS)
                if settled:
                    slope.mul_(layer.mask)
                elif self.way == "straight-through":
                    slope.add_(layer.dense * ~layer.mask, alpha=self.decay)
            layer.weight.copy_(layer.dense)
            if layer.average is not None and layer.average_dense is not None:
                layer.average.copy_(layer.average_dense)

    @torch.no_grad()
    def after_step(self, now: int) -> None:
        """Take the dense weights back, and show masked ones."""
        settled = self._settled(now)
        for layer in self._layers.values():
            layer.dense.copy_(layer.weight)
            if layer.average is not None and layer.average_dense is not None:
                layer.average_dense.copy_(layer.average)
            if settled:
                layer.dense.mul_(layer.mask)
            elif self.way == "straight-through" and (now + 1) % self.every == 0:
                layer.choose(layer.sparsity.n)
            layer.show()

    def state_tensors(self) -> dict[str, Tensor]:
        """Dense weights, their moving average, masks and slopes, by what they are and the layer."""
        found: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            own = {"dense": layer.dense, "mask": layer.mask, "average": layer.average_dense, "slope": layer.slope}
            found |= {f"{what}.{name}": tensor for what, tensor in own.items() if tensor is not None}
        return found

    def _settled(self, now: int) -> bool:
        """Whether masks stay from here on."""
        return now >= (self.settled_from - 1) * self._steps

    @torch.no_grad()
    def _choose(self, epoch: int) -> None:
        for layer in self._layers.values():
            layer.choose(self.kept_in(layer.sparsity, epoch))
            if self.way == "one-shot":
                layer.dense.mul_(layer.mask)
                if layer.average_dense is not None:
                    layer.average_dense.mul_(layer.mask)
            layer.show()
