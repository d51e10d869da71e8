"""`sparse`: a sparse convolution at inference from its kept weights alone, and `SparseRun`, the same as a module. Floor 3.

What is held of a weight is 5 bytes for each that is kept (sparse_layout.py), for every size of image; a dense weight is never
made where the kernel runs (sparse.h). Elsewhere (other dtypes and devices, no compiler) stock operators give the same.

Shape legend: N batch, C channels, H W map; a weight is (C_out, C_in / G, kh, kw), as `nn.Conv2d` has it.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from ...errors import UsageError
from ..workspace import Workspace
from .folded import ACTIVATIONS, NUMBERED, watched
from .library import kernels
from .shared import format_of, note_stock, product_macs
from .sparse_layout import STORED, dense, store

_MOST_KNOWN = 64  # shapes of an input that `SparseRun` remembers


@torch.library.custom_op("igcsearch::sparse", mutates_args=())
def sparse(
    x: Tensor,
    stored: list[Tensor],
    bias: Tensor,
    shape: list[int],
    groups: int,
    geometry: list[int],
    activation: int,
    residual: Tensor | None,
    final: int,
) -> Tensor:
    """`final(activation(conv2d(x) + bias) + residual)`; for inference only.

    Args:
        x: (N, C_in, H, W).
        stored: a weight's tensors, of `store`.
        bias: (C_out,); an empty tensor for none.
        shape, groups: of the dense weight, (C_out, C_in / G, kh, kw); G.
        geometry: stride, padding and dilation, two numbers each.
        activation, final: numbers of folded.ACTIVATIONS.
        residual: of the output's shape, or None.
    """
    _check(x, shape, groups, residual, geometry)
    size = _output_size(x, shape, geometry)
    layout = format_of(x)
    if not _served(x, stored, bias, residual):
        note_stock(x.device.type, x.dtype)
        weight = dense(stored, shape, groups).to(x.dtype)
        b = bias.to(x.dtype) if bias.numel() else None
        y = NUMBERED[activation](F.conv2d(x, weight, b, geometry[:2], geometry[2:4], geometry[4:], groups))
        return NUMBERED[final](y if residual is None else y + residual).contiguous(memory_format=layout)
    x = x.contiguous()
    y = torch.empty(size, dtype=x.dtype, device=x.device)
    numbers = _numbers(x, size, stored, bias, shape, geometry, activation)
    more = None if residual is None else residual.contiguous()
    _call((ctypes.c_int64 * len(numbers))(*numbers), x, y, more, final)
    return y.contiguous(memory_format=layout)


@sparse.register_fake
def _(
    x: Tensor,
    stored: list[Tensor],
    bias: Tensor,
    shape: list[int],
    groups: int,
    geometry: list[int],
    activation: int,
    residual: Tensor | None,
    final: int,
) -> Tensor:
    size = _output_size(x, shape, geometry)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=format_of(x))


@register_flop_formula(torch.ops.igcsearch.sparse)
def _sparse_flops(x: Any, stored: Any, bias: Any, shape: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * product_macs(out_shape, [shape])  # as a masked convolution


class SparseRun(nn.Module):
    """A convolution by its kept weights, with what stands behind it; called as `FusedRun`. For inference.

    Args:
        weight: (C_out, C_in / G, kh, kw), zero where nothing is kept; it is not kept itself.
        bias: (C_out,), or None.
        stride, padding, dilation: one number or two, as `nn.Conv2d` has them; zeros are padded.
        groups: G.
        activation: behind the convolution; a name of folded.ACTIVATIONS.
        terms: of a block, see `store`.

    Raises:
        UsageError: a weight of another shape, or an activation that the kernel does not know.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        activation: str | None = None,
        terms: int | None = None,
    ) -> None:
        super().__init__()
        if weight.dim() != 4 or weight.shape[0] % groups:
            raise UsageError(
                f"a weight of shape {tuple(weight.shape)} is none of a convolution in {groups} groups; "
                "give (C_out, C_in / G, kh, kw) with C_out a multiple of G"
            )
        if activation not in ACTIVATIONS:
            known = ", ".join(str(name) for name in ACTIVATIONS)
            raise UsageError(f"activation {activation!r} does not run inside a sparse convolution; known: {known}")
        self.shape, self.groups, self.activation = list(weight.shape), groups, activation
        pairs = [(each, each) if isinstance(each, int) else tuple(each) for each in (stride, padding, dilation)]
        self.geometry = [number for pair in pairs for number in pair]
        for name, tensor in zip(STORED, store(weight, groups, terms), strict=True):
            self.register_buffer(name, tensor)
        self.register_buffer("bias", weight.new_empty(0) if bias is None else bias.detach().float().clone())
        self._forget()

    def dense_weight(self) -> Tensor:
        """(C_out, C_in / G, kh, kw), as it was given."""
        return dense(self._stored(), self.shape, self.groups)

    def forward(
        self,
        x_NCHW: Tensor,
        residual: Tensor | None = None,
        activation: str | None = None,
        room: Workspace | None = None,
        busy: Sequence[Tensor | None] = (),
    ) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W'), in the memory format of the input; in `room` where there is one and the input
        is contiguous, which must not touch `busy`. `activation` stands behind the sum with the residual."""
        stored, bias, final = self._stored(), cast(Tensor, self.bias), ACTIVATIONS[activation]
        if (
            watched(x_NCHW, residual)
            or format_of(x_NCHW) is torch.channels_last
            or not _served(x_NCHW, stored, bias, residual)
        ):
            number = ACTIVATIONS[self.activation]
            return cast(
                Tensor, sparse(x_NCHW, stored, bias, self.shape, self.groups, self.geometry, number, residual, final)
            )
        if not all(map(operator.is_, self._buffers.values(), self._held)):  # exchanged, such as by `to`
            self._forget()
        x = x_NCHW.contiguous()
        key = (*x.shape, torch.get_num_threads())
        if key not in self._known:
            _check(x, self.shape, self.groups, None, self.geometry)
            if len(self._known) >= _MOST_KNOWN:  # images of ever new sizes
                self._known.clear()
            size = _output_size(x, self.shape, self.geometry)
            numbers = _numbers(x, size, stored, bias, self.shape, self.geometry, ACTIVATIONS[self.activation])
            self._known[key] = size, (ctypes.c_int64 * len(numbers))(*numbers)
        size, held = self._known[key]
        if residual is not None and list(residual.shape) != size:
            raise RuntimeError(f"a residual of shape {tuple(residual.shape)} is not as the output, {tuple(size)}")
        more = None if residual is None else residual.contiguous()
        if room is None:
            y = torch.empty(size, dtype=torch.float32, device="cpu")
        else:
            y = room.take(size, torch.contiguous_format, (x, residual, *busy))
        _call(type(held).from_buffer_copy(held), x, y, more, final)  # a copy: other threads may call at the same time
        return y

    def extra_repr(self) -> str:
        """What it is of."""
        out, each, *kernel = self.shape
        area = "x".join(map(str, kernel))
        kept = cast(Tensor, self.values).numel()
        return f"{each * self.groups} -> {out}, {area}, groups={self.groups}, kept={kept}, stride={self.geometry[:2]}"

    def __getstate__(self) -> dict[str, Any]:
        """A copy has tensors of its own, to which what is known here does not point."""
        return {**self.__dict__, "_known": {}, "_held": ()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()

    def _stored(self) -> list[Tensor]:
        return [cast(Tensor, self._buffers[name]) for name in STORED]

    def _forget(self) -> None:
        self._held = tuple(self._buffers.values())
        self._known: dict[tuple[int, ...], tuple[list[int], Any]] = {}


def _served(x: Tensor, stored: Sequence[Tensor], bias: Tensor, residual: Tensor | None) -> bool:
    """True if the kernel runs it: float32 on a CPU throughout."""
    floats = (x, stored[0], bias) if residual is None else (x, stored[0], bias, residual)
    return all(t.dtype is torch.float32 and t.device.type == "cpu" for t in floats) and kernels() is not None


def _check(x: Tensor, shape: Sequence[int], groups: int, residual: Tensor | None, geometry: Sequence[int]) -> None:
    """Refuse what the kernel would read beyond."""
    wanted = shape[1] * groups
    if x.dim() != 4 or x.shape[1] != wanted:
        raise RuntimeError(f"expected an input of shape (N, {wanted}, H, W), got {tuple(x.shape)}")
    size = _output_size(x, shape, geometry)
    if min(size[2:]) < 1 or min(x.shape[2:]) < 1:
        raise RuntimeError(f"expected a map that the kernel fits on, got an input of shape {tuple(x.shape)}")
    if residual is not None and list(residual.shape) != size:
        raise RuntimeError(f"a residual of shape {tuple(residual.shape)} is not as the output, {tuple(size)}")


def _output_size(x: Tensor, shape: Sequence[int], geometry: Sequence[int]) -> list[int]:
    stride, padding, dilation = geometry[:2], geometry[2:4], geometry[4:]
    sides = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, k, s, p, d in zip(x.shape[2:], shape[2:], stride, padding, dilation, strict=True)
    ]
    return [x.shape[0], shape[0], *sides]


def _numbers(
    x: Tensor,
    size: Sequence[int],
    stored: Sequence[Tensor],
    bias: Tensor,
    shape: Sequence[int],
    geometry: Sequence[int],
    activation: int,
) -> list[int]:
    """What kernels.cpp says; addresses of what changes with each call stay 0."""
    values, terms, starts, channel_of, tap_of, blocks = stored
    numbers = [0, 0, 0, 0, *x.shape, *size[1:], *shape[2:], *geometry, torch.get_num_threads()]
    numbers += [each.data_ptr() for each in (values, terms, starts, channel_of, tap_of, blocks)]
    return [*numbers, len(blocks), bias.data_ptr() if bias.numel() else 0, activation]


def _call(numbers: Any, x: Tensor, y: Tensor, residual: Tensor | None, final: int) -> None:
    library = kernels()
    assert library is not None
    numbers[0], numbers[1], numbers[3] = x.data_ptr(), y.data_ptr(), final
    if residual is not None:
        numbers[2] = residual.data_ptr()
    library.igc_sparse(numbers)
