"""Architecture to `nn.Module`, and its initialisation. Floor 3: plain, single-device code; devices are applied from outside."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..spec import Architecture, Block, GraphArchitecture, StagedArchitecture
from .base import Network
from .layers import ACTIVATIONS, FactorLayer, SqueezeExcitationLayer, step_layers
from .products import planned
from .sparse import SparseConv2d

if TYPE_CHECKING:
    from .inference import InferenceNetwork
    from .plans import PlanTimes


class BlockLayer(nn.Module):
    """A block: the product of its steps, plus its shortcut, then the activation. (N, C_in, H, W) to (N, C_out, H', W')."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.activation = block.activation
        self.steps = nn.ModuleList(step_layers(block.steps))
        self.shortcut = None if block.shortcut is None else nn.Sequential(*step_layers(block.shortcut))
        self.execution = "auto"
        self.plan = planned(list(self.steps))  # a plain list: it shares the steps' parameters and owns none

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Run the product as planned, or factor by factor where the execution is plain."""
        y_NCHW = x_NCHW
        for layer in self.plan if self.execution == "auto" else self.steps:
            y_NCHW = layer(y_NCHW)
        if self.shortcut is not None:
            y_NCHW = y_NCHW + self.shortcut(x_NCHW)
        return ACTIVATIONS[self.activation](y_NCHW)


class StagedNetwork(Network):
    """The module of a staged architecture.

    Args:
        architecture: what to build; kept as `network.architecture`.
        execution: "auto" runs linear products fused or multiplied out (products.py); "plain" runs factor by factor with stock
            group convolutions, as the specification reads. Same parameters and state dict, same results to rounding.

    Raises:
        UsageError: an unknown execution.
    """

    def __init__(self, architecture: StagedArchitecture, execution: str = "auto") -> None:
        super().__init__()
        self.architecture: StagedArchitecture = architecture
        self.stem = BlockLayer(architecture.stem)
        self.stages = nn.ModuleList(
            nn.Sequential(*(BlockLayer(block) for block in stage.blocks)) for stage in architecture.stages
        )
        self.head = nn.Sequential(*step_layers(architecture.head.steps))
        self.dropout = nn.Dropout(architecture.head.dropout)
        self.classifier: nn.Linear | nn.Identity = nn.Linear(architecture.features, architecture.num_classes)
        self.set_execution(execution)

    def remove_classifier(self) -> None:
        """Give pooled features from now on."""
        self.classifier = nn.Identity()

    def set_execution(self, execution: str) -> StagedNetwork:
        """Choose "auto" or "plain"; returns the network."""
        super().set_execution(execution)
        for module in self.modules():
            if isinstance(module, BlockLayer):
                module.execution = execution
        return self

    def optimize_for_inference(
        self, example: Tensor | None = None, *, measure: bool = True, known: PlanTimes | None = None
    ) -> InferenceNetwork:
        """The same network for inference, as fast as this machine runs it; see `plans.optimize_for_inference`."""
        from .plans import optimize_for_inference

        return optimize_for_inference(self, example, measure=measure, known=known)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to pooled features (N, features)."""
        y_NCHW = self.stem(x_NCHW)
        for stage in self.stages:
            y_NCHW = stage(y_NCHW)
        return cast(Tensor, self.head(y_NCHW).mean(dim=(2, 3)))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to logits (N, num_classes)."""
        return cast(Tensor, self.classifier(self.dropout(self.forward_features(x_NCHW))))


def block_layer(network: nn.Module, block: str) -> BlockLayer:
    """The layer of a block by the name that `Architecture.blocks` gives it."""
    found = network.get_submodule(module_name(block))
    assert isinstance(found, BlockLayer)
    return found


def module_name(block: str) -> str:
    """The module of a block, in state dicts, by the name that `Architecture.blocks` gives it."""
    if block == "stem":
        return block
    stage, _, position = block.partition(".")
    return f"stages.{int(stage.removeprefix('stage')) - 1}.{int(position.removeprefix('block')) - 1}"


def module_of(architecture: Architecture, execution: str = "auto") -> Network:
    """The architecture's module, of its kind, with weights that nobody has set."""
    if isinstance(architecture, StagedArchitecture):
        return StagedNetwork(architecture, execution)
    from .graph import GraphNetwork

    assert isinstance(architecture, GraphArchitecture)
    return GraphNetwork(architecture, execution)


def build(architecture: Architecture, seed: int | None = None, execution: str = "auto") -> Network:
    """The architecture's network, initialised from `seed` (from torch's global generator if None)."""
    network = module_of(architecture, execution)
    initialise(network, seed)
    return network


@torch.no_grad()
def initialise(network: nn.Module, seed: int | None = None) -> None:
    """Fresh weights, a function of the seed and the architecture alone.

    Convolutions: normal of variance g / fan_in with fan_in = S * K; g = 2 where an activation or a norm follows at once
    (He et al. 2015, as IGCV1's code), 1 inside linear products, where variance is to be kept, and before a squeeze-excitation's
    gate. An N:M sparsity has a random pattern, and the fan_in of what it keeps. Linear layer: uniform within 1/sqrt(fan_in). Batch
    norm 1 and 0, biases 0.
    """
    generator = torch.Generator()
    generator.manual_seed(int(torch.randint(2**31, ())) if seed is None else seed)
    if isinstance(network, Network) and not isinstance(network, StagedNetwork):
        from .graph import GraphNetwork

        assert isinstance(network, GraphNetwork)
        network.initialise(generator)
        return
    for module in network.modules():
        if isinstance(module, FactorLayer):
            gain = 1.0 if not module.factor.norm and module.factor.activation is None else 2.0
            if isinstance(module.conv, SparseConv2d):
                module.conv.initialise(generator, gain)
                continue
            fan_in = module.factor.area * module.factor.branch_width
            _fill(module.conv.weight, generator, math.sqrt(gain / fan_in))
            if module.conv.bias is not None:
                module.conv.bias.zero_()
        elif isinstance(module, SqueezeExcitationLayer):
            for layer, gain in ((module.reduce, 2.0), (module.expand, 1.0)):
                _fill(layer.weight, generator, math.sqrt(gain / layer.in_channels))
                assert layer.bias is not None
                layer.bias.zero_()
        elif isinstance(module, nn.Linear):
            bound = 1.0 / math.sqrt(module.in_features)
            values = torch.rand(module.weight.shape, generator=generator) * (2 * bound) - bound
            module.weight.copy_(values)
            module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.reset_running_stats()


def _fill(weight: Tensor, generator: torch.Generator, deviation: float) -> None:
    weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)
