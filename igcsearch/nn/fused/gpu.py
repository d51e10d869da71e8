"""Products of 1x1 group convolutions on a GPU, by Triton: launches and block sizes. Floor 3.

`product` and `product_backward` are what trainable.py calls; gpu_plan.py reads the index, gpu_kernels.py holds the kernels. Triton
is imported when the first of them runs. Two ways:

- A strict two-factor product (every branch of the second takes one channel of every branch of the first) is one kernel: one
  read of x, one write of y. The permutation in the middle becomes offsets into the weights.
- Any other product is one kernel a factor, whose loads follow the permutations.

The gradient of x is the same product with transposed weights and reversed wires; weight gradients are summed over fixed ranges
of pixels and then over the ranges in order, so a run gives the same numbers as the one before.

Channels last is the native layout. There, a permutation of x costs loads of single channels (from the L1 cache), one of y is
undone on the chip before the store as long as a program holds all channels; identities and interleaves cost nothing. In
contiguous tensors (N, C, H, W) no permutation costs anything, as pixels are what is adjacent.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .gpu_plan import Plan, Shape, Strict, Wire, plan_of

#: Measured block sizes go here and replace those of `_strict_blocks`, `_factor_blocks` ...: (kernel's name, bytes of an element,
#: sizes (A, B, K, R) or (G, K, R)) to the arguments that differ, such as {"BP": 64, "num_warps": 4}. Nothing was measured yet.
TUNED: dict[tuple[str, int, tuple[int, ...]], dict[str, int]] = {}

#: How float32 is multiplied: exactly. "tf32x3" would use tensor cores at nearly the same accuracy, "tf32" at three digits.
PRECISION = "ieee"

#: Widest branch of a strict product that is run at once, by the bytes of an element: wider ones do not fit.
_WIDEST = {2: 64, 4: 32}
#: Programs that share out the pixels for weight gradients: two for each multiprocessor of an H200; and the least pixels of one.
_PROGRAMS, _LEAST_PIXELS = 264, 256
#: Shared memory that the kernels may need, bytes: what an A100 has, and each data centre GPU after it.
_SHARED = 160 * 1024


@functools.cache
def available() -> bool:
    """True if the kernels can run: Triton is there, and a GPU that is large enough or Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":
        return True
    if not torch.cuda.is_available():
        return False
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    return device.major >= 8 and device.shared_memory_per_block_optin >= _SHARED


def product(x: Tensor, weights: Sequence[Tensor], index: Tensor, groups: Sequence[int], bias: Tensor | None) -> Tensor:
    """The product of L group convolutions and the permutations around them.

    Args:
        x: (N, C_in, H, W), float32, bfloat16 or float16, contiguous or channels last.
        weights: of each factor (out_l, K_l, 1, 1) or (out_l, K_l), of any float type.
        index: int32, source_1 (C_in numbers) ... source_L, destination (out_L) one behind the other. Position j of factor l's
            input reads row source_l[j] of the factor before (of x); row r of the last factor is channel destination[r] of y.
        groups: branches of each factor.
        bias: (C_out,) by channel of y, or None.

    Returns:
        y: (N, C_out, H, W) in x's type and layout. Sums are in float32; what passes between factors is rounded to x's type.
    """
    plan = plan_of(index, weights, groups)
    weights = [weight.contiguous() for weight in weights]
    if plan.strict is not None and plan.strict.width <= _WIDEST[x.element_size()]:
        return _strict(x, weights[0], weights[1], bias, plan.strict)
    return _factors(x, weights, bias, plan)[-1]


