"""Shares of group counts while they are learned, and the masks that they make: what moves them, and what they close to. Floor 3.

spec/grouping.py says what is chosen, and its cost. The mask of a factor is its expected support: of a strict product with a share p
of digit d in the factor, a pair of channels that differ in d counts p times as much (1 where they agree), and with the share that
it has of no digit at all the factor is the identity; of a bottleneck's factor, the mean of the convolutions that its gates make.
Shares are even until WARM_UP of the soft phase. Then the loss moves them, the expected cost's distance from the budget, and a price
on entropy that grows, under a falling temperature; at READ they are rounded to the likeliest choices inside the budget, and until
CLOSED blended with those.

Shape legend: C channels, O outputs, I inputs, D digits, L factors, N batch, H W map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..spec.digits import digit_table, layouts
from ..spec.grouping import Choice, Digits, Gates, GroupRule, Question, strided
from ..spec.permutations import Order
from .learned import diagonal_blocks
from .sides import CLOSED, READ, WARM_UP, part

_START_TEMPERATURE = 1.0
_SPREAD = 0.1  # of the first logits: factors that begin alike stay alike
_TINY = 1e-30
_LEAST_SHARE = 1e-6  # for entropies


class GroupShares(nn.Module, ABC):
    """The shares of one question, and the masks of its factors.

    Args:
        question: of spec/grouping.py.
        rule: how shares are learned.
        stream: of the first logits.
    """

    def __init__(self, question: Question, rule: GroupRule, stream: int) -> None:
        super().__init__()
        self.question = question
        generator = torch.Generator().manual_seed(stream)
        self.logits = nn.Parameter(_SPREAD * torch.randn(question.shape, generator=generator))
        self.register_buffer("settled", torch.zeros(question.shape))
        self._last, self._progress = rule.temperature, 0.0

    def forward(self) -> Tensor:
        """Shares, (D, L)."""
        closed = part(self._progress, READ, CLOSED)
        assert isinstance(self.settled, Tensor)
        if closed == 1 or self._progress < WARM_UP:  # logits stay in the graph, as DistributedDataParallel wants it
            shares = self.settled if closed == 1 else torch.full_like(self.logits, self._even())
            return shares.to(self.logits) + 0.0 * self.logits.sum()
        shares = self._soft(self.logits / _START_TEMPERATURE * (_START_TEMPERATURE / self._last) ** self.moved)
        return shares + closed * (self.settled - shares) if closed else shares

    @abstractmethod
    def masks(self, place: int) -> list[Tensor]:
        """Of the factors of the open product at that place in the block how much each weight counts, (O, I)."""

    def matrices(self, place: int, weights: Sequence[Tensor]) -> list[Tensor]:
        """The factors of the open product at that place as matrices, (O, I), of weights (O, I, 1, 1), in their precision."""
        return [
            weight[:, :, 0, 0] * mask.to(weight.dtype) for weight, mask in zip(weights, self.masks(place), strict=True)
        ]

    @abstractmethod
    def harden(self, tensors: dict[str, Tensor], prefix: str, choice: Choice) -> None:
        """Turn the block's tensors, by names that begin with the prefix, into those of its choice."""

    @abstractmethod
    def close(self, choice: Choice) -> None:
        """Settle on a choice."""

    def advance(self, progress: float) -> None:
        """Go to a place of the soft phase, from 0 to 1."""
        self._progress = progress

    @property
    def moved(self) -> float:
        """How far the schedules are, from 0 to 1."""
        return part(self._progress, WARM_UP, READ)

    @torch.no_grad()
    def values(self) -> NDArray[np.float64]:
        """Shares as numbers, (D, L)."""
        return np.asarray(self().double().cpu().numpy())

    @property
    def is_open(self) -> bool:
        """True while the loss and the budget move the shares."""
        return WARM_UP <= self._progress < READ

    @abstractmethod
    def entropy(self) -> Tensor:
        """Of all digits, in nats."""

    @torch.no_grad()
    def _put(self, shares: NDArray[np.float64]) -> None:
        """What the shares close to."""
        assert isinstance(self.settled, Tensor)
        self.settled.copy_(torch.as_tensor(shares))

    @abstractmethod
    def _soft(self, scores_DL: Tensor) -> Tensor: ...

    @abstractmethod
    def _even(self) -> float: ...


