"""Uniform channel pruning of a graph by Torch-Pruning, to compare compression with: what a user would otherwise take.

Torch-Pruning (DepGraph, Fang et al., CVPR 2023, arXiv 2301.12900) prunes a module; it is no dependency of the project:

    python -m pip install --no-deps torch-pruning==1.6.1

It does not see what `torch.nn.functional.pad` does to channels, so shortcuts that pad with zeros (ResNet's option A) are 1x1
convolutions of ones and zeros while it works (`opened`), and count as such in its magnitudes. What is left of them is a slice and
a pad again afterwards, with channels stored in such an order that they are contiguous (`closed`): the same function, and no
multiply-adds.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from igcsearch.compress.channels import channels_of, permuted
from igcsearch.errors import UsageError
from igcsearch.nn import measure
from igcsearch.nn.graph import GraphNetwork, Norm
from igcsearch.spec.graph import GraphArchitecture, Node
from igcsearch.spec.operations import BatchNorm, Convolution, Linear, Operation, Pad, Slice

STEPS = 12  # of the bisection: the ratio to 1/4096
TOLERANCE = 1e-4  # of the largest output, between the pruned module and its graph


class Weighted(NamedTuple):
    """A graph and its weights."""

    graph: GraphArchitecture
    state: dict[str, Tensor]


def torch_pruning() -> Any:
    """The package, or in one line how to get it.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("torch_pruning")
    except ImportError:
        raise UsageError(
            "channels and inner need Torch-Pruning, which is not installed; "
            "python -m pip install --no-deps torch-pruning==1.6.1, or leave them out of --methods"
        ) from None


def pruned(given: Weighted, most_macs: int, *, inner: bool = False) -> tuple[Weighted, float]:
    """The network with the same share of channels pruned everywhere but in the classifier; and that share.

    The smallest share, to 1/4096, with which it has at most so many multiply-adds. What goes is of least group L2 magnitude.

    Args:
        inner: prune only channels that one convolution alone writes: those within blocks, not those that sums tie.

    Raises:
        UsageError: no share does it, or Torch-Pruning is not installed.
    """
    low, high, best = 0.0, 1.0, None
    for _ in range(STEPS):
        share = (low + high) / 2
        found = _pruned(given, share, inner)
        if found.graph.macs <= most_macs:
            best, high = (found, share), share
        else:
            low = share
    if best is None:
        raise UsageError(f"no share of channels brings this network to {most_macs:,} MACs; raise the share of MACs")
    return best


