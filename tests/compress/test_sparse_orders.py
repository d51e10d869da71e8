"""Orders of a whole network's channels: the same function, and no less kept."""

import pytest
import torch

from igcsearch.compress.channels import channels_of, permuted
from igcsearch.compress.sparse_masks import kept_share, sparsifiable, weight_scores
from igcsearch.compress.sparse_orders import settled_lines, sparse_layers
from igcsearch.spec.sparsity import Sparsity

from .networks import difference, images, outputs, random_graph, weights
from .sparse_networks import chain


def kept(graph, state, sparsities):
    scores = weight_scores(graph, state, list(sparsities))
    groups = {node.name: convolution.groups for node, convolution in graph.convolutions()}
    return sum(kept_share(scores[name], each, groups[name]) for name, each in sparsities.items())


@pytest.mark.parametrize("axis", ["in", "out"])
@pytest.mark.parametrize("seed", range(15))
def test_the_same_function_and_no_less_kept(seed, axis):
    graph = random_graph(seed)
    state = weights(graph, seed)
    shapes = [(2, 4), (1, 3), (1, 2)]
    names = [node.name for node, _ in sparsifiable(graph, axis)]
    sparsities = {name: Sparsity(*shapes[(at + seed) % 3], axis) for at, name in enumerate(names)}
    channels = channels_of(graph)
    layers = sparse_layers(sparsities, weight_scores(graph, state, names))
    stored = settled_lines(graph, channels, layers)
    made = permuted(graph, state, channels, stored)
    x = images(graph)
    assert difference(outputs(graph, made, x), outputs(graph, state, x)) < 1e-10
    assert kept(graph, made, sparsities) >= kept(graph, state, sparsities) - 1e-9


def test_a_chain_keeps_more_with_groups_too():
    for groups in (1, 2):
        graph = chain([3, 32, 32, 32], groups=groups)
        torch.manual_seed(0)
        state = weights(graph)
        sparsities = {name: Sparsity(2, 4) for name in ("conv1", "conv2")}
        channels = channels_of(graph)
        stored = settled_lines(
            graph, channels, sparse_layers(sparsities, weight_scores(graph, state, list(sparsities)))
        )
        made = permuted(graph, state, channels, stored)
        assert kept(graph, made, sparsities) > kept(graph, state, sparsities) + 0.002
        x = images(graph)
        assert difference(outputs(graph, made, x), outputs(graph, state, x)) < 1e-10
