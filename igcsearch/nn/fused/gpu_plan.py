"""What an index of a product means, for the GPU kernels: wires, strides in place of tables, strict products. Floor 3.

gpu.py asks for the plan of an index tensor at each call; it is read from the device once and kept as long as the tensor lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


@dataclass(frozen=True)
class Wire:
    """A permutation: position j behind it holds row rows[j] from before it. None for both is the identity."""

    rows: Tensor | None = None
    inverse: Tensor | None = None

    def reversed(self) -> Wire:
        """The wire walked the other way."""
        return Wire(self.inverse, self.rows)


@dataclass(frozen=True)
class Map:
    """A map of two indices: table[a * S + b * T], or a * S + b * T itself where there is no table."""

    table: Tensor | None
    S: int
    T: int

    def swapped(self) -> Map:
        """The same map with its indices in the other order."""
        return Map(self.table, self.T, self.S)


@dataclass(frozen=True)
class Shape:
    """A factor: G branches that read K and write R channels; distances of rows and of terms in its weight."""

    G: int
    K: int
    R: int
    W_R: int
    W_K: int

    def transposed(self) -> Shape:
        """The factor's transpose, with the same weight."""
        return Shape(self.G, self.R, self.K, self.W_K, self.W_R)


@dataclass(frozen=True)
class Strict:
    """A strict two-factor product: A branches of K channels each, then B branches of A channels and R rows each.

    maps: channels of x (A, K), offsets in the first and in the second weight (A, B), channels of y (B, R).
    steps: distance of the weights of neighbouring channels of x, and of neighbouring rows of y.
    """

    A: int
    B: int
    K: int
    R: int
    maps: tuple[Map, Map, Map, Map]
    steps: tuple[int, int]
    wires: tuple[Wire, Wire]

    @property
    def width(self) -> int:
        return max(self.K, self.R)

    def transposed(self) -> Strict:
        """The transposed product, whose first weight is this one's second."""
        into, first, second, out = self.maps
        maps = (out, second.swapped(), first.swapped(), into)
        wires = (self.wires[1].reversed(), self.wires[0].reversed())
        return Strict(self.B, self.A, self.R, self.K, maps, self.steps[::-1], wires)


@dataclass(frozen=True)
class Plan:
    """What an index means: wires before, between and behind the factors, and the strict product that they are, if so."""

    shapes: list[Shape]
    wires: list[Wire]
    strict: Strict | None


_plans: dict[tuple[Any, ...], Plan] = {}


def plan_of(index: Tensor, weights: Sequence[Tensor], groups: Sequence[int]) -> Plan:
    """The plan of an index tensor. Made once for each (that waits for the device), then found without a look at its numbers.

    The weak reference keeps the memory's identity from being given to another tensor; a write changes the version.
    """
    version = 0 if index.is_inference() else index._version
    storage = StorageWeakRef(index.untyped_storage())
    sizes = tuple((weight.shape[0], weight.shape[1]) for weight in weights)
    key = (storage, index.storage_offset(), index.numel(), version, tuple(groups), sizes)
    if key not in _plans:
        for old in [old for old in _plans if old[0].expired()]:
            del _plans[old]
        _plans[key] = _read(index, sizes, groups)
    return _plans[key]


def _read(index: Tensor, sizes: Sequence[tuple[int, int]], groups: Sequence[int]) -> Plan:
    shapes = [Shape(G, K, out // G, K, 1) for (out, K), G in zip(sizes, groups, strict=True)]
    lengths = [shape.G * shape.K for shape in shapes] + [sizes[-1][0]]
    numbers = index.cpu().numpy()
    if len(numbers) != sum(lengths):
        raise ValueError(
            f"an index of {len(numbers)} numbers; factors {list(sizes)} in {list(groups)} branches need {sum(lengths)}"
        )
    parts = np.split(numbers, np.cumsum(lengths)[:-1])
    for number, part in enumerate(parts):
        if (np.sort(part) != np.arange(len(part))).any():
            raise ValueError(f"part {number} of the index is no permutation of {len(part)} rows: {part.tolist()}")
    rows = [*parts[:-1], np.argsort(parts[-1])]
    wires = [_wire(part, index.device) for part in rows]
    strict = _read_strict(rows, shapes, wires, index.device) if len(shapes) == 2 else None
    return Plan(shapes, wires, strict)


def _read_strict(rows: list[np.ndarray], shapes: list[Shape], wires: list[Wire], device: torch.device) -> Strict | None:
    """The strict product that two factors are, or None."""
    (A, K, B), (G, width, R) = ((shape.G, shape.K, shape.R) for shape in shapes)
    if (G, width) != (B, A):
        return None
    middle_BA = rows[1].reshape(B, A)
    order_BA = np.argsort(middle_BA // B, axis=1)  # the place of branch a's channel in branch b
    middle_BA = np.take_along_axis(middle_BA, order_BA, axis=1)
    if (middle_BA // B != np.arange(A)).any():
        return None
    second_BA = np.arange(B)[:, None] * (R * A) + order_BA
    tables = (rows[0].reshape(A, K), middle_BA.T * K, second_BA.T, np.argsort(rows[2]).reshape(B, R))
    into, first, second, out = (_map(table, device) for table in tables)
    return Strict(A, B, K, R, (into, first, second, out), (1, A), (wires[0], wires[2]))


def _wire(rows: np.ndarray, device: torch.device) -> Wire:
    if (rows == np.arange(len(rows))).all():
        return Wire()
    return Wire(_on(rows, device), _on(np.argsort(rows), device))


def _map(table: np.ndarray, device: torch.device) -> Map:
    """A table of two indices, as strides if it has them."""
    S, T = (int(line[1] - line[0]) if len(line) > 1 else 0 for line in (table[:, 0], table[0]))
    a, b = np.indices(table.shape)
    if (table == a * S + b * T).all():
        return Map(None, S, T)
    return Map(_on(table, device), table.shape[1], 1)


def _on(numbers: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int32)).to(device)
