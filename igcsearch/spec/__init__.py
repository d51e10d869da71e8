"""Floor 0: what networks are, as pure data, and what can be said of them without building one. No torch."""

from .architecture import SCHEMA, Architecture
from .block import Block, Parallel, Step
from .factor import ACTIVATIONS, Factor, Shuffle
from .graph import GraphArchitecture
from .problem import Budget, Cost, Problem
from .sparsity import Sparsity
from .staged import Head, Stage, StagedArchitecture
from .steps import ChannelStep, NormAct, Pool, SqueezeExcitation

__all__ = [
    "ACTIVATIONS",
    "SCHEMA",
    "Architecture",
    "Block",
    "Budget",
    "ChannelStep",
    "Cost",
    "Factor",
    "GraphArchitecture",
    "Head",
    "NormAct",
    "Parallel",
    "Pool",
    "Problem",
    "Shuffle",
    "Sparsity",
    "SqueezeExcitation",
    "Stage",
    "StagedArchitecture",
    "Step",
]
