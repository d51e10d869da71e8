"""Linear products of 1x1 factors run as the one matrix that they are. Floor 3.

Between the factors of an IGC product stands nothing, so W = P_L W_L ... P_1 W_1 can be multiplied out (C_out x C_in, a small
product of block-diagonal matrices) and applied as a single 1x1 convolution; gradients flow through the multiplication
into the factors, whose parameters are all there is. Every shuffle vanishes into the indexing. Small networks train about 1.6
times as fast as with stock group convolutions (docs/measurements.md). It executes C_in * C_out multiply-adds a position,
which is why wide products stay factored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spec.permutations import invert
from .layers import FactorLayer

#: Widest product that is multiplied out: above it stock group convolutions win on a CPU (docs/measurements.md).
WIDEST = 160


class LinearProduct:
    """Consecutive 1x1 factors without norm, bias or activation between them, multiplied out at each call.

    No module: the parameters belong to `layers`, which the block owns. (N, C_in, H, W) to (N, C_out, H, W).

    Args:
        layers: the factors' layers, in order.
        before: a factor whose shuffle is still to be applied to the input, or None.
    """

    def __init__(self, layers: Sequence[FactorLayer], before: FactorLayer | None = None) -> None:
        self.layers = tuple(layers)
        self._columns = None if before is None else torch.tensor(invert(before.factor.order))
        self._rows = tuple(torch.tensor(layer.factor.order) for layer in layers)

    def matrix(self) -> Tensor:
        """The product of all factors and shuffles, shape (C_out, C_in)."""
        total = _block_diagonal(self.layers[0])
        self._follow(total.device)
        total = total[self._rows[0]]
        for layer, rows in zip(self.layers[1:], self._rows[1:], strict=True):
            groups, width = layer.factor.groups, layer.factor.branch_width
            weight_GOK = layer.conv.weight.view(groups, -1, width)
            total = torch.bmm(weight_GOK, total.view(groups, width, -1)).flatten(0, 1)[rows]
        return total if self._columns is None else total[:, self._columns]

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """One 1x1 convolution by the multiplied-out matrix, then the last factor's norm and activation."""
        return self.layers[-1].finish(F.conv2d(x_NCHW, self.matrix()[:, :, None, None]))

    def _follow(self, device: torch.device) -> None:
        """Move the indices to where the weights have been moved."""
        if self._rows[0].device != device:
            self._rows = tuple(rows.to(device) for rows in self._rows)
            self._columns = None if self._columns is None else self._columns.to(device)


def _block_diagonal(layer: FactorLayer) -> Tensor:
    """A 1x1 factor's weights as an explicit matrix, shape (C_out, C_in)."""
    factor, weight = layer.factor, layer.conv.weight
    groups, width = factor.groups, factor.branch_width
    if groups == 1:
        return weight[:, :, 0, 0]
    eye_GG = torch.eye(groups, dtype=weight.dtype, device=weight.device)
    blocks_GOK = weight.view(groups, -1, width)
    return (blocks_GOK[:, :, None, :] * eye_GG[:, None, :, None]).reshape(factor.out_channels, factor.in_channels)


def multiplied_out(layers: Sequence[nn.Module]) -> list[Callable[[Tensor], Tensor]]:
    """The same product with its linear runs of 1x1 factors (at most WIDEST wide) replaced by `LinearProduct`s.

    The shuffle behind a factor that leads into a run moves into the run's matrix.
    """
    plan: list[Callable[[Tensor], Tensor]] = []
    start = 0
    while start < len(layers):
        run = _run_length(layers, start)
        if run == 0:
            plan.append(layers[start])
            start += 1
            continue
        before = plan[-1] if plan else None
        if isinstance(before, FactorLayer) and _is_bare(before):
            plan[-1] = before.conv
        else:
            before = None
        factors = [layer for layer in layers[start : start + run] if isinstance(layer, FactorLayer)]
        plan.append(LinearProduct(factors, before))
        start += run
    return plan


def _run_length(layers: Sequence[nn.Module], start: int) -> int:
    """How many layers from `start` on are one linear product worth multiplying out; 0 if none."""
    length = 0
    for layer in layers[start:]:
        if not isinstance(layer, FactorLayer) or not _is_pointwise(layer):
            break
        length += 1
        if not _is_bare(layer):
            break
    grouped = any(
        isinstance(layer, FactorLayer) and layer.factor.groups > 1 for layer in layers[start : start + length]
    )
    return length if grouped else 0


def _is_pointwise(layer: FactorLayer) -> bool:
    factor = layer.factor
    widest = max(factor.in_channels, factor.out_channels)
    return factor.kernel_size == 1 and factor.stride == 1 and not factor.bias and widest <= WIDEST


def _is_bare(layer: FactorLayer) -> bool:
    """True if nothing but the shuffle stands behind the convolution."""
    return not layer.factor.norm and layer.factor.activation is None
