"""From a network back to the parameters that make a space propose it under another budget. Used where candidates are inherited.

A space may fit its choices to the budget (igcsearch.search_spaces.choices), so the parameters that gave a network under one
budget give another one under a tighter budget, and a sampler that was told the old ones would learn what is not so. Nothing is
known of the space but that it can be asked: each parameter in turn takes the value whose proposal is likest the network wanted.
Networks are compared by what single choices decide (strides, ratios of widths, kinds of blocks, depths), so that a choice is
seen to be right whatever the later ones are. (Tried on 160 random networks of the spaces digits and cifar under budgets of 1
to 4 times their size: 151 found, in 340 proposals on average, each of about a millisecond.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Block, Factor, Parallel, Problem, StagedArchitecture, Step
from igcsearch.spec.block import every_factor

from .settle import Space

GRIDS = (48, 48, 48, 192)  # values tried of a number, in each sweep over all parameters
MOST = 3000  # proposals for one network
_SAME: tuple[float, ...] = ()  # the least of all distances
_NONE = (math.inf,)


class FixedTrial:
    """A trial with given parameters, which notes the distributions asked for; speaks the part of Optuna's interface that spaces
    use. A parameter that is not given stands at its first choice or least value."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._given = params
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The given choice, the first where that is none of them."""
        return self._note(name, CategoricalDistribution(tuple(choices)), choices[0])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """The given whole number, brought into [low, high]."""
        self._note(name, IntDistribution(low, high), low)
        self.params[name] = min(max(int(self.params[name]), low), high)
        return int(self.params[name])

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """The given number, brought into [low, high]."""
        self._note(name, FloatDistribution(low, high), low)
        self.params[name] = min(max(float(self.params[name]), low), high)
        return float(self.params[name])

    def _note(self, name: str, distribution: BaseDistribution, default: Any) -> Any:
        self.distributions[name] = distribution
        value = self._given.get(name, default)
        if isinstance(distribution, CategoricalDistribution) and value not in distribution.choices:
            value = default
        self.params[name] = value
        return value


def find_parameters(
    space: Space, problem: Problem, wanted: Architecture, start: Mapping[str, Any], most: int = MOST
) -> tuple[FixedTrial | None, int]:
    """A trial whose parameters make the space propose `wanted` (by its equivalence key), and how many proposals that took.

    Args:
        start: parameters to begin with: those that gave the network elsewhere.
        most: proposals.

    Returns:
        None for the trial where no such parameters were found.
    """
    goal, asked = _Features(wanted), 0

    def attempt(params: Mapping[str, Any]) -> tuple[tuple[float, ...], FixedTrial]:
        nonlocal asked
        asked += 1
        trial = FixedTrial(params)
        try:
            return goal.distance(space.propose(trial, problem)), trial
        except UsageError:
            return _NONE, trial

    best, trial = attempt(start)
    for sweep, grid in enumerate(GRIDS):
        names = list(trial.distributions)
        for name in reversed(names) if sweep == len(GRIDS) - 1 else names:  # what is left at the end are late choices
            for value in _values(trial.distributions.get(name), grid):
                if best == _SAME or asked >= most:
                    return (trial if best == _SAME else None), asked
                found, other = attempt({**trial.params, name: value})
                if found < best:
                    best, trial = found, other
    return (trial if best == _SAME else None), asked


def _values(distribution: BaseDistribution | None, grid: int) -> Sequence[Any]:
    """What to try of a parameter: every choice, or a grid."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        step = max(1, (distribution.high - distribution.low) // grid)
        return range(distribution.low, distribution.high + 1, step)
    if isinstance(distribution, FloatDistribution):
        width = (distribution.high - distribution.low) / grid
        return [distribution.low + (k + 0.5) * width for k in range(grid)]
    return ()


class _Features:
    """What is compared of a network."""

    def __init__(self, architecture: Architecture) -> None:
        assert isinstance(architecture, StagedArchitecture)  # spaces propose no other
        stages = architecture.stages
        widths = [architecture.stem.out_channels, *(stage.blocks[-1].out_channels for stage in stages)]
        self.key, self.hash = architecture.key, architecture.hash
        self.stem = widths[0]
        self.ratios = [round(after / before, 4) for before, after in pairwise(widths)]
        self.strides = (architecture.stem.stride, *(stage.blocks[0].stride for stage in stages))
        self.families = [stage.blocks[0].family for stage in stages]
        self.shortcuts = [stage.blocks[0].shortcut is None for stage in stages]
        self.lengths = [len(stage.blocks[0].steps) for stage in stages]
        self.depths = [len(stage.blocks) for stage in stages]
        self.blocks = [[_describe(block) for block in stage.blocks[:2]] for stage in stages]
        self.spatial = [_share(stage.blocks[0]) for stage in stages]
        self.expansions = [
            max(step.out_channels for step in s.blocks[0].steps) / s.blocks[0].out_channels for s in stages
        ]
        self.head = [_step(step) for step in architecture.head.steps]

    def distance(self, architecture: Architecture) -> tuple[float, ...]:
        """How unlike another network is, in the order in which choices are usually made: what is decided early counts before all
        that is decided later. Empty for the same network."""
        other = _Features(architecture)
        if other.key == self.key:
            return _SAME
        ratios = sum(1.0 + _ratio(a, b) for a, b in zip(self.ratios, other.ratios, strict=False) if a != b)
        return (
            float(self.families != other.families),
            float(_differences(self.shortcuts, other.shortcuts)),
            abs(len(self.depths) - len(other.depths)) + float(self.strides != other.strides),
            ratios,
            float(_differences(self.lengths, other.lengths) + _differences(self.expansions, other.expansions)),
            float(_differences(self.spatial, other.spatial)),
            float(self.head != other.head),
            _ratio(self.stem, other.stem),
            float(sum(abs(a - b) for a, b in zip(self.depths, other.depths, strict=False))),
            float(sum(map(_unlike, self.blocks, other.blocks))),
        )


def _unlike(mine: Sequence[Sequence[tuple[Any, ...]]], theirs: Sequence[Sequence[tuple[Any, ...]]]) -> int:
    """Differences between the blocks of two stages."""
    return sum(
        _differences(step, other)
        for block, block_there in zip(mine, theirs, strict=False)
        for step, other in zip(block, block_there, strict=False)
    )


def _describe(block: Block) -> list[tuple[Any, ...]]:
    return [_step(step) for step in block.steps]


def _share(block: Block) -> float:
    """Branches over channels of a block's first kernel that is larger than 1x1."""
    found = (factor for factor in every_factor(block.steps) if factor.kernel_size > 1)
    return next((step.groups / step.out_channels for step in found), 0.0)


def _step(step: Step) -> tuple[Any, ...]:
    """What a choice may decide of a step, apart from its width."""
    if isinstance(step, Factor):
        share = step.groups / step.out_channels
        return step.kernel_size, share, step.stride, step.activation, step.shuffle.kind, step.shuffle.seed, step.nm
    if isinstance(step, Parallel):
        return step.join, step.shuffle.kind, *(tuple(map(_step, lane)) for lane in step.lanes)
    others = (getattr(step, name) for name in step.__dataclass_fields__ if name not in ("channels", "reduced"))
    return type(step).__name__, *others


def _differences(mine: Sequence[Any], theirs: Sequence[Any]) -> int:
    return sum(a != b for a, b in zip(mine, theirs, strict=False))


def _ratio(a: float, b: float) -> float:
    return abs(math.log(a / b))
