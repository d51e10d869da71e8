"""Floor 0: what networks are, as pure data, and what can be said of them without building one. No torch."""

from .architecture import SCHEMA, Architecture, Head, Stage
from .block import Block, Parallel, Pool, Step
from .factor import ACTIVATIONS, Factor, Shuffle
from .problem import Budget, Cost, Problem

__all__ = [
    "ACTIVATIONS",
    "SCHEMA",
    "Architecture",
    "Block",
    "Budget",
    "Cost",
    "Factor",
    "Head",
    "Parallel",
    "Pool",
    "Problem",
    "Shuffle",
    "Stage",
    "Step",
]
