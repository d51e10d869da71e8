"""Layers for the steps of a block: group convolution with its shuffle, what leaves channels alone, lanes side by side. Floor 3.

Shape legend: N batch, C channels, H W map. network.py puts them together; products.py runs linear products at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spec import Factor, NormAct, Parallel, Pool, SqueezeExcitation, Step
from ..spec.permutations import Order, identity, interleave
from .sparse import SparseConv2d

ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
}
GATES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid}


class ChannelShuffle(nn.Module):
    """y[:, i] = x[:, order[i]] for x of shape (N, C, H, W); an interleave is a view and one copy.

    Args:
        order: the permutation, shape (C,).
        groups: the branches before it, by which an interleave is recognised.
    """

    def __init__(self, order: Order, groups: int) -> None:
        super().__init__()
        channels = len(order)
        regular = channels % groups == 0
        self.groups = groups if regular and (order == interleave(channels, groups)).all() else 0
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        if not self.groups:
            return x_NCHW.index_select(1, self.order)  # type: ignore[arg-type]
        n, channels, height, width = x_NCHW.shape
        table = x_NCHW.reshape(n, self.groups, channels // self.groups, height, width)
        return table.transpose(1, 2).reshape(n, channels, height, width)


def shuffle_layer(order: Order, groups: int) -> nn.Module:
    """The layer of a permutation: nothing at all where it is the identity."""
    return nn.Identity() if (order == identity(len(order))).all() else ChannelShuffle(order, groups)


def convolution(factor: Factor) -> nn.Conv2d | SparseConv2d:
    """The convolution of a factor. (N, C_in, H, W) to (N, C_out, H', W')."""
    sizes = (factor.kernel_size, factor.stride, factor.dilation * (factor.kernel_size // 2), factor.dilation)
    given = (factor.in_channels, factor.out_channels, *sizes, factor.groups, factor.bias)
    return nn.Conv2d(*given) if factor.nm is None else SparseConv2d(*given, sparsity=factor.nm)


class FactorLayer(nn.Module):
    """A factor: group convolution, shuffle, batch norm, activation. (N, C_in, H, W) to (N, C_out, H', W')."""

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        self.factor = factor
        self.conv = convolution(factor)
        self.shuffle = shuffle_layer(factor.order, factor.groups)
        self.norm = nn.BatchNorm2d(factor.out_channels) if factor.norm else nn.Identity()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolution, then `finish`."""
        return self.finish(self.shuffle(self.conv(x_NCHW)))

    def finish(self, y_NCHW: Tensor) -> Tensor:
        """What follows the shuffle: batch norm and activation."""
        return ACTIVATIONS[self.factor.activation](self.norm(y_NCHW))


class PoolLayer(nn.Module):
    """Max or average pooling. (N, C, H, W) to (N, C, H', W')."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Pool every channel."""
        size, stride, padding = self.pool.kernel_size, self.pool.stride, (self.pool.kernel_size - 1) // 2
        pooling = F.max_pool2d if self.pool.kind == "max" else F.avg_pool2d
        return pooling(x_NCHW, size, stride, padding)


class NormActLayer(nn.Module):
    """Batch norm and activation without a convolution. (N, C, H, W) to (N, C, H, W)."""

    def __init__(self, step: NormAct) -> None:
        super().__init__()
        self.activation = step.activation
        self.norm = nn.BatchNorm2d(step.channels) if step.norm else nn.Identity()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Norm, then activation."""
        return ACTIVATIONS[self.activation](self.norm(x_NCHW))


class SqueezeExcitationLayer(nn.Module):
    """Every channel times a number from 0 to 1 that the means of all channels give. (N, C, H, W) to (N, C, H, W)."""

    def __init__(self, step: SqueezeExcitation) -> None:
        super().__init__()
        self.step = step
        self.reduce = nn.Conv2d(step.channels, step.reduced, 1)
        self.expand = nn.Conv2d(step.reduced, step.channels, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Global mean, two 1x1 layers, gate, multiply."""
        mean_NC11 = x_NCHW.mean(dim=(2, 3), keepdim=True)
        hidden_NR11 = ACTIVATIONS[self.step.activation](self.reduce(mean_NC11))
        return x_NCHW * GATES[self.step.gate](self.expand(hidden_NR11))


class ParallelLayer(nn.Module):
    """Lanes side by side, joined and shuffled. (N, C_in, H, W) to (N, C_out, H', W')."""

    def __init__(self, parallel: Parallel) -> None:
        super().__init__()
        self.parallel = parallel
        self.lanes = nn.ModuleList(nn.Sequential(*step_layers(lane)) for lane in parallel.lanes)
        self.shuffle = shuffle_layer(parallel.order, len(parallel.lanes))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Split or share the input, run the lanes, concatenate or add, shuffle."""
        split = self.parallel.split
        inputs = [x_NCHW] * len(self.lanes) if split is None else x_NCHW.split(list(split), dim=1)
        outputs = [lane(part) for lane, part in zip(self.lanes, inputs, strict=True)]
        joined = torch.cat(outputs, dim=1) if self.parallel.join == "concat" else torch.stack(outputs).sum(dim=0)
        return self.shuffle(joined)


def step_layers(steps: Iterable[Step]) -> list[nn.Module]:
    """One layer a step."""
    return [step_layer(step) for step in steps]


def step_layer(step: Step) -> nn.Module:
    """The layer of a step."""
    return _LAYERS[type(step)](step)


_LAYERS: dict[type, Callable[..., nn.Module]] = {
    Factor: FactorLayer,
    Pool: PoolLayer,
    NormAct: NormActLayer,
    SqueezeExcitation: SqueezeExcitationLayer,
    Parallel: ParallelLayer,
}
