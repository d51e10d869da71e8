"""Tiny images, such as scikit-learn's 8x8 digits: two or three stages, at full resolution first."""

from __future__ import annotations

from igcsearch.spec import Architecture, Problem

from . import staged
from .choices import Trial
from .plans import Layout, Schedule

# Of 69 random networks of at most 20k parameters, trained for 12 epochs, the 11 best began at full resolution. The one schedule
# that does not is there for tight budgets of MACs.
LAYOUT = Layout(
    name="digits",
    sizes=(4, 20),
    other="use space 'cifar' or 'mobile' for larger ones, or an image size within",
    schedules=(
        Schedule(1, (1, 2, 2)),
        Schedule(1, (1, 2, 1)),
        Schedule(1, (1, 1, 2)),
        Schedule(1, (1, 2)),
        Schedule(1, (2, 2)),
    ),
    widths=(8, 12, 16, 20, 24, 32, 36, 40, 48, 60, 64, 72, 80, 96, 108, 120, 128, 144, 160, 180, 192),
    widest=256,
)


def space(trial: Trial, problem: Problem) -> Architecture:
    """A network for tiny images; see `staged.propose`."""
    return staged.propose(trial, problem, LAYOUT)


def smallest(problem: Problem) -> Architecture:
    """The space's smallest network; see `staged.smallest`."""
    return staged.smallest(problem, LAYOUT)
