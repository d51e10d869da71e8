"""Linear products of 1x1 factors, which stand in IGC blocks with nothing between them, and the ways to run one. Floor 3.

W = P_L W_L ... P_1 W_1 runs, with the same parameters and to rounding the same results,

- fused (fused/): factor after factor on tiles that stay in the cache, one read and one write of the activation;
- multiplied out: as the one matrix that it is (C_out x C_in), through which gradients flow into the factors;
- stock: one group convolution and one copy for the shuffle a factor.

Which one is a static table, so that one seed gives the same numbers on one machine; docs/measurements.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spec.permutations import invert
from .fused import fused_available, product, wiring
from .layers import FactorLayer
from .sparse import kernel

#: Widest product that is multiplied out: above it stock group convolutions win on a CPU (docs/measurements.md).
WIDEST = 160
#: Narrowest product that runs fused: below it the call costs more than the work.
NARROWEST = 12
WAYS = ("fused", "multiplied", "stock")


class LinearProduct:
    """A factor of any kernel and the 1x1 factors behind it, or 1x1 factors alone; no norm, bias or activation between them.

    No module: the parameters belong to `layers`, which the block owns. (N, C_in, H, W) to (N, C_out, H, W).

    Args:
        layers: the factors' layers, in order.
        before: a factor whose shuffle is still to be applied to the input, or None.
    """

    def __init__(self, layers: Sequence[FactorLayer], before: FactorLayer | None = None) -> None:
        self.layers = tuple(layers)
        factors = [layer.factor for layer in layers]
        self.way: str | None = None  # one of WAYS instead of the table's
        self.widest = max(max(factor.in_channels, factor.out_channels) for factor in factors)
        self.spatial = factors[0].kernel_size > 1
        self.stride = factors[0].stride
        self._before = before
        self._groups = [factor.groups for factor in factors]
        self._index = wiring(factors, None if before is None else before.factor.order)
        self._columns = None if before is None else torch.tensor(invert(before.factor.order))
        self._rows = tuple(torch.tensor(layer.factor.order) for layer in layers)

    def matrix(self) -> Tensor:
        """The product of all factors and shuffles, shape (C_out, C_in)."""
        total = _block_diagonal(self.layers[0])
        self._follow(total.device)
        total = total[self._rows[0]]
        for layer, rows in zip(self.layers[1:], self._rows[1:], strict=True):
            groups, width = layer.factor.groups, layer.factor.branch_width
            weight_GOK = kernel(layer.conv).view(groups, -1, width)
            total = torch.bmm(weight_GOK, total.view(groups, width, -1)).flatten(0, 1)[rows]
        return total if self._columns is None else total[:, self._columns]

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """The product, then the last factor's norm and activation."""
        way = self.way or self.choice(x_NCHW)
        if way == "fused":
            self._follow(x_NCHW.device)
            weights = [kernel(layer.conv) for layer in self.layers]
            y_NCHW = product(x_NCHW, weights, self._index, self._groups, stride=self.stride)
        elif way == "multiplied":
            y_NCHW = F.conv2d(x_NCHW, self.matrix()[:, :, None, None])
        else:
            y_NCHW = x_NCHW if self._before is None else self._before.shuffle(x_NCHW)
            for layer in self.layers:
                y_NCHW = layer.shuffle(layer.conv(y_NCHW))
        return self.layers[-1].finish(y_NCHW)

    def choice(self, x_NCHW: Tensor) -> str:
        """The table's way for such an input."""
        kind = x_NCHW.device.type
        autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else x_NCHW.dtype
        if kind == "cpu" and self.widest >= NARROWEST and fused_available(kind, dtype):
            return "fused"
        return "multiplied" if self.widest <= WIDEST and not self.spatial else "stock"

    def _follow(self, device: torch.device) -> None:
        """Move the indices to where the weights have been moved."""
        if self._rows[0].device == device:
            return
        with torch.inference_mode(False):  # they are used in training too, whoever comes first
            self._rows = tuple(rows.to(device) for rows in self._rows)
            self._index = self._index.to(device)
            self._columns = None if self._columns is None else self._columns.to(device)


def _block_diagonal(layer: FactorLayer) -> Tensor:
    """A 1x1 factor's weights as an explicit matrix, shape (C_out, C_in)."""
    factor, weight = layer.factor, kernel(layer.conv)
    groups, width = factor.groups, factor.branch_width
    if groups == 1:
        return weight[:, :, 0, 0]
    eye_GG = torch.eye(groups, dtype=weight.dtype, device=weight.device)
    blocks_GOK = weight.view(groups, -1, width)
    return (blocks_GOK[:, :, None, :] * eye_GG[:, None, :, None]).reshape(factor.out_channels, factor.in_channels)


def planned(layers: Sequence[nn.Module]) -> list[Callable[[Tensor], Tensor]]:
    """The same product with its linear runs of 1x1 factors replaced by `LinearProduct`s.

    The shuffle behind a factor that leads into a run moves into the run.
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
    """How many layers from `start` on are one linear product with a branch in it; 0 if none.

    Factors with an N:M sparsity run by themselves.
    """
    length = 0
    for layer in layers[start:]:
        if not isinstance(layer, FactorLayer) or layer.factor.nm is not None:
            break
        if not _is_pointwise(layer) and (length or not _is_spatial(layer)):
            break
        length += 1
        if not _is_bare(layer):
            break
    grouped = any(
        isinstance(layer, FactorLayer) and layer.factor.groups > 1 for layer in layers[start : start + length]
    )
    return length if grouped else 0


def _is_spatial(layer: FactorLayer) -> bool:
    """True for a k x k factor that runs faster fused: not a channel-wise one, nor a dense one."""
    factor = layer.factor
    grouped = factor.groups > 1 and factor.branch_width > 1
    return grouped and factor.kernel_size > 1 and factor.dilation == 1 and factor.stride <= 2 and not factor.bias


def _is_pointwise(layer: FactorLayer) -> bool:
    factor = layer.factor
    return factor.kernel_size == 1 and factor.stride == 1 and not factor.bias


def _is_bare(layer: FactorLayer) -> bool:
    """True if nothing but the shuffle stands behind the convolution."""
    return not layer.factor.norm and layer.factor.activation is None
