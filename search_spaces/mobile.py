"""Photographs, 224x224: a stem of stride 2, four or five stages, and a head convolution."""

from __future__ import annotations

from igcsearch.spec import Architecture, Problem

from . import staged
from .choices import Trial
from .plans import Layout, Schedule

LAYOUT = Layout(
    name="mobile",
    sizes=(64, 512),
    other="use space 'cifar' for smaller ones, or an image size within",
    schedules=(
        Schedule(2, (1, 2, 2, 2, 2)),
        Schedule(2, (1, 2, 2, 2, 1)),
        Schedule(2, (2, 2, 2, 1, 2)),
        Schedule(2, (2, 2, 1, 2)),
        Schedule(2, (2, 2, 2, 2)),
    ),
    widths=(8, 12, 16, 20, 24, 32, 36, 40, 48, 60, 64, 72, 80, 96, 108, 120, 128, 144, 160, 192),
    widest=1024,
    depths=(1, 2, 3, 4, 5, 6),
    heads=(0, 2, 3, 4),
)


def space(trial: Trial, problem: Problem) -> Architecture:
    """A network for photographs; see `staged.propose`."""
    return staged.propose(trial, problem, LAYOUT)


def smallest(problem: Problem) -> Architecture:
    """The space's smallest network; see `staged.smallest`."""
    return staged.smallest(problem, LAYOUT)
