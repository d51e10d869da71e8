"""A graph network for inference: batch norms folded into the convolutions before them, images in channels_last. Floor 3."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..spec.graph import GraphArchitecture, Node
from ..spec.operations import BatchNorm, Convolution, Linear
from .graph import GraphNetwork


class GraphInference(GraphNetwork):
    """A graph whose norms are folded; float32, in eval mode, without gradients.

    Attributes:
        plans: one name for each convolution, as `InferenceNetwork.plans`: folded or plain.
    """

    channels_last = True

    def __init__(self, network: GraphNetwork) -> None:
        graph, state = folded(network.architecture, network.float().state_dict())
        super().__init__(graph)
        self.load_state_dict(state)
        before = {node.name: operation for node, operation in network.architecture.convolutions()}
        self.plans = tuple("folded" if op != before[node.name] else "plain" for node, op in graph.convolutions())
        self.to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.eval()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to logits (N, num_classes)."""
        return super().forward(x_NCHW.detach().contiguous(memory_format=torch.channels_last))


def folded(graph: GraphArchitecture, state: dict[str, Tensor]) -> tuple[GraphArchitecture, dict[str, Tensor]]:
    """The graph without the norms that alone read a convolution or linear layer, and its state dict. In float64 meanwhile."""
    state = dict(state)
    renamed: dict[str, str] = {}
    nodes: dict[str, Node] = {}
    shared = {node.shares for node in graph.nodes if node.shares is not None}
    for node in graph.nodes:
        node = replace(node, reads=tuple(renamed.get(name, name) for name in node.reads))
        source = nodes.get(node.reads[0])
        norm = node.operation
        if (
            not isinstance(norm, BatchNorm)
            or source is None
            or not isinstance(source.operation, Convolution | Linear)
            or graph.readers[source.name] != (node.name,)
            or {node.name, source.name} & shared
            or node.shares is not None
            or source.shares is not None
        ):
            nodes[node.name] = node
            continue
        weight, bias = f"{source.name}.weight", f"{source.name}.bias"
        mean, variance = (state.pop(f"{node.name}.running_{name}").double() for name in ("mean", "var"))
        state.pop(f"{node.name}.num_batches_tracked", None)
        scale = (variance + norm.eps).rsqrt()
        shift = torch.zeros_like(mean)
        if norm.affine:
            scale = scale * state.pop(f"{node.name}.weight").double()
            shift = state.pop(f"{node.name}.bias").double()
        old = state[bias].double() if source.operation.bias else torch.zeros_like(mean)
        kind = state[weight].dtype
        state[bias] = ((old - mean) * scale + shift).to(kind)
        state[weight] = (state[weight].double() * scale.reshape(-1, *[1] * (state[weight].dim() - 1))).to(kind)
        nodes[source.name] = replace(source, operation=replace(source.operation, bias=True))
        renamed[node.name] = source.name
    return graph.with_nodes(list(nodes.values())), state
