"""What a kernel is worth: the criterion matrices that grouping is to keep, one number for each pair of channels. Floor 6."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError, near
from ..nn.graph import GraphNetwork
from ..spec.graph import GraphArchitecture, Node
from ..spec.operations import Convolution
from .channels import is_channelwise

CRITERIA = ("l1", "l2", "taylor")
Matrix = NDArray[np.float64]


def groupable(graph: GraphArchitecture) -> list[tuple[Node, Convolution]]:
    """The convolutions that can be given groups: dense, weights of their own, more than one channel at each side, not sparse."""
    shared = {node.shares for node in graph.nodes}
    return [
        (node, convolution)
        for node, convolution in graph.convolutions()
        if convolution.groups == 1
        and convolution.nm is None
        and not is_channelwise(convolution)
        and node.shares is None
        and node.name not in shared
    ]


def criteria(
    graph: GraphArchitecture,
    state: Mapping[str, Tensor],
    kind: str = "l1",
    batches: Iterable[tuple[Tensor, Tensor]] = (),
) -> dict[str, Matrix]:
    """For each groupable convolution what each of its kernels is worth, (out, in), not negative.

    Args:
        kind: l1, l2: that norm of the kernel; taylor: the sum of |w dloss/dw| over the kernel, with the loss over all batches.
        batches: images (N, C, H, W), normalised, and labels (N,), for taylor.

    Raises:
        UsageError: an unknown kind, or no images for taylor.
    """
    if kind not in CRITERIA:
        raise UsageError(f"unknown criterion {kind!r}{near(kind, CRITERIA)}; known: {', '.join(CRITERIA)}")
    names = [node.name for node, _ in groupable(graph)]
    if kind == "taylor":
        slopes = gradients(graph, state, names, batches)
        products = {name: (state[f"{name}.weight"] * slopes[name]).abs() for name in names}
        return {name: each.sum(dim=(2, 3)).double().numpy() for name, each in products.items()}
    return norms(state, names, kind)


def norms(state: Mapping[str, Tensor], names: Iterable[str], kind: str) -> dict[str, Matrix]:
    """The l1 or l2 norm of each kernel of these layers, (out, in)."""
    order = 1 if kind == "l1" else 2
    weights = {name: state[f"{name}.weight"].detach().double().cpu() for name in names}
    return {name: torch.linalg.vector_norm(weight, order, dim=(2, 3)).numpy() for name, weight in weights.items()}


def gradients(
    graph: GraphArchitecture,
    state: Mapping[str, Tensor],
    names: Sequence[str],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """dloss/dw of the weights of these convolutions, with the mean cross-entropy over all batches; norms as in evaluation.

    Args:
        batches: images (N, C, H, W), normalised, and labels (N,).

    Raises:
        UsageError: no images.
    """
    kind = next((tensor.dtype for tensor in state.values() if tensor.is_floating_point()), torch.float32)
    network = GraphNetwork(graph).to(kind).eval()
    network.load_state_dict(dict(state))
    images = 0
    for inputs, labels in batches:
        F.cross_entropy(network(inputs.to(kind)), labels, reduction="sum").backward()
        images += len(labels)
    if not images:
        raise UsageError("the criterion taylor needs images: give data, or take magnitudes")
    found = {}
    for name in names:
        slope = cast(nn.Conv2d, network.layer(name)).weight.grad
        assert slope is not None
        found[name] = slope / images
    return found
