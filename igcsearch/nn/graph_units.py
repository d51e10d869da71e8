"""A graph rewritten for inference: norms folded into what is before them, and units of nodes that one call computes. Floor 3.

A convolution with an N:M sparsity runs there with its dense weight, as any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ..spec.graph import INPUT, GraphArchitecture, Node
from ..spec.operations import Activation, Add, BatchNorm, Convolution, Gather, Linear
from ..spec.serialise import canonical
from .fused.folded import ACTIVATIONS as FUSED_ACTIVATIONS
from .fused.shared import MOST_STRIDE
from .sparse import dense


@dataclass(frozen=True)
class Unit:
    """A convolution and the nodes beside it that one call computes: `final(activation(convolution(x[order])) + residual)`.

    Args:
        node: of the convolution.
        gather: before it.
        activation, final: behind it and behind the sum: names of fused.folded.ACTIVATIONS.
        residual: the node that is added.
        nodes: names of what it computes, in order; the last one's result is what it gives.
    """

    node: Node
    gather: Node | None = None
    activation: str | None = None
    residual: str | None = None
    final: str | None = None
    nodes: tuple[str, ...] = ()

    @property
    def convolution(self) -> Convolution:
        """What the node does."""
        assert isinstance(self.node.operation, Convolution)
        return self.node.operation

    @property
    def reads(self) -> tuple[str, ...]:
        """The nodes that it reads: its input, and the residual where there is one."""
        source = self.node.reads[0] if self.gather is None else self.gather.reads[0]
        return (source,) if self.residual is None else (source, self.residual)

    @property
    def key(self) -> str:
        """Equal for units that take equally long on equal shapes."""
        convolution = asdict(self.convolution)
        del convolution["sparsity"], convolution["sparse_axis"]  # it has its dense weight
        rest = [self.gather is not None, self.activation, self.residual is not None, self.final]
        return hashlib.sha256(canonical([convolution, rest]).encode()).hexdigest()[:12]

    @property
    def fusible(self) -> bool:
        """True if the fused kernels compute it: groups, a square odd kernel with the padding of "same"."""
        it = self.convolution
        size, stride = it.kernel_size[0], it.stride[0]
        return (
            it.groups > 1
            and it.kernel_size == (size, size)
            and size % 2 == 1
            and it.stride == (stride, stride)
            and stride <= MOST_STRIDE
            and it.padding == (size // 2, size // 2)
            and (it.padding_mode == "zeros" or size == 1)
            and (it.dilation == (1, 1) or size == 1)
        )


def units(graph: GraphArchitecture) -> dict[str, Unit]:
    """The units of a graph without foldable norms, one for each convolution, by the last node of each, in the order of the nodes.

    A sum belongs to one of the convolutions that it reads, to one with groups first.
    """
    found: dict[str, Unit] = {}
    taken: set[str] = set()
    for node, _ in sorted(graph.convolutions(), key=lambda pair: pair[1].groups == 1):
        unit = _unit(graph, node, taken)
        found[unit.nodes[-1]] = unit
        taken.update(unit.nodes)
    return {node.name: found[node.name] for node in graph.nodes if node.name in found}


def _unit(graph: GraphArchitecture, node: Node, taken: set[str]) -> Unit:
    nodes, gather = [node.name], None
    if node.reads[0] != INPUT:
        source = graph.node(node.reads[0])
        if isinstance(source.operation, Gather) and graph.readers[source.name] == (node.name,):
            nodes, gather = [source.name, node.name], source
    activation = _absorbed(graph, nodes, taken)
    follower = _only_reader(graph, nodes[-1], taken)
    if follower is None or not isinstance(follower.operation, Add) or len(follower.reads) > 2:
        return Unit(node, gather, activation, nodes=tuple(nodes))
    other = follower.reads[1 - follower.reads.index(nodes[-1])]
    if graph.shapes[other] != graph.shapes[nodes[-1]]:
        return Unit(node, gather, activation, nodes=tuple(nodes))
    nodes.append(follower.name)
    final = _absorbed(graph, nodes, taken)
    return Unit(node, gather, activation, other, final, tuple(nodes))


def _absorbed(graph: GraphArchitecture, nodes: list[str], taken: set[str]) -> str | None:
    """The activation that alone reads the last of the nodes, if the kernels have it; it is put behind them."""
    follower = _only_reader(graph, nodes[-1], taken)
    if follower is None or not isinstance(follower.operation, Activation):
        return None
    if follower.operation.kind not in FUSED_ACTIVATIONS:
        return None
    nodes.append(follower.name)
    return follower.operation.kind


def _only_reader(graph: GraphArchitecture, name: str, taken: set[str]) -> Node | None:
    readers = graph.readers[name]
    return graph.node(readers[0]) if len(readers) == 1 and readers[0] not in taken else None


def without_norms(graph: GraphArchitecture) -> tuple[GraphArchitecture, dict[str, str]]:
    """The graph without the norms that alone read a convolution or linear layer, which has a bias now; and those: norm -> layer.

    No convolution of it is sparse.
    """
    renamed: dict[str, str] = {}
    nodes: dict[str, Node] = {}
    shared = {node.shares for node in graph.nodes}
    for node in graph.nodes:
        node = replace(node, reads=tuple(renamed.get(name, name) for name in node.reads))
        if isinstance(node.operation, Convolution) and node.operation.nm is not None:
            node = replace(node, operation=replace(node.operation, sparsity=None, sparse_axis="in"))
        source = nodes.get(node.reads[0])
        if (
            source is not None
            and isinstance(node.operation, BatchNorm)
            and isinstance(source.operation, Convolution | Linear)
            and graph.readers[source.name] == (node.name,)
            and not {node.name, source.name} & shared
            and node.shares is None
            and source.shares is None
        ):
            nodes[source.name] = replace(source, operation=replace(source.operation, bias=True))
            renamed[node.name] = source.name
        else:
            nodes[node.name] = node
    return graph.with_nodes(list(nodes.values())), renamed


def folded(graph: GraphArchitecture, state: Mapping[str, Tensor]) -> tuple[GraphArchitecture, dict[str, Tensor]]:
    """`without_norms`, and the state dict with the norms in weights and biases; computed in float64."""
    without, norms = without_norms(graph)
    state = dict(state)
    for node, it in graph.convolutions():
        if it.nm is not None and node.shares is None:
            values, codes = state.pop(f"{node.name}.values"), state.pop(f"{node.name}.codes")
            shape = (it.out_channels, it.in_channels // it.groups, *it.kernel_size)
            state[f"{node.name}.weight"] = dense(values, codes, it.nm, shape, it.groups)
    for name, source in norms.items():
        norm = graph.node(name).operation
        assert isinstance(norm, BatchNorm)
        weight, bias = f"{source}.weight", f"{source}.bias"
        mean, variance = (state.pop(f"{name}.running_{what}").double() for what in ("mean", "var"))
        state.pop(f"{name}.num_batches_tracked", None)
        scale = (variance + norm.eps).rsqrt()
        shift = torch.zeros_like(mean)
        if norm.affine:
            scale = scale * state.pop(f"{name}.weight").double()
            shift = state.pop(f"{name}.bias").double()
        old = state[bias].double() if bias in state else torch.zeros_like(mean)
        kind = state[weight].dtype
        state[bias] = ((old - mean) * scale + shift).to(kind)
        state[weight] = (state[weight].double() * scale.reshape(-1, *[1] * (state[weight].dim() - 1))).to(kind)
    return without, state
