"""From masks to group convolutions: the network as it is deployed, and the one with zeros that it must equal. Floor 6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UsageError
from ..nn.graph import GraphNetwork
from ..spec.graph import GraphArchitecture, Node
from ..spec.operations import Convolution, Gather
from .channels import Channels, permuted
from .criterion import groupable
from .orders import Grouped, Orders
from .trace import TOLERANCE


def masked(state: Mapping[str, Tensor], orders: Orders) -> dict[str, Tensor]:
    """The state dict with zeros where a kernel joins channels of different groups."""
    result = dict(state)
    for name, rows in orders.rows.items():
        result[f"{name}.weight"] = cut(result[f"{name}.weight"], rows, orders.columns[name])
    return result


def cut(weight: Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
    """A weight (out, in, rows, columns) with zeros where the groups of the output channel and of the input channel differ."""
    inside = torch.from_numpy(rows[:, None] == columns)
    return weight * inside[:, :, None, None].to(weight)


def converted(
    graph: GraphArchitecture, state: Mapping[str, Tensor], channels: Channels, layers: list[Grouped], orders: Orders
) -> tuple[GraphArchitecture, dict[str, Tensor]]:
    """The network with group convolutions, and its weights: channels stored in their orders, a gather where a layer has its own.

    Args:
        state: of the dense network, masked or not.

    Raises:
        UsageError: a layer that cannot be given groups.
    """
    able = {node.name for node, _ in groupable(graph)}
    for each in layers:
        if each.name not in able:
            raise UsageError(
                f"{each.name!r} is no dense convolution with weights of its own; only such are given groups"
            )
        if graph.node(each.name).reads != (each.source,):
            raise UsageError(f"{each.name!r} does not read {each.source!r} alone")
    weights = permuted(graph, state, channels, orders.stored)
    by_name = {layer.name: layer for layer in layers}
    nodes: list[Node] = []
    for node in graph.nodes:
        layer = by_name.get(node.name)
        if layer is None or not isinstance(node.operation, Convolution):
            nodes.append(node)
            continue
        groups, weight = layer.groups, weights[f"{node.name}.weight"]
        reads = node.reads
        order = orders.gathers.get(node.name)
        if order is not None and (order != np.arange(len(order))).any():
            weight = weight[:, torch.from_numpy(order)]
            gather = _free(f"{node.name}_gather", graph)
            nodes.append(Node(gather, Gather(order=tuple(order.tolist())), reads))
            reads = (gather,)
        width = weight.shape[1] // groups
        weights[f"{node.name}.weight"] = torch.cat(
            [part[:, g * width : (g + 1) * width] for g, part in enumerate(weight.chunk(groups))]
        )
        nodes.append(replace(node, operation=replace(node.operation, groups=groups), reads=reads))
    return graph.with_nodes(nodes), weights


def expanded(graph: GraphArchitecture, made: GraphArchitecture, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the dense graph that give what the converted network gives: zeros outside the groups.

    Channels stay in the orders in which the converted network stores them.

    Args:
        graph: dense.
        made: what `converted` made of it.
        state: of `made`, trained or not.
    """
    state = dict(state)
    for node, convolution in graph.convolutions():
        grouped = made.node(node.name)
        if not isinstance(grouped.operation, Convolution) or grouped.operation.groups == convolution.groups:
            continue
        weight = state[f"{node.name}.weight"]
        dense = torch.zeros(convolution.out_channels, convolution.in_channels, *weight.shape[2:], dtype=weight.dtype)
        for g, part in enumerate(weight.chunk(grouped.operation.groups)):
            rows, width = len(part), part.shape[1]
            dense[g * rows : (g + 1) * rows, g * width : (g + 1) * width] = part
        if grouped.reads != node.reads:  # through a gather of its own: y = x[order]
            gather = made.node(grouped.reads[0]).operation
            assert isinstance(gather, Gather)
            order = torch.tensor(gather.permutation(convolution.in_channels))
            dense = dense[:, order.argsort()]
        state[f"{node.name}.weight"] = dense
    return state


def difference_of(
    graph: GraphArchitecture, state: Mapping[str, Tensor], made: GraphArchitecture, weights: Mapping[str, Tensor]
) -> float:
    """Largest difference of two networks' outputs on random images, as a share of the largest; an error if it is no rounding."""
    kind = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    images = torch.randn(
        2, graph.in_channels, graph.image_size, graph.image_size, generator=torch.Generator().manual_seed(1)
    )
    outputs = []
    for architecture, tensors in ((graph, state), (made, weights)):
        network = GraphNetwork(architecture).to(kind).eval()
        network.load_state_dict(dict(tensors))
        with torch.no_grad():
            outputs.append(network(images.to(kind)))
    difference = float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max().clamp_min(1e-30))
    if not difference <= 10 * TOLERANCE.get(kind, 1e-2):
        raise RuntimeError(
            f"the deployed network differs from the masked one by {difference:.2g} of the largest output"
        )
    return difference


def _free(name: str, graph: GraphArchitecture) -> str:
    taken = {node.name for node in graph.nodes}
    while name in taken:
        name += "_"
    return name
