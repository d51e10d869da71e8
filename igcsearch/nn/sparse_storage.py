"""Compact storage of N:M sparse weights: values that stay, packed codes of where they are. Floor 3; the layer is in sparse.py.

Shape legend: O output channels, I input channels of one branch, G branches, S kernel positions, L lines at one position, C channels
of a line, k kept of a line. spec/sparsity.py says what lines, groups of M and codes are. Along "in" L = O and C = I; along "out" L
= G * I and C = O / G.

Order of the storage: values (L, S, k) line after line (output channel o, or input channel g * I + i), position after position (row
by row), kept channels in ascending order. Codes follow the same order, one for each group or value, one behind the other in a
stream of bits: code j takes bits j * b to (j + 1) * b - 1, lowest first, and bit i of the stream is bit i % 8 of byte i // 8. The
pattern of places c_0 < c_1 < ... < c_(n-1) in a group has the number sum C(c_i, i + 1) (colexicographic order).
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError
from ..spec.sparsity import Sparsity

Shape = tuple[int, int, int, int]


@torch.no_grad()
def strongest(scores: Tensor, sparsity: Sparsity, groups: int = 1) -> Tensor:
    """The mask of the largest scores of each group, the first of equal ones. (C_out, C_in / G, kh, kw) to the same, bool."""
    lines_LSC = _lines(scores, sparsity, groups)
    full = lines_LSC.shape[2] // sparsity.m * sparsity.m
    kept_LSC = torch.zeros_like(lines_LSC, dtype=torch.bool)
    for begin, end, size in ((0, full, sparsity.m), (full, lines_LSC.shape[2], lines_LSC.shape[2] - full)):
        if begin < end:
            part, kept = (each[:, :, begin:end].unflatten(2, (-1, size)) for each in (lines_LSC, kept_LSC))
            order = part.argsort(dim=3, descending=True, stable=True)[..., : sparsity.kept_of(size)]
            kept.scatter_(3, order, True)  # a view
    return _kernels(kept_LSC, tuple(scores.shape), sparsity, groups)


def compact(weight: Tensor, mask: Tensor, sparsity: Sparsity, groups: int = 1) -> tuple[Tensor, Tensor]:
    """What is stored of a weight (C_out, C_in / G, kh, kw): values (L, S, k), and codes (bytes,) uint8.

    Args:
        mask: of the weight's shape, True where a weight stays.

    Raises:
        UsageError: another shape, or a mask that does not keep as many of each group as the sparsity says.
    """
    if mask.shape != weight.shape:
        raise UsageError(f"a mask of shape {tuple(mask.shape)} is given for a weight of shape {tuple(weight.shape)}")
    lines_LSC, kept_LSC = _lines(weight, sparsity, groups), _lines(mask.bool(), sparsity, groups)
    lines, area, channels = kept_LSC.shape
    for at in range(0, channels, sparsity.m):
        size = min(sparsity.m, channels - at)
        if (kept_LSC[:, :, at : at + size].sum(dim=2) != sparsity.kept_of(size)).any():
            raise UsageError(
                f"the mask does not keep {sparsity.kept_of(size)} of channels {at} to {at + size - 1} everywhere, as {sparsity} "
                "does; nn.sparse.strongest makes one that does"
            )
    found_LSk = kept_LSC.nonzero()[:, 2].reshape(lines, area, -1)
    return lines_LSC.gather(2, found_LSk), _packed(*_encoded(found_LSk, channels, sparsity))


def places(codes: Tensor, sparsity: Sparsity, weight_shape: Shape, groups: int = 1) -> Tensor:
    """Where each stored value is in the flattened dense weight, (L * S * k,) int64: the inverse of `compact`'s codes.

    Raises:
        UsageError: codes that `compact` cannot have made.
    """
    out_channels, width, *_ = weight_shape
    area = weight_shape[2] * weight_shape[3]
    channels_LSk = decoded(codes, sparsity, weight_shape, groups)
    line = torch.arange(len(channels_LSk), device=codes.device)[:, None, None]
    position = torch.arange(area, device=codes.device)[None, :, None]
    if sparsity.axis == "in":
        row, column = line, channels_LSk
    else:
        row, column = line // width * (out_channels // groups) + channels_LSk, line % width
    return ((row * width + column) * area + position).flatten()


def decoded(codes: Tensor, sparsity: Sparsity, weight_shape: Shape, groups: int = 1) -> Tensor:
    """The channel of each stored value in its line, (L, S, k) int64.

    Raises:
        UsageError: as `places`.
    """
    lines, channels = sparsity.line(weight_shape[1] * groups, weight_shape[0], groups)
    area, bits, count = weight_shape[2] * weight_shape[3], sparsity.code_bits(channels), sparsity.codes_of(channels)
    found = _unpacked(codes, bits, lines * area * count).reshape(lines, area, count)
    own = sparsity.on(channels)
    full, rest = divmod(channels, own.m)
    parts = []
    for groups_of, size, first in ((full, own.m, 0), (int(rest > 0), rest, full)):
        if not groups_of:
            continue
        kept = own.kept_of(size)
        if sparsity.coding(channels) == "pattern":
            part = found[:, :, first : first + groups_of]
            table = _patterns(size, kept).to(codes.device)
            _check(bool((part < len(table)).all()), sparsity)
            part = table[part]  # (L, S, groups, kept)
        else:
            part = found[:, :, first * own.n :][:, :, : groups_of * kept].reshape(lines, area, groups_of, kept)
            _check(bool((part < size).all() and (part.diff(dim=3) > 0).all()), sparsity)
        begin = (torch.arange(groups_of, device=codes.device) + first) * own.m
        parts.append((part + begin[:, None]).flatten(2))
    return torch.cat(parts, dim=2)


def dense(values: Tensor, codes: Tensor, sparsity: Sparsity, weight_shape: Shape, groups: int = 1) -> Tensor:
    """The weight (C_out, C_in / G, kh, kw) of stored values and codes."""
    return put(values, places(codes, sparsity, weight_shape, groups), weight_shape)


def put(values: Tensor, where: Tensor, shape: Shape) -> Tensor:
    """Stored values at their `places` in a weight of that shape, zeros elsewhere; differentiable in the values."""
    zeros = torch.zeros(math.prod(shape), dtype=values.dtype, device=values.device)
    return zeros.scatter(0, where, values.flatten()).view(shape)


def _lines(kernels: Tensor, sparsity: Sparsity, groups: int) -> Tensor:
    """(C_out, C_in / G, kh, kw) to (L, S, C)."""
    out_channels, width = kernels.shape[:2]
    if sparsity.axis == "in":
        return kernels.flatten(2).transpose(1, 2)
    rows = out_channels // groups
    return kernels.reshape(groups, rows, width, -1).permute(0, 2, 3, 1).flatten(0, 1)


def _kernels(lines_LSC: Tensor, shape: tuple[int, ...], sparsity: Sparsity, groups: int) -> Tensor:
    """The inverse of `_lines`."""
    if sparsity.axis == "in":
        return lines_LSC.transpose(1, 2).reshape(shape)
    return lines_LSC.reshape(groups, shape[1], -1, shape[0] // groups).permute(0, 3, 1, 2).reshape(shape)


def _encoded(channels_LSk: Tensor, channels: int, sparsity: Sparsity) -> tuple[Tensor, int]:
    """The codes of kept channels, flattened, and the bits of one."""
    own, bits = sparsity.on(channels), sparsity.code_bits(channels)
    if sparsity.coding(channels) == "index":
        return (channels_LSk % own.m).flatten(), bits
    lines, area, _ = channels_LSk.shape
    full, rest = divmod(channels, own.m)
    inside = channels_LSk % own.m
    codes = [_ranks(inside[:, :, : full * own.n].reshape(lines, area, full, own.n), own.m)]
    if rest:
        codes.append(_ranks(inside[:, :, None, full * own.n :], own.m))
    return torch.cat(codes, dim=2).flatten(), bits


def _ranks(places_k: Tensor, m: int) -> Tensor:
    """The number of each pattern of ascending places, (..., k) to (...): sum C(c_i, i + 1)."""
    kept = places_k.shape[-1]
    table = torch.tensor([[math.comb(c, i + 1) for i in range(kept)] for c in range(m)], device=places_k.device)
    return table[places_k, torch.arange(kept, device=places_k.device)].sum(dim=-1)


@lru_cache(maxsize=64)
def _patterns(m: int, n: int) -> Tensor:
    """All patterns by their number, (C(m, n), n): colexicographic order."""
    found = sorted(itertools.combinations(range(m), n), key=lambda places: places[::-1])
    return torch.tensor(found, dtype=torch.int64, device="cpu")


def _packed(codes: Tensor, bits: int) -> Tensor:
    """Whole numbers below 2**bits as a stream of bits, in bytes."""
    stream = ((codes[:, None] >> torch.arange(bits, device=codes.device)) & 1).to(torch.uint8).flatten()
    bytes_8 = F.pad(stream, (0, -len(stream) % 8)).reshape(-1, 8)
    return (bytes_8 << torch.arange(8, dtype=torch.uint8, device=codes.device)).sum(dim=1, dtype=torch.uint8)


def _unpacked(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `_packed`: so many numbers, int64."""
    stream = (packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    codes = stream.flatten()[: count * bits].reshape(count, bits).to(torch.int64)
    return (codes << torch.arange(bits, device=packed.device)).sum(dim=1)


def _check(holds: bool, sparsity: Sparsity) -> None:
    if not holds:
        raise UsageError(
            f"the codes of a {sparsity} convolution name places that no group has; the weights are damaged"
        )
