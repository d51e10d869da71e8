"""The closed list of operations that a network of the kind `graph` is made of: shapes, parameters, multiply-adds. Floor 0.

Semantics are torch's (torch.nn of the same name unless said otherwise). Shapes are of one image: (C, H, W), or (F,) behind
`Flatten` until an `Unflatten`. Every field is in the JSON form under its name, left out at its default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..errors import UsageError, near
from .sparsity import Sparsity, checked_sparsity

Shape = tuple[int, ...]
Pair = tuple[int, int]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
GRAPH_ACTIVATIONS = (
    *("relu", "relu6", "silu", "hardswish", "gelu", "sigmoid", "hardsigmoid", "tanh", "leaky_relu", "elu", "mish"),
    *("softplus", "softmax"),
)


@dataclass(frozen=True)
class Operation:
    """What a node does. Frozen data; nn/graph.py computes it."""

    op: ClassVar[str] = ""
    #: How many nodes it reads: the least and the most.
    reads: ClassVar[tuple[int, float]] = (1, 1)

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return 0

    def shape(self, *shapes: Shape) -> Shape:
        """The shape that it makes of what it reads.

        Raises:
            UsageError: shapes that it cannot read.
        """
        return shapes[0]

    def macs(self, made: Shape) -> int:
        """Multiply-adds for one image where it makes that shape (convolutions and linear layers, as everywhere)."""
        return 0

    def nonzero_macs(self, made: Shape) -> int:
        """`macs` without those with weights that an N:M sparsity leaves out."""
        return self.macs(made)


@dataclass(frozen=True)
class Convolution(Operation):
    """`Conv2d`: (C_in, H, W) to (C_out, H', W'); all but the channel counts and flags are pairs (rows, columns).

    With `sparsity` (N, M) of every M weights across the channels of a branch N stay (sparsity.py), along the input or the output
    channels (`sparse_axis`: "in", "out").
    """

    op: ClassVar[str] = "convolution"
    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = False
    padding_mode: str = "zeros"
    sparsity: Pair | None = None
    sparse_axis: str = "in"

    def __post_init__(self) -> None:
        if self.groups < 1 or self.in_channels % self.groups or self.out_channels % self.groups:
            raise UsageError(f"{self.groups} groups do not divide {self.in_channels} and {self.out_channels} channels")
        sizes = (*self.kernel_size, *self.stride, *self.dilation)
        _at_least_1(
            "a convolution's channels, kernel, strides and dilations", self.in_channels, self.out_channels, *sizes
        )
        if min(self.padding) < 0:
            raise UsageError(f"padding {self.padding} is negative; use a slice")
        _one_of("padding mode", self.padding_mode, PADDING_MODES)
        object.__setattr__(self, "sparsity", checked_sparsity(self.sparsity, self.sparse_axis)[0])

    @property
    def weights(self) -> int:
        """Entries of the weight tensor, those that a sparsity leaves out included."""
        return math.prod(self.kernel_size) * self.in_channels // self.groups * self.out_channels

    @property
    def nm(self) -> Sparsity | None:
        """Its N:M sparsity."""
        return checked_sparsity(self.sparsity, self.sparse_axis)[1]

    @property
    def kept_weights(self) -> int:
        """The weights that an N:M sparsity leaves; all of them where there is none."""
        if (nm := self.nm) is None:
            return self.weights
        return nm.kept_weights(self.in_channels, self.out_channels, self.groups, math.prod(self.kernel_size))

    @property
    def params(self) -> int:
        """Weights that are kept, and biases."""
        return self.kept_weights + self.out_channels * int(self.bias)

    def shape(self, *shapes: Shape) -> Shape:
        """(C_in, H, W) to (C_out, H', W')."""
        size = _map_of(shapes[0], self.in_channels)
        for n, p in zip(size, self.padding, strict=True):
            if (self.padding_mode == "reflect" and p >= n) or (self.padding_mode == "circular" and p > n):
                more = "more than" if self.padding_mode == "reflect" else "at least"
                raise UsageError(
                    f"{self.padding_mode} padding of {p} needs a map of {more} {p} pixels; use a larger image"
                )
        spans = zip(size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return (self.out_channels, *(_slid(n + 2 * p - d * (k - 1) - 1, s) for n, k, s, p, d in spans))

    def macs(self, made: Shape) -> int:
        """Weights times positions."""
        return self.weights * made[1] * made[2]

    def nonzero_macs(self, made: Shape) -> int:
        """Kept weights times positions."""
        return self.kept_weights * made[1] * made[2]


@dataclass(frozen=True)
class BatchNorm(Operation):
    """`BatchNorm2d`, or `BatchNorm1d` on (F,): running statistics, learned scale and shift where `affine`."""

    op: ClassVar[str] = "norm"
    channels: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True

    @property
    def params(self) -> int:
        """Scale and shift."""
        return 2 * self.channels * int(self.affine)

    def shape(self, *shapes: Shape) -> Shape:
        """Any shape of `channels` channels stays."""
        _check_channels(shapes[0], self.channels)
        return shapes[0]


@dataclass(frozen=True)
class Activation(Operation):
    """One of GRAPH_ACTIVATIONS, element by element (softmax: over the channels).

    Args:
        slope: of leaky_relu below 0.
        tanh: gelu by its approximation with tanh.
    """

    op: ClassVar[str] = "activation"
    kind: str
    slope: float = 0.01
    tanh: bool = False

    def __post_init__(self) -> None:
        _one_of("activation", self.kind, GRAPH_ACTIVATIONS)


@dataclass(frozen=True)
class Window(Operation):
    """`MaxPool2d` or `AvgPool2d` (kind max or avg) with a window; pairs are (rows, columns)."""

    op: ClassVar[str] = "pool"
    kind: str
    kernel_size: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        _one_of("pooling", self.kind, ("max", "avg"))
        _at_least_1("a window's sides, strides and dilations", *self.kernel_size, *self.stride, *self.dilation)
        if not all(0 <= p <= k // 2 for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise UsageError(f"padding {self.padding} is not from 0 to half the window {self.kernel_size}")
        if self.kind == "avg" and self.dilation != (1, 1):
            raise UsageError("average pooling has no dilation; leave it out")

    def shape(self, *shapes: Shape) -> Shape:
        """(C, H, W) to (C, H', W')."""
        size = _map_of(shapes[0])
        return (shapes[0][0], *(self._side(size[axis], axis) for axis in (0, 1)))

    def _side(self, size: int, axis: int) -> int:
        span = size + 2 * self.padding[axis] - self.dilation[axis] * (self.kernel_size[axis] - 1) - 1
        if not self.ceil_mode:
            return _slid(span, self.stride[axis])
        made = -(-span // self.stride[axis]) + 1
        if (made - 1) * self.stride[axis] >= size + self.padding[axis]:
            made -= 1  # torch: a window that begins behind the padded map is left out
        return _slid(made - 1, 1)


@dataclass(frozen=True)
class AdaptivePool(Operation):
    """`AdaptiveAvgPool2d` or `AdaptiveMaxPool2d` to a map of `size`; (1, 1) is the global one."""

    op: ClassVar[str] = "adaptive_pool"
    kind: str = "avg"
    size: Pair = (1, 1)

    def __post_init__(self) -> None:
        _one_of("pooling", self.kind, ("max", "avg"))
        _at_least_1("the sides of a map", *self.size)

    def shape(self, *shapes: Shape) -> Shape:
        """(C, H, W) to (C, *size)."""
        _map_of(shapes[0])
        return (shapes[0][0], *self.size)


@dataclass(frozen=True)
class Linear(Operation):
    """`Linear`: (F_in,) to (F_out,)."""

    op: ClassVar[str] = "linear"
    in_features: int
    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        _at_least_1("a linear layer's features", self.in_features, self.out_features)

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self.out_features * (self.in_features + int(self.bias))

    def shape(self, *shapes: Shape) -> Shape:
        """(F_in,) to (F_out,)."""
        if shapes[0] != (self.in_features,):
            raise UsageError(f"a linear layer of {self.in_features} features is given {_said(shapes[0])}")
        return (self.out_features,)

    def macs(self, made: Shape) -> int:
        """One for each weight."""
        return self.in_features * self.out_features


@dataclass(frozen=True)
class Add(Operation):
    """The sum of what it reads; maps of one pixel are spread."""

    op: ClassVar[str] = "add"
    reads: ClassVar[tuple[int, float]] = (2, math.inf)

    def shape(self, *shapes: Shape) -> Shape:
        """Equal shapes, or (C, 1, 1) beside (C, H, W)."""
        return _spread(shapes, self.op)


@dataclass(frozen=True)
class Multiply(Operation):
    """The product of what it reads; maps of one pixel are spread."""

    op: ClassVar[str] = "multiply"
    reads: ClassVar[tuple[int, float]] = (2, math.inf)

    def shape(self, *shapes: Shape) -> Shape:
        """Equal shapes, or (C, 1, 1) beside (C, H, W)."""
        return _spread(shapes, self.op)


@dataclass(frozen=True)
class Concat(Operation):
    """What it reads, channels after channels."""

    op: ClassVar[str] = "concat"
    reads: ClassVar[tuple[int, float]] = (1, math.inf)

    def shape(self, *shapes: Shape) -> Shape:
        """(C_i, H, W) to (sum C_i, H, W)."""
        if len({shape[1:] for shape in shapes}) != 1:
            raise UsageError(f"concat is given maps of several sizes: {', '.join(map(_said, shapes))}")
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])


@dataclass(frozen=True)
class Slice(Operation):
    """x[start:stop, ::steps[0], ::steps[1]]: some channels, every so many-th row and column. stop None: to the end."""

    op: ClassVar[str] = "slice"
    start: int = 0
    stop: int | None = None
    steps: Pair = (1, 1)

    def __post_init__(self) -> None:
        _at_least_1("a slice's steps", *self.steps)

    def shape(self, *shapes: Shape) -> Shape:
        """(C, H, W) to (stop - start, H', W')."""
        if self.steps != (1, 1):
            _map_of(shapes[0])
        channels, *size = shapes[0]
        stop = channels if self.stop is None else self.stop
        if not 0 <= self.start < stop <= channels:
            raise UsageError(f"slice {self.start} to {stop} is not within {channels} channels")
        return (stop - self.start, *(-(-n // s) for n, s in zip(size, self.steps, strict=False)))


@dataclass(frozen=True)
class Pad(Operation):
    """`torch.nn.functional.pad` of constant `value`: (before, after) for channels, rows and columns."""

    op: ClassVar[str] = "pad"
    channels: Pair = (0, 0)
    rows: Pair = (0, 0)
    columns: Pair = (0, 0)
    value: float = 0.0

    def __post_init__(self) -> None:
        if min(*self.channels, *self.rows, *self.columns) < 0:
            raise UsageError("a pad is not negative; use a slice")

    def shape(self, *shapes: Shape) -> Shape:
        """(C, H, W), each grown."""
        if (self.rows, self.columns) != ((0, 0), (0, 0)):
            _map_of(shapes[0])
        added = (self.channels, self.rows, self.columns)
        return tuple(n + before + after for n, (before, after) in zip(shapes[0], added, strict=False))


@dataclass(frozen=True)
class Gather(Operation):
    """A shuffle: y[i] = x[order[i]]; or, with `groups` in place of an order, the transpose of the (groups, C / groups) table."""

    op: ClassVar[str] = "shuffle"
    order: tuple[int, ...] | None = None
    groups: int | None = None

    def __post_init__(self) -> None:
        if (self.order is None) == (self.groups is None):
            raise UsageError("a shuffle needs either an order or groups")
        if self.order is not None and sorted(self.order) != list(range(len(self.order))):
            raise UsageError("a shuffle's order is no permutation")

    def shape(self, *shapes: Shape) -> Shape:
        """Any shape whose channels it permutes stays."""
        if self.order is not None:
            _check_channels(shapes[0], len(self.order))
        elif self.groups is not None and (self.groups < 1 or shapes[0][0] % self.groups):
            raise UsageError(f"a shuffle of {self.groups} groups is given {shapes[0][0]} channels")
        return shapes[0]

    def permutation(self, channels: int) -> list[int]:
        """The order for so many channels."""
        if self.order is not None:
            return list(self.order)
        groups = self.groups or 1
        return [g * (channels // groups) + i for i in range(channels // groups) for g in range(groups)]


@dataclass(frozen=True)
class Flatten(Operation):
    """(C, H, W) to (C * H * W,)."""

    op: ClassVar[str] = "flatten"

    def shape(self, *shapes: Shape) -> Shape:
        """(C, H, W) to (C * H * W,)."""
        return (math.prod(shapes[0]),)


@dataclass(frozen=True)
class Unflatten(Operation):
    """(F,) to (F, 1, 1): features as a map of one pixel, which a multiplication spreads."""

    op: ClassVar[str] = "unflatten"

    def shape(self, *shapes: Shape) -> Shape:
        """(F,) to (F, 1, 1)."""
        if len(shapes[0]) != 1:
            raise UsageError(f"unflatten needs features, given {_said(shapes[0])}")
        return (*shapes[0], 1, 1)


@dataclass(frozen=True)
class Dropout(Operation):
    """Nothing in eval mode; in training zeroes with probability p single elements, whole channels or whole images (kind)."""

    op: ClassVar[str] = "dropout"
    p: float = 0.5
    kind: str = "element"

    def __post_init__(self) -> None:
        if not 0.0 <= self.p < 1.0:
            raise UsageError(f"dropout {self.p} must be in [0, 1)")
        _one_of("dropout", self.kind, ("element", "channel", "image"))


#: Every operation by the name that JSON has for it.
OPERATIONS: dict[str, type[Operation]] = {
    cls.op: cls
    for cls in (
        *(Convolution, BatchNorm, Activation, Window, AdaptivePool, Linear, Add, Multiply, Concat, Slice, Pad),
        *(Gather, Flatten, Unflatten, Dropout),
    )
}


def _slid(span: int, stride: int) -> int:
    """Positions of a window that can move by `span`."""
    if span < 0:
        raise UsageError("a window is larger than the padded map; use a larger image")
    return span // stride + 1


def _map_of(shape: Shape, channels: int | None = None) -> Shape:
    if len(shape) != 3:
        raise UsageError(f"a map of (channels, rows, columns) is needed, given {_said(shape)}")
    if channels is not None:
        _check_channels(shape, channels)
    return shape[1:]


def _check_channels(shape: Shape, channels: int) -> None:
    if shape[0] != channels:
        raise UsageError(f"{channels} channels are read, {_said(shape)} given")


def _spread(shapes: tuple[Shape, ...], what: str) -> Shape:
    largest = max(shapes, key=math.prod)
    for shape in shapes:
        if shape != largest and shape != (largest[0], 1, 1):
            raise UsageError(f"{what} is given shapes that do not fit: {', '.join(map(_said, shapes))}")
    return largest


def _said(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _at_least_1(what: str, *sizes: int) -> None:
    if min(sizes) < 1:
        raise UsageError(f"{what} must be at least 1, found {min(sizes)}")


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{what} {value!r} is none of {', '.join(known)}{near(str(value), known)}")
