"""One side of a factor whose branches are open: how much each of its channels is in each branch, and what moves that. Floor 3.

learned.py puts two of them together to a mask, and says where the three ways come from. Shape legend: C channels, G branches.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..permutations.assignment import balanced
from ..spec.learning import START_TEMPERATURE, LearningRule

#: Places in the soft phase: until where everything passes, where nothing passes beside the shares of sinkhorn and lipschitz, where
#: the branches that those say are read off, and where the mask is that of hard branches.
WARM_UP, CLOSED_EARLY, READ, CLOSED = 0.25, 0.5, 0.8, 0.95
_SPREAD = 0.1  # of the first logits: branches that begin alike stay alike
_PRICE_STEPS, _PRICE_STEPS_READ = 4, 100
_NORMALISE_STEPS = 5


class Side(nn.Module):
    """The inputs or outputs of a factor: `forward()` gives the share of each channel in each branch, (G, C).

    Columns sum to 1, rows to C / G. This one is fixed: consecutive channels, or the groups that are put in.
    """

    has_shares = False  # whether they are learned as such
    sources: NDArray[np.int64] | None = None  # (C,): where a channel comes from, if every branch is to have one of each

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.branches = branches
        self.register_buffer("groups", torch.arange(branches).repeat_interleave(channels // branches))

    def forward(self) -> Tensor:
        """Shares, (G, C); one-hot here."""
        return F.one_hot(self.groups, self.branches).T.to(torch.get_default_dtype())  # type: ignore[arg-type]

    def advance(self, progress: float, keys: tuple[int, int]) -> None:
        """Go to a place of the soft phase, from 0 to 1; the keys name a step, for noise."""

    def penalty(self) -> Tensor | None:
        """What is added to the loss, if anything."""
        return None

    def project(self) -> None:
        """After a step of the optimizer."""

    def close(self) -> None:
        """Settle on the branches that the shares say, at READ of the soft phase."""

    def hard(self) -> NDArray[np.int64]:
        """The branch of each channel, (C,), equally many in each."""
        assert isinstance(self.groups, Tensor)
        return self.groups.cpu().numpy()

    def put(self, groups_C: NDArray[np.int64]) -> None:
        """Set the branch of each channel."""
        assert isinstance(self.groups, Tensor)
        self.groups.copy_(torch.as_tensor(groups_C))


class SharedSide(Side, ABC):
    """A side whose shares are learned; from READ on they are blended with the exact assignment that they say then."""

    has_shares = True

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__(channels, branches)
        self.progress = 0.0

    @abstractmethod
    def shares(self) -> Tensor:
        """What is learned, (G, C)."""

    def moved(self) -> float:
        """How far the schedule of the way is, from 0 to 1."""
        return part(self.progress, WARM_UP, READ)

    def advance(self, progress: float, keys: tuple[int, int]) -> None:
        """Go to a place of the soft phase."""
        self.progress = progress

    def forward(self) -> Tensor:
        """Shares, (G, C)."""
        closed = part(self.progress, READ, CLOSED)
        if closed == 1:  # the parameters stay in the graph, as DistributedDataParallel wants it
            return super().forward() + 0.0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        shares = self.shares()
        return shares + closed * (super().forward().to(shares) - shares) if closed else shares

    def close(self) -> None:
        """Settle on the exact assignment on the shares."""
        training = self.training
        with torch.no_grad():
            shares = self.eval().shares().T.double().cpu().numpy()
        self.train(training)
        self.put(complete(balanced(shares, np.sort(super().hard())), self.sources, shares))

    def hard(self) -> NDArray[np.int64]:
        """The branch of each channel: what was settled on, before that what would be."""
        settled = super().hard().copy()
        if self.progress >= READ:
            return settled
        self.close()
        found = super().hard().copy()
        self.put(settled)
        return found


class SinkhornSide(SharedSide):
    """Shares by a softmax over branches of (logit + noise + price) / temperature; prices keep the branches equally large.

    The prices are those of Sinkhorn's iterations, which go on from step to step; gradients take them for given.
    """

    logits: nn.Parameter
    prices: Tensor

    def __init__(self, channels: int, branches: int, rule: LearningRule, stream: int) -> None:
        super().__init__(channels, branches)
        generator = torch.Generator().manual_seed(stream)
        self.logits = nn.Parameter(_SPREAD * torch.randn(branches, channels, generator=generator))
        self.register_buffer("prices", torch.zeros(branches, 1))
        self._last, self._stream = rule.temperature, stream
        self._temperature, self._noise_size, self._keys = START_TEMPERATURE, 1.0, (0, 0)

    def advance(self, progress: float, keys: tuple[int, int]) -> None:
        """Cool down geometrically; the noise ends with the last quarter."""
        super().advance(progress, keys)
        self._temperature = START_TEMPERATURE * (self._last / START_TEMPERATURE) ** self.moved()
        self._noise_size = max(0.0, 1.0 - self.moved() / 0.75)
        self._keys = keys

    def shares(self) -> Tensor:
        """Shares, (G, C); in training with noise."""
        scores: Tensor = self.logits
        if self.training and self._noise_size > 0:
            seed, step = self._keys
            generator = torch.Generator().manual_seed(((seed * 1_000_003 + step) * 1009 + self._stream) % 2**63)
            uniform = torch.rand(scores.shape, generator=generator).clamp_(1e-9, 1 - 1e-7)
            noise = -torch.log(-torch.log(uniform))
            scores = scores + (self._noise_size * self._temperature) * noise.to(scores)
        prices = self._settled(scores.detach(), _PRICE_STEPS if self.training else _PRICE_STEPS_READ)
        if self.training:
            self.prices.copy_(prices)
        return torch.softmax((scores + prices) / self._temperature, dim=0)

    @torch.no_grad()
    def _settled(self, scores_GC: Tensor, steps: int) -> Tensor:
        prices, size = self.prices, math.log(scores_GC.shape[1] / self.branches)
        for _ in range(steps):
            shares = torch.log_softmax((scores_GC + prices) / self._temperature, dim=0)
            prices = prices + self._temperature * (size - shares.logsumexp(dim=1, keepdim=True))
        return prices - prices.mean()


class LipschitzSide(SharedSide):
    """Shares by a doubly stochastic matrix of positions (rows) and channels; a branch is a run of positions."""

    matrix: nn.Parameter

    def __init__(self, channels: int, branches: int, rule: LearningRule, stream: int) -> None:
        super().__init__(channels, branches)
        generator = torch.Generator().manual_seed(stream)
        noise = torch.rand(channels, channels, generator=generator)
        self.matrix = nn.Parameter((1.0 + 0.1 * noise) / channels)
        self._most = rule.penalty
        self.project()

    def shares(self) -> Tensor:
        """Shares, (G, C)."""
        channels = self.matrix.shape[1]
        return self.matrix.view(self.branches, -1, channels).sum(dim=1)

    def penalty(self) -> Tensor | None:
        """l1 - l2 of all rows and columns, 0 exactly for permutations; its weight grows linearly."""
        weight = self._most * self.moved()
        if not weight or self.progress >= CLOSED:
            return None
        lengths = (self.matrix.square().sum(dim=dim).clamp_min(1e-12).sqrt().sum() for dim in (0, 1))
        return weight * (2 * self.matrix.sum() - sum(lengths, torch.zeros((), device=self.matrix.device)))

    @torch.no_grad()
    def project(self) -> None:
        """Back to matrices that are not negative, with rows and columns of sum 1."""
        self.matrix.clamp_(min=0.0)
        for _ in range(_NORMALISE_STEPS):
            self.matrix.div_(self.matrix.sum(dim=1, keepdim=True).clamp_min(1e-12))
            self.matrix.div_(self.matrix.sum(dim=0, keepdim=True).clamp_min(1e-12))


SIDES: dict[str, type[SinkhornSide] | type[LipschitzSide]] = {"sinkhorn": SinkhornSide, "lipschitz": LipschitzSide}


def part(progress: float, begin: float, end: float) -> float:
    """How far a place is between two others, from 0 to 1."""
    return min(max((progress - begin) / (end - begin), 0.0), 1.0)


def complete(
    groups_C: NDArray[np.int64], sources_C: NDArray[np.int64] | None, gains_CG: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The branches with at least one channel of every source in each, by swaps that lose as little gain as possible.

    So a block stays complementary whose level another wiring would take away. Where there are too few channels for that, or no
    sources are given, the branches stay as they are.
    """
    if sources_C is None:
        return groups_C
    found_C, branches, kinds = groups_C.copy(), gains_CG.shape[1], int(sources_C.max()) + 1
    if len(found_C) // branches < kinds or np.bincount(sources_C, minlength=kinds).min() < branches:
        return groups_C
    while True:
        table = np.zeros((kinds, branches), dtype=np.int64)
        np.add.at(table, (sources_C, found_C), 1)
        missing = np.argwhere(table == 0)
        if not len(missing):
            return found_C
        source, branch = missing[0]
        spare = table[sources_C, found_C] >= 2
        come, go = np.flatnonzero(spare & (sources_C == source)), np.flatnonzero(spare & (found_C == branch))
        gain = gains_CG[come, branch][:, None] - gains_CG[come, found_C[come]][:, None]
        gain = gain + gains_CG[go][:, found_C[come]].T - gains_CG[go, branch][None]
        first, second = np.unravel_index(int(gain.argmax()), gain.shape)
        found_C[come[first]], found_C[go[second]] = branch, found_C[come[first]]
