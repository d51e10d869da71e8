"""Learned shuffles, before and after they are learned: where there is something to learn, and hardening. Floor 0.

A learned shuffle is a question that training answers: which channels share a branch. Behind a factor within a product it asks
so of the columns of the factor that follows, at the end of a product of the rows of the last factor, whose outputs meet a
shortcut there. `docs/shuffles.md` proves where the question has more than one answer; its numbers are given as reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UsageError, near
from .architecture import Architecture
from .block import Block, Parallel, Step, every_factor
from .conditions import level
from .factor import Factor, Shuffle
from .grouping import Choice, learns_groups, reduced_groups, with_groups
from .permutations import compose
from .staged import StagedArchitecture
from .steps import ChannelStep

WAYS = ("assignment", "sinkhorn", "lipschitz")
#: Learning rate of Adam where none is given.
RATES = {"assignment": 0.05, "sinkhorn": 0.05, "lipschitz": 0.005}
START_TEMPERATURE = 1.0
MOST_SOFT = 0.9  # share of the epochs


@dataclass(frozen=True)
class LearningRule:
    """How shuffles are learned.

    Args:
        way: of WAYS; see nn/learned.py.
        lr: of Adam, for the parameters of sinkhorn and lipschitz, constant; None: RATES.
        temperature: of sinkhorn at the end of the soft phase, above 0 and below 1, where it begins.
        penalty: of lipschitz at the end of the soft phase; it grows from 0.
        soft_share: of the epochs, in which shuffles are soft; the rest train the network with hard ones.

    Raises:
        UsageError: a value outside its rule.
    """

    way: str = "assignment"
    lr: float | None = None
    temperature: float = 0.02
    penalty: float = 0.02
    soft_share: float = 0.3

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise UsageError(
                f"unknown way of learning shuffles {self.way!r}{near(str(self.way), WAYS)}; known: {', '.join(WAYS)}"
            )
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise UsageError(f"shuffle learning rate {self.lr!r} must be a finite number above 0")
        if not 0 < self.temperature < START_TEMPERATURE:
            raise UsageError(f"final temperature {self.temperature!r} must be above 0 and below {START_TEMPERATURE:g}")
        if not 0 <= self.penalty < math.inf:
            raise UsageError(f"shuffle penalty {self.penalty!r} must be a finite number of at least 0")
        if not 0 < self.soft_share <= MOST_SOFT:
            raise UsageError(
                f"soft share {self.soft_share!r} of the epochs must be above 0 and at most {MOST_SOFT:g}: the last train "
                "with the shuffles that were learned"
            )

    @property
    def rate(self) -> float:
        """The learning rate."""
        return RATES[self.way] if self.lr is None else self.lr

    def soft_epochs(self, epochs: int) -> int:
        """How many of a training's epochs are soft: at least one.

        Raises:
            UsageError: a training of one epoch.
        """
        if epochs < 2:
            raise UsageError(
                f"learned shuffles and group counts need at least 2 epochs, one soft and one hard; the recipe has {epochs}"
            )
        return max(1, int(self.soft_share * epochs + 1e-9))


class Gap(NamedTuple):
    """A place where a shuffle is learned.

    Attributes:
        block: by the name that `Architecture.blocks` gives it.
        step: index of the factor whose shuffle it is.
        reader: index of the factor whose branches are filled: the one behind it, or itself at the end of a product.
    """

    block: str
    step: int
    reader: int

    @property
    def name(self) -> str:
        """In records and checkpoints, such as "stage1.block2.step0"."""
        return f"{self.block}.step{self.step}"

    @property
    def of_rows(self) -> bool:
        """True if the factor's own rows are permuted (the end of a product), not the columns of the one behind it."""
        return self.reader == self.step


