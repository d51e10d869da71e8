"""What a torch call computes, as operations of a graph: modules by their type, functions and methods by their name. Floor 6.

Each handler gives the operations of a call, one behind the other, or raises `UnknownCallError`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..nn.sparse import SparseConv2d
from ..spec.operations import (
    Activation,
    AdaptivePool,
    Add,
    BatchNorm,
    Concat,
    Convolution,
    Dropout,
    Flatten,
    Gather,
    Linear,
    Multiply,
    Operation,
    Pad,
    Pair,
    Window,
)

Operations = Sequence[Operation]


class UnknownCallError(Exception):
    """A call that no operation of the closed list computes; the text says which."""


class Call:
    """The arguments of a call: numbers and flags as they are, tensors as the fx nodes that made them.

    Args:
        node: of torch.fx.
        values: what every node gave for example images.
    """

    def __init__(self, node: fx.Node, values: dict[fx.Node, Any]) -> None:
        self.values = values
        given = [*node.args, *node.kwargs.values()]
        self.tensors = [each for each in _flat(given) if isinstance(each, fx.Node) and isinstance(values[each], Tensor)]
        plain = fx.node.map_arg((node.args, node.kwargs), lambda source: values[source])
        self.args: tuple[Any, ...] = plain[0]
        self.kwargs: dict[str, Any] = plain[1]

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """The argument at that position or of that name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    @property
    def shape(self) -> torch.Size:
        """Of the first tensor."""
        return self.values[self.tensors[0]].shape


def call_key(node: fx.Node) -> Any:
    """What `CALLS` has for a function or a method of fx."""
    return f".{node.target}" if node.op == "call_method" else node.target


def _flat(given: Any) -> list[Any]:
    if isinstance(given, list | tuple):
        return [item for each in given for item in _flat(each)]
    return [given]


