"""Which channels of a graph can change places without a change of what it computes. Floor 6.

Every channel of every tensor is an *atom*; a norm, an activation, a pool, a channel-wise convolution hands its atoms on, a sum
ties those that it adds, a concatenation, slice, pad or shuffle moves them. Atoms that stand in the same tensors, and in the same
group of every group convolution, can be stored in each other's place: the weights of what writes and reads them are permuted
instead, and nothing is moved when the network runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..spec.graph import INPUT, GraphArchitecture, Node
from ..spec.operations import (
    BatchNorm,
    Concat,
    Convolution,
    Flatten,
    Gather,
    Linear,
    Pad,
    Slice,
)

Atoms = NDArray[np.int64]


def is_channelwise(convolution: Convolution) -> bool:
    """True if every output channel is made of the input channel of its number alone."""
    return convolution.groups == convolution.in_channels == convolution.out_channels


@dataclass(frozen=True)
class Channels:
    """The atoms of a graph.

    Args:
        of: for each node and "input" the atom of each channel that it gives; a flattened tensor has each as often as it has pixels.
        blocks: the sets of atoms that can change places with one another, those of one atom left out; each in ascending order.
        count: how many atoms there are.
    """

    of: dict[str, Atoms]
    blocks: tuple[Atoms, ...]
    count: int

    def same(self) -> Atoms:
        """The storage in which every atom stands in its own place."""
        return np.arange(self.count)

    def order(self, tensor: str, stored: Atoms) -> Atoms:
        """Which of its channels a tensor has at each place, where atom `stored[a]` stands in the place of atom a."""
        atoms = self.of[tensor]
        places = np.argsort(atoms, kind="stable")
        begins = np.searchsorted(atoms[places], np.arange(self.count))
        return np.asarray(places[begins[stored[atoms]] + _ranks(atoms)])


def channels_of(graph: GraphArchitecture) -> Channels:
    """The atoms of a graph and what can change places."""
    ties = _Ties()
    of: dict[str, Atoms] = {INPUT: ties.fresh(graph.in_channels)}
    fixed = [INPUT, graph.nodes[-1].name]
    shared = {node.shares for node in graph.nodes if node.shares is not None}
    branches: list[tuple[str, int]] = []
    for node in graph.nodes:
        of[node.name] = _made(node, of, graph.shapes[node.name][0], ties)
        if isinstance(node.operation, Convolution) and node.operation.groups > 1 and not is_channelwise(node.operation):
            branches += [(node.reads[0], node.operation.groups), (node.name, node.operation.groups)]
        sparse = isinstance(node.operation, Convolution) and node.operation.nm is not None  # its codes tell places
        if sparse or node.shares is not None or node.name in shared:  # one weight for two places: both keep their order
            fixed += [node.reads[0], node.name]
    of = {name: ties.roots(atoms) for name, atoms in of.items()}
    seen: list[list[tuple[Any, ...]]] = [[] for _ in range(ties.count)]
    ranks = {name: _ranks(atoms) for name, atoms in of.items()}
    for name, atoms in of.items():
        for atom in atoms.tolist():
            seen[atom].append((name,))
    for number, node in enumerate(graph.nodes):  # where an atom is twice in a tensor, its copies keep their roles
        for read, origins in zip(node.reads, _origins(node, of, len(of[node.name])), strict=False):
            there = np.flatnonzero(origins >= 0)
            pairs = zip(ranks[read][origins[there]].tolist(), ranks[node.name][there].tolist(), strict=True)
            for atom, pair in zip(of[node.name][there].tolist(), pairs, strict=True):
                seen[atom].append((number, *pair))
    for number, name in enumerate(fixed):
        for place, atom in enumerate(of[name].tolist()):
            seen[atom].append(("fixed", number, place))
    for number, (name, groups) in enumerate(branches):
        for g, part in enumerate(np.split(of[name], groups)):
            for atom in part.tolist():
                seen[atom].append(("branch", number, g))
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for atom, where_seen in enumerate(seen):
        if where_seen:
            alike[tuple(where_seen)].append(atom)
    blocks = tuple(np.array(atoms) for atoms in alike.values() if len(atoms) > 1)
    return Channels(of, blocks, ties.count)


def permuted(
    graph: GraphArchitecture, state: Mapping[str, Tensor], channels: Channels, stored: Atoms
) -> dict[str, Tensor]:
    """The state dict of the same network with its channels stored in other places.

    Args:
        stored: for each atom the one that takes its place; within the blocks.
    """
    result = dict(state)
    for node in graph.nodes:
        operation = node.operation
        if node.shares is not None or not isinstance(operation, BatchNorm | Convolution | Linear):
            continue
        if isinstance(operation, Convolution) and operation.nm is not None:
            continue  # nothing around it changes places
        rows = channels.order(node.name, stored)
        for key in ("weight", "bias", "running_mean", "running_var"):
            if (name := f"{node.name}.{key}") in result:
                result[name] = result[name][rows]
        if not isinstance(operation, BatchNorm) and not (
            isinstance(operation, Convolution) and is_channelwise(operation)
        ):
            columns = channels.order(node.reads[0], stored)
            groups = operation.groups if isinstance(operation, Convolution) else 1
            weight = result[f"{node.name}.weight"]
            result[f"{node.name}.weight"] = torch.cat(
                [part[:, c - c.min()] for part, c in zip(weight.chunk(groups), np.split(columns, groups), strict=True)]
            )
    return result


def _made(node: Node, of: dict[str, Atoms], width: int, ties: _Ties) -> Atoms:
    """The atoms that a node gives: those that it hands on, tied where it sums several, and new ones."""
    made = np.full(width, -1, dtype=np.int64)
    for read, origins in zip(node.reads, _origins(node, of, width), strict=False):
        given = np.where(origins >= 0, of[read][origins], -1)
        both = (given >= 0) & (made >= 0)
        ties.tie(made[both], given[both])
        made = np.where(made >= 0, made, given)
    made[made < 0] = ties.fresh(int((made < 0).sum()))
    return made


def _origins(node: Node, of: dict[str, Atoms], width: int) -> list[Atoms]:
    """For each tensor that a node hands channels on from, which of them each channel given is; -1 for none."""
    operation, widths, each = node.operation, [len(of[name]) for name in node.reads], np.arange(width)
    match operation:
        case Convolution() if not is_channelwise(operation):
            return []
        case Linear():
            return []
        case Concat():
            begins = np.cumsum([0, *widths])
            places = [each - begin for begin in begins[:-1]]
        case Slice():
            places = [each + operation.start]
        case Pad():
            places = [each - operation.channels[0]]
        case Gather():
            places = [np.array(operation.permutation(width))]
        case Flatten():
            places = [each // (width // widths[0])]
        case _:
            places = [each] * len(widths)
    return [np.where((place >= 0) & (place < n), place, -1) for place, n in zip(places, widths, strict=True)]


def _ranks(atoms: Atoms) -> Atoms:
    """Of each place the number of places before it with the same atom."""
    places = np.argsort(atoms, kind="stable")
    ranks = np.empty(len(atoms), dtype=np.int64)
    ranks[places] = np.arange(len(atoms)) - np.searchsorted(atoms[places], atoms[places])
    return ranks


class _Ties:
    """Atoms as numbers, and which of them are one."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    @property
    def count(self) -> int:
        return len(self._parent)

    def fresh(self, count: int) -> Atoms:
        first = len(self._parent)
        self._parent += range(first, first + count)
        return np.arange(first, first + count)

    def root(self, atom: int) -> int:
        while self._parent[atom] != atom:
            self._parent[atom] = self._parent[self._parent[atom]]
            atom = self._parent[atom]
        return atom

    def roots(self, atoms: Atoms) -> Atoms:
        return np.array([self.root(atom) for atom in atoms.tolist()], dtype=np.int64)

    def tie(self, first: Atoms, second: Atoms) -> None:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self.root(a), self.root(b)
            self._parent[max(a, b)] = min(a, b)
