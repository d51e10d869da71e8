"""A linear product of factors by stock operators: any dtype and device, differentiable any number of times. Floor 3."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def reference(
    x_NCHW: Tensor,
    weights: Sequence[Tensor],
    index: Tensor,
    groups: Sequence[int],
    bias: Tensor | None,
    stride: int = 1,
) -> Tensor:
    """As `trainable.product`, one gather and one group convolution a factor."""
    y_NCHW, at = x_NCHW, 0
    for weight, count in zip(weights, groups, strict=True):
        read = weight.shape[1] * count
        y_NCHW = y_NCHW[:, index[at : at + read].long()]
        step = stride if at == 0 else 1
        y_NCHW = F.conv2d(y_NCHW, weight.to(x_NCHW.dtype), stride=step, padding=weight.shape[2] // 2, groups=count)
        at += read
    y_NCHW = y_NCHW[:, index[at:].long().argsort()]
    return y_NCHW if bias is None else y_NCHW + bias.to(y_NCHW.dtype)[:, None, None]
