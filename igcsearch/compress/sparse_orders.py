"""Where the channels of a whole network stand, so that N:M sparsity keeps much of the weights. Floor 6.

All layers that read (axis "out": write) the same channels have them in one order, folded into the weights: nothing is moved when
the network runs. What the layers keep is summed, each by its weight; see permutations/lines.py for the search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..permutations.lines import Block, Reader, arrange, rounds_for
from ..spec.graph import GraphArchitecture
from ..spec.operations import Convolution
from ..spec.sparsity import Sparsity
from .channels import Atoms, Channels
from .orders import places_of
from .progress import Progress, Say, silent


@dataclass(frozen=True)
class Sparse:
    """A layer that is to be sparse.

    Args:
        name: of the node.
        sparsity: N:M and its axis.
        scores: of its weights, of their shape, not negative.
        weight: of its kept share in the sum over layers.
    """

    name: str
    sparsity: Sparsity
    scores: Tensor
    weight: float = 1.0


def settled_lines(
    graph: GraphArchitecture, channels: Channels, layers: Sequence[Sparse], *, seed: int = 0, say: Say = silent
) -> Atoms:
    """For each atom the one that takes its place (`channels.permuted`): the layers keep no less than as channels stand.

    Args:
        seed: of the search; the same gives the same on every machine.
        say: is given a line every ten seconds.
    """
    stored = channels.same()
    readers: list[tuple[Atoms, Reader]] = []  # of each branch its atoms, in order
    for layer in layers:
        readers += _readers(graph, channels, layer)
    reading: dict[int, list[tuple[Atoms, Reader]]] = {}  # by atom; a block's atoms stand in the same tensors
    for own, reader in readers:
        for atom in np.unique(own).tolist():
            reading.setdefault(atom, []).append((own, reader))
    blocks = []
    for atoms in channels.blocks:
        sides = [
            (reader, places[:, column])
            for own, reader in reading.get(int(atoms[0]), [])
            if np.isin(atoms, own).all()
            for places in [places_of(own, atoms)]
            for column in range(places.shape[1])
        ]
        if sides:
            blocks.append((atoms, Block(len(atoms), sides)))
    held = [np.arange(len(atoms)) for atoms, _ in blocks]
    touched = [id(reader) for _, block in blocks for reader in {id(r): r for r, _ in block.sides}.values()]
    passes = (
        1 if len(set(touched)) == len(touched) else 2
    )  # where blocks share groups, what one gains changes with the other
    progress = Progress("orders of channels", say)
    rng = np.random.default_rng(seed)
    rounds = rounds_for([block for _, block in blocks])
    for number in range(passes):
        for at, (_, block) in enumerate(blocks):
            progress.at((number + at / len(blocks)) / passes)
            held[at] = held[at][arrange(block, rng, rounds=rounds)]
    for (atoms, _), mine in zip(blocks, held, strict=True):
        stored[atoms] = atoms[mine]
    return stored


def _readers(graph: GraphArchitecture, channels: Channels, layer: Sparse) -> list[tuple[Atoms, Reader]]:
    node = graph.node(layer.name)
    convolution = node.operation
    assert isinstance(convolution, Convolution)
    along_in = layer.sparsity.axis == "in"
    atoms = channels.of[node.reads[0] if along_in else node.name]
    scores = layer.scores.detach().double().flatten(2).numpy()  # (C_out, C_in / G, S)
    scores = scores * (layer.weight / max(float(scores.sum()), 1e-300))
    found = []
    for own, part in zip(np.split(atoms, convolution.groups), np.split(scores, convolution.groups), strict=True):
        lines: NDArray[np.float64] = part.transpose(1, 0, 2) if along_in else part
        if layer.sparsity.n < layer.sparsity.m:
            made = Reader(lines.reshape(len(own), -1), layer.sparsity.n, layer.sparsity.m)
            found.append((own, made))
    return found


def sparse_layers(
    sparsities: Mapping[str, Sparsity], scores: Mapping[str, Tensor], weights: Mapping[str, float] | None = None
) -> list[Sparse]:
    """The layers of these sparsities, by name."""
    return [
        Sparse(name, sparsity, scores[name], 1.0 if weights is None else weights[name])
        for name, sparsity in sparsities.items()
    ]
