"""Learned group counts: where there is something to learn, what can be chosen, and what that costs. Floor 0.

Two kinds of blocks ask the question. In a strict product behind a channel-wise factor each prime digit of the width goes to one of
the 1x1 factors (digits.py): every choice is strict. In a bottleneck (1x1, channel-wise, 1x1; IGCV3) nothing needs to be strict, and
each 1x1 factor opens or closes the prime digits of its own group count, independently (DGConv, Zhang et al., ICCV 2019).

In training a choice is a share from 0 to 1: of a digit in a factor, or of a digit that is open. Digits are independent, so the
expected cost is exact in closed form; `expected_weights` is plain arithmetic, of numbers and of tensors alike. rounding.py makes
choices of shares, within a budget.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .architecture import Architecture
from .block import Block
from .digits import branch_widths, checked, prime_digits, with_digits
from .factor import Factor, Shuffle
from .permutations import Order, interleave
from .problem import Budget, Cost

Choice = tuple[int, ...]
Shares = NDArray[np.float64]
_LEAST = 1e-30  # of a share, for its logarithm
_LEAST_TEMPERATURE = 1e-3  # below it shares are rounded long before the end, and their logarithms lost


@dataclass(frozen=True)
class GroupRule:
    """How group counts are learned.

    Args:
        lr: of Adam, constant, for what the shares are made of.
        temperature: of the shares at the end, at least 0.001 and below 1, where it begins.
        penalty: weight of the expected cost's relative distance from the budget, added to the loss.
        budget: that the network which comes out keeps to.

    Raises:
        UsageError: a value outside its rule.
    """

    lr: float = 0.05
    temperature: float = 0.1
    penalty: float = 10.0
    budget: Budget = Budget()

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise UsageError(f"learning rate of group counts {self.lr!r} must be a finite number above 0")
        if not _LEAST_TEMPERATURE <= self.temperature < 1:
            raise UsageError(
                f"final temperature of group counts {self.temperature!r} must be at least {_LEAST_TEMPERATURE:g} and below 1"
            )
        if not 0 <= self.penalty < math.inf:
            raise UsageError(f"penalty of group counts {self.penalty!r} must be a finite number of at least 0")


class Option(NamedTuple):
    """One way to answer a question: the choice, the logarithm of its share, and the block's cost with it."""

    choice: Choice
    likelihood: float
    cost: Cost


@dataclass(frozen=True)
class Question(ABC):
    """The group counts of one block.

    Attributes:
        name: of the block, as `Architecture.blocks` gives it.
        block: as it stands.
        size: side of the map that it reads.
    """

    name: str
    block: Block
    size: int

    @property
    @abstractmethod
    def places(self) -> tuple[int, ...]:
        """Indices of the steps whose group counts are learned, in order."""

    @property
    @abstractmethod
    def radices(self) -> tuple[Any, ...]:
        """The prime digits that are asked about: of the width, or a tuple for each factor."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Of its shares: (digits, factors)."""

    @abstractmethod
    def answered(self, choice: Choice) -> Block:
        """The block with these group counts, ready to be built."""

    @abstractmethod
    def best(self, shares: Shares) -> Mapping[Choice, float]:
        """The likeliest choices of each cost, and the logarithm of their shares.

        Args:
            shares: of `shape`.
        """

    @abstractmethod
    def expected_weights(self, shares: Any) -> list[Any]:
        """Expected weights of each learned factor, for shares (an array or tensor) of `shape`. Exact."""

    @abstractmethod
    def widths(self, choice: Choice) -> tuple[int, ...]:
        """Branch widths of the learned factors, 1 for one that is left out."""

    def cost(self, choice: Choice) -> Cost:
        """Cost of the block with these group counts, on its map."""
        return self.answered(choice).cost_at(self.size)[0]

    def options(self, shares: Shares) -> list[Option]:
        """What `best` finds, with costs."""
        return [Option(choice, found, self.cost(choice)) for choice, found in self.best(shares).items()]

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """Those whose group counts are learned."""
        found = tuple(self.block.steps[place] for place in self.places)
        assert all(isinstance(factor, Factor) for factor in found)
        return found  # type: ignore[return-value]

    @cached_property
    def areas(self) -> tuple[int, ...]:
        """Pixels of the map that each of them writes."""
        size, found = self.size, {}
        for index, step in enumerate(self.block.steps):
            assert isinstance(step, Factor)
            size = step.out_size(size)
            found[index] = size * size
        return tuple(found[place] for place in self.places)

    @cached_property
    def rest(self) -> Cost:
        """Cost of all else in the block."""
        params, macs = self.block.cost_at(self.size)[0]
        params -= sum(factor.weights for factor in self.factors)
        macs -= sum(factor.weights * area for factor, area in zip(self.factors, self.areas, strict=True))
        return Cost(params, macs)

    def expected_cost(self, shares: Any) -> tuple[Any, Any]:
        """Expected parameters and MACs of the block. Exact."""
        weights = self.expected_weights(shares)
        macs = [weight * area for weight, area in zip(weights, self.areas, strict=True)]
        return sum(weights, start=self.rest.params), sum(macs, start=self.rest.macs)


