"""Which architectures are the same network: the texts behind the equivalence key. Floor 0.

Channels that live only between two neighbouring factors of a product can be relabelled freely: the weights on both sides
absorb it (`igcv2.md` 1.5). So a shuffle between two factors matters only through the table of how many channels go from
branch i of the first to branch j of the second. Where that table is constant - next to a dense factor always, in a strict
two-factor product by the complementary condition - nothing is left of the shuffle. Every rule here keeps different networks apart,
in microseconds. Where something is left of a random or explicit shuffle, the whole network's wiring is labelled canonically
(labelling.py), which finds every pair of equal ones among those. Beside an N:M sparsity less is absorbed: which channels share a
group of M is part of the network, though which weights stay is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np

from .block import Block, Parallel, Step
from .factor import Factor, Shuffle
from .serialise import block_text, canonical, step_data
from .steps import ChannelStep

_FREE = ("random", "explicit")


def equivalence_text(block: Block) -> str:
    """Canonical text of a block with its shuffles reduced to what they mean; the family's name is left out."""
    shortcut = None if block.shortcut is None else _reduced_text(block.shortcut)
    return block_text(_reduced_text(block.steps), shortcut, block.activation, "", block.learned_groups)


def is_free(block: Block) -> bool:
    """True if a shuffle of the block is random or explicit: of no kind that has a closed form."""
    return any(step.shuffle.kind in _FREE for step in _shuffled((*block.steps, *(block.shortcut or ()))))


def patterned(block: Block, free_only: bool) -> Block:
    """The block with its random and explicit shuffles (or all but learned ones) of the kind that its steps have by default."""
    return _replaced(block, _FREE if free_only else (*_FREE, "interleave", "identity"))


def without_orders(block: Block) -> Block:
    """The block with an interleave for whatever shuffle has an order of its own, or is to have one: it runs as fast."""
    return _replaced(block, (*_FREE, "learned"))


def _replaced(block: Block, kinds: tuple[str, ...]) -> Block:
    shortcut = None if block.shortcut is None else _patterned(block.shortcut, kinds)
    return replace(block, steps=_patterned(block.steps, kinds), shortcut=shortcut)


def _patterned(steps: tuple[Step, ...], kinds: tuple[str, ...]) -> tuple[Step, ...]:
    made: list[Step] = []
    for step in steps:
        if isinstance(step, Parallel):
            step = replace(step, lanes=tuple(_patterned(lane, kinds) for lane in step.lanes))
        if not isinstance(step, ChannelStep) and step.shuffle.kind in kinds:
            step = replace(step, shuffle=Shuffle("identity") if isinstance(step, Parallel) else Shuffle())
        made.append(step)
    return tuple(made)


def _shuffled(steps: tuple[Step, ...]) -> Iterator[Factor | Parallel]:
    for step in steps:
        if not isinstance(step, ChannelStep):
            yield step
        if isinstance(step, Parallel):
            for lane in step.lanes:
                yield from _shuffled(lane)


def _reduced_text(steps: tuple[Step, ...]) -> str:
    texts, after = [], None
    for step in reversed(steps):
        texts.append(_step_text(step, after))
        after = (
            after if isinstance(step, ChannelStep) else step
        )  # a relabelling goes through, to what reads the channels
    return "[" + ",".join(reversed(texts)) + "]"


@lru_cache(maxsize=65536)
def _step_text(step: Step, after: Step | None) -> str:
    data = step_data(step)
    if isinstance(step, Parallel):
        data["lanes"] = [_reduced_text(lane) for lane in step.lanes]
    elif isinstance(step, Factor):
        data.pop("shuffle", None)
        what = reduced_shuffle(step, after)
        data |= {} if what is None else {"shuffle": what}
    return canonical(data)


def reduced_shuffle(factor: Factor, after: Step | None) -> str | None:
    """What the shuffle behind `factor` means: None (nothing), "learned", "even", "interleave", or a digest of its order.

    Args:
        factor: the factor before the shuffle.
        after: the step that reads the shuffled channels, None at the end of a product.
    """
    ordered_before = factor.nm is not None and factor.sparse_axis == "out"  # who shares a group of M is fixed there
    ordered_behind = isinstance(after, Factor) and after.nm is not None and after.sparse_axis == "in"
    if (factor.groups == 1 and not ordered_before) or (
        isinstance(after, Factor) and after.groups == 1 and not ordered_behind
    ):
        return None  # a dense neighbour absorbs any permutation
    if factor.shuffle.kind == "learned":
        return "learned"
    interleaved = factor.shuffle.kind == "interleave"
    freely = not ordered_before and not ordered_behind
    if freely and isinstance(after, Factor) and _mixes_evenly(factor, after, interleaved):
        return "even"
    order = factor.order
    if interleaved or np.array_equal(order, Shuffle().resolve(factor.out_channels, factor.groups)):
        return None if factor.groups == factor.out_channels else "interleave"
    return hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:32]


def _mixes_evenly(factor: Factor, after: Factor, interleaved: bool) -> bool:
    """True if every branch of `factor` sends equally many channels to every branch of `after`."""
    channels, width = factor.out_channels, after.branch_width
    if width % factor.groups:
        return False  # a branch of `after` cannot hold the same number of every branch of `factor`
    if interleaved:
        return True  # it takes runs of `width` positions of the sequence 0, 1, ..., G - 1, 0, 1, ...
    source = factor.order // (channels // factor.groups)
    table = np.zeros((factor.groups, after.groups), dtype=np.int64)
    np.add.at(table, (source, np.arange(channels) // width), 1)
    return bool((table == table[0, 0]).all())