class DigitShares(GroupShares):
    """Each digit's share in the factors: a softmax."""

    question: Digits

    def __init__(self, question: Digits, rule: GroupRule, stream: int) -> None:
        super().__init__(question, rule, stream)
        table = digit_table(question.radices)
        self.register_buffer(
            "differ", torch.tensor((table[:, None] != table[None]).astype(np.float32)), persistent=False
        )

    def masks(self, place: int) -> list[Tensor]:
        """The product, over the digits that two channels differ in, of those digits' shares in the factor."""
        assert isinstance(self.differ, Tensor)
        logs_OIL = self.differ.to(self.logits) @ torch.log(self().clamp_min(_TINY))
        return list(logs_OIL.exp().unbind(dim=2))

    def matrices(self, place: int, weights: Sequence[Tensor]) -> list[Tensor]:
        """As masked, but a factor without any digit is left out: with the share that it has of none, it is the identity."""
        found, nothing_L = [], (1 - self()).prod(dim=0)
        for matrix, weight, nothing in zip(
            super().matrices(place, weights), weights, nothing_L.to(weights[0]), strict=True
        ):
            found.append(matrix + torch.diag(nothing * (1 - weight[:, :, 0, 0].diagonal())))
        return found

    def close(self, choice: Choice) -> None:
        """Settle on the factor of each digit."""
        self._put(np.eye(self.question.shape[1])[list(choice)])

    def harden(self, tensors: dict[str, Tensor], prefix: str, choice: Choice) -> None:
        """Turn the block's tensors into those of the factors that mix a digit."""
        channels, weights = self.question.block.out_channels, f"{prefix}.steps.1.weights."
        found = layouts(choice, self.question.radices)
        opened = {
            name: tensors.pop(name) for name in list(tensors) if name.startswith((weights, f"{prefix}.steps.1.norm."))
        }
        _permute(tensors, f"{prefix}.steps.0.norm.", found[0][1])
        for step, (factor, order) in enumerate(found, 1):
            groups = channels // self.question.widths(choice)[factor]
            if (name := f"{weights}{factor}") in opened:
                tensors[f"{prefix}.steps.{step}.conv.weight"] = diagonal_blocks(opened[name], order, order, groups)
        for name, tensor in opened.items():
            if not name.startswith(weights):
                tensors[name.replace(f"{prefix}.steps.1.", f"{prefix}.steps.{len(found)}.")] = tensor

    def entropy(self) -> Tensor:
        """Of all digits, in nats."""
        return torch.special.entr(self().clamp_min(_LEAST_SHARE)).sum()

    def _soft(self, scores_DL: Tensor) -> Tensor:
        return torch.softmax(scores_DL, dim=1)

    def _even(self) -> float:
        return 1.0 / self.question.shape[1]


class GateShares(GroupShares):
    """How open the digits of both factors' group counts are, each on its own."""

    question: Gates

    def __init__(self, question: Gates, rule: GroupRule, stream: int) -> None:
        super().__init__(question, rule, stream)
        for index, place in enumerate(question.places):
            supports = [self._support(index, groups) for groups in self._groups(index)]
            self.register_buffer(f"supports{place}", torch.tensor(np.stack(supports)), persistent=False)

    def masks(self, place: int) -> list[Tensor]:
        """The mean support of the group convolutions that the gates make."""
        index = self.question.places.index(place)
        shares, supports_GOI = self(), self.get_buffer(f"supports{place}")
        of_groups = self.question.group_shares(shares, index)
        weights_G = torch.stack([of_groups[groups] for groups in self._groups(index)])
        return [torch.tensordot(weights_G, supports_GOI.to(shares), dims=1)]

    def close(self, choice: Choice) -> None:
        """Settle on both group counts, by closing the digits that are the least open."""
        now, shares = self.values(), np.ones(self.question.shape)
        for index, groups in enumerate(choice):
            radices = self.question.radices[index]
            for digit in sorted(range(len(radices)), key=lambda d: now[d, index]):
                if groups % radices[digit] == 0:
                    groups //= radices[digit]
                    shares[digit, index] = 0.0
        self._put(shares)

    def harden(self, tensors: dict[str, Tensor], prefix: str, choice: Choice) -> None:
        """Turn the block's tensors into those of group convolutions."""
        first, _, last = self.question.block.factors
        order = strided(last.in_channels, choice[1])
        rows = order if choice[0] == 1 else np.arange(first.out_channels)
        for place, (o, i), groups in (
            (0, (rows, np.arange(first.in_channels)), choice[0]),
            (2, (np.arange(last.out_channels), order), choice[1]),
        ):
            if (name := f"{prefix}.steps.{place}.weights.0") in tensors:
                tensors[f"{prefix}.steps.{place}.conv.weight"] = diagonal_blocks(tensors.pop(name), o, i, groups)
        for part_of in ("0.norm.", "1."):
            _permute(tensors, f"{prefix}.steps.{part_of}", order)

    def _groups(self, index: int) -> list[int]:
        return sorted(self.question.group_shares(np.full(self.question.shape, 0.5), index))

    def _support(self, index: int, groups: int) -> NDArray[np.float32]:
        """Of a group convolution, (O, I): of the last factor one that takes every so many channels."""
        factor = self.question.factors[index]
        rows = np.repeat(np.arange(groups), factor.out_channels // groups)
        inputs = np.arange(factor.in_channels)
        columns = inputs % groups if index else inputs // (factor.in_channels // groups)
        return (rows[:, None] == columns[None]).astype(np.float32)

    def entropy(self) -> Tensor:
        """Of all digits, in nats."""
        shares = self().clamp(_LEAST_SHARE, 1 - _LEAST_SHARE)
        entropies = torch.special.entr(shares) + torch.special.entr(1 - shares)
        return torch.stack([entropies[: len(each), f].sum() for f, each in enumerate(self.question.radices)]).sum()

    def _soft(self, scores_DL: Tensor) -> Tensor:
        return torch.sigmoid(scores_DL)

    def _even(self) -> float:
        return 0.5


def _permute(tensors: dict[str, Tensor], prefix: str, order: Order) -> None:
    """Reorder the first dimension of all tensors whose names begin so."""
    for name in [name for name in tensors if name.startswith(prefix)]:
        if tensors[name].ndim:
            tensors[name] = tensors[name][torch.as_tensor(np.array(order), device=tensors[name].device)]
