"""Batch norm (and dropout) over the images of all processes. Layers are swapped in a network that is plain itself.

What is swapped in shares its parameters and buffers with what was there and has their names: state dicts stay as they are.
On GPUs of their own the processes use `torch.nn.SyncBatchNorm`; it refuses CPU tensors and gloo, for which
`GlobalBatchNorm` is. Shape legend: N images here, C channels, R processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from igcsearch.training.shares import Part


class GlobalBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance, in training, are those of all processes' images together. A share may be empty.

    The counts n_r, means m_r and sums of squared deviations M_r of the processes are combined as Chan, Golub and LeVeque
    (1979) do, in float64: n = sum n_r, m = sum n_r m_r / n, M = sum M_r + n_r (m_r - m)^2. No digits are lost to
    E[x^2] - E[x]^2, and every process gets the same bits.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions: (N, C, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) to the same shape; one small all-reduce there and one back."""
        if not self.training:
            return super().forward(input)
        with torch.no_grad():
            count, mean, squares = _moments(input)
            variance = squares / count
            self._follow(mean, squares / (count - 1).clamp_min(1))
        result: Tensor = _Normalise.apply(input, self.weight, self.bias, mean, variance, count, self.eps)
        return result

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Running averages, as `nn.BatchNorm2d` keeps them."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(variance.to(self.running_var.dtype), rate)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count (), mean (C,) and sum of squared deviations (C,) over all processes, float64."""
    channels, count = x.shape[1], x.numel() // x.shape[1]
    # A table (R, 2C + 1) of zeros but for our own row, summed: a gathering that gloo has for CUDA tensors, too.
    table = torch.zeros(dist.get_world_size(), 2 * channels + 1, dtype=torch.float64, device=x.device)
    if count:
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        variance, mean = torch.var_mean(wide, _others(x), correction=0)
        own = table[dist.get_rank()]
        own[0], own[1 : channels + 1], own[channels + 1 :] = count, mean, variance.double() * count
    dist.all_reduce(table)
    counts_R1, means_RC, squares_RC = table[:, :1], table[:, 1 : channels + 1], table[:, channels + 1 :]
    total = counts_R1.sum()
    mean = (counts_R1 * means_RC).sum(0) / total
    return total, mean, (squares_RC + counts_R1 * (means_RC - mean) ** 2).sum(0)


class _Normalise(torch.autograd.Function):
    """y = (x - m) / sqrt(v + eps) * weight + bias, where m and v are functions of all processes' x.

    With g = dL/dy, u = x - m and s = 1 / sqrt(v + eps), sums over all n values of a channel:
    dL/dx = weight s (g - sum(g) / n - u s^2 sum(g u) / n). Gradients of weight and bias are this process's summands: those
    of the whole come with all other gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        dtype = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
        ctx.save_for_backward(x, weight, mean.to(dtype), (variance + eps).rsqrt().to(dtype), count.to(dtype))
        if not x.numel():
            return torch.empty_like(x)
        return F.batch_norm(x, mean.to(dtype), variance.to(dtype), weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        shape = [1, -1, *[1] * (x.ndim - 2)]
        g = gradient.to(mean.dtype)
        u = x.to(mean.dtype) - mean.view(shape)
        own = torch.stack([g.sum(_others(x)), (g * u).sum(_others(x))])
        sums = own.to(torch.float64, copy=True)
        dist.all_reduce(sums)
        g_mean, gu_mean = (sums.to(own.dtype) / count).unbind()
        scale = inverse if weight is None else inverse * weight
        dx = (g - g_mean.view(shape)).sub_(u.mul_((inverse**2 * gu_mean).view(shape))).mul_(scale.view(shape))
        affine = weight is not None
        return dx.to(x.dtype), own[1] * inverse if affine else None, own[0] if affine else None, None, None, None, None


class GlobalDropout(nn.Dropout):
    """Dropout that drops what one process with all the images would drop: each draws for all and takes its rows."""

    part: Part | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(N, ...) to the same shape; before it, `part` says which rows of the micro-batch these are."""
        if not self.training or self.part is None:
            return super().forward(input)
        ones = torch.ones(self.part.whole, *input.shape[1:], dtype=input.dtype, device=input.device)
        return input * F.dropout(ones, self.p)[self.part.begin : self.part.end]


def use_global_statistics(network: nn.Module, backend: str) -> None:
    """Swap the network's batch norms for ones over all processes."""
    kind: type[_BatchNorm] = nn.SyncBatchNorm if backend == "nccl" else GlobalBatchNorm
    for parent, name, norm in _children(network, _BatchNorm):
        if not isinstance(norm, nn.SyncBatchNorm | GlobalBatchNorm):
            _swap(parent, name, norm, kind)


def use_own_statistics(network: nn.Module) -> None:
    """Swap them back for plain ones."""
    for parent, name, norm in _children(network, _BatchNorm):
        if isinstance(norm, nn.SyncBatchNorm | GlobalBatchNorm):
            _swap(parent, name, norm, nn.BatchNorm2d)


def use_global_dropout(network: nn.Module) -> list[GlobalDropout]:
    """Swap the network's dropouts for ones that draw for all processes; they are given back."""
    swapped = []
    for parent, name, dropout in _children(network, nn.Dropout):
        swapped.append(GlobalDropout(dropout.p).train(dropout.training))
        setattr(parent, name, swapped[-1])
    return swapped


def _children(network: nn.Module, kind: type[nn.Module]) -> list[tuple[nn.Module, str, Any]]:
    found = [(parent, name, child) for parent in network.modules() for name, child in parent.named_children()]
    return [(parent, name, child) for parent, name, child in found if isinstance(child, kind)]


def _swap(parent: nn.Module, name: str, norm: _BatchNorm, kind: type[_BatchNorm]) -> None:
    new = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for key, parameter in norm.named_parameters(recurse=False):
        setattr(new, key, parameter)  # the same object: optimizers keep hold of it
    for key, buffer in norm.named_buffers(recurse=False):
        setattr(new, key, buffer)
    setattr(parent, name, new.train(norm.training))


def _others(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]
