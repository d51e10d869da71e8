"""A graph network made ready for inference: norms folded, each convolution with what stands beside it in one call. Floor 3.

The ways of a convolution ("plans"), which give the same to rounding: fused (fused/; group convolutions alone), sparse (the same; of
weights with an N:M sparsity, those that stay alone), and stock. Which one
is measured (plans.py has the times) on an example's shapes, for all convolutions in both memory formats.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..spec import Factor, Shuffle
from ..spec.graph import INPUT, Node
from ..spec.permutations import Order
from .fused import fused_available
from .fused.sparse import SparseRun
from .graph import GraphNetwork
from .graph_units import Unit, folded, sparsities, units, without_norms
from .inference import FoldedFactor, FusedRun
from .layers import ACTIVATIONS
from .optimized import OptimizedNetwork
from .plans import NEAR, PlanTimes, in_format, in_turn, shape_key
from .sparse_storage import strongest
from .workspace import Workspace

Shape = tuple[int, ...]


class StockUnit(nn.Module):
    """A unit by stock operators."""

    def __init__(self, unit: Unit, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer, self.activation = layer, unit.activation
        self.register_buffer("order", None if unit.gather is None else torch.from_numpy(_order(unit)), persistent=False)

    def forward(
        self,
        x_NCHW: Tensor,
        residual: Tensor | None = None,
        activation: str | None = None,
        room: Workspace | None = None,
        busy: Sequence[Tensor | None] = (),
    ) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W'), as `FusedRun`; never in `room`."""
        if self.order is not None:
            x_NCHW = x_NCHW.index_select(1, cast(Tensor, self.order))
        y_NCHW = ACTIVATIONS[self.activation](self.layer(x_NCHW))
        if residual is not None:
            y_NCHW = y_NCHW + residual
        return ACTIVATIONS[activation](y_NCHW)


