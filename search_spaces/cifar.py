"""Small images, 32x32 colour or 28x28 grey: three stages, the stem at full or half resolution."""

from __future__ import annotations

from igcsearch.spec import Architecture, Problem

from . import staged
from .choices import Trial
from .plans import Layout, Schedule

# A 3x3 stem at full resolution costs 9 * 784 = 7056 MACs a channel on 28x28 grey images, and the blocks there several times
# that: under about 5 M MACs a network does better to shrink the map early.
LAYOUT = Layout(
    name="cifar",
    sizes=(16, 64),
    other="use space 'digits' for smaller or 'mobile' for larger ones, or an image size within",
    schedules=(
        Schedule(1, (1, 2, 2)),
        Schedule(1, (2, 1, 2)),
        Schedule(1, (2, 2, 1)),
        Schedule(1, (2, 2, 2)),
        Schedule(2, (1, 1, 2)),
        Schedule(2, (1, 2, 1)),
        Schedule(2, (1, 2, 2)),
        Schedule(2, (2, 2, 2)),
    ),
    widths=(8, 12, 16, 20, 24, 32, 36, 40, 48, 60, 64, 72, 80, 96, 108, 120, 128, 144, 160, 180, 192, 216, 240, 256),
    widest=512,
    last_size=4,
    depths=(1, 2, 3, 4, 5, 6),
)


def space(trial: Trial, problem: Problem) -> Architecture:
    """A network for small images; see `staged.propose`."""
    return staged.propose(trial, problem, LAYOUT)


def smallest(problem: Problem) -> Architecture:
    """The space's smallest network; see `staged.smallest`."""
    return staged.smallest(problem, LAYOUT)
