"""Linear products of factors as torch operators: `product`, with its gradient, and `folded`, a whole block at inference. Floor 3.

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
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.flop_counter import register_flop_formula

from igcsearch.spec import Factor
from igcsearch.spec.permutations import Order, identity, invert

from ..workspace import Workspace
from .library import kernels
from .reference import reference

log = logging.getLogger("igcsearch")

_DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
MOST_FACTORS = 32  # of one call; kernels.cpp has the same number
MOST_STRIDE = 8  # of the first factor; likewise, in spatial.h
_PLAIN_TENSORS = (Tensor, torch.nn.Parameter)
#: Activations that `folded` runs inside, with their numbers in kernels.h.
ACTIVATIONS: dict[str | None, int] = {None: 0, "relu": 1, "relu6": 2, "hardswish": 3}
_MOST_KNOWN = 64  # shapes of an input that `Folded` remembers
_CACHED = 200_000  # numbers of one buffer of rows, which lies in a core's cache


@torch.compiler.assume_constant_result  # a compiled graph takes it as it is then
def fused_available(device: torch.device | str, dtype: torch.dtype, *, spatial: bool = False) -> bool:
    """True if products run fused there (`spatial`: those that begin with a k x k factor, too); elsewhere the operators give the
    same by stock ones."""
    kind = torch.device(device).type
    if dtype not in _DTYPES.get(kind, ()):
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


def product(
    x_NCHW: Tensor,
    weights: Sequence[Tensor],
    index: Tensor,
    groups: Sequence[int],
    bias: Tensor | None = None,
    stride: int = 1,
) -> Tensor:
    """The product of the factors. (N, C_in, H, W) to (N, C_out, H', W'), in the memory format of the input.

    Under autocast it runs in autocast's dtype; sums are in float32 in any case. What no kernel serves runs by stock operators.

    Args:
        x_NCHW: float32 or bfloat16 (on a GPU also float16) run fused.
        weights: of each factor, (C_out, K, S, S); S is 1 from the second on.
        index: see `wiring`; on the device of x.
        groups: branches of each factor.
        bias: (C_out,), added at the end.
        stride: of the first factor.

    Raises:
        RuntimeError: shapes that do not fit, or an empty map.

    The fused operator is differentiable once: for gradients of gradients and for torch.func use `set_execution("plain")`.
    """
    kind = x_NCHW.device.type
    if x_NCHW.dtype is not torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        x_NCHW = x_NCHW.to(torch.get_autocast_dtype(kind))
    _check(x_NCHW, weights, index, groups, bias)
    if x_NCHW.dtype not in _DTYPES.get(kind, ()) or len(weights) > MOST_FACTORS:
        if not torch.compiler.is_compiling():
            _note_stock(kind, x_NCHW.dtype)
        return reference(x_NCHW, weights, index, groups, bias, stride)
    result: Tensor = torch.ops.igcsearch.product(x_NCHW, list(weights), index, list(groups), bias, stride)
    return result


# ---------------------------------------------------------------- the trainable operator


@torch.library.custom_op("igcsearch::product", mutates_args=())
def _product(
    x: Tensor, weights: list[Tensor], index: Tensor, groups: list[int], bias: Tensor | None, stride: int
) -> Tensor:
    x = _dense(x)
    if not _fused(x, weights, stride):
        return reference(x, weights, index, groups, bias, stride).contiguous(memory_format=_format(x))
    if x.is_cuda:
        from . import gpu

        return gpu.product(x, weights, index, groups, bias)
    y = _output(x, weights, stride)
    rows = None if bias is None else bias.float()[index[-weights[-1].shape[0] :].long()].contiguous()
    laid = [_laid(weight) for weight in weights]
    numbers = _common(x, y, laid, index, groups, stride)
    if rows is not None:
        numbers[-2] = rows.data_ptr()
    _call("igc_forward", [x.data_ptr(), x.shape[1], y.data_ptr(), y.shape[1], 0, 0], numbers)
    return y


@_product.register_fake
def _(x: Tensor, weights: list[Tensor], index: Tensor, groups: list[int], bias: Tensor | None, stride: int) -> Tensor:
    return _output(x, weights, stride)


@torch.library.custom_op("igcsearch::product_backward", mutates_args=())
def _product_backward(
    dy: Tensor, x: Tensor, weights: list[Tensor], index: Tensor, groups: list[int], stride: int, need_x: bool
) -> list[Tensor]:
    """The gradients of the weights, then that of x (empty unless needed)."""
    x = _dense(x)
    dy = dy.to(x.dtype).contiguous(memory_format=_format(x))
    if not _fused(x, weights, stride):
        return _reference_backward(dy, x, weights, index, groups, stride, need_x)
    if x.is_cuda:
        from . import gpu

        dx, gradients = gpu.product_backward(dy, x, weights, index, groups, need_x)
        return [*(g.to(w.dtype) for g, w in zip(gradients, weights, strict=True)), x.new_empty(0) if dx is None else dx]
    laid = [_laid(weight) for weight in weights]
    gradients = [torch.empty_like(weight) for weight in laid]
    dx = torch.empty_like(x) if need_x else x.new_empty(0)
    numbers = _common(x, dy, laid, index, groups, stride, gradients)
    _call(
        "igc_backward", [x.data_ptr(), x.shape[1], dy.data_ptr(), dy.shape[1], dx.data_ptr() if need_x else 0], numbers
    )
    return [*(g.view(w.shape).to(w.dtype) for g, w in zip(gradients, weights, strict=True)), dx]


@_product_backward.register_fake
def _(
    dy: Tensor, x: Tensor, weights: list[Tensor], index: Tensor, groups: list[int], stride: int, need_x: bool
) -> list[Tensor]:
    return [*(torch.empty_like(weight) for weight in weights), torch.empty_like(x) if need_x else x.new_empty(0)]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weights, index, ctx.groups, bias, ctx.stride = inputs
    ctx.save_for_backward(x, index, *weights)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, index, *weights = ctx.saved_tensors
    need_x, need_bias = ctx.needs_input_grad[0], ctx.needs_input_grad[4]
    *gradients, dx = torch.ops.igcsearch.product_backward(dy, x, weights, index, ctx.groups, ctx.stride, need_x)
    dbias = dy.sum(dim=(0, 2, 3)).to(ctx.bias_dtype) if need_bias else None
    return dx if need_x else None, gradients, None, None, dbias, None


_product.register_autograd(_backward, setup_context=_remember)


# ---------------------------------------------------------------- whole blocks at inference


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
    _check(x, weights, index, groups, None)
    for bias, weight in zip(biases, weights, strict=True):
        if bias.numel() not in (0, weight.shape[0]):
            raise RuntimeError(f"a bias of {bias.numel()} numbers does not fit {weight.shape[0]} channels")
    x = _dense(x)
    y = _output(x, weights, stride)
    if residual is not None and residual.shape != y.shape:
        raise RuntimeError(f"a residual of shape {tuple(residual.shape)} is not as the output, {tuple(y.shape)}")
    if not _fused(x, weights, stride) or x.is_cuda:
        _note_stock(x.device.type, x.dtype)
        return _folded_by_stock(x, weights, biases, index, groups, stride, activations, residual, final)
    laid, rows = [_laid(weight) for weight in weights], [_laid(bias) for bias in biases]
    numbers = _common(x, y, laid, index, groups, stride, biases=rows, activations=activations)
    more = None if residual is None else residual.to(y.dtype).contiguous(memory_format=_format(x))
    head = [x.data_ptr(), x.shape[1], y.data_ptr(), y.shape[1], 0 if more is None else more.data_ptr(), final]
    _call("igc_forward", head, numbers)
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
    return _output(x, weights, stride)


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
    at, layout = 0, _format(x)
    for i, (weight, bias, count) in enumerate(zip(weights, biases, groups, strict=True)):
        read = weight.shape[1] * count
        x = x[:, index[at : at + read].long()]
        at += read
        b = bias.to(x.dtype) if bias.numel() else None
        x = F.conv2d(x, weight.to(x.dtype), b, stride if i == 0 else 1, weight.shape[2] // 2, groups=count)
        x = _NUMBERED[activations[i]](x)
    x = x[:, index[at:].long().argsort()]
    x = x if residual is None else x + residual
    return _NUMBERED[final](x).contiguous(memory_format=layout)


_NUMBERED: dict[int, Callable[[Tensor], Tensor]] = {0: lambda x: x, 1: torch.relu, 2: F.relu6, 3: F.hardswish}


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
            _watched(x_NCHW, residual)
            or not self._plain
            or x_NCHW.dtype is not torch.float32
            or x_NCHW.device.type != "cpu"
            or kernels() is None
        ):
            y: Tensor = folded(x_NCHW, weights, biases, index, groups, stride, activations, residual, final)
            return y
        x = _dense(x_NCHW)
        layout = _format(x)
        key = (*x.shape, layout, torch.get_num_threads())
        if key not in self._known:
            _check(x, weights, index, groups, None)
            if len(self._known) >= _MOST_KNOWN:  # images of ever new sizes
                self._known.clear()
            like = _output(x, weights, stride)
            numbers = _common(x, like, weights, index, groups, stride, biases=biases, activations=activations)
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


# ---------------------------------------------------------------- what they count for


@register_flop_formula(torch.ops.igcsearch.product)
def _product_flops(x: Any, weights: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Twice the multiply-adds, for `torch.utils.flop_counter`."""
    return 2 * product_macs(out_shape, weights)


