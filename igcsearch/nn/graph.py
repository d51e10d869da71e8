"""The module of an architecture of the kind `graph`: one torch operation a node. Floor 3: plain, single-device code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..spec.graph import INPUT, GraphArchitecture, Node
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
    Slice,
    Unflatten,
    Window,
)
from .base import Network
from .sparse import SparseConv2d

if TYPE_CHECKING:
    from .graph_inference import GraphInference
    from .plans import PlanTimes

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "mish": F.mish,
    "softplus": F.softplus,
}


class GraphNetwork(Network):
    """The module of a graph. Parameters stand in the state dict under the names of their nodes.

    Both executions run stock operators here.

    Raises:
        UsageError: a node's name that no part of a module can have.
    """

    def __init__(self, architecture: GraphArchitecture, execution: str = "auto") -> None:
        super().__init__()
        self.architecture: GraphArchitecture = architecture
        self.set_execution(execution)
        self._last = {name: node.name for node in architecture.nodes for name in node.reads}
        self._last[architecture.nodes[-1].name] = ""
        self._places: dict[
            str, tuple[nn.Module, str]
        ] = {}  # of each node's layer: the module that owns it, and under which name
        for node in architecture.nodes:
            if node.shares is not None:
                self._places[node.name] = self._places[node.shares]
            elif (layer := _layer(node.operation)) is not None:
                self._places[node.name] = _placed(self, node.name, layer)

    def layer(self, name: str) -> nn.Module:
        """The module that holds a node's parameters or does its work; several nodes may share one."""
        owner, last = self._places[name]
        layer = owner._modules[last]
        assert layer is not None
        return layer

    def replace_layer(self, name: str, layer: nn.Module) -> None:
        """Put another module where a node's layer is; of all nodes that share it."""
        owner, last = self._places[name]
        owner._modules[last] = layer

    @property
    def without_classifier(self) -> bool:
        """True behind `remove_classifier`."""
        last = self.architecture.classifier
        return last is not None and isinstance(self.layer(last.name), nn.Identity)

    def remove_classifier(self) -> None:
        """Give what the last linear layer reads from now on, (N, features); nothing changes where the last node is none."""
        last = self.architecture.classifier
        if last is not None:
            self.replace_layer(last.name, nn.Identity())

    def optimize_for_inference(
        self, example: Tensor | None = None, *, measure: bool = True, known: PlanTimes | None = None
    ) -> GraphInference:
        """The same network for inference; see `graph_inference.optimize_graph`."""
        from .graph_inference import optimize_graph

        return optimize_graph(self, example, measure=measure, known=known)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to what the last linear layer reads, (N, features); the logits where there is none."""
        return self._run(x_NCHW, features=self.architecture.classifier is not None)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to logits (N, num_classes)."""
        return self._run(x_NCHW, features=False)

    def _run(self, x_NCHW: Tensor, features: bool) -> Tensor:
        """Node after node; what no later node reads is let go at once."""
        made = {INPUT: x_NCHW}
        *nodes, last = self.architecture.nodes
        for node in nodes:
            self.step(node, made)
        if not features:
            self.step(last, made)
        return made[last.reads[0] if features else last.name]

    def step(self, node: Node, made: dict[str, Tensor]) -> None:
        """Compute one node: `made` holds what earlier ones gave, by name, and loses what no later node reads."""
        inputs = [made[name] for name in node.reads]
        for name in set(node.reads):
            if self._last[name] == node.name:
                del made[name]
        made[node.name] = self.operate(node, inputs)
        if node.name not in self._last:
            del made[node.name]

    def operate(self, node: Node, inputs: list[Tensor]) -> Tensor:
        """What a node makes of what it reads."""
        operation = node.operation
        if type(operation) in _FUNCTIONS:
            return _FUNCTIONS[type(operation)](operation, inputs)
        return cast(Tensor, self.layer(node.name)(inputs[0]))

    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights: convolutions normal of variance 2 / fan_in, linear layers uniform within 1 / sqrt(fan_in), norms 1, 0."""
        for layer in dict.fromkeys(map(self.layer, self._places)):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fan_in = layer.weight[0].numel()
                if isinstance(layer, nn.Conv2d):
                    layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
                else:
                    layer.weight.copy_((torch.rand(layer.weight.shape, generator=generator) * 2 - 1) / fan_in**0.5)
                if layer.bias is not None:
                    layer.bias.zero_()
            elif isinstance(layer, SparseConv2d):
                layer.initialise(generator, 2.0)
            elif isinstance(layer, Norm):
                layer.reset_running_stats()
                layer.reset_parameters()


class GatherLayer(nn.Module):
    """y[:, i] = x[:, order[i]]; an interleave is a view and one copy. (N, C, ...) to (N, C, ...)."""

    def __init__(self, gather: Gather) -> None:
        super().__init__()
        self.groups = gather.groups
        if gather.order is not None:
            self.register_buffer("order", torch.tensor(gather.order), persistent=False)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Permute the channels."""
        if self.groups is None:
            return x_NC.index_select(1, cast(Tensor, self.order))
        n, channels, *rest = x_NC.shape
        return x_NC.reshape(n, self.groups, channels // self.groups, *rest).transpose(1, 2).reshape(x_NC.shape)


class ImageDropout(nn.Module):
    """In training, zeroes a whole image with probability p and scales the others by 1 / (1 - p) (stochastic depth, by row)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, ...) to (N, ...)."""
        if not self.training or not self.p:
            return x_NCHW
        kept = torch.empty(len(x_NCHW), *[1] * (x_NCHW.dim() - 1), dtype=x_NCHW.dtype, device=x_NCHW.device)
        return x_NCHW * kept.bernoulli_(1 - self.p) / (1 - self.p)


class Norm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over dimension 1 of tensors of any number of dimensions; its state dict is `BatchNorm2d`'s."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def _layer(operation: Operation) -> nn.Module | None:
    """The module of an operation, None for one that needs none."""
    match operation:
        case Convolution():
            given = asdict(operation)
            del given["sparsity"], given["sparse_axis"]  # the others have torch's names
            return nn.Conv2d(**given) if operation.nm is None else SparseConv2d(**given, sparsity=operation.nm)
        case BatchNorm():
            return Norm(operation.channels, operation.eps, operation.momentum, operation.affine)
        case Linear():
            return nn.Linear(operation.in_features, operation.out_features, operation.bias)
        case Gather():
            return GatherLayer(operation)
        case Dropout(kind="image"):
            return ImageDropout(operation.p)
        case Dropout():
            return nn.Dropout2d(operation.p) if operation.kind == "channel" else nn.Dropout(operation.p)
    return None


def _activation(operation: Activation, inputs: list[Tensor]) -> Tensor:
    if operation.kind == "leaky_relu":
        return F.leaky_relu(inputs[0], operation.slope)
    if operation.kind == "gelu":
        return F.gelu(inputs[0], approximate="tanh" if operation.tanh else "none")
    if operation.kind == "softmax":
        return F.softmax(inputs[0], dim=1)
    return _ACTIVATIONS[operation.kind](inputs[0])


def _window(operation: Window, inputs: list[Tensor]) -> Tensor:
    sizes = (operation.kernel_size, operation.stride, operation.padding)
    if operation.kind == "max":
        return F.max_pool2d(inputs[0], *sizes, operation.dilation, operation.ceil_mode)
    return F.avg_pool2d(inputs[0], *sizes, operation.ceil_mode, operation.count_include_pad)


def _adaptive_pool(operation: AdaptivePool, inputs: list[Tensor]) -> Tensor:
    if operation.kind == "max":
        return F.adaptive_max_pool2d(inputs[0], operation.size)
    if operation.size == (1, 1):
        return inputs[0].mean(dim=(2, 3), keepdim=True)
    return F.adaptive_avg_pool2d(inputs[0], operation.size)


def _add(operation: Add, inputs: list[Tensor]) -> Tensor:
    total = inputs[0]
    for more in inputs[1:]:
        total = total + more
    return total


def _multiply(operation: Multiply, inputs: list[Tensor]) -> Tensor:
    product = inputs[0]
    for more in inputs[1:]:
        product = product * more
    return product


def _slice(operation: Slice, inputs: list[Tensor]) -> Tensor:
    chosen = inputs[0][:, operation.start : operation.stop]
    rows, columns = operation.steps
    return chosen if (rows, columns) == (1, 1) else chosen[:, :, ::rows, ::columns]


def _pad(operation: Pad, inputs: list[Tensor]) -> Tensor:
    pairs = (operation.columns, operation.rows, operation.channels) if inputs[0].dim() == 4 else (operation.channels,)
    return F.pad(inputs[0], [width for pair in pairs for width in pair], value=operation.value)


#: What is computed without a module.
_FUNCTIONS: dict[type[Operation], Callable[..., Tensor]] = {
    Activation: _activation,
    Window: _window,
    AdaptivePool: _adaptive_pool,
    Add: _add,
    Multiply: _multiply,
    Concat: lambda operation, inputs: torch.cat(inputs, dim=1),
    Slice: _slice,
    Pad: _pad,
    Flatten: lambda operation, inputs: inputs[0].flatten(1),
    Unflatten: lambda operation, inputs: inputs[0][:, :, None, None],
}


def _placed(root: nn.Module, path: str, layer: nn.Module) -> tuple[nn.Module, str]:
    """Put the layer under a dotted path, with bare modules on the way; its owner and name. Names may be those of methods."""
    *folders, last = path.split(".")
    for name in folders:
        _check_free(root, name, path)
        inner = root._modules.setdefault(name, nn.Module())
        assert inner is not None
        root = inner
    _check_free(root, last, path)
    if (bare := root._modules.get(last)) is not None:
        layer._modules = (
            bare._modules
        )  # of paths that go on from here; one dict, which other layers have as their place
    root._modules[last] = layer
    return root, last


def _check_free(root: nn.Module, name: str, path: str) -> None:
    if name in root.__dict__:
        raise UsageError(f"node {path!r}: {name!r} is an attribute of every module; give the node another name")