class GraphInference(OptimizedNetwork):
    """A graph network for inference: each convolution, with what runs with it, by its plan.

    Args:
        network: in any mode; it is left as it is.
        plans: of the units (graph_units.py), in the order of the graph's nodes; None: `default_plans`.
        channels_last: memory format that images are brought into; False: contiguous.
    """

    def __init__(self, network: GraphNetwork, plans: Sequence[str] | None = None, channels_last: bool = False) -> None:
        super().__init__()
        state = {name: t.float() if t.is_floating_point() else t for name, t in network.state_dict().items()}
        place = next(iter(state.values())).device
        graph, state = folded(network.architecture, state)
        found = units(graph, sparsities(network.architecture))
        self.architecture = network.architecture
        self.plans = tuple(default_plans(found, place) if plans is None else plans)
        self.channels_last = channels_last
        if len(self.plans) != len(found):
            raise UsageError(f"{len(self.plans)} plans were given for {len(found)} convolutions; give one for each")
        self._plain = GraphNetwork(graph).to(place)
        if network.without_classifier:
            self._plain.remove_classifier()
        self._plain.load_state_dict(state)
        within = {name for unit in found.values() for name in unit.nodes}
        shared = {node.shares for node in graph.nodes}
        plan_of = dict(zip((node.name for node in graph.nodes if node.name in found), self.plans, strict=True))
        self._steps: list[tuple[Node, str | None, tuple[str, ...]]] = []
        self.units = nn.ModuleList()
        for node in graph.nodes:
            if node.name not in found:
                if node.name not in within:
                    self._steps.append((node, None, node.reads))
                continue
            unit = found[node.name]
            layer = cast(nn.Conv2d, self._plain.layer(unit.node.name))
            self.units.append(unit_layer(unit, layer, plan_of[node.name]))
            if unit.node.shares is None and unit.node.name not in shared:
                self._plain.replace_layer(unit.node.name, nn.Identity())  # the unit has its weights
            self._steps.append((node, unit.final, unit.reads))
        self._owner = [found[node.name].node.name if node.name in found else None for node, _, _ in self._steps]
        self._last = {name: number for number, (_, _, reads) in enumerate(self._steps) for name in reads}
        self.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        self.requires_grad_(False)
        self.train(False)

    def _logits(self, x_NCHW: Tensor, room: Workspace | None) -> Tensor:
        return self._run(x_NCHW, room)

    @torch.inference_mode()
    def shapes(self, example: Tensor) -> list[tuple[Shape, Shape]]:
        """What each unit is given for an example and what it makes, in order, with the batch."""
        found: list[tuple[Shape, Shape]] = []

        def see(number: int, x_NCHW: Tensor, y_NCHW: Tensor) -> None:
            if self._owner[number] is not None:
                found.append((tuple(x_NCHW.shape), tuple(y_NCHW.shape)))

        self._run(example, None, see)
        return found

    @torch.inference_mode()
    def layer_ms(self, example: Tensor, runs: int = 9) -> tuple[dict[str, float], float]:
        """Median milliseconds of each convolution, with what runs with it, inside whole passes; and of the passes.

        On the CPU. By the names of the convolutions' nodes.
        """
        times: list[list[float]] = []

        def see(number: int, x_NCHW: Tensor, y_NCHW: Tensor) -> None:
            times[-1].append(time.perf_counter())

        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        for _ in range(runs + 1):
            example = example.contiguous(memory_format=layout)
            times.append([time.perf_counter()])
            self._run(example, self._workspace, see)
        spans = [[1e3 * (b - a) for a, b in pairwise(each)] for each in times[1:]]
        middle = [statistics.median(each) for each in zip(*spans, strict=True)]
        found = {owner: ms for owner, ms in zip(self._owner, middle, strict=True) if owner is not None}
        return found, sum(middle)

    def _run(
        self, x_NCHW: Tensor, room: Workspace | None, see: Callable[[int, Tensor, Tensor], None] | None = None
    ) -> Tensor:
        """Step after step; what no later step reads is let go at once.

        Args:
            see: called behind each step with its number, what it read first, and what it made.
        """
        made = {INPUT: x_NCHW}
        ways = iter(self.units)
        y = x_NCHW
        for number, (node, final, reads) in enumerate(self._steps):
            inputs = [made[name] for name in reads]
            for name in set(reads):
                if self._last[name] == number:
                    del made[name]
            if self._owner[number] is None:
                y = self._plain.operate(node, inputs)
            else:
                residual = inputs[1] if len(inputs) > 1 else None
                y = next(ways)(inputs[0], residual, final, room, list(made.values()))
            if see is not None:
                see(number, inputs[0], y)
            made[node.name] = y
        return y.clone() if room is not None and room.holds(y) else y

    def _dtype(self) -> torch.dtype:
        found = (*self.parameters(), *self.buffers())
        return next(each.dtype for each in found if each.is_floating_point())


def unit_layer(unit: Unit, layer: nn.Conv2d, plan: str) -> nn.Module:
    """The module of a unit by one of its plans; called as `FusedRun`.

    Args:
        layer: of its convolution, the norm folded.
    """
    if plan == "stock":
        return StockUnit(unit, layer)
    it = unit.convolution
    if plan == "sparse":
        bias = None if layer.bias is None else layer.bias.detach()
        return SparseRun(
            layer.weight.detach().float(),
            bias,
            stride=it.stride,
            padding=it.padding,
            dilation=it.dilation,
            groups=it.groups,
            activation=unit.activation,
        )
    factor = Factor(
        it.in_channels,
        it.out_channels,
        it.kernel_size[0],
        it.groups,
        it.stride[0],
        bias=it.bias,
        activation=unit.activation,
        shuffle=Shuffle("identity"),
    )
    weight, bias = layer.weight.detach().float(), layer.bias
    part = FoldedFactor(factor, weight.contiguous(), None if bias is None else bias.detach().float())
    return FusedRun([part], _order(unit))


def default_plans(found: dict[str, Unit], device: torch.device) -> list[str]:
    """The static table: what was found best where nothing is measured (docs/measurements.md)."""
    return [_plans(unit, device)[-1] for unit in found.values()]