def product_backward(
    dy: Tensor, x: Tensor, weights: Sequence[Tensor], index: Tensor, groups: Sequence[int], need_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients of `product`: of x (in its type and layout; None unless need_x) and of each weight (in its shape, float32).

    dy: (N, C_out, H, W). What passes between the factors is computed again, not kept from the forward pass.
    """
    plan = plan_of(index, weights, groups)
    weights = [weight.contiguous() for weight in weights]
    dy = dy.to(x.dtype).contiguous(memory_format=_layout(x))
    if plan.strict is not None and plan.strict.width <= _WIDEST[x.element_size()]:
        dx = _strict(dy, weights[1], weights[0], None, plan.strict.transposed()) if need_x else None
        return dx, _strict_weights(x, dy, weights, plan.strict)
    inputs = [x, *_factors(x, weights[:-1], None, plan)]
    gradients: list[Tensor] = []
    for i in reversed(range(len(weights))):
        shape, into, behind = plan.shapes[i], plan.wires[i], plan.wires[i + 1].reversed()
        gradients.insert(0, _factor_weights(inputs[i], dy, weights[i], shape, into.rows, behind.rows))
        if i > 0 or need_x:
            dy = _factor(dy, weights[i], None, shape.transposed(), behind, Wire() if i > 0 else into.reversed())
    return (dy if need_x else None), gradients


# ---------------------------------------------------------------- launches


def _strict(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, strict: Strict) -> Tensor:
    """x through a strict product."""
    y = _like(x, strict.B * strict.R)
    blocks = _strict_blocks(strict, x)
    whole = _last(x) and strict.maps[3].table is not None and blocks["BB"] >= strict.B
    inverse = strict.wires[1].rows if whole else None
    programs = _cdiv(_pixels(x), blocks["BP"]) * _cdiv(strict.B, blocks["BB"])
    tables = (at.table for at in strict.maps)
    _launch(
        "strict", programs, x, (y, first, second, bias, *tables, inverse), _strict_sizes(strict), WHOLE=whole, **blocks
    )
    return y


def _strict_weights(x: Tensor, dy: Tensor, weights: Sequence[Tensor], strict: Strict) -> list[Tensor]:
    """Both weights' gradients of a strict product."""
    blocks = _strict_weights_blocks(strict, x)
    chunks = _cdiv(strict.A, blocks["BA"]) * _cdiv(strict.B, blocks["BB"])
    span, splits = _spans(_pixels(x), blocks["BP"], chunks)
    sizes = [weight.numel() for weight in weights]
    sums = x.new_empty((splits, sum(sizes)), dtype=torch.float32)
    arguments = (dy, *weights, sums, *(at.table for at in strict.maps))
    _launch("strict_weights", splits * chunks, x, arguments, _strict_sizes(strict), span=span, **blocks)
    return [part.sum(0).view(weight.shape) for part, weight in zip(sums.split(sizes, dim=1), weights, strict=True)]


def _factors(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, plan: Plan) -> list[Tensor]:
    """x through the factors, one after the other: what each of them gives; in rows' order but for the whole product's last."""
    outputs: list[Tensor] = []
    for i, weight in enumerate(weights):
        is_end = i + 1 == len(plan.shapes)
        out = plan.wires[i + 1] if is_end else Wire()
        outputs.append(_factor(x, weight, bias if is_end else None, plan.shapes[i], plan.wires[i], out))
        x = outputs[-1]
    return outputs


def _factor(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape, into: Wire, out: Wire) -> Tensor:
    """x through one factor, read through the wire `into` and written through `out`."""
    y = _like(x, shape.G * shape.R)
    blocks = _factor_blocks(shape, x)
    rows = blocks["BS"] * blocks["JOINED"]
    whole = _last(x) and out.rows is not None and rows >= shape.G and blocks["BR"] >= blocks["JOINED"] * shape.R
    chunks = _cdiv(shape.G, rows) * _cdiv(blocks["JOINED"] * shape.R, blocks["BR"])
    arguments = (y, weight, bias, into.rows, out.inverse, out.rows if whole else None)
    sizes = {"G": shape.G, "K": shape.K, "R": shape.R, "W_R": shape.W_R, "W_K": shape.W_K}
    _launch("factor", _cdiv(_pixels(x), blocks["BP"]) * chunks, x, arguments, sizes, WHOLE=whole, **blocks)
    return y


def _factor_weights(
    x: Tensor, dy: Tensor, weight: Tensor, shape: Shape, source: Tensor | None, target: Tensor | None
) -> Tensor:
    """One factor's weight gradient; it reads channel source[j] of x and target[r] of dy."""
    blocks = _factor_weights_blocks(shape, x)
    joined = blocks["JOINED"]
    chunks = (
        _cdiv(shape.G, blocks["BS"] * joined)
        * _cdiv(joined * shape.R, blocks["BR"])
        * _cdiv(joined * shape.K, blocks["BK"])
    )
    span, splits = _spans(_pixels(x), blocks["BP"], chunks)
    sums = x.new_empty((splits, *weight.shape), dtype=torch.float32)
    sizes = {"G": shape.G, "K": shape.K, "R": shape.R}
    _launch("factor_weights", splits * chunks, x, (dy, sums, source, target), sizes, span=span, **blocks)
    return sums.sum(0)


def _launch(
    name: str, programs: int, x: Tensor, arguments: tuple[Tensor | None, ...], sizes: dict[str, int], **others: Any
) -> None:
    """Start a kernel on x's device; with no pixels there is nothing to do."""
    if programs == 0:
        return
    kernels = _kernels()
    image = x.shape[2] * x.shape[3]
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        getattr(kernels, name)[(programs,)](
            x, *arguments, pixels=_pixels(x), area=image, LAST=_last(x), TYPE=kernels.dot_type(x.dtype), PRECISION=PRECISION,
            enable_fp_fusion=True, **sizes, **others,
        )  # fmt: skip


@functools.cache
def _kernels() -> ModuleType:
    from . import gpu_kernels

    return gpu_kernels


def _strict_sizes(strict: Strict) -> dict[str, int]:
    sizes = {"A": strict.A, "B": strict.B, "K": strict.K, "R": strict.R}
    for name, at in zip(("IN", "FIRST", "SECOND", "OUT"), strict.maps, strict=True):
        sizes |= {f"{name}_S": at.S, f"{name}_T": at.T}
    return sizes | {"FIRST_K": strict.steps[0], "SECOND_R": strict.steps[1]}


def _pixels(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


def _last(x: Tensor) -> bool:
    """Whether x is pixels x channels in memory; as a map of one pixel is, whatever its strides say."""
    return not x.is_contiguous() or x.shape[2] * x.shape[3] == 1


def _layout(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def _like(x: Tensor, channels: int) -> Tensor:
    """An empty tensor of x's images, in its type and layout."""
    return torch.empty((x.shape[0], channels, *x.shape[2:]), dtype=x.dtype, device=x.device, memory_format=_layout(x))


# ---------------------------------------------------------------- block sizes
#
# By what the compiler says for sm_90, not by time: few registers spilled, at most _SHARED bytes of shared memory, and two
# programs to a multiprocessor where the width allows it. _TILE is the most numbers of an accumulator, by bytes of an element.

_TILE = {2: 16384, 4: 8192}
#: (bytes of an element, width of a branch, padded): pixels of a program, warps, stages of its pipeline.
_STRICT = {(2, 16): (64, 8, 2), (2, 32): (32, 8, 2), (2, 64): (16, 8, 2), (4, 16): (32, 8, 2), (4, 32): (16, 8, 2)}
_STRICT_WEIGHTS = {
    (2, 16): (32, 8, 2),
    (2, 32): (16, 8, 2),
    (2, 64): (16, 16, 2),
    (4, 16): (16, 8, 2),
    (4, 32): (16, 16, 1),
}


def _strict_blocks(strict: Strict, x: Tensor) -> dict[str, int]:
    """16 branches of either factor at a time; all of the second where its rows are to be put in order before the store."""
    BP, warps, stages = _STRICT[x.element_size(), _padded(strict.width)]
    BB, BR = _padded(strict.B), _padded(strict.R)
    scattered = _last(x) and strict.maps[3].table is not None
    rows = BB * BR
    if not scattered or rows > _TILE[x.element_size()] // 16:
        BB = 16
    while BP > 16 and (BP * BB * BR > 16384 or _cdiv(_pixels(x), BP) * _cdiv(strict.B, BB) < _PROGRAMS // 2):
        BP //= 2
    blocks = {"BP": BP, "BA": 16, "BB": BB, "BK": _padded(strict.K), "BR": BR, "num_warps": warps, "num_stages": stages}
    return blocks | TUNED.get(("strict", x.element_size(), (strict.A, strict.B, strict.K, strict.R)), {})


def _strict_weights_blocks(strict: Strict, x: Tensor) -> dict[str, int]:
    BP, warps, stages = _STRICT_WEIGHTS[x.element_size(), _padded(strict.width)]
    BK, BR = _padded(strict.K), _padded(strict.R)
    blocks = {"BP": BP, "BA": 16, "BB": 16, "BK": BK, "BR": BR, "num_warps": warps, "num_stages": stages}
    return blocks | TUNED.get(("strict_weights", x.element_size(), (strict.A, strict.B, strict.K, strict.R)), {})


def _factor_blocks(shape: Shape, x: Tensor) -> dict[str, int]:
    """Narrow branches are joined to 16 channels; as many as fit are in one program, so that L1 serves the gathers."""
    joined, branches = _joined(shape)
    widest = 64 if x.element_size() == 2 or branches < 4 else 32
    BK, BR = min(widest, _padded(joined * shape.K)), min(widest, _padded(joined * shape.R))
    room = _TILE[x.element_size()] // max(BK, BR)
    BS = 1 if branches < 4 else min(_power(branches), room // 16, 32768 // (BK * BR))
    BP = min(64, room // BS)
    while BP > 16 and _cdiv(_pixels(x), BP) * _cdiv(branches, BS) * _cdiv(joined * shape.R, BR) < _PROGRAMS // 2:
        BP //= 2
    blocks = {"JOINED": joined, "BP": BP, "BS": BS, "BK": BK, "BR": BR, "num_warps": 8 if BS >= 8 else 4}
    blocks["num_stages"] = 2
    return blocks | TUNED.get(("factor", x.element_size(), (shape.G, shape.K, shape.R)), {})


def _factor_weights_blocks(shape: Shape, x: Tensor) -> dict[str, int]:
    joined, branches = _joined(shape)
    widest = 64 if x.element_size() == 2 and branches < 4 else 32
    BK, BR = min(widest, _padded(joined * shape.K)), min(widest, _padded(joined * shape.R))
    BS = 1 if branches < 4 else min(_power(branches), 8192 // (BK * BR))
    BP = max(16, min(32, 8192 // (BS * max(BK, BR))))
    blocks = {"JOINED": joined, "BP": BP, "BS": BS, "BK": BK, "BR": BR, "num_warps": 8 if BS >= 8 else 4}
    blocks["num_stages"] = 2
    return blocks | TUNED.get(("factor_weights", x.element_size(), (shape.G, shape.K, shape.R)), {})


def _joined(shape: Shape) -> tuple[int, int]:
    """How many neighbouring branches make one of at most 16 channels, and how many of those there are."""
    joined = max(1, 16 // max(shape.K, shape.R))
    return joined, _cdiv(shape.G, joined)


def _spans(pixels: int, BP: int, chunks: int) -> tuple[int, int]:
    """Pixels of one range (a multiple of BP), and how many ranges: by sizes alone, so that sums are taken alike on each run."""
    wanted = max(1, min(_PROGRAMS // chunks, _cdiv(pixels, _LEAST_PIXELS)))
    span = _cdiv(_cdiv(pixels, wanted), BP) * BP
    return max(span, BP), _cdiv(pixels, max(span, BP))


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def _padded(number: int) -> int:
    """As tl.dot takes it: a power of two of at least 16."""
    return max(16, _power(number))