def pair(value: Any) -> Pair:
    """One number for both directions, or two."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


# ---------------------------------------------------------------- modules
def _convolution(conv: nn.Conv2d | SparseConv2d) -> Operations:
    padding: Any = conv.padding
    before: list[Operation] = []
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        whole = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        padding = (whole[0] // 2, whole[1] // 2)
        if any(size % 2 for size in whole):
            if conv.padding_mode != "zeros":
                raise UnknownCallError(f"Conv2d with padding='same' of {conv.padding_mode}, unequal on both sides,")
            rows, columns = ((size // 2, size - size // 2) for size in whole)
            before, padding = [Pad(rows=rows, columns=columns)], (0, 0)
    made = Convolution(
        conv.in_channels,
        conv.out_channels,
        pair(conv.kernel_size),
        pair(conv.stride),
        pair(padding),
        pair(conv.dilation),
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        *(((conv.sparsity.n, conv.sparsity.m), conv.sparsity.axis) if isinstance(conv, SparseConv2d) else ()),
    )
    return [*before, made]


def _norm(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Operations:
    if norm.running_mean is None:
        raise UnknownCallError("batch norm without running statistics")
    return [BatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine)]


def _window_of(kind: str, pool: Any) -> Operations:
    if getattr(pool, "return_indices", False) or getattr(pool, "divisor_override", None):
        raise UnknownCallError("pooling with indices or another divisor")
    size = pair(pool.kernel_size)
    stride = size if pool.stride is None else pair(pool.stride)
    dilation = pair(getattr(pool, "dilation", 1))
    counted = getattr(pool, "count_include_pad", True)
    return [Window(kind, size, stride, pair(pool.padding), dilation, bool(pool.ceil_mode), bool(counted))]


def _adaptive(kind: str, size: Any, shape: torch.Size) -> Operations:
    sizes = (size, size) if isinstance(size, int | None) else tuple(size)
    rows, columns = (int(n) if wanted is None else int(wanted) for wanted, n in zip(sizes, shape[2:], strict=True))
    return [AdaptivePool(kind, (rows, columns))]


def _hardtanh(module: nn.Hardtanh) -> Operations:
    if (module.min_val, module.max_val) != (0.0, 6.0):
        raise UnknownCallError("Hardtanh other than ReLU6")
    return [Activation("relu6")]


def _elu(alpha: float) -> Operations:
    if alpha != 1.0:
        raise UnknownCallError("ELU with another alpha")
    return [Activation("elu")]


def _softplus(beta: float, threshold: float) -> Operations:
    if (beta, threshold) != (1, 20):
        raise UnknownCallError("Softplus with another beta")
    return [Activation("softplus")]


def _plain(kind: str) -> Callable[[nn.Module, Call], Operations]:
    return lambda module, call: [Activation(kind)]


MODULES: dict[type[nn.Module], Callable[[Any, Call], Operations]] = {
    nn.Conv2d: lambda module, call: _convolution(module),
    SparseConv2d: lambda module, call: _convolution(module),
    nn.BatchNorm2d: lambda module, call: _norm(module),
    nn.BatchNorm1d: lambda module, call: _norm(module),
    nn.Linear: lambda module, call: [Linear(module.in_features, module.out_features, module.bias is not None)],
    nn.MaxPool2d: lambda module, call: _window_of("max", module),
    nn.AvgPool2d: lambda module, call: _window_of("avg", module),
    nn.AdaptiveAvgPool2d: lambda module, call: _adaptive("avg", module.output_size, call.shape),
    nn.AdaptiveMaxPool2d: lambda module, call: _adaptive("max", module.output_size, call.shape),
    nn.Dropout: lambda module, call: [Dropout(module.p)],
    nn.Dropout2d: lambda module, call: [Dropout(module.p, "channel")],
    nn.ChannelShuffle: lambda module, call: [Gather(groups=module.groups)],
    nn.ReLU: _plain("relu"),
    nn.ReLU6: lambda module, call: _hardtanh(module),
    nn.Hardtanh: lambda module, call: _hardtanh(module),
    nn.SiLU: _plain("silu"),
    nn.Hardswish: _plain("hardswish"),
    nn.Sigmoid: _plain("sigmoid"),
    nn.Hardsigmoid: _plain("hardsigmoid"),
    nn.Tanh: _plain("tanh"),
    nn.Mish: _plain("mish"),
    nn.GELU: lambda module, call: [Activation("gelu", tanh=module.approximate == "tanh")],
    nn.LeakyReLU: lambda module, call: [Activation("leaky_relu", slope=module.negative_slope)],
    nn.ELU: lambda module, call: _elu(module.alpha),
    nn.Softplus: lambda module, call: _softplus(module.beta, module.threshold),
}


# ---------------------------------------------------------------- functions and methods
def _elementwise(operation: Operation) -> Callable[[Call], Operations]:
    def handle(call: Call) -> Operations:
        if len(call.tensors) != 2 or call.kwargs.get("alpha", 1) != 1:
            raise UnknownCallError(f"{operation.op} with a number")
        return [operation]

    return handle


def _mean(call: Call) -> Operations:
    dims = call.get(1, "dim")
    given = {dims} if isinstance(dims, int) else set(dims or ())
    if len(call.shape) != 4 or {dim % 4 for dim in given} != {2, 3} or call.kwargs.get("dtype"):
        raise UnknownCallError("mean over other than the map")
    return [AdaptivePool(), *(() if call.get(2, "keepdim", False) else (Flatten(),))]


def _cat(call: Call) -> Operations:
    dim = call.get(1, "dim", 0)
    if dim % call.values[call.tensors[0]].dim() != 1:
        raise UnknownCallError("concatenation other than of channels")
    return [Concat()]


def _pad(call: Call) -> Operations:
    widths, mode, value = list(call.get(1, "pad")), call.get(2, "mode", "constant"), call.get(3, "value", None)
    if mode != "constant" or any(width < 0 for width in widths) or any(widths[6:]):
        raise UnknownCallError(
            f"padding of mode {mode}" if mode != "constant" else "negative padding or padding of images"
        )
    columns, rows, channels = ((a, b) for a, b in zip(*[iter([*widths, *[0] * 6][:6])] * 2, strict=True))
    if len(call.shape) == 2:
        if any(widths[2:]):
            raise UnknownCallError("padding of images")
        columns, rows, channels = (0, 0), (0, 0), columns
    return [Pad(channels, rows, columns, float(value or 0.0))]


def _max_pool(call: Call) -> Operations:
    size, stride = call.get(1, "kernel_size"), call.get(2, "stride")
    if call.get(6, "return_indices", False):
        raise UnknownCallError("pooling with indices")
    numbers = (pair(size), pair(stride if stride else size), pair(call.get(3, "padding", 0)))
    return [Window("max", *numbers, pair(call.get(4, "dilation", 1)), bool(call.get(5, "ceil_mode", False)))]


def _avg_pool(call: Call) -> Operations:
    size, stride = call.get(1, "kernel_size"), call.get(2, "stride")
    if call.get(6, "divisor_override") is not None:
        raise UnknownCallError("pooling with another divisor")
    numbers = (pair(size), pair(stride if stride else size), pair(call.get(3, "padding", 0)))
    ceil, counted = bool(call.get(4, "ceil_mode", False)), bool(call.get(5, "count_include_pad", True))
    return [Window("avg", *numbers, ceil_mode=ceil, count_include_pad=counted)]


def _dropout(kind: str) -> Callable[[Call], Operations]:
    return lambda call: [Dropout(float(call.get(1, "p", 0.5)), kind)]


def _depth(call: Call) -> Operations:
    if call.get(2, "mode") != "row":
        raise UnknownCallError("stochastic depth by batch")
    return [Dropout(float(call.get(1, "p")), "image")]


def _activates(kind: str) -> Callable[[Call], Operations]:
    return lambda call: [Activation(kind)]


def _leaky(call: Call) -> Operations:
    return [Activation("leaky_relu", slope=float(call.get(1, "negative_slope", 0.01)))]


def _gelu(call: Call) -> Operations:
    return [Activation("gelu", tanh=call.kwargs.get("approximate", "none") == "tanh")]


def _softmax(call: Call) -> Operations:
    if call.get(1, "dim") not in (1, 1 - len(call.shape)):
        raise UnknownCallError("softmax over other than channels")
    return [Activation("softmax")]


def _hardtanh_call(call: Call) -> Operations:
    if (call.get(1, "min_val", -1.0), call.get(2, "max_val", 1.0)) != (0.0, 6.0):
        raise UnknownCallError("hardtanh other than ReLU6")
    return [Activation("relu6")]


_ADD, _MULTIPLY = _elementwise(Add()), _elementwise(Multiply())
_ADDS = (operator.add, operator.iadd, torch.add, ".add", ".add_")
_MULTIPLIES = (operator.mul, operator.imul, torch.mul, torch.multiply, ".mul", ".mul_")
#: What spreads a map of one pixel over the other map.
SPREADING = {*_ADDS, *_MULTIPLIES}

#: By function, or "." and the name of a method.
CALLS: dict[Any, Callable[[Call], Operations]] = {
    **dict.fromkeys(_ADDS, _ADD),
    **dict.fromkeys(_MULTIPLIES, _MULTIPLY),
    **dict.fromkeys([torch.cat, torch.concat, torch.concatenate], _cat),
    **dict.fromkeys([torch.mean, ".mean"], _mean),
    **dict.fromkeys([F.relu, F.relu_, torch.relu, torch.relu_, ".relu", ".relu_"], _activates("relu")),
    **dict.fromkeys([torch.sigmoid, F.sigmoid, ".sigmoid"], _activates("sigmoid")),
    **dict.fromkeys([torch.tanh, F.tanh, ".tanh"], _activates("tanh")),
    F.relu6: _activates("relu6"),
    F.silu: _activates("silu"),
    F.hardswish: _activates("hardswish"),
    F.hardsigmoid: _activates("hardsigmoid"),
    F.mish: _activates("mish"),
    F.elu: lambda call: _elu(call.get(1, "alpha", 1.0)),
    F.softplus: lambda call: _softplus(call.get(1, "beta", 1), call.get(2, "threshold", 20)),
    F.hardtanh: _hardtanh_call,
    F.leaky_relu: _leaky,
    F.gelu: _gelu,
    **dict.fromkeys([F.softmax, torch.softmax, ".softmax"], _softmax),
    F.pad: _pad,
    **dict.fromkeys([F.max_pool2d, torch.max_pool2d], _max_pool),
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: lambda call: _adaptive("avg", call.get(1, "output_size"), call.shape),
    F.adaptive_max_pool2d: lambda call: _adaptive("max", call.get(1, "output_size"), call.shape),
    F.dropout: _dropout("element"),
    F.dropout2d: _dropout("channel"),
}
#: Calls that are known by name only: their modules need not be installed.
CALLS_BY_NAME: dict[str, Callable[[Call], Operations]] = {
    "stochastic_depth": _depth,
    "boolean_dispatch": _max_pool,
    "channel_shuffle": lambda call: [Gather(groups=int(call.get(1, "groups")))],
}