def _plans(unit: Unit, device: torch.device) -> list[str]:
    """The plans that a unit has there."""
    found, it = ["stock"], unit.convolution
    if unit.fusible and fused_available(device, torch.float32, spatial=it.kernel_size != (1, 1)):
        found.append("fused")
    plain = unit.gather is None and (it.padding_mode == "zeros" or it.padding == (0, 0))
    if (
        unit.sparsity is not None
        and plain
        and torch.device(device).type == "cpu"
        and fused_available("cpu", torch.float32)
    ):
        found.append("sparse")
    return found


def unit_ms(unit: Unit, given: Shape, made: Shape, channels_last: bool, known: PlanTimes) -> dict[str, float]:
    """Plan -> milliseconds of a unit by itself, random weights, measured now if it is new to `known`.

    Args:
        given, made: (N, C_in, H, W) and (N, C_out, H', W').
    """
    x_NCHW = in_format(torch.rand(given, dtype=torch.float32, device=known.device), channels_last)

    def measured() -> dict[str, float]:
        it = unit.convolution
        layer = nn.Conv2d(
            *(it.in_channels, it.out_channels, it.kernel_size, it.stride, it.padding, it.dilation, it.groups, it.bias),
            padding_mode=it.padding_mode,  # type: ignore[arg-type]
            device=known.device,
        )
        if unit.sparsity is not None:
            with torch.no_grad():
                layer.weight.mul_(strongest(torch.rand_like(layer.weight), unit.sparsity, it.groups))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        names = _plans(unit, known.device)
        ways = [unit_layer(unit, layer, plan).to(known.device).to(memory_format=layout).eval() for plan in names]
        more = None if unit.residual is None else in_format(torch.rand(made, device=known.device), channels_last)
        room = Workspace()  # as in a network
        times = in_turn([partial(way, x_NCHW, more, unit.final, room) for way in ways])
        return dict(zip(names, times, strict=True))

    return known.held(shape_key(unit.key, x_NCHW, channels_last), measured)


def optimize_graph(
    network: GraphNetwork, example: Tensor | None = None, *, measure: bool = True, known: PlanTimes | None = None
) -> GraphInference:
    """The network for inference: norms folded, every convolution by its fastest plan. Same results to rounding; float32.

    Args, raises: as `plans.optimize_for_inference`.
    """
    if example is not None and example.dtype is not torch.float32:
        raise UsageError(f"an optimized network runs in float32, the example is {example.dtype}; give float32 images")
    plain = GraphInference(network)
    if not measure:
        return plain
    graph = network.architecture
    device = next(iter(network.state_dict().values())).device
    if example is None:
        size = (1, graph.in_channels, graph.image_size, graph.image_size)
        example = torch.zeros(size, dtype=torch.float32, device=device)
    known = PlanTimes(device) if known is None else known
    candidates = [planned(network, plain.shapes(example), form, known) for form in (False, True)]
    known.save()
    candidates.sort(key=lambda each: each[0])
    if candidates[1][0] < NEAR * candidates[0][0]:  # the other operations may decide
        timed = in_turn([partial(net, example) for _, net in candidates])
        return candidates[timed.index(min(timed))][1]
    return candidates[0][1]


def planned(
    network: GraphNetwork, shapes: Sequence[tuple[Shape, Shape]], channels_last: bool, known: PlanTimes
) -> tuple[float, GraphInference]:
    """The network in one memory format, every convolution by its fastest plan, and their milliseconds together.

    Args:
        shapes: as `GraphInference.shapes` gives them.
    """
    plans, total = [], 0.0
    found = units(without_norms(network.architecture)[0], sparsities(network.architecture))
    for unit, (given, made) in zip(found.values(), shapes, strict=True):
        times = unit_ms(unit, given, made, channels_last, known)
        plans.append(min(times, key=lambda plan: times[plan]))
        total += min(times.values())
    return total, GraphInference(network, plans, channels_last)


def _order(unit: Unit) -> Order:
    channels = unit.convolution.in_channels
    if unit.gather is None:
        return np.arange(channels)
    return np.array(unit.gather.operation.permutation(channels))  # type: ignore[attr-defined]