def gaps(architecture: Architecture) -> tuple[list[Gap], list[str]]:
    """The learned shuffles that have something to learn, and for each of the others a line that says why it has not."""
    found: list[Gap] = []
    reasons: list[str] = []
    named = list(architecture.blocks())
    chain = _Chain(tuple(block for _, block in named), architecture.head_steps)
    for position, (name, block) in enumerate(named):
        for index, step in enumerate(block.steps):
            if isinstance(step, ChannelStep) or step.shuffle.kind != "learned":
                continue
            gap = _gap(name, chain, position, index)
            found += [gap] if isinstance(gap, Gap) else []
            reasons += [gap] if isinstance(gap, str) else []
        inner = [*_inner(block.steps), *every_factor(block.shortcut or ())]
        if any(factor.shuffle.kind == "learned" for factor in inner):
            reasons.append(f"{name}: in lanes and shortcuts no shuffle is learned")
    if any(factor.shuffle.kind == "learned" for factor in every_factor(architecture.head_steps)):
        reasons.append("head: the classifier absorbs any order of its channels (2)")
    return found, reasons


def reduced(architecture: Architecture) -> tuple[Architecture, list[str]]:
    """The architecture without what has nothing to learn, and the reasons: interleaves for such shuffles, fixed group counts."""
    architecture, fixed = reduced_groups(architecture)
    kept, reasons = gaps(architecture)
    if not reasons:
        return architecture, fixed
    places = {(gap.block, gap.step) for gap in kept}

    def shuffle(name: str, index: int, factor: Factor) -> Shuffle:
        return factor.shuffle if (name, index) in places else _plain(factor.shuffle)

    return _rebuilt(architecture, shuffle, _plain), [*fixed, *reasons]


def opened(architecture: Architecture) -> Architecture:
    """The architecture with a learned shuffle wherever there is something to learn; families without are left as they are.

    That is in front of the first factor with branches behind channel-wise ones, between the factors of products that are not
    strict or nearly complementary, and at the end of products whose outputs meet something else with an order of its own.
    """

    def candidate(name: str, index: int, factor: Factor) -> Shuffle:
        return Shuffle("learned") if factor.shuffle.kind in ("interleave", "identity") else factor.shuffle

    every = _rebuilt(architecture, candidate, lambda shuffle: shuffle)
    places = {(gap.block, gap.step) for gap in gaps(every)[0]}
    before = {(n, i): step for n, block in architecture.blocks() for i, step in enumerate(block.steps)}

    def shuffle(name: str, index: int, factor: Factor) -> Shuffle:
        was = before[name, index]
        assert isinstance(was, Factor)
        return Shuffle("learned") if (name, index) in places else was.shuffle

    return _rebuilt(architecture, shuffle, lambda shuffle: shuffle)


def hardened(
    architecture: Architecture, orders: Mapping[str, ArrayLike], groups: Mapping[str, Choice] | None = None
) -> Architecture:
    """The architecture with explicit shuffles in place of the learned ones, and the group counts that were chosen.

    Behind channel-wise factors a permutation can as well stand in front of them (3): where a factor that mixes precedes, it is put
    into that one's own shuffle (`written_at`), so that there are no more shuffles than before.

    Args:
        orders: by `Gap.name`, the permutation of each gap: position i takes channel order[i].
        groups: by the names of blocks whose group counts are learned, the choice of each (grouping.py).

    Raises:
        UsageError: an order or choice that is missing, or no permutation of the channels.
    """
    architecture = with_groups(architecture, groups or {})
    found: dict[tuple[str, int], Shuffle] = {}
    for name, block in architecture.blocks():
        for index, step in enumerate(block.steps):
            if not isinstance(step, Factor) or step.shuffle.kind != "learned":
                continue
            where = f"{name}.step{index}"
            if where not in orders:
                raise UsageError(f"no order for the learned shuffle {where}; given: {', '.join(orders) or 'none'}")
            order = np.asarray(orders[where]).reshape(-1)
            shuffle = Shuffle("explicit", order=tuple(map(int, order)))
            at = written_at(block, index)
            if at != index:
                before = block.steps[at]
                assert isinstance(before, Factor)
                composed = compose(before.order, order)
                shuffle, found[name, index] = Shuffle("explicit", order=tuple(map(int, composed))), Shuffle()
            found[name, at] = shuffle
    return _rebuilt(architecture, lambda name, index, factor: found.get((name, index), factor.shuffle), _plain)