class Digits(Question):
    """Of a strict product: a choice names for each prime digit of the width the 1x1 factor that mixes it."""

    @cached_property
    def radices(self) -> tuple[int, ...]:
        """Prime digits of the width, ascending."""
        return prime_digits(self.block.out_channels)

    @property
    def places(self) -> tuple[int, ...]:
        """All steps behind the channel-wise one."""
        return tuple(range(1, len(self.block.steps)))

    @property
    def shape(self) -> tuple[int, int]:
        """Of its shares: each digit's, over the factors, sum to 1."""
        return len(self.radices), len(self.block.steps) - 1

    def answered(self, choice: Choice) -> Block:
        """`digits.with_digits`."""
        return with_digits(replace(self.block, learned_groups=False), choice)

    def cost(self, choice: Choice) -> Cost:
        """Cost of the block with these group counts, on its map."""
        weights = self.block.out_channels * sum(width for width in self.widths(choice) if width > 1)
        return Cost(self.rest.params + weights, self.rest.macs + weights * self.areas[0])

    def best(self, shares: Shares) -> Mapping[Choice, float]:
        """For each tuple of branch widths the likeliest choice of digits that gives it."""
        logs = np.log(np.maximum(shares, _LEAST))
        found: dict[tuple[int, ...], tuple[float, Choice]] = {(1,) * self.shape[1]: (0.0, ())}
        for digit, radix in enumerate(self.radices):
            grown: dict[tuple[int, ...], tuple[float, Choice]] = {}
            for widths, (likelihood, choice) in found.items():
                for owner in range(self.shape[1]):
                    wider = (*widths[:owner], widths[owner] * radix, *widths[owner + 1 :])
                    now = likelihood + float(logs[digit, owner])
                    if wider not in grown or now > grown[wider][0]:
                        grown[wider] = (now, (*choice, owner))
            found = grown
        return {choice: likelihood for likelihood, choice in found.values()}

    def expected_weights(self, shares: Any) -> list[Any]:
        """C * (E[K] - P[K = 1]) each: a factor that mixes no digit is left out."""
        width: Any = 1.0
        nothing: Any = 1.0
        for digit, radix in enumerate(self.radices):
            width = width * (1 + shares[digit] * (radix - 1))
            nothing = nothing * (1 - shares[digit])
        weights = (width - nothing) * self.block.out_channels
        return [weights[factor] for factor in range(self.shape[1])]

    def widths(self, choice: Choice) -> tuple[int, ...]:
        """Branch widths of the 1x1 factors, 1 for one that is left out."""
        return branch_widths(choice, self.radices, self.shape[1])


