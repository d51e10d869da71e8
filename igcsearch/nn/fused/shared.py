"""What the operators of trainable.py and folded.py share: wiring, which kernels there are, shapes, how kernels are called. Floor 3.

A product is one factor of any odd kernel and stride, then pointwise factors; or pointwise factors alone. Its wiring, all
permutations, is one int32 tensor: for each factor the rows of the step before in the order in which it reads them, then for each
row of the last factor the output channel that it becomes.

Shape legend: N batch, C channels, H W map; a weight is (C_out, K, S, S), as `nn.Conv2d` has it, padded by S // 2.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from igcsearch.spec import Factor
from igcsearch.spec.permutations import Order, identity, invert

from .library import kernels

log = logging.getLogger("igcsearch")

DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
MOST_FACTORS = 32  # of one call; kernels.cpp has the same number
MOST_STRIDE = 8  # of the first factor; likewise, in spatial.h
_CACHED = 200_000  # numbers of one buffer of rows, which lies in a core's cache


@torch.compiler.assume_constant_result  # a compiled graph takes it as it is then
def fused_available(device: torch.device | str, dtype: torch.dtype, *, spatial: bool = False) -> bool:
    """True if products run fused there (`spatial`: those that begin with a k x k factor, too); elsewhere the operators give the
    same by stock ones."""
    kind = torch.device(device).type
    if dtype not in DTYPES.get(kind, ()):
        return False
    if kind == "cuda":
        from . import gpu

        return not spatial and gpu.available()
    return kernels() is not None


def wiring(factors: Sequence[Factor], before: Order | None = None) -> Tensor:
    """The index tensor of a product.

    Args:
        factors: in order, with their shuffles; all but the first are pointwise.
        before: a shuffle that is still to be applied to the input, shape (C_in,).
    """
    reads = [identity(factors[0].in_channels) if before is None else before]
    reads += [factor.order for factor, _ in pairwise(factors)]
    parts = [*reads, invert(factors[-1].order)]
    return torch.from_numpy(np.concatenate(parts).astype(np.int32))


def product_macs(out_shape: Sequence[int], weights: Sequence[Sequence[int]]) -> int:
    """Multiply-adds of a product: all factors run on the map of the output.

    Args:
        out_shape: (N, C_out, H', W').
        weights: shapes of the factors' weights.
    """
    return sum(math.prod(shape) for shape in weights) * out_shape[0] * out_shape[2] * out_shape[3]


def check_shapes(
    x: Tensor, weights: Sequence[Tensor], index: Tensor, groups: Sequence[int], bias: Tensor | None
) -> None:
    """Refuse what the kernels would read beyond, by shapes alone: that the index holds permutations is `wiring`'s work."""
    wanted = weights[0].shape[1] * groups[0]
    if x.dim() != 4 or x.shape[1] != wanted:
        raise RuntimeError(f"expected an input of shape (N, {wanted}, H, W), got {tuple(x.shape)}")
    channels, size = wanted, weights[0].shape[2]
    numbers = weights[-1].shape[0]
    for i, (weight, count) in enumerate(zip(weights, groups, strict=True)):
        side = size if i == 0 else 1
        rows, width = weight.shape[:2]
        if width * count != channels or rows % count or tuple(weight.shape[2:]) != (side, side):
            raise RuntimeError(
                f"a weight of shape {tuple(weight.shape)} in {count} groups does not read {channels} channels"
                f"{'' if i == 0 else ' by a 1x1 kernel'}"
            )
        numbers += channels
        channels = rows
    if index.dtype is not torch.int32 or index.shape != (numbers,) or index.device != x.device:
        raise RuntimeError(f"expected an index of {numbers} int32 numbers on {x.device}, see fused.wiring")
    if bias is not None and bias.shape != (channels,):
        raise RuntimeError(f"a bias of shape {tuple(bias.shape)} does not fit {channels} channels")
    if min(x.shape[2:]) + 2 * (size // 2) < size or min(x.shape[2:]) == 0:
        raise RuntimeError(f"expected a map of at least one pixel, got an input of shape {tuple(x.shape)}")


@functools.cache
def note_stock(kind: str, dtype: torch.dtype) -> None:
    """One line for each device and dtype that no kernel serves."""
    log.debug("no fused kernel serves %s on %s: products run by stock operators there", dtype, kind)


def served(x: Tensor, weights: list[Tensor], stride: int) -> bool:
    """True if a kernel runs this product."""
    return stride <= MOST_STRIDE and fused_available(x.device, x.dtype, spatial=weights[0].shape[2] > 1 or stride > 1)


def format_of(x: Tensor) -> torch.memory_format:
    """Channels last where the tensor is laid out so and not also contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """The tensor itself where it is contiguous in either format."""
    return x.contiguous(memory_format=format_of(x))


def output_like(x: Tensor, weights: list[Tensor], stride: int) -> Tensor:
    """Room for the product's output, in the type and memory format of x."""
    n, _, height, width = x.shape
    area = weights[0].shape[2]
    size = [(side + 2 * (area // 2) - area) // stride + 1 for side in (height, width)]
    return torch.empty((n, weights[-1].shape[0], *size), dtype=x.dtype, device=x.device, memory_format=format_of(x))


def as_float(weight: Tensor) -> Tensor:
    """A weight in float32, contiguous."""
    return weight.detach().float().contiguous()


def _tile(x: Tensor, weights: list[Tensor]) -> int:
    """Pixels of a tile: as many as leave two buffers of rows in a core's cache, within limits that were found best."""
    widest = max(x.shape[1], *(weight.shape[0] for weight in weights))
    return max(64, min(512, _CACHED // widest))


def kernel_arguments(
    x: Tensor,
    y: Tensor,
    weights: list[Tensor],
    index: Tensor,
    groups: list[int],
    stride: int,
    gradients: list[Tensor] | None = None,
    *,
    biases: list[Tensor] | None = None,
    activations: list[int] | None = None,
) -> list[int]:
    """What both calls of the kernels begin with: see kernels.cpp."""
    last, half = int(format_of(x) is torch.channels_last), int(x.dtype is torch.bfloat16)
    n, _, height, width = x.shape
    numbers = [n, height, width, y.shape[2], y.shape[3], weights[0].shape[2], stride, last, half]
    numbers += [torch.get_num_threads(), _tile(x, weights), len(weights), index.data_ptr()]
    for i, (weight, count) in enumerate(zip(weights, groups, strict=True)):
        gradient = 0 if gradients is None else gradients[i].data_ptr()
        bias = biases[i].data_ptr() if biases is not None and biases[i].numel() else 0
        numbers += [count, weight.shape[1], weight.shape[0] // count, weight.data_ptr(), gradient, bias]
        numbers.append(activations[i] if activations is not None else 0)
    return numbers


def call_kernel(name: str, head: list[int], numbers: list[int]) -> None:
    """Call one of the library's functions; `numbers` of `kernel_arguments`."""
    library = kernels()
    assert library is not None
    numbers = head + numbers
    getattr(library, name)((ctypes.c_int64 * len(numbers))(*numbers))
