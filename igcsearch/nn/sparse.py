"""Convolutions with N:M sparsity, kept in compact storage: the values that stay and packed codes of where they are. Floor 3.

sparse_storage.py has the storage itself. Shape legend: L lines at one kernel position, S kernel positions, k kept of a line.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..spec.sparsity import Sparsity, storage_bits, storage_bytes
from .sparse_storage import Shape, compact, dense, places, put, strongest

__all__ = [
    "SparseConv2d",
    "compact",
    "dense",
    "kernel",
    "places",
    "storage_bits",
    "storage_bytes",
    "strongest",
    "with_dense",
]

Pair = tuple[int, int]
Size = int | Pair


class SparseConv2d(nn.Module):
    """`nn.Conv2d` of which N of every M weights across channels stay. (N, C_in, H, W) to (N, C_out, H', W').

    Its parameters are the compact storage: `values` (L, S, k), `bias` (C_out,) or None; and the buffer `codes` (bytes,), uint8. A
    forward pass puts the values into a dense weight: it computes, and counters see, a dense or group convolution with zeros.
    Fresh: a random pattern, values and bias uniform within 1 / sqrt(fan_in) of kept weights, from torch's global generator.

    Codes that are written in place or loaded are seen by the next call. (A compiled network sees them after a call that is not.)

    Args:
        in_channels to padding_mode, device, dtype: as of `nn.Conv2d`.
        sparsity: N:M and its axis.
    """

    values: nn.Parameter
    bias: nn.Parameter | None
    codes: Tensor
    places: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        sparsity: Sparsity,
    ) -> None:
        super().__init__()
        like = nn.Conv2d(
            *(in_channels, out_channels, kernel_size, stride, padding, dilation, groups),
            bias=bias,
            padding_mode=cast(Literal["zeros", "reflect", "replicate", "circular"], padding_mode),
            device="meta",
        )  # checks the arguments
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = cast(Pair, like.kernel_size)
        self.stride, self.padding, self.dilation = like.stride, like.padding, like.dilation
        self.padding_mode, self.sparsity = padding_mode, sparsity
        self._around = list(like._reversed_padding_repeated_twice)
        self.weight_shape: Shape = (out_channels, in_channels // groups, *self.kernel_size)
        lines, channels = sparsity.line(in_channels, out_channels, groups)
        area = math.prod(self.kernel_size)
        shape = (lines, area, sparsity.kept_of(channels))
        bits = lines * area * sparsity.codes_of(channels) * sparsity.code_bits(channels)
        self.values = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.register_buffer("codes", torch.zeros(-(-bits // 8), dtype=torch.uint8, device=device))
        where = torch.zeros(
            math.prod(shape), dtype=torch.int64, device=device
        )  # in the dense weight; follows the codes
        self.register_buffer("places", where, persistent=False)
        self._seen: tuple[Tensor, int | None] | None = None
        self.reset_parameters()

    @classmethod
    def from_dense(
        cls,
        *args: Any,
        weight: Tensor,
        mask: Tensor,
        sparsity: Sparsity,
        bias: Tensor | bool | None = None,
        **more: Any,
    ) -> Self:
        """The layer of a dense weight (C_out, C_in / G, kh, kw) and a mask of its shape, True where a weight stays.

        Args:
            args, more: of the constructor, less bias, dtype and device: those are the weight's.
            bias: its values (C_out,); True: zeros; None, False: none.

        Raises:
            UsageError: a mask that is not of that sparsity.
        """
        has_bias = bias is not None and bias is not False
        more |= {"bias": has_bias, "device": weight.device, "dtype": weight.dtype}
        layer = cls(*args, sparsity=sparsity, **more)
        layer.set_weight(weight, mask)
        if layer.bias is not None:
            with torch.no_grad():
                layer.bias.copy_(bias) if isinstance(bias, Tensor) else layer.bias.zero_()
        return layer

    @torch.no_grad()
    def set_weight(self, weight: Tensor, mask: Tensor) -> None:
        """Take the values and places of a dense weight; as `from_dense`."""
        if tuple(weight.shape) != self.weight_shape:
            raise UsageError(f"a weight of shape {tuple(weight.shape)} is given, {self.weight_shape} is expected")
        values, codes = compact(weight, mask, self.sparsity, self.groups)
        self.values.copy_(values)
        self.codes.copy_(codes)
        self._follow(anew=True)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fresh values, bias and pattern, from torch's global generator."""
        bound = self.fan_in**-0.5
        for parameter in (self.values, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)
        self._scatter(torch.rand(self.weight_shape))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, gain: float) -> None:
        """Fresh: a random pattern, values normal of variance gain / fan_in of kept weights, bias 0."""
        self._scatter(torch.rand(self.weight_shape, generator=generator))
        self.values.copy_(torch.randn(self.values.shape, generator=generator) * (gain / self.fan_in) ** 0.5)
        if self.bias is not None:
            self.bias.zero_()

    def _scatter(self, scores: Tensor) -> None:
        """Take the pattern of the largest scores of each group."""
        if self.codes.is_meta:
            return
        self.codes.copy_(compact(scores, strongest(scores, self.sparsity, self.groups), self.sparsity, self.groups)[1])
        self._follow(anew=True)

    @property
    def fan_in(self) -> float:
        """Kept weights of an output channel, their mean."""
        return self.values.numel() / self.out_channels

    def dense_weight(self) -> Tensor:
        """The weight with its zeros, (C_out, C_in / G, kh, kw); differentiable in the values."""
        return put(self.values, self._follow(), self.weight_shape)

    def mask(self) -> Tensor:
        """True where the dense weight has a value, (C_out, C_in / G, kh, kw)."""
        return put(torch.ones_like(self.values, dtype=torch.bool), self._follow(), self.weight_shape)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The convolution by its dense weight."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x_NCHW, padding = F.pad(x_NCHW, self._around, mode=self.padding_mode), 0
        return F.conv2d(x_NCHW, self.dense_weight(), self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """What stands in the text of the module."""
        rest = [f"{name}={getattr(self, name)}" for name in ("kernel_size", "stride", "padding", "dilation", "groups")]
        return ", ".join(
            [f"{self.in_channels}, {self.out_channels}, {self.sparsity}", *rest, f"bias={self.bias is not None}"]
        )

    def _follow(self, anew: bool = False) -> Tensor:
        """The places of the values, decoded anew where the codes are other ones than before.

        Args:
            anew: always; tensors of inference mode do not tell that they were written to.
        """
        codes = self.codes
        if torch.compiler.is_compiling() or codes.is_meta:
            return self.places
        version = None if codes.is_inference() else codes._version
        if anew or self._seen is None or self._seen[0] is not codes or self._seen[1] != version:
            with torch.inference_mode(False), torch.no_grad():  # used in training too, whoever comes first
                self.places = places(codes.clone(), self.sparsity, self.weight_shape, self.groups)
            self._seen = (codes, version)
        return self.places

    def _load_from_state_dict(self, *args: Any, **more: Any) -> None:
        super()._load_from_state_dict(*args, **more)
        self._follow(anew=True)


def kernel(conv: nn.Conv2d | SparseConv2d) -> Tensor:
    """The weight that a convolution computes with, (C_out, C_in / G, kh, kw)."""
    return conv.dense_weight() if isinstance(conv, SparseConv2d) else conv.weight


def with_dense(network: nn.Module) -> nn.Module:
    """The same module with an `nn.Conv2d` in place of each sparse convolution within it: zeros are stored, torch knows it."""
    for name, child in network.named_children():
        if isinstance(child, SparseConv2d):
            network._modules[name] = _plain(child)
        else:
            with_dense(child)
    return network


def _plain(conv: SparseConv2d) -> nn.Conv2d:
    weight = conv.dense_weight().detach()
    made = nn.Conv2d(
        *(conv.in_channels, conv.out_channels, conv.kernel_size),
        stride=cast(Pair, conv.stride),
        padding=cast("Pair | str", conv.padding),
        dilation=cast(Pair, conv.dilation),
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=cast(Literal["zeros", "reflect", "replicate", "circular"], conv.padding_mode),
        device="meta",
    ).train(conv.training)
    made.weight = nn.Parameter(weight, requires_grad=conv.values.requires_grad)
    made.bias = conv.bias
    made._modules = conv._modules  # of a graph, where another node's path goes on from here
    return made