def written_at(block: Block, step: int) -> int:
    """Whose shuffle holds what was learned behind `step`: its own, or that of the factor which mixes before channel-wise ones."""
    at = step
    while at > 0 and _passes(block.steps[at]) and isinstance(block.steps[at], Factor):
        at -= 1
        if isinstance(block.steps[at], Factor) and not _passes(block.steps[at]):
            return at
    return step


def is_learned(architecture: Architecture) -> bool:
    """True if a shuffle or group counts are still to be learned, whether or not there is something to learn."""
    return learns_groups(architecture) or learns_shuffles(architecture)


def learns_shuffles(architecture: Architecture) -> bool:
    """True if a shuffle is still to be learned, whether or not there is something to learn."""
    blocks = [*(block.steps + (block.shortcut or ()) for _, block in architecture.blocks()), architecture.head_steps]
    return any(shuffle.kind == "learned" for steps in blocks for shuffle in _shuffles(steps))


class _Chain(NamedTuple):
    """The blocks of a network, and its head's steps: what absorbs a permutation of the channels between two blocks."""

    blocks: tuple[Block, ...]
    head: tuple[Step, ...]

    def before(self, position: int) -> bool:
        """True if any order of the channels that a block reads can be had by other weights in front of it."""
        if position == 0:
            return False  # the channels of an image have places
        block = self.blocks[position - 1]
        around = block.shortcut
        if not _is_dense(_last(block.steps)):
            return False
        if around == ():
            return _is_dense(_first(block.steps)) and self.before(position - 1)
        return around is None or _is_dense(_last(around))

    def behind(self, position: int) -> bool:
        """True if any order of the channels that a block writes can be made up for by other weights behind it."""
        if position + 1 == len(self.blocks):
            first = _first(self.head)
            return first is None or _is_dense(first)
        block = self.blocks[position + 1]
        around = block.shortcut
        if not _is_dense(_first(block.steps)):
            return False
        if around == ():
            return _is_dense(_last(block.steps)) and self.behind(position + 1)
        return around is None or _is_dense(_first(around))


def _gap(name: str, chain: _Chain, position: int, index: int) -> Gap | str:
    """The gap of a learned shuffle, or why there is nothing to learn."""
    block = chain.blocks[position]
    where, step = f"{name}.step{index}", block.steps[index]
    if block.learned_groups:
        return f"{where}: the block's group counts are learned, and with them which channels share a branch"
    if not isinstance(step, Factor):
        return f"{where}: a shuffle is learned behind a factor, not behind lanes"
    if index == len(block.steps) - 1:
        return _end_gap(name, chain, position, index)
    reader = block.steps[index + 1]
    if step.nm is not None or (isinstance(reader, Factor) and reader.nm is not None):
        return f"{where}: shuffles are learned between dense branches, not beside an N:M sparsity"
    if not isinstance(reader, Factor) or _is_channelwise(reader):
        return f"{where}: what follows does not mix channels; learn the shuffle in front of a factor that does"
    if reader.groups == 1:
        return f"{where}: the dense factor behind it absorbs any permutation (2)"
    mixing = _last(block.steps[: index + 1])
    gap = Gap(name, index, index + 1)
    if mixing is None:
        around = block.shortcut
        if around == ():
            absorbed = chain.before(position) and _is_dense(_last(block.steps)) and chain.behind(position)
        else:
            absorbed = chain.before(position) and (around is None or _is_dense(_first(around)))
        if absorbed:
            return f"{where}: the dense factor before the block absorbs any permutation (2)"
        return gap
    if _is_dense(mixing):
        return f"{where}: the dense factor before it absorbs any permutation (2)"
    found = level(block)
    if found not in ("strict", "nearly"):
        return gap
    if isinstance(mixing, Factor) and mixing.branch_width == 1:
        return f"{where}: the factor before it writes several channels for each, which only an interleave keeps {found}"
    return f"{where}: the block is {found} complementary, and only interleaved between two factors that mix (4, 5)"


