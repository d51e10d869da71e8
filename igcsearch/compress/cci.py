"""From masks to compact storage: the network with N:M sparsity as it is deployed, and what it costs. Floor 6.

CCI ("cross-channel intragroup"): Yu et al., arXiv 1910.11971.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..nn.sparse import compact, strongest
from ..spec.graph import GraphArchitecture
from ..spec.operations import Convolution
from ..spec.sparsity import Sparsity
from .convert import difference_of
from .sparse_masks import kept_shares, line_of


@dataclass(frozen=True)
class Sparsified:
    """A network with N:M sparsity in place of dense weights; fields of the names of `permute.Permuted` say the same.

    Args:
        architecture, state: as it is deployed, in compact storage.
        kept: share of the scores that N:M keeps before training, mean over the layers that could be made sparse.
        difference: largest between the masked and the deployed network's outputs, as a share of the largest.
        layers: for each layer that could be made sparse its name, channels, groups, sparsity (as "2:4"; None: dense), kept share,
            multiply-adds before and now, and those with weights that are not left out (nonzero_macs).
        configuration: uniform (N given) or exact (chosen inside the budget).
        notes: lines for people, such as layers that were left dense.
        gathers, tradeoff: none.
    """

    architecture: GraphArchitecture
    state: dict[str, Tensor]
    kept: float
    difference: float
    layers: list[dict[str, Any]]
    configuration: str
    notes: tuple[str, ...] = ()
    gathers: int = 0
    tradeoff: tuple[tuple[int, float], ...] = ()

    @property
    def nonzero_macs(self) -> int:
        """Multiply-adds with weights that are not left out."""
        return self.architecture.nonzero_macs

    @property
    def bytes(self) -> int:
        """What all of its stored tensors take: values, codes, and all that is not sparse."""
        return stored_bytes(self.state)


def stored_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors of a state dict."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def masks_of(
    graph: GraphArchitecture, scores: Mapping[str, Tensor], sparsities: Mapping[str, Sparsity]
) -> dict[str, Tensor]:
    """The masks of the largest scores: bool, of the weights' shapes."""
    return {
        name: strongest(scores[name], sparsity, graph.convolution(name).groups) for name, sparsity in sparsities.items()
    }


def with_zeros(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with zeros where masks leave weights out."""
    result = dict(state)
    for name, mask in masks.items():
        result[f"{name}.weight"] = result[f"{name}.weight"] * mask
    return result


def compacted(
    graph: GraphArchitecture,
    state: Mapping[str, Tensor],
    sparsities: Mapping[str, Sparsity],
    masks: Mapping[str, Tensor],
) -> tuple[GraphArchitecture, dict[str, Tensor]]:
    """The network with sparse convolutions in compact storage, and its state dict.

    Args:
        state: of the dense network; what the masks leave out is not looked at.

    Raises:
        UsageError: a mask that is not of its layer's sparsity.
    """
    weights, nodes = dict(state), []
    for node in graph.nodes:
        sparsity = sparsities.get(node.name)
        if sparsity is not None and isinstance(node.operation, Convolution):
            operation = replace(node.operation, sparsity=(sparsity.n, sparsity.m), sparse_axis=sparsity.axis)
            weight = weights.pop(f"{node.name}.weight")
            values, codes = compact(weight, masks[node.name], sparsity, operation.groups)
            weights |= {f"{node.name}.values": values, f"{node.name}.codes": codes}
            node = replace(node, operation=operation)
        nodes.append(node)
    return graph.with_nodes(nodes), weights


def sparsified(
    graph: GraphArchitecture,
    state: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    sparsities: Mapping[str, Sparsity],
    masks: Mapping[str, Tensor],
    configuration: str,
    notes: tuple[str, ...] = (),
) -> Sparsified:
    """The network in compact storage, with its figures.

    Args:
        state: of the dense network, trained or not.
        scores: of all layers that could be made sparse, from which masks were chosen first.
    """
    architecture, weights = compacted(graph, state, sparsities, masks)
    rows = [_row(graph, architecture, name, each, sparsities.get(name)) for name, each in scores.items()]
    return Sparsified(
        architecture,
        weights,
        sum(row["kept"] for row in rows) / max(len(rows), 1),
        difference_of(graph, with_zeros(state, masks), architecture, weights),
        rows,
        configuration,
        notes,
    )


def _row(
    graph: GraphArchitecture, made: GraphArchitecture, name: str, scores: Tensor, sparsity: Sparsity | None
) -> dict[str, Any]:
    old, new = graph.convolution(name), made.convolution(name)
    kept = 1.0
    if sparsity is not None:
        kept = kept_shares(scores, sparsity.m, sparsity.axis, old.groups)[sparsity.n - 1]
    return {
        "layer": name,
        "in_channels": old.in_channels,
        "out_channels": old.out_channels,
        "kernel_size": list(old.kernel_size),
        "groups": old.groups,
        "sparsity": None if sparsity is None else f"{sparsity.n}:{sparsity.m}",
        "sparse_axis": None if sparsity is None else sparsity.axis,
        "line": None if sparsity is None else line_of(old, sparsity.axis),
        "kept": kept,
        "macs_before": old.macs(graph.shapes[name]),
        "macs": new.macs(made.shapes[name]),
        "nonzero_macs": new.nonzero_macs(made.shapes[name]),
    }
