"""`product`: a linear product of factors as a torch operator, with its gradient. Floor 3; shared.py says what a product is.

Shape legend: N batch, C channels, H W map; a weight is (C_out, K, S, S), as `nn.Conv2d` has it, padded by S // 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from .reference import reference
from .shared import (
    DTYPES,
    MOST_FACTORS,
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
    check_shapes(x_NCHW, weights, index, groups, bias)
    if x_NCHW.dtype not in DTYPES.get(kind, ()) or len(weights) > MOST_FACTORS:
        if not torch.compiler.is_compiling():
            note_stock(kind, x_NCHW.dtype)
        return reference(x_NCHW, weights, index, groups, bias, stride)
    result: Tensor = torch.ops.igcsearch.product(x_NCHW, list(weights), index, list(groups), bias, stride)
    return result


@torch.library.custom_op("igcsearch::product", mutates_args=())
def _product(
    x: Tensor, weights: list[Tensor], index: Tensor, groups: list[int], bias: Tensor | None, stride: int
) -> Tensor:
    x = dense(x)
    if not served(x, weights, stride):
        return reference(x, weights, index, groups, bias, stride).contiguous(memory_format=format_of(x))
    if x.is_cuda:
        from . import gpu

        return gpu.product(x, weights, index, groups, bias)
    y = output_like(x, weights, stride)
    rows = None if bias is None else bias.float()[index[-weights[-1].shape[0] :].long()].contiguous()
    laid = [as_float(weight) for weight in weights]
    numbers = kernel_arguments(x, y, laid, index, groups, stride)
    if rows is not None:
        numbers[-2] = rows.data_ptr()
    call_kernel("igc_forward", [x.data_ptr(), x.shape[1], y.data_ptr(), y.shape[1], 0, 0], numbers)
    return y


@_product.register_fake
def _(x: Tensor, weights: list[Tensor], index: Tensor, groups: list[int], bias: Tensor | None, stride: int) -> Tensor:
    return output_like(x, weights, stride)


@torch.library.custom_op("igcsearch::product_backward", mutates_args=())
def _product_backward(
    dy: Tensor, x: Tensor, weights: list[Tensor], index: Tensor, groups: list[int], stride: int, need_x: bool
) -> list[Tensor]:
    """The gradients of the weights, then that of x (empty unless needed)."""
    x = dense(x)
    dy = dy.to(x.dtype).contiguous(memory_format=format_of(x))
    if not served(x, weights, stride):
        return _reference_backward(dy, x, weights, index, groups, stride, need_x)
    if x.is_cuda:
        from . import gpu

        dx, gradients = gpu.product_backward(dy, x, weights, index, groups, need_x)
        return [*(g.to(w.dtype) for g, w in zip(gradients, weights, strict=True)), x.new_empty(0) if dx is None else dx]
    laid = [as_float(weight) for weight in weights]
    gradients = [torch.empty_like(weight) for weight in laid]
    dx = torch.empty_like(x) if need_x else x.new_empty(0)
    numbers = kernel_arguments(x, dy, laid, index, groups, stride, gradients)
    call_kernel(
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


# ---------------------------------------------------------------- what it counts for


@register_flop_formula(torch.ops.igcsearch.product)
def _product_flops(x: Any, weights: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Twice the multiply-adds, for `torch.utils.flop_counter`."""
    return 2 * product_macs(out_shape, weights)


@register_flop_formula(torch.ops.igcsearch.product_backward)
def _backward_flops(dy: Any, x: Any, weights: Any, *rest: Any, **__: Any) -> int:
    first = product_macs(dy, weights[:1])
    return 4 * product_macs(dy, weights) - (0 if rest[-1] else 2 * first)


# ---------------------------------------------------------------- by stock operators


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
    return [*reversed(gradients), dy.contiguous(memory_format=format_of(x)) if need_x else dy]
