"""A block by stock layers, as a careful user writes it: what `benchmarks.blocks` holds plans against."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import cast

from torch import Tensor, nn

from igcsearch.nn.inference import fold
from igcsearch.nn.layers import ChannelShuffle, FactorLayer
from igcsearch.nn.network import BlockLayer

#: Activations in place, as a careful user writes them.
IN_PLACE: dict[str | None, Callable[[], nn.Module]] = {
    "relu": functools.partial(nn.ReLU, inplace=True),
    "relu6": functools.partial(nn.ReLU6, inplace=True),
    "silu": functools.partial(nn.SiLU, inplace=True),
    "hardswish": functools.partial(nn.Hardswish, inplace=True),
    "gelu": nn.GELU,
}


class Shuffle(nn.Module):
    """A permutation of channels that keeps the memory format. (N, C, H, W) to (N, C, H, W)."""

    def __init__(self, shuffle: ChannelShuffle) -> None:
        super().__init__()
        self.first = shuffle

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """One copy."""
        if x_NCHW.is_contiguous():
            return cast(Tensor, self.first(x_NCHW))
        x_NHWC, groups = x_NCHW.permute(0, 2, 3, 1), self.first.groups
        if not groups:
            return x_NHWC.index_select(3, cast(Tensor, self.first.order)).permute(0, 3, 1, 2)
        table = x_NHWC.unflatten(3, (groups, -1))
        return table.transpose(3, 4).reshape(x_NHWC.shape).permute(0, 3, 1, 2)


class Stock(nn.Module):
    """A block by stock layers, one after the other, and its shortcut. Norms folded into convolutions, or as they are."""

    def __init__(self, layer: BlockLayer, folded: bool) -> None:
        super().__init__()
        self.steps = nn.Sequential(*_stock_layers(layer.steps, folded))
        self.shortcut = None if layer.shortcut is None else nn.Sequential(*_stock_layers(layer.shortcut, folded))
        self.activation = nn.Sequential() if layer.activation is None else IN_PLACE[layer.activation]()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W')."""
        y_NCHW = self.steps(x_NCHW)
        if self.shortcut is not None:
            y_NCHW += self.shortcut(x_NCHW)
        return cast(Tensor, self.activation(y_NCHW))


def _stock_layers(steps: Iterable[nn.Module], folded: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for step in steps:
        assert isinstance(step, FactorLayer)
        if folded:
            part = fold(step)
            step.conv.weight = nn.Parameter(part.weight)
            step.conv.bias = None if part.bias is None else nn.Parameter(part.bias)
        layers.append(step.conv)
        if isinstance(step.shuffle, ChannelShuffle):
            layers.append(Shuffle(step.shuffle))
        if not folded and step.factor.norm:
            layers.append(step.norm)
        if step.factor.activation is not None:
            layers.append(IN_PLACE[step.factor.activation]())
    return layers
