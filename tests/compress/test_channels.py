"""Channels that change places: the network computes the same, whichever places its free channels are given."""

import numpy as np
import pytest
import torch

from igcsearch.compress.channels import channels_of, permuted
from igcsearch.compress.trace import trace
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import (
    Activation,
    AdaptivePool,
    Add,
    BatchNorm,
    Concat,
    Convolution,
    Flatten,
    Gather,
    Linear,
    Pad,
    Slice,
)

from .networks import LONG, QUICK, difference, images, named, outputs, random_graph, weights


def shuffled(channels, seed):
    """Every block in a random order."""
    rng = np.random.default_rng(seed)
    stored = channels.same()
    for block in channels.blocks:
        stored[block] = rng.permutation(block)
    return stored


def check_permutations(graph, state, seeds=1):
    channels, x = channels_of(graph), images(graph)
    expected = outputs(graph, state, x)
    for seed in range(seeds):
        stored = shuffled(channels, seed)
        moved = permuted(graph, state, channels, stored)
        assert difference(outputs(graph, moved, x), expected) < 1e-12
        assert {name: tensor.shape for name, tensor in moved.items()} == {n: t.shape for n, t in state.items()}
    return channels


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_permuted_networks_compute_the_same(name):
    found = trace(named(name), 64)
    channels = check_permutations(found.architecture, found.state_dict)
    assert (
        sum(map(len, channels.blocks)) > 0.5 * sum(c.out_channels for _, c in found.architecture.convolutions()) * 0.2
    )


@pytest.mark.parametrize("part", range(4))
def test_permuted_random_graphs_compute_the_same(part):
    free = 0
    for seed in range(100 * part, 100 * part + 100):
        graph = random_graph(seed)
        free += bool(check_permutations(graph, weights(graph, seed)).blocks)
    assert free > 50


def graph_of(*nodes, classes=3):
    """Nodes (name, operation, *reads), a head behind the last."""
    shapes, made = {INPUT: (3, 6, 6)}, []
    for name, operation, *reads in nodes:
        made.append(Node(name, operation, tuple(reads)))
        shapes[name] = operation.shape(*(shapes[read] for read in reads))
    last = made[-1].name
    made += [Node("pool", AdaptivePool(), (last,)), Node("flat", Flatten(), ("pool",))]
    return GraphArchitecture(3, 6, classes, (*made, Node("fc", Linear(shapes[last][0], classes), ("flat",))))


def test_channels_that_stand_twice_keep_their_roles():
    """A channel and what a channel-wise layer makes of it are one atom with two contents; a shuffle may turn them round."""
    graph = graph_of(
        ("x", Convolution(3, 4, (3, 3)), INPUT),
        ("deep", Convolution(4, 4, (3, 3), padding=(1, 1), groups=4), "x"),
        ("both", Concat(), "x", "deep"),
        ("mixed", Gather(order=(0, 4, 5, 1, 2, 6, 7, 3)), "both"),
        ("out", Convolution(8, 4, (1, 1)), "mixed"),
    )
    for seed in range(4):
        channels = check_permutations(graph, weights(graph, seed), seeds=6)
    assert sorted(map(sorted, channels.blocks))[:2] == [[3, 5], [4, 6]]  # 0 to 2 are the image


def test_channels_that_stand_twice_in_the_same_roles_can_change_places():
    """Interleaved as a GhostNet's are: all four can move, although they stand at different distances."""
    graph = graph_of(
        ("x", Convolution(3, 4, (3, 3)), INPUT),
        ("deep", Convolution(4, 4, (3, 3), padding=(1, 1), groups=4), "x"),
        ("both", Concat(), "x", "deep"),
        ("mixed", Gather(order=(0, 1, 4, 5, 2, 6, 3, 7)), "both"),
        ("out", Convolution(8, 5, (1, 1)), "mixed"),
    )
    channels = check_permutations(graph, weights(graph), seeds=8)
    assert sorted(map(sorted, channels.blocks))[0] == [3, 4, 5, 6]


def sizes(graph):
    return sorted(len(block) for block in channels_of(graph).blocks)


def test_what_can_change_places():
    """Blocks of known sizes: fresh channels, those tied by sums, those of one group, none of the image or the logits."""
    first = ("x", Convolution(3, 8, (3, 3)), INPUT)
    out = ("y", Convolution(8, 6, (1, 1)), "x")
    assert sizes(graph_of(first, out)) == [6, 8]
    assert sizes(graph_of(first, ("n", BatchNorm(8), "x"), ("s", Add(), "x", "n"))) == [8]
    assert sizes(graph_of(first, ("y", Convolution(8, 8, (1, 1)), "x"), ("s", Add(), "x", "y"))) == [8]
    assert sizes(graph_of(first, ("y", Convolution(8, 6, (1, 1), groups=2), "x"))) == [3, 3, 4, 4]
    assert sizes(graph_of(first, ("d", Convolution(8, 8, (3, 3), groups=8), "x"))) == [8]
    assert sizes(graph_of(first, ("h", Slice(2, 5), "x"), ("c", Concat(), "x", "h"))) == [3, 5]
    assert sizes(graph_of(first, ("p", Pad((2, 2)), "x"), ("y", Convolution(12, 4, (1, 1)), "p"))) == [4, 4, 8]
    assert sizes(graph_of(first, ("g", Gather(groups=4), "x"), ("a", Activation("softmax"), "g"))) == [8]
    assert sizes(graph_of(("x", Activation("relu"), INPUT))) == []
    assert sizes(graph_of(("x", Convolution(3, 3, (1, 1)), INPUT), ("s", Add(), INPUT, "x"))) == []
    shared = graph_of(first, ("y", Convolution(8, 8, (1, 1)), "x"), ("z", Convolution(8, 8, (1, 1)), "y"))
    again = [Node(n.name, n.operation, n.reads, "y" if n.name == "z" else None) for n in shared.nodes]
    assert sizes(shared) == [8, 8, 8]
    assert sizes(shared.with_nodes(again)) == []


def test_one_channel_in_and_out():
    graph = graph_of(("x", Convolution(3, 1, (3, 3)), INPUT), ("y", Convolution(1, 1, (3, 3), bias=True), "x"))
    check_permutations(graph, weights(graph))


@pytest.mark.parametrize("axis", ["in", "out"])
def test_what_stands_around_a_sparse_convolution_keeps_its_places(axis):
    nodes = [
        Node("first", Convolution(3, 8, (1, 1)), (INPUT,)),
        Node("second", Convolution(8, 8, (1, 1)), ("first",)),
        Node("sparse", Convolution(8, 8, (3, 3), bias=True, sparsity=(2, 4), sparse_axis=axis), ("second",)),
        Node("pool", AdaptivePool(), ("sparse",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(8, 5), ("flat",)),
    ]
    graph = GraphArchitecture(3, 8, 5, tuple(nodes))
    channels = check_permutations(graph, weights(graph), seeds=3)
    assert [set(block.tolist()) for block in channels.blocks] == [set(channels.of["first"].tolist())]


def test_the_state_that_is_given_stays():
    graph = graph_of(("x", Convolution(3, 8, (3, 3)), INPUT), ("y", Convolution(8, 6, (1, 1)), "x"))
    state, channels = weights(graph), channels_of(graph)
    before = {name: tensor.clone() for name, tensor in state.items()}
    permuted(graph, state, channels, shuffled(channels, 0))
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())
