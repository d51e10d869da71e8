"""Which layers can be sparse, what weights are worth, and what N:M keeps of them, counted by hand."""

import pytest
import torch
from torch.nn import functional as F

from igcsearch.compress.criterion import gradients
from igcsearch.compress.sparse_masks import chosen_lines, kept_share, kept_shares, sparsifiable, weight_scores
from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.spec.sparsity import Sparsity

from .networks import random_graph, weights
from .sparse_networks import chain


def by_hand(scores, n, m, axis, groups):
    """The share kept: every line cut into groups of m, of which the largest stay."""
    rows = scores.shape[0] // groups
    kept = 0.0
    for g in range(groups):
        branch = scores[g * rows : (g + 1) * rows]
        for position in range(scores[0, 0].numel()):
            table = branch.flatten(2)[:, :, position]
            for line in (table if axis == "in" else table.T).tolist():
                for at in range(0, len(line), m):
                    part = sorted(line[at : at + m], reverse=True)
                    kept += sum(part[: -(-len(part) * n // m)])
    return kept / float(scores.sum())


@pytest.mark.parametrize("axis", ["in", "out"])
@pytest.mark.parametrize(("channels", "m", "groups"), [(12, 4, 1), (10, 4, 1), (12, 5, 3), (6, 8, 1)])
def test_what_is_kept(axis, channels, m, groups):
    torch.manual_seed(0)
    scores = torch.rand(channels, channels // groups, 3, 2, dtype=torch.float64)
    expected = [by_hand(scores, n, m, axis, groups) for n in range(1, m + 1)]
    assert kept_shares(scores, m, axis, groups) == pytest.approx(expected)
    assert kept_share(scores, Sparsity(2, m, axis), groups) == pytest.approx(expected[1])


def test_nothing_is_lost_of_nothing():
    assert kept_shares(torch.zeros(4, 4, 1, 1), 4) == [1.0] * 4


def test_short_lines_are_left_unless_they_are_named():
    graph = chain([3, 8, 16])
    names, lines = chosen_lines(graph, Sparsity(1, 4))
    assert names == ["conv1"]
    assert lines[0].startswith("conv0: 1:4 on 3 channels is 1 of 3; left dense")
    assert chosen_lines(graph, Sparsity(1, 4), only=["conv*"])[0] == ["conv1"]
    names, lines = chosen_lines(graph, Sparsity(1, 4), only=["conv0", "conv1"])
    assert names == ["conv0", "conv1"]
    assert lines == ["conv0: 1:4 on 3 channels is 1 of 3"]
    assert chosen_lines(graph, Sparsity(1, 4, "out"))[0] == ["conv0", "conv1"]  # its lines are of 8 channels


def test_layers_that_share_weights_or_go_channel_by_channel_stay():
    for seed in range(10):
        graph = random_graph(seed)
        shared = {node.shares for node in graph.nodes}
        for node, convolution in sparsifiable(graph):
            assert node.shares is None
            assert node.name not in shared
            assert convolution.in_channels // convolution.groups > 1


def test_taylor_is_weight_times_gradient():
    graph = chain([3, 8, 8])
    state = weights(graph)
    torch.manual_seed(0)
    batches = [(torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])) for _ in range(2)]
    network = GraphNetwork(graph).double().eval()
    network.load_state_dict(state)
    x, y = torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])
    F.cross_entropy(network(x), y).backward()
    slope = network.layer("conv1").weight.grad
    scores = weight_scores(graph, state, ["conv1"], "taylor", batches)["conv1"]
    torch.testing.assert_close(scores, (state["conv1.weight"] * slope).abs())
    torch.testing.assert_close(gradients(graph, state, ["conv1"], batches)["conv1"], slope)


def test_bad_input():
    graph = chain([3, 8, 8])
    state = weights(graph)
    with pytest.raises(UsageError, match="needs images"):
        weight_scores(graph, state, ["conv1"], "taylor", [])
    with pytest.raises(UsageError, match="did you mean 'magnitude'"):
        weight_scores(graph, state, ["conv1"], "magnitud")
    with pytest.raises(UsageError, match="no convolution that can be made sparse matches 'stem'"):
        chosen_lines(graph, Sparsity(2, 4), only=["stem"])
    with pytest.raises(UsageError, match="lines of at least 64 channels"):
        chosen_lines(graph, Sparsity(2, 64))