class Gates(Question):
    """Of a bottleneck: a choice names the group counts of its two 1x1 factors.

    The digits of a factor are the prime digits of the largest group count that it can have; a digit that is closed multiplies its
    group count. Group counts that leave a pair of channels without a path are not chosen.
    """

    @property
    def places(self) -> tuple[int, ...]:
        """The first step and the last."""
        return (0, 2)

    @cached_property
    def radices(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prime digits of the largest group count of each factor."""
        first, last = (prime_digits(math.gcd(f.in_channels, f.out_channels)) for f in self.factors)
        return first, last

    @property
    def shape(self) -> tuple[int, int]:
        """Of its shares: how open each digit is; where a factor has fewer digits than the other, the last shares mean nothing."""
        return max(map(len, self.radices)), 2

    def answered(self, choice: Choice) -> Block:
        """The last factor's branches take every so many channels of the middle, so that those of the first are spread over them."""
        first, middle, last = self.block.steps
        assert isinstance(first, Factor)
        assert isinstance(last, Factor)
        order = strided(last.in_channels, choice[1])
        plain = choice[0] == 1 or np.array_equal(order, interleave(first.out_channels, choice[0]))
        shuffle = Shuffle() if plain else Shuffle("explicit", order=tuple(map(int, order)))
        steps = (replace(first, groups=choice[0], shuffle=shuffle), middle, replace(last, groups=choice[1]))
        return replace(self.block, steps=steps, learned_groups=False)

    def best(self, shares: Shares) -> Mapping[Choice, float]:
        """For each pair of group counts that leaves no pair of channels without a path the logarithm of its share."""
        parts = [self.group_shares(shares, factor) for factor in (0, 1)]
        found = {
            (first, last): math.log(max(a, _LEAST)) + math.log(max(b, _LEAST))
            for first, a in parts[0].items()
            for last, b in parts[1].items()
        }
        return {choice: share for choice, share in found.items() if self.is_joined(choice)}

    def group_shares(self, shares: Any, factor: int) -> dict[int, Any]:
        """For each group count of a factor its share. Works on numbers and on tensors."""
        found: dict[int, Any] = {1: 0 * shares[0, factor] + 1}
        for digit, radix in enumerate(self.radices[factor]):
            grown: dict[int, Any] = {}
            for groups, share in found.items():
                for now, part in ((groups, shares[digit, factor]), (groups * radix, 1 - shares[digit, factor])):
                    grown[now] = grown[now] + share * part if now in grown else share * part
            found = grown
        return found

    def expected_weights(self, shares: Any) -> list[Any]:
        """C_in * C_out * E[1 / G] each."""
        found = []
        for factor, spec in enumerate(self.factors):
            inverse: Any = 0 * shares[0, factor] + 1
            for digit, radix in enumerate(self.radices[factor]):
                share = shares[digit, factor]
                inverse = inverse * (share + (1 - share) / radix)
            found.append(inverse * (spec.in_channels * spec.out_channels))
        return found

    def widths(self, choice: Choice) -> tuple[int, ...]:
        """Branch widths of the two factors."""
        first, last = (factor.in_channels // groups for factor, groups in zip(self.factors, choice, strict=True))
        return first, last

    def is_joined(self, choice: Choice) -> bool:
        """True if every pair of channels has a path: each run of a first branch holds channels of every last branch."""
        return choice[0] * choice[1] <= self.factors[1].in_channels


def questions(architecture: Architecture) -> tuple[list[Question], list[str]]:
    """The blocks whose group counts are to be learned, and for each where there is nothing to learn a line that says why."""
    found: list[Question] = []
    reasons: list[str] = []
    for name, block, size in architecture.sized_blocks():
        if block.learned_groups:
            asked = _question(name, block, size)
            found += [asked] if isinstance(asked, Question) else []
            reasons += [f"{name}: {asked}"] if isinstance(asked, str) else []
    return found, reasons


def opened_groups(architecture: Architecture) -> Architecture:
    """The architecture with group counts to be learned wherever there is something to learn."""
    return architecture.with_blocks(
        [
            replace(block, learned_groups=isinstance(_question(name, block, size), Question))
            for name, block, size in architecture.sized_blocks()
        ]
    )


def reduced_groups(architecture: Architecture) -> tuple[Architecture, list[str]]:
    """The architecture with fixed group counts where there is nothing to learn, and the reasons."""
    found, reasons = questions(architecture)
    if not reasons:
        return architecture, []
    kept = {question.name for question in found}
    blocks = [replace(block, learned_groups=name in kept) for name, block in architecture.blocks()]
    return architecture.with_blocks(blocks), reasons


def with_groups(architecture: Architecture, choices: Mapping[str, Choice]) -> Architecture:
    """The architecture with the group counts that were chosen for its blocks.

    Raises:
        UsageError: a choice that is missing.
    """
    asked = {question.name: question for question in questions(architecture)[0]}
    if missing := [name for name in asked if name not in choices]:
        raise UsageError(f"no group counts for {missing[0]}; given: {', '.join(choices) or 'none'}")
    if not asked:
        return architecture
    blocks = [
        asked[name].answered(tuple(choices[name])) if name in asked else block for name, block in architecture.blocks()
    ]
    return architecture.with_blocks(blocks)


def learns_groups(architecture: Architecture) -> bool:
    """True if group counts are still to be learned, whether or not there is something to learn."""
    return any(block.learned_groups for _, block in architecture.blocks())


def expected_cost(
    architecture: Architecture, shares: Mapping[str, Any], asked: Sequence[Question] | None = None
) -> tuple[Any, Any]:
    """Expected parameters and MACs of the network, by the shares of each question. Exact.

    Args:
        asked: the architecture's questions, where they are at hand.
    """
    params: Any
    macs: Any
    params, macs = architecture.cost
    for question in questions(architecture)[0] if asked is None else asked:
        before = question.block.cost_at(question.size)[0]
        now = question.expected_cost(shares[question.name])
        params, macs = params + (now[0] - before.params), macs + (now[1] - before.macs)
    return params, macs


def strided(channels: int, groups: int) -> Order:
    """The permutation behind which consecutive branches hold every `groups`-th channel. Shape (channels,)."""
    return interleave(channels, channels // groups)


def _question(name: str, block: Block, size: int) -> Question | str:
    """The question of a block, or why there is nothing to learn."""
    if _is_bottleneck(block):
        asked: Question = Gates(name, block, size)
        return asked if asked.shape[0] else "its widths have no common divisor, so there are no group counts to learn"
    try:
        checked(block)
    except UsageError as error:
        return str(error)
    asked = Digits(name, block, size)
    if asked.shape[0] < 2 or asked.shape[1] < 2:
        return (
            f"{asked.shape[0]} prime digits of {block.out_channels} channels and {asked.shape[1]} 1x1 factors leave nothing to "
            "choose; at least two of each do"
        )
    return asked


def _is_bottleneck(block: Block) -> bool:
    """True for 1x1, channel-wise, 1x1, none of them bare within: of IGCV3's form."""
    if len(block.steps) != 3 or not all(isinstance(step, Factor) for step in block.steps):
        return False
    first, middle, last = block.factors
    if any(factor.nm is not None for factor in block.factors):
        return False
    channelwise = middle.branch_width == 1 and middle.in_channels == middle.out_channels
    pointwise = all(factor.kernel_size == 1 and factor.stride == 1 and not factor.bias for factor in (first, last))
    mixes = all(factor.branch_width > 1 for factor in (first, last))
    stays = all(np.array_equal(factor.order, np.arange(factor.out_channels)) for factor in (middle, last))
    return channelwise and pointwise and mixes and first.norm and stays
