"""A network made ready for inference: norms folded into weights, each block run in the way that was fastest where it will run.

Floor 3. The ways of a block ("plans"), which all give the same to rounding:

- fused: factors in one pass over memory, each run of them beginning with a k x k factor or 1x1 ones (fused/);
- split: k x k factors by stock convolutions, the 1x1 factors between them fused;
- collapsed: runs of linear factors multiplied out to one dense convolution, the rest by stock convolutions;
- stock: one convolution and one shuffle a factor; in every plan so factors with an N:M sparsity, by their dense weights.

Which one is measured (plans.py) on an example input, or a static table where nothing was measured.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UsageError
from ..spec import Factor
from ..spec.permutations import Order, identity, invert
from .fused import fused_available, wiring
from .fused.folded import ACTIVATIONS as FUSED_ACTIVATIONS
from .fused.folded import Folded, folded
from .fused.shared import MOST_FACTORS, MOST_STRIDE
from .layers import ACTIVATIONS, FactorLayer, shuffle_layer
from .network import BlockLayer, StagedNetwork
from .optimized import OptimizedNetwork
from .sparse import kernel
from .workspace import Workspace

_Arguments = tuple[list[Tensor], list[Tensor], Tensor, list[int], int, list[int]]

PLANS = ("fused", "split", "collapsed", "stock")
MOST_COLLAPSED = 16  # a k x k factor is multiplied out only if that takes at most so many times the multiply-adds


class FoldedFactor(NamedTuple):
    """A factor with its norm folded in: weight and bias by row, that is before the shuffle; bias None for none."""

    factor: Factor
    weight: Tensor
    bias: Tensor | None

    @property
    def linear(self) -> bool:
        """True if nothing but a shuffle stands behind it."""
        return self.factor.activation is None


@torch.no_grad()
def fold(layer: FactorLayer) -> FoldedFactor:
    """Batch norm, by its running statistics, moved into the convolution; in float32.

    Raises:
        UsageError: another kind of norm stands there.
    """
    weight, bias = kernel(layer.conv).detach().float(), layer.conv.bias
    bias = None if bias is None else bias.detach().float()
    norm = layer.norm
    if isinstance(norm, _BatchNorm):  # that of several processes, too
        if norm.running_var is None or norm.running_mean is None:
            raise UsageError("a batch norm without running statistics cannot be folded; train the network with them")
        scale = norm.weight.float() / torch.sqrt(norm.running_var.float() + norm.eps)
        back = torch.tensor(invert(layer.factor.order)).to(weight.device)
        by_row = scale[back]  # the norm stands behind the shuffle
        shift = (norm.bias.float() - norm.running_mean.float() * scale)[back]
        weight = weight * by_row[:, None, None, None]
        bias = shift if bias is None else bias * by_row + shift
    elif not isinstance(norm, nn.Identity):
        raise UsageError(f"a norm of type {type(norm).__name__} cannot be folded for inference; batch norm can be")
    return FoldedFactor(layer.factor, weight.contiguous(), bias)


class StockFactor(nn.Module):
    """A folded factor by one stock convolution; the shuffle only where the next part does not take it over."""

    def __init__(self, part: FoldedFactor, shuffled: bool) -> None:
        super().__init__()
        self.factor = part.factor
        self.register_buffer("weight", part.weight)
        self.register_buffer("bias", part.bias)
        self.shuffle = shuffle_layer(part.factor.order, part.factor.groups) if shuffled else nn.Identity()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W')."""
        factor = self.factor
        padding = factor.dilation * (factor.kernel_size // 2)
        y_NCHW = F.conv2d(
            x_NCHW,
            cast(Tensor, self.weight),
            cast("Tensor | None", self.bias),
            factor.stride,
            padding,
            factor.dilation,
            factor.groups,
        )
        return cast(Tensor, self.shuffle(ACTIVATIONS[factor.activation](y_NCHW)))


class CollapsedRun(nn.Module):
    """Linear factors as the one dense convolution that they are, and the last one's activation."""

    def __init__(self, parts: Sequence[FoldedFactor], before: Order) -> None:
        super().__init__()
        opening = parts[0].factor
        kernel, columns = opening.kernel_size, torch.tensor(before)
        matrix, shift = torch.eye(opening.in_channels, dtype=torch.float32, device="cpu")[columns], None
        for part in parts:
            rows, weight, groups = torch.tensor(part.factor.order), part.weight.cpu(), part.factor.groups
            if part is parts[0] and kernel > 1:
                blocks = weight.view(groups, -1, part.factor.branch_width * kernel**2)
                across = torch.block_diag(*blocks).view(len(weight), opening.in_channels, -1)
                matrix = torch.empty_like(across)
                matrix[:, columns] = across
                matrix = matrix.flatten(1)
            else:
                pointwise = weight.view(groups, -1, part.factor.branch_width)
                matrix = torch.bmm(pointwise, matrix.view(groups, part.factor.branch_width, -1)).flatten(0, 1)
            if shift is not None:
                shift = F.conv2d(shift[None, :, None, None], weight, groups=groups).flatten()
            if part.bias is not None:
                shift = part.bias.cpu() if shift is None else shift + part.bias.cpu()
            matrix, shift = matrix[rows], None if shift is None else shift[rows]
        self.activation, self.stride, self.dilation = parts[-1].factor.activation, opening.stride, opening.dilation
        dense = matrix.view(len(matrix), opening.in_channels, kernel, kernel).contiguous()
        self.register_buffer("weight", dense.to(parts[0].weight.device))
        self.register_buffer("bias", None if shift is None else shift.to(parts[0].weight.device))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W')."""
        weight = cast(Tensor, self.weight)
        padding = self.dilation * (weight.shape[2] // 2)
        return ACTIVATIONS[self.activation](
            F.conv2d(x_NCHW, weight, cast("Tensor | None", self.bias), self.stride, padding, self.dilation)
        )


class FusedRun(nn.Module):
    """Folded factors in one pass: one of any kernel, then 1x1 ones. Takes a residual and the activation behind it along."""

    def __init__(self, parts: Sequence[FoldedFactor], before: Order) -> None:
        super().__init__()
        self.factors = tuple(part.factor for part in parts)
        for i, part in enumerate(parts):
            bias = part.weight.new_empty(0) if part.bias is None else part.bias.contiguous()
            self.register_buffer(f"weight{i}", part.weight)
            self.register_buffer(f"bias{i}", bias.to(part.weight.device))
        self.register_buffer("index", wiring(self.factors, before).to(parts[0].weight.device))
        self._gather()

    def _gather(self) -> None:
        """Take the tensors as they are now."""
        self._held = tuple(self._buffers.values())
        self._run = Folded(*self._arguments())

    def _arguments(self) -> _Arguments:
        count = range(len(self.factors))
        return (
            [cast(Tensor, getattr(self, f"weight{i}")).contiguous() for i in count],
            [cast(Tensor, getattr(self, f"bias{i}")) for i in count],
            cast(Tensor, self.index),
            [factor.groups for factor in self.factors],
            self.factors[0].stride,
            [FUSED_ACTIVATIONS[factor.activation] for factor in self.factors],
        )

    def _changed(self) -> bool:
        """True if a buffer was exchanged: by `to`, by `load_state_dict(assign=True)`, by `torch.func.functional_call`."""
        return not all(map(operator.is_, self._buffers.values(), self._held))

    def forward(
        self,
        x_NCHW: Tensor,
        residual: Tensor | None = None,
        activation: str | None = None,
        room: Workspace | None = None,
        busy: Sequence[Tensor | None] = (),
    ) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W'), in `room` where there is one, which must not touch `busy`."""
        if torch.compiler.is_compiling():
            return cast(Tensor, folded(x_NCHW, *self._arguments(), residual, FUSED_ACTIVATIONS[activation]))
        if self._changed():
            self._gather()
        return self._run(x_NCHW, residual, FUSED_ACTIVATIONS[activation], room, busy)


class PlannedBlock(nn.Module):
    """A block for inference, by one of PLANS. (N, C_in, H, W) to (N, C_out, H', W')."""

    def __init__(self, layer: BlockLayer, plan: str) -> None:
        super().__init__()
        self.plan, self.activation = plan, layer.activation
        self.parts = nn.ModuleList(planned_parts(list(layer.steps), plan))
        self.shortcut = None if layer.shortcut is None else nn.Sequential(*planned_parts(list(layer.shortcut), plan))
        self.takes_rest = isinstance(self.parts[-1], FusedRun) and layer.activation in FUSED_ACTIVATIONS

    def forward(self, x_NCHW: Tensor, room: Workspace | None = None) -> Tensor:
        """The product, its shortcut, the activation. With a workspace the result may lie in it."""
        residual = None if self.shortcut is None else x_NCHW
        for part in self.shortcut or ():
            residual = _run(part, residual, room, (x_NCHW,))
        y_NCHW, busy = x_NCHW, (x_NCHW, residual)
        for part in self.parts[:-1] if self.takes_rest else self.parts:
            y_NCHW = _run(part, y_NCHW, room, busy)
        if self.takes_rest:
            return cast(Tensor, self.parts[-1](y_NCHW, residual, self.activation, room, busy))
        if residual is not None:
            y_NCHW = y_NCHW + residual
        return ACTIVATIONS[self.activation](y_NCHW)


def _run(part: nn.Module, x_NCHW: Tensor | None, room: Workspace | None, busy: Sequence[Tensor | None]) -> Tensor:
    if isinstance(part, FusedRun):
        return cast(Tensor, part(x_NCHW, room=room, busy=busy))
    return cast(Tensor, part(x_NCHW))


def planned_parts(layers: Sequence[nn.Module], plan: str) -> list[nn.Module]:
    """The layers of a product as modules for inference; what is no factor stays as it is."""
    parts: list[nn.Module] = []
    at, before = 0, None
    while at < len(layers):
        layer = layers[at]
        if not isinstance(layer, FactorLayer):
            parts.append(copy.deepcopy(layer).float())
            at += 1
            continue
        length = _run_length(layers[at:], plan)
        members = [fold(cast(FactorLayer, one)) for one in layers[at : at + max(length, 1)]]
        order = identity(layer.factor.in_channels) if before is None else before
        before = None
        at += len(members)
        if length:
            parts.append((CollapsedRun if plan == "collapsed" else FusedRun)(members, order))
        else:  # its shuffle goes along with the next run, where there is one
            ahead = at < len(layers) and _run_length(layers[at:], plan) > 0
            parts.append(StockFactor(members[0], shuffled=not ahead))
            before = layer.factor.order if ahead else None
    return parts


def _run_length(layers: Sequence[nn.Module], plan: str) -> int:
    """How many of the first layers run as one; 0: the first runs by itself."""
    length = 0
    if plan == "stock":
        return 0
    for layer in layers[:MOST_FACTORS]:
        if not isinstance(layer, FactorLayer) or layer.factor.nm is not None:
            break
        factor = layer.factor
        pointwise = factor.kernel_size == 1 and factor.stride == 1
        opening = not length and (
            (plan == "fused" and factor.dilation == 1 and factor.stride <= MOST_STRIDE)
            or (plan == "collapsed" and _worth_collapsing(layers))
        )
        if not pointwise and not opening:
            break
        if plan != "collapsed" and factor.activation not in FUSED_ACTIVATIONS:
            break
        length += 1
        if plan == "collapsed" and factor.activation is not None:
            break
    factors = [cast(FactorLayer, layer).factor for layer in layers[:length]]
    few = plan == "fused" and length > 0 and factors[0].in_channels <= 4  # images: stock convolutions are slow on them
    return length if few or any(factor.groups > 1 for factor in factors) else 0


def _worth_collapsing(layers: Sequence[nn.Module]) -> bool:
    """True if the run of linear factors that begins with a k x k one is not all too wasteful as a dense convolution."""
    run: list[Factor] = []
    for layer in layers:
        if not isinstance(layer, FactorLayer) or layer.factor.nm is not None:
            break
        if run and (layer.factor.kernel_size > 1 or layer.factor.stride > 1):
            break
        run.append(layer.factor)
        if layer.factor.activation is not None:
            break
    dense = run[0].in_channels * run[-1].out_channels * run[0].area
    return dense <= MOST_COLLAPSED * sum(factor.weights for factor in run)


class InferenceNetwork(OptimizedNetwork):
    """A staged network for inference: each block by its plan.

    Args:
        network: trained; it is left as it is.
        plans: of the stem and then of each block, in order.
        channels_last: memory format that images are brought into; False: contiguous.
    """

    def __init__(self, network: StagedNetwork, plans: Sequence[str], channels_last: bool) -> None:
        super().__init__()
        layers = block_layers(network)
        if len(plans) != len(layers):
            raise UsageError(
                f"{len(plans)} plans were given for {len(layers)} blocks; give one for each, the stem first"
            )
        self.architecture = network.architecture
        self.plans, self.channels_last = tuple(plans), channels_last
        self.blocks = nn.ModuleList(PlannedBlock(layer, plan) for layer, plan in zip(layers, plans, strict=True))
        self.head = nn.Sequential(*planned_parts(list(network.head), "collapsed"))
        self.classifier = copy.deepcopy(network.classifier).float()
        self.requires_grad_(False)
        self.train(False)

    def _logits(self, x_NCHW: Tensor, room: Workspace | None) -> Tensor:
        for block in self.blocks:
            x_NCHW = block(x_NCHW, room)
        return cast(Tensor, self.classifier(self.head(x_NCHW).mean(dim=(2, 3))))

    def _dtype(self) -> torch.dtype:
        if isinstance(self.classifier, nn.Linear):
            return self.classifier.weight.dtype
        return next(each.dtype for each in self.buffers() if each.is_floating_point())


def block_layers(network: StagedNetwork) -> list[BlockLayer]:
    """The stem and the blocks, in order."""
    return [
        network.stem,
        *(cast(BlockLayer, layer) for stage in network.stages for layer in cast(nn.Sequential, stage)),
    ]


def default_plan(layer: BlockLayer, device: torch.device) -> str:
    """The static table: what was found best where nothing is measured (docs/measurements.md)."""
    if not fused_available(device, torch.float32) or device.type != "cpu":
        return "stock"
    channel_wise = any(
        isinstance(step, FactorLayer) and step.factor.kernel_size > 1 and step.factor.branch_width == 1
        for step in layer.steps
    )
    return "split" if channel_wise else "fused"
