"""The blocks that `benchmarks.blocks` measures, and the dense block that each stands for."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

from igcsearch.blocks import igcv1, igcv2, igcv3
from igcsearch.errors import UsageError
from igcsearch.search.settle import RandomTrial
from igcsearch.search_spaces import get_space
from igcsearch.spec import Block, Budget, Factor, Problem, Shuffle

SPACES = {
    "cifar": Problem(32, 3, 10, Budget(params=250_000, macs=20_000_000)),
    "mobile": Problem(224, 3, 1000, Budget(params=4_000_000, macs=300_000_000)),
}
BATCHES = (1, 16, 64)


class Case(NamedTuple):
    """A block on a map of side `size`, with `batch` images."""

    block: Block
    size: int
    batch: int

    @property
    def branch_widths(self) -> list[int]:
        """K of every factor, in order."""
        return [factor.branch_width for factor in self.block.factors]

    @property
    def label(self) -> str:
        """What the tables call the block."""
        block = self.block
        widths = str(block.out_channels) if block.in_channels == block.out_channels else ""
        widths = widths or f"{block.in_channels} to {block.out_channels}"
        stride = f" / {block.stride}" if block.stride > 1 else ""
        return f"{block.family} {widths}{stride}: {' '.join(map(str, self.branch_widths))}"


def product(channels: int, *branch_widths: int) -> Block:
    """Pointwise factors with an interleave behind each, nothing else."""
    factors = (Factor(channels, channels, groups=channels // width) for width in branch_widths)
    return Block(tuple(factors), family="product")


def dense(block: Block) -> Block:
    """What the block stands for: each run of linear 1x1 factors as one dense 1x1, a k x k that leads into one channel-wise.

    So IGCV1 and IGCV2 become a separable convolution and IGCV3 becomes MobileNet V2's block; a k x k alone stays.
    """
    plain, steps = Shuffle("identity"), list[Factor]()
    for factor, after in zip(block.factors, (*block.factors[1:], None), strict=True):
        width = steps[-1].out_channels if steps else block.in_channels
        bare = not factor.norm and not factor.bias and factor.activation is None
        if factor.kernel_size > 1:
            if bare and after is not None and after.kernel_size == 1:
                factor = replace(factor, out_channels=width, groups=width)
            steps.append(replace(factor, shuffle=plain))
            continue
        before = steps[-1] if steps else None
        if before is not None and before.kernel_size == 1 and not before.norm and before.activation is None:
            width = steps.pop().in_channels
        steps.append(replace(factor, in_channels=width, groups=1, shuffle=plain))
    return replace(block, steps=tuple(steps), family="dense")


QUICK = (
    Case(product(64, 8, 8), 32, 32),
    Case(product(256, 16, 16), 16, 32),
    Case(product(256, 16, 16), 8, 64),
    Case(product(1024, 32, 32), 8, 32),
)
MORE = (
    Case(product(24, 4, 6), 28, 64),
    Case(product(48, 6, 8), 28, 64),
    Case(product(72, 8, 9), 14, 64),
    Case(product(96, 8, 12), 14, 64),
    Case(product(160, 10, 16), 14, 64),
    Case(product(160, 10, 16), 7, 1),
    Case(product(512, 16, 32), 14, 1),
    Case(product(512, 16, 32), 7, 64),
    Case(product(64, 4, 4, 4), 32, 64),
    Case(product(64, 4, 4, 4), 14, 1),
    Case(product(512, 8, 8, 8), 7, 64),
    Case(product(512, 8, 8, 8), 7, 1),
    Case(product(256, 4, 4, 4, 4), 14, 64),
    Case(igcv2(64, 64, branch_widths=(8, 8)), 56, 1),
    Case(igcv2(64, 64, branch_widths=(8, 8)), 32, 64),
    Case(igcv2(256, 256, branch_widths=(16, 16)), 14, 64),
    Case(igcv2(256, 256, branch_widths=(16, 16), residual=True), 14, 1),
    Case(igcv2(512, 512, branch_widths=(16, 32)), 7, 64),
    Case(igcv2(160, 320, branch_widths=(10, 16), stride=2), 14, 64),
    Case(igcv2(64, 64, branch_widths=(4, 8), spatial_branch_width=2), 28, 64),
    Case(igcv1(48, 48, primary_groups=24), 28, 64),
    Case(igcv1(96, 96, primary_groups=24, residual=True), 14, 64),
    Case(igcv1(192, 192, primary_groups=48), 7, 1),
    Case(igcv3(24, 24), 28, 64),
    Case(igcv3(96, 96), 14, 1),
)


def sampled(count: int, seed: int = 0) -> list[Case]:
    """Blocks as the spaces propose them, where they stand in their networks; all different, none dense."""
    stream, found = random.Random(seed), dict[str, Case]()
    while len(found) < count:
        name = stream.choice(tuple(SPACES))
        architecture = get_space(name).limited(("interleave", "random")).propose(RandomTrial(stream), SPACES[name])
        size, cases = architecture.image_size, list[Case]()
        for _, block in architecture.blocks():
            cases.append(Case(block, size, stream.choice(BATCHES)))
            size = block.cost_at(size)[1]
        case = stream.choice(cases[1:])
        if any(factor.groups > 1 for factor in case.block.factors):
            found.setdefault(case.block.text, case)
    return list(found.values())


def parse(text: str) -> Case:
    """A product from CHANNELS:WIDTH,WIDTH:SIZE:BATCH.

    Raises:
        UsageError: anything else.
    """
    try:
        channels, widths, size, batch = text.split(":")
        return Case(product(int(channels), *map(int, widths.split(","))), int(size), int(batch))
    except (ValueError, ZeroDivisionError) as error:  # a UsageError of the block is a ValueError too
        raise UsageError(f"{text!r} is no CHANNELS:WIDTH,WIDTH:SIZE:BATCH such as 64:8,8:32:32: {error}") from None
