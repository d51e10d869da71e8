"""`folded`: a whole block at inference as one torch operator, and `Folded`, the same called often. Floor 3.

A product (shared.py says what that is) whose factors have biases and activations, then a residual and a last activation.

Shape legend: N batch, C channels, H W map; a weight is (C_out, K, S, S), as `nn.Conv2d` has it, padded by S // 2.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.flop_counter import register_flop_formula

from ..workspace import Workspace
from .library import kernels
from .shared import (
    MOST_STRIDE,
    as_float,
    call_kernel,
    check_shapes,
    dense,
    format_of,
    kernel_arguments,
    note_stock,
    output_like,
    product_macs,
    served,
)

_PLAIN_TENSORS = (Tensor, torch.nn.Parameter)
#: Activations that `folded` runs inside, with their numbers in kernels.h.
ACTIVATIONS: dict[str | None, int] = {None: 0, "relu": 1, "relu6": 2, "hardswish": 3}
_MOST_KNOWN = 64  # shapes of an input that `Folded` remembers


@torch.library.custom_op("igcsearch::folded", mutates_args=())
def folded(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    index: Tensor,
    groups: list[int],
    stride: int,
    activations: list[int],
    residual: Tensor | None,
    final: int,
) -> Tensor:
    """A product of factors, each with a bias and an activation, then `final(product + residual)`; for inference only.

    Args:
        x, weights, index, groups, stride: as in `product`.
        biases: of each factor, (C_out,), by row: before its shuffle; an empty tensor for none.
        activations, final: numbers of ACTIVATIONS.
        residual: of the output's shape, or None.
    """
    check_shapes(x, weights, index, groups, None)
    for bias, weight in zip(biases, weights, strict=True):
        if bias.numel() not in (0, weight.shape[0]):
            raise RuntimeError(f"a bias of {bias.numel()} numbers does not fit {weight.shape[0]} channels")
    x = dense(x)
    y = output_like(x, weights, stride)
    if residual is not None and residual.shape != y.shape:
        raise RuntimeError(f"a residual of shape {tuple(residual.shape)} is not as the output, {tuple(y.shape)}")
    if not served(x, weights, stride) or x.is_cuda:
        note_stock(x.device.type, x.dtype)
        return _folded_by_stock(x, weights, biases, index, groups, stride, activations, residual, final)
    laid, rows = [as_float(weight) for weight in weights], [as_float(bias) for bias in biases]
    numbers = kernel_arguments(x, y, laid, index, groups, stride, biases=rows, activations=activations)
    more = None if residual is None else residual.to(y.dtype).contiguous(memory_format=format_of(x))
    head = [x.data_ptr(), x.shape[1], y.data_ptr(), y.shape[1], 0 if more is None else more.data_ptr(), final]
    call_kernel("igc_forward", head, numbers)
    return y


@folded.register_fake
def _(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    index: Tensor,
    groups: list[int],
    stride: int,
    activations: list[int],
    residual: Tensor | None,
    final: int,
) -> Tensor:
    return output_like(x, weights, stride)


def _folded_by_stock(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    index: Tensor,
    groups: list[int],
    stride: int,
    activations: list[int],
    residual: Tensor | None,
    final: int,
) -> Tensor:
    at, layout = 0, format_of(x)
    for i, (weight, bias, count) in enumerate(zip(weights, biases, groups, strict=True)):
        read = weight.shape[1] * count
        x = x[:, index[at : at + read].long()]
        at += read
        b = bias.to(x.dtype) if bias.numel() else None
        x = F.conv2d(x, weight.to(x.dtype), b, stride if i == 0 else 1, weight.shape[2] // 2, groups=count)
        x = NUMBERED[activations[i]](x)
    x = x[:, index[at:].long().argsort()]
    x = x if residual is None else x + residual
    return NUMBERED[final](x).contiguous(memory_format=layout)


NUMBERED: dict[int, Callable[[Tensor], Tensor]] = {0: lambda x: x, 1: torch.relu, 2: F.relu6, 3: F.hardswish}


class Folded:
    """`folded` with all but the activations given once, which saves most of a call's time.

    Args: as `folded`. Tensors other than float32 on the CPU are served by `folded` itself.
    """

    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor],
        index: Tensor,
        groups: list[int],
        stride: int,
        activations: list[int],
    ) -> None:
        self.fixed = (weights, biases, index, groups, stride, activations)
        self._plain = all(each.dtype is torch.float32 and each.device.type == "cpu" for each in (*weights, *biases))
        self._plain = self._plain and index.device.type == "cpu" and stride <= MOST_STRIDE
        self._known: dict[tuple[Any, ...], tuple[list[int], Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy has tensors of its own, to which what is known here does not point."""
        return {"fixed": self.fixed, "_plain": self._plain, "_known": {}}

    def __call__(
        self,
        x_NCHW: Tensor,
        residual: Tensor | None = None,
        final: int = 0,
        room: Workspace | None = None,
        busy: Sequence[Tensor | None] = (),
    ) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W'); in `room`, where there is one, beside what is `busy`."""
        weights, biases, index, groups, stride, activations = self.fixed
        if (
            watched(x_NCHW, residual)
            or not self._plain
            or x_NCHW.dtype is not torch.float32
            or x_NCHW.device.type != "cpu"
            or kernels() is None
        ):
            y: Tensor = folded(x_NCHW, weights, biases, index, groups, stride, activations, residual, final)
            return y
        x = dense(x_NCHW)
        layout = format_of(x)
        key = (*x.shape, layout, torch.get_num_threads())
        if key not in self._known:
            check_shapes(x, weights, index, groups, None)
            if len(self._known) >= _MOST_KNOWN:  # images of ever new sizes
                self._known.clear()
            like = output_like(x, weights, stride)
            numbers = kernel_arguments(x, like, weights, index, groups, stride, biases=biases, activations=activations)
            head = [0, x.shape[1], 0, like.shape[1], 0, 0]
            self._known[key] = list(like.shape), (ctypes.c_int64 * (len(head) + len(numbers)))(*head, *numbers)
        shape, numbers_of = self._known[key]
        arguments = type(numbers_of).from_buffer_copy(numbers_of)  # other threads may call at the same time
        if room is None:
            y = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=layout)
        else:
            y = room.take(shape, layout, (x, residual, *busy))
        if residual is not None and (residual.shape != y.shape or residual.dtype is not y.dtype):
            raise RuntimeError(f"a residual of shape {tuple(residual.shape)} ({residual.dtype}) is not as the output")
        more = None if residual is None else residual.contiguous(memory_format=layout)
        arguments[0], arguments[2], arguments[5] = x.data_ptr(), y.data_ptr(), final
        if more is not None:
            arguments[4] = more.data_ptr()
        library = kernels()
        assert library is not None
        library.igc_forward(arguments)
        return y


@register_flop_formula(torch.ops.igcsearch.folded)
def _folded_flops(x: Any, weights: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * product_macs(out_shape, weights)


def watched(*tensors: Tensor | None) -> bool:
    """True while something (a compiler, a tracer, a counter, a tensor of another kind) has to see the operators called."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or _get_current_dispatch_mode() is not None
        or not all(tensor is None or type(tensor) in _PLAIN_TENSORS for tensor in tensors)
    )
