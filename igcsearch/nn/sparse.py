"""Convolutions with N:M sparsity, kept in compact storage: the values that stay and packed codes of where they are. Floor 3.

Shape legend: O output channels, I input channels of one branch, G branches, S kernel positions, L lines at one position, C channels
of a line, k kept of a line. spec/sparsity.py says what lines, groups of M and codes are. Along "in" L = O and C = I; along "out" L
= G * I and C = O / G.

Order of the storage: values (L, S, k) line after line (output channel o, or input channel g * I + i), position after position (row
by row), kept channels in ascending order. Codes follow the same order, one for each group or value, one behind the other in a
stream of bits: code j takes bits j * b to (j + 1) * b - 1, lowest first, and bit i of the stream is bit i % 8 of byte i // 8. The
pattern of places c_0 < c_1 < ... < c_(n-1) in a group has the number sum C(c_i, i + 1) (colexicographic order).
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..spec.sparsity import Sparsity, storage_bits, storage_bytes

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
Shape = tuple[int, int, int, int]


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
        self._follow()

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
        self._follow()

    @property
    def fan_in(self) -> float:
        """Kept weights of an output channel, their mean."""
        return self.values.numel() / self.out_channels

    def dense_weight(self) -> Tensor:
        """The weight with its zeros, (C_out, C_in / G, kh, kw); differentiable in the values."""
        return _put(self.values, self._follow(), self.weight_shape)

    def mask(self) -> Tensor:
        """True where the dense weight has a value, (C_out, C_in / G, kh, kw)."""
        return _put(torch.ones_like(self.values, dtype=torch.bool), self._follow(), self.weight_shape)

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

    def _follow(self) -> Tensor:
        """The places of the values, decoded anew where the codes are other ones than before."""
        codes = self.codes
        if torch.compiler.is_compiling() or codes.is_meta:
            return self.places
        version = None if codes.is_inference() else codes._version
        if self._seen is None or self._seen[0] is not codes or self._seen[1] != version:
            with torch.inference_mode(False), torch.no_grad():  # used in training too, whoever comes first
                self.places = places(codes.clone(), self.sparsity, self.weight_shape, self.groups)
            self._seen = (codes, version)
        return self.places

    def _load_from_state_dict(self, *args: Any, **more: Any) -> None:
        super()._load_from_state_dict(*args, **more)
        self._follow()


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


@torch.no_grad()
def strongest(scores: Tensor, sparsity: Sparsity, groups: int = 1) -> Tensor:
    """The mask of the largest scores of each group, the first of equal ones. (C_out, C_in / G, kh, kw) to the same, bool."""
    lines_LSC = _lines(scores, sparsity, groups)
    kept_LSC = torch.zeros_like(lines_LSC, dtype=torch.bool)
    for at in range(0, lines_LSC.shape[2], sparsity.m):
        part = lines_LSC[:, :, at : at + sparsity.m]
        order = part.argsort(dim=2, descending=True, stable=True)[:, :, : sparsity.kept_of(part.shape[2])]
        kept_LSC[:, :, at : at + sparsity.m].scatter_(2, order, True)
    return _kernels(kept_LSC, tuple(scores.shape), sparsity, groups)


def compact(weight: Tensor, mask: Tensor, sparsity: Sparsity, groups: int = 1) -> tuple[Tensor, Tensor]:
    """What is stored of a weight (C_out, C_in / G, kh, kw): values (L, S, k), and codes (bytes,) uint8.

    Args:
        mask: of the weight's shape, True where a weight stays.

    Raises:
        UsageError: another shape, or a mask that does not keep as many of each group as the sparsity says.
    """
    if mask.shape != weight.shape:
        raise UsageError(f"a mask of shape {tuple(mask.shape)} is given for a weight of shape {tuple(weight.shape)}")
    lines_LSC, kept_LSC = _lines(weight, sparsity, groups), _lines(mask.bool(), sparsity, groups)
    lines, area, channels = kept_LSC.shape
    for at in range(0, channels, sparsity.m):
        size = min(sparsity.m, channels - at)
        if (kept_LSC[:, :, at : at + size].sum(dim=2) != sparsity.kept_of(size)).any():
            raise UsageError(
                f"the mask does not keep {sparsity.kept_of(size)} of channels {at} to {at + size - 1} everywhere, as {sparsity} "
                "does; nn.sparse.strongest makes one that does"
            )
    found_LSk = kept_LSC.nonzero()[:, 2].reshape(lines, area, -1)
    return lines_LSC.gather(2, found_LSk), _packed(*_encoded(found_LSk, channels, sparsity))


def places(codes: Tensor, sparsity: Sparsity, weight_shape: Shape, groups: int = 1) -> Tensor:
    """Where each stored value is in the flattened dense weight, (L * S * k,) int64: the inverse of `compact`'s codes.

    Raises:
        UsageError: codes that `compact` cannot have made.
    """
    out_channels, width, *_ = weight_shape
    area = weight_shape[2] * weight_shape[3]
    channels_LSk = decoded(codes, sparsity, weight_shape, groups)
    line = torch.arange(len(channels_LSk), device=codes.device)[:, None, None]
    position = torch.arange(area, device=codes.device)[None, :, None]
    if sparsity.axis == "in":
        row, column = line, channels_LSk
    else:
        row, column = line // width * (out_channels // groups) + channels_LSk, line % width
    return ((row * width + column) * area + position).flatten()


def decoded(codes: Tensor, sparsity: Sparsity, weight_shape: Shape, groups: int = 1) -> Tensor:
    """The channel of each stored value in its line, (L, S, k) int64.

    Raises:
        UsageError: as `places`.
    """
    lines, channels = sparsity.line(weight_shape[1] * groups, weight_shape[0], groups)
    area, bits, count = weight_shape[2] * weight_shape[3], sparsity.code_bits(channels), sparsity.codes_of(channels)
    found = _unpacked(codes, bits, lines * area * count).reshape(lines, area, count)
    own = sparsity.on(channels)
    full, rest = divmod(channels, own.m)
    parts = []
    for groups_of, size, first in ((full, own.m, 0), (int(rest > 0), rest, full)):
        if not groups_of:
            continue
        kept = own.kept_of(size)
        if sparsity.coding(channels) == "pattern":
            part = found[:, :, first : first + groups_of]
            table = _patterns(size, kept).to(codes.device)
            _check(bool((part < len(table)).all()), sparsity)
            part = table[part]  # (L, S, groups, kept)
        else:
            part = found[:, :, first * own.n :][:, :, : groups_of * kept].reshape(lines, area, groups_of, kept)
            _check(bool((part < size).all() and (part.diff(dim=3) > 0).all()), sparsity)
        begin = (torch.arange(groups_of, device=codes.device) + first) * own.m
        parts.append((part + begin[:, None]).flatten(2))
    return torch.cat(parts, dim=2)


def dense(values: Tensor, codes: Tensor, sparsity: Sparsity, weight_shape: Shape, groups: int = 1) -> Tensor:
    """The weight (C_out, C_in / G, kh, kw) of stored values and codes."""
    return _put(values, places(codes, sparsity, weight_shape, groups), weight_shape)


def _put(values: Tensor, where: Tensor, shape: Shape) -> Tensor:
    zeros = torch.zeros(math.prod(shape), dtype=values.dtype, device=values.device)
    return zeros.scatter(0, where, values.flatten()).view(shape)


def _lines(kernels: Tensor, sparsity: Sparsity, groups: int) -> Tensor:
    """(C_out, C_in / G, kh, kw) to (L, S, C)."""
    out_channels, width = kernels.shape[:2]
    if sparsity.axis == "in":
        return kernels.flatten(2).transpose(1, 2)
    rows = out_channels // groups
    return kernels.reshape(groups, rows, width, -1).permute(0, 2, 3, 1).flatten(0, 1)


def _kernels(lines_LSC: Tensor, shape: tuple[int, ...], sparsity: Sparsity, groups: int) -> Tensor:
    """The inverse of `_lines`."""
    if sparsity.axis == "in":
        return lines_LSC.transpose(1, 2).reshape(shape)
    return lines_LSC.reshape(groups, shape[1], -1, shape[0] // groups).permute(0, 3, 1, 2).reshape(shape)


def _encoded(channels_LSk: Tensor, channels: int, sparsity: Sparsity) -> tuple[Tensor, int]:
    """The codes of kept channels, flattened, and the bits of one."""
    own, bits = sparsity.on(channels), sparsity.code_bits(channels)
    if sparsity.coding(channels) == "index":
        return (channels_LSk % own.m).flatten(), bits
    lines, area, _ = channels_LSk.shape
    full, rest = divmod(channels, own.m)
    inside = channels_LSk % own.m
    codes = [_ranks(inside[:, :, : full * own.n].reshape(lines, area, full, own.n), own.m)]
    if rest:
        codes.append(_ranks(inside[:, :, None, full * own.n :], own.m))
    return torch.cat(codes, dim=2).flatten(), bits


def _ranks(places_k: Tensor, m: int) -> Tensor:
    """The number of each pattern of ascending places, (..., k) to (...): sum C(c_i, i + 1)."""
    kept = places_k.shape[-1]
    table = torch.tensor([[math.comb(c, i + 1) for i in range(kept)] for c in range(m)], device=places_k.device)
    return table[places_k, torch.arange(kept, device=places_k.device)].sum(dim=-1)


@lru_cache(maxsize=64)
def _patterns(m: int, n: int) -> Tensor:
    """All patterns by their number, (C(m, n), n): colexicographic order."""
    found = sorted(itertools.combinations(range(m), n), key=lambda places: places[::-1])
    return torch.tensor(found, dtype=torch.int64, device="cpu")


def _packed(codes: Tensor, bits: int) -> Tensor:
    """Whole numbers below 2**bits as a stream of bits, in bytes."""
    stream = ((codes[:, None] >> torch.arange(bits, device=codes.device)) & 1).to(torch.uint8).flatten()
    bytes_8 = F.pad(stream, (0, -len(stream) % 8)).reshape(-1, 8)
    return (bytes_8 << torch.arange(8, dtype=torch.uint8, device=codes.device)).sum(dim=1, dtype=torch.uint8)


def _unpacked(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `_packed`: so many numbers, int64."""
    stream = (packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    codes = stream.flatten()[: count * bits].reshape(count, bits).to(torch.int64)
    return (codes << torch.arange(bits, device=packed.device)).sum(dim=1)


def _check(holds: bool, sparsity: Sparsity) -> None:
    if not holds:
        raise UsageError(
            f"the codes of a {sparsity} convolution name places that no group has; the weights are damaged"
        )