def _pruned(given: Weighted, share: float, inner: bool) -> Weighted:
    package = torch_pruning()
    (graph, state), shortcuts = opened(given)
    network = GraphNetwork(graph).eval()
    network.load_state_dict(state)
    classifier = graph.classifier
    left = [] if classifier is None else [network.layer(classifier.name)]
    importance = package.importance.GroupMagnitudeImportance(p=2)
    example = measure.example_images(network, 1)
    pruner = package.pruner.BasePruner(network, example, importance, pruning_ratio=share, ignored_layers=left)
    if inner:
        left += _tied(pruner, left)
        pruner = package.pruner.BasePruner(network, example, importance, pruning_ratio=share, ignored_layers=left)
    pruner.step()
    nodes = [replace(node, operation=_as_pruned(node, network)) for node in graph.nodes]
    smaller = Weighted(graph.with_nodes(nodes), dict(network.state_dict()))
    made = closed(smaller, shortcuts)
    again = GraphNetwork(made.graph).eval()
    again.load_state_dict(made.state)
    with torch.no_grad():
        wanted, found = network(example), again(example)
    if not float((found - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max()):
        raise RuntimeError("the graph of the pruned network differs from what Torch-Pruning made")
    return made


def _tied(pruner: Any, left: list[nn.Module]) -> list[nn.Module]:
    """The convolutions whose output channels others have to keep or lose with them."""
    found: list[nn.Module] = []
    for group in pruner.DG.get_all_groups(ignored_layers=left):
        writers = [
            dependency.target.module
            for dependency, _ in group
            if isinstance(dependency.target.module, nn.Conv2d) and "out" in dependency.handler.__name__
        ]
        if len(set(writers)) > 1:
            found += writers
    return found


def _as_pruned(node: Node, network: GraphNetwork) -> Operation:
    """The operation with the channels that its module has now."""
    operation = node.operation
    if isinstance(operation, BatchNorm):
        return replace(operation, channels=cast(Norm, network.layer(node.name)).num_features)
    if isinstance(operation, Convolution):
        rows, columns = cast(nn.Conv2d, network.layer(node.name)).weight.shape[:2]
        return replace(operation, in_channels=columns * operation.groups, out_channels=rows)
    if isinstance(operation, Linear):
        rows, columns = cast(nn.Linear, network.layer(node.name)).weight.shape
        return replace(operation, in_features=columns, out_features=rows)
    return operation


def opened(given: Weighted) -> tuple[Weighted, dict[str, str]]:
    """The same network with 1x1 convolutions in place of slices and pads of channels; their names, and those of the slices.

    Raises:
        UsageError: a pad of channels that is not of zeros behind a slice of all channels.
    """
    graph, state = given.graph, dict(given.state)
    nodes: dict[str, Node] = {}
    shortcuts: dict[str, str] = {}
    for node in graph.nodes:
        nodes[node.name] = node
        pad = node.operation
        if not isinstance(pad, Pad) or pad.channels == (0, 0):
            continue
        source = nodes.get(node.reads[0])
        width = graph.shapes[node.reads[0]][0]
        if (
            source is None
            or not isinstance(source.operation, Slice)
            or graph.shapes[source.reads[0]][0] != width
            or graph.readers[source.name] != (node.name,)
            or (pad.rows, pad.columns, pad.value) != ((0, 0), (0, 0), 0.0)
        ):
            raise UsageError(f"{node.name!r} pads channels, but not with zeros behind a slice of pixels alone")
        before, behind = pad.channels
        operation = Convolution(width, before + width + behind, (1, 1), source.operation.steps)
        nodes[node.name] = Node(node.name, operation, source.reads)
        state[f"{node.name}.weight"] = torch.eye(width).new_zeros(before + width + behind, width, 1, 1)
        state[f"{node.name}.weight"][before : before + width, :, 0, 0] = torch.eye(width)
        shortcuts[node.name] = source.name
        del nodes[source.name]
    return Weighted(graph.with_nodes(list(nodes.values())), state), shortcuts


def closed(given: Weighted, shortcuts: Mapping[str, str]) -> Weighted:
    """`opened`, backwards: what is left of the shortcuts are slices and pads again.

    Raises:
        UsageError: shortcuts of which nothing is left, or with channels that no order makes contiguous for all of them.
    """
    graph, state = given
    channels = channels_of(graph)
    after: dict[int, int] = {}  # atom before a shortcut: atom behind it
    for name in shortcuts:
        rows, columns = state[f"{name}.weight"][:, :, 0, 0].nonzero(as_tuple=True)
        (read,) = graph.node(name).reads
        after.update(zip(channels.of[read][columns].tolist(), channels.of[name][rows].tolist(), strict=True))
    streams = [channels.of[read] for name in shortcuts for read in graph.node(name).reads]
    streams += [channels.of[name] for name in shortcuts]
    streams = list({tuple(stream.tolist()): stream for stream in streams}.values())
    key = _keys([stream.tolist() for stream in streams], after)
    stored = channels.same()
    for stream in streams:
        stored[stream] = sorted(stream.tolist(), key=key.__getitem__)
    state = permuted(graph, state, channels, stored)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name not in shortcuts or not isinstance(node.operation, Convolution):
            nodes.append(node)
            continue
        places = state.pop(f"{node.name}.weight")[:, :, 0, 0].nonzero()
        if not len(places) or (places != places[0] + torch.arange(len(places))[:, None]).any():
            raise UsageError(f"what is left of the shortcut {node.name!r} is no slice and pad in any order of channels")
        before, start = places[0].tolist()
        part = Slice(start, start + len(places), node.operation.stride)
        pad = Pad((before, node.operation.out_channels - before - len(places)))
        slice_name = shortcuts[node.name]
        nodes += [Node(slice_name, part, node.reads), Node(node.name, pad, (slice_name,))]
    return Weighted(graph.with_nodes(nodes), state)


def _keys(streams: list[list[int]], after: Mapping[int, int]) -> dict[int, tuple[int, int, int]]:
    """For each atom what its channels are sorted by; atoms that shortcuts join have one key.

    An atom and those that shortcuts make of it run from a first stream to a last one. In the first stream those that run further
    come later; in the second they come earlier: so what comes in is contiguous, and what goes on. It does for three streams.
    """
    number = {atom: position for position, stream in enumerate(_in_order(streams, after)) for atom in stream}
    behind = set(after.values())
    keys = {}
    for atom in number:
        if atom in behind:
            continue
        run = [atom]
        while run[-1] in after:
            run.append(after[run[-1]])
        first, last = number[run[0]], number[run[-1]]
        for each in run:
            keys[each] = (first, last if first == 0 else -last, atom)
    return keys


def _in_order(streams: list[list[int]], after: Mapping[int, int]) -> list[list[int]]:
    """The streams, each behind those that shortcuts bring to it."""
    depth = {atom: 0 for stream in streams for atom in stream}
    for _ in streams:
        for one, other in after.items():
            depth[other] = max(depth[other], depth[one] + 1)
    return sorted(streams, key=lambda stream: max(depth[atom] for atom in stream))
