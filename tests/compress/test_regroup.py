"""The weights of a network with given group counts: those that `permute` gives, and the network's own without groups."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from igcsearch.compress.criterion import criteria
from igcsearch.compress.permute import permute
from igcsearch.compress.regroup import Pruner, choices, chosen
from igcsearch.compress.trace import Traced, trace
from igcsearch.errors import UsageError
from igcsearch.search_spaces.regroup import with_groups
from igcsearch.spec import Budget
from igcsearch.spec.operations import Convolution


@pytest.fixture(scope="module")
def traced() -> Traced:
    """Four convolutions of which two can have groups, on 8x8 images of one channel."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 18, 3, padding=1), nn.BatchNorm2d(18), nn.ReLU()),
        *(nn.Conv2d(18, 18, 3, padding=1, groups=6), nn.Conv2d(18, 24, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(24, 10),
    )
    return trace(layers, 8, 1)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_layers_have_every_common_divisor_of_their_channels(traced: Traced) -> None:
    assert choices(traced.architecture) == {"2": (1, 2, 3, 6), "6": (1, 2, 3, 6)}


@pytest.mark.parametrize("share", [0.7, 0.45])
def test_weights_are_those_of_permute(traced: Traced, share: float) -> None:
    graph, state = traced.architecture, traced.state_dict
    found = permute(graph, state, criteria(graph, state, "l2"), Budget(macs=int(share * graph.macs)))
    counts = {row["layer"]: row["groups"] for row in found.layers}
    pruner = Pruner(graph, state)
    pruner.pruned(with_groups(graph, {"2": 6, "6": 6}))  # what is remembered of another network changes nothing
    assert max(counts.values()) > 1
    assert same(pruner.pruned(with_groups(graph, counts)), found.state)


def test_seeds_are_those_of_permute(traced: Traced) -> None:
    graph, state = traced.architecture, traced.state_dict
    found = permute(graph, state, criteria(graph, state, "l2"), Budget(macs=graph.macs // 2), seed=5)
    counts = {row["layer"]: row["groups"] for row in found.layers}
    assert same(Pruner(graph, state, seed=5).pruned(with_groups(graph, counts)), found.state)


def test_without_groups_the_weights_are_the_networks_own(traced: Traced) -> None:
    assert same(Pruner(traced.architecture, traced.state_dict).pruned(traced.architecture), dict(traced.state_dict))


def test_threads_change_no_number(traced: Traced) -> None:
    architecture = with_groups(traced.architecture, {"2": 3, "6": 2})
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(Pruner(traced.architecture, traced.state_dict).pruned(architecture))
    assert same(*found)


def test_what_differs_in_more_than_group_counts_is_refused(traced: Traced) -> None:
    graph = traced.architecture
    other = graph.with_nodes(
        [
            replace(node, operation=replace(node.operation, padding_mode="reflect"))
            if node.name == "2" and isinstance(node.operation, Convolution)
            else node
            for node in graph.nodes
        ]
    )
    with pytest.raises(UsageError, match="other group counts"):
        Pruner(graph, traced.state_dict).pruned(other)


def test_chosen_counts_are_inside_the_budget_and_fill_it(traced: Traced) -> None:
    graph = traced.architecture
    limit = int(0.6 * graph.macs)
    made = with_groups(graph, chosen(graph, traced.state_dict, Budget(macs=limit)))
    assert made.macs <= limit
    assert made.macs > 0.5 * graph.macs