@register_flop_formula(torch.ops.igcsearch.folded)
def _folded_flops(x: Any, weights: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * product_macs(out_shape, weights)


@register_flop_formula(torch.ops.igcsearch.product_backward)
def _backward_flops(dy: Any, x: Any, weights: Any, *rest: Any, **__: Any) -> int:
    first = product_macs(dy, weights[:1])
    return 4 * product_macs(dy, weights) - (0 if rest[-1] else 2 * first)


def product_macs(out_shape: Sequence[int], weights: Sequence[Sequence[int]]) -> int:
    """Multiply-adds of a product: all factors run on the map of the output.

    Args:
        out_shape: (N, C_out, H', W').
        weights: shapes of the factors' weights.
    """
    return sum(math.prod(shape) for shape in weights) * out_shape[0] * out_shape[2] * out_shape[3]


# ---------------------------------------------------------------- helpers


def _check(x: Tensor, weights: Sequence[Tensor], index: Tensor, groups: Sequence[int], bias: Tensor | None) -> None:
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
def _note_stock(kind: str, dtype: torch.dtype) -> None:
    """One line for each device and dtype that no kernel serves."""
    log.debug("no fused kernel serves %s on %s: products run by stock operators there", dtype, kind)


def _watched(*tensors: Tensor | None) -> bool:
    """True while something (a compiler, a tracer, a counter, a tensor of another kind) has to see the operators called."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or _get_current_dispatch_mode() is not None
        or not all(tensor is None or type(tensor) in _PLAIN_TENSORS for tensor in tensors)
    )


def _fused(x: Tensor, weights: list[Tensor], stride: int) -> bool:
    return stride <= MOST_STRIDE and fused_available(x.device, x.dtype, spatial=weights[0].shape[2] > 1 or stride > 1)


def _format(x: Tensor) -> torch.memory_format:
    """Channels last where the tensor is laid out so and not also contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _dense(x: Tensor) -> Tensor:
    """The tensor itself where it is contiguous in either format."""
    return x.contiguous(memory_format=_format(x))


def _output(x: Tensor, weights: list[Tensor], stride: int) -> Tensor:
    n, _, height, width = x.shape
    area = weights[0].shape[2]
    size = [(side + 2 * (area // 2) - area) // stride + 1 for side in (height, width)]
    return torch.empty((n, weights[-1].shape[0], *size), dtype=x.dtype, device=x.device, memory_format=_format(x))


def _laid(weight: Tensor) -> Tensor:
    """A weight in float32, contiguous."""
    return weight.detach().float().contiguous()


def _reference_backward(
    dy: Tensor, x: Tensor, weights: list[Tensor], index: Tensor, groups: list[int], stride: int, need_x: bool
) -> list[Tensor]:
    # Written out, as autograd is off inside an operator.
    reads, at, y = [], 0, x
    for weight, count in zip(weights, groups, strict=True):
        source = index[at : at + weight.shape[1] * count].long()
        reads.append((y[:, source], source))
        y = F.conv2d(reads[-1][0], weight.to(x.dtype), None, 1 if at else stride, weight.shape[2] // 2, groups=count)
        at += len(source)
    dy, gradients = dy[:, index[at:].long()], []
    for i in reversed(range(len(weights))):
        (read, source), weight = reads[i], weights[i]
        step, pad = 1 if i else stride, weight.shape[2] // 2
        dy, gradient, _ = torch.ops.aten.convolution_backward(
            dy,
            read,
            weight.to(x.dtype),
            None,
            [step] * 2,
            [pad] * 2,
            [1, 1],
            False,
            [0, 0],
            groups[i],
            [i > 0 or need_x, True, False],
        )
        gradients.append(gradient.to(weight.dtype))
        dy = dy[:, source.argsort()] if i or need_x else x.new_empty(0)
    return [*reversed(gradients), dy.contiguous(memory_format=_format(x)) if need_x else dy]


def _tile(x: Tensor, weights: list[Tensor]) -> int:
    """Pixels of a tile: as many as leave two buffers of rows in a core's cache, within limits that were found best."""
    widest = max(x.shape[1], *(weight.shape[0] for weight in weights))
    return max(64, min(512, _CACHED // widest))


def _common(
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
    last, half = int(_format(x) is torch.channels_last), int(x.dtype is torch.bfloat16)
    n, _, height, width = x.shape
    numbers = [n, height, width, y.shape[2], y.shape[3], weights[0].shape[2], stride, last, half]
    numbers += [torch.get_num_threads(), _tile(x, weights), len(weights), index.data_ptr()]
    for i, (weight, count) in enumerate(zip(weights, groups, strict=True)):
        gradient = 0 if gradients is None else gradients[i].data_ptr()
        bias = biases[i].data_ptr() if biases is not None and biases[i].numel() else 0
        numbers += [count, weight.shape[1], weight.shape[0] // count, weight.data_ptr(), gradient, bias]
        numbers.append(activations[i] if activations is not None else 0)
    return numbers


def _call(name: str, head: list[int], numbers: list[int]) -> None:
    library = kernels()
    assert library is not None
    numbers = head + numbers
    getattr(library, name)((ctypes.c_int64 * len(numbers))(*numbers))
