"""What group counts or masks cost a network, measured: how much the loss rises when one layer alone is cut. Floor 6.

The network runs once over the images; at each layer of the tables it goes on from there with every option's zeros in turn, so what
stands before the layer is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..nn.graph import GraphNetwork
from ..spec.graph import INPUT, GraphArchitecture
from ..training.device import resolve_device
from .configuration import Option, Table
from .convert import cut
from .progress import Progress, Say, silent

AT_ONCE = 32  # images in memory

#: The weight of a layer as an option leaves it; None where it leaves it whole.
Cutting = Callable[[Table, Option, Tensor], Tensor | None]


def cut_groups(table: Table, option: Option, weight: Tensor) -> Tensor | None:
    """With zeros where a kernel joins channels of different groups."""
    if option.alone is None:
        return None
    return cut(weight, *(np.argsort(order) // (len(order) // option.groups) for order in option.alone))


def measured(
    found: Sequence[Table],
    graph: GraphArchitecture,
    state: Mapping[str, Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    device: str = "cpu",
    cutting: Cutting = cut_groups,
    say: Say = silent,
) -> list[Table]:
    """The tables with the harm of each option: how much higher the mean cross-entropy is with its zeros, all else dense.

    Not below 0, and 0 where nothing is cut. An option whose loss is no number is left out.

    Args:
        found: see `configuration.tables`.
        batches: images (N, C, H, W), normalised, and labels (N,).
        device: auto, cpu, cuda or cuda:N.
        cutting: what an option makes of a weight.
        say: is given a line every ten seconds.

    Raises:
        UsageError: no images, or a network whose own loss is no number.
    """
    if not sum(len(labels) for _, labels in batches):
        raise UsageError("sensitivity is measured on images: give data, or the importance lost")
    place = resolve_device(device)
    kind = next((tensor.dtype for tensor in state.values() if tensor.is_floating_point()), torch.float32)
    network = GraphNetwork(graph).to(kind).eval()
    network.load_state_dict(dict(state))
    network.to(place)
    by_name = {table.name: table for table in found}
    losses = {table.name: [0.0] * len(table.options) for table in found}
    whole: set[tuple[str, int]] = set()
    dense, images = 0.0, 0
    parts = [pair for x, y in batches for pair in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True)]
    progress = Progress("sensitivity of layers", say)
    with torch.inference_mode():
        for part, (inputs, labels) in enumerate(parts):
            labels, images = labels.to(place), images + len(labels)
            made = {INPUT: inputs.to(place, kind)}
            for number, node in enumerate(graph.nodes):
                if node.name in by_name:
                    layer = cast(nn.Conv2d, network.layer(node.name))
                    weight = layer.weight.data
                    for at, option in enumerate(by_name[node.name].options):
                        if (changed := cutting(by_name[node.name], option, weight)) is None:
                            whole.add((node.name, at))
                            continue
                        layer.weight.data = changed
                        losses[node.name][at] += _loss(network, dict(made), number, labels)
                    layer.weight.data = weight
                progress.at((part + number / len(graph.nodes)) / len(parts))
                network.step(node, made)
            dense += float(F.cross_entropy(made[graph.nodes[-1].name], labels, reduction="sum"))
    if not math.isfinite(dense):
        raise UsageError(
            "the network's loss on these images is no finite number; look at its weights and normalisation"
        )
    tables = []
    for table in found:
        options = []
        for at, option in enumerate(table.options):
            rise = 0.0 if (table.name, at) in whole else (losses[table.name][at] - dense) / images
            if math.isfinite(rise):
                options.append(replace(option, harm=max(0.0, rise)))
        tables.append(replace(table, options=tuple(options)))
    return tables


def _loss(network: GraphNetwork, made: dict[str, Tensor], number: int, labels: Tensor) -> float:
    """Of the images, summed, where the nodes from that number on are still to be computed."""
    nodes = network.architecture.nodes
    for node in nodes[number:]:
        network.step(node, made)
    return float(F.cross_entropy(made[nodes[-1].name], labels, reduction="sum"))