def _end_gap(name: str, chain: _Chain, position: int, index: int) -> Gap | str:
    """As `_gap`, of the rows of the last factor."""
    block = chain.blocks[position]
    where, factor = f"{name}.step{index}", block.steps[index]
    assert isinstance(factor, Factor)
    if factor.nm is not None:
        return f"{where}: shuffles are learned of dense branches, not beside an N:M sparsity"
    if factor.groups == 1:
        return f"{where}: the rows of a dense factor absorb any permutation (2)"
    if factor.branch_width == 1:
        return f"{where}: the last factor has no branches of several channels; learn behind one that has"
    around = block.shortcut
    if around == ():
        if _is_dense(_first(block.steps)) and chain.before(position) and chain.behind(position):
            return f"{where}: the dense factors around absorb any permutation (2)"
        return Gap(name, index, index)
    if around is not None and not _is_dense(_last(around)):
        return Gap(name, index, index)
    if chain.behind(position):
        return f"{where}: what is dense behind the block absorbs any permutation (2)"
    after = chain.blocks[position + 1] if position + 1 < len(chain.blocks) else None
    if after is not None and after.shortcut is None and not after.learned_groups:
        first = after.steps[0]
        if isinstance(first, Factor) and _is_channelwise(first):
            return f"{where}: the block behind asks the same in front of its own first branches (3)"
    return Gap(name, index, index)


def _first(steps: tuple[Step, ...]) -> Step | None:
    """The first step that does not pass every channel through alone."""
    return next((step for step in steps if not _passes(step)), None)


def _last(steps: tuple[Step, ...]) -> Step | None:
    return _first(steps[::-1])


def _is_dense(step: Step | None) -> bool:
    return isinstance(step, Factor) and step.groups == 1 and step.nm is None


def _is_channelwise(factor: Factor) -> bool:
    return factor.branch_width == 1 and factor.in_channels == factor.out_channels


def _passes(step: Step) -> bool:
    """True if every channel goes through alone, or to itself (squeeze-excitation): any relabelling goes through."""
    return isinstance(step, ChannelStep) or (isinstance(step, Factor) and _is_channelwise(step))


def _inner(steps: tuple[Step, ...]) -> list[Factor]:
    return [factor for step in steps if isinstance(step, Parallel) for factor in every_factor((step,))]


def _plain(shuffle: Shuffle) -> Shuffle:
    return Shuffle() if shuffle.kind == "learned" else shuffle


def _shuffles(steps: tuple[Step, ...]) -> list[Shuffle]:
    found = []
    for step in steps:
        found += [] if isinstance(step, ChannelStep) else [step.shuffle]
        if isinstance(step, Parallel):
            found += [shuffle for lane in step.lanes for shuffle in _shuffles(lane)]
    return found


def _rebuilt(
    architecture: Architecture,
    own: Callable[[str, int, Factor], Shuffle],
    other: Callable[[Shuffle], Shuffle],
) -> Architecture:
    """With other shuffles: `own` says those of the factors of products, `other` all the rest (lanes, shortcuts, head)."""

    def rest(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        made: list[Step] = []
        for step in steps:
            if isinstance(step, Parallel):
                step = replace(step, lanes=tuple(rest(lane) for lane in step.lanes))
            made.append(step if isinstance(step, ChannelStep) else replace(step, shuffle=other(step.shuffle)))
        return tuple(made)

    def block_of(name: str, block: Block) -> Block:
        steps = tuple(
            replace(step, shuffle=own(name, index, step)) if isinstance(step, Factor) else rest((step,))[0]
            for index, step in enumerate(block.steps)
        )
        shortcut = None if block.shortcut is None else rest(block.shortcut)
        return (
            block
            if (steps, shortcut) == (block.steps, block.shortcut)
            else replace(block, steps=steps, shortcut=shortcut)
        )

    rebuilt = architecture.with_blocks([block_of(*named) for named in architecture.blocks()])
    if isinstance(rebuilt, StagedArchitecture):
        rebuilt = replace(rebuilt, head=replace(rebuilt.head, steps=rest(rebuilt.head_steps)))
    return rebuilt
